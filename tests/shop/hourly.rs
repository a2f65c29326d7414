//! Plans by the hour, for a model of which nobody knows how large it is.

use crate::shopper::{Shopper, squeezed};

const JOB: [&str; 11] = [
    "run",
    "--dry-run",
    "--prompt-count",
    "1000000",
    "--input-tokens",
    "1000",
    "--output-tokens",
    "200",
    "--provider",
    "all",
    "--model",
];

async fn shopper() -> Shopper {
    let mut shopper = Shopper::with_all_keys().await;
    // No hub is asked, wherever this runs.
    shopper.set("HF_ENDPOINT", "http://127.0.0.1:9");
    shopper
}

#[tokio::test(flavor = "multi_thread")]
async fn what_so_much_vram_costs_an_hour_is_shown_for_a_model_that_nobody_knows() {
    let shopper = shopper().await;
    let job = |more: &[&str]| shopper.run(&[&JOB[..], &["acme/new"], more].concat());
    let said = job(&["--vram", "80"]);
    assert!(said.err.starts_with("warning: the size of `acme/new` is not known"), "{}", said.err);
    assert!(said.out.lines().all(|line| line.chars().count() <= 100), "{}", said.out);
    let beginning: Vec<_> = said.out.lines().take(7).collect();
    insta::assert_snapshot!(squeezed(&beginning.join("\n")), @r"
    acme/new on vllm: 1,000,000 prompts of 1,000 + 200 tokens, 1.2 billion tokens in all

    time and cost of the job can't be told; GPUs with 80.0 GiB or more, the cheapest hour first:

    price  machine  VRAM  from  offers
    1  $0.9038/h  A100 80GB SXM  80.0 GiB  vast  1
    2  $1.35/h  A100 80GB PCIe  80.0 GiB  shadeform  1
    ");
    assert!(said.out.contains("\nhosted: "), "{}", said.out);
    assert_eq!(said.code, Some(0));
    let said = job(&["--vram", "80", "--json"]);
    let plan = &said.json()[0];
    let prices: Vec<_> = plan["offers"].as_array().expect("a list").iter().collect();
    let prices: Vec<_> = prices.iter().map(|listed| listed["offer"]["price"].as_u64()).collect();
    assert!(prices.is_sorted() && !prices.is_empty(), "{plan}");
    let why = plan["not_reckoned"].as_str().expect("a reason");
    assert!(why.contains("the hub can't be asked"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_has_so_much_vram_or_it_was_not_said_it_is_told_what_would_help() {
    let shopper = shopper().await;
    for (more, code, error, hint) in [
        (
            &["--vram", "2400"][..],
            3,
            "no offer has 2400.0 GiB of VRAM",
            "piecework offers --explain",
        ),
        (&[], 1, "the size of `acme/new` is not known", "`--vram 24GB` shows"),
    ] {
        let said = shopper.run(&[&JOB[..], &["acme/new"], more].concat());
        assert_eq!((said.code, said.out.as_str()), (Some(code), ""), "{}", said.err);
        assert!(said.err.contains(error) && said.err.contains(hint), "{}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_known_is_planned_for_all_the_same() {
    let said =
        shopper().await.run(&[&JOB[..], &["Llama-3.1-8B-Instruct", "--vram", "40"]].concat());
    assert!(said.out.contains("$/Mtok") && !said.out.contains("RTX 4090"), "{}", said.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wish_rules_out_is_named_where_it_would_do() {
    let job = |more: &'static [&'static str]| [&JOB[..], &["Qwen3-32B"], more].concat();
    let said = shopper().await.run(&job(&["--gpu", "4090"]));
    assert_eq!((said.code, said.out.as_str()), (Some(3), ""), "{}", said.err);
    let hint = "hint: keep the weights in fewer bits with `--weights int4`, or leave out `--gpu`: ";
    assert!(said.err.contains(hint) && said.err.contains(" would do"), "{}", said.err);
}
