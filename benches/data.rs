//! How fast the data path is, and what it takes: `cargo bench --bench data [PROMPTS] [BYTES]`.
//!
//! Writes, in the system's temporary folder, as many bytes as there are prompts, three times over.
#![expect(clippy::print_stdout, reason = "its figures are its output")]

use piecework::{
    prompts::{Entry, Input, Options, Source, spawn_reader, survey},
    shards::{Bits, Item, Out, OutFormat, Queue, Record, RunFiles, Sink, WorkerId, order},
};
use std::{
    collections::VecDeque,
    env, fs,
    fs::File,
    io::{BufWriter, Write},
    time::Instant,
};
use tempfile::TempDir;

/// Prompts that are answered in another order than they were given out.
const DISORDER: usize = 2000;

fn main() {
    let mut numbers = env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let prompts = numbers.next().unwrap_or(200_000);
    let bytes = usize::try_from(numbers.next().unwrap_or(4096)).expect("a prompt fits into memory");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("there is room");
    let folder = TempDir::new().expect("there is room for a folder");
    let path = folder.path().join("prompts.jsonl");
    write_prompts(&path, prompts, bytes);
    let size = fs::metadata(&path).expect("it was written").len();
    println!("{prompts} prompts of {bytes} bytes, {} MB", size / 1_000_000);

    let source = Source::file(&path).expect("there is a folder to be in");
    let input = Input { sources: vec![source], options: Options::default() };
    let step = Step::start("survey");
    let survey = survey(&input, |_| ()).expect("it has prompts");
    step.end(prompts, size);

    let step = Step::start("read");
    let mut read = 0;
    runtime.block_on(async {
        let mut reader =
            spawn_reader(&input, &survey, Bits::new(prompts)).expect("the file is there");
        while let Some(batch) = reader.next().await {
            read += batch.expect("it can be read").len() as u64;
        }
    });
    assert_eq!(read, prompts);
    step.end(prompts, size);

    let step = Step::start("skip what is done");
    let mut done = Bits::new(prompts);
    (0..prompts - 1).for_each(|index| {
        done.insert(index);
    });
    runtime.block_on(async {
        let mut reader = spawn_reader(&input, &survey, done).expect("the file is there");
        while let Some(batch) = reader.next().await {
            assert_eq!(batch.expect("it can be read").len(), 1);
        }
    });
    step.end(prompts, size);

    let files = RunFiles {
        folder: folder.path().to_owned(),
        run: "bench".into(),
        prompts,
        inputs: Vec::new(),
    };
    let body = format!(
        "{{\"choices\":[{{\"text\":\"{}\"}}],\
         \"usage\":{{\"prompt_tokens\":1000,\"completion_tokens\":200}}}}",
        "x".repeat(bytes)
    );
    let step = Step::start("read, queue and sink");
    runtime.block_on(work(&input, &survey, &files, &body));
    let size = fs::metadata(files.completions()).expect("it was written").len();
    step.end(prompts, size);

    let step = Step::start("open again");
    let (sink, resumed) = Sink::open(&files, false).expect("it is there");
    step.end(prompts, size);
    assert_eq!((resumed.done().count(), resumed.tokens_in), (prompts, prompts * 1000));
    runtime.block_on(sink.close()).expect("there is room");

    let step = Step::start("put in order");
    let out = folder.path().join("out.jsonl");
    order(&files, Out::File(&out), OutFormat::default(), &folder.path().join("errors.jsonl"))
        .expect("all is there");
    step.end(prompts, size);
}

fn write_prompts(path: &std::path::Path, prompts: u64, bytes: usize) {
    let mut file = BufWriter::new(File::create(path).expect("there is room"));
    let words = "How much is a \\\"pound\\\" of flesh, by the gram? ".repeat(bytes / 45 + 1);
    for index in 0..prompts {
        let text = &words.as_bytes()[..words.len().min(bytes) - 5];
        let text = String::from_utf8_lossy(text);
        let text = text.trim_end_matches('\\');
        writeln!(file, "{{\"id\":\"request-{index}\",\"prompt\":\"{text}\"}}").expect("room");
    }
    file.into_inner().expect("there is room").sync_all().expect("there is room");
}

/// What the runner does, with four workers that answer at once but not in order.
async fn work(input: &Input, survey: &piecework::prompts::Survey, files: &RunFiles, body: &str) {
    let (sink, resumed) = Sink::open(files, false).expect("there is room");
    let mut queue = Queue::new(resumed.done());
    let mut reader = spawn_reader(input, survey, resumed.done()).expect("the file is there");
    let mut under_way = VecDeque::new();
    let mut turn = 0_u32;
    while !queue.is_over() {
        match reader.next().await {
            Some(batch) => {
                for entry in batch.expect("it can be read") {
                    match entry {
                        Entry::Good { prompt, custom_id, line } => {
                            queue.push(Item { prompt, custom_id, line });
                        }
                        Entry::Bad { reason, .. } => panic!("{reason}"),
                    }
                }
            }
            None => queue.end(),
        }
        for worker in 0..4 {
            under_way.extend(queue.take(WorkerId(worker), 128, 1 << 20));
        }
        let keep = if queue.counts().waiting == 0 { 0 } else { DISORDER };
        let mut records = Vec::new();
        while keep < under_way.len() {
            turn = turn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = turn as usize % under_way.len().min(DISORDER);
            let prompt = under_way.swap_remove_front(at).expect("it is less than the length");
            if let piecework::shards::Finish::First(item) = queue.finish(prompt.index) {
                let (index, custom_id) = (prompt.index, item.custom_id);
                records.push(Record::Done { index, custom_id, body: body.to_owned() });
            }
        }
        sink.put(records).await.expect("there is room");
    }
    sink.close().await.expect("there is room");
}

struct Step {
    name: &'static str,
    began: Instant,
}

impl Step {
    fn start(name: &'static str) -> Self {
        // Linux begins to count anew at this. Elsewhere there is no count.
        drop(fs::write("/proc/self/clear_refs", "5"));
        Self { name, began: Instant::now() }
    }

    fn end(self, prompts: u64, bytes: u64) {
        let seconds = self.began.elapsed().as_secs_f64();
        println!(
            "{:<22}{:>9.0} prompts/s {:>7.0} MB/s {:>8.2} s {:>5} MB at most",
            self.name,
            prompts as f64 / seconds,
            bytes as f64 / 1e6 / seconds,
            seconds,
            peak().map_or_else(|| "?".into(), |bytes| (bytes / 1_000_000).to_string())
        );
    }
}

/// The most memory that was in use since the step began, in bytes.
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}
