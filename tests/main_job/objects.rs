//! Prompts from object stores, and completions to them: a real server of S3's protocol, on loopback.

use crate::program::{User, conversation, eventually, ids, numbered, numbered_ids};
use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use tempfile::TempDir;

/// A server of S3's protocol over a folder. Ends with this.
struct Store {
    program: PathBuf,
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Store {
    /// One with an empty bucket. None where there is no such server, which is said with the name of
    /// the test.
    #[expect(clippy::print_stdout, reason = "what is skipped is said by name")]
    fn start(test: &str) -> Option<Self> {
        let Some(program) = env::var_os("PIECEWORK_TEST_S3").map(PathBuf::from) else {
            println!("skipped: {test}: PIECEWORK_TEST_S3 names no server");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("bucket")).expect("it is empty");
        let port = free_port();
        let process = serve(&program, folder.path(), port);
        Some(Self { program, process, port, folder })
    }

    /// What is in an object.
    fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join("bucket").join(key)
    }

    fn put(&self, key: &str, content: &[u8]) {
        let path = self.path(key);
        fs::create_dir_all(path.parent().expect("it is in a bucket")).expect("there is room");
        fs::write(path, content).expect("there is room");
    }

    /// The program, which knows the way here.
    fn piecework(&self, user: &User, arguments: &[&str]) -> Command {
        let mut command = user.piecework(arguments);
        command
            .env("AWS_ACCESS_KEY_ID", "tester")
            .env("AWS_SECRET_ACCESS_KEY", "nobody's")
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port));
        command
    }

    fn kill(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it ends");
    }

    fn start_again(&mut self) {
        self.process = serve(&self.program, self.folder.path(), self.port);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    listener.local_addr().expect("it is bound").port()
}

fn serve(program: &Path, folder: &Path, port: u16) -> Child {
    let process = Command::new(program)
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--access-key", "tester", "--secret-key", "nobody's"])
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    eventually("a server", || TcpStream::connect(("127.0.0.1", port)).ok());
    process
}

const ECHO: [&str; 2] = ["--engine", "echo"];

#[test]
fn prompts_come_from_a_store_and_completions_go_there() {
    let Some(store) = Store::start("prompts from a store") else { return };
    let user = User::new();
    store.put("in/b.jsonl", b"{\"id\":\"q2\",\"prompt\":\"two\"}\n");
    store.put("in/a.jsonl", numbered(2).as_bytes());
    store.put("in/deep/c.jsonl", b"{\"id\":\"no\",\"prompt\":\"not meant\"}\n{\"bad\":1}\n");
    let run = ["run", "s3://bucket/in/*.jsonl", "--out", "s3://bucket/out/all.jsonl"];
    let output = store.piecework(&user, &run).args(ECHO).output().expect("it runs");
    let told = conversation(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert_eq!(ids(&store.path("out/all.jsonl")), numbered_ids(3));
    assert!(told.contains("completions: s3://bucket/out/all.jsonl"), "{told}");

    // It isn't overwritten unless that is said.
    let again = store.piecework(&user, &run).args(ECHO).output().expect("it runs");
    let told = conversation(&again);
    assert_eq!(again.status.code(), Some(2), "{told}");
    assert!(told.contains("`s3://bucket/out/all.jsonl` is there already"), "{told}");
    // Nor are the prompts, whatever is said.
    for (prompts, out) in [("in/a.jsonl", "in/a.jsonl"), ("in/*.jsonl", "in/b.jsonl")] {
        let [prompts, target] = [prompts, out].map(|name| format!("s3://bucket/{name}"));
        let run = ["run", &prompts, "--out", &target, "--force"];
        let before = fs::read(store.path(out)).expect("it is there");
        let refused = store.piecework(&user, &run).args(ECHO).output().expect("it runs");
        let told = conversation(&refused);
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(told.contains(&format!("`{target}` holds the prompts")), "{told}");
        assert_eq!(fs::read(store.path(out)).expect("it is there"), before);
    }

    // Errors go beside them, and what is packed is packed there too.
    let run = ["run", "s3://bucket/in/deep/c.jsonl", "--out", "s3://bucket/out/c.jsonl.gz"];
    let output = store.piecework(&user, &run).args(ECHO).output().expect("it runs");
    let told = conversation(&output);
    assert_eq!(output.status.code(), Some(5), "{told}");
    assert!(told.contains("errors: s3://bucket/out/c.errors.jsonl"), "{told}");
    assert_eq!(&fs::read(store.path("out/c.jsonl.gz")).expect("it is there")[..2], [0x1f, 0x8b]);
    assert!(store.path("out/c.errors.jsonl").exists());
    user.assert_nothing_left();
}

/// A run whose completions take several parts, up to the first that is in the store.
fn with_one_part_sent(store: &Store, user: &User) -> Child {
    let line = |i| format!("{{\"id\":\"q{i}\",\"prompt\":\"{}\"}}\n", "words ".repeat(3_000));
    user.file("prompts.jsonl", (0..LARGE).map(line).collect::<String>());
    let run = ["run", "prompts.jsonl", "--out", "s3://bucket/out.jsonl"];
    let mut command = store.piecework(user, &run);
    command.args(ECHO).stdout(Stdio::null()).stderr(Stdio::piped());
    let program = command.spawn().expect("it runs");
    eventually("a part that is there", || {
        let note = user.folder().join("home/runs").read_dir().ok()?.flatten().next()?.path();
        let note = fs::read_to_string(note.join("sent.json")).ok()?;
        note.contains("\"parts\":[\"").then_some(())
    });
    program
}

/// How many prompts of 18 kB make ten parts.
const LARGE: usize = 4_000;

#[test]
fn a_store_that_is_killed_in_the_middle_of_a_transfer_gets_the_rest_when_it_is_back() {
    let Some(mut store) = Store::start("a store that is killed") else { return };
    let user = User::new();
    let program = with_one_part_sent(&store, &user);
    store.kill();
    assert!(!store.path("out.jsonl").exists(), "it was too late");
    store.start_again();
    let output = program.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", conversation(&output));
    assert_eq!(ids(&store.path("out.jsonl")), numbered_ids(LARGE));
}

#[test]
fn a_program_that_is_killed_in_the_middle_of_a_transfer_sends_the_rest_when_it_is_resumed() {
    let Some(store) = Store::start("a program that is killed") else { return };
    let user = User::new();
    let mut program = with_one_part_sent(&store, &user);
    program.kill().expect("it is ours");
    program.wait().expect("it ends");
    assert!(!store.path("out.jsonl").exists(), "it was too late");
    let before = sent(&user);
    let resume = store.piecework(&user, &["resume", "last"]).output().expect("it runs");
    assert_eq!(resume.status.code(), Some(0), "{}", conversation(&resume));
    assert_eq!(ids(&store.path("out.jsonl")), numbered_ids(LARGE));
    // What was there was not sent again: it has the same name.
    let after = sent(&user);
    assert_eq!(before["id"], after["id"]);
    assert_eq!(before["parts"][0], after["parts"][0]);
    // Once more, it has nothing to do.
    fs::remove_file(store.path("out.jsonl")).expect("it is there");
    let resume = store.piecework(&user, &["resume", "last"]).output().expect("it runs");
    assert_eq!(resume.status.code(), Some(0), "{}", conversation(&resume));
    assert!(!store.path("out.jsonl").exists());
}

fn sent(user: &User) -> serde_json::Value {
    let note = fs::read(user.only_run().join("sent.json")).expect("there is one");
    serde_json::from_slice(&note).expect("it is JSON")
}

#[test]
fn a_store_that_refuses_is_known_before_anything_is_rented() {
    let Some(store) = Store::start("a store that refuses") else { return };
    let user = User::new();
    user.file("prompts.jsonl", numbered(3));
    let run = ["run", "prompts.jsonl", "--out", "s3://bucket/out.jsonl"];
    let mut command = store.piecework(&user, &run);
    command.args(ECHO).env("AWS_SECRET_ACCESS_KEY", "another's");
    let output = command.output().expect("it runs");
    let told = conversation(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("the store refuses; see to its key"), "{told}");
    assert!(!user.folder().join("home/instances").exists());
    let run = ["run", "s3://bucket/nothing.jsonl"];
    let output = store.piecework(&user, &run).args(ECHO).output().expect("it runs");
    let told = conversation(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("there is nothing at `s3://bucket/nothing.jsonl`"), "{told}");
}

/// A web server that hangs up in the middle of its first answers. Returns its address, and how many
/// it has begun.
fn web(content: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let address = listener.local_addr().expect("it is bound");
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever hangs up meanwhile has had enough.
            drop(answer(stream, &content, &counted));
        }
    });
    (format!("http://{address}"), begun)
}

fn answer(mut stream: TcpStream, content: &[u8], begun: &AtomicUsize) -> std::io::Result<()> {
    let lines: Vec<String> = BufReader::new(stream.try_clone()?)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let from = lines.iter().find_map(|line| {
        let range = line.to_ascii_lowercase().strip_prefix("range: bytes=")?.to_owned();
        range.trim_end_matches('-').parse::<usize>().ok()
    });
    let rest = &content[from.unwrap_or(0)..];
    let (status, total) = (if from.is_some() { "206 Partial" } else { "200 OK" }, content.len());
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nETag: \"one\"\r\n")?;
    write!(stream, "Last-Modified: Thu, 26 Nov 2026 00:00:00 GMT\r\n")?;
    if let Some(from) = from {
        write!(stream, "Content-Range: bytes {from}-{}/{total}\r\n", total - 1)?;
    }
    write!(stream, "Content-Length: {}\r\n\r\n", rest.len())?;
    if lines.first().is_some_and(|line| line.starts_with("HEAD")) {
        return Ok(());
    }
    // The first three are cut short.
    let whole = 3 <= begun.fetch_add(1, Ordering::SeqCst);
    stream.write_all(if whole { rest } else { &rest[..rest.len() / 2] })
}

#[test]
fn prompts_from_the_web_go_on_where_the_connection_breaks() {
    let user = User::new();
    let (url, begun) = web(numbered(2_000).into_bytes());
    let run = ["run", &format!("{url}/data/prompts.jsonl"), "--out", "out.jsonl"];
    let output = user.piecework(&run).args(ECHO).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", conversation(&output));
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(2_000));
    assert!(4 <= begun.load(Ordering::SeqCst), "it broke");
    let to = format!("{url}/out.jsonl");
    user.file("prompts.jsonl", numbered(1));
    let output = user.run(&["run", "prompts.jsonl", "--out", &to, "--engine", "echo"]);
    let told = conversation(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("can only be read; write to s3://"), "{told}");
}
