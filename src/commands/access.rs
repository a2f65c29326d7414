//! Models that a hub gives only to some: found out before anything is rented.

use crate::{
    leases::{Markets, describe},
    model::hub_access,
    report,
};
use wire::{HubAccess, Model};

/// What rented machines are to show to the model's hub, which is told. This computer knows it itself.
/// The error is why none could have the model.
pub(super) async fn access(
    model: &Model,
    markets: &Markets,
    providers: &[String],
) -> Result<Option<HubAccess>, String> {
    let rented = markets.rented();
    if providers.iter().all(|name| rented.get(name).is_none()) {
        return Ok(None);
    }
    let refused = |error| format!("no machine could have {}: {}", model.name, describe(&error));
    let access = hub_access(model).await.map_err(refused)?;
    if access.is_some() {
        report::note(&format!(
            "{} isn't for everybody: your hub token goes to the machines over SSH, and stays in \
             their memory",
            model.name
        ));
    }
    Ok(access)
}
