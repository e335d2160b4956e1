//! Memory: a buffer that is wiped for certain; a sealed memory file, the way in which the session key travels
//! without ever having a name in any directory; and what the allocator keeps for itself.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
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

/// Has all threads share so many heaps. Each would otherwise come to have one of its own, and what is freed in one
/// is of no use to another.
pub fn share_heaps(most: i32) {
    #[cfg(not(target_env = "gnu"))]
    let _ = most;
    #[cfg(target_env = "gnu")]
    // SAFETY: it only sets a number in the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, most);
    }
}

/// Gives back to the system what is free in the heaps.
pub fn trim_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator takes its own locks; nothing that is in use moves.
    unsafe {
        libc::malloc_trim(0);
    }
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
    fn wiped_is_zero() {
        let mut bytes = [7u8; 32];
        wipe(&mut bytes);
        assert_eq!(bytes, [0u8; 32]);
    }
}
