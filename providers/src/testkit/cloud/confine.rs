//! What an instance of the fake cloud is: a process that sees the system's programs, read-only,
//! and one folder that it may write to.

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

/// Where a start script may plant the host key, as on any machine with OpenSSH.
const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";

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
for part in usr etc proc bin sbin lib lib64; do
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
mount --rbind /dev "$root/dev"; mount --rbind /proc "$root/proc"
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
exec chroot "$root" "$@"
"#;

/// How the processes of instances are kept off the host's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// By bubblewrap.
    Bubblewrap,
    /// By namespaces, through `unshare`.
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
        if works("bwrap", &["--ro-bind", "/", "/", "true"]) {
            return Some(Self::Bubblewrap);
        }
        works("unshare", &["--user", "--map-root-user", "--mount", "true"])
            .then_some(Self::Namespaces)
    }

    /// What is put before a program and its arguments.
    fn wrapper(self, shared: &[PathBuf]) -> Vec<OsString> {
        let shared: Vec<_> = shared.iter().map(|path| path.to_string_lossy()).collect();
        let mut words: Vec<OsString> =
            vec!["env".into(), format!("FAKECLOUD_SHARED={}", shared.join("\n")).into()];
        let script = match self {
            Self::Bubblewrap => BUBBLEWRAP,
            Self::Namespaces => {
                let unshare = ["unshare", "--user", "--map-root-user", "--mount"];
                words.extend(unshare.map(OsString::from));
                NAMESPACES
            }
        };
        words.extend(["sh", "-c", script, "confined"].map(OsString::from));
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
    serve_with_host_key(folder, Some(Path::new(HOST_KEY))).await
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
