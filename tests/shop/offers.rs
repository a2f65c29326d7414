//! What is for rent, as it is shown.

use crate::shopper::{Said, Shopper, squeezed};
use serde_json::Value;
use std::collections::BTreeSet;

/// What is said, without what differs from one computer and moment to the next.
fn told(said: &Said) -> String {
    let mut told = String::new();
    for line in said.all().lines() {
        let line = if line.ends_with("local") { "[THIS COMPUTER]" } else { line };
        let at = line.find(" UTC").map(|end| end - "00:00:00".len());
        let line =
            at.map_or(line.to_owned(), |at| format!("{}[TIME]{}", &line[..at], &line[at + 8..]));
        told.push_str(&line);
        told.push('\n');
    }
    squeezed(&told)
}

fn price(line: &Value) -> u64 {
    line["micro_usd_per_hour"].as_u64().expect("it has a price")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_key_open_marketplaces_are_shown_and_how_to_log_in_is_said() {
    let shopper = Shopper::new().await;
    insta::assert_snapshot!(told(&shopper.run(&["offers", "--limit", "6"])), @r"
    exit: Some(0)
    --- stdout
    price  GPUs  VRAM  cores  memory  disk  download  region  host  kept  from
    [THIS COMPUTER]
    $0.1738/h  1 × RTX 3090  24 GB  16  63 GB  900 GB  820 Mbit/s  Quebec, CA  data centre  on demand  vast
    $0.3238/h  1 × RTX 4090  24 GB  16  63 GB  900 GB  820 Mbit/s  Washington, US  unverified  on demand  vast
    $0.4200/h  1 × RTX A5000  24 GB  28  120 GB  850 GB  us-central-2  data centre  on demand  shadeform (imwt)
    $0.5038/h  1 × RTX 5090  32 GB  16  63 GB  900 GB  820 Mbit/s  Washington, US  verified  on demand  vast
    $0.5700/h  1 × RTX A6000  48 GB  28  120 GB  850 GB  us-central-1  data centre  on demand  shadeform (massedcompute)
    --- stderr
    6 of 12 offers at [TIME] UTC; `--limit 0` shows all
    no API key is known yet, and none is needed to look; to rent, keep one with `piecework login NAME`
    not asked without a key: runpod, lambda, verda, prime; `piecework login NAME` adds one
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_marketplace_with_a_key_is_asked_and_the_cheapest_comes_first() {
    let shopper = Shopper::with_all_keys().await;
    let said = shopper.run(&["offers", "--json"]);
    let lines = said.json();
    let sellers: BTreeSet<_> = lines.iter().filter_map(|line| line["provider"].as_str()).collect();
    let all = ["lambda", "local", "prime", "runpod", "shadeform", "vast", "verda"];
    assert_eq!(sellers, all.into(), "{}", said.err);
    assert!(lines.is_sorted_by_key(price));
    assert_eq!(said.err, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_offer_is_what_was_asked_for_whoever_lists_it() {
    let shopper = Shopper::with_all_keys().await;
    let wish = ["offers", "--json", "--vram", "24GB", "--count", "1", "--max-price", "2.50"];
    let said = shopper.run(&wish);
    let lines = said.json();
    assert!(3 <= lines.len(), "{}", said.all());
    for line in &lines {
        assert_eq!(line["gpus"], 1, "{line}");
        assert!(23_000 < line["vram_mib"].as_u64().expect("it has some"), "{line}");
        assert!(price(line) <= 2_500_000, "{line}");
        assert_eq!(line["rental"], "on_demand", "{line}");
    }
    let said = shopper.run(&[&wish[..], &["--interruptible", "--trust", "datacenter"]].concat());
    let lines = said.json();
    assert!(lines.iter().any(|line| line["rental"] == "interruptible"), "{}", said.all());
    assert!(lines.iter().all(|line| line["trust"] == "datacenter"), "{}", said.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rejection_has_its_reason() {
    let shopper = Shopper::new().await;
    let wish = ["--vram", "80GB", "--max-price", "1.50"];
    let said = shopper.run(&[&["offers", "--explain"], &wish[..]].concat());
    insta::assert_snapshot!(told(&said), @r"
    exit: Some(0)
    --- stdout
    price  GPUs  VRAM  cores  memory  disk  download  region  host  kept  from
    $0.9038/h  1 × A100 80GB SXM  80 GB  16  63 GB  900 GB  820 Mbit/s  Hesse, DE  data centre  on demand  vast
    $1.3500/h  1 × A100 80GB PCIe  80 GB  28  120 GB  850 GB  canada-1  data centre  on demand  shadeform (hyperstack)

    price  GPUs  from  not shown because
    $0.0000/h  no GPU  local  it has no GPU
    $0.1038/h  1 × RTX 3090  vast  23.9 GiB of VRAM are less than --vram
    $0.1738/h  1 × RTX 3090  vast  23.9 GiB of VRAM are less than --vram
    $0.1838/h  1 × RTX 4090  vast  23.9 GiB of VRAM are less than --vram
    $0.3038/h  1 × RTX 5090  vast  31.9 GiB of VRAM are less than --vram
    $0.3238/h  1 × RTX 4090  vast  23.9 GiB of VRAM are less than --vram
    $0.3938/h  1 × L40S  vast  47.9 GiB of VRAM are less than --vram
    $0.4200/h  1 × RTX A5000  shadeform (imwt)  24.0 GiB of VRAM are less than --vram
    $0.5038/h  1 × RTX 5090  vast  31.9 GiB of VRAM are less than --vram
    $0.5638/h  1 × A100 80GB SXM  vast  interruptible, which --interruptible would allow
    $0.5700/h  1 × RTX A6000  shadeform (massedcompute)  48.0 GiB of VRAM are less than --vram
    $0.6338/h  1 × L40S  vast  47.9 GiB of VRAM are less than --vram
    $0.7400/h  1 × L40S  shadeform (latitude)  48.0 GiB of VRAM are less than --vram
    $1.0800/h  1 × A100 80GB PCIe  shadeform (hyperstack)  interruptible, which --interruptible would allow
    $1.2138/h  1 × H100 SXM  vast  interruptible, which --interruptible would allow
    $1.6600/h  1 × H100 PCIe  shadeform (latitude)  dearer than --max-price
    $1.8838/h  1 × H100 SXM  vast  dearer than --max-price
    --- stderr
    2 offers at [TIME] UTC
    no API key is known yet, and none is needed to look; to rent, keep one with `piecework login NAME`
    not asked without a key: runpod, lambda, verda, prime; `piecework login NAME` adds one
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_has_the_names_and_values_of_the_json() {
    let shopper = Shopper::new().await;
    let json = shopper.run(&["offers", "--json", "--provider", "shadeform"]).json();
    let csv = shopper.run(&["offers", "--csv", "--provider", "shadeform"]).out;
    let mut lines = csv.lines();
    let names: Vec<_> = lines.next().expect("there are names").split(',').collect();
    let first: Vec<_> = json[0].as_object().expect("it is one").keys().collect();
    assert_eq!(names, first);
    assert_eq!(lines.count(), json.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_fits_has_an_exit_code_of_its_own() {
    let shopper = Shopper::new().await;
    insta::assert_snapshot!(shopper.run(&["offers", "--gpu", "abacus"]).all(), @r"
    exit: Some(3)
    --- stdout
    --- stderr
    error: no offer is what was asked for
    hint: `--explain` says why not
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_named_before_anybody_is_asked() {
    let shopper = Shopper::new().await;
    for (arguments, message) in [
        (&["--provider", "acme"][..], "error: there is no marketplace `acme`"),
        (&["--vram", "much"], "error: `much` is no size; write it like `24GB` or `24`"),
        (&["--max-price", "ten"], "error: `ten` is no amount of dollars"),
    ] {
        let said = shopper.run(&[&["offers"], arguments].concat());
        assert_eq!(said.code, Some(2));
        assert!(said.err.starts_with(message), "{}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marketplace_that_wants_a_key_says_so_when_it_is_named() {
    let shopper = Shopper::new().await;
    let said = shopper.run(&["offers", "--provider", "lambda", "--provider", "local"]);
    assert_eq!(said.code, Some(0));
    let warning = "warning: lambda shows its offers only with its key: `piecework login lambda`\n";
    assert!(said.err.starts_with(warning), "{}", said.err);
}
