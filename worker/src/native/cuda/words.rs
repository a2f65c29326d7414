//! What the host tells kernels, as words in memory.

use crate::native::executor::Choice;
use std::ops::Range;

/// Words that say how a row's token is chosen, as `choosing.cu` has it.
const CHOICE_WORDS: usize = 8;

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
}

/// A number of rows as kernels read it.
pub(super) fn signed(count: usize) -> i32 {
    i32::try_from(count).expect("rows of a step fit into 31 bits")
}

/// How a row's token is chosen, and where among chosen tokens it goes. One without a choice is chosen for
/// like any other, and nobody looks.
pub(super) fn choice_words(choice: Option<Choice>, place: usize) -> [i32; CHOICE_WORDS] {
    let place = signed(place);
    let Some(Choice { temperature, top_p, top_k, min_p, uniform }) = choice else {
        return [0, 0, 0, 0, 0, 0, place, 0];
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to below 1"
    )]
    let draw = (uniform * DRAWS) as u64;
    let [low, high] = [draw, draw >> 32].map(|half| (half & 0xffff_ffff) as u32);
    [
        temperature.to_bits().cast_signed(),
        top_p.to_bits().cast_signed(),
        min_p.to_bits().cast_signed(),
        i32::try_from(top_k).unwrap_or(i32::MAX),
        low.cast_signed(),
        high.cast_signed(),
        place,
        0,
    ]
}
