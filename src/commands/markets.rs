//! Marketplaces as the user can reach them: with the keys that there are.

use super::{CommandError, program};
use crate::{
    exit::Exit,
    leases::{Markets, describe},
    report,
    run::Home,
    secrets::{Keys, Vault},
    settings,
};
use providers::{Access, Local, Marketplace, PROVIDERS, Provider, Remote, Timing, Transport};
use secrecy::SecretString;
use std::{
    env,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// How long a request is repeated for somebody who waits and looks.
const BRIEF: Duration = Duration::from_secs(4);

/// Every marketplace that something of ours may run on: this computer, and those that there is a
/// key for. One whose key can't be used is said, and left out.
pub(super) async fn markets(home: &Home) -> Result<Markets, CommandError> {
    over(home, Network::new).await
}

/// The same, for somebody who comes back until it is done, and lets others have a try between.
pub(super) async fn markets_for_a_moment(home: &Home) -> Result<Markets, CommandError> {
    over(home, Network::brief).await
}

async fn over(
    home: &Home,
    network: fn() -> Result<Network, CommandError>,
) -> Result<Markets, CommandError> {
    let keys = read_keys(home).await;
    let remotes = reachable(&keys, |_| true, network)?.into_iter();
    let remotes = remotes.map(|(_, remote)| remote as Arc<dyn Marketplace>);
    Ok(Markets::new(remotes.chain([local(home)?])))
}

/// The keys that there are. What kept others from being read is said.
pub(super) async fn read_keys(home: &Home) -> Keys {
    let keys = Vault::new(home.path()).read().await;
    for trouble in &keys.troubles {
        report::warning(&describe(trouble));
    }
    keys
}

/// A marketplace, and the way to it.
pub(super) type Reachable = (&'static Provider, Arc<dyn Remote>);

/// The marketplaces that there is a key for.
pub(super) fn reachable(
    keys: &Keys,
    wanted: impl Fn(&str) -> bool,
    network: impl FnOnce() -> Result<Network, CommandError>,
) -> Result<Vec<Reachable>, CommandError> {
    let wanted = PROVIDERS.iter().filter(|provider| wanted(provider.name));
    let keyed = wanted.filter_map(|provider| Some((provider, keys.get(provider.name)?)));
    let keyed: Vec<_> = keyed.collect();
    if keyed.is_empty() {
        return Ok(Vec::new());
    }
    let network = network()?;
    let mut remotes = Vec::new();
    for (provider, key) in keyed {
        match connect(provider, key.secrets.clone(), &network) {
            Ok(remote) => remotes.push((provider, remote)),
            Err(error) => report::warning(&format!("{} ({})", describe(&error), key.origin)),
        }
    }
    Ok(remotes)
}

/// Who may be asked for offers.
pub(super) struct Sellers {
    /// Those that tell us theirs.
    pub(super) markets: Markets,
    /// Those that tell nothing without a key, which there isn't.
    pub(super) closed: Vec<&'static Provider>,
    /// How many there is a key for.
    pub(super) keys: usize,
}

/// Who may be asked for offers: all of them, or those that are named.
pub(super) async fn sellers(home: &Home, named: &[String]) -> Result<Sellers, CommandError> {
    let local = local(home)?;
    let own = local.capabilities().name;
    for name in named.iter().filter(|name| *name != own) {
        find(name)?;
    }
    let wanted = |name: &str| named.is_empty() || named.iter().any(|wanted| wanted == name);
    let keys = read_keys(home).await;
    let mut markets: Vec<Arc<dyn Marketplace>> = Vec::new();
    if wanted(own) {
        markets.push(local);
    }
    let with_key = reachable(&keys, wanted, Network::brief)?;
    let mut known: Vec<_> = with_key.iter().map(|(provider, _)| provider.name).collect();
    let keys = known.len();
    markets.extend(with_key.into_iter().map(|(_, remote)| remote as Arc<dyn Marketplace>));
    let open = |provider: &&Provider| provider.open_offers && wanted(provider.name);
    let network = Network::brief()?;
    for provider in PROVIDERS.iter().filter(open) {
        if !known.contains(&provider.name) {
            let remote = connect(provider, Vec::new(), &network);
            markets.push(remote.map_err(|error| CommandError::new(Exit::Failed, error))?);
            known.push(provider.name);
        }
    }
    let closed = PROVIDERS.iter().filter(|row| wanted(row.name) && !known.contains(&row.name));
    Ok(Sellers { markets: Markets::new(markets), closed: closed.collect(), keys })
}

/// This computer.
pub(super) fn local(home: &Home) -> Result<Arc<dyn Marketplace>, CommandError> {
    let program = vec![program()?.into_os_string(), "local-instance".into()];
    let local = Local::new(home.instances(), program).caching_in(settings::cache()?);
    Ok(Arc::new(local))
}

/// The way to the marketplaces.
pub(super) struct Network {
    transport: Transport,
    /// How long a request that fails is repeated, if not as long as usual.
    patience: Option<Duration>,
}

impl Network {
    /// For what must be known: what runs, what is billed.
    pub(super) fn new() -> Result<Self, CommandError> {
        let transport = Transport::new();
        let transport = transport.map_err(|error| CommandError::new(Exit::Failed, error))?;
        Ok(Self { transport, patience: None })
    }

    /// For somebody who waits and looks: who is down is said soon.
    pub(super) fn brief() -> Result<Self, CommandError> {
        Ok(Self { patience: Some(BRIEF), ..Self::new()? })
    }
}

/// A marketplace, at its own address or the one that the environment names.
pub(super) fn connect(
    provider: &'static Provider,
    secrets: Vec<SecretString>,
    network: &Network,
) -> Result<Arc<dyn Remote>, providers::Error> {
    let url = env::var(provider.url_variable).ok().filter(|url| !url.is_empty());
    let mut timing = timing(url.as_deref().unwrap_or(provider.url));
    timing.request = network.patience.unwrap_or(timing.request);
    provider.connect(Access { transport: network.transport.clone(), url, secrets, timing })
}

/// How patient to be. What answers on this computer stands in for a marketplace, and has none of
/// its limits.
fn timing(url: &str) -> Timing {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    let address = authority.parse().map(|address: SocketAddr| address.ip());
    let address = address.or_else(|_| authority.trim_matches(['[', ']']).parse::<IpAddr>());
    let name = authority.split(':').next();
    let loopback = address.map_or(name == Some("localhost"), |address| address.is_loopback());
    if loopback { Timing::loopback() } else { Timing::default() }
}

/// The marketplace of this name, which has accounts.
pub(super) fn find(name: &str) -> Result<&'static Provider, CommandError> {
    Provider::find(name).ok_or_else(|| {
        let names: Vec<_> = PROVIDERS.iter().map(|provider| provider.name).collect();
        let unknown = format!("there is no marketplace `{name}` with accounts");
        CommandError::new(Exit::Usage, unknown).hint(format!("there is {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_computer_is_asked_without_a_pace() {
        for (url, paced) in [
            ("http://127.0.0.1:4000/vast", false),
            ("http://localhost:80/vast", false),
            ("http://[::1]:80", false),
            ("http://[::1]/x", false),
            ("https://console.vast.ai", true),
            ("https://127.example.com", true),
        ] {
            assert_eq!(timing(url).paced, paced, "{url}");
        }
    }
}
