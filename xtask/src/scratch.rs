//! Where tests and the lab put their files.
//!
//! In memory, where there is room. Their stores and records sync every write; on a disk that has just been given gigabytes of
//! programs, or is shared with others, a sync takes seconds, and what would be seen is the disk, not Ocicat. What measures
//! (`cargo xtask bench`) and a real cluster (`--cluster`) stay on the disk.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use crate::shell::output;

/// Present on every Linux that people log in to.
const MEMORY: &str = "/dev/shm";

const GIBIBYTE: u64 = 1 << 30;

/// What must be free there: the tests' files, and room to spare.
const ROOM: u64 = 4 * GIBIBYTE;

/// What must be free of the machine's memory, which those files take, beside the tests themselves.
const RAM: u64 = 8 * GIBIBYTE;

/// Has a program put its temporary files into memory if that is possible here, unless `TMPDIR` says where they go.
pub(crate) fn use_memory(command: &mut Command) {
    if env::var_os("TMPDIR").is_none() && fits() {
        command.env("TMPDIR", MEMORY);
    }
}

fn fits() -> bool {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    Path::new(MEMORY).is_dir()
        && usable(&read("/proc/self/mounts"))
        && available(&read("/proc/meminfo")) >= RAM
        && output(Command::new("df").args(["--output=avail", "--block-size=1", MEMORY]))
            .is_ok_and(|text| room(&text) >= ROOM)
}

/// Whether the last mount there is of memory, and programs, sockets and devices work on it.
fn usable(mounts: &str) -> bool {
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let last = fields.rfind(|fields| fields.get(1) == Some(&MEMORY)).unwrap_or_default();
    let Some([_, _, kind, options]) = last.first_chunk() else { return false };
    *kind == "tmpfs" && !options.split(',').any(|option| ["ro", "noexec", "nodev"].contains(&option))
}

/// `MemAvailable` of `/proc/meminfo`, in octets.
fn available(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

/// The number below the head that `df` prints.
fn room(table: &str) -> u64 {
    table.lines().nth(1).and_then(|line| line.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_where_programs_may_run_from_it() {
        assert!(usable("/dev/vda / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw,nosuid,relatime,size=24684084k 0 0\n"));
        // As container engines mount it.
        assert!(!usable("shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k 0 0\n"));
        assert!(!usable("tmpfs /dev/shm tmpfs rw 0 0\n/dev/vdb /dev/shm ext4 rw 0 0\n"));
        assert!(!usable("tmpfs /run tmpfs rw 0 0\n"));
        assert!(!usable(""));
    }

    #[test]
    fn what_is_free_is_read_in_octets() {
        assert_eq!(available("MemTotal:       24684084 kB\nMemAvailable:   24045608 kB\n"), 24_045_608 * 1024);
        assert_eq!(available("MemTotal: 1 kB\n"), 0);
        assert_eq!(room("      Avail\n25276502016\n"), 25_276_502_016);
        assert_eq!(room("df: no such thing"), 0);
    }
}
