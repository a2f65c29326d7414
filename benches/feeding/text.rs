//! Prompts that look to a compressor as English does.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::fmt::Write as _;

/// Different words. The one of rank n comes about 1/n as often as the first.
const WORDS: usize = 12_000;

/// Letters, as often as they are in English.
const LETTERS: &str = "eeeeeeeeeeeetttttttttaaaaaaaaooooooooiiiiiiinnnnnnnssssssshhhhhhrrrrrr\
                       ddddllllccccuuummmwwffggyyppbbvk";

/// Prompts as JSON lines: `count` of them, of so many bytes each, and `answer` tokens to come back.
pub(super) fn prompts(count: u64, bytes: usize, answer: u32) -> String {
    let mut random = StdRng::seed_from_u64(7);
    let words = words(&mut random);
    let mut lines = String::new();
    for index in 0..count {
        let text = text(&words, bytes, &mut random);
        let line = format!(r#"{{"id":"request-{index}","prompt":"{text}","max_tokens":{answer}}}"#);
        writeln!(lines, "{line}").expect("a string takes all");
    }
    lines
}

fn words(random: &mut StdRng) -> Vec<String> {
    let letters: Vec<char> = LETTERS.chars().collect();
    // Frequent words are short.
    let length = |rank: usize, random: &mut StdRng| {
        2 + rank.ilog2() as usize / 3 + random.random_range(0..4)
    };
    let word = |rank: usize| {
        let length = length(rank, random);
        (0..length).map(|_| letters[random.random_range(0..letters.len())]).collect()
    };
    (1..=WORDS).map(word).collect()
}

fn text(words: &[String], bytes: usize, random: &mut StdRng) -> String {
    let (mut text, mut begins) = (String::new(), true);
    while text.len() < bytes {
        // Ranks whose logarithm is uniform come 1/n as often.
        let rank = (WORDS as f64).powf(random.random_range(0.0..1.0));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to WORDS")]
        let word = &words[rank as usize - 1];
        if begins {
            text.extend(word.chars().take(1).map(|letter| letter.to_ascii_uppercase()));
            text.push_str(&word[1..]);
        } else {
            text.push_str(word);
        }
        begins = random.random_range(0..15) == 0;
        text.push_str(if begins { ". " } else { " " });
    }
    text.truncate(bytes);
    text
}
