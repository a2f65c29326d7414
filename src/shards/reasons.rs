//! Why prompts failed, counted.

use crate::prompts::Lines;
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    io::{self, BufReader},
    path::Path,
};

/// Reasons that are told apart, at most; and bytes of each.
const REASONS: usize = 200;
const BYTES: usize = 200;

/// What stands for all other reasons.
const OTHERS: &str = "other reasons";

/// A reason, and how many prompts failed for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Whose fault it is, as it stands in the errors file.
    pub failure: String,
    /// Why. Numbers in it are `…`, so that the same reason counts as one.
    pub reason: String,
    /// How many.
    pub prompts: u64,
}

/// Counts the reasons in a file of errors, the most frequent first. In constant memory. A file that
/// isn't there has none.
pub fn reasons(path: &Path) -> io::Result<Vec<Reason>> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        failure: Cow<'a, str>,
        #[serde(borrow)]
        reason: Cow<'a, str>,
    }
    let mut counts: HashMap<(String, String), u64> = HashMap::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut lines = Lines::new(BufReader::new(file), usize::MAX);
    while let Some(line) = lines.next_line()? {
        let Some(bytes) = line.bytes else { continue };
        // A last line may not be whole yet.
        let Ok(Line { failure, reason }) = serde_json::from_slice(bytes) else { continue };
        let key = (failure.into_owned(), alike(&reason));
        let full = REASONS <= counts.len() && !counts.contains_key(&key);
        let key = if full { (key.0, OTHERS.to_owned()) } else { key };
        *counts.entry(key).or_default() += 1;
    }
    let reason = |((failure, reason), prompts)| Reason { failure, reason, prompts };
    let mut reasons: Vec<_> = counts.into_iter().map(reason).collect();
    reasons.sort_by(|a, b| {
        (b.prompts, &a.failure, &a.reason).cmp(&(a.prompts, &b.failure, &b.reason))
    });
    Ok(reasons)
}

/// A reason without its numbers, and not too long.
fn alike(reason: &str) -> String {
    let mut text = String::new();
    let mut number = false;
    for letter in reason.chars() {
        if BYTES < text.len() {
            text.push('…');
            break;
        }
        let digit = letter.is_ascii_digit();
        match (digit, number) {
            (true, true) => {}
            (true, false) => text.push('…'),
            (false, _) => text.push(letter),
        }
        number = digit;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_numbers_are_one_and_there_are_not_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("errors.jsonl");
        assert_eq!(reasons(&path).unwrap(), []);
        let line = |failure: &str, reason: &str| {
            serde_json::json!({ "id": "x", "failure": failure, "reason": reason }).to_string()
        };
        let long = |i: u64| line("too_long", &format!("{} tokens, and 4096 fit", 5000 + i));
        let mut text: Vec<_> = (0..40).map(long).collect();
        text.push(line("bad_line", "it is \"odd\"\n"));
        text.push("{\"torn".to_owned());
        std::fs::write(&path, text.join("\n")).unwrap();
        let found = reasons(&path).unwrap();
        let reason = |failure: &str, reason: &str, prompts| Reason {
            failure: failure.into(),
            reason: reason.into(),
            prompts,
        };
        let expected = [
            reason("too_long", "… tokens, and … fit", 40),
            reason("bad_line", "it is \"odd\"\n", 1),
        ];
        assert_eq!(found, expected);
        let letters = |i: u32| char::from_u32(0x4e00 + i).unwrap().to_string().repeat(900);
        let text: Vec<_> = (0..5000).map(|i| line("engine", &letters(i))).collect();
        std::fs::write(&path, text.join("\n")).unwrap();
        let found = reasons(&path).unwrap();
        assert_eq!((found.len(), found.iter().map(|r| r.prompts).sum()), (REASONS + 1, 5000));
        assert!(found.iter().all(|reason| reason.reason.len() < BYTES + 10));
    }
}
