//! Object stores: prompts from there, and completions to there. The only door to them.
//!
//! ```text
//! s3://bucket/key   gs://bucket/key   az://container/key   http://host/path (to read)
//! ```
//!
//! A run works on files of its own: what it is to read is fetched before it begins, and what it is to
//! write is put in order first and then sent. Both go on where they broke off. How to log in is told by
//! the environment, in the words of each store's own tools (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`,
//! `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, …).

mod fetch;
mod send;

pub use send::Sent;

use futures_util::TryStreamExt;
use object_store::{
    ObjectStore, ObjectStoreExt, aws::AmazonS3Builder, aws::AmazonS3ConfigKey,
    azure::MicrosoftAzureBuilder, gcp::GoogleCloudStorageBuilder, http::HttpBuilder,
    multipart::MultipartStore, path::Path as Key,
};
use std::{fmt, io, path::PathBuf, sync::Arc};

/// Why something can't be had from an object store, or not be put there.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The address isn't one.
    #[error("`{url}` can't be understood: {why}")]
    Address {
        /// What was typed.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing is there.
    #[error("there is nothing at `{0}`")]
    Missing(String),
    /// The store doesn't know us, or doesn't let us.
    #[error("`{url}`: the store refuses; see to its key in the environment (such as {keys})")]
    Refused {
        /// Where.
        url: String,
        /// The variables that it is taken from.
        keys: &'static str,
        /// What the store said.
        source: object_store::Error,
    },
    /// It can be read, and not written.
    #[error("`{0}` can only be read; write to s3://, gs:// or az://, or to a file")]
    ReadOnly(String),
    /// The store failed.
    #[error("`{url}` could not be {act}")]
    Store {
        /// Where.
        url: String,
        /// What was being done.
        act: &'static str,
        /// What it said.
        source: object_store::Error,
    },
    /// It was changed while it was fetched.
    #[error("`{0}` has changed while it was fetched; begin again")]
    Changed(String),
    /// Our own file failed.
    #[error("`{}` can't be {act}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done.
        act: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    S3,
    Google,
    Azure,
    Web,
}

impl Scheme {
    fn of(name: &str) -> Option<Self> {
        match name {
            "s3" => Some(Self::S3),
            "gs" => Some(Self::Google),
            "az" => Some(Self::Azure),
            "http" | "https" => Some(Self::Web),
            _ => None,
        }
    }

    /// The variables that say who we are.
    const fn keys(self) -> &'static str {
        match self {
            Self::S3 => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            Self::Google => "GOOGLE_APPLICATION_CREDENTIALS",
            Self::Azure => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
            Self::Web => "none: only what anybody may read can be had from there",
        }
    }
}

/// An object, or objects by a pattern, in a store.
#[derive(Clone)]
pub struct Place {
    url: String,
    /// The part of `url` before the key.
    root: String,
    key: String,
    scheme: Scheme,
    store: Arc<dyn ObjectStore>,
    /// Where it can be written to in parts.
    parts: Option<Arc<dyn MultipartStore>>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Whether this is the address of an object, and not a file.
pub fn is_object(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| Scheme::of(scheme).is_some())
}

impl Place {
    /// The place with this address. Sends nothing yet.
    pub fn new(url: &str) -> Result<Self, ObjectError> {
        let strange = |why: &str| ObjectError::Address { url: url.to_owned(), why: why.to_owned() };
        let (name, rest) = url.split_once("://").ok_or_else(|| strange("it has no scheme"))?;
        let scheme = Scheme::of(name).ok_or_else(|| strange("no such scheme is known"))?;
        let (host, key) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() || key.is_empty() || key.ends_with('/') {
            return Err(strange("it should be like s3://bucket/folder/file.jsonl"));
        }
        if scheme == Scheme::Web && key.contains(['?', '#']) {
            return Err(strange("it has a query; `curl -L URL | piecework run -` reads that too"));
        }
        let failed = |error: object_store::Error| strange(&error.to_string());
        providers::use_ring();
        let root = format!("{name}://{host}/");
        let (store, parts): (Arc<dyn ObjectStore>, Option<Arc<dyn MultipartStore>>) = match scheme {
            Scheme::S3 => {
                let mut builder = AmazonS3Builder::from_env().with_bucket_name(host);
                let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
                if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
                    // Whoever names such an endpoint means it.
                    builder = builder.with_allow_http(true);
                }
                let store = Arc::new(builder.build().map_err(failed)?);
                (store.clone(), Some(store))
            }
            Scheme::Google => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(host);
                let store = Arc::new(builder.build().map_err(failed)?);
                (store.clone(), Some(store))
            }
            Scheme::Azure => {
                let builder = MicrosoftAzureBuilder::from_env().with_container_name(host);
                let store = Arc::new(builder.build().map_err(failed)?);
                (store.clone(), Some(store))
            }
            Scheme::Web => {
                let options = object_store::ClientOptions::new().with_allow_http(name == "http");
                let builder = HttpBuilder::new().with_url(&root).with_client_options(options);
                (Arc::new(builder.build().map_err(failed)?), None)
            }
        };
        Ok(Self { url: url.to_owned(), root, key: key.to_owned(), scheme, store, parts })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The objects that are meant, in the order of their names: itself, or those that it is a pattern
    /// for.
    pub async fn matching(&self) -> Result<Vec<Self>, ObjectError> {
        let Some(wild) = self.key.find(['*', '?', '[']) else {
            return Ok(vec![self.clone()]);
        };
        let pattern = glob::Pattern::new(&self.key).map_err(|error| ObjectError::Address {
            url: self.url.clone(),
            why: error.msg.into(),
        })?;
        let prefix = self.key[..wild].rsplit_once('/').map(|(folder, _)| Key::from(folder));
        let listed: Vec<_> = self
            .store
            .list(prefix.as_ref())
            .try_collect()
            .await
            .map_err(|error| self.failed("listed", error))?;
        // As a shell does it: a star stands for no slash.
        let strict = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
        let names = listed.into_iter().map(|object| object.location.to_string());
        let mut names: Vec<_> = names.filter(|key| pattern.matches_with(key, strict)).collect();
        names.sort();
        if names.is_empty() {
            return Err(ObjectError::Missing(self.url.clone()));
        }
        Ok(names.into_iter().map(|key| self.sibling(key)).collect())
    }

    /// Another object in the same bucket.
    fn sibling(&self, key: String) -> Self {
        Self { url: format!("{}{key}", self.root), key, ..self.clone() }
    }

    /// Whether something is there.
    pub async fn exists(&self) -> Result<bool, ObjectError> {
        match self.store.head(&self.path()?).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failed("looked for", error)),
        }
    }

    fn path(&self) -> Result<Key, ObjectError> {
        let parsed = match self.scheme {
            // What a browser shows has its odd characters written with %.
            Scheme::Web => Key::from_url_path(&self.key),
            Scheme::S3 | Scheme::Google | Scheme::Azure => Key::parse(&self.key),
        };
        let strange = |error: object_store::path::Error| ObjectError::Address {
            url: self.url.clone(),
            why: error.to_string(),
        };
        parsed.map_err(strange)
    }

    fn failed(&self, act: &'static str, source: object_store::Error) -> ObjectError {
        use object_store::Error::{NotFound, PermissionDenied, Precondition, Unauthenticated};
        let url = self.url.clone();
        if matches!(source, NotFound { .. }) {
            ObjectError::Missing(url)
        } else if matches!(source, Unauthenticated { .. } | PermissionDenied { .. }) {
            ObjectError::Refused { url, keys: self.scheme.keys(), source }
        } else if matches!(source, Precondition { .. }) {
            ObjectError::Changed(url)
        } else {
            ObjectError::Store { url, act, source }
        }
    }
}

fn file_error(path: &std::path::Path, act: &'static str, source: io::Error) -> ObjectError {
    ObjectError::File { path: path.to_owned(), act, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_files() {
        for text in ["s3://b/k", "gs://b/k", "az://c/k", "https://h/k", "http://h/k"] {
            assert!(is_object(text), "{text}");
        }
        for text in ["prompts.jsonl", "/s3/b", "C://x", "s3:/b/k", "ftp://h/k", "-"] {
            assert!(!is_object(text), "{text}");
        }
    }

    #[test]
    fn an_address_that_names_no_object_is_refused() {
        for url in ["s3://bucket", "s3://bucket/", "s3:///key", "s3://bucket/folder/"] {
            let error = Place::new(url).expect_err(url).to_string();
            assert!(error.contains("it should be like s3://bucket/folder/file.jsonl"), "{error}");
        }
        let error = Place::new("https://host/file?token=1").expect_err("a query").to_string();
        assert!(error.contains("curl -L"), "{error}");
    }
}
