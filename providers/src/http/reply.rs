//! What a marketplace answered, or didn't.

use super::{
    Dialect, redact,
    retry::{self, Effect},
};
use crate::{Error, ErrorKind, Result};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex};

/// Why there is no result, as a person may read it. No secret is in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It never reached the marketplace.
    #[error("{what} could not be sent")]
    Unsent {
        /// Method and path.
        what: String,
        /// The transport's reason.
        source: reqwest::Error,
    },
    /// It was called off.
    #[error("{what} was not sent")]
    CalledOff {
        /// Method and path.
        what: String,
    },
    /// No whole answer came.
    #[error("{what} got no whole answer")]
    Silent {
        /// Method and path.
        what: String,
        /// The transport's reason.
        source: reqwest::Error,
    },
    /// Somebody answers without end.
    #[error("{what} got an answer too long to be true")]
    TooLong {
        /// Method and path.
        what: String,
    },
    /// The marketplace said no.
    #[error("{what} got status {status}: {body}")]
    Refused {
        /// Method and path.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        body: String,
    },
    /// The marketplace said something new.
    #[error("{what} got an answer that reads otherwise ({why}): {body}")]
    Unreadable {
        /// Method and path.
        what: String,
        /// What is wrong with it.
        why: String,
        /// What it said.
        body: String,
    },
}

/// A whole answer, whatever it says.
#[derive(Clone)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// What it says.
    pub(crate) body: String,
    pub(super) what: String,
    pub(super) operation: &'static str,
    pub(super) effect: Effect,
    pub(super) dialect: Dialect,
    pub(super) secrets: Arc<Mutex<Vec<SecretString>>>,
}

impl Reply {
    /// Whether the marketplace agreed.
    pub(crate) const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// Whether any of these words is in the answer, in any case.
    pub(crate) fn says(&self, words: &[&str]) -> bool {
        let body = self.body.to_ascii_lowercase();
        words.iter().any(|word| body.contains(word))
    }

    /// What a success says. A refusal is an error, and so is an answer that can't be read.
    pub(crate) fn read<T: DeserializeOwned>(self) -> Result<T> {
        if !self.is_success() {
            return Err(self.refused());
        }
        serde_json::from_str(&self.body).map_err(|error| self.unreadable(&error.to_string()))
    }

    /// That a success needs no reading. A refusal is an error.
    pub(crate) fn accept(self) -> Result<()> {
        if self.is_success() { Ok(()) } else { Err(self.refused()) }
    }

    /// The error that a refusal is, by the dialect's own words first. A redirection is none of its words:
    /// it comes from somebody before the marketplace.
    pub(crate) fn refused(self) -> Error {
        let kind = match self.status {
            300..=399 => None,
            _ => (self.dialect.refusal)(&self),
        };
        let kind = kind.unwrap_or_else(|| retry::refusal(self.status, self.effect));
        self.into_error(kind)
    }

    /// The error that a refusal is, in the caller's opinion.
    pub(crate) fn into_error(self, kind: ErrorKind) -> Error {
        let body = self.excerpt(&self.body);
        let Self { status, what, .. } = self;
        Error {
            provider: self.dialect.provider,
            operation: self.operation,
            kind,
            source: Some(Box::new(Failure::Refused { what, status, body })),
        }
    }

    /// The error that a success is if it can't be read.
    pub(crate) fn unreadable(&self, why: &str) -> Error {
        // It was done, whatever it was: after a request that rents, somebody has to look.
        let kind = match self.effect {
            Effect::Once => ErrorKind::Uncertain,
            Effect::Read | Effect::Repeatable => ErrorKind::Unexpected,
        };
        Error {
            provider: self.dialect.provider,
            operation: self.operation,
            kind,
            source: Some(Box::new(Failure::Unreadable {
                what: self.what.clone(),
                why: self.excerpt(why),
                body: self.excerpt(&self.body),
            })),
        }
    }

    /// An answer to an order, for tests of what a dialect takes it for.
    #[cfg(test)]
    pub(crate) fn said(status: u16, body: &str) -> Self {
        Self {
            status,
            body: body.to_owned(),
            what: String::new(),
            operation: "rent",
            effect: Effect::Once,
            dialect: Dialect { provider: "test", refusal: |_| None },
            secrets: Arc::default(),
        }
    }

    fn excerpt(&self, text: &str) -> String {
        redact::excerpt(text, &self.secrets.lock().expect("nobody panics while holding it"))
    }
}
