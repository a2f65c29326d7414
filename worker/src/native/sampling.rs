//! From logits to a token.
//!
//! The order is that of vLLM: penalties and biases, temperature, `top_k`, `top_p`, `min_p`, then
//! one draw. Equal logits rank by token, so the same logits give the same token everywhere.

use super::{
    executor::Choice,
    penalties::{Change, History},
    random::uniform,
    simd::{Loop, vectorized},
};
use std::cmp::Ordering;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sampling {
    /// What logits are divided by; 0 takes the best token.
    pub(super) temperature: f32,
    /// The share of the probability from which is drawn, best tokens first.
    pub(super) top_p: f32,
    /// How many of the best tokens are drawn from; 0 is all.
    pub(super) top_k: usize,
    /// The least probability, as a share of the best token's.
    pub(super) min_p: f32,
    /// The seed of all draws.
    pub(super) seed: u64,
    /// Taken off a logit for each time that its token was generated.
    pub(super) frequency_penalty: f32,
    /// Taken off a logit once its token was generated.
    pub(super) presence_penalty: f32,
    /// What positive logits of tokens seen before are divided by, negative ones multiplied.
    pub(super) repetition_penalty: f32,
    /// Added to logits.
    pub(super) biases: Vec<(u32, f32)>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: 0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            biases: Vec::new(),
        }
    }
}

impl Sampling {
    /// Chooses the answer's token at `position`. Tokens in `banned` are not chosen.
    pub(super) fn choose(
        &self,
        logits: &mut [f32],
        position: usize,
        history: &History,
        banned: &[u32],
    ) -> u32 {
        if let Some(change) = self.change(history) {
            change.apply(logits);
        }
        for token in banned {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        if self.temperature <= 0.0 {
            return best(logits);
        }
        draw(&self.candidates(logits), uniform(self.seed, position as u64))
    }

    /// How the answer's token at `position` is chosen.
    pub(super) fn choice(&self, position: usize, history: &History) -> Choice {
        Choice {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            uniform: uniform(self.seed, position as u64),
            change: self.change(history),
        }
    }

    /// Whether tokens of the prompt and the answer count.
    pub(super) fn is_repetition_penalised(&self) -> bool {
        (self.repetition_penalty - 1.0).abs() > f32::EPSILON
    }

    /// Whether tokens of the answer count.
    pub(super) fn is_answer_penalised(&self) -> bool {
        self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    /// What is done to the logits; None if nothing is.
    fn change(&self, history: &History) -> Option<Change> {
        let is_repetition_penalised = self.is_repetition_penalised();
        let changes =
            !self.biases.is_empty() || is_repetition_penalised || self.is_answer_penalised();
        changes.then(|| Change {
            biases: self.biases.clone(),
            repetition: if is_repetition_penalised { self.repetition_penalty } else { 1.0 },
            frequency: self.frequency_penalty,
            presence: self.presence_penalty,
            history: history.clone(),
        })
    }

    /// The tokens to draw from and their weights; the best has the weight 1.
    pub(super) fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let largest = logits[best(logits) as usize];
        let weight = |logit: f32| f64::from((logit - largest) / self.temperature).exp();
        let all = logits.iter().zip(0..).map(|(logit, token)| (token, *logit));
        if self.top_k == 0 && self.top_p >= 1.0 {
            let all = all.map(|(token, logit)| (token, weight(logit)));
            return all.filter(|(_, weight)| f64::from(self.min_p) <= *weight).collect();
        }
        let mut ranked: Vec<(u32, f32)> = all.filter(|(_, logit)| logit.is_finite()).collect();
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if 0 < self.top_k && self.top_k < ranked.len() {
            ranked.select_nth_unstable_by(self.top_k, order);
            ranked.truncate(self.top_k);
        }
        let total: f64 = ranked.iter().map(|(_, logit)| weight(*logit)).sum();
        let mut kept = Vec::new();
        let mut reached = 0.0;
        // Sorting a few at a time: the best tokens mostly reach `top_p` long before the last.
        while !ranked.is_empty() && (reached < f64::from(self.top_p) * total || kept.is_empty()) {
            let count = (kept.len() * 4).max(64).min(ranked.len());
            if count < ranked.len() {
                ranked.select_nth_unstable_by(count, order);
            }
            let rest = ranked.split_off(count);
            ranked.sort_unstable_by(order);
            for (token, logit) in std::mem::replace(&mut ranked, rest) {
                if f64::from(self.top_p) * total <= reached && !kept.is_empty() {
                    break;
                }
                reached += weight(logit);
                kept.push((token, weight(logit)));
            }
        }
        kept.retain(|(_, weight)| f64::from(self.min_p) <= *weight);
        kept
    }
}

/// The token with the largest logit; of several, the first. 0 if there is none above minus infinity.
pub(super) fn best(logits: &[f32]) -> u32 {
    vectorized(Best(logits))
}

struct Best<'a>(&'a [f32]);

impl Loop for Best<'_> {
    type Output = u32;

    #[inline(always)]
    fn run(self) -> u32 {
        const LANES: u32 = 32;
        let mut largest = [f32::NEG_INFINITY; LANES as usize];
        let mut found = [0_u32; LANES as usize];
        let (chunks, rest) = self.0.as_chunks::<{ LANES as usize }>();
        for (chunk, logits) in (0..).zip(chunks) {
            for lane in 0..LANES as usize {
                let is_larger = largest[lane] < logits[lane];
                largest[lane] = if is_larger { logits[lane] } else { largest[lane] };
                found[lane] = if is_larger { chunk } else { found[lane] };
            }
        }
        let last = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        for (lane, logit) in rest.iter().enumerate() {
            if largest[lane] < *logit {
                (largest[lane], found[lane]) = (*logit, last);
            }
        }
        let mut best = (0, f32::NEG_INFINITY);
        for ((lane, chunk), logit) in (0..).zip(found).zip(largest) {
            let token = chunk * LANES + lane;
            let is_better = match logit.partial_cmp(&best.1) {
                Some(Ordering::Greater) => true,
                Some(Ordering::Equal) => token < best.0,
                Some(Ordering::Less) | None => false,
            };
            if is_better {
                best = (token, logit);
            }
        }
        best.0
    }
}

/// The candidate that a draw from 0 to below 1 falls on.
pub(super) fn draw(candidates: &[(u32, f64)], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let mut left = uniform * total;
    for (token, weight) in candidates {
        left -= weight;
        if left < 0.0 {
            return *token;
        }
    }
    candidates.last().expect("the best token is always among them").0
}

/// A token's log-probability, and those of the most probable tokens.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LogProbs {
    /// The chosen token.
    pub(super) token: u32,
    /// The natural logarithm of its probability before any change by sampling.
    pub(super) logprob: f64,
    /// The best tokens, best first.
    pub(super) top: Vec<(u32, f64)>,
}

/// The log-probabilities of all tokens: the natural logarithm of the softmax.
pub(super) fn log_normaliser(logits: &[f32]) -> f64 {
    let largest = f64::from(logits[best(logits) as usize]);
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    largest + sum.ln()
}

/// The `count` largest logits, as log-probabilities.
pub(super) fn top(logits: &[f32], count: usize, normaliser: f64) -> Vec<(u32, f64)> {
    let mut ranked: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if 0 < count && count < ranked.len() {
        ranked.select_nth_unstable_by(count - 1, order);
    }
    ranked.truncate(count);
    ranked.sort_unstable_by(order);
    ranked.into_iter().map(|(token, logit)| (token, f64::from(logit) - normaliser)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(sampling: &Sampling, logits: &[f32]) -> Vec<u32> {
        let draw = |seed| {
            let sampling = Sampling { seed, ..sampling.clone() };
            sampling.choose(&mut logits.to_vec(), 0, &History::default(), &[])
        };
        let mut tokens: Vec<u32> = (0..2000).map(draw).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    const LOGITS: [f32; 5] = [0.0, 3.0, 2.0, 2.5, -1.0];

    #[test]
    fn each_limit_leaves_the_tokens_that_it_should() {
        let all = Sampling::default();
        assert_eq!(chosen(&all, &LOGITS), [0, 1, 2, 3, 4]);
        assert_eq!(chosen(&Sampling { temperature: 0.0, ..all.clone() }, &LOGITS), [1]);
        assert_eq!(chosen(&Sampling { top_k: 2, ..all.clone() }, &LOGITS), [1, 3]);
        // Probabilities are about 0.48, 0.29, 0.18, 0.02 and 0.01.
        assert_eq!(chosen(&Sampling { top_p: 0.5, ..all.clone() }, &LOGITS), [1, 3]);
        assert_eq!(chosen(&Sampling { top_p: 0.0, ..all.clone() }, &LOGITS), [1]);
        assert_eq!(chosen(&Sampling { min_p: 0.3, ..all.clone() }, &LOGITS), [1, 2, 3]);
        assert_eq!(chosen(&Sampling { temperature: 0.01, ..all }, &LOGITS), [1]);
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_probable() {
        let count = (0..20_000)
            .filter(|seed| {
                let sampling = Sampling { seed: *seed, ..Sampling::default() };
                sampling.choose(&mut LOGITS.to_vec(), 0, &History::default(), &[]) == 1
            })
            .count();
        let share = 3_f64.exp() / LOGITS.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>();
        assert!((count as f64 / 20_000.0 - share).abs() < 0.015, "{count} of 20000, not {share}");
    }

    #[test]
    fn penalties_biases_and_bans_move_the_best_token() {
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        let best = |sampling: &Sampling, prompt: &[u32], answer: &[u32], banned: &[u32]| {
            let mut history = History::new(sampling, prompt);
            for token in answer {
                history.note(sampling, *token);
            }
            sampling.choose(&mut LOGITS.to_vec(), answer.len(), &history, banned)
        };
        let presence = Sampling { presence_penalty: 0.6, ..greedy.clone() };
        assert_eq!(best(&presence, &[1], &[], &[]), 1, "prompts are not penalised");
        assert_eq!(best(&presence, &[], &[1], &[]), 3);
        let frequency = Sampling { frequency_penalty: 0.3, ..greedy.clone() };
        assert_eq!(best(&frequency, &[], &[1], &[]), 1);
        assert_eq!(best(&frequency, &[], &[1, 1], &[]), 3);
        let repetition = Sampling { repetition_penalty: 2.0, ..greedy.clone() };
        assert_eq!(best(&repetition, &[1], &[3], &[]), 2);
        let bias = Sampling { biases: vec![(4, 100.0)], ..greedy.clone() };
        assert_eq!(best(&bias, &[], &[], &[]), 4);
        assert_eq!(best(&greedy, &[], &[], &[1]), 3);
    }

    #[test]
    fn many_candidates_are_cut_where_a_full_sort_would_cut_them() {
        let logits: Vec<f32> = (0..3000_u16).map(|i| (f32::from(i) * 0.37).sin()).collect();
        let sampling = Sampling { top_p: 0.7, ..Sampling::default() };
        let kept = sampling.candidates(&logits);
        let total: f64 = logits.iter().map(|logit| f64::from(logit - 1.0).exp()).sum();
        let weights: Vec<f64> = kept.iter().map(|(_, weight)| *weight).collect();
        assert!(weights.is_sorted_by(|a, b| a >= b));
        let scale = total / f64::from(logits[kept[0].0 as usize] - 1.0).exp();
        let sum: f64 = weights.iter().sum();
        assert!(0.7 * scale <= sum && sum - weights[weights.len() - 1] < 0.7 * scale);
    }

    #[test]
    fn the_best_token_is_the_first_of_the_largest_wherever_it_is() {
        for count in [1, 31, 32, 33, 100] {
            for at in 0..count {
                let mut logits = vec![f32::NAN; count];
                logits[count - 1] = 0.5;
                logits[at] = 1.5;
                logits[(at + 33).min(count - 1).max(at)] = 1.5;
                assert_eq!(best(&logits) as usize, at, "of {count}");
            }
        }
        assert_eq!(best(&[f32::NAN, f32::NEG_INFINITY]), 0);
    }

    #[test]
    fn log_probabilities_add_up_and_rank() {
        let normaliser = log_normaliser(&LOGITS);
        let all = top(&LOGITS, 5, normaliser);
        assert!((all.iter().map(|(_, logprob)| logprob.exp()).sum::<f64>() - 1.0).abs() < 1e-9);
        let tokens: Vec<u32> =
            top(&LOGITS, 3, normaliser).iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, [1, 3, 2]);
    }
}
