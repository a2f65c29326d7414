//! What workers say, and what becomes of answers: into the sink, and forgotten once they are on disk.

use super::Runner;
use crate::{
    event::{Event, SlotPhase},
    prompts::{Entry, PromptsError},
    run::{
        slot::{Ack, Score, Slot},
        stop::Stop,
        why::Why,
    },
    shards::{Cause, Finish, Item, Record, Said, Say, WorkerId},
};
use std::time::Instant;
use wire::{Completion, Outcome};

impl Runner<'_> {
    pub(super) async fn hear(&mut self, worker: WorkerId, said: Said) -> Result<(), Why> {
        let is_it = |slot: &Slot| slot.held().is_some_and(|held| held.worker == worker);
        // Somebody that was given up may still be heard.
        let Some(at) = self.slots.iter().position(is_it) else {
            return Ok(());
        };
        let number = self.slots[at].number;
        let held = self.slots[at].held_mut().expect("it was just found");
        match said {
            Said::Phase(phase) => self.phase(number, phase),
            Said::Priced(price) => self.priced(at, price)?,
            Said::Attached { conversation, held: kept } => {
                held.conversation = Some(conversation);
                // Whatever it answered before comes again in this conversation.
                held.acks.clear();
                self.early.retain(|(from, _)| *from != worker);
                self.queue.claim(worker, &kept);
                let lost = self.queue.held_by(worker).filter(|i| kept.binary_search(i).is_err());
                let lost: Vec<u64> = lost.collect();
                let again = lost.iter().filter_map(|index| self.queue.held(*index));
                let again: Vec<_> = again.map(|item| item.prompt.clone()).collect();
                if !again.is_empty() {
                    held.say(Say::Prompts(again));
                }
                if self.tools.ladder.level() != Stop::No {
                    held.say(Say::Drain);
                }
            }
            Said::Ready(facts) => {
                self.tally.ready.get_or_insert_with(Instant::now);
                let engine = facts.name.clone();
                held.engine = Some(facts);
                let (waiting, running, tokens_per_second, hungry) = (0, 0, 0.0, 0.0);
                let phase =
                    SlotPhase::Working { engine, waiting, running, tokens_per_second, hungry };
                self.phase(number, phase);
            }
            Said::Status(status) => {
                let running = u32::try_from(status.running).unwrap_or(u32::MAX);
                held.most_running = held.most_running.max(running);
                held.tokens.note(Instant::now(), (status.tokens_in + status.tokens_out) as f64);
                let phase = SlotPhase::Working {
                    engine: held.engine.as_ref().map_or_else(String::new, |e| e.name.clone()),
                    waiting: status.waiting,
                    running: status.running,
                    tokens_per_second: held.tokens.rate(),
                    hungry: status.hungry_micros as f64 / 1e6,
                };
                if held.engine.is_some() {
                    self.phase(number, phase);
                }
            }
            Said::Completions { conversation, through, completions } => {
                self.take(at, conversation, through, completions).await?;
            }
            Said::GivenUp(indices) => {
                self.queue.give_back(worker, &indices);
            }
            Said::Reconnecting(reason) => {
                held.conversation = None;
                self.tools.events.send(Event::Reconnecting { slot: number, reason });
            }
            Said::Lost(loss) => self.lose(at, loss)?,
        }
        Ok(())
    }

    /// Takes answers in.
    pub(super) async fn take(
        &mut self,
        at: usize,
        conversation: u64,
        through: u64,
        completions: Vec<Completion>,
    ) -> Result<(), Why> {
        let worker = self.slots[at].held().expect("it was just found").worker;
        let mut records = Vec::with_capacity(completions.len());
        let (count, mut score) = (completions.len() as u64, Score::default());
        let (early, mut bytes) = (self.early.len(), 0);
        for completion in completions {
            match self.queue.finish(completion.index) {
                Finish::First(item) => {
                    bytes += item.bytes() as u64;
                    score.add(&completion.outcome);
                    records.push(self.record(item, completion.outcome));
                }
                Finish::Early => self.early.push((worker, completion)),
                // Nobody waits for those.
                Finish::Again | Finish::Unknown => {}
            }
        }
        let ticket = self.sink.put(records).await?;
        let ticket = (early == self.early.len()).then_some(ticket);
        let held = self.slots[at].held_mut().expect("nothing has come between");
        held.acks.push_back(Ack { conversation, through, ticket });
        held.answered += count;
        held.score.extend(score);
        held.answered_bytes += bytes;
        let now = Instant::now();
        held.working = Some((held.working.map_or(now, |(first, _)| first), now));
        held.prompts.note(now, held.answered as f64);
        held.bytes.note(now, held.answered_bytes as f64);
        Ok(())
    }

    /// Counts an answer, and makes what is kept of it.
    pub(super) fn record(&mut self, item: Item, outcome: Outcome) -> Record {
        let (index, line, custom_id) = (item.prompt.index, item.line, item.custom_id);
        self.stopwatch.end(index, Instant::now());
        match outcome {
            Outcome::Done { body, tokens_in, tokens_out } => {
                self.tally.done += 1;
                self.tally.tokens_in += u64::from(tokens_in);
                self.tally.tokens_out += u64::from(tokens_out);
                self.tally.session_tokens += u64::from(tokens_in) + u64::from(tokens_out);
                Record::Done { index, custom_id, body }
            }
            Outcome::Failed { failure, reason } => {
                self.tally.failed += 1;
                let (custom_id, cause) = (Some(custom_id), failure.into());
                Record::Failed { index, line, custom_id, cause, reason }
            }
        }
    }

    /// Takes prompts in.
    pub(super) async fn take_in(&mut self, entries: Vec<Entry>) -> Result<(), Why> {
        let mut records = Vec::new();
        for entry in entries {
            match entry {
                Entry::Good { prompt, custom_id, line } => {
                    self.queue.push(Item { prompt, custom_id, line });
                }
                Entry::Bad { index, line, custom_id, reason } => {
                    if self.queue.refuse(index) {
                        self.tally.failed += 1;
                        let (cause, reason) = (Cause::BadLine, reason.to_string());
                        records.push(Record::Failed { index, line, custom_id, cause, reason });
                    }
                }
            }
        }
        let finished = self.early.len();
        for (worker, completion) in std::mem::take(&mut self.early) {
            match self.queue.finish(completion.index) {
                Finish::First(item) => {
                    let mut held = self.slots.iter_mut().filter_map(Slot::held_mut);
                    if let Some(held) = held.find(|held| held.worker == worker) {
                        held.score.add(&completion.outcome);
                    }
                    records.push(self.record(item, completion.outcome));
                }
                Finish::Early => self.early.push((worker, completion)),
                Finish::Again | Finish::Unknown => {}
            }
        }
        if records.is_empty() && finished == self.early.len() {
            return Ok(());
        }
        let ticket = self.sink.put(records).await?;
        for held in self.slots.iter_mut().filter_map(Slot::held_mut) {
            if self.early.iter().all(|(worker, _)| *worker != held.worker) {
                for ack in held.acks.iter_mut().filter(|ack| ack.ticket.is_none()) {
                    ack.ticket = Some(ticket);
                }
            }
        }
        Ok(())
    }

    pub(super) async fn end_of_prompts(&mut self) -> Result<(), Why> {
        self.reader = None;
        self.queue.end();
        // What is early now has no prompt.
        self.take_in(Vec::new()).await
    }

    /// Lets workers forget what is on disk.
    pub(super) fn acknowledge(&mut self) {
        let latest = self.durable.latest();
        for held in self.slots.iter_mut().filter_map(Slot::held_mut) {
            let mut last = None;
            while held.acks.front().is_some_and(|ack| ack.ticket.is_some_and(|t| t <= latest)) {
                last = held.acks.pop_front();
            }
            if let Some(Ack { conversation, through, .. }) = last {
                held.say(Say::Forget { conversation, through });
                self.tally.last = Some(Instant::now());
                if 0 < self.tally.session_tokens {
                    self.tally.first.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    pub(super) async fn next_entries(&mut self) -> Option<Result<Vec<Entry>, PromptsError>> {
        let entries = self.reader.as_mut()?.next().await;
        if entries.is_none() {
            self.reader = None;
            self.queue.end();
        }
        entries
    }
}
