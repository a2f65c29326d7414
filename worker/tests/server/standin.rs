//! A server that speaks `OpenAI`'s protocol and misbehaves as it is told: by its environment, and by
//! words in prompts. It is this test program, started again.

use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Duration,
};
use wire::{
    Server,
    server::{Metrics, Parallel, Patience},
};

/// Tokens beyond which a prompt is too long for it.
pub(crate) const CONTEXT: usize = 100;

/// How it is started, asked and understood; `manners` is how it misbehaves.
pub(crate) fn description(manners: &[(&str, &str)]) -> Server {
    let program =
        env::current_exe().expect("this test is a program").to_string_lossy().into_owned();
    let words = ["standin::serve", "--exact", "--ignored", "--nocapture", "--test-threads=1"];
    let own =
        [("PORT", "{port}"), ("KEY", "{key}"), ("PARALLEL", "{parallel}"), ("MODEL", "{model}")];
    let environment = own.iter().chain(manners);
    Server {
        name: "stand-in".to_owned(),
        command: std::iter::once(program).chain(words.map(str::to_owned)).collect(),
        options: Vec::new(),
        environment: environment
            .map(|(name, value)| (format!("STANDIN_{name}"), (*value).to_owned()))
            .collect(),
        places: Vec::new(),
        ready: "/health".to_owned(),
        metrics: Some(Metrics { path: "/metrics".to_owned(), names: vec!["answers".to_owned()] }),
        out_of_memory: vec!["CUDA out of memory".to_owned()],
        parallel: Parallel { start: 8, most: 16, reserved: false },
        patience: Patience { load: 20, silent: 2, stalled: 4 },
    }
}

fn told(name: &str) -> Option<String> {
    env::var(format!("STANDIN_{name}")).ok()
}

fn number(name: &str) -> Option<usize> {
    told(name)?.parse().ok()
}

fn devices() -> String {
    env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default()
}

/// Whether the devices of this server are among those that have this manner.
fn here(name: &str) -> bool {
    told(name).is_some_and(|list| list.split(' ').any(|one| one == devices()))
}

static HUNG: AtomicBool = AtomicBool::new(false);
static AT_ONCE: AtomicUsize = AtomicUsize::new(0);
static ANSWERS: AtomicUsize = AtomicUsize::new(0);

/// Writes last words and ends, as a crash would.
#[expect(clippy::print_stderr, clippy::exit, reason = "it is a server that crashes")]
fn die(words: &str) -> ! {
    eprintln!("{words}");
    std::process::exit(3)
}

#[test]
#[ignore = "it is the server that other tests start"]
fn serve() {
    let Some(port) = told("PORT") else { return };
    if let Some(path) = told("STARTS") {
        let file = fs::OpenOptions::new().create(true).append(true).open(&path);
        let devices = devices();
        let line = format!("{} {} {}\n", std::process::id(), told("PARALLEL").unwrap(), devices);
        file.unwrap().write_all(line.as_bytes()).unwrap();
        // These devices carry a server once.
        let starts = fs::read_to_string(&path).unwrap();
        let before = starts.lines().filter(|line| line.rsplit(' ').next() == Some(&devices));
        if 1 < before.count() && here("ONCE") {
            die("the device has fallen off the bus");
        }
    }
    if let Some(words) = told("ENDS") {
        die(&words);
    }
    if here("BROKEN") {
        die("the device can't be had");
    }
    let parallel = number("PARALLEL").expect("it is told");
    if number("LOADS").is_some_and(|most| most < parallel) {
        die("loading: CUDA out of memory");
    }
    let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
    for stream in listener.incoming() {
        thread::spawn(|| answer(&stream.unwrap()));
    }
}

/// Never returns once the server hangs.
fn hang_with_the_others() {
    while HUNG.load(SeqCst) {
        thread::park();
    }
}

fn answer(stream: &TcpStream) {
    hang_with_the_others();
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    if reader.read_line(&mut first).is_err() {
        return;
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        let Ok(1..) = reader.read_line(&mut line) else { return };
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let (status, reply) = match first.split(' ').nth(1).unwrap() {
        "/health" if here("NEVER_READY") => (503, json!({"error": "loading"})),
        "/health" => (200, json!({})),
        "/metrics" => return send(stream, 200, &format!("answers {}\n", ANSWERS.load(SeqCst)), 0),
        path => {
            let key = format!("Bearer {}", told("KEY").unwrap());
            assert_eq!(headers.get("authorization"), Some(&key), "strangers are not answered");
            let Some(reply) = complete(stream, path, &serde_json::from_slice(&body).unwrap())
            else {
                return;
            };
            reply
        }
    };
    send(stream, status, &reply.to_string(), 0);
}

fn send(mut stream: &TcpStream, status: u16, body: &str, missing: usize) {
    let length = body.len() + missing;
    // Whoever asked may have gone.
    drop(write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}"));
}

/// Answers a prompt; None where the connection is to be closed.
fn complete(stream: &TcpStream, path: &str, body: &Value) -> Option<(u16, Value)> {
    let chat = path == "/v1/chat/completions";
    let text = if chat { &body["messages"][0]["content"] } else { &body["prompt"] };
    let text = text.as_str().expect("prompts are texts here");
    let says = |word: &str| text.contains(word);
    let at_once = AT_ONCE.fetch_add(1, SeqCst) + 1;
    if number("HOLDS").is_some_and(|most| most < at_once) {
        die("computing: CUDA out of memory");
    }
    if says("HUGE") {
        die("computing: CUDA out of memory");
    }
    if says("CRASH") {
        die(&format!("the stand-in can't stand {text}"));
    }
    if says("HANG") {
        HUNG.store(true, SeqCst);
    }
    if told("STALLS").is_some() {
        HUNG.store(true, SeqCst);
    }
    thread::sleep(Duration::from_millis(number("SLOW").unwrap_or(3) as u64));
    hang_with_the_others();
    while says("STUCK") {
        thread::park();
    }
    AT_ONCE.fetch_sub(1, SeqCst);
    ANSWERS.fetch_add(1, SeqCst);
    let error = |message: &str| json!({"error": {"message": message}});
    let tokens = text.split_whitespace().count();
    if CONTEXT < tokens {
        let reason =
            format!("{tokens} tokens exceed the available context size ({CONTEXT} tokens).");
        return Some((400, error(&reason)));
    }
    if says("CLOSE") {
        return None;
    }
    if says("CUT") {
        send(stream, 200, "{\"choices\":[{", 100);
        return None;
    }
    if says("OOM") && 1 < at_once {
        return Some((500, error("CUDA out of memory. Tried to allocate 20.00 MiB.")));
    }
    if says("FAIL") || told("FAILS").is_some() {
        return Some((500, error("the stand-in fails")));
    }
    if says("BUSY") && ANSWERS.load(SeqCst) % 2 == 1 {
        return Some((503, error("too much to do")));
    }
    let content = format!("{} to {text}", if chat { "reply" } else { "more" });
    let choice = if chat {
        json!({"index": 0, "message": {"role": "assistant", "content": content}})
    } else {
        json!({"index": 0, "text": content})
    };
    let usage = json!({"prompt_tokens": tokens, "completion_tokens": tokens});
    Some((200, json!({"model": body["model"], "choices": [choice], "usage": usage, "asked": body})))
}
