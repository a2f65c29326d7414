//! The work queue: which prompts wait, who holds which, and what is done. Pure: no files, no time.
//!
//! ```text
//! push ─▶ waiting ─take▶ held by one worker or more ─finish▶ done
//!            ▲──────lost, give_back──────┘
//! ```
//!
//! A prompt may be held by two workers, since at the end of a run an idle one is given what a slow
//! one hasn't answered. The first answer counts. A prompt that failed is done.

use super::Bits;
use crate::prompts::Place;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use wire::Prompt;

/// A worker, as the run numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u32);

/// A prompt on its way, with what its result needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The prompt.
    pub prompt: Prompt,
    /// The id that its result will carry.
    pub custom_id: String,
    /// Its line in the input.
    pub line: Place,
}

impl Item {
    /// Bytes that it takes in memory, nearly.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.prompt.body.len() + self.custom_id.len()
    }
}

/// What an answer was to the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The first one for its prompt: keep it.
    First(Item),
    /// The prompt was done already: drop it.
    Again,
    /// The prompt hasn't been read yet. A worker that outlived the program answers so. Keep the
    /// answer, and finish it again after more prompts were pushed.
    Early,
    /// The input has no such prompt: the worker is at fault.
    Unknown,
}

/// How the prompts stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Prompts of the input.
    pub total: u64,
    /// In memory and held by nobody.
    pub waiting: u64,
    /// Held by a worker.
    pub held: u64,
    /// Answered, failed or unreadable; in this session or an earlier one.
    pub done: u64,
}

#[derive(Debug)]
struct Holding {
    item: Item,
    holders: Vec<WorkerId>,
}

/// The work queue of one run.
#[derive(Debug)]
pub struct Queue {
    done: Bits,
    waiting: VecDeque<Item>,
    held: HashMap<u64, Holding>,
    holds: BTreeMap<WorkerId, BTreeSet<u64>>,
    /// Prompts that a worker still holds from before this session, until they are read.
    claimed: HashMap<u64, WorkerId>,
    /// Bytes of `waiting` and `held`.
    bytes: usize,
    /// Every prompt below this was read, or was done before it was.
    read: u64,
    ended: bool,
}

impl Queue {
    /// A queue for as many prompts as `done` has room for, those in it being done already.
    pub fn new(done: Bits) -> Self {
        Self {
            done,
            waiting: VecDeque::new(),
            held: HashMap::new(),
            holds: BTreeMap::new(),
            claimed: HashMap::new(),
            bytes: 0,
            read: 0,
            ended: false,
        }
    }

    /// Adds a prompt. Prompts come in ascending order, each once; one that is done is dropped.
    pub fn push(&mut self, item: Item) {
        let index = item.prompt.index;
        self.read = self.read.max(index + 1);
        if self.done.contains(index) {
            return;
        }
        self.bytes += item.bytes();
        match self.claimed.remove(&index) {
            Some(worker) => self.hold(worker, item),
            None => self.waiting.push_back(item),
        }
    }

    /// Ends a prompt that could not even be read. False if it was done already.
    pub fn refuse(&mut self, index: u64) -> bool {
        self.read = self.read.max(index + 1);
        self.claimed.remove(&index);
        self.done.insert(index)
    }

    /// Says that there will be no more prompts.
    pub fn end(&mut self) {
        self.ended = true;
        self.claimed.clear();
    }

    /// Gives waiting prompts to a worker: at most this many, and at most these bytes of them. The
    /// first is given however large it is, if `prompts` isn't 0.
    pub fn take(&mut self, worker: WorkerId, prompts: usize, bytes: usize) -> Vec<Prompt> {
        let (mut taken, mut size) = (Vec::new(), 0);
        while taken.len() < prompts {
            let Some(item) = self.waiting.front() else { break };
            size += item.bytes();
            if !taken.is_empty() && bytes < size {
                break;
            }
            let item = self.waiting.pop_front().expect("it was there a line ago");
            taken.push(item.prompt.clone());
            self.hold(worker, item);
        }
        taken
    }

    /// Gives prompts that another worker holds to an idle one as well: those that whoever holds
    /// the most got last, as it will come to them last. No prompt is held by more than two.
    pub fn steal(&mut self, worker: WorkerId, prompts: usize, bytes: usize) -> Vec<Prompt> {
        let others = self.holds.iter().filter(|(holder, _)| **holder != worker);
        let mut others: Vec<_> = others.map(|(_, holds)| holds).collect();
        others.sort_by_key(|holds| std::cmp::Reverse(holds.len()));
        let tails = others.into_iter().flat_map(|holds| holds.iter().rev());
        let (mut chosen, mut size) = (Vec::new(), 0);
        for index in tails.filter(|index| self.held[index].holders.len() == 1) {
            size += self.held[index].item.bytes();
            if prompts <= chosen.len() || (!chosen.is_empty() && bytes < size) {
                break;
            }
            chosen.push(*index);
        }
        let mut stolen = Vec::with_capacity(chosen.len());
        for index in chosen {
            let holding = self.held.get_mut(&index).expect("it is held by another");
            holding.holders.push(worker);
            stolen.push(holding.item.prompt.clone());
            self.holds.entry(worker).or_default().insert(index);
        }
        stolen
    }

    /// Takes an answer or a failure for its prompt, whoever it came from.
    pub fn finish(&mut self, index: u64) -> Finish {
        if self.done.bound() <= index {
            return Finish::Unknown;
        }
        if self.done.contains(index) {
            return Finish::Again;
        }
        let item = match self.held.remove(&index) {
            Some(holding) => {
                for holder in holding.holders {
                    self.let_go(holder, index);
                }
                holding.item
            }
            // A worker taken for lost may answer after all.
            None => match self.waiting.iter().position(|item| item.prompt.index == index) {
                Some(at) => self.waiting.remove(at).expect("it was found there"),
                None if index < self.read || self.ended => return Finish::Unknown,
                None => return Finish::Early,
            },
        };
        self.bytes -= item.bytes();
        self.done.insert(index);
        Finish::First(item)
    }

    /// Puts back what only this worker held. Returns how many prompts that was.
    pub fn lost(&mut self, worker: WorkerId) -> usize {
        self.claimed.retain(|_, holder| *holder != worker);
        let holds = self.holds.remove(&worker).unwrap_or_default();
        self.put_back(worker, holds)
    }

    /// Puts back prompts that a worker hasn't begun and no longer holds. Returns how many that was.
    pub fn give_back(&mut self, worker: WorkerId, indices: &[u64]) -> usize {
        let mut given = BTreeSet::new();
        for index in indices {
            self.claimed.remove(index);
            if self.let_go(worker, *index) {
                given.insert(*index);
            }
        }
        self.put_back(worker, given)
    }

    /// Notes that a worker holds prompts which this session didn't give it, having outlived the
    /// program that did. Those not read yet are held as soon as they are.
    pub fn claim(&mut self, worker: WorkerId, indices: &[u64]) {
        // It says all that it holds: what it held before and doesn't any more is free.
        self.claimed.retain(|_, holder| *holder != worker);
        let claimed: BTreeSet<u64> = indices.iter().copied().collect();
        for index in &claimed {
            match self.held.get_mut(index) {
                Some(holding) if !holding.holders.contains(&worker) => {
                    holding.holders.push(worker);
                    self.holds.entry(worker).or_default().insert(*index);
                }
                Some(_) => {}
                None if *index < self.read || self.done.contains(*index) => {}
                None => {
                    self.claimed.insert(*index, worker);
                }
            }
        }
        let (claimed, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|item| claimed.contains(&item.prompt.index));
        self.waiting = waiting;
        for item in claimed {
            self.hold(worker, item);
        }
    }

    /// The positions that a worker holds, in ascending order.
    pub fn held_by(&self, worker: WorkerId) -> impl Iterator<Item = u64> + '_ {
        self.holds.get(&worker).into_iter().flatten().copied()
    }

    /// How many prompts a worker holds.
    pub fn load(&self, worker: WorkerId) -> usize {
        self.holds.get(&worker).map_or(0, BTreeSet::len)
    }

    /// How many prompts the worker holds that holds the most.
    pub fn largest_load(&self) -> usize {
        self.holds.values().map(BTreeSet::len).max().unwrap_or(0)
    }

    /// How many prompts are held by one worker only.
    pub fn held_once(&self) -> usize {
        self.held.values().filter(|holding| holding.holders.len() == 1).count()
    }

    /// Bytes of the prompts that a worker holds, nearly: as many as if all held were alike.
    pub fn held_bytes(&self, worker: WorkerId) -> usize {
        let all = self.waiting.len() + self.held.len();
        self.bytes / all.max(1) * self.load(worker)
    }

    /// A prompt that is held, to be sent again.
    pub fn held(&self, index: u64) -> Option<&Item> {
        self.held.get(&index).map(|holding| &holding.item)
    }

    /// Bytes of the prompts in memory. Push more only while this is small enough.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How the prompts stand.
    pub fn counts(&self) -> Counts {
        Counts {
            total: self.done.bound(),
            waiting: self.waiting.len() as u64,
            held: self.held.len() as u64,
            done: self.done.count(),
        }
    }

    /// Whether every prompt is done and no more will come.
    pub fn is_over(&self) -> bool {
        self.ended && self.waiting.is_empty() && self.held.is_empty()
    }

    fn hold(&mut self, worker: WorkerId, item: Item) {
        let index = item.prompt.index;
        self.holds.entry(worker).or_default().insert(index);
        self.held.insert(index, Holding { item, holders: vec![worker] });
    }

    fn let_go(&mut self, worker: WorkerId, index: u64) -> bool {
        self.holds.get_mut(&worker).is_some_and(|holds| holds.remove(&index))
    }

    /// Puts back in front, in order, what nobody else holds.
    fn put_back(&mut self, worker: WorkerId, indices: BTreeSet<u64>) -> usize {
        let mut count = 0;
        for index in indices.into_iter().rev() {
            let holding = self.held.get_mut(&index).expect("what is held is known");
            holding.holders.retain(|holder| *holder != worker);
            if holding.holders.is_empty() {
                let holding = self.held.remove(&index).expect("it was there a line ago");
                self.waiting.push_front(holding.item);
                count += 1;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests;
