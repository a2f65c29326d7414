//! The watchdog of a rented machine, as far as the worker has to do with it.
//!
//! It is a shell script that the machine was started with, and that ends the machine's rental when
//! its time is over or nobody has asked for it for a while. The worker passes on what the
//! controller says: that it is alive, and how long the machine may go on.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Where the watchdog looks. There is none where this folder isn't.
pub const FOLDER: &str = "/run/piecework";

/// Tells the watchdog in `folder` that somebody needs this machine, and may keep it for `left` from
/// now, by this machine's own clock.
pub fn renew(folder: &Path, left: Duration) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    put(folder, "deadline", &(now + left).as_secs().to_string())?;
    // Any change will do.
    put(folder, "heartbeat", &now.as_nanos().to_string())
}

/// Whole or not at all: the watchdog must not take half a number for a time that is over.
fn put(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let draft = folder.join(format!("{name}.draft"));
    fs::write(&draft, text)?;
    fs::rename(draft, folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_moves_the_deadline_and_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |name| fs::read_to_string(folder.path().join(name)).expect("it is there");
        renew(folder.path(), Duration::from_mins(1)).expect("it can be written");
        let (deadline, beat): (u64, String) =
            (read("deadline").parse().unwrap(), read("heartbeat"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
        assert!((now + 55..=now + 60).contains(&deadline), "{deadline} at {now}");
        renew(folder.path(), Duration::ZERO).expect("it can be written");
        assert!(read("deadline").parse::<u64>().unwrap() <= deadline - 55);
        assert_ne!(read("heartbeat"), beat);
    }

    #[test]
    fn a_machine_without_a_watchdog_has_nothing_to_renew() {
        let folder = tempfile::tempdir().expect("a folder");
        renew(&folder.path().join("none"), Duration::ZERO).expect("there is nothing to do");
    }
}
