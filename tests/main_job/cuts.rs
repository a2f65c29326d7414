//! A small conversation between the real program and a real worker, cut at every byte offset.
//!
//! The worker that is put on the instance is a script, whose `attach` is this test binary: it
//! stands between the connection and the real worker's `attach`, and ends the first conversation
//! once so many bytes went one way. The conversations after it are left alone.

use crate::program::{User, answers, numbered, numbered_ids};
use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

const PROMPTS: usize = 4;

/// Between the offsets that are tried every time. A prime, so that they fall all over the frames.
const STRIDE: usize = 61;

const WORKER: &str = "PIECEWORK_TEST_WORKER";
const FOLDER: &str = "PIECEWORK_TEST_FOLDER";
const NOTES: &str = "PIECEWORK_TEST_NOTES";
const CUT: &str = "PIECEWORK_TEST_CUT";

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToWorker,
    FromWorker,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::ToWorker => "to",
            Self::FromWorker => "from",
        }
    }
}

/// Where the first conversation ends: after so many bytes that went this way.
type Cut = (Way, usize);

fn from_environment(name: &str) -> String {
    env::var(name).expect("the script says it")
}

#[test]
#[ignore = "no test, but what the worker of the tests below runs to be attached to"]
#[expect(clippy::zombie_processes, reason = "this process ends first, with the other's streams")]
fn is_a_connection_that_is_cut() {
    let (worker, folder) = (from_environment(WORKER), from_environment(FOLDER));
    let notes = PathBuf::from(from_environment(NOTES));
    let cut = from_environment(CUT);
    let (way, offset) = cut.split_once(' ').map_or_else(
        || (String::new(), usize::MAX),
        |(way, offset)| (way.to_owned(), offset.parse().expect("a number")),
    );
    // Whoever makes this folder is the first.
    let first = fs::create_dir(notes.join("attached")).is_ok();
    let limit = |of: Way| if first && of.name() == way { offset } else { usize::MAX };
    let mut attached = Command::new(worker)
        .args(["attach", "--folder", &folder])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the worker is there");
    let (to, from) = (attached.stdin.take().unwrap(), attached.stdout.take().unwrap());
    let written = notes.clone();
    let (to_limit, from_limit) = (limit(Way::ToWorker), limit(Way::FromWorker));
    thread::spawn(move || pass(io::stdin(), to, to_limit, &written.join(Way::ToWorker.name())));
    pass(from, io::stdout(), from_limit, &notes.join(Way::FromWorker.name()));
}

/// Passes bytes on, notes how many went as the length of a file, and ends the process with the last that may.
fn pass(mut from: impl Read, mut to: impl Write, limit: usize, note: &Path) -> ! {
    let (mut gone, mut chunk) = (0, vec![0; 64 << 10]);
    let length = fs::File::create(note).expect("there is room");
    loop {
        if limit == gone {
            fs::write(note.with_file_name("cut"), "").expect("there is room");
            end();
        }
        let room = chunk.len().min(limit - gone);
        let Ok(count @ 1..) = from.read(&mut chunk[..room]) else { end() };
        if to.write_all(&chunk[..count]).and_then(|()| to.flush()).is_err() {
            end();
        }
        gone += count;
        length.set_len(gone as u64).expect("it is nothing but a number");
    }
}

#[expect(clippy::exit, reason = "as a connection that is cut, it ends with whatever it is at")]
fn end() -> ! {
    std::process::exit(0)
}

/// What became of a run.
struct Ran {
    answers: BTreeMap<String, serde_json::Value>,
    /// Lines of the completions.
    lines: usize,
    /// Whether its first conversation was cut.
    cut: bool,
    /// The bytes that went each way in the conversation that ended last.
    bytes: [usize; 2],
}

/// Runs the small input to its end, with this cut.
fn run(cut: Option<Cut>) -> Ran {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    let notes = user.folder().join("notes");
    fs::create_dir(&notes).expect("it is new");
    let real = Path::new(env!("CARGO_BIN_EXE_piecework")).with_file_name("piecework-worker");
    let me = env::current_exe().expect("a test knows its program");
    let cut = cut.map_or_else(String::new, |(way, offset)| format!("{} {offset}", way.name()));
    let script = format!(
        "#!/bin/sh\n\
         [ \"$1\" = attach ] || exec '{real}' \"$@\"\n\
         export {WORKER}='{real}' {FOLDER}=\"$3\" {NOTES}='{notes}' {CUT}='{cut}'\n\
         exec '{me}' --exact cuts::is_a_connection_that_is_cut --ignored --nocapture\n",
        real = real.display(),
        notes = notes.display(),
        me = me.display(),
    );
    let worker = user.file("worker", script);
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).expect("it is ours");
    user.done(&[
        "run",
        "prompts.jsonl",
        "--engine",
        "echo",
        "--out",
        "out.jsonl",
        "--worker",
        "worker",
    ]);
    let out = user.folder().join("out.jsonl");
    let bytes = |way: Way| {
        let bytes = notes.join(way.name()).metadata().expect("somebody attached").len();
        usize::try_from(bytes).expect("a small file")
    };
    Ran {
        answers: answers(&out),
        lines: fs::read_to_string(&out).expect("it is there").lines().count(),
        cut: notes.join("cut").exists(),
        bytes: [bytes(Way::ToWorker), bytes(Way::FromWorker)],
    }
}

/// Cuts at every `stride`th offset; returns how many offsets that was.
fn cut_at_every(stride: usize) -> [usize; 2] {
    let calm = run(None);
    assert_eq!(calm.answers.keys().cloned().collect::<Vec<_>>(), numbered_ids(PROMPTS));
    assert!(!calm.cut && 100 < calm.bytes[0] && 100 < calm.bytes[1], "{:?}", calm.bytes);
    let offsets = |way: Way, bytes: usize| (0..bytes).step_by(stride).map(move |at| (way, at));
    let cuts: Vec<Cut> = offsets(Way::ToWorker, calm.bytes[0])
        .chain(offsets(Way::FromWorker, calm.bytes[1]))
        .collect();
    let (left, done) = (Mutex::new(cuts.clone().into_iter()), AtomicUsize::new(0));
    let work = || {
        loop {
            let next = left.lock().unwrap().next();
            let Some(cut) = next else { return };
            let mut ran = run(Some(cut));
            assert!(ran.lines == PROMPTS && ran.answers == calm.answers, "cut at {cut:?}");
            if !ran.cut {
                // A conversation may be shorter than the one that was measured: a batch more, a word
                // less. Then it is cut where this one was not over yet.
                let bytes = ran.bytes[usize::from(cut.0 == Way::FromWorker)];
                assert!(bytes <= cut.1, "{bytes} bytes went, and none were cut at {cut:?}");
                let sooner = (cut.0, cut.1 % bytes);
                ran = run(Some(sooner));
                assert!(ran.lines == PROMPTS && ran.answers == calm.answers, "cut at {sooner:?}");
            }
            done.fetch_add(usize::from(ran.cut), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    let done = done.into_inner();
    assert!(cuts.len() * 3 / 4 <= done, "only {done} of {} were cut", cuts.len());
    let of = |way| cuts.iter().filter(|cut| cut.0 == way).count();
    [of(Way::ToWorker), of(Way::FromWorker)]
}

#[test]
fn a_conversation_that_is_cut_anywhere_loses_and_doubles_nothing() {
    cut_at_every(STRIDE);
}

#[test]
#[ignore = "takes minutes: every offset, where the test above takes some"]
#[expect(clippy::print_stdout, reason = "a figure for whoever runs it by hand")]
fn a_conversation_that_is_cut_at_every_byte_loses_and_doubles_nothing() {
    let [to, from] = cut_at_every(1);
    println!("{to} offsets to the worker and {from} from it, none wrong");
}
