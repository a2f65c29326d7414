//! The story that a run has kept, as far as it can be read.

use crate::event::{Event, Line, VERSION};
use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

/// The lines of a story. A line that was cut off, or that a later version wrote, is left out; a
/// story that isn't there has none.
pub fn read(path: &Path) -> io::Result<Vec<Line<Event>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let (mut file, mut line, mut lines) = (BufReader::new(file), Vec::new(), Vec::new());
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            return Ok(lines);
        }
        let read = serde_json::from_slice::<Line<Event>>(&line);
        lines.extend(read.ok().filter(|line| line.v <= VERSION));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_understood_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("story.jsonl");
        assert_eq!(read(&path).unwrap(), []);
        let text = concat!(
            r#"{"v":1,"at":"2026-11-24T12:00:00Z","event":"ordering"}"#,
            "\n\0\0\0\n",
            r#"{"v":1,"at":"2026-11-24T12:00:00Z","event":"thought_of_later","x":1}"#,
            "\n",
            r#"{"v":2,"at":"2026-11-24T12:00:00Z","event":"ordering"}"#,
            "\n",
            r#"{"v":1,"at":"2026-11-24T12:00:01Z","event":"settling","instances":2,"more":1}"#,
            "\n",
            r#"{"v":1,"at":"2026-11-24T12:0"#,
        );
        std::fs::write(&path, text).unwrap();
        let events: Vec<_> = read(&path).unwrap().into_iter().map(|line| line.event).collect();
        assert_eq!(events, [Event::Ordering, Event::Settling { instances: 2 }]);
    }
}
