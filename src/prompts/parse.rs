//! One line's text → its fields and a request of them, or what is wrong with it. Pure.

use super::Reason;
use memchr::{memchr, memmem};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, error::Category, value::RawValue};
use std::{borrow::Cow, fmt};
use wire::Form;

/// A prompt as its line has it, not yet copied.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) form: Form,
    pub(super) id: Option<Cow<'a, str>>,
    pub(super) body: Body<'a>,
}

#[derive(Debug)]
pub(super) enum Body<'a> {
    /// JSON, as it stands.
    Json(&'a str),
    /// The fields of an object.
    Fields(Fields<'a>),
    /// A bare prompt.
    Text(Cow<'a, str>),
}

/// Why a line is no request, and its id where it has one.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) id: Option<String>,
    pub(super) reason: Reason,
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self { id: None, reason }
    }
}

impl Request<'_> {
    /// The body of an `OpenAI` request.
    pub(super) fn into_body(self) -> String {
        match self.body {
            Body::Json(json) => json.to_owned(),
            Body::Text(text) => format!("{{\"prompt\":{}}}", quoted(&text)),
            Body::Fields(fields) => {
                let mut body = String::from("{");
                for (key, value) in &fields.0 {
                    if body.len() != 1 {
                        body.push(',');
                    }
                    body.push_str(&quoted(key));
                    body.push(':');
                    body.push_str(value.get());
                }
                body.push('}');
                body
            }
        }
    }

    /// Bytes of the body, nearly.
    pub(super) fn bytes(&self) -> usize {
        match &self.body {
            Body::Json(text) => text.len(),
            Body::Text(text) => text.len(),
            Body::Fields(fields) => {
                fields.0.iter().map(|(key, value)| key.len() + value.get().len() + 4).sum()
            }
        }
    }

    /// The most tokens that its answer may have, where it says so.
    pub(super) fn max_tokens(&self) -> Option<u32> {
        self.read(|fields| {
            let limit = fields.find("max_completion_tokens").or(fields.find("max_tokens"))?;
            limit.get().parse().ok()
        })
    }

    /// Whether it goes through the model's chat template, if the model has one.
    pub(super) fn is_chat(&self) -> bool {
        match self.form {
            Form::Chat | Form::Auto => true,
            Form::Text => false,
        }
    }

    /// What a model reads: the prompt, or the text of each message.
    pub(super) fn texts(&self) -> Vec<String> {
        if let Body::Text(text) = &self.body {
            return vec![text.clone().into_owned()];
        }
        let found = self.read(|fields| match fields.find("messages") {
            Some(messages) => {
                let messages: Vec<Value> = serde_json::from_str(messages.get()).ok()?;
                Some(messages.iter().map(|message| said(&message["content"])).collect())
            }
            None => serde_json::from_str(fields.find("prompt")?.get()).ok().map(|text| vec![text]),
        });
        found.unwrap_or_default()
    }

    /// Looks at the fields, where there are any.
    fn read<T>(&self, look: impl FnOnce(&Fields<'_>) -> Option<T>) -> Option<T> {
        match &self.body {
            Body::Json(json) => look(&serde_json::from_str(json).ok()?),
            Body::Fields(fields) => look(fields),
            Body::Text(_) => None,
        }
    }
}

/// What of a line's bytes counts: no byte order mark, no carriage return. None if that is blank.
pub(super) fn content(number: u64, bytes: &[u8]) -> Option<&[u8]> {
    let bytes = match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(bytes) if number == 1 => bytes,
        _ => bytes,
    };
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    bytes.iter().any(|byte| !byte.is_ascii_whitespace()).then_some(bytes)
}

/// A line as text.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Reason> {
    let line = str::from_utf8(bytes).map_err(|error| Reason::NotUtf8(error.valid_up_to() + 1))?;
    memchr(0, bytes).map_or(Ok(line), |at| Err(Reason::Nul(at + 1)))
}

/// The fields of a line that is a JSON object.
pub(super) fn fields(line: &str) -> Result<Fields<'_>, Reason> {
    serde_json::from_str(line).map_err(|error| match error.classify() {
        Category::Data => Reason::NotAnObject,
        Category::Syntax | Category::Eof | Category::Io => {
            Reason::NotJson(error.to_string().replace(" at line 1 column ", " at column "))
        }
    })
}

/// The fields of a JSON object, in their order, with their values as they stand.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    fn find(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(found, _)| found == key).map(|(_, value)| *value)
    }

    /// The value of a key that may stand once.
    fn single(&self, key: &'static str) -> Result<Option<&'a RawValue>, Reason> {
        match self.0.iter().filter(|(found, _)| found == key).count() {
            0 | 1 => Ok(self.find(key)),
            _ => Err(Reason::Twice(key)),
        }
    }

    /// The row's own id.
    pub(super) fn id(&self) -> Result<Option<Cow<'a, str>>, Reason> {
        let (key, value) = match (self.single("custom_id")?, self.single("id")?) {
            (Some(_), Some(_)) => return Err(Reason::Both("custom_id", "id")),
            (Some(value), None) => ("custom_id", value),
            (None, Some(value)) => ("id", value),
            (None, None) => return Ok(None),
        };
        match value.get().as_bytes()[0] {
            b'n' => Ok(None),
            b'"' => match string(key, value)? {
                id if id.is_empty() => Err(Reason::Empty(key)),
                id => Ok(Some(id)),
            },
            b'-' | b'0'..=b'9' => Ok(Some(value.get().into())),
            _ => Err(Reason::WrongKind { key, kind: "a string or a number" }),
        }
    }

    /// The id that a field of this name gives.
    pub(super) fn id_in(&self, column: &str) -> Result<Option<Cow<'a, str>>, Reason> {
        let odd = |fault| Reason::Field { column: column.to_owned(), fault };
        let Some(value) = self.find(column) else { return Err(odd("is missing")) };
        match value.get().as_bytes()[0] {
            b'n' => Ok(None),
            b'"' => match string("id", value).map_err(|_| odd("has half a character"))? {
                id if id.is_empty() => Err(odd("is empty, and is to be the id")),
                id => Ok(Some(id)),
            },
            b'-' | b'0'..=b'9' => Ok(Some(value.get().into())),
            _ => Err(odd("must be a string or a number, as it is to be the id")),
        }
    }

    /// The text of a field of this name.
    pub(super) fn text(&self, column: &str) -> Result<Cow<'a, str>, Reason> {
        let odd = |fault| Reason::Field { column: column.to_owned(), fault };
        let Some(value) = self.find(column) else { return Err(odd("is missing")) };
        match string("prompt", value) {
            Ok(text) if text.is_empty() => Err(odd("is empty")),
            Ok(text) => Ok(text),
            Err(_) if value.get() == "null" => Err(odd("is null")),
            Err(_) => Err(odd("must be a string of whole characters")),
        }
    }

    /// What the row itself asks for, `line` being all of it. What is in the field `id`, where one
    /// is named, and in those of this name is no part of it.
    pub(super) fn request(
        mut self,
        line: &'a str,
        bare: Form,
        id: Option<&str>,
    ) -> Result<(Form, Body<'a>), Reason> {
        if let Some(body) = self.single("body")? {
            return Ok((self.batch(body)?, Body::Json(body.get())));
        }
        let form = match (self.single("prompt")?, self.single("messages")?) {
            (Some(_), Some(_)) => return Err(Reason::Both("prompt", "messages")),
            (None, None) if self.find("url").is_some() => return Err(Reason::Missing("body")),
            (None, None) => return Err(Reason::NoPrompt),
            (Some(prompt), None) => check_prompt("prompt", prompt).map(|()| bare),
            (None, Some(messages)) => check_messages("messages", messages).map(|()| Form::Chat),
        }?;
        let fields = self.0.len();
        self.0.retain(|(key, _)| !is_id(key) && Some(&**key) != id);
        let whole = self.0.len() == fields;
        Ok((form, if whole { Body::Json(line) } else { Body::Fields(self) }))
    }

    /// Checks a request of `OpenAI`'s batch format.
    fn batch(&self, body: &'a RawValue) -> Result<Form, Reason> {
        let method = self.single("method")?.map(|method| string("method", method)).transpose()?;
        if let Some(method) = method.filter(|method| method != "POST") {
            return Err(Reason::UnknownMethod(shortened(&method)));
        }
        let url = string("url", self.single("url")?.ok_or(Reason::Missing("url"))?)?;
        let fields: Fields<'_> = serde_json::from_str(body.get())
            .map_err(|_| Reason::WrongKind { key: "body", kind: "an object" })?;
        match &*url {
            "/v1/chat/completions" => {
                let messages =
                    fields.single("messages")?.ok_or(Reason::Missing("body.messages"))?;
                check_messages("body.messages", messages).map(|()| Form::Chat)
            }
            "/v1/completions" => {
                let prompt = fields.single("prompt")?.ok_or(Reason::Missing("body.prompt"))?;
                check_prompt("body.prompt", prompt).map(|()| Form::Text)
            }
            other => Err(Reason::UnknownUrl(shortened(other))),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    fields.push((key, value));
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Collect).map(Self)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, rename = "role")]
    _role: Cow<'a, str>,
}

/// The text of a message: all of its content, or those of its parts that are text.
fn said(content: &Value) -> String {
    let text = |part: &Value| part.as_str().unwrap_or_default().to_owned();
    match content.as_array() {
        Some(parts) => parts.iter().map(|part| text(&part["text"])).collect(),
        None => text(content),
    }
}

fn is_id(key: &str) -> bool {
    matches!(key, "id" | "custom_id")
}

fn check_prompt(key: &'static str, prompt: &RawValue) -> Result<(), Reason> {
    match prompt.get() {
        "\"\"" => Err(Reason::Empty(key)),
        // JSON allows half a surrogate pair in an escape, and no string can hold one.
        text if text.starts_with('"') && memmem::find(text.as_bytes(), b"\\u").is_some() => {
            string(key, prompt).map(drop)
        }
        text if text.starts_with('"') => Ok(()),
        _ => Err(Reason::WrongKind { key, kind: "a string" }),
    }
}

fn check_messages(key: &'static str, messages: &RawValue) -> Result<(), Reason> {
    match serde_json::from_str::<Vec<Message<'_>>>(messages.get()) {
        Ok(messages) if messages.is_empty() => Err(Reason::Empty(key)),
        Ok(_) => Ok(()),
        Err(_) => Err(Reason::WrongKind { key, kind: "a list of objects with a `role`" }),
    }
}

fn string<'a>(key: &'static str, value: &'a RawValue) -> Result<Cow<'a, str>, Reason> {
    if !value.get().starts_with('"') {
        return Err(Reason::WrongKind { key, kind: "a string" });
    }
    let Key(text) = serde_json::from_str(value.get())
        .map_err(|_| Reason::WrongKind { key, kind: "a string of whole characters" })?;
    Ok(text)
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string can always be written as JSON")
}

/// As much of a foreign text as a message needs.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
