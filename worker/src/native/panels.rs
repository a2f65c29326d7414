//! What comes of a product.

use super::{kernel::PANEL, loops::AddPieces, simd::vectorized};
use std::ops::Range;

/// A product: each row in pieces of [`PANEL`] floats.
#[derive(Debug, Default)]
pub(super) struct Panels {
    /// How many they are, with those that pad them.
    pub(super) rows: usize,
    /// Panel after panel, a piece of each row; and maybe more behind them.
    pub(super) data: Vec<[f32; PANEL]>,
}

impl Panels {
    /// A row's floats in one panel.
    #[inline]
    pub(super) fn piece(&self, row: usize, panel: usize) -> &[f32; PANEL] {
        &self.data[panel * self.rows + row]
    }

    /// Copies some columns of a row.
    pub(super) fn copy(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        let mut column = columns.start;
        let mut out = out;
        while column < columns.end {
            let within = column % PANEL;
            let count = (PANEL - within).min(columns.end - column);
            let (head, tail) = out.split_at_mut(count);
            let piece = self.piece(row, column / PANEL);
            match <&mut [f32; PANEL]>::try_from(&mut *head) {
                // A copy whose length the compiler knows.
                Ok(head) => *head = *piece,
                Err(_) => head.copy_from_slice(&piece[within..within + count]),
            }
            (column, out) = (column + count, tail);
        }
    }

    /// Adds a row's first `out.len()` columns to `out`.
    pub(super) fn add_to(&self, row: usize, out: &mut [f32]) {
        let pieces = self.data[row..].iter().step_by(self.rows.max(1));
        vectorized(AddPieces { pieces, out });
    }
}
