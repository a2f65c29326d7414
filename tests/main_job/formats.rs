//! Every format of prompts to every format of completions, compressed in every way, by the real
//! program.
//!
//! Each input and each output is tried every time, though not each pair of them:
//! `PIECEWORK_TEST_FORMATS=all` tries those too.

use crate::program::{User, conversation};
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use parquet::{
    data_type::{ByteArray, ByteArrayType},
    file::{
        properties::WriterProperties, reader::FileReader, serialized_reader::SerializedFileReader,
        writer::SerializedFileWriter,
    },
    schema::parser::parse_message_type,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    env,
    fs::File,
    io::{Read, Write},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Prompts with whatever a format could stumble over. A plain line holds no line break, so none has
/// one here; those are in the tests of each format.
const PROMPTS: [&str; 6] = [
    "plain",
    "with a \"quotation\", a comma; and a semicolon",
    "ünïcödé 汉字 🙂",
    "a tab\there, and {\"json\": [1, 2]}",
    "  spaces around  ",
    "back\\slash and 'apostrophe'",
];

/// How many runs are under way at once.
const AT_ONCE: usize = 3;

const INPUTS: [&str; 7] = [
    "prompts.jsonl",
    "chats.jsonl",
    "batch.jsonl",
    "lines.txt",
    "rows.csv",
    "rows.tsv",
    "rows.parquet",
];

/// What `--out-format` says, if anything, and the name that is written to.
const OUTPUTS: [(&str, &str); 4] =
    [("", "out.jsonl"), ("jsonl", "out.ndjson"), ("", "out.csv"), ("", "out.parquet")];

const PACKINGS: [&str; 3] = ["", ".gz", ".zst"];

fn id(number: usize) -> String {
    format!("q{number}")
}

/// The prompts as a file of this name has them.
fn written(name: &str) -> Vec<u8> {
    let each = |line: &dyn Fn(usize, &str) -> String| {
        PROMPTS.iter().enumerate().map(|(i, prompt)| line(i, prompt)).collect::<String>()
    };
    let chat = |prompt: &str| json!([{"role": "user", "content": prompt}]);
    let text = match name {
        "prompts.jsonl" => {
            each(&|i, prompt| format!("{}\n", json!({"id": id(i), "prompt": prompt})))
        }
        "chats.jsonl" => {
            each(&|i, prompt| format!("{}\n", json!({"id": id(i), "messages": chat(prompt)})))
        }
        "batch.jsonl" => each(&|i, prompt| {
            let body = json!({"model": "any", "messages": chat(prompt)});
            let (method, url) = ("POST", "/v1/chat/completions");
            let request = json!({"custom_id": id(i), "method": method, "url": url, "body": body});
            format!("{request}\n")
        }),
        "lines.txt" => each(&|_, prompt| format!("{prompt}\n")),
        "rows.csv" => {
            let quoted = |prompt: &str| prompt.replace('"', "\"\"");
            "id,prompt\n".to_owned() + &each(&|i, p| format!("{},\"{}\"\n", id(i), quoted(p)))
        }
        "rows.tsv" => {
            let quoted = |prompt: &str| prompt.replace('"', "\"\"");
            "id\tprompt\n".to_owned() + &each(&|i, p| format!("{}\t\"{}\"\n", id(i), quoted(p)))
        }
        "rows.parquet" => return parquet_rows(),
        other => panic!("nothing is known of {other}"),
    };
    text.into_bytes()
}

fn parquet_rows() -> Vec<u8> {
    let schema = "message rows { required binary id (STRING); required binary prompt (STRING); }";
    let schema = Arc::new(parse_message_type(schema).expect("it is a schema"));
    let properties = Arc::new(WriterProperties::builder().build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).expect("it begins");
    let mut rows = writer.next_row_group().expect("it goes on");
    let ids = (0..PROMPTS.len()).map(id).collect::<Vec<_>>();
    for values in [ids, PROMPTS.map(str::to_owned).to_vec()] {
        let values: Vec<_> = values.iter().map(|value| ByteArray::from(value.as_str())).collect();
        let mut column = rows.next_column().expect("it goes on").expect("there are two");
        column.typed::<ByteArrayType>().write_batch(&values, None, None).expect("it goes on");
        column.close().expect("it goes on");
    }
    rows.close().expect("it goes on");
    writer.close().expect("it ends");
    bytes
}

fn packed(bytes: Vec<u8>, packing: &str) -> Vec<u8> {
    match packing {
        ".gz" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&bytes).expect("it goes on");
            encoder.finish().expect("it ends")
        }
        ".zst" => zstd::encode_all(bytes.as_slice(), 1).expect("it goes on"),
        _ => bytes,
    }
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    match bytes {
        [0x1f, 0x8b, ..] => {
            let mut plain = Vec::new();
            MultiGzDecoder::new(bytes).read_to_end(&mut plain).expect("it is gzip");
            plain
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::decode_all(bytes).expect("it is zstd"),
        _ => bytes.to_vec(),
    }
}

/// Ids and answers as a file of completions has them, in its order.
fn read(path: &Path) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("it is text").to_owned();
    if path.extension().is_some_and(|end| end == "parquet") {
        let file = File::open(path).expect("it was written");
        let reader = SerializedFileReader::new(file).expect("it is Parquet");
        let rows = reader.get_row_iter(None).expect("it has rows");
        let rows = rows.map(|row| row.expect("it is whole").to_json_value());
        return rows.map(|row| (text(&row["id"]), text(&row["text"]))).collect();
    }
    let bytes = std::fs::read(path).expect("it was written");
    let plain = unpacked(&bytes);
    assert_eq!(bytes != plain, path.to_string_lossy().ends_with(['z', 't']), "{}", path.display());
    let plain = String::from_utf8(plain).expect("it is text");
    if path.to_string_lossy().contains(".csv") {
        // No answer holds a line break, and ids no comma.
        let rows = plain.lines().skip(1).map(|row| row.split_once(",0,").expect("a choice"));
        return rows.map(|(id, rest)| (id.to_owned(), first_field(rest))).collect();
    }
    let lines = plain.lines().map(|line| serde_json::from_str::<Value>(line).expect("it is JSON"));
    let pair = |line: Value| {
        if line["custom_id"].is_null() {
            return (text(&line["id"]), text(&line["text"]));
        }
        let choice = &line["response"]["body"]["choices"][0];
        let answer = choice.get("text").unwrap_or_else(|| &choice["message"]["content"]);
        (text(&line["custom_id"]), text(answer))
    };
    lines.map(pair).collect()
}

/// The first field of a CSV row.
fn first_field(row: &str) -> String {
    let Some(quoted) = row.strip_prefix('"') else {
        return row.split(',').next().expect("there is one").to_owned();
    };
    let end = quoted.replace("\"\"", "\0\0").find('"').expect("it is closed");
    quoted[..end].replace("\"\"", "\"")
}

/// One line of the table: what is read, and what is written.
type Case = (String, (&'static str, String));

fn cases() -> Vec<Case> {
    let whole = |name: &str, packing: &str| name.contains("parquet") && !packing.is_empty();
    let pair =
        |name: &str, packing: &str| (!whole(name, packing)).then(|| format!("{name}{packing}"));
    let inputs = PACKINGS.iter().flat_map(|packing| INPUTS.map(|name| pair(name, packing)));
    let inputs: Vec<_> = inputs.flatten().collect();
    let outputs = PACKINGS.iter().flat_map(|packing| {
        OUTPUTS.map(|(format, name)| pair(name, packing).map(|name| (format, name)))
    });
    let outputs: Vec<_> = outputs.flatten().collect();
    if env::var("PIECEWORK_TEST_FORMATS").is_ok_and(|which| which == "all") {
        let with = |input: &String| {
            let input = input.clone();
            outputs.iter().map(move |output| (input.clone(), output.clone())).collect::<Vec<_>>()
        };
        return inputs.iter().flat_map(with).collect();
    }
    inputs.into_iter().zip(outputs.into_iter().cycle()).collect()
}

fn runs(user: &User, (input, (format, out)): &Case) {
    let name = input.trim_end_matches(".gz").trim_end_matches(".zst");
    user.file(input, packed(written(name), input.strip_prefix(name).expect("it begins so")));
    let mut arguments = vec!["run", input, "--engine", "echo", "--out", out];
    if !format.is_empty() {
        arguments.extend(["--out-format", format]);
    }
    let output = user.run(&arguments);
    let told = conversation(&output);
    assert_eq!(output.status.code(), Some(0), "{input} to {out}: {told}");
    let completions = read(&user.folder().join(out));
    let named = name != "lines.txt";
    let expected = PROMPTS.iter().enumerate().map(|(i, prompt)| {
        let id = if named { id(i) } else { completions[i].0.clone() };
        (id, (*prompt).to_owned())
    });
    assert_eq!(completions, expected.collect::<Vec<_>>(), "{input} to {out}");
    // Lines are named by their places.
    let ids: BTreeSet<_> = completions.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), PROMPTS.len(), "{input} to {out}");
}

#[test]
#[expect(clippy::print_stdout, reason = "it is the table")]
fn prompts_of_every_format_become_completions_of_every_format() {
    let (cases, next) = (cases(), AtomicUsize::new(0));
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let user = User::new();
                    runs(&user, case);
                    user.assert_nothing_left();
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(case);
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort();
    for (input, (_, out)) in &done {
        println!("{input:<18} -> {out}");
    }
    println!("formats: {} of {} pairs whole and in order", done.len(), cases.len());
    assert_eq!(done.len(), cases.len());
}
