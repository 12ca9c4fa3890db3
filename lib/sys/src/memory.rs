//! What of this program the kernel keeps in memory.

use std::io;

/// Has the kernel forget which pages of this program's code are mapped; those in use come back at the next call, from the
/// page cache. Returns the octets that were looked through.
///
/// A program of tens of megabytes runs through most of them while it starts (clients, TLS, decoders), and through a few
/// for the rest of its life. What was mapped once stays mapped, and counted (RSS, PSS), until memory is short.
///
/// # Errors
/// If the list of mappings cannot be read, or the kernel refuses.
pub fn unmap_idle_code() -> io::Result<usize> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let mappings = std::fs::read_to_string("/proc/self/maps")?;
    let mut total = 0;
    for (start, end) in mappings.lines().filter_map(|line| code(line, program.to_str()?)) {
        // SAFETY: the range is one mapping of this program's file, private, executable and not writable, so none of its
        // pages differs from the file, which cannot be written while it is executed (ETXTBSY). A page that is given up so is
        // read again from the file when it is touched, also by the code that runs right now. The mapping itself stays.
        let result = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        total += end - start;
    }
    Ok(total)
}

/// Gives the allocator's free pages back to the kernel: glibc's keeps those below the last one in use. Of other allocators
/// nothing is asked.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it is a function of the allocator that any thread may call at any time (MT-Safe, malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The range of a line of `/proc/PID/maps` (proc(5)) if it is code of this file, never written since it was mapped.
fn code(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut fields = line.splitn(6, ' ');
    let range = fields.next()?;
    let is_code = fields.next()? == "r-xp" && fields.nth(3)?.trim_start() == program;
    let (start, end) = range.split_once('-').filter(|_| is_code)?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (start < end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_given_up() {
        let line = |rights: &str, path: &str| format!("1000-3000 {rights} 00001000 fe:00 42                    {path}");
        assert_eq!(code(&line("r-xp", "/bin/felix"), "/bin/felix"), Some((0x1000, 0x3000)));
        for (rights, path) in [
            ("r--p", "/bin/felix"),
            ("rw-p", "/bin/felix"),
            ("rwxp", "/bin/felix"),
            ("r-xp", "/lib/libc.so.6"),
            ("r-xp", ""),
            ("r-xp", "/bin/felix (deleted)"),
        ] {
            assert_eq!(code(&line(rights, path), "/bin/felix"), None, "{rights} {path}");
        }
        for broken in ["", "1000", "1000-3000", "3000-1000 r-xp 0 0 0 /bin/felix", "x-y r-xp 0 0 0 /bin/felix"] {
            assert_eq!(code(broken, "/bin/felix"), None, "{broken}");
        }
    }

    #[test]
    fn the_program_runs_on() {
        assert!(unmap_idle_code().unwrap() > 0);
        trim_heap();
        // Code that has run before and code that has not.
        assert_eq!(code("", ""), None);
        assert_eq!(format!("{:08.3}", 1.5), "0001.500");
    }
}
