//! The engine at work: prompts in, steps, completions out.
//!
//! ```text
//! executor   ─[ step 1 ]─[ step 2 ]─[ step 3 ]─
//! this        plan 2 ─ take in 1 ─ plan 3 ─ take in 2 ─
//! ```
//!
//! Where the executor runs ahead, it is at a step while the tokens of the one before are taken in here and
//! the one after is planned, unless a step's logits are wanted: its tokens are chosen here, and the step
//! after it needs them.

use super::{
    answer::{Answer, Finish},
    blocks::Blocks,
    executor::{Executor, Given},
    random::mix,
    request::{self, Input, Request},
    response::{self, Facts},
    scheduler::{Bounds, Scheduler, SequenceId, Step},
    setup::Native,
};
use crate::engine::{ANSWER_TOKENS, EngineError, Next, Outlet, Prompts, Wait};
use rayon::prelude::*;
use std::{collections::HashMap, sync::Arc};
use wire::{Completion, Failure, Outcome, Prompt};

/// A prompt that can be begun.
struct Prepared {
    index: u64,
    request: Request,
    tokens: Vec<u32>,
}

/// A prompt under way.
struct Open {
    index: u64,
    request: Arc<Request>,
    tokens_in: usize,
    sequences: Vec<SequenceId>,
    done: Vec<(SequenceId, Answer, Finish)>,
}

/// Everything that changes while the engine works.
struct Work<'a> {
    native: &'a Native,
    executor: &'a mut dyn Executor,
    outlet: &'a Outlet,
    scheduler: Scheduler,
    /// By their prompt's position in the input.
    open: HashMap<u64, Open>,
    /// Answers under way, and the prompts that they are for.
    answers: HashMap<SequenceId, (u64, Answer)>,
    /// Whose next tokens the step gives that was begun and isn't finished.
    unfinished: Option<Vec<SequenceId>>,
}

/// Answers prompts until there are no more.
pub(super) fn run(
    native: &Native,
    executor: &mut dyn Executor,
    mut prompts: Prompts,
    outlet: &Outlet,
) -> Result<(), EngineError> {
    let bounds = Bounds { sequences: native.batch, tokens: native.step_tokens };
    let mut work = Work {
        native,
        executor,
        outlet,
        scheduler: Scheduler::new(bounds, Blocks::new(native.blocks, native.sharing)),
        open: HashMap::new(),
        answers: HashMap::new(),
        unfinished: None,
    };
    let mut over = false;
    loop {
        let mut taken = Vec::new();
        // A few wait inside, so that one can begin the moment another ends.
        let room = (native.batch + native.batch / 8 + 1).saturating_sub(work.answers.len());
        while !over && taken.len() < room {
            match prompts.look() {
                Next::Prompt(prompt) => taken.push(prompt),
                Next::NotYet => break,
                Next::Over => over = true,
            }
        }
        if taken.is_empty() && work.scheduler.is_idle() && work.unfinished.is_none() {
            match prompts.wait() {
                Some(prompt) => taken.push(prompt),
                None => return Ok(()),
            }
        }
        work.begin(taken);
        work.step()?;
    }
}

impl Work<'_> {
    fn begin(&mut self, prompts: Vec<Prompt>) {
        let native = self.native;
        let prepared: Vec<_> = prompts
            .into_par_iter()
            .map(|prompt| (prompt.index, prepare(native, &prompt)))
            .collect();
        for (index, prepared) in prepared {
            match prepared {
                Ok(prepared) => self.add(prepared),
                Err((failure, reason)) => self.fail(index, failure, reason),
            }
        }
    }

    fn add(&mut self, prepared: Prepared) {
        let Prepared { index, request, tokens } = prepared;
        let request = Arc::new(request);
        let room = self.native.context - tokens.len();
        let limit = request.max_tokens.unwrap_or(ANSWER_TOKENS.max(request.min_tokens)).min(room);
        let mut sequences = Vec::new();
        for choice in 0..request.choices {
            let answer = Answer::new(Arc::clone(&request), choice, &tokens, limit);
            let id = self.scheduler.add(tokens.clone(), tokens.len() + limit);
            sequences.push(id);
            self.answers.insert(id, (index, answer));
        }
        let open = Open { index, request, tokens_in: tokens.len(), sequences, done: Vec::new() };
        self.open.insert(index, open);
    }

    /// Begins a step, and takes in what the one before it gave.
    fn step(&mut self) -> Result<(), EngineError> {
        let Step { batch, wanted } = self.scheduler.plan();
        let Self { native, executor, outlet, answers, .. } = self;
        let ask = |id| {
            let (_, answer) = answers.get_mut(id).expect("each sequence has an answer");
            answer.ask(&native.vocabulary)
        };
        let choices: Vec<_> = wanted.iter().map(ask).collect();
        let begins = !batch.tokens.is_empty();
        if begins {
            let _wait = wait(native, outlet);
            executor.begin(&batch, &choices)?;
        }
        if let Some(before) = self.unfinished.take() {
            self.take_in(&before)?;
        }
        if begins && self.native.ahead && choices.iter().all(Option::is_some) {
            self.unfinished = Some(wanted);
        } else if begins {
            self.take_in(&wanted)?;
        }
        Ok(())
    }

    /// Finishes the step that was begun first, and takes in what it gave.
    fn take_in(&mut self, wanted: &[SequenceId]) -> Result<(), EngineError> {
        let Self { native, executor, outlet, answers, .. } = self;
        let waiting = wait(native, outlet);
        executor.finish()?;
        drop(waiting);
        let executor = &**executor;
        // Who ended with the step before has no more answer, and what this one gave is nobody's.
        let answer = |(row, id): (usize, &SequenceId)| Some((row, *id, answers.remove(id)?));
        let answers: Vec<_> = wanted.iter().enumerate().filter_map(answer).collect();
        let advanced: Vec<_> = answers
            .into_par_iter()
            .map_init(
                // Where all tokens were chosen elsewhere, none takes memory.
                Vec::new,
                |row_logits, (row, id, (index, mut answer))| {
                    let result = match executor.given(row, row_logits) {
                        Given::Logits => answer.advance(row_logits, &native.vocabulary),
                        Given::Token(token) => {
                            token.map(|token| answer.accept(token, &native.vocabulary))
                        }
                    };
                    (id, index, answer, result)
                },
            )
            .collect();
        for (id, index, answer, result) in advanced {
            // Another answer to the same prompt may just have shown that there is none.
            let Some(open) = self.open.get(&index) else { continue };
            let first = answer.count <= 1 && open.sequences[0] == id;
            let tokens_in = if first { open.tokens_in as u64 } else { 0 };
            self.outlet.count(tokens_in, 1);
            match result {
                Some((token, None)) => {
                    self.scheduler.append(id, token);
                    self.answers.insert(id, (index, answer));
                }
                Some((_, Some(finish))) => self.finish(id, index, answer, finish),
                None => self.give_up(index),
            }
        }
        Ok(())
    }

    fn finish(&mut self, id: SequenceId, index: u64, answer: Answer, finish: Finish) {
        self.scheduler.finish(id);
        let open = self.open.get_mut(&index).expect("a prompt is open until its last answer");
        open.done.push((id, answer, finish));
        if open.done.len() < open.sequences.len() {
            return;
        }
        let mut open = self.open.remove(&index).expect("it was there");
        open.done.sort_by_key(|(id, ..)| *id);
        let answers: Vec<_> =
            open.done.into_iter().map(|(_, answer, finish)| (answer, finish)).collect();
        let tokens_out: usize = answers.iter().map(|(answer, _)| answer.count).sum();
        let facts = Facts {
            model: &self.native.name,
            id: mix(self.native.defaults.seed, open.index),
            tokens_in: open.tokens_in,
        };
        let body = response::write(facts, &open.request, &answers, &self.native.vocabulary);
        let saturated = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (tokens_in, tokens_out) = (saturated(open.tokens_in), saturated(tokens_out));
        let outcome = Outcome::Done { body, tokens_in, tokens_out };
        self.outlet.finish(Completion { index, outcome });
    }

    /// Fails a prompt whose logits are no numbers.
    fn give_up(&mut self, index: u64) {
        let Some(open) = self.open.remove(&index) else { return };
        for id in open.sequences {
            self.scheduler.finish(id);
            self.answers.remove(&id);
        }
        let reason =
            "the model computes no numbers at this prompt: its weights or their precision \
                      don't carry it"
                .to_owned();
        self.fail(index, Failure::Engine, reason);
    }

    fn fail(&self, index: u64, failure: Failure, reason: String) {
        self.outlet.finish(Completion { index, outcome: Outcome::Failed { failure, reason } });
    }
}

/// That a device is waited for. A processor has no driver that may hang, and a step of its may take long.
fn wait<'a>(native: &Native, outlet: &'a Outlet) -> Option<Wait<'a>> {
    native.ahead.then(|| outlet.wait())
}

fn prepare(native: &Native, prompt: &Prompt) -> Result<Prepared, (Failure, String)> {
    let bad = |reason: String| (Failure::BadRequest, reason);
    let request = request::read(prompt, &native.defaults).map_err(bad)?;
    let vocabulary = &native.vocabulary;
    let tokens = match &request.input {
        Input::Chat(messages, more) => {
            let template = native.template.as_ref().expect("without one a chat is refused");
            let (begin, end) = (vocabulary.begin.as_deref(), vocabulary.end.as_deref());
            let text = template.render(messages, more.as_ref(), begin, end).map_err(bad)?;
            // The template writes what frames a text itself.
            vocabulary.encode(&text, false).map_err(bad)?
        }
        Input::Text(text) => vocabulary.encode(text, true).map_err(bad)?,
        Input::Tokens(tokens) => tokens.clone(),
    };
    let size = native.vocabulary_size;
    if let Some(token) = tokens.iter().find(|token| size <= **token as usize) {
        return Err(bad(format!("the prompt has the token {token}, and the model only {size}")));
    }
    if tokens.is_empty() {
        return Err(bad("the prompt is empty".to_owned()));
    }
    if native.context <= tokens.len() {
        let (length, context) = (tokens.len(), native.context);
        return Err((
            Failure::TooLong,
            format!("the prompt has {length} tokens, and with its answer it may have {context}"),
        ));
    }
    Ok(Prepared { index: prompt.index, request, tokens })
}
