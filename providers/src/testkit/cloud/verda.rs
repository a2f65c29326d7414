//! Verda's dialect.

use super::{
    books::{Books, Refusal, Ware, uuid},
    dialect::{Ask, Caller, Reply, Stub},
    fault::Call,
    rental::{Phase, Rental, Wish},
};
use crate::{Billing, UsdPerHour, json::rfc3339};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Dollars for a GB of system disk and an hour.
const DISK_PER_GB_HOUR: f64 = 0.20 / 730.0;

/// Verda.
pub(super) struct Verda;

impl Stub for Verda {
    fn stock(&self, _many: usize) -> Vec<Ware> {
        // Type, model, memory of one, how many, dollars.
        const KINDS: [(&str, &str, u64, u32, f64); 5] = [
            ("1A6000.10V", "RTX A6000 48GB", 48, 1, 0.61),
            ("1L40S.20V", "L40S 48GB", 48, 1, 0.91),
            ("1A100.22V", "A100 SXM4 80GB", 80, 1, 1.79),
            ("1H100.80S.30V", "H100 SXM5 80GB", 80, 1, 2.29),
            ("8H200.141S.176V", "H200 SXM5 141GB", 141, 8, 23.92),
        ];
        let wares = KINDS.iter().flat_map(|(kind, gpu, vram, count, price)| {
            ["FIN-01", "ICE-01"].into_iter().map(move |location| Ware {
                id: format!("{location}/{kind}"),
                gpu: (*gpu).to_owned(),
                vram: *vram,
                count: *count,
                price: dollars(*price),
                spot: Some(dollars(price * 0.5)),
                region: location.to_owned(),
                free: 200,
            })
        });
        wares.collect()
    }

    fn billing(&self) -> Billing {
        Billing { minimum: Duration::ZERO, step: Duration::from_mins(10) }
    }

    fn call(&self, ask: &Ask) -> Call {
        match (ask.method.as_str(), &ask.parts()[1.min(ask.parts().len())..]) {
            ("POST", ["oauth2", "token"]) => Call::Token,
            ("GET", ["instance-types" | "instance-availability", ..]) => Call::Offers,
            ("POST", ["instances"]) => Call::Rent,
            ("PUT", ["instances"]) => Call::Release,
            ("GET", ["instances"]) => Call::List,
            ("GET", ["instances", _]) => Call::Show,
            (_, ["sshkeys" | "ssh-keys", ..]) => Call::Keys,
            _ => Call::Other,
        }
    }

    fn turn_away(&self) -> Reply {
        refuse(401, "unauthorized_request", "Access token is missing or invalid")
    }

    fn answer(&self, books: &mut Books, ask: &Ask, caller: &Caller) -> Reply {
        match (ask.method.as_str(), &ask.parts()[1.min(ask.parts().len())..]) {
            ("POST", ["oauth2", "token"]) => token(&books.key, &ask.json()),
            ("GET", ["instance-types"]) => types(books),
            ("GET", ["instance-availability"]) => availability(books),
            ("GET", ["instance-availability", kind]) => {
                let free = books.wares.iter().any(|ware| kind_of(ware) == *kind && 0 < ware.free);
                Reply::text(200, if free { "true" } else { "false" })
            }
            ("GET", ["locations"]) => Reply::json(
                200,
                &json!([{ "code": "FIN-01", "name": "Finland 1", "country_code": "FI" },
                    { "code": "ICE-01", "name": "Iceland 1", "country_code": "IS" }]),
            ),
            ("GET", ["balance"]) => Reply::json(200, &json!({ "amount": 25.0, "currency": "usd" })),
            ("POST", ["instances"]) => rent(books, &ask.json()),
            ("PUT", ["instances"]) => act(books, &ask.json(), caller),
            ("GET", ["instances"]) => {
                let rows = books.listed().map(|rental| row(rental, books.machines));
                Reply::json(200, &rows.collect())
            }
            ("GET", ["instances", id]) => match books.find(id) {
                Some(rental) => Reply::json(200, &row(rental, books.machines)),
                None => refuse(404, "not_found", "Invalid instance id"),
            },
            ("GET", ["sshkeys" | "ssh-keys"]) => {
                let keys = books
                    .keys
                    .iter()
                    .map(|key| json!({ "id": key.id, "name": key.name, "key": key.public }));
                Reply::json(200, &keys.collect())
            }
            ("POST", ["sshkeys" | "ssh-keys"]) => {
                let body = ask.json();
                let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
                match books.add_key(&text("name"), &text("key")) {
                    // Plain text, without quotes.
                    Some(key) => Reply::text(201, &key.id),
                    None => refuse(400, "invalid_request", "The name is taken"),
                }
            }
            ("DELETE", ["sshkeys" | "ssh-keys"]) => {
                let body = ask.json();
                let ids = body["keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
                match ids.filter(|id| books.remove_key(id)).count() {
                    0 => refuse(404, "not_found", "Invalid key id"),
                    _ => Reply::empty(200),
                }
            }
            ("GET", ["volumes"]) => {
                let left = books.disks().map(|disk| volume(&disk.id, &disk.name, disk.price, None));
                let used = books.listed().map(|rental| {
                    let (id, name) = (os_volume(&rental.id), &rental.wish.disk_name);
                    volume(&id, name, disk_price(rental), Some(&rental.id))
                });
                Reply::json(200, &left.chain(used).collect())
            }
            ("GET", ["volumes", "trash"]) => Reply::json(200, &json!([])),
            ("DELETE", ["volumes", id])
                if ask.json()["is_permanent"] == true && books.remove_disk(id) =>
            {
                Reply::empty(202)
            }
            ("DELETE", ["volumes", _]) => refuse(404, "not_found", "Invalid volume id"),
            _ => refuse(404, "not_found", "no such path"),
        }
    }
}

fn dollars(dollars: f64) -> UsdPerHour {
    UsdPerHour::from_dollars(dollars).expect("our own prices are prices")
}

fn refuse(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({ "code": code, "message": message }))
}

/// A client gets for its id and its secret what they are: nothing else opens the door.
fn token(key: &str, body: &Value) -> Reply {
    let known = body["client_id"] == key && body["client_secret"] == key;
    if body["grant_type"] == "client_credentials" && !known {
        return refuse(401, "unauthorized_request", "Invalid client id or client secret");
    }
    Reply::json(
        200,
        &json!({ "access_token": key, "refresh_token": "refresh", "scope": "cloud-api-v1",
            "token_type": "Bearer", "expires_in": 3_600 }),
    )
}

fn kind_of(ware: &Ware) -> &str {
    ware.id.split_once('/').map_or("", |(_, kind)| kind)
}

fn types(books: &Books) -> Reply {
    let kinds = books.wares.iter().filter(|ware| ware.region == "FIN-01");
    let rows = kinds.map(|ware| {
        let gpus = u64::from(ware.count);
        json!({
            "id": uuid(gpus), "instance_type": kind_of(ware), "name": ware.gpu, "model": ware.gpu,
            "display_name": ware.gpu, "manufacturer": "NVIDIA",
            // As text, like the real one.
            "price_per_hour": format!("{:.4}", ware.price.dollars()),
            "spot_price": ware.spot.map(|price| format!("{:.4}", price.dollars())),
            "currency": "usd", "description": "Dedicated Hardware Instance", "best_for": [],
            "cpu": { "description": "22 CPU", "number_of_cores": 22 },
            "gpu": { "description": ware.gpu, "number_of_gpus": gpus },
            "gpu_memory": { "description": "", "size_in_gigabytes": ware.vram * gpus },
            "memory": { "description": "120GB RAM", "size_in_gigabytes": 120 },
            "storage": { "description": "dynamic" }, "p2p": "", "deploy_warning": null,
            "supported_os": ["ubuntu-24.04", "ubuntu-24.04-cuda-12.6"],
        })
    });
    Reply::json(200, &rows.collect())
}

fn availability(books: &Books) -> Reply {
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for ware in books.wares.iter().filter(|ware| 0 < ware.free) {
        places.entry(&ware.region).or_default().push(kind_of(ware));
    }
    let places = places.into_iter();
    let rows =
        places.map(|(code, kinds)| json!({ "location_code": code, "availabilities": kinds }));
    Reply::json(200, &rows.collect())
}

fn rent(books: &mut Books, body: &Value) -> Reply {
    let text = |field: &str| body[field].as_str().unwrap_or_default();
    for field in ["instance_type", "image", "hostname", "description"] {
        if text(field).is_empty() {
            return refuse(400, "invalid_request", &format!("{field} is required"));
        }
    }
    if 100 < text("description").len() {
        return refuse(400, "invalid_request", "description is too long");
    }
    let disk = body["os_volume"]["size"].as_u64();
    if disk.is_some_and(|size| size < 50) {
        return refuse(400, "invalid_request", "os_volume.size is at least 50");
    }
    let spot = body["is_spot"].as_bool().unwrap_or(false);
    if !spot && !body["os_volume"]["on_spot_discontinue"].is_null() {
        return refuse(400, "invalid_request", "on_spot_discontinue is for spot instances");
    }
    let keys = body["ssh_key_ids"].as_array().into_iter().flatten();
    let key = keys.filter_map(Value::as_str).find_map(|key| books.public_key(key));
    let location = body["location_code"].as_str().unwrap_or("FIN-01");
    let ware_id = format!("{location}/{}", text("instance_type"));
    let ware = books.wares.iter().find(|ware| ware.id == ware_id);
    let Some(ware) = ware else {
        return refuse(400, "invalid_request", "Invalid instance type");
    };
    let disk = disk.unwrap_or(50);
    let machine = if spot { ware.spot.unwrap_or(ware.price) } else { ware.price };
    let full = format!(
        "Not enough resources to deploy a 1 GPU instance type {} in {location}",
        text("instance_type")
    );
    let wish = Wish {
        ware: ware_id,
        label: text("description").to_owned(),
        price: machine.plus(dollars(disk as f64 * DISK_PER_GB_HOUR)),
        spot,
        public_key: key.unwrap_or_default(),
        image: text("image").to_owned(),
        disk,
        disk_name: body["os_volume"]["name"].as_str().unwrap_or_default().to_owned(),
        ..Wish::default()
    };
    match books.rent(uuid(books.next_number()), wish) {
        // Plain text, without quotes.
        Ok(rental) => Reply::text(202, &rental.id),
        Err(Refusal::Unpaid) => refuse(402, "insufficient_funds", "Your balance is too low"),
        Err(Refusal::Gone | Refusal::Outbid) => refuse(503, "service_unavailable", &full),
    }
}

fn act(books: &mut Books, body: &Value, caller: &Caller) -> Reply {
    // One, or several.
    let one = std::slice::from_ref(&body["id"]);
    let ids = body["id"].as_array().map_or(one, Vec::as_slice);
    let ids: Vec<_> = ids.iter().filter_map(Value::as_str).collect();
    if !matches!(body["action"].as_str(), Some("delete" | "discontinue")) {
        return refuse(400, "invalid_request", "Invalid action");
    }
    for id in ids {
        match books.find(id).map(|rental| rental.ended.is_some()) {
            None => return refuse(404, "not_found", "Invalid instance id"),
            Some(true) => {
                let why = "Can't discontinue a discontinued instance";
                return refuse(403, "forbidden_action", why);
            }
            Some(false) => {}
        }
        // A disk that isn't named stays, and is billed on.
        let disk = os_volume(id);
        let volumes = body["volume_ids"].as_array().into_iter().flatten();
        let named = volumes.filter_map(Value::as_str).any(|volume| volume == disk);
        let goes = named && body["delete_permanently"] == true || body["volume_ids"].is_null();
        let left = books.find(id).filter(|rental| !goes || rental.leaves_disk());
        let left = left.map(|rental| (rental.wish.disk_name.clone(), disk_price(rental)));
        books.end(id, caller.ender());
        if let Some((name, price)) = left {
            books.keep_disk(disk, name, price);
        }
    }
    Reply::empty(204)
}

fn disk_price(rental: &Rental) -> UsdPerHour {
    dollars(rental.wish.disk as f64 * DISK_PER_GB_HOUR)
}

fn volume(id: &str, name: &str, price: UsdPerHour, instance: Option<&str>) -> Value {
    json!({ "id": id, "name": name, "instance_id": instance, "is_os_volume": true, "type": "NVMe",
        "status": if instance.is_some() { "attached" } else { "detached" },
        "base_hourly_cost": price.dollars() })
}

fn os_volume(id: &str) -> String {
    format!("volume-{id}")
}

fn row(rental: &Rental, machines: bool) -> Value {
    let phase = rental.phase(machines);
    let status = match &phase {
        Phase::Booting => "provisioning",
        Phase::Running => "running",
        Phase::Outbid | Phase::Stopped => "offline",
        Phase::Odd(word) => word,
        Phase::Ended => "discontinued",
    };
    // The real one is always at port 22; ours are where they can be.
    let ip = (phase == Phase::Running)
        .then(|| rental.port.map_or("127.0.0.1".to_owned(), |port| format!("127.0.0.1:{port}")));
    let disk = os_volume(&rental.id);
    json!({
        "id": rental.id, "ip": ip, "status": status, "hostname": rental.wish.label,
        "description": rental.wish.label, "location": rental.ware.region,
        "price_per_hour": rental.price.dollars(), "is_spot": rental.wish.spot,
        "instance_type": kind_of(&rental.ware), "image": rental.wish.image, "ssh_key_ids": [],
        "os_volume_id": disk, "volume_ids": [disk], "startup_script_id": null,
        "contract": if rental.wish.spot { "SPOT" } else { "PAY_AS_YOU_GO" },
        "pricing": "FIXED_PRICE", "jupyter_token": null, "tags": [],
        "created_at": rfc3339(rental.since),
        "cpu": { "description": "22 CPU", "number_of_cores": 22 },
        "gpu": { "description": rental.ware.gpu, "number_of_gpus": rental.ware.count },
        "gpu_memory": { "description": "", "size_in_gigabytes": rental.ware.vram },
        "memory": { "description": "120GB RAM", "size_in_gigabytes": 120 },
        "storage": { "description": "dynamic" },
    })
}
