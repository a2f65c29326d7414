//! Prompts that came back unanswered, and the search for those that kill the server.
//!
//! A server that dies takes all prompts down that it was at. They are begun again first. Those that
//! are there at a second death are suspects: half of them is tried with nobody else there, then
//! the other half; of a half that kills the server again each half is tried, and so on. One that
//! kills it twice alone is guilty, and everyone else gets an answer on the way. Nothing in here
//! waits, asks or looks at a clock.

use std::collections::VecDeque;
use wire::Prompt;

/// Deaths after which those that were there at all of them are suspects.
const DEATHS: u32 = 2;

/// Deaths alone with the server that prove a prompt guilty. One may be an accident.
const ALONE: u32 = 2;

/// Failures by itself, the server living on, after which a prompt is given up.
const FAILURES: u32 = 3;

/// A prompt, and what it has been through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// The prompt.
    pub(super) prompt: Prompt,
    deaths: u32,
    alone: u32,
    failures: u32,
}

impl Attempt {
    /// A prompt that hasn't been tried.
    pub(super) fn new(prompt: Prompt) -> Self {
        Self { prompt, deaths: 0, alone: 0, failures: 0 }
    }
}

/// What to begin next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This one.
    Begin(Attempt),
    /// Nothing, until something under way has ended.
    Wait,
    /// A prompt that hasn't been tried.
    Fresh,
}

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    returned: VecDeque<Attempt>,
    /// Groups of suspects; the last is tried next.
    suspects: Vec<Vec<Attempt>>,
    /// What is left to begin of the group on trial.
    trial: Option<Vec<Attempt>>,
}

impl Backlog {
    /// What to begin, while `under_way` prompts are.
    pub(super) fn next(&mut self, under_way: usize) -> Next {
        if let Some(group) = &mut self.trial {
            if let Some(attempt) = group.pop() {
                return Next::Begin(attempt);
            }
            if 0 < under_way {
                return Next::Wait;
            }
            self.trial = None;
        }
        if !self.suspects.is_empty() {
            if 0 < under_way {
                return Next::Wait;
            }
            self.trial = self.suspects.pop();
            return self.next(0);
        }
        self.returned.pop_front().map_or(Next::Fresh, Next::Begin)
    }

    /// Whether nothing is left in here.
    pub(super) fn is_empty(&self) -> bool {
        self.returned.is_empty() && self.suspects.is_empty() && self.trial.is_none()
    }

    /// Everything in here, for another server to begin anew.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Prompt> {
        let Self { returned, suspects, trial } = std::mem::take(self);
        let suspects = suspects.into_iter().chain(trial).flatten();
        returned.into_iter().chain(suspects).map(|attempt| attempt.prompt)
    }

    /// Takes back a prompt that is no worse for it.
    pub(super) fn put_back(&mut self, attempt: Attempt) {
        match &mut self.trial {
            Some(group) => group.push(attempt),
            None => self.returned.push_front(attempt),
        }
    }

    /// Takes back a prompt that failed by itself, which counts as so many failures. Comes out again
    /// if it has failed too often.
    pub(super) fn failed(&mut self, mut attempt: Attempt, failures: u32) -> Option<Attempt> {
        attempt.failures += failures;
        if FAILURES <= attempt.failures {
            return Some(attempt);
        }
        self.put_back(attempt);
        None
    }

    /// The server died while it was at these prompts. Comes out with one that is proven guilty.
    pub(super) fn died(&mut self, mut there: Vec<Attempt>) -> Option<Attempt> {
        let on_trial = self.trial.take();
        // Those that weren't begun have nothing to do with it.
        if let Some(rest) = on_trial.as_ref().filter(|rest| !rest.is_empty()) {
            self.suspects.push(rest.clone());
        }
        for attempt in &mut there {
            attempt.deaths += 1;
        }
        if let [attempt] = there.as_mut_slice() {
            attempt.alone += 1;
            if ALONE <= attempt.alone {
                return there.pop();
            }
        }
        let suspects = if on_trial.is_some() {
            there
        } else {
            let (suspects, others): (Vec<_>, Vec<_>) =
                there.into_iter().partition(|attempt| DEATHS <= attempt.deaths);
            for attempt in others.into_iter().rev() {
                self.returned.push_front(attempt);
            }
            suspects
        };
        self.suspect(suspects);
        None
    }

    fn suspect(&mut self, mut group: Vec<Attempt>) {
        if 1 < group.len() {
            let half = group.split_off(group.len() / 2);
            self.suspects.push(half);
        }
        if !group.is_empty() {
            self.suspects.push(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use wire::Form;

    fn attempt(index: u64) -> Attempt {
        Attempt::new(Prompt { index, form: Form::Text, body: "{}".into() })
    }

    /// What became of prompts `0..count`, `at_once` at once, on a server that dies after it has
    /// begun one of `deadly`, or after so many answers by accident.
    struct World {
        answered: BTreeSet<u64>,
        guilty: BTreeSet<u64>,
        deaths: u32,
    }

    fn play(count: u64, at_once: usize, deadly: &[u64], accident_every: Option<u64>) -> World {
        let mut world = World { answered: BTreeSet::new(), guilty: BTreeSet::new(), deaths: 0 };
        let (mut backlog, mut fresh) = (Backlog::default(), (0..count).map(attempt));
        let (mut under_way, mut answers) = (VecDeque::<Attempt>::new(), 0);
        loop {
            while under_way.len() < at_once {
                match backlog.next(under_way.len()) {
                    Next::Begin(attempt) => under_way.push_back(attempt),
                    Next::Wait => break,
                    Next::Fresh => match fresh.next() {
                        Some(attempt) => under_way.push_back(attempt),
                        None => break,
                    },
                }
            }
            let Some(first) = under_way.front() else {
                assert!(backlog.is_empty(), "it would wait for ever: {backlog:?}");
                return world;
            };
            // The oldest is served first, and kills the server when its turn comes.
            answers += 1;
            let accident = accident_every.is_some_and(|every| answers % every == 0);
            if accident || deadly.contains(&first.prompt.index) {
                world.deaths += 1;
                let guilty = backlog.died(under_way.drain(..).collect());
                world.guilty.extend(guilty.map(|attempt| attempt.prompt.index));
            } else {
                let done = under_way.pop_front().expect("it was looked at");
                assert!(world.answered.insert(done.prompt.index), "answered twice");
            }
            assert!(world.deaths < 10_000, "it never ends");
        }
    }

    #[test]
    fn the_guilty_are_found_and_everyone_else_is_answered() {
        for at_once in [1, 2, 7, 64] {
            for deadly in [&[][..], &[0], &[999], &[5, 6, 7, 8], &[3, 300, 301, 640, 998]] {
                let world = play(1000, at_once, deadly, None);
                let expected: BTreeSet<u64> = deadly.iter().copied().collect();
                assert_eq!(world.guilty, expected, "{at_once} at once");
                assert_eq!(world.answered.len() + expected.len(), 1000, "{at_once} at once");
                // Two before suspicion, then one for each halving, and one more alone.
                let most = deadly.len() * (4 + at_once.ilog2() as usize + 1);
                assert!((world.deaths as usize) <= most, "{} deaths of {most}", world.deaths);
            }
        }
    }

    #[test]
    fn accidents_make_nobody_guilty() {
        for at_once in [2, 8, 64] {
            let world = play(1000, at_once, &[], Some(37));
            assert!(20 < world.deaths);
            assert_eq!((world.guilty.len(), world.answered.len()), (0, 1000), "{at_once} at once");
        }
    }

    #[test]
    fn a_prompt_that_fails_by_itself_is_given_up_after_three_tries() {
        let mut backlog = Backlog::default();
        let mut attempt = attempt(4);
        for _ in 0..2 {
            assert_eq!(backlog.failed(attempt, 1), None);
            let Next::Begin(again) = backlog.next(9) else { panic!("it comes again") };
            attempt = again;
        }
        assert_eq!(backlog.failed(attempt, 1).map(|attempt| attempt.prompt.index), Some(4));
        assert!(backlog.is_empty());
    }
}
