//! The real command line, with a folder of its own for everything it keeps.

use providers::PROVIDERS;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Once,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::signal::unix::{self, SignalKind};

/// How long anything here may take before it has failed.
const LIMIT: Duration = Duration::from_mins(1);

/// A user with a home folder, and the program.
pub(crate) struct User(TempDir);

impl User {
    pub(crate) fn new() -> Self {
        static HEARD: Once = Once::new();
        HEARD.call_once(hear_interrupts);
        let user = Self(tempfile::tempdir().expect("a folder"));
        assert!(
            Path::new(env!("CARGO_BIN_EXE_piecework")).with_file_name("piecework-worker").exists(),
            "the worker isn't built; test with `cargo test --workspace`"
        );
        user
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file into the user's folder.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder().join(name);
        fs::write(&path, content).expect("it can be written");
        path
    }

    /// The program with these arguments, not yet started.
    pub(crate) fn piecework(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_piecework"));
        command
            .args(arguments)
            .current_dir(self.folder())
            .env_remove("PIECEWORK_MODEL")
            .env("PIECEWORK_HOME", self.folder().join("home"))
            .env("PIECEWORK_CACHE", self.folder().join("cache"))
            .env("XDG_CONFIG_HOME", self.folder().join("config"))
            .env("RUST_BACKTRACE", "0")
            // Nothing of the real user's: no keyring, and no key.
            .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere")
            .stdin(Stdio::null());
        for credential in PROVIDERS.iter().flat_map(|provider| provider.credentials) {
            for name in credential.variables {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.piecework(arguments).output().expect("the program runs")
    }

    /// Runs the program, which must end well.
    pub(crate) fn done(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}\n{}", conversation(&output));
        output
    }

    /// Starts the program, with its words kept.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.piecework(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program runs")
    }

    /// The only run's folder.
    pub(crate) fn only_run(&self) -> PathBuf {
        let runs = fs::read_dir(self.folder().join("home/runs")).expect("there are runs");
        let runs: Vec<_> = runs.map(|entry| entry.expect("it is readable").path()).collect();
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs.into_iter().next().expect("there is one")
    }

    /// The only local instance's folder, once there is one.
    pub(crate) fn only_instance(&self) -> PathBuf {
        let instances = self.folder().join("home/instances");
        eventually("an instance", || {
            let entries = fs::read_dir(&instances).ok()?.flatten().map(|entry| entry.path());
            let mut entries = entries.filter(|path| path.join("port").exists());
            entries.next()
        })
    }

    /// Waits until nothing is listed any more, though this user does nothing for it.
    pub(crate) fn wait_until_nothing_is_left(&self) {
        eventually("the end of it", || self.listed().is_empty().then_some(()));
        self.assert_nothing_left();
    }

    /// The lines of `ps`.
    fn listed(&self) -> Vec<String> {
        let ps = self.done(&["ps", "--json"]).stdout;
        String::from_utf8_lossy(&ps).lines().map(str::to_owned).collect()
    }

    /// Checks that nothing is left: in the listing, and among this computer's processes.
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.listed(), Vec::<String>::new());
        let home = self.folder().join("home");
        let left = eventually_empty(|| processes_in(&home));
        assert_eq!(left, Vec::<String>::new());
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // A test that failed must not leave anything running.
        drop(self.piecework(&["cleanup", "--yes"]).output());
    }
}

/// Tests that are begun in the background of a script ignore ^C, and under `nohup` hangups, and so would
/// the programs that they start. What is caught is back to its default in those.
fn hear_interrupts() {
    for (name, kind) in [("INT", SignalKind::interrupt()), ("HUP", SignalKind::hangup())] {
        let ended = Command::new("sh").args(["-c", &format!("kill -{name} $$")]).status();
        if !ended.expect("it runs").success() {
            continue;
        }
        let heard = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            let _inside = runtime.enter();
            drop(unix::signal(kind).expect("it can be heard"));
        });
        heard.join().expect("it is heard");
    }
}

/// Exit code, standard output and standard error, as one text.
pub(crate) fn conversation(output: &Output) -> String {
    format!(
        "exit: {:?}\n--- stdout\n{}--- stderr\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The lines of a JSON lines file.
pub(crate) fn json_lines(path: &Path) -> Vec<Value> {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
}

/// The `custom_id`s of a file of results, in order.
pub(crate) fn ids(path: &Path) -> Vec<String> {
    let id = |line: Value| line["custom_id"].as_str().expect("it has an id").to_owned();
    json_lines(path).into_iter().map(id).collect()
}

/// What each id was answered.
pub(crate) fn answers(path: &Path) -> BTreeMap<String, Value> {
    let answer = |line: Value| {
        let body = &line["response"]["body"]["choices"][0];
        (line["custom_id"].as_str().expect("it has an id").to_owned(), body.clone())
    };
    json_lines(path).into_iter().map(answer).collect()
}

/// JSON lines of numbered prompts.
pub(crate) fn numbered(count: usize) -> String {
    let line = |i| format!("{{\"id\":\"q{i}\",\"prompt\":\"number {i}\"}}");
    (0..count).map(line).collect::<Vec<_>>().join("\n") + "\n"
}

/// The ids that [`numbered`] gives.
pub(crate) fn numbered_ids(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("q{i}")).collect()
}

/// Waits until something is there.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < LIMIT, "{what} never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn eventually_empty(mut look: impl FnMut() -> Vec<String>) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let found = look();
        if found.is_empty() || LIMIT < begin.elapsed() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The command lines of processes that work in this folder.
pub(crate) fn processes_in(folder: &Path) -> Vec<String> {
    let folder = folder.canonicalize().expect("it is there");
    let works_there = |process: &fs::DirEntry| {
        fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder))
    };
    let processes = fs::read_dir("/proc").expect("Linux").flatten().filter(works_there);
    let command = |process: fs::DirEntry| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        format!("{} {}", process.file_name().display(), String::from_utf8_lossy(&line))
    };
    processes.map(command).collect()
}

/// The process numbers of those that work in this folder and whose command line has this word.
pub(crate) fn pids_in(folder: &Path, word: &str) -> Vec<String> {
    let lines = processes_in(folder).into_iter().filter(|line| line.contains(word));
    lines.filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect()
}

/// Sends a signal.
pub(crate) fn signal(pid: &str, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), pid]).output();
    sent.expect("kill runs");
}
