//! A tool that looks at the walls from inside and reports what it could do, as JSON; only in the faults build,
//! for the tests of containment. An attempt gives `ok` or the name of its error. With the setting
//! `probe=early` the same report is made once more before the sandbox has sealed itself, when only the walls
//! around it stand. It touches whatever it can reach: that is its purpose.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use caps::CapSet;
use rustix::fs::{FileType, Mode, StatVfsMountFlags};

use super::{Bench, Repeat, Tool, ToolError};
use crate::contract::fault;
use crate::contract::json::Value;
use crate::contract::paths;
use crate::os::probe as raw;

/// Reports on all sections, or one.
pub(super) const PROBE: Tool = Tool {
    name: "probe",
    description: "Report what can be reached from inside the sandbox.",
    group: "faults",
    schema: || Value::object([("type", Value::from("object"))]),
    repeat: Repeat::ReadOnly,
    run: probe,
};

static EARLY: OnceLock<Value> = OnceLock::new();

/// Called before the seal; remembers a report if the setting asks for one.
pub(crate) fn early() {
    if fault::value("probe") == Some("early") {
        let _ = EARLY.set(report("all"));
    }
}

fn probe(_: &Bench, input: &Value, _: &str) -> Result<String, ToolError> {
    let what = input.get("what").and_then(Value::as_str).unwrap_or("all");
    let early = EARLY.get().cloned().unwrap_or(Value::Null);
    Ok(Value::object([("live", report(what)), ("early", early)]).to_string())
}

type Section = (&'static str, fn() -> Value);

const SECTIONS: &[Section] = &[
    ("identity", identity),
    ("mounts", mounts),
    ("network", network),
    ("sockets", sockets),
    ("visible", visible),
    ("secrets", secrets),
    ("processes", processes),
    ("calls", calls),
];

fn report(what: &str) -> Value {
    let wanted = SECTIONS.iter().filter(|(name, _)| what == "all" || what == *name);
    Value::object(wanted.map(|(name, section)| (*name, section())))
}

fn outcome<T>(result: Result<T, io::Error>) -> Value {
    match result {
        Ok(_) => "ok".into(),
        Err(error) => failure(&error),
    }
}

/// `EPERM`, or the kind of an error that has no number.
fn failure(error: &io::Error) -> Value {
    match error.raw_os_error() {
        Some(code) => errno_name(code).into(),
        None => error.kind().to_string().into(),
    }
}

fn errno_name(code: i32) -> String {
    let name = match code {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EACCES => "EACCES",
        libc::EROFS => "EROFS",
        libc::ENOSYS => "ENOSYS",
        libc::EINVAL => "EINVAL",
        libc::EBADF => "EBADF",
        libc::EFAULT => "EFAULT",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::ENOTDIR => "ENOTDIR",
        libc::EBUSY => "EBUSY",
        libc::ENOSPC => "ENOSPC",
        libc::EAGAIN => "EAGAIN",
        code => return format!("E{code}"),
    };
    name.to_owned()
}

fn strings(items: impl IntoIterator<Item = String>) -> Value {
    Value::Array(items.into_iter().map(Value::from).collect())
}

fn identity() -> Value {
    let set = |set| match caps::read(None, set) {
        Ok(held) => strings(held.iter().map(ToString::to_string)),
        Err(error) => error.to_string().into(),
    };
    let dumpable = rustix::process::dumpable_behavior();
    Value::object([
        ("uid", Value::from(rustix::process::getuid().as_raw())),
        ("euid", rustix::process::geteuid().as_raw().into()),
        ("gid", rustix::process::getgid().as_raw().into()),
        ("no_new_privs", rustix::thread::no_new_privs().unwrap_or(false).into()),
        ("dumpable", format!("{dumpable:?}").into()),
        ("effective", set(CapSet::Effective)),
        ("permitted", set(CapSet::Permitted)),
        ("inheritable", set(CapSet::Inheritable)),
        ("bounding", set(CapSet::Bounding)),
        ("ambient", set(CapSet::Ambient)),
    ])
}

const PLACES: &[&str] = &[
    "/",
    paths::INBOUND_DIR,
    paths::OUTBOUND_DIR,
    paths::OUTBOUND,
    paths::SESSION_DIR,
    paths::SOCKET_DIR,
    paths::WORKSPACE,
    paths::MEMORY,
    paths::TMP,
    "/dev",
    "/proc",
    "/sys",
    "/shared",
    "/skills",
    "/opt/packages",
    "/mnt",
];

fn mounts() -> Value {
    Value::object(PLACES.iter().map(|place| (*place, mount(place))))
}

fn mount(place: &str) -> Value {
    let flags = match rustix::fs::statvfs(place) {
        Ok(stat) => stat.f_flag,
        Err(errno) => return Value::object([("exists", failure(&errno.into()))]),
    };
    let flag = |flag| Value::from(flags.contains(flag));
    let mut fields = vec![
        ("readonly", flag(StatVfsMountFlags::RDONLY)),
        ("nosuid", flag(StatVfsMountFlags::NOSUID)),
        ("nodev", flag(StatVfsMountFlags::NODEV)),
        ("noexec", flag(StatVfsMountFlags::NOEXEC)),
    ];
    if fs::metadata(place).is_ok_and(|found| found.is_dir()) {
        let file = format!("{}/.probe", place.trim_end_matches('/'));
        let _ = fs::remove_file(&file);
        let written = fs::write(&file, "#!/ironclaw\n");
        let made = written.is_ok();
        fields.push(("write", outcome(written)));
        if made {
            let bits = Mode::RWXU;
            let executable = rustix::fs::chmod(&file, bits).map_err(io::Error::from);
            fields.push(("exec", outcome(executable.and_then(|()| raw::start(&file)))));
            fields.push(("set_uid", outcome(raw::set_uid_bit(&file))));
            let node = format!("{file}.node");
            let device = rustix::fs::makedev(1, 3);
            let made = rustix::fs::mknodat(rustix::fs::CWD, &node, FileType::CharacterDevice, bits, device);
            fields.push(("mknod", outcome(made.map_err(io::Error::from))));
            let _ = fs::remove_file(&node);
            let _ = fs::remove_file(&file);
        }
    }
    Value::object(fields)
}

/// Addresses that only a machine with a route reaches; the setting `probe-connect` adds one.
const OUTSIDE: &[&str] = &["1.1.1.1:443", "8.8.8.8:53", "[2001:4860:4860::8888]:53"];

fn network() -> Value {
    let file = |path: &str| match fs::read_to_string(path) {
        Ok(text) => text.into(),
        Err(error) => failure(&error),
    };
    let targets: Vec<&str> = OUTSIDE.iter().copied().chain(fault::value("probe-connect")).collect();
    let tcp = |target: &str| match target.parse::<SocketAddr>() {
        Ok(address) => outcome(TcpStream::connect_timeout(&address, Duration::from_secs(1))),
        Err(_) => "not an address".into(),
    };
    // Connecting a datagram socket sends nothing; it only asks for a route.
    let udp = |target: &str| {
        let any = if target.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        outcome(UdpSocket::bind(any).and_then(|socket| socket.connect(target)))
    };
    let abstract_name = |name: &str| {
        let address = UnixAddr::from_abstract_name(name);
        outcome(address.and_then(|address| UnixStream::connect_addr(&address)))
    };
    Value::object([
        ("interfaces", raw::interfaces().map_or_else(|error| failure(&error), strings)),
        ("sys_class_net", names("/sys/class/net")),
        ("proc_net_dev", file("/proc/net/dev")),
        ("routes", file("/proc/net/route")),
        ("tcp", Value::object(targets.iter().map(|target| (*target, tcp(target))))),
        ("udp", Value::object(targets.iter().map(|target| (*target, udp(target))))),
        ("dns", outcome(("example.com", 80).to_socket_addrs())),
        ("abstract_socket", fault::value("probe-abstract").map_or(Value::Null, abstract_name)),
    ])
}

/// The names in a directory, or why they are not to be had.
fn names(directory: impl AsRef<Path>) -> Value {
    match fs::read_dir(directory) {
        Ok(entries) => {
            let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
            let mut names: Vec<String> = entries.flatten().map(name).collect();
            names.sort();
            strings(names)
        }
        Err(error) => failure(&error),
    }
}

fn sockets() -> Value {
    let directory = match fs::read_dir(paths::SOCKET_DIR) {
        Ok(directory) => directory,
        Err(error) => return failure(&error),
    };
    Value::object(directory.flatten().map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        // The doorbell has its one connection; another would be an attack, which this tool is not.
        let reached = match name.as_str() {
            "doorbell.sock" => "in use".into(),
            _ => outcome(UnixStream::connect(entry.path())),
        };
        (name, reached)
    }))
}

/// Paths of an ordinary machine; the setting `probe-path` adds one.
const HOST_PATHS: &[&str] = &[
    "/etc/passwd",
    "/etc/shadow",
    "/root",
    "/home",
    "/var",
    "/usr",
    "/bin/sh",
    "/boot",
    "/lib",
    "/run/systemd",
    "/run/docker.sock",
    "/var/lib/ironclaw",
    "/host",
    "/proc/1/root/etc",
    "/dev/mem",
    "/dev/sda",
];

fn visible() -> Value {
    let paths = HOST_PATHS.iter().copied().chain(fault::value("probe-path"));
    let mut found = Vec::new();
    walk(Path::new("/"), 4, &mut found);
    Value::object([
        ("root", names("/")),
        ("host_paths", Value::object(paths.map(|path| (path, outcome(fs::metadata(path)))))),
        ("files", strings(found)),
    ])
}

/// Files below a directory, at most a thousand, none of the kernel's own.
fn walk(directory: &Path, depth: u32, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if found.len() >= 1000 || path.starts_with("/proc") || path.starts_with("/sys") {
            continue;
        }
        found.push(path.display().to_string());
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, depth - 1, found);
        }
    }
}

fn secrets() -> Value {
    let environment = std::env::vars_os()
        .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
    let bytes = |path: &str| match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
        Err(error) => failure(&error),
    };
    let null = |path: &str| fs::metadata(path).map(|found| found.len().to_string());
    Value::object([
        ("environment", strings(environment)),
        ("arguments", strings(std::env::args_os().map(|word| word.to_string_lossy().into_owned()))),
        ("proc_environ", bytes("/proc/self/environ")),
        ("stdin", stdin_kind().into()),
        ("key_file", outcome(null("/in/key"))),
    ])
}

/// What descriptor 0 is after the key was read.
fn stdin_kind() -> String {
    match rustix::fs::fstat(std::io::stdin()) {
        Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => "character device".to_owned(),
            kind => format!("{kind:?}, {} bytes", stat.st_size),
        },
        Err(errno) => errno_name(errno.raw_os_error()),
    }
}

fn processes() -> Value {
    Value::object([
        ("fork", outcome(raw::new_process())),
        ("command", outcome(std::process::Command::new(paths::EXECUTABLE).arg("version").output())),
        ("thread", outcome(std::thread::Builder::new().spawn(|| ()))),
        ("proc", names("/proc")),
    ])
}

fn calls() -> Value {
    Value::object(raw::calls().into_iter().map(|(name, result)| (name, outcome(result))))
}
