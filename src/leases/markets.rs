//! The marketplaces that may be rented from.

use providers::{Host, Marketplace};
use std::{collections::BTreeMap, sync::Arc};

/// Every marketplace that may be rented from, by name.
#[derive(Clone, Debug, Default)]
pub struct Markets(BTreeMap<&'static str, Arc<dyn Marketplace>>);

impl Markets {
    /// These.
    pub fn new(markets: impl IntoIterator<Item = Arc<dyn Marketplace>>) -> Self {
        Self(markets.into_iter().map(|market| (market.capabilities().name, market)).collect())
    }

    /// The one with this name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Marketplace>> {
        self.0.get(name)
    }

    /// Those of these names. The first name that is none of ours is an error.
    pub fn only<'a>(&self, names: &'a [String]) -> Result<Self, &'a str> {
        let mut found = BTreeMap::new();
        for name in names {
            let (name, market) = self.0.get_key_value(name.as_str()).ok_or(name.as_str())?;
            found.insert(*name, market.clone());
        }
        Ok(Self(found))
    }

    /// All but this computer.
    #[must_use]
    pub fn rented(&self) -> Self {
        let rents =
            |market: &Arc<dyn Marketplace>| market.capabilities().host != Host::ThisComputer;
        let remote = self.0.iter().filter(|(_, market)| rents(market));
        Self(remote.map(|(name, market)| (*name, market.clone())).collect())
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Arc<dyn Marketplace>)> {
        self.0.iter().map(|(name, market)| (*name, market))
    }
}
