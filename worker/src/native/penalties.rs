//! What penalties and biases do to logits, by which tokens were seen before.

use super::sampling::Sampling;
use std::sync::Arc;

/// A token of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The token.
    pub(super) token: u32,
    /// How often it was generated.
    pub(super) count: u32,
    /// Whether it is among the prompt's that are kept, too.
    pub(super) in_prompt: bool,
}

/// Which tokens were seen, as far as penalties need it: each once, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    /// Those of the prompt.
    pub(super) prompt: Arc<[u32]>,
    /// Those of the answer.
    pub(super) answer: Vec<Seen>,
}

impl History {
    /// What `sampling` needs to know of a prompt.
    pub(super) fn new(sampling: &Sampling, prompt: &[u32]) -> Self {
        let mut prompt =
            if sampling.is_repetition_penalised() { prompt.to_vec() } else { Vec::new() };
        prompt.sort_unstable();
        prompt.dedup();
        Self { prompt: prompt.into(), answer: Vec::new() }
    }

    /// Takes note of a token of the answer.
    pub(super) fn note(&mut self, sampling: &Sampling, token: u32) {
        if sampling.is_repetition_penalised() || sampling.is_answer_penalised() {
            self.see(token);
        }
    }

    /// Adds a token to the answer.
    pub(super) fn see(&mut self, token: u32) {
        match self.answer.binary_search_by_key(&token, |seen| seen.token) {
            Ok(at) => self.answer[at].count += 1,
            Err(at) => {
                let in_prompt = self.prompt.binary_search(&token).is_ok();
                self.answer.insert(at, Seen { token, count: 1, in_prompt });
            }
        }
    }
}

/// What is done to logits before a token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    /// Added to logits, first. No token is there twice.
    pub(super) biases: Vec<(u32, f32)>,
    /// What positive logits of tokens seen before are divided by, negative ones multiplied; 1 does nothing.
    pub(super) repetition: f32,
    /// Taken off a logit for each time that its token was generated, in the end.
    pub(super) frequency: f32,
    /// Taken off a logit once its token was generated, with the other.
    pub(super) presence: f32,
    /// What was seen.
    pub(super) history: History,
}

impl Change {
    /// Does it.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        let Self { biases, repetition, frequency, presence, history } = self;
        for (token, bias) in biases {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        let repeat = |logit: &mut f32| {
            *logit = if 0.0 < *logit { *logit / repetition } else { *logit * repetition };
        };
        for token in &*history.prompt {
            repeat(&mut logits[*token as usize]);
        }
        for Seen { token, count, in_prompt } in &history.answer {
            let logit = &mut logits[*token as usize];
            if !in_prompt {
                repeat(logit);
            }
            *logit -= frequency * *count as f32 + presence;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_seen_once_however_often_it_was_there() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let mut history = History::new(&sampling, &[7, 3, 7, 1]);
        for token in [9, 3, 9, 0] {
            history.note(&sampling, token);
        }
        let seen = |token, count, in_prompt| Seen { token, count, in_prompt };
        assert_eq!(*history.prompt, [1, 3, 7]);
        assert_eq!(history.answer, [seen(0, 1, false), seen(3, 1, true), seen(9, 2, false)]);
        let change = Change {
            biases: vec![(3, 1.0), (1000, 1.0)],
            repetition: 2.0,
            frequency: 0.5,
            presence: 0.25,
            history,
        };
        let mut logits = [-1.0, 2.0, 4.0, 5.0, 4.0, 4.0, 4.0, -3.0, 4.0, 8.0];
        change.apply(&mut logits);
        let wanted = [-2.75, 1.0, 4.0, 2.25, 4.0, 4.0, 4.0, -6.0, 4.0, 2.75_f32];
        assert_eq!(logits.map(f32::to_bits), wanted.map(f32::to_bits));
    }

    #[test]
    fn nothing_is_kept_that_no_penalty_asks_for() {
        let plain = Sampling::default();
        let mut history = History::new(&plain, &[1, 2]);
        history.note(&plain, 3);
        assert_eq!(history, History::default());
        let presence = Sampling { presence_penalty: 0.5, ..plain };
        let mut history = History::new(&presence, &[1, 2]);
        history.note(&presence, 1);
        assert_eq!((history.prompt.len(), history.answer.len()), (0, 1));
    }
}
