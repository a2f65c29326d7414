//! GPUs by the names that marketplaces give them, from `templates/gpus.toml`.
//!
//! A GPU that isn't known is kept, not dropped: its memory decides whether a model fits, and for
//! its speed it is taken for the slowest known one of that memory. Its generation goes by its name.

use crate::model::Weights;
use providers::{Gpus, Mib};
use serde::Deserialize;
use std::sync::LazyLock;

/// What decides how fast a model runs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Its name, as we show it.
    pub name: String,
    /// Memory, in GiB.
    vram: u64,
    /// Dense TFLOP/s in 16 bits.
    bf16: f64,
    /// Dense TFLOP/s in 8-bit floats.
    fp8: Option<f64>,
    /// Dense TFLOP/s in 4-bit floats.
    fp4: Option<f64>,
    /// Memory bandwidth in GB/s.
    bandwidth: f64,
    /// Whether several in a machine are joined by links of their own.
    #[serde(default)]
    pub nvlink: bool,
    /// Whether it is of NVIDIA's Ampere generation or a later one. One that isn't known may be.
    #[serde(default = "yes")]
    pub ampere: bool,
    /// Names that stand for it, made [`plain`].
    names: Vec<String>,
    /// Whether the name is in the table. If not, the speed is a guess.
    #[serde(skip, default = "yes")]
    pub known: bool,
}

fn yes() -> bool {
    true
}

/// Offered memory and the table's may be this far apart: GB against GiB is 7 %, what a driver
/// keeps for itself up to 4 %.
const TOLERANCE: f64 = 0.12;

impl Gpu {
    /// The GPU of an offer.
    pub fn of(gpus: &Gpus) -> Self {
        let wanted = plain(&gpus.name);
        let by_name = |gpu: &&Self| gpu.names.contains(&wanted);
        let nearest = |a: &&Self, b: &&Self| a.apart(gpus.vram).total_cmp(&b.apart(gpus.vram));
        let named = known().iter().filter(by_name).min_by(nearest);
        if let Some(gpu) = named.filter(|gpu| gpu.apart(gpus.vram) < TOLERANCE) {
            return gpu.clone();
        }
        // Whatever memory it was given.
        let is_older = || TABLE.older.iter().any(|start| wanted.starts_with(start));
        let ampere = named.map_or_else(|| !is_older(), |gpu| gpu.ampere);
        Self { ampere, ..Self::stand_in(gpus) }
    }

    /// The slowest known GPU of about this memory, or else of any, under the name it was given.
    fn stand_in(gpus: &Gpus) -> Self {
        let slower = |a: &&Self, b: &&Self| a.bandwidth.total_cmp(&b.bandwidth);
        let alike = known().iter().filter(|gpu| gpu.apart(gpus.vram) < TOLERANCE).min_by(slower);
        let slowest = alike.or_else(|| known().iter().min_by(slower));
        let slowest = slowest.expect("the table isn't empty, which a test reads");
        let (name, fp8, fp4) = (gpus.name.clone(), None, None);
        Self { name, fp8, fp4, known: false, nvlink: false, ..slowest.clone() }
    }

    /// A processor of so many cores, as if it were a GPU: 100 GFLOP/s in 32 bits and 25 GB/s a
    /// core, as two cores of Zen 4 with AVX-512 reach (205 GFLOP/s, 51 GB/s).
    pub fn processor(cores: u32) -> Self {
        let cores = f64::from(cores.max(1));
        Self {
            name: "processor".to_owned(),
            vram: 0,
            bf16: 0.1 * cores,
            fp8: None,
            fp4: None,
            // Memory is shared: a socket gives no more, however many cores read.
            bandwidth: (25.0 * cores).min(200.0),
            nvlink: false,
            ampere: false,
            names: Vec::new(),
            known: true,
        }
    }

    /// The memory that it is sold with. It reports up to 7 % less, which the driver and error
    /// correction keep. None where the name isn't known.
    pub fn sold_with(&self) -> Option<Mib> {
        self.known.then_some(Mib::from_gib(self.vram))
    }

    /// How far its memory is from this, as a share of the larger.
    fn apart(&self, vram: Mib) -> f64 {
        let (own, other) = (self.vram as f64 * 1024.0, vram.0 as f64);
        (own - other).abs() / own.max(other).max(1.0)
    }

    /// Floating-point operations a second, dense, with weights kept like this. Weights that it
    /// can't compute with are widened to 16 bits first.
    pub fn flops(&self, weights: Weights) -> f64 {
        let native = match weights {
            Weights::Bf16 | Weights::Int4 => None,
            Weights::Fp8 => self.fp8,
            Weights::Fp4 => self.fp4,
        };
        native.unwrap_or(self.bf16) * 1e12
    }

    /// Whether it computes with weights kept like this, rather than widening them.
    pub fn computes(&self, weights: Weights) -> bool {
        match weights {
            Weights::Bf16 | Weights::Int4 => true,
            Weights::Fp8 => self.fp8.is_some(),
            Weights::Fp4 => self.fp4.is_some(),
        }
    }

    /// Bytes a second between memory and processor.
    pub fn bandwidth(&self) -> f64 {
        self.bandwidth * 1e9
    }
}

/// `templates/gpus.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// How the names of older generations begin, made [`plain`].
    older: Vec<String>,
    gpu: Vec<Gpu>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let text = include_str!("../templates/gpus.toml");
    let mut table: Table = toml::from_str(text).expect("a test reads this file");
    let names = table.gpu.iter_mut().flat_map(|gpu| &mut gpu.names);
    for name in names.chain(&mut table.older) {
        *name = plain(name);
    }
    table
});

/// Every GPU that is known.
pub fn known() -> &'static [Gpu] {
    &TABLE.gpu
}

/// A name without what differs between marketplaces: `NVIDIA GeForce RTX 4090`, `RTX_4090` and
/// `1x RTX4090 (24 GB)` are one. `gpu_8x_h100_sxm5` is `h100sxm5`.
fn plain(name: &str) -> String {
    const FILLER: [&str; 21] = [
        "nvidia",
        "tesla",
        "amd",
        "radeon",
        "instinct",
        "gpu",
        "gpus",
        "gb",
        "gib",
        "g",
        "generation",
        "edition",
        "server",
        "workstation",
        "blackwell",
        "ws",
        "wk",
        "s",
        "max",
        "q",
        "pcie",
    ];
    let name = name.to_ascii_lowercase().replace("geforce", "");
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    let is_count = |word: &str| {
        let count = word.strip_suffix('x').or_else(|| word.strip_prefix('x'));
        count.is_some_and(|digits| digits.parse::<u32>().is_ok())
    };
    let is_memory = |word: &str| {
        let size = word.strip_suffix("gb").or_else(|| word.strip_suffix('g'));
        size.is_some_and(|digits| digits.parse::<u32>().is_ok())
    };
    let mut plain = String::new();
    let mut words = words.filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        // `80 GB`, in two words.
        let sizes = word.parse::<u32>().is_ok() && words.peek().is_some_and(|next| *next == "gb");
        if !(sizes || FILLER.contains(&word) || is_count(word) || is_memory(word)) {
            plain.push_str(word);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, mib: u64) -> Gpu {
        Gpu::of(&Gpus { name: name.to_owned(), count: 1, vram: Mib(mib) })
    }

    #[test]
    fn a_gpu_is_found_as_each_marketplace_spells_it() {
        for (spelled, mib, name) in [
            ("RTX 4090", 24_564, "RTX 4090"),
            ("NVIDIA GeForce RTX 4090", 24_576, "RTX 4090"),
            ("RTX4090_24GB", 24_576, "RTX 4090"),
            ("geforcertx4090-pcie-24gb", 24_576, "RTX 4090"),
            ("RTX 4090", 49_140, "RTX 4090 48GB"),
            ("A100 SXM4", 40_960, "A100 40GB"),
            ("A100 SXM4", 81_920, "A100 80GB SXM"),
            ("A100_80G", 81_920, "A100 80GB PCIe"),
            ("A100 (40 GB SXM4)", 40_960, "A100 40GB"),
            ("NVIDIA A100 80GB PCIe", 81_920, "A100 80GB PCIe"),
            ("A100 SXM 40GB", 40_960, "A100 40GB"),
            ("NVIDIA A100-SXM4-80GB", 81_920, "A100 80GB SXM"),
            ("H100 SXM", 81_559, "H100 SXM"),
            ("H100 SXM5 80GB", 81_920, "H100 SXM"),
            ("gpu_1x_h100_sxm5", 81_920, "H100 SXM"),
            ("NVIDIA H100 80GB HBM3", 81_559, "H100 SXM"),
            ("NVIDIA H100 PCIe", 81_559, "H100 PCIe"),
            ("H100_80GB", 81_920, "H100 PCIe"),
            ("H100 NVL", 95_830, "H100 NVL"),
            ("H200", 143_771, "H200"),
            ("H200 SXM5 141GB", 144_384, "H200"),
            ("GH200 (96 GB)", 98_304, "GH200 96GB"),
            ("B200", 183_359, "B200"),
            ("1x A10 (24 GB PCIe)", 24_576, "A10"),
            ("NVIDIA RTX 6000 Ada Generation", 49_140, "RTX 6000 Ada"),
            ("RTX 6000Ada", 49_140, "RTX 6000 Ada"),
            ("RTX A6000", 49_140, "RTX A6000"),
            ("RTX PRO 6000 WS", 97_887, "RTX PRO 6000"),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97_887, "RTX PRO 6000"),
            ("RTX 4070S Ti", 16_376, "RTX 4070 Ti Super"),
            ("Tesla V100", 32_768, "V100 32GB"),
            ("V100 SXM2", 16_384, "V100 16GB"),
            ("L40S", 46_068, "L40S"),
            ("AMD Instinct MI300X OAM", 196_592, "MI300X"),
        ] {
            assert_eq!(found(spelled, mib).name, name, "{spelled}");
        }
    }

    #[test]
    fn an_unknown_gpu_is_taken_for_the_slowest_of_its_memory() {
        let new = found("RTX 7090", 24_576);
        assert_eq!((new.name.as_str(), new.known), ("RTX 7090", false));
        assert!(new.bandwidth() <= found("L4", 24_576).bandwidth());
        assert!(!new.computes(Weights::Fp8));
        assert!(found("Huge", 999_999).bandwidth() <= found("L4", 24_576).bandwidth());
    }

    #[test]
    fn what_generation_a_gpu_is_of_is_known_by_its_name_whatever_its_memory() {
        for (name, gib, ampere) in [
            ("RTX 3090", 48, true),
            ("RTX 5880 Ada", 48, true),
            ("RTX 2000 Ada", 12, true),
            ("RTX 2080 Ti", 22, false),
            ("Quadro RTX 8000", 40, false),
            ("NVIDIA GeForce GTX 1080 Ti", 11, false),
            ("GTX 1660 S", 6, false),
            ("GTX TITAN X", 12, false),
            ("Titan Xp", 12, false),
            ("TITAN V", 12, false),
            ("RTX 2060S", 8, false),
            ("RTX 2070 Super", 8, false),
            ("Quadro RTX 4000", 8, false),
            ("Quadro GV100", 32, false),
            ("Quadro P6000", 24, false),
            ("P5000", 16, false),
            ("Tesla P4", 8, false),
            ("Tesla V100-SXM2-16GB-N", 16, false),
            ("Tesla M40", 24, false),
            ("Tesla K80", 12, false),
            ("RX 7900 XTX", 24, false),
            // Nobody knows these, and they may be new.
            ("GB10", 128, true),
            ("RTX 6090", 192, true),
            ("RTX PRO 2000 Blackwell", 16, true),
            ("A10M", 20, true),
            ("L20", 48, true),
            ("Quadro RTX A6000", 48, true),
        ] {
            assert_eq!(found(name, gib * 1024).ampere, ampere, "{name}, {gib} GiB");
        }
        for (gpu, name) in known().iter().flat_map(|gpu| gpu.names.iter().map(move |n| (gpu, n))) {
            let is_older = TABLE.older.iter().any(|start| name.starts_with(start));
            assert!(!(is_older && gpu.ampere), "{name}");
        }
    }

    #[test]
    fn no_two_gpus_of_one_memory_share_a_name() {
        for (at, gpu) in known().iter().enumerate() {
            assert!(0.0 < gpu.bf16 && 0.0 < gpu.bandwidth && gpu.known, "{}", gpu.name);
            for other in &known()[at + 1..] {
                let shared = gpu.names.iter().any(|name| other.names.contains(name));
                let apart = other.apart(Mib(gpu.vram * 1024));
                assert!(!shared || 0.1 < apart, "{} and {}", gpu.name, other.name);
            }
        }
    }

    #[test]
    fn narrow_numbers_are_as_fast_as_the_gpu_can_compute_with_them() {
        let (ampere, ada) = (found("RTX 3090", 24_576), found("RTX 4090", 24_564));
        assert!(ampere.flops(Weights::Fp8) <= ampere.flops(Weights::Bf16));
        assert!(1.9 * ada.flops(Weights::Bf16) < ada.flops(Weights::Fp8));
    }
}
