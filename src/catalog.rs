//! What marketplaces have for rent now.

use crate::{choose::Listed, leases::Markets};
use providers::{Marketplace, Need, Offer, UsdPerHour};
use tokio::task::JoinSet;

/// What the marketplaces have for rent, and which of them could not be asked.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Every offer, in the order of the marketplaces' names.
    pub listed: Vec<Listed>,
    /// What went wrong, where it did.
    pub failed: Vec<providers::Error>,
}

/// Asks every marketplace at once. One that fails is told of, and spoils nothing.
pub async fn ask(markets: &Markets, need: &Need) -> Catalog {
    let mut asked = JoinSet::new();
    for (name, market) in markets.iter() {
        let (market, need) = (market.clone(), *need);
        asked.spawn(async move { (name, market.offers(&need).await) });
    }
    let mut catalog = Catalog::default();
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(name, _)| *name);
    for (name, answer) in answers {
        match answer {
            Ok(offers) => {
                let listed = |offer| Listed { market: name.to_owned(), offer };
                catalog.listed.extend(offers.into_iter().map(listed));
            }
            Err(error) => catalog.failed.push(error),
        }
    }
    catalog
}

/// No offer fits.
#[derive(Debug, thiserror::Error)]
#[error("{provider} has no offer {}", limit(*ceiling))]
pub struct NoOffer {
    /// The marketplace.
    pub provider: &'static str,
    /// The highest price that was allowed.
    pub ceiling: Option<UsdPerHour>,
}

/// Why no offer could be found.
#[derive(Debug, thiserror::Error)]
pub enum QuoteError {
    /// None fits.
    #[error(transparent)]
    NoOffer(#[from] NoOffer),
    /// The marketplace failed us.
    #[error(transparent)]
    Market(#[from] providers::Error),
}

/// The cheapest offer of a marketplace, as of now.
pub async fn quote(
    market: &dyn Marketplace,
    ceiling: Option<UsdPerHour>,
) -> Result<Offer, QuoteError> {
    let need = Need { ceiling, ..Need::default() };
    let offers = market.offers(&need).await?;
    let fits = |offer: &Offer| ceiling.is_none_or(|ceiling| offer.price <= ceiling);
    let cheapest = offers.into_iter().filter(fits).min_by_key(|offer| offer.price);
    let provider = market.capabilities().name;
    Ok(cheapest.ok_or(NoOffer { provider, ceiling })?)
}

fn limit(ceiling: Option<UsdPerHour>) -> String {
    ceiling.map_or_else(|| "at the moment".to_owned(), |price| format!("at {price} or less"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use providers::{
        ErrorKind,
        testkit::{Fault, World},
    };
    use std::sync::Arc;

    async fn asked(world: World) -> Catalog {
        let market: Arc<dyn Marketplace> = Arc::new(world);
        ask(&Markets::new([market]), &Need::default()).await
    }

    #[tokio::test]
    async fn offers_carry_the_name_of_who_makes_them() {
        let catalog = asked(World::default()).await;
        assert!(!catalog.listed.is_empty() && catalog.failed.is_empty());
        let name = World::default().capabilities().name;
        assert!(catalog.listed.iter().all(|listed| listed.market == name));
    }

    #[tokio::test]
    async fn one_that_fails_is_told_of_and_is_no_empty_answer() {
        let busy = World::default().strike(0, Fault::Refuse(ErrorKind::Unavailable));
        let catalog = asked(busy).await;
        assert!(catalog.listed.is_empty());
        assert_eq!(catalog.failed[0].kind, ErrorKind::Unavailable);
    }
}
