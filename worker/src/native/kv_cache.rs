//! The keys and values of all layers, in blocks of [`BLOCK`] positions.

use super::{
    config::Config,
    half_kernel::accumulate_halves,
    kernel::{PANEL, accumulate_rows},
};
use half::{f16, slice::HalfFloatSliceExt as _};
use rayon::prelude::*;
use std::fmt::Debug;

/// Positions of a block.
pub(super) const BLOCK: usize = PANEL;

/// Floats that are narrowed at once.
const NARROWED: usize = 2 * PANEL;

/// The bits of an IEEE 754 float of 16 bits.
///
/// Once contexts are long, attention is bound by reading keys and values, and this rounding is far below
/// what weights of 8 bits cost. Only for plain integers does the system give out zeroed memory untouched.
pub(super) type HalfBits = u16;

/// A number that keys and values are kept as. Sums are made of 32-bit floats all the same.
pub(super) trait KvNumber: Copy + Debug + Default + Send + Sync {
    /// The nearest numbers, handed on a few at a time; only the last are no whole panel.
    fn narrow(values: &[f32], then: impl FnMut(&[Self]));

    /// Adds the product of up to [`TILE`](super::kernel::TILE) rows and a panel to `out`. Each row is
    /// at least as long as the panel has rows.
    fn accumulate(left: &[&[f32]], panel: &[[Self; PANEL]], out: &mut [[f32; PANEL]]);
}

impl KvNumber for f32 {
    fn narrow(values: &[f32], mut then: impl FnMut(&[Self])) {
        then(values);
    }

    fn accumulate(left: &[&[f32]], panel: &[[Self; PANEL]], out: &mut [[f32; PANEL]]) {
        accumulate_rows(left, panel, out);
    }
}

impl KvNumber for HalfBits {
    fn narrow(values: &[f32], mut then: impl FnMut(&[Self])) {
        let most = f16::MAX.to_f32();
        let (mut bounded, mut halves) = ([0.0; NARROWED], [f16::ZERO; NARROWED]);
        for values in values.chunks(NARROWED) {
            let (bounded, halves) = (&mut bounded[..values.len()], &mut halves[..values.len()]);
            for (bounded, value) in bounded.iter_mut().zip(values) {
                // What is beyond their range becomes the largest; what is no number stays none.
                *bounded = value.clamp(-most, most);
            }
            halves.convert_from_f32_slice(bounded);
            then(halves.reinterpret_cast());
        }
    }

    fn accumulate(left: &[&[f32]], panel: &[[Self; PANEL]], out: &mut [[f32; PANEL]]) {
        accumulate_halves(left, panel, out);
    }
}

/// The keys and values of all layers.
///
/// One piece of memory for all keys and one for all values: pieces that large come from the system
/// untouched, so that a cache takes memory as it fills and not when it is made.
#[derive(Debug)]
pub(super) struct Cache<N> {
    kv_heads: usize,
    blocks: usize,
    dim: usize,
    /// Layer after layer, head after head, block after block; in a block, a row of [`BLOCK`] positions for
    /// each number of a head, so that scores are products with panels, as the sums of values are.
    keys: Vec<N>,
    /// Likewise; in a block, panel after panel, a row of [`PANEL`] numbers for each position.
    values: Vec<N>,
}

impl<N: KvNumber> Cache<N> {
    /// Room for `blocks` blocks. The memory is taken when it is first written.
    pub(super) fn new(config: &Config, blocks: usize) -> Self {
        let (kv_heads, dim) = (config.kv_heads, config.head_dim);
        let all = config.layers * kv_heads * blocks;
        let keys = vec![N::default(); all * key_size(dim)];
        let values = vec![N::default(); all * value_size(dim)];
        Self { kv_heads, blocks, dim, keys, values }
    }

    /// Bytes that a block takes over all layers.
    pub(super) fn block_bytes(config: &Config) -> u64 {
        let of_head = key_size(config.head_dim) + value_size(config.head_dim);
        (config.layers * config.kv_heads * of_head * size_of::<N>()) as u64
    }

    /// One head of a layer, to read.
    pub(super) fn head(&self, layer: usize, head: usize) -> Head<'_, N> {
        let index = layer * self.kv_heads + head;
        let (key, value) = (self.blocks * key_size(self.dim), self.blocks * value_size(self.dim));
        let (keys, values) = (&self.keys[index * key..][..key], &self.values[index * value..]);
        Head { dim: self.dim, keys, values: &values[..value] }
    }

    /// All heads of a layer, to write.
    pub(super) fn heads_mut(
        &mut self,
        layer: usize,
    ) -> impl IndexedParallelIterator<Item = HeadMut<'_, N>> {
        let (dim, heads) = (self.dim, layer * self.kv_heads..(layer + 1) * self.kv_heads);
        let (key, value) = (self.blocks * key_size(dim), self.blocks * value_size(dim));
        let keys = self.keys[heads.start * key..heads.end * key].par_chunks_mut(key);
        let values = self.values[heads.start * value..heads.end * value].par_chunks_mut(value);
        keys.zip(values).map(move |(keys, values)| HeadMut { dim, keys, values })
    }
}

/// The keys and values of one head in one layer, for all sequences.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a, N> {
    dim: usize,
    keys: &'a [N],
    values: &'a [N],
}

impl<'a, N> Head<'a, N> {
    /// A block's keys: for each number of a head, those of all positions.
    pub(super) fn keys(&self, block: u32) -> &'a [[N; BLOCK]] {
        let size = key_size(self.dim);
        self.keys[block as usize * size..][..size].as_chunks().0
    }

    /// Some numbers of a block's first `count` values, a row for each.
    pub(super) fn values(&self, block: u32, panel: usize, count: usize) -> &'a [[N; PANEL]] {
        let start = block as usize * value_size(self.dim) + panel * BLOCK * PANEL;
        self.values[start..][..count * PANEL].as_chunks().0
    }
}

/// One head in one layer, to be written.
#[derive(Debug)]
pub(super) struct HeadMut<'a, N> {
    dim: usize,
    keys: &'a mut [N],
    values: &'a mut [N],
}

impl<N: KvNumber> HeadMut<'_, N> {
    /// Keeps the key and the value of one position.
    pub(super) fn store(&mut self, block: u32, slot: usize, key: &[f32], value: &[f32]) {
        let block = block as usize;
        let size = key_size(self.dim);
        let keys = &mut self.keys[block * size..(block + 1) * size];
        let mut places = keys[slot..].iter_mut().step_by(BLOCK);
        N::narrow(key, |key| {
            // The place before the number: what is taken from `places` and finds no number is lost.
            for (number, place) in key.iter().zip(&mut places) {
                *place = *number;
            }
        });
        let size = value_size(self.dim);
        let (rows, _) = self.values[block * size..(block + 1) * size].as_chunks_mut::<PANEL>();
        let mut panels = rows[slot..].iter_mut().step_by(BLOCK);
        N::narrow(value, |value| {
            for (numbers, row) in value.chunks(PANEL).zip(&mut panels) {
                row[..numbers.len()].copy_from_slice(numbers);
            }
        });
    }
}

/// Numbers that a block's keys take in one head.
fn key_size(dim: usize) -> usize {
    dim * BLOCK
}

/// Numbers that a block's values take in one head.
fn value_size(dim: usize) -> usize {
    dim.next_multiple_of(PANEL) * BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"model_type":"llama","hidden_size":80,"num_hidden_layers":2,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":80,"intermediate_size":8,
        "vocab_size":9,"max_position_embeddings":256}"#;

    /// Stores a position and reads it again.
    fn kept<N: KvNumber>(of: impl Fn(usize) -> f32, widen: impl Fn(N) -> f32) -> [Vec<f32>; 2] {
        let config = Config::from_json(CONFIG).unwrap();
        let mut cache = Cache::<N>::new(&config, 3);
        let key: Vec<f32> = (0..80).map(&of).collect();
        let value: Vec<f32> = (80..160).map(&of).collect();
        cache.heads_mut(1).enumerate().for_each(|(index, mut head)| {
            if index == 1 {
                head.store(2, 7, &key, &value);
            }
        });
        let head = cache.head(1, 1);
        let values = (0..3).map(|panel| head.values(2, panel, 8)[7]);
        [
            head.keys(2).iter().map(|row| widen(row[7])).collect(),
            values.flatten().take(80).map(widen).collect(),
        ]
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let number = |at: usize| at as f32 * 0.3 - 20.0;
        let plain: Vec<f32> = (0..160).map(number).collect();
        assert_eq!(kept::<f32>(number, |number| number).concat(), plain);
        let widen = |bits| f16::from_bits(bits).to_f32();
        for (kept, plain) in kept::<HalfBits>(number, widen).concat().iter().zip(plain) {
            assert_eq!(kept.to_bits(), f16::from_f32(plain).to_f32().to_bits());
        }
    }

    #[test]
    fn numbers_beyond_half_floats_become_the_largest_and_no_number_stays_none() {
        let number = |at: usize| [1e6, -1e6, f32::INFINITY, f32::NAN][at % 4];
        let [keys, values] = kept::<HalfBits>(number, |bits| f16::from_bits(bits).to_f32());
        assert_eq!((keys[0], keys[1], keys[2]), (65504.0, -65504.0, 65504.0));
        assert!(keys[3].is_nan() && values[79].is_nan());
    }
}
