//! Rows of activations, packed for a matrix.

use super::{
    bytes::{self, Bytes, quantise},
    kernel::{TILE, width_for},
    memory::room,
};
use rayon::prelude::*;

/// What a matrix takes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Intake {
    /// Numbers of a row.
    pub(super) depth: usize,
    /// None where the numbers are floats; where they are bytes, the code of the weights that stands
    /// for 0.
    pub(super) zero: Option<i32>,
}

/// Rows of activations, packed into tiles for a matrix.
#[derive(Debug, Default)]
pub(super) struct Tiles {
    /// How many they are.
    pub(super) rows: usize,
    /// What they were packed for.
    pub(super) intake: Intake,
    /// What the matrix takes, and maybe more behind it.
    pub(super) floats: Vec<f32>,
    /// What it takes instead where it takes bytes.
    pub(super) bytes: Bytes,
}

impl Tiles {
    /// Takes a row for each row of `source`, of `stride` floats; `write` makes it and may change
    /// its source. Rows that only pad the last tile are what was there before: nobody reads what comes of
    /// them.
    pub(super) fn fill(
        &mut self,
        source: &mut [f32],
        stride: usize,
        intake: Intake,
        write: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        let (rows, depth) = (source.len() / stride, intake.depth);
        (self.rows, self.intake) = (rows, intake);
        match intake.zero {
            None => {
                let floats = room(&mut self.floats, padded(rows) * depth);
                fill(floats.par_chunks_mut(TILE * depth), source, TILE, stride, depth, write, pack);
            }
            Some(zero) => fill(
                self.bytes.tiles(rows, depth),
                source,
                bytes::TILE,
                stride,
                depth,
                write,
                |values, row, tile| quantise(values, row, zero, tile),
            ),
        }
    }
}

/// Makes the rows of tiles of `height` rows, and packs them.
fn fill<'a, T: Send + 'a>(
    tiles: impl IndexedParallelIterator<Item = &'a mut [T]>,
    source: &mut [f32],
    height: usize,
    stride: usize,
    depth: usize,
    write: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    pack: impl Fn(&[f32], usize, &mut [T]) + Sync,
) {
    tiles.zip(source.par_chunks_mut(height * stride)).enumerate().for_each_init(
        || vec![0.0; depth],
        |scratch, (tile, (packed, source))| {
            for (row, source) in source.chunks_mut(stride).enumerate() {
                write(tile * height + row, source, scratch);
                pack(scratch, row, packed);
            }
        },
    );
}

/// The places in tiles of `height` rows where pieces of `PANEL` numbers go, each as long as `unit` items of
/// the `across` that a row has: the first piece's in all tiles, the second's in all tiles, and so on.
pub(super) fn places<T>(
    data: &mut [T],
    height: usize,
    across: usize,
    unit: usize,
) -> Vec<&mut [T]> {
    let tiles = data.len().div_ceil(height * across);
    let mut places = Vec::new();
    places.resize_with(across.div_ceil(unit) * tiles, Default::default);
    for (tile, data) in data.chunks_mut(height * across).enumerate() {
        let width = data.len() / across;
        for (piece, place) in data.chunks_mut(unit * width).enumerate() {
            places[piece * tiles + tile] = place;
        }
    }
    places
}

/// Rows with those that pad the last tile.
pub(super) fn padded(rows: usize) -> usize {
    rows / TILE * TILE + if rows.is_multiple_of(TILE) { 0 } else { width_for(rows % TILE) }
}

/// Puts a row of floats into a tile.
pub(super) fn pack(values: &[f32], row: usize, tile: &mut [f32]) {
    let width = tile.len() / values.len();
    for (slot, value) in tile[row..].iter_mut().step_by(width).zip(values) {
        *slot = *value;
    }
}
