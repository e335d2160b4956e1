//! The sandbox's own walls, inside those that were built around it: first thing, no dumps and the key taken from
//! standard input; after its start, landlock and a seccomp filter without which nothing else runs. Touches this
//! process only.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::contract::cipher::{KEY_BYTES, SessionKey};
use crate::contract::{fault, paths};
use crate::os::landlock::{self, Enforced, Paths};
use crate::os::{memory, process, seccomp};

/// Where the key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySource<'a> {
    /// Descriptor 0, as every launch of the daemon has it.
    StandardInput,
    /// `--key PATH`: a file on a memory file system, removed once it is read.
    File(&'a Path),
}

/// A step of hardening that failed. The sandbox must not go on.
#[derive(Debug)]
pub struct HardenError {
    doing: &'static str,
    error: io::Error,
}

impl fmt::Display for HardenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the sandbox could not protect itself: {}: {}", self.doing, self.error)
    }
}

impl std::error::Error for HardenError {}

fn step(doing: &'static str) -> impl FnOnce(io::Error) -> HardenError {
    move |error| HardenError { doing, error }
}

/// First thing in the process: nobody can dump or trace it, a file at its size limit is an error and not a
/// signal, and the key is taken so that no descriptor and no file has it any more.
pub fn early(source: KeySource<'_>) -> Result<SessionKey, HardenError> {
    process::forbid_core_dumps().map_err(step("forbidding dumps"))?;
    process::ignore_file_size_signal().map_err(step("ignoring SIGXFSZ"))?;
    let mut bytes = [0u8; KEY_BYTES];
    let read = match source {
        KeySource::StandardInput => take_from_stdin(&mut bytes),
        KeySource::File(path) => take_from_file(path, &mut bytes),
    };
    let key = read.map(|()| SessionKey::from_bytes(bytes)).map_err(step("reading the session key"));
    memory::wipe(&mut bytes);
    key
}

fn take_from_stdin(bytes: &mut [u8; KEY_BYTES]) -> io::Result<()> {
    process::read_stdin(bytes)?;
    process::stdin_to_null()
}

fn take_from_file(path: &Path, bytes: &mut [u8; KEY_BYTES]) -> io::Result<()> {
    let read = File::open(path).and_then(|mut file| file.read_exact(bytes));
    // Removed in any case: a key that could not be read must not stay either.
    std::fs::remove_file(path)?;
    read
}

/// What [`seal`] achieved, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Landlock; `Not` inside gVisor, which has none and needs none.
    pub landlock: Enforced,
}

/// The mounts that this box may write in, as their mounts say.
fn writable_mounts() -> Vec<String> {
    use rustix::fs::StatVfsMountFlags;
    let entries = std::fs::read_dir(paths::MOUNTS).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.path().to_str().map(str::to_owned));
    let writable = |path: &String| {
        rustix::fs::statvfs(path.as_str()).is_ok_and(|stat| !stat.f_flag.contains(StatVfsMountFlags::RDONLY))
    };
    names.filter(writable).collect()
}

/// After start-up: paths are restricted by landlock, and from now on only the system calls of the table pass; no
/// program, no process, no socket but a local one. Call it from the first thread, before others are started:
/// seccomp reaches all threads, landlock this one and those that it starts.
pub fn seal() -> Result<Sealed, HardenError> {
    if fault::weakened("no_new_privs") {
        // Neither can be installed without it.
        return Ok(Sealed { landlock: Enforced::Not });
    }
    let landlock = if fault::weakened("landlock") {
        Enforced::Not
    } else {
        let mounts = writable_mounts();
        let mut write =
            vec![paths::OUTBOUND_DIR, paths::SESSION_DIR, paths::WORKSPACE, paths::MEMORY, paths::TMP];
        write.extend(mounts.iter().map(String::as_str));
        landlock::restrict(&Paths {
            read: &[paths::INBOUND_DIR, paths::SOCKET_DIR, paths::PACKAGES, paths::MOUNTS],
            write: &write,
            execute: &[paths::EXECUTABLE],
            devices: &["/dev/null", "/dev/urandom"],
        })
        .map_err(step("landlock"))?
    };
    if !fault::weakened("seccomp") {
        seccomp::install(seccomp::Stage::Sealed).map_err(step("seccomp"))?;
    }
    Ok(Sealed { landlock })
}
