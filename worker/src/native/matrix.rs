//! Products of activations with weights.
//!
//! ```text
//! Tiles (rows of activations) × Matrix (panels of columns) → Panels (rows, in pieces of 32 floats)
//! ```
//!
//! Weights are packed into panels once, when they are loaded. Work is shared out by panel, so one
//! row of a single prompt occupies all threads as hundreds do. Weights that stay quantised multiply
//! activations of bytes, others multiply floats. A row's result does not depend on the rows
//! beside it either way: see [`int8`] and [`kernel`](super::kernel).

use super::{
    int8::{self, Bytes, quantise},
    kernel::{PANEL, TILE, accumulate, width_for},
    loops::{WidenBf16, WidenF16},
    memory::room,
    quantised::{Format, Quantised},
    simd::vectorized,
    tensor::Tensor,
};
use crate::engine::EngineError;
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a panel that are widened at once; they stay in the nearest cache.
const WIDENED: usize = 128;

/// What a matrix takes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Intake {
    /// Numbers of a row.
    depth: usize,
    /// None where the numbers are floats; where they are bytes, the code of the weights that stands
    /// for 0.
    zero: Option<i32>,
}

/// Rows of activations, packed into tiles for a matrix.
#[derive(Debug, Default)]
pub(super) struct Tiles {
    rows: usize,
    intake: Intake,
    /// What the matrix takes, and maybe more behind it.
    floats: Vec<f32>,
    /// What it takes instead where it takes bytes.
    bytes: Bytes,
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
                int8::TILE,
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

/// Rows with those that pad the last tile.
fn padded(rows: usize) -> usize {
    rows / TILE * TILE + if rows.is_multiple_of(TILE) { 0 } else { width_for(rows % TILE) }
}

fn pack(values: &[f32], row: usize, tile: &mut [f32]) {
    let width = tile.len() / values.len();
    for (slot, value) in tile[row..].iter_mut().step_by(width).zip(values) {
        *slot = *value;
    }
}

/// A product: each row in pieces of [`PANEL`] floats.
#[derive(Debug, Default)]
pub(super) struct Panels {
    rows: usize,
    /// The product, and maybe more behind it.
    data: Vec<[f32; PANEL]>,
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
            head.copy_from_slice(&self.piece(row, column / PANEL)[within..within + count]);
            (column, out) = (column + count, tail);
        }
    }

    /// Adds a row's first `out.len()` columns to `out`.
    pub(super) fn add_to(&self, row: usize, out: &mut [f32]) {
        for (panel, out) in out.chunks_mut(PANEL).enumerate() {
            for (out, value) in out.iter_mut().zip(self.piece(row, panel)) {
                *out += value;
            }
        }
    }
}

/// The numbers that weights are kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// As the file has them, where it has small integers; else 32 bits.
    Stored,
    /// 32 bits.
    F32,
    /// IEEE 754's 16 bits.
    F16,
    /// The upper 16 bits of 32.
    Bf16,
}

/// Panel after panel; in each, a row of [`PANEL`] numbers for each input.
#[derive(Debug)]
enum Data {
    F32(Vec<f32>),
    /// The bits of 16-bit floats.
    F16(Vec<u16>),
    /// The bits of 16-bit floats.
    Bf16(Vec<u16>),
    Quantised(Quantised),
}

/// Weights: `columns` outputs, each a sum over `depth` inputs.
#[derive(Debug)]
pub(super) struct Matrix {
    columns: usize,
    depth: usize,
    data: Data,
}

impl Matrix {
    /// Reads and packs weights: column `c` is row `row` of `tensors[tensor]` where `place(c)`
    /// is `Some((tensor, row))`, and zero where it is None.
    pub(super) fn load(
        kept: Kept,
        columns: usize,
        tensors: &[&Tensor],
        place: impl Fn(usize) -> Option<(usize, usize)> + Sync,
    ) -> Result<Self, EngineError> {
        let depth = tensors[0].width();
        let place = |column| if column < columns { place(column) } else { None };
        let stored = Format::of(tensors).filter(|_| kept == Kept::Stored);
        if let Some(format) = stored {
            let data = Data::Quantised(Quantised::load(format, columns, tensors, place)?);
            return Ok(Self { columns, depth, data });
        }
        let data = match kept {
            Kept::Stored | Kept::F32 => {
                Data::F32(panels(columns, depth, tensors, place, |value| value)?)
            }
            Kept::F16 => Data::F16(panels(columns, depth, tensors, place, |value| {
                f16::from_f32(value).to_bits()
            })?),
            Kept::Bf16 => Data::Bf16(panels(columns, depth, tensors, place, |value| {
                bf16::from_f32(value).to_bits()
            })?),
        };
        Ok(Self { columns, depth, data })
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = match &self.data {
            Data::F32(data) => size_of_val(data.as_slice()),
            Data::F16(data) | Data::Bf16(data) => size_of_val(data.as_slice()),
            Data::Quantised(data) => data.bytes(),
        };
        bytes as u64
    }

    /// What the numbers are kept as, for people.
    pub(super) fn kind(&self) -> &'static str {
        match &self.data {
            Data::F32(_) => "f32",
            Data::F16(_) => "f16",
            Data::Bf16(_) => "bf16",
            Data::Quantised(data) => data.format().name(),
        }
    }

    /// Copies the weights of one column.
    pub(super) fn column(&self, column: usize, out: &mut [f32]) {
        assert!(column < self.columns, "column {column} of {}", self.columns);
        if let Data::Quantised(data) = &self.data {
            data.column(column, out);
            return;
        }
        let first = column / PANEL * self.depth * PANEL + column % PANEL;
        let places = (first..).step_by(PANEL);
        for (out, place) in out.iter_mut().zip(places) {
            *out = match &self.data {
                Data::F32(data) => data[place],
                Data::F16(data) => f16::from_bits(data[place]).to_f32(),
                Data::Bf16(data) => bf16::from_bits(data[place]).to_f32(),
                Data::Quantised(_) => unreachable!("it was dealt with above"),
            };
        }
    }

    /// What it takes in.
    pub(super) fn intake(&self) -> Intake {
        let zero = match &self.data {
            Data::F32(_) | Data::F16(_) | Data::Bf16(_) => None,
            Data::Quantised(data) => Some(data.format().zero().into()),
        };
        Intake { depth: self.depth, zero }
    }

    /// The product of `tiles`, filled for these weights, with them.
    pub(super) fn multiply(&self, tiles: &Tiles, out: &mut Panels) {
        assert_eq!(tiles.intake, self.intake(), "the tiles are another matrix's");
        let rows = match &self.data {
            Data::F32(_) | Data::F16(_) | Data::Bf16(_) => padded(tiles.rows),
            Data::Quantised(_) => int8::padded(tiles.rows),
        };
        out.rows = rows;
        if rows == 0 {
            return;
        }
        let panels = self.columns.div_ceil(PANEL);
        let data = room(&mut out.data, panels * rows);
        // Enough panels to a thread that handing them out costs nothing beside them.
        let together = (panels / (4 * rayon::current_num_threads())).clamp(1, 16);
        data.par_chunks_mut(rows).with_min_len(together).enumerate().for_each(|(panel, out)| {
            let range = panel * self.depth * PANEL..(panel + 1) * self.depth * PANEL;
            match &self.data {
                Data::F32(data) => {
                    out.fill([0.0; PANEL]);
                    product(tiles, 0, data[range].as_chunks().0, out);
                }
                Data::F16(data) => widened(tiles, &data[range], out, |bits, out| {
                    vectorized(WidenF16 { bits, out });
                }),
                Data::Bf16(data) => widened(tiles, &data[range], out, |bits, out| {
                    vectorized(WidenBf16 { bits, out });
                }),
                Data::Quantised(data) => int8::multiply(data.panel(panel), &tiles.bytes, out),
            }
        });
    }
}

/// Adds to one panel of a product what the rows of weights from `first` on contribute.
fn product(tiles: &Tiles, first: usize, weights: &[[f32; PANEL]], out: &mut [[f32; PANEL]]) {
    let tiles = tiles.floats.chunks(TILE * tiles.intake.depth);
    for (tile, out) in tiles.zip(out.chunks_mut(TILE)) {
        let width = out.len();
        accumulate(&tile[first * width..(first + weights.len()) * width], weights, out);
    }
}

fn widened(
    tiles: &Tiles,
    weights: &[u16],
    out: &mut [[f32; PANEL]],
    widen: impl Fn(&[u16], &mut [f32]),
) {
    out.fill([0.0; PANEL]);
    let mut wide = [[0.0; PANEL]; WIDENED];
    for (chunk, narrow) in weights.chunks(WIDENED * PANEL).enumerate() {
        let wide = &mut wide[..narrow.len() / PANEL];
        widen(narrow, wide.as_flattened_mut());
        product(tiles, chunk * WIDENED, wide, out);
    }
}

fn panels<T: Copy + Default + Send>(
    columns: usize,
    depth: usize,
    tensors: &[&Tensor],
    place: impl Fn(usize) -> Option<(usize, usize)> + Sync,
    narrow: impl Fn(f32) -> T + Sync,
) -> Result<Vec<T>, EngineError> {
    let mut data = vec![T::default(); columns.div_ceil(PANEL) * depth * PANEL];
    data.par_chunks_mut(depth * PANEL).enumerate().try_for_each_init(
        || vec![0.0; PANEL * depth],
        |scratch, (panel, packed)| {
            let mut column = 0;
            while column < PANEL {
                let Some((tensor, row)) = place(panel * PANEL + column) else {
                    column += 1;
                    continue;
                };
                // Neighbours in the file are read at once.
                let follows =
                    |run: &usize| place(panel * PANEL + column + run) == Some((tensor, row + run));
                let run = 1 + (1..PANEL - column).take_while(follows).count();
                let values = &mut scratch[..run * depth];
                tensors[tensor].read(row, values)?;
                for (offset, values) in values.chunks(depth).enumerate() {
                    let (packed, _) = packed.as_chunks_mut::<PANEL>();
                    for (packed, value) in packed.iter_mut().zip(values) {
                        packed[column + offset] = narrow(*value);
                    }
                }
                column += run;
            }
            Ok(())
        },
    )?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{
        Device,
        quantized::{GgmlDType, QTensor},
    };
    use std::{io::Write as _, sync::Arc};

    /// Numbers without a pattern, in a file and a format.
    fn tensor(format: GgmlDType, rows: usize, depth: usize) -> Tensor {
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        });
        let values: Vec<f32> = noise.take(rows * depth).collect();
        let values = candle_core::Tensor::from_vec(values, (rows, depth), &Device::Cpu).unwrap();
        let quantised = QTensor::quantize(&values, format).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&quantised.data().unwrap()).unwrap();
        Tensor {
            name: "noise".to_owned(),
            file: Arc::new(file),
            offset: 0,
            format,
            shape: vec![rows, depth],
            paired: Some(8),
        }
    }

    /// Rows without a pattern, of about 1.
    fn rows(rows: usize, matrix: &Matrix) -> Tiles {
        let depth = matrix.depth;
        let mut values: Vec<f32> = (0..rows * depth).map(|index| (index as f32).sin()).collect();
        let mut tiles = Tiles::default();
        tiles.fill(&mut values, depth, matrix.intake(), |_, source, out| {
            out.copy_from_slice(source);
        });
        tiles
    }

    #[test]
    fn weights_that_stay_quantised_are_those_read_as_floats_and_multiply_bytes() {
        let (columns, depth) = (40, 160);
        for (format, bits) in [(GgmlDType::Q8_0, 9), (GgmlDType::Q4_0, 5), (GgmlDType::Q4_1, 5)] {
            let tensor = tensor(format, columns, depth);
            let load =
                |kept| Matrix::load(kept, columns, &[&tensor], |column| Some((0, column))).unwrap();
            let (stored, plain) = (load(Kept::Stored), load(Kept::F32));
            assert_ne!(stored.kind(), plain.kind());
            assert!(stored.bytes() <= (columns.next_multiple_of(PANEL) * depth * bits / 8) as u64);
            let (mut got, mut want) = (vec![0.0; depth], vec![0.0; depth]);
            for column in 0..columns {
                stored.column(column, &mut got);
                plain.column(column, &mut want);
                assert_eq!(got, want, "{format:?}, column {column}");
            }
            for count in [1, 3, 30] {
                let (mut got, mut want) = (Panels::default(), Panels::default());
                stored.multiply(&rows(count, &stored), &mut got);
                plain.multiply(&rows(count, &plain), &mut want);
                // A byte is off by half of 1/127 at most, evenly spread: a deviation of 1/(127 √12) for
                // each of 160 products with weights of a deviation of 1/√3 gives 0.017.
                for (row, column) in (0..count).flat_map(|row| (0..columns).map(move |c| (row, c)))
                {
                    let at = |panels: &Panels| panels.piece(row, column / PANEL)[column % PANEL];
                    let (got, want) = (at(&got), at(&want));
                    assert!((got - want).abs() < 0.1, "{format:?}: {got} and {want}");
                }
            }
        }
    }
}
