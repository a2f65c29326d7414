//! An engine without a model: each prompt is its own answer, cut where `max_tokens` says. It is for
//! tests, and for measuring everything but the model.

use crate::engine::{Engine, EngineError, Next, Outlet, Prompts};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use wire::{Completion, EngineFacts, Failure, Outcome, Prompt};

/// Bytes of a token, about what English comes to.
const TOKEN: usize = 4;

/// How far it may be behind its pace and still catch up: it may sleep longer than it meant to.
const LATE: Duration = Duration::from_millis(100);

/// The echo.
#[derive(Debug)]
pub struct Echo {
    model: String,
    pace: Option<u32>,
}

impl Echo {
    /// An echo that calls itself `model`, and answers at most `pace` prompts a second.
    pub fn new(model: String, pace: Option<u32>) -> Self {
        Self { model, pace }
    }

    fn answer(&self, prompt: &Prompt) -> Outcome {
        let (text, limit) = match read(&prompt.body) {
            Ok(request) => request,
            Err(reason) => return Outcome::Failed { failure: Failure::BadRequest, reason },
        };
        let bytes = limit.map_or(text.len(), |tokens| tokens.saturating_mul(TOKEN));
        let answer = &text[..text.floor_char_boundary(bytes)];
        let (tokens_in, tokens_out) = (tokens(&text), tokens(answer));
        let body = json!({
            "id": format!("echo-{}", prompt.index),
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": answer },
                "logprobs": null,
                "finish_reason": if answer.len() < text.len() { "length" } else { "stop" },
            }],
            "usage": {
                "prompt_tokens": tokens_in,
                "completion_tokens": tokens_out,
                "total_tokens": tokens_in + tokens_out,
            },
        });
        Outcome::Done { body: body.to_string(), tokens_in, tokens_out }
    }
}

impl Engine for Echo {
    fn facts(&self) -> EngineFacts {
        EngineFacts {
            name: "echo".to_owned(),
            context: u32::MAX,
            batch: 64,
            weight_bytes: 0,
            kv_bytes: 0,
        }
    }

    fn run(self: Box<Self>, mut prompts: Prompts, outlet: Outlet) -> Result<(), EngineError> {
        let gap = self.pace.map(|pace| Duration::from_secs(1) / pace.max(1));
        let mut due = Instant::now();
        loop {
            if let Some(gap) = gap {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let now = Instant::now();
                due = due.max(now.checked_sub(LATE).unwrap_or(now)) + gap;
            }
            let prompt = match prompts.look() {
                Next::Prompt(prompt) => prompt,
                Next::NotYet => {
                    let Some(prompt) = prompts.wait() else { break };
                    // What it could have answered meanwhile it doesn't make good.
                    due = Instant::now() + gap.unwrap_or_default();
                    prompt
                }
                Next::Over => break,
            };
            let outcome = self.answer(&prompt);
            if let Outcome::Done { tokens_in, tokens_out, .. } = &outcome {
                outlet.count(u64::from(*tokens_in), u64::from(*tokens_out));
            }
            outlet.finish(Completion { index: prompt.index, outcome });
        }
        Ok(())
    }
}

/// What a request says, its prompt or its last message, and how many tokens its answer may have.
fn read(body: &str) -> Result<(String, Option<usize>), String> {
    let body: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let limit = ["max_completion_tokens", "max_tokens"].iter().find_map(|name| body[name].as_u64());
    let limit = limit.map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX));
    let last = body["messages"].as_array().and_then(|messages| messages.last());
    let text = last.map_or(&body["prompt"], |message| &message["content"]);
    match text {
        Value::String(text) => Ok((text.clone(), limit)),
        Value::Null => Err("the request has neither `messages` nor `prompt`".to_owned()),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Ok((other.to_string(), limit))
        }
    }
}

fn tokens(text: &str) -> u32 {
    u32::try_from(text.len().div_ceil(TOKEN)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_or_the_prompt_comes_back() {
        for (body, answer) in [
            (r#"{"prompt":"hello"}"#, "hello"),
            (
                r#"{"messages":[{"role":"system","content":"x"},{"role":"user","content":"y"}]}"#,
                "y",
            ),
        ] {
            assert_eq!(read(body), Ok((answer.to_owned(), None)));
        }
        assert!(read("{}").is_err() && read("nonsense").is_err());
    }

    #[test]
    fn an_answer_ends_where_the_prompt_says() {
        let body = r#"{"prompt":"one two three ä four","max_tokens":4}"#.to_owned();
        let prompt = Prompt { index: 0, form: wire::Form::Auto, body };
        let Outcome::Done { body, tokens_in, tokens_out } =
            Echo::new("m".into(), None).answer(&prompt)
        else {
            panic!("it can be answered")
        };
        let body: Value = serde_json::from_str(&body).unwrap();
        let choice = &body["choices"][0];
        assert_eq!(choice["message"]["content"], "one two three ä");
        assert_eq!((&choice["finish_reason"], tokens_in, tokens_out), (&"length".into(), 6, 4));
    }
}
