//! Weights that stay as small as the file has them: integers, with a scale for each
//! [`GROUP`] inputs of a column, and with an offset in some formats.
//!
//! Products multiply the integers themselves: see [`int8`](super::int8).

use super::{
    bytes::{GROUP, STEP, STEPS},
    int8::{Codes, Panel},
    kernel::PANEL,
    tensor::Tensor,
};
use crate::engine::EngineError;
use candle_core::quantized::GgmlDType;
use half::f16;
use rayon::prelude::*;

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

    /// Whether a byte holds two integers, half a group apart.
    fn halves(self) -> bool {
        match self {
            Self::Q8_0 => false,
            Self::Q4_0 | Self::Q4_1 => true,
        }
    }

    /// The code that stands for 0. The file has 8 bits signed, and a panel has them shifted by this.
    pub(super) fn zero(self) -> u8 {
        match self {
            Self::Q8_0 => 128,
            Self::Q4_0 => 8,
            Self::Q4_1 => 0,
        }
    }

    /// Steps of a group that have bytes of their own.
    fn steps(self) -> usize {
        if self.halves() { STEPS / 2 } else { STEPS }
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
/// For each panel and group there are the codes, step by step (in 4 bits a step lies with the one half
/// a group further), and a scale and an offset for each column.
#[derive(Debug)]
pub(super) struct Quantised {
    format: Format,
    /// Groups of a column.
    groups: usize,
    codes: Vec<Codes>,
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
        let steps = groups * format.steps();
        let with_offsets = if format == Format::Q4_1 { panels * groups } else { 0 };
        // Columns that only pad the last panel are weights of 0, whatever their codes, by their scale.
        let mut codes = vec![[[0; STEP * PANEL / 2]; 2]; panels * steps];
        let mut scales = vec![[0; PANEL]; panels * groups];
        let mut offsets = vec![[0; PANEL]; with_offsets];
        // Where there are no offsets there is nothing to share out; the panels get empty pieces.
        let mut pieces: Vec<&mut [[u16; PANEL]]> = offsets.chunks_mut(groups).collect();
        pieces.resize_with(panels, Default::default);
        codes
            .par_chunks_mut(steps)
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

    /// A panel, for products.
    pub(super) fn panel(&self, panel: usize) -> Panel<'_> {
        let groups = panel * self.groups..(panel + 1) * self.groups;
        let steps = self.format.steps();
        Panel {
            halves: self.format.halves(),
            zero: self.format.zero().into(),
            codes: &self.codes[groups.start * steps..groups.end * steps],
            scales: &self.scales[groups.clone()],
            offsets: self.offsets.get(groups).unwrap_or_default(),
        }
    }

    /// Copies the weights of one column, exactly as reading the file as floats gives them.
    pub(super) fn column(&self, column: usize, out: &mut [f32]) {
        let within = column % PANEL;
        let panel = self.panel(column / PANEL);
        let float = |bits: [u16; PANEL]| f16::from_bits(bits[within]).to_f32();
        let zero = panel.zero as f32;
        for (index, out) in out.chunks_mut(GROUP).enumerate() {
            let scale = float(panel.scales[index]);
            let offset = panel.offsets.get(index).map_or(0.0, |bits| float(*bits));
            let (low, high) = out.split_at_mut(GROUP / 2);
            let steps = self.format.steps();
            for (step, codes) in panel.codes[index * steps..(index + 1) * steps].iter().enumerate()
            {
                let codes = &codes.as_flattened()[STEP * within..][..STEP];
                for (input, code) in (step * STEP..).zip(codes) {
                    // Two roundings, as the file is read elsewhere, and no fused one.
                    let weight = |code: u8| (f32::from(code) - zero) * scale + offset;
                    if panel.halves {
                        (low[input], high[input]) = (weight(code & 15), weight(code >> 4));
                    } else if let Some(low) = low.get_mut(input) {
                        *low = weight(*code);
                    } else {
                        high[input - GROUP / 2] = weight(*code);
                    }
                }
            }
        }
    }
}

/// Puts a column's groups, as the file has them, into its place in a panel.
fn pack(
    format: Format,
    bytes: &[u8],
    column: usize,
    codes: &mut [Codes],
    scales: &mut [[u16; PANEL]],
    offsets: &mut [[u16; PANEL]],
) {
    let (head, steps) = (format.head_bytes(), format.steps());
    let bits = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    // Signed bytes become codes by the shift; two halves are codes in the file already.
    let shift = if format.halves() { 0 } else { format.zero() };
    for (group, block) in bytes.chunks_exact(head + steps * STEP).enumerate() {
        scales[group][column] = bits(block);
        if let Some(offsets) = offsets.get_mut(group) {
            offsets[column] = bits(&block[2..]);
        }
        let rows = &mut codes[group * steps..(group + 1) * steps];
        for (row, of_step) in rows.iter_mut().zip(block[head..].chunks_exact(STEP)) {
            let places = &mut row.as_flattened_mut()[STEP * column..][..STEP];
            for (place, code) in places.iter_mut().zip(of_step) {
                *place = code.wrapping_add(shift);
            }
        }
    }
}
