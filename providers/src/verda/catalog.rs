//! What is for rent at Verda: kinds of machine, and where there are some now.

use super::{SMALLEST_DISK, Verda};
use crate::{
    Billing, Cuda, Gpus, Host, Mib, Need, Offer, OfferId, Rental, Result, Trust, UsdPerHour,
    json::Number,
};
use serde::Deserialize;
use std::time::{Duration, SystemTime};

const LISTING: &str = "list offers";

/// Dollars for a GB of system disk and a month of 730 hours.
const DISK_PER_GB_MONTH: f64 = 0.20;
const HOURS_PER_MONTH: f64 = 730.0;

/// What an offer's id says: `FIN-01/spot/1A100.22V`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) location: String,
    pub(super) spot: bool,
    pub(super) kind: String,
}

impl Choice {
    /// Reads an offer's id.
    pub(super) fn parse(id: &str) -> Option<Self> {
        let mut parts = id.splitn(3, '/');
        let location = parts.next()?.to_owned();
        let spot = match parts.next()? {
            "spot" => true,
            "fixed" => false,
            _ => return None,
        };
        Some(Self { location, spot, kind: parts.next()?.to_owned() })
    }

    fn id(&self) -> OfferId {
        let terms = if self.spot { "spot" } else { "fixed" };
        OfferId(format!("{}/{terms}/{}", self.location, self.kind))
    }
}

/// Joins the kinds with where they are to be had.
pub(super) async fn offers(verda: &Verda, need: &Need) -> Result<Vec<Offer>> {
    let kinds: Vec<Kind> = verda.read(LISTING, "/instance-types", &[("currency", "usd")]).await?;
    let now = SystemTime::now();
    let mut offers = Vec::new();
    for spot in [false, true].into_iter().filter(|spot| !spot || need.interruptible) {
        let word = if spot { "true" } else { "false" };
        // Its two packages don't agree on the spelling.
        let query = [("is_spot", word), ("isSpot", word)];
        let places: Vec<Place> = verda.read(LISTING, "/instance-availability", &query).await?;
        for place in &places {
            let here =
                kinds.iter().filter(|kind| place.availabilities.contains(&kind.instance_type));
            offers
                .extend(here.filter_map(|kind| kind.offer(&place.location_code, spot, need, now)));
        }
    }
    Ok(offers)
}

#[derive(Deserialize)]
struct Place {
    location_code: String,
    availabilities: Vec<String>,
}

#[derive(Deserialize)]
struct Kind {
    instance_type: String,
    /// `H100 SXM5 80GB`.
    name: Option<String>,
    model: Option<String>,
    /// Dollars an hour for the whole machine; as a number or as text.
    price_per_hour: Option<Number>,
    spot_price: Option<Number>,
    currency: Option<String>,
    cpu: Option<Cpu>,
    gpu: Option<Gpu>,
    gpu_memory: Option<Size>,
    memory: Option<Size>,
    supported_os: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Cpu {
    number_of_cores: Option<u32>,
}

#[derive(Deserialize)]
struct Gpu {
    number_of_gpus: Option<u32>,
}

#[derive(Deserialize)]
struct Size {
    size_in_gigabytes: Option<Number>,
}

impl Kind {
    /// The offer in one place, unless it has no price in dollars.
    fn offer(
        &self,
        location: &str,
        spot: bool,
        need: &Need,
        quoted_at: SystemTime,
    ) -> Option<Offer> {
        if self.currency.as_deref().is_some_and(|unit| !unit.eq_ignore_ascii_case("usd")) {
            return None;
        }
        let machine = if spot { self.spot_price } else { self.price_per_hour };
        let machine = machine.filter(|price| 0.0 < price.0)?;
        let disk = need.disk.to_gib().max(SMALLEST_DISK) as f64;
        let storage = disk * DISK_PER_GB_MONTH / HOURS_PER_MONTH;
        let price = UsdPerHour::from_dollars(machine.0 + storage)?;
        let image = self.image();
        Some(Offer {
            id: Choice { location: location.to_owned(), spot, kind: self.instance_type.clone() }
                .id(),
            gpus: self.gpus(),
            cores: self.cpu.as_ref().and_then(|cpu| cpu.number_of_cores).unwrap_or(0),
            memory: Mib::from_gib(gigabytes(self.memory.as_ref())),
            price,
            billing: Billing { minimum: Duration::ZERO, step: Duration::from_mins(10) },
            rental: if spot { Rental::Interruptible { floor: price } } else { Rental::OnDemand },
            host: Host::Vm,
            region: location.to_owned(),
            cuda: image.and_then(|image| Cuda::parse(image.split_once("cuda-")?.1)),
            terms: image.unwrap_or("ubuntu-24.04-cuda-12.6").to_owned(),
            trust: Trust::Datacenter,
            quoted_at,
            ..Offer::default()
        })
    }

    /// Its memory is told for all GPUs together.
    fn gpus(&self) -> Option<Gpus> {
        let count = self.gpu.as_ref()?.number_of_gpus.filter(|count| 0 < *count)?;
        let all = Mib::from_gib(gigabytes(self.gpu_memory.as_ref()));
        let name = self.name.as_ref().or(self.model.as_ref())?.clone();
        Some(Gpus { name, count, vram: Mib(all.0 / u64::from(count)) })
    }

    /// The system image with the newest CUDA and nothing else on it.
    fn image(&self) -> Option<&str> {
        let images = self.supported_os.iter().flatten().map(String::as_str);
        let version = |image: &str| Cuda::parse(image.split_once("cuda-")?.1);
        images.filter(|image| version(image).is_some()).max_by_key(|image| version(image))
    }
}

fn gigabytes(size: Option<&Size>) -> u64 {
    size.and_then(|size| size.size_in_gigabytes).map_or(0, Number::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{"id":"04cf","instance_type":"8H200.141S.176V","name":"H200 SXM5 141GB",
        "model":"H200 141GB","price_per_hour":"27.12","spot_price":13.56,"currency":"usd",
        "cpu":{"number_of_cores":176},"gpu":{"number_of_gpus":8},
        "gpu_memory":{"size_in_gigabytes":1128},"memory":{"size_in_gigabytes":1480},
        "supported_os":["ubuntu-22.04-cuda-12.4","ubuntu-24.04-cuda-12.10","ubuntu-24.04","ubuntu-24.04-cuda-12.6-docker"]}"#;

    #[test]
    fn memory_is_shared_out_and_the_price_is_not() {
        let kind: Kind = serde_json::from_str(SAMPLE).unwrap();
        let need = Need { disk: Mib::from_gib(73), ..Need::default() };
        let offer = kind.offer("FIN-01", false, &need, SystemTime::UNIX_EPOCH).unwrap();
        let gpus = offer.gpus.unwrap();
        assert_eq!((gpus.count, gpus.vram), (8, Mib::from_gib(141)));
        assert_eq!(offer.price, UsdPerHour(27_140_000));
        assert_eq!(offer.terms, "ubuntu-24.04-cuda-12.10");
        let spot = kind.offer("FIN-01", true, &need, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(spot.price, UsdPerHour(13_580_000));
    }

    #[test]
    fn an_id_says_all_that_an_order_needs() {
        let choice = Choice { location: "FIN-01".into(), spot: true, kind: "1A100.22V".into() };
        assert_eq!(Choice::parse(&choice.id().0), Some(choice));
        assert_eq!(Choice::parse("FIN-01/cheap/1A100.22V"), None);
    }
}
