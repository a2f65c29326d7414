//! What stands between the engine's work and the model: who carries out steps, on whatever computes them.

use super::{config::Config, model::Batch, penalties::Change};
use crate::engine::EngineError;
use std::fmt::Debug;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    /// What logits are divided by; 0 takes the best token.
    pub(super) temperature: f32,
    /// The share of the probability from which is drawn, best tokens first.
    pub(super) top_p: f32,
    /// How many of the best tokens are drawn from; 0 is all.
    pub(super) top_k: usize,
    /// The least probability, as a share of the best token's.
    pub(super) min_p: f32,
    /// The draw, from 0 to below 1.
    pub(super) uniform: f64,
    /// What is done to the logits before; None where nothing is. Where the last token is one that nobody but the
    /// executor knows, it has been seen, too.
    pub(super) change: Option<Change>,
}

/// What a step gave for one wanted row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// Its logits.
    Logits,
    /// Its next token; None if its logits are no numbers.
    Token(Option<u32>),
}

/// A model with its keys and values. It carries out steps one after another, as they are begun.
pub(super) trait Executor: Debug + Send + Sync {
    /// What the model is made of.
    fn config(&self) -> &Config;

    /// What computes, and with what numbers, for people: "CPU, 2 threads, f32".
    fn kind(&self) -> String;

    /// Bytes of the weights in memory.
    fn weight_bytes(&self) -> u64;

    /// Bytes that a block of keys and values takes.
    fn block_bytes(&self) -> u64;

    /// Bytes that keys and values may take; None where nobody knows.
    fn room(&self) -> Result<Option<u64>, EngineError>;

    /// Makes room for so many blocks of keys and values. Called once, before the first step.
    fn keep(&mut self, blocks: usize) -> Result<(), EngineError>;

    /// Whether a step may begin before the one before it is finished, with tokens that nobody but the
    /// executor knows yet.
    fn runs_ahead(&self) -> bool;

    /// Begins a step, which takes the batch's tokens in. `choices` has an entry for each wanted row: how its
    /// next token is chosen, or None where its logits are wanted.
    ///
    /// One step at most may be unfinished, and none where the executor doesn't run ahead or where logits of
    /// that step are wanted.
    fn begin(&mut self, batch: &Batch, choices: &[Option<Choice>]) -> Result<(), EngineError>;

    /// Finishes the step that was begun first.
    fn finish(&mut self) -> Result<(), EngineError>;

    /// What the step that was finished last gave for the `row`-th wanted row; logits take the place of what
    /// is in `logits`, which a token leaves alone. They may be given where a token would do if the executor
    /// doesn't run ahead, and never the other way round.
    fn given(&self, row: usize, logits: &mut Vec<f32>) -> Given;
}
