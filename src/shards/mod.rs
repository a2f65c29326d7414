//! Prompts out to workers, completions back to disk.
