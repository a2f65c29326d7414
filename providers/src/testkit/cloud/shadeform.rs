//! Shadeform's dialect.

use super::{
    books::{Books, Refusal, Ware, uuid},
    dialect::{Ask, Caller, Reply, Stub},
    fault::Call,
    rental::{Phase, Rental, Wish},
};
use crate::{
    Usd, UsdPerHour,
    json::{rfc3339, timestamp},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::time::SystemTime;

/// Shadeform.
pub(super) struct Shadeform;

impl Stub for Shadeform {
    fn stock(&self, _many: usize) -> Vec<Ware> {
        // Cloud, region, type, memory, cents.
        const KINDS: [(&str, &str, &str, u64, u64); 5] = [
            ("imwt", "us-central-2", "RTXA5000", 24, 42),
            ("massedcompute", "us-central-1", "A6000", 48, 57),
            ("latitude", "us-dallas-1", "L40S", 48, 74),
            ("hyperstack", "canada-1", "A100_80G", 80, 135),
            ("latitude", "us-dallas-1", "H100", 80, 166),
        ];
        let wares = KINDS.iter().map(|(cloud, region, kind, vram, cents)| Ware {
            id: format!("{cloud}/{region}/{kind}"),
            gpu: (*kind).to_owned(),
            vram: *vram,
            count: 1,
            price: UsdPerHour::from_cents(*cents),
            spot: (*kind == "A100_80G").then(|| UsdPerHour::from_cents(108)),
            region: (*region).to_owned(),
            free: 200,
        });
        wares.collect()
    }

    fn call(&self, ask: &Ask) -> Call {
        match (ask.method.as_str(), &ask.parts()[1.min(ask.parts().len())..]) {
            ("GET", ["instances", "types"]) => Call::Offers,
            ("POST", ["instances", "create"]) => Call::Rent,
            ("POST", ["instances", _, "delete"]) => Call::Release,
            ("GET", ["instances"]) => Call::List,
            ("GET", ["instances", _, "info"]) => Call::Show,
            (_, ["sshkeys", ..]) => Call::Keys,
            _ => Call::Other,
        }
    }

    fn key<'a>(&self, ask: &'a Ask) -> &'a str {
        ask.headers.get("x-api-key").map_or("", String::as_str)
    }

    fn is_open(&self, call: Call) -> bool {
        call == Call::Offers
    }

    fn turn_away(&self) -> Reply {
        Reply::text(401, "Unauthorized")
    }

    fn answer(&self, books: &mut Books, ask: &Ask, caller: &Caller) -> Reply {
        match (ask.method.as_str(), &ask.parts()[1.min(ask.parts().len())..]) {
            ("GET", ["instances", "types"]) => {
                let kinds: Vec<_> = books.wares.iter().map(kind).collect();
                Reply::json(200, &json!({ "instance_types": kinds }))
            }
            ("POST", ["instances", "create"]) => create(books, &ask.json()),
            ("POST", ["instances", id, "delete"]) if books.end(id, caller.ender()) => {
                Reply::empty(200)
            }
            ("POST", ["instances", _, "delete"]) => Reply::text(404, "instance not found"),
            ("GET", ["instances"]) => {
                let rows: Vec<_> =
                    books.listed().map(|rental| row(rental, books.machines)).collect();
                Reply::json(200, &json!({ "instances": rows }))
            }
            ("GET", ["instances", id, "info"]) => {
                match books.listed().find(|rental| rental.id == *id) {
                    Some(rental) => Reply::json(200, &row(rental, books.machines)),
                    None => Reply::text(404, "instance not found"),
                }
            }
            ("GET", ["sshkeys"]) => {
                let keys: Vec<_> = books
                    .keys
                    .iter()
                    .map(|key| {
                        json!({ "id": key.id, "name": key.name, "public_key": key.public,
                            "is_default": false })
                    })
                    .collect();
                Reply::json(200, &json!({ "ssh_keys": keys }))
            }
            ("POST", ["sshkeys", "add"]) => {
                let body = ask.json();
                let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
                match books.add_key(&text("name"), &text("public_key")) {
                    Some(key) => Reply::json(200, &json!({ "id": key.id })),
                    None => Reply::text(400, "name must be unique"),
                }
            }
            ("POST", ["sshkeys", id, "delete"]) if books.remove_key(id) => Reply::empty(200),
            ("POST", ["sshkeys", _, "delete"]) => Reply::text(404, "key not found"),
            ("POST", ["instances", id, "update"]) => {
                let (expires, most) = auto_delete(&ask.json());
                if books.extend(id, expires, most) {
                    return Reply::empty(200);
                }
                Reply::text(404, "instance not found")
            }
            _ => Reply::text(404, "no such path"),
        }
    }
}

fn parts(ware: &Ware) -> [&str; 3] {
    let mut parts = ware.id.splitn(3, '/').map(Some);
    std::array::from_fn(|_| parts.next().flatten().unwrap_or_default())
}

fn kind(ware: &Ware) -> Value {
    let [cloud, region, kind] = parts(ware);
    let place = |rental: &str, price: Option<String>| {
        json!({ "region": region, "available": 0 < ware.free, "display_name": region,
            "rental_type": rental, "hourly_price": price })
    };
    let mut places = vec![place("on_demand", None)];
    // Dollars as text here, cents as a number below.
    places.extend(ware.spot.map(|price| place("spot", Some(format!("{:.2}", price.dollars())))));
    json!({
        "cloud": cloud, "shade_instance_type": kind, "cloud_instance_type": format!("x-{kind}"),
        "configuration": {
            "memory_in_gb": 120, "storage_in_gb": 850, "vcpus": 28, "num_gpus": ware.count,
            "gpu_type": ware.gpu, "interconnect": "pcie", "nvlink": false,
            "vram_per_gpu_in_gb": ware.vram, "gpu_manufacturer": "nvidia",
            "os_options": ["ubuntu22.04_cuda12.2_shade_os", "ubuntu22.04"],
        },
        "hourly_price": ware.price.0 / 10_000, "deployment_type": "vm", "availability": places,
        "boot_time": { "min_boot_in_sec": 180, "max_boot_in_sec": 300 },
    })
}

fn create(books: &mut Books, body: &Value) -> Reply {
    let text = |field: &str| body[field].as_str().unwrap_or_default();
    for field in ["cloud", "region", "shade_instance_type", "name"] {
        if text(field).is_empty() {
            return Reply::text(400, &format!("{field} is required"));
        }
    }
    if body["shade_cloud"] != true {
        return Reply::text(400, "shade_cloud has to be true");
    }
    let spot = text("rental_type") == "spot";
    let id = format!("{}/{}/{}", text("cloud"), text("region"), text("shade_instance_type"));
    let ware = books.wares.iter().find(|ware| ware.id == id && (!spot || ware.spot.is_some()));
    let price = ware.map(|ware| if spot { ware.spot.unwrap_or(ware.price) } else { ware.price });
    let Some(price) = price else { return out_of_stock() };
    let script = &body["launch_configuration"]["script_configuration"]["base64_script"];
    let script = STANDARD.decode(script.as_str().unwrap_or_default()).unwrap_or_default();
    let (expires, most) = auto_delete(body);
    let wish = Wish {
        ware: id,
        label: text("name").to_owned(),
        price,
        spot,
        public_key: books.public_key(text("ssh_key_id")).unwrap_or_default(),
        script: String::from_utf8_lossy(&script).into_owned(),
        image: text("os").to_owned(),
        expires,
        most,
        ..Wish::default()
    };
    match books.rent(uuid(books.next_number()), wish) {
        Ok(rental) => Reply::json(200, &json!({ "id": rental.id, "cloud_assigned_id": rental.id })),
        Err(Refusal::Unpaid) => Reply::json(
            409,
            &json!({ "error_code": "INSUFFICIENT_FUNDS", "error": "Add funds first." }),
        ),
        Err(Refusal::Gone | Refusal::Outbid) => out_of_stock(),
    }
}

/// When a machine is to be ended: at a time, or once it has cost this many dollars.
fn auto_delete(body: &Value) -> (Option<SystemTime>, Option<Usd>) {
    let rule = |word: &str| body["auto_delete"][word].as_str();
    let dollars = rule("spend_threshold").and_then(|text| text.parse().ok());
    (rule("date_threshold").and_then(timestamp), dollars.and_then(Usd::from_dollars))
}

fn out_of_stock() -> Reply {
    Reply::json(409, &json!({ "error_code": "OUT_OF_STOCK", "error": "There is none left." }))
}

fn row(rental: &Rental, machines: bool) -> Value {
    let phase = rental.phase(machines);
    let status = match &phase {
        Phase::Booting => "pending",
        Phase::Running => "active",
        Phase::Outbid | Phase::Ended => "deleting",
        Phase::Stopped => "error",
        Phase::Odd(word) => word,
    };
    let details = if phase == Phase::Outbid { "preempted" } else { "" };
    let [cloud, region, kind] = parts(&rental.ware);
    let since = rfc3339(rental.since);
    let dollars = format!("{:.2}", rental.price.dollars());
    json!({
        "id": rental.id, "cloud": cloud, "region": region, "shade_instance_type": kind,
        "cloud_assigned_id": rental.id, "shade_cloud": true, "name": rental.wish.label,
        "ip": if phase == Phase::Running { "127.0.0.1" } else { "" }, "ssh_user": "shadeform",
        "ssh_port": rental.port.unwrap_or(22_022), "status": status, "status_details": details,
        "cost_estimate": "0", "hourly_price": rental.price.0 / 10_000,
        "rental_terms": { "rental_type": if rental.wish.spot { "spot" } else { "on_demand" },
            "hourly_price": dollars, "ending_at": null },
        "port_mappings": [], "tags": ["piecework"], "active_at": since, "created_at": since,
        "deleted_at": null,
    })
}
