//! Forbidden things, tried: system calls, processes and programs that a sandbox must not have. Only in the
//! faults build, for the tests that look at the walls from inside. What could change this process is tried in
//! a child, as long as there can be one; without one, in this process, which has then lost nothing more.

use std::ffi::{CStr, CString, c_long};
use std::io;

/// Tries `attempt` in a child if one can be made; an error is its `errno`.
fn apart(attempt: impl Fn() -> c_long) -> Result<(), io::Error> {
    let mut pipe = [0; 2];
    // SAFETY: the array has room for the two descriptors.
    if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let [reading, writing] = pipe;
    // SAFETY: the child calls only system calls before it ends, so that a lock held by another thread at
    // this moment is never waited for.
    let child = unsafe { libc::fork() };
    let errno = if child == 0 {
        let failed = attempt() < 0;
        let errno = if failed { last_errno() } else { 0 };
        // SAFETY: the buffer is four bytes of this frame; _exit runs nothing of the parent's.
        unsafe {
            libc::write(writing, (&raw const errno).cast(), 4);
            libc::_exit(0);
        }
    } else if child > 0 {
        let mut errno = 0_i32;
        // SAFETY: the descriptors are this function's own; the buffers are of the sizes given.
        unsafe {
            libc::close(writing);
            // A program that was started closes the pipe without a word: nothing failed.
            libc::read(reading, (&raw mut errno).cast(), 4);
            libc::close(reading);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        errno
    } else {
        // SAFETY: both are this function's own.
        unsafe {
            libc::close(reading);
            libc::close(writing);
        }
        let failed = attempt() < 0;
        if failed { last_errno() } else { 0 }
    };
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// An argument of a system call.
#[derive(Clone, Copy, Debug)]
enum Arg {
    Number(i64),
    Text(&'static CStr),
}

use Arg::{Number, Text};

const TMP: Arg = Text(c"/tmp");
const NULL: Arg = Number(0);

/// Calls that the sandbox never needs, with their numbers and arguments. What fails with EPERM or ENOSYS did
/// not happen; any other error says that the call itself was reached.
const CALLS: &[(&str, c_long, &[Arg])] = &[
    ("unshare_user", libc::SYS_unshare, &[Number(libc::CLONE_NEWUSER as i64)]),
    ("unshare_net", libc::SYS_unshare, &[Number(libc::CLONE_NEWNET as i64)]),
    ("setns", libc::SYS_setns, &[Number(0), Number(0)]),
    ("ptrace", libc::SYS_ptrace, &[Number(libc::PTRACE_TRACEME as i64)]),
    ("mount", libc::SYS_mount, &[Text(c"none"), TMP, Text(c"tmpfs"), Number(0), NULL]),
    ("umount", libc::SYS_umount2, &[TMP, Number(0)]),
    ("pivot_root", libc::SYS_pivot_root, &[TMP, TMP]),
    ("chroot", libc::SYS_chroot, &[TMP]),
    ("bpf", libc::SYS_bpf, &[Number(0), NULL, Number(0)]),
    ("keyctl", libc::SYS_keyctl, &[Number(0), Number(-3), Number(0)]),
    ("add_key", libc::SYS_add_key, &[Text(c"user"), Text(c"probe"), Text(c"x"), Number(1), Number(-2)]),
    ("perf_event_open", libc::SYS_perf_event_open, &[NULL, Number(0), Number(-1), Number(-1)]),
    ("io_uring_setup", libc::SYS_io_uring_setup, &[Number(1), NULL]),
    ("userfaultfd", libc::SYS_userfaultfd, &[Number(0)]),
    ("process_vm_readv", libc::SYS_process_vm_readv, &[Number(1), NULL, Number(0), NULL, Number(0)]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, &[Number(0), NULL, Number(0)]),
    ("personality", libc::SYS_personality, &[Number(0xffff_ffff)]),
    ("init_module", libc::SYS_init_module, &[NULL, Number(0), Text(c"")]),
    ("kexec_load", libc::SYS_kexec_load, &[Number(0), Number(0), NULL, Number(0)]),
    ("seccomp", libc::SYS_seccomp, &[Number(2), Number(0), NULL]),
    ("kill_init", libc::SYS_kill, &[Number(1), Number(0)]),
    ("setuid_0", libc::SYS_setuid, &[Number(0)]),
    ("socket_inet", libc::SYS_socket, &[Number(libc::AF_INET as i64), Number(1), Number(0)]),
    ("socket_inet6", libc::SYS_socket, &[Number(libc::AF_INET6 as i64), Number(2), Number(0)]),
    ("socket_netlink", libc::SYS_socket, &[Number(libc::AF_NETLINK as i64), Number(3), Number(0)]),
    ("socket_packet", libc::SYS_socket, &[Number(libc::AF_PACKET as i64), Number(3), Number(0)]),
    ("socket_vsock", libc::SYS_socket, &[Number(libc::AF_VSOCK as i64), Number(1), Number(0)]),
];

fn call(number: c_long, arguments: &[Arg]) -> c_long {
    let argument = |at: usize| match arguments.get(at) {
        None => 0,
        Some(Number(number)) => *number,
        Some(Text(text)) => text.as_ptr() as i64,
    };
    // SAFETY: the arguments are numbers, null and static strings that the kernel only reads; a call that
    // takes null where it wants a structure fails. What a call changes is the child's, or refused.
    unsafe { libc::syscall(number, argument(0), argument(1), argument(2), argument(3), argument(4)) }
}

/// Tries each; gives its name and what came of it.
pub fn calls() -> Vec<(&'static str, Result<(), io::Error>)> {
    CALLS.iter().map(|(name, number, arguments)| (*name, apart(|| call(*number, arguments)))).collect()
}

/// Whether another process can be made.
pub fn new_process() -> Result<(), io::Error> {
    // SAFETY: the child ends at once.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: ends the child without running anything of the parent's.
        0 => unsafe { libc::_exit(0) },
        child => {
            // SAFETY: waits for the child just made.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            Ok(())
        }
    }
}

/// Whether this file can be started as a program. Where no child can be made, a file that starts takes this
/// process's place, which the test sees as its end.
pub fn start(path: &str) -> Result<(), io::Error> {
    let path = CString::new(path).map_err(io::Error::other)?;
    let arguments = [path.as_ptr(), c"version".as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    // SAFETY: the arrays end with null and outlive the call.
    apart(|| c_long::from(unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) }))
}

/// The names of the network interfaces.
pub fn interfaces() -> Result<Vec<String>, io::Error> {
    // SAFETY: gives null or a list that ends with a null name.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut names = Vec::new();
    let mut at = list;
    // SAFETY: `at` stays within the list, which ends with a null name; names are C strings in it.
    unsafe {
        while !(*at).if_name.is_null() {
            names.push(CStr::from_ptr((*at).if_name).to_string_lossy().into_owned());
            at = at.add(1);
        }
        libc::if_freenameindex(list);
    }
    Ok(names)
}

/// Makes a file's mode carry the set-uid bit.
pub fn set_uid_bit(path: &str) -> Result<(), io::Error> {
    let path = CString::new(path).map_err(io::Error::other)?;
    // SAFETY: a C string and a number.
    match unsafe { libc::chmod(path.as_ptr(), 0o4755) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
