//! Whether machines can have a model from its hub: asked before one is rented for it.

use super::hub::{Hub, HubError};
use std::time::Duration;
use tokio::time::timeout;
use wire::{HubAccess, Model, Source};

/// How long a hub is waited for. Machines may reach one that this computer doesn't.
const LIMIT: Duration = Duration::from_secs(10);

/// What a machine has to show its hub to have a model. None where the hub gives it to anybody, can't
/// be asked, or isn't the only place that has it.
///
/// Fails where the hub doesn't give it to us either.
pub async fn hub_access(model: &Model) -> Result<Option<HubAccess>, HubError> {
    let [Source::Hub { repo, revision, file, .. }] = &model.sources[..] else { return Ok(None) };
    let url = format!("{repo}/resolve/{revision}/{}", file.as_deref().unwrap_or("config.json"));
    let hub = Hub::from_environment()?;
    let refused = match timeout(LIMIT, hub.look(&url, None)).await {
        // Without a config.json it isn't known what to ask for, and the worker says what it needs.
        Ok(Ok(()) | Err(HubError::Unreachable(_) | HubError::NoFile(_))) | Err(_) => {
            return Ok(None);
        }
        Ok(Err(refused)) => refused,
    };
    let Some(token) = hub.token.clone() else { return Err(refused) };
    if !is_private(&hub.endpoint) {
        return Err(HubError::InClear);
    }
    match timeout(LIMIT, hub.look(&url, Some(&token))).await {
        Ok(Ok(()) | Err(HubError::Unreachable(_) | HubError::NoFile(_))) | Err(_) => {
            Ok(Some(HubAccess { endpoint: hub.endpoint, token }))
        }
        Ok(Err(refused)) => Err(refused),
    }
}

/// Whether nobody hears what is said to a hub at this address: it is encrypted, or stays on a machine.
fn is_private(endpoint: &str) -> bool {
    let Some(host) = endpoint.strip_prefix("http://") else {
        return endpoint.starts_with("https://");
    };
    let host = host.split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    matches!(host, "127.0.0.1" | "localhost" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_only_where_nobody_else_hears_it() {
        for private in ["https://huggingface.co", "http://127.0.0.1:80/hub", "http://[::1]:80"] {
            assert!(is_private(private), "{private}");
        }
        for open in ["http://hub.intra", "http://127.0.0.1.example.com", "huggingface.co", ""] {
            assert!(!is_private(open), "{open}");
        }
    }
}
