//! What is for rent at Runpod: kinds of GPU in two clouds, with no word about single hosts.

use super::READ;
use crate::{
    Cuda, Gpus, Host, Mib, Need, Offer, OfferId, Rental, Result, Trust, UsdPerHour, http::Http,
    json::Number,
};
use serde::Deserialize;
use std::time::SystemTime;

/// Dollars for a GB of container disk and a month of 730 hours.
const DISK_PER_GB_MONTH: f64 = 0.10;
const HOURS_PER_MONTH: f64 = 730.0;

/// Its own data centres, or other people's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cloud {
    Secure,
    Community,
}

impl Cloud {
    /// Its word for it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Secure => "SECURE",
            Self::Community => "COMMUNITY",
        }
    }
}

/// What an offer's id says: `SECURE/2/NVIDIA L40S`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) cloud: Cloud,
    pub(super) count: u32,
    pub(super) gpu: String,
}

impl Choice {
    /// Reads an offer's id.
    pub(super) fn parse(id: &str) -> Option<Self> {
        let (cloud, rest) = id.split_once('/')?;
        let (count, gpu) = rest.split_once('/')?;
        let cloud = match cloud {
            "SECURE" => Cloud::Secure,
            "COMMUNITY" => Cloud::Community,
            _ => return None,
        };
        Some(Self { cloud, count: count.parse().ok()?, gpu: gpu.to_owned() })
    }

    fn id(&self) -> OfferId {
        OfferId(format!("{}/{}/{}", self.cloud.word(), self.count, self.gpu))
    }
}

/// Asks for both clouds. A search names one, and answers for one number of GPUs.
pub(super) async fn both_clouds(http: &Http, need: &Need) -> Result<Vec<Offer>> {
    let (secure, community) =
        tokio::try_join!(one(http, need, Cloud::Secure), one(http, need, Cloud::Community))?;
    Ok([secure, community].concat())
}

async fn one(http: &Http, need: &Need, cloud: Cloud) -> Result<Vec<Offer>> {
    #[derive(Deserialize)]
    struct Catalog {
        gpus: Vec<Row>,
    }
    let count = need.gpus.unwrap_or(1).max(1);
    let request = http.get("list offers", "/v2/catalog/gpus").pace(READ).query(&[
        ("include", "AVAILABILITY"),
        ("product", "POD"),
        ("cloud", cloud.word()),
        ("count", &count.to_string()),
    ]);
    let catalog: Catalog = request.read().await?;
    let now = SystemTime::now();
    let offer = |row: Row| row.offer(cloud, count, need.disk, now);
    Ok(catalog.gpus.into_iter().filter_map(offer).collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    manufacturer: Option<String>,
    /// GB of one GPU.
    memory: Number,
    price: Option<Prices>,
    max_count: Option<Counts>,
    availability: Option<String>,
    data_centers: Option<Vec<DataCenter>>,
    cuda_versions: Option<Vec<CudaVersion>>,
}

/// Dollars an hour for one GPU. Zero: not in that cloud.
#[derive(Deserialize)]
struct Prices {
    community: Option<Number>,
    secure: Option<Number>,
}

#[derive(Deserialize)]
struct Counts {
    community: Option<Number>,
    secure: Option<Number>,
}

#[derive(Deserialize)]
struct DataCenter {
    id: String,
}

#[derive(Deserialize)]
struct CudaVersion {
    version: String,
    available: Option<bool>,
}

impl Row {
    /// The offer, unless there is none now, or none for that many GPUs, or it has no price.
    fn offer(self, cloud: Cloud, count: u32, disk: Mib, quoted_at: SystemTime) -> Option<Offer> {
        let (prices, counts) = (self.price?, self.max_count);
        let (each, most) = match cloud {
            Cloud::Secure => (prices.secure, counts.and_then(|counts| counts.secure)),
            Cloud::Community => (prices.community, counts.and_then(|counts| counts.community)),
        };
        let each = each.filter(|price| 0.0 < price.0)?;
        let too_many = most.is_some_and(|most| most.count() < u64::from(count));
        let other_maker =
            self.manufacturer.is_some_and(|maker| !maker.eq_ignore_ascii_case("nvidia"));
        if too_many || other_maker || self.availability.as_deref() == Some("NONE") {
            return None;
        }
        let storage = disk.to_gib() as f64 * DISK_PER_GB_MONTH / HOURS_PER_MONTH;
        let price = UsdPerHour::from_dollars(each.0 * f64::from(count) + storage)?;
        let cuda = self.cuda_versions.unwrap_or_default();
        let cuda = cuda.iter().filter(|cuda| cuda.available != Some(false));
        let centers = self.data_centers.unwrap_or_default();
        let centers: Vec<_> = centers.into_iter().map(|center| center.id).collect();
        Some(Offer {
            id: Choice { cloud, count, gpu: self.id.clone() }.id(),
            gpus: Some(Gpus { name: self.id, count, vram: Mib::from_gib(self.memory.count()) }),
            price,
            rental: Rental::OnDemand,
            host: Host::Container,
            region: if centers.is_empty() {
                cloud.word().to_ascii_lowercase()
            } else {
                centers.join(" ")
            },
            cuda: cuda.filter_map(|cuda| Cuda::parse(&cuda.version)).max(),
            trust: match cloud {
                Cloud::Secure => Trust::Datacenter,
                Cloud::Community => Trust::Verified,
            },
            quoted_at,
            ..Offer::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of real answers of October 2026.
    const SAMPLE: &str = r#"[
        {"id":"NVIDIA GeForce RTX 4090","name":"RTX 4090","pool":"ADA_24","manufacturer":"NVIDIA",
         "memory":24,"secure":true,"community":true,
         "price":{"community":0.34,"secure":0.74,"serverless":1.1},
         "maxCount":{"community":8,"secure":1},"availability":"LOW",
         "dataCenters":[{"id":"EU-RO-1","name":"EU-RO-1","availability":"LOW"}],
         "cudaVersions":[{"version":"12.8","available":true},{"version":"13.0","available":false}]},
        {"id":"NVIDIA A100-SXM4-40GB","name":"A100 SXM 40GB","pool":null,"manufacturer":"NVIDIA",
         "memory":40,"secure":false,"community":true,"price":{"community":1,"secure":0},
         "maxCount":{"community":2,"secure":0},"availability":"NONE"}]"#;

    fn offers(cloud: Cloud, count: u32) -> Vec<Offer> {
        let rows: Vec<Row> = serde_json::from_str(SAMPLE).unwrap();
        let offer = |row: Row| row.offer(cloud, count, Mib::from_gib(73), SystemTime::UNIX_EPOCH);
        rows.into_iter().filter_map(offer).collect()
    }

    #[test]
    fn the_price_is_of_all_gpus_and_the_disk() {
        let offers = offers(Cloud::Community, 2);
        let [offer] = offers.as_slice() else { panic!("one is available: {offers:?}") };
        assert_eq!(offer.price, UsdPerHour(690_000));
        assert_eq!(offer.cuda, Cuda::parse("12.8"));
        assert_eq!(Choice::parse(&offer.id.0).unwrap().count, 2);
    }

    #[test]
    fn a_cloud_that_has_too_few_offers_nothing() {
        assert_eq!(offers(Cloud::Secure, 2), []);
        assert_eq!(offers(Cloud::Secure, 1).len(), 1);
    }
}
