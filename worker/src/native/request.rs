//! What a prompt asks for: the body of an `OpenAI` request, read and checked.
//!
//! A parameter comes from the body, else from the job's defaults, else from the model's
//! `generation_config.json`, else it is `OpenAI`'s own; but an answer has 256 tokens at most where
//! nothing says otherwise, and a prompt without a seed gets one made of the job's and its index.
//! Fields that would change the answer and can't be honoured are refused; others that aren't known are ignored.

use super::{fields::Fields, random::mix, sampling::Sampling, simd::narrowed};
use serde_json::{Map, Value};
use wire::{Form, Prompt};

/// Answers to one prompt.
const CHOICES: usize = 128;

/// Tokens that the log-probabilities can be had of at each position.
const TOP: usize = 20;

/// Fields that change the answer and that this engine has no means to honour.
const REFUSED: [&str; 18] = [
    "tools",
    "functions",
    "suffix",
    "echo",
    "best_of",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "audio",
    "modalities",
    "prompt_logprobs",
    "use_beam_search",
    "length_penalty",
    "bad_words",
    "chat_template",
    "continue_final_message",
];

/// What goes into the model.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Input {
    /// Messages for the chat template, and values that the request gives it by name.
    Chat(Value, Option<Map<String, Value>>),
    /// A text as it is.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

/// The log-probabilities that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WantedLogProbs {
    /// Of how many of the best tokens at each position, besides the chosen one.
    pub(super) top: usize,
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    /// What goes into the model.
    pub(super) input: Input,
    /// Whether the answer is a chat completion.
    pub(super) chat: bool,
    /// How tokens are chosen. Choice `i > 0` has the seed `mix(seed, i)`.
    pub(super) sampling: Sampling,
    /// Tokens of an answer, at most.
    pub(super) max_tokens: Option<usize>,
    /// Tokens before an answer may end.
    pub(super) min_tokens: usize,
    /// Texts that end an answer and are no part of it.
    pub(super) stop: Vec<String>,
    /// Tokens that end an answer, besides the model's own.
    pub(super) stop_tokens: Vec<u32>,
    /// Whether the model's own end is passed over.
    pub(super) ignore_end: bool,
    /// The log-probabilities that are wanted.
    pub(super) logprobs: Option<WantedLogProbs>,
    /// Whether tokens are named by number, as vLLM's `return_tokens_as_token_ids` has it.
    pub(super) tokens_as_ids: bool,
    /// Answers.
    pub(super) choices: usize,
}

/// Parameters for requests that don't set them.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    /// The job's.
    pub(super) job: Map<String, Value>,
    /// The model's.
    pub(super) model: Map<String, Value>,
    /// The job's seed.
    pub(super) seed: u64,
    /// Whether the model has a chat template.
    pub(super) has_template: bool,
}

/// Reads a prompt. The error is a sentence without a full stop, for the user.
pub(super) fn read(prompt: &Prompt, defaults: &Defaults) -> Result<Request, String> {
    let body: Value = serde_json::from_str(&prompt.body)
        .map_err(|error| format!("the request is not valid JSON: {error}"))?;
    let body = body.as_object().ok_or("the request is not a JSON object")?;
    let fields = Fields { body, job: &defaults.job, model: &defaults.model };
    refuse(&fields)?;
    let (input, chat) = read_input(&fields, prompt.form, defaults.has_template)?;
    let choices = fields.count("n")?.unwrap_or(1);
    if !(1..=CHOICES).contains(&choices) {
        return Err(format!("`n` is {choices}, and must be from 1 to {CHOICES}"));
    }
    let max_tokens = read_max_tokens(&fields)?;
    let min_tokens = fields.count("min_tokens")?.unwrap_or(0);
    if max_tokens.is_some_and(|most| most < min_tokens) {
        return Err(format!("`min_tokens` is {min_tokens}, more than `max_tokens`"));
    }
    let seed = match fields.integer("seed")? {
        Some(seed) => seed.cast_unsigned(),
        None => mix(defaults.seed, prompt.index),
    };
    Ok(Request {
        input,
        chat,
        sampling: read_sampling(&fields, seed)?,
        max_tokens,
        min_tokens,
        stop: fields.texts("stop", 4)?,
        stop_tokens: match fields.get("stop_token_ids") {
            Some(value) => tokens(value).ok_or("`stop_token_ids` is not a list of tokens")?,
            None => Vec::new(),
        },
        ignore_end: fields.flag("ignore_eos")?.unwrap_or(false),
        logprobs: read_logprobs(&fields, chat)?,
        tokens_as_ids: fields.flag("return_tokens_as_token_ids")?.unwrap_or(false),
        choices,
    })
}

fn read_max_tokens(fields: &Fields<'_>) -> Result<Option<usize>, String> {
    // The old name in the body speaks before the new one in the defaults.
    let names = ["max_completion_tokens", "max_tokens"];
    let said = |fields: &Map<String, Value>| {
        names.into_iter().find(|name| fields.get(*name).is_some_and(|value| !value.is_null()))
    };
    let Some(name) = said(fields.body).or_else(|| said(fields.job)) else { return Ok(None) };
    match fields.count(name)? {
        Some(0) => Err(format!("`{name}` is 0, and must be at least 1")),
        count => Ok(count),
    }
}

fn refuse(fields: &Fields<'_>) -> Result<(), String> {
    let asks = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Number(number) => number.as_f64() != Some(1.0),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) | Value::Object(_) => true,
    };
    // OpenAI's way of asking for text is no request for anything else.
    let harmless = |name: &str, value: &Value| match name {
        "modalities" => *value == serde_json::json!(["text"]),
        _ => false,
    };
    for name in REFUSED {
        if fields.get(name).is_some_and(|value| asks(value) && !harmless(name, value)) {
            return Err(format!("`{name}` is not supported by the native engine"));
        }
    }
    let format = fields.get("response_format").and_then(|format| format.get("type"));
    match format.and_then(Value::as_str) {
        None | Some("text") => Ok(()),
        Some(other) => Err(format!(
            "`response_format` of the type {other} is not supported by the native engine"
        )),
    }
}

fn read_input(
    fields: &Fields<'_>,
    form: Form,
    has_template: bool,
) -> Result<(Input, bool), String> {
    let extra = match fields.get("chat_template_kwargs") {
        None => None,
        Some(Value::Object(extra)) => Some(extra.clone()),
        Some(_) => return Err("`chat_template_kwargs` is not an object".to_owned()),
    };
    match form {
        Form::Chat if !has_template => {
            Err("the request is a chat, and the model has no chat template".to_owned())
        }
        Form::Chat => Ok((Input::Chat(messages(fields.body.get("messages"))?, extra), true)),
        Form::Auto if fields.body.contains_key("messages") => {
            read_input(fields, Form::Chat, has_template)
        }
        Form::Auto if has_template => match fields.body.get("prompt") {
            Some(Value::String(text)) => {
                let message = serde_json::json!([{"role": "user", "content": text}]);
                Ok((Input::Chat(message, extra), true))
            }
            _ => read_input(fields, Form::Text, has_template),
        },
        Form::Auto | Form::Text => {
            let prompt = fields.body.get("prompt").ok_or("the request has no `prompt`")?;
            // A list of one is what some clients make of one prompt.
            let prompt = match prompt.as_array().map(Vec::as_slice) {
                Some([only @ (Value::String(_) | Value::Array(_))]) => only,
                _ => prompt,
            };
            if let Some(text) = prompt.as_str() {
                return Ok((Input::Text(text.to_owned()), false));
            }
            let tokens = tokens(prompt).ok_or(
                "`prompt` is neither a text nor a list of tokens; several prompts are several \
                 requests",
            )?;
            Ok((Input::Tokens(tokens), false))
        }
    }
}

fn tokens(value: &Value) -> Option<Vec<u32>> {
    let token = |value: &Value| u32::try_from(value.as_u64()?).ok();
    value.as_array()?.iter().map(token).collect()
}

/// The messages, their contents as texts.
fn messages(value: Option<&Value>) -> Result<Value, String> {
    let messages = value.and_then(Value::as_array).ok_or("`messages` is not a list")?;
    if messages.is_empty() {
        return Err("`messages` is empty".to_owned());
    }
    let messages: Result<Vec<Value>, String> = (0..).zip(messages).map(message).collect();
    Ok(Value::Array(messages?))
}

fn message((index, message): (usize, &Value)) -> Result<Value, String> {
    let mut message =
        message.as_object().ok_or_else(|| format!("`messages[{index}]` is not an object"))?.clone();
    if !message.get("role").is_some_and(Value::is_string) {
        return Err(format!("`messages[{index}].role` is not a text"));
    }
    let content = match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(Value::Array(parts)) => {
            let mut texts = Vec::new();
            for part in parts {
                let is_text = part.get("type").and_then(Value::as_str) == Some("text");
                let text = part.get("text").and_then(Value::as_str).filter(|_| is_text);
                texts.push(text.ok_or_else(|| {
                    format!("`messages[{index}].content` has a part that is not text")
                })?);
            }
            texts.join("\n")
        }
        Some(_) => return Err(format!("`messages[{index}].content` is not a text")),
    };
    message.insert("content".to_owned(), Value::String(content));
    Ok(Value::Object(message))
}

fn read_sampling(fields: &Fields<'_>, seed: u64) -> Result<Sampling, String> {
    let plain = Sampling::default();
    let greedy = fields.advice("do_sample").and_then(Value::as_bool) == Some(false);
    let temperature = if greedy { 0.0 } else { plain.temperature };
    let top_k = match fields.integer("top_k")? {
        // vLLM's way of saying "all".
        Some(-1) | None => 0,
        Some(count) => usize::try_from(count).map_err(|_| format!("`top_k` is {count}"))?,
    };
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=100.0)?.unwrap_or(temperature),
        top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(plain.top_p),
        top_k,
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(plain.min_p),
        seed,
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        repetition_penalty: fields.number("repetition_penalty", 0.01..=100.0)?.unwrap_or(1.0),
        biases: read_biases(fields)?,
    })
}

fn read_biases(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, String> {
    let Some(value) = fields.get("logit_bias") else { return Ok(Vec::new()) };
    let wrong =
        || "`logit_bias` is not an object of tokens and numbers from -100 to 100".to_owned();
    let bias = |(token, bias): (&String, &Value)| {
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
        // As it is written: "05" would be a second name for the token 5.
        let number: u32 = token.parse().ok().filter(|number: &u32| number.to_string() == *token)?;
        Some((number, narrowed(bias)))
    };
    value.as_object().ok_or_else(wrong)?.iter().map(bias).collect::<Option<_>>().ok_or_else(wrong)
}

fn read_logprobs(fields: &Fields<'_>, chat: bool) -> Result<Option<WantedLogProbs>, String> {
    let top = if chat {
        let top = fields.count("top_logprobs")?;
        match (fields.flag("logprobs")?.unwrap_or(false), top) {
            (true, top) => top.unwrap_or(0),
            (false, None | Some(0)) => return Ok(None),
            (false, Some(_)) => return Err("`top_logprobs` needs `logprobs` to be true".to_owned()),
        }
    } else {
        let Some(top) = fields.count("logprobs")? else { return Ok(None) };
        top
    };
    if TOP < top {
        return Err(format!("log-probabilities of {top} tokens are wanted, and {TOP} is the most"));
    }
    Ok(Some(WantedLogProbs { top }))
}
