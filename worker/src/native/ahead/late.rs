//! An executor for tests that runs ahead of what is computed here: it chooses tokens itself and gives them only
//! when it is asked to finish, as a GPU does. What it is told it holds against what executors promise.

use crate::{
    engine::{EngineError, Gauge},
    native::{
        config::Config,
        executor::{Choice, Executor, Given},
        model::Batch,
        sampling::{Sampling, best, draw},
    },
};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// What a step gave for a row, until it is asked for: the token that was chosen, or else its logits.
type Row = Result<Option<u32>, Vec<f32>>;

/// One that runs ahead.
#[derive(Debug)]
pub(super) struct Late {
    inner: Box<dyn Executor>,
    unfinished: VecDeque<Vec<Row>>,
    /// What the step that was begun last gave.
    last: Vec<Row>,
    given: Vec<Row>,
    /// Rows whose token nobody else knew.
    ahead: Arc<AtomicUsize>,
    /// What must say that a device is waited for while this is at something.
    pub(super) gauge: Option<Arc<Gauge>>,
}

impl Late {
    /// It has `inner` compute, and counts in `ahead` the rows whose token nobody else knew.
    pub(super) fn new(inner: Box<dyn Executor>, ahead: Arc<AtomicUsize>) -> Self {
        let (unfinished, last, given) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { inner, unfinished, last, given, ahead, gauge: None }
    }

    fn is_waited_for(&self) {
        if let Some(gauge) = &self.gauge {
            assert!(gauge.waiting_since().is_some(), "nobody would notice if this hung");
        }
    }
}

/// Chooses after `last`, if nobody else knows that.
fn choose(choice: &Choice, last: Option<u32>, logits: &[f32]) -> u32 {
    let Choice { temperature, top_p, top_k, min_p, uniform, change } = choice.clone();
    let mut logits = logits.to_vec();
    if let Some(mut change) = change {
        if let Some(token) = last {
            change.history.see(token);
        }
        change.apply(&mut logits);
    }
    let sampling = Sampling { temperature, top_p, top_k, min_p, ..Sampling::default() };
    if temperature <= 0.0 { best(&logits) } else { draw(&sampling.candidates(&logits), uniform) }
}

impl Executor for Late {
    fn config(&self) -> &Config {
        self.inner.config()
    }

    fn kind(&self) -> String {
        format!("{}, late", self.inner.kind())
    }

    fn weight_bytes(&self) -> u64 {
        self.inner.weight_bytes()
    }

    fn block_bytes(&self) -> u64 {
        self.inner.block_bytes()
    }

    fn room(&self) -> Result<Option<u64>, EngineError> {
        self.inner.room()
    }

    fn keep(&mut self, blocks: usize) -> Result<(), EngineError> {
        self.inner.keep(blocks)
    }

    fn runs_ahead(&self) -> bool {
        true
    }

    fn begin(&mut self, batch: &Batch, choices: &[Option<Choice>]) -> Result<(), EngineError> {
        self.is_waited_for();
        assert!(self.unfinished.len() < 2, "one step at most is unfinished");
        let gives_tokens = |step: &Vec<Row>| step.iter().all(Result::is_ok);
        assert!(self.unfinished.iter().all(gives_tokens), "nobody goes ahead of logits");
        let mut batch = batch.clone();
        for (row, wanted) in &batch.unknown {
            assert!(!self.unfinished.is_empty(), "what is known is told");
            let token = self.last[*wanted].as_ref().expect("it is chosen here");
            // Without one the prompt is given up, and any will do.
            batch.tokens[*row] = token.unwrap_or(0);
        }
        self.ahead.fetch_add(batch.unknown.len(), Relaxed);
        self.inner.begin(&batch, choices)?;
        self.inner.finish()?;
        let mut logits = Vec::new();
        let mut give = |(row, choice): (usize, &Option<Choice>)| {
            self.inner.given(row, &mut logits);
            let is_number = logits[best(&logits) as usize].is_finite();
            let own = batch.wanted[row];
            let last = batch.unknown.iter().any(|(row, _)| *row == own).then(|| batch.tokens[own]);
            let token = |choice| is_number.then(|| choose(choice, last, &logits));
            choice.as_ref().map(token).ok_or_else(|| logits.clone())
        };
        self.last = choices.iter().enumerate().map(&mut give).collect();
        self.unfinished.push_back(self.last.clone());
        Ok(())
    }

    fn finish(&mut self) -> Result<(), EngineError> {
        self.is_waited_for();
        self.given = self.unfinished.pop_front().expect("a step was begun");
        Ok(())
    }

    fn given(&self, row: usize, logits: &mut Vec<f32>) -> Given {
        match &self.given[row] {
            Ok(token) => Given::Token(*token),
            Err(given) => {
                logits.clone_from(given);
                Given::Logits
            }
        }
    }
}
