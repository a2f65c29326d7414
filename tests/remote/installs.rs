//! Putting a worker onto a machine, whole or not at all.

use crate::{
    machine::{LIMIT, Machine},
    proxy::{Mood, Proxy},
    sessions::noise,
};
use piecework::remote::{InstallError, Session, install};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tokio::time::timeout;

/// A worker that is a script, with enough behind its last command to take a while to send.
fn worker(folder: &Path, script: &str, padding: usize) -> PathBuf {
    let path = folder.join("piecework-worker");
    let mut bytes = format!("#!/bin/sh\n{script}\nexit\n").into_bytes();
    bytes.extend(noise(padding));
    fs::write(&path, bytes).unwrap();
    path
}

async fn put(
    session: &Session,
    worker: &Path,
) -> Result<piecework::remote::Installed, InstallError> {
    timeout(LIMIT, install(session, worker, |_, _| {})).await.expect("no hang")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_sent_once_and_runs_there() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    let worker = worker(machine.outside(), "echo piecework-worker 1.2.3", 3 << 20);
    let length = fs::metadata(&worker).unwrap().len();
    let mut heard = Vec::new();
    let first = install(&session, &worker, |done, total| heard.push((done, total))).await.unwrap();
    assert_eq!(first.version, "piecework-worker 1.2.3");
    assert!(3 << 20 <= first.sent, "{}", first.sent);
    assert_eq!(heard.last(), Some(&(length, length)));
    assert!(heard.is_sorted());
    assert_eq!(fs::read(&first.path).unwrap(), fs::read(&worker).unwrap());
    assert!(Path::new(&first.path).starts_with(machine.home().join(".cache/piecework/worker")));

    let mut heard = 0;
    let second = install(&session, &worker, |_, _| heard += 1).await.unwrap();
    assert_eq!((second.sent, heard), (0, 0));
    assert_eq!((second.path, second.version), (first.path, first.version));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_worker_is_replaced() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    let worker = worker(machine.outside(), "echo 1", 1000);
    let installed = put(&session, &worker).await.unwrap();
    fs::write(&installed.path, "#!/bin/sh\necho damaged").unwrap();
    assert!(0 < put(&session, &worker).await.unwrap().sent);
    assert_eq!(fs::read(&installed.path).unwrap(), fs::read(&worker).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_transfer_leaves_nothing_and_is_made_up_for() {
    let machine = Machine::rent("run-1").await;
    let proxy = Proxy::before(machine.endpoint.port);
    let worker = worker(machine.outside(), "echo 1", 8 << 20);
    let mut dial = machine.dial();
    dial.endpoint.port = proxy.port;
    let session = dial.connect().await.unwrap();
    proxy.set(Mood::CutAfter(3 << 20));
    let error = put(&session, &worker).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    proxy.set(Mood::Pass);

    let session = dial.connect().await.unwrap();
    let installed = put(&session, &worker).await.unwrap();
    assert_eq!(installed.version, "1");
    // The shell that was cut off may still be at its cleaning.
    timeout(LIMIT, async {
        while 1 < fs::read_dir(Path::new(&installed.path).parent().unwrap()).unwrap().count() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("no half of a worker stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_installations_at_once_do_not_spoil_each_other() {
    let machine = Machine::rent("run-1").await;
    let (one, two) = (machine.session().await, machine.session().await);
    let worker = worker(machine.outside(), "echo 1", 4 << 20);
    let (first, second) = tokio::join!(put(&one, &worker), put(&two, &worker));
    assert_eq!(first.unwrap().path, second.unwrap().path);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_fails_there_says_why() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    let old = worker(
        machine.outside(),
        "echo \"$0: /lib/libc.so.6: version 'GLIBC_2.99' not found\" >&2; exit 1",
        0,
    );
    let error = put(&session, &old).await.unwrap_err();
    assert!(matches!(error, InstallError::OldLibrary { .. }), "{error}");

    let loaderless = machine.outside().join("loaderless");
    fs::write(&loaderless, "#!/no/such/loader\n").unwrap();
    let error = put(&session, &loaderless).await.unwrap_err();
    assert!(matches!(error, InstallError::OldLibrary { .. }), "{error}");

    let mut foreign = b"\x7fELF".to_vec();
    foreign.resize(64, 0);
    foreign[18] = if cfg!(target_arch = "aarch64") { 0x3e } else { 0xb7 };
    let path = machine.outside().join("foreign");
    fs::write(&path, foreign).unwrap();
    let error = put(&session, &path).await.unwrap_err();
    assert!(matches!(error, InstallError::WrongArchitecture { .. }), "{error}");

    let error = put(&session, Path::new("/no/worker")).await.unwrap_err();
    assert!(matches!(error, InstallError::Local { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_can_not_be_made_is_named() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    let worker = worker(machine.outside(), "echo 1", 0);
    // A file stands where the folder should be, so that it also stops root.
    fs::write(machine.home().join(".cache"), "").unwrap();
    let error = put(&session, &worker).await.unwrap_err();
    assert!(matches!(&error, InstallError::NotStored(said) if said.contains(".cache")), "{error}");
}
