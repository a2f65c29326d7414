//! Offers as a table for people, and as facts for programs.

use super::{Cell, Column, Table, Tone, out, words};
use crate::{choose::Listed, gpus::Gpu, wish::trust_word};
use jiff::Timestamp;
use providers::{Arch, Host, Mib, Offer, Rental, Trust};
use serde_json::{Map, Value, json};

/// Longer names of places are cut.
const PLACE: usize = 24;

/// Prints offers as a table. The first is what was looked for.
pub fn table(offers: &[Listed]) {
    let mut table = Table::with([
        Column::numbers("price"),
        Column::words("GPUs"),
        Column::numbers("VRAM"),
        Column::numbers("cores").spare(5),
        Column::numbers("memory").spare(6),
        Column::numbers("disk").spare(7),
        Column::numbers("download").spare(8),
        Column::words("region").spare(2),
        Column::words("host").spare(3),
        Column::words("kept").spare(4),
        Column::words("from"),
    ]);
    for (at, listed) in offers.iter().enumerate() {
        table.row(row(listed, at == 0));
    }
    table.print();
}

/// Prints offers that aren't shown, each with the reason.
pub fn rejected(offers: &[(Listed, String)]) {
    let mut table = Table::with([
        Column::numbers("price"),
        Column::words("GPUs"),
        Column::words("from"),
        Column::words("not shown because"),
    ]);
    for (listed, why) in offers {
        let price = listed.offer.price.to_string();
        table.row([price, gpus(&listed.offer), from(listed), why.clone()]);
    }
    table.print();
}

/// Prints offers as JSON, one a line, those that weren't wished for with the reason.
pub fn json(offers: &[(Listed, Option<String>)]) {
    for (listed, why) in offers {
        out(&Value::Object(facts(listed, why.as_deref())).to_string());
    }
}

/// Prints offers as CSV, with a line of names. The names are those of the JSON.
pub fn csv(offers: &[(Listed, Option<String>)]) {
    let nothing = Listed { market: String::new(), offer: Offer::default() };
    let names: Vec<String> = facts(&nothing, None).into_iter().map(|(name, _)| name).collect();
    out(&names.join(","));
    for (listed, why) in offers {
        let cells = facts(listed, why.as_deref()).into_iter().map(|(_, value)| cell(&value));
        out(&cells.collect::<Vec<_>>().join(","));
    }
}

fn row(listed: &Listed, first: bool) -> [Cell; 11] {
    let offer = &listed.offer;
    let plain = Cell::from;
    let (kept, kept_tone) = match offer.rental {
        Rental::OnDemand => ("on demand", Tone::Plain),
        Rental::Interruptible { .. } => ("interruptible", Tone::Careful),
    };
    let (host, host_tone) = match (offer.host, offer.trust) {
        (Host::ThisComputer, _) => ("yours", Tone::Plain),
        (_, trust @ Trust::Anyone) => (trust_word(trust), Tone::Careful),
        (_, trust @ (Trust::Verified | Trust::Datacenter)) => (trust_word(trust), Tone::Plain),
    };
    let vram = offer.gpus.as_ref().map_or(Mib(0), |gpus| gpus.vram);
    [
        Cell::new(offer.price.to_string(), if first { Tone::Good } else { Tone::Plain }),
        plain(gpus(offer)),
        plain(gb(vram)),
        plain(told(offer.cores, |cores| cores.to_string())),
        plain(gb(offer.memory)),
        plain(gb(offer.disk)),
        plain(told(offer.network.down.unwrap_or(0), |mbit| {
            format!("{}bit/s", words::size(u64::from(mbit) * 1_000_000).trim_end_matches('B'))
        })),
        plain(short(&offer.region)),
        Cell::new(host, host_tone),
        Cell::new(kept, kept_tone),
        plain(from(listed)),
    ]
}

/// Everything about an offer, each with its unit in the name.
fn facts(listed: &Listed, why: Option<&str>) -> Map<String, Value> {
    let Listed { market, offer } = listed;
    let gpus = offer.gpus.as_ref();
    let (rental, floor) = match offer.rental {
        Rental::OnDemand => ("on_demand", None),
        Rental::Interruptible { floor } => ("interruptible", Some(floor)),
    };
    let trust = match offer.trust {
        Trust::Anyone => "any",
        Trust::Verified => "verified",
        Trust::Datacenter => "datacenter",
    };
    let host = match offer.host {
        Host::Container => "container",
        Host::Vm => "vm",
        Host::ThisComputer => "this_computer",
    };
    let arch = match offer.arch {
        Arch::X86_64 => "x86_64",
        Arch::Aarch64 => "aarch64",
    };
    let some = |mib: Mib| (mib != Mib(0)).then_some(mib);
    let facts = json!({
        "v": 1,
        "provider": market,
        "seller": offer.seller,
        "id": offer.id,
        "usd_per_hour": offer.price.dollars(),
        "micro_usd_per_hour": offer.price,
        "gpus": gpus.map_or(0, |gpus| gpus.count),
        "gpu": gpus.map(|gpus| Gpu::of(gpus).name),
        "gpu_as_listed": gpus.map(|gpus| &gpus.name),
        "vram_mib": gpus.map(|gpus| gpus.vram),
        "rental": rental,
        "floor_micro_usd_per_hour": floor,
        "region": offer.region,
        "trust": trust,
        "reliability_thousandths": offer.reliability,
        "host": host,
        "arch": arch,
        "cores": offer.cores,
        "memory_mib": some(offer.memory),
        "disk_mib": some(offer.disk),
        "download_mbit_per_second": offer.network.down,
        "upload_mbit_per_second": offer.network.up,
        "inbound_micro_usd_per_gb": offer.traffic.inbound,
        "outbound_micro_usd_per_gb": offer.traffic.outbound,
        "minimum_seconds": offer.billing.minimum.as_secs(),
        "step_seconds": offer.billing.step.as_secs(),
        "cuda": offer.cuda.map(|cuda| cuda.to_string()),
        "driver": offer.driver,
        "machine": offer.machine,
        "quoted_at": Timestamp::try_from(offer.quoted_at).ok().map(|at| at.to_string()),
        "rejected": why,
    });
    let Value::Object(facts) = facts else { unreachable!("it was written as one") };
    facts
}

/// A value in a line of CSV. A text that a spreadsheet would take for a formula is made a text.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            return value.to_string();
        }
    };
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text };
    if text.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

fn gpus(offer: &Offer) -> String {
    let Some(gpus) = &offer.gpus else { return "no GPU".to_owned() };
    format!("{} × {}", gpus.count, Gpu::of(gpus).name)
}

fn from(listed: &Listed) -> String {
    match &listed.offer.seller {
        Some(seller) => format!("{} ({seller})", listed.market),
        None => listed.market.clone(),
    }
}

/// Nothing is what isn't told.
fn told<T: Default + PartialEq>(value: T, text: impl FnOnce(T) -> String) -> String {
    if value == T::default() { String::new() } else { text(value) }
}

/// To the nearest gigabyte, as memory is sold.
fn gb(size: Mib) -> String {
    told(size.0, |mib| format!("{} GB", words::count((mib + 512) / 1024)))
}

fn short(place: &str) -> String {
    if place.chars().count() <= PLACE {
        return place.to_owned();
    }
    let start: String = place.chars().take(PLACE - 1).collect();
    format!("{}…", start.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_where_csv_needs_it_and_never_are_formulas() {
        for (value, text) in [
            (json!(null), ""),
            (json!(0.25), "0.25"),
            (json!("Sweden, SE"), "\"Sweden, SE\""),
            (json!("8\" disk"), "\"8\"\" disk\""),
            (json!("=cmd()"), "'=cmd()"),
            (json!("H100"), "H100"),
        ] {
            assert_eq!(cell(&value), text);
        }
    }

    #[test]
    fn what_is_not_told_is_empty() {
        let offer = Offer { region: "a place with a very long name".into(), ..Offer::default() };
        let row = row(&Listed { market: "acme".into(), offer }, false);
        let empty = Cell::default();
        assert_eq!([&row[2], &row[3], &row[4], &row[5], &row[6]], [&empty; 5]);
        assert_eq!(row[7], Cell::from("a place with a very lon…".to_owned()));
    }
}
