//! The memory that steps work in.

use super::{
    device::{Device, HALF, Memory, Shape, WORD},
    plan::{PARTS, TILE},
};
use crate::{
    engine::EngineError,
    native::{config::Config, scheduler::Bounds},
};

/// What a step works in.
#[derive(Debug)]
pub(super) struct Buffers {
    pub(super) bounds: Bounds,
    /// What the host tells a step.
    pub(super) told: Memory,
    pub(super) residual: Memory,
    pub(super) normed: Memory,
    pub(super) product: Memory,
    pub(super) angles: Memory,
    pub(super) queries: Memory,
    pub(super) attended: Memory,
    pub(super) gated: Memory,
    pub(super) parts: Memory,
    pub(super) part_sums: Memory,
    pub(super) logits: Memory,
    /// Chosen tokens, in two halves: of the step that was begun last, and of the one before it.
    pub(super) tokens: Memory,
}

impl Buffers {
    /// Room for steps within bounds.
    pub(super) fn new(
        device: &mut dyn Device,
        config: &Config,
        shape: Shape,
        bounds: Bounds,
    ) -> Result<Self, EngineError> {
        let Config { hidden, intermediate, vocabulary, heads, kv_heads, head_dim, .. } = *config;
        // Products may take a few rows more than there are.
        let rows = bounds.tokens.next_multiple_of(128);
        let sequences = bounds.sequences.next_multiple_of(128);
        let widest =
            (config.query_width() + 2 * config.kv_width()).max(2 * intermediate).max(hidden);
        let parts = bounds.sequences * PARTS * kv_heads * shape.group.min(TILE);
        let mut take = |bytes: usize| device.allocate(bytes);
        Ok(Self {
            bounds,
            told: take(rows * 64 * WORD)?,
            residual: take(rows * hidden * WORD)?,
            normed: take(rows.max(sequences) * hidden * HALF)?,
            product: take(rows * widest * HALF)?,
            angles: take(rows * head_dim * WORD)?,
            queries: take(rows * heads * shape.padded() * HALF)?,
            attended: take(rows * config.query_width() * HALF)?,
            gated: take(rows * intermediate * HALF)?,
            parts: take(parts * shape.padded() * WORD)?,
            part_sums: take(parts * 2 * WORD)?,
            logits: take(sequences * vocabulary * WORD)?,
            tokens: take(2 * sequences * WORD)?,
        })
    }
}
