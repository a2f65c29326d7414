//! What the host tells kernels, as words in memory.

use super::device::WORD;
use crate::native::{
    executor::Choice,
    penalties::{Change, Seen},
};
use std::ops::Range;

/// Words that say how a row's token is chosen, as `choosing.cu` has it.
const CHOICE_WORDS: usize = 16;

/// Which of them says where the row's lists begin.
const LISTS: usize = 11;

/// 2⁶⁴. A draw has 53 bits, so its product with this is exact.
const DRAWS: f64 = 18_446_744_073_709_551_616.0;

/// Words one after another, each piece at an address that 16 divides.
#[derive(Default)]
pub(super) struct Words {
    /// What they are in memory.
    pub(super) bytes: Vec<u8>,
}

impl Words {
    /// Adds a piece, and says where it lies.
    pub(super) fn add(&mut self, words: impl IntoIterator<Item = i32>) -> Range<usize> {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let start = self.bytes.len();
        self.bytes.extend(words.into_iter().flat_map(i32::to_le_bytes));
        start..self.bytes.len()
    }

    /// Adds items behind what is there. There may be a million, so that room for them is made once.
    fn put<const N: usize>(&mut self, items: impl ExactSizeIterator<Item = [i32; N]>) {
        let start = self.bytes.len();
        self.bytes.resize(start + items.len() * N * WORD, 0);
        for (place, item) in self.bytes[start..].chunks_exact_mut(N * WORD).zip(items) {
            for (place, word) in place.as_chunks_mut::<WORD>().0.iter_mut().zip(item) {
                *place = word.to_le_bytes();
            }
        }
    }
}

/// A number of rows as kernels read it.
pub(super) fn signed(count: usize) -> i32 {
    i32::try_from(count).expect("rows of a step fit into 31 bits")
}

/// How a row's token is chosen, where among chosen tokens it goes, and where there the last one is if nobody else
/// knows it. One without a choice is chosen for like any other, and nobody looks.
pub(super) fn choice_words(
    choice: Option<&Choice>,
    place: usize,
    last: Option<usize>,
) -> [i32; CHOICE_WORDS] {
    let place = signed(place);
    let Some(Choice { temperature, top_p, top_k, min_p, uniform, change }) = choice else {
        return [0, 0, 0, 0, 0, 0, place, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to below 1"
    )]
    let draw = (uniform * DRAWS) as u64;
    let [low, high] = [draw, draw >> 32].map(|half| (half & 0xffff_ffff) as u32);
    let last = last.filter(|_| change.is_some()).map_or(-1, signed);
    let (numbers, counts) = change.as_ref().map_or(([0.0; 3], [0; 3]), |change| {
        let Change { biases, repetition, frequency, presence, history } = change;
        let counts = [biases.len(), history.prompt.len(), history.answer.len()];
        ([*repetition, *frequency, *presence], counts)
    });
    let [repetition, frequency, presence] = numbers.map(bits);
    let [biases, prompt, answer] = counts.map(signed);
    [
        bits(*temperature),
        bits(*top_p),
        bits(*min_p),
        i32::try_from(*top_k).unwrap_or(i32::MAX),
        low.cast_signed(),
        high.cast_signed(),
        place,
        last,
        repetition,
        frequency,
        presence,
        0,
        biases,
        prompt,
        answer,
        0,
    ]
}

/// Adds the lists of what is done to rows' logits, and says in their choices where they are. They come behind
/// what lies at the same place in each step, however long they are.
pub(super) fn add_lists(words: &mut Words, choices: &[Option<&Choice>], at: &Range<usize>) {
    let changes = choices.iter().map(|choice| choice.and_then(|choice| choice.change.as_ref()));
    for (row, change) in changes.enumerate() {
        let Some(Change { biases, history, .. }) = change else { continue };
        let own = at.start + (row * CHOICE_WORDS + LISTS) * WORD;
        let from_first = signed((words.bytes.len() - at.start) / WORD);
        words.bytes[own..own + WORD].copy_from_slice(&from_first.to_le_bytes());
        let biases = biases.iter().map(|(token, bias)| [token.cast_signed(), bits(*bias)]);
        words.put(biases);
        words.put(history.prompt.iter().map(|token| [token.cast_signed()]));
        words.put(history.answer.iter().map(|seen| {
            let Seen { token, count, in_prompt } = *seen;
            let mark = if in_prompt { i32::MIN } else { 0 };
            [token.cast_signed() | mark, count.cast_signed()]
        }));
    }
}

fn bits(number: f32) -> i32 {
    number.to_bits().cast_signed()
}
