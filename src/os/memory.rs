//! Memory: a buffer that is wiped for certain; a sealed memory file, the way in which the session key travels
//! without ever having a name in any directory; and what the allocator keeps for itself.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{Ordering, compiler_fence};

use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};

/// Overwrites `bytes` with zeros in a way the compiler may not leave out.
pub fn wipe(bytes: &mut [u8]) {
    for byte in bytes.iter_mut() {
        // SAFETY: `byte` is a valid, exclusive reference.
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
    compiler_fence(Ordering::SeqCst);
}

/// What is larger has pages of its own, which go back to the system when it is freed; the allocator would otherwise
/// learn to keep them, with small things between them.
const LARGE: i32 = 64 << 10;

/// Has all threads share so many heaps. Each would otherwise come to have one of its own, and what is freed in one
/// is of no use to another.
pub fn share_heaps(most: i32) {
    #[cfg(not(target_env = "gnu"))]
    let _ = most;
    #[cfg(target_env = "gnu")]
    // SAFETY: it only sets numbers in the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, most);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Has no thread keep what it freed for its own next need: a daemon with a dozen threads comes to hold 2 MiB that way,
/// a little more with every thousand messages. The allocator reads this setting only when a program starts, so the
/// program starts again, in the same process; where that cannot be done, or was done, nothing happens. Call it before
/// anything else is begun.
pub fn restart_without_thread_caches() {
    const SETTING: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");
    // SAFETY: it only asks for a number.
    let is_privileged = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    // With privileges of its own the setting would be taken away again, and this would never end.
    if cfg!(not(target_env = "gnu")) || is_privileged || std::env::var_os(SETTING.0).is_some() {
        // The kernel named it after the link that it was started by.
        let _ = rustix::thread::set_name(c"ironclaw");
        return;
    }
    let mut words = std::env::args_os();
    let Some(name) = words.next() else { return };
    let _ = Command::new("/proc/self/exe").arg0(name).args(words).env(SETTING.0, SETTING.1).exec();
}

/// Gives back to the system what is free in the heaps.
pub fn trim_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator takes its own locks; nothing that is in use moves.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What of the program's own file a process lets go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget {
    /// Its tables: relocations and unwinding, needed at the start and for a panic, and constants beside them.
    Tables,
    /// Its code too: for a process that has started, and needs the little of it that comes back, or only waits.
    All,
}

/// Lets go of pages of the program's own file. What is still needed comes back from the file when it is touched; the
/// rest is memory that nobody uses.
pub fn forget(what: Forget) {
    // SAFETY: it only asks for numbers.
    let [headers, count, page] = unsafe {
        [libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM), libc::getauxval(libc::AT_PAGESZ)]
    };
    if headers == 0 || page == 0 {
        return;
    }
    // SAFETY: the kernel put the address and the number of this program's own headers there; they lie in its first
    // segment, which nothing unmaps.
    let headers = unsafe { std::slice::from_raw_parts(headers as *const libc::Elf64_Phdr, count as usize) };
    let Some(own) = headers.iter().find(|header| header.p_type == libc::PT_PHDR) else { return };
    let base = (headers.as_ptr().addr() as u64).wrapping_sub(own.p_vaddr);
    let code = if what == Forget::All { libc::PF_X } else { 0 };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD) {
        if header.p_flags & !code != libc::PF_R {
            continue;
        }
        let start = base.wrapping_add(header.p_vaddr) / page * page;
        let end = base.wrapping_add(header.p_vaddr + header.p_memsz);
        // SAFETY: these pages are read-only copies of a file and hold nothing that was written; one that is touched
        // again is read from the file again.
        let _ =
            unsafe { libc::madvise(start as *mut libc::c_void, (end - start) as usize, libc::MADV_DONTNEED) };
    }
}

/// Lets go of what only work needs: what is free in the heaps, and the program's own file. What the next work needs
/// comes back within a millisecond.
pub fn rest() {
    trim_heaps();
    forget(Forget::All);
}

/// A file that is in no directory, holding `content` for ever: it can be neither written, grown nor shrunk.
/// Close-on-exec, positioned at its start.
pub fn memfd_sealed(content: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("sealed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(content)?;
    let fd = OwnedFd::from(file);
    rustix::fs::fcntl_add_seals(
        &fd,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    rustix::fs::seek(&fd, SeekFrom::Start(0))?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_sealed_file_reads_from_its_start_and_refuses_writing() {
        let mut file = std::fs::File::from(memfd_sealed(b"0123").unwrap());
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"0123");
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn what_was_forgotten_comes_back() {
        forget(Forget::Tables);
        forget(Forget::All);
        assert_eq!([3, 1, 2].iter().max(), Some(&3));
        assert!(std::panic::catch_unwind(|| panic!("on purpose")).is_err());
    }

    #[test]
    fn wiped_is_zero() {
        let mut bytes = [7u8; 32];
        wipe(&mut bytes);
        assert_eq!(bytes, [0u8; 32]);
    }
}
