//! What a GPU does for the model: memory, products, kernels.
//!
//! [`Driver`](super::driver::Driver) is the real one. The tests' own carries the same commands out on
//! the processor, so that everything above this trait, and the kernels, are held against the CPU's path
//! on any machine.

use crate::engine::EngineError;
use std::fmt::Debug;

/// Bytes of a number in the residual stream, of a logit and of a whole number.
pub(in crate::native) const WORD: usize = 4;

/// Bytes of a weight, an activation, a key or a value.
pub(in crate::native) const HALF: usize = 2;

/// The 16-bit numbers that weights, activations, keys and values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::native) enum Half {
    /// The upper halves of 32-bit floats.
    Bf16,
    /// IEEE 754's.
    F16,
}

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::native) struct Shape {
    /// Floats of a head.
    pub(in crate::native) head_dim: usize,
    /// Query heads to a head of keys.
    pub(in crate::native) group: usize,
    /// The numbers.
    pub(in crate::native) half: Half,
}

impl Shape {
    /// Floats of a head in memory: attention takes 32 at a time.
    pub(in crate::native) fn padded(self) -> usize {
        self.head_dim.next_multiple_of(32)
    }

    /// What the kernels' source wants defined.
    pub(in crate::native) fn definitions(self) -> Vec<String> {
        let Self { head_dim, group, half } = self;
        let is_f16 = u8::from(half == Half::F16);
        vec![
            format!("-DHEAD_DIM={head_dim}"),
            format!("-DGROUP={group}"),
            format!("-DHALF_IS_F16={is_f16}"),
        ]
    }
}

/// A piece of a GPU's memory. It is there as long as its device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::native) struct Memory {
    /// Where it begins.
    pub(in crate::native) address: u64,
    /// How long it is.
    pub(in crate::native) bytes: usize,
}

impl Memory {
    /// A part of it.
    pub(in crate::native) fn part(self, start: usize, bytes: usize) -> Self {
        assert!(start + bytes <= self.bytes, "a part of memory lies within it");
        Self { address: self.address + start as u64, bytes }
    }
}

/// A moment in what a GPU was told.
#[derive(Clone, Copy, Debug)]
pub(in crate::native) struct Mark(pub(in crate::native) usize);

/// Something that a GPU can do again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::native) struct Recording(pub(in crate::native) usize);

/// Rows of 16-bit numbers times weights, with sums in 32 bits.
#[derive(Clone, Copy, Debug)]
pub(in crate::native) struct Product {
    /// `columns` rows of `depth` numbers.
    pub(in crate::native) weights: Memory,
    /// `rows` rows of `depth` numbers. There may be more memory, and more of it may be read.
    pub(in crate::native) input: Memory,
    /// `rows` rows of `columns` numbers. There may be more memory, and more of it may be written.
    pub(in crate::native) output: Memory,
    /// Rows of the input and the output.
    pub(in crate::native) rows: usize,
    /// Numbers of a row of the output.
    pub(in crate::native) columns: usize,
    /// Numbers of a row of the input.
    pub(in crate::native) depth: usize,
    /// Whether the output's numbers have 32 bits.
    pub(in crate::native) is_wide: bool,
}

/// So many rows of a product, or a few more: there are few such sizes, and each is looked up once.
pub(in crate::native) fn rounded(rows: usize) -> usize {
    let step = match rows {
        ..=64 => 8,
        65..=512 => 32,
        _ => 128,
    };
    rows.next_multiple_of(step)
}

/// What a kernel is given.
#[derive(Clone, Copy, Debug)]
pub(in crate::native) enum Argument {
    /// An address; None is null.
    Address(Option<Memory>),
    /// A whole number.
    Number(i32),
    /// A fraction.
    Fraction(f32),
}

impl From<Memory> for Argument {
    fn from(memory: Memory) -> Self {
        Self::Address(Some(memory))
    }
}

impl From<Option<Memory>> for Argument {
    fn from(memory: Option<Memory>) -> Self {
        Self::Address(memory)
    }
}

impl From<usize> for Argument {
    fn from(number: usize) -> Self {
        Self::Number(i32::try_from(number).expect("sizes of a model and a step fit into 31 bits"))
    }
}

impl From<f32> for Argument {
    fn from(fraction: f32) -> Self {
        Self::Fraction(fraction)
    }
}

/// The kernels, in `kernels.cu` and `choosing.cu`.
pub(in crate::native) const KERNELS: [&str; 8] = [
    "embed",
    "add_and_normalise",
    "gate",
    "find_angles",
    "turn_and_keep",
    "attend",
    "merge",
    "choose",
];

/// A kernel to run.
#[derive(Clone, Copy, Debug)]
pub(in crate::native) struct Launch<'a> {
    /// Its name, one of [`KERNELS`].
    pub(in crate::native) kernel: &'static str,
    /// Blocks, in two dimensions.
    pub(in crate::native) grid: [usize; 2],
    /// Threads of a block.
    pub(in crate::native) threads: usize,
    /// What it is given.
    pub(in crate::native) arguments: &'a [Argument],
}

/// A GPU. It does one thing after another, in the order in which it is told.
pub(in crate::native) trait Device: Debug + Send + Sync {
    /// What it is, for people.
    fn name(&self) -> String;

    /// Bytes of memory that nobody has.
    fn free_bytes(&self) -> Result<u64, EngineError>;

    /// Takes memory; what is in it is anything.
    fn allocate(&mut self, bytes: usize) -> Result<Memory, EngineError>;

    /// Writes to the start of a piece, after all that it was told before.
    fn write(&mut self, to: Memory, bytes: &[u8]) -> Result<(), EngineError>;

    /// Marks what it was told so far. Only the last two marks are remembered.
    fn mark(&mut self) -> Result<Mark, EngineError>;

    /// Reads from the start of a piece, once all that it was told before the mark is done. What it was told
    /// since must leave the piece alone.
    fn read_at(&mut self, mark: Mark, from: Memory, bytes: &mut [u8]) -> Result<(), EngineError>;

    /// Fetches pieces, one behind the other, once all that it was told before the mark is done. What it was told
    /// since must leave them alone.
    fn fetch_at(&mut self, mark: Mark, pieces: &[Memory]) -> Result<(), EngineError>;

    /// What was fetched last.
    fn fetched(&self) -> &[u8];

    /// Multiplies.
    fn multiply(&mut self, product: &Product) -> Result<(), EngineError>;

    /// Runs a kernel.
    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), EngineError>;

    /// Begins to remember what it is told, which isn't done. Only products and kernels may be told, and only
    /// such as were done before.
    fn record(&mut self) -> Result<(), EngineError>;

    /// Ends what [`record`](Self::record) began, whatever came of it.
    fn recorded(&mut self) -> Result<Recording, EngineError>;

    /// Does what was recorded, with the same memory and what is in it now; after an error nothing of it, or
    /// some, which may be done again.
    fn replay(&mut self, recording: Recording) -> Result<(), EngineError>;

    /// Forgets all recordings, once what is under way is done.
    fn forget(&mut self) -> Result<(), EngineError>;
}
