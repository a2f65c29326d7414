//! The worker as a process of its own: started once in a folder, and reached through it.
//!
//! The folder holds `lock` (held while the worker lives), `socket`, `spool` and `log`. Sockets
//! are bound by a relative path, since a whole one may be longer than a socket's may be.

use crate::{own, serve, spool::Spool};
use std::{
    env,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncWriteExt, copy, stdin, stdout},
    net::{UnixListener, UnixStream},
};

const LOCK: &str = "lock";
const SOCKET: &str = "socket";
const SPOOL: &str = "spool";
const LOG: &str = "log";

/// How long a worker may take to answer its socket.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Why a worker can't be started or reached.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The folder or something in it can't be used.
    #[error("the worker's folder can't be used")]
    Folder(#[source] io::Error),
    /// It ended as soon as it was started, or doesn't answer.
    #[error("the worker didn't start; its log ends: {0}")]
    NotStarted(String),
    /// There is no worker to attach to.
    #[error("no worker runs here")]
    NotRunning(#[source] io::Error),
    /// It can't go on without its spool.
    #[error("the worker must stop")]
    Spool(#[from] crate::spool::SpoolError),
    /// The connection to it failed.
    #[error("the connection to the worker failed")]
    Connection(#[source] io::Error),
}

/// Starts a worker in `folder`, unless one runs there, and returns when it can be attached to.
pub fn start(folder: &Path) -> Result<(), DaemonError> {
    fs::create_dir_all(folder).map_err(DaemonError::Folder)?;
    env::set_current_dir(folder).map_err(DaemonError::Folder)?;
    if lock().map_err(DaemonError::Folder)?.is_none() {
        return Ok(());
    }
    let log = OpenOptions::new().create(true).append(true).open(LOG);
    let log = log.map_err(DaemonError::Folder)?;
    let errors = log.try_clone().map_err(DaemonError::Folder)?;
    let program = own::program().map_err(DaemonError::Folder)?;
    let mut child = Command::new(program)
        .args(["serve", "--folder", "."])
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(DaemonError::Folder)?;
    let begin = Instant::now();
    while std::os::unix::net::UnixStream::connect(SOCKET).is_err() {
        let ended = child.try_wait().map_err(DaemonError::Folder)?.is_some();
        if ended && lock().map_err(DaemonError::Folder)?.is_some() || START_LIMIT < begin.elapsed()
        {
            return Err(DaemonError::NotStarted(last_words()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Is the worker of `folder`: serves until it is told to quit.
pub fn run(folder: &Path) -> Result<(), DaemonError> {
    env::set_current_dir(folder).map_err(DaemonError::Folder)?;
    // A session of its own, so that the end of the one that started it is no concern of its.
    // It fails only where there is one already.
    let _ = rustix::process::setsid();
    let Some(_lock) = lock().map_err(DaemonError::Folder)? else {
        return Ok(());
    };
    match fs::remove_file(SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(DaemonError::Folder(error));
        }
        Ok(()) | Err(_) => {}
    }
    let spool = Spool::open(Path::new(SPOOL))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(DaemonError::Folder)?;
    let served = runtime.block_on(async {
        let listener = UnixListener::bind(SOCKET).map_err(DaemonError::Folder)?;
        Ok(serve::serve(listener, spool).await?)
    });
    drop(fs::remove_file(SOCKET));
    // The engine's thread may be in the middle of a step; nobody waits for it any more.
    runtime.shutdown_background();
    served
}

/// Connects standard input and output with the worker of `folder`, until either side hangs up.
pub fn attach(folder: &Path) -> Result<(), DaemonError> {
    env::set_current_dir(folder).map_err(DaemonError::NotRunning)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(DaemonError::Connection)?;
    let talked = runtime.block_on(async {
        let socket = UnixStream::connect(SOCKET).await.map_err(DaemonError::NotRunning)?;
        let (mut from_worker, mut to_worker) = socket.into_split();
        let (mut input, mut output) = (stdin(), stdout());
        let there = async {
            copy(&mut input, &mut to_worker).await?;
            to_worker.shutdown().await
        };
        let back = async {
            copy(&mut from_worker, &mut output).await?;
            output.flush().await
        };
        tokio::select! {
            ended = there => ended,
            ended = back => ended,
        }
        .map_err(DaemonError::Connection)
    });
    // A read of standard input can't be called off, and must not keep the process.
    runtime.shutdown_background();
    talked
}

/// The lock of the current folder, unless a worker holds it.
fn lock() -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(LOCK)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn last_words() -> String {
    let log = fs::read(LOG).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
