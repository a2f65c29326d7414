//! What a marketplace's stub is: its words for the truth.

use super::{
    books::{Books, Ware},
    fault::Call,
    rental::Ender,
};
use crate::Billing;
use serde_json::Value;
use std::collections::BTreeMap;

/// A request, taken apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub(super) method: String,
    /// What follows the marketplace's own path, without its query.
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    /// By lower-case name.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
    /// Where the server is reached, with the marketplace's own path.
    pub(super) base: String,
}

impl Ask {
    /// The path without empty parts.
    pub(super) fn parts(&self) -> Vec<&str> {
        self.path.split('/').filter(|part| !part.is_empty()).collect()
    }

    /// The body, or nothing if it is no JSON.
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// The key that came along as a bearer token.
    pub(super) fn bearer(&self) -> &str {
        let header = self.headers.get("authorization").map_or("", String::as_str);
        header.strip_prefix("Bearer ").unwrap_or(header)
    }

    /// A number out of the query.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        self.query.get(name)?.parse().ok()
    }
}

/// An answer, before anything goes wrong with it.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) body: String,
    pub(super) location: Option<String>,
}

impl Reply {
    /// JSON.
    pub(super) fn json(status: u16, body: &Value) -> Self {
        let kind = "application/json";
        Self { status, kind, body: body.to_string(), location: None }
    }

    /// Plain words.
    pub(super) fn text(status: u16, body: &str) -> Self {
        Self { status, kind: "text/plain", body: body.to_owned(), location: None }
    }

    /// Nothing.
    pub(super) fn empty(status: u16) -> Self {
        Self::text(status, "")
    }
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The account.
    Account,
    /// An instance, with its own key.
    Instance(String),
    /// Nobody that is known.
    Stranger,
}

impl Caller {
    /// Who ended what this caller ends.
    pub(super) fn ender(&self) -> Ender {
        match self {
            Self::Account | Self::Stranger => Ender::Account,
            Self::Instance(_) => Ender::Instance,
        }
    }
}

/// One marketplace's stub. It has no memory of its own: that is in the books.
pub(super) trait Stub: Send + Sync {
    /// What it has for rent. `many` asks for about that many offers, where it lists single hosts.
    fn stock(&self, many: usize) -> Vec<Ware>;

    /// What a request is for.
    fn call(&self, ask: &Ask) -> Call;

    /// The key that a request shows.
    fn key<'a>(&self, ask: &'a Ask) -> &'a str {
        ask.bearer()
    }

    /// Whether a request needs no key.
    fn is_open(&self, call: Call) -> bool {
        let _ = call;
        false
    }

    /// Whether a request to end something is about this instance.
    fn is_about(&self, ask: &Ask, id: &str) -> bool {
        ask.parts().contains(&id)
    }

    /// The answer to a key that is no good.
    fn turn_away(&self) -> Reply;

    /// The answer to a request.
    fn answer(&self, books: &mut Books, ask: &Ask, caller: &Caller) -> Reply;

    /// How its time becomes money.
    fn billing(&self) -> Billing {
        Billing::default()
    }

    /// What the marketplace puts into an instance's environment.
    fn environment(&self, id: &str, own_key: &str) -> Vec<(&'static str, String)> {
        let _ = (id, own_key);
        Vec::new()
    }
}
