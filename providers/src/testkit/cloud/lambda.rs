//! Lambda Cloud's dialect.

use super::{
    books::{Books, Refusal, Ware, uuid},
    dialect::{Ask, Caller, Reply, Stub},
    fault::Call,
    rental::{Phase, Rental, Wish},
};
use crate::{Billing, UsdPerHour};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Lambda Cloud.
pub(super) struct Lambda;

impl Stub for Lambda {
    fn stock(&self, _many: usize) -> Vec<Ware> {
        // Type, model, memory, how many, cents.
        const KINDS: [(&str, &str, u64, u32, u64); 5] = [
            ("gpu_1x_a10", "A10 (24 GB PCIe)", 24, 1, 129),
            ("gpu_1x_a100_sxm4", "A100 (40 GB SXM4)", 40, 1, 199),
            ("gpu_1x_h100_pcie", "H100 (80 GB PCIe)", 80, 1, 329),
            ("gpu_1x_gh200", "GH200 (96 GB)", 96, 1, 229),
            ("gpu_8x_h100_sxm5", "H100 (80 GB SXM5)", 80, 8, 3_432),
        ];
        let wares = KINDS.iter().flat_map(|(kind, gpu, vram, count, cents)| {
            ["us-west-1", "us-east-1"].into_iter().map(move |region| Ware {
                id: format!("{region}/{kind}"),
                gpu: (*gpu).to_owned(),
                vram: *vram,
                count: *count,
                price: UsdPerHour::from_cents(*cents),
                spot: None,
                region: region.to_owned(),
                free: 200,
            })
        });
        wares.collect()
    }

    fn billing(&self) -> Billing {
        Billing { minimum: Duration::ZERO, step: Duration::from_mins(1) }
    }

    fn call(&self, ask: &Ask) -> Call {
        match (ask.method.as_str(), &ask.parts()[2.min(ask.parts().len())..]) {
            ("GET", ["instance-types"]) => Call::Offers,
            ("POST", ["instance-operations", "launch"]) => Call::Rent,
            ("POST", ["instance-operations", "terminate"]) => Call::Release,
            ("GET", ["instances"]) => Call::List,
            ("GET", ["instances", _]) => Call::Show,
            (_, ["ssh-keys", ..]) => Call::Keys,
            _ => Call::Other,
        }
    }

    fn turn_away(&self) -> Reply {
        refuse(401, "global/invalid-api-key", "API key was invalid, expired, or deleted.")
    }

    fn answer(&self, books: &mut Books, ask: &Ask, caller: &Caller) -> Reply {
        match (ask.method.as_str(), &ask.parts()[2.min(ask.parts().len())..]) {
            ("GET", ["instance-types"]) => types(books),
            ("POST", ["instance-operations", "launch"]) => launch(books, &ask.json()),
            ("POST", ["instance-operations", "terminate"]) => terminate(books, &ask.json(), caller),
            ("GET", ["instances"]) => {
                let rows: Vec<_> =
                    books.listed().map(|rental| row(rental, books.machines)).collect();
                data(&json!(rows))
            }
            ("GET", ["instances", id]) => match books.find(id) {
                Some(rental) => data(&row(rental, books.machines)),
                None => no_such("instance"),
            },
            ("GET", ["ssh-keys"]) => {
                let keys = books
                    .keys
                    .iter()
                    .map(|key| json!({ "id": key.id, "name": key.name, "public_key": key.public }));
                data(&keys.collect())
            }
            ("POST", ["ssh-keys"]) => {
                let body = ask.json();
                let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
                match books.add_key(&text("name"), &text("public_key")) {
                    Some(key) => data(&json!({ "id": key.id, "name": key.name,
                        "public_key": key.public })),
                    None => refuse(400, "global/duplicate", "The name is taken."),
                }
            }
            ("DELETE", ["ssh-keys", id]) if books.remove_key(id) => data(&json!({})),
            ("DELETE", ["ssh-keys", _]) => no_such("key"),
            _ => no_such("path"),
        }
    }
}

fn data(data: &Value) -> Reply {
    Reply::json(200, &json!({ "data": data }))
}

fn refuse(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({ "error": { "code": code, "message": message } }))
}

fn no_such(what: &str) -> Reply {
    refuse(404, "global/object-does-not-exist", &format!("There is no such {what}."))
}

/// A map of kinds, each with the regions that have some.
fn types(books: &Books) -> Reply {
    let mut types = Map::new();
    for ware in &books.wares {
        let (_, kind) = ware.id.split_once('/').unwrap_or_default();
        let regions = books.wares.iter().filter(|other| {
            0 < other.free && other.id.split_once('/').is_some_and(|(_, same)| same == kind)
        });
        let regions: Vec<_> = regions
            .map(|ware| json!({ "name": ware.region, "description": "somewhere" }))
            .collect();
        types.insert(
            kind.to_owned(),
            json!({ "instance_type": instance_type(ware), "regions_with_capacity_available": regions }),
        );
    }
    data(&types.into())
}

fn instance_type(ware: &Ware) -> Value {
    let (_, kind) = ware.id.split_once('/').unwrap_or_default();
    json!({
        "name": kind, "description": format!("{}x {}", ware.count, ware.gpu),
        "gpu_description": ware.gpu, "price_cents_per_hour": ware.price.0 / 10_000,
        "specs": { "vcpus": 30, "memory_gib": 200, "storage_gib": 1_400, "gpus": ware.count },
    })
}

fn launch(books: &mut Books, body: &Value) -> Reply {
    let text = |field: &str| body[field].as_str().unwrap_or_default();
    let (region, kind) = (text("region_name"), text("instance_type_name"));
    let Some([key]) = body["ssh_key_names"].as_array().map(Vec::as_slice) else {
        return refuse(400, "global/invalid-parameters", "Exactly one SSH key is needed.");
    };
    let Some(public_key) = books.public_key(key.as_str().unwrap_or_default()) else {
        return refuse(400, "global/object-does-not-exist", "There is no such SSH key.");
    };
    if 64 < text("name").len() {
        return refuse(400, "global/invalid-parameters", "The name is too long.");
    }
    let id = format!("{region}/{kind}");
    let price = books.wares.iter().find(|ware| ware.id == id).map(|ware| ware.price);
    let Some(price) = price else { return no_such("instance type") };
    let wish = Wish {
        ware: id,
        label: text("name").to_owned(),
        price,
        public_key,
        script: text("user_data").to_owned(),
        ..Wish::default()
    };
    let id = uuid(books.next_number()).replace('-', "");
    match books.rent(id, wish) {
        Ok(rental) => data(&json!({ "instance_ids": [rental.id] })),
        Err(Refusal::Unpaid) => refuse(403, "global/account-inactive", "Your account is inactive."),
        Err(Refusal::Gone | Refusal::Outbid) => refuse(
            400,
            "instance-operations/launch/insufficient-capacity",
            "Not enough capacity to fulfill launch request.",
        ),
    }
}

fn terminate(books: &mut Books, body: &Value, caller: &Caller) -> Reply {
    let ids: Vec<_> =
        body["instance_ids"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut ended = Vec::new();
    for id in ids {
        match books.find(id) {
            None => return no_such("instance"),
            // A second end is answered with an error that says nothing.
            Some(rental) if rental.ended.is_some() => {
                return refuse(500, "global/unknown", "An unknown error occurred");
            }
            Some(_) => {}
        }
        books.end(id, caller.ender());
        ended.extend(books.find(id).map(|rental| row(rental, books.machines)));
    }
    data(&json!({ "terminated_instances": ended }))
}

fn row(rental: &Rental, machines: bool) -> Value {
    let phase = rental.phase(machines);
    let status = match &phase {
        Phase::Booting => "booting",
        Phase::Running => "active",
        Phase::Outbid => "preempted",
        Phase::Stopped => "unhealthy",
        Phase::Odd(word) => word,
        Phase::Ended => "terminating",
    };
    // The real one is always at port 22; ours are where they can be.
    let ip = (phase == Phase::Running)
        .then(|| rental.port.map_or("127.0.0.1".to_owned(), |port| format!("127.0.0.1:{port}")));
    let mut kind = instance_type(&rental.ware);
    kind["price_cents_per_hour"] = json!(rental.price.0 / 10_000);
    json!({
        "id": rental.id, "name": rental.wish.label, "ip": ip, "status": status,
        "ssh_key_names": ["a key"], "file_system_names": [],
        "region": { "name": rental.ware.region, "description": "somewhere" },
        "instance_type": kind, "hostname": rental.wish.label,
        "actions": { "terminate": { "available": true } }, "tags": [],
    })
}
