//! A server's reply, and what it means for the prompt.

use super::client::Reply;
use serde::Deserialize;
use serde_json::Value;
use wire::{Failure, Outcome};

/// Characters of a server's reason that are kept.
const REASON: usize = 500;

/// What a reply means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The prompt is answered, or can't be by its own fault.
    Over(Outcome),
    /// The server has too much to do, and may be asked again.
    Busy,
    /// The server failed, and why.
    Failed(String),
    /// The GPU's memory didn't do.
    OutOfMemory(String),
}

/// Reads a reply. `marks` are the parts of messages that mean exhausted memory.
pub(super) fn read(reply: &Reply, marks: &[String]) -> Meaning {
    match reply.status {
        200..300 => done(reply),
        408 | 425 | 429 | 503 => Meaning::Busy,
        // Key, path and method are the worker's own affair.
        400..500 if !matches!(reply.status, 401 | 403 | 404 | 405) => {
            let reason = reason(reply);
            let failure = if too_long(&reason) { Failure::TooLong } else { Failure::BadRequest };
            Meaning::Over(Outcome::Failed { failure, reason })
        }
        status => {
            let reason = reason(reply);
            if marks.iter().any(|mark| reason.contains(mark)) {
                return Meaning::OutOfMemory(reason);
            }
            Meaning::Failed(format!("the server answered with status {status}: {reason}"))
        }
    }
}

fn done(reply: &Reply) -> Meaning {
    #[derive(Deserialize)]
    struct Body {
        choices: Vec<serde::de::IgnoredAny>,
        usage: Option<Usage>,
    }
    #[derive(Deserialize)]
    struct Usage {
        prompt_tokens: u32,
        #[serde(default)]
        completion_tokens: u32,
    }
    let nonsense = |what: &str| Meaning::Failed(format!("the server's answer {what}"));
    let Ok(text) = std::str::from_utf8(&reply.body) else { return nonsense("is not text") };
    let body: Body = match serde_json::from_str(text) {
        Ok(body) => body,
        Err(error) => return nonsense(&format!("can't be understood: {error}")),
    };
    if body.choices.is_empty() {
        return nonsense("has no choices");
    }
    // In JSON a line ends only between tokens.
    let body_text = text.trim().replace(['\n', '\r'], " ");
    let (tokens_in, tokens_out) =
        body.usage.map_or((0, 0), |usage| (usage.prompt_tokens, usage.completion_tokens));
    Meaning::Over(Outcome::Done { body: body_text, tokens_in, tokens_out })
}

/// What the server says is wrong.
fn reason(reply: &Reply) -> String {
    let text = String::from_utf8_lossy(&reply.body);
    let json: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let places = ["/error/message", "/message", "/detail", "/error"];
    let said = places.iter().find_map(|place| json.pointer(place)?.as_str());
    let said = said.unwrap_or(&text).split_whitespace().collect::<Vec<_>>().join(" ");
    let said: String = said.trim_end_matches('.').chars().take(REASON).collect();
    if said.is_empty() { format!("status {} without a reason", reply.status) } else { said }
}

/// Whether a reason is that the prompt doesn't fit into the context, as servers put it.
fn too_long(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    let context = ["context length", "context size", "context window", "max_model_len"];
    context.iter().any(|word| reason.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: u16, body: &'static str) -> Meaning {
        read(&Reply { status, body: body.into() }, &["CUDA out of memory".to_owned()])
    }

    #[test]
    fn an_answer_is_passed_on_in_one_line() {
        let body = "{\"choices\":[{\"text\":\"a\\nb\"}],\n \"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n";
        let Meaning::Over(Outcome::Done { body, tokens_in: 5, tokens_out: 2 }) = meaning(200, body)
        else {
            panic!("it is an answer")
        };
        assert!(!body.contains('\n') && body.contains(r"a\nb"), "{body}");
    }

    #[test]
    fn a_refusal_is_the_prompts_own_with_the_servers_reason() {
        let refused = |status, body| {
            let Meaning::Over(Outcome::Failed { failure, reason }) = meaning(status, body) else {
                panic!("{status} {body} is a refusal")
            };
            (failure, reason)
        };
        // As llama.cpp, vLLM and SGLang say it.
        for body in [
            r#"{"error":{"code":400,"message":"request (53 tokens) exceeds the available context size (32 tokens), try increasing it","type":"exceed_context_size_error"}}"#,
            r#"{"error":{"message":"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.","type":"BadRequestError","code":400}}"#,
            r#"{"object":"error","message":"The input (9000 tokens) is longer than the model's context length (8192 tokens).","code":400}"#,
        ] {
            assert_eq!(refused(400, body).0, Failure::TooLong, "{body}");
        }
        let (failure, reason) = refused(422, r#"{"detail":"temperature must be positive."}"#);
        assert_eq!(
            (failure, reason.as_str()),
            (Failure::BadRequest, "temperature must be positive")
        );
        assert_eq!(refused(413, "").1, "status 413 without a reason");
    }

    #[test]
    fn a_failure_of_the_server_is_not_the_prompts() {
        assert_eq!(meaning(503, "loading"), Meaning::Busy);
        assert_eq!(meaning(429, ""), Meaning::Busy);
        assert!(matches!(meaning(500, "CUDA out of memory. Tried to"), Meaning::OutOfMemory(_)));
        for (status, body) in [
            (500, "oops"),
            (401, "no key"),
            (404, "no such path"),
            (200, "{\"choices\":"),
            (200, r#"{"choices":[]}"#),
        ] {
            assert!(matches!(meaning(status, body), Meaning::Failed(_)), "{status} {body}");
        }
    }
}
