//! Prompts on their way to a worker, a message's worth at a time.

use std::collections::VecDeque;
use wire::Prompt;

/// Bytes of prompts that go into one message.
const MESSAGE: usize = 1 << 20;

/// Prompts that the worker is to get and hasn't been sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing(VecDeque<Prompt>);

impl Outgoing {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// More of them, behind the others.
    pub(super) fn add(&mut self, prompts: Vec<Prompt>) {
        self.0.extend(prompts);
    }

    /// Those that go into the next message.
    pub(super) fn next(&mut self) -> Vec<Prompt> {
        let mut bytes = 0;
        let full = |prompt: &Prompt| {
            bytes += prompt.body.len();
            MESSAGE <= bytes
        };
        let count = self.0.iter().position(full).map_or(self.0.len(), |last| last + 1);
        self.0.drain(..count).collect()
    }

    /// Gives up all of them; returns their positions in the input.
    pub(super) fn give_up(&mut self) -> Vec<u64> {
        self.0.drain(..).map(|prompt| prompt.index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Form;

    fn prompts(sizes: &[usize]) -> Outgoing {
        let mut outgoing = Outgoing::default();
        let prompt = |(index, size): (u64, &usize)| Prompt {
            index,
            form: Form::Auto,
            body: "x".repeat(*size),
        };
        outgoing.add((0..).zip(sizes).map(prompt).collect());
        outgoing
    }

    #[test]
    fn a_message_ends_with_the_prompt_that_fills_it() {
        let mut outgoing = prompts(&[MESSAGE / 2, MESSAGE / 2, 3 * MESSAGE, 1, 1]);
        let counts: Vec<usize> =
            std::iter::from_fn(|| (!outgoing.is_empty()).then(|| outgoing.next().len())).collect();
        assert_eq!(counts, [2, 1, 2]);
    }

    #[test]
    fn what_is_given_up_is_what_was_not_sent() {
        let mut outgoing = prompts(&[MESSAGE, 1, 1]);
        assert_eq!(outgoing.next().len(), 1);
        assert_eq!((outgoing.give_up(), outgoing.is_empty()), (vec![1, 2], true));
    }
}
