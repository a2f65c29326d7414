//! How much memory there is to take, and how what was taken is used again.

use std::{fs, path::Path};

/// Bytes that could be taken now without swapping; None where the system doesn't say.
///
/// A container's own limit counts as well as the machine's memory.
pub(crate) fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_in(&text));
    let limit = number_in(Path::new("/sys/fs/cgroup/memory.max"));
    let used = number_in(Path::new("/sys/fs/cgroup/memory.current"));
    let container = limit.map(|limit| limit.saturating_sub(used.unwrap_or(0)));
    machine.into_iter().chain(container).min()
}

/// The first `length` items of `data`, which becomes as long if it is shorter.
///
/// It never becomes shorter: what a step uses for a narrow product and then a wide one would be filled with
/// zeros each time.
pub(super) fn room<T: Clone + Default>(data: &mut Vec<T>, length: usize) -> &mut [T] {
    if data.len() < length {
        data.resize(length, T::default());
    }
    &mut data[..length]
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_read_in_bytes() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:   12345678 kB\n";
        assert_eq!(available_in(text), Some(12_345_678 * 1024));
        assert_eq!(available_in("MemTotal: 1 kB\n"), None);
    }
}
