//! One server's life: started, driven, and started again when it dies or hangs.

use super::{
    backlog::Backlog,
    concurrency::Search,
    drive::{Drive, End, Lost, Verdict},
    gpus::Gpu,
    launch::{Cause, Live, NotReady, launch},
    notes::note,
    plan::Plan,
    source::Source,
};
use crate::engine::{EngineError, Outlet};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// Starts that may fail in a row.
const STARTS: u32 = 3;

/// The wait between them.
const PAUSE: Duration = Duration::from_secs(1);

/// Deaths in a row, without an answer between them, after which it is the server's fault.
const DEATHS: u32 = 32;

/// Deaths at a prompt each that it had not been asked before, after which a server that has never answered
/// any is of no use. Nearly all of the others are needed to find a prompt that kills it.
const STRANGERS: u32 = 3;

/// One of a machine's servers.
#[derive(Debug)]
pub(super) struct Replica {
    plan: Arc<Plan>,
    number: usize,
    gpus: Vec<Gpu>,
    live: Live,
    search: Search,
    backlog: Backlog,
    /// What is held against prompts, until the server has shown that it can answer any.
    verdicts: Vec<Verdict>,
    deaths: u32,
    /// Whether it has ever answered.
    proven: bool,
    /// Of the deaths, those at a prompt alone that it had not been asked before.
    strangers: u32,
}

impl Replica {
    /// Starts it and waits until it is ready.
    pub(super) async fn start(
        plan: Arc<Plan>,
        number: usize,
        gpus: Vec<Gpu>,
    ) -> Result<Self, EngineError> {
        let mut search = Search::new(plan.server.parallel.start, plan.parallel);
        let live = start(&plan, number, &gpus, &mut search).await?;
        search.launched();
        let backlog = Backlog::default();
        let (verdicts, deaths, proven, strangers) = (Vec::new(), 0, false, 0);
        Ok(Self { plan, number, gpus, live, search, backlog, verdicts, deaths, proven, strangers })
    }

    /// Answers prompts until there are no more. Then it is still there, for those that another
    /// server may leave; if it can't go on, its own are left to the others.
    pub(super) async fn run(
        mut self,
        source: Arc<Source>,
        outlet: Outlet,
    ) -> Result<Self, EngineError> {
        loop {
            let drive = Drive {
                plan: &self.plan,
                number: self.number,
                live: &mut self.live,
                search: &mut self.search,
                backlog: &mut self.backlog,
                verdicts: &mut self.verdicts,
                outlet: &outlet,
                doubted: 0 < self.deaths && !self.proven,
            };
            let (end, answered) = drive.run(&source).await;
            if answered {
                (self.deaths, self.proven) = (0, true);
            }
            let End::Lost(lost) = end else { return Ok(self) };
            if let Err(error) = self.restart(lost).await {
                note(self.number, "it is given up; others get its prompts, if there are any");
                // Whether they or the server was at fault, another server may show.
                source.leave(self.verdicts.drain(..).map(|verdict| verdict.prompt));
                source.leave(self.backlog.take_all());
                return Err(error);
            }
        }
    }

    /// Ends its server.
    pub(super) async fn end(mut self) {
        self.live.process.end().await;
    }

    async fn restart(&mut self, lost: Lost) -> Result<(), EngineError> {
        let Lost { why, there, at_a_stranger } = lost;
        self.live.process.end().await;
        let (words, out_of_memory) = self.live.process.last_words(&self.plan.server.out_of_memory);
        let why = format!("the server {} {why}", self.plan.server.name);
        note(self.number, &format!("{why}, with {} prompts; its log ends: {words}", there.len()));
        self.deaths += 1;
        self.strangers += u32::from(at_a_stranger);
        if DEATHS <= self.deaths || !self.proven && STRANGERS <= self.strangers {
            for attempt in there {
                self.backlog.put_back(attempt);
            }
            return Err(EngineError::work(format!(
                "{why}, {} times without an answer in between; its log ends: {words}",
                self.deaths
            )));
        }
        if out_of_memory {
            self.search.out_of_memory();
            note(self.number, &format!("from now on {} prompts at once", self.search.limit()));
        }
        if out_of_memory && 1 < there.len() {
            for attempt in there {
                self.backlog.put_back(attempt);
            }
        } else if let Some(guilty) = self.backlog.died(there) {
            if out_of_memory {
                // It was this prompt that was too much, not the number of prompts.
                self.search.start_over();
                note(self.number, "one prompt took all the memory; the search starts over");
            }
            let reason = format!("{why}, twice at this prompt alone; its log ends: {words}");
            self.verdicts.push(Verdict { prompt: guilty.prompt, reason });
        }
        self.live = start(&self.plan, self.number, &self.gpus, &mut self.search).await?;
        Ok(())
    }
}

/// Starts a server, again where that fails, with fewer prompts at once where memory lacks.
async fn start(
    plan: &Plan,
    number: usize,
    gpus: &[Gpu],
    search: &mut Search,
) -> Result<Live, EngineError> {
    let mut failed = 0;
    loop {
        let NotReady { reason, cause } = match launch(plan, number, gpus, search.most()).await {
            Ok(live) => return Ok(live),
            Err(not_ready) => not_ready,
        };
        note(number, &reason);
        if cause == Cause::Memory && 1 < search.most() {
            search.out_of_memory();
            continue;
        }
        failed += 1;
        if STARTS <= failed || cause == Cause::Time {
            return Err(EngineError::work(reason));
        }
        sleep(PAUSE).await;
    }
}
