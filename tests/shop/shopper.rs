//! Somebody who looks for GPUs: the real program, six marketplaces on loopback, no keyring.

use providers::{
    PROVIDERS,
    testkit::cloud::{Call, Cloud, Fault, KEY, Planned},
};
use serde_json::Value;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

pub(crate) struct Shopper {
    folder: TempDir,
    pub(crate) cloud: Cloud,
    environment: Vec<(&'static str, String)>,
}

impl Shopper {
    /// Without any key.
    pub(crate) async fn new() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let cloud = Cloud::start(listen, 0, None).await.expect("loopback can be listened on");
        let urls = PROVIDERS.iter().map(|row| (row.url_variable, cloud.url(row.name)));
        let environment = urls.collect();
        Self { folder: tempfile::tempdir().expect("a folder"), cloud, environment }
    }

    /// With the right key for each of these in the environment.
    pub(crate) async fn with_keys(names: &[&str]) -> Self {
        let mut shopper = Self::new().await;
        for row in PROVIDERS.iter().filter(|row| names.contains(&row.name)) {
            for credential in row.credentials {
                shopper.set(credential.variables[0], KEY);
            }
        }
        shopper
    }

    /// With every key.
    pub(crate) async fn with_all_keys() -> Self {
        let names: Vec<_> = PROVIDERS.iter().map(|row| row.name).collect();
        Self::with_keys(&names).await
    }

    /// Sets a variable of the environment.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.environment.retain(|(set, _)| *set != name);
        self.environment.push((name, value.to_owned()));
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file of keys.
    pub(crate) fn keys(&self) -> PathBuf {
        self.home().join("keys.json")
    }

    /// Something goes wrong whenever this marketplace is asked for this.
    pub(crate) fn strike(&self, provider: &str, call: Call, fault: Fault) {
        let provider = Some(provider.to_owned());
        let call = Some(call);
        let planned = Planned { provider, call, times: 1_000, ..Planned::next(fault) };
        self.cloud.plan(vec![planned]);
    }

    /// The program or another one, with nothing of ours in its environment.
    pub(crate) fn command(&self, program: &str) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(program);
        command
            .current_dir(folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder)
            .env("XDG_CONFIG_HOME", folder.join("config"))
            .env("XDG_RUNTIME_DIR", folder.join("no-bus"))
            .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}/no-bus/bus", folder.display()))
            .env("PIECEWORK_HOME", self.home())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn piecework(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_piecework"));
        command.args(arguments);
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        self.said(self.piecework(arguments).output().expect("the program runs"))
    }

    /// Runs the program with this on its standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Said {
        let path = self.folder.path().join("input");
        fs::write(&path, input).expect("it can be written");
        let file = fs::File::open(&path).expect("it is there");
        fs::remove_file(&path).expect("it is ours");
        self.said(self.piecework(arguments).stdin(file).output().expect("the program runs"))
    }

    fn said(&self, output: Output) -> Said {
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).expect("it writes UTF-8");
            assert!(!text.contains(KEY), "a key is shown:\n{text}");
            let folder = self.folder.path().canonicalize().expect("it is there");
            text.replace(&*folder.to_string_lossy(), "[FOLDER]")
        };
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Every file that is kept and has a key in it.
    pub(crate) fn files_with_key(&self) -> Vec<PathBuf> {
        self.files_that(|content| holds(content, KEY))
    }

    /// Every file that is kept and whose content is like this.
    pub(crate) fn files_that(&self, is_so: impl Fn(&[u8]) -> bool) -> Vec<PathBuf> {
        let (mut folders, mut found) = (vec![self.folder.path().to_owned()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("it is readable").flatten() {
                let path = entry.path();
                if entry.file_type().expect("it has one").is_dir() {
                    folders.push(path);
                } else if fs::read(&path).is_ok_and(|content| is_so(&content)) {
                    found.push(path);
                }
            }
        }
        found
    }
}

fn holds(content: &[u8], text: &str) -> bool {
    content.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Without how far apart columns are, which depends on what is in them on this computer.
pub(crate) fn squeezed(text: &str) -> String {
    let squeeze = |line: &str| {
        let words = line.split("  ").filter(|word| !word.is_empty()).map(str::trim);
        words.collect::<Vec<_>>().join("  ") + "\n"
    };
    text.lines().map(squeeze).collect()
}

/// What the program has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// All of it, as one text.
    pub(crate) fn all(&self) -> String {
        format!("exit: {:?}\n--- stdout\n{}--- stderr\n{}", self.code, self.out, self.err)
    }

    /// Its lines of JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        let lines = self.out.lines();
        lines.map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
    }
}
