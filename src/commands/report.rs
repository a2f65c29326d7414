//! `report`: what a run did, what it cost, and what it would have cost elsewhere.

use super::{CommandError, open_home};
use crate::{
    cli::ReportArgs,
    clock,
    exit::Exit,
    hosted::{self, Likeness, Quote},
    leases::describe,
    ledger::{self, Books},
    model::shape_of,
    need::Workload,
    report,
    run::{Plan, RunFolder, errors_of},
    settings::hosted_prices,
    shards::{Ordered, finished, reasons, so_far},
    story::{Account, Source, account, read},
};
use std::path::Path;

/// Hosted prices that are shown of each likeness, at most.
const QUOTES: usize = 5;

/// Reports.
pub(super) async fn report(args: ReportArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let home = open_home(home)?;
    let folder = home.find(&args.run)?;
    let plan = folder.plan()?;
    let made = tokio::task::spawn_blocking(move || make(&folder, &plan));
    let made = made.await.map_err(|crash| CommandError::new(Exit::Failed, crash))?;
    let account = made.map_err(|error| CommandError::new(Exit::Failed, error))?;
    if args.json {
        report::out(&serde_json::to_string(&account).expect("an account has only plain values"));
    }
    if let Some(path) = &args.html {
        std::fs::write(path, report::page(&account)).map_err(|error| {
            let error = format!("`{}` can't be written: {error}", path.display());
            CommandError::new(Exit::Failed, error)
        })?;
        report::note(&format!("report: {}", path.display()));
    }
    if !args.json && args.html.is_none() {
        report::account(&account);
    }
    Ok(Exit::Done)
}

/// Reads everything that there is of a run. Changes nothing, so that it may go on meanwhile.
fn make(
    folder: &RunFolder,
    plan: &Plan,
) -> Result<Account, Box<dyn std::error::Error + Send + Sync>> {
    let files = folder.files(plan);
    let running = ledger::is_in_use(&folder.ledger());
    let books = Books::read(&folder.ledger())?.unwrap_or_default();
    let results = so_far(&files)?;
    let story = read(&folder.story()).unwrap_or_else(|error| {
        report::warning(&format!("the run's story can't be read: {}", describe(&error)));
        Vec::new()
    });
    let over = finished(&files).is_some();
    let errors = if over { errors_of(folder, plan) } else { files.errors() };
    let failures = reasons(&errors).ok().filter(|reasons| {
        // Somebody may have taken the file away.
        results.failed == 0 || !reasons.is_empty()
    });
    let quotes = quotes(plan, &results);
    let (story, books, now) = (&story, &books, clock::now());
    Ok(account(Source { plan, books, story, results, failures, quotes, running, now }))
}

/// What the same tokens would have cost at others: the cheapest of each likeness.
fn quotes(plan: &Plan, results: &Ordered) -> Vec<Quote> {
    if results.completed == 0 {
        return Vec::new();
    }
    let (model, prompts) = (&plan.job.model, results.completed);
    let each = |tokens: u64| tokens as f64 / prompts as f64;
    let (input, output) = (each(results.tokens_in), each(results.tokens_out));
    let work = Workload { prompts, input, output };
    let shape = plan.shape.clone().or_else(|| shape_of(model).ok());
    let own = hosted_prices().unwrap_or_else(|error| {
        report::warning(&describe(&error));
        Vec::new()
    });
    let all = hosted::quotes(&model.name, shape.as_ref(), &work, &own);
    let cheapest = |likeness| {
        let alike = all.iter().filter(move |quote| quote.likeness == likeness);
        alike.take(QUOTES).cloned()
    };
    [Likeness::Same, Likeness::Alike, Likeness::Closed].into_iter().flat_map(cheapest).collect()
}
