//! Real instances on this computer: rented, listed, killed and released.

use providers::{
    ErrorKind, Instance, InstanceState, Label, Local, Marketplace, Need, OfferId, Order,
    serve_local_instance,
};
use russh::keys::{Algorithm, PrivateKey};
use std::{
    env,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write, stdout},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{sleep, timeout};

/// How long anything here may take before it has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// A folder of instances that ends them all when the test ends, however it does.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }

    fn local(&self) -> Local {
        local(self.folder())
    }

    fn path(&self, instance: &Instance) -> PathBuf {
        self.folder().join(&instance.id.0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let local = self.local();
        let end = || {
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
                for instance in local.instances().await.unwrap() {
                    local.release(&instance.id).await.unwrap();
                }
            });
        };
        // The test's own runtime is still around here; another thread is free of it.
        thread::scope(|scope| scope.spawn(end).join().unwrap());
    }
}

/// An instance is this test program, told to run only [`is_an_instance`].
fn local(folder: &Path) -> Local {
    let me: OsString = env::current_exe().unwrap().into();
    let arguments = ["--exact", "is_an_instance", "--ignored", "--nocapture"].map(OsString::from);
    Local::new(folder.to_owned(), [me].into_iter().chain(arguments).collect())
}

#[test]
#[ignore = "the process of an instance, not a test"]
fn is_an_instance() {
    // Whoever runs all ignored tests is no instance.
    if env::var_os("PIECEWORK_INSTANCE").is_some() {
        let folder = PathBuf::from(env::args_os().next_back().unwrap());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(serve_local_instance(&folder)).unwrap();
    }
}

#[test]
#[ignore = "the process of a renter that is killed, not a test"]
fn is_a_renter() {
    if let Some(folder) = env::var_os("RENTER_FOLDER") {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let local = local(Path::new(&folder));
        writeln!(stdout(), "\nrenting").unwrap();
        runtime.block_on(async { local.rent(&order("orphan").await).await.unwrap() });
        // Nobody listens any more where the renter is killed earlier.
        drop(writeln!(stdout(), "\nrented"));
        thread::sleep(LIMIT);
    }
}

/// A renter in a process of its own, once it has come to the line `point`.
fn renter(folder: &Path, point: &str) -> Child {
    let mut renter = Command::new(env::current_exe().unwrap())
        .args(["--exact", "is_a_renter", "--ignored", "--nocapture"])
        .env("RENTER_FOLDER", folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(renter.stdout.take().unwrap());
    assert!(said.lines().map_while(Result::ok).any(|line| line == point));
    renter
}

async fn order(label: &str) -> Order {
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
    let offers = local(Path::new("/tmp")).offers(&Need::default()).await.unwrap();
    let public_key = key.public_key().to_openssh().unwrap();
    Order::new(offers[0].clone(), Label(label.into()), public_key)
}

/// Waits until the listing is so.
async fn until(local: &Local, what: impl Fn(&[Instance]) -> bool) -> Vec<Instance> {
    let wait = async {
        loop {
            let listed = local.instances().await.unwrap();
            if what(&listed) {
                return listed;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, wait).await.expect("the instances get there in time")
}

/// Waits until the only instance is in such a state.
async fn until_state(local: &Local, what: impl Fn(&InstanceState) -> bool) -> Instance {
    until(local, |all| matches!(all, [one] if what(&one.state))).await.remove(0)
}

fn is_running(state: &InstanceState) -> bool {
    matches!(state, InstanceState::Running(_))
}

/// The number of the instance's process.
fn process(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("process")).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

fn kill(number: &str) {
    assert!(Command::new("kill").args(["-9", number]).status().unwrap().success());
}

fn is_alive(number: &str) -> bool {
    let state = Command::new("ps").args(["-o", "stat=", "-p", number]).output().unwrap().stdout;
    // A zombie has ended; its parent has only not heard.
    !state.is_empty() && !state.starts_with(b"Z")
}

#[tokio::test]
async fn a_rental_is_listed_under_its_label_runs_and_is_released_twice() {
    let place = Place::new();
    let local = place.local();
    let rented = local.rent(&order("run-1").await).await.unwrap();
    assert_eq!(rented.state, InstanceState::Pending);
    let listed = local.instances().await.unwrap();
    assert_eq!((listed.len(), &listed[0].id), (1, &rented.id));
    assert_eq!(listed[0].label, Some(Label("run-1".into())));

    let running = until_state(&local, is_running).await;
    let number = process(&place.path(&running));
    assert!(is_alive(&number));
    local.release(&rented.id).await.unwrap();
    assert!(!is_alive(&number));
    assert!(local.instances().await.unwrap().is_empty());
    local.release(&rented.id).await.unwrap();
}

#[tokio::test]
async fn nothing_is_listed_before_anything_is_rented() {
    let place = Place::new();
    assert!(local(&place.folder().join("never/made")).instances().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_order_leaves_nothing() {
    let place = Place::new();
    let local = place.local();
    let good = order("run-1").await;
    let (mut gone, mut keyless, mut nameless) = (good.clone(), good.clone(), good.clone());
    gone.offer.id = OfferId("another".into());
    keyless.public_key = "not a key".into();
    nameless.label = Label("two\nlines".into());
    assert_eq!(local.rent(&gone).await.unwrap_err().kind, ErrorKind::OfferGone);
    assert_eq!(local.rent(&keyless).await.unwrap_err().kind, ErrorKind::Unexpected);
    assert_eq!(local.rent(&nameless).await.unwrap_err().kind, ErrorKind::Unexpected);

    let absent = Local::new(place.folder().to_owned(), vec!["/no/such/program".into()]);
    assert_eq!(absent.rent(&good).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert!(local.instances().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_instance_whose_process_dies_stays_listed_until_it_is_released() {
    let place = Place::new();
    let local = place.local();
    local.rent(&order("run-1").await).await.unwrap();
    let running = until_state(&local, is_running).await;
    kill(&process(&place.path(&running)));
    let stopped = until_state(&local, |state| *state == InstanceState::Stopped).await;
    assert_eq!(stopped.label, Some(Label("run-1".into())));
    local.release(&stopped.id).await.unwrap();
    assert!(local.instances().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_instance_that_never_starts_has_failed_in_the_end() {
    let place = Place::new();
    let local = Local::new(place.folder().to_owned(), vec!["false".into()]);
    local.rent(&order("run-1").await).await.unwrap();
    // It never wrote its number, so only time tells; it is made older.
    let pending = until_state(&local, |state| *state == InstanceState::Pending).await;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 60;
    fs::write(place.path(&pending).join("since"), since.to_string()).unwrap();
    until_state(&local, |state| matches!(state, InstanceState::Failed(_))).await;
}

#[tokio::test]
async fn a_garbled_folder_is_kept_and_listed_as_unknown() {
    let place = Place::new();
    let local = place.local();
    fs::create_dir(place.folder().join("local-half")).unwrap();
    let is_unknown = |state: &InstanceState| matches!(state, InstanceState::Unknown(_));
    let unknown = until_state(&local, is_unknown).await;
    assert_eq!(unknown.label, None);
    local.release(&unknown.id).await.unwrap();

    local.rent(&order("run-1").await).await.unwrap();
    let running = until_state(&local, is_running).await;
    let number = process(&place.path(&running));
    fs::write(place.path(&running).join("process"), "garbled").unwrap();
    let unknown = until_state(&local, is_unknown).await;
    assert_eq!(unknown.label, Some(Label("run-1".into())));
    // Its process can't be told by number, and is found by its stamp.
    local.release(&unknown.id).await.unwrap();
    assert!(!is_alive(&number));
}

#[tokio::test]
async fn an_instance_outlives_the_renter_that_was_killed() {
    let place = Place::new();
    let mut renter = renter(place.folder(), "rented");
    renter.kill().unwrap();
    renter.wait().unwrap();
    let local = place.local();
    let running = until_state(&local, is_running).await;
    assert_eq!(running.label, Some(Label("orphan".into())));
    local.release(&running.id).await.unwrap();
    assert!(local.instances().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_renter_killed_at_any_moment_leaves_nothing_or_something_with_its_label() {
    let mut left = 0;
    for step in 0..24 {
        let place = Place::new();
        let mut renter = renter(place.folder(), "renting");
        // The moment itself is what varies.
        sleep(Duration::from_micros(step * 50)).await;
        renter.kill().unwrap();
        renter.wait().unwrap();
        for instance in place.local().instances().await.unwrap() {
            assert_eq!(instance.label, Some(Label("orphan".into())), "killed at step {step}");
            left += 1;
        }
    }
    assert!(left <= 24, "one instance for each renter at most");
}

#[tokio::test]
async fn an_instance_ends_by_itself_when_asked_or_when_its_time_is_up() {
    let place = Place::new();
    let local = place.local();
    local.rent(&order("run-1").await).await.unwrap();
    let running = until_state(&local, is_running).await;
    let command = local.capabilities().self_release.unwrap();
    let home = place.path(&running);
    let asked = Command::new("sh").args(["-c", command]).env("HOME", &home).status().unwrap();
    assert!(asked.success());
    until(&local, <[Instance]>::is_empty).await;

    let mut brief = order("run-2").await;
    brief.expires = Some(SystemTime::now() + Duration::from_secs(1));
    local.rent(&brief).await.unwrap();
    until(&local, <[Instance]>::is_empty).await;
}

#[tokio::test]
async fn instances_rented_at_once_are_all_listed_and_all_released() {
    let place = Place::new();
    let mut rentals = tokio::task::JoinSet::new();
    for number in 0..8 {
        let local = place.local();
        rentals.spawn(async move { local.rent(&order(&format!("run-{number}")).await).await });
    }
    let rented: Vec<_> = rentals.join_all().await.into_iter().map(Result::unwrap).collect();
    let local = place.local();
    assert_eq!(local.instances().await.unwrap().len(), 8);
    // Some are still starting, and a release catches those too.
    for instance in &rented {
        local.release(&instance.id).await.unwrap();
    }
    assert!(local.instances().await.unwrap().is_empty());
    assert!(rented.iter().all(|instance| !place.path(instance).exists()));
}
