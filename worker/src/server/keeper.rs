//! The process between the worker and a server: when either ends, so does all that the server
//! has started.
//!
//! The worker starts it in a process group of its own and holds the write end of its standard
//! input. However the worker ends, that end is closed, and the whole group is killed.

use rustix::process::{Signal, kill_current_process_group};
use std::{
    ffi::OsString,
    io::{self, Read as _},
    process::{Command, Stdio},
    thread,
};

/// Runs a program until it or the worker ends, and then ends its process group, and so itself.
///
/// How the program ended is the last line of what it has written to standard error.
pub fn keep(command: &[OsString]) -> io::Result<()> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn()?;
    thread::spawn(|| {
        // Nobody writes; it ends when the worker does.
        drop(io::stdin().read_to_end(&mut Vec::new()));
        end_group();
    });
    let status = child.wait()?;
    say(&format!("the server ended: {status}"));
    end_group();
    Ok(())
}

fn end_group() {
    // It can't fail: there is a group, and this process is in it.
    let _ = kill_current_process_group(Signal::KILL);
}

#[expect(
    clippy::print_stderr,
    reason = "this is a process of its own, and writes to the server's log"
)]
fn say(line: &str) {
    eprintln!("{line}");
}
