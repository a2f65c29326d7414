//! Events as lines, for logs: what happens when it happens, and progress every so often.

use super::{Reporter, note, summary, words};
use crate::event::{Event, Progress, SlotPhase};
use providers::Usd;
use std::{
    collections::HashMap,
    mem::{Discriminant, discriminant},
    time::{Duration, Instant},
};

/// How often progress is told: soon at first, then ever less often.
const PACES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));

/// How often it is told how much of the completions was sent.
const SENDING: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Plain {
    told: Option<(Instant, Duration)>,
    /// When it was last told how much was sent.
    sent: Option<Instant>,
    phases: HashMap<u32, (Discriminant<SlotPhase>, Option<String>)>,
}

impl Reporter for Plain {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Progress(progress) => self.progress(progress),
            Event::Sending { .. } => {
                if self.sent.is_none_or(|at| SENDING <= at.elapsed()) {
                    self.sent = Some(Instant::now());
                    for line in lines(event) {
                        note(&line);
                    }
                }
            }
            Event::Phase { slot, phase } => {
                let source = match phase {
                    SlotPhase::Fetching { source, .. } => Some(source.clone()),
                    SlotPhase::Renting
                    | SlotPhase::Booting
                    | SlotPhase::Connecting
                    | SlotPhase::Testing
                    | SlotPhase::Uploading { .. }
                    | SlotPhase::Loading { .. }
                    | SlotPhase::Working { .. } => None,
                };
                let kind = Some((discriminant(phase), source));
                // One line for each phase, not for each step of it. That it is being rented was said
                // with the offer.
                let is_said = matches!(phase, SlotPhase::Renting);
                if self.phases.get(slot) != kind.as_ref() && !is_said {
                    self.phases.extend(kind.map(|kind| (*slot, kind)));
                    note(&format!("machine {slot}: {}", phase_words(phase)));
                }
            }
            Event::RunStarted { .. }
            | Event::OfferChosen { .. }
            | Event::Rented { .. }
            | Event::Adopted { .. }
            | Event::Reconnecting { .. }
            | Event::Lost { .. }
            | Event::Exchanged { .. }
            | Event::Stopping { .. }
            | Event::Settling { .. }
            | Event::Released { .. }
            | Event::Stray { .. }
            | Event::EndedOverdue { .. }
            | Event::StillOwed { .. }
            | Event::LeftBehind { .. }
            | Event::GuardReplaced
            | Event::Unguarded { .. }
            | Event::Ordering
            | Event::Finished(_) => {
                for line in lines(event) {
                    note(&line);
                }
            }
        }
    }
}

impl Plain {
    fn progress(&mut self, progress: &Progress) {
        let now = Instant::now();
        let (last, pace) = self.told.unwrap_or((now, PACES.0));
        if self.told.is_none() {
            self.told = Some((now, PACES.0));
        } else if pace <= now.duration_since(last)
            && progress.done + progress.failed < progress.total
        {
            self.told = Some((now, (pace * 2).min(PACES.1)));
            note(&progress_words(progress));
        }
    }
}

/// What an event comes to, as lines without a terminal's tricks. None where it is for bars alone.
pub(super) fn lines(event: &Event) -> Vec<String> {
    match event {
        Event::RunStarted { run, model, engine, prompts, already, .. } => {
            let already = match already {
                0 => String::new(),
                some => format!(", {} already done", words::count(*some)),
            };
            let prompts = words::plural(*prompts, "prompt");
            vec![format!("run {run}: {prompts}{already}, {model}, {engine} engine")]
        }
        Event::OfferChosen { slot, provider, what, price } => {
            vec![format!("machine {slot}: renting {what} from {provider} at {price}")]
        }
        Event::Rented { slot, id, .. } => vec![format!("machine {slot}: rented, {id}")],
        Event::Adopted { slot, id, .. } => vec![format!("machine {slot}: still there, {id}")],
        Event::Reconnecting { slot, reason } => {
            vec![format!("machine {slot}: connecting again, since {reason}")]
        }
        Event::Lost { slot, reason } => vec![format!("machine {slot}: lost, since {reason}")],
        Event::Exchanged { slot, reason } => {
            vec![format!("machine {slot}: exchanged, since {reason}")]
        }
        Event::Stopping { reason } => vec![format!("stopping: {reason}")],
        Event::Settling { instances } => {
            vec![format!("giving back {}", words::plural(u64::from(*instances), "instance"))]
        }
        Event::Released { label, cost } => vec![format!("released {label}: {cost}")],
        Event::Stray { label, id } => {
            vec![format!("{id} is listed as {label}, and nobody asked for it: giving it back")]
        }
        Event::StillOwed { label, reason } => {
            vec![format!("{label} could not be given back yet: {reason}")]
        }
        Event::EndedOverdue { label } => vec![format!(
            "ended {label}: it was past its time, and its program doesn't give it back"
        )],
        Event::LeftBehind { reason } => vec![format!(
            "the run's key may be left on the account, where it costs nothing; `piecework cleanup` \
             tries again: {reason}"
        )],
        Event::GuardReplaced => vec!["the guard had died; another stands in its place".to_owned()],
        Event::Unguarded { reason } => vec![format!(
            "WARNING: the run's guard has died, and no other can be started: {reason}; should this \
             program die now, nobody gives back what it rents. Stop it with ^C, unless that can be \
             mended: it is tried again all the time"
        )],
        Event::Ordering => vec!["putting the completions in order".to_owned()],
        Event::Sending { to, done, total } => {
            vec![format!("sending to {to}: {} of {}", words::size(*done), words::size(*total))]
        }
        Event::Finished(summary) => summary::lines(summary),
        Event::Progress(_) | Event::Phase { .. } => Vec::new(),
    }
}

pub(super) fn progress_words(progress: &Progress) -> String {
    let over = progress.done + progress.failed;
    let share = 100.0 * over as f64 / progress.total.max(1) as f64;
    let left = progress
        .seconds_left
        .map_or_else(String::new, |left| format!(", {} left", words::seconds(left)));
    let waiting = match progress.waiting.values().map(|cost| cost.0).sum() {
        0 => String::new(),
        some => format!(", {} of it waiting", Usd(some)),
    };
    let expected = match progress.expected.filter(|cost| cost.0 != 0) {
        None => String::new(),
        Some(cost) => format!(" of about {cost}"),
    };
    format!(
        "{} of {} ({share:.1} %), {} prompts/s, {} tokens/s, {} spent{expected}{waiting}{left}",
        words::count(over),
        words::count(progress.total),
        words::rate(progress.prompts_per_second),
        words::rate(progress.tokens_per_second),
        progress.spent,
    )
}

pub(super) fn phase_words(phase: &SlotPhase) -> String {
    let part = |done: &u64, total: &u64| match total {
        0 => words::size(*done),
        total => format!("{} of {}", words::size(*done), words::size(*total)),
    };
    match phase {
        SlotPhase::Renting => "being rented".to_owned(),
        SlotPhase::Booting => "booting".to_owned(),
        SlotPhase::Connecting => "connecting".to_owned(),
        SlotPhase::Testing => "being tested".to_owned(),
        SlotPhase::Uploading { done, total } => {
            format!("getting the worker, {}", part(done, total))
        }
        SlotPhase::Fetching { source, done, total } => {
            format!("getting the model from {source}, {}", part(done, total))
        }
        SlotPhase::Loading { done, total } => format!("loading the model, {}", part(done, total)),
        SlotPhase::Working { engine, running, waiting, tokens_per_second, .. } => format!(
            "{engine}: {running} running, {waiting} waiting, {} tokens/s",
            words::rate(*tokens_per_second)
        ),
    }
}
