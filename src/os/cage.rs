//! The native cage: namespaces, a root of its own made of nothing but what the plan names, no capability, limits,
//! and a first process that only reaps. Runs inside the stage, a fresh process with one thread, where forking and
//! unsharing are safe. Touches the mounts of its own new namespace and no file of the host.

pub(super) mod root;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::UnshareFlags;

use super::memory::{self, Forget};
use super::process::{self, Ended};
use super::seccomp;
use super::stage::{Decoder, Encoder, Failure, Step, execve};
use crate::contract::fault;
use crate::contract::paths::INNER_ID;

/// As whom the cage runs on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The user of the daemon, in a user namespace.
    OwnUser,
    /// Root becomes `group` with `wall` as its only other group, then enters a user namespace.
    Mapped {
        /// B.
        group: u32,
        /// A.
        wall: u32,
    },
    /// Root builds the cage itself and then becomes `group`: for hosts that forbid user namespaces.
    NoUserNamespace {
        /// B.
        group: u32,
    },
}

/// How a directory or file of the host appears inside. Always without set-uid programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read-only, nothing in it can be executed, no devices.
    ReadOnly,
    /// Writable, nothing in it can be executed, no devices.
    ReadWrite,
    /// Read-only and executable: the program itself.
    Program,
    /// A device node, usable as such.
    Device,
    /// A directory that is somebody else's: read-only like the first, and nothing that is mounted inside it.
    Foreign,
}

/// One thing in the new root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// Memory with a size limit, writable, owned by the inner user.
    Memory {
        /// Where, as an absolute path inside.
        at: PathBuf,
        /// Its size.
        bytes: u64,
        /// Its mode.
        mode: u32,
    },
    /// Something of the host, file or directory.
    Bind {
        /// The host's path.
        source: PathBuf,
        /// Where, as an absolute path inside.
        at: PathBuf,
        /// What may be done with it.
        access: Access,
    },
    /// An empty directory.
    Directory {
        /// Where, as an absolute path inside.
        at: PathBuf,
    },
}

/// Limits of the sandbox process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Largest file it may write.
    pub file_bytes: u64,
    /// Open files.
    pub open_files: u64,
    /// Tasks of its user in its namespace; `None` where others have the same user and a cgroup bounds the tasks.
    pub threads: Option<u64>,
    /// Address space; `None` where a cgroup bounds the memory.
    pub address_space: Option<u64>,
}

/// A whole cage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cage {
    /// As whom.
    pub who: Who,
    /// What is in the root, in order.
    pub mounts: Vec<Mount>,
    /// Limits.
    pub limits: ProcessLimits,
    /// The program inside.
    pub program: PathBuf,
    /// Its arguments, its own name not included.
    pub args: Vec<OsString>,
    /// Its environment, `NAME=VALUE`; empty in a normal launch.
    pub env: Vec<OsString>,
}

/// Becomes the cage's user and enters its namespaces.
pub(super) fn enter_namespaces(who: &Who) -> Result<(), Failure> {
    if let Who::Mapped { group, wall } = *who {
        become_user(group, &[wall])?;
        // Changing ids made /proc/self root's; the maps below are written through it.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
            .step(|| "staying dumpable".into())?;
    }
    let mut spaces = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP
        | UnshareFlags::NEWPID;
    if fault::weakened("network") {
        spaces.remove(UnshareFlags::NEWNET);
    }
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if !matches!(who, Who::NoUserNamespace { .. }) {
        spaces |= UnshareFlags::NEWUSER;
    }
    // SAFETY: this process has one thread, and the table of descriptors is not unshared.
    unsafe { rustix::thread::unshare_unsafe(spaces) }.step(|| "unshare".into())?;
    if !matches!(who, Who::NoUserNamespace { .. }) {
        let inner = if fault::weakened("inner_uid") { 0 } else { INNER_ID };
        write_proc("/proc/self/setgroups", "deny")?;
        write_proc("/proc/self/uid_map", &format!("{inner} {} 1", own.0))?;
        write_proc("/proc/self/gid_map", &format!("{inner} {} 1", own.1))?;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).step(|| "making the mounts private".into())
}

fn become_user(id: u32, groups: &[u32]) -> Result<(), Failure> {
    let (user, group) = (rustix::process::Uid::from_raw(id), rustix::process::Gid::from_raw(id));
    let groups: Vec<_> = groups.iter().map(|id| rustix::process::Gid::from_raw(*id)).collect();
    rustix::thread::set_thread_groups(&groups).step(|| "setgroups".into())?;
    rustix::thread::set_thread_res_gid(group, group, group).step(|| "setresgid".into())?;
    rustix::thread::set_thread_res_uid(user, user, user).step(|| "setresuid".into())
}

fn write_proc(path: &str, text: &str) -> Result<(), Failure> {
    // One write: the kernel takes a map only whole.
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .step(|| format!("writing {path}"))
}

/// Builds the cage in a child and stays outside until it has ended: the end of standard input, which the daemon
/// holds open, kills it. Returns its status, or 128 and the signal.
pub(super) fn supervise(cage: &Cage, key: OwnedFd, status: &mut Option<OwnedFd>) -> Result<u8, Failure> {
    enter_namespaces(&cage.who)?;
    // Its write end stays here alone: the child sees a hang-up exactly when this process is gone.
    let (gone, here) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step(|| "pipe".into())?;
    match fork().step(|| "fork".into())? {
        Forked::Child => {
            drop(here);
            let failure = match become_first(cage, key, &gone) {
                Err(failure) => failure,
                Ok(never) => match never {},
            };
            if let Some(status) = status {
                let _ = rustix::io::write(status, super::stage::failure_line(&failure).as_bytes());
            }
            std::process::exit(i32::from(super::stage::FAILED));
        }
        Forked::Parent(pid) => {
            drop((key, gone));
            let pidfd = process::pidfd_open(pid).step(|| "pidfd_open".into())?;
            // Closed here, so that the daemon sees its end when the child's copy closes as the sandbox starts.
            if let Some(status) = status.take() {
                let _ = rustix::io::write(&status, format!("P {pid}\n").as_bytes());
            }
            let ended = outlive(&pidfd);
            drop(here);
            Ok(match ended {
                Ended::Code(code) => code as u8,
                Ended::Signal(signal) => 128 + signal as u8,
                Ended::Unknown => super::stage::FAILED,
            })
        }
    }
}

fn outlive(pidfd: &OwnedFd) -> Ended {
    memory::forget(Forget::All);
    loop {
        let input = io::stdin();
        let input = input.as_fd();
        let mut fds = [
            PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(input, PollFlags::empty()),
        ];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if let [_, lifeline] = &fds
            && lifeline.revents().intersects(PollFlags::HUP | PollFlags::ERR)
        {
            let _ = process::kill(pidfd.as_fd());
            let limit = std::time::Duration::from_secs(3600);
            return process::wait(pidfd.as_fd(), limit).unwrap_or(Ended::Unknown);
        }
        if let Some(ended) = process::reap(pidfd.as_fd()) {
            return ended;
        }
    }
}

enum Forked {
    Child,
    Parent(u32),
}

fn fork() -> io::Result<Forked> {
    // SAFETY: this process has one thread, so the child's copy of its memory is consistent.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        pid if pid > 0 => Ok(Forked::Parent(pid as u32)),
        _ => Err(io::Error::last_os_error()),
    }
}

enum Never {}

/// Pid 1 of the cage: makes the root, gives everything up, starts the sandbox as pid 2, and reaps.
fn become_first(cage: &Cage, key: OwnedFd, gone: &OwnedFd) -> Result<Never, Failure> {
    die_with_parent(gone)?;
    root::build(cage)?;
    rustix::system::sethostname(b"sandbox").step(|| "sethostname".into())?;
    if let Who::NoUserNamespace { group } = cage.who {
        // The change of user clears the parent-death signal, and all capabilities but the bounding set.
        if !fault::weakened("capabilities") {
            caps::clear(None, caps::CapSet::Bounding).map_err(caps_error).step(|| "bounding set".into())?;
        }
        if !fault::weakened("inner_uid") {
            become_user(group, &[])?;
        }
        die_with_parent(gone)?;
    }
    if fault::weakened("capabilities") {
        keep_capabilities()?;
    } else {
        drop_capabilities()?;
    }
    if !fault::weakened("no_new_privs") {
        rustix::thread::set_no_new_privs(true).step(|| "no_new_privs".into())?;
    }
    rustix::process::setsid().step(|| "setsid".into())?;
    // A fork keeps this flag and the program's start resets it: the sandbox cannot look into its first process.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .step(|| "not dumpable".into())?;
    match fork().step(|| "fork".into())? {
        Forked::Child => start(cage, key),
        Forked::Parent(pid) => {
            drop(key);
            reap_until(pid)
        }
    }
}

/// SIGKILL when the process outside ends, also when it has ended already.
fn die_with_parent(gone: &OwnedFd) -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step(|| "death signal".into())?;
    let mut fds = [PollFd::from_borrowed_fd(gone.as_fd(), PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&now)) {
        Ok(0) => Ok(()),
        _ => std::process::exit(i32::from(super::stage::FAILED)),
    }
}

fn caps_error(error: caps::errors::CapsError) -> io::Error {
    io::Error::other(error.to_string())
}

fn drop_capabilities() -> Result<(), Failure> {
    use caps::CapSet::{Ambient, Bounding, Effective, Inheritable, Permitted};
    for set in [Bounding, Ambient, Inheritable, Effective, Permitted] {
        caps::clear(None, set).map_err(caps_error).step(|| format!("clearing the {set:?} capabilities"))?;
    }
    Ok(())
}

/// What the switch leaves to the program: all that this process holds, in every set.
fn keep_capabilities() -> Result<(), Failure> {
    use caps::CapSet::{Ambient, Inheritable, Permitted};
    let held = caps::read(None, Permitted).map_err(caps_error).step(|| "reading the capabilities".into())?;
    for set in [Inheritable, Ambient] {
        caps::set(None, set, &held).map_err(caps_error).step(|| format!("keeping the {set:?} ones"))?;
    }
    Ok(())
}

/// The sandbox itself: limits, the key as standard input, seccomp, and the program.
fn start(cage: &Cage, key: OwnedFd) -> Result<Never, Failure> {
    let limits = &cage.limits;
    set_limit(Resource::Core, 0)?;
    set_limit(Resource::Fsize, limits.file_bytes)?;
    set_limit(Resource::Nofile, limits.open_files)?;
    if let Some(threads) = limits.threads {
        set_limit(Resource::Nproc, threads)?;
    }
    if let Some(bytes) = limits.address_space {
        set_limit(Resource::As, bytes)?;
    }
    process::replace_stdin(key.as_fd()).step(|| "handing the key over".into())?;
    drop(key);
    if !fault::weakened("seccomp") && !fault::weakened("no_new_privs") {
        seccomp::install(seccomp::Stage::Start).step(|| "seccomp".into())?;
    }
    let program = cage.program.as_os_str();
    let error = execve(program, program, &cage.args, &cage.env);
    Err(Failure { step: format!("starting {} in the cage", cage.program.display()), error })
}

fn set_limit(resource: Resource, value: u64) -> Result<(), Failure> {
    let limit = Rlimit { current: Some(value), maximum: Some(value) };
    rustix::process::setrlimit(resource, limit).step(|| format!("limiting {resource:?}"))
}

/// Collects every process that ends in the cage; ends with the sandbox, as it did, and the kernel then kills
/// whatever else is there.
fn reap_until(sandbox: u32) -> ! {
    // SAFETY: nothing in this process uses a descriptor from here on.
    unsafe { libc::close_range(0, libc::c_uint::MAX, 0) };
    memory::forget(Forget::All);
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for an int.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if pid == sandbox as i32 {
            let code = if libc::WIFEXITED(status) {
                libc::WEXITSTATUS(status)
            } else {
                128 + libc::WTERMSIG(status)
            };
            // SAFETY: `_exit` only ends the process; the buffers it leaves unwritten belong to the stage outside.
            unsafe { libc::_exit(code) };
        }
    }
}

impl Who {
    pub(super) fn encode(&self, out: &mut Encoder) {
        let (kind, group, wall) = match *self {
            Who::OwnUser => (0, 0, 0),
            Who::Mapped { group, wall } => (1, group, wall),
            Who::NoUserNamespace { group } => (2, group, 0),
        };
        [kind, group, wall].into_iter().for_each(|number| out.number(u64::from(number)));
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> io::Result<Self> {
        let (kind, group, wall) = (from.number()?, from.number()? as u32, from.number()? as u32);
        match kind {
            0 => Ok(Who::OwnUser),
            1 => Ok(Who::Mapped { group, wall }),
            2 => Ok(Who::NoUserNamespace { group }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Mount {
    fn encode(&self, out: &mut Encoder) {
        match self {
            Mount::Memory { at, bytes, mode } => {
                out.number(0);
                out.bytes(at.as_os_str().as_bytes());
                out.number(*bytes);
                out.number(u64::from(*mode));
            }
            Mount::Bind { source, at, access } => {
                out.number(1);
                out.bytes(source.as_os_str().as_bytes());
                out.bytes(at.as_os_str().as_bytes());
                out.number(*access as u64);
            }
            Mount::Directory { at } => {
                out.number(2);
                out.bytes(at.as_os_str().as_bytes());
            }
        }
    }

    fn decode(from: &mut Decoder<'_>) -> io::Result<Self> {
        Ok(match from.number()? {
            0 => Mount::Memory { at: from.path()?, bytes: from.number()?, mode: from.number()? as u32 },
            1 => Mount::Bind {
                source: from.path()?,
                at: from.path()?,
                access: match from.number()? {
                    0 => Access::ReadOnly,
                    1 => Access::ReadWrite,
                    2 => Access::Program,
                    3 => Access::Device,
                    4 => Access::Foreign,
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                },
            },
            2 => Mount::Directory { at: from.path()? },
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })
    }
}

impl Cage {
    pub(super) fn encode(&self, out: &mut Encoder) {
        self.who.encode(out);
        out.list(&self.mounts, |out, item| item.encode(out));
        let limits = &self.limits;
        let (threads, space) = (limits.threads.unwrap_or(0), limits.address_space.unwrap_or(0));
        [limits.file_bytes, limits.open_files, threads, space].into_iter().for_each(|n| out.number(n));
        out.bytes(self.program.as_os_str().as_bytes());
        out.list(&self.args, |out, word| out.bytes(word.as_bytes()));
        out.list(&self.env, |out, word| out.bytes(word.as_bytes()));
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> io::Result<Self> {
        Ok(Cage {
            who: Who::decode(from)?,
            mounts: from.list(Mount::decode)?,
            limits: ProcessLimits {
                file_bytes: from.number()?,
                open_files: from.number()?,
                threads: Some(from.number()?).filter(|threads| *threads > 0),
                address_space: Some(from.number()?).filter(|bytes| *bytes > 0),
            },
            program: from.path()?,
            args: from.list(Decoder::word)?,
            env: from.list(Decoder::word)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::stage::{KEY_BYTES, Plan, Task};

    #[test]
    fn every_part_of_a_cage_travels() {
        let cage = Cage {
            who: Who::Mapped { group: 7, wall: 8 },
            mounts: vec![
                Mount::Memory { at: "/tmp".into(), bytes: 5, mode: 0o1777 },
                Mount::Bind { source: "/a b".into(), at: "/c".into(), access: Access::Device },
                Mount::Directory { at: "/d".into() },
            ],
            limits: ProcessLimits { file_bytes: 1, open_files: 2, threads: Some(3), address_space: None },
            program: "/ironclaw".into(),
            args: vec!["sandbox".into()],
            env: vec!["A=b".into()],
        };
        let plan = Plan::new(Task::Cage(cage));
        assert_eq!(Plan::read_from(&plan.encode(&[1; KEY_BYTES])).unwrap(), plan);
    }
}
