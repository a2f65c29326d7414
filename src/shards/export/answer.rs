//! What a table has of a completion. Pure.

use serde::Deserialize;
use serde_json::Value;
use std::io;

/// One choice of one answer: a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) choice: u32,
    /// None where the model answered with something else than text.
    pub(super) text: Option<String>,
    pub(super) finish_reason: Option<String>,
    pub(super) prompt_tokens: Option<u64>,
    pub(super) completion_tokens: Option<u64>,
}

/// The names of the columns.
pub(super) const COLUMNS: [&str; 6] =
    ["id", "choice", "text", "finish_reason", "prompt_tokens", "completion_tokens"];

#[derive(Deserialize)]
struct Line {
    custom_id: String,
    response: Response,
}

#[derive(Deserialize)]
struct Response {
    body: Body,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Usage,
}

/// What engines put here differs, so that only its outline is asked for.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Choice {
    text: Value,
    message: Value,
    finish_reason: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

/// The rows of one line of `OpenAI`'s batch output: at least one.
pub(super) fn answers(line: &[u8]) -> io::Result<Vec<Answer>> {
    let Line { custom_id, response: Response { body } } = serde_json::from_slice(line)?;
    let Body { mut choices, usage } = body;
    if choices.is_empty() {
        choices.push(Choice::default());
    }
    let answer = |(choice, found): (u32, Choice)| {
        let Choice { text, mut message, finish_reason } = found;
        let content = message.get_mut("content").map(Value::take);
        Answer {
            id: custom_id.clone(),
            choice,
            text: string(text).or_else(|| content.and_then(string)),
            finish_reason: string(finish_reason),
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
        }
    };
    Ok((0..).zip(choices).map(answer).collect())
}

fn string(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Null => None,
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Some(other.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (u32, Option<String>, Option<String>, Option<u64>);

    fn rows(body: &str) -> Vec<Row> {
        let line = format!(
            "{{\"id\":\"piecework-r-0\",\"custom_id\":\"a\",\"response\":{{\"status_code\":200,\
             \"request_id\":\"x\",\"body\":{body}}},\"error\":null}}\n"
        );
        let rows = answers(line.as_bytes()).expect("it is a completion").into_iter();
        rows.map(|row| (row.choice, row.text, row.finish_reason, row.completion_tokens)).collect()
    }

    #[test]
    fn chats_and_completions_and_several_choices_are_rows() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            rows(
                r#"{"choices":[{"index":0,"text":"a\n","finish_reason":"stop"},{"text":"b"}],
                    "usage":{"completion_tokens":3}}"#
            ),
            [(0, some("a\n"), some("stop"), Some(3)), (1, some("b"), None, Some(3))]
        );
        assert_eq!(
            rows(r#"{"choices":[{"message":{"role":"assistant","content":"hi"}}]}"#),
            [(0, some("hi"), None, None)]
        );
        assert_eq!(
            rows(r#"{"choices":[{"message":{"content":null,"tool_calls":[]}}]}"#),
            [(0, None, None, None)]
        );
        assert_eq!(rows("{}"), [(0, None, None, None)]);
    }
}
