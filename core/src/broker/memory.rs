//! The memory that is available to the broker: that of the machine, or that of the container if it is less.

use std::path::Path;

/// Returns a quarter of the memory, in bytes.
pub(super) fn quarter() -> usize {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    usize::try_from(total(read) / 4).unwrap_or(usize::MAX)
}

/// Returns the memory of this machine or container, in bytes; 2 GiB if neither is known. `read` returns the content
/// of a file.
fn total(read: impl Fn(&Path) -> Option<String>) -> u64 {
    const UNKNOWN: u64 = 2 << 30;
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| mem_total(&text)).unwrap_or(UNKNOWN);
    // Control groups version 2 have one hierarchy, in which the limits of all parents apply too.
    let group = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let own = group.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let version_2 = Path::new(own).ancestors().map(|parent| root.join(parent).join("memory.max"));
    let version_1 = [root.join("memory/memory.limit_in_bytes")];
    version_2.chain(version_1).filter_map(|path| read(&path)?.trim().parse().ok()).fold(machine, u64::min)
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_holds() {
        fn files<'f>(files: &'f [(&'f str, &'f str)]) -> impl Fn(&Path) -> Option<String> + use<'f> {
            |path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned())
        }
        assert_eq!(total(files(&[])), 2 << 30);
        assert_eq!(total(files(&[("/proc/meminfo", "MemTotal:        1024 kB\nMemFree: 3 kB")])), 1 << 20);
        let machine = ("/proc/meminfo", "MemTotal:        1024 kB");
        let group = ("/proc/self/cgroup", "0::/a/b\n");
        assert_eq!(total(files(&[machine, group, ("/sys/fs/cgroup/a/memory.max", "5000\n")])), 5000);
        assert_eq!(total(files(&[machine, group, ("/sys/fs/cgroup/a/b/memory.max", "max\n")])), 1 << 20);
        let version_1 = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "7000");
        assert_eq!(total(files(&[machine, version_1])), 7000);
    }
}
