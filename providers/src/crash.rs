//! Places at which a test ends the program, as a power cut would.
//!
//! Debug builds obey `PIECEWORK_CRASH`; release builds know nothing of it:
//!
//! ```text
//! abort:7     the process is gone at the seventh place that it passes, with no word to anybody
//! panic:7     the task that passes it panics there
//! note:FILE   the name of each place that is passed is added to the file
//! talk        a conversation with a worker panics, and shows all that it knows
//! ```

#[cfg(debug_assertions)]
use std::sync::{
    LazyLock,
    atomic::{AtomicUsize, Ordering},
};

/// The environment variable.
pub const VARIABLE: &str = "PIECEWORK_CRASH";

/// What is to happen.
#[cfg(debug_assertions)]
enum Wish {
    Nothing,
    Abort(usize),
    Panic(usize),
    Note(std::path::PathBuf),
}

#[cfg(debug_assertions)]
static WISH: LazyLock<Wish> = LazyLock::new(|| {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    let number = |count: &str| count.parse().expect("PIECEWORK_CRASH names the place by number");
    match text.split_once(':') {
        Some(("abort", count)) => Wish::Abort(number(count)),
        Some(("panic", count)) => Wish::Panic(number(count)),
        Some(("note", file)) => Wish::Note(file.into()),
        _ => Wish::Nothing,
    }
});

#[cfg(debug_assertions)]
static PASSED: AtomicUsize = AtomicUsize::new(0);

/// Passes a place.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::io::Write;
    let passed = || PASSED.fetch_add(1, Ordering::SeqCst) + 1;
    match &*WISH {
        Wish::Abort(count) if passed() == *count => std::process::abort(),
        Wish::Panic(count) if passed() == *count => panic!("as PIECEWORK_CRASH asks, at {name}"),
        Wish::Nothing | Wish::Abort(_) | Wish::Panic(_) => {}
        Wish::Note(path) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            // Whoever asked for the names sees that one is missing.
            drop(file.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes())));
        }
    }
}

/// Passes a place.
#[cfg(not(debug_assertions))]
pub fn point(_: &str) {}

/// Whether the environment asks for this.
pub fn is_asked(what: &str) -> bool {
    cfg!(debug_assertions) && std::env::var_os(VARIABLE).is_some_and(|asked| asked == what)
}
