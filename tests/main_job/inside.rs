//! What an agent finds when it looks around in its box. A test program takes the agent's place, tries every
//! door that should be shut, and answers with what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::world::leftovers::files_below;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, marker};

crate::world::boxes::in_every_box!(the_box_is_closed);
crate::world::boxes::in_both_back_ends!(each_check_fails_with_its_control_weakened);

pub(super) type Findings = BTreeMap<String, String>;

/// Addresses that a box must have no route to.
const ADDRESSES: [&str; 4] = ["192.0.2.1:9", "169.254.169.254:80", "10.0.0.1:53", "[2001:db8::1]:9"];

/// Every place inside that is mounted, and whether files in it may be written.
const MOUNTED: [(&str, bool); 7] = [
    ("/in", false),
    ("/run/ironclaw", false),
    ("/out", true),
    ("/workspace", true),
    ("/memory", true),
    ("/session", true),
    ("/tmp", true),
];

/// A group's id that is not the agent's: another group's directory belongs to it when root is the host.
const ANOTHER_ID: u32 = 2_000_500_000;

/// Launches the probe in the agent's place and gives what it found.
pub(super) fn probe(home: &Home, runtime: Runtime, faults: &[&str]) -> Findings {
    let mut serve =
        Serve::new(home, runtime).fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()));
    for fault in faults {
        serve = serve.fault(*fault);
    }
    let daemon = serve.ready();
    // Things of the host that a box must not reach: a listener and two name servers on its loopback, an abstract
    // socket, another group's file, and its keys.
    resolver();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let abstract_name = marker();
    let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    let _abstract_listener = UnixListener::bind_addr(&address).unwrap();
    let mut text = format!(
        "hostile probe {} /etc/shadow /mnt/host/passwd /mnt/host/note tcp:{} dns:{} abstract:{abstract_name}",
        home.root.display(),
        listener.local_addr().unwrap(),
        name_server(),
    );
    for (name, value) in secrets(home, &daemon) {
        text.push_str(&format!(" needle:{name}:{value}"));
    }
    let answer = daemon.chat("dev-agent", "main").ask(&text);
    let mut found: Findings = answer
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, finding)| (name.to_owned(), finding.to_owned()))
        .collect();
    found.insert("interfaces".to_owned(), interfaces(home, &daemon));
    let routed = ADDRESSES.into_iter().filter(|address| found[&format!("route_{address}")] == "routed");
    let routed = routed.collect::<Vec<_>>().join(" ");
    found.insert("routes".to_owned(), routed);
    match runtime {
        // gVisor does not show the flags of a mount inside: what it was told to do stands in its bundle.
        Runtime::Gvisor => found.extend(bundle_flags(home)),
        Runtime::Native => {
            found.insert("caps_ambient".to_owned(), ambient(home));
        }
    }
    found
}

/// What nobody inside may read: the host's secrets, and what another group wrote.
fn secrets(home: &Home, daemon: &Daemon) -> Vec<(&'static str, String)> {
    let state = home.state();
    let all = state.join("workspaces");
    let other = all.join("mock-agent");
    let owner = if home.user == User::Root { ANOTHER_ID } else { home.owner() };
    for directory in [&all, &other] {
        if !directory.exists() {
            std::fs::create_dir(directory).unwrap();
        }
    }
    chown(&all, Some(home.owner()), Some(home.owner())).unwrap();
    let note = marker();
    std::fs::write(other.join("note"), &note).unwrap();
    for path in [other.join("note"), other] {
        chown(path, Some(owner), Some(owner)).unwrap();
    }
    let word = |file: &str| {
        let text = std::fs::read_to_string(state.join(file)).unwrap();
        // Its longest word: the wrapped key in the keystore, the whole of the others.
        let longest = text.split(|c: char| !c.is_ascii_alphanumeric()).max_by_key(|word| word.len());
        longest.filter(|word| word.len() >= 32).unwrap_or_else(|| panic!("no secret in {file}")).to_owned()
    };
    vec![
        ("api_token", daemon.token()),
        ("master_key", word("master.key")),
        ("keystore", word("keystore")),
        ("another_groups_note", note),
    ]
}

/// Answers every question about a name with one address, until the test program ends. It is where a program
/// asks that was told of no name server.
fn resolver() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        use rustix::net::{AddressFamily, SocketAddrV4, SocketType, bind, socket, sockopt};
        let server = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        // Another run of the tests may be at the same place.
        sockopt::set_socket_reuseport(&server, true).unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 53);
        if let Err(error) = bind(&server, &address) {
            panic!(
                "UDP port 53 of 127.0.0.1 cannot be had ({error}), and these tests answer there, because a box with \
                 the host's network asks there: stop the name server that has it (`ss -ulnp 'sport = 53'` names it) \
                 or run the tests in a network namespace of their own (`unshare -n`, then `ip link set lo up`)"
            );
        }
        let server = UdpSocket::from(server);
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = server.recv_from(&mut packet) {
                // Whatever else is sent here is no question.
                if let Some(answer) = answer_to(&packet[..length]) {
                    let _ = server.send_to(&answer, from);
                }
            }
        });
    });
}

/// The answer to a question for an address of version 4: 192.0.2.7; to any other, that there is none. What is cut
/// short has none.
fn answer_to(question: &[u8]) -> Option<Vec<u8>> {
    let name = question.get(12..)?.iter().position(|byte| *byte == 0)? + 12;
    let asked = question.get(12..name + 5)?;
    let has_address = question[name + 1..name + 3] == [0, 1];
    // The question's id; an answer, recursion available; one question and perhaps one record.
    let head = [question[0], question[1], 0x81, 0x80, 0, 1, 0, u8::from(has_address), 0, 0, 0, 0];
    // The name of the question, an address, of the internet, for a minute, four bytes.
    let record: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7];
    Some([head.as_slice(), asked, if has_address { record } else { &[] }].concat())
}

#[test]
fn what_is_no_question_has_no_answer() {
    let question = [&[7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01a\x02bc\0", &[0, 1, 0, 1]].concat();
    let answer = answer_to(&question).unwrap();
    assert_eq!((&answer[..3], answer.ends_with(&[192, 0, 2, 7])), (&[7, 9, 0x81][..], true));
    for length in 0..question.len() {
        assert_eq!(answer_to(&question[..length]), None, "{length} bytes");
    }
}

/// Answers every question with its first bytes, until the test program ends.
fn name_server() -> std::net::SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&question[..length], from);
        }
    });
    address
}

/// The mount flags in the bundle of the one running sandbox, written as the kernel's answer in a cage is.
fn bundle_flags(home: &Home) -> Findings {
    let configs = files_below(&home.root).into_iter().filter(|path| path.ends_with("config.json"));
    let configs: Vec<_> = configs.collect();
    let [path] = configs.as_slice() else { panic!("not one bundle but {configs:?}") };
    let config: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mounts = config["mounts"].as_array().unwrap().iter().map(|mount| {
        let options = mount["options"].as_array().unwrap().iter().filter_map(Value::as_str);
        let options: Vec<String> = options.map(|word| word.replace("ro", "rdonly").to_uppercase()).collect();
        (format!("mount_{}", mount["destination"].as_str().unwrap()), options.join(" | "))
    });
    mounts.collect()
}

/// The ambient capabilities of the test program, which only the host may ask for.
fn ambient(home: &Home) -> String {
    let inode = |path: &Path| std::fs::metadata(path).map(|file| file.ino()).ok();
    let program = inode(&home.hostile());
    let mut held = BTreeSet::new();
    for id in home.processes() {
        if inode(Path::new(&format!("/proc/{id}/exe"))) == program {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            held.extend(
                status.lines().filter_map(|line| Some(line.strip_prefix("CapAmb:")?.trim().to_owned())),
            );
        }
    }
    held.into_iter().collect::<Vec<_>>().join(",")
}

/// The interfaces of every network namespace that a process of this home lives in, the control plane's own left
/// out: the box may not ask for them itself.
fn interfaces(home: &Home, daemon: &Daemon) -> String {
    let namespace = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
    let host = namespace("self");
    let mut names = BTreeSet::new();
    for id in home.processes().into_iter().filter(|id| *id != daemon.id()) {
        // A process that ended meanwhile has none.
        let Some(own) = namespace(&id.to_string()) else { continue };
        if Some(own) == host {
            names.insert("the host's".to_owned());
            continue;
        }
        let table = std::fs::read_to_string(format!("/proc/{id}/net/dev")).unwrap_or_default();
        names.extend(table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())));
    }
    names.into_iter().collect::<Vec<_>>().join(",")
}

fn the_box_is_closed(runtime: Runtime, user: User) {
    let home = Home::new(Build::Faults, user);
    let found = probe(&home, runtime, &[]);
    println!("{found:#?}");
    // Rootless gVisor can map only the inner 0, and says so; everywhere else it is nobody special.
    let inner = if (runtime, user) == (Runtime::Gvisor, User::Ordinary) { "0" } else { "65532" };
    assert_closed(&found, &home, runtime, inner);
}

/// Every door is shut for the test program with this id inside.
pub(super) fn assert_closed(found: &Findings, home: &Home, runtime: Runtime, inner: &str) {
    let get = |name: &str| found.get(name).unwrap_or_else(|| panic!("no {name} in {found:#?}")).as_str();

    assert_eq!((get("uid"), get("gid")), (inner, inner));
    assert_eq!(get("no_new_privs"), "true");
    for set in ["effective", "permitted", "inheritable", "bounding"] {
        assert_eq!(get(&format!("caps_{set}")), "0", "{set}");
    }
    // In gVisor nobody can ask for the ambient set, which never holds what these do not.
    if runtime == Runtime::Native {
        assert_eq!(get("caps_ambient"), "0000000000000000");
    }

    // No network: no route anywhere, no name, nothing on the host's loopback.
    for address in ADDRESSES {
        let finding = get(&format!("route_{address}"));
        assert!(finding.starts_with("error:"), "{address}: {finding}");
    }
    for name in ["host_loopback", "host_abstract", "ask_dns", "resolve", "listen_any"] {
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
    for (place, writable) in MOUNTED {
        let flags = get(&format!("mount_{place}"));
        assert!(["NOSUID", "NODEV", "NOEXEC"].iter().all(|flag| flags.contains(flag)), "{place}: {flags}");
        assert!(writable || flags.contains("RDONLY"), "{place}: {flags}");
    }
    let program = get("mount_/ironclaw");
    assert!(["RDONLY", "NOSUID", "NODEV"].iter().all(|flag| program.contains(flag)), "{program}");
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
    assert_eq!(get("host_/mnt/host/note"), "false");

    // No secret is handed over where others could read it.
    for name in get("environment").split(',').filter(|name| !name.is_empty()) {
        assert!(!["KEY", "TOKEN", "SECRET", "PASS"].iter().any(|word| name.contains(word)), "{name}");
    }
    // Nor does any argument, variable or file hold one; the search finds what the program left for it.
    assert_eq!(get("holds_own_mark"), "/workspace/own-mark");
    for name in ["key", "api_token", "master_key", "keystore", "another_groups_note"] {
        assert_eq!(get(&format!("holds_{name}")), "", "{name}");
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
/// gap), and the findings that each show the gap, with how.
struct Gap {
    control: &'static str,
    beside: &'static [&'static str],
    user: User,
    opens: &'static [(&'static str, Opens)],
}

type Opens = fn(&str) -> bool;

const fn gap(
    control: &'static str,
    beside: &'static [&'static str],
    opens: &'static [(&'static str, Opens)],
) -> Gap {
    Gap { control, beside, user: User::Root, opens }
}

const CONNECTED: Opens = |f| f == "connected";
const WRITTEN: Opens = |f| f == "written";
const RAN: Opens = |f| f.starts_with("ran");
const ROUTED: Opens = |f| f == "routed";
const SOME: Opens = |f| f != "0";
const LEAKED: Opens = |f| f.split(',').any(|place| place == "/in/leaked");
const DONE: Opens = |f| ["done", "mounted"].contains(&f);

const GAPS: &[Gap] = &[
    gap(
        "network",
        &["seccomp"],
        &[
            ("host_loopback", CONNECTED),
            ("host_abstract", CONNECTED),
            ("ask_dns", |f| f.starts_with("answered")),
            ("resolve", |f| f == "1 addresses"),
            ("route_192.0.2.1:9", ROUTED),
            ("routes", |f| f == routes_of_the_host()),
            ("interfaces", |f| f != "lo"),
        ],
    ),
    gap(
        "capabilities",
        &["seccomp"],
        &[
            ("caps_effective", SOME),
            ("caps_permitted", SOME),
            ("caps_inheritable", SOME),
            ("caps_bounding", SOME),
            ("caps_ambient", |f| f != "0000000000000000"),
            ("mount", DONE),
            ("chroot", DONE),
            ("sethostname", DONE),
        ],
    ),
    gap(
        "no_new_privs",
        &[],
        &[("no_new_privs", |f| f == "false"), ("sealed_no_new_privs", |f| f == "false")],
    ),
    gap("inner_uid", &[], &[("uid", |f| f == "0"), ("gid", |f| f == "0")]),
    // As an ordinary user: root's gVisor has a /dev that belongs to nobody inside, whatever its mount says.
    Gap {
        control: "readonly_root",
        beside: &[],
        user: User::Ordinary,
        opens: &[
            ("write_/", WRITTEN),
            ("write_/run", WRITTEN),
            ("write_/etc", WRITTEN),
            ("write_/dev", WRITTEN),
        ],
    },
    gap("inbound_readonly", &[], &[("write_inbound", |f| f == "opened"), ("write_/in", WRITTEN)]),
    gap("sockets_readonly", &[], &[("write_/run/ironclaw", WRITTEN)]),
    // The directory belongs to the guest's user only where that is the host's own.
    Gap {
        control: "outbound_pinned",
        beside: &[],
        user: User::Ordinary,
        opens: &[("rename_outbound", |f| f == "renamed"), ("unlink_outbound", |f| f == "removed")],
    },
    gap("nosuid", &[], &everywhere(|f| !f.contains("NOSUID"))),
    gap("nodev", &[], &everywhere(|f| !f.contains("NODEV"))),
    gap(
        "noexec",
        &["seccomp"],
        &[("exec_/workspace", RAN), ("exec_/memory", RAN), ("exec_/session", RAN), ("exec_/tmp", RAN)],
    ),
    gap("host_path", &[], &[("host_/mnt/host/passwd", |f| f == "true")]),
    // For root's sandboxes a second wall holds: the other group's files belong to another id.
    Gap {
        control: "own_group",
        beside: &[],
        user: User::Ordinary,
        opens: &[
            ("host_/mnt/host/note", |f| f == "true"),
            ("holds_another_groups_note", |f| f == "/mnt/host/note"),
        ],
    },
    gap("granted_sockets", &[], &[("sockets", |f| f.contains("extra.sock"))]),
    gap("secret_env", &[], &[("environment", |f| f.contains("TOKEN"))]),
    gap("secret_argument", &[], &[("holds_key", |f| f.contains("arguments"))]),
    gap(
        "secret_file",
        &[],
        &[
            ("in", |f| f.contains("leaked")),
            ("holds_key", LEAKED),
            ("holds_api_token", LEAKED),
            ("holds_master_key", LEAKED),
            ("holds_keystore", LEAKED),
        ],
    ),
    gap("seccomp", &[], &[("sealed_inet", |f| f == "bound"), ("listen_any", |f| f == "listening")]),
    gap("new_processes", &[], &[("sealed_spawn", RAN)]),
];

/// The mount flags of every place that the agent's program is given.
const fn everywhere(open: Opens) -> [(&'static str, Opens); 8] {
    [
        ("mount_/ironclaw", open),
        ("mount_/in", open),
        ("mount_/run/ironclaw", open),
        ("mount_/out", open),
        ("mount_/workspace", open),
        ("mount_/memory", open),
        ("mount_/session", open),
        ("mount_/tmp", open),
    ]
}

/// Which addresses this host itself has a route to: a box in its network must have the same.
fn routes_of_the_host() -> String {
    let routed = ADDRESSES.into_iter().filter(|address| {
        let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        UdpSocket::bind(any).and_then(|socket| socket.connect(address)).is_ok()
    });
    routed.collect::<Vec<_>>().join(" ")
}

/// Findings that stay shut in gVisor whatever it is told: it sets no_new_privs for every program, has no abstract
/// sockets but its own, and shows nobody the ambient set.
const SHUT_IN_GVISOR: [&str; 4] = ["no_new_privs", "sealed_no_new_privs", "host_abstract", "caps_ambient"];

/// The same probe finds each gap when exactly that control is weakened, and not when it is in force.
fn each_check_fails_with_its_control_weakened(runtime: Runtime) {
    // Without it nothing could be looked for, and that is not the fault of any box.
    resolver();
    let mut blind = Vec::new();
    let mut compared: Vec<(&[&str], User, Findings)> = Vec::new();
    for gap in GAPS {
        let mut launch = |weakened: &[&str]| {
            let home = Home::new(Build::Faults, gap.user);
            let controls = gap.beside.iter().chain(weakened);
            let faults: Vec<String> = controls.map(|control| format!("weaken={control}")).collect();
            let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
            // A box that does not even start says so in the list, and the other gaps are still looked for.
            catch_unwind(AssertUnwindSafe(|| probe(&home, runtime, &faults))).unwrap_or_else(|_| {
                blind.push(format!("{faults:?}: no answer"));
                Findings::new()
            })
        };
        if !compared.iter().any(|(beside, user, _)| (*beside, *user) == (gap.beside, gap.user)) {
            let findings = launch(&[]);
            compared.push((gap.beside, gap.user, findings));
        }
        let weakened = launch(&[gap.control]);
        let (_, _, closed) =
            compared.iter().find(|(beside, user, _)| (*beside, *user) == (gap.beside, gap.user)).unwrap();
        for (name, open) in gap.opens {
            let shut = runtime == Runtime::Gvisor && SHUT_IN_GVISOR.contains(name);
            for (found, opens) in [(closed, false), (&weakened, !shut)] {
                let finding = found.get(*name).map(String::as_str);
                if finding.is_some_and(open) != opens {
                    blind.push(format!("{} weakened: {opens}; {name}={finding:?}", gap.control));
                }
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
