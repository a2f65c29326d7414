//! The plan against the world: published throughput, exhaustive search, whole plans as printed.

mod anchors;
mod choice;
mod command;
mod hub;
mod market;
mod printed;
mod regret;
mod sizes;

use piecework::{catalogue::entries, gpus::Gpu, model::Shape};
use providers::{Gpus, Mib};

fn shape(name: &str) -> Shape {
    let entry = entries().iter().find(|entry| entry.name == name);
    entry.unwrap_or_else(|| panic!("{name} is not known")).config.shape().unwrap()
}

/// A GPU as its driver reports it.
fn gpus(name: &str, count: u32) -> Gpus {
    let mib = match name {
        "RTX 3090" => 24_576,
        "RTX 4090" => 24_564,
        "RTX 5090" => 32_607,
        "L4" => 23_034,
        "A40" | "L40S" => 46_068,
        "A100 SXM4" => 81_920,
        "RTX PRO 6000" => 97_887,
        "H100 SXM" => 81_559,
        "H200" => 143_771,
        "B200" => 183_359,
        other => panic!("what memory has {other}?"),
    };
    Gpus { name: name.to_owned(), count, vram: Mib(mib) }
}

fn gpu(name: &str) -> Gpu {
    Gpu::of(&gpus(name, 1))
}
