//! The sizes of the models that are known by name against the published ones.

use crate::shape;
use piecework::catalogue::entries;

#[expect(clippy::print_stdout, reason = "what was measured is said")]
#[test]
fn sizes_agree_with_the_published_ones_to_the_last_digit() {
    let published = entries().iter().filter(|entry| entry.parameters.is_some()).count();
    assert!(40 <= published);
    for entry in entries() {
        let shape = entry.config.shape().unwrap();
        if let Some(published) = entry.parameters {
            assert_eq!(shape.parameters, published, "{}", entry.name);
        }
        assert_eq!(shape.kv_bytes_per_token(), entry.kv, "{}", entry.name);
    }
    let all = entries().len();
    println!("{published} models have the published parameters, {all} the bytes of KV for a token");
}

#[test]
fn mixtures_compute_with_what_their_reports_say() {
    // In billions: Qwen3's report (arXiv 2505.09388), DeepSeek-V3's (2412.19437), Kimi K2's
    // (2507.20534), gpt-oss' (2508.10925), Mixtral's (2401.04088).
    for (name, billions) in [
        ("Qwen3-30B-A3B", 3.3),
        ("Qwen3-235B-A22B", 22.0),
        ("DeepSeek-V3", 37.0),
        ("Kimi-K2-Instruct", 32.0),
        ("gpt-oss-20b", 3.6),
        ("gpt-oss-120b", 5.1),
        ("Mixtral-8x7B-Instruct-v0.1", 13.0),
    ] {
        let active = shape(name).active as f64 / 1e9;
        assert!((active / billions - 1.0).abs() < 0.08, "{name}: {active}");
    }
}
