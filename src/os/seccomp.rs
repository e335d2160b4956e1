//! The system calls of a sandbox, as data: every group with its reason, an argument rule where a call can do more
//! than the agent needs, and two stages. The same table becomes the kernel's filter and the `seccomp` section of
//! a gVisor bundle. What is not in it answers EPERM. Touches this process only.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads,
};

use crate::contract::fault;

/// When a filter is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// By whoever starts the sandbox: it may still start its program once and restrict itself further.
    Start,
    /// By the sandbox when it has started: no program, no process and no filter after this.
    Sealed,
}

/// What an argument must be for a call to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Anything.
    Any,
    /// Argument `.0` is one of these.
    OneOf(u8, &'static [u64]),
    /// Argument `.0` has exactly the bits `.2` of the bits `.1`.
    Bits(u8, u64, u64),
    /// Argument `.0` is this process.
    OwnProcess(u8),
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its name, as the kernel has it.
    pub name: &'static str,
    /// Its number on this architecture.
    pub number: i64,
    /// What it may be called with.
    pub rule: Rule,
}

/// Calls that are allowed for one reason.
#[derive(Debug)]
pub struct Group {
    /// The reason.
    pub reason: &'static str,
    /// `Start`: only until the sandbox has sealed itself. `Sealed`: for good.
    pub until: Stage,
    /// The calls.
    pub calls: &'static [Call],
}

macro_rules! calls {
    ($($name:ident $(: $rule:expr)?),* $(,)?) => { &[$(call!($name $(, $rule)?)),*] };
}

macro_rules! call {
    ($name:ident) => {
        call!($name, Rule::Any)
    };
    ($name:ident, $rule:expr) => {
        Call { name: stringify!($name), number: numbers::$name, rule: $rule }
    };
}

#[allow(non_upper_case_globals, missing_docs)]
mod numbers {
    //! Numbers of this architecture, under the kernel's names.
    macro_rules! from_libc {
        ($($name:ident = $number:ident),* $(,)?) => { $(pub(super) const $name: i64 = libc::$number;)* };
    }
    from_libc!(
        read = SYS_read,
        write = SYS_write,
        readv = SYS_readv,
        writev = SYS_writev,
        pread64 = SYS_pread64,
        pwrite64 = SYS_pwrite64,
        lseek = SYS_lseek,
        close = SYS_close,
        openat = SYS_openat,
        openat2 = SYS_openat2,
        fcntl = SYS_fcntl,
        fstat = SYS_fstat,
        newfstatat = SYS_newfstatat,
        statx = SYS_statx,
        fsync = SYS_fsync,
        fdatasync = SYS_fdatasync,
        ftruncate = SYS_ftruncate,
        fallocate = SYS_fallocate,
        faccessat = SYS_faccessat,
        faccessat2 = SYS_faccessat2,
        readlinkat = SYS_readlinkat,
        unlinkat = SYS_unlinkat,
        mkdirat = SYS_mkdirat,
        renameat = SYS_renameat,
        renameat2 = SYS_renameat2,
        fchmod = SYS_fchmod,
        fchmodat = SYS_fchmodat,
        getdents64 = SYS_getdents64,
        getcwd = SYS_getcwd,
        statfs = SYS_statfs,
        fstatfs = SYS_fstatfs,
        copy_file_range = SYS_copy_file_range,
        sendfile = SYS_sendfile,
        flock = SYS_flock,
        dup = SYS_dup,
        dup3 = SYS_dup3,
        ioctl = SYS_ioctl,
        mmap = SYS_mmap,
        munmap = SYS_munmap,
        mremap = SYS_mremap,
        mprotect = SYS_mprotect,
        madvise = SYS_madvise,
        brk = SYS_brk,
        mlock = SYS_mlock,
        munlock = SYS_munlock,
        futex = SYS_futex,
        clone = SYS_clone,
        clone3 = SYS_clone3,
        set_robust_list = SYS_set_robust_list,
        rseq = SYS_rseq,
        set_tid_address = SYS_set_tid_address,
        sched_yield = SYS_sched_yield,
        sched_getaffinity = SYS_sched_getaffinity,
        gettid = SYS_gettid,
        getpid = SYS_getpid,
        getuid = SYS_getuid,
        geteuid = SYS_geteuid,
        getgid = SYS_getgid,
        getegid = SYS_getegid,
        getppid = SYS_getppid,
        prctl = SYS_prctl,
        prlimit64 = SYS_prlimit64,
        capget = SYS_capget,
        uname = SYS_uname,
        exit = SYS_exit,
        exit_group = SYS_exit_group,
        rt_sigaction = SYS_rt_sigaction,
        rt_sigprocmask = SYS_rt_sigprocmask,
        rt_sigreturn = SYS_rt_sigreturn,
        restart_syscall = SYS_restart_syscall,
        sigaltstack = SYS_sigaltstack,
        tgkill = SYS_tgkill,
        clock_gettime = SYS_clock_gettime,
        clock_getres = SYS_clock_getres,
        clock_nanosleep = SYS_clock_nanosleep,
        nanosleep = SYS_nanosleep,
        gettimeofday = SYS_gettimeofday,
        getrandom = SYS_getrandom,
        ppoll = SYS_ppoll,
        pipe2 = SYS_pipe2,
        eventfd2 = SYS_eventfd2,
        epoll_create1 = SYS_epoll_create1,
        epoll_ctl = SYS_epoll_ctl,
        epoll_pwait = SYS_epoll_pwait,
        timerfd_create = SYS_timerfd_create,
        timerfd_settime = SYS_timerfd_settime,
        socket = SYS_socket,
        socketpair = SYS_socketpair,
        connect = SYS_connect,
        sendto = SYS_sendto,
        recvfrom = SYS_recvfrom,
        sendmsg = SYS_sendmsg,
        recvmsg = SYS_recvmsg,
        shutdown = SYS_shutdown,
        setsockopt = SYS_setsockopt,
        getsockopt = SYS_getsockopt,
        getsockname = SYS_getsockname,
        getpeername = SYS_getpeername,
        execve = SYS_execve,
        wait4 = SYS_wait4,
        seccomp = SYS_seccomp,
        landlock_create_ruleset = SYS_landlock_create_ruleset,
        landlock_add_rule = SYS_landlock_add_rule,
        landlock_restrict_self = SYS_landlock_restrict_self,
    );
    #[cfg(target_arch = "x86_64")]
    from_libc!(
        access = SYS_access,
        stat = SYS_stat,
        lstat = SYS_lstat,
        readlink = SYS_readlink,
        mkdir = SYS_mkdir,
        rmdir = SYS_rmdir,
        rename = SYS_rename,
        unlink = SYS_unlink,
        poll = SYS_poll,
        epoll_wait = SYS_epoll_wait,
        dup2 = SYS_dup2,
        arch_prctl = SYS_arch_prctl,
        fork = SYS_fork,
        vfork = SYS_vfork,
    );
}

/// Set-uid, set-gid and sticky bits: on the host they would stay on the file.
const SPECIAL_MODES: u64 = 0o7000;

const EXECUTABLE_MEMORY: u64 = libc::PROT_EXEC as u64;

/// Non-blocking, close-on-exec, and whether something is a terminal.
// The type of these constants differs between architectures.
#[allow(clippy::unnecessary_cast)]
const IOCTLS: &[u64] = &[libc::FIONBIO as u64, libc::FIOCLEX as u64, libc::TCGETS as u64];

const UNIX: &[u64] = &[libc::AF_UNIX as u64];

/// A thread of this process, and nothing of the calling process left behind.
const THREAD: u64 = (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND) as u64;

const NEW_NAMESPACES: u64 = libc::CLONE_NEWNS as u64
    | libc::CLONE_NEWUTS as u64
    | libc::CLONE_NEWIPC as u64
    | libc::CLONE_NEWUSER as u64
    | libc::CLONE_NEWPID as u64
    | libc::CLONE_NEWNET as u64
    | libc::CLONE_NEWCGROUP as u64;

/// The whole table.
pub const TABLE: &[Group] = &[
    Group {
        reason: "files that are open: databases, workspace, sockets",
        until: Stage::Sealed,
        calls: calls![
            read,
            write,
            readv,
            writev,
            pread64,
            pwrite64,
            lseek,
            close,
            fcntl,
            fstat,
            fsync,
            fdatasync,
            ftruncate,
            fallocate,
            flock,
            dup,
            copy_file_range,
            sendfile,
            getdents64,
            fstatfs,
        ],
    },
    Group {
        reason: "files by name: SQLite, and tools that stay beneath the workspace; no links, no special modes",
        until: Stage::Sealed,
        calls: calls![
            openat: Rule::Bits(3, SPECIAL_MODES, 0),
            // Its mode is behind a pointer; the wall above the session keeps such a file from anybody's hands.
            openat2,
            newfstatat, statx, faccessat, faccessat2, readlinkat, unlinkat, renameat, renameat2, getcwd, statfs,
            mkdirat: Rule::Bits(2, SPECIAL_MODES, 0),
            fchmod: Rule::Bits(1, SPECIAL_MODES, 0),
            fchmodat: Rule::Bits(2, SPECIAL_MODES, 0),
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "the same under the names that only this architecture still has",
        until: Stage::Sealed,
        calls: calls![
            access, stat, lstat, readlink, rmdir, rename, unlink, poll, epoll_wait,
            mkdir: Rule::Bits(1, SPECIAL_MODES, 0),
        ],
    },
    Group {
        reason: "memory; never executable again. SQLCipher locks its keys into it",
        until: Stage::Sealed,
        calls: calls![
            mmap: Rule::Bits(2, EXECUTABLE_MEMORY, 0),
            mprotect: Rule::Bits(2, EXECUTABLE_MEMORY, 0),
            munmap, mremap, madvise, brk, mlock, munlock,
        ],
    },
    Group {
        reason: "threads of this process, no other process, no namespace",
        until: Stage::Sealed,
        calls: calls![
            clone: Rule::Bits(0, THREAD | NEW_NAMESPACES, THREAD),
            // A second filter answers ENOSYS, on which the C library falls back to clone.
            clone3,
            futex, set_robust_list, rseq, sched_yield, sched_getaffinity, gettid, exit,
        ],
    },
    Group {
        reason: "what the process is: harmless questions, its threads' names, its own limits (raising needs a right)",
        until: Stage::Sealed,
        calls: calls![
            getpid, getppid, getuid, geteuid, getgid, getegid, capget, uname, prlimit64,
            prctl: Rule::OneOf(0, &[
                libc::PR_SET_NAME as u64,
                libc::PR_GET_NAME as u64,
                libc::PR_GET_DUMPABLE as u64,
                libc::PR_GET_SECCOMP as u64,
                libc::PR_GET_NO_NEW_PRIVS as u64,
                libc::PR_CAPBSET_READ as u64,
            ]),
        ],
    },
    Group {
        reason: "signals to itself: a panic, an abort, the stack guard",
        until: Stage::Sealed,
        calls: calls![
            rt_sigaction, rt_sigprocmask, rt_sigreturn, restart_syscall, sigaltstack, exit_group,
            tgkill: Rule::OwnProcess(0),
        ],
    },
    Group {
        reason: "time and randomness",
        until: Stage::Sealed,
        calls: calls![clock_gettime, clock_getres, clock_nanosleep, nanosleep, gettimeofday, getrandom],
    },
    Group {
        reason: "waiting",
        until: Stage::Sealed,
        calls: calls![
            ppoll, pipe2, eventfd2, epoll_create1, epoll_ctl, epoll_pwait, timerfd_create, timerfd_settime,
            ioctl: Rule::OneOf(1, IOCTLS),
        ],
    },
    Group {
        reason: "sockets: of this machine only, to connect to what was granted; it never listens",
        until: Stage::Sealed,
        calls: calls![
            socket: Rule::OneOf(0, UNIX),
            socketpair: Rule::OneOf(0, UNIX),
            connect, sendto, recvfrom, sendmsg, recvmsg, shutdown, setsockopt, getsockopt, getsockname,
            getpeername,
        ],
    },
    Group {
        reason: "starting the program, replacing standard input, and restricting itself",
        until: Stage::Start,
        calls: calls![
            execve, dup3, set_tid_address, seccomp, landlock_create_ruleset, landlock_add_rule,
            landlock_restrict_self,
            prctl: Rule::OneOf(0, &[
                libc::PR_SET_NO_NEW_PRIVS as u64,
                libc::PR_SET_DUMPABLE as u64,
                libc::PR_SET_SECCOMP as u64,
            ]),
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "starting the program, on this architecture",
        until: Stage::Start,
        calls: calls![dup2, arch_prctl],
    },
];

/// What the switch `new_processes` adds: the calls whose absence denies programs and processes.
const NEW_PROCESSES: &[Group] = &[
    Group {
        reason: "weakened for a test",
        until: Stage::Sealed,
        calls: calls![execve, wait4, clone: Rule::Any, dup3],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "weakened for a test",
        until: Stage::Sealed,
        calls: calls![fork, vfork, dup2, arch_prctl],
    },
];

/// The calls that are allowed at this stage. A name may come more than once, with different rules.
pub fn allowed(stage: Stage) -> impl Iterator<Item = &'static Call> {
    let extra = if fault::weakened("new_processes") { NEW_PROCESSES } else { &[] };
    TABLE
        .iter()
        .chain(extra)
        .filter(move |group| stage == Stage::Start || group.until == Stage::Sealed)
        .flat_map(|group| group.calls)
}

/// Installs the filter of this stage for all threads, for good. Also sets `no_new_privs`.
pub fn install(stage: Stage) -> io::Result<()> {
    // First the one that refuses clone3: the other does not let a filter be added.
    let clone3 = filter(BTreeMap::from([(numbers::clone3, vec![])]), SeccompAction::Allow, libc::ENOSYS)?;
    apply_filter_all_threads(&clone3).map_err(io::Error::other)?;
    apply_filter_all_threads(&program(stage)?).map_err(io::Error::other)
}

fn program(stage: Stage) -> io::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut unconditional = Vec::new();
    for call in allowed(stage) {
        let of_call = rules.entry(call.number).or_default();
        let conditions = conditions(call.rule)?;
        if conditions.is_empty() {
            unconditional.push(call.number);
        }
        for condition in conditions {
            of_call.push(SeccompRule::new(vec![condition]).map_err(io::Error::other)?);
        }
    }
    for number in unconditional {
        rules.insert(number, Vec::new());
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        architecture()?,
    );
    filter.and_then(BpfProgram::try_from).map_err(io::Error::other)
}

/// A filter that answers `errno` to these calls and otherwise has nothing to say.
fn filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    errno: i32,
) -> io::Result<BpfProgram> {
    SeccompFilter::new(rules, otherwise, SeccompAction::Errno(errno as u32), architecture()?)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}

fn architecture() -> io::Result<seccompiler::TargetArch> {
    std::env::consts::ARCH.try_into().map_err(io::Error::other)
}

/// The alternatives of a rule; none means that no argument is looked at.
fn conditions(rule: Rule) -> io::Result<Vec<SeccompCondition>> {
    let condition = |index, operator, value| {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value).map_err(io::Error::other)
    };
    match rule {
        Rule::Any => Ok(vec![]),
        Rule::OneOf(index, values) => {
            values.iter().map(|value| condition(index, SeccompCmpOp::Eq, *value)).collect()
        }
        Rule::Bits(index, mask, value) => Ok(vec![condition(index, SeccompCmpOp::MaskedEq(mask), value)?]),
        Rule::OwnProcess(index) => {
            Ok(vec![condition(index, SeccompCmpOp::Eq, u64::from(std::process::id()))?])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_filters_are_built_and_small() {
        for stage in [Stage::Start, Stage::Sealed] {
            let length = program(stage).unwrap().len();
            assert!((200..1200).contains(&length), "{length} instructions");
        }
    }

    #[test]
    fn a_sealed_sandbox_has_no_call_that_starts_leaves_or_looks_elsewhere() {
        let sealed: Vec<&str> = allowed(Stage::Sealed).map(|call| call.name).collect();
        for name in [
            "execve",
            "execveat",
            "fork",
            "vfork",
            "wait4",
            "kill",
            "tkill",
            "ptrace",
            "process_vm_readv",
            "mount",
            "umount2",
            "unshare",
            "setns",
            "chroot",
            "pivot_root",
            "bpf",
            "keyctl",
            "io_uring_setup",
            "bind",
            "listen",
            "accept4",
            "link",
            "linkat",
            "symlink",
            "symlinkat",
            "mknod",
            "mknodat",
            "chown",
            "fchown",
            "fchownat",
            "setuid",
            "setresuid",
            "capset",
            "seccomp",
            "landlock_restrict_self",
            "userfaultfd",
            "perf_event_open",
            "memfd_create",
            "open_by_handle_at",
            "setrlimit",
            "personality",
            "pidfd_open",
        ] {
            assert!(!sealed.contains(&name), "{name} is allowed");
        }
    }

    #[test]
    fn a_call_has_one_rule_or_alternatives_of_the_same_kind() {
        let mut seen: BTreeMap<&str, Rule> = BTreeMap::new();
        for call in allowed(Stage::Start) {
            if let Some(earlier) = seen.insert(call.name, call.rule) {
                assert!(matches!((earlier, call.rule), (Rule::OneOf(..), Rule::OneOf(..))), "{}", call.name);
            }
        }
    }

    #[test]
    fn every_group_has_a_reason() {
        assert!(TABLE.iter().all(|group| group.reason.len() > 5 && !group.calls.is_empty()));
    }
}
