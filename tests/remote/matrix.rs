//! The whole conversation with a worker through OpenSSH's own server, set up in the ways of the
//! machines that are for rent: the worker is installed, started, given prompts, cut off in the
//! middle, and found again.
//!
//! Each machine has its own users, homes and `/run` by bubblewrap, which takes root. Skipped, by
//! name, where that or `sshd` isn't to be had.

use crate::machine::LIMIT;
use piecework::{
    remote::{Pins, RunKey},
    shards::{Said, Say, Talk, WorkerId, talk},
};
use providers::{
    Capabilities, Endpoint, Instance, InstanceId, InstanceState, Label, Local, Marketplace, Need,
    Offer, Order, Result,
};
use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::mpsc::{channel, unbounded_channel},
    task::JoinSet,
    time::timeout,
};
use wire::{EngineKind, Form, Job, Limits, Model, Outcome, Prompt};

const PROMPTS: u64 = 60;

/// A user of nobody's, on the machines that let no root in.
const USER: (&str, u32) = ("maker", 54_321);

/// One way to set up a machine.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    host_key: &'static str,
    user: &'static str,
    shell: &'static str,
    /// More lines for `sshd_config`.
    config: &'static str,
    /// What the user's shell reads first, even when it is to run one command.
    profile: &'static str,
}

const USUAL: Row = Row {
    name: "ed25519 host key, only root",
    host_key: "ed25519",
    user: "root",
    shell: "/bin/bash",
    config: "AllowUsers root\n",
    profile: "",
};

const ROWS: &[Row] = &[
    USUAL,
    Row { name: "RSA host key", host_key: "rsa", ..USUAL },
    Row { name: "ECDSA host key", host_key: "ecdsa", ..USUAL },
    Row {
        name: "a user who isn't root",
        user: USER.0,
        config: "AllowUsers maker\nPermitRootLogin no\n",
        ..USUAL
    },
    Row { name: "one command at a time", config: "MaxSessions 1\n", ..USUAL },
    Row { name: "another login shell", shell: "/bin/dash", ..USUAL },
    Row { name: "a slow login", profile: "sleep 2\n", ..USUAL },
    Row {
        name: "a forced command that is slow and says hello",
        config: "ForceCommand sleep 1; echo hello; eval \"$SSH_ORIGINAL_COMMAND\"\n",
        ..USUAL
    },
    Row {
        name: "a greeting on standard output",
        profile: "echo; echo 'Welcome!'; echo 'armed and ready'; seq 9999; printf 'unfinished'\n",
        config: "PrintMotd yes\n",
        ..USUAL
    },
    Row {
        name: "tmux at login, as Vast's images have it",
        profile: "if [ -z \"$TMUX\" ] && [ ! -e ~/.no_auto_tmux ]; then\n\
                  tmux attach-session -t ssh_tmux || tmux new-session -s ssh_tmux\nfi\n",
        ..USUAL
    },
];

/// A machine with one way in.
struct Machine {
    folder: tempfile::TempDir,
    port: u16,
    links: Arc<Mutex<Vec<TcpStream>>>,
}

impl Machine {
    fn start(row: Row, sshd: &'static Path, key: &RunKey) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        // Whoever logs in has to get through to its home.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["home", "run", "run/piecework", "run/sshd"] {
            fs::create_dir(file(name)).unwrap();
        }
        // As the start script's watchdog has it.
        fs::write(file("run/piecework/state"), "armed 1 9999999999\n").unwrap();
        fs::write(file("home/.bashrc"), row.profile).unwrap();
        if row.user == USER.0 {
            chown(file("home"), Some(USER.1), Some(USER.1)).unwrap();
        }
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let others = users.lines().filter(|line| !line.starts_with("root:"));
        let id = if row.user == "root" { 0 } else { USER.1 };
        let home = file("home");
        let added = format!("{}:x:{id}:{id}::{}:{}", row.user, home.display(), row.shell);
        let root = (id != 0).then_some("root:x:0:0::/:/bin/sh");
        let users: Vec<_> = root.into_iter().chain([added.as_str()]).chain(others).collect();
        fs::write(file("users"), users.join("\n") + "\n").unwrap();
        let generated = Command::new("ssh-keygen")
            .args(["-q", "-t", row.host_key, "-N", "", "-f"])
            .arg(file("host"))
            .status()
            .unwrap();
        assert!(generated.success());
        fs::write(file("authorized"), key.public_line()).unwrap();
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\n{}",
            file("host").display(),
            file("authorized").display(),
            row.config,
        );
        fs::write(file("config"), config).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let links = Arc::new(Mutex::new(Vec::new()));
        let (home, kept) = (folder.path().to_owned(), links.clone());
        // It waits for connections until the test program ends, and costs nothing.
        thread::spawn(move || {
            for connection in listener.incoming().map_while(std::result::Result::ok) {
                let link = connection.try_clone().unwrap();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(link);
                serve(&home, sshd, connection);
            }
        });
        Self { folder, port, links }
    }

    /// Cuts every link there is.
    fn cut(&self) {
        for link in self.links.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may have ended by itself.
            drop(link.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut();
        // The worker outlives its links, as it should.
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let runs = fs::read_link(process.path().join("exe"));
            if runs.is_ok_and(|program| program.starts_with(self.folder.path())) {
                let id = process.file_name();
                drop(Command::new("kill").arg("-9").arg(id).status());
            }
        }
    }
}

/// One `sshd` for one connection, in the machine's own view of the file system.
fn serve(folder: &Path, sshd: &Path, connection: TcpStream) {
    let (socket, link) = (OwnedFd::from(connection.try_clone().unwrap()), connection);
    let file = |name: &str| folder.join(name);
    let mut server = Command::new("bwrap")
        .args(["--cap-add", "ALL", "--dev-bind", "/", "/", "--bind"])
        .args([file("run"), "/run".into()])
        .arg("--ro-bind")
        .args([file("users"), "/etc/passwd".into()])
        .arg(sshd)
        .args(["-i", "-e", "-f"])
        .arg(file("config"))
        .stdin(Stdio::from(socket.try_clone().unwrap()))
        .stdout(Stdio::from(socket))
        .stderr(fs::File::create(file("sshd.log")).unwrap())
        .spawn()
        .unwrap();
    thread::spawn(move || {
        drop(server.wait());
        // The other holders of this socket would keep it open.
        drop(link.shutdown(Shutdown::Both));
    });
}

/// A marketplace that has rented this one machine to us.
#[derive(Debug)]
struct Rack(Instance);

/// A marketplace that can rent nothing.
fn nowhere() -> Local {
    Local::new(PathBuf::new(), Vec::new())
}

#[async_trait::async_trait]
impl Marketplace for Rack {
    fn capabilities(&self) -> Capabilities {
        nowhere().capabilities()
    }

    async fn offers(&self, _: &Need) -> Result<Vec<Offer>> {
        Ok(Vec::new())
    }

    async fn rent(&self, order: &Order) -> Result<Instance> {
        nowhere().rent(order).await
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        Ok(vec![self.0.clone()])
    }

    async fn release(&self, _: &InstanceId) -> Result<()> {
        Ok(())
    }
}

/// Has the machine answer all prompts, with every link cut once half of them are answered. Returns
/// the answers, and in how many conversations they came.
async fn answered(row: Row, machine: &Machine, key: RunKey) -> (BTreeMap<u64, Outcome>, u64) {
    let (orders, ordered) = unbounded_channel();
    let (said, mut hears) = channel(64);
    let talking = tokio::spawn(talk(talker(row, machine, key), ordered, said));
    let (mut answers, mut conversations) = (BTreeMap::new(), 0);
    while (answers.len() as u64) < PROMPTS {
        match hears.recv().await.expect("it goes on").1 {
            Said::Attached { conversation, held } => {
                conversations = conversation;
                let missing = |index: &u64| !held.contains(index) && !answers.contains_key(index);
                let prompt = |index| Prompt { index, form: Form::Text, body: body(index) };
                let prompts = (0..PROMPTS).filter(missing).map(prompt).collect();
                orders.send(Say::Prompts(prompts)).unwrap();
            }
            Said::Completions { conversation, through, completions } => {
                answers.extend(completions.into_iter().map(|done| (done.index, done.outcome)));
                if conversation == 1 && PROMPTS / 2 <= answers.len() as u64 {
                    machine.cut();
                } else {
                    orders.send(Say::Forget { conversation, through }).unwrap();
                }
            }
            Said::Lost(loss) => panic!("{}: {loss}", row.name),
            Said::Phase(_)
            | Said::Priced(_)
            | Said::Ready(_)
            | Said::Status(_)
            | Said::GivenUp(_)
            | Said::Reconnecting(_) => {}
        }
    }
    talking.abort();
    (answers, conversations)
}

fn body(index: u64) -> String {
    format!("{{\"prompt\":\"number {index}\"}}")
}

fn talker(row: Row, machine: &Machine, key: RunKey) -> Talk {
    let endpoint = Endpoint { host: "127.0.0.1".into(), port: machine.port, user: row.user.into() };
    let label = Label("run-1".into());
    let state = InstanceState::Running(endpoint);
    let instance = Instance::new(InstanceId("1".into()), Some(label.clone()), state);
    Talk {
        id: WorkerId(1),
        generation: 1,
        run: "nov26-abcd".parse().unwrap(),
        job: Job {
            engine: EngineKind::Echo { pace: Some(40) },
            model: Model { name: "echo".into(), sources: Vec::new() },
            precision: None,
            limits: Limits::default(),
            seed: 0,
            defaults: "{}".into(),
        },
        market: Arc::new(Rack(instance.clone())),
        instance,
        label,
        key,
        pins: Arc::new(Pins::open(&machine.folder.path().join("pins")).unwrap()),
        worker: Path::new(env!("CARGO_BIN_EXE_piecework")).with_file_name("piecework-worker"),
        access: None,
        expires: (SystemTime::now() + Duration::from_hours(1)).try_into().unwrap(),
        watched: true,
        promise: None,
    }
}

/// What this row can't be tried for here.
fn lacks(row: Row) -> Option<&'static str> {
    let works = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if sshd().is_none() {
        return Some("no sshd is installed");
    }
    if fs::metadata("/proc/self").is_ok_and(|me| me.uid() != 0) {
        return Some("only root can let others in");
    }
    if !works("bwrap", &["--cap-add", "ALL", "--dev-bind", "/", "/", "true"]) {
        return Some("bubblewrap isn't installed or may do nothing");
    }
    let installed = |program: &str| !row.profile.contains(program) || works(program, &["-V"]);
    if !Path::new(row.shell).exists() || !installed("tmux") {
        return Some("its login shell, or tmux, isn't installed");
    }
    None
}

fn sshd() -> Option<&'static Path> {
    ["/usr/sbin/sshd", "/usr/bin/sshd"].map(Path::new).into_iter().find(|path| path.exists())
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "what is skipped is said by name")]
async fn whatever_sshd_is_set_up_like_a_worker_gets_its_prompts_and_is_found_again_after_a_cut() {
    let (mut tried, mut rows) = (0, JoinSet::new());
    for row in ROWS {
        if let Some(reason) = lacks(*row) {
            println!("skipped: sshd, {}: {reason}", row.name);
            continue;
        }
        tried += 1;
        rows.spawn(async {
            let folder = tempfile::tempdir().unwrap();
            let key = RunKey::open(&folder.path().join("key")).unwrap();
            let machine = Machine::start(*row, sshd().expect("it was looked for"), &key);
            let answered = timeout(LIMIT, answered(*row, &machine, key)).await;
            let log = fs::read_to_string(machine.folder.path().join("sshd.log"));
            let (answers, conversations) =
                answered.unwrap_or_else(|_| panic!("{}: it hangs; sshd: {log:?}", row.name));
            assert_eq!(conversations, 2, "{}", row.name);
            for (index, outcome) in &answers {
                let Outcome::Done { body, .. } = outcome else { panic!("{outcome:?}") };
                assert!(body.contains(&format!("number {index}")), "{}: {body}", row.name);
            }
        });
    }
    while let Some(row) = rows.join_next().await {
        row.expect("it passes");
    }
    println!("sshd: {tried} of {} rows tried", ROWS.len());
}
