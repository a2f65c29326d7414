//! Tables, templates, compression and several files: what becomes of each row.

use flate2::{Compression, write::GzEncoder};
use parquet::{
    data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use piecework::{
    prompts::{
        Entry, Format, Input, Options, Place, PromptsError, Source, Typed, gather, spawn_reader,
        survey,
    },
    shards::Bits,
};
use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};
use tempfile::TempDir;

fn temporary() -> TempDir {
    TempDir::new().expect("there is room for a folder")
}

fn of(paths: &[PathBuf], options: Options) -> Input {
    let source = |path: &PathBuf| Source::file(path).expect("there is a folder to be in");
    Input { sources: paths.iter().map(source).collect(), options }
}

/// Surveys and reads an input, checks that both say the same, and shows every row.
async fn shown(input: &Input) -> String {
    let survey = survey(input, |_| ()).expect("it has prompts");
    let mut reader =
        spawn_reader(input, &survey, Bits::new(survey.prompts)).expect("the file is there");
    let (mut text, mut bad, mut all) = (String::new(), 0, 0);
    let at = |place: Place| match input.sources.as_slice() {
        [_] => place.line.to_string(),
        _ => format!("{}:{}", place.file, place.line),
    };
    while let Some(batch) = reader.next().await {
        for entry in batch.expect("the file is as it was") {
            let written = match entry {
                Entry::Good { prompt, custom_id, line } => {
                    writeln!(text, "{} {custom_id} {}", at(line), prompt.body)
                }
                Entry::Bad { line, custom_id, reason, .. } => {
                    bad += 1;
                    writeln!(text, "{} {custom_id:?} bad: {reason}", at(line))
                }
            };
            written.expect("a string can be written to");
            all += 1;
        }
    }
    assert_eq!((survey.prompts, survey.bad), (all, bad));
    text
}

/// What a file of this name and content becomes.
async fn becomes(name: &str, content: impl AsRef<[u8]>, options: Options) -> String {
    let folder = temporary();
    let path = folder.path().join(name);
    fs::write(&path, content).expect("there is room");
    shown(&of(&[path], options)).await
}

/// Why a file can't be used.
fn refusal(name: &str, content: impl AsRef<[u8]>, options: Options) -> String {
    let folder = temporary();
    let path = folder.path().join(name);
    fs::write(&path, content).expect("there is room");
    let error = survey(&of(&[path], options), |_| ()).expect_err("it can't be used");
    error.to_string().replace(&folder.path().display().to_string(), "FOLDER")
}

fn column(name: &str) -> Options {
    Options { prompt_column: Some(name.into()), ..Options::default() }
}

fn template(text: &str) -> Options {
    Options { template: Some(text.into()), ..Options::default() }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).expect("memory can be written to");
    packed.finish().expect("memory can be written to")
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("memory can be written to")
}

#[tokio::test]
async fn a_csv_table_gives_a_prompt_a_row_and_lines_are_counted_in_the_file() {
    let content = "\u{feff}id,prompt,other\r\n7,How much?,x\r\n\r\n,\"over\ntwo \"\"lines\"\"\",y\r\n\
                   c,,z\r\nd,one,two,three\r\ne,last,";
    insta::assert_snapshot!(becomes("a.csv", content, Options::default()).await, @r#"
    2 7 {"prompt":"How much?"}
    4 None bad: `id` is empty
    6 Some("c") bad: `prompt` is empty
    7 None bad: the row has 4 cells, and the table 3 columns
    8 e {"prompt":"last"}
    "#);
}

#[tokio::test]
async fn columns_are_named() {
    let options = Options { id_column: Some("key".into()), ..column("question") };
    let csv = "key,question\nk1,who?\nk1,what?\n";
    insta::assert_snapshot!(becomes("a.csv", csv, options.clone()).await, @r#"
    2 k1 {"prompt":"who?"}
    3 Some("k1") bad: an earlier line has the same id
    "#);
    let tsv = "question\tkey\nwho, where?\tk1\n";
    insta::assert_snapshot!(becomes("a.tsv", tsv, options.clone()).await, @r#"2 k1 {"prompt":"who, where?"}"#);
    let json = r#"{"key": 1, "question": "who?", "prompt": 5}
{"key": [], "question": "who?"}
{"key": "a"}
{"key": "b", "question": null}
{"question": "x"}
"#;
    insta::assert_snapshot!(becomes("a.jsonl", json, options).await, @r#"
    1 1 {"prompt":"who?"}
    2 None bad: the field `key` must be a string or a number, as it is to be the id
    3 Some("a") bad: the field `question` is missing
    4 Some("b") bad: the field `question` is null
    5 None bad: the field `key` is missing
    "#);
}

#[tokio::test]
async fn a_named_id_is_no_part_of_a_request() {
    let options = Options { id_column: Some("key".into()), ..Options::default() };
    let json = r#"{"key": "k", "prompt": "p", "max_tokens": 3}"#;
    insta::assert_snapshot!(becomes("a.jsonl", json, options).await, @r#"1 k {"prompt":"p","max_tokens":3}"#);
}

#[tokio::test]
async fn a_template_makes_a_prompt_of_a_rows_fields() {
    let options = template("Summarise {{ title | upper }}: {{text}}");
    let csv = "id,title,text\n1,one,\"a \"\"b\"\"\"\n2,two,\n";
    insta::assert_snapshot!(becomes("a.csv", csv, options.clone()).await, @r#"
    2 1 {"prompt":"Summarise ONE: a \"b\""}
    3 2 {"prompt":"Summarise TWO: "}
    "#);
    let json = r#"{"id":"x","title":"t","text":["a",{"b":1.50}]}
{"title":"t"}
[1]
"#;
    insta::assert_snapshot!(becomes("a.jsonl", json, options).await, @r#"
    1 x {"prompt":"Summarise T: ['a', {'b': 1.5}]"}
    2 None bad: the template can't be filled in: undefined value: `text` is undefined
    3 None bad: the line is JSON, but not an object
    "#);
    insta::assert_snapshot!(becomes("a.txt", "one <b>\ntwo\n", template("Say {{text}}")).await, @r#"
    1 prompt-0 {"prompt":"Say one <b>"}
    2 prompt-1 {"prompt":"Say two"}
    "#);
}

#[tokio::test]
async fn a_template_that_never_ends_fails_its_row() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    let shown = becomes("a.txt", "one\n", template(endless)).await;
    assert!(shown.starts_with("1 None bad: the template can't be filled in: "), "{shown}");
}

#[test]
fn what_a_table_lacks_is_named_with_what_it_has() {
    let cases = [
        (
            refusal("a.csv", "a,b\n1,2\n", Options::default()),
            "`FOLDER/a.csv` has no column `prompt`; name the one that is meant with \
             `--prompt-column`, or make prompts of several with `--template`: it has `a`, `b`",
        ),
        (
            refusal("a.csv", "a,b\n1,2\n", column("c")),
            "`FOLDER/a.csv` has no column `c`; it has `a`, `b`",
        ),
        (
            refusal("a.csv", "a,b\n1,2\n", template("{{a}} {{c}} {{range(3)}}")),
            "`FOLDER/a.csv` has no column `c`; it has `a`, `b`",
        ),
        (
            refusal("a.txt", "a\n", column("c")),
            "`FOLDER/a.txt` is plain lines, which have no columns; `--template` can use a line as \
             `text`",
        ),
        (
            refusal("a.parquet", "a\n", Options::default()),
            "`FOLDER/a.parquet` is no Parquet file, or damaged; write it again",
        ),
        (
            refusal("a.csv", "", Options::default()),
            "`FOLDER/a.csv` has no prompts: it is empty, or all its lines are blank",
        ),
        (
            refusal("a.txt", "a", template("{{")),
            "the template can't be understood: syntax error: unexpected end of input, expected \
             expression",
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_quotation_mark_that_is_never_closed_takes_no_memory_and_ends_nothing_before_it() {
    let mut content = "prompt\nfirst\n\"open\n".to_owned();
    content.extend(std::iter::repeat_n("and on it goes\n", 1_000_000));
    let options = Options { line_limit: 1 << 20, ..Options::default() };
    let shown = becomes("a.csv", content, options).await;
    assert_eq!(
        shown,
        "2 prompt-0 {\"prompt\":\"first\"}\n3 None bad: the line is longer than 1048576 bytes\n"
    );
}

#[tokio::test]
async fn rows_that_are_no_text_are_bad_and_the_next_one_is_not() {
    let content = b"prompt\na\xff\nb\0\nc\n";
    insta::assert_snapshot!(becomes("a.csv", content, Options::default()).await, @r#"
    2 None bad: the line is not valid UTF-8 at byte 2
    3 None bad: the line has a NUL at byte 2
    4 prompt-2 {"prompt":"c"}
    "#);
}

/// A Parquet file of two row groups.
fn write_parquet(path: &Path) {
    let schema = "message rows { optional binary text (STRING); required int64 key;
                  optional double score; }";
    let schema = Arc::new(parse_message_type(schema).expect("it is a schema"));
    let file = File::create(path).expect("there is room");
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).expect("there is room");
    for group in [0, 3] {
        let mut rows = writer.next_row_group().expect("there is room");
        let texts = ["a \"quoted\" one", "two"].map(ByteArray::from);
        let mut column = rows.next_column().expect("there is room").expect("it is the first");
        let written = column.typed::<ByteArrayType>().write_batch(&texts, Some(&[1, 0, 1]), None);
        assert_eq!(written.expect("there is room"), 2);
        column.close().expect("there is room");
        let mut column = rows.next_column().expect("there is room").expect("it is the second");
        let keys = [group, group + 1, group + 2];
        column.typed::<Int64Type>().write_batch(&keys, None, None).expect("there is room");
        column.close().expect("there is room");
        let mut column = rows.next_column().expect("there is room").expect("it is the third");
        let scores = [0.5, f64::NAN, -2.25];
        let written = column.typed::<DoubleType>().write_batch(&scores, Some(&[1, 1, 1]), None);
        assert_eq!(written.expect("there is room"), 3);
        column.close().expect("there is room");
        rows.close().expect("there is room");
    }
    writer.close().expect("there is room");
}

#[tokio::test]
async fn a_parquet_file_gives_a_prompt_a_row() {
    let folder = temporary();
    let path = folder.path().join("a.parquet");
    write_parquet(&path);
    let input = |options| of(std::slice::from_ref(&path), options);
    let options = Options { id_column: Some("key".into()), ..column("text") };
    insta::assert_snapshot!(shown(&input(options)).await, @r#"
    1 0 {"prompt":"a \"quoted\" one"}
    2 Some("1") bad: the field `text` is null
    3 2 {"prompt":"two"}
    4 3 {"prompt":"a \"quoted\" one"}
    5 Some("4") bad: the field `text` is null
    6 5 {"prompt":"two"}
    "#);
    let options = template("{{score}} {{text}}");
    insta::assert_snapshot!(shown(&input(options)).await, @r#"
    1 prompt-0 {"prompt":"0.5 a \"quoted\" one"}
    2 prompt-1 {"prompt":"None None"}
    3 prompt-2 {"prompt":"-2.25 two"}
    4 prompt-3 {"prompt":"0.5 a \"quoted\" one"}
    5 prompt-4 {"prompt":"None None"}
    6 prompt-5 {"prompt":"-2.25 two"}
    "#);
    let error = survey(&input(Options::default()), |_| ()).expect_err("it has no prompt");
    assert!(error.to_string().ends_with("it has `text`, `key`, `score`"), "{error}");
}

#[tokio::test]
async fn bytes_of_a_parquet_file_that_are_text_are_read_as_text_and_others_are_bad() {
    let folder = temporary();
    let path = folder.path().join("a.parquet");
    // As older programs write text: without a word that it is text.
    let schema = parse_message_type("message rows { required binary prompt; }");
    let schema = Arc::new(schema.expect("it is a schema"));
    let file = File::create(&path).expect("there is room");
    let mut writer =
        SerializedFileWriter::new(file, schema, Arc::default()).expect("there is room");
    let mut rows = writer.next_row_group().expect("there is room");
    let mut column = rows.next_column().expect("there is room").expect("it is the first");
    let texts = [&b"na\xc3\xafve"[..], b"na\xefve", b""].map(|text| ByteArray::from(text.to_vec()));
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).expect("there is room");
    column.close().expect("there is room");
    rows.close().expect("there is room");
    writer.close().expect("there is room");
    let input = of(std::slice::from_ref(&path), Options::default());
    insta::assert_snapshot!(shown(&input).await, @r#"
    1 prompt-0 {"prompt":"naïve"}
    2 None bad: the field `prompt` is not valid UTF-8
    3 None bad: `prompt` is empty
    "#);
}

#[tokio::test]
async fn a_column_goes_before_what_templates_know_by_its_name() {
    let content = "range,id\nfar,a\n";
    let options = template("{{range}}");
    insta::assert_snapshot!(becomes("a.csv", content, options.clone()).await, @r#"2 a {"prompt":"far"}"#);
    let line = r#"{"range":"far","id":"a"}"#;
    insta::assert_snapshot!(becomes("a", line, options).await, @r#"1 a {"prompt":"far"}"#);
    let options = template("{% for n in range(2) %}{{n}} {{text}} {% endfor %}");
    insta::assert_snapshot!(becomes("a.csv", "text,id\nx,a\n", options).await, @r#"2 a {"prompt":"0 x 1 x "}"#);
}

#[test]
fn a_damaged_parquet_file_is_an_error_and_never_a_panic() {
    let folder = temporary();
    let path = folder.path().join("a.parquet");
    write_parquet(&path);
    let whole = fs::read(&path).expect("it was written");
    let mut refused = 0;
    let input = of(std::slice::from_ref(&path), column("text"));
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(&path, &damaged).expect("there is room");
        refused += usize::from(survey(&input, |_| ()).is_err());
        fs::write(&path, &whole[..at]).expect("there is room");
        survey(&input, |_| ()).expect_err("its end is cut off");
    }
    assert!(whole.len() / 10 < refused, "only {refused} of {} were seen", whole.len());
}

#[tokio::test]
async fn every_format_of_lines_may_be_compressed() {
    type Pack = fn(&[u8]) -> Vec<u8>;
    let packings: [(&str, Pack); 3] = [("", <[u8]>::to_vec), (".gz", gzip), (".zst", zst)];
    let lines = [
        ("a.txt", "one\ntwo\n"),
        ("a.jsonl", "{\"prompt\":\"one\"}\n{\"prompt\":\"two\"}\n"),
        ("a.csv", "prompt\none\ntwo\n"),
    ];
    for (ending, pack) in packings {
        for (name, content) in lines {
            let (first, rest) = content.split_at(content.len() / 2);
            // As `cat a.gz b.gz` makes one of two.
            let packed = [pack(first.as_bytes()), pack(rest.as_bytes())].concat();
            let shown = becomes(&format!("{name}{ending}"), packed, Options::default()).await;
            let bodies: Vec<_> = shown.lines().map(|line| &line[2..]).collect();
            let expected = ["prompt-0 {\"prompt\":\"one\"}", "prompt-1 {\"prompt\":\"two\"}"];
            assert_eq!(bodies, expected, "{name}{ending}");
        }
    }
}

#[test]
fn a_compressed_file_that_is_cut_short_is_refused_before_anything_is_done() {
    let text = (0..50_000).fold(String::new(), |text, line| text + &format!("line {line}\n"));
    for (name, packed) in [("a.gz", gzip(text.as_bytes())), ("a.zst", zst(text.as_bytes()))] {
        for cut in [packed.len() - 1, packed.len() / 2, 30] {
            let told = refusal(name, &packed[..cut], Options::default());
            assert!(
                told == format!("`FOLDER/{name}` could not be read")
                    || told == format!("`FOLDER/{name}` could not be unpacked"),
                "{told}"
            );
        }
    }
}

#[tokio::test]
async fn several_files_are_one_input_and_each_line_says_which_it_is_of() {
    let folder = temporary();
    let write = |name: &str, content: &[u8]| {
        fs::write(folder.path().join(name), content).expect("there is room");
    };
    write("b.jsonl", b"{\"prompt\":\"b\"}\nodd\n");
    write("a.jsonl.gz", &gzip(b"{\"id\":1,\"prompt\":\"a\"}\n"));
    write("c.csv", b"id,prompt\n1,c\n2,d\n");
    write("d.txt", b"");
    let typed = ["[ab].jsonl*", "c.csv", "?.txt"].map(|name| Typed::File(folder.path().join(name)));
    let sources = gather(&typed, |_| panic!("none is a stream")).expect("they are there");
    let input = Input { sources, options: Options::default() };
    insta::assert_snapshot!(shown(&input).await, @r#"
    0:1 1 {"prompt":"a"}
    1:1 prompt-1 {"prompt":"b"}
    1:2 None bad: the line is not valid JSON: expected value at column 1
    2:2 Some("1") bad: an earlier line has the same id
    2:3 2 {"prompt":"d"}
    "#);
    let before = survey(&input, |_| ()).expect("it has prompts");
    write("d.txt", b"\n");
    let after = survey(&input, |_| ()).expect("it has prompts");
    assert_eq!(before.prompts, after.prompts);
    after.check_unchanged(&input, &before.fingerprint).expect_err("one of them has changed");
    let none =
        gather(&[Typed::File(folder.path().join("*.parquet"))], |_| panic!("none is a stream"));
    assert!(matches!(none, Err(PromptsError::NoMatch(_))), "{none:?}");
}

#[test]
fn a_pipe_that_a_pattern_finds_is_read_once() {
    let folder = temporary();
    let (pipe, spooled) = (folder.path().join("b.csv"), folder.path().join("spooled"));
    fs::write(folder.path().join("a.csv"), "prompt\na\n").expect("there is room");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("it runs").success());
    let to = pipe.clone();
    let writer = thread::spawn(move || fs::write(to, "prompt\nb\n").expect("somebody reads"));
    let typed = [Typed::File(folder.path().join("*.csv"))];
    let sources = gather(&typed, |_| spooled.clone()).expect("they are there");
    writer.join().expect("it wrote");
    let names = [folder.path().join("a.csv"), pipe].map(|path| path.display().to_string());
    assert_eq!(sources.iter().map(|source| source.name.clone()).collect::<Vec<_>>(), names);
    assert_eq!(fs::read_to_string(&sources[1].path).expect("it was spooled"), "prompt\nb\n");
}

#[tokio::test]
async fn a_format_that_is_given_holds_for_every_file() {
    let options = Options { format: Some(Format::Csv), ..Options::default() };
    let shown = becomes("a.jsonl", "prompt\n{}\n", options).await;
    assert_eq!(shown, "2 prompt-0 {\"prompt\":\"{}\"}\n");
}
