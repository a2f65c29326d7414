//! Marketplaces that don't answer as they should.

use crate::shopper::Shopper;
use providers::testkit::cloud::{Call, Fault};
use std::collections::BTreeSet;

fn sellers(lines: &[serde_json::Value]) -> BTreeSet<&str> {
    lines.iter().map(|line| line["provider"].as_str().expect("it has one")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_down_one_that_is_slow_and_one_that_refuses_cost_only_their_own_offers() {
    let mut shopper = Shopper::with_all_keys().await;
    shopper.set("PIECEWORK_RUNPOD_URL", "http://127.0.0.1:1");
    shopper.set("LAMBDA_API_KEY", "another-key");
    shopper.strike("verda", Call::Token, Fault::Slow { millis: 60_000 });
    let said = shopper.run(&["offers", "--json", "--timeout", "6s"]);
    assert_eq!(said.code, Some(0), "{}", said.all());
    assert_eq!(sellers(&said.json()), ["local", "prime", "shadeform", "vast"].into());
    insta::with_settings!({ filters => vec![(r"client error.*", "[WHY]"), (r"GET /instance-types.*", "[BODY]")] }, {
        insta::assert_snapshot!(said.err, @r"
    warning: lambda could not list offers: the API key was rejected: [BODY]
    warning: runpod could not list offers: the service is unavailable: GET /v2/catalog/gpus could not be sent: error sending request: [WHY]
    warning: verda could not log in: the service is unavailable: POST /oauth2/token got no whole answer: error sending request: operation timed out
    ");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_at_all_is_a_failure_and_not_an_empty_market() {
    let mut shopper = Shopper::new().await;
    shopper.set("PIECEWORK_VAST_URL", "http://127.0.0.1:1");
    let said = shopper.run(&["offers", "--provider", "vast", "--timeout", "6s"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    assert!(said.err.contains("no marketplace has answered"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_answer_is_never_half_an_answer() {
    let shopper = Shopper::new().await;
    for fault in [Fault::Truncate, Fault::Garble, Fault::Status { code: 503, retry_after: None }] {
        shopper.strike("vast", Call::Offers, fault);
        let said = shopper.run(&["offers", "--provider", "vast,local", "--json"]);
        assert_eq!(sellers(&said.json()), ["local"].into(), "{}", said.all());
        assert!(said.err.starts_with("warning: vast could not list offers: "), "{}", said.err);
    }
}
