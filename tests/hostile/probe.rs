//! Looks around from inside the box and answers what it found, one `name=finding` a line: first what the
//! host's side of the boundary does by itself, then (`sealed_…`) what is left after the agent's own hardening.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ironclaw::contract::paths;
use ironclaw::sandbox::harden;

use super::bell::Bell;
use super::{Done, Guest, lies};

pub(super) fn answer(guest: &Guest) -> Done {
    let mut found = Vec::new();
    let mut say = |name: &str, finding: String| found.push(format!("{name}={}", finding.replace('\n', " ")));

    say("uid", rustix::process::getuid().as_raw().to_string());
    say("gid", rustix::process::getgid().as_raw().to_string());
    say("groups", outcome(rustix::process::getgroups().map(|groups| format!("{}", groups.len()))));
    say("no_new_privs", outcome(rustix::thread::no_new_privs().map(|on| on.to_string())));
    for (name, set) in [
        ("caps_effective", caps::CapSet::Effective),
        ("caps_permitted", caps::CapSet::Permitted),
        ("caps_inheritable", caps::CapSet::Inheritable),
        ("caps_bounding", caps::CapSet::Bounding),
    ] {
        let finding = match caps::read(None, set) {
            Ok(held) => held.len().to_string(),
            Err(error) => error.to_string(),
        };
        say(name, finding);
    }

    for address in ["192.0.2.1:9", "169.254.169.254:80", "10.0.0.1:53", "[2001:db8::1]:9"] {
        let bind = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let routed =
            UdpSocket::bind(bind).and_then(|socket| socket.connect(address)).map(|()| "routed".to_owned());
        say(&format!("route_{address}"), outcome(routed));
    }
    say("resolve", outcome(resolve("example.org")));
    say("listen_any", outcome(TcpListener::bind("0.0.0.0:0").map(|_| "listening".to_owned())));

    for directory in ["/", paths::INBOUND_DIR, paths::SOCKET_DIR, "/run", "/etc", "/dev"] {
        let path = format!("{directory}/probe-write");
        // A directory that is not there must not be made either.
        let made = fs::create_dir_all(directory).and_then(|()| fs::write(&path, b"x"));
        say(&format!("write_{directory}"), outcome(made.map(|()| "written".to_owned())));
    }
    say("write_executable", outcome(write_to(paths::EXECUTABLE)));
    say("write_inbound", outcome(write_to(paths::INBOUND)));
    for directory in [paths::WORKSPACE, paths::MEMORY, paths::SESSION_DIR, paths::TMP] {
        let path = format!("{directory}/probe-program");
        say(&format!("writable_{directory}"), outcome(fs::write(&path, b"x").map(|()| "written".to_owned())));
        say(&format!("exec_{directory}"), outcome(execute(&path)));
        let _ = fs::remove_file(&path);
    }
    for place in MOUNTED {
        say(&format!("mount_{place}"), outcome(mount_flags(place)));
    }
    // Where it may, it is put back: the answer goes through it.
    let renamed = fs::rename(paths::OUTBOUND, ASIDE).and_then(|()| fs::rename(ASIDE, paths::OUTBOUND));
    say("rename_outbound", outcome(renamed.map(|()| "renamed".to_owned())));
    let kept = fs::copy(paths::OUTBOUND, ASIDE).and_then(|_| fs::remove_file(paths::OUTBOUND));
    say(
        "unlink_outbound",
        outcome(kept.and_then(|()| fs::rename(ASIDE, paths::OUTBOUND)).map(|()| "removed".to_owned())),
    );

    say("root", list("/"));
    say("sockets", list(paths::SOCKET_DIR));
    say("in", list(paths::INBOUND_DIR));
    say("dev", list("/dev"));
    say(
        "environment",
        std::env::vars_os().map(|(key, _)| key.to_string_lossy().into_owned()).collect::<Vec<_>>().join(","),
    );
    say("arguments", std::env::args().collect::<Vec<_>>().join(" "));
    say("descriptors", descriptors());
    // Words of the message name what the host has and this box must not reach.
    let mut needles = own_secrets(guest);
    for word in guest.message.text.split_whitespace().skip(2) {
        match word.split_once(':') {
            Some(("tcp", address)) => {
                say("host_loopback", outcome(TcpStream::connect(address).map(|_| "connected".to_owned())));
            }
            Some(("dns", address)) => say("ask_dns", outcome(ask(address))),
            Some(("abstract", name)) => say("host_abstract", outcome(abstract_socket(name))),
            Some(("needle", named)) => {
                let (name, value) = named.split_once(':').ok_or("a needle without a value")?;
                needles.push((name.to_owned(), value.as_bytes().to_vec()));
            }
            _ => say(&format!("host_{word}"), Path::new(word).exists().to_string()),
        }
    }
    for (name, places) in search(&needles) {
        say(&format!("holds_{name}"), places.join(","));
    }

    say(
        "mount",
        outcome(
            rustix::mount::mount("none", "/tmp", "tmpfs", rustix::mount::MountFlags::empty(), None)
                .map(|()| "mounted".to_owned()),
        ),
    );
    // Into the directory that is the root anyway: where it may, nothing changes for what follows.
    say("chroot", outcome(rustix::process::chroot("/").map(|()| "done".to_owned())));
    say("sethostname", outcome(rustix::system::sethostname(b"probe").map(|()| "done".to_owned())));

    say("seal", outcome(harden::seal().map(|sealed| format!("landlock {:?}", sealed.landlock))));
    say("sealed_no_new_privs", outcome(rustix::thread::no_new_privs().map(|on| on.to_string())));
    let thread = std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join().is_ok().to_string());
    say("sealed_thread", outcome(thread));
    let spawned = Command::new(paths::EXECUTABLE).stdin(Stdio::null()).status();
    say("sealed_spawn", outcome(spawned.map(|status| format!("ran: {status}"))));
    say("sealed_inet", outcome(UdpSocket::bind("127.0.0.1:0").map(|_| "bound".to_owned())));
    say("sealed_list_root", outcome(fs::read_dir("/").map(|names| format!("{} names", names.count()))));
    say("sealed_chroot", outcome(rustix::process::chroot("/").map(|()| "done".to_owned())));

    let mut bell = Bell::begin()?;
    lies::reply(guest, &mut bell, &found.join("\n"))?;
    bell.until_stop()
}

/// Another name for the outbound conveyor.
const ASIDE: &str = "/out/other";

fn outcome<E: std::fmt::Display>(result: Result<String, E>) -> String {
    result.unwrap_or_else(|error| format!("error: {error}"))
}

fn resolve(name: &str) -> std::io::Result<String> {
    use std::net::ToSocketAddrs;
    (name, 80).to_socket_addrs().map(|found| format!("{} addresses", found.count()))
}

fn write_to(path: &str) -> std::io::Result<String> {
    fs::OpenOptions::new().write(true).open(path).map(|_| "opened".to_owned())
}

/// Copies this program to a place and tries to run it there; the copy ends at once for want of a key.
fn execute(path: &str) -> std::io::Result<String> {
    fs::copy(paths::EXECUTABLE, path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    let status = Command::new(path).stdin(Stdio::null()).status()?;
    Ok(format!("ran: {status}"))
}

/// Every place that is a mount of its own.
const MOUNTED: [&str; 9] = [
    "/",
    paths::EXECUTABLE,
    paths::INBOUND_DIR,
    paths::OUTBOUND_DIR,
    paths::SOCKET_DIR,
    paths::WORKSPACE,
    paths::MEMORY,
    paths::SESSION_DIR,
    paths::TMP,
];

fn mount_flags(path: &str) -> Result<String, rustix::io::Errno> {
    let flags = rustix::fs::statvfs(path)?.f_flag;
    Ok(format!("{flags:?}"))
}

fn list(directory: &str) -> String {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.join(",")
}

/// Asks a name server for an address and says whether anything came back.
fn ask(server: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    // One question, recursion desired: the address of example.org.
    let head = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    socket.send(&[head.as_slice(), b"\x07example\x03org\0", &[0, 1, 0, 1]].concat())?;
    let mut answer = [0; 512];
    Ok(format!("answered with {} bytes", socket.recv(&mut answer)?))
}

fn abstract_socket(name: &str) -> std::io::Result<String> {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    UnixStream::connect_addr(&address).map(|_| "connected".to_owned())
}

/// What this program was given and no file may hold, as bytes and as text; and a mark of its own, which must be
/// found where it was left: a search that sees nothing proves nothing.
fn own_secrets(guest: &Guest) -> Vec<(String, Vec<u8>)> {
    let mut needles = Vec::new();
    for key in [guest.key.as_bytes(), guest.inbound.as_bytes(), guest.outbound.as_bytes()] {
        let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        needles.push(("key".to_owned(), key.to_vec()));
        needles.push(("key".to_owned(), text.into_bytes()));
    }
    let own = b"a mark that this program left".to_vec();
    let _ = fs::write(format!("{}/own-mark", paths::WORKSPACE), &own);
    needles.push(("own_mark".to_owned(), own));
    needles
}

/// Where each needle is: in the arguments, the environment, or a file that can be read here. The program itself
/// is left out, which is larger than all the rest and the same for everybody.
fn search(needles: &[(String, Vec<u8>)]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut look = |place: &str, content: &[u8]| {
        for (name, needle) in needles {
            let places = found.entry(name.clone()).or_default();
            if content.windows(needle.len()).any(|window| window == needle) {
                places.push(place.to_owned());
            }
        }
    };
    look("arguments", std::env::args().collect::<Vec<_>>().join(" ").as_bytes());
    for (name, value) in std::env::vars_os() {
        look(&format!("environment {}", name.to_string_lossy()), value.as_encoded_bytes());
    }
    let mut open = vec![PathBuf::from("/")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && path != Path::new("/dev") && path != Path::new("/sys") => {
                    open.push(path);
                }
                // Files of /proc may wait for an event, and those of a process are what it was given.
                Ok(kind) if kind.is_file() && path != Path::new(paths::EXECUTABLE) => {
                    let process = ["cmdline", "environ", "mounts", "mountinfo", "status", "comm"];
                    let known = process.iter().any(|name| path.ends_with(name));
                    if known || !path.starts_with("/proc") {
                        look(&path.to_string_lossy(), &fs::read(&path).unwrap_or_default());
                    }
                }
                _ => {}
            }
        }
    }
    found
}

/// Numbers of the open descriptors, by asking each: there may be no /proc.
fn descriptors() -> String {
    let mut open = Vec::new();
    for entry in 0..64 {
        if Path::new(&format!("/proc/self/fd/{entry}")).symlink_metadata().is_ok() {
            open.push(entry.to_string());
        }
    }
    open.join(",")
}
