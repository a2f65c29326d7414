//! A plain forward pass in 64-bit floats, written from the models' papers and configurations, and
//! the engine against it for every architecture.

use crate::{
    harness::{in_precision, job, load, respond},
    small_model::{Array, SmallModel},
};
use serde_json::{Value, json};
use wire::{Form, Precision};

/// The log-probabilities of the token after `tokens`.
fn log_probabilities(model: &SmallModel, tokens: &[usize]) -> Vec<f64> {
    let get = |name: &str| model.tensors.get(name);
    let hidden = model.size("hidden_size");
    let (_, table) = get("model.embed_tokens.weight").unwrap();
    let row = |token: usize| wide(&table[token * hidden..(token + 1) * hidden]);
    let mut states: Vec<Vec<f64>> = tokens.iter().map(|token| row(*token)).collect();
    for layer in 0..model.size("num_hidden_layers") {
        let part = |name: &str| get(&format!("model.layers.{layer}.{name}"));
        let normed = normalise_all(model, &states, part("input_layernorm.weight"));
        let attended = attend(model, layer, &normed);
        let attended = linear_all(part("self_attn.o_proj.weight"), None, &attended);
        add(&mut states, &attended);
        let normed = normalise_all(model, &states, part("post_attention_layernorm.weight"));
        let gate = linear_all(part("mlp.gate_proj.weight"), None, &normed);
        let up = linear_all(part("mlp.up_proj.weight"), None, &normed);
        let gated: Vec<Vec<f64>> = gate
            .iter()
            .zip(&up)
            .map(|(gate, up)| {
                gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
            })
            .collect();
        add(&mut states, &linear_all(part("mlp.down_proj.weight"), None, &gated));
    }
    let last = normalise_all(model, &states[states.len() - 1..], get("model.norm.weight"));
    let output = get("lm_head.weight").or_else(|| get("model.embed_tokens.weight"));
    let logits = linear_all(output, None, &last).remove(0);
    let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
    logits.into_iter().map(|logit| logit - sum.ln()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn add(states: &mut [Vec<f64>], more: &[Vec<f64>]) {
    for (state, more) in states.iter_mut().zip(more) {
        for (state, more) in state.iter_mut().zip(more) {
            *state += more;
        }
    }
}

fn linear_all(weights: Option<&Array>, bias: Option<&Array>, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (shape, weights) = weights.unwrap();
    let one = |input: &Vec<f64>| {
        (0..shape[0])
            .map(|row| {
                let weights = wide(&weights[row * shape[1]..(row + 1) * shape[1]]);
                let product: f64 = weights.iter().zip(input).map(|(w, x)| w * x).sum();
                product + bias.map_or(0.0, |(_, bias)| f64::from(bias[row]))
            })
            .collect()
    };
    inputs.iter().map(one).collect()
}

fn normalise(model: &SmallModel, state: &[f64], weights: &[f32]) -> Vec<f64> {
    let mean = state.iter().map(|value| value * value).sum::<f64>() / state.len() as f64;
    let scale = 1.0 / (mean + model.config["rms_norm_eps"].as_f64().unwrap()).sqrt();
    state.iter().zip(weights).map(|(value, weight)| value * scale * f64::from(*weight)).collect()
}

fn normalise_all(
    model: &SmallModel,
    states: &[Vec<f64>],
    weights: Option<&Array>,
) -> Vec<Vec<f64>> {
    states.iter().map(|state| normalise(model, state, &weights.unwrap().1)).collect()
}

fn frequency(model: &SmallModel, pair: usize, dim: usize) -> f64 {
    let base = model.config["rope_theta"].as_f64().unwrap();
    let frequency = 1.0 / base.powf(2.0 * pair as f64 / dim as f64);
    let scaling = &model.config["rope_scaling"];
    let number = |name: &str| scaling[name].as_f64().unwrap();
    match scaling["rope_type"].as_str() {
        Some("linear") => frequency / number("factor"),
        Some("llama3") => {
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            let original = number("original_max_position_embeddings");
            let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
            if wavelength < original / high {
                frequency
            } else if original / low < wavelength {
                frequency / number("factor")
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                (1.0 - smooth) * frequency / number("factor") + smooth * frequency
            }
        }
        _ => frequency,
    }
}

fn rotate(model: &SmallModel, head: &mut [f64], position: usize) {
    let half = head.len() / 2;
    for pair in 0..half {
        let angle = position as f64 * frequency(model, pair, head.len());
        let (a, b) = (head[pair], head[pair + half]);
        head[pair] = a * angle.cos() - b * angle.sin();
        head[pair + half] = b * angle.cos() + a * angle.sin();
    }
}

fn attend(model: &SmallModel, layer: usize, states: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let part = |name: &str| model.tensors.get(&format!("model.layers.{layer}.self_attn.{name}"));
    let dim = model.size("head_dim");
    let heads = |letter: &str| -> Vec<Vec<Vec<f64>>> {
        let weights = part(&format!("{letter}_proj.weight"));
        let rows = linear_all(weights, part(&format!("{letter}_proj.bias")), states);
        let turned = |(position, row): (usize, &Vec<f64>)| {
            let head = |head: &[f64]| {
                let mut head = head.to_vec();
                if let Some((_, weights)) = part(&format!("{letter}_norm.weight")) {
                    head = normalise(model, &head, weights);
                }
                if letter != "v" {
                    rotate(model, &mut head, position);
                }
                head
            };
            row.chunks(dim).map(head).collect()
        };
        rows.iter().enumerate().map(turned).collect()
    };
    let (q, k, v) = (heads("q"), heads("k"), heads("v"));
    let group = q[0].len() / k[0].len();
    let window = model.config["sliding_window"]
        .as_u64()
        .map_or(usize::MAX, |window| usize::try_from(window).unwrap());
    let at = |position: usize| -> Vec<f64> {
        let first = (position + 1).saturating_sub(window);
        let head = |(head, query): (usize, &Vec<f64>)| -> Vec<f64> {
            let scores: Vec<f64> = (first..=position)
                .map(|past| {
                    let key = &k[past][head / group];
                    let score: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
                    (score / (dim as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = scores.iter().sum();
            (0..dim)
                .map(|i| {
                    let values = v[first..=position].iter().map(|row| row[head / group][i]);
                    values.zip(&scores).map(|(value, score)| value * score / total).sum()
                })
                .collect()
        };
        q[position].iter().enumerate().flat_map(head).collect()
    };
    (0..states.len()).map(at).collect()
}

/// Compares the engine's best 20 log-probabilities with the reference's: in 32 bits throughout, and with
/// keys and values of 16.
fn agrees(kind: &str, more: Value) {
    let model = SmallModel::new(kind, more);
    let folder = tempfile::tempdir().unwrap();
    model.write(folder.path(), 1);
    for length in [1, 31, 33, 90] {
        let tokens: Vec<usize> = (0..length).map(|at| (at * 37 + length) % 256).collect();
        let body = json!({"prompt": tokens, "max_tokens": 1, "temperature": 0, "logprobs": 20,
            "return_tokens_as_token_ids": true, "ignore_eos": true});
        let wanted = log_probabilities(&model, &tokens);
        for (job, bound) in [(in_precision(Precision::F32), 2e-4), (job(), 1e-2)] {
            let response = respond(load(folder.path(), &job), Form::Text, &body);
            let top = response["choices"][0]["logprobs"]["top_logprobs"][0].as_object().unwrap();
            assert_eq!(top.len(), 20);
            for (token, logprob) in top {
                let token: usize = token.strip_prefix("token_id:").unwrap().parse().unwrap();
                let (got, wanted) = (logprob.as_f64().unwrap(), wanted[token]);
                assert!((got - wanted).abs() < bound, "{kind}, {length}: {token} {got} {wanted}");
            }
        }
    }
}

#[test]
fn llama_agrees_with_the_reference() {
    agrees("llama", json!({}));
}

#[test]
fn llama_with_an_output_of_its_own_and_odd_sizes_agrees() {
    agrees(
        "llama",
        json!({"tie_word_embeddings": false, "num_attention_heads": 7,
        "num_key_value_heads": 1, "head_dim": 36, "intermediate_size": 33}),
    );
}

#[test]
fn llama3s_scaled_rope_agrees() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    agrees("llama", json!({"rope_theta": 500.0, "rope_scaling": scaling}));
}

#[test]
fn linearly_scaled_rope_agrees() {
    agrees("llama", json!({"rope_scaling": {"rope_type": "linear", "factor": 3.0}}));
}

#[test]
fn mistrals_sliding_window_agrees() {
    agrees("mistral", json!({"sliding_window": 20}));
}

#[test]
fn qwen2s_biases_agree() {
    agrees("qwen2", json!({}));
}

#[test]
fn qwen3s_normed_heads_agree() {
    agrees("qwen3", json!({"head_dim": 16}));
}
