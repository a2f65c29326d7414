//! Weights that stay as small as the file has them: integers, with a scale for each
//! [`GROUP`] inputs of a column, and with an offset in some formats.
//!
//! A panel is widened a few rows at a time, while it lies in the nearest cache, to exactly the floats
//! that reading the file as floats gives. So nothing is lost against that, and what a row yields
//! doesn't depend on the rows beside it.

#![expect(clippy::inline_always, reason = "only inlined is a loop compiled for the processor")]

use super::{
    kernel::PANEL,
    loops::WidenF16,
    simd::{Loop, vectorized},
    tensor::Tensor,
};
use crate::engine::EngineError;
use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

/// Inputs that share a scale.
pub(super) const GROUP: usize = 32;

/// A format of llama.cpp's that can stay as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// 8 bits with a scale.
    Q8_0,
    /// 4 bits from -8 on, with a scale.
    Q4_0,
    /// 4 bits with a scale and an offset.
    Q4_1,
}

impl Format {
    /// The format that all these tensors have, if it can stay.
    pub(super) fn of(tensors: &[&Tensor]) -> Option<Self> {
        let format = tensors.first()?.format;
        let same = tensors.iter().all(|tensor| tensor.format == format);
        if !same || !tensors[0].width().is_multiple_of(GROUP) {
            return None;
        }
        [
            (GgmlDType::Q8_0, Self::Q8_0),
            (GgmlDType::Q4_0, Self::Q4_0),
            (GgmlDType::Q4_1, Self::Q4_1),
        ]
        .into_iter()
        .find_map(|(theirs, ours)| (theirs == format).then_some(ours))
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
        }
    }

    /// Bytes of a group's integers.
    fn code_bytes(self) -> usize {
        match self {
            Self::Q8_0 => GROUP,
            Self::Q4_0 | Self::Q4_1 => GROUP / 2,
        }
    }

    /// Bytes before a group's integers: the scale, and the offset where there is one.
    fn head_bytes(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 => 2,
            Self::Q4_1 => 4,
        }
    }
}

/// Weights in panels of [`PANEL`] columns.
///
/// For each panel and group there are the codes, row by row (in 4 bits a row lies with the one half a
/// group further), and a scale and an offset for each column.
#[derive(Debug)]
pub(super) struct Quantised {
    format: Format,
    /// Groups of a column.
    groups: usize,
    codes: Vec<[u8; PANEL]>,
    /// Bits of 16-bit floats.
    scales: Vec<[u16; PANEL]>,
    /// Likewise; empty where the format has none.
    offsets: Vec<[u16; PANEL]>,
}

impl Quantised {
    /// Reads and packs weights, as [`Matrix::load`](super::matrix::Matrix::load) does.
    pub(super) fn load(
        format: Format,
        columns: usize,
        tensors: &[&Tensor],
        place: impl Fn(usize) -> Option<(usize, usize)> + Sync,
    ) -> Result<Self, EngineError> {
        let groups = tensors[0].width() / GROUP;
        let panels = columns.div_ceil(PANEL);
        let rows = groups * format.code_bytes();
        let with_offsets = if format == Format::Q4_1 { panels * groups } else { 0 };
        let mut codes = vec![[0; PANEL]; panels * rows];
        let mut scales = vec![[0; PANEL]; panels * groups];
        let mut offsets = vec![[0; PANEL]; with_offsets];
        // Where there are no offsets there is nothing to share out; the panels get empty pieces.
        let mut pieces: Vec<&mut [[u16; PANEL]]> = offsets.chunks_mut(groups).collect();
        pieces.resize_with(panels, Default::default);
        codes
            .par_chunks_mut(rows)
            .zip(scales.par_chunks_mut(groups))
            .zip(pieces)
            .enumerate()
            .try_for_each(|(panel, ((codes, scales), offsets))| {
                for within in 0..PANEL {
                    let column = panel * PANEL + within;
                    let found = if column < columns { place(column) } else { None };
                    let Some((tensor, row)) = found else { continue };
                    let bytes = tensors[tensor].raw_row(row)?;
                    pack(format, &bytes, within, codes, scales, offsets);
                }
                Ok::<_, EngineError>(())
            })?;
        Ok(Self { format, groups, codes, scales, offsets })
    }

    /// The format.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        let scales = [&self.scales, &self.offsets];
        size_of_val(self.codes.as_slice())
            + scales.map(|scales| size_of_val(scales.as_slice())).iter().sum::<usize>()
    }

    /// Widens `out.len()` rows of a panel, whole groups, from the group `first` on.
    pub(super) fn widen(&self, panel: usize, first: usize, out: &mut [[f32; PANEL]]) {
        let begin = panel * self.groups + first;
        let groups = begin..begin + out.len() / GROUP;
        let bytes = self.format.code_bytes();
        let codes = &self.codes[groups.start * bytes..groups.end * bytes];
        let scales = &self.scales[groups.clone()];
        let offsets = self.offsets.get(groups).unwrap_or_default();
        match self.format {
            Format::Q8_0 => vectorized(WidenEight { codes, scales, out }),
            Format::Q4_0 => vectorized(WidenFour::<8> { codes, scales, offsets, out }),
            Format::Q4_1 => vectorized(WidenFour::<0> { codes, scales, offsets, out }),
        }
    }

    /// Copies the weights of one column.
    pub(super) fn column(&self, column: usize, out: &mut [f32]) {
        let (panel, within) = (column / PANEL, column % PANEL);
        let mut wide = [[0.0; PANEL]; GROUP];
        for (group, out) in out.chunks_mut(GROUP).enumerate() {
            self.widen(panel, group, &mut wide);
            for (out, row) in out.iter_mut().zip(&wide) {
                *out = row[within];
            }
        }
    }
}

/// Puts a column's groups, as the file has them, into its place in a panel.
fn pack(
    format: Format,
    bytes: &[u8],
    column: usize,
    codes: &mut [[u8; PANEL]],
    scales: &mut [[u16; PANEL]],
    offsets: &mut [[u16; PANEL]],
) {
    let (head, length) = (format.head_bytes(), format.code_bytes());
    let bits = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    for (group, block) in bytes.chunks_exact(head + length).enumerate() {
        scales[group][column] = bits(block);
        if let Some(offsets) = offsets.get_mut(group) {
            offsets[column] = bits(&block[2..]);
        }
        let rows = &mut codes[group * length..(group + 1) * length];
        for (row, code) in rows.iter_mut().zip(&block[head..]) {
            row[column] = *code;
        }
    }
}

#[inline(always)]
fn widen(bits: &[u16; PANEL]) -> [f32; PANEL] {
    let mut out = [0.0; PANEL];
    WidenF16 { bits, out: &mut out }.run();
    out
}

struct WidenEight<'a> {
    codes: &'a [[u8; PANEL]],
    scales: &'a [[u16; PANEL]],
    out: &'a mut [[f32; PANEL]],
}

impl Loop for WidenEight<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let groups = self.out.chunks_exact_mut(GROUP).zip(self.codes.chunks_exact(GROUP));
        for ((out, codes), scales) in groups.zip(self.scales) {
            let scales = widen(scales);
            for (out, codes) in out.iter_mut().zip(codes) {
                for column in 0..PANEL {
                    out[column] = f32::from(codes[column].cast_signed()) * scales[column];
                }
            }
        }
    }
}

/// Integers of 4 bits, of which `ZERO` is taken off.
struct WidenFour<'a, const ZERO: u8> {
    codes: &'a [[u8; PANEL]],
    scales: &'a [[u16; PANEL]],
    offsets: &'a [[u16; PANEL]],
    out: &'a mut [[f32; PANEL]],
}

impl<const ZERO: u8> Loop for WidenFour<'_, ZERO> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        const HALF: usize = GROUP / 2;
        let groups = self.out.chunks_exact_mut(GROUP).zip(self.codes.chunks_exact(HALF));
        for (group, ((out, codes), scales)) in groups.zip(self.scales).enumerate() {
            let scales = widen(scales);
            let offsets = match self.offsets.get(group) {
                Some(bits) => widen(bits),
                None => [0.0; PANEL],
            };
            let (low, high) = out.split_at_mut(HALF);
            for ((low, high), codes) in low.iter_mut().zip(high).zip(codes) {
                for column in 0..PANEL {
                    let code = codes[column];
                    let (first, second) = (code & 15, code >> 4);
                    let first = f32::from(first.wrapping_sub(ZERO).cast_signed());
                    let second = f32::from(second.wrapping_sub(ZERO).cast_signed());
                    // Two roundings, as the file is read elsewhere, and no fused one.
                    low[column] = first * scales[column] + offsets[column];
                    high[column] = second * scales[column] + offsets[column];
                }
            }
        }
    }
}
