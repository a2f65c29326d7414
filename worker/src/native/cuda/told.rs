//! What the host tells a step: all in one piece, which lies the same way in each step of the same sizes.

use super::{
    device::{Memory, Shape},
    plan::{self, Attention, Merge, Sizes, Task},
    words::{Words, add_lists, choice_words, signed},
};
use crate::native::{config::Config, executor::Choice, model::Batch};
use std::ops::Range;

/// What a step is told, in the GPU's memory.
#[derive(Debug)]
pub(super) struct Told {
    /// Rows.
    pub(super) rows: usize,
    /// Rows whose next tokens are wanted.
    pub(super) wanted: usize,
    /// Which they are; None if they are all.
    pub(super) wanted_rows: Option<Memory>,
    /// Whether any of them has its token chosen by the GPU.
    pub(super) chooses: bool,
    pub(super) tokens: Memory,
    pub(super) positions: Memory,
    pub(super) slots: Memory,
    pub(super) choices: Memory,
    pub(super) tables: Memory,
    /// For layers that see everything, and for those with a window.
    pub(super) attention: [Tiles; 2],
    /// All that sets this step's kernels apart from another's but for what lies in memory; None where nobody
    /// counts on seeing it again.
    pub(super) sizes: Option<Sizes>,
}

/// What attention is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    pub(super) tasks: Memory,
    pub(super) task_count: usize,
    pub(super) merges: Memory,
    pub(super) merge_count: usize,
}

/// Where things lie in what is told.
#[derive(Debug)]
pub(super) struct Layout {
    sizes: Option<Sizes>,
    rows: usize,
    wanted: usize,
    chooses: bool,
    tokens: Range<usize>,
    positions: Range<usize>,
    slots: Range<usize>,
    wanted_rows: Range<usize>,
    choices: Range<usize>,
    tables: Range<usize>,
    tiles: [(Range<usize>, Range<usize>); 2],
}

/// Lays out what a step is told. The step before put the tokens that it chose behind the first of `places`
/// others, and this one puts its own behind the second.
///
/// A step in which each sequence decodes one token is filled up to round [`Sizes`] with rows that are
/// nobody's, and with tiles that have nothing to do.
pub(super) fn lay(
    batch: &Batch,
    choices: &[Option<Choice>],
    shape: Shape,
    config: &Config,
    places: [usize; 2],
) -> (Words, Layout) {
    let [before, place] = places;
    let mut rows = plan::rows(batch, before);
    // Without windows there is nothing to plan for layers that have one.
    let windows = [Some(None), config.window.map(|(window, _)| Some(window))];
    let mut attention = windows.map(|window| {
        window.map(|window| plan::attention(batch, shape, window)).unwrap_or_default()
    });
    let sizes = plan::sizes(batch, &attention);
    let mut choices: Vec<_> = choices.iter().map(Option::as_ref).collect();
    let mut chooses = choices.iter().any(Option::is_some);
    if let Some(Sizes { rows: count, tasks }) = sizes {
        rows.tokens.resize(count, 0);
        rows.positions.resize(count, 0);
        rows.slots.resize(count, -1);
        choices.resize(count, None);
        chooses = true;
        for (attention, tasks) in attention.iter_mut().zip(tasks) {
            attention.tasks.resize(tasks, Task::default());
            attention.merges.resize(if count < tasks { count } else { 0 }, Merge::default());
        }
    }
    // A wanted row's own token is its sequence's last. Where that is one of those that the step before chose, nobody
    // else knows it.
    let own = |row: usize| batch.wanted.get(row).map(|row| rows.tokens[*row]);
    let last = |row: usize| own(row).and_then(|token| usize::try_from(-1 - token).ok());
    let last: Vec<_> = (0..choices.len()).map(last).collect();
    let mut words = Words::default();
    let count = rows.tokens.len();
    let [tokens, positions, slots] =
        [rows.tokens, rows.positions, rows.slots].map(|each| words.add(each));
    let wanted_rows = batch.wanted.iter().filter(|_| sizes.is_none());
    let wanted_rows = words.add(wanted_rows.map(|row| signed(*row)));
    let wanted = choices.len();
    let each = choices.iter().zip(last).zip(place..);
    let choice_place =
        words.add(each.flat_map(|((choice, last), place)| choice_words(*choice, place, last)));
    let tiles = attention.map(|Attention { tasks, merges, .. }| {
        (words.add(tasks.into_iter().flatten()), words.add(merges.into_iter().flatten()))
    });
    // Last, as only their length isn't among the sizes; but for lists, which rows look up by themselves.
    let tables = words.add(rows.tables);
    add_lists(&mut words, &choices, &choice_place);
    let layout = Layout {
        sizes,
        rows: count,
        wanted,
        chooses,
        tokens,
        positions,
        slots,
        wanted_rows,
        choices: choice_place,
        tables,
        tiles,
    };
    (words, layout)
}

impl Told {
    /// What is told, where it was written.
    pub(super) fn new(layout: Layout, memory: Memory) -> Self {
        let at = |range: Range<usize>| memory.part(range.start, range.len());
        let [first, second] = layout.tiles;
        let tiles = |(tasks, merges): (Range<usize>, Range<usize>)| Tiles {
            task_count: tasks.len() / size_of::<Task>(),
            merge_count: merges.len() / size_of::<Merge>(),
            tasks: at(tasks),
            merges: at(merges),
        };
        Self {
            rows: layout.rows,
            wanted: layout.wanted,
            wanted_rows: layout.sizes.is_none().then(|| at(layout.wanted_rows)),
            chooses: layout.chooses,
            tokens: at(layout.tokens),
            positions: at(layout.positions),
            slots: at(layout.slots),
            choices: at(layout.choices),
            tables: at(layout.tables),
            attention: [tiles(first), tiles(second)],
            sizes: layout.sizes,
        }
    }
}
