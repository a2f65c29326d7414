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

/// The numbers of those that were started with this stamp.
///
/// Another user's processes can't be read, and are not ours.
pub(super) fn stamped(_table: &[Entry], stamp: &str) -> io::Result<Vec<i32>> {
    // `-E` shows the environment behind the command.
    let text = ps(&["-A", "-E", "-ww", "-o", "pid=,command="])?;
    let wanted = format!("{STAMP}={stamp}");
    let lines = text.lines().filter_map(|line| line.trim_start().split_once(' '));
    let ours = lines.filter(|(_, words)| words.split(' ').any(|word| word == wanted));
    Ok(ours.filter_map(|(number, _)| number.parse().ok()).collect())
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
