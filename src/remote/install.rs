//! Puts the worker on a machine, unless it is already there.
//!
//! It goes over `exec` alone, for an image may lack SFTP: packed while it is sent, unpacked there
//! under another name, checked, and renamed. So a worker that is there is whole.

use super::{
    channel::{Channel, Status},
    error::RemoteError,
    russh::{Output, Session},
    script::{self, Machine},
};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};
use tokio::{io::AsyncWriteExt, sync::mpsc, task::spawn_blocking};

/// How much of the worker is read, packed and sent at a time, in bytes.
const CHUNK: usize = 256 << 10;

/// How hard the worker is packed. On one core level 1 makes 35 % of it at 84 MB/s, level 3 29 % at
/// 44 MB/s and level 6 28 % at 22 MB/s, so 3 is soonest there on links of up to 16 MB/s.
const LEVEL: u32 = 3;

/// How many packed chunks may wait for the network.
const AHEAD: usize = 16;

/// A worker that is on a machine and runs there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Where it is.
    pub path: String,
    /// What it calls itself, from its `--version`.
    pub version: String,
    /// How many bytes went over the network; none if it was there.
    pub sent: u64,
}

/// Why the worker could not be put on a machine.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The machine could not be talked to.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Our own copy of the worker can't be read.
    #[error("the worker {path} can't be read", path = path.display())]
    Local {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The machine's shell doesn't answer as a POSIX shell does.
    #[error("the machine's shell gave no answer; its image needs a POSIX sh: {0}")]
    Shell(String),
    /// The worker is for another processor.
    #[error("the machine is {machine} and the worker is for {worker}; choose another offer")]
    WrongArchitecture {
        /// The machine's processor.
        machine: String,
        /// The worker's.
        worker: String,
    },
    /// There is no room for the worker.
    #[error("the machine's disk is full; rent more disk, or set PIECEWORK_CACHE on it: {0}")]
    DiskFull(String),
    /// What arrived isn't what was sent.
    #[error("the worker arrived damaged; try again")]
    Checksum,
    /// The machine couldn't store it.
    #[error(
        "the worker can't be stored on the machine; set PIECEWORK_CACHE on it to a folder that can be written: {0}"
    )]
    NotStored(String),
    /// The machine has nothing to check with that the worker is whole.
    #[error("the machine has none of sha256sum, shasum, openssl and busybox; its image needs one")]
    NoChecksum,
    /// It is there, and its disk allows no programs.
    #[error(
        "{path} may not be run: its disk allows no programs; set PIECEWORK_CACHE to one that does"
    )]
    NoExec {
        /// Where it is.
        path: String,
    },
    /// It is there, and the system is too old for it.
    #[error(
        "the machine's system libraries are too old for the worker; choose a newer image: {said}"
    )]
    OldLibrary {
        /// What the loader said.
        said: String,
    },
    /// It is there, and fails.
    #[error("the worker does not run on the machine: {said}")]
    DoesNotRun {
        /// What it said.
        said: String,
    },
}

impl InstallError {
    /// Whether trying again, on a new session, may help on this machine.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Remote(error) => error.is_temporary(),
            Self::Checksum => true,
            Self::Local { .. }
            | Self::Shell(_)
            | Self::WrongArchitecture { .. }
            | Self::DiskFull(_)
            | Self::NotStored(_)
            | Self::NoChecksum
            | Self::NoExec { .. }
            | Self::OldLibrary { .. }
            | Self::DoesNotRun { .. } => false,
        }
    }
}

/// Puts the worker `program` on the machine, if the same one isn't there, and sees that it runs.
///
/// `progress` hears how many bytes of how many are on their way; nothing if none need to be.
pub async fn install(
    session: &Session,
    program: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<Installed, InstallError> {
    let worker = read_facts(program).await?;
    let probed = session.run(&script::probe(&worker.sum), b"").await?;
    let machine = script::machine(&String::from_utf8_lossy(&probed.stdout))
        .ok_or_else(|| InstallError::Shell(said(&probed)))?;
    if let Some(built_for) = worker.built_for.filter(|name| !is_same(name, &machine.arch)) {
        let (machine, worker) = (machine.arch, built_for.to_owned());
        return Err(InstallError::WrongArchitecture { machine, worker });
    }
    let sent = if machine.installed {
        0
    } else {
        send(session, program, &worker, &machine, &mut progress).await?
    };
    let version = run_there(session, &machine.path).await?;
    Ok(Installed { path: machine.path, version, sent })
}

/// What is told of our own copy before it is sent.
struct Worker {
    sum: String,
    length: u64,
    built_for: Option<&'static str>,
}

async fn read_facts(program: &Path) -> Result<Worker, InstallError> {
    let path = program.to_owned();
    let read = spawn_blocking(move || {
        let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
        let (mut chunk, mut head, mut length) = (vec![0; CHUNK], Vec::new(), 0);
        loop {
            let count = file.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            if head.is_empty() {
                head.extend_from_slice(&chunk[..count.min(64)]);
            }
            hasher.update(&chunk[..count]);
            length += count as u64;
        }
        let built_for = script::built_for(&head);
        Ok(Worker { sum: hex::encode(hasher.finalize()), length, built_for })
    });
    read.await
        .expect("reading does not panic")
        .map_err(|source| InstallError::Local { path: program.to_owned(), source })
}

fn is_same(one: &str, other: &str) -> bool {
    let common = |name| if name == "arm64" { "aarch64" } else { name };
    common(one) == common(other)
}

async fn send(
    session: &Session,
    program: &Path,
    worker: &Worker,
    machine: &Machine,
    progress: &mut impl FnMut(u64, u64),
) -> Result<u64, InstallError> {
    let command = script::receive(&worker.sum, machine.gzip);
    let Channel { mut stdin, stdout, exit } = session.exec(&command).await?;
    drop(stdout);
    let (chunks, mut packed) = mpsc::channel(AHEAD);
    let (path, gzip) = (program.to_owned(), machine.gzip);
    let packing = spawn_blocking(move || pack(&path, gzip, &chunks));
    let mut sent = 0;
    while let Some(Chunk { bytes, done }) = packed.recv().await {
        // A machine that takes no more says why when its script ends.
        if stdin.write_all(&bytes).await.is_err() {
            break;
        }
        sent += bytes.len() as u64;
        progress(done, worker.length);
    }
    // No more is wanted, so that the packer stops too.
    drop(packed);
    let packing = packing.await.expect("packing does not panic");
    if let Err(source) = packing {
        return Err(InstallError::Local { path: program.to_owned(), source });
    }
    drop(stdin);
    let ended = exit.wait().await?;
    if ended.status.is_success() {
        return Ok(sent);
    }
    Err(why_not_stored(&ended.status, ended.stderr.trim()))
}

fn why_not_stored(status: &Status, said: &str) -> InstallError {
    let full = ["No space left", "quota exceeded", "Quota exceeded"];
    if full.iter().any(|words| said.contains(words)) {
        return InstallError::DiskFull(said.to_owned());
    }
    match status {
        Status::Code(script::BAD_CHECKSUM) => InstallError::Checksum,
        Status::Code(script::NO_CHECKSUM) => InstallError::NoChecksum,
        // gzip found no end, or nonsense: the same thing, seen earlier.
        Status::Code(script::NOT_UNPACKED) if said.contains("gzip") => InstallError::Checksum,
        Status::Code(script::NO_FOLDER | script::NOT_UNPACKED | script::NOT_RENAMED) => {
            InstallError::NotStored(said.to_owned())
        }
        other @ (Status::Code(_) | Status::Signal(_)) => {
            InstallError::NotStored(format!("{other}: {said}"))
        }
    }
}

struct Chunk {
    bytes: Vec<u8>,
    /// How much of the file is in this chunk and those before it.
    done: u64,
}

/// Packs the file into chunks. Stops early if nobody takes them.
fn pack(path: &Path, gzip: bool, chunks: &mpsc::Sender<Chunk>) -> io::Result<()> {
    let mut file = File::open(path)?;
    let (mut packer, mut done) = (GzEncoder::new(Vec::new(), Compression::new(LEVEL)), 0);
    loop {
        let mut chunk = vec![0; CHUNK];
        let count = file.read(&mut chunk)?;
        chunk.truncate(count);
        done += count as u64;
        let bytes = match (gzip, count) {
            (true, 0) => {
                packer.try_finish()?;
                std::mem::take(packer.get_mut())
            }
            (true, _) => {
                packer.write_all(&chunk)?;
                std::mem::take(packer.get_mut())
            }
            (false, _) => chunk,
        };
        let unwanted = !bytes.is_empty() && chunks.blocking_send(Chunk { bytes, done }).is_err();
        if unwanted || count == 0 {
            return Ok(());
        }
    }
}

async fn run_there(session: &Session, path: &str) -> Result<String, InstallError> {
    let output = session.run(&script::version(path), b"").await?;
    let text = String::from_utf8_lossy(&output.stdout);
    match (&output.status, script::answer(&text, "version")) {
        (Status::Code(0), Some(version)) => Ok(version.to_owned()),
        (Status::Code(code), _) => Err(script::why_it_fails(path, Some(*code), &output.stderr)),
        (Status::Signal(_), _) => Err(script::why_it_fails(path, None, &output.stderr)),
    }
}

fn said(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    format!("{}; {} {}", output.status, stdout.trim(), output.stderr.trim()).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_with_storing_are_told_apart() {
        let why = |code, said| why_not_stored(&Status::Code(code), said);
        let full = "gzip: stdout: No space left on device";
        assert!(matches!(why(script::NOT_UNPACKED, full), InstallError::DiskFull(_)));
        let full = "mkdir: cannot create directory '/x': Disk quota exceeded";
        assert!(matches!(why(script::NO_FOLDER, full), InstallError::DiskFull(_)));
        let torn = "gzip: stdin: unexpected end of file";
        assert!(matches!(why(script::NOT_UNPACKED, torn), InstallError::Checksum));
        assert!(matches!(why(script::BAD_CHECKSUM, ""), InstallError::Checksum));
        let locked = "mkdir: cannot create directory '/x': Read-only file system";
        assert!(matches!(why(script::NO_FOLDER, locked), InstallError::NotStored(_)));
        let killed = why_not_stored(&Status::Signal("KILL".into()), "");
        assert!(killed.to_string().contains("signal KILL"), "{killed}");
    }

    #[test]
    fn packing_stops_when_nobody_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker");
        std::fs::write(&path, vec![7; 4 * CHUNK]).unwrap();
        let (chunks, received) = mpsc::channel(AHEAD);
        drop(received);
        pack(&path, false, &chunks).unwrap();
    }
}
