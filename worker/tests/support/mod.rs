//! The real worker's binary in a folder of its own, and a controller that talks with it.

use std::{
    path::Path,
    process::{Command as Plain, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};
use wire::{FrameReader, FrameWriter, ToController, ToWorker, VERSION};

/// The worker's binary.
pub(crate) const WORKER: &str = env!("CARGO_BIN_EXE_piecework-worker");

/// A folder with a worker in it, which ends with it.
pub(crate) struct Home(TempDir);

impl Home {
    /// Starts one.
    pub(crate) fn new() -> Self {
        Self::finding(None)
    }

    /// Starts one that finds programs in a folder before all others.
    pub(crate) fn finding(tools: Option<&Path>) -> Self {
        let home = Self(tempfile::tempdir().expect("a folder"));
        let path = std::env::var("PATH").unwrap_or_default();
        let tools = tools.map(|tools| format!("{}:", tools.display())).unwrap_or_default();
        home.start_by(Plain::new(WORKER).env("PATH", tools + &path));
        home
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Starts the worker, unless it runs.
    pub(crate) fn start_by(&self, command: &mut Plain) {
        let started = command.arg("start").arg("--folder").arg(self.path()).status();
        assert!(started.expect("the worker's binary runs").success());
    }

    /// Ends the worker as a crash would.
    pub(crate) fn kill(&self) {
        let stamp = self.path().join("socket");
        assert!(stamp.exists(), "a worker runs");
        for process in std::fs::read_dir("/proc").expect("Linux").flatten() {
            let cwd = std::fs::read_link(process.path().join("cwd"));
            let pid = process.file_name().to_string_lossy().parse::<u32>();
            if let (Ok(cwd), Ok(pid)) = (cwd, pid)
                && cwd == self.path().canonicalize().expect("it is there")
                && pid != std::process::id()
            {
                let killed = Plain::new("kill").args(["-9", &pid.to_string()]).status();
                assert!(killed.expect("kill runs").success());
            }
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.path().join("socket").exists() {
            self.kill();
        }
    }
}

/// A controller attached to a worker.
pub(crate) struct Controller {
    _child: Child,
    reader: FrameReader<ChildStdout>,
    writer: FrameWriter<ChildStdin>,
}

impl Controller {
    /// Attaches, and says nothing.
    pub(crate) async fn attach(home: &Home, generation: u64) -> Self {
        let mut child = Command::new(WORKER)
            .arg("attach")
            .arg("--folder")
            .arg(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the worker's binary runs");
        let mut reader = FrameReader::new(child.stdout.take().expect("it is piped"));
        reader.skip_preamble().await.expect("a worker answers");
        let writer = FrameWriter::new(child.stdin.take().expect("it is piped"), generation);
        Self { _child: child, reader, writer }
    }

    /// Attaches, says hello, and returns what the worker still holds.
    pub(crate) async fn greet(home: &Home, generation: u64) -> (Self, Vec<u64>) {
        let mut controller = Self::attach(home, generation).await;
        controller.say(ToWorker::Hello { version: VERSION, run: "run".into() }).await;
        match controller.hear().await {
            Some(ToController::Hello { version: VERSION, held }) => (controller, held),
            other => panic!("{other:?} is no hello"),
        }
    }

    /// Says something.
    pub(crate) async fn say(&mut self, message: ToWorker) {
        self.writer.send(&message).await.expect("the worker listens");
    }

    /// What the worker says next. None when it hangs up.
    pub(crate) async fn hear(&mut self) -> Option<ToController> {
        let next = timeout(Duration::from_secs(30), self.reader.next()).await;
        next.expect("the worker answers").expect("whole messages").map(|(_, message)| message)
    }
}
