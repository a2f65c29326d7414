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

/// Deaths in a row, with no answer between them but to plain prompts, after which the server is of no use. To
/// find a prompt that kills it among a thousand takes half as many.
const DEATHS: u32 = 32;

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
}

impl Replica {
    /// Starts it and waits until it is ready.
    pub(super) async fn start(
        plan: Arc<Plan>,
        number: usize,
        gpus: Vec<Gpu>,
    ) -> Result<Self, EngineError> {
        let mut search = Search::new(plan.server.parallel.start, plan.parallel);
        let live = start(&plan, number, &gpus, &mut search).await.map_err(EngineError::work)?;
        search.launched();
        let (backlog, verdicts, deaths, proven) = (Backlog::default(), Vec::new(), 0, false);
        Ok(Self { plan, number, gpus, live, search, backlog, verdicts, deaths, proven })
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
            };
            let (end, answered) = drive.run(&source).await;
            if answered {
                (self.deaths, self.proven) = (0, true);
            }
            let End::Lost(lost) = end else { return Ok(self) };
            if let Err(reason) = self.restart(lost).await {
                note(self.number, "it is given up; others get its prompts, if there are any");
                // Whether they or the server was at fault, another server may show.
                source.leave(self.verdicts.drain(..).map(|verdict| verdict.prompt));
                source.leave(self.backlog.take_all());
                // What it could do once can be done, on a machine that is in order.
                let whose = if self.proven { EngineError::machine } else { EngineError::work };
                return Err(whose(reason));
            }
        }
    }

    /// Ends its server.
    pub(super) async fn end(mut self) {
        self.live.process.end().await;
    }

    /// Starts it anew. Fails with why that isn't possible, or of no use.
    async fn restart(&mut self, lost: Lost) -> Result<(), String> {
        let Lost { why, there } = lost;
        self.live.process.end().await;
        let (words, out_of_memory) = self.live.process.last_words(&self.plan.server.out_of_memory);
        let why = format!("the server {} {why}", self.plan.server.name);
        note(self.number, &format!("{why}, with {} prompts; its log ends: {words}", there.len()));
        self.deaths += 1;
        if DEATHS <= self.deaths {
            for attempt in there {
                self.backlog.put_back(attempt);
            }
            return Err(format!(
                "{why}, {DEATHS} times without an answer in between; its log ends: {words}"
            ));
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
) -> Result<Live, String> {
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
            return Err(reason);
        }
        sleep(PAUSE).await;
    }
}
