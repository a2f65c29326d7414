//! Events as bars, on a terminal: one for the whole run, and a line for each machine.

use super::{Reporter, plain};
use crate::event::{Event, Progress, SlotPhase};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use providers::Usd;
use std::collections::BTreeMap;

/// How often the screen is drawn, in Hz.
const FRAMES: u8 = 10;

pub(super) struct Bars {
    screen: MultiProgress,
    run: Option<ProgressBar>,
    machines: BTreeMap<u32, Line>,
    sending: Option<ProgressBar>,
}

/// A machine's line.
struct Line {
    bar: ProgressBar,
    /// What it is at.
    words: String,
    /// What it has cost, while it has answered nothing yet.
    waiting: Option<Usd>,
}

impl Line {
    fn show(&self) {
        let price = self.waiting.filter(|cost| cost.0 != 0);
        let price = price.map_or_else(String::new, |cost| format!(", {cost} spent waiting"));
        self.bar.set_message(format!("{}{price}", self.words));
    }
}

impl Bars {
    pub(super) fn new() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(FRAMES);
        let screen = MultiProgress::with_draw_target(target);
        Self { screen, run: None, machines: BTreeMap::new(), sending: None }
    }

    fn progress(&mut self, progress: &Progress) {
        let bar = self.run.get_or_insert_with(|| {
            self.screen
                .add(ProgressBar::new(progress.total).with_style(style("{bar:24.green} {msg}")))
        });
        bar.set_position(progress.done + progress.failed);
        bar.set_message(plain::progress_words(progress));
        for (slot, line) in &mut self.machines {
            line.waiting = progress.waiting.get(slot).copied();
            line.show();
        }
    }

    fn phase(&mut self, slot: u32, phase: &SlotPhase) {
        let line = self.machines.entry(slot).or_insert_with(|| {
            let bar = ProgressBar::new(0).with_style(style("{spinner} {msg}"));
            let bar = match &self.run {
                // Machines stand above the run.
                Some(run) => self.screen.insert_before(run, bar),
                None => self.screen.add(bar),
            };
            bar.enable_steady_tick(std::time::Duration::from_millis(120));
            Line { bar, words: String::new(), waiting: None }
        });
        line.words = format!("machine {slot}: {}", plain::phase_words(phase));
        line.show();
    }

    fn sending(&mut self, event: &Event, done: u64, total: u64) {
        let bar = self.sending.get_or_insert_with(|| {
            self.screen.add(ProgressBar::new(total).with_style(style("{bar:24.green} {msg}")))
        });
        bar.set_position(done);
        bar.set_message(plain::lines(event).concat());
    }

    fn say(&self, event: &Event) {
        for line in plain::lines(event) {
            // A screen that can't be drawn to has nobody before it.
            drop(self.screen.println(line));
        }
    }

    fn clear(&mut self) {
        for bar in
            self.machines.values().map(|line| &line.bar).chain(&self.run).chain(&self.sending)
        {
            bar.finish_and_clear();
        }
        self.machines.clear();
        (self.run, self.sending) = (None, None);
        // A screen that can't be drawn to has nothing on it.
        drop(self.screen.clear());
    }
}

impl Reporter for Bars {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Progress(progress) => self.progress(progress),
            Event::Phase { slot, phase } => self.phase(*slot, phase),
            Event::Sending { done, total, .. } => self.sending(event, *done, *total),
            Event::Lost { slot, .. } | Event::Exchanged { slot, .. } => {
                if let Some(line) = self.machines.remove(slot) {
                    line.bar.finish_and_clear();
                }
                self.say(event);
            }
            Event::Settling { .. } | Event::Ordering | Event::Finished(_) => {
                self.clear();
                self.say(event);
            }
            Event::RunStarted { .. }
            | Event::OfferChosen { .. }
            | Event::Rented { .. }
            | Event::Adopted { .. }
            | Event::Reconnecting { .. }
            | Event::Stopping { .. }
            | Event::Released { .. }
            | Event::Stray { .. }
            | Event::EndedOverdue { .. }
            | Event::StillOwed { .. }
            | Event::LeftBehind { .. }
            | Event::GuardReplaced
            | Event::Unguarded { .. } => self.say(event),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant")
}
