"""transformers' own continuous batching on this machine's GPU, beside which the native engine's bench stands.

    python3 benches/transformers_gpu.py [--prompts 256] [--layers 32] [--attention flash|sdpa]

A model of Llama-3.1-8B's shape with random weights in bf16 answers prompts of 1,000 tokens that share nothing, with
200 tokens each, drawn at temperature 1: what `cargo bench -p worker --bench native -- gpu` calls plain. Loading and
warming up aren't counted. It needs torch and transformers.

Where the package flash-attn is missing, `flash` takes the flash attention that torch itself has (version 2, with
ragged batches), by which transformers attends to keys and values that it gathers first.
"""

import argparse
import importlib.util
import pathlib
import sys
import tempfile
import time

STAND_IN = '''
import torch

def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None,
                           causal=False, window_size=(-1, -1)):
    left, right = (None if side < 0 else side for side in window_size)
    return torch.ops.aten._flash_attention_forward(
        q, k, v, cu_seqlens_q, cu_seqlens_k, int(max_seqlen_q), int(max_seqlen_k), 0.0, causal, False,
        scale=softmax_scale, window_size_left=left, window_size_right=right)[0]

flash_attn_func = None
flash_attn_with_kvcache = None
'''


def stand_in():
    """Puts a package flash-attn onto the path that calls torch's own."""
    folder = pathlib.Path(tempfile.mkdtemp())
    package, about = folder / "flash_attn", folder / "flash_attn-2.8.3.dist-info"
    package.mkdir()
    about.mkdir()
    (package / "__init__.py").write_text(STAND_IN)
    (package / "bert_padding.py").write_text("pad_input = unpad_input = None\n")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.8.3\n")
    (about / "top_level.txt").write_text("flash_attn\n")
    sys.path.insert(0, str(folder))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--attention", choices=["flash", "sdpa"], default="flash")
    asked = parser.parse_args()
    if asked.attention == "flash" and importlib.util.find_spec("flash_attn") is None:
        stand_in()

    import torch
    from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    heads = asked.hidden // 128
    config = LlamaConfig(
        hidden_size=asked.hidden, num_hidden_layers=asked.layers, num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4), head_dim=128, intermediate_size=asked.hidden * 7 // 2,
        rms_norm_eps=1e-5, vocab_size=128_256, max_position_embeddings=131_072, rope_theta=500_000.0,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None)
    attention = {"flash": "paged|flash_attention_2", "sdpa": "paged|sdpa"}[asked.attention]
    start = time.monotonic()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config, attn_implementation=attention)
    model = model.eval()
    generation = GenerationConfig(max_new_tokens=200, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    generation.eos_token_id = -1
    prompts = [[(index * 7919 + at * 104_729) % 128_256 for at in range(1000)] for index in range(asked.prompts)]
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {attention}, "
          f"made in {time.monotonic() - start:.1f} s", flush=True)
    start = time.monotonic()
    with torch.no_grad(), model.continuous_batching_context_manager(
            generation_config=generation, continuous_batching_config=ContinuousBatchingConfig(seed=0)) as manager:
        print(f"warmed up in {time.monotonic() - start:.1f} s", flush=True)
        start = time.monotonic()
        manager.add_requests(inputs=prompts, max_new_tokens=200)
        done, tokens = 0, 0
        while done < len(prompts):
            result = manager.get_result(timeout=1)
            if result is None:
                assert manager.is_running(), "it ended early"
            elif result.is_finished():
                assert result.error is None, result.error
                done, tokens = done + 1, tokens + len(result.generated_tokens)
        seconds = time.monotonic() - start
    assert tokens == 200 * len(prompts), f"{tokens} tokens"
    rate = len(prompts) / seconds
    print(f"transformers, {asked.attention}: {rate:.2f} prompts/s, {1000 * rate:.0f} + {200 * rate:.0f} tokens/s", flush=True)


main()
