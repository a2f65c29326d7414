//! Completions in every format they can be written in, and tried again where some failed.

use flate2::read::MultiGzDecoder;
use parquet::file::{reader::FileReader, serialized_reader::SerializedFileReader};
use piecework::{
    prompts::Place,
    shards::{
        Cause, Layout, Out, OutFormat, Packing, Record, RunFiles, Sink, finished, order, reopen,
    },
};
use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};
use tempfile::TempDir;

const PROMPTS: u64 = 5;

fn folder(prompts: u64) -> (TempDir, RunFiles) {
    let folder = TempDir::new().expect("there is room for a folder");
    let path = folder.path().to_owned();
    let files = RunFiles { folder: path, run: "r1".into(), prompts, inputs: Vec::new() };
    (folder, files)
}

fn done(index: u64, body: &str) -> Record {
    Record::Done { index, custom_id: format!("q\"{index}\","), body: body.into() }
}

fn failed(index: u64) -> Record {
    let (line, cause) = (Place { file: 0, line: index + 1 }, Cause::Engine);
    Record::Failed { index, line, custom_id: None, cause, reason: "it is odd".into() }
}

/// Completions of every kind, in disorder, and one error.
fn records() -> Vec<Record> {
    let usage = "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}";
    vec![
        done(4, "{\"choices\":[]}"),
        done(0, &format!("{{\"choices\":[{{\"text\":\"a, \\\"b\\\"\\nc\"}}],{usage}}}")),
        failed(3),
        done(
            2,
            &format!(
                "{{\"choices\":[{{\"message\":{{\"content\":\"é\"}},\"finish_reason\":\"stop\"}},\
                 {{\"message\":{{\"content\":null}},\"finish_reason\":\"length\"}}],{usage}}}"
            ),
        ),
        done(1, &format!("{{\"choices\":[{{\"text\":\"plain\"}}],{usage}}}")),
    ]
}

async fn keep(files: &RunFiles, records: Vec<Record>) {
    let (sink, _) = Sink::open(files, false).expect("the folder is there");
    sink.put(records).await.expect("there is room");
    sink.close().await.expect("there is room");
}

/// What a run's results become in a file of this name.
async fn written(name: &str, layout: Option<Layout>) -> (TempDir, Vec<u8>) {
    let (folder, files) = folder(PROMPTS);
    keep(&files, records()).await;
    let out = folder.path().join(name);
    let named = OutFormat::named(&out);
    let format = OutFormat { layout: layout.unwrap_or(named.layout), ..named };
    let errors = folder.path().join("errors.jsonl");
    let ordered = order(&files, Out::File(&out), format, &errors).expect("all is there");
    assert_eq!((ordered.completed, ordered.failed), (4, 1));
    let bytes = fs::read(&out).expect("it was written");
    (folder, bytes)
}

fn unpacked(bytes: &[u8], packing: Packing) -> Vec<u8> {
    let mut plain = Vec::new();
    match packing {
        Packing::None => plain.extend(bytes),
        Packing::Gzip => {
            MultiGzDecoder::new(bytes).read_to_end(&mut plain).expect("it is gzip");
        }
        Packing::Zstd => plain = zstd::decode_all(bytes).expect("it is zstd"),
    }
    plain
}

const CSV: &str = "id,choice,text,finish_reason,prompt_tokens,completion_tokens\r\n\
    \"q\"\"0\"\",\",0,\"a, \"\"b\"\"\nc\",,3,2\r\n\
    \"q\"\"1\"\",\",0,plain,,3,2\r\n\
    \"q\"\"2\"\",\",0,é,stop,3,2\r\n\
    \"q\"\"2\"\",\",1,,length,3,2\r\n\
    \"q\"\"4\"\",\",0,,,,\r\n";

const JSONL: &str = r#"{"id":"q\"0\",","choice":0,"text":"a, \"b\"\nc","finish_reason":null,"prompt_tokens":3,"completion_tokens":2}
{"id":"q\"1\",","choice":0,"text":"plain","finish_reason":null,"prompt_tokens":3,"completion_tokens":2}
{"id":"q\"2\",","choice":0,"text":"é","finish_reason":"stop","prompt_tokens":3,"completion_tokens":2}
{"id":"q\"2\",","choice":1,"text":null,"finish_reason":"length","prompt_tokens":3,"completion_tokens":2}
{"id":"q\"4\",","choice":0,"text":null,"finish_reason":null,"prompt_tokens":null,"completion_tokens":null}
"#;

#[tokio::test]
async fn every_format_of_lines_is_written_in_order_and_compressed_as_it_is_named() {
    let openai = written("out.jsonl", None).await.1;
    assert_eq!(memchr::memchr_iter(b'\n', &openai).count(), 4);
    for (ending, packing) in [("", Packing::None), (".gz", Packing::Gzip), (".zst", Packing::Zstd)]
    {
        let of = |bytes: &[u8]| String::from_utf8(unpacked(bytes, packing)).expect("it is text");
        let (_folder, bytes) = written(&format!("out.csv{ending}"), None).await;
        assert_eq!(of(&bytes), CSV);
        let (_folder, bytes) = written(&format!("out{ending}"), Some(Layout::Jsonl)).await;
        assert_eq!(of(&bytes), JSONL);
        let (_folder, bytes) = written(&format!("out.jsonl{ending}"), None).await;
        assert_eq!(of(&bytes).into_bytes(), openai);
    }
}

#[tokio::test]
async fn parquet_has_the_same_rows_in_the_same_order() {
    let (folder, _) = written("out.parquet", None).await;
    let file = File::open(folder.path().join("out.parquet")).expect("it was written");
    let reader = SerializedFileReader::new(file).expect("it is Parquet");
    let rows = reader.get_row_iter(None).expect("it has rows");
    let row = |row: Result<parquet::record::Row, _>| row.expect("it is whole").to_json_value();
    let rows: Vec<_> = rows.map(|found| row(found).to_string()).collect();
    assert_eq!(rows, JSONL.lines().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_table_of_many_groups_is_whole() {
    let (_folder, files) = folder(300);
    let body = |i: u64| format!("{{\"choices\":[{{\"text\":\"{i}{}\"}}]}}", "x".repeat(200_000));
    keep(&files, (0..300).rev().map(|index| done(index, &body(index))).collect()).await;
    let out = files.folder.join("out.parquet");
    let format = OutFormat::named(&out);
    order(&files, Out::File(&out), format, &files.folder.join("errors")).expect("all is there");
    let reader = SerializedFileReader::new(File::open(&out).expect("it was written"));
    let reader = reader.expect("it is Parquet");
    assert!(2 < reader.num_row_groups(), "60 MB are more than one group");
    for (index, row) in reader.get_row_iter(None).expect("it has rows").enumerate() {
        let row = row.expect("it is whole").to_json_value();
        let text = row["text"].as_str().expect("it is text");
        assert_eq!(text.trim_end_matches('x'), index.to_string());
    }
}

/// Tries what failed again, with `out` as it was.
async fn tried_again(files: &RunFiles, out: Option<&Path>, format: OutFormat) -> Vec<u8> {
    let errors = files.folder.join("errors.jsonl");
    let mut stream = Vec::new();
    reopen(files, out).expect("what was done is there");
    assert_eq!(finished(files), None);
    let (sink, resumed) = Sink::open(files, true).expect("it goes on");
    assert_eq!((resumed.completed.count(), resumed.done().first_missing()), (4, Some(3)));
    sink.put(vec![done(3, "{\"choices\":[{\"text\":\"at last\"}]}")]).await.expect("room");
    sink.close().await.expect("there is room");
    let to = out.map_or_else(|| Out::Stream(&mut stream), Out::File);
    let ordered = order(files, to, format, &errors).expect("all is there");
    assert_eq!((ordered.completed, ordered.failed), (5, 0));
    assert!(!files.completions().exists() && !errors.exists());
    out.map_or(stream, |out| fs::read(out).expect("it was written"))
}

#[tokio::test]
async fn what_failed_can_be_tried_again_whatever_the_format() {
    for name in [Some("out.jsonl"), Some("out.csv"), Some("out.jsonl.zst"), None] {
        let (folder, files) = folder(PROMPTS);
        keep(&files, records()).await;
        let out = name.map(|name| folder.path().join(name));
        let format = out.as_deref().map(OutFormat::named).unwrap_or_default();
        let errors = folder.path().join("errors.jsonl");
        let mut stream = Vec::new();
        let to = out.as_deref().map_or_else(|| Out::Stream(&mut stream), Out::File);
        order(&files, to, format, &errors).expect("all is there");
        // Done again, it must not forget what it kept.
        let again = Out::Stream(&mut Vec::new());
        order(&files, again, format, &errors).expect("it is done already");
        let found = tried_again(&files, out.as_deref(), format).await;
        let found = String::from_utf8(unpacked(&found, format.packing)).expect("it is text");
        assert!(found.contains("at last") && found.contains("plain"), "{name:?}: {found}");
    }
}

#[tokio::test]
async fn a_run_of_which_nothing_failed_is_not_begun_again() {
    let (_folder, files) = folder(1);
    keep(&files, vec![done(0, "{}")]).await;
    let (out, errors) = (files.folder.join("out.csv"), files.folder.join("errors"));
    let format = OutFormat::named(&out);
    let ordered = order(&files, Out::File(&out), format, &errors).expect("all is there");
    reopen(&files, Some(&out)).expect("there is nothing to do");
    assert_eq!(finished(&files), Some(ordered));
}
