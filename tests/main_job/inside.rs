//! What an agent finds when it looks around in its box. A test program takes the agent's place, tries every
//! door that should be shut, and answers with what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::world::{Build, Home, Runtime, Serve, User};

crate::in_every_box!(the_box_is_closed);
crate::in_both_back_ends!(each_check_fails_with_its_control_weakened);

type Findings = BTreeMap<String, String>;

/// Launches the probe in the agent's place and gives what it found.
fn probe(home: &Home, runtime: Runtime, faults: &[&str]) -> Findings {
    let mut serve =
        Serve::new(home, runtime).fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()));
    for fault in faults {
        serve = serve.fault(*fault);
    }
    let daemon = serve.ready();
    // Something on the host's loopback that a box must not reach.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "hostile probe {} /etc/shadow /mnt/host/passwd tcp:{}",
        home.root.display(),
        listener.local_addr().unwrap()
    );
    let answer = daemon.chat("dev-agent", "main").ask(&text);
    let mut found: Findings = answer
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, finding)| (name.to_owned(), finding.to_owned()))
        .collect();
    found.insert("interfaces".to_owned(), interfaces(home));
    found
}

/// The interfaces of every network namespace that a process of this home lives in beside the host's own: the box
/// may not ask for them itself.
fn interfaces(home: &Home) -> String {
    let namespace = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
    let host = namespace("self");
    let mut names = BTreeSet::new();
    for id in home.processes().into_iter().filter(|id| namespace(&id.to_string()) != host) {
        let table = std::fs::read_to_string(format!("/proc/{id}/net/dev")).unwrap_or_default();
        names.extend(table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())));
    }
    names.into_iter().collect::<Vec<_>>().join(",")
}

fn the_box_is_closed(runtime: Runtime, user: User) {
    let home = Home::new(Build::Faults, user);
    let found = probe(&home, runtime, &[]);
    println!("{found:#?}");
    let get = |name: &str| found.get(name).unwrap_or_else(|| panic!("no {name} in {found:#?}")).as_str();

    // Who it is. Rootless gVisor can map only the inner 0, and says so; everywhere else it is nobody special.
    let inner = if (runtime, user) == (Runtime::Gvisor, User::Ordinary) { "0" } else { "65532" };
    assert_eq!((get("uid"), get("gid")), (inner, inner));
    assert_eq!(get("no_new_privs"), "true");
    // The ambient set cannot be asked for here; it never holds what these two do not.
    for set in ["effective", "permitted", "inheritable", "bounding"] {
        assert_eq!(get(&format!("caps_{set}")), "0", "{set}");
    }

    // No network: no route anywhere, no name, nothing on the host's loopback.
    for address in ["192.0.2.1:9", "169.254.169.254:80", "10.0.0.1:53", "[2001:db8::1]:9"] {
        let finding = get(&format!("route_{address}"));
        assert!(finding.starts_with("error:"), "{address}: {finding}");
    }
    for name in ["host_loopback", "resolve"] {
        assert!(get(name).starts_with("error:"), "{name}: {}", get(name));
    }
    assert_eq!(get("interfaces"), "lo");

    // Nothing above its own directories can be written, and its own run no program.
    for place in ["/", "/in", "/run/ironclaw", "/run", "/etc", "/dev", "executable", "inbound"] {
        let finding = get(&format!("write_{place}"));
        assert!(finding.starts_with("error:"), "{place}: {finding}");
    }
    for directory in ["/workspace", "/memory", "/session", "/tmp"] {
        assert_eq!(get(&format!("writable_{directory}")), "written");
        assert!(get(&format!("exec_{directory}")).starts_with("error:"), "{directory}");
    }
    for name in ["rename_outbound", "unlink_outbound", "mount", "chroot", "sethostname"] {
        assert!(get(name).starts_with("error:"), "{name}: {}", get(name));
    }

    // After the agent's own hardening: threads, but no process, no program, no socket but a local one.
    assert_eq!((get("sealed_no_new_privs"), get("sealed_thread")), ("true", "true"));
    for name in ["sealed_spawn", "sealed_inet", "sealed_chroot"] {
        assert!(get(name).starts_with("error:"), "{name}: {}", get(name));
    }
    if get("seal") != "landlock Not" {
        assert!(get("sealed_list_root").starts_with("error:"), "{}", get("sealed_list_root"));
    }

    // Only what was granted is there.
    assert_eq!(get("sockets"), "doorbell.sock,model.sock");
    assert!(get("in").split(',').all(|name| name.starts_with("inbound.")), "{}", get("in"));
    for name in get("root").split(',') {
        let known = [
            "dev",
            "in",
            "ironclaw",
            "memory",
            "mnt",
            "opt",
            "out",
            "proc",
            "run",
            "session",
            "shared",
            "skills",
            "sys",
            "tmp",
            "workspace",
        ];
        assert!(known.contains(&name), "/{name} in {}", get("root"));
    }
    assert_eq!(get(&format!("host_{}", home.root.display())), "false");
    assert_eq!(get("host_/etc/shadow"), "false");
    assert_eq!(get("host_/mnt/host/passwd"), "false");

    // No secret is handed over where others could read it.
    for name in get("environment").split(',').filter(|name| !name.is_empty()) {
        assert!(!["KEY", "TOKEN", "SECRET", "PASS"].iter().any(|word| name.contains(word)), "{name}");
    }
    // The faults build's own list names the test program; a release has no such argument.
    let mut words = get("arguments").split(' ');
    while let Some(word) = words.next() {
        if word == "--faults" {
            words.next();
            continue;
        }
        let hex = word.len() >= 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(!hex && !word.contains(home.root.to_str().unwrap()), "{}", get("arguments"));
    }
}

/// A control that is weakened, those weakened with it in the comparison as well (another wall would hide the
/// gap), the finding that tells, and whether that finding shows the gap.
struct Gap {
    control: &'static str,
    beside: &'static [&'static str],
    finding: &'static str,
    open: fn(&str) -> bool,
}

const GAPS: &[Gap] = &[
    Gap { control: "network", beside: &["seccomp"], finding: "host_loopback", open: |f| f == "connected" },
    Gap { control: "capabilities", beside: &[], finding: "caps_bounding", open: |f| f != "0" },
    Gap { control: "no_new_privs", beside: &[], finding: "no_new_privs", open: |f| f == "false" },
    Gap { control: "inner_uid", beside: &[], finding: "uid", open: |f| f == "0" },
    Gap { control: "readonly_root", beside: &[], finding: "write_/", open: |f| f == "written" },
    Gap { control: "inbound_readonly", beside: &[], finding: "write_inbound", open: |f| f == "opened" },
    Gap {
        control: "mount_flags",
        beside: &["seccomp"],
        finding: "exec_/workspace",
        open: |f| f.starts_with("ran"),
    },
    Gap { control: "host_path", beside: &[], finding: "host_/mnt/host/passwd", open: |f| f == "true" },
    Gap { control: "secret_env", beside: &[], finding: "environment", open: |f| f.contains("TOKEN") },
    Gap { control: "seccomp", beside: &[], finding: "sealed_inet", open: |f| f == "bound" },
    Gap { control: "new_processes", beside: &[], finding: "sealed_spawn", open: |f| f.starts_with("ran") },
];

/// The same probe finds each gap when exactly that control is weakened, and not when it is in force.
fn each_check_fails_with_its_control_weakened(runtime: Runtime) {
    let mut blind = Vec::new();
    for gap in GAPS {
        for weakened in [false, true] {
            let home = Home::new(Build::Faults, User::Root);
            let controls = gap.beside.iter().chain(weakened.then_some(&gap.control));
            let faults: Vec<String> = controls.map(|control| format!("weaken={control}")).collect();
            let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
            // A box that does not even start says so in the list, and the other gaps are still looked for.
            let Ok(found) = catch_unwind(AssertUnwindSafe(|| probe(&home, runtime, &faults))) else {
                blind.push(format!("{faults:?}: no answer"));
                continue;
            };
            let finding = found.get(gap.finding).map_or("", String::as_str);
            // gVisor sets it for every program, whatever it is told: there the gap must stay closed.
            let opens = weakened && (runtime, gap.control) != (Runtime::Gvisor, "no_new_privs");
            if (gap.open)(finding) != opens {
                blind.push(format!("{faults:?}: {}={finding}", gap.finding));
            }
        }
    }
    assert!(blind.is_empty(), "{blind:#?}");
}

/// The same for landlock, which only a kernel that has it enforces, and only in the cage. Whether this kernel
/// has it is asked of the kernel and not of the program.
#[test]
fn landlock_is_what_hides_the_root_after_sealing() {
    // landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)
    let ask = "import ctypes; print(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))";
    let answer = std::process::Command::new("python3").args(["-c", ask]).output().expect("python3 runs");
    let version: i64 = String::from_utf8_lossy(&answer.stdout).trim().parse().expect("a number");
    let kernel_has_it = version >= 1;
    println!("landlock of this kernel: {version}");
    for weakened in [false, true] {
        let home = Home::new(Build::Faults, User::Root);
        let found = probe(&home, Runtime::Native, if weakened { &["weaken=landlock"] } else { &[] });
        let in_force = kernel_has_it && !weakened;
        assert_eq!(found["seal"] != "landlock Not", in_force, "{found:#?}");
        assert_eq!(found["sealed_list_root"].starts_with("error:"), in_force, "{found:#?}");
    }
}
