//! What is for rent at Prime Intellect.

use super::ANY;
use crate::{
    Billing, ErrorKind, Gpus, Host, Mib, Need, Network, Offer, OfferId, Rental, Result, Trust,
    UsdPerHour, http::Http, json::Number,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

const LISTING: &str = "list offers";

/// The server is known to cap a page here, whatever its description says.
const PAGE: &str = "100";

/// Reads every page of what is to be had.
pub(super) async fn offers(http: &Http, need: &Need) -> Result<Vec<Offer>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Page {
        items: Vec<Row>,
        total_count: usize,
    }
    let now = SystemTime::now();
    let (mut offers, mut seen) = (Vec::new(), 0);
    for number in 1_u32.. {
        let number = number.to_string();
        let mut request = http.get(LISTING, "/availability/gpus").pace(ANY);
        request = request.query(&[("page", &*number), ("page_size", PAGE)]);
        if let Some(count) = need.gpus {
            request = request.query(&[("gpu_count", &*count.to_string())]);
        }
        let page: Page = request.read().await?;
        seen += page.items.len();
        let empty = page.items.is_empty();
        offers.extend(page.items.into_iter().filter_map(|row| row.offer(need, now)));
        if page.total_count <= seen {
            break;
        }
        if empty {
            let why = "the list ends before it has shown as many as it counts";
            return Err(http.error(LISTING, ErrorKind::Unexpected, why));
        }
    }
    Ok(offers)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    cloud_id: String,
    gpu_type: String,
    socket: String,
    provider: String,
    region: Option<String>,
    data_center: Option<String>,
    country: Option<String>,
    gpu_count: u32,
    gpu_memory: Option<Number>,
    disk: Option<Part>,
    vcpu: Option<Part>,
    memory: Option<Part>,
    internet_speed: Option<Number>,
    stock_status: Option<String>,
    security: Option<String>,
    prices: Option<Prices>,
    images: Option<Vec<String>>,
    is_spot: Option<bool>,
    /// Hours that are charged at once, used or not.
    prepaid_time: Option<Number>,
}

/// Disk, cores or memory: how much, and what more of it costs in dollars an hour.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    min_count: Option<Number>,
    default_count: Option<Number>,
    max_count: Option<Number>,
    price_per_unit: Option<Number>,
    default_included_in_price: Option<bool>,
}

/// Dollars an hour for the whole node.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Prices {
    on_demand: Option<Number>,
    community_price: Option<Number>,
    currency: Option<String>,
}

impl Row {
    /// The offer, unless there is none now, or it has no price in dollars, or no GPU.
    fn offer(self, need: &Need, quoted_at: SystemTime) -> Option<Offer> {
        let spot = self.is_spot == Some(true);
        let out = self.stock_status.as_deref() == Some("Unavailable");
        if out || self.gpu_type == "CPU_NODE" || (spot && !need.interruptible) {
            return None;
        }
        let disk = self.disk_size(need)?;
        let price = UsdPerHour::from_dollars(self.dollars()? + self.disk_price(disk))?;
        let default = |part: &Option<Part>| {
            part.as_ref().and_then(|part| part.default_count).map_or(0, Number::count)
        };
        let secure = self.security.as_deref() != Some("community_cloud");
        let prepaid = self.prepaid_time.map_or(0, Number::count);
        let place = self.data_center.as_ref().or(self.country.as_ref()).or(self.region.as_ref());
        let kept = if spot { "/spot" } else { "" };
        let id =
            format!("{}/{}/{}x {}{kept}", self.provider, place?, self.gpu_count, self.cloud_id);
        Some(Offer {
            id: OfferId(id),
            terms: self.terms(disk).to_string(),
            gpus: Some(Gpus {
                name: self.gpu_type.clone(),
                count: self.gpu_count,
                vram: self.vram(),
            }),
            cores: u32::try_from(default(&self.vcpu)).unwrap_or(u32::MAX),
            memory: Mib::from_gib(default(&self.memory)),
            disk: Mib::from_gib(disk),
            price,
            billing: Billing {
                minimum: Duration::from_secs(prepaid.saturating_mul(3_600)),
                step: Duration::ZERO,
            },
            rental: if spot { Rental::Interruptible { floor: price } } else { Rental::OnDemand },
            host: Host::Vm,
            region: place?.clone(),
            network: Network {
                down: self.internet_speed.and_then(|speed| u32::try_from(speed.count()).ok()),
                up: None,
            },
            trust: if secure { Trust::Datacenter } else { Trust::Verified },
            seller: Some(self.provider),
            quoted_at,
            ..Offer::default()
        })
    }

    fn dollars(&self) -> Option<f64> {
        let prices = self.prices.as_ref()?;
        let in_dollars = prices.currency.as_deref().is_none_or(|unit| unit == "USD");
        let price = prices.on_demand.or(prices.community_price)?.0;
        (in_dollars && 0.0 < price).then_some(price)
    }

    /// How much disk to order, in GB: enough, but no less than what the price is for.
    fn disk_size(&self, need: &Need) -> Option<u64> {
        let wanted = need.disk.to_gib();
        let Some(disk) = &self.disk else { return Some(wanted) };
        let count = |number: Option<Number>| number.map(Number::count);
        let most = count(disk.max_count).or(count(disk.default_count)).unwrap_or(u64::MAX);
        let least = match disk.default_included_in_price {
            Some(true) => count(disk.default_count),
            Some(false) | None => count(disk.min_count).or(count(disk.default_count)),
        };
        let size = wanted.max(least.unwrap_or(0));
        (size <= most).then_some(size)
    }

    fn disk_price(&self, size: u64) -> f64 {
        let Some(disk) = &self.disk else { return 0.0 };
        let included = match disk.default_included_in_price {
            Some(true) => disk.default_count.map_or(0, Number::count),
            Some(false) | None => 0,
        };
        size.saturating_sub(included) as f64 * disk.price_per_unit.map_or(0.0, |price| price.0)
    }

    /// The end of `RTX4090_24GB` is for one GPU; the figure beside it may be for all.
    fn vram(&self) -> Mib {
        let named = self.gpu_type.rsplit_once('_').and_then(|(_, size)| size.strip_suffix("GB"));
        let named = named.and_then(|size| size.parse().ok());
        Mib::from_gib(named.unwrap_or_else(|| self.gpu_memory.map_or(0, Number::count)))
    }

    /// What an order copies back unchanged.
    fn terms(&self, disk: u64) -> Value {
        let count = |part: &Option<Part>| {
            part.as_ref().and_then(|part| part.default_count).map(Number::count)
        };
        let pod = json!({
            "cloudId": self.cloud_id,
            "gpuType": self.gpu_type,
            "socket": self.socket,
            "gpuCount": self.gpu_count,
            "diskSize": disk,
            "vcpus": count(&self.vcpu),
            "memory": count(&self.memory),
            "image": self.image(),
            "dataCenterId": self.data_center,
            "country": self.country,
            "security": self.security,
        });
        let known = pod.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let pod: Value = known.map(|(name, value)| (name.clone(), value.clone())).collect();
        json!({ "pod": pod, "provider": self.provider })
    }

    /// The plainest system with a GPU driver.
    fn image(&self) -> Option<&String> {
        let images = self.images.as_ref()?;
        images.iter().find(|image| image.contains("ubuntu")).or(images.first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{"cloudId":"NVIDIA A100 80GB PCIe","gpuType":"A100_80GB","socket":"PCIe",
        "provider":"runpod","region":"canada","dataCenter":"CA-MTL-1","country":"CA","gpuCount":2,
        "gpuMemory":160,"disk":{"minCount":20,"defaultCount":120,"maxCount":1000,
        "pricePerUnit":0.001,"step":1,"defaultIncludedInPrice":false,"additionalInfo":null},
        "vcpu":{"minCount":null,"defaultCount":8,"maxCount":null,"pricePerUnit":null},
        "memory":{"defaultCount":117,"defaultIncludedInPrice":true},"sharedDisk":{},
        "stockStatus":"Medium","security":"secure_cloud",
        "prices":{"onDemand":1.39,"communityPrice":null,"isVariable":false,"currency":"USD"},
        "images":["cuda_12_4_pytorch_2_5","ubuntu_22_cuda_12"],"isSpot":false,"prepaidTime":2}"#;

    fn offer(gib: u64) -> Option<Offer> {
        let need = Need { disk: Mib::from_gib(gib), ..Need::default() };
        serde_json::from_str::<Row>(SAMPLE).unwrap().offer(&need, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn the_price_has_the_disk_in_it_and_the_hours_that_are_paid_anyhow() {
        let offer = offer(100).unwrap();
        assert_eq!(offer.price, UsdPerHour(1_490_000));
        assert_eq!(offer.billing.minimum, Duration::from_hours(2));
        assert_eq!(offer.gpus.unwrap().vram, Mib::from_gib(80));
    }

    #[test]
    fn a_disk_that_is_not_to_be_had_is_no_offer() {
        assert!(offer(1_000).is_some());
        assert_eq!(offer(1_001), None);
    }

    #[test]
    fn an_order_gets_back_what_it_has_to_copy() {
        let terms: Value = serde_json::from_str(&offer(100).unwrap().terms).unwrap();
        assert_eq!(terms["pod"]["cloudId"], "NVIDIA A100 80GB PCIe");
        assert_eq!(terms["pod"]["diskSize"], 100);
        assert_eq!(terms["pod"]["image"], "ubuntu_22_cuda_12");
        assert_eq!(terms["provider"], "runpod");
    }
}
