//! What marketplaces have for rent now. Asks all of them at once: one that fails or is slow costs
//! its own offers and nothing else.

use crate::{choose::Listed, leases::Markets};
use providers::Need;
use std::{collections::BTreeMap, time::Duration};
use tokio::{task::JoinSet, time::timeout};

/// How long a marketplace is waited for, where nobody says.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the marketplaces have for rent, and which of them could not be asked.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Every offer, in the order of the marketplaces' names.
    pub listed: Vec<Listed>,
    /// What went wrong, where it did.
    pub failed: Vec<Silence>,
    /// How many have answered.
    pub answered: usize,
}

/// Why a marketplace's offers aren't known.
#[derive(Debug, thiserror::Error)]
pub enum Silence {
    /// It failed, or refused.
    #[error(transparent)]
    Failed(#[from] providers::Error),
    /// It took too long.
    #[error("{provider} took longer than {} seconds", limit.as_secs_f64())]
    Slow {
        /// The marketplace.
        provider: &'static str,
        /// How long it was given.
        limit: Duration,
    },
    /// Asking it crashed, which is a bug of ours.
    #[error("asking {0} crashed")]
    Crashed(&'static str),
}

/// Asks every marketplace at once, and waits for each as long as this. One that fails or is too
/// slow is told of, and spoils nothing.
pub async fn ask(markets: &Markets, need: &Need, limit: Duration) -> Catalog {
    let mut asking = JoinSet::new();
    for (name, market) in markets.iter() {
        let (market, need) = (market.clone(), *need);
        // In a task of its own, so that a crash is one marketplace's too.
        let asked = tokio::spawn(async move { timeout(limit, market.offers(&need)).await });
        asking.spawn(async move {
            let answer = match asked.await {
                Ok(Ok(offers)) => offers.map_err(Silence::from),
                Ok(Err(_)) => Err(Silence::Slow { provider: name, limit }),
                Err(_) => Err(Silence::Crashed(name)),
            };
            (name, answer)
        });
    }
    let mut catalog = Catalog::default();
    for (name, answer) in asking.join_all().await.into_iter().collect::<BTreeMap<_, _>>() {
        match answer {
            Ok(offers) => {
                let listed = |offer| Listed { market: name.to_owned(), offer };
                catalog.listed.extend(offers.into_iter().map(listed));
                catalog.answered += 1;
            }
            Err(silence) => catalog.failed.push(silence),
        }
    }
    catalog
}

#[cfg(test)]
mod tests {
    use super::*;
    use providers::{
        ErrorKind, Marketplace,
        testkit::{Fault, World},
    };
    use std::sync::Arc;

    async fn asked(world: World) -> Catalog {
        let market: Arc<dyn Marketplace> = Arc::new(world);
        ask(&Markets::new([market]), &Need::default(), PATIENCE).await
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
        let Silence::Failed(error) = &catalog.failed[0] else { panic!("{:?}", catalog.failed) };
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert_eq!(catalog.answered, 0);
    }
}
