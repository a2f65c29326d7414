//! `--dry-run` as it is typed: what it prints, how it ends, and that it leaves nothing.

use std::{
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// A user with nothing but a folder.
pub(crate) struct User(TempDir);

impl User {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn types(&self, arguments: &str, input: &str) -> Output {
        // No hub is asked, wherever this runs.
        self.types_with(&[("HF_ENDPOINT", "http://127.0.0.1:9")], arguments, input)
    }

    /// The same, with these variables.
    pub(crate) fn types_with(
        &self,
        variables: &[(&str, &str)],
        arguments: &str,
        input: &str,
    ) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_piecework"))
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .env_clear()
            .env("HOME", self.0.path())
            .env("PIECEWORK_HOME", self.0.path().join("home"))
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who doesn't read it has gone, which the exit code tells.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        child.wait_with_output().unwrap()
    }

    fn runs(&self) -> usize {
        fs::read_dir(self.0.path().join("home/runs")).map_or(0, Iterator::count)
    }
}

pub(crate) fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_plan_can_be_made_without_prompts() {
    let user = User::new();
    let job = "run --dry-run --prompt-count 4000000 --input-tokens 1000 --output-tokens 200";
    let (code, out, told) = said(&user.types(job, ""));
    assert_eq!((code, told.as_str()), (Some(0), ""), "{out}");
    let first = "SmolLM2-135M-Instruct on native: 4,000,000 prompts of 1,000 + 200 tokens, \
                 4.8 billion tokens in all";
    assert_eq!(out.lines().next(), Some(first));
    assert!(out.contains("no GPU at $0.00/h") && out.contains("local"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 100), "{out}");
    let (code, out, _) = said(&user.types(&format!("{job} --json"), ""));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["plans"][0]["machines"][0]["market"]), (Some(0), &"local".into()));
    assert_eq!(user.runs(), 0);
}

#[test]
fn prompts_are_counted_and_their_lengths_are_estimated() {
    let user = User::new();
    let line = |words: usize| format!("{{\"prompt\": \"{}\"}}\n", "word ".repeat(words));
    let prompts = line(100) + &line(300);
    fs::write(user.0.path().join("prompts.jsonl"), &prompts).unwrap();
    for command in
        ["run prompts.jsonl --dry-run --max-tokens 64", "run - --dry-run --max-tokens 64"]
    {
        let (code, out, told) = said(&user.types(command, &prompts));
        assert_eq!(code, Some(0), "{told}");
        assert_eq!(told, "", "{out}");
        // 250 tokens of five letters and a blank each, and 9 of a chat template.
        assert!(out.contains("2 prompts of 259 + 64 tokens"), "{out}");
        assert!(out.contains("(estimated from their length, 4 bytes a token)"), "{out}");
        assert!(out.contains("64 tokens in an answer (the most that is allowed"), "{out}");
    }
    assert_eq!(user.runs(), 0);
}

#[expect(clippy::print_stderr, reason = "a test that tests nothing says so")]
#[test]
fn prompts_are_counted_by_the_tokenizer_in_the_models_folder() {
    let Some(models) = std::env::var_os("PIECEWORK_TEST_MODELS") else {
        eprintln!("skipped: PIECEWORK_TEST_MODELS is not set");
        return;
    };
    let user = User::new();
    let line = "{\"prompt\": \"Once upon a time\", \"max_tokens\": 50}\n";
    fs::write(user.0.path().join("prompts.jsonl"), line.repeat(3_000)).unwrap();
    let model = std::path::Path::new(&models).join("stories260K");
    let command = format!("run prompts.jsonl --dry-run --raw --model {}", model.display());
    let (code, out, told) = said(&user.types(&command, ""));
    assert_eq!((code, told.as_str()), (Some(0), ""), "{out}");
    // `<s> Once upon a time`, as the model itself has it.
    assert!(out.contains("3,000 prompts of 5 + 50 tokens"), "{out}");
    assert!(out.contains("5 tokens in a prompt on average (measured on "), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 100), "{out}");
    let (_, out, _) = said(&user.types(&format!("{command} --json"), ""));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let basis = &json["lengths"]["input_basis"];
    assert_eq!((&basis["from"], &basis["median"]), (&"measured".into(), &5.0.into()), "{basis}");
    // What was said is not looked for.
    let (_, out, _) = said(&user.types(&format!("{command} --input-tokens 7"), ""));
    assert!(out.contains("3,000 prompts of 7 + 50") && !out.contains("measured on"), "{out}");
}

#[test]
fn what_can_not_be_done_has_its_own_exit_code_and_says_what_could() {
    let user = User::new();
    for (command, expected, reason, hint) in [
        (
            "run --dry-run --prompt-count 4000000 --deadline 1m",
            4,
            "no plan ends within 1 min",
            "--deadline",
        ),
        (
            "run --dry-run --prompt-count 5 --machines 2",
            3,
            "there are not 2 machines",
            "--machines 1",
        ),
        (
            "run --dry-run --prompt-count 5 --input-tokens 9000",
            3,
            "prompt and answer have 9200 tokens",
            "",
        ),
        (
            "run --dry-run --prompt-count 5 --model acme/new",
            1,
            "the size of `acme/new` is not known",
            "",
        ),
        (
            "run --dry-run --prompt-count 5 --provider nowhere",
            2,
            "there is no marketplace `nowhere`",
            "vast, runpod",
        ),
        ("run --rank time prompts.jsonl", 2, "--dry-run", ""),
        ("run --dry-run", 2, "PROMPTS", ""),
    ] {
        let (code, out, told) = said(&user.types(command, ""));
        assert_eq!((code, out.as_str()), (Some(expected), ""), "{command}: {told}");
        assert!(told.contains(reason) && told.contains(hint), "{command}: {told}");
    }
}

#[test]
fn a_users_own_prices_of_hosted_apis_are_beside_the_plan() {
    let user = User::new();
    let folder = user.0.path().join(".config/piecework");
    fs::create_dir_all(&folder).unwrap();
    let job = "run --dry-run --prompt-count 4000000 --input-tokens 1000 --output-tokens 200";
    let price = "[[price]]\nservice = \"Acme\"\nmodel = \"Smol\"\nsame = [\"SmolLM2-135M-Instruct\"]\n\
                 input = 0.01\noutput = 0.02\ndate = \"2026-11-20\"\nsource = \"their letter\"\n";
    fs::write(folder.join("hosted.toml"), price).unwrap();
    let (code, out, told) = said(&user.types(job, ""));
    assert_eq!(code, Some(0), "{told}");
    assert!(out.contains("hosted: $56.00 for Smol of Acme (2026-11-20)"), "{out}");
    fs::write(folder.join("hosted.toml"), "[[price]]\nservice = 1").unwrap();
    let (code, out, told) = said(&user.types(job, ""));
    assert_eq!((code, out.as_str()), (Some(2), ""), "{told}");
    assert!(told.contains("hosted.toml` makes no sense"), "{told}");
}
