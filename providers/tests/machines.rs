//! The fake cloud's instances are real: they answer SSH, run their start script, see no file of
//! the host's, and are gone once they are released.

use providers::testkit::cloud::Confinement;
use providers::{
    Access, Endpoint, Host, Instance, InstanceState, Label, Mib, Need, Order, PROVIDERS, Provider,
    Remote, Rental, Setup, Timing, Transport,
};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// A started server, which is ended with its test.
struct Server {
    child: Child,
    addresses: Value,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_fakecloud"))
            .arg("--folder")
            .arg(folder.path().join("instances"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).unwrap();
        Self { child, addresses: serde_json::from_str(&line).unwrap(), folder }
    }

    /// The truth.
    fn world(&self) -> Value {
        let told = Command::new("curl").args(["-sS", "-f", self.address("world")]).output();
        serde_json::from_slice(&told.unwrap().stdout).unwrap()
    }

    /// Plans what goes wrong.
    fn plan(&self, plan: &Value) {
        let address = format!("{}/faults", self.address("world"));
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-f", "-o", "/dev/null", "-X", "PUT", "-d", &plan.to_string(), &address]);
        assert!(curl.status().unwrap().success());
    }

    fn address(&self, name: &str) -> &str {
        self.addresses[name].as_str().unwrap()
    }

    fn key(&self) -> PathBuf {
        let path = self.folder.path().join("key");
        if !path.exists() {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&path)
                .status();
            assert!(made.unwrap().success());
        }
        path
    }

    fn connect(&self, name: &str) -> Arc<dyn Remote> {
        let provider = Provider::find(name).unwrap();
        let key = self.addresses["key"].as_str().unwrap();
        let access = Access {
            transport: Transport::new().unwrap(),
            url: Some(self.addresses[name].as_str().unwrap().to_owned()),
            secrets: provider.credentials.iter().map(|_| SecretString::from(key)).collect(),
            timing: Timing::loopback(),
        };
        provider.connect(access).unwrap()
    }

    fn ssh(&self, endpoint: &Endpoint, command: &str) -> Output {
        Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
            .arg("-i")
            .arg(self.key())
            .args(["-p", &endpoint.port.to_string()])
            .arg(format!("{}@{}", endpoint.user, endpoint.host))
            .arg(command)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends what runs when it is asked politely.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let _ = self.child.wait();
    }
}

async fn running(market: &dyn Remote, label: &str) -> (Instance, Endpoint) {
    let began = Instant::now();
    loop {
        let listed = market.instances().await.unwrap();
        let label = Some(Label(label.to_owned()));
        let instance = listed.into_iter().find(|instance| instance.label == label).unwrap();
        if let InstanceState::Running(endpoint) = &instance.state {
            let endpoint = endpoint.clone();
            return (instance, endpoint);
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it never runs: {instance:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn rent(server: &Server, market: &dyn Remote, label: &str, start: &str) -> Order {
    let need = Need { vram: Mib::from_gib(20), disk: Mib::from_gib(60), ..Need::default() };
    let offers = market.offers(&need).await.unwrap();
    let offer = offers.into_iter().find(|offer| offer.rental == Rental::OnDemand).unwrap();
    let image = match market.capabilities().host {
        Host::Container => "nvidia/cuda:12.8.1-base-ubuntu24.04",
        Host::Vm | Host::ThisComputer => "",
    };
    let key = std::fs::read_to_string(server.key().with_extension("pub")).unwrap();
    let order = Order {
        setup: Setup {
            image: image.into(),
            start: start.into(),
            disk: need.disk,
            ..Setup::default()
        },
        ..Order::new(offer, Label(label.to_owned()), key.trim())
    };
    market.rent(&order).await.unwrap();
    order
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

async fn gone(endpoint: &Endpoint) {
    let began = Instant::now();
    while TcpStream::connect((endpoint.host.as_str(), endpoint.port)).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(30), "it still answers");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn every_marketplace_rents_out_a_computer_of_its_own() {
    let server = Server::start();
    let secret = server.folder.path().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    for name in PROVIDERS.iter().map(|provider| provider.name) {
        let market = server.connect(name);
        let label = format!("piecework-{name}");
        server.key();
        rent(&server, &*market, &label, "echo started >\"$HOME/started\"").await;
        let (instance, endpoint) = running(&*market, &label).await;
        assert_eq!(text(&server.ssh(&endpoint, "echo hello")), "hello", "{name}");
        if 0 < market.capabilities().start_script {
            assert_eq!(text(&server.ssh(&endpoint, "cat ~/started")), "started", "{name}");
        }
        confined(&server, &endpoint, &secret);
        market.release(&instance.id).await.unwrap();
        gone(&endpoint).await;
    }
}

/// Programs can be run, and nothing of the host's can be read or written.
fn confined(server: &Server, endpoint: &Endpoint, secret: &Path) {
    let read = server.ssh(endpoint, &format!("cat {}", secret.display()));
    assert!(!read.status.success(), "it reads the host's files: {read:?}");
    let write = server.ssh(endpoint, "echo mine >/etc/passwd || echo mine >/usr/mine");
    assert!(!write.status.success(), "it writes the host's files: {write:?}");
    assert_eq!(text(&server.ssh(endpoint, "echo mine >~/mine && cat ~/mine")), "mine");
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "what is skipped is said by name")]
async fn a_machine_sees_and_ends_no_process_of_another() {
    let confinement = Confinement::detect().expect("machines can be had");
    if !confinement.hides_processes() {
        println!("skipped: a machine sees no process of another: the kernel forbids it here");
        return;
    }
    let server = Server::start();
    server.key();
    let market = server.connect("vast");
    // No other test has this one.
    let stray = format!("sleep 7{}", std::process::id());
    let start = format!("exec {stray} </dev/null >/dev/null 2>&1");
    rent(&server, &*market, "piecework-one", &start).await;
    rent(&server, &*market, "piecework-other", "true").await;
    let (one, first) = running(&*market, "piecework-one").await;
    let (_, other) = running(&*market, "piecework-other").await;
    let each = format!(
        "for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline) in '{stray} ') ACT;; esac; done"
    );
    let seen = |endpoint| server.ssh(endpoint, &each.replace("ACT", "echo seen")).stdout;
    let end = each.replace("ACT", "kill -9 ${p#/proc/}");
    assert_eq!(seen(&first), b"seen\n");
    assert_eq!(seen(&other), b"");
    drop(server.ssh(&other, &end));
    assert_eq!(seen(&first), b"seen\n");
    // It is over as a whole, with what has left its parents and what shows nothing of its machine.
    let stray = format!("setsid env -i {stray} </dev/null >/dev/null 2>&1 &");
    assert!(server.ssh(&first, &stray).status.success());
    market.release(&one.id).await.unwrap();
    gone(&first).await;
    let began = Instant::now();
    let left = || Command::new("pgrep").args(["-fx", &stray]).output().unwrap().stdout;
    while !left().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "it outlives its machine");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_instance_ends_itself_with_its_own_key() {
    let server = Server::start();
    server.key();
    let mut tested = Vec::new();
    for name in PROVIDERS.iter().map(|provider| provider.name) {
        let market = server.connect(name);
        let Some(command) = market.capabilities().self_release else { continue };
        let label = format!("piecework-{name}-self");
        rent(&server, &*market, &label, "true").await;
        let (_, endpoint) = running(&*market, &label).await;
        // The end may be quicker than the answer.
        drop(server.ssh(&endpoint, command));
        gone(&endpoint).await;
        assert_eq!(market.instances().await.unwrap(), [], "{name}");
        let rental = &server.world()[name]["rentals"][0];
        assert_eq!((&rental["ended_by"], &rental["billed"]), (&json!("instance"), &json!(false)));
        tested.push(name);
    }
    assert_eq!(tested, ["vast", "runpod"]);
}

#[tokio::test]
async fn a_pod_that_may_not_end_itself_one_way_tries_the_next() {
    let server = Server::start();
    server.key();
    let market = server.connect("runpod");
    let command = market.capabilities().self_release.expect("it has a key of its own");
    let mut sent = 0;
    for (refused, ended_by, state) in [
        (1, json!("instance"), "Ended"),
        (2, json!("instance"), "Ended"),
        (3, json!(null), "Stopped"),
    ] {
        let label = format!("piecework-refused-{refused}");
        rent(&server, &*market, &label, "true").await;
        let (_, endpoint) = running(&*market, &label).await;
        server.plan(&json!([{ "provider": "runpod", "call": "release", "times": refused,
            "fault": { "status": { "code": 403 } } }]));
        drop(server.ssh(&endpoint, command));
        gone(&endpoint).await;
        let world = server.world();
        let rental = world["runpod"]["rentals"].as_array().unwrap().last().unwrap();
        assert_eq!((&rental["ended_by"], &rental["billed"]), (&ended_by, &json!(false)));
        assert_eq!(rental["state"], state, "{rental}");
        sent += refused + 1;
        assert_eq!(world["runpod"]["requests"]["release"], sent, "it stops where it has ended");
    }
}

#[tokio::test]
async fn the_key_of_an_instance_ends_that_instance_and_does_nothing_else() {
    let server = Server::start();
    server.key();
    let market = server.connect("vast");
    rent(&server, &*market, "piecework-first", "true").await;
    rent(&server, &*market, "piecework-second", "true").await;
    let (_, endpoint) = running(&*market, "piecework-first").await;
    let (second, _) = running(&*market, "piecework-second").await;
    for (method, path) in [
        ("DELETE", format!("v0/instances/{}/", second.id)),
        ("GET", "v1/instances/".to_owned()),
        ("GET", "v0/users/current/".to_owned()),
        ("PUT", "v0/asks/10001/".to_owned()),
    ] {
        let command = format!(
            "curl -s -o /dev/null -w '%{{http_code}}' -X {method} -H \
             \"Authorization: Bearer $CONTAINER_API_KEY\" \"$PIECEWORK_API_URL/api/{path}\""
        );
        assert_eq!(text(&server.ssh(&endpoint, &command)), "401", "{method} {path}");
    }
    let facts = "echo $VAST_CONTAINERLABEL $CONTAINER_ID";
    let rental = &server.world()["vast"]["rentals"][0];
    let id = rental["id"].as_str().unwrap();
    assert_eq!(text(&server.ssh(&endpoint, facts)), format!("C.{id} {id}"));
    assert_eq!(server.world()["vast"]["billed"], 2);
}
