//! How long prompts and answers are, and how that is known: of a sample of the prompts, counted by
//! the model's tokenizer where it is there, else by their bytes.

mod show;

use crate::{
    leases::describe,
    model::{NoTokenizer, Tokenizer},
    prompts::{Sample, Survey},
};
use serde::Serialize;

/// Prompts that are counted, at most.
const COUNTED: usize = 1_000;
/// Bytes that are counted, at most: a fraction of a second's work.
const BYTES: usize = 1 << 20;

/// Bytes of a token, where no tokenizer says it: English text.
const BYTES_PER_TOKEN: f64 = 4.0;
/// Tokens of an answer, where nothing says how many there may be.
const ANSWER: f64 = 200.0;
/// Tokens of a prompt, where there are none and nobody says.
const PROMPT: f64 = 1_000.0;

/// Tokens that chat templates put around a message, and before the answer. `ChatML` (Qwen and many
/// others) has 5 and 3, Llama 3 has 5 and 4.
const MESSAGE: f64 = 5.0;
const BEGIN: f64 = 4.0;

/// How long prompts and answers are, on average.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// Tokens of a prompt.
    pub input: f64,
    /// How that is known.
    pub input_basis: InputBasis,
    /// Tokens of an answer.
    pub output: f64,
    /// How that is known.
    pub output_basis: OutputBasis,
}

/// How it is known how many tokens prompts have.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum InputBasis {
    /// Somebody said so.
    Given,
    /// Nobody said so, and there are no prompts to look at.
    Assumed,
    /// The model's tokenizer counted them.
    Measured(Counted),
    /// By their bytes.
    Estimated {
        /// Why the model's tokenizer didn't count them.
        why: String,
        /// Of them, the tokens that stand for a chat template.
        template: f64,
    },
}

/// What the tokenizer counted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Counted {
    /// How many prompts it counted.
    pub prompts: usize,
    /// Half of these have at most so many tokens.
    pub median: f64,
    /// 95 % of these have at most so many tokens.
    pub p95: f64,
    /// Of the tokens of a prompt, those that stand for a chat template.
    pub template: f64,
}

/// How it is known how many tokens answers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputBasis {
    /// Somebody said so.
    Given,
    /// As many as are allowed.
    Limit,
    /// As many as are allowed, where something limits them, and a guess elsewhere.
    Mixed,
    /// Nothing limits them, so it is a guess.
    Assumed,
}

impl Lengths {
    /// What was said, and of the rest what is usual.
    pub fn given(input: Option<f64>, output: Option<f64>) -> Self {
        let lengths = Self {
            input: PROMPT,
            input_basis: InputBasis::Assumed,
            output: ANSWER,
            output_basis: OutputBasis::Assumed,
        };
        lengths.or(input, output)
    }

    /// What a sample of the prompts shows. `limit` is the most tokens of an answer where a prompt
    /// doesn't say. Blocks for a fraction of a second where there is a tokenizer.
    pub fn of(
        survey: &Survey,
        limit: Option<u32>,
        tokenizer: &Result<Tokenizer, NoTokenizer>,
    ) -> Self {
        let (input, input_basis) = input(survey, tokenizer);
        let (output, output_basis) = output(&survey.samples, limit);
        Self { input, input_basis, output, output_basis }
    }

    /// The same, but for what was said.
    #[must_use]
    pub fn or(mut self, input: Option<f64>, output: Option<f64>) -> Self {
        if let Some(input) = input {
            (self.input, self.input_basis) = (input, InputBasis::Given);
        }
        if let Some(output) = output {
            (self.output, self.output_basis) = (output, OutputBasis::Given);
        }
        self
    }
}

fn input(survey: &Survey, tokenizer: &Result<Tokenizer, NoTokenizer>) -> (f64, InputBasis) {
    let counted = match tokenizer {
        Ok(tokenizer) => {
            let sample = thinned(&survey.samples);
            count(&sample, tokenizer)
                .map(|tokens| (sample, tokens))
                .ok_or_else(|| "its tokenizer can't split them".to_owned())
        }
        Err(why) => Err(describe(why)),
    };
    match counted {
        Ok((sample, tokens)) => {
            let mean = mean(survey, &sample, &tokens);
            let mut sorted = tokens;
            sorted.sort_by(f64::total_cmp);
            let counted = Counted {
                prompts: sorted.len(),
                median: percentile(&sorted, 50),
                p95: percentile(&sorted, 95),
                template: template(&sample),
            };
            (mean, InputBasis::Measured(counted))
        }
        Err(why) => {
            let sample: Vec<_> = survey.samples.iter().collect();
            let tokens: Vec<_> = sample.iter().map(|sample| guess(sample)).collect();
            let template = template(&sample);
            (mean(survey, &sample, &tokens), InputBasis::Estimated { why, template })
        }
    }
}

/// An even part of a sample that is quickly counted.
fn thinned(samples: &[Sample]) -> Vec<&Sample> {
    let bytes: usize = samples.iter().map(Sample::kept).sum();
    let apart = samples.len().div_ceil(COUNTED).max(bytes.div_ceil(BYTES)).max(1);
    samples.iter().step_by(apart).collect()
}

/// The tokens of each prompt.
fn count(sample: &[&Sample], tokenizer: &Tokenizer) -> Option<Vec<f64>> {
    let texts = sample.iter().flat_map(|sample| &sample.texts).map(String::as_str);
    let mut counts = tokenizer.count(texts.collect())?.into_iter();
    let frame = tokenizer.frame() as f64;
    let tokens = sample.iter().map(|sample| {
        let kept: usize = counts.by_ref().take(sample.texts.len()).sum();
        // The rest of a long prompt is taken to be like its beginning.
        let all = kept as f64 * sample.length as f64 / sample.kept().max(1) as f64;
        all + if sample.is_chat { around(sample) } else { frame }
    });
    Some(tokens.collect())
}

/// The tokens of a prompt by its bytes.
fn guess(sample: &Sample) -> f64 {
    sample.length as f64 / BYTES_PER_TOKEN + around(sample)
}

/// Tokens that a chat template puts around a prompt.
fn around(sample: &Sample) -> f64 {
    if sample.is_chat { sample.texts.len() as f64 * MESSAGE + BEGIN } else { 0.0 }
}

/// The same, on average.
fn template(sample: &[&Sample]) -> f64 {
    sample.iter().map(|sample| around(sample)).sum::<f64>() / sample.len().max(1) as f64
}

/// The mean of all prompts. Their bytes are known, so the sample need only say how many tokens these
/// are: a long prompt that it happens to have, or not, then matters little.
fn mean(survey: &Survey, sample: &[&Sample], tokens: &[f64]) -> f64 {
    let bytes: usize = sample.iter().map(|sample| sample.bytes).sum();
    let good = (survey.prompts - survey.bad).max(1) as f64;
    let each = tokens.iter().sum::<f64>() / bytes.max(1) as f64;
    (survey.body_bytes as f64 / good * each).max(1.0)
}

/// So many of 100 are at most this. Of none it is 0.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100);
    sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

fn output(samples: &[Sample], limit: Option<u32>) -> (f64, OutputBasis) {
    let limits: Vec<_> = samples.iter().map(|sample| sample.max_tokens.or(limit)).collect();
    let basis = match limits.iter().flatten().count() {
        0 => OutputBasis::Assumed,
        all if all == limits.len() => OutputBasis::Limit,
        _ => OutputBasis::Mixed,
    };
    let sum: f64 = limits.iter().map(|limit| limit.map_or(ANSWER, f64::from)).sum();
    (if limits.is_empty() { ANSWER } else { sum / limits.len() as f64 }, basis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        prompts::{Fingerprint, Input, Options, Source, survey},
        shards::Bits,
    };
    use std::fs;

    /// Every word is a token, and a text that goes to the model as it is begins with one more.
    const WORDS: &str = r#"{"version": "1.0", "truncation": {"direction": "Right", "max_length": 3,
        "strategy": "LongestFirst", "stride": 0}, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "<s>": 1}, "unk_token": "<unk>"}}"#;

    fn surveyed(prompts: &str, raw: bool) -> Survey {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        fs::write(&path, prompts).unwrap();
        let sources = vec![Source::file(&path).unwrap()];
        survey(&Input { sources, options: Options { raw, ..Options::default() } }, |_| {}).unwrap()
    }

    fn words() -> Result<Tokenizer, NoTokenizer> {
        Tokenizer::parse(WORDS.as_bytes())
    }

    fn prompt(words: usize) -> String {
        format!("{{\"prompt\": \"{}\"}}\n", vec!["word"; words].join(" "))
    }

    #[test]
    fn the_models_tokenizer_counts_the_prompts_and_what_is_put_around_them() {
        let chat = r#"{"messages": [{"role": "system", "content": "be brief"},
            {"role": "user", "content": "one two three"}]}"#
            .replace('\n', "");
        for (prompts, raw, expected) in [
            (prompt(10), true, 11.0),
            (prompt(10), false, 10.0 + MESSAGE + BEGIN),
            (chat, false, 5.0 + 2.0 * MESSAGE + BEGIN),
        ] {
            let lengths = Lengths::of(&surveyed(&prompts, raw), None, &words());
            assert!((lengths.input - expected).abs() < 1e-6, "{prompts}: {lengths:?}");
        }
    }

    #[test]
    fn a_sample_says_how_many_tokens_all_bytes_are_and_how_they_are_spread() {
        let prompts: String =
            (0..100).map(|number| prompt(if number < 95 { 20 } else { 400 })).collect();
        let lengths = Lengths::of(&surveyed(&prompts, true), Some(64), &words());
        let Lengths { input, input_basis: InputBasis::Measured(counted), .. } = &lengths else {
            panic!("{lengths:?}")
        };
        assert!((input - 40.0).abs() < 1e-6, "{lengths:?}");
        assert_eq!((counted.prompts, counted.median, counted.p95), (100, 21.0, 21.0));
        assert_eq!((lengths.output, lengths.output_basis), (64.0, OutputBasis::Limit));
        let text = lengths.to_string();
        assert_eq!(
            text.lines().next(),
            Some(
                "40 tokens in a prompt on average (measured on 100 prompts: median 21, 95% up to 21)"
            )
        );
    }

    #[test]
    fn what_is_counted_is_bounded_and_a_long_prompt_is_like_its_beginning() {
        // 2,000 prompts of 9 kB are 18 MB.
        let prompts = prompt(1_800).repeat(2_000);
        let survey = surveyed(&prompts, true);
        let sample = thinned(&survey.samples);
        let counted: usize = sample.iter().map(|sample| sample.kept()).sum();
        assert!(counted <= BYTES && 100 < sample.len(), "{counted} bytes of {}", sample.len());
        let lengths = Lengths::of(&survey, None, &words());
        assert!((lengths.input / 1_801.0 - 1.0).abs() < 0.01, "{lengths:?}");
        assert!(thinned(&surveyed(&prompt(1).repeat(5_000), true).samples).len() <= COUNTED);
    }

    #[test]
    fn without_a_tokenizer_four_bytes_are_a_token_and_it_is_said_why() {
        let lengths = Lengths::of(&surveyed(&prompt(80), true), None, &Err(NoTokenizer::Gguf));
        assert!((lengths.input - 399.0 / 4.0).abs() < 1e-6, "{lengths:?}");
        assert_eq!((lengths.output, lengths.output_basis), (200.0, OutputBasis::Assumed));
        assert_eq!(
            lengths.to_string(),
            "100 tokens in a prompt on average (estimated from their length, 4 bytes a token)\n  \
             not measured, as the tokenizer in a GGUF file isn't read\n\
             200 tokens in an answer (assumed, as nothing limits them; `--output-tokens` says better)\n"
        );
        let brief =
            "100 tokens in a prompt (estimated from their length) and 200 in an answer (assumed)";
        assert_eq!(lengths.brief(), brief);
        assert_eq!(lengths.or(Some(5.0), Some(6.0)).to_string(), "");
    }

    #[test]
    fn an_answer_may_be_as_long_as_its_prompt_says_or_else_as_all_may() {
        let limited = "{\"prompt\": \"a\", \"max_tokens\": 100}\n";
        for (prompts, limit, expected) in [
            (limited.to_owned(), Some(300), (100.0, OutputBasis::Limit)),
            (limited.to_owned() + &prompt(1), Some(300), (200.0, OutputBasis::Limit)),
            (limited.to_owned() + &prompt(1), None, (150.0, OutputBasis::Mixed)),
        ] {
            let lengths = Lengths::of(&surveyed(&prompts, true), limit, &words());
            assert_eq!((lengths.output, lengths.output_basis), expected, "{prompts}");
        }
    }

    #[test]
    fn prompts_that_are_all_bad_have_some_length_all_the_same() {
        let survey = Survey {
            prompts: 1,
            bad: 1,
            duplicates: Bits::default(),
            bytes: 1,
            body_bytes: 0,
            fingerprint: Fingerprint(String::new()),
            first_bad: Vec::new(),
            samples: Vec::new(),
        };
        for tokenizer in [words(), Err(NoTokenizer::Absent)] {
            let lengths = Lengths::of(&survey, None, &tokenizer);
            assert_eq!((lengths.input, lengths.output), (1.0, 200.0));
        }
    }
}
