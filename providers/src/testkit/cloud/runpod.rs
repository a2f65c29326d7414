//! Runpod's dialect: REST version 2, and as much of GraphQL as its own Python package uses.

use super::{
    books::{Books, Refusal, Ware},
    dialect::{Ask, Caller, Reply, Stub},
    fault::Call,
    rental::{Phase, Rental, Wish},
};
use crate::{UsdPerHour, json::rfc3339};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Dollars for a GB of container disk and an hour.
const DISK_PER_GB_HOUR: f64 = 0.10 / 730.0;

/// The words that an order may have. Any other is refused.
const WORDS: [&str; 16] = [
    "name",
    "image",
    "cloud",
    "gpu",
    "dataCenterIds",
    "disk",
    "ports",
    "env",
    "args",
    "startSsh",
    "startJupyter",
    "globalNetworking",
    "registry",
    "templateId",
    "mounts",
    "cpu",
];

/// Runpod.
pub(super) struct Runpod;

impl Stub for Runpod {
    fn stock(&self, _many: usize) -> Vec<Ware> {
        // Model, memory, secure, community.
        const KINDS: [(&str, u64, f64, f64); 5] = [
            ("NVIDIA GeForce RTX 4090", 24, 0.69, 0.34),
            ("NVIDIA GeForce RTX 3090", 24, 0.46, 0.22),
            ("NVIDIA L40S", 48, 0.86, 0.79),
            ("NVIDIA A100-SXM4-80GB", 80, 1.49, 1.39),
            ("NVIDIA H100 80GB HBM3", 80, 2.69, 0.0),
        ];
        let wares = KINDS.iter().flat_map(|(gpu, vram, secure, community)| {
            [("SECURE", *secure), ("COMMUNITY", *community)].into_iter().map(
                move |(cloud, price)| Ware {
                    id: format!("{cloud}/{gpu}"),
                    gpu: (*gpu).to_owned(),
                    vram: *vram,
                    count: 1,
                    price: dollars(price),
                    spot: None,
                    region: "EU-RO-1".to_owned(),
                    free: if 0.0 < price { 200 } else { 0 },
                },
            )
        });
        wares.collect()
    }

    fn call(&self, ask: &Ask) -> Call {
        match (ask.method.as_str(), ask.parts().as_slice()) {
            ("POST", ["graphql"]) => graphql_call(&ask.body),
            ("GET", ["v2", "catalog", ..]) => Call::Offers,
            ("POST", ["v2", "pods"]) => Call::Rent,
            ("GET", ["v2", "pods"]) => Call::List,
            ("GET", ["v2", "pods", _]) => Call::Show,
            ("DELETE", ["v2", "pods", _]) | ("POST", ["v2", "pods", _, "action"]) => Call::Release,
            (_, ["v2", "account", "ssh-keys"]) => Call::Keys,
            _ => Call::Other,
        }
    }

    fn key<'a>(&self, ask: &'a Ask) -> &'a str {
        match ask.query.get("api_key") {
            Some(key) => key,
            None => ask.bearer(),
        }
    }

    fn is_about(&self, ask: &Ask, id: &str) -> bool {
        let query = ask.json()["query"].as_str().map(|query| argument(query, "podId"));
        ask.parts().contains(&id) || query.is_some_and(|named| named == id)
    }

    fn turn_away(&self) -> Reply {
        problem(401, "Unauthorized", "missing bearer token")
    }

    fn answer(&self, books: &mut Books, ask: &Ask, caller: &Caller) -> Reply {
        match (ask.method.as_str(), ask.parts().as_slice()) {
            ("POST", ["graphql"]) => graphql(books, &ask.json(), caller),
            ("GET", ["v2", "catalog", "gpus"]) => catalog(books, ask),
            ("POST", ["v2", "pods"]) => rent(books, &ask.json()),
            ("GET", ["v2", "pods"]) => page(books, ask),
            ("GET", ["v2", "pods", id]) => {
                let rental = books.listed().find(|rental| rental.id == *id);
                match rental.map(|rental| pod(rental, books.machines)) {
                    Some(pod) => Reply::json(200, &pod),
                    None => problem(404, "Not Found", "pod not found"),
                }
            }
            ("DELETE", ["v2", "pods", id]) => end(books, id, caller),
            ("POST", ["v2", "pods", id, "action"]) => match ask.json()["action"].as_str() {
                Some("terminate") => end(books, id, caller),
                Some("stop") if books.halt(id) => Reply::empty(204),
                _ => problem(409, "Conflict", "the pod can't do that now"),
            },
            _ => problem(404, "Not Found", "no such path"),
        }
    }

    fn environment(&self, id: &str, own_key: &str) -> Vec<(&'static str, String)> {
        vec![("RUNPOD_POD_ID", id.to_owned()), ("RUNPOD_API_KEY", own_key.to_owned())]
    }
}

fn dollars(dollars: f64) -> UsdPerHour {
    UsdPerHour::from_dollars(dollars).expect("our own prices are prices")
}

fn problem(status: u16, title: &str, detail: &str) -> Reply {
    let body = json!({ "title": title, "status": status, "detail": detail });
    Reply { kind: "application/problem+json", ..Reply::json(status, &body) }
}

fn end(books: &mut Books, id: &str, caller: &Caller) -> Reply {
    if books.end(id, caller.ender()) {
        return Reply::empty(204);
    }
    problem(404, "Not Found", "pod not found")
}

fn catalog(books: &Books, ask: &Ask) -> Reply {
    let cloud = ask.query.get("cloud").map_or("SECURE", String::as_str);
    let stocked = ask.query.get("include").is_some_and(|include| include == "AVAILABILITY");
    if stocked && !ask.query.contains_key("product") {
        return problem(400, "Bad Request", "include=AVAILABILITY needs product");
    }
    if !stocked && ask.query.contains_key("count") {
        return problem(400, "Bad Request", "count is valid only with include");
    }
    let find = |cloud: &str, gpu: &str| {
        books.wares.iter().find(|ware| ware.id == format!("{cloud}/{gpu}") && 0 < ware.free)
    };
    let kinds = books.wares.iter().filter(|ware| ware.id.starts_with("SECURE/"));
    let gpus = kinds.map(|ware| {
        let (secure, community) = (find("SECURE", &ware.gpu), find("COMMUNITY", &ware.gpu));
        let price = |ware: Option<&Ware>| ware.map_or(0.0, |ware| ware.price.dollars());
        let most = |ware: Option<&Ware>| ware.map_or(0, |ware| ware.free.min(8));
        let available = find(cloud, &ware.gpu).is_some();
        let mut row = json!({
            "id": ware.gpu, "name": ware.gpu.trim_start_matches("NVIDIA "), "pool": null,
            "manufacturer": "NVIDIA", "memory": ware.vram, "secure": secure.is_some(),
            "community": community.is_some(),
            "price": { "secure": price(secure), "community": price(community), "serverless": 1.1 },
            "maxCount": { "secure": most(secure), "community": most(community) },
        });
        if stocked {
            row["availability"] = json!(if available { "LOW" } else { "NONE" });
            row["cudaVersions"] = json!([{ "version": "12.8", "available": true }]);
            if available {
                row["dataCenters"] = json!([{ "id": ware.region, "availability": "LOW" }]);
            }
        }
        row
    });
    Reply::json(200, &json!({ "gpus": gpus.collect::<Vec<_>>() }))
}

fn rent(books: &mut Books, body: &Value) -> Reply {
    let Some(words) = body.as_object() else {
        return problem(422, "Unprocessable Entity", "the body is no object");
    };
    if let Some(other) = words.keys().find(|word| !WORDS.contains(&word.as_str())) {
        let errors = [format!("$: additional properties '{other}' not allowed")];
        let body = json!({ "title": "Unprocessable Entity", "status": 422,
            "detail": "the body violates the schema", "errors": errors });
        return Reply::json(422, &body);
    }
    let (Some(name), Some(image), Some(gpu), Some(count)) = (
        body["name"].as_str().filter(|name| !name.is_empty()),
        body["image"].as_str().filter(|image| !image.is_empty()),
        body["gpu"]["id"].as_str(),
        body["gpu"]["count"].as_u64(),
    ) else {
        return problem(422, "Unprocessable Entity", "name, image and gpu are required");
    };
    let cloud = body["cloud"].as_str().unwrap_or("SECURE");
    let ware = format!("{cloud}/{gpu}");
    let disk = body["disk"].as_u64().unwrap_or(20);
    let each = books.wares.iter().find(|known| known.id == ware).map(|ware| ware.price);
    let each = each.unwrap_or_default().dollars();
    let env: BTreeMap<_, _> = strings(&body["env"]);
    let wish = Wish {
        ware,
        label: name.to_owned(),
        price: dollars(each * count as f64 + disk as f64 * DISK_PER_GB_HOUR),
        spot: false,
        public_key: env.get("PUBLIC_KEY").cloned().unwrap_or_default(),
        script: command(body["args"].as_str().unwrap_or_default()),
        env,
        image: image.to_owned(),
        disk,
        ..Wish::default()
    };
    match create(books, wish) {
        Ok(pod) => Reply::json(201, &pod),
        Err(refused) => refused,
    }
}

fn create(books: &mut Books, wish: Wish) -> Result<Value, Reply> {
    const GONE: &str = "There are no longer any instances available with the requested \
                        specifications. Please refresh and try again.";
    let id = format!("pod{:07x}", books.next_number());
    let machines = books.machines;
    match books.rent(id, wish) {
        Ok(rental) => {
            let mut pod = pod(rental, machines);
            // Whatever it will be, it is not there yet.
            pod["status"] = json!("PROVISIONING");
            pod["ssh"] = json!({ "proxy": null, "direct": null });
            pod["runtime"] = Value::Null;
            Ok(pod)
        }
        Err(Refusal::Unpaid) => Err(problem(402, "Payment Required", "your balance is too low")),
        Err(Refusal::Gone | Refusal::Outbid) => Err(problem(400, "Bad Request", GONE)),
    }
}

/// What the container is told to run instead of its image's own command.
fn command(args: &str) -> String {
    let parsed: Value = serde_json::from_str(args).unwrap_or(Value::Null);
    let script = parsed["cmd"].as_array().and_then(|words| words.first()?.as_str());
    script.unwrap_or(args).to_owned()
}

fn strings(object: &Value) -> BTreeMap<String, String> {
    let pairs = object.as_object().into_iter().flatten();
    pairs
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

fn page(books: &Books, ask: &Ask) -> Reply {
    let limit = ask.number("limit").unwrap_or(1_000);
    if !(1..=1_000).contains(&limit) {
        return problem(422, "Unprocessable Entity", "limit is 1 to 1000");
    }
    let after = match ask.query.get("cursor").map(|cursor| cursor.strip_prefix("after-")) {
        None => 0,
        Some(cursor) => match cursor.and_then(|cursor| cursor.parse().ok()) {
            Some(after) => after,
            None => return problem(422, "Unprocessable Entity", "bad cursor"),
        },
    };
    let pods: Vec<_> = books.listed().map(|rental| pod(rental, books.machines)).collect();
    let shown: Vec<_> = pods.iter().skip(after).take(limit).cloned().collect();
    let next = after + shown.len();
    let more = next < pods.len();
    let cursor = more.then(|| format!("after-{next}"));
    let pagination = json!({ "nextCursor": cursor, "hasNextPage": more });
    Reply::json(200, &json!({ "pods": shown, "pagination": pagination }))
}

fn pod(rental: &Rental, machines: bool) -> Value {
    let phase = rental.phase(machines);
    let status = match &phase {
        Phase::Booting => "STARTING",
        Phase::Running => "RUNNING",
        Phase::Outbid | Phase::Stopped => "EXITED",
        Phase::Odd(word) => word,
        Phase::Ended => "TERMINATED",
    };
    let port = rental.port.unwrap_or(22_022);
    let direct = (phase == Phase::Running).then(|| {
        json!({ "host": "127.0.0.1", "port": port, "username": "root",
            "command": format!("ssh root@127.0.0.1 -p {port}") })
    });
    let runtime = (phase == Phase::Running).then(|| {
        json!({ "uptime": 1, "ports":
            [{ "private": 22, "public": port, "type": "tcp", "ip": "127.0.0.1" }] })
    });
    let (cloud, _) = rental.ware.id.split_once('/').unwrap_or_default();
    json!({
        "id": rental.id, "name": rental.wish.label, "image": rental.wish.image, "args": "",
        "disk": rental.wish.disk, "ports": ["22/tcp"], "env": rental.wish.env, "registry": null,
        "status": status, "actions": ["stop", "terminate"], "mounts": {},
        "gpu": { "id": rental.ware.gpu, "count": rental.ware.count, "vcpuCount": 16, "memory": 64 },
        "cloud": cloud, "dataCenterId": rental.ware.region, "cudaVersion": "12.8",
        "ssh": { "proxy": null, "direct": direct }, "template": null,
        "cost": if matches!(phase, Phase::Outbid | Phase::Stopped) { 0.0 } else { rental.price.dollars() },
        "locked": false, "globalNetworking": { "enabled": false }, "runtime": runtime,
        "createdAt": rfc3339(rental.since), "startedAt": null,
    })
}

/// What a GraphQL request is for. Its Python package writes each in one shape only.
fn graphql_call(body: &str) -> Call {
    let kinds = [
        ("podFindAndDeployOnDemand", Call::Rent),
        ("podTerminate", Call::Release),
        ("gpuTypes", Call::Offers),
        ("pods", Call::List),
        ("pod(", Call::Show),
    ];
    let found = kinds.iter().find(|(word, _)| body.contains(word));
    found.map_or(Call::Other, |(_, call)| *call)
}

fn graphql(books: &mut Books, body: &Value, caller: &Caller) -> Reply {
    let query = body["query"].as_str().unwrap_or_default();
    let data = match graphql_call(query) {
        Call::Rent => match graphql_rent(books, query) {
            Ok(data) => data,
            Err(errors) => return errors,
        },
        Call::Release => {
            if !books.end(&argument(query, "podId"), caller.ender()) {
                return errors("pod not found to terminate");
            }
            json!({ "podTerminate": null })
        }
        Call::Offers => graphql_gpus(books, query),
        Call::List => {
            let pods: Vec<_> =
                books.listed().map(|rental| old_pod(rental, books.machines)).collect();
            json!({ "myself": { "id": "user", "pods": pods } })
        }
        Call::Show => {
            let id = argument(query, "podId");
            let found = books.listed().find(|rental| rental.id == id);
            json!({ "pod": found.map(|rental| old_pod(rental, books.machines)) })
        }
        Call::Keys | Call::Token | Call::Other => json!({ "myself": {
            "id": "user", "email": "tester@example.com", "clientBalance": 25.0,
            "currentSpendPerHr": 0.0, "spendLimit": 80.0, "pubKey": "", "networkVolumes": [],
        }}),
    };
    Reply::json(200, &json!({ "data": data }))
}

/// A failure is a success there, with errors in it.
fn errors(message: &str) -> Reply {
    Reply::json(200, &json!({ "errors": [{ "message": message }], "data": null }))
}

fn graphql_rent(books: &mut Books, query: &str) -> Result<Value, Reply> {
    let gpu = argument(query, "gpuTypeId");
    let clouds = match argument(query, "cloudType").as_str() {
        "SECURE" => &["SECURE"][..],
        "COMMUNITY" => &["COMMUNITY"][..],
        _ => &["COMMUNITY", "SECURE"][..],
    };
    let wanted = |ware: &&Ware| {
        0 < ware.free && clouds.iter().any(|cloud| ware.id == format!("{cloud}/{gpu}"))
    };
    let Some(ware) = books.wares.iter().find(wanted) else {
        return Err(errors("There are no longer any instances available."));
    };
    let disk = argument(query, "containerDiskInGb").parse().unwrap_or(10);
    let wish = Wish {
        ware: ware.id.clone(),
        label: argument(query, "name"),
        price: dollars(ware.price.dollars() + disk as f64 * DISK_PER_GB_HOUR),
        image: argument(query, "imageName"),
        disk,
        ..Wish::default()
    };
    let created = create(books, wish).map_err(|refused| errors(&refused.body))?;
    let rental = books.find(created["id"].as_str().unwrap_or_default());
    let pod = rental.map(|rental| old_pod(rental, books.machines));
    Ok(json!({ "podFindAndDeployOnDemand": pod }))
}

fn graphql_gpus(books: &Books, query: &str) -> Value {
    let wanted = argument(query, "id");
    let kinds = books.wares.iter().filter(|ware| ware.id.starts_with("SECURE/"));
    let kinds = kinds.filter(|ware| wanted.is_empty() || ware.gpu == wanted);
    let rows = kinds.map(|ware| {
        let community =
            books.wares.iter().find(|other| other.id == format!("COMMUNITY/{}", ware.gpu));
        let community = community.map_or(0.0, |ware| ware.price.dollars());
        let lowest =
            json!({ "minimumBidPrice": null, "uninterruptablePrice": ware.price.dollars() });
        json!({
            "id": ware.gpu, "displayName": ware.gpu.trim_start_matches("NVIDIA "),
            "memoryInGb": ware.vram, "manufacturer": "Nvidia", "cudaCores": 0,
            "secureCloud": true, "communityCloud": 0.0 < community,
            "securePrice": ware.price.dollars(), "communityPrice": community,
            "maxGpuCount": 8, "lowestPrice": lowest,
        })
    });
    json!({ "gpuTypes": rows.collect::<Vec<_>>() })
}

fn old_pod(rental: &Rental, machines: bool) -> Value {
    let running = rental.phase(machines) == Phase::Running;
    let env: Vec<_> = rental.wish.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut pod: Map<_, _> = Map::new();
    let facts = json!({
        "id": rental.id, "name": rental.wish.label, "imageName": rental.wish.image, "env": env,
        "desiredStatus": "RUNNING", "costPerHr": rental.price.dollars(), "gpuCount": rental.ware.count,
        "containerDiskInGb": rental.wish.disk, "machineId": "machine", "podType": "RESERVED",
        "machine": { "gpuDisplayName": rental.ware.gpu, "podHostId": format!("{}-host", rental.id) },
        "ports": "22/tcp", "memoryInGb": 64, "vcpuCount": 16, "uptimeSeconds": 0,
    });
    pod.extend(facts.as_object().cloned().unwrap_or_default());
    let port = rental.port.unwrap_or(22_022);
    let runtime = running.then(|| {
        json!({ "uptimeInSeconds": 1, "gpus": [], "ports": [{ "ip": "127.0.0.1", "isIpPublic": true,
            "privatePort": 22, "publicPort": port, "type": "tcp" }] })
    });
    pod.insert("runtime".into(), json!(runtime));
    pod.into()
}

/// An argument written into a query: `name: "value"`, or without the quotes.
fn argument(query: &str, name: &str) -> String {
    let starts = query.match_indices(name).map(|(place, _)| place);
    for start in starts {
        let before = query[..start].chars().next_back();
        let rest = query[start + name.len()..].trim_start();
        let (false, Some(value)) =
            (before.is_some_and(char::is_alphanumeric), rest.strip_prefix(':'))
        else {
            continue;
        };
        let value = value.trim_start();
        return match value.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next().unwrap_or_default().to_owned(),
            None => value
                .split(|letter: char| letter == ',' || letter == '}' || letter.is_whitespace())
                .next()
                .unwrap_or_default()
                .to_owned(),
        };
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_in_a_query() {
        let query = r#"mutation { podFindAndDeployOnDemand(input: { name: "a", imageName: "b:1",
            gpuTypeId: "NVIDIA L40S", cloudType: ALL, containerDiskInGb: 10 }) { id } }"#;
        assert_eq!(argument(query, "name"), "a");
        assert_eq!(argument(query, "imageName"), "b:1");
        assert_eq!(argument(query, "cloudType"), "ALL");
        assert_eq!(argument(query, "containerDiskInGb"), "10");
        assert_eq!(argument(query, "podId"), "");
    }
}
