//! Six marketplaces on this computer, whose instances are real processes that answer SSH.

use super::program::{User, eventually, numbered, pids_in, signal};
use providers::PROVIDERS;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// A running fakecloud. Ends with this, and with it everything that is rented there.
pub(crate) struct Cloud {
    process: Child,
    urls: Value,
    folder: TempDir,
}

impl Cloud {
    /// Starts one. None where this computer can't keep instances off its own files, which is said
    /// with the name of the test.
    pub(crate) fn start(test: &str) -> Option<Self> {
        Self::showing(test, &[])
    }

    /// The same, whose machines may read these folders too.
    #[expect(clippy::print_stdout, reason = "what is skipped is said by name")]
    pub(crate) fn showing(test: &str, shared: &[&Path]) -> Option<Self> {
        let program = Path::new(env!("CARGO_BIN_EXE_piecework")).with_file_name("fakecloud");
        assert!(
            program.exists(),
            "fakecloud isn't built; test with `cargo test --workspace --all-features`"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = Command::new(program)
            .args(["--offers", "40", "--folder"])
            .arg(folder.path())
            .args(shared.iter().flat_map(|folder| [Path::new("--share"), folder]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("fakecloud runs");
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().expect("it is piped"));
        output.read_line(&mut line).expect("it can be read");
        if line.is_empty() {
            let mut why = String::new();
            let mut errors = process.stderr.take().expect("it is piped");
            errors.read_to_string(&mut why).expect("it can be read");
            assert!(why.contains("can't be kept off"), "{why}");
            process.wait().expect("it is over");
            println!("skipped: {test}: {}", why.trim());
            return None;
        }
        let urls = serde_json::from_str(&line).expect("it is a line of JSON");
        Some(Self { process, urls, folder })
    }

    /// The program with these arguments, which knows these marketplaces and has a key for this one.
    pub(crate) fn piecework(&self, user: &User, market: &str, arguments: &[&str]) -> Command {
        let mut command = user.piecework(arguments);
        for provider in PROVIDERS {
            command.env(provider.url_variable, self.url(provider.name));
            if provider.name == market {
                for credential in provider.credentials {
                    command.env(credential.variables[0], self.key());
                }
            }
        }
        command
    }

    /// A run of numbered prompts, echoed by a machine of this marketplace, and as these arguments say.
    pub(crate) fn run(&self, user: &User, market: &str, prompts: usize, more: &[&str]) -> Command {
        user.file("prompts.jsonl", numbered(prompts));
        let run = ["run", "prompts.jsonl", "--engine", "echo", "--provider", market];
        let mut command = self.piecework(user, market, &run);
        command.args(more);
        command
    }

    /// Where a marketplace is.
    pub(crate) fn url(&self, market: &str) -> &str {
        self.urls[market].as_str().expect("each has an address")
    }

    /// The key that opens every account.
    pub(crate) fn key(&self) -> &str {
        self.urls["key"].as_str().expect("there is one")
    }

    /// Where it keeps its machines and their start scripts.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What really is, at one marketplace.
    pub(crate) fn world(&self, market: &str) -> Value {
        let mut world: Value =
            serde_json::from_str(&self.http("GET", "", "")).expect("the world is JSON");
        world[market].take()
    }

    /// How many public keys are on an account.
    pub(crate) fn keys(&self, market: &str) -> usize {
        self.world(market)["keys"].as_array().expect("it lists them").len()
    }

    /// Plans faults at one marketplace.
    pub(crate) fn plan(&self, faults: &Value) {
        self.http("POST", "/faults", &faults.to_string());
    }

    /// Makes everything at one marketplace this many times as dear.
    pub(crate) fn raise_prices(&self, market: &str, factor: u64) {
        self.http("POST", "/prices", &json!({ market: factor }).to_string());
    }

    /// Lets each GPU of a name answer so many prompts a second.
    pub(crate) fn pace(&self, paces: &BTreeMap<String, f64>) {
        self.http("POST", "/paces", &json!(paces).to_string());
    }

    /// What is still to go wrong, in the order in which it was planned.
    pub(crate) fn planned(&self) -> Value {
        serde_json::from_str(&self.http("GET", "/faults", "")).expect("it is JSON")
    }

    /// Waits until nothing is billed at a marketplace.
    pub(crate) fn wait_until_nothing_is_billed(&self, market: &str) {
        eventually("the end of all rentals", || (self.world(market)["billed"] == 0).then_some(()));
    }

    fn http(&self, method: &str, path: &str, body: &str) -> String {
        let url = self.urls["world"].as_str().expect("it has an address");
        let rest = url.strip_prefix("http://").expect("it is plain HTTP");
        let (host, root) = rest.split_once('/').expect("it has a path");
        let mut stream = TcpStream::connect(host).expect("fakecloud listens");
        let length = body.len();
        write!(
            stream,
            "{method} /{root}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("it hears");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("it speaks HTTP");
        assert!(head.starts_with("HTTP/1.1 2"), "{head}\n{body}");
        body.to_owned()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // By the signal that it ends its rentals on.
        let pid = self.process.id().to_string();
        drop(Command::new("kill").args(["-INT", &pid]).status());
        drop(self.process.wait());
    }
}

/// The only rental of a world.
pub(crate) fn only_rental(world: &Value) -> &Value {
    let rentals = world["rentals"].as_array().expect("it lists them");
    assert_eq!(rentals.len(), 1, "{rentals:#?}");
    &rentals[0]
}

/// Kills a program and its guard, so that nobody is left to settle its run.
pub(crate) fn kill_with_guard(user: &User, program: &mut Child) {
    let guards = eventually("its guard", || {
        let guards = pids_in(&user.only_run(), "guard");
        (!guards.is_empty()).then_some(guards)
    });
    // Held while the program dies: it would settle, and the program would start another.
    for guard in &guards {
        signal(guard, "STOP");
    }
    program.kill().expect("it is ours");
    program.wait().expect("it is over");
    for guard in &guards {
        signal(guard, "KILL");
    }
}
