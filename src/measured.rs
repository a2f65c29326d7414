//! Speeds of earlier runs: `measured.jsonl` in piecework's home, a line for each machine that
//! worked long enough to tell.
//!
//! They are hints that plans are made by. A file that can't be read is as good as none, and so is a
//! line that can't, or whose speed no machine has.

use crate::{
    cost::Measurement,
    event::{Line, VERSION},
};
use jiff::Timestamp;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    ops::RangeInclusive,
    path::Path,
};

/// The file's name.
const FILE: &str = "measured.jsonl";

/// Lines that count: the latest. Others are dropped once there are twice as many.
const LATEST: usize = 1_000;

/// Factors that count. A machine that is so much slower or faster than modelled was not measured: a
/// line was damaged, or written by hand. When a run ends is reckoned by them, and so is what it
/// may cost, and no single line may move that by a hundred times.
const SOUND: RangeInclusive<f64> = 0.05..=20.0;

/// The speeds that earlier runs have left in this home, the oldest first.
pub fn read(home: &Path) -> Vec<Measurement> {
    lines(home).into_iter().map(|line| line.event).collect()
}

/// Adds to them.
pub fn keep(home: &Path, at: Timestamp, new: &[Measurement]) -> io::Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let path = home.join(FILE);
    let line = |event: &Measurement| text(&Line { v: VERSION, at, event: event.clone() });
    // In one piece, for other programs add to it too. The first line ends what may be torn.
    let torn = fs::read(&path).is_ok_and(|text| text.last().is_some_and(|last| *last != b'\n'));
    let start = if torn { "\n" } else { "" };
    let text = new.iter().map(line).fold(start.to_owned(), |text, line| text + &line);
    OpenOptions::new().create(true).append(true).open(&path)?.write_all(text.as_bytes())?;
    shorten(home)
}

/// Drops the oldest lines of a file that has grown long. One that is added meanwhile is lost.
fn shorten(home: &Path) -> io::Result<()> {
    let path = home.join(FILE);
    if fs::read(&path)?.split(|byte| *byte == b'\n').count() <= 2 * LATEST {
        return Ok(());
    }
    let kept = lines(home).iter().map(text).collect::<String>();
    let mut draft = tempfile::NamedTempFile::new_in(home)?;
    draft.write_all(kept.as_bytes())?;
    draft.persist(&path)?;
    Ok(())
}

fn lines(home: &Path) -> Vec<Line<Measurement>> {
    let text = fs::read(home.join(FILE)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let read = |line| serde_json::from_str::<Line<Measurement>>(line).ok();
    let is_sound =
        |line: &Line<Measurement>| line.v <= VERSION && SOUND.contains(&line.event.factor);
    let mut lines: Vec<_> = text.lines().filter_map(read).filter(is_sound).collect();
    lines.drain(..lines.len().saturating_sub(LATEST));
    lines
}

fn text(line: &Line<Measurement>) -> String {
    let mut text = serde_json::to_string(line).expect("it has only plain values");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Weights;

    fn measured(factor: f64) -> Measurement {
        Measurement {
            engine: "vllm".into(),
            model: "Llama-3.1-8B-Instruct".into(),
            gpu: "RTX 4090".into(),
            split: 1,
            weights: Weights::Fp8,
            factor,
        }
    }

    fn factors(home: &Path) -> Vec<f64> {
        read(home).iter().map(|measured| measured.factor).collect()
    }

    #[test]
    fn what_is_kept_is_read_again_and_what_is_torn_or_absurd_is_left_out() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(read(home.path()), []);
        keep(home.path(), Timestamp::UNIX_EPOCH, &[measured(0.5), measured(0.0)]).unwrap();
        let path = home.path().join(FILE);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"v\":1,\"at\":\"1970-01-01T00:00:00Z\",\"eng").unwrap();
        keep(home.path(), Timestamp::UNIX_EPOCH, &[measured(1.5)]).unwrap();
        assert_eq!(factors(home.path()), [0.5, 1.5]);
        let text = fs::read_to_string(&path).unwrap();
        insta::assert_snapshot!(
            text.lines().next().unwrap(),
            @r#"{"v":1,"at":"1970-01-01T00:00:00Z","engine":"vllm","model":"Llama-3.1-8B-Instruct","gpu":"RTX 4090","split":1,"weights":"fp8","factor":0.5}"#
        );
    }

    #[test]
    fn a_factor_that_no_machine_has_moves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let all = [1e-300, 1e-2, 0.049, 0.05, 1.0, 20.0, 20.1, 1e300, -1.0, f64::MIN_POSITIVE];
        keep(home.path(), Timestamp::UNIX_EPOCH, &all.map(measured)).unwrap();
        assert_eq!(factors(home.path()), [0.05, 1.0, 20.0]);
    }

    #[test]
    fn the_latest_are_kept() {
        let home = tempfile::tempdir().unwrap();
        let factor = |number: usize| 1.0 + number as f64 / 1_000.0;
        let all: Vec<_> = (1..=2 * LATEST).map(|number| measured(factor(number))).collect();
        for some in all.chunks(600) {
            keep(home.path(), Timestamp::UNIX_EPOCH, some).unwrap();
        }
        let kept = factors(home.path());
        assert_eq!((kept[0], kept.len()), (factor(1_001), LATEST));
        let lines = fs::read_to_string(home.path().join(FILE)).unwrap().lines().count();
        assert_eq!(lines, LATEST);
    }
}
