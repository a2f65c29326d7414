//! What is for rent at Vast.ai.

use super::SEARCH;
use crate::{
    Arch, Billing, Cuda, Gpus, Host, Mib, Need, Network, Offer, OfferId, Rental, Result, Traffic,
    Trust, UsdPerGb, UsdPerHour,
    http::Http,
    json::{Number, Text},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::SystemTime;

/// Which market is searched. One machine may be on both, at two prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    OnDemand,
    Interruptible,
}

/// As many as there are; the market has some thousands.
const LIMIT: u32 = 5_000;

/// A card reports up to 7 % less memory than its name says. The caller decides what fits.
const TOLERANCE: u64 = 93;

/// Asks one of the two markets.
pub(super) async fn search(http: &Http, need: &Need, kind: Kind) -> Result<Vec<Offer>> {
    #[derive(Deserialize)]
    struct Found {
        offers: Vec<Row>,
    }
    let request = http.search("list offers", "/api/v0/bundles/").pace(SEARCH);
    let found: Found = request.json(&query(need, kind)).read().await?;
    let now = SystemTime::now();
    Ok(found.offers.into_iter().filter_map(|row| row.offer(kind, now)).collect())
}

/// The ask that an offer of ours stands for.
pub(super) fn ask(offer: &str) -> Option<&str> {
    let ask = offer.strip_suffix("/bid").unwrap_or(offer);
    (!ask.is_empty() && ask.bytes().all(|byte| byte.is_ascii_digit())).then_some(ask)
}

fn query(need: &Need, kind: Kind) -> Value {
    let mut query = json!({
        "rentable": { "eq": true },
        "rented": { "eq": false },
        "external": { "eq": false },
        "gpu_ram": { "gte": need.vram.0 * TOLERANCE / 100 },
        "disk_space": { "gte": disk(need) },
        // Without it another disk than ours is in the price.
        "allocated_storage": disk(need),
        "order": [["dph_total", "asc"]],
        "limit": LIMIT,
        "type": match kind {
            Kind::OnDemand => "ondemand",
            Kind::Interruptible => "bid",
        },
    });
    if let Some(count) = need.gpus {
        query["num_gpus"] = json!({ "eq": count });
    }
    if let (Some(ceiling), Kind::OnDemand) = (need.ceiling, kind) {
        query["dph_total"] = json!({ "lte": ceiling.dollars() });
    }
    query
}

/// In the gigabytes of its own, of which it rents out at least eight.
fn disk(need: &Need) -> u64 {
    need.disk.to_gib().max(8)
}

/// An offer as it is listed. What is missing without harm is optional.
#[derive(Deserialize)]
struct Row {
    id: Text,
    machine_id: Option<Text>,
    num_gpus: u32,
    gpu_name: String,
    /// MB of one GPU.
    gpu_ram: Number,
    /// MB of the whole machine, of which we get the share of its cores.
    cpu_ram: Option<Number>,
    cpu_cores: Option<Number>,
    cpu_cores_effective: Option<Number>,
    cpu_arch: Option<String>,
    disk_space: Option<Number>,
    /// Mbit/s, whatever the reference says.
    inet_down: Option<Number>,
    inet_up: Option<Number>,
    /// Dollars a GB.
    inet_down_cost: Option<Number>,
    inet_up_cost: Option<Number>,
    /// Dollars an hour with the allocated storage, for all GPUs of the offer.
    dph_total: Option<Number>,
    /// Dollars an hour for the allocated storage.
    storage_total_cost: Option<Number>,
    /// Dollars an hour without storage.
    min_bid: Option<Number>,
    reliability2: Option<Number>,
    reliability: Option<Number>,
    verification: Option<String>,
    hosting_type: Option<Number>,
    geolocation: Option<String>,
    cuda_max_good: Option<Number>,
    driver_version: Option<String>,
}

impl Row {
    /// The offer, unless it has no price.
    fn offer(self, kind: Kind, quoted_at: SystemTime) -> Option<Offer> {
        let dollars = |number: Option<Number>| UsdPerHour::from_dollars(number?.0);
        let (id, price, rental) = match kind {
            Kind::OnDemand => (self.id.0.clone(), dollars(self.dph_total)?, Rental::OnDemand),
            Kind::Interruptible => {
                let floor = dollars(self.min_bid)?;
                let storage = dollars(self.storage_total_cost).unwrap_or_default();
                let rental = Rental::Interruptible { floor };
                (format!("{}/bid", self.id.0), floor.plus(storage), rental)
            }
        };
        // Nothing is free here: a zero is a hole in the data.
        if price == UsdPerHour(0) {
            return None;
        }
        let per_gb = |number: Option<Number>| {
            number.and_then(|cost| UsdPerGb::from_dollars(cost.0)).unwrap_or_default()
        };
        let count = |number: Option<Number>| number.map_or(0, Number::count);
        let speed = |number: Option<Number>| {
            number.map(|speed| u32::try_from(speed.count()).unwrap_or(u32::MAX))
        };
        let cores = count(self.cpu_cores_effective.or(self.cpu_cores));
        let up = self.reliability2.or(self.reliability);
        Some(Offer {
            id: OfferId(id),
            gpus: Some(Gpus {
                name: self.gpu_name.clone(),
                count: self.num_gpus,
                vram: Mib(self.gpu_ram.count()),
            }),
            arch: match self.cpu_arch.as_deref() {
                Some("arm64" | "aarch64") => Arch::Aarch64,
                _ => Arch::X86_64,
            },
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            memory: self.memory(),
            disk: Mib::from_gib(count(self.disk_space)),
            price,
            traffic: Traffic {
                inbound: per_gb(self.inet_down_cost),
                outbound: per_gb(self.inet_up_cost),
            },
            // By the second.
            billing: Billing::default(),
            rental,
            host: Host::Container,
            trust: self.trust(),
            region: self.geolocation.unwrap_or_default(),
            machine: self.machine_id.map(|machine| machine.0),
            network: Network { down: speed(self.inet_down), up: speed(self.inet_up) },
            cuda: self.cuda_max_good.and_then(|cuda| Cuda::parse(&format!("{:.1}", cuda.0))),
            driver: self.driver_version,
            reliability: up.and_then(|up| u16::try_from(Number(up.0 * 1_000.0).count()).ok()),
            quoted_at,
            ..Offer::default()
        })
    }

    fn memory(&self) -> Mib {
        let whole = self.cpu_ram.map_or(0.0, |memory| memory.0);
        let share = match (self.cpu_cores_effective, self.cpu_cores) {
            (Some(ours), Some(all)) if 0.0 < all.0 => (ours.0 / all.0).min(1.0),
            _ => 1.0,
        };
        Mib(Number(whole * share).count())
    }

    fn trust(&self) -> Trust {
        match (self.verification.as_deref(), self.hosting_type) {
            (Some("verified"), Some(kind)) if 1.0 <= kind.0 => Trust::Datacenter,
            (Some("verified"), _) => Trust::Verified,
            _ => Trust::Anyone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documentation's own example, shortened.
    const SAMPLE: &str = r#"{"id":12345678,"machine_id":88888,"hosting_type":0,"num_gpus":4,
        "gpu_name":"Imaginary RTX 9999","gpu_ram":24576,"gpu_arch":"nvidia","cuda_max_good":11.2,
        "driver_version":"999.99.99","cpu_arch":"amd64","cpu_cores":64,"cpu_cores_effective":32,
        "cpu_ram":65536,"disk_space":2048.5,"inet_down":9876.5,"inet_up":8765.4,
        "inet_down_cost":0.00123,"inet_up_cost":0.00456,"dph_base":0.123456,"dph_total":0.234567,
        "storage_total_cost":0.123456,"min_bid":0.111111,"reliability2":0.9999,
        "verification":"verified","geolocation":"Atlantis, AT","external":null}"#;

    fn sample(kind: Kind) -> Offer {
        let row: Row = serde_json::from_str(SAMPLE).unwrap();
        row.offer(kind, SystemTime::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn an_offer_is_read_in_its_own_units() {
        let offer = sample(Kind::OnDemand);
        assert_eq!(offer.price, UsdPerHour(234_567));
        assert_eq!(offer.gpus.map(|gpus| (gpus.count, gpus.vram)), Some((4, Mib(24_576))));
        assert_eq!((offer.cores, offer.memory), (32, Mib(32_768)));
        assert_eq!(offer.traffic.inbound, UsdPerGb(1_230));
        assert_eq!((offer.reliability, offer.trust), (Some(999), Trust::Verified));
        assert_eq!(offer.cuda, Cuda::parse("11.2"));
    }

    #[test]
    fn a_bid_pays_for_storage_too() {
        let offer = sample(Kind::Interruptible);
        assert_eq!(offer.price, UsdPerHour(111_111 + 123_456));
        assert_eq!(offer.rental, Rental::Interruptible { floor: UsdPerHour(111_111) });
        assert_eq!(ask(&offer.id.0), Some("12345678"));
    }

    #[test]
    fn an_offer_without_a_price_is_no_offer() {
        let row: Row =
            serde_json::from_str(r#"{"id":1,"num_gpus":1,"gpu_name":"A","gpu_ram":1}"#).unwrap();
        assert_eq!(row.offer(Kind::OnDemand, SystemTime::UNIX_EPOCH), None);
    }

    #[test]
    fn the_search_leaves_room_for_cards_that_report_less() {
        let need = Need { vram: Mib(24_576), disk: Mib(40_000), ..Need::default() };
        let query = query(&need, Kind::OnDemand);
        assert_eq!(query["gpu_ram"]["gte"], 22_855);
        assert_eq!(query["allocated_storage"], 40);
    }

    #[test]
    fn only_numbers_are_asks() {
        for other in ["", "/bid", "12/../34", "abc", "1 2"] {
            assert_eq!(ask(other), None, "{other}");
        }
    }

    #[test]
    fn time_is_billed_by_the_second() {
        let held = std::time::Duration::from_secs(1);
        assert_eq!(sample(Kind::OnDemand).billing.charged(held), held);
    }
}
