//! The page, in a real browser.

use crate::{
    browser::Browser,
    made::{PROMPTS, make},
    program::{User, numbered},
};
use serde_json::Value;
use std::{env, fs, path::Path};

/// Ways to look at it.
const LOOKS: [(&str, (u32, u32), &str, &str); 5] = [
    ("light", (1100, 900), "light", "screen"),
    ("dark", (1100, 900), "dark", "screen"),
    ("narrow", (360, 740), "light", "screen"),
    ("narrow-dark", (360, 740), "dark", "screen"),
    ("print", (794, 1123), "light", "print"),
];

/// The page and the account of a run.
fn reported(user: &User, run: &str) -> (String, Value) {
    let page = user.folder().join("report.html");
    user.done(&["report", run, "--html", "report.html"]);
    let json = user.done(&["report", run, "--json"]);
    let account = serde_json::from_slice(&json.stdout).expect("it is JSON");
    (fs::read_to_string(page).expect("it is there"), account)
}

/// Seconds that a text such as `1 h 5 min` says, and of how many its last part is one.
fn in_seconds(text: &str) -> (f64, f64) {
    let words: Vec<&str> = text.split(' ').collect();
    let unit = |word: &str| match word {
        "d" => 86_400.0,
        "h" => 3600.0,
        "min" => 60.0,
        "s" => 1.0,
        _ => panic!("`{text}` is no time"),
    };
    let part = |pair: &[&str]| pair[0].parse::<f64>().expect("it is a number") * unit(pair[1]);
    let last = unit(words[words.len() - 1]);
    (words.chunks(2).map(part).sum(), if text.contains('.') { 0.1 } else { last })
}

/// Checks what a number on the page says and shows against the account.
fn assert_true(fact: &Value, account: &Value) {
    let text = |name: &str| fact[name].as_str().expect("it is text");
    let there = account.pointer(text("at")).unwrap_or_else(|| panic!("{fact} is in no account"));
    let value = there.as_f64().expect("it is a number");
    let on_page: f64 = text("value").parse().expect("it is a number");
    // Reading JSON here may miss the last bit of a number, which a browser doesn't.
    assert!((on_page - value).abs() <= value.abs() * 1e-12, "{fact}, and not {value}");
    let shown = text("text");
    let (shown, least) = match text("as") {
        "usd" => {
            let dollars = shown.strip_prefix('$').expect("it is in dollars");
            let (_, cents) = dollars.split_once('.').expect("it has cents");
            let least = 1e6 / 10_f64.powf(cents.len() as f64);
            (dollars.parse::<f64>().expect("it is a number") * 1e6, least)
        }
        "count" => (shown.replace(',', "").parse().expect("it is a number"), 0.5),
        "seconds" => in_seconds(shown),
        other => panic!("{other} is no kind of number"),
    };
    assert!((shown - value).abs() <= least, "{fact} shows {shown}, and it is {value}");
}

/// Checks that the page has all that it should, and that every number on it is the account's.
fn assert_page(browser: &Browser, page: &Path, account: &Value, sections: &[&str]) {
    browser.open(page);
    let facts = browser.eval(
        "return [...document.querySelectorAll('data')].map(d => ({ at: d.dataset.json, \
         as: d.dataset.as, value: d.value, text: d.textContent }))",
    );
    let facts = facts.as_array().expect("it is a list");
    assert!(20 < facts.len(), "{facts:#?}");
    for fact in facts {
        assert_true(fact, account);
    }
    let charts = browser.eval(
        "return [...document.querySelectorAll('svg')].filter(s => s.dataset.json).map(s => ({ \
         at: s.dataset.json, values: s.dataset.values, \
         drawn: [...s.querySelectorAll('path')].every(p => p.getTotalLength() > 0) }))",
    );
    for chart in charts.as_array().expect("it is a list") {
        assert_eq!(chart["drawn"], true, "{chart}");
        let there = account.pointer(chart["at"].as_str().expect("it is text"));
        let there = there.and_then(Value::as_array).expect("it is in the account");
        let number = |value: &Value| value.get("prompts").unwrap_or(value).as_f64().expect("one");
        let there: Vec<f64> = there.iter().map(number).collect();
        let drawn = chart["values"].as_str().expect("it is text").split(' ');
        let drawn: Vec<f64> = drawn.map(|value| value.parse().expect("a number")).collect();
        assert_eq!(drawn, there, "{chart}");
    }
    let titles = browser.eval(
        "return [...document.querySelectorAll('section > h2')].map(h => h.textContent.trim())",
    );
    assert_eq!(titles, serde_json::json!(sections));
    assert_eq!(browser.eval("return performance.getEntriesByType('resource').length"), 0);
    assert_eq!(browser.console(), serde_json::json!([]), "its console");
}

#[test]
fn a_page_shows_the_accounts_numbers_in_light_and_dark_on_a_phone_and_in_print() {
    let Some(browser) = Browser::start("the page of a report") else { return };
    let user = User::new();
    let folder = make(&user, 3);
    let (text, account) = reported(&user, &folder.to_string_lossy());
    assert!(text.len() < 300_000, "{} bytes", text.len());
    let page = user.folder().join("report.html");
    let sections = [
        "Speed",
        "Money",
        "Machines",
        "Time to an answer",
        "Failures",
        "The same tokens elsewhere",
    ];
    assert_page(&browser, &page, &account, &sections);
    // What comes from outside is text, and never markup.
    assert!(text.contains("died of it &lt;twice&gt; &amp; for good"), "it is escaped");
    for (name, (width, height), scheme, media) in LOOKS {
        browser.look((width, height), scheme, media);
        let wide = browser.eval("return document.documentElement.scrollWidth");
        assert_eq!(wide, width, "{name}: nothing stands out beyond the edge");
        let close = browser.eval(
            "return [...document.querySelectorAll('.x')].flatMap(x => { \
             const marks = [...x.children].map(m => m.getBoundingClientRect()).filter(m => m.width); \
             return marks.filter((m, i) => i && m.left - marks[i - 1].right < 4).map(() => x.textContent) })",
        );
        assert_eq!(close, serde_json::json!([]), "{name}: times have room between them");
        let beside = browser.eval(
            "const svg = document.querySelector('svg[data-json=\"/latency/buckets\"], svg[data-step=\"\"]'); \
             const bars = svg.dataset.values.split(' ').length, box = svg.getBoundingClientRect(); \
             return [...svg.closest('figure').querySelectorAll('.x span')].flatMap(x => { \
             const own = x.getBoundingClientRect(); if (!own.width) return []; \
             const place = (own.left + own.width / 2 - box.left) / box.width * bars; \
             return Math.abs(place % 1 - .5) < .1 ? [] : [x.textContent + ' at ' + place] })",
        );
        assert_eq!(beside, serde_json::json!([]), "{name}: a bar's name is under its middle");
        let broken = browser.eval(
            "return [...document.querySelectorAll('.phase')] \
             .filter(p => new Set([...p.querySelectorAll('data')].map(d => d.getBoundingClientRect().top)).size > 1) \
             .map(p => p.textContent)",
        );
        assert_eq!(broken, serde_json::json!([]), "{name}: what a phase took and cost is one line");
        let alone = browser.eval(
            "const tops = [...document.querySelectorAll('.tiles:not(.few) .tile')] \
             .map(t => t.getBoundingClientRect().top); \
             return tops.filter(top => top === tops.at(-1)).length",
        );
        assert!(2 <= alone.as_u64().expect("a number"), "{name}: a tile stands alone");
        let colours = browser.eval(
            "const style = getComputedStyle(document.body); \
             return [style.backgroundColor, style.color].map(c => c.match(/[\\d.]+/g).slice(0, 3) \
             .map(Number).reduce((a, b) => a + b))",
        );
        let [paper, ink] = [0, 1].map(|at| colours[at].as_f64().expect("it is a number"));
        // Of 765, which is white.
        assert!(400.0 < (paper - ink).abs() && (scheme == "dark") == (paper < ink), "{name}");
        let picture = browser.picture();
        if let Some(folder) = env::var_os("PIECEWORK_TEST_PICTURES") {
            let file = Path::new(&folder).join(format!("{name}.png.base64"));
            fs::write(file, picture).expect("it can be written");
        }
    }
    let pdf = browser.print();
    assert!(pdf.starts_with("JVBERi0"), "it is a PDF");
    // What a chart says where the pointer is.
    browser.look((1100, 900), "light", "screen");
    let said = browser.eval(
        "const svg = document.querySelector('svg'); const box = svg.getBoundingClientRect(); \
         svg.dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + box.width / 2 })); \
         return document.querySelector('.readout:not([hidden])').textContent",
    );
    assert!(said.as_str().expect("it is text").ends_with(" prompts/s"), "{said}");
    assert_eq!(browser.console(), serde_json::json!([]), "its console");
}

#[test]
#[expect(clippy::print_stdout, reason = "what was measured is said")]
fn the_page_of_four_million_prompts_on_64_machines_is_small() {
    let user = User::new();
    let folder = make(&user, 64);
    let (page, account) = reported(&user, &folder.to_string_lossy());
    let machines = account["machines"].as_array().expect("it is a list").len();
    let story = fs::metadata(folder.join("story.jsonl")).expect("it is there").len();
    println!("{PROMPTS} prompts on {machines} machines: page {} bytes, story {story}", page.len());
    assert!(page.len() < 2_000_000 && story < 16 << 20);
    let Some(browser) = Browser::start("the page of 64 machines") else { return };
    browser.open(&user.folder().join("report.html"));
    let articles = browser.eval("return document.querySelectorAll('article').length");
    assert_eq!((articles, browser.console()), (machines.into(), serde_json::json!([])));
}

#[test]
fn a_run_that_cost_nothing_and_one_that_did_nothing_have_a_page() {
    let Some(browser) = Browser::start("the page of a small run") else { return };
    let user = User::new();
    user.file("prompts.jsonl", numbered(100));
    user.done(&["run", "prompts.jsonl", "--engine", "echo"]);
    let (_, account) = reported(&user, "last");
    let sections = ["Speed", "Money", "Machines", "Time to an answer", "The same tokens elsewhere"];
    let page = user.folder().join("report.html");
    assert_page(&browser, &page, &account, &sections);
    let run = user.only_run();
    for file in ["story.jsonl", "ledger", "ordered.json"] {
        fs::remove_file(run.join(file)).expect("it is there");
    }
    let (_, account) = reported(&user, "last");
    assert_eq!(
        (&account["prompts"]["done"], &account["machines"]),
        (&0.into(), &serde_json::json!([]))
    );
    browser.open(&page);
    assert_eq!(browser.console(), serde_json::json!([]), "its console");
}
