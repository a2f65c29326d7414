//! The model runs inside the worker.
//!
//! ```text
//! load: folder | gguf ─▶ model_files ─▶ model (matrix ◀─ tensor)                 setup
//! prompt ─▶ request ─▶ template ─▶ vocabulary ─▶ scheduler (blocks) ─▶ executor  run
//! executor: processor ─▶ model (attention, rope, matrix ─▶ kernel, int8, simd)        on the CPU
//!           cuda                                                                     on a GPU
//! logits ─▶ sampling ─▶ answer ─▶ response
//! ```
//!
//! Decoders of the Llama family (Llama 2 and 3, Mistral, Qwen 2, 2.5 and 3, `SmolLM2`) run on the
//! CPU or, where the job asks for it, on an NVIDIA GPU ([`cuda`]), many prompts at once, by continuous
//! batching over a paged KV cache. What a prompt yields on the CPU depends on the prompt, its parameters
//! and its seed only: not on what runs beside it, on how its parts fall into steps, on what the cache
//! already holds, or on the processor's kind.

#[cfg(test)]
mod ahead;
mod alone;
mod answer;
mod attention;
mod blocks;
mod bytes;
mod config;
mod cuda;
mod executor;
mod fields;
mod folder;
mod gguf;
mod gguf_tokenizer;
mod half_kernel;
mod int8;
mod kernel;
mod kv_cache;
mod loops;
mod matrix;
mod memory;
mod model;
mod model_files;
mod panels;
mod penalties;
mod processor;
mod quantised;
mod random;
mod request;
mod response;
mod rope;
mod run;
mod safetensors;
mod sampling;
mod scheduler;
mod setup;
mod simd;
#[cfg(test)]
#[path = "../../tests/native/small_model.rs"]
mod small_model;
mod template;
mod tensor;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vnni;
mod vocabulary;

pub use alone::Product;
pub use setup::{load, open};

pub(crate) use gguf::Metadata;
pub(crate) use memory::available as available_memory;
pub(crate) use random::mix;
pub(crate) use setup::parse_defaults;
