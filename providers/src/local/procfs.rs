//! The process table as Linux shows it, under `/proc`.

use super::{Entry, ProcessId, STAMP};
use std::{fs, io};

/// The process with this number, if there is one.
pub(super) fn entry(number: i32) -> io::Result<Option<Entry>> {
    match fs::read_to_string(format!("/proc/{number}/stat")) {
        Ok(text) => parse(&text).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every process.
pub(super) fn entries() -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for folder in fs::read_dir("/proc")? {
        let name = folder?.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.parse().ok()) {
            found.extend(entry(number)?);
        }
    }
    Ok(found)
}

/// The numbers of those that were started with this stamp.
///
/// Another user's processes can't be read, and are not ours.
#[expect(clippy::unnecessary_wraps, reason = "other systems can fail to tell")]
pub(super) fn stamped(table: &[Entry], stamp: &str) -> io::Result<Vec<i32>> {
    let wanted = format!("{STAMP}={stamp}");
    let is_stamped = |number: &i32| {
        fs::read(format!("/proc/{number}/environ"))
            .is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes()))
    };
    Ok(table.iter().map(|entry| entry.id.number).filter(is_stamped).collect())
}

fn is_gone(error: &io::Error) -> bool {
    // A process that ends between opening and reading says "no such process".
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// See `proc_pid_stat(5)`: number, name in brackets, state, parent, …; the 22nd is the start time.
fn parse(text: &str) -> Option<Entry> {
    let number = text.split(' ').next()?.parse().ok()?;
    // A process may have brackets and blanks in its name.
    let mut rest = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let ended = matches!(rest.next()?, "Z" | "X");
    let parent = rest.next()?.parse().ok()?;
    let started = rest.nth(17)?.parse().ok()?;
    Some(Entry { id: ProcessId { number, started }, parent, ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_is_no_trouble() {
        let text = "77 (a) b) Z 1 77 77 0 -1 4 5 6 7 8 9 10 11 12 20 0 1 0 4321 0 0";
        let id = ProcessId { number: 77, started: 4321 };
        assert_eq!(parse(text), Some(Entry { id, parent: 1, ended: true }));
        assert_eq!(parse("77 (a) S 1"), None);
    }
}
