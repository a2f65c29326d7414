//! How long prompts and answers are, as it is told.

use super::{ANSWER, BEGIN, BYTES_PER_TOKEN, Counted, InputBasis, Lengths, MESSAGE, OutputBasis};
use crate::{model::whole, report::words};
use std::fmt;

impl Lengths {
    /// On half a line: `1,012 tokens in a prompt (measured on 500 prompts) and 64 in an answer`.
    pub fn brief(&self) -> String {
        let prompt = match &self.input_basis {
            InputBasis::Given => String::new(),
            InputBasis::Assumed => " (assumed)".to_owned(),
            InputBasis::Measured(counted) => {
                format!(" (measured on {})", words::plural(counted.prompts as u64, "prompt"))
            }
            InputBasis::Estimated { .. } => " (estimated from their length)".to_owned(),
        };
        let answer = match self.output_basis {
            OutputBasis::Given => "",
            OutputBasis::Limit | OutputBasis::Mixed => " (the most allowed)",
            OutputBasis::Assumed => " (assumed)",
        };
        let (input, output) = (count_of(self.input), count_of(self.output));
        format!("{input} tokens in a prompt{prompt} and {output} in an answer{answer}")
    }
}

/// What isn't simply as it was given, a line each.
impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prompt = format!("{} tokens in a prompt on average", count_of(self.input));
        let template = match &self.input_basis {
            InputBasis::Given => 0.0,
            InputBasis::Assumed => {
                writeln!(f, "{prompt} (assumed; `--input-tokens` says better)")?;
                0.0
            }
            InputBasis::Measured(Counted { prompts, median, p95, template }) => {
                let (prompts, median, p95) =
                    (words::plural(*prompts as u64, "prompt"), count_of(*median), count_of(*p95));
                writeln!(f, "{prompt} (measured on {prompts}: median {median}, 95% up to {p95})")?;
                *template
            }
            InputBasis::Estimated { template, .. } => {
                writeln!(
                    f,
                    "{prompt} (estimated from their length, {BYTES_PER_TOKEN} bytes a token)"
                )?;
                *template
            }
        };
        if 0.0 < template {
            writeln!(
                f,
                "  {} of them for a chat template: {MESSAGE} a message, and {BEGIN} to begin the answer",
                count_of(template)
            )?;
        }
        if let InputBasis::Estimated { why, .. } = &self.input_basis {
            writeln!(f, "  not measured, as {}", shortened(why))?;
        }
        let answer = format!("{} tokens in an answer", count_of(self.output));
        match self.output_basis {
            OutputBasis::Given => Ok(()),
            OutputBasis::Limit => {
                writeln!(f, "{answer} (the most that is allowed; `--output-tokens` says better)")
            }
            OutputBasis::Mixed => writeln!(
                f,
                "{answer} (the most that is allowed, or {ANSWER}; `--output-tokens` says better)"
            ),
            OutputBasis::Assumed => writeln!(
                f,
                "{answer} (assumed, as nothing limits them; `--output-tokens` says better)"
            ),
        }
    }
}

fn count_of(tokens: f64) -> String {
    words::count(whole(tokens))
}

/// A reason, on a line of its own.
fn shortened(why: &str) -> String {
    match why.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &why[..at]),
        None => why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_100_columns() {
        let long = 131_072.0;
        let counted = Counted { prompts: 1_000, median: long, p95: long, template: long };
        let why = "the hub doesn't give its tokenizer: ".repeat(9);
        for input_basis in [
            InputBasis::Assumed,
            InputBasis::Measured(counted),
            InputBasis::Estimated { why, template: long },
        ] {
            for output_basis in [OutputBasis::Limit, OutputBasis::Mixed, OutputBasis::Assumed] {
                let input_basis = input_basis.clone();
                let text =
                    Lengths { input: long, input_basis, output: long, output_basis }.to_string();
                assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
            }
        }
    }
}
