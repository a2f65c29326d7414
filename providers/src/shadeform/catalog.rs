//! What is for rent at Shadeform: kinds of machine in clouds, each with its regions.

use super::ANY;
use crate::{
    Arch, Gpus, Host, Mib, Need, Offer, OfferId, Rental, Result, Trust, UsdPerHour, http::Http,
    json::Number,
};
use serde::Deserialize;
use std::time::SystemTime;

/// The two ways to rent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    OnDemand,
    Spot,
}

impl Kept {
    /// Its word for it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::OnDemand => "on_demand",
            Self::Spot => "spot",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::OnDemand, Self::Spot].into_iter().find(|kept| kept.word() == word)
    }
}

/// What an offer's id says: `hyperstack/canada-1/on_demand/A100_80G`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) cloud: String,
    pub(super) region: String,
    pub(super) rental: Kept,
    pub(super) kind: String,
}

impl Choice {
    /// Reads an offer's id.
    pub(super) fn parse(id: &str) -> Option<Self> {
        let parts: Vec<_> = id.splitn(4, '/').collect();
        let [cloud, region, rental, kind] = parts.try_into().ok()?;
        Some(Self {
            cloud: cloud.to_owned(),
            region: region.to_owned(),
            rental: Kept::parse(rental)?,
            kind: kind.to_owned(),
        })
    }

    fn id(&self) -> OfferId {
        let Self { cloud, region, rental, kind } = self;
        OfferId(format!("{cloud}/{region}/{}/{kind}", rental.word()))
    }
}

/// Asks for every kind that is to be had somewhere.
pub(super) async fn offers(http: &Http, need: &Need) -> Result<Vec<Offer>> {
    #[derive(Deserialize)]
    struct Types {
        instance_types: Vec<Kind>,
    }
    let request = http.get("list offers", "/instances/types").pace(ANY);
    let types: Types = request.query(&[("available", "true")]).read().await?;
    let now = SystemTime::now();
    let offers = types.instance_types.iter().flat_map(|kind| kind.offers(now));
    let wanted = |offer: &Offer| need.interruptible || offer.rental == Rental::OnDemand;
    Ok(offers.filter(wanted).collect())
}

#[derive(Deserialize)]
struct Kind {
    cloud: String,
    shade_instance_type: String,
    configuration: Configuration,
    /// Cents an hour for the whole machine.
    hourly_price: Option<Number>,
    deployment_type: Option<String>,
    availability: Vec<Place>,
}

#[derive(Deserialize)]
struct Configuration {
    memory_in_gb: Option<Number>,
    storage_in_gb: Option<Number>,
    vcpus: Option<Number>,
    num_gpus: u32,
    gpu_type: String,
    vram_per_gpu_in_gb: Option<Number>,
    os_options: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Place {
    region: String,
    available: bool,
    /// Missing where it is on demand.
    rental_type: Option<String>,
    /// Dollars an hour, unlike the price above.
    hourly_price: Option<Number>,
}

impl Kind {
    /// One offer for each place and way to rent that is open now and has a price.
    fn offers(&self, quoted_at: SystemTime) -> Vec<Offer> {
        self.availability.iter().filter_map(|place| self.offer(place, quoted_at)).collect()
    }

    fn offer(&self, place: &Place, quoted_at: SystemTime) -> Option<Offer> {
        let kept = Kept::parse(place.rental_type.as_deref().unwrap_or("on_demand"))?;
        let dollars = match kept {
            Kept::OnDemand => self.hourly_price.map(|cents| cents.0 / 100.0),
            Kept::Spot => place.hourly_price.map(|dollars| dollars.0),
        };
        let price = UsdPerHour::from_dollars(dollars?).filter(|price| UsdPerHour(0) < *price)?;
        if !place.available {
            return None;
        }
        let machine = &self.configuration;
        let count = |number: Option<Number>| number.map_or(0, Number::count);
        let gpus = Gpus {
            name: machine.gpu_type.clone(),
            count: machine.num_gpus,
            vram: Mib::from_gib(count(machine.vram_per_gpu_in_gb)),
        };
        let arm = machine.gpu_type.starts_with("GH200") || machine.gpu_type.starts_with("GB200");
        Some(Offer {
            id: Choice {
                cloud: self.cloud.clone(),
                region: place.region.clone(),
                rental: kept,
                kind: self.shade_instance_type.clone(),
            }
            .id(),
            terms: self.image().unwrap_or_default().to_owned(),
            gpus: (0 < machine.num_gpus).then_some(gpus),
            arch: if arm { Arch::Aarch64 } else { Arch::X86_64 },
            cores: u32::try_from(count(machine.vcpus)).unwrap_or(u32::MAX),
            memory: Mib::from_gib(count(machine.memory_in_gb)),
            disk: Mib::from_gib(count(machine.storage_in_gb)),
            price,
            rental: match kept {
                Kept::OnDemand => Rental::OnDemand,
                Kept::Spot => Rental::Interruptible { floor: price },
            },
            host: match self.deployment_type.as_deref() {
                Some("container") => Host::Container,
                _ => Host::Vm,
            },
            region: place.region.clone(),
            seller: Some(self.cloud.clone()),
            trust: Trust::Datacenter,
            quoted_at,
            ..Offer::default()
        })
    }

    /// The system image that has a GPU driver, if one says so.
    fn image(&self) -> Option<&str> {
        let images = self.configuration.os_options.as_deref()?;
        let with_driver = images.iter().find(|image| image.contains("cuda"));
        with_driver.or(images.first()).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{"cloud":"hyperstack","shade_instance_type":"A100_80G",
        "configuration":{"memory_in_gb":120,"storage_in_gb":850,"vcpus":28,"num_gpus":1,
        "gpu_type":"A100_80G","vram_per_gpu_in_gb":80,"gpu_manufacturer":"nvidia",
        "os_options":["ubuntu22.04","ubuntu22.04_cuda12.2_shade_os"]},
        "hourly_price":135,"deployment_type":"vm",
        "availability":[{"region":"canada-1","available":true},
          {"region":"canada-1","available":true,"rental_type":"spot","hourly_price":"1.08"},
          {"region":"norway-1","available":false,"rental_type":"on_demand"}]}"#;

    #[test]
    fn cents_and_dollars_are_told_apart() {
        let kind: Kind = serde_json::from_str(SAMPLE).unwrap();
        let offers = kind.offers(SystemTime::UNIX_EPOCH);
        let prices: Vec<_> = offers.iter().map(|offer| offer.price).collect();
        assert_eq!(prices, [UsdPerHour(1_350_000), UsdPerHour(1_080_000)]);
        assert_eq!(offers[1].id.0, "hyperstack/canada-1/spot/A100_80G");
        assert_eq!(Choice::parse(&offers[1].id.0).unwrap().rental, Kept::Spot);
        assert_eq!(offers[0].terms, "ubuntu22.04_cuda12.2_shade_os");
    }
}
