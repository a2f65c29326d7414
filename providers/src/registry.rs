//! The marketplaces that are reached over the internet, in one table.

use crate::{
    Error, ErrorKind, Marketplace, Result, Timing, Transport, Usd,
    http::{Dialect, Http, Reply},
    keys,
};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Something that a marketplace wants to see before it lets anybody in.
#[derive(Clone, Copy, Debug)]
pub struct Credential {
    /// What it is called on the marketplace's own pages.
    pub name: &'static str,
    /// The environment variables that it is usually in, the usual one first.
    pub variables: &'static [&'static str],
}

/// What it takes to speak to a marketplace.
#[derive(Clone, Debug)]
pub struct Access {
    /// Connections.
    pub transport: Transport,
    /// Another address than the marketplace's own.
    pub url: Option<String>,
    /// One for each of [`Provider::credentials`], in that order. Empty where there is none.
    pub secrets: Vec<SecretString>,
    /// How patient to be.
    pub timing: Timing,
}

/// What a marketplace says about the account that a key belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Whose it is, where the marketplace tells.
    pub name: Option<String>,
    /// What is left to spend, where it is prepaid and told.
    pub balance: Option<Usd>,
}

/// A marketplace with accounts.
#[async_trait::async_trait]
pub trait Remote: Marketplace {
    /// Asks about the account, and so whether the key is good. Changes nothing.
    async fn account(&self) -> Result<Account>;
}

/// A row of [`PROVIDERS`].
#[derive(Debug)]
pub struct Provider {
    /// What a user types, and what is written into the ledger.
    pub name: &'static str,
    /// How it writes its own name.
    pub title: &'static str,
    /// What it wants to see.
    pub credentials: &'static [Credential],
    /// Whether it tells its offers to anybody.
    pub open_offers: bool,
    /// Its address.
    pub url: &'static str,
    /// The environment variable for another address.
    pub url_variable: &'static str,
    /// Where its keys are made.
    pub keys_page: &'static str,
    /// Where a person sees in a browser what is rented, and ends it.
    pub console: &'static str,
    pub(crate) connect: fn(&Provider, Access) -> Result<Arc<dyn Remote>>,
}

/// Every marketplace with accounts.
pub static PROVIDERS: &[Provider] = &[
    crate::vast::PROVIDER,
    crate::runpod::PROVIDER,
    crate::lambda::PROVIDER,
    crate::verda::PROVIDER,
    crate::shadeform::PROVIDER,
    crate::prime::PROVIDER,
];

impl Provider {
    /// The row of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        PROVIDERS.iter().find(|provider| provider.name == name)
    }

    /// Prepares to speak to it; sends nothing yet.
    ///
    /// Fails with [`Unauthorized`](ErrorKind::Unauthorized) without its credentials, unless its
    /// offers are open.
    pub fn connect(&self, access: Access) -> Result<Arc<dyn Remote>> {
        let given = |secret: &SecretString| !secret.expose_secret().is_empty();
        let complete =
            access.secrets.len() == self.credentials.len() && access.secrets.iter().all(given);
        if complete || self.open_offers {
            return (self.connect)(self, access);
        }
        let names: Vec<_> = self.credentials.iter().map(|credential| credential.name).collect();
        Err(Error {
            provider: self.name,
            operation: "log in",
            kind: ErrorKind::Unauthorized,
            source: Some(format!("it needs its {}", names.join(" and its ")).into()),
        })
    }
}

impl Access {
    /// The door to a provider whose refusals mean this.
    pub(crate) fn http(
        &self,
        provider: &Provider,
        refusal: fn(&Reply) -> Option<ErrorKind>,
    ) -> Http {
        let base = self.url.as_deref().unwrap_or(provider.url);
        let dialect = Dialect { provider: provider.name, refusal };
        let http = Http::new(self.transport.clone(), base, self.timing, dialect);
        let http = http.logged_in(self.login(provider));
        self.secrets.iter().for_each(|secret| http.hide(secret));
        http
    }

    /// The short name of these credentials at this provider. Another address is another's accounts.
    fn login(&self, provider: &Provider) -> Option<String> {
        self.key()?;
        let secrets = self.secrets.iter().map(ExposeSecret::expose_secret);
        let address = self.url.as_deref().unwrap_or_default();
        let mut hash = Sha256::new();
        for part in [provider.name, address].into_iter().chain(secrets) {
            // With their lengths, so that no two lists of parts read alike.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Some(keys::short(hash))
    }

    /// The first credential, if it is there.
    pub(crate) fn key(&self) -> Option<&SecretString> {
        self.secrets.first().filter(|secret| !secret.expose_secret().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(provider: &str, url: Option<&str>, secrets: &[&str]) -> Option<String> {
        let access = Access {
            transport: Transport::new().expect("this computer has certificates"),
            url: url.map(str::to_owned),
            secrets: secrets.iter().copied().map(SecretString::from).collect(),
            timing: Timing::default(),
        };
        let provider = Provider::find(provider).expect("it is one of ours");
        provider.connect(access).expect("it has all it needs").login()
    }

    #[test]
    fn accounts_are_told_apart_by_a_name_that_gives_no_key_away() {
        let logins = [
            login("vast", None, &["secret-one"]),
            login("vast", None, &["secret-two"]),
            login("vast", Some("http://127.0.0.1:1/vast"), &["secret-one"]),
            login("runpod", None, &["secret-one"]),
            login("verda", None, &["id", "secret"]),
            login("verda", None, &["ids", "ecret"]),
        ];
        for (at, own) in logins.iter().enumerate() {
            let own = own.as_ref().expect("there is a key");
            assert!(own.len() == 16 && own.bytes().all(|b| b.is_ascii_hexdigit()), "{own}");
            assert!(logins[..at].iter().all(|other| other.as_ref() != Some(own)), "{logins:?}");
        }
        assert_eq!(logins[0], login("vast", None, &["secret-one"]));
        assert_eq!(login("vast", None, &[]), None, "its offers are open to anybody");
    }
}
