//! Input that means harm, or nothing: every kind of JSON that parsers have come to grief over, in
//! every place of a line; lines of 100 MB; zeros; a file that changes while it is read. Each line
//! ends in the completions or in the errors, with its reason, and memory stays bounded.

use crate::program::{User, conversation, eventually, json_lines};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    process::{Output, Stdio},
};

/// Bytes that the program may have in memory at most, where lines are as long as they may be: six
/// batches of one such line each, what is made of them on its way, and itself.
const MEMORY: u64 = 400 << 20;

/// Values as a line may have them, by what is odd about them. Whether they are JSON is not said:
/// that is asked of a parser.
#[expect(clippy::too_many_lines, reason = "it is a list")]
fn values() -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<(&'static str, Vec<u8>)> = Vec::new();
    let mut add = |class, texts: &[&str]| {
        all.extend(texts.iter().map(|text| (class, text.as_bytes().to_vec())));
    };
    add(
        "words",
        &["null", "true", "false", "nul", "tru", "True", "FALSE", "nulll", "NaN", "undefined"],
    );
    add(
        "whole numbers",
        &["0", "-0", "7", "-7", "007", "+7", "--7", "- 7", "1 000", "0x1f", "1_000", "1a"],
    );
    add(
        "numbers beyond what a machine counts",
        &[
            "9223372036854775808",
            "18446744073709551616",
            "-9223372036854775809",
            "1e400",
            "-1e400",
            "1e-400",
            "123456789012345678901234567890123456789012345678901234567890",
        ],
    );
    add(
        "fractions and exponents",
        &[
            "1.5",
            "1.",
            ".5",
            "-.5",
            "1.5.5",
            "1e5",
            "1E+5",
            "1e",
            "1e+",
            "1e5.5",
            "0e0",
            "0.1e",
            "1.e1",
            "Infinity",
            "-Infinity",
            "1٫5",
            "１",
        ],
    );
    add(
        "strings and their escapes",
        &[
            r#""""#,
            r#"" ""#,
            r#""\"""#,
            r#""\\""#,
            r#""\/\b\f\n\r\t""#,
            r#""\x41""#,
            r#""\a""#,
            r#""\u00""#,
            r#""\u00g0""#,
            r#""\U0041""#,
            r#""\"#,
            r#"""#,
            r#""\\\""#,
            "'single'",
            "\"tab\there\"",
            "\"bell\u{7}\"",
            "\"delete\u{7f}\"",
            r#""\u0000""#,
            r#""\u0007""#,
            "bare",
            "\"a\" \"b\"",
            "\"a\"b",
        ],
    );
    add(
        "halves of characters",
        &[
            r#""\ud83d""#,
            r#""\ude00""#,
            r#""\ud83d\ude00""#,
            r#""\ude00\ud83d""#,
            r#""\ud83dx""#,
            r#""\ud83d\u0041""#,
            r#""\ud83d\ud83d\ude00""#,
            r#""\uffff\ufffe""#,
            r#""\udbff\udfff""#,
        ],
    );
    add(
        "characters of every length",
        &[
            "\"é\"",
            "\"€\"",
            "\"𝄞\"",
            "\"\u{2028}\u{2029}\"",
            "\"\u{feff}\"",
            "\"\u{200b}\u{202e}abc\"",
            "\"e\u{301}\"",
            "\"\u{10ffff}\"",
            "\"👩‍👩‍👧‍👦\"",
        ],
    );
    add(
        "lists",
        &[
            "[]",
            "[1]",
            "[1,2",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1,,2]",
            "]",
            "[",
            "[[[]]",
            "[1]]",
            "[\"a\":1]",
            "[1;2]",
            "[null,true,\"x\",{}]",
        ],
    );
    add(
        "objects",
        &[
            "{}",
            "{\"a\":1}",
            "{\"a\":1,}",
            "{\"a\"}",
            "{\"a\" 1}",
            "{a:1}",
            "{1:1}",
            "{'a':1}",
            "{\"a\":}",
            "{:1}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":1,\"a\":2}",
            "{\"\":0}",
            "{\"a\":1}}",
            "{{}}",
            "{\"a\":1}{\"b\":2}",
            "{null:1}",
            "{\"a\":1,,\"b\":2}",
        ],
    );
    add(
        "what isn't JSON at all",
        &[
            "// a remark",
            "/* a remark */ 1",
            "# a remark",
            "1 // a remark",
            "<xml/>",
            "---",
            "\u{a0}1",
            "\u{feff}1",
            "\u{2028}1",
            "\u{c}1",
            "\u{b}1",
            "\"\"\"long\"\"\"",
            "`x`",
            "${x}",
            "{{x}}",
            "{% raw %}",
            "\\",
            "\u{1a}",
        ],
    );
    for bytes in [
        &b"\"\xff\""[..],
        b"\"\xc0\xaf\"",
        b"\"\xed\xa0\x80\"",
        b"\"\xf4\x90\x80\x80\"",
        b"\"\xe2\x82\"",
        b"\"\x80\"",
        b"\"\xf8\x88\x80\x80\x80\"",
        b"\xfe\xff\0{\0}",
        b"{\0}\0",
        b"\xef\xbb\xbf{}",
        b"\"\xc3\x28\"",
        b"\xe9",
    ] {
        all.push(("what isn't UTF-8", bytes.to_vec()));
    }
    for bytes in [&b"\0"[..], b"\"\0\"", b"1\0", b"\0\0\0\0{}", b"{\"a\":\0}", b"\"a\0b\""] {
        all.push(("zeros", bytes.to_vec()));
    }
    for depth in [100, 127, 128, 129, 1_000, 100_000, 1_000_000] {
        let nest = |open: &str, middle: &str, close: &str| {
            [open.repeat(depth), middle.to_owned(), close.repeat(depth)].concat().into_bytes()
        };
        all.push(("nesting", nest("[", "", "]")));
        all.push(("nesting", nest("[", "", "")));
        all.push(("nesting", nest("{\"a\":", "1", "}")));
        all.push(("nesting", nest("{\"prompt\":", "\"x\"", "}")));
        all.push(("nesting", nest("", "", "]")));
    }
    all
}

/// Lines that have a value in each place where a line may have one.
fn lines(value: &[u8]) -> Vec<Vec<u8>> {
    let around = |before: &str, after: &str| [before.as_bytes(), value, after.as_bytes()].concat();
    vec![
        value.to_vec(),
        around("{\"prompt\":", "}"),
        around("{\"prompt\":\"x\",\"more\":", "}"),
        around("{\"id\":", ",\"prompt\":\"x\"}"),
        around("{\"messages\":", "}"),
        around("{\"messages\":[{\"role\":\"user\",\"content\":", "}]}"),
        around("{\"prompt\":\"x\",\"max_tokens\":", "}"),
        around(
            "{\"custom_id\":\"c\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":",
            "}",
        ),
        around("{\"prompt\":\"x\",", "}"),
        around(" \t{\"prompt\":\"x\"}", ""),
    ]
}

/// Runs, and says how much memory the program had at most.
fn run(user: &User, arguments: &[&str]) -> (Output, u64) {
    let mut command = user.piecework(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let status = format!("/proc/{}/status", child.id());
    let watching = std::thread::spawn(move || {
        let mut most = 0;
        while let Ok(text) = fs::read_to_string(&status) {
            let Some(peak) = text.lines().find_map(|line| line.strip_prefix("VmHWM:")) else {
                break;
            };
            let kib = peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
            most = kib << 10;
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        most
    });
    let output = child.wait_with_output().expect("it ends");
    (output, watching.join().expect("it watches"))
}

/// What became of each line of a run that is over, by its position. Checks that each has one end,
/// and that an error says why.
fn ends(folder: &Path, count: usize) -> BTreeMap<usize, Result<Value, String>> {
    let mut ends = BTreeMap::new();
    let position = |line: &Value| {
        let id = line["id"].as_str().expect("each has one");
        id.rsplit('-').next().expect("it ends in a number").parse::<usize>().expect("a number")
    };
    for line in json_lines(&folder.join("out.jsonl")) {
        let twice = ends.insert(position(&line), Ok(line["response"]["body"].clone()));
        assert!(twice.is_none(), "{line}");
    }
    let errors = folder.join("out.errors.jsonl");
    for line in if errors.exists() { json_lines(&errors) } else { Vec::new() } {
        let reason = line["reason"].as_str().expect("it says why").to_owned();
        assert!(!reason.is_empty() && reason.len() < 2000, "{line}");
        let twice = ends.insert(position(&line), Err(format!("{}: {reason}", line["failure"])));
        assert!(twice.is_none(), "{line}");
    }
    assert_eq!(ends.keys().copied().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    ends
}

/// The prompt of a line that has nothing but one, as another parser sees it.
fn plain_prompt(line: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let object = value.as_object().filter(|object| object.len() == 1)?;
    object.get("prompt")?.as_str().filter(|prompt| !prompt.is_empty()).map(str::to_owned)
}

#[expect(clippy::print_stdout, reason = "what was tried is counted")]
fn tell(what: &str, memory: u64) {
    println!("{what}; at most {} MB in memory", memory >> 20);
}

const OUT: [&str; 4] = ["--engine", "echo", "--out", "out.jsonl"];

#[test]
fn every_kind_of_odd_json_in_every_place_ends_as_a_completion_or_as_an_error_with_a_reason() {
    let values = values();
    let classes: BTreeSet<_> = values.iter().map(|(class, _)| *class).collect();
    let all: Vec<Vec<u8>> = values.iter().flat_map(|(_, value)| lines(value)).collect();
    let blank = |line: &&Vec<u8>| line.iter().all(u8::is_ascii_whitespace);
    assert_eq!(all.iter().filter(blank).count(), 0);
    let user = User::new();
    user.file("prompts.jsonl", all.join(&b"\n"[..]));
    for format in ["jsonl", "text"] {
        let arguments =
            [&["run", "prompts.jsonl", "--format", format, "--force"], &OUT[..]].concat();
        let (output, memory) = run(&user, &arguments);
        assert_eq!(output.status.code(), Some(5), "{}", conversation(&output));
        let ends = ends(user.folder(), all.len());
        let (mut done, mut failed) = (0, 0);
        for (line, (position, end)) in all.iter().zip(&ends) {
            let shown = String::from_utf8_lossy(&line[..line.len().min(100)]);
            match end {
                Ok(_) => done += 1,
                Err(_) => failed += 1,
            }
            if format == "text" {
                let is_text = str::from_utf8(line).is_ok() && !line.contains(&0);
                // One of a megabyte is more than a model reads.
                let short = line.len() < 1000;
                assert!(end.is_ok() == is_text || !short, "{position}: {shown}: {end:?}");
            } else if serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err() {
                assert!(end.is_err(), "{position}: {shown}: {end:?}");
            } else if let Some(prompt) = plain_prompt(line) {
                let body = end.as_ref().unwrap_or_else(|why| panic!("{position}: {shown}: {why}"));
                assert_eq!(
                    body["choices"][0]["message"]["content"], *prompt,
                    "{position}: {shown}"
                );
            }
        }
        let (values, classes, lines) = (values.len(), classes.len(), all.len());
        tell(
            &format!(
                "{format}: {values} values of {classes} kinds, {lines} lines: {done} done, {failed} failed"
            ),
            memory,
        );
        assert!(memory < MEMORY, "{} MB", memory >> 20);
        assert!(0 < done && 0 < failed);
    }
    user.assert_nothing_left();
}

#[test]
fn lines_of_100_mb_are_errors_and_those_as_long_as_may_be_are_answered() {
    let user = User::new();
    let path = user.folder().join("prompts.jsonl");
    let mut file = fs::File::create(&path).expect("there is room");
    let mut put = |before: &str, filling: u8, count: usize, after: &str| {
        file.write_all(before.as_bytes()).expect("there is room");
        let chunk = vec![filling; 1 << 20];
        let mut left = count;
        while 0 < left {
            let some = left.min(chunk.len());
            file.write_all(&chunk[..some]).expect("there is room");
            left -= some;
        }
        file.write_all(after.as_bytes()).expect("there is room");
        file.write_all(b"\n").expect("there is room");
    };
    let (long, most) = (100_000_000, (16 << 20) - 13);
    put("{\"prompt\":\"first\"}", b' ', 0, "");
    put("{\"prompt\":\"", b'x', long, "\"}");
    put("", b'[', long, "");
    put("", 0, long, "");
    put("{\"prompt\":\"", b'\\', long, "\"}");
    put("", b'x', long, "");
    put("", b' ', long, "{\"prompt\":\"after many spaces\"}");
    for _ in 0..4 {
        put("{\"prompt\":\"", b'y', most, "\"}");
    }
    put("{\"prompt\":\"", b'y', most + 1, "\"}");
    put("{\"prompt\":\"last\"}", b' ', 0, "");
    let (output, memory) = run(&user, &[&["run", "prompts.jsonl"], &OUT[..]].concat());
    assert_eq!(output.status.code(), Some(5), "{}", conversation(&output));
    let ends = ends(user.folder(), 13);
    let shown: Vec<_> = ends
        .values()
        .map(|end| match end {
            Ok(body) => {
                format!("{}", body["choices"][0]["message"]["content"].as_str().map_or(0, str::len))
            }
            Err(why) => why.clone(),
        })
        .collect();
    let long = "\"bad_line\": the line is longer than 16777216 bytes";
    assert_eq!((shown[0].as_str(), shown[12].as_str()), ("5", "4"));
    assert!(shown[1..7].iter().chain([&shown[11]]).all(|end| end == long), "{shown:#?}");
    tell(&format!("7 lines too long, 4 of 16 MiB: {:?}", &shown[7..11]), memory);
    assert!(memory < MEMORY, "{} MB", memory >> 20);
    user.assert_nothing_left();
}

#[test]
fn a_file_that_grows_or_shrinks_while_it_is_read_ends_the_run_and_says_so_and_the_old_file_completes_it()
 {
    type Change = fn(&Path);
    let grow: Change = |path| {
        let mut file = OpenOptions::new().append(true).open(path).expect("it is there");
        file.write_all(b"{\"prompt\":\"one more\"}\n").expect("there is room");
    };
    let shrink: Change = |path| {
        let file = OpenOptions::new().write(true).open(path).expect("it is there");
        let length = file.metadata().expect("it is there").len();
        file.set_len(length - 1_000).expect("it can be cut");
    };
    let empty: Change = |path| fs::write(path, "").expect("it can be emptied");
    let vanish: Change = |path| fs::remove_file(path).expect("it can be removed");
    // Far more than is read ahead, so that the change comes before the end is read.
    let line = |i| format!("{{\"id\":\"q{i}\",\"prompt\":\"number {i} {}\"}}\n", "x".repeat(1_000));
    let text = (0..60_000).map(line).collect::<String>();
    for (name, change) in
        [("grows", grow), ("shrinks", shrink), ("is emptied", empty), ("vanishes", vanish)]
    {
        let user = User::new();
        let path = user.file("prompts.jsonl", &text);
        let program = user.start(&[&["run", "prompts.jsonl"], &OUT[..]].concat());
        let partial = eventually("a completion", || {
            let run = fs::read_dir(user.folder().join("home/runs")).ok()?.next()?.ok()?.path();
            let partial = run.join("completions.partial.jsonl");
            fs::metadata(&partial).is_ok_and(|data| 0 < data.len()).then_some(partial)
        });
        change(&path);
        let output = program.wait_with_output().expect("it ends");
        let said = conversation(&output);
        // A file that is only gone by its name can still be read to its end.
        if name == "vanishes" {
            assert_eq!(output.status.code(), Some(0), "{said}");
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "it {name}: {said}");
        assert!(said.contains("has changed since the run began"), "it {name}: {said}");
        assert!(partial.exists() && said.contains("nothing is left running"), "it {name}: {said}");
        let refused = user.run(&["resume", "last"]);
        assert_eq!(refused.status.code(), Some(1), "{}", conversation(&refused));
        fs::write(&path, &text).expect("there is room");
        user.done(&["resume", "last"]);
        assert_eq!(ends(user.folder(), 60_000).values().filter(|end| end.is_ok()).count(), 60_000);
        user.assert_nothing_left();
    }
}
