//! What an instance of the fake cloud is: a process that sees the system's programs, read-only,
//! one folder that it may write to, and, where the kernel allows it, no processes but its own.

use super::{Machines, shown};
use crate::local::serve_with_host_key;
use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The environment variable that says as which process an instance is known outside of it, where it
/// has numbers of its own.
const PROCESS: &str = "FAKECLOUD_PROCESS";

/// Where a start script may plant the host key, as on any machine with OpenSSH.
const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";

/// Says as which process what is put in place of this one is known: its number, and when it started,
/// which is the 22nd field of its status.
const KNOWN: &str = r#"
export FAKECLOUD_PROCESS="$$ $(sed 's/.*) //' "/proc/$$/stat" | cut -d ' ' -f 20)"
exec "$@"
"#;

/// With bubblewrap: `$1` is the program, `$3` the script, `$4` the folder.
const BUBBLEWRAP: &str = r#"
program=$1; script=$3; folder=$4
set -- --chdir "$folder" -- "$@"
IFS='
'
for path in $FAKECLOUD_SHARED; do set -- --ro-bind "$path" "$path" "$@"; done
set -- --ro-bind "$script" "$script" --bind "$folder" "$folder" "$@"
set -- --tmpfs /tmp --tmpfs /run --tmpfs /root --ro-bind "$program" "$program" "$@"
[ -d /etc/ssh ] && set -- --tmpfs /etc/ssh "$@"
if [ -n "$FAKECLOUD_PROCESS" ]; then set -- --unshare-pid --proc /proc "$@"
else set -- --ro-bind /proc /proc "$@"; fi
for part in usr etc bin sbin lib lib64; do
    [ -e "/$part" ] && set -- --ro-bind "/$part" "/$part" "$@"
done
exec bwrap --dev-bind /dev /dev "$@"
"#;

/// The same with the kernel's namespaces and nothing else.
const NAMESPACES: &str = r#"
set -e
root="$4/.root"; mkdir -p "$root"
mount -t tmpfs -o size=512m tmpfs "$root"
for part in usr etc bin sbin lib lib64; do
    [ -e "/$part" ] || continue
    if [ -L "/$part" ]; then cp -P "/$part" "$root/$part"; continue; fi
    mkdir "$root/$part"; mount --bind "/$part" "$root/$part"
    mount -o remount,bind,ro "$root/$part"
done
[ -d /etc/ssh ] && mount -t tmpfs tmpfs "$root/etc/ssh"
mkdir "$root/dev" "$root/proc" "$root/tmp" "$root/run" "$root/root"
mount --rbind /dev "$root/dev"
if [ -n "$FAKECLOUD_PROCESS" ]; then mount -t proc proc "$root/proc"
else mount --rbind /proc "$root/proc"; fi
share() {
    if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root${1%/*}"; : >"$root$1"; fi
    mount --bind "$1" "$root$1"
}
share "$1"; share "$3"; share "$4"
IFS='
'
for path in $FAKECLOUD_SHARED; do
    share "$path"; mount -o remount,bind,ro "$root$path"
done
[ -n "$FAKECLOUD_PROCESS" ] || exec chroot "$root" "$@"
# The first process of a machine is the parent of those that have lost theirs.
set +e; chroot "$root" "$@"; exit $?
"#;

/// A view of files that is an instance's own, and processes too. Those end with it.
const UNSHARE: [&str; 3] = ["--user", "--map-root-user", "--mount"];
const OWN: [&str; 3] = ["--pid", "--fork", "--kill-child"];

/// How the processes of instances are kept off the host's files, and off each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confinement {
    walls: Walls,
    own_processes: bool,
}

/// What keeps them off files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walls {
    /// Bubblewrap.
    Bubblewrap,
    /// Namespaces, through `unshare`.
    Namespaces,
}

impl Confinement {
    /// What this computer can do; bubblewrap first. `None`: neither, so that nothing may be run.
    pub fn detect() -> Option<Self> {
        let works = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let bound = ["--ro-bind", "/", "/"];
        if works("bwrap", &[&bound[..], &["true"]].concat()) {
            let own = ["--unshare-pid", "--proc", "/proc", "true"];
            let own_processes = works("bwrap", &[&bound[..], &own].concat());
            return Some(Self { walls: Walls::Bubblewrap, own_processes });
        }
        let own_processes =
            works("unshare", &[&UNSHARE[..], &OWN, &["--mount-proc", "true"]].concat());
        works("unshare", &[&UNSHARE[..], &["true"]].concat())
            .then_some(Self { walls: Walls::Namespaces, own_processes })
    }

    /// Whether an instance has processes of its own: it sees no others, and can end no others. A
    /// container on this computer may forbid that.
    pub fn hides_processes(self) -> bool {
        self.own_processes
    }

    /// What is put before a program and its arguments.
    fn wrapper(self, shared: &[PathBuf]) -> Vec<OsString> {
        let shared: Vec<_> = shared.iter().map(|path| path.to_string_lossy()).collect();
        let mut words: Vec<OsString> =
            vec!["env".into(), format!("FAKECLOUD_SHARED={}", shared.join("\n")).into()];
        let mut add = |more: &[&str]| words.extend(more.iter().map(OsString::from));
        if self.own_processes {
            add(&["sh", "-c", KNOWN, "known"]);
        }
        let script = match self.walls {
            Walls::Bubblewrap => BUBBLEWRAP,
            Walls::Namespaces => {
                add(&["unshare"]);
                add(&UNSHARE);
                if self.own_processes {
                    add(&OWN);
                }
                NAMESPACES
            }
        };
        add(&["sh", "-c", script, "confined"]);
        words
    }
}

impl Machines {
    /// Instances in `folder`, each of them `program` with the argument `instance` and two more,
    /// which it has to hand to [`be_instance`]. They may read `shared`.
    pub fn confined(
        folder: &Path,
        program: &Path,
        confinement: Confinement,
        shared: &[PathBuf],
    ) -> io::Result<Self> {
        let programs = shown::programs(folder)?;
        let shared: Vec<_> = shared.iter().chain([&programs]).cloned().collect();
        let program = std::path::absolute(program)?;
        let mut own = OsString::from("FAKECLOUD_PROGRAM=");
        own.push(&program);
        let mut words = vec!["env".into(), shown::path(&programs)?, own];
        words.extend(confinement.wrapper(&shared));
        words.extend([program.into_os_string(), "instance".into()]);
        Ok(Self { folder: std::path::absolute(folder)?, program: words })
    }
}

/// Is an instance until it is released: runs the start script, and serves SSH.
pub async fn be_instance(script: &Path, folder: &Path) -> io::Result<()> {
    // Set before the script, which may want to know where it is.
    let log = fs::File::create(folder.join("start.log"))?;
    let programs = stand_ins(folder)?;
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let paths = [programs].into_iter().chain(env::split_paths(&path).collect::<Vec<_>>());
    let mut child = Command::new("/bin/sh")
        .arg(script)
        .current_dir(folder)
        .env("HOME", folder)
        .env("PATH", env::join_paths(paths).map_err(io::Error::other)?)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    std::thread::spawn(move || drop(child.wait()));
    let known = env::var(PROCESS).ok();
    serve_with_host_key(folder, Some(Path::new(HOST_KEY)), known.as_deref()).await
}

/// Programs for a start script that would serve SSH itself, or fetch a server from the internet.
fn stand_ins(folder: &Path) -> io::Result<PathBuf> {
    let programs = folder.join(".programs");
    fs::create_dir_all(&programs)?;
    let scripts =
        [("sshd", "exec sleep infinity"), ("apt-get", "exit 0"), ("ssh-keygen", "exit 0")];
    for (name, script) in scripts {
        let path = programs.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(programs)
}
