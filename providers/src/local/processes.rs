//! The process table: who is alive, who belongs to an instance, and how to end them all.
//!
//! A process belongs to an instance if it carries the instance's stamp in its environment, or
//! descends from the instance's process. The stamp is inherited, so it also finds what called
//! `setsid`, and what outlived an instance that was killed. Only a process that both left the
//! tree and cleared its environment is not found.

use rustix::process::{Pid, Signal, kill_process};
use std::{collections::HashSet, fmt, io, str::FromStr, thread, time::Duration};

#[cfg_attr(target_os = "linux", path = "procfs.rs")]
#[cfg_attr(not(target_os = "linux"), path = "ps.rs")]
mod table;

/// The environment variable that holds the stamp: the name of the instance.
pub(super) const STAMP: &str = "PIECEWORK_INSTANCE";

/// How many looks in a row must find nothing. A process that is just becoming another program shows
/// no environment for a moment, and so no stamp.
const EMPTY_LOOKS: u32 = 3;

/// How often a killed process is looked for again, and how long that takes at most.
const ROUNDS: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(5);

/// A process, told from a later one with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcessId {
    number: i32,
    started: u64,
}

/// A line of the process table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    id: ProcessId,
    parent: i32,
    /// Over, but not yet collected by its parent.
    ended: bool,
}

impl ProcessId {
    /// This process.
    pub(super) fn current() -> io::Result<Self> {
        let number = rustix::process::getpid().as_raw_pid();
        table::entry(number)?.map(|entry| entry.id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether it still runs.
    pub(super) fn is_alive(self) -> io::Result<bool> {
        Ok(table::entry(self.number)?.is_some_and(|entry| entry.id == self && !entry.ended))
    }

    fn kill(self) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.number) else { return Ok(()) };
        match kill_process(pid, Signal::KILL) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.started)
    }
}

impl FromStr for ProcessId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, started) = text.split_once(' ').unwrap_or((text, ""));
        Ok(Self { number: number.parse()?, started: started.parse()? })
    }
}

/// Ends the process `root`, everything that descends from it, and everything stamped with
/// `stamp`, except the caller. Blocks until they are over.
pub(super) fn end_all(stamp: &str, root: Option<ProcessId>) -> io::Result<()> {
    let mut empty = 0;
    for _ in 0..ROUNDS {
        let found = belonging(stamp, root)?;
        empty = if found.is_empty() { empty + 1 } else { 0 };
        if empty == EMPTY_LOOKS {
            return Ok(());
        }
        for id in found {
            id.kill()?;
        }
        // Others' children can't be waited for, only looked for.
        thread::sleep(PAUSE);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "its processes survive being killed"))
}

fn belonging(stamp: &str, root: Option<ProcessId>) -> io::Result<Vec<ProcessId>> {
    let (table, caller) = (table::entries()?, ProcessId::current()?);
    let mut ours = descendants(&table, root);
    ours.extend(table::stamped(&table, stamp)?);
    let living = table.into_iter().filter(|entry| !entry.ended && entry.id != caller);
    Ok(living.map(|entry| entry.id).filter(|id| ours.contains(&id.number)).collect())
}

fn descendants(table: &[Entry], root: Option<ProcessId>) -> HashSet<i32> {
    let root = root.filter(|root| table.iter().any(|entry| entry.id == *root));
    let mut tree: HashSet<i32> = root.into_iter().map(|root| root.number).collect();
    loop {
        let known = tree.len();
        for entry in table {
            if tree.contains(&entry.parent) {
                tree.insert(entry.id.number);
            }
        }
        if tree.len() == known {
            return tree;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn entry(number: i32, parent: i32) -> Entry {
        Entry { id: ProcessId { number, started: 1 }, parent, ended: false }
    }

    #[test]
    fn a_tree_is_followed_in_any_order() {
        let table = [entry(9, 5), entry(5, 3), entry(3, 1), entry(4, 1)];
        let root = Some(ProcessId { number: 3, started: 1 });
        assert_eq!(descendants(&table, root), HashSet::from([3, 5, 9]));
    }

    #[test]
    fn a_recycled_number_is_not_the_same_process() {
        let table = [entry(3, 1), entry(5, 3)];
        let root = Some(ProcessId { number: 3, started: 7 });
        assert!(descendants(&table, root).is_empty());
        let me = ProcessId::current().unwrap();
        assert!(me.is_alive().unwrap());
        assert!(!ProcessId { started: me.started + 1, ..me }.is_alive().unwrap());
    }

    #[test]
    fn a_process_survives_being_written_down() {
        let id = ProcessId { number: 42, started: 1_234_567 };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("42".parse::<ProcessId>().is_err());
    }

    #[test]
    fn stamped_processes_are_ended_and_others_are_not() {
        let stamp = format!("/stamp/{}", std::process::id());
        let sleep = |value: &str| {
            Command::new("sleep").arg("100").env(STAMP, value).spawn().expect("sleep exists")
        };
        let (mut ours, mut other) = (sleep(&stamp), sleep("/stamp/other"));
        end_all(&stamp, None).unwrap();
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
