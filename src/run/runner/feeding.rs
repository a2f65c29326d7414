//! Prompts to workers: as many as keep them busy, and at the end so that all end together.

use super::Runner;
use crate::{
    run::{
        slot::{Held, Slot, portion},
        stop::Stop,
    },
    shards::Say,
};
use std::time::Instant;

/// Bytes of prompts that a worker holds, and that all together may hold at least: ten seconds of
/// the fastest GPU there is, and enough for one worker alone to be kept busy without a model.
const HELD_BYTES: (usize, usize) = (2 << 20, 16 << 20);

impl Runner<'_> {
    /// Hands prompts to workers that can do with more.
    pub(super) fn feed(&mut self) {
        if self.tools.ladder.level() != Stop::No {
            return;
        }
        let (all_bytes, now) = (self.held_bytes(), Instant::now());
        // Those still on their way will want their share.
        let sharers = self.slots.iter().filter(|slot| slot.is_busy()).count();
        let linked = |held: &&mut Held| held.conversation.is_some();
        let workers = self.slots.iter_mut().filter_map(Slot::held_mut).filter(linked).count();
        let counts = self.queue.counts();
        let left = counts.total.saturating_sub(counts.done + counts.held);
        for held in self.slots.iter_mut().filter_map(Slot::held_mut).filter(linked) {
            let load = self.queue.load(held.worker);
            let prompts = portion(held.window(), load, left, sharers);
            let bytes = all_bytes / workers.max(1) / 4;
            if 0 < prompts && self.queue.held_bytes(held.worker) < bytes * 3 {
                let prompts = self.queue.take(held.worker, prompts, bytes);
                for prompt in &prompts {
                    self.stopwatch.begin(prompt.index, now);
                }
                if !prompts.is_empty() {
                    held.say(Say::Prompts(prompts));
                }
            }
            if self.reader.is_none() && self.queue.load(held.worker) == 0 {
                // Nothing is left but what others hold: the first answer counts.
                let most = self.queue.largest_load().div_ceil(2).min(held.window());
                let stolen = self.queue.steal(held.worker, most, bytes);
                if !stolen.is_empty() {
                    held.say(Say::Prompts(stolen));
                }
            }
        }
    }

    /// Bytes of prompts that all workers together may hold.
    pub(super) fn held_bytes(&self) -> usize {
        HELD_BYTES.1.max(self.slots.len() * HELD_BYTES.0)
    }
}
