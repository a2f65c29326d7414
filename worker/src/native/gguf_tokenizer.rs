//! The tokenizer in a GGUF file's metadata.

use super::{gguf::Metadata, vocabulary::Vocabulary};
use crate::engine::EngineError;
use candle_core::quantized::gguf_file::Value;
use serde_json::{Value as Json, json};
use std::collections::HashSet;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer,
    models::bpe::{BPE, Merges, Vocab},
};

/// Kinds of tokens, as llama.cpp's `llama_token_type` numbers them.
const UNKNOWN: usize = 2;
const CONTROL: usize = 3;
const USER_DEFINED: usize = 4;

/// Control tokens that end an answer in the models that have them, whatever the metadata says.
const ENDS: [&str; 6] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>"];

/// Contractions, words, single digits or up to three, signs, and blanks: the pattern of GPT-4's
/// tokenizer, which Llama 3 and Qwen 2 vary in the number of digits.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Builds the tokenizer.
pub(super) fn build(metadata: &Metadata) -> Result<Vocabulary, EngineError> {
    let texts = |key: &str| -> Option<Vec<String>> {
        let list = metadata.list(key)?.iter();
        list.map(|value| value.to_string().ok().cloned()).collect()
    };
    let tokens = texts("tokenizer.ggml.tokens")
        .ok_or_else(|| EngineError::work("the GGUF file has no tokens: it is incomplete"))?;
    let mut tokenizer = match metadata.text("tokenizer.ggml.model") {
        Some("gpt2") => {
            let merges = texts("tokenizer.ggml.merges").unwrap_or_default();
            byte_level(&tokens, &merges, metadata.text("tokenizer.ggml.pre").unwrap_or("default"))
        }
        Some("llama") => sentence_piece(&tokens, metadata),
        other => Err(format!("its tokenizer is of the kind {}", other.unwrap_or("unnamed"))),
    }
    .map_err(|why| {
        EngineError::work(format!(
            "the native engine can't run this model: {why}; choose another engine"
        ))
    })?;
    let kinds = kinds(metadata);
    let added = |kind: usize, special: bool| -> Vec<AddedToken> {
        let of_kind = tokens.iter().zip(&kinds).filter(|(_, found)| **found == kind);
        of_kind
            .map(|(token, _)| AddedToken::from(token.clone(), special).normalized(false))
            .collect()
    };
    let failed = |error: tokenizers::Error| {
        EngineError::work(format!("the GGUF file's tokens can't be used: {error}"))
    };
    tokenizer.add_special_tokens(added(CONTROL, true)).map_err(failed)?;
    tokenizer.add_tokens(added(USER_DEFINED, false)).map_err(failed)?;
    let id = |name: &str| {
        let id = metadata.count(&format!("tokenizer.ggml.{name}_token_id"))?;
        u32::try_from(id).ok().filter(|_| id < tokens.len())
    };
    let token = |id: Option<u32>| id.map(|id| tokens[id as usize].clone());
    let (begin, end) = (token(id("bos")), token(id("eos")));
    frame(&mut tokenizer, metadata, (id("bos"), begin.as_ref()), (id("eos"), end.as_ref()));
    let mut ends: HashSet<u32> = ["eos", "eot", "eom"].into_iter().filter_map(id).collect();
    let known = tokens.iter().zip(&kinds).zip(0..);
    ends.extend(known.filter_map(|((token, kind), id)| {
        (*kind == CONTROL && ENDS.contains(&token.as_str())).then_some(id)
    }));
    Ok(Vocabulary::new(tokenizer, ends, begin, end))
}

fn kinds(metadata: &Metadata) -> Vec<usize> {
    // Writers choose the type of the number.
    let kind = |value: &Value| {
        let signed = value.to_i32().ok().and_then(|kind| usize::try_from(kind).ok());
        signed.or_else(|| value.to_u32().ok().map(|kind| kind as usize)).unwrap_or(0)
    };
    let kinds = metadata.list("tokenizer.ggml.token_type").unwrap_or_default();
    kinds.iter().map(kind).collect()
}

fn vocabulary_of(tokens: &[String]) -> Vocab {
    tokens.iter().cloned().zip(0..).collect()
}

fn byte_level(tokens: &[String], merges: &[String], kind: &str) -> Result<Tokenizer, String> {
    let merges: Option<Merges> = merges
        .iter()
        .map(|merge| merge.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())))
        .collect();
    let model = BPE::builder()
        .vocab_and_merges(
            vocabulary_of(tokens),
            merges.ok_or("a merge of its tokenizer is broken")?,
        )
        .ignore_merges(matches!(kind, "llama-bpe" | "llama3" | "llama-v3"))
        .build()
        .map_err(|error| format!("its tokenizer is inconsistent ({error})"))?;
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let split = |digits: &str| {
        let pattern = json!({"Regex": WORDS.replace("DIGITS", digits)});
        let split =
            json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
        vec![split, bytes(false)]
    };
    let steps = match kind {
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" | "dbrx" => split(r"\p{N}{1,3}"),
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" => split(r"\p{N}"),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => vec![digits, bytes(true)],
        "gpt-2" | "default" | "jina-v2-code" | "roberta-bpe" | "mpt" | "olmo" => vec![bytes(true)],
        other => return Err(format!("its tokenizer splits text in the way of {other}")),
    };
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(part::<PreTokenizerWrapper>(
        json!({"type": "Sequence", "pretokenizers": steps}),
    )));
    tokenizer.with_decoder(Some(part::<DecoderWrapper>(bytes(true))));
    if kind == "qwen2" {
        normalise(&mut tokenizer, json!({"type": "NFC"}))?;
    }
    Ok(tokenizer)
}

fn sentence_piece(tokens: &[String], metadata: &Metadata) -> Result<Tokenizer, String> {
    let vocabulary = vocabulary_of(tokens);
    let scores = metadata.list("tokenizer.ggml.scores").unwrap_or_default();
    let scores: Vec<f32> = scores.iter().map(|score| score.to_f32().unwrap_or(0.0)).collect();
    if scores.len() != tokens.len() {
        return Err("its tokenizer has no scores".to_owned());
    }
    let kinds = kinds(metadata);
    let unknown = kinds.iter().position(|kind| *kind == UNKNOWN);
    let mut model = BPE::builder()
        .vocab_and_merges(vocabulary.clone(), merges_of(tokens, &scores, &vocabulary))
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unknown) = unknown {
        model = model.unk_token(tokens[unknown].clone());
    }
    let model =
        model.build().map_err(|error| format!("its tokenizer is inconsistent ({error})"))?;
    let mut tokenizer = Tokenizer::new(model);
    let blanks = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prefix = metadata.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        let steps = [json!({"type": "Prepend", "prepend": "▁"}), blanks];
        normalise(&mut tokenizer, json!({"type": "Sequence", "normalizers": steps}))?;
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    } else {
        normalise(&mut tokenizer, blanks)?;
    }
    let decoder = part::<DecoderWrapper>(json!({"type": "Sequence", "decoders": decoders}));
    tokenizer.with_decoder(Some(decoder));
    Ok(tokenizer)
}

/// The merges that give what `SentencePiece`'s scores give: every way to make a token of two others, the
/// higher score first.
fn merges_of(tokens: &[String], scores: &[f32], vocabulary: &Vocab) -> Merges {
    let mut found = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let mut ways: Vec<(u32, u32)> = token
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| {
                let (left, right) = token.split_at(at);
                Some((*vocabulary.get(left)?, *vocabulary.get(right)?))
            })
            .collect();
        ways.sort_unstable();
        found.extend(ways.into_iter().map(|way| (*score, way)));
    }
    // The sort is stable, so equal scores stay in the order of the vocabulary.
    found.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let token = |id: u32| tokens[id as usize].clone();
    found.into_iter().map(|(_, (left, right))| (token(left), token(right))).collect()
}

/// Adds what the metadata wants around every text.
fn frame(
    tokenizer: &mut Tokenizer,
    metadata: &Metadata,
    begin: (Option<u32>, Option<&String>),
    end: (Option<u32>, Option<&String>),
) {
    let spm = metadata.text("tokenizer.ggml.model") == Some("llama");
    // Unless said otherwise, SentencePiece models and Llama 3 begin a text; none ends one.
    let begins = spm || metadata.text("tokenizer.ggml.pre") == Some("llama-bpe");
    let wanted = [
        (metadata.flag("tokenizer.ggml.add_bos_token").unwrap_or(begins), begin),
        (metadata.flag("tokenizer.ggml.add_eos_token").unwrap_or(false), end),
    ];
    let mut frames = Vec::new();
    let mut special = serde_json::Map::new();
    for (wanted, (id, token)) in wanted {
        let (true, Some(id), Some(token)) = (wanted, id, token) else {
            frames.push(None);
            continue;
        };
        special.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
        frames.push(Some(json!({"SpecialToken": {"id": token, "type_id": 0}})));
    }
    if special.is_empty() {
        return;
    }
    let end = frames.pop().flatten();
    let begin = frames.pop().flatten();
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let single: Vec<Json> = begin.into_iter().chain([text("A")]).chain(end).collect();
    let processor = json!({"type": "TemplateProcessing", "single": single,
        "pair": [text("A"), text("B")], "special_tokens": special});
    tokenizer.with_post_processor(Some(part::<PostProcessorWrapper>(processor)));
}

fn normalise(tokenizer: &mut Tokenizer, normalizer: Json) -> Result<(), String> {
    let normalizer = part::<NormalizerWrapper>(normalizer);
    tokenizer.with_normalizer(Some(normalizer)).map(drop).map_err(|error| error.to_string())
}

/// A part of a tokenizer, as `tokenizer.json` would describe it.
fn part<T: serde::de::DeserializeOwned>(description: Json) -> T {
    serde_json::from_value(description).expect("the descriptions above are whole")
}
