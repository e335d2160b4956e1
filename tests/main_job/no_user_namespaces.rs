//! Hosts that forbid user namespaces, as a container's seccomp profile does it: here a filter, put around the
//! daemon and everything it starts, refuses them. Root's cages are then built without one and closed all the
//! same; gVisor and an ordinary user's daemon cannot do without, and say who forbids it.

use super::inside::{assert_closed, probe};
use crate::world::http::Request;
use crate::world::{Build, Home, Runtime, Serve, User, eventually, install, marker};

crate::world::boxes::in_both_back_ends!(whoever_cannot_do_without_is_told_who_forbids_them);

/// Makes the kernel answer EPERM to every new user namespace, and ENOSYS to the call whose flags a filter cannot
/// see, before it becomes the program.
const FORBID: &str = r#"#!/usr/bin/python3
import ctypes, os, platform, struct, sys
clone, unshare = {"x86_64": (56, 272), "aarch64": (220, 97)}[platform.machine()]
CLONE3, NEWUSER = 435, 0x10000000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
program = [
    (LOAD, 0, 0, 0),
    (EQUAL, 5, 0, CLONE3),
    (EQUAL, 1, 0, clone),
    (EQUAL, 0, 2, unshare),
    (LOAD, 0, 0, 16),
    (ANY_BIT, 2, 0, NEWUSER),
    (RETURN, 0, 0, ALLOW),
    (RETURN, 0, 0, ENOSYS),
    (RETURN, 0, 0, EPERM),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
# PR_SET_NO_NEW_PRIVS only where it is needed: root's sandboxes must set it themselves.
if os.geteuid() != 0:
    assert libc.prctl(38, 1, 0, 0, 0) == 0
# PR_SET_SECCOMP, SECCOMP_MODE_FILTER
assert libc.prctl(22, 2, filter, 0, 0) == 0, os.strerror(ctypes.get_errno())
assert libc.unshare(NEWUSER) == -1 and ctypes.get_errno() == 1
os.execv(REAL, [REAL] + sys.argv[1:])
"#;

/// A home whose executable runs under that filter.
fn home(build: Build, user: User) -> Home {
    let mut home = Home::new(build, user);
    let script = home.root.join("bin/forbid");
    let text = FORBID.replace("os.execv", &format!("REAL = {:?}\nos.execv", home.exe));
    install::script(&text, &script);
    home.exe = script;
    home
}

const SAID: &str = "sandboxes run without a user namespace of their own";

#[test]
fn roots_cage_is_closed_without_them() {
    let runtime = Runtime::Native;
    let home = home(Build::Faults, User::Root);
    let found = probe(&home, runtime, &[]);
    println!("{found:#?}");
    let get = |name: &str| found[name].as_str();
    // Nobody of this host, but not hidden behind another number either.
    let inner: u32 = get("uid").parse().unwrap();
    assert!(inner > 2_000_000_000, "{inner}");
    assert_closed(&found, &home, runtime, get("uid"));
}

/// Limits that the kernel counts by user must not add up over the group's sandboxes.
#[test]
fn conversations_of_one_group_run_beside_each_other() {
    let home = home(Build::Faults, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    daemon.log.wait_for(SAID, |line| line.contains(SAID));
    for number in 0..CONVERSATIONS {
        let text = marker();
        let answer = daemon.chat("mock-agent", &format!("chat-{number}")).ask(&text);
        assert_eq!(answer, format!("mock-agent received: {text}"));
    }
    assert!(daemon.stop().success());
}

/// Within the linger all of them run: each has some tasks of the group's id, more together than one may have.
const CONVERSATIONS: usize = 30;

fn whoever_cannot_do_without_is_told_who_forbids_them(runtime: Runtime) {
    for user in [User::Ordinary, User::Root] {
        if (runtime, user) != (Runtime::Native, User::Root) {
            told(runtime, user);
        }
    }
}

fn told(runtime: Runtime, user: User) {
    let home = home(Build::Faults, user);
    let daemon = Serve::new(&home, runtime).start();
    let answer = eventually("it says that it is not ready", || {
        Request::get("/readyz").send(daemon.address).ok().filter(|answer| {
            answer.status == 503 && answer.text().contains("user namespaces are refused here")
        })
    });
    assert!(answer.text().contains("seccomp profile"), "{}", answer.text());
    assert!(home.processes() == [daemon.id()], "{:?}", home.processes());
}
