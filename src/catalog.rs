//! What marketplaces have for rent now.

use providers::{Marketplace, Need, Offer, UsdPerHour};

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
