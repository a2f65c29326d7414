//! Inputs of every kind, good and bad: what becomes of each line.

use piecework::{
    prompts::{
        Entry, Format, Input, Options, Place, PromptsError, Source, Survey, default_id,
        spawn_reader, spool, survey,
    },
    shards::Bits,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::HashSet,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use wire::Form;

fn input(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> Input {
    let path = folder.path().join(name);
    fs::write(&path, content).expect("there is room");
    of(&path)
}

fn of(path: &Path) -> Input {
    let source = Source::file(path).expect("there is a folder to be in");
    Input { sources: vec![source], options: Options::default() }
}

fn temporary() -> TempDir {
    TempDir::new().expect("there is room for a folder")
}

async fn entries(input: &Input, survey: &Survey, done: Bits) -> Vec<Entry> {
    let mut reader = spawn_reader(input, survey, done).expect("the file is there");
    let mut entries = Vec::new();
    while let Some(batch) = reader.next().await {
        entries.extend(batch.expect("the file is as it was"));
    }
    entries
}

/// Surveys and reads an input, and checks that both say the same.
async fn read(input: &Input) -> (Survey, Vec<Entry>) {
    let survey = survey(input, |_| ()).expect("it has prompts");
    let entries = entries(input, &survey, Bits::new(survey.prompts)).await;
    let bad = entries.iter().filter(|entry| matches!(entry, Entry::Bad { .. })).count();
    assert_eq!((survey.prompts, survey.bad), (entries.len() as u64, bad as u64));
    let size = |source: &Source| fs::metadata(&source.path).expect("it is there").len();
    assert_eq!(survey.bytes, input.sources.iter().map(size).sum::<u64>());
    for (position, entry) in entries.iter().enumerate() {
        let (Entry::Good { prompt: wire::Prompt { index, .. }, .. } | Entry::Bad { index, .. }) =
            entry;
        assert_eq!(*index, position as u64);
    }
    (survey, entries)
}

/// A place as text: a line of the first file is only a number.
fn at(place: Place) -> String {
    match place {
        Place { file: 0, line } => line.to_string(),
        Place { file, line } => format!("{file}:{line}"),
    }
}

/// Entries as text: a line each.
fn shown(entries: &[Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let written = match entry {
            Entry::Good { prompt, custom_id, line } => {
                writeln!(text, "{} {custom_id} {:?} {}", at(*line), prompt.form, prompt.body)
            }
            Entry::Bad { line, custom_id, reason, .. } => {
                writeln!(text, "{} {custom_id:?} bad: {reason}", at(*line))
            }
        };
        written.expect("a string can be written to");
    }
    text
}

async fn becomes(name: &str, content: impl AsRef<[u8]>) -> String {
    let folder = temporary();
    shown(&read(&input(&folder, name, content)).await.1)
}

#[tokio::test]
async fn json_lines_of_every_kind_become_prompts() {
    let content = r#"{"prompt": "one"}
{"id": "b", "prompt": "two", "temperature": 0.5,  "stop": ["\n", "x"]}
{"temperature": 1e-1, "prompt": "three", "id": 3}
{"messages": [{"role": "user", "content": "four"}], "max_tokens": 7}
{"custom_id":"five","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":[]}]}}
{"custom_id":"six","url":"/v1/completions","body": {"prompt": "6", "id": "kept"} }
{"id": null, "prompt": "seven"}
{"prompt": "a \ud83e\uddee \u0000 \\u"}
"#;
    insta::assert_snapshot!(becomes("a.jsonl", content).await, @r#"
    1 prompt-0 Auto {"prompt": "one"}
    2 b Auto {"prompt":"two","temperature":0.5,"stop":["\n", "x"]}
    3 3 Auto {"temperature":1e-1,"prompt":"three"}
    4 prompt-3 Chat {"messages": [{"role": "user", "content": "four"}], "max_tokens": 7}
    5 five Chat {"messages":[{"role":"user","content":[]}]}
    6 six Text {"prompt": "6", "id": "kept"}
    7 prompt-6 Auto {"prompt":"seven"}
    8 prompt-7 Auto {"prompt": "a \ud83e\uddee \u0000 \\u"}
    "#);
}

#[tokio::test]
async fn plain_lines_are_prompts_as_they_stand() {
    let content = "How much?\n\n  \"indented\"\t\r\n \n{\"prompt\": 1}";
    insta::assert_snapshot!(becomes("a.txt", content).await, @r#"
    1 prompt-0 Auto {"prompt":"How much?"}
    3 prompt-1 Auto {"prompt":"  \"indented\"\t"}
    5 prompt-2 Auto {"prompt":"{\"prompt\": 1}"}
    "#);
}

#[tokio::test]
async fn a_raw_prompt_goes_to_the_model_as_it_is() {
    let folder = temporary();
    let mut input = input(&folder, "a", "{\"prompt\": \"x\"}\n{\"messages\":[{\"role\":\"u\"}]}");
    input.options.raw = true;
    let (_, entries) = read(&input).await;
    let form = |entry: &Entry| match entry {
        Entry::Good { prompt, .. } => prompt.form,
        Entry::Bad { reason, .. } => panic!("{reason}"),
    };
    assert_eq!(entries.iter().map(form).collect::<Vec<_>>(), [Form::Text, Form::Chat]);
}

#[tokio::test]
async fn a_format_that_is_given_is_not_guessed() {
    let folder = temporary();
    let mut input = input(&folder, "a.txt", "{\"prompt\": \"x\"}");
    input.options.format = Some(Format::Jsonl);
    let (_, entries) = read(&input).await;
    assert_eq!(shown(&entries), "1 prompt-0 Auto {\"prompt\": \"x\"}\n");
}

#[tokio::test]
async fn byte_order_marks_and_line_ends_of_windows_are_no_part_of_a_prompt() {
    let content = "\u{feff}{\"prompt\": \"a\"}\r\n\r\n{\"prompt\": \"b\"}\r\n{\"prompt\": \"c\"}";
    insta::assert_snapshot!(becomes("a", content).await, @r#"
    1 prompt-0 Auto {"prompt": "a"}
    3 prompt-1 Auto {"prompt": "b"}
    4 prompt-2 Auto {"prompt": "c"}
    "#);
}

#[tokio::test]
async fn every_bad_line_says_what_is_wrong_with_it() {
    let chat = "\"url\":\"/v1/chat/completions\"";
    let cases: [(&[u8], &str); 31] = [
        (b"{\"prompt\": \"\xff\"}", "the line is not valid UTF-8 at byte 13"),
        (b"{\"prompt\": \"a\0\"}", "the line has a NUL at byte 14"),
        (
            b"{\"prompt\": \"a\"",
            "the line is not valid JSON: EOF while parsing an object at column 14",
        ),
        (b"{\"prompt\": \"a\"} x", "the line is not valid JSON: trailing characters at column 17"),
        (b"{'prompt': 1}", "the line is not valid JSON: key must be a string at column 2"),
        (b"[\"a\"]", "the line is JSON, but not an object"),
        (b"\"a\"", "the line is JSON, but not an object"),
        (b"hello", "the line is not valid JSON: expected value at column 1"),
        (b"{}", "the line has no `prompt`, no `messages` and no `body`"),
        (b"{\"text\": \"a\"}", "the line has no `prompt`, no `messages` and no `body`"),
        (b"{\"prompt\": \"\"}", "`prompt` is empty"),
        (b"{\"prompt\": 7}", "`prompt` must be a string"),
        (b"{\"prompt\": [\"a\"]}", "`prompt` must be a string"),
        (b"{\"prompt\": null}", "`prompt` must be a string"),
        (b"{\"prompt\": \"\\ud800\"}", "`prompt` must be a string of whole characters"),
        (b"{\"prompt\": \"a\", \"prompt\": \"b\"}", "the line has `prompt` twice"),
        (
            b"{\"prompt\": \"a\", \"messages\": []}",
            "the line has both `prompt` and `messages`; which one is meant can't be told",
        ),
        (b"{\"messages\": []}", "`messages` is empty"),
        (b"{\"messages\": \"a\"}", "`messages` must be a list of objects with a `role`"),
        (b"{\"messages\": [{}]}", "`messages` must be a list of objects with a `role`"),
        (b"{\"id\": [1], \"prompt\": \"a\"}", "`id` must be a string or a number"),
        (b"{\"id\": \"\", \"prompt\": \"a\"}", "`id` is empty"),
        (
            b"{\"id\": 1, \"custom_id\": 2, \"prompt\": \"a\"}",
            "the line has both `custom_id` and `id`; which one is meant can't be told",
        ),
        (b"{\"url\": \"/v1/completions\"}", "`body` is missing"),
        (b"{\"body\": {}}", "`url` is missing"),
        (&format!("{{{chat},\"body\":[]}}").into_bytes(), "`body` must be an object"),
        (&format!("{{{chat},\"body\":{{}}}}").into_bytes(), "`body.messages` is missing"),
        (
            &format!("{{{chat},\"method\":\"GET\",\"body\":{{}}}}").into_bytes(),
            "`method` is `GET`; it can only be `POST`",
        ),
        (b"{\"url\":\"/v1/completions\",\"body\":{}}", "`body.prompt` is missing"),
        (
            b"{\"url\":\"/v1/embeddings\",\"body\":{}}",
            "`url` is `/v1/embeddings`; it can be `/v1/chat/completions` or `/v1/completions`",
        ),
        (
            &[b"{\"url\":\"/".as_slice(), &[b'x'; 99], b"\",\"body\":{}}"].concat(),
            "`url` is `/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…`; it can be \
             `/v1/chat/completions` or `/v1/completions`",
        ),
    ];
    for (line, reason) in cases {
        let good = b"{\"prompt\": \"good\"}".as_slice();
        let content = [good, line, good].join(&b'\n');
        let expected = format!(
            "1 prompt-0 Auto {{\"prompt\": \"good\"}}\n2 None bad: {reason}\n\
             3 prompt-2 Auto {{\"prompt\": \"good\"}}\n"
        );
        assert_eq!(becomes("a", content).await, expected);
    }
}

#[tokio::test]
async fn a_bad_line_keeps_its_id_where_it_has_one() {
    let content = "{\"prompt\": \"\", \"id\": \"a\"}\n{\"custom_id\": 7}";
    insta::assert_snapshot!(becomes("a", content).await, @r#"
    1 Some("a") bad: `prompt` is empty
    2 Some("7") bad: the line has no `prompt`, no `messages` and no `body`
    "#);
}

#[tokio::test]
async fn the_first_of_several_lines_with_one_id_is_done() {
    let content = "{\"prompt\":\"\",\"id\":7}\n{\"prompt\":\"a\",\"id\":7}\n{\"prompt\":\"b\"}\n\
                   {\"custom_id\":\"7\",\"prompt\":\"c\"}\n{\"prompt\":\"d\",\"id\":8}";
    insta::assert_snapshot!(becomes("a", content).await, @r#"
    1 Some("7") bad: `prompt` is empty
    2 7 Auto {"prompt":"a"}
    3 prompt-2 Auto {"prompt":"b"}
    4 Some("7") bad: an earlier line has the same id
    5 8 Auto {"prompt":"d"}
    "#);
}

#[tokio::test]
async fn an_id_that_a_line_without_one_gets_is_had_by_no_other() {
    let content = "{\"id\":\"prompt-1\",\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n{\"prompt\":\"c\"}\n\
                   {\"id\":\"prompt-2\",\"prompt\":\"d\"}\n{\"id\":\"prompt-03\",\"prompt\":\"e\"}\n\
                   {\"id\":\"prompt-6\",\"prompt\":\"f\"}\n{}";
    insta::assert_snapshot!(becomes("a", content).await, @r#"
    1 prompt-1 Auto {"prompt":"a"}
    2 Some("prompt-1") bad: an earlier line has the same id
    3 prompt-2 Auto {"prompt":"c"}
    4 Some("prompt-2") bad: an earlier line has the same id
    5 prompt-03 Auto {"prompt":"e"}
    6 prompt-6 Auto {"prompt":"f"}
    7 None bad: the line has no `prompt`, no `messages` and no `body`
    "#);
}

#[tokio::test]
async fn a_line_over_the_limit_is_bad_and_the_next_is_read() {
    let folder = temporary();
    let long = format!("{{\"prompt\": \"{}\"}}", "x".repeat(5 << 20));
    let mut input =
        input(&folder, "a", format!("{{\"prompt\":\"a\"}}\n{long}\n{{\"prompt\":\"b\"}}"));
    input.options.line_limit = 1 << 20;
    let (survey, entries) = read(&input).await;
    assert_eq!(
        shown(&entries),
        "1 prompt-0 Auto {\"prompt\":\"a\"}\n2 None bad: the line is longer than 1048576 bytes\n\
         3 prompt-2 Auto {\"prompt\":\"b\"}\n"
    );
    assert_eq!(survey.first_bad[0].line.line, 2);
}

#[tokio::test]
async fn json_nested_deeper_than_any_stack_is_no_danger() {
    let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
    let lines = format!(
        "{{\"prompt\":\"a\",\"x\":{deep}}}\n{{\"prompt\":{deep}}}\n{{\"messages\":{deep}}}"
    );
    let shown = becomes("a", lines).await;
    let ends: Vec<_> = shown.lines().map(|line| &line[line.len() - 30..]).collect();
    assert_eq!(ends[1..], ["bad: `prompt` must be a string", " list of objects with a `role`"]);
}

#[test]
fn an_input_that_is_no_input_is_a_clear_error() {
    let folder = temporary();
    let shown = |input: &Input| {
        let error = survey(input, |_| ()).expect_err("it has no prompts").to_string();
        error.replace(&folder.path().display().to_string(), "FOLDER")
    };
    let missing = of(&folder.path().join("none"));
    assert_eq!(
        shown(&missing),
        "there is no file `FOLDER/none`; check its name and the folder you are in"
    );
    let empty = "`FOLDER/a` has no prompts: it is empty, or all its lines are blank";
    for content in ["", "\n\n", " \r\n\t\n"] {
        assert_eq!(shown(&input(&folder, "a", content)), empty);
    }
    let directory = of(folder.path());
    assert_eq!(
        shown(&directory),
        "`FOLDER` is a folder; give a file in it, or all of them as `FOLDER/*.jsonl`"
    );
}

#[test]
fn a_changed_file_is_refused_and_the_error_says_how_to_go_on() {
    let folder = temporary();
    let input = input(&folder, "a", "one\ntwo\n");
    let first = survey(&input, |_| ()).expect("it has prompts");
    first.check_unchanged(&input, &first.fingerprint).expect("it is the same");
    fs::write(&input.sources[0].path, "one\nTwo\n").expect("there is room");
    let second = survey(&input, |_| ()).expect("it has prompts");
    let error = second.check_unchanged(&input, &first.fingerprint).expect_err("it has changed");
    let shown = error.to_string().replace(&folder.path().display().to_string(), "FOLDER");
    assert_eq!(
        shown,
        "`FOLDER/a` has changed since the run began, so its prompts may not be those whose \
         completions are here; put the old file back and resume, or start a new run with the new \
         file"
    );
    assert_eq!(
        first.fingerprint.0, "c3f9c8c283a2b1f2f1896f27a01cbe3cddc0c9d93f752e4639035a0f5b36f6e8",
        "as `sha256sum` has it"
    );
}

#[tokio::test]
async fn a_file_that_changes_between_survey_and_reading_is_an_error() {
    let folder = temporary();
    for changed in ["one\n", "one\ntwo\nthree\n"] {
        let input = input(&folder, "a", "one\ntwo\n");
        let survey = survey(&input, |_| ()).expect("it has prompts");
        fs::write(&input.sources[0].path, changed).expect("there is room");
        let mut reader = spawn_reader(&input, &survey, Bits::new(2)).expect("the file is there");
        let error = loop {
            match reader.next().await.expect("the change is seen before the end") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, PromptsError::Changed(_)), "{error}");
        assert!(reader.next().await.is_none());
    }
}

#[tokio::test]
async fn a_line_that_is_cut_while_its_file_is_read_is_the_files_fault_and_never_a_bad_line() {
    let folder = temporary();
    let line = |index: u64| format!("{{\"prompt\":\"line {index}\"}}\n");
    for cut in [3, 512, 700] {
        let input = input(&folder, "a.jsonl", (0..cut).map(line).collect::<String>());
        let survey = survey(&input, |_| ()).expect("it has prompts");
        let file = fs::OpenOptions::new().write(true).open(&input.sources[0].path);
        file.and_then(|file| file.set_len(survey.bytes - 9)).expect("it can be cut");
        let mut reader = spawn_reader(&input, &survey, Bits::new(cut)).expect("the file is there");
        let error = loop {
            match reader.next().await.expect("the change is seen before the end") {
                Ok(entries) => {
                    assert!(entries.iter().all(|entry| matches!(entry, Entry::Good { .. })));
                }
                Err(error) => break error,
            }
        };
        assert!(matches!(error, PromptsError::Changed(_)), "{error}");
    }
}

#[tokio::test]
async fn prompts_that_are_done_are_left_out() {
    let folder = temporary();
    let text: String = (0..5000).fold(String::new(), |text, index| format!("{text}\nline {index}"));
    let input = input(&folder, "a", text);
    let (survey, all) = read(&input).await;
    let mut done = Bits::new(survey.prompts);
    (0..5000).filter(|index| index % 3 != 0).for_each(|index| {
        done.insert(index);
    });
    let rest = entries(&input, &survey, done).await;
    let expected: Vec<_> = all.into_iter().step_by(3).collect();
    assert_eq!(rest, expected);
}

#[tokio::test]
async fn a_hundred_thousand_lines_of_any_kind_each_become_one_entry() {
    let folder = temporary();
    let mut random = StdRng::seed_from_u64(11);
    let (mut content, mut expected, mut ids) = (Vec::new(), Vec::new(), HashSet::new());
    for number in 1..=100_000_u64 {
        let text = "é".repeat(random.random_range(1..200));
        let id = random.random_range(0..80_000);
        // What its line is: None if it is blank.
        let good = match random.random_range(0..8) {
            0 => {
                content.extend(b" \t");
                None
            }
            1 => {
                content.extend(&text.as_bytes()[1..]);
                Some(false)
            }
            2 => {
                content.extend(format!("{{\"prompt\":\"{text}").into_bytes());
                Some(false)
            }
            3 | 4 => {
                content.extend(format!("{{\"id\":{id},\"prompt\":\"{text}\"}}").into_bytes());
                Some(ids.insert(id))
            }
            5 => {
                content.extend(
                    format!(
                        "{{\"custom_id\":\"{id}\",\"url\":\"/v1/completions\",\
                         \"body\":{{\"prompt\":\"{text}\"}}}}"
                    )
                    .into_bytes(),
                );
                Some(ids.insert(id))
            }
            _ => {
                content.extend(format!("{{\"prompt\":\"{text}\"}}").into_bytes());
                Some(true)
            }
        };
        content.extend(if random.random_range(0..2) == 0 { "\n" } else { "\r\n" }.as_bytes());
        if let Some(good) = good {
            expected.push((number, good));
        }
    }
    let mut input = input(&folder, "a", content);
    input.options.format = Some(Format::Jsonl);
    let (survey, entries) = read(&input).await;
    let found: Vec<_> = entries
        .iter()
        .map(|entry| match entry {
            Entry::Good { line, .. } => (line.line, true),
            Entry::Bad { line, .. } => (line.line, false),
        })
        .collect();
    assert!(found == expected);
    assert!(0 < survey.duplicates.count() && survey.first_bad.len() == 20);
    for entry in &entries {
        if let Entry::Good { prompt, custom_id, .. } = entry {
            serde_json::from_str::<serde_json::Value>(&prompt.body).expect("a body is JSON");
            assert!(*custom_id == default_id(prompt.index) || custom_id.parse::<u64>().is_ok());
        }
    }
}

#[test]
fn a_spool_appears_when_it_is_whole() {
    struct Torn(bool);
    impl io::Read for Torn {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, false) {
                buffer[0] = b'x';
                return Ok(1);
            }
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let folder = temporary();
    let path: PathBuf = folder.path().join("prompts.jsonl");
    let names = |folder: &Path| fs::read_dir(folder).expect("it is there").count();
    spool(Torn(true), &path).expect_err("the stream broke");
    assert_eq!(names(folder.path()), 0);
    assert_eq!(spool(b"some text".as_slice(), &path).expect("there is room"), 9);
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "some text");
    assert_eq!(names(folder.path()), 1);
}
