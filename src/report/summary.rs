//! The last words of a run.

use super::words;
use crate::event::Summary;

/// What a run came to, in a few lines.
pub(super) fn lines(summary: &Summary) -> Vec<String> {
    let mut lines = Vec::new();
    let failed = match summary.failed {
        0 => String::new(),
        failed => format!(", {} failed", words::count(failed)),
    };
    let time = words::seconds(summary.seconds);
    let done = words::count(summary.done);
    if summary.complete {
        lines.push(format!("done: {done} of {}{failed}, in {time}", words::count(summary.total)));
    } else {
        let left = words::count(summary.total.saturating_sub(summary.done + summary.failed));
        lines.push(format!("not finished: {done} done{failed}, {left} left, after {time}"));
    }
    lines.push(format!(
        "tokens: {} in, {} out, {}/s",
        words::count(summary.tokens_in),
        words::count(summary.tokens_out),
        words::rate(summary.tokens_per_second)
    ));
    lines.push(format!("cost: {}", summary.cost));
    if let Some(path) = &summary.completions {
        lines.push(format!("completions: {}", path.display()));
    }
    if let Some(path) = &summary.errors {
        lines.push(format!("errors: {}", path.display()));
    }
    if !summary.complete {
        lines.push(format!("go on with: piecework resume {}", summary.run));
    }
    lines.push(format!("what it did: piecework report {}", summary.run));
    if summary.owed.is_empty() {
        lines.push("nothing is left running".to_owned());
    }
    lines
}
