//! A server's process: started, heard of, and ended with all that it has started.

use super::command::CommandLine;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::{Child, ChildStdin, Command};

/// Bytes at a log's end that are looked at.
const TAIL: u64 = 64 << 10;

/// Lines of a log that are shown.
const LINES: usize = 6;

/// Characters of a line that are shown.
const WIDTH: usize = 300;

/// A server's process, in its own process group under a [keeper](super::keeper). Dropping it
/// ends the group.
#[derive(Debug)]
pub(super) struct Process {
    keeper: Child,
    /// Closed when the worker ends, which the keeper notices.
    _line: Option<ChildStdin>,
    group: Option<Pid>,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, found at `program`. Whatever it writes goes to the file `log`; what an
    /// earlier one wrote is kept beside it.
    pub(super) fn start(
        keeper: &Path,
        program: &Path,
        command: &CommandLine,
        devices: Option<&str>,
        log: &Path,
    ) -> io::Result<Self> {
        match fs::rename(log, log.with_extension("log.old")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        let mut starting = Command::new(keeper);
        starting
            .arg("keep")
            .arg("--")
            .arg(program)
            .args(&command.arguments)
            .envs(&command.environment)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0);
        if let Some(devices) = devices {
            // The driver's order is that of nvidia-smi only if it is asked for.
            starting.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID").env("CUDA_VISIBLE_DEVICES", devices);
        }
        let mut keeper = starting.spawn()?;
        // A wait for the keeper would close it.
        let line = keeper.stdin.take();
        let group = keeper.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Self { keeper, _line: line, group, log: log.to_owned() })
    }

    /// Waits until it ends by itself. What it had started has then ended as well.
    pub(super) async fn ended(&mut self) {
        // An error means that nobody knows of it any more.
        drop(self.keeper.wait().await);
        self.kill();
    }

    /// Ends it, and returns when it has ended.
    pub(super) async fn end(&mut self) {
        self.kill();
        drop(self.keeper.wait().await);
    }

    /// The last lines that it wrote, and whether one of the last many has one of `marks`.
    pub(super) fn last_words(&self, marks: &[String]) -> (String, bool) {
        let text = tail(&self.log).unwrap_or_default();
        let marked = marks.iter().any(|mark| text.contains(mark));
        (last_lines(&text), marked)
    }

    fn kill(&mut self) {
        if let Some(group) = self.group.take() {
            // It fails where nobody is left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_lines(text: &str) -> String {
    let shorten = |line: &str| line.trim().chars().take(WIDTH).collect::<String>();
    let mut lines: Vec<String> =
        text.lines().rev().map(shorten).filter(|line| !line.is_empty()).take(LINES).collect();
    lines.reverse();
    lines.join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_those_with_something_in_them() {
        let text = "one\n\ntwo\nthree\n  four  \nfive\nsix\nseven\n\n";
        assert_eq!(last_lines(text), "two / three / four / five / six / seven");
        assert_eq!(last_lines(""), "");
    }
}
