//! Prompts to workers: as many as keep them busy, and at the end so that all end together.

use super::Runner;
use crate::{
    run::{
        slot::{Held, Slot},
        stop::Stop,
        supply::{self, Appetite, Crew},
    },
    shards::Say,
};
use std::time::Instant;

impl Runner<'_> {
    /// Hands prompts to workers that can do with more.
    pub(super) fn feed(&mut self) {
        if self.tools.ladder.level() != Stop::No {
            return;
        }
        let now = Instant::now();
        let linked = |held: &Held| held.conversation.is_some();
        let rates = self.slots.iter().filter_map(Slot::held).filter(|held| linked(held));
        let rates: Vec<f64> = rates.map(|held| held.prompts.rate()).collect();
        let crew = Crew {
            linked: rates.len(),
            expected: self.slots.iter().filter(|slot| slot.is_busy()).count(),
            prompts: rates.iter().sum(),
        };
        for held in self.slots.iter_mut().filter_map(Slot::held_mut).filter(|held| linked(held)) {
            let (worker, appetite) = (held.worker, held.appetite());
            let mut prompts = supply::take(&mut self.queue, worker, &appetite, crew);
            for prompt in &prompts {
                self.stopwatch.begin(prompt.index, now);
            }
            if prompts.is_empty() && self.reader.is_none() {
                // Nothing is left but what others hold.
                prompts = supply::steal(&mut self.queue, worker, &appetite, crew);
            }
            if !prompts.is_empty() {
                held.say(Say::Prompts(prompts));
            }
        }
    }

    /// Bytes of prompts that all workers together may hold, or do.
    pub(super) fn held_bytes(&self) -> usize {
        let machines = self.slots.len();
        let of_slot = |slot: &Slot| match slot.held() {
            None => Appetite::default().bytes(machines),
            Some(held) => supply::may_hold(&self.queue, held.worker, &held.appetite(), machines),
        };
        self.slots.iter().map(of_slot).sum()
    }
}
