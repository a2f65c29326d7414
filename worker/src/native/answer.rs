//! One answer as it grows, token by token.

use super::{
    executor::Choice,
    penalties::History,
    request::Request,
    sampling::{LogProbs, Sampling, best, log_normaliser, top},
    vocabulary::{Stream, Vocabulary},
};
use std::sync::Arc;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// The model ended it, or a stop text did.
    Stop,
    /// It has as many tokens as it may have.
    Length,
}

/// One answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    request: Arc<Request>,
    sampling: Sampling,
    history: History,
    stream: Stream,
    limit: usize,
    /// Tokens asked for so far, by steps that were begun.
    asked: usize,
    /// Tokens generated so far, an end among them.
    pub(super) count: usize,
    /// The text so far.
    pub(super) text: String,
    /// The log-probabilities of the text's tokens, where they are wanted.
    pub(super) logprobs: Vec<LogProbs>,
}

impl Answer {
    /// The `choice`-th answer to `prompt`, of up to `limit` tokens.
    pub(super) fn new(request: Arc<Request>, choice: usize, prompt: &[u32], limit: usize) -> Self {
        let mut sampling = request.sampling.clone();
        if 0 < choice {
            sampling.seed = super::random::mix(sampling.seed, choice as u64);
        }
        let history = History::new(&sampling, prompt);
        let (text, stream, logprobs) = (String::new(), Stream::default(), Vec::new());
        Self { request, sampling, history, stream, limit, asked: 0, count: 0, text, logprobs }
    }

    /// Asks for another token: how it is chosen, where nothing else is wanted. Those asked for before need not be
    /// known yet; if one isn't, it is not in what was seen.
    pub(super) fn ask(&mut self, vocabulary: &Vocabulary) -> Option<Choice> {
        let position = self.asked;
        self.asked += 1;
        let is_early = position < self.request.min_tokens;
        let bans = is_early && self.ends(vocabulary).next().is_some();
        let is_plain = self.request.logprobs.is_none() && !bans;
        is_plain.then(|| self.sampling.choice(position, &self.history))
    }

    /// Chooses the next token and takes it in. Also says whether the answer ends with it.
    ///
    /// None if the logits are no numbers.
    pub(super) fn advance(
        &mut self,
        logits: &mut [f32],
        vocabulary: &Vocabulary,
    ) -> Option<(u32, Option<Finish>)> {
        let facts = self.request.logprobs.map(|wanted| {
            let normaliser = log_normaliser(logits);
            (normaliser, top(logits, wanted.top, normaliser), logits.to_vec())
        });
        let early = self.is_early();
        let banned: Vec<u32> = if early { self.ends(vocabulary).collect() } else { Vec::new() };
        if !logits[best(logits) as usize].is_finite() {
            return None;
        }
        let token = self.sampling.choose(logits, self.count, &self.history, &banned);
        let facts = facts.map(|(normaliser, top, plain)| {
            let logprob = f64::from(plain[token as usize]) - normaliser;
            LogProbs { token, logprob, top }
        });
        Some(self.take(token, facts, vocabulary))
    }

    /// Takes in a token that was chosen as [`ask`](Self::ask) says. Also says whether the answer
    /// ends with it.
    pub(super) fn accept(&mut self, token: u32, vocabulary: &Vocabulary) -> (u32, Option<Finish>) {
        self.take(token, None, vocabulary)
    }

    fn take(
        &mut self,
        token: u32,
        facts: Option<LogProbs>,
        vocabulary: &Vocabulary,
    ) -> (u32, Option<Finish>) {
        let early = self.is_early();
        self.history.note(&self.sampling, token);
        self.count += 1;
        if self.ends(vocabulary).any(|end| end == token) {
            self.text += &self.stream.finish(vocabulary);
            return (token, Some(Finish::Stop));
        }
        self.logprobs.extend(facts);
        let before = self.text.len();
        self.text += &self.stream.push(vocabulary, token);
        let last = self.limit <= self.count;
        if last {
            self.text += &self.stream.finish(vocabulary);
        }
        if let Some(at) = self.stopped(before).filter(|_| !early) {
            self.text.truncate(at);
            return (token, Some(Finish::Stop));
        }
        (token, last.then_some(Finish::Length))
    }

    /// Whether it may not end yet.
    fn is_early(&self) -> bool {
        self.count < self.request.min_tokens
    }

    /// The tokens that end this answer.
    fn ends<'a>(&'a self, vocabulary: &'a Vocabulary) -> impl Iterator<Item = u32> + 'a {
        let own = (!self.request.ignore_end).then_some(&vocabulary.ends);
        own.into_iter().flatten().chain(&self.request.stop_tokens).copied()
    }

    /// Where the first stop text begins that ends in what came after `before`.
    fn stopped(&self, before: usize) -> Option<usize> {
        let find = |stop: &String| {
            // It may have begun in what was there before.
            let mut from = (before + 1).saturating_sub(stop.len());
            while !self.text.is_char_boundary(from) {
                from -= 1;
            }
            self.text[from..].find(stop.as_str()).map(|at| from + at)
        };
        self.request.stop.iter().filter_map(find).min()
    }
}
