//! An engine without a model: each prompt is its own answer. It is for tests, and for measuring
//! everything but the model.

use crate::engine::{Engine, EngineError, Outlet, Prompts};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use wire::{Completion, EngineFacts, Failure, Outcome, Prompt};

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
        let text = match text(&prompt.body) {
            Ok(text) => text,
            Err(reason) => return Outcome::Failed { failure: Failure::BadRequest, reason },
        };
        let tokens = tokens(&text);
        let body = json!({
            "id": format!("echo-{}", prompt.index),
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": text },
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {
                "prompt_tokens": tokens,
                "completion_tokens": tokens,
                "total_tokens": 2 * tokens,
            },
        });
        Outcome::Done { body: body.to_string(), tokens_in: tokens, tokens_out: tokens }
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
        while let Some(prompt) = prompts.wait() {
            if let Some(gap) = gap {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                due = due.max(Instant::now()) + gap;
            }
            let outcome = self.answer(&prompt);
            if let Outcome::Done { tokens_in, tokens_out, .. } = &outcome {
                outlet.count(u64::from(*tokens_in), u64::from(*tokens_out));
            }
            outlet.finish(Completion { index: prompt.index, outcome });
        }
        Ok(())
    }
}

/// What a request says: its prompt, or its last message.
fn text(body: &str) -> Result<String, String> {
    let body: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let last = body["messages"].as_array().and_then(|messages| messages.last());
    let text = last.map_or(&body["prompt"], |message| &message["content"]);
    match text {
        Value::String(text) => Ok(text.clone()),
        Value::Null => Err("the request has neither `messages` nor `prompt`".to_owned()),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Ok(other.to_string())
        }
    }
}

/// Four bytes a token, about what English comes to.
fn tokens(text: &str) -> u32 {
    u32::try_from(text.len().div_ceil(4)).unwrap_or(u32::MAX)
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
            assert_eq!(text(body).as_deref(), Ok(answer));
        }
        assert!(text("{}").is_err() && text("nonsense").is_err());
    }
}
