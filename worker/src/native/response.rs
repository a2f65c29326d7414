//! Answers as the body of an `OpenAI` response.

use super::{
    answer::{Answer, Finish},
    request::Request,
    sampling::LogProbs,
    vocabulary::Vocabulary,
};
use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// What JSON can say for minus infinity; vLLM says the same.
const NEVER: f64 = -9999.0;

/// Facts about a request that its response repeats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// The model's name.
    pub(super) model: &'a str,
    /// The response's number: the same whenever the prompt is answered in this run.
    pub(super) id: u64,
    /// Tokens of the prompt.
    pub(super) tokens_in: usize,
}

/// Makes the response, on one line.
pub(super) fn write(
    facts: Facts<'_>,
    request: &Request,
    answers: &[(Answer, Finish)],
    vocabulary: &Vocabulary,
) -> String {
    let Facts { model, id, tokens_in } = facts;
    let tokens_out: usize = answers.iter().map(|(answer, _)| answer.count).sum();
    let naming = Naming { vocabulary, as_ids: request.tokens_as_ids };
    let choice = |(index, (answer, finish)): (usize, &(Answer, Finish))| {
        let reason = match finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        };
        let logprobs = request.logprobs.map(|_| {
            if request.chat { naming.chat(&answer.logprobs) } else { naming.text(&answer.logprobs) }
        });
        if request.chat {
            json!({"index": index, "message": {"role": "assistant", "content": answer.text},
                "logprobs": logprobs, "finish_reason": reason})
        } else {
            json!({"index": index, "text": answer.text, "logprobs": logprobs,
                "finish_reason": reason})
        }
    };
    let (prefix, object) =
        if request.chat { ("chatcmpl", "chat.completion") } else { ("cmpl", "text_completion") };
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    json!({
        "id": format!("{prefix}-{id:016x}"),
        "object": object,
        "created": created,
        "model": model,
        "choices": answers.iter().enumerate().map(choice).collect::<Vec<_>>(),
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out},
    })
    .to_string()
}

/// How tokens are named.
struct Naming<'a> {
    vocabulary: &'a Vocabulary,
    as_ids: bool,
}

impl Naming<'_> {
    fn name(&self, token: u32) -> String {
        if self.as_ids {
            return format!("token_id:{token}");
        }
        String::from_utf8_lossy(&self.vocabulary.bytes(token)).into_owned()
    }

    /// A chat completion's log-probabilities.
    fn chat(&self, logprobs: &[LogProbs]) -> Value {
        let entry = |token: u32, logprob: f64| {
            json!({"token": self.name(token), "logprob": logprob.max(NEVER),
                "bytes": self.vocabulary.bytes(token)})
        };
        let content = logprobs.iter().map(|at| {
            let mut value = entry(at.token, at.logprob);
            value["top_logprobs"] =
                at.top.iter().map(|(token, logprob)| entry(*token, *logprob)).collect();
            value
        });
        json!({"content": content.collect::<Vec<_>>(), "refusal": null})
    }

    /// A text completion's log-probabilities.
    fn text(&self, logprobs: &[LogProbs]) -> Value {
        let mut offset = 0;
        let mut offsets = Vec::new();
        for at in logprobs {
            offsets.push(offset);
            offset += String::from_utf8_lossy(&self.vocabulary.bytes(at.token)).chars().count();
        }
        let top = logprobs.iter().map(|at| {
            let chosen = [(at.token, at.logprob)];
            let all = at.top.iter().chain(&chosen);
            all.map(|(token, logprob)| (self.name(*token), json!(logprob.max(NEVER))))
                .collect::<Map<_, _>>()
        });
        json!({
            "tokens": logprobs.iter().map(|at| self.name(at.token)).collect::<Vec<_>>(),
            "token_logprobs": logprobs.iter().map(|at| at.logprob.max(NEVER)).collect::<Vec<_>>(),
            "top_logprobs": top.collect::<Vec<_>>(),
            "text_offset": offsets,
        })
    }
}
