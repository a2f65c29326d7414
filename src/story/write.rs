//! Keeps a run's events, on a thread of its own: nothing waits for it, and nothing fails with it.
//!
//! The file never grows beyond [`LIMIT`]. Progress is kept every second at first, and half as often
//! each time that a sixteenth of what room there was is used; what may happen without end, such as a
//! link that keeps breaking, is kept while there is half of the room left.

use crate::event::{Event, Line, VERSION};
use jiff::Timestamp;
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};
use tokio::{sync::oneshot, time::timeout};

/// Bytes that a story has at most, its very last line aside.
const LIMIT: u64 = 16 << 20;

/// Seconds between two readings of how the run is doing, at first.
const PACE: f64 = 1.0;

/// Events that wait to be written. Those that find no room are left out.
const WAITING: usize = 4096;

/// How long the end of the program waits for the end of the story.
const PATIENCE: Duration = Duration::from_secs(2);

/// A story that is being written. It ends with the last sender of its events.
#[derive(Debug)]
pub struct Scribe {
    over: oneshot::Receiver<()>,
}

/// Begins to write a story, or goes on with it, and says where to send events.
pub fn keep(path: PathBuf) -> (SyncSender<(Timestamp, Event)>, Scribe) {
    let (sender, events) = sync_channel(WAITING);
    let (told, over) = oneshot::channel();
    // Without a thread there is no story.
    drop(thread::Builder::new().name("story".into()).spawn(move || {
        write(&path, &events);
        // Whoever has lost patience isn't there any more.
        told.send(()).ok();
    }));
    (sender, Scribe { over })
}

impl Scribe {
    /// Waits for the end of the story; not for long, where the disk doesn't answer.
    pub async fn finish(self) {
        drop(timeout(PATIENCE, self.over).await);
    }
}

fn write(path: &Path, events: &Receiver<(Timestamp, Event)>) {
    let Ok((file, length)) = open(path) else { return };
    let mut pen = Pen::new(file, length);
    for (at, event) in events {
        pen.hear(at, event);
    }
}

/// The file, with what was torn off in it ended, and how long it is.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    if length != 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            return Ok((file, length + 1));
        }
    }
    Ok((file, length))
}

/// Decides what is kept, and writes it.
struct Pen<W> {
    out: W,
    length: u64,
    /// Whether the last line may not have its end.
    torn: bool,
    /// Seconds between two readings now, and bytes that may be written so often.
    pace: f64,
    left: u64,
    /// When the last reading was kept, and the one after it that was not.
    read: Option<f64>,
    held_back: Option<(Timestamp, Event)>,
    /// What each machine was last heard to be at.
    phases: HashMap<u32, &'static str>,
}

impl<W: Write> Pen<W> {
    fn new(out: W, length: u64) -> Self {
        let left = LIMIT.saturating_sub(length) / 16;
        let phases = HashMap::new();
        Self { out, length, torn: false, pace: PACE, left, read: None, held_back: None, phases }
    }

    fn hear(&mut self, at: Timestamp, event: Event) {
        match &event {
            Event::Progress(progress) => {
                let due = self.read.is_none_or(|last| last + self.pace <= progress.seconds);
                if due {
                    self.read = Some(progress.seconds);
                    self.reading(at, &event);
                    self.held_back = None;
                } else {
                    self.held_back = Some((at, event));
                }
            }
            Event::Phase { slot, phase } => {
                let name = phase.name();
                if self.phases.insert(*slot, name) != Some(name) {
                    self.line(at, &event, LIMIT / 2);
                }
            }
            Event::Reconnecting { slot, .. } => {
                self.phases.remove(slot);
                self.line(at, &event, LIMIT / 2);
            }
            Event::StillOwed { .. }
            | Event::Stray { .. }
            | Event::EndedOverdue { .. }
            | Event::LeftBehind { .. }
            | Event::GuardReplaced
            | Event::Unguarded { .. }
            | Event::Sending { .. } => {
                self.line(at, &event, LIMIT / 2);
            }
            Event::RunStarted { .. }
            | Event::OfferChosen { .. }
            | Event::Rented { .. }
            | Event::Adopted { .. }
            | Event::Released { .. }
            | Event::Ordering => {
                self.line(at, &event, LIMIT);
            }
            // After these a machine is not heard of any more.
            Event::Lost { .. }
            | Event::Exchanged { .. }
            | Event::Stopping { .. }
            | Event::Settling { .. } => {
                self.catch_up();
                self.line(at, &event, LIMIT);
            }
            Event::Finished(_) => {
                self.catch_up();
                self.line(at, &event, u64::MAX);
            }
        }
    }

    /// Keeps the reading that was held back, if there is one.
    fn catch_up(&mut self) {
        if let Some((at, event)) = self.held_back.take() {
            self.reading(at, &event);
        }
    }

    fn reading(&mut self, at: Timestamp, event: &Event) {
        let written = self.line(at, event, LIMIT);
        self.left = self.left.saturating_sub(written);
        if self.left == 0 {
            self.pace *= 2.0;
            self.left = LIMIT.saturating_sub(self.length) / 16;
        }
    }

    /// Writes a line, if the file then has at most so many bytes. Returns how many the line has.
    fn line(&mut self, at: Timestamp, event: &Event, limit: u64) -> u64 {
        let line = Line { v: VERSION, at, event };
        let mut text = serde_json::to_vec(&line).expect("an event has only plain values");
        text.push(b'\n');
        if self.torn {
            text.insert(0, b'\n');
        }
        let length = text.len() as u64;
        if limit < self.length.saturating_add(length) {
            return 0;
        }
        // A line that can't be written is lost; the next may find room again.
        self.torn = self.out.write_all(&text).is_err();
        self.length += length;
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock,
        event::{MachineProgress, Progress, SlotPhase},
    };
    use providers::Label;

    fn at(seconds: f64) -> Timestamp {
        clock::after(Timestamp::UNIX_EPOCH, Duration::from_secs_f64(seconds))
    }

    fn progress(seconds: f64, machines: u32) -> Event {
        let machine = |slot| MachineProgress {
            slot,
            label: Label(format!("pw-7kq3f-nov24-7kq3-{slot}-0-abcdef-ghijkl")),
            prompts: 60_000,
            tokens_in: 60_000_000,
            tokens_out: 12_000_000,
        };
        let machines = (0..machines).map(machine).collect();
        Event::Progress(Progress { seconds, machines, ..Progress::default() })
    }

    fn working(slot: u32) -> Event {
        let phase = SlotPhase::Working {
            engine: "echo".into(),
            waiting: 0,
            running: 1,
            tokens_per_second: 2.0,
            hungry: 0.0,
        };
        Event::Phase { slot, phase }
    }

    #[test]
    fn a_day_with_64_machines_stays_small_and_is_known_to_its_end() {
        let mut pen = Pen::new(Vec::new(), 0);
        let mut seconds = 0.0;
        while seconds < 86_400.0 {
            pen.hear(at(seconds), progress(seconds, 64));
            seconds += 0.5;
        }
        pen.hear(at(seconds), Event::Settling { instances: 64 });
        let text = String::from_utf8(pen.out).unwrap();
        assert!((text.len() as u64) < LIMIT, "{}", text.len());
        let lines: Vec<Line<Event>> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!((300..3000).contains(&lines.len()), "{}", lines.len());
        assert_eq!(lines[lines.len() - 2].at, at(86_399.5), "the last reading");
        // At one machine a reading is small, and there are far more of them.
        let mut pen = Pen::new(Vec::new(), 0);
        (0..86_400)
            .for_each(|second| pen.hear(at(f64::from(second)), progress(f64::from(second), 1)));
        assert!(pen.out.len() < 8 << 20 && 4000 < memchr::memchr_iter(b'\n', &pen.out).count());
    }

    #[test]
    fn what_never_ends_fills_half_and_the_end_is_kept_all_the_same() {
        let mut pen = Pen::new(Vec::new(), 0);
        for second in 0..200_000 {
            let reason = "the link broke, for the reasons for which links break".to_owned();
            pen.hear(at(f64::from(second)), Event::Reconnecting { slot: 0, reason });
            pen.hear(at(f64::from(second)), working(0));
        }
        let half = pen.out.len() as u64;
        assert!(LIMIT / 2 - 1000 < half && half <= LIMIT / 2, "{half}");
        pen.hear(at(2e5), Event::Settling { instances: 1 });
        assert!(half < pen.out.len() as u64);
    }

    #[test]
    fn a_phase_is_kept_once_and_again_after_the_link_broke() {
        let mut pen = Pen::new(Vec::new(), 0);
        for event in [working(0), working(0), working(1), working(0)] {
            pen.hear(at(0.0), event);
        }
        pen.hear(at(1.0), Event::Reconnecting { slot: 0, reason: "it broke".into() });
        pen.hear(at(2.0), working(0));
        assert_eq!(memchr::memchr_iter(b'\n', &pen.out).count(), 4);
    }

    /// A disk that is full now and then, having taken half of what it was given.
    struct Full(Vec<u8>, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(3) {
                self.0.extend(&bytes[..bytes.len() / 2]);
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_finds_no_room_spoils_no_other() {
        let mut pen = Pen::new(Full(Vec::new(), 0), 0);
        for slot in 0..9 {
            pen.hear(at(0.0), working(slot));
        }
        let text = String::from_utf8(pen.out.0).unwrap();
        let whole = text.lines().filter(|line| serde_json::from_str::<Line<Event>>(line).is_ok());
        assert_eq!(whole.count(), 6, "{text}");
    }

    #[test]
    fn a_story_cut_at_any_byte_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("story.jsonl");
        let mut pen = Pen::new(Vec::new(), 0);
        (0..3).for_each(|slot| pen.hear(at(0.0), working(slot)));
        let whole = pen.out;
        for end in 0..=whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let (file, length) = open(&path).unwrap();
            Pen::new(file, length).hear(at(1.0), working(9));
            let lines = crate::story::read(&path).unwrap();
            let ended = memchr::memchr_iter(b'\n', &whole[..end]).count();
            // A line is whole too if it lacks nothing but its end.
            assert!((ended + 1..=ended + 2).contains(&lines.len()), "cut at {end}");
            assert_eq!(lines.last().unwrap().event, working(9), "cut at {end}");
            assert_eq!(length, end as u64 + u64::from(end != 0 && whole[end - 1] != b'\n'));
        }
    }
}
