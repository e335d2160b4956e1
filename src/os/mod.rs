//! The only room with `unsafe` or raw system calls: the SQLCipher provider, processes and namespaces,
//! seccomp and landlock. Each file wraps one kind of call in a safe function and says why it is sound.

pub mod cage;
pub mod cbc;
pub mod clock;
pub mod files;
pub mod landlock;
pub mod memory;
pub mod mounts;
pub mod network;
pub mod process;
pub mod seccomp;
pub mod seen;
pub mod socket;
pub mod source;
pub mod sqlcipher;
pub mod stage;
mod tree;
pub mod userns;

use std::ffi::{CStr, c_char, c_int};

/// Threads of the blocking pool. Long work (network calls) is held by a semaphore below this number, so that
/// a quick database call never queues behind it.
pub const BLOCKING_THREADS: usize = 64;

unsafe extern "C" {
    fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
}

/// What every role does first, while the process still has one thread: name lookup keeps to glibc's built-in
/// sources (a static glibc would otherwise load `libnss_*.so` of another version), the blocking pool gets its
/// size, and malloc keeps to two arenas.
pub fn startup() {
    for database in [c"hosts", c"passwd", c"group"] {
        let services: &CStr = if database == c"hosts" { c"files dns" } else { c"files" };
        // SAFETY: both are NUL-terminated strings that live for ever; glibc copies what it keeps.
        unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
    // SAFETY: called first thing in `main`, before any other thread exists.
    unsafe { std::env::set_var("BLOCKING_MAX_THREADS", BLOCKING_THREADS.to_string()) };
    // SAFETY: mallopt only stores a number.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}
