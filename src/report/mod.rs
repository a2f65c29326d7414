//! Everything that is said to people and programs. It listens to events, and nothing asks it.
//!
//! Data goes to standard output, all else to standard error; no other module writes to either.

mod account;
mod json;
pub mod offers;
mod page;
mod plain;
mod progress;
mod secret;
mod summary;
mod table;
pub mod words;

pub use account::account;
pub use page::page;
pub use secret::ask_secret;
pub use table::{Cell, Column, Table, Tone};

use crate::{event::Event, leases::Markets, ledger::Books};
use providers::{Label, Provider};
use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};
use tokio::sync::mpsc::UnboundedReceiver;

/// How a run is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Events, one a line, on standard output.
    Json,
    /// Bars on standard error, where that is a terminal, else lines.
    Human,
}

/// Something that tells events.
trait Reporter: Send {
    fn hear(&mut self, event: &Event);
}

/// Tells events until there are no more.
pub async fn tell(style: Style, mut events: UnboundedReceiver<Event>) {
    let mut reporter: Box<dyn Reporter> = match style {
        Style::Json => Box::new(json::Json),
        Style::Human if io::stderr().is_terminal() => Box::new(progress::Bars::new()),
        Style::Human => Box::new(plain::Plain::default()),
    };
    while let Some(event) = events.recv().await {
        reporter.hear(&event);
    }
}

/// A line of data, for whatever standard output is connected to.
pub fn out(line: &str) {
    // Whoever has stopped reading doesn't want it.
    drop(writeln!(io::stdout(), "{line}"));
}

/// A line for people.
pub fn note(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// Something that went wrong and kept nothing from being done.
pub fn warning(line: &str) {
    let word = console::style("warning:").for_stderr().yellow();
    note(&format!("{word} {line}"));
}

/// An error with its causes, and what to do about it.
pub fn error(error: &dyn std::error::Error, hint: Option<&str>) {
    note(&format!("error: {}", crate::leases::describe(error)));
    if let Some(hint) = hint {
        note(&format!("hint: {hint}"));
    }
}

/// Asks a person, who may say yes. Without a terminal nobody does.
pub fn ask(question: &str) -> bool {
    if !io::stdin().is_terminal() {
        return false;
    }
    drop(write!(io::stderr(), "{question} [y/N] "));
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .is_ok_and(|_| matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// The loudest words: what may still be billed, and how to end it.
pub fn owed(labels: &[Label], ledger: &Path, markets: &Markets) {
    let books = Books::read(ledger).ok().flatten().unwrap_or_default();
    note("");
    note("WARNING: something may still be billed:");
    for label in labels {
        let lease = books.lease(label);
        let provider = lease.map_or("?", |lease| lease.terms.provider.as_str());
        let price = lease.map_or_else(|| "?".to_owned(), |lease| lease.terms.price.to_string());
        let id = lease.and_then(|lease| lease.state.id());
        let id = id.map_or_else(|| "id unknown".to_owned(), ToString::to_string);
        let reach = if markets.get(provider).is_some() { "" } else { " (needs its API key)" };
        let console =
            Provider::find(provider).map_or_else(String::new, |p| format!(", {}", p.console));
        note(&format!("  {provider}: {id}, {label}, {price}{reach}{console}"));
    }
    note("end it with: piecework cleanup --yes");
}
