#!/usr/bin/env python3
"""Makes the models that the native engine's bench is run with, from a GGUF file of a small model.

    benches/models.py IN.gguf FOLDER

writes FOLDER/f32.gguf and FOLDER/q8_0.gguf with the numbers that IN has, FOLDER/q4_1.gguf in which all
matrices but the vocabulary's have 4 bits, and FOLDER/half-f32.gguf, -q8_0 and -q4_1: the shape of a
model of half a billion weights, its numbers drawn at random, with IN's vocabulary.
Needs the Python packages gguf and numpy.
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Kind, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

# Qwen2.5-0.5B's: hidden, intermediate, layers, heads, heads of keys and values.
HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 896, 4864, 24, 14, 2
# Said by the writer itself, or told by the sizes below.
WRITTEN = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture")


def write(path, reader, tensors, kind, changed):
    """Writes `tensors` (names and floats), matrices in `kind`, with the reader's metadata."""
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(path, architecture)
    for name, field in reader.fields.items():
        if name in WRITTEN:
            continue
        value = changed.get(name.removeprefix(architecture + "."), field.contents())
        array = field.types[0] == GGUFValueType.ARRAY
        writer.add_key_value(name, value, field.types[0], field.types[-1] if array else None)
    for name, values in tensors:
        chosen = Kind.F32 if values.ndim == 1 else kind
        # As llama.cpp's own quantisation has it: the vocabulary keeps 8 bits.
        if chosen == Kind.Q4_1 and name == "token_embd.weight":
            chosen = Kind.Q8_0
        writer.add_tensor(name, quantize(values, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def of(reader):
    """The tensors of a file as floats."""
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        yield tensor.name, dequantize(tensor.data, tensor.tensor_type).reshape(shape)


def drawn(vocabulary):
    """Tensors of the larger shape, drawn at random."""
    random = np.random.default_rng(7)

    def matrix(rows, columns):
        values = random.standard_normal((rows, columns), dtype=np.float32)
        return values * np.float32(columns**-0.5)

    kv = HIDDEN // HEADS * KV_HEADS
    yield "token_embd.weight", matrix(vocabulary, HIDDEN)
    yield "output_norm.weight", np.ones(HIDDEN, np.float32)
    for layer in range(LAYERS):
        shapes = {
            "attn_q": (HIDDEN, HIDDEN), "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INTERMEDIATE, HIDDEN),
            "ffn_up": (INTERMEDIATE, HIDDEN), "ffn_down": (HIDDEN, INTERMEDIATE),
        }
        for name, shape in shapes.items():
            yield f"blk.{layer}.{name}.weight", matrix(*shape)
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}.weight", np.ones(HIDDEN, np.float32)


def main():
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    reader = GGUFReader(source)
    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].contents())
    sizes = {
        "embedding_length": HIDDEN, "feed_forward_length": INTERMEDIATE, "block_count": LAYERS,
        "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS,
        "rope.dimension_count": HIDDEN // HEADS,
    }
    for name, kind in (("f32", Kind.F32), ("q8_0", Kind.Q8_0), ("q4_1", Kind.Q4_1)):
        write(folder / f"{name}.gguf", reader, of(reader), kind, {})
        write(folder / f"half-{name}.gguf", reader, drawn(vocabulary), kind, sizes)


main()
