//! Asks for what nobody else may see.

use secrecy::SecretString;
use std::io::{self, BufRead, IsTerminal, Write};

/// Asks a person for a secret, which isn't shown while it is typed. Without a terminal it is the
/// next line of standard input.
pub fn ask_secret(question: &str) -> io::Result<SecretString> {
    let input = io::stdin();
    let mut line = String::new();
    if input.is_terminal() {
        // Before the question is seen, so that nothing is typed that shows.
        let hidden = Hidden::new()?;
        write!(io::stderr(), "{question}: ")?;
        input.lock().read_line(&mut line)?;
        drop(hidden);
        writeln!(io::stderr())?;
    } else {
        input.lock().read_line(&mut line)?;
    }
    Ok(line.trim().to_owned().into())
}

/// While it lives, the terminal doesn't show what is typed.
#[cfg(unix)]
struct Hidden(rustix::termios::Termios);

#[cfg(unix)]
impl Hidden {
    fn new() -> io::Result<Self> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO;
        tcsetattr(io::stdin(), OptionalActions::Now, &silent)?;
        Ok(Self(before))
    }
}

#[cfg(unix)]
impl Drop for Hidden {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
