//! One model in many files.

use crate::{
    harness::{answer, in_precision, job, load, load_error, response},
    small_model::{END, SmallModel, VOCABULARY, alphabet},
};
use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value as Metadata},
    },
};
use serde_json::{Value, json};
use std::{fs, path::Path};
use wire::{Form, Job, Precision};

fn yields(path: &Path, job: &Job) -> Vec<Value> {
    let body = |prompt: &str| {
        json!({"prompt": prompt, "max_tokens": 20, "temperature": 0, "logprobs": 5,
            "return_tokens_as_token_ids": true})
    };
    let bodies = ["once upon a time", "a", "the quick brown fox"].map(body);
    let outcomes = answer(load(path, job), Form::Text, &bodies);
    outcomes.iter().map(|outcome| response(outcome)["choices"][0]["logprobs"].clone()).collect()
}

#[test]
fn weights_in_several_files_are_those_in_one() {
    let folder = tempfile::tempdir().unwrap();
    let model = SmallModel::new("qwen3", json!({}));
    let (one, three) = (folder.path().join("one"), folder.path().join("three"));
    model.write(&one, 1);
    model.write(&three, 3);
    assert_eq!(yields(&one, &job()), yields(&three, &job()));
}

#[test]
fn files_that_are_missing_or_broken_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    SmallModel::new("llama", json!({})).write(path, 3);
    let shard = path.join("model-2-of-3.safetensors");
    let whole = fs::read(&shard).unwrap();
    fs::write(&shard, &whole[..whole.len() - 8]).unwrap();
    assert!(load_error(path).contains("model-2-of-3.safetensors"), "{}", load_error(path));
    fs::remove_file(&shard).unwrap();
    assert!(load_error(path).contains("model-2-of-3.safetensors"));
    for name in ["tokenizer.json", "config.json"] {
        fs::remove_file(path.join(name)).unwrap();
        assert!(load_error(path).contains(name));
    }
    fs::write(path.join("x.gguf"), "no model").unwrap();
    assert!(load_error(&path.join("x.gguf")).contains("x.gguf"));
}

#[test]
fn a_tensor_that_is_missing_or_of_another_shape_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = SmallModel::new("llama", json!({}));
    let name = "model.layers.1.mlp.up_proj.weight";
    let (mut shape, values) = model.tensors.remove(name).unwrap();
    model.write(folder.path(), 1);
    assert!(load_error(folder.path()).contains(name));
    shape.reverse();
    model.tensors.insert(name.to_owned(), (shape, values));
    model.write(folder.path(), 1);
    assert!(load_error(folder.path()).contains(name));
}

/// A model whose rows have room for the blocks of every quantisation.
pub(crate) fn wide_model(kind: &str) -> SmallModel {
    let sizes = json!({"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": false});
    SmallModel::new(kind, sizes)
}

/// Writes a model as llama.cpp's converter would: its names, and the pairs of Llama's rotary
/// embedding side by side. Returns what the numbers became.
pub(crate) fn write_gguf(model: &SmallModel, format: GgmlDType, path: &Path) -> SmallModel {
    let kind = model.config["model_type"].as_str().unwrap();
    let mut kept = model.clone();
    let mut tensors = Vec::new();
    for (name, (shape, values)) in &mut kept.tensors {
        let format = if shape.len() == 1 { GgmlDType::F32 } else { format };
        let width = *shape.last().unwrap();
        let is_paired = kind == "llama" && (name.contains("q_proj") || name.contains("k_proj"));
        // Where each row of the file is in the model.
        let dim = 64;
        let place = |row: usize| {
            let paired = row / dim * dim + row % 2 * dim / 2 + row % dim / 2;
            if is_paired { paired } else { row }
        };
        let rows = 0..values.len() / width;
        let written: Vec<f32> = rows
            .clone()
            .flat_map(|row| values[place(row) * width..(place(row) + 1) * width].to_vec())
            .collect();
        let tensor = Tensor::from_vec(written, shape.as_slice(), &Device::Cpu).unwrap();
        let quantised = QTensor::quantize(&tensor, format).unwrap();
        let plain = quantised.dequantize(&Device::Cpu).unwrap();
        let plain: Vec<f32> = plain.flatten_all().unwrap().to_vec1().unwrap();
        for row in rows {
            values[place(row) * width..(place(row) + 1) * width]
                .copy_from_slice(&plain[row * width..(row + 1) * width]);
        }
        tensors.push((gguf_name(name), quantised));
    }
    let number = |name: &str| Metadata::U32(u32::try_from(model.size(name)).unwrap());
    let mut tokens: Vec<String> = alphabet();
    tokens.push("<|end|>".to_owned());
    tokens.extend((tokens.len()..VOCABULARY).map(|id| format!("<unused{id}>")));
    let kinds = (0..VOCABULARY).map(|id| Metadata::I32(if id as u64 == END { 3 } else { 1 }));
    let metadata = [
        ("general.architecture".to_owned(), Metadata::String(kind.to_owned())),
        (format!("{kind}.embedding_length"), number("hidden_size")),
        (format!("{kind}.block_count"), number("num_hidden_layers")),
        (format!("{kind}.feed_forward_length"), number("intermediate_size")),
        (format!("{kind}.attention.head_count"), number("num_attention_heads")),
        (format!("{kind}.attention.head_count_kv"), number("num_key_value_heads")),
        (format!("{kind}.attention.layer_norm_rms_epsilon"), Metadata::F32(1e-5)),
        (format!("{kind}.rope.freq_base"), Metadata::F32(1e4)),
        (format!("{kind}.context_length"), number("max_position_embeddings")),
        ("tokenizer.ggml.model".to_owned(), Metadata::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre".to_owned(), Metadata::String("default".to_owned())),
        (
            "tokenizer.ggml.tokens".to_owned(),
            Metadata::Array(tokens.into_iter().map(Metadata::String).collect()),
        ),
        ("tokenizer.ggml.token_type".to_owned(), Metadata::Array(kinds.collect())),
        ("tokenizer.ggml.eos_token_id".to_owned(), Metadata::U32(256)),
    ];
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
    kept
}

fn gguf_name(name: &str) -> String {
    name.replace("model.embed_tokens", "token_embd")
        .replace("model.norm", "output_norm")
        .replace("lm_head", "output")
        .replace("model.layers", "blk")
        .replace("input_layernorm", "attn_norm")
        .replace("post_attention_layernorm", "ffn_norm")
        .replace("self_attn.q_norm", "attn_q_norm")
        .replace("self_attn.k_norm", "attn_k_norm")
        .replace("self_attn.o_proj", "attn_output")
        .replace("self_attn.q_proj", "attn_q")
        .replace("self_attn.k_proj", "attn_k")
        .replace("self_attn.v_proj", "attn_v")
        .replace("mlp.gate_proj", "ffn_gate")
        .replace("mlp.up_proj", "ffn_up")
        .replace("mlp.down_proj", "ffn_down")
}

#[test]
fn a_gguf_file_of_each_format_answers_as_a_folder_with_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    // How far log-probabilities are off by keys and values of 16 bits; and where the file's integers multiply
    // activations of bytes too. Other formats are read as floats.
    let (same, bytes) = (0.01, 0.1);
    let cases = [
        ("llama", GgmlDType::F32, same),
        ("llama", GgmlDType::F16, same),
        ("llama", GgmlDType::BF16, same),
        ("llama", GgmlDType::Q8_0, bytes),
        ("llama", GgmlDType::Q4_0, bytes),
        ("llama", GgmlDType::Q4_1, bytes),
        ("llama", GgmlDType::Q4K, same),
        ("llama", GgmlDType::Q5K, same),
        ("llama", GgmlDType::Q6K, same),
        ("qwen2", GgmlDType::Q8_0, bytes),
        ("qwen3", GgmlDType::Q8_0, bytes),
    ];
    for (kind, format, bound) in cases {
        let file = folder.path().join("model.gguf");
        let kept = write_gguf(&wide_model(kind), format, &file);
        let plain = folder.path().join("plain");
        kept.write(&plain, 1);
        // Unused tokens have names in one and none in the other, so offsets in the text may differ.
        let read = in_precision(Precision::F32);
        let plain = yields(&plain, &read);
        for (file, plain) in yields(&file, &read).iter().zip(&plain) {
            assert_eq!(file["top_logprobs"], plain["top_logprobs"], "{kind} {format:?}");
        }
        for (file, plain) in yields(&file, &job()).iter().zip(&plain) {
            let off = first_differences(file, plain);
            assert!(off < bound, "{kind} {format:?}: {off}");
        }
    }
}

/// The largest difference between the log-probabilities of those tokens that are among the best
/// first ones in both.
fn first_differences(one: &Value, other: &Value) -> f64 {
    let [one, other] = [one, other].map(|yielded| &yielded["top_logprobs"][0]);
    let both = one.as_object().unwrap().iter().filter_map(|(token, logprob)| {
        Some((logprob.as_f64().unwrap() - other[token].as_f64()?).abs())
    });
    let (count, largest) = both.fold((0, 0.0), |(count, most), off| (count + 1, off.max(most)));
    assert!(2 < count, "{one} and {other} have almost nothing in common");
    largest
}
