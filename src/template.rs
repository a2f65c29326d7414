//! What is put on a rented machine: an image, a disk, and the script that it starts with. Pure.
//!
//! The facts are in `templates/`: `machine.toml` says which image goes with which engine,
//! `watchdog.sh` is what ends a machine that nobody needs any more, and `host-key.sh` plants the
//! key that the machine is known by. None of them names a marketplace.

use jiff::Timestamp;
use providers::{Capabilities, Host, Mib, Setup};
use serde::Deserialize;
use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

/// Where the start script keeps what the watchdog goes by; see `templates/watchdog.sh`.
pub const WATCHDOG_STATE: &str = "/run/piecework/state";

/// How long a watchdog waits for the first word from us. Images are pulled before it runs, but the
/// worker and the model come after.
const BOOT: Duration = Duration::from_mins(45);

/// How long it waits for the next one. A link that is out for longer is given up by us sooner.
const SILENCE: Duration = Duration::from_mins(15);

/// How often it looks.
const STEP: Duration = Duration::from_secs(5);

/// How patient a watchdog is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until the first word from us.
    pub boot: Duration,
    /// Until the next.
    pub silence: Duration,
    /// Between two looks.
    pub step: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { boot: BOOT, silence: SILENCE, step: STEP }
    }
}

/// A machine that is about to be ordered.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// What its marketplace can do.
    pub capabilities: &'a Capabilities,
    /// What it will be.
    pub host: Host,
    /// The engine that is to run on it.
    pub engine: &'a str,
    /// Disk for the model and the engine.
    pub disk: Mib,
    /// When it is over in any case.
    pub expires: Timestamp,
    /// How patient its watchdog is.
    pub patience: Patience,
}

/// Whether machines of a marketplace that can do this much are started with a watchdog: they can end
/// themselves, and run a script that sees to it.
pub fn has_watchdog(capabilities: &Capabilities) -> bool {
    capabilities.start_script != 0 && capabilities.self_release.is_some()
}

/// Why a machine can't be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// There is nothing to put on such a machine for this engine.
    #[error("the {engine} engine can't be put on {kind} yet; take another marketplace, or engine")]
    NoImage {
        /// The engine.
        engine: String,
        /// What kind of machine.
        kind: &'static str,
    },
    /// The marketplace takes no script that long, which is a bug of ours.
    #[error("the start script has {length} bytes, and {provider} takes {limit}")]
    TooLong {
        /// How long it is.
        length: usize,
        /// The marketplace.
        provider: &'static str,
        /// How long it may be.
        limit: usize,
    },
}

impl Machine<'_> {
    /// Whether its start script can plant a host key.
    pub fn takes_host_key(&self) -> bool {
        self.capabilities.start_script != 0
    }

    /// What it is started with. `host_key` is a private key in OpenSSH's form, for a machine that
    /// takes one.
    pub fn setup(&self, host_key: Option<&str>) -> Result<Setup, TemplateError> {
        if self.host == Host::ThisComputer {
            return Ok(Setup::default());
        }
        let image = image(self.host, self.engine)?.to_owned();
        let start = self.start(host_key)?;
        let is_container = self.host == Host::Container;
        let env = file().environment.get(self.engine).filter(|_| is_container);
        let env = env.cloned().unwrap_or_default();
        Ok(Setup { image, start, disk: self.disk.max(least_disk()), env })
    }

    fn start(&self, host_key: Option<&str>) -> Result<String, TemplateError> {
        let &Capabilities { name: provider, start_script: limit, self_release, .. } =
            self.capabilities;
        if limit == 0 {
            return Ok(String::new());
        }
        let mut script = String::new();
        if let Some(release) = self_release {
            // First of all: what follows may fail, or take long.
            let number = |time: Duration| time.as_secs().max(1).to_string();
            script += &include_str!("../templates/watchdog.sh")
                .replace("@DEADLINE@", &self.expires.as_second().to_string())
                .replace("@BOOT@", &number(self.patience.boot))
                .replace("@SILENCE@", &number(self.patience.silence))
                .replace("@STEP@", &number(self.patience.step))
                .replace("@RELEASE@", release);
        }
        if let Some(key) = host_key {
            script += &include_str!("../templates/host-key.sh").replace("@KEY@", key.trim());
        }
        if limit < script.len() {
            return Err(TemplateError::TooLong { length: script.len(), provider, limit });
        }
        Ok(script)
    }
}

/// The image for an engine on such a machine; empty where none is needed, or the marketplace's usual
/// one will do.
pub fn image(host: Host, engine: &str) -> Result<&'static str, TemplateError> {
    let (images, kind) = match host {
        Host::ThisComputer => return Ok(""),
        Host::Container => (&file().container, "a container"),
        Host::Vm => (&file().vm, "a virtual machine"),
    };
    let image = images.get(engine).map(String::as_str);
    image.ok_or_else(|| TemplateError::NoImage { engine: engine.to_owned(), kind })
}

/// Disk to rent where the model's size is not known.
pub fn least_disk() -> Mib {
    Mib::from_gib(file().disk)
}

/// `templates/machine.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    disk: u64,
    container: BTreeMap<String, String>,
    environment: BTreeMap<String, BTreeMap<String, String>>,
    vm: BTreeMap<String, String>,
}

fn file() -> &'static File {
    static FILE: LazyLock<File> = LazyLock::new(|| {
        toml::from_str(include_str!("../templates/machine.toml")).expect("a test reads this file")
    });
    &FILE
}

#[cfg(test)]
mod tests {
    use super::*;
    use providers::{Access, PROVIDERS, Timing, Transport};
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    /// As long as a real one.
    fn key() -> String {
        let line = "x".repeat(70);
        let lines = vec![line; 5].join("\n");
        format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{lines}\n-----END OPENSSH PRIVATE KEY-----\n")
    }

    fn each_marketplace() -> Vec<Capabilities> {
        let transport = Transport::new().expect("there is a network");
        let each = PROVIDERS.iter().map(|provider| {
            let access = Access {
                transport: transport.clone(),
                url: None,
                secrets: vec!["x".into(); provider.credentials.len()],
                timing: Timing::default(),
            };
            provider.connect(access).expect("nothing is asked yet").capabilities()
        });
        each.collect()
    }

    fn machine<'a>(capabilities: &'a Capabilities, engine: &'a str) -> Machine<'a> {
        Machine {
            capabilities,
            host: capabilities.host,
            engine,
            disk: Mib(1),
            expires: Timestamp::from_second(1_795_600_000).expect("it is a time"),
            patience: Patience::default(),
        }
    }

    #[test]
    fn every_marketplace_takes_the_start_script_of_its_machines() {
        for capabilities in each_marketplace() {
            let machine = machine(&capabilities, "native");
            let key = machine.takes_host_key().then(key);
            let setup = machine.setup(key.as_deref()).expect("it is short enough");
            assert_eq!(setup.start.contains("watch <"), has_watchdog(&capabilities));
            assert_eq!(setup.start.contains("OPENSSH"), machine.takes_host_key());
            assert!(Mib::from_gib(40) <= setup.disk, "{}", capabilities.name);
            for name in ["DEADLINE", "BOOT", "SILENCE", "STEP", "RELEASE", "KEY"] {
                assert!(!setup.start.contains(&format!("@{name}@")), "{}", setup.start);
            }
        }
    }

    #[test]
    fn a_container_with_cuda_starts_on_drivers_older_than_its_image() {
        for capabilities in each_marketplace() {
            for engine in ["native", "native-cuda"] {
                let machine = machine(&capabilities, engine);
                let Ok(Setup { env, .. }) = machine.setup(None) else { continue };
                let wanted = engine == "native-cuda" && machine.host == Host::Container;
                assert_eq!(env.contains_key("NVIDIA_DISABLE_REQUIRE"), wanted, "{env:?}");
            }
        }
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "what is skipped is said by name")]
    fn start_scripts_are_plain_posix() {
        for capabilities in each_marketplace() {
            let machine = machine(&capabilities, "native");
            let start = machine.setup(Some(&key())).expect("it is short enough").start;
            let mut shell = Command::new("sh");
            let shell = shell.args(["-n"]).stdin(Stdio::piped()).spawn();
            let mut shell = shell.expect("there is a shell");
            let input = shell.stdin.take();
            input.expect("it is piped").write_all(start.as_bytes()).expect("it reads");
            assert!(shell.wait().expect("it ends").success(), "{}", capabilities.name);
            if Command::new("shellcheck").arg("--version").stdout(Stdio::null()).status().is_err() {
                println!("skipped: shellcheck is not here to look at {}", capabilities.name);
                continue;
            }
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("start.sh");
            std::fs::write(&path, start).expect("it can be written");
            // Eval and words that are split on purpose are the marketplaces' own.
            let check = ["--shell=sh", "--severity=warning"];
            let checked = Command::new("shellcheck").args(check).arg(&path).output();
            let checked = checked.expect("it ran before");
            let said = String::from_utf8_lossy(&checked.stdout);
            assert!(checked.status.success(), "{}: {said}", capabilities.name);
        }
    }

    #[test]
    fn a_container_gets_the_image_of_its_engine_and_a_script_in_this_order() {
        let release = Some("curl -X DELETE https://example.org/me");
        let capabilities = Capabilities {
            name: "acme",
            host: Host::Container,
            interruptible: false,
            label_limit: 60,
            start_script: 4_000,
            expiry: false,
            self_release: release,
            boot_limit: Duration::ZERO,
            listing_lag: Duration::ZERO,
            release_interval: Duration::ZERO,
        };
        let setup = machine(&capabilities, "echo").setup(Some("(the private key)"));
        let setup = setup.expect("it is short enough");
        let text = format!("{}\n{}\n{}", setup.image, setup.disk, setup.start);
        insta::assert_snapshot!(text, @r##"
        ubuntu:24.04
        40.0 GiB
        # Ends this machine when its time is over, or when nobody has asked for it for a while.
        d=/run/piecework
        mkdir -p $d; chmod 777 $d
        echo 1795600000 >$d/deadline; echo 0 >$d/heartbeat; chmod 666 $d/deadline $d/heartbeat
        release() { (
        curl -X DELETE https://example.org/me
        ); }
        workers() {
            for p in /proc/[0-9]*; do
                case $(readlink "$p/exe") in *piecework-worker*) kill "${p#/proc/}";; esac
            done
        }
        watch() {
            deadline=1795600000 quiet=0 seen=0 limit=2700
            command -v curl || { apt-get update; apt-get install -y curl ca-certificates; } &
            while now=$(date +%s); [ "$now" -lt "$deadline" ] && [ "$quiet" -lt "$limit" ]; do
                if CHECK=1 release; then s=armed; else s=unable; fi
                echo "$s $now $deadline" >$d/state
                sleep 5; quiet=$((quiet + 5))
                t=$(cat $d/deadline); case $t in '' | *[!0-9]*) ;; *) deadline=$t;; esac
                t=$(cat $d/heartbeat)
                [ "$t" = "$seen" ] || { seen=$t quiet=0 limit=900; }
            done
            echo "ending $now $deadline" >$d/state
            workers
            until release; do sleep 20; done
            echo "ended $now $deadline" >$d/state
        }
        watch </dev/null >/dev/null 2>&1 &
        # Lets the very first connection tell that it has reached this machine.
        k=/etc/ssh/ssh_host_ed25519_key
        mkdir -p /etc/ssh
        (umask 077; cat >$k <<'KEY'
        (the private key)
        KEY
        )
        rm -f $k.pub
        # Whoever serves with this key reads it again. A session would end instead: it is a child of one.
        is_sshd() {
            case $(readlink "/proc/$1/exe") in */sshd) ;; *) return 1;; esac
            [ "$(cat "/proc/$1/root$k")" = "$(cat $k)" ]
        }
        l=
        for p in /proc/[0-9]*; do
            p=${p#/proc/}
            is_sshd "$p" && ! is_sshd "$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$p/status")" && l="$l $p"
        done
        [ -z "$l" ] || kill -HUP $l
        "##);
    }

    #[test]
    fn what_no_machine_can_run_is_said_before_one_is_rented() {
        let mut all = each_marketplace().into_iter();
        let vm = all.find(|capabilities| capabilities.host == Host::Vm).expect("there is one");
        let error = machine(&vm, "vllm").setup(None).expect_err("there is no image");
        insta::assert_snapshot!(error, @"the vllm engine can't be put on a virtual machine yet; take another marketplace, or engine");
        let short = Capabilities { start_script: 10, ..vm };
        let error = machine(&short, "native").setup(Some("KEY")).expect_err("it is too long");
        assert!(matches!(error, TemplateError::TooLong { limit: 10, .. }), "{error}");
    }
}
