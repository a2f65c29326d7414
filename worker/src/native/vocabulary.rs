//! Text to tokens and back.

use crate::engine::EngineError;
use std::collections::HashSet;
use tokenizers::Tokenizer;

/// Tokens that may be undecided before text is given out as it is.
///
/// A character has at most four bytes; more tokens without one are no text.
const UNDECIDED: usize = 8;

/// A model's tokenizer, and what its special tokens mean.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    tokenizer: Tokenizer,
    special: HashSet<u32>,
    /// The tokens that end an answer.
    pub(super) ends: HashSet<u32>,
    /// The token that begins a text, as chat templates name it.
    pub(super) begin: Option<String>,
    /// The token that ends a text, as chat templates name it.
    pub(super) end: Option<String>,
}

impl Vocabulary {
    /// Wraps a tokenizer.
    pub(super) fn new(
        tokenizer: Tokenizer,
        ends: HashSet<u32>,
        begin: Option<String>,
        end: Option<String>,
    ) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        Self { tokenizer, special, ends, begin, end }
    }

    /// Reads a `tokenizer.json`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Tokenizer, EngineError> {
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| {
            EngineError::work(format!("the model's tokenizer.json can't be understood: {error}"))
        })?;
        // What the files ask for serves training; a prompt is never cut or filled up.
        tokenizer.with_truncation(None).expect("no truncation is always possible");
        tokenizer.with_padding(None);
        Ok(tokenizer)
    }

    /// The tokens of `text`; `framed` adds those that the model wants around every text.
    pub(super) fn encode(&self, text: &str, framed: bool) -> Result<Vec<u32>, String> {
        let encoding = self.tokenizer.encode_fast(text, framed);
        Ok(encoding.map_err(|error| error.to_string())?.get_ids().to_vec())
    }

    /// The bytes that a token stands for: a special one's name, else a piece of text.
    pub(super) fn bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.tokenizer.id_to_token(id) else { return Vec::new() };
        if self.special.contains(&id) {
            return token.into_bytes();
        }
        if let Some(byte) = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'))
            && let Ok(byte) = u8::from_str_radix(byte, 16)
        {
            return vec![byte];
        }
        let mapped: Option<Vec<u8>> = token.chars().map(byte_of).collect();
        mapped.unwrap_or_else(|| token.replace('▁', " ").into_bytes())
    }

    fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, true).unwrap_or_default()
    }
}

/// The byte that a character of GPT-2's byte alphabet stands for.
///
/// Printable bytes of Latin-1 stand for themselves, the others for U+0100 on, in their order.
fn byte_of(character: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    match u32::from(character) {
        code @ 0..=255 => u8::try_from(code).ok().filter(|byte| printable(*byte)),
        code => {
            let index = usize::try_from(code - 256).ok()?;
            (0..=255).filter(|byte| !printable(*byte)).nth(index)
        }
    }
}

/// Text from tokens as they come, never half a character.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    window: Vec<u32>,
    /// Tokens of the window whose text was given out; they only give the rest its context.
    given: usize,
    prefix: String,
}

impl Stream {
    /// The text that `token` completes; empty where a character is still incomplete.
    pub(super) fn push(&mut self, vocabulary: &Vocabulary, token: u32) -> String {
        self.window.push(token);
        let text = vocabulary.decode(&self.window);
        let undecided = self.window.len() - self.given < UNDECIDED;
        if text.ends_with(char::REPLACEMENT_CHARACTER) && undecided {
            return String::new();
        }
        self.take(vocabulary, &text)
    }

    /// What is left of the text, incomplete characters replaced.
    pub(super) fn finish(&mut self, vocabulary: &Vocabulary) -> String {
        let text = vocabulary.decode(&self.window);
        self.take(vocabulary, &text)
    }

    fn take(&mut self, vocabulary: &Vocabulary, text: &str) -> String {
        let new = text.get(self.prefix.len()..).unwrap_or_default().to_owned();
        if !new.is_empty() {
            self.window.drain(..self.given);
            self.given = self.window.len();
            self.prefix = vocabulary.decode(&self.window);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_covers_every_byte_once() {
        let bytes: Vec<u8> = (0..0x144).filter_map(char::from_u32).filter_map(byte_of).collect();
        assert_eq!(bytes.len(), 256);
        assert_eq!(bytes.iter().collect::<HashSet<_>>().len(), 256);
        assert_eq!((byte_of('Ġ'), byte_of('Ċ'), byte_of('▁')), (Some(b' '), Some(b'\n'), None));
    }
}
