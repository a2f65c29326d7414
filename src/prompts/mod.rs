//! Readers of every input format: files in, numbered prompts out, in bounded memory.
