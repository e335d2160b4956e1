//! Processes as descriptors: opening, signalling, waiting for and reaping them through pidfds, so that a
//! recycled process id is never signalled by mistake; the start times that name a process for good; and the
//! switches a process sets on itself. Touches only processes that the caller names.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid,
};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It returned this status, 0 to 255.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It is gone, and somebody else collected its status.
    Unknown,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "exit status {code}"),
            Ended::Signal(signal) => write!(f, "signal {signal}"),
            Ended::Unknown => f.write_str("gone"),
        }
    }
}

/// Makes this process the parent of every descendant that loses its own, so that the detached processes of a
/// sandbox can be waited for here.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Whether this program was started with SIGHUP ignored, as `nohup` does.
pub fn ignores_hangup() -> bool {
    // A mask of signals, of which SIGHUP is the first (proc_pid_status(5)).
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

/// No core dump of this process, piped handlers included, and no debugger of the same user: its memory holds
/// keys and messages.
pub fn forbid_core_dumps() -> io::Result<()> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// A write at the limit of a file's size is an error (EFBIG) instead of the end of the process.
pub fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: SIG_IGN installs no handler of ours.
    match unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Fills `buffer` from descriptor 0, unbuffered, so that what is read is in no other memory.
pub fn read_stdin(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match rustix::io::read(io::stdin(), &mut *buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer = buffer.get_mut(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Puts `/dev/null` in the place of descriptor 0.
pub fn stdin_to_null() -> io::Result<()> {
    replace_stdin(std::fs::File::open("/dev/null")?.as_fd())
}

/// Makes descriptor 0 the same as `fd`.
pub fn replace_stdin(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: descriptor 0 is nobody's property: the library's standard input only ever reads from the number.
    if unsafe { libc::dup2(fd.as_raw_fd(), 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Raises the soft limit of open files to the hard one and returns it (`u64::MAX` when there is none).
pub fn raise_open_files() -> u64 {
    let now = rustix::process::getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: now.maximum, maximum: now.maximum };
    match rustix::process::setrlimit(Resource::Nofile, wanted) {
        Ok(()) => now.maximum.unwrap_or(u64::MAX),
        Err(_) => now.current.unwrap_or(u64::MAX),
    }
}

/// Ends the process at once, threads that are still at work with it. What C libraries do at an ordered end is left
/// out: SQLCipher frees the memory and the locks in which other threads still look for their keys.
pub fn leave(code: u8) -> ! {
    use std::io::Write;
    // Whoever read it may have left.
    let _ = std::io::stdout().flush();
    // SAFETY: `_exit` only ends the process; every file that must be whole is made so by whoever wrote it.
    unsafe { libc::_exit(code.into()) }
}

/// A descriptor for a process that exists now.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// SIGKILL. A process that is already gone is not an error.
pub fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the process has ended (it may still be a zombie).
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    wait_readable(pidfd, Duration::ZERO).unwrap_or(true)
}

/// Waits at most `limit` for `fd` to become readable or hang up; for a pidfd that is the end of the process.
pub fn wait_readable(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// How a child ended, without collecting it: `None` while it runs.
pub fn peek(pidfd: BorrowedFd<'_>) -> Option<Ended> {
    if !has_ended(pidfd) {
        return None;
    }
    Some(collect(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT))
}

/// Collects a child that has ended; `None` while it runs. A process that is not our child, or was collected
/// elsewhere, is `Ended::Unknown`.
pub fn reap(pidfd: BorrowedFd<'_>) -> Option<Ended> {
    if !has_ended(pidfd) {
        return None;
    }
    Some(collect(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG))
}

/// Waits at most `limit` for the process to end and collects it when it is a child of ours.
pub fn wait(pidfd: BorrowedFd<'_>, limit: Duration) -> Option<Ended> {
    match wait_readable(pidfd, limit) {
        Ok(true) => reap(pidfd),
        Ok(false) | Err(_) => None,
    }
}

fn collect(pidfd: BorrowedFd<'_>, options: WaitIdOptions) -> Ended {
    match waitid(WaitId::PidFd(pidfd), options) {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Code(code),
            (_, Some(signal)) => Ended::Signal(signal),
            _ => Ended::Unknown,
        },
        Ok(None) | Err(_) => Ended::Unknown,
    }
}

/// Processes that somebody here waits for, so that the collecting of orphans leaves them alone.
static HELD: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A process that is waited for by its holder.
#[derive(Debug)]
pub struct Hold(u32);

/// Keeps [`reap_orphans`] from a process.
pub fn hold(pid: u32) -> Hold {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
    Hold(pid)
}

impl Drop for Hold {
    fn drop(&mut self) {
        HELD.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Collects children that ended and that nobody waits for: what a sandbox's processes left to this one as their
/// subreaper. Children of this process's own session, as `Command` makes them, are somebody's and stay.
pub fn reap_orphans() {
    let own_session = stat_field(std::process::id(), 3).ok();
    for pid in children().unwrap_or_default() {
        let is_zombie = stat_field(pid, 0).is_ok_and(|state| state == "Z");
        let foreign = own_session.is_some() && stat_field(pid, 3).ok() != own_session;
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).contains(&pid);
        if is_zombie
            && foreign
            && !held
            && let Some(pid) = Pid::from_raw(pid as i32)
        {
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

/// When a process started, in clock ticks since boot: with the process id it names one process for good.
pub fn start_time(pid: u32) -> io::Result<u64> {
    stat_field(pid, 19)?.parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The parent of a process.
pub fn parent(pid: u32) -> io::Result<u32> {
    stat_field(pid, 1)?.parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Field `index` of `/proc/PID/stat`, counted from the state, which follows the bracketed name: the name may
/// hold anything, brackets and spaces too, so the last bracket is the one that counts.
fn stat_field(pid: u32, index: usize) -> io::Result<String> {
    let text = std::fs::read(format!("/proc/{pid}/stat"))?;
    let text = String::from_utf8_lossy(&text);
    let (_, rest) = text.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
    rest.split_whitespace().nth(index).map(str::to_owned).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The real user of a process.
pub fn real_uid(pid: u32) -> io::Result<u32> {
    let text = std::fs::read(format!("/proc/{pid}/status"))?;
    let text = String::from_utf8_lossy(&text);
    let ids = text.lines().find_map(|line| line.strip_prefix("Uid:")).ok_or(io::ErrorKind::InvalidData)?;
    let first = ids.split_whitespace().next().ok_or(io::ErrorKind::InvalidData)?;
    first.parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Whether one of the files that a process has open fits, each given by its name in `/proc`; `None` where that cannot
/// be seen.
pub fn has_open(pid: u32, fits: impl Fn(&Path) -> bool) -> Option<bool> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    Some(open.flatten().any(|file| fits(&file.path())))
}

/// The kernel's name for the time since this boot: what was written down before it names other processes.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The arguments of a process; empty for a zombie or a kernel thread.
pub fn arguments(pid: u32) -> io::Result<Vec<OsString>> {
    use std::os::unix::ffi::OsStringExt;
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let mut words: Vec<OsString> =
        bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    words.pop();
    Ok(words)
}

/// Every process id there is now, in no order.
pub fn all() -> io::Result<Vec<u32>> {
    Ok(std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// The children of this process. Reads the kernel's own lists where it keeps them, else every process's parent.
pub fn children() -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        match std::fs::read_to_string(task?.path().join("children")) {
            Ok(list) => found.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let own = std::process::id();
                return Ok(all()?.into_iter().filter(|pid| parent(*pid).ok() == Some(own)).collect());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whether this process may pass through a directory, judged by the kernel for its effective ids.
pub fn may_traverse(directory: &Path) -> bool {
    rustix::fs::accessat(
        rustix::fs::CWD,
        directory,
        rustix::fs::Access::EXEC_OK,
        rustix::fs::AtFlags::EACCESS,
    )
    .is_ok()
}

/// The effective user and group of this process.
pub fn own_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The kernel's release, such as `6.18.0`.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The user of whoever is at the other end of a unix socket, as the kernel recorded it at `connect`.
pub fn peer_uid(socket: impl AsFd) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw())
}

#[cfg(test)]
#[allow(clippy::zombie_processes, reason = "they are collected through their descriptors")]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_child_is_seen_ending_and_collected_once() {
        let child =
            Command::new("/bin/sh").args(["-c", "read x; exit 7"]).stdin(Stdio::piped()).spawn().unwrap();
        let pidfd = pidfd_open(child.id()).unwrap();
        assert_eq!(peek(pidfd.as_fd()), None);
        assert!(children().unwrap().contains(&child.id()));
        assert_eq!(parent(child.id()).unwrap(), std::process::id());
        assert!(start_time(child.id()).unwrap() > 0);
        assert_eq!(real_uid(child.id()).unwrap(), rustix::process::getuid().as_raw());
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        drop(child.stdin);
        assert!(wait_readable(pidfd.as_fd(), Duration::from_secs(20)).unwrap());
        assert_eq!(peek(pidfd.as_fd()), Some(Ended::Code(7)));
        assert_eq!(reap(pidfd.as_fd()), Some(Ended::Code(7)));
        assert_eq!(reap(pidfd.as_fd()), Some(Ended::Unknown));
    }

    #[test]
    fn kill_reaches_the_process_and_is_quiet_about_a_dead_one() {
        let child = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        let pidfd = pidfd_open(child.id()).unwrap();
        kill(pidfd.as_fd()).unwrap();
        assert_eq!(wait(pidfd.as_fd(), Duration::from_secs(20)), Some(Ended::Signal(9)));
        kill(pidfd.as_fd()).unwrap();
    }

    #[test]
    fn an_orphan_of_another_session_is_collected_unless_it_is_held() {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("/bin/true");
        // SAFETY: setsid is a system call and touches no memory.
        let own = unsafe { command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(Into::into)) }
            .spawn()
            .unwrap();
        let pidfd = pidfd_open(own.id()).unwrap();
        assert!(wait_readable(pidfd.as_fd(), Duration::from_secs(20)).unwrap());
        let held = hold(own.id());
        reap_orphans();
        assert_eq!(peek(pidfd.as_fd()), Some(Ended::Code(0)));
        drop(held);
        reap_orphans();
        assert_eq!(peek(pidfd.as_fd()), Some(Ended::Unknown));
    }

    #[test]
    fn arguments_keep_spaces_and_empty_words() {
        use std::io::Read;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo; read x", "a b", ""]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // What it prints proves that its program runs; just after `spawn` the kernel may show no arguments yet.
        child.stdout.take().unwrap().read_exact(&mut [0; 1]).unwrap();
        let words = arguments(child.id()).unwrap();
        let pidfd = pidfd_open(child.id()).unwrap();
        drop(child.stdin);
        assert!(wait(pidfd.as_fd(), Duration::from_secs(20)).is_some());
        assert_eq!(words, ["/bin/sh", "-c", "echo; read x", "a b", ""]);
    }
}
