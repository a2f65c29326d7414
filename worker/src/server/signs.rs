//! Asks a server for signs of life and of progress.

use super::client::Address;
use std::time::Duration;
use tokio::time::timeout;
use wire::server::{Metrics, Patience};

/// How often a server is asked, at most.
const EVERY: Duration = Duration::from_secs(5);

/// What was seen of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Seen {
    /// Whether it said that it lives.
    pub(super) alive: bool,
    /// A number that changes as long as it gets anywhere, where it tells one.
    pub(super) measure: Option<f64>,
}

/// How long it may take to answer.
pub(super) fn limit(patience: &Patience) -> Duration {
    Duration::from_secs(patience.silent.into()) / 2
}

/// Whether to ask, when it was last known to live so long ago.
pub(super) fn due(since: Duration, patience: &Patience) -> bool {
    (limit(patience) / 4).min(EVERY) <= since
}

/// Asks it.
pub(super) async fn see(
    address: &Address,
    ready: &str,
    metrics: Option<Metrics>,
    limit: Duration,
) -> Seen {
    let alive = timeout(limit, address.get(ready)).await;
    let alive = matches!(alive, Ok(Ok(reply)) if reply.status == 200);
    let Some(Metrics { path, names }) = metrics.filter(|_| alive) else {
        return Seen { alive, measure: None };
    };
    let page = timeout(limit, address.get(&path)).await;
    let Ok(Ok(page)) = page else { return Seen { alive, measure: None } };
    let text = String::from_utf8_lossy(&page.body);
    Seen { alive, measure: sum(&text, &names) }
}

/// The sum of the named metrics on a page in Prometheus's format. None where there is none.
fn sum(page: &str, names: &[String]) -> Option<f64> {
    let value = |line: &str| {
        let name = line.split([' ', '{']).next()?;
        // Labels may hold spaces; what follows them doesn't.
        let rest = line.rsplit_once('}').map_or_else(|| line.split_once(' '), Some)?.1;
        let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
        names.iter().any(|wanted| wanted == name).then_some(value)
    };
    page.lines().filter_map(value).reduce(|all, one| all + one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_metrics_are_added_up() {
        let page = "# HELP a:x of what\n# TYPE a:x counter\na:x 3\na:y{model=\"m } n\",e=\"0\"} 4.5\n\
                    a:y{e=\"1\"} 1e1 1700000000\na:z 100\n";
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(sum(page, &names(&["a:x", "a:y"])), Some(17.5));
        assert_eq!(sum(page, &names(&["a:none"])), None);
        assert_eq!(sum("nonsense", &names(&["nonsense"])), None);
    }

    #[test]
    fn a_server_is_asked_several_times_before_it_counts_as_silent() {
        let patience = Patience { load: 1, silent: 60, stalled: 900 };
        assert!(!due(Duration::from_secs(4), &patience) && due(Duration::from_secs(5), &patience));
        let patience = Patience { silent: 1, ..patience };
        assert!(due(Duration::from_millis(125), &patience));
    }
}
