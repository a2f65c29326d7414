//! A prompt as a request to a server: its body as it is, and what it leaves out.

use crate::{engine::ANSWER_TOKENS, native::mix};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use wire::{Form, Prompt};

/// What requests have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// The model's name.
    pub(super) model: String,
    /// Parameters for prompts that don't set them.
    pub(super) defaults: Map<String, Value>,
    /// The run's seed.
    pub(super) seed: u64,
    /// Whether the model has a chat template.
    pub(super) has_template: bool,
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    /// The path of the URL.
    pub(super) path: &'static str,
    /// The body.
    pub(super) body: Bytes,
}

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// Makes the request. The error is a sentence without a full stop, for the user.
///
/// The body is passed on whole, sampling parameters, JSON schemas, tools and all. It isn't streamed;
/// an answer has [`ANSWER_TOKENS`] at most where nothing says otherwise; and a prompt without a seed
/// gets one made of the run's and its index.
pub(super) fn ask(prompt: &Prompt, common: &Common) -> Result<Asked, String> {
    let body: Value = serde_json::from_str(&prompt.body)
        .map_err(|error| format!("the request is not valid JSON: {error}"))?;
    let Value::Object(mut body) = body else {
        return Err("the request is not a JSON object".to_owned());
    };
    let path = match prompt.form {
        Form::Chat => CHAT,
        Form::Auto if body.contains_key("messages") => CHAT,
        Form::Auto if common.has_template && body.get("prompt").is_some_and(Value::is_string) => {
            let text = body.remove("prompt").expect("it was looked at");
            body.insert("messages".to_owned(), json!([{"role": "user", "content": text}]));
            CHAT
        }
        Form::Text | Form::Auto => TEXT,
    };
    let needed = if path == CHAT { "messages" } else { "prompt" };
    if !body.contains_key(needed) {
        return Err(format!("the request has no `{needed}`"));
    }
    body.remove("stream");
    body.remove("stream_options");
    body.insert("model".to_owned(), Value::String(common.model.clone()));
    let says = |fields: &Map<String, Value>, name: &str| {
        fields.get(name).is_some_and(|value| !value.is_null())
    };
    let limits = ["max_tokens", "max_completion_tokens"];
    let limited = limits.iter().any(|name| says(&body, name));
    for (name, value) in &common.defaults {
        let second_limit = limited && limits.contains(&name.as_str());
        if !says(&body, name) && !second_limit {
            body.insert(name.clone(), value.clone());
        }
    }
    if !limits.iter().any(|name| says(&body, name)) {
        body.insert("max_tokens".to_owned(), json!(ANSWER_TOKENS));
    }
    if !says(&body, "seed") {
        // Some servers keep it in 32 bits, some with a sign.
        body.insert("seed".to_owned(), json!(mix(common.seed, prompt.index) >> 33));
    }
    let body = serde_json::to_vec(&body).expect("a JSON object is written as JSON");
    Ok(Asked { path, body: body.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(has_template: bool, defaults: &Value) -> Common {
        let defaults = defaults.as_object().expect("an object").clone();
        Common { model: "m".into(), defaults, seed: 7, has_template }
    }

    fn asked(form: Form, body: &str, common: &Common) -> (&'static str, Value) {
        let prompt = Prompt { index: 3, form, body: body.into() };
        let Asked { path, body } = ask(&prompt, common).expect("it is a request");
        (path, serde_json::from_slice(&body).expect("JSON"))
    }

    #[test]
    fn a_prompt_goes_where_its_form_and_the_model_say() {
        let with = common(true, &json!({}));
        let (path, body) = asked(Form::Auto, r#"{"prompt":"hi"}"#, &with);
        assert_eq!((path, &body["messages"]), (CHAT, &json!([{"role": "user", "content": "hi"}])));
        assert_eq!(body.get("prompt"), None);
        assert_eq!(asked(Form::Auto, r#"{"prompt":[1,2]}"#, &with).0, TEXT);
        assert_eq!(asked(Form::Auto, r#"{"messages":[]}"#, &common(false, &json!({}))).0, CHAT);
        assert_eq!(asked(Form::Auto, r#"{"prompt":"hi"}"#, &common(false, &json!({}))).0, TEXT);
        assert_eq!(asked(Form::Text, r#"{"prompt":"hi"}"#, &with).0, TEXT);
    }

    #[test]
    fn what_the_body_says_is_passed_on_and_what_it_leaves_out_is_added() {
        let common = common(true, &json!({"temperature": 0.5, "max_tokens": 64, "top_p": 0.9}));
        let said = r#"{"messages":[],"tools":[{"type":"function"}],"max_completion_tokens":9,
            "top_p":1,"response_format":{"type":"json_schema"},"seed":5,"stream":true,"model":"x"}"#;
        let (_, body) = asked(Form::Chat, said, &common);
        let expected = json!({"messages": [], "tools": [{"type": "function"}], "top_p": 1,
            "max_completion_tokens": 9, "response_format": {"type": "json_schema"}, "seed": 5,
            "model": "m", "temperature": 0.5});
        assert_eq!(body, expected);
        let (_, body) = asked(Form::Text, r#"{"prompt":"","seed":null}"#, &common);
        assert_eq!(body["max_tokens"], 64);
        assert!(body["seed"].as_u64().is_some_and(|seed| seed < 1 << 31), "{body}");
        assert_eq!(
            asked(Form::Text, r#"{"prompt":"","seed":null}"#, &common).1["seed"],
            body["seed"]
        );
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let common = common(true, &json!({}));
        for (form, body, reason) in [
            (Form::Chat, "nonsense", "the request is not valid JSON"),
            (Form::Chat, "[]", "the request is not a JSON object"),
            (Form::Chat, r#"{"prompt":"hi"}"#, "the request has no `messages`"),
            (Form::Auto, "{}", "the request has no `prompt`"),
        ] {
            let prompt = Prompt { index: 0, form, body: body.into() };
            let refused = ask(&prompt, &common).expect_err("it is none");
            assert!(refused.starts_with(reason), "{refused}");
        }
    }
}
