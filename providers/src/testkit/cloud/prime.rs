//! Prime Intellect's dialect.

use super::{
    books::{Books, Refusal, Ware, uuid},
    dialect::{Ask, Caller, Reply, Stub},
    fault::Call,
    rental::{Phase, Rental, Wish},
};
use crate::{UsdPerHour, json::rfc3339};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Dollars for a GB of disk and an hour.
const DISK_PER_GB_HOUR: f64 = 0.000_14;

/// The most that one page has, whatever is asked for.
const PAGE: usize = 100;

/// The words that an order may have. Any other is refused.
const WORDS: [&str; 19] = [
    "name",
    "cloudId",
    "gpuType",
    "socket",
    "gpuCount",
    "diskSize",
    "vcpus",
    "memory",
    "maxPrice",
    "image",
    "dataCenterId",
    "country",
    "security",
    "envVars",
    "sshKeyId",
    "autoRestart",
    "customTemplateId",
    "jupyterPassword",
    "sharedWithTeam",
];

/// Prime Intellect.
pub(super) struct Prime;

impl Stub for Prime {
    fn stock(&self, _many: usize) -> Vec<Ware> {
        // Provider, cloud's own id, type, memory, dollars, spot.
        const KINDS: [(&str, &str, &str, u64, f64, bool); 6] = [
            ("massedcompute", "gpu_1x_a6000", "A6000_48GB", 48, 0.54, false),
            ("runpod", "NVIDIA GeForce RTX 4090", "RTX4090_24GB", 24, 0.69, false),
            ("runpod", "NVIDIA A100 80GB PCIe", "A100_80GB", 80, 1.39, false),
            ("hyperstack", "n3-H100x1", "H100_80GB", 80, 1.95, false),
            ("hyperstack", "n3-A100x1-spot", "A100_80GB", 80, 0.99, true),
            ("nebius", "gpu-h200-sxm", "H200_141GB", 141, 3.25, false),
        ];
        let wares = KINDS.iter().map(|(provider, cloud, gpu, vram, price, spot)| Ware {
            id: format!("{provider}/{cloud}"),
            gpu: (*gpu).to_owned(),
            vram: *vram,
            count: 1,
            price: dollars(*price),
            spot: spot.then(|| dollars(*price)),
            region: "CA-MTL-1".to_owned(),
            free: 200,
        });
        wares.collect()
    }

    fn call(&self, ask: &Ask) -> Call {
        match (ask.method.as_str(), &ask.parts()[2.min(ask.parts().len())..]) {
            ("GET", ["availability", ..]) => Call::Offers,
            ("POST", ["pods"]) => Call::Rent,
            ("GET", ["pods"]) => Call::List,
            ("DELETE", ["pods", _]) => Call::Release,
            ("GET", ["pods", ..]) => Call::Show,
            (_, ["ssh_keys", ..]) => Call::Keys,
            _ => Call::Other,
        }
    }

    fn turn_away(&self) -> Reply {
        Reply::json(401, &json!({ "detail": "Invalid or missing API key" }))
    }

    fn answer(&self, books: &mut Books, ask: &Ask, caller: &Caller) -> Reply {
        let parts = ask.parts();
        let parts = &parts[2.min(parts.len())..];
        // Collections have a slash at the end; without it one is sent there, and loses things.
        if matches!(parts, ["pods" | "ssh_keys"]) && !ask.path.ends_with('/') {
            let there = ask.base.trim_end_matches("/api/v1").to_owned();
            return Reply { location: Some(format!("{there}/{}/", ask.path)), ..Reply::empty(307) };
        }
        match (ask.method.as_str(), parts) {
            ("GET", ["availability", "gpus"]) => availability(books, ask),
            ("GET", ["availability", "multi-node"]) => {
                Reply::json(200, &json!({ "items": [], "totalCount": 0 }))
            }
            ("POST", ["pods"]) => create(books, &ask.json()),
            ("GET", ["pods"]) => page(books, ask),
            ("GET", ["pods", "history"]) => {
                let over = books.rentals.iter().filter(|rental| rental.ended.is_some());
                let rows: Vec<_> = over.map(|rental| pod(rental, books.machines)).collect();
                Reply::json(
                    200,
                    &json!({ "total_count": rows.len(), "offset": 0, "limit": PAGE,
                    "data": rows }),
                )
            }
            ("GET", ["pods", "status"]) => {
                let wanted = ask.query.get("pod_ids").map_or("", String::as_str);
                let found = books.listed().filter(|rental| rental.id == wanted);
                let rows: Vec<_> = found.map(|rental| status(rental, books.machines)).collect();
                Reply::json(200, &json!({ "data": rows }))
            }
            ("GET", ["pods", id]) => match books.listed().find(|rental| rental.id == *id) {
                Some(rental) => Reply::json(200, &pod(rental, books.machines)),
                None => no_such_pod(),
            },
            ("DELETE", ["pods", id]) if books.end(id, caller.ender()) => {
                Reply::json(200, &json!({ "status": "TERMINATED" }))
            }
            ("DELETE", ["pods", _]) => no_such_pod(),
            ("GET", ["ssh_keys"]) => {
                let keys: Vec<_> = books
                    .keys
                    .iter()
                    .map(|key| {
                        json!({ "id": key.id, "name": key.name, "publicKey": key.public,
                            "isPrimary": false, "isUserKey": true })
                    })
                    .collect();
                Reply::json(
                    200,
                    &json!({ "total_count": keys.len(), "offset": 0, "limit": PAGE,
                    "data": keys }),
                )
            }
            ("POST", ["ssh_keys"]) => {
                let body = ask.json();
                let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
                match books.add_key(&text("name"), &text("publicKey")) {
                    Some(key) => Reply::json(
                        200,
                        &json!({ "id": key.id, "name": key.name,
                        "publicKey": key.public, "isPrimary": false }),
                    ),
                    None => Reply::json(400, &json!({ "detail": "the name is taken" })),
                }
            }
            ("DELETE", ["ssh_keys", id]) if books.remove_key(id) => Reply::empty(204),
            ("GET", ["billing", "wallet"]) => {
                Reply::json(200, &json!({ "wallet_id": "w", "balance_usd": 25.0 }))
            }
            _ => Reply::json(404, &json!({ "detail": "Not Found" })),
        }
    }
}

fn dollars(dollars: f64) -> UsdPerHour {
    UsdPerHour::from_dollars(dollars).expect("our own prices are prices")
}

fn no_such_pod() -> Reply {
    Reply::json(404, &json!({ "detail": "Pod not found" }))
}

fn availability(books: &Books, ask: &Ask) -> Reply {
    let number = ask.number("page").unwrap_or(1).max(1);
    let size = ask.number("page_size").unwrap_or(PAGE).clamp(1, PAGE);
    let wanted = |ware: &&Ware| {
        let count = ask.number("gpu_count");
        let kind = ask.query.get("gpu_type");
        0 < ware.free
            && count.is_none_or(|count| u32::try_from(count) == Ok(ware.count))
            && kind.is_none_or(|kind| *kind == ware.gpu)
    };
    let rows: Vec<_> = books.wares.iter().filter(wanted).map(item).collect();
    let items: Vec<_> = rows.iter().skip((number - 1) * size).take(size).collect();
    Reply::json(200, &json!({ "items": items, "totalCount": rows.len() }))
}

fn item(ware: &Ware) -> Value {
    let (provider, cloud) = ware.id.split_once('/').unwrap_or_default();
    json!({
        "cloudId": cloud, "gpuType": ware.gpu, "socket": "PCIe", "provider": provider,
        "region": "canada", "dataCenter": ware.region, "country": "CA", "gpuCount": ware.count,
        "gpuMemory": ware.vram,
        "disk": { "minCount": 20, "defaultCount": 120, "maxCount": 2_000,
            "pricePerUnit": DISK_PER_GB_HOUR, "step": 1, "defaultIncludedInPrice": false,
            "additionalInfo": null },
        "vcpu": { "minCount": null, "defaultCount": 8, "maxCount": null, "pricePerUnit": null,
            "step": null, "defaultIncludedInPrice": true, "additionalInfo": null },
        "memory": { "minCount": null, "defaultCount": 117, "maxCount": null, "pricePerUnit": null,
            "step": null, "defaultIncludedInPrice": true, "additionalInfo": null },
        "sharedDisk": null, "internetSpeed": null, "interconnect": null, "interconnectType": null,
        "provisioningTime": 2, "stockStatus": "Medium", "security": "secure_cloud",
        "prices": { "onDemand": ware.price.dollars(), "communityPrice": null, "isVariable": false,
            "currency": "USD" },
        "images": ["ubuntu_22_cuda_12", "cuda_12_4_pytorch_2_5"],
        "isSpot": ware.spot.is_some(), "prepaidTime": null,
    })
}

fn create(books: &mut Books, body: &Value) -> Reply {
    let order = &body["pod"];
    let text = |field: &str| order[field].as_str().unwrap_or_default().to_owned();
    for field in ["cloudId", "gpuType", "socket"] {
        if text(field).is_empty() {
            return invalid(field, "field required");
        }
    }
    let words = order.as_object().into_iter().flatten();
    if let Some((other, _)) = words.clone().find(|(word, _)| !WORDS.contains(&word.as_str())) {
        return invalid(other, "extra fields not permitted");
    }
    // Its own command line sends none, though the server was once known to insist.
    let most = order["maxPrice"].as_f64().unwrap_or(0.0);
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    if !text("name").chars().all(plain) || !text("name").contains(char::is_alphabetic) {
        return invalid("name", "letters, digits and dashes");
    }
    let provider = body["provider"]["type"].as_str().unwrap_or_default();
    let id = format!("{provider}/{}", text("cloudId"));
    let Some(ware) = books.wares.iter().find(|ware| ware.id == id) else { return out_of_stock() };
    let disk = order["diskSize"].as_u64().unwrap_or(120);
    let price = ware.price.plus(dollars(disk as f64 * DISK_PER_GB_HOUR));
    if 0.0 < most && most < price.dollars() {
        return Reply::json(400, &json!({ "detail": "the price is above max_price" }));
    }
    let env = order["envVars"].as_array().into_iter().flatten().filter_map(|pair| {
        Some((pair["key"].as_str()?.to_owned(), pair["value"].as_str()?.to_owned()))
    });
    let wish = Wish {
        ware: id,
        label: text("name"),
        price,
        spot: ware.spot.is_some(),
        public_key: books.public_key(&text("sshKeyId")).unwrap_or_default(),
        env: env.collect::<BTreeMap<_, _>>(),
        image: text("image"),
        disk,
        ..Wish::default()
    };
    let machines = books.machines;
    match books.rent(uuid(books.next_number()).replace('-', ""), wish) {
        Ok(rental) => {
            let mut pod = pod(rental, machines);
            // Whatever it will be, it is not there yet.
            pod["status"] = json!("PROVISIONING");
            pod["installationStatus"] = json!("PENDING");
            pod["sshConnection"] = Value::Null;
            Reply::json(200, &pod)
        }
        Err(Refusal::Unpaid) => Reply::json(402, &json!({ "detail": "Payment required" })),
        Err(Refusal::Gone | Refusal::Outbid) => out_of_stock(),
    }
}

fn invalid(param: &str, details: &str) -> Reply {
    Reply::json(422, &json!({ "errors": [{ "param": param, "details": details }] }))
}

fn out_of_stock() -> Reply {
    Reply::json(400, &json!({ "detail": "The requested resource is out of stock" }))
}

fn page(books: &Books, ask: &Ask) -> Reply {
    let offset = ask.number("offset").unwrap_or(0);
    let limit = ask.number("limit").unwrap_or(PAGE).clamp(1, PAGE);
    let pods: Vec<_> = books.listed().map(|rental| pod(rental, books.machines)).collect();
    let shown: Vec<_> = pods.iter().skip(offset).take(limit).collect();
    Reply::json(
        200,
        &json!({ "total_count": pods.len(), "offset": offset, "limit": limit, "data": shown }),
    )
}

fn words(phase: &Phase) -> (&str, &'static str) {
    match phase {
        Phase::Booting => ("PROVISIONING", "PENDING"),
        Phase::Running => ("ACTIVE", "FINISHED"),
        Phase::Outbid => ("ERROR", "TERMINATED"),
        Phase::Stopped => ("STOPPED", "TERMINATED"),
        Phase::Odd(word) => (word, "PENDING"),
        Phase::Ended => ("TERMINATED", "TERMINATED"),
    }
}

fn connection(rental: &Rental, phase: &Phase) -> Option<String> {
    let port = rental.port.unwrap_or(22_022);
    (*phase == Phase::Running).then(|| format!("root@127.0.0.1 -p {port}"))
}

fn status(rental: &Rental, machines: bool) -> Value {
    let phase = rental.phase(machines);
    let (word, installed) = words(&phase);
    json!({ "podId": rental.id, "providerType": "runpod", "status": word,
        "installationStatus": installed, "installationProgress": 100, "installationFailure": null,
        "sshConnection": connection(rental, &phase), "ip": null, "costPerHr": rental.price.dollars(),
        "primePortMapping": [], "teamId": null, "installationLog": null })
}

/// Dollars, for a rental that is over.
fn billed(rental: &Rental) -> Option<f64> {
    let (at, _) = rental.ended?;
    let held = at.duration_since(rental.since).unwrap_or_default();
    Some(rental.price.over(held).0 as f64 / 1e6)
}

fn pod(rental: &Rental, machines: bool) -> Value {
    let phase = rental.phase(machines);
    let (word, installed) = words(&phase);
    let (provider, _) = rental.ware.id.split_once('/').unwrap_or_default();
    let ended = rental.ended.and_then(|(at, _)| rfc3339(at));
    json!({
        "id": rental.id, "name": rental.wish.label, "status": word, "providerType": provider,
        "gpuName": rental.ware.gpu, "gpuType": rental.ware.gpu, "gpuCount": rental.ware.count,
        "socket": "PCIe", "priceHr": rental.price.dollars(), "stoppedPriceHr": 0.0,
        "provisioningPriceHr": 0.0, "basePriceHr": rental.price.dollars(),
        "installationStatus": installed, "installationFailure": null, "installationProgress": 100,
        "sshConnection": connection(rental, &phase), "ip": null, "isSpot": rental.wish.spot,
        "primePortMapping": [], "environmentType": rental.wish.image, "autoRestart": false,
        "resources": { "memory": "117", "disk": rental.wish.disk.to_string(), "vcpus": "8" },
        "attachedResources": [], "podTemplateId": null, "customTemplateId": null, "teamId": null,
        "userId": "user", "walletId": "wallet", "type": "HOSTED",
        "createdAt": rfc3339(rental.since), "updatedAt": rfc3339(rental.since),
        "terminatedAt": ended, "totalBilledPrice": billed(rental), "unit": null,
    })
}
