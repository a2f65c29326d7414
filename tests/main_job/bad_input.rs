//! Input that is wrong: what is said, that nothing is rented, and that nothing is lost.

use crate::program::{User, conversation, ids, json_lines, numbered};
use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path, process::Command};

/// What is said to a command that must fail, and that nothing was begun.
fn refused(user: &User, arguments: &[&str], code: i32) -> String {
    let output = user.run(arguments);
    assert_eq!(output.status.code(), Some(code), "{}", conversation(&output));
    let runs = fs::read_dir(user.folder().join("home/runs"));
    assert_eq!(runs.map_or(0, Iterator::count), 0, "nothing was begun");
    let folder = user.folder().canonicalize().expect("it is there");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    told.replace(&*folder.to_string_lossy(), "[HERE]")
}

const ECHO: [&str; 2] = ["--engine", "echo"];

#[test]
fn a_missing_file_is_named() {
    let user = User::new();
    let told = refused(&user, &[&["run", "promts.jsonl"], &ECHO[..]].concat(), 1);
    insta::assert_snapshot!(told, @"error: there is no file `[HERE]/promts.jsonl`; check its name and the folder you are in");
}

#[test]
fn an_empty_file_is_named() {
    let user = User::new();
    user.file("prompts.jsonl", "\n\n");
    let told = refused(&user, &[&["run", "prompts.jsonl"], &ECHO[..]].concat(), 1);
    insta::assert_snapshot!(told, @"error: `[HERE]/prompts.jsonl` has no prompts: it is empty, or all its lines are blank");
}

#[test]
fn an_unknown_model_is_named_and_close_ones_are_suggested() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(1));
    let told = refused(&user, &["run", "prompts.jsonl", "--model", "smollm2-135m-instuct"], 2);
    assert!(told.starts_with("error: no model is called `smollm2-135m-instuct`"), "{told}");
    assert!(told.contains("SmolLM2-135M-Instruct") && told.contains("a path such as"), "{told}");
}

#[test]
fn a_model_with_a_missing_shard_is_refused_before_anything_is_rented() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(1));
    let model = user.folder().join("model");
    fs::create_dir(&model).expect("it is new");
    fs::write(model.join("config.json"), "{}").expect("it can be written");
    fs::write(model.join("tokenizer.json"), "{}").expect("it can be written");
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    fs::write(model.join("model.safetensors.index.json"), index).expect("it can be written");
    fs::write(model.join("model-00001-of-00002.safetensors"), "").expect("it can be written");
    let told = refused(&user, &["run", "prompts.jsonl", "--model", "./model"], 2);
    insta::assert_snapshot!(told, @"error: the folder `[HERE]/model` is no whole model: it has no model-00002-of-00002.safetensors");
}

#[test]
fn an_existing_output_is_not_overwritten() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(1));
    user.file("out.jsonl", "precious");
    let told =
        refused(&user, &[&["run", "prompts.jsonl", "--out", "out.jsonl"], &ECHO[..]].concat(), 2);
    insta::assert_snapshot!(told, @r"
        error: `[HERE]/out.jsonl` is there already
        hint: name another file with `--out`, or overwrite it with `--force`
        ");
    assert_eq!(fs::read(user.folder().join("out.jsonl")).expect("it is there"), b"precious");
}

#[test]
fn the_prompts_and_another_runs_errors_are_never_overwritten() {
    let user = User::new();
    user.file("x.errors.jsonl", numbered(3));
    let run = ["run", "x.errors.jsonl", "--engine", "echo", "--out", "x.jsonl"];
    for arguments in [&run[..], &[&run[..], &["--force"]].concat()] {
        let told = refused(&user, arguments, 2);
        assert!(told.contains("x.errors.jsonl` holds the prompts"), "{told}");
    }
    user.file("prompts.jsonl", numbered(1));
    let told = refused(&user, &["run", "prompts.jsonl", "--engine", "echo", "--out", "x.jsonl"], 2);
    assert!(told.contains("x.errors.jsonl` is there already"), "{told}");
    assert_eq!(fs::read_to_string(user.folder().join("x.errors.jsonl")).unwrap(), numbered(3));
}

#[test]
fn prompts_that_a_pattern_finds_are_never_overwritten_either() {
    let user = User::new();
    fs::create_dir(user.folder().join("data")).expect("it is new");
    user.file("data/a.jsonl", numbered(1));
    for name in ["data/x.jsonl", "data/x.errors.jsonl"] {
        let prompts = user.file(name, "{\"id\":\"x\",\"prompt\":\"precious\"}");
        let arguments = ["run", "data/*.jsonl", "--out", "data/x.jsonl", "--force"];
        let told = refused(&user, &[&arguments[..], &ECHO[..]].concat(), 2);
        assert!(told.contains(&format!("{name}` holds the prompts")), "{told}");
        fs::remove_file(prompts).expect("it is there still");
    }
}

#[test]
fn a_name_that_is_no_text_is_named_wherever_it_comes_from() {
    let user = User::new();
    let odd = user.folder().join(OsStr::from_bytes(b"odd\xff"));
    fs::create_dir(&odd).expect("it is new");
    fs::write(odd.join("prompts.jsonl"), numbered(1)).expect("there is room");
    let mut here = user.piecework(&["run", "prompts.jsonl", "--engine", "echo"]);
    let output = here.current_dir(&odd).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2), "{}", conversation(&output));
    assert!(conversation(&output).contains("is not valid UTF-8"), "{}", conversation(&output));
    // One that a pattern means isn't left out without a word.
    fs::create_dir(user.folder().join("data")).expect("it is new");
    user.file("data/a.jsonl", numbered(1));
    let left_out = user.folder().join("data").join(OsStr::from_bytes(b"\xff.jsonl"));
    fs::write(&left_out, numbered(1)).expect("there is room");
    for pattern in ["data/*.jsonl", "d*/?.jsonl"] {
        let told = refused(&user, &[&["run", pattern][..], &ECHO[..]].concat(), 1);
        assert!(told.contains("is not valid UTF-8; give it another name"), "{told}");
    }
    user.done(&[&["run", "data/[a-z].jsonl"][..], &ECHO[..]].concat());
}

#[test]
fn a_marketplace_that_is_unknown_is_named() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(1));
    let told =
        refused(&user, &[&["run", "prompts.jsonl", "--provider", "amazon"], &ECHO[..]].concat(), 2);
    insta::assert_snapshot!(told, @r"
        error: there is no marketplace `amazon`
        hint: there is local, vast, runpod, lambda, verda, shadeform, prime
        ");
}

#[test]
fn bad_lines_are_told_and_the_rest_is_done() {
    let user = User::new();
    let mut prompts = Vec::new();
    prompts.extend(b"{\"id\":\"a\",\"prompt\":\"one\"}\n");
    prompts.extend(b"{\"id\":\"b\",\"prompt\":\"\xff\"}\n");
    prompts.extend(b"{\"id\":\"c\",\"prompt\":\n");
    prompts.extend(b"{\"id\":\"a\",\"prompt\":\"again\"}\n");
    prompts.extend(b"{\"id\":\"d\"}\n");
    prompts
        .extend(format!("{{\"id\":\"e\",\"prompt\":\"{}\"}}\n", "x".repeat(50 << 20)).into_bytes());
    prompts.extend(b"{\"id\":\"f\",\"prompt\":\"six\"}\n");
    user.file("prompts.jsonl", prompts);
    let run = ["run", "prompts.jsonl", "--engine", "echo", "--out", "out.jsonl"];
    let output = user.run(&run);
    assert_eq!(output.status.code(), Some(5), "{}", conversation(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    let warnings: Vec<&str> = told.lines().filter(|line| line.starts_with("warning")).collect();
    insta::assert_snapshot!(warnings.join("\n"), @r"
        warning: line 2: the line is not valid UTF-8 at byte 21
        warning: line 3: the line is not valid JSON: EOF while parsing a value at column 19
        warning: line 5: the line has no `prompt`, no `messages` and no `body`
        warning: 5 bad lines will be in the errors file; the rest is done
        ");
    assert_eq!(ids(&user.folder().join("out.jsonl")), ["a", "f"]);
    let errors = json_lines(&user.folder().join("out.errors.jsonl"));
    let errors: Vec<String> =
        errors.iter().map(|e| format!("{} {} {}", e["line"], e["failure"], e["reason"])).collect();
    insta::assert_snapshot!(errors.join("\n"), @r#"
        2 "bad_line" "the line is not valid UTF-8 at byte 21"
        3 "bad_line" "the line is not valid JSON: EOF while parsing a value at column 19"
        4 "bad_line" "an earlier line has the same id"
        5 "bad_line" "the line has no `prompt`, no `messages` and no `body`"
        6 "bad_line" "the line is longer than 16777216 bytes"
        "#);
    user.assert_nothing_left();
}

#[expect(clippy::print_stdout, reason = "a test that is skipped is named")]
fn skip(name: &str) {
    println!("skipped {name}");
}

/// A file system of this size, if we may make one.
pub(crate) struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// Mounts one at this folder, made if it is missing.
    pub(crate) fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).expect("it can be made");
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }

    /// Where it is.
    pub(crate) fn at(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

#[test]
fn a_full_disk_ends_the_run_and_resume_goes_on_once_there_is_room() {
    let user = User::new();
    let Some(disk) = SmallDisk::mount(&user.folder().join("home/runs"), "300k") else {
        skip("a_full_disk_ends_the_run…: no permission to mount a small disk");
        return;
    };
    user.file("prompts.jsonl", numbered(2000));
    let run = ["run", "prompts.jsonl", "--engine", "echo", "--out", "out.jsonl"];
    let output = user.run(&run);
    assert_eq!(output.status.code(), Some(1), "{}", conversation(&output));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("there is no more room for") && told.contains("piecework resume"),
        "{told}"
    );
    assert!(told.contains("nothing is left running"), "{told}");
    user.assert_nothing_left();
    let more = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&disk.0).status();
    assert!(more.expect("mount runs").success());
    user.done(&["resume", "last"]);
    assert_eq!(ids(&user.folder().join("out.jsonl")), crate::program::numbered_ids(2000));
    user.assert_nothing_left();
    drop(disk);
}

#[test]
fn a_limit_on_the_size_of_files_is_told_as_a_full_disk_and_resume_goes_on_without_it() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(2000));
    // The worker itself would be too large a file.
    let real = Path::new(env!("CARGO_BIN_EXE_piecework")).with_file_name("piecework-worker");
    let worker = user.file("worker", format!("#!/bin/sh\nexec '{}' \"$@\"\n", real.display()));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(worker, mode).expect("it is ours");
    let run = "run prompts.jsonl --engine echo --echo-pace 1000 --out out.jsonl --worker worker";
    let program = user.piecework(&run.split(' ').collect::<Vec<_>>());
    // 100 or 200 KB, as shells count in blocks of 512 or 1024 bytes.
    let output = limited(&program, "ulimit -f 200").output().expect("there is a shell");
    assert_eq!(output.status.code(), Some(1), "{}", conversation(&output));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("there is no more room for") && told.contains("piecework resume"),
        "{told}"
    );
    user.assert_nothing_left();
    user.done(&["resume", "last", "--worker", "worker"]);
    assert_eq!(ids(&user.folder().join("out.jsonl")), crate::program::numbered_ids(2000));
    user.assert_nothing_left();
}

/// The same program, started by a shell that has done something else first.
fn limited(program: &Command, first: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-ec", &format!("{first}; exec \"$0\" \"$@\"")]);
    shell.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.current_dir(program.get_current_dir().expect("it has one"));
    shell
}
