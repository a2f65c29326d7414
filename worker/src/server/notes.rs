//! Notes on what happened to servers, for those who want to know afterwards.

use std::{fs::OpenOptions, io::Write as _};

/// The file, in the worker's folder.
const FILE: &str = "servers.log";

/// Adds a line on the server of this number.
pub(super) fn note(number: usize, line: &str) {
    let file = OpenOptions::new().create(true).append(true).open(FILE);
    // Notes are no reason to stop working.
    drop(file.and_then(|mut file| writeln!(file, "server {number}: {line}")));
}
