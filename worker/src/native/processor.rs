//! Steps on the CPU.

use super::{
    config::Config,
    executor::{Choice, Executor, Given},
    kv_cache::{Cache, KvNumber},
    memory,
    model::{Batch, Model, Workspace},
    panels::Panels,
};
use crate::engine::EngineError;

/// The part of the free memory that keys and values may take: one in this.
const KV_SHARE: u64 = 2;

/// A model in the computer's memory, with keys and values kept as `N`.
#[derive(Debug)]
pub(super) struct Processor<N> {
    model: Model,
    cache: Cache<N>,
    workspace: Workspace,
    logits: Panels,
    threads: usize,
}

impl<N: KvNumber> Processor<N> {
    /// The model, computed by so many threads.
    pub(super) fn new(model: Model, threads: usize) -> Self {
        let cache = Cache::new(model.config(), 0);
        let (workspace, logits) = (Workspace::default(), Panels::default());
        Self { model, cache, workspace, logits, threads }
    }
}

impl<N: KvNumber> Executor for Processor<N> {
    fn config(&self) -> &Config {
        self.model.config()
    }

    fn kind(&self) -> String {
        let plural = if self.threads == 1 { "" } else { "s" };
        format!("CPU, {} thread{plural}, {}", self.threads, self.model.kind())
    }

    fn weight_bytes(&self) -> u64 {
        self.model.bytes()
    }

    fn block_bytes(&self) -> u64 {
        Cache::<N>::block_bytes(self.model.config())
    }

    fn room(&self) -> Result<Option<u64>, EngineError> {
        Ok(memory::available().map(|bytes| bytes / KV_SHARE))
    }

    fn keep(&mut self, blocks: usize) -> Result<(), EngineError> {
        self.cache = Cache::new(self.model.config(), blocks);
        Ok(())
    }

    fn runs_ahead(&self) -> bool {
        false
    }

    fn begin(&mut self, batch: &Batch, _: &[Option<Choice>]) -> Result<(), EngineError> {
        self.model.step(batch, &mut self.cache, &mut self.workspace, &mut self.logits);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn given(&self, row: usize, logits: &mut Vec<f32>) -> Given {
        logits.resize(self.model.config().vocabulary, 0.0);
        self.logits.copy(row, 0..logits.len(), logits);
        Given::Logits
    }
}
