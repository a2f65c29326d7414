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
    bytes::{self, quantise_pieces},
    int8,
    kernel::{PANEL, TILE, accumulate},
    loops::{SwiGlu, WidenBf16, WidenF16},
    memory::room,
    panels::Panels,
    quantised::{Format, Quantised},
    simd::vectorized,
    tensor::Tensor,
    tiles::{Intake, Tiles, pack, padded, places},
};
use crate::engine::EngineError;
use half::{bf16, f16};
use rayon::prelude::*;

/// Rows of a panel that are widened at once; they stay in the nearest cache.
const WIDENED: usize = 128;

/// Rows that are gated at once: their products stay in a near cache. A multiple of both heights of a tile.
const GATED: usize = 192;

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
        let rows = self.padded(tiles);
        out.rows = rows;
        if rows == 0 {
            return;
        }
        let panels = self.columns.div_ceil(PANEL);
        let data = room(&mut out.data, panels * rows);
        data.par_chunks_mut(rows)
            .with_min_len(together(panels))
            .enumerate()
            .for_each(|(panel, out)| self.panel(panel, tiles, 0, out));
    }

    /// The product of `tiles` with panels of gates and of what they gate, in turn, gated and packed for a
    /// matrix that takes in `intake`: the products themselves never leave the near caches.
    pub(super) fn gate(&self, tiles: &Tiles, out: &mut Tiles, intake: Intake) {
        (out.rows, out.intake) = (tiles.rows, intake);
        let (rows, depth) = (tiles.rows, intake.depth);
        match intake.zero {
            None => {
                let floats = room(&mut out.floats, padded(rows) * depth);
                let places = places(floats, TILE, depth, PANEL);
                self.gate_into(tiles, TILE, places, |piece, values, place| {
                    let columns = PANEL.min(depth - piece * PANEL);
                    for (row, values) in values.iter().enumerate() {
                        pack(&values[..columns], row, place);
                    }
                });
            }
            Some(zero) => {
                let groups = depth / bytes::GROUP;
                let places = places(out.bytes.room(rows, depth), bytes::TILE, groups, 1);
                self.gate_into(tiles, bytes::TILE, places, |_, values, place| {
                    quantise_pieces(values, zero, place);
                });
            }
        }
    }

    /// Gates, and packs piece by piece what belongs into a tile of `height` rows.
    fn gate_into<T: Send>(
        &self,
        tiles: &Tiles,
        height: usize,
        mut places: Vec<&mut [T]>,
        pack: impl Fn(usize, &[[f32; PANEL]], &mut [T]) + Sync,
    ) {
        let rows = self.padded(tiles);
        let pieces = self.columns.div_ceil(2 * PANEL);
        let scratch = || vec![[0.0; PANEL]; 2 * rows.min(GATED)];
        let places = places.par_chunks_mut(tiles.rows.div_ceil(height).max(1));
        places.with_min_len(together(pieces)).enumerate().for_each_init(
            scratch,
            |scratch, (piece, places)| {
                for (first, places) in (0..).step_by(GATED).zip(places.chunks_mut(GATED / height)) {
                    let count = GATED.min(rows - first);
                    let (gates, values) = scratch[..2 * count].split_at_mut(count);
                    self.panel(2 * piece, tiles, first, gates);
                    self.panel(2 * piece + 1, tiles, first, values);
                    vectorized(SwiGlu { gates, values });
                    let real = &values[..count.min(tiles.rows - first)];
                    for (values, place) in real.chunks(height).zip(places) {
                        pack(piece, values, place);
                    }
                }
            },
        );
    }

    /// One panel of the product, of as many rows from `first` on as `out` has.
    fn panel(&self, panel: usize, tiles: &Tiles, first: usize, out: &mut [[f32; PANEL]]) {
        let range = panel * self.depth * PANEL..(panel + 1) * self.depth * PANEL;
        let floats = || &tiles.floats[first * self.depth..];
        match &self.data {
            Data::F32(data) => {
                out.fill([0.0; PANEL]);
                product(floats(), self.depth, 0, data[range].as_chunks().0, out);
            }
            Data::F16(data) => widened(floats(), self.depth, &data[range], out, |bits, out| {
                vectorized(WidenF16 { bits, out });
            }),
            Data::Bf16(data) => widened(floats(), self.depth, &data[range], out, |bits, out| {
                vectorized(WidenBf16 { bits, out });
            }),
            Data::Quantised(data) => {
                int8::multiply(data.panel(panel), tiles.bytes.from(first), out);
            }
        }
    }

    /// The rows of `tiles`, which must have been filled for these weights, with those that pad them.
    fn padded(&self, tiles: &Tiles) -> usize {
        assert_eq!(tiles.intake, self.intake(), "the tiles are another matrix's");
        match &self.data {
            Data::F32(_) | Data::F16(_) | Data::Bf16(_) => padded(tiles.rows),
            Data::Quantised(_) => bytes::padded(tiles.rows),
        }
    }
}

/// Enough of so many panels to a thread that handing them out costs nothing beside them.
fn together(panels: usize) -> usize {
    (panels / (4 * rayon::current_num_threads())).clamp(1, 16)
}

/// Adds to one panel of a product what the rows of weights from `first` on contribute.
fn product(
    tiles: &[f32],
    depth: usize,
    first: usize,
    weights: &[[f32; PANEL]],
    out: &mut [[f32; PANEL]],
) {
    for (tile, out) in tiles.chunks(TILE * depth).zip(out.chunks_mut(TILE)) {
        let width = out.len();
        accumulate(&tile[first * width..(first + weights.len()) * width], weights, out);
    }
}

fn widened(
    tiles: &[f32],
    depth: usize,
    weights: &[u16],
    out: &mut [[f32; PANEL]],
    widen: impl Fn(&[u16], &mut [f32]),
) {
    out.fill([0.0; PANEL]);
    let mut wide = [[0.0; PANEL]; WIDENED];
    for (chunk, narrow) in weights.chunks(WIDENED * PANEL).enumerate() {
        let wide = &mut wide[..narrow.len() / PANEL];
        widen(narrow, wide.as_flattened_mut());
        product(tiles, depth, chunk * WIDENED, wide, out);
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

    /// The product of gated rows with weights that follow, by plain steps.
    fn gated_plainly(gates: &Matrix, down: &Matrix, tiles: &Tiles) -> Panels {
        let mut product = Panels::default();
        gates.multiply(tiles, &mut product);
        let mut rows: Vec<f32> = (0..tiles.rows)
            .flat_map(|row| {
                let gate = |pair: usize| {
                    let gates = [*product.piece(row, 2 * pair)];
                    let mut values = [*product.piece(row, 2 * pair + 1)];
                    vectorized(SwiGlu { gates: &gates, values: &mut values });
                    values[0]
                };
                let pairs = down.depth.div_ceil(PANEL);
                (0..pairs).flat_map(gate).take(down.depth).collect::<Vec<_>>()
            })
            .collect();
        let (mut packed, mut out) = (Tiles::default(), Panels::default());
        packed.fill(&mut rows, down.depth, down.intake(), |_, source, out| {
            out.copy_from_slice(source);
        });
        down.multiply(&packed, &mut out);
        out
    }

    #[test]
    fn products_gated_on_their_way_are_those_gated_afterwards() {
        // Tiles of bytes are of other heights than those of floats. A width that isn't of whole panels is one of floats.
        for (kept, down_kept, width) in [
            (Kept::Stored, Kept::Stored, 96_usize),
            (Kept::F32, Kept::F32, 72),
            (Kept::F16, Kept::F16, 72),
            (Kept::Stored, Kept::F32, 96),
            (Kept::F32, Kept::Stored, 96),
        ] {
            let pairs = width.div_ceil(PANEL);
            let place = |column: usize| {
                let row = column / PANEL / 2 * PANEL + column % PANEL;
                (row < width).then_some((column / PANEL % 2, row))
            };
            let both = [tensor(GgmlDType::Q8_0, width, 64), tensor(GgmlDType::Q8_0, width, 64)];
            let both = both.each_ref();
            let gates = Matrix::load(kept, 2 * pairs * PANEL, &both, place).unwrap();
            let format = if down_kept == Kept::Stored { GgmlDType::Q4_1 } else { GgmlDType::F32 };
            let down = tensor(format, 40, width);
            let down = Matrix::load(down_kept, 40, &[&down], |column| Some((0, column))).unwrap();
            for count in [1, 7, GATED + 5] {
                let tiles = rows(count, &gates);
                let want = gated_plainly(&gates, &down, &tiles);
                let (mut packed, mut got) = (Tiles::default(), Panels::default());
                gates.gate(&tiles, &mut packed, down.intake());
                down.multiply(&packed, &mut got);
                for (row, panel) in (0..count).flat_map(|row| [(row, 0), (row, 1)]) {
                    let bits = |panels: &Panels| panels.piece(row, panel).map(f32::to_bits);
                    assert_eq!(bits(&got), bits(&want), "{row} of {count}");
                }
            }
        }
    }
}
