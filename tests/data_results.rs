//! Results on their way to disk and into order: nothing is lost, doubled or half there.

use piecework::prompts::Place;
use piecework::shards::{
    Bits, Cause, Out, OutFormat, Record, ResultsError, RunFiles, Sink, Ticket, check_writable,
    finished, order, reopen,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use std::{fs, io, io::Write, path::Path};
use tempfile::TempDir;

fn folder(prompts: u64) -> (TempDir, RunFiles) {
    let folder = TempDir::new().expect("there is room for a folder");
    let files = RunFiles {
        folder: folder.path().to_owned(),
        run: "r1".into(),
        prompts,
        inputs: Vec::new(),
    };
    (folder, files)
}

fn completion(index: u64, text: &str) -> Record {
    let body = format!(
        "{{\"choices\":[{{\"text\":\"{text}\"}}],\
         \"usage\":{{\"prompt_tokens\":{index},\"completion_tokens\":2}}}}"
    );
    Record::Done { index, custom_id: format!("prompt-{index}"), body }
}

fn error(index: u64) -> Record {
    let (line, custom_id, reason) = (Place { file: 0, line: index + 1 }, None, "it is odd".into());
    Record::Failed { index, line, custom_id, cause: Cause::BadLine, reason }
}

async fn keep(files: &RunFiles, records: Vec<Record>) {
    let (sink, _) = Sink::open(files, false).expect("the folder is there");
    sink.put(records).await.expect("there is room");
    sink.close().await.expect("there is room");
}

fn positions(bits: &Bits) -> Vec<u64> {
    (0..bits.bound()).filter(|index| bits.contains(*index)).collect()
}

/// The positions of the lines of a file, in their order.
fn lines(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).expect("it is there");
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
            let id = line["id"].as_str().expect("each line has an id");
            id.strip_prefix("piecework-r1-").expect("it is of this run").parse().expect("a number")
        })
        .collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it is there");
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.expect("it is there").file_name().into_string().expect("it is text")
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_is_durable_is_in_the_file() {
    let (_folder, files) = folder(3);
    let (sink, resumed) = Sink::open(&files, false).expect("the folder is there");
    assert_eq!(resumed.done().count(), 0);
    let first = sink.put(vec![completion(2, "a"), error(0)]).await.expect("there is room");
    let mut durable = sink.durable();
    durable.wait(first).await.expect("there is room");
    assert_eq!(lines(&files.completions()), [2]);
    assert_eq!(lines(&files.errors()), [0]);
    let second = sink.put(vec![completion(1, "b")]).await.expect("there is room");
    durable.wait(second).await.expect("there is room");
    assert!(first < second && durable.latest() == second);
    assert_eq!(lines(&files.completions()), [2, 1]);
    sink.close().await.expect("there is room");
    durable.wait(second).await.expect("what is durable stays so");
}

#[tokio::test]
async fn a_later_session_finds_what_was_done_and_what_it_took() {
    let (_folder, files) = folder(9);
    keep(&files, vec![completion(3, "a"), completion(7, "b"), error(4)]).await;
    keep(&files, vec![completion(5, "c"), completion(3, "again"), error(5)]).await;
    let (sink, resumed) = Sink::open(&files, false).expect("the folder is there");
    assert_eq!(positions(&resumed.completed), [3, 5, 7]);
    assert_eq!(positions(&resumed.failed), [4]);
    assert_eq!(positions(&resumed.done()), [3, 4, 5, 7]);
    assert_eq!((resumed.tokens_in, resumed.tokens_out), (15, 6));
    assert_eq!((resumed.repeated, resumed.damaged, resumed.torn), (1, 0, 0));
    sink.close().await.expect("there is room");
}

#[tokio::test]
async fn failed_prompts_are_done_again_only_if_that_is_asked_for() {
    let (_folder, files) = folder(2);
    keep(&files, vec![completion(0, "a"), error(1)]).await;
    let (sink, resumed) = Sink::open(&files, true).expect("the folder is there");
    assert_eq!(positions(&resumed.done()), [0]);
    sink.put(vec![completion(1, "b")]).await.expect("there is room");
    sink.close().await.expect("there is room");
    let out = files.folder.join("out.jsonl");
    let ordered =
        order(&files, Out::File(&out), OutFormat::default(), &files.folder.join("errors.jsonl"));
    assert_eq!(ordered.expect("all is there").completed, 2);
}

#[tokio::test]
async fn a_file_cut_at_any_byte_is_opened_and_goes_on() {
    let (_folder, files) = folder(6);
    keep(&files, (0..4).map(|index| completion(index, "some text")).collect()).await;
    let whole = fs::read(files.completions()).expect("it is there");
    let mut ends = vec![0];
    ends.extend((0..whole.len()).filter(|at| whole[*at] == b'\n').map(|at| at + 1));
    for cut in ends[2]..=whole.len() {
        fs::write(files.completions(), &whole[..cut]).expect("there is room");
        let complete = ends.iter().filter(|end| **end <= cut).count() - 1;
        let (sink, resumed) = Sink::open(&files, false).expect("a torn line is no error");
        assert_eq!(resumed.completed.count(), complete as u64, "cut at {cut}");
        assert_eq!(resumed.torn, (cut - ends[complete]) as u64, "cut at {cut}");
        // The disk is slow to sync, so not each of them goes on.
        if cut.is_multiple_of(40) {
            let rest = (complete as u64..6).map(|index| completion(index, "more")).collect();
            sink.put(rest).await.expect("there is room");
        }
        sink.close().await.expect("there is room");
        let expected = if cut.is_multiple_of(40) { 6 } else { complete as u64 };
        assert_eq!(lines(&files.completions()), (0..expected).collect::<Vec<_>>(), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_hole_left_by_a_power_failure_costs_its_line_and_no_other() {
    let (_folder, files) = folder(3);
    keep(&files, (0..3).map(|index| completion(index, "some text")).collect()).await;
    let mut bytes = fs::read(files.completions()).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8].fill(0);
    fs::write(files.completions(), bytes).expect("there is room");
    let (sink, resumed) = Sink::open(&files, false).expect("a hole is no error");
    assert_eq!((positions(&resumed.completed), resumed.damaged), (vec![0, 2], 1));
    sink.put(vec![completion(1, "again")]).await.expect("there is room");
    sink.close().await.expect("there is room");
    let out = files.folder.join("out.jsonl");
    order(&files, Out::File(&out), OutFormat::default(), &files.folder.join("e"))
        .expect("all is there");
    assert_eq!(lines(&out), [0, 1, 2]);
}

#[tokio::test]
async fn results_of_another_input_are_refused() {
    let (_folder, mut files) = folder(9);
    keep(&files, vec![completion(8, "a")]).await;
    files.prompts = 8;
    let error = Sink::open(&files, false).expect_err("there is no prompt 8");
    assert!(matches!(error, ResultsError::Foreign { index: 8, prompts: 8, .. }));
    let error = order(&files, Out::Stream(&mut io::sink()), OutFormat::default(), Path::new("e"));
    assert!(matches!(error, Err(ResultsError::Foreign { .. })));
}

#[tokio::test]
async fn a_full_backlog_makes_the_giver_wait_and_loses_nothing() {
    let (_folder, files) = folder(60);
    let (sink, _) = Sink::open(&files, false).expect("the folder is there");
    // 60 MB, several times the backlog.
    let text = "x".repeat(1 << 20);
    let mut last = None::<Ticket>;
    for index in 0..60 {
        let ticket = sink.put(vec![completion(index, &text)]).await.expect("there is room");
        assert!(last < Some(ticket));
        last = Some(ticket);
    }
    sink.close().await.expect("there is room");
    let (sink, resumed) = Sink::open(&files, false).expect("the folder is there");
    assert_eq!((resumed.completed.count(), resumed.torn), (60, 0));
    sink.close().await.expect("there is room");
}

#[tokio::test]
async fn a_hundred_thousand_results_in_any_order_come_out_in_order() {
    const PROMPTS: u64 = 100_000;
    let mut random = StdRng::seed_from_u64(7);
    // The first as workers answer, nearly in order; the second as nobody would.
    for disorder in [500, PROMPTS] {
        let (_folder, files) = folder(PROMPTS);
        let mut positions: Vec<u64> = (0..PROMPTS).collect();
        for chunk in positions.chunks_mut(usize::try_from(disorder).expect("small")) {
            chunk.shuffle(&mut random);
        }
        let (sink, _) = Sink::open(&files, false).expect("the folder is there");
        for chunk in positions.chunks(1000) {
            let record = |index: &u64| match index % 17 {
                0 => error(*index),
                _ => completion(*index, &"é".repeat(random.random_range(0..300))),
            };
            let records = chunk.iter().map(record).collect();
            sink.put(records).await.expect("there is room");
        }
        sink.close().await.expect("there is room");
        let (out, errors) = (files.folder.join("out.jsonl"), files.folder.join("errors.jsonl"));
        let ordered =
            order(&files, Out::File(&out), OutFormat::default(), &errors).expect("all is there");
        assert_eq!(ordered.completed + ordered.failed, PROMPTS);
        let with =
            |failed: bool| (0..PROMPTS).filter(move |index| index.is_multiple_of(17) == failed);
        assert_eq!(lines(&out), with(false).collect::<Vec<_>>());
        assert_eq!(lines(&errors), with(true).collect::<Vec<_>>());
        assert_eq!(names(&files.folder), ["errors.jsonl", "ordered.json", "out.jsonl"]);
        let again = order(&files, Out::File(&out), OutFormat::default(), &errors)
            .expect("it changes nothing");
        assert_eq!(again, ordered);
    }
}

#[tokio::test]
async fn order_waits_for_every_prompt() {
    let (_folder, files) = folder(5);
    keep(&files, vec![completion(0, "a"), error(1), completion(3, "b")]).await;
    let out = files.folder.join("out.jsonl");
    let error = order(&files, Out::File(&out), OutFormat::default(), Path::new("e"))
        .expect_err("two are missing");
    assert_eq!(
        error.to_string(),
        "2 of 5 prompts have neither a completion nor an error, first of them prompt 2; \
         `piecework resume r1` does them"
    );
    assert!(!out.exists() && files.completions().exists() && files.errors().exists());
}

#[tokio::test]
async fn a_prompt_done_after_it_failed_is_done_and_the_first_completion_stays() {
    let (_folder, files) = folder(2);
    keep(&files, vec![error(0), completion(1, "first"), completion(0, "late")]).await;
    keep(&files, vec![completion(1, "second")]).await;
    let (out, errors) = (files.folder.join("out.jsonl"), files.folder.join("errors.jsonl"));
    fs::write(&errors, "of an earlier time\n").expect("there is room");
    let ordered =
        order(&files, Out::File(&out), OutFormat::default(), &errors).expect("all is there");
    assert_eq!((ordered.completed, ordered.failed), (2, 0));
    let text = fs::read_to_string(&out).expect("it is there");
    assert!(text.contains("first") && !text.contains("second") && !errors.exists());
}

#[tokio::test]
async fn completions_go_to_a_stream_in_order() {
    let (_folder, files) = folder(3);
    keep(&files, vec![completion(2, "c"), completion(0, "a"), completion(1, "b")]).await;
    let mut out = Vec::new();
    order(&files, Out::Stream(&mut out), OutFormat::default(), &files.folder.join("e"))
        .expect("all is there");
    let path = files.folder.join("copy");
    fs::write(&path, out).expect("there is room");
    assert_eq!(lines(&path), [0, 1, 2]);
    assert!(!files.completions().exists());
}

#[tokio::test]
async fn a_stream_that_breaks_costs_no_completion() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (_folder, files) = folder(1);
    keep(&files, vec![completion(0, "a")]).await;
    let error = order(&files, Out::Stream(&mut Broken), OutFormat::default(), Path::new("e"))
        .expect_err("it is broken");
    assert!(matches!(error, ResultsError::Outlet { .. }));
    assert_eq!(lines(&files.completions()), [0]);
}

#[tokio::test]
async fn a_run_that_is_over_goes_on_only_after_it_was_reopened() {
    let (_folder, files) = folder(3);
    keep(&files, vec![completion(2, "c"), error(1), completion(0, "a")]).await;
    reopen(&files, Some(Path::new("nowhere"))).expect("it isn't over");
    let (out, errors) = (files.folder.join("out.jsonl"), files.folder.join("errors.jsonl"));
    let ordered =
        order(&files, Out::File(&out), OutFormat::default(), &errors).expect("all is there");
    assert_eq!(finished(&files), Some(ordered));
    let error = Sink::open(&files, true).expect_err("it is over");
    assert_eq!(error.to_string(), "run r1 is over, and its results are where it put them");

    reopen(&files, Some(Path::new("nowhere"))).expect_err("it has no completions there");
    assert_eq!(finished(&files), Some(ordered), "and stays over");
    reopen(&files, Some(&out)).expect("they are there");
    let (sink, resumed) = Sink::open(&files, true).expect("it goes on");
    assert_eq!(positions(&resumed.done()), [0, 2]);
    sink.put(vec![completion(1, "b")]).await.expect("there is room");
    sink.close().await.expect("there is room");
    order(&files, Out::File(&out), OutFormat::default(), &errors).expect("all is there");
    assert_eq!(lines(&out), [0, 1, 2]);
    assert_eq!(names(&files.folder), ["ordered.json", "out.jsonl"]);
}

#[test]
fn a_place_where_no_file_can_appear_is_found_beforehand() {
    let (_folder, files) = folder(1);
    check_writable(&files, &files.folder.join("out.jsonl")).expect("it can");
    for place in [files.folder.clone(), files.folder.join("no such folder/out.jsonl")] {
        let error = check_writable(&files, &place).expect_err("it can't").to_string();
        let start = format!("`{}` can't be written", place.display());
        assert_eq!(error, start + "; choose another place for the completions with `--out`");
    }
    assert!(names(&files.folder).is_empty());
}

#[tokio::test]
async fn an_ordering_that_fails_at_any_file_keeps_what_it_needs_to_be_done_again() {
    let blocked = [
        "completions.offsets",
        "errors.offsets",
        ".out.jsonl.r1.partial",
        ".errors.jsonl.r1.partial",
        ".ordered.json.r1.partial",
    ];
    for name in blocked {
        let (_folder, files) = folder(3);
        keep(&files, vec![completion(2, "c"), error(1), completion(0, "a")]).await;
        // A folder where it wants to make a file.
        fs::create_dir(files.folder.join(name)).expect("there is room");
        let (out, errors) = (files.folder.join("out.jsonl"), files.folder.join("errors.jsonl"));
        order(&files, Out::File(&out), OutFormat::default(), &errors)
            .expect_err("a folder is in the way");
        assert_eq!((lines(&files.completions()), lines(&files.errors())), (vec![2, 0], vec![1]));
        fs::remove_dir(files.folder.join(name)).expect("it is left alone");
        order(&files, Out::File(&out), OutFormat::default(), &errors)
            .expect("nothing is in the way");
        assert_eq!((lines(&out), lines(&errors)), (vec![0, 2], vec![1]), "{name}");
        assert_eq!(names(&files.folder), ["errors.jsonl", "ordered.json", "out.jsonl"]);
    }
}
