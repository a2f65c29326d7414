//! Verda's tokens: an hour each, for a client id and a secret.

use super::exposed;
use crate::{Access, Error, ErrorKind, Result, http::Http, json::Number};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use std::{fmt, time::Duration};
use tokio::{sync::Mutex, time::Instant};

const OPERATION: &str = "log in";

/// A token is not used in its last minute.
const MARGIN: Duration = Duration::from_mins(1);

/// What we are let in with, and the token that it got us.
pub(super) struct Tokens {
    id: SecretString,
    secret: SecretString,
    current: Mutex<Option<(SecretString, Instant)>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<Number>,
}

impl Tokens {
    /// Asks for none yet.
    pub(super) fn new(access: &Access) -> Self {
        let credential = |place: usize| access.secrets.get(place).cloned().unwrap_or_default();
        Self { id: credential(0), secret: credential(1), current: Mutex::new(None) }
    }

    /// A token that is still good.
    pub(super) async fn current(&self, http: &Http) -> Result<SecretString> {
        let mut current = self.current.lock().await;
        match current.as_ref() {
            Some((token, until)) if Instant::now() < *until => Ok(token.clone()),
            _ => self.ask(http, &mut current).await,
        }
    }

    /// A new token, after the old one was turned away.
    pub(super) async fn renewed(&self, http: &Http) -> Result<SecretString> {
        let mut current = self.current.lock().await;
        self.ask(http, &mut current).await
    }

    async fn ask(
        &self,
        http: &Http,
        current: &mut Option<(SecretString, Instant)>,
    ) -> Result<SecretString> {
        let body = json!({
            "grant_type": "client_credentials",
            "client_id": exposed(&self.id),
            "client_secret": exposed(&self.secret),
        });
        let reply = http.search(OPERATION, "/oauth2/token").json(&body).send().await?;
        if matches!(reply.status, 400 | 401 | 403) {
            return Err(reply.into_error(ErrorKind::Unauthorized));
        }
        let granted: Granted = reply.read().map_err(|error| Error { source: None, ..error })?;
        let token = SecretString::from(granted.access_token);
        http.hide(&token);
        let lasts = granted.expires_in.map_or(0, Number::count);
        let until = Instant::now() + Duration::from_secs(lasts).saturating_sub(MARGIN);
        *current = Some((token.clone(), until));
        Ok(token)
    }
}
