//! What an agent finds when it looks around in its box. A test program takes the agent's place, tries every
//! door that should be shut, and answers with what happened.

use std::collections::BTreeMap;

use crate::world::{Build, Home, Runtime, Serve, User};

crate::in_every_box!(the_box_is_closed);

type Findings = BTreeMap<String, String>;

/// Launches the probe in the agent's place and gives what it found.
fn probe(home: &Home, runtime: Runtime, faults: &[&str]) -> Findings {
    let mut serve =
        Serve::new(home, runtime).fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()));
    for fault in faults {
        serve = serve.fault(*fault);
    }
    let daemon = serve.ready();
    let answer =
        daemon.chat("dev-agent", "main").ask(&format!("hostile probe {} /etc/shadow", home.root.display()));
    answer
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, finding)| (name.to_owned(), finding.to_owned()))
        .collect()
}

fn the_box_is_closed(runtime: Runtime, user: User) {
    let home = Home::new(Build::Faults, user);
    let found = probe(&home, runtime, &[]);
    let get = |name: &str| found.get(name).unwrap_or_else(|| panic!("no {name} in {found:#?}")).as_str();

    // Who it is. Rootless gVisor can map only the inner 0, and says so; everywhere else it is nobody special.
    let inner = if (runtime, user) == (Runtime::Gvisor, User::Ordinary) { "0" } else { "65532" };
    assert_eq!((get("uid"), get("gid")), (inner, inner));
    assert_eq!(get("no_new_privs"), "true");
    for set in ["effective", "permitted", "inheritable", "ambient", "bounding"] {
        assert_eq!(get(&format!("caps_{set}")), "0", "{set}");
    }

    // No network: no route anywhere, no name, nothing on the host's loopback.
    for (name, finding) in found.iter().filter(|(name, _)| name.starts_with("route_")) {
        assert!(finding.starts_with("error:"), "{name}: {finding}");
    }
    for name in ["host_loopback", "resolve"] {
        assert!(get(name).starts_with("error:"), "{name}: {}", get(name));
    }

    // Nothing above its own directories can be written, and its own run no program.
    for (name, finding) in found.iter().filter(|(name, _)| name.starts_with("write_")) {
        assert!(finding.starts_with("error:"), "{name}: {finding}");
    }
    for directory in ["/workspace", "/memory", "/session", "/tmp"] {
        assert_eq!(get(&format!("writable_{directory}")), "written");
        assert!(get(&format!("exec_{directory}")).starts_with("error:"), "{directory}");
    }
    for name in ["rename_outbound", "unlink_outbound", "mount", "chroot", "sethostname"] {
        assert!(get(name).starts_with("error:"), "{name}: {}", get(name));
    }

    // Only what was granted is there.
    assert_eq!(get("sockets"), "doorbell.sock,model.sock");
    assert_eq!(get("in"), "inbound.db");
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

    // No secret is handed over where others could read it.
    for name in get("environment").split(',').filter(|name| !name.is_empty()) {
        assert!(!["KEY", "TOKEN", "SECRET", "PASS"].iter().any(|word| name.contains(word)), "{name}");
    }
    let hex = get("arguments")
        .split(' ')
        .any(|word| word.len() >= 32 && word.bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(!hex && !get("arguments").contains(home.root.to_str().unwrap()), "{}", get("arguments"));
}
