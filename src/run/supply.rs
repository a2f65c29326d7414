//! What machines are kept supplied with: so much that no engine ever waits, and at the end so little
//! at a time that all of them end together. Pure.

use crate::shards::{Queue, WorkerId};
use wire::Prompt;

/// How many seconds of work wait for an engine at least, beyond what it is at: more than twice any
/// round trip that a link can have and still be of use.
const SECONDS: f64 = 10.0;

/// The part of what it may hold that a machine has left when it is handed more: a portion is a
/// message, so they aren't dribs and drabs.
const REFILL: f64 = 0.75;

/// Bytes of prompts that a machine is handed at once, at most.
const PORTION: usize = 8 << 20;

/// The least and the most prompts that a machine may hold.
const PROMPTS: (usize, usize) = (32, 20_000);

/// Bytes of prompts that a machine may hold at least, before anything is known of it.
const EACH: usize = 2 << 20;

/// Bytes of prompts that all machines together may hold: at least, enough for one alone to be kept
/// busy without a model; and at most, as they are all in memory here, though each may hold [`EACH`].
const ALL: (usize, usize) = (16 << 20, 256 << 20);

/// What a machine takes to be kept busy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Appetite {
    /// Prompts that its engine may be at at once; 0 while that isn't known.
    pub(super) batch: u32,
    /// The most that it was at.
    pub(super) running: u32,
    /// Prompts that it answers a second.
    pub(super) prompts: f64,
    /// Bytes of them.
    pub(super) bytes: f64,
}

impl Appetite {
    /// How many prompts it may hold: those that its engine is at, [`SECONDS`] of others when it is
    /// handed more, and two batches.
    pub(super) fn window(&self) -> usize {
        let batch = f64::from(self.batch);
        let wanted = ((batch + SECONDS * self.prompts) / REFILL).max(2.0 * batch);
        whole(wanted).clamp(PROMPTS.0, PROMPTS.1)
    }

    /// How many bytes of prompts it may hold, as one of so many machines.
    pub(super) fn bytes(&self, machines: usize) -> usize {
        let (least, most) = (ALL.0 / machines.max(1), ALL.1 / machines.max(1));
        let each = if 0.0 < self.prompts { self.bytes / self.prompts } else { 0.0 };
        let wanted = (f64::from(self.running) * each + SECONDS * self.bytes) / REFILL;
        whole(wanted).max(least).min(most).max(EACH)
    }
}

/// Bytes of prompts that a machine may hold, or does: what one holds beyond its part, from when there were
/// fewer or when it was faster, isn't taken from what is read for the others.
pub(super) fn may_hold(
    queue: &Queue,
    worker: WorkerId,
    appetite: &Appetite,
    machines: usize,
) -> usize {
    appetite.bytes(machines).max(queue.held_bytes(worker))
}

/// Those who share the work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Crew {
    /// Machines that can be handed prompts now.
    pub(super) linked: usize,
    /// The same, and those that are still on their way, which will want their share.
    pub(super) expected: usize,
    /// Prompts that all of them answer a second.
    pub(super) prompts: f64,
}

impl Crew {
    /// The part of so many prompts that falls to a machine: by how fast it is, or as much as to any
    /// other where that isn't known.
    fn share(&self, prompts: usize, appetite: &Appetite) -> usize {
        let known = 0.0 < appetite.prompts && appetite.prompts <= self.prompts;
        let each = 1.0 / self.linked.max(1) as f64;
        let part = if known { appetite.prompts / self.prompts } else { each };
        whole(prompts as f64 * part)
    }
}

/// Takes from the queue what a machine is to be handed now, which mostly is nothing.
pub(super) fn take(
    queue: &mut Queue,
    worker: WorkerId,
    appetite: &Appetite,
    crew: Crew,
) -> Vec<Prompt> {
    let counts = queue.counts();
    let left = counts.total.saturating_sub(counts.done + counts.held);
    let prompts = portion(appetite.window(), queue.load(worker), left, crew.expected);
    let bytes = appetite.bytes(crew.linked);
    let room = bytes.saturating_sub(queue.held_bytes(worker));
    // As with prompts: not before a quarter of it is free.
    if prompts == 0 || room < bytes / 4 {
        return Vec::new();
    }
    queue.take(worker, prompts, room.min(PORTION))
}

/// Takes what a machine that has nothing left is handed of what others hold, when nobody else will
/// get any more: the first answer counts.
pub(super) fn steal(
    queue: &mut Queue,
    worker: WorkerId,
    appetite: &Appetite,
    crew: Crew,
) -> Vec<Prompt> {
    if 0 < queue.load(worker) {
        return Vec::new();
    }
    // Of the one that holds the most a half at most, and of all that can be had a share: others will
    // soon have nothing left either, and what a slow one takes is out of their reach.
    let half = queue.largest_load().div_ceil(2);
    let prompts = half.min(crew.share(queue.held_once(), appetite)).min(appetite.window());
    queue.steal(worker, prompts, appetite.bytes(crew.linked))
}

/// How many prompts to hand to a machine that holds `load`, of a window of `window`, when `left`
/// are held by nobody and `machines` share them. Few at the end, so that all end together.
fn portion(window: usize, load: usize, left: u64, machines: usize) -> usize {
    if window as f64 * REFILL < load as f64 {
        return 0;
    }
    let room = window - load;
    if machines < 2 {
        return room;
    }
    let share = usize::try_from(left).unwrap_or(usize::MAX).div_ceil(2 * machines);
    room.min(share.max(1))
}

/// The whole number above; 0 for what is none.
fn whole(number: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let whole = number.ceil() as usize;
    whole
}

#[cfg(test)]
mod tests;
