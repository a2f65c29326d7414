//! Models that are on a hub and not known by name: a server on loopback that answers as hubs do.

use crate::command::{User, said};
use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 2, "intermediate_size": 1536, "vocab_size": 32000,
    "max_position_embeddings": 131072, "torch_dtype": "bfloat16"}"#;

/// A part of what a server sends, over and over where it has no end.
const CHUNK: usize = 1 << 20;

/// What was asked for: paths, and whether a token came along.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A server, for as long as the test program runs, that answers a path as `answer` says: with a
/// status, headers, a body, and how many megabytes of nothing come after it.
fn server(
    answer: impl Fn(&str) -> (u16, String, Vec<u8>, usize) + Send + 'static,
) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let noted = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who has had enough hangs up.
            drop(serve(stream, &answer, &noted));
        }
    });
    (address, asked)
}

fn serve(
    mut stream: TcpStream,
    answer: impl Fn(&str) -> (u16, String, Vec<u8>, usize),
    asked: &Asked,
) -> std::io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok);
    let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let token = lines.iter().find_map(|line| line.split_once("authorization: "));
    let token = token.map(|(_, token)| token.to_owned());
    asked.lock().unwrap().push((path.to_owned(), token));
    let (status, headers, body, nothing) = answer(path);
    let length = body.len() + nothing * CHUNK;
    write!(stream, "HTTP/1.1 {status} So\r\nContent-Length: {length}\r\nConnection: close\r\n")?;
    write!(stream, "{headers}\r\n")?;
    stream.write_all(&body)?;
    (0..nothing).try_for_each(|_| stream.write_all(&vec![0; CHUNK]))
}

const PLAN: &str = "run --dry-run --prompt-count 5 --input-tokens 10 --model";

fn plans(hub: &str, token: Option<&str>, model: &str) -> (Option<i32>, String, String) {
    let mut variables = vec![("HF_ENDPOINT", hub)];
    variables.extend(token.map(|token| ("HF_TOKEN", token)));
    said(&User::new().types_with(&variables, &format!("{PLAN} {model}"), ""))
}

#[test]
fn a_model_that_only_a_hub_has_is_planned_for_by_its_config() {
    let (hub, asked) = server(|_| (200, String::new(), CONFIG.into(), 0));
    let (code, out, told) = plans(&hub, None, "acme/new");
    assert_eq!((code, told.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with("acme/new on native: 5 prompts"), "{out}");
    let path = "/acme/new/resolve/main/config.json";
    assert_eq!(*asked.lock().unwrap(), [(path.to_owned(), None)], "one small file is asked for");
}

#[test]
fn a_hubs_tokenizer_counts_the_prompts_and_without_it_they_are_estimated() {
    let tokenizer = r#"{"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}}"#;
    let hub = |status: u16, tokenizer: &'static str, nothing: usize| {
        server(move |path| match path {
            "/acme/new/resolve/main/config.json" => (200, String::new(), CONFIG.into(), 0),
            "/acme/new/resolve/main/tokenizer.json" => {
                (status, String::new(), tokenizer.into(), nothing)
            }
            other => panic!("{other} is asked for"),
        })
        .0
    };
    let prompts = "{\"prompt\": \"some six words in a row\"}\n".repeat(10);
    for (hub, expected) in [
        (hub(200, tokenizer, 0), "6 tokens in a prompt on average (measured on 10 prompts"),
        (hub(404, "", 0), "not measured, as the hub doesn't give its tokenizer"),
        (hub(200, "{}", 0), "not measured, as its tokenizer.json can't be understood"),
        (hub(200, "{}", 100), "what it sends has no"),
    ] {
        let variables = [("HF_ENDPOINT", hub.as_str())];
        let command = "run - --dry-run --raw --model acme/new";
        let (code, out, told) = said(&User::new().types_with(&variables, command, &prompts));
        assert_eq!((code, told.as_str()), (Some(0), ""), "{out}");
        assert!(out.contains(expected), "{expected}: {out}");
        assert!(out.lines().all(|line| line.chars().count() <= 100), "{out}");
        let estimated = out.contains("estimated from their length");
        assert_ne!(estimated, out.contains("measured on"), "{out}");
    }
}

#[test]
fn of_a_gguf_file_only_the_header_is_fetched() {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let number = |key: &str, number: u32| {
        [&text(key), &4_u32.to_le_bytes()[..], &number.to_le_bytes()].concat()
    };
    let tensor = |name: &str, rows: u64| {
        let sizes = [&2_u32.to_le_bytes()[..], &64_u64.to_le_bytes(), &rows.to_le_bytes()].concat();
        [&text(name), &sizes[..], &1_u32.to_le_bytes(), &0_u64.to_le_bytes()].concat()
    };
    let header = [
        &b"GGUF"[..],
        &3_u32.to_le_bytes(),
        &2_u64.to_le_bytes(),
        &6_u64.to_le_bytes(),
        &[&text("general.architecture"), &8_u32.to_le_bytes()[..], &text("llama")].concat(),
        &number("llama.block_count", 2),
        &number("llama.embedding_length", 64),
        &number("llama.attention.head_count", 8),
        &number("llama.attention.head_count_kv", 2),
        &number("llama.context_length", 512),
        &tensor("token_embd.weight", 100),
        &tensor("blk.0.ffn_up.weight", 128),
    ]
    .concat();
    let (hub, asked) = server(move |_| (200, String::new(), header.clone(), 100_000));
    let (code, out, told) = plans(&hub, None, "acme/new-GGUF:new-Q8_0.gguf");
    assert_eq!((code, told.as_str()), (Some(0), ""), "{out}");
    let path = "/acme/new-GGUF/resolve/main/new-Q8_0.gguf";
    assert_eq!(asked.lock().unwrap()[0].0, path);
}

#[test]
fn a_token_goes_to_the_hub_and_to_no_host_that_it_sends_us_to() {
    let (elsewhere, there) = server(|_| (200, String::new(), CONFIG.into(), 0));
    // Another host by name, on this computer all the same.
    let elsewhere = elsewhere.replace("127.0.0.1", "localhost");
    let sent_on = format!("Location: {elsewhere}/signed\r\n");
    let (hub, asked) = server(move |_| (307, sent_on.clone(), Vec::new(), 0));
    let (code, _, told) = plans(&hub, Some("nobodys-token"), "acme/new");
    assert_eq!((code, told.as_str()), (Some(0), ""));
    let token = |asked: &Asked| asked.lock().unwrap()[0].1.clone();
    assert_eq!(token(&asked).as_deref(), Some("Bearer nobodys-token"));
    assert_eq!(token(&there), None);
}

#[test]
fn a_hub_that_gives_nothing_is_told_apart_by_its_reasons() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let refuses = |status: u16, reason: &str| {
        let headers =
            if reason.is_empty() { String::new() } else { format!("X-Error-Code: {reason}\r\n") };
        server(move |_| (status, headers.clone(), Vec::new(), 0)).0
    };
    for (hub, token, expected) in [
        (refuses(401, "GatedRepo"), None, "accept its licence"),
        (refuses(403, "GatedRepo"), Some("nobodys-token"), "accept its licence"),
        (refuses(401, "RepoNotFound"), None, "knows no such model, or it is private"),
        (refuses(404, "EntryNotFound"), None, "has no config.json on the hub"),
        (refuses(401, ""), Some("nobodys-token"), "rejects the token"),
        (refuses(404, ""), None, "knows no such model"),
        (refuses(500, ""), None, "it answers with status 500"),
        (format!("http://{gone}"), None, "the hub can't be asked"),
        (server(|_| (200, String::new(), b"<html>".to_vec(), 0)).0, None, "config.json"),
        (server(|_| (200, String::new(), Vec::new(), 100_000)).0, None, "has no end"),
    ] {
        let (code, out, told) = plans(&hub, token, "acme/new");
        assert_eq!((code, out.as_str()), (Some(1), ""), "{expected}: {told}");
        assert!(told.contains(expected) && !told.contains("nobodys-token"), "{expected}: {told}");
    }
}
