//! The machine's GPUs, and which of them each server gets.

use std::{env, process::Command};

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gpu {
    /// What `CUDA_VISIBLE_DEVICES` calls it.
    pub(super) id: String,
    /// Bytes of memory.
    pub(super) bytes: u64,
}

/// The part of a GPU's memory that a server takes, by vLLM's default; of that, weights must
/// leave [`FOR_CACHE`] for the KV cache.
const USABLE: f64 = 0.9;

/// The part of what is usable that isn't weights, at least.
const FOR_CACHE: f64 = 0.15;

/// The GPUs that may be used: all that the driver lists, or those that the environment names.
pub(super) fn list() -> Vec<Gpu> {
    let asked = Command::new("nvidia-smi")
        .args(["--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"])
        .output();
    // Without a driver there is no such program, and there are no GPUs.
    let Ok(answer) = asked else { return Vec::new() };
    let visible = env::var("CUDA_VISIBLE_DEVICES").ok();
    parse(&String::from_utf8_lossy(&answer.stdout), visible.as_deref())
}

fn parse(listing: &str, visible: Option<&str>) -> Vec<Gpu> {
    let line = |line: &str| {
        let mut fields = line.split(',').map(str::trim);
        let (index, uuid) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        let mebibytes: u64 = fields.next()?.parse().ok()?;
        Some((index, uuid, mebibytes << 20))
    };
    let all = listing.lines().filter_map(line);
    let Some(visible) = visible else {
        return all.map(|(id, _, bytes)| Gpu { id, bytes }).collect();
    };
    let named: Vec<&str> = visible.split(',').map(str::trim).collect();
    let is_named = |index: &str, uuid: &str| {
        named
            .iter()
            .any(|name| *name == index || name.starts_with("GPU-") && uuid.starts_with(name))
    };
    all.filter(|(index, uuid, _)| is_named(index, uuid))
        .map(|(id, _, bytes)| Gpu { id, bytes })
        .collect()
}

/// Which GPUs each server gets, for weights of so many bytes: one where they fit, else two,
/// four or eight, by whose number models can be split. Without GPUs there is one server.
pub(super) fn share_out(gpus: &[Gpu], weight_bytes: u64) -> Vec<Vec<Gpu>> {
    let Some(least) = gpus.iter().map(|gpu| gpu.bytes).min() else { return vec![Vec::new()] };
    #[expect(clippy::cast_precision_loss, reason = "sizes in bytes have fewer than 52 bits")]
    let fits = |count: &usize| {
        weight_bytes as f64 <= *count as f64 * least as f64 * USABLE * (1.0 - FOR_CACHE)
    };
    let powers = || {
        std::iter::successors(Some(1), |count| Some(2 * count))
            .take_while(|count| *count <= gpus.len())
    };
    // Where none does, the server says so better.
    let each = powers().find(fits).or_else(|| powers().last()).unwrap_or(1);
    gpus.chunks_exact(each).map(<[Gpu]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "0, GPU-aa11, 81559\n1, GPU-bb22, 81559\n2, GPU-cc33, 81559\n";

    #[test]
    fn gpus_are_those_listed_and_allowed() {
        let ids =
            |visible| parse(LISTING, visible).into_iter().map(|gpu| gpu.id).collect::<Vec<_>>();
        assert_eq!(ids(None), ["0", "1", "2"]);
        assert_eq!(ids(Some("2, 0")), ["0", "2"]);
        assert_eq!(ids(Some("GPU-bb")), ["1"]);
        assert_eq!(ids(Some("")), [""; 0]);
        assert_eq!(parse("No devices were found\n", None), []);
        assert_eq!(parse(LISTING, None)[0].bytes, 81559 << 20);
    }

    #[test]
    fn a_model_that_fits_one_gpu_gets_one_and_a_larger_one_is_split() {
        let gpus: Vec<Gpu> =
            (0..8).map(|id: u32| Gpu { id: id.to_string(), bytes: 80_000_000_000 }).collect();
        let shape = |count: usize, weight_bytes| {
            let shares = share_out(&gpus[..count], weight_bytes);
            (shares.len(), shares[0].len())
        };
        assert_eq!(shape(8, 16_000_000_000), (8, 1));
        assert_eq!(shape(8, 140_000_000_000), (2, 4));
        assert_eq!(shape(6, 140_000_000_000), (1, 4));
        assert_eq!(shape(3, 100_000_000_000), (1, 2));
        assert_eq!(shape(8, u64::MAX), (1, 8));
        assert_eq!(shape(1, u64::MAX), (1, 1));
        assert_eq!(share_out(&[], 1), vec![Vec::new()]);
    }
}
