//! What is kept of some prompts, so that it can be told how long all of them are. Pure.

use super::parse::Request;

/// Bytes of a prompt's text that are kept, at most: of 2,000 prompts 16 MB.
const KEPT: usize = 8 << 10;

/// One prompt of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Bytes of its body.
    pub bytes: usize,
    /// The most tokens that its answer may have, where it says so.
    pub max_tokens: Option<u32>,
    /// What a model reads of it: its text, or that of each of its messages. Of a long prompt only the
    /// beginning.
    pub texts: Vec<String>,
    /// Bytes of all that a model reads of it.
    pub length: usize,
    /// Whether it goes through the model's chat template, if the model has one.
    pub is_chat: bool,
}

impl Sample {
    pub(super) fn of(request: &Request<'_>) -> Self {
        let mut texts = request.texts();
        let length = texts.iter().map(String::len).sum();
        let mut room = KEPT;
        for text in &mut texts {
            text.truncate(text.floor_char_boundary(room));
            text.shrink_to_fit();
            room -= text.len();
        }
        Self {
            bytes: request.bytes(),
            max_tokens: request.max_tokens(),
            texts,
            length,
            is_chat: request.is_chat(),
        }
    }

    /// Bytes of what is kept.
    pub fn kept(&self) -> usize {
        self.texts.iter().map(String::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::{Format, Options, shape};

    fn sample(line: &str, options: &Options) -> Sample {
        let shape = shape::Shape::new(options).expect("there is no template");
        let request = shape::request(line.as_bytes(), Format::Jsonl, &shape);
        Sample::of(&request.expect("it is a request"))
    }

    #[test]
    fn a_sample_has_what_a_model_reads_and_nothing_around_it() {
        let chat = r#"{"id": 7, "messages": [{"role": "system", "content": "Be \"brief\"."},
            {"role": "user", "content": [{"type": "text", "text": "What is "},
            {"type": "image_url", "image_url": {"url": "data:..."}}, {"type": "text", "text": "it?"}]},
            {"role": "assistant", "content": null}], "max_tokens": 9}"#
            .replace('\n', " ");
        let batch =
            r#"{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "caf\u00e9"}}"#;
        let raw = Options { raw: true, ..Options::default() };
        for (line, options, texts, is_chat) in [
            (&*chat, Options::default(), vec!["Be \"brief\".", "What is it?", ""], true),
            (r#"{"prompt": "a\nb"}"#, Options::default(), vec!["a\nb"], true),
            (r#"{"prompt": "a"}"#, raw, vec!["a"], false),
            (batch, Options::default(), vec!["café"], false),
        ] {
            let sample = sample(line, &options);
            assert_eq!(
                (sample.texts.as_slice(), sample.is_chat),
                (&*texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), is_chat),
                "{line}"
            );
            assert_eq!(sample.length, texts.iter().map(|text| text.len()).sum::<usize>(), "{line}");
        }
        assert_eq!(sample(&chat, &Options::default()).max_tokens, Some(9));
    }

    #[test]
    fn of_a_long_prompt_only_the_beginning_is_kept() {
        let content = "é".repeat(10_000);
        let line = format!(
            r#"{{"messages": [{{"role": "user", "content": "hi!"}}, {{"role": "user", "content": "{content}"}}, {{"role": "user", "content": "end"}}]}}"#
        );
        let sample = sample(&line, &Options::default());
        assert_eq!(sample.length, 3 + 20_000 + 3);
        // Half a character is not kept, and leaves room for a byte of the next message.
        let kept: Vec<_> = sample.texts.iter().map(String::len).collect();
        assert_eq!((kept, sample.kept()), (vec![3, KEPT - 4, 1], KEPT));
    }
}
