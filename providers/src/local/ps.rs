//! The process table as `ps` shows it, where there is no `/proc`.

use super::{Entry, ProcessId, STAMP};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    process::Command,
};

const COLUMNS: &str = "pid=,ppid=,stat=,lstart=";

/// The process with this number, if there is one.
pub(super) fn entry(number: i32) -> io::Result<Option<Entry>> {
    let text = ps(&["-o", COLUMNS, "-p", &number.to_string()])?;
    Ok(text.lines().next().and_then(parse))
}

/// Every process.
pub(super) fn entries() -> io::Result<Vec<Entry>> {
    Ok(ps(&["-A", "-o", COLUMNS])?.lines().filter_map(parse).collect())
}

/// Whether a process was started with this stamp. Another user's can't be read, and isn't ours.
pub(super) fn is_stamped(number: i32, stamp: &str) -> bool {
    let wanted = format!("{STAMP}={stamp}");
    ps(&["-E", "-ww", "-o", "command=", "-p", &number.to_string()])
        .is_ok_and(|text| text.split_ascii_whitespace().any(|word| word == wanted))
}

fn ps(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("ps").args(arguments).env("LC_ALL", "C").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The start time is a date in words; all that counts is whether it is the same.
fn parse(line: &str) -> Option<Entry> {
    let mut words = line.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let parent = words.next()?.parse().ok()?;
    let ended = words.next()?.starts_with('Z');
    let mut date = DefaultHasher::new();
    words.collect::<Vec<_>>().hash(&mut date);
    Some(Entry { id: ProcessId { number, started: date.finish() }, parent, ended })
}
