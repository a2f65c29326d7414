//! What this computer has to offer.

use crate::{Arch, Host, Mib, Offer, OfferId, Trust};
use std::{io, path::Path, thread, time::SystemTime};

/// The one offer there is.
pub(super) const OFFER: &str = "this-computer";

/// This computer, with the disk that is free where `folder` is, or will be.
pub(super) fn offer(folder: &Path) -> io::Result<Offer> {
    let cores = thread::available_parallelism()?.get();
    Ok(Offer {
        id: OfferId(OFFER.into()),
        arch: if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 },
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory: memory()?,
        disk: free_disk(folder)?,
        host: Host::ThisComputer,
        region: "this computer".into(),
        trust: Trust::Datacenter,
        quoted_at: SystemTime::now(),
        ..Offer::default()
    })
}

fn free_disk(folder: &Path) -> io::Result<Mib> {
    // The folder is only made by the first rental; its nearest ancestor is on the same disk.
    let existing = folder.ancestors().find(|path| path.exists()).ok_or(io::ErrorKind::NotFound)?;
    let disk = rustix::fs::statvfs(existing)?;
    Ok(Mib(disk.f_bavail.saturating_mul(disk.f_frsize) >> 20))
}

#[cfg(target_os = "linux")]
fn memory() -> io::Result<Mib> {
    parse_meminfo(&std::fs::read_to_string("/proc/meminfo")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo is garbled"))
}

#[cfg(target_os = "linux")]
fn parse_meminfo(text: &str) -> Option<Mib> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Mib(kibibytes >> 10))
}

#[cfg(not(target_os = "linux"))]
fn memory() -> io::Result<Mib> {
    let output = std::process::Command::new("sysctl").args(["-n", "hw.memsize"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let bytes: u64 = text.trim().parse().map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, "`sysctl hw.memsize` is garbled")
    })?;
    Ok(Mib(bytes >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UsdPerHour;

    #[test]
    fn this_computer_has_cores_memory_and_disk() {
        let offer = offer(Path::new("/tmp/not/there/yet")).unwrap();
        assert!(0 < offer.cores && Mib(0) < offer.memory && Mib(0) < offer.disk);
        assert_eq!(offer.price, UsdPerHour(0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_read_from_its_line() {
        let text = "MemFree: 5 kB\nMemTotal:       16384000 kB\n";
        assert_eq!(parse_meminfo("MemTotal: many"), None);
        assert_eq!(parse_meminfo(&text[14..]), Some(Mib(16_000)));
    }
}
