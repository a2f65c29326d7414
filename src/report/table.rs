//! Tables: aligned columns, as wide as they need to be and no wider than the terminal.

use super::out;
use console::{StyledObject, Term, measure_text_width, style, truncate_str};

/// What a cell is to the reader. Only terminals show it, as a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// One of many.
    #[default]
    Plain,
    /// What was looked for.
    Good,
    /// What to be careful about.
    Careful,
    /// Of less weight.
    Faint,
}

/// A cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell of this tone.
    pub fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    heading: &'static str,
    right: bool,
    /// The column with the highest goes first where there isn't room for all. Zero never goes.
    spare: u8,
}

impl Column {
    /// A column of words.
    pub const fn words(heading: &'static str) -> Self {
        Self { heading, right: false, spare: 0 }
    }

    /// A column of numbers, which end below each other.
    pub const fn numbers(heading: &'static str) -> Self {
        Self { heading, right: true, spare: 0 }
    }

    /// May go where there isn't room for all: the highest first.
    #[must_use]
    pub const fn spare(self, spare: u8) -> Self {
        Self { spare, ..self }
    }
}

/// A table of text.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table of words with these headings.
    pub fn new(headings: &[&'static str]) -> Self {
        Self::with(headings.iter().copied().map(Column::words))
    }

    /// A table of these columns.
    pub fn with(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Prints it on standard output.
    pub fn print(&self) {
        let width = Term::stdout().size_checked().map(|(_, width)| usize::from(width));
        for line in self.lines(width) {
            out(&line);
        }
    }

    fn lines(&self, limit: Option<usize>) -> Vec<String> {
        let widths: Vec<usize> = (0..self.columns.len()).map(|at| self.width(at)).collect();
        let shown = room(&self.columns, &widths, limit.unwrap_or(usize::MAX));
        let headings = self.columns.iter().map(|column| Cell::new(column.heading, Tone::Faint));
        let headings: Vec<Cell> = headings.collect();
        let line = |cells: &Vec<Cell>| {
            let last = shown.last().copied();
            let padded = shown.iter().map(|&at| {
                let cell = cells.get(at).cloned().unwrap_or_default();
                pad(&cell, widths[at], self.columns[at].right, Some(at) == last)
            });
            let line = padded.collect::<Vec<_>>().join("  ");
            let line = line.trim_end();
            limit.map_or(line.into(), |limit| truncate_str(line, limit, "…")).into_owned()
        };
        [&headings].into_iter().chain(&self.rows).map(line).collect()
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| measure_text_width(&cell.text)).max().unwrap_or(0);
        widest.max(measure_text_width(self.columns[column].heading))
    }
}

/// The columns that there is room for.
fn room(columns: &[Column], widths: &[usize], limit: usize) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let wide = |shown: &[usize]| shown.iter().map(|&at| widths[at] + 2).sum::<usize>();
    while limit.saturating_add(2) < wide(&shown) {
        let spare = shown.iter().enumerate().max_by_key(|(_, at)| columns[**at].spare);
        match spare {
            Some((place, &at)) if 0 < columns[at].spare => shown.remove(place),
            _ => break,
        };
    }
    shown
}

fn pad(cell: &Cell, width: usize, right: bool, last: bool) -> String {
    let gap = " ".repeat(width.saturating_sub(measure_text_width(&cell.text)));
    let text = painted(&cell.text, cell.tone);
    match (right, last) {
        (true, _) => format!("{gap}{text}"),
        (false, true) => text.to_string(),
        (false, false) => format!("{text}{gap}"),
    }
}

fn painted(text: &str, tone: Tone) -> StyledObject<&str> {
    match tone {
        Tone::Plain => style(text),
        Tone::Good => style(text).green(),
        Tone::Careful => style(text).yellow(),
        Tone::Faint => style(text).dim(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let spare = [Column::words("region").spare(1), Column::words("host").spare(2)];
        let columns = [Column::numbers("price"), Column::words("name")];
        let mut table = Table::with(columns.into_iter().chain(spare));
        for row in [["$1", "a long one", "Sweden", "verified"], ["$20", "b", "US", "unverified"]] {
            table.row(row.map(str::to_owned));
        }
        table
    }

    #[test]
    fn columns_stand_below_each_other_and_numbers_end_there() {
        assert_eq!(
            table().lines(None),
            [
                "price  name        region  host",
                "   $1  a long one  Sweden  verified",
                "  $20  b           US      unverified",
            ]
        );
    }

    #[test]
    fn columns_that_can_be_spared_go_where_there_is_no_room() {
        let first = |limit| table().lines(Some(limit))[1].clone();
        assert_eq!(first(37), "   $1  a long one  Sweden  verified");
        assert_eq!(first(36), "   $1  a long one  Sweden");
        assert_eq!(first(24), "   $1  a long one");
        assert_eq!(first(10), "   $1  a …", "what can't be spared is cut");
    }
}
