//! Steps that are recorded and replayed.

use super::{
    gpus,
    whole::{NONE, there_is},
};
use crate::{
    engine::EngineError,
    native::{
        blocks::Blocks,
        cuda::{
            self,
            device::{Device, Shape},
            emulated::Emulated,
            model::Gpu,
        },
        executor::{Choice, Executor, Given},
        model_files::ModelFiles,
        penalties::{Change, History},
        random::uniform,
        sampling::{Sampling, best},
        scheduler::{Bounds, Scheduler, Step},
        small_model::SmallModel,
    },
};
use serde_json::json;
use std::{collections::HashMap, path::Path};

const BOUNDS: Bounds = Bounds { sequences: 12, tokens: 64 };

const BLOCKS: usize = 60;

/// Prompts, of which some begin with a context that is split, one comes to have one, and some stay short.
const LENGTHS: [u32; 10] = [300, 4, 250, 33, 1, 90, 31, 8, 5, 64];

/// The one whose logits are wanted.
const READS_LOGITS: u64 = 5;

/// The step from which on the second GPU is told elsewhere.
const MOVES_AT: usize = 20;

type Opened = Option<Box<dyn Device>>;

fn load(path: &Path, open: &(dyn Fn(Shape) -> Opened + Sync)) -> Option<Gpu> {
    let files = ModelFiles::open(path).unwrap();
    let opened = |shape| open(shape).ok_or_else(|| EngineError::machine(NONE));
    let silent: &mut dyn FnMut(u64, u64) = &mut |_, _| {};
    there_is(cuda::load(files.config, &files.tensors, None, BOUNDS, &opened, silent))
}

/// Answers prompts on two GPUs, which must give the same at each step. Returns how many there were.
fn answer_alike(gpus: &mut [Gpu; 2], who: &str) -> usize {
    let mut scheduler = Scheduler::new(BOUNDS, Blocks::new(BLOCKS, true));
    let (mut left, mut histories) = (HashMap::new(), HashMap::new());
    for (seed, length) in (0_u32..).zip(LENGTHS) {
        let tokens: Vec<u32> = (0..length).map(|at| (at * 37 + seed * 11) % 256).collect();
        let sampling = Sampling { repetition_penalty: 1.2, ..Sampling::default() };
        let history = History::new(&sampling, &tokens);
        let id = scheduler.add(tokens, length as usize + 100);
        left.insert(id, 14 + 3 * seed);
        histories.insert(id, history);
    }
    for gpu in &mut *gpus {
        gpu.keep(BLOCKS).unwrap();
    }
    let mut steps = 0;
    while !scheduler.is_idle() {
        let Step { batch, wanted } = scheduler.plan();
        let choice = |id: &u64| {
            let temperature = if id.is_multiple_of(3) { 0.0 } else { 1.0 };
            let uniform = uniform(*id, steps as u64);
            // What is told of these grows from step to step, and isn't there at all of others.
            let change = id.is_multiple_of(4).then(|| Change {
                biases: vec![(7, 0.5)],
                repetition: 1.2,
                frequency: 0.1,
                presence: 0.0,
                history: histories[id].clone(),
            });
            let choice = Choice { temperature, top_p: 0.9, top_k: 0, min_p: 0.0, uniform, change };
            (*id != READS_LOGITS).then_some(choice)
        };
        let choices: Vec<_> = wanted.iter().map(choice).collect();
        if steps == MOVES_AT {
            // What comes next has no room where the others were.
            gpus[1].buffers.told = gpus[1].buffers.told.part(0, 16);
        }
        for gpu in &mut *gpus {
            gpu.begin(&batch, &choices).unwrap();
            gpu.finish().unwrap();
        }
        for (row, id) in wanted.iter().enumerate() {
            let [(given, logits), other] = gpus.each_ref().map(|gpu| {
                let mut logits = Vec::new();
                (gpu.given(row, &mut logits), logits)
            });
            let token = match given {
                Given::Token(token) => token.expect("the model computes numbers"),
                Given::Logits => best(&logits),
            };
            assert_eq!((given, logits), other, "{who}, step {steps}, {id}");
            scheduler.append(*id, token);
            histories.get_mut(id).unwrap().see(token);
            let left = left.get_mut(id).unwrap();
            *left -= 1;
            if *left == 0 {
                scheduler.finish(*id);
            }
        }
        steps += 1;
    }
    steps
}

#[test]
fn replayed_steps_give_what_told_ones_give() {
    for (who, open) in gpus("replayed_steps_give_what_told_ones_give") {
        for window in [None, Some(270)] {
            let folder = tempfile::tempdir().unwrap();
            let more = json!({"max_position_embeddings": 512, "sliding_window": window});
            SmallModel::new("mistral", more).write(folder.path(), 1);
            let Some(mut told) = load(folder.path(), &open) else { continue };
            told.again.most = 0;
            let mut gpus = [told, load(folder.path(), &open).unwrap()];
            let steps = answer_alike(&mut gpus, &format!("{who}, {window:?}"));
            let [told, replayed] = gpus;
            assert!(told.again.known.is_empty());
            let sizes = replayed.again.known.len();
            let recorded = replayed.again.known.values().flatten().count();
            assert!(
                1 < recorded && 4 * sizes < steps,
                "{steps} steps, {recorded} of {sizes} sizes"
            );
        }
    }
}

/// Two emulated GPUs of one small model, of which the first was changed.
fn beside_another(test: &str, change: fn(&mut Emulated)) -> Option<[Gpu; 2]> {
    let folder = tempfile::tempdir().unwrap();
    SmallModel::new("llama", json!({"max_position_embeddings": 512})).write(folder.path(), 1);
    let open = |change: fn(&mut Emulated)| {
        move |shape| {
            let mut emulated = Emulated::start(shape, test)?;
            change(&mut emulated);
            Some(Box::new(emulated) as Box<dyn Device>)
        }
    };
    let changed = load(folder.path(), &open(change))?;
    Some([changed, load(folder.path(), &open(|_| {})).unwrap()])
}

#[test]
fn a_gpu_that_cant_record_is_told_each_step() {
    let test = "a_gpu_that_cant_record_is_told_each_step";
    let Some(mut gpus) = beside_another(test, |emulated| emulated.can_record = false) else {
        return;
    };
    answer_alike(&mut gpus, "emulated");
    assert!(gpus[0].again.most == 0 && gpus[0].again.known.is_empty());
}

/// A GPU takes memory for a recording when it is first replayed, and may find none.
#[test]
fn a_gpu_that_cant_replay_any_more_is_told_each_step() {
    let test = "a_gpu_that_cant_replay_any_more_is_told_each_step";
    let Some(mut gpus) = beside_another(test, |emulated| emulated.replays = 3) else { return };
    answer_alike(&mut gpus, "emulated");
    assert!(gpus[0].again.most == 0 && gpus[0].again.known.is_empty());
}

#[test]
fn no_more_recordings_are_kept_than_there_may_be() {
    let test = "no_more_recordings_are_kept_than_there_may_be";
    let Some(mut gpus) = beside_another(test, |_| {}) else { return };
    gpus[0].again.most = 1;
    answer_alike(&mut gpus, "emulated");
    let recorded = gpus.map(|gpu| gpu.again.known.values().flatten().count());
    assert!(recorded[0] == 1 && 1 < recorded[1], "{recorded:?}");
}
