//! OpenSSH's own server, with every kind of host key. Skipped, by name, where it isn't installed.

use crate::machine::LIMIT;
use piecework::remote::{Dial, Patience, Pins, RemoteError, RunKey, Status, install};
use providers::{Endpoint, Label};
use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
};
use tokio::time::timeout;

/// One `sshd` for each connection, on a port of this computer.
struct Sshd {
    folder: tempfile::TempDir,
    port: u16,
}

impl Sshd {
    /// Serves with a host key of this kind. None where there is no `sshd`.
    fn start(kind: &str, key: &RunKey, folder: tempfile::TempDir) -> Option<Self> {
        let program = ["/usr/sbin/sshd", "/usr/bin/sshd"].map(Path::new);
        let Some(program) = program.into_iter().find(|path| path.exists()) else {
            #[expect(clippy::print_stderr, reason = "a test that tests nothing says so")]
            {
                eprintln!("skipped: no sshd is installed");
            }
            return None;
        };
        // Where root runs it, it insists on an empty folder of its own.
        drop(fs::create_dir_all("/run/sshd"));
        let file = |name: &str| folder.path().join(name);
        let generated = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", "", "-f"])
            .arg(file("host"))
            .status()
            .unwrap();
        assert!(generated.success());
        fs::write(file("authorized"), key.public_line()).unwrap();
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nSetEnv PIECEWORK_CACHE={}\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n",
            file("host").display(),
            file("authorized").display(),
            file("cache").display(),
        );
        fs::write(file("config"), config).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (program, config) = (program.to_owned(), file("config"));
        // It waits for connections until the test program ends, and costs nothing.
        thread::spawn(move || serve(&listener, &program, &config));
        Some(Self { folder, port })
    }

    fn dial(&self, key: &RunKey) -> Dial {
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap().trim().to_owned();
        Dial {
            label: Label("run-1".into()),
            endpoint: Endpoint { host: "127.0.0.1".into(), port: self.port, user },
            key: key.clone(),
            pins: Arc::new(Pins::open(&self.folder.path().join("hosts")).unwrap()),
            patience: Patience::default(),
        }
    }
}

fn serve(listener: &TcpListener, program: &PathBuf, config: &Path) {
    for connection in listener.incoming().map_while(Result::ok) {
        let socket = OwnedFd::from(connection);
        let mut server = Command::new(program)
            .args(["-i", "-e", "-f"])
            .arg(config)
            .stdin(Stdio::from(socket.try_clone().unwrap()))
            .stdout(Stdio::from(socket))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::spawn(move || server.wait());
    }
}

async fn a_host_key_of_this_kind_serves(kind: &str) {
    let folder = tempfile::tempdir().unwrap();
    let key = RunKey::open(&folder.path().join("key")).unwrap();
    let Some(sshd) = Sshd::start(kind, &key, folder) else { return };
    let session = sshd.dial(&key).connect().await.unwrap();
    let sent = crate::sessions::noise(16 << 20);
    let echoed = timeout(LIMIT, session.run("cat; exit 5", &sent)).await.expect("no hang").unwrap();
    assert!(echoed.stdout == sent, "what came back differs");
    assert_eq!(echoed.status, Status::Code(5));
    let killed = session.run("kill -TERM $$", b"").await.unwrap();
    assert_eq!(killed.status, Status::Signal("TERM".into()));

    let worker = sshd.folder.path().join("worker");
    fs::write(&worker, "#!/bin/sh\necho worker 1\n").unwrap();
    let installed = install(&session, &worker, |_, _| {}).await.unwrap();
    assert_eq!(installed.version, "worker 1");
    assert!(Path::new(&installed.path).starts_with(sshd.folder.path().join("cache")));
    assert_eq!(install(&session, &worker, |_, _| {}).await.unwrap().sent, 0);
    session.close().await;

    // The same key is demanded of the same server, and found.
    sshd.dial(&key).connect().await.unwrap();
    let other = RunKey::open(&sshd.folder.path().join("other")).unwrap();
    let error = sshd.dial(&other).connect().await.unwrap_err();
    assert!(matches!(error, RemoteError::Rejected(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_with_an_ed25519_host_key() {
    a_host_key_of_this_kind_serves("ed25519").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_with_an_ecdsa_host_key() {
    a_host_key_of_this_kind_serves("ecdsa").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_with_an_rsa_host_key() {
    a_host_key_of_this_kind_serves("rsa").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eleventh_command_is_refused_and_may_be_tried_later() {
    let folder = tempfile::tempdir().unwrap();
    let key = RunKey::open(&folder.path().join("key")).unwrap();
    let Some(sshd) = Sshd::start("ed25519", &key, folder) else { return };
    let session = sshd.dial(&key).connect().await.unwrap();
    let mut running = Vec::new();
    for _ in 0..10 {
        running.push(session.exec("cat").await.unwrap());
    }
    let error = session.exec("cat").await.unwrap_err();
    assert!(matches!(error, RemoteError::Crowded) && error.is_temporary(), "{error}");
    drop(running.pop());
    // The server lets go of the dropped one when it has seen it go.
    let again = async { while session.exec("true").await.is_err() {} };
    timeout(LIMIT, again).await.expect("there is room again");
}

/// What a start script does to plant a host key, after these lines, in a machine of its own that
/// sees all processes. Returns what the machine wrote into its folder. None where that can't be had.
fn plants_a_key(before: &str) -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    // No two machines have the same key: one that sees another's processes would take them for its own.
    let key = folder.path().display().to_string();
    let script = include_str!("../../templates/host-key.sh").replace("@KEY@", &key);
    let mut machine = Command::new("bwrap");
    machine.args(["--dev-bind", "/", "/", "--tmpfs", "/etc/ssh", "--chdir"]).arg(folder.path());
    // Who started the tests may have chosen to hear no hang-up, and a shell can't choose otherwise.
    machine.args(["env", "--default-signal=HUP"]);
    match machine.args(["sh", "-c", &format!("{before}\n{script}\n>planted\nwait")]).status() {
        Ok(status) if status.success() => Some(folder),
        Ok(_) | Err(_) => {
            #[expect(clippy::print_stderr, reason = "a test that tests nothing says so")]
            {
                eprintln!("skipped: bubblewrap isn't installed or may do nothing");
            }
            None
        }
    }
}

#[test]
fn a_planted_host_key_is_read_again_and_cuts_no_session_off() {
    // A shell by the name of `sshd`, with a child that is one too, as its sessions are. Both stay
    // until the key is planted, however long it takes to look at all processes.
    let serving = "cp /bin/sh sshd\n\
                   ./sshd -c './sshd -c \"until [ -e planted ]; do sleep 0.05; done; echo lived >session\" & \
                   trap \"echo heard >server\" HUP; >ready; wait; wait' &\n\
                   until [ -e ready ]; do sleep 0.05; done";
    let Some(machine) = plants_a_key(serving) else { return };
    let wrote = |name: &str| fs::read_to_string(machine.path().join(name)).unwrap_or_default();
    assert_eq!((wrote("server").as_str(), wrote("session").as_str()), ("heard\n", "lived\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_host_key_is_nothing_to_the_server_of_another_machine() {
    let folder = tempfile::tempdir().unwrap();
    let key = RunKey::open(&folder.path().join("key")).unwrap();
    let Some(sshd) = Sshd::start("ed25519", &key, folder) else { return };
    let session = sshd.dial(&key).connect().await.unwrap();
    if plants_a_key("").is_some() {
        assert!(session.run("true", b"").await.unwrap().status.is_success());
    }
}
