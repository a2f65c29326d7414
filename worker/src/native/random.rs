//! Random numbers that depend on nothing but a seed and a position.
//!
//! Both functions are the finaliser of `SplitMix64` (Steele, Lea and Flood, 2014): a bijection of
//! 64 bits in which each input bit changes about half of the output bits. There is no state, so
//! an answer that is begun again, on whatever machine, draws the same numbers.

/// 2⁶⁴ divided by the golden ratio, made odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes one seed of two numbers. The order matters.
pub(crate) fn mix(seed: u64, number: u64) -> u64 {
    finalise(finalise(seed.wrapping_add(GOLDEN)) ^ number.wrapping_mul(GOLDEN).wrapping_add(GOLDEN))
}

/// The number at `position` of a seed's sequence, uniform in [0, 1) with 53 bits.
pub(super) fn uniform(seed: u64, position: u64) -> f64 {
    let bits = finalise(seed.wrapping_add(GOLDEN.wrapping_mul(position.wrapping_add(1))));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

fn finalise(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_evenly_and_stay_as_they_were() {
        let count = |part: u32| {
            let bounds = f64::from(part) / 16.0..f64::from(part + 1) / 16.0;
            (0..16_000).filter(|position| bounds.contains(&uniform(7, *position))).count()
        };
        let counts: Vec<usize> = (0..16).map(count).collect();
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!(counts.iter().sum::<usize>(), 16_000);
        // The reference implementation's first output for seed 1234567.
        assert_eq!(finalise(1_234_567_u64.wrapping_add(GOLDEN)), 6_457_827_717_110_365_317);
    }

    #[test]
    fn seeds_of_neighbouring_prompts_have_nothing_in_common() {
        let seeds: std::collections::HashSet<u64> =
            (0..100).flat_map(|run| (0..100).map(move |prompt| mix(run, prompt))).collect();
        assert_eq!(seeds.len(), 10_000);
        assert_ne!(mix(1, 2), mix(2, 1));
    }
}
