//! Vast.ai's dialect.

use super::{
    books::{Books, Refusal, Ware},
    dialect::{Ask, Caller, Reply, Stub},
    fault::Call,
    rental::{Phase, Rental, Wish},
};
use crate::UsdPerHour;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, time::UNIX_EPOCH};

/// Dollars for a GB of disk and a month of 720 hours.
const DISK_PER_GB_MONTH: f64 = 0.20;
const HOURS_PER_MONTH: f64 = 720.0;

/// The most that one page of the listing has.
const PAGE: usize = 25;

/// Vast.ai.
pub(super) struct Vast;

impl Stub for Vast {
    fn stock(&self, many: usize) -> Vec<Ware> {
        // Model, memory, dollars, bid.
        const KINDS: [(&str, u64, f64, f64); 6] = [
            ("RTX 4090", 24, 0.31, 0.17),
            ("RTX 3090", 24, 0.16, 0.09),
            ("H100 SXM", 80, 1.87, 1.20),
            ("A100 SXM4", 80, 0.89, 0.55),
            ("RTX 5090", 32, 0.49, 0.29),
            ("L40S", 48, 0.62, 0.38),
        ];
        const PLACES: [&str; 4] = ["Washington, US", "Quebec, CA", "Oslo, NO", "Hesse, DE"];
        (0..many.max(KINDS.len()))
            .map(|place| {
                let (gpu, vram, price, bid) = KINDS[place % KINDS.len()];
                // Each further host of a kind asks for a little more.
                let more = 1.0 + (place / KINDS.len()) as f64 * 0.002;
                Ware {
                    id: (10_000 + place).to_string(),
                    gpu: gpu.to_owned(),
                    vram,
                    count: 1,
                    price: dollars(price * more),
                    spot: Some(dollars(bid * more)),
                    region: PLACES[place % PLACES.len()].to_owned(),
                    free: 1,
                }
            })
            .collect()
    }

    fn call(&self, ask: &Ask) -> Call {
        match (ask.method.as_str(), ask.parts().as_slice()) {
            (_, ["api", "v0", "bundles"] | ["api", "v0", "search", "asks"]) => Call::Offers,
            ("PUT", ["api", "v0", "asks", _]) => Call::Rent,
            ("GET", ["api", "v0" | "v1", "instances"]) => Call::List,
            ("GET", ["api", "v0", "instances", _]) => Call::Show,
            ("DELETE", ["api", "v0", "instances", _]) => Call::Release,
            (_, ["api", "v0", "ssh"] | ["api", "v0", "instances", _, "ssh"]) => Call::Keys,
            _ => Call::Other,
        }
    }

    fn key<'a>(&self, ask: &'a Ask) -> &'a str {
        match ask.query.get("api_key") {
            Some(key) => key,
            None => ask.bearer(),
        }
    }

    fn is_open(&self, call: Call) -> bool {
        call == Call::Offers
    }

    fn turn_away(&self) -> Reply {
        refuse(401, "auth_error", "Invalid user key")
    }

    fn answer(&self, books: &mut Books, ask: &Ask, caller: &Caller) -> Reply {
        match (ask.method.as_str(), ask.parts().as_slice()) {
            ("POST", ["api", "v0", "bundles"]) => search(books, &ask.json()),
            ("GET", ["api", "v0", "bundles"]) => {
                let query = ask.query.get("q").map_or("{}", String::as_str);
                search(books, &serde_json::from_str(query).unwrap_or(Value::Null))
            }
            ("PUT", ["api", "v0", "search", "asks"]) => search(books, &ask.json()["q"]),
            ("PUT", ["api", "v0", "asks", id]) => rent(books, id, &ask.json()),
            ("GET", ["api", "v1", "instances"]) => page(books, ask),
            ("GET", ["api", "v0", "instances"]) => {
                refuse(410, "gone", "Use /api/v1/instances/ instead.")
            }
            ("GET", ["api", "v0", "instances", id]) => {
                // What is gone is shown as nothing, and that is a success.
                let rental = books.listed().find(|rental| rental.id == *id);
                let row = rental.map(|rental| row(rental, books.machines));
                Reply::json(200, &json!({ "instances": row }))
            }
            ("DELETE", ["api", "v0", "instances", id]) => {
                if books.end(id, caller.ender()) {
                    return Reply::json(200, &json!({ "success": true, "msg": "" }));
                }
                refuse(404, "not_found", "Instance not found")
            }
            ("POST", ["api", "v0", "instances", _, "ssh"]) => {
                let msg = "SSH key attached successfully";
                Reply::json(200, &json!({ "success": true, "msg": msg }))
            }
            ("GET", ["api", "v0", "users", "current"]) => Reply::json(
                200,
                &json!({ "id": 7, "username": "tester", "email": "tester@example.com",
                    "balance": 0, "credit": 25.0, "ssh_key": null }),
            ),
            _ => refuse(404, "not_found", "no such path"),
        }
    }

    fn environment(&self, id: &str, own_key: &str) -> Vec<(&'static str, String)> {
        vec![
            ("CONTAINER_ID", id.to_owned()),
            ("CONTAINER_API_KEY", own_key.to_owned()),
            ("VAST_CONTAINERLABEL", format!("C.{id}")),
        ]
    }
}

fn dollars(dollars: f64) -> UsdPerHour {
    UsdPerHour::from_dollars(dollars).expect("our own prices are prices")
}

fn refuse(status: u16, error: &str, msg: &str) -> Reply {
    Reply::json(status, &json!({ "success": false, "error": error, "msg": msg }))
}

fn storage(disk: u64) -> UsdPerHour {
    dollars(disk as f64 * DISK_PER_GB_MONTH / HOURS_PER_MONTH)
}

/// Answers a search as it filters: every condition has to hold.
fn search(books: &Books, query: &Value) -> Reply {
    let Some(query) = query.as_object() else {
        return refuse(400, "invalid_args", "the query is no object");
    };
    let disk = query.get("allocated_storage").and_then(Value::as_f64).unwrap_or(8.0);
    let bid = query.get("type").and_then(Value::as_str) == Some("bid");
    let limit = query.get("limit").and_then(Value::as_u64).unwrap_or(64);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let disk = disk as u64;
    let mut offers: Vec<_> = books
        .wares
        .iter()
        .filter(|ware| 0 < ware.free)
        .map(|ware| ask_row(ware, disk, bid))
        .filter(|row| query.iter().all(|(field, condition)| holds(row, field, condition)))
        .collect();
    offers.sort_by(|one, other| {
        let price = |row: &Value| row["dph_total"].as_f64().unwrap_or(f64::MAX);
        price(one).total_cmp(&price(other))
    });
    offers.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Reply::json(200, &json!({ "success": true, "offers": offers }))
}

/// Whether a row meets one condition. Keys whose value is no object are no conditions.
fn holds(row: &Value, field: &str, condition: &Value) -> bool {
    let Some(conditions) = condition.as_object() else { return true };
    let found = match field {
        "verified" => &json!(row["verification"] == "verified"),
        "datacenter" => &json!(row["hosting_type"].as_u64().is_some_and(|kind| 1 <= kind)),
        _ => row.get(field).unwrap_or(&Value::Null),
    };
    // Its own command line sends numbers as text.
    let numeric = |value: &Value| {
        value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))
    };
    // Nothing stands for "no" and for zero here.
    let number = |value: &Value| numeric(value).unwrap_or(0.0);
    let same = |one: &Value, other: &Value| match (numeric(one), numeric(other)) {
        (Some(one), Some(other)) => one.total_cmp(&other).is_eq(),
        _ => one == other || (one.is_null() && *other == json!(false)),
    };
    conditions.iter().all(|(operator, wanted)| match operator.as_str() {
        "eq" => same(found, wanted),
        "neq" => !same(found, wanted),
        "gt" => number(wanted) < number(found),
        "gte" => number(wanted) <= number(found),
        "lt" => number(found) < number(wanted),
        "lte" => number(found) <= number(wanted),
        "in" => wanted.as_array().is_some_and(|all| all.iter().any(|one| same(found, one))),
        "notin" => wanted.as_array().is_some_and(|all| !all.iter().any(|one| same(found, one))),
        _ => false,
    })
}

fn ask_row(ware: &Ware, disk: u64, bid: bool) -> Value {
    let storage = storage(disk);
    let price = if bid { ware.spot.unwrap_or(ware.price) } else { ware.price };
    let number: u64 = ware.id.parse().unwrap_or(0);
    let offer = json!({
        "id": number, "ask_contract_id": number, "dph_base": price.dollars(),
        "dph_total": price.plus(storage).dollars(), "storage_cost": DISK_PER_GB_MONTH,
        "storage_total_cost": storage.dollars(),
        "min_bid": ware.spot.unwrap_or(ware.price).dollars(),
        "inet_down_cost": 0.002, "inet_up_cost": 0.003, "duration": 2_592_000.0,
        "rentable": true, "rented": false, "is_bid": bid, "external": null, "score": 300.0,
    });
    merged(offer, &host(ware, number))
}

/// What is to be said of the computer behind an offer.
fn host(ware: &Ware, number: u64) -> Value {
    let vram = ware.vram * 1024 - 12;
    json!({
        "machine_id": number + 50_000, "host_id": 77, "num_gpus": ware.count, "gpu_frac": 1.0,
        "gpu_name": ware.gpu, "gpu_ram": vram, "gpu_total_ram": vram * u64::from(ware.count),
        "gpu_arch": "nvidia", "compute_cap": 890, "cuda_max_good": 12.8,
        "driver_version": "570.86.15", "cpu_arch": "amd64", "cpu_name": "EPYC", "cpu_cores": 64,
        "cpu_cores_effective": 16.0, "cpu_ram": 257_000, "disk_space": 900.5, "disk_bw": 2500.0,
        "inet_down": 820.5, "inet_up": 640.2, "reliability": 0.995, "reliability2": 0.995,
        "verification": if number.is_multiple_of(5) { "unverified" } else { "verified" },
        "hosting_type": number % 2, "geolocation": ware.region, "direct_port_count": 100,
        "static_ip": true, "public_ipaddr": "127.0.0.1", "dlperf": 90.0, "pcie_bw": 22.0,
        "total_flops": 80.0, "gpu_mem_bw": 1_008.0, "bw_nvlink": 0.0, "resource_type": "gpu",
        "vms_enabled": false,
    })
}

/// One object with the fields of both; the second one's count.
fn merged(mut object: Value, with: &Value) -> Value {
    for (name, value) in with.as_object().into_iter().flatten() {
        object[name] = value.clone();
    }
    object
}

fn rent(books: &mut Books, ask: &str, body: &Value) -> Reply {
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    if text("image").is_empty() {
        return refuse(400, "invalid_args", "image is required");
    }
    if 256 < text("label").len() {
        return refuse(400, "invalid_args", "label_too_long");
    }
    if 4_048 < text("onstart").len() {
        return refuse(400, "invalid_args", "onstart is too long");
    }
    let Some(ware) = books.wares.iter().find(|ware| ware.id == ask && 0 < ware.free) else {
        return gone(ask);
    };
    let bid = body["price"].as_f64().and_then(UsdPerHour::from_dollars);
    let too_low = bid.is_some_and(|bid| bid < ware.spot.unwrap_or(ware.price));
    let disk = body["disk"].as_f64().map_or(8, |disk| crate::json::Number(disk).count());
    let price = bid.unwrap_or(ware.price).plus(storage(disk));
    if too_low {
        books.mishap = Some(super::fault::Mishap::BidTooLow);
    }
    let wish = Wish {
        ware: ask.to_owned(),
        label: text("label"),
        price,
        spot: bid.is_some(),
        public_key: authorized(&text("onstart")),
        script: text("onstart"),
        env: environment(&body["env"]),
        image: text("image"),
        disk,
        kept_if_outbid: true,
        ..Wish::default()
    };
    let id = (7_835_000 + books.next_number()).to_string();
    match books.rent(id.clone(), wish) {
        Ok(rental) => Reply::json(
            200,
            &json!({ "success": true, "new_contract": number(&rental.id),
                "instance_api_key": rental.own_key }),
        ),
        Err(Refusal::Gone) => gone(ask),
        Err(Refusal::Unpaid) => refuse(400, "missing_billing", "Insufficient credit"),
        // It says no, and has made one all the same.
        Err(Refusal::Outbid) => Reply::json(
            400,
            &json!({ "success": false, "error": "invalid_price", "msg": "your bid is too low",
                "new_contract": number(&id) }),
        ),
    }
}

fn gone(ask: &str) -> Reply {
    let msg = format!("error 404/3603: no_such_ask Instance type by id {ask} is not available.");
    refuse(404, "invalid_args", &msg)
}

fn number(id: &str) -> u64 {
    id.parse().unwrap_or(0)
}

/// The key that a start script lets in, since the order itself has no place for one.
fn authorized(script: &str) -> String {
    let from = script.find("ssh-").unwrap_or(script.len());
    let key = script[from..].lines().next().unwrap_or_default();
    key.split(['\'', '"']).next().unwrap_or_default().trim().to_owned()
}

fn environment(env: &Value) -> BTreeMap<String, String> {
    let pairs = env.as_object().into_iter().flatten();
    let named = pairs.filter(|(name, _)| !name.starts_with('-'));
    named
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// One page, after the token of the one before it.
fn page(books: &Books, ask: &Ask) -> Reply {
    let limit = match ask.query.get("limit").and_then(|limit| limit.parse::<i64>().ok()) {
        Some(limit) if limit <= 0 => 5,
        Some(limit) => usize::try_from(limit).unwrap_or(PAGE).min(PAGE),
        None => PAGE,
    };
    let filters: Map<_, _> = ask
        .query
        .get("select_filters")
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let after = ask.number("after_token").unwrap_or(0);
    let rows: Vec<_> = books
        .listed()
        .map(|rental| row(rental, books.machines))
        .filter(|row| filters.iter().all(|(field, condition)| holds(row, field, condition)))
        .collect();
    let shown: Vec<_> = rows.iter().skip(after).take(limit).cloned().collect();
    let next = after + shown.len();
    let token = (next < rows.len()).then(|| next.to_string());
    Reply::json(
        200,
        &json!({ "success": true, "instances_found": shown.len(), "total_instances": rows.len(),
            "next_token": token, "instances": shown }),
    )
}

fn row(rental: &Rental, machines: bool) -> Value {
    let phase = rental.phase(machines);
    let (actual, intended) = match &phase {
        Phase::Booting => (json!("loading"), "running"),
        Phase::Running => (json!("running"), "running"),
        Phase::Outbid => (json!("exited"), "stopped"),
        Phase::Stopped => (json!("stopped"), "stopped"),
        Phase::Odd(word) => (json!(word), "running"),
        Phase::Ended => (json!(null), "stopped"),
    };
    let port = rental.port.unwrap_or(22_022);
    let ports = (phase == Phase::Running)
        .then(|| json!({ "22/tcp": [{ "HostIp": "0.0.0.0", "HostPort": port.to_string() }] }));
    let since = rental.since.duration_since(UNIX_EPOCH).unwrap_or_default();
    let label = Some(&rental.wish.label).filter(|label| !label.is_empty());
    let row = ask_row(&rental.ware, rental.wish.disk, rental.wish.spot);
    let facts = json!({
        "id": number(&rental.id), "label": label, "actual_status": actual,
        "cur_state": intended, "next_state": intended, "intended_status": intended,
        "status_msg": if phase == Phase::Booting { "pulling the image" } else { "" },
        "is_bid": rental.wish.spot, "dph_total": rental.price.dollars(),
        "start_date": since.as_secs_f64(), "ssh_host": "127.0.0.1", "ssh_port": port,
        "public_ipaddr": "127.0.0.1", "ports": ports, "image_uuid": rental.wish.image,
        "image_runtype": "ssh_direct", "extra_env": [], "gpu_util": 0.0,
    });
    merged(row, &facts)
}
