//! What a sandbox is given, written once for both back ends: the mounts, the arguments, the limits of its process,
//! and from them the bundle that `runsc` reads. Pure but for the switches of the fault tests; touches nothing.

use std::path::{Path, PathBuf};

use super::{Identity, Limits, SandboxSpec, shown};
use crate::contract::json::Value;
use crate::contract::{fault, paths};
use crate::os::cage::{Access, Mount, ProcessLimits};
use crate::os::seccomp::{self, Rule};

/// Where the inner user comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spaces {
    /// A user namespace in which only ids of our choice exist.
    Mapped { wall: u32, group: u32 },
    /// No user namespace, the group's id itself: only where the network is weakened, because runsc gives the
    /// host's network to no other.
    Unmapped { group: u32 },
    /// `runsc --rootless`: the daemon's user as inner 0.
    Rootless,
}

impl Spaces {
    pub(super) fn of(identity: Identity) -> Self {
        match identity {
            Identity::Mapped { group, .. } if fault::weakened("network") => Spaces::Unmapped { group },
            Identity::Mapped { wall, group } => Spaces::Mapped { wall, group },
            Identity::OwnUser => Spaces::Rootless,
        }
    }

    fn inner_id(self) -> u32 {
        match self {
            _ if fault::weakened("inner_uid") => 0,
            Spaces::Mapped { .. } => paths::INNER_ID,
            Spaces::Unmapped { group } => group,
            Spaces::Rootless => 0,
        }
    }
}

/// Room for what is reserved but not used: stacks of threads and the arenas of malloc.
const ADDRESS_SPACE_SLACK: u64 = 512 * 1024 * 1024;

/// The mounts, in order. A file inside a mounted directory comes after it.
pub(super) fn mounts(spec: &SandboxSpec, program: &Path) -> Vec<Mount> {
    let host = &spec.paths;
    let bind = |source: &Path, at: &str, access| Mount::Bind { source: source.into(), at: at.into(), access };
    let read_only = |switch| if fault::weakened(switch) { Access::ReadWrite } else { Access::ReadOnly };
    let mut mounts = vec![
        bind(program, paths::EXECUTABLE, Access::Program),
        Mount::Memory { at: paths::TMP.into(), bytes: spec.limits.tmp_bytes, mode: 0o700 },
        bind(&host.inbound_dir, paths::INBOUND_DIR, read_only("inbound_readonly")),
    ];
    match host.outbound.parent() {
        // A plain file in a directory of the host, and no mount that holds it to its name.
        Some(directory) if fault::weakened("outbound_pinned") => {
            mounts.push(bind(directory, paths::OUTBOUND_DIR, Access::ReadWrite));
        }
        _ => mounts.extend([
            Mount::Memory { at: paths::OUTBOUND_DIR.into(), bytes: spec.limits.out_bytes, mode: 0o700 },
            bind(&host.outbound, paths::OUTBOUND, Access::ReadWrite),
        ]),
    }
    mounts.extend([
        bind(&host.session_dir, paths::SESSION_DIR, Access::ReadWrite),
        bind(&host.workspace, paths::WORKSPACE, Access::ReadWrite),
        bind(&host.memory, paths::MEMORY, Access::ReadWrite),
        bind(&host.sockets, paths::SOCKET_DIR, read_only("sockets_readonly")),
    ]);
    mounts.extend(shown::mounts(spec));
    if fault::weakened("host_path") {
        mounts.push(bind(Path::new("/etc"), "/mnt/host", Access::ReadOnly));
    }
    #[cfg(feature = "faults")]
    if let Some(directory) = super::spill::another_group(spec) {
        mounts.push(bind(&directory, "/mnt/host", Access::ReadOnly));
    }
    mounts
}

/// Every mount point, files marked by `true`: what the shared root of gVisor must hold beforehand.
pub(super) fn mount_points() -> [(&'static str, bool); 14] {
    [
        ("/proc", false),
        ("/sys", false),
        ("/dev", false),
        (paths::TMP, false),
        (paths::EXECUTABLE, true),
        (paths::INBOUND_DIR, false),
        (paths::OUTBOUND_DIR, false),
        (paths::OUTBOUND, true),
        (paths::SESSION_DIR, false),
        (paths::WORKSPACE, false),
        (paths::MEMORY, false),
        (paths::SOCKET_DIR, false),
        (paths::PACKAGES, false),
        ("/mnt/host", false),
    ]
}

/// The program's arguments after its own name.
pub(super) fn arguments(spec: &SandboxSpec) -> Vec<String> {
    let mut args = vec!["sandbox".to_owned()];
    args.extend(spec.args.iter().cloned());
    args
}

/// The environment: none.
pub(super) fn environment() -> Vec<String> {
    if fault::weakened("secret_env") { vec!["IRONCLAW_API_TOKEN=weakened".into()] } else { vec![] }
}

/// The limits of the process, with one on its address space where no cgroup bounds its memory.
pub(super) fn process_limits(limits: &Limits, memory_cgroup: bool) -> ProcessLimits {
    ProcessLimits {
        file_bytes: limits.file_bytes,
        open_files: limits.open_files,
        threads: Some(limits.threads),
        address_space: (!memory_cgroup).then(|| limits.memory_bytes.saturating_add(ADDRESS_SPACE_SLACK)),
    }
}

/// The program that is bound at `/ironclaw`.
pub(super) fn program(spec: &SandboxSpec, executable: &Path) -> PathBuf {
    #[cfg(feature = "faults")]
    if let Some(other) = &spec.executable_override {
        return other.clone();
    }
    let _ = spec;
    executable.to_owned()
}

/// `config.json` of the bundle: an explicit empty network, no capability, a read-only root.
pub(super) fn bundle(
    spec: &SandboxSpec,
    spaces: Spaces,
    rootfs: &Path,
    program: &Path,
    limits: &ProcessLimits,
) -> Value {
    let id = spaces.inner_id();
    let args: Vec<String> = [paths::EXECUTABLE.to_owned()].into_iter().chain(arguments(spec)).collect();
    let capabilities = if fault::weakened("capabilities") {
        strings(["CAP_DAC_OVERRIDE", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT"])
    } else if fault::weakened("inner_uid") {
        // Without it that user could not open the group's files, and no sandbox would start to be looked at.
        strings(["CAP_DAC_OVERRIDE"])
    } else {
        Value::Array(vec![])
    };
    let sets = ["bounding", "effective", "inheritable", "permitted", "ambient"];
    let process = Value::object([
        ("terminal", false.into()),
        (
            "user",
            Value::object([("uid", id.into()), ("gid", id.into()), ("additionalGids", Value::Array(vec![]))]),
        ),
        ("args", strings(args)),
        ("env", strings(environment())),
        ("cwd", "/".into()),
        ("capabilities", Value::object(sets.map(|set| (set, capabilities.clone())))),
        ("noNewPrivileges", (!fault::weakened("no_new_privs")).into()),
        ("rlimits", Value::Array(rlimits(limits))),
    ]);
    let root =
        Value::object([("path", text(rootfs)), ("readonly", (!fault::weakened("readonly_root")).into())]);
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "nodev", "noexec"]),
        // Read-only: the inner 0 of a rootless sandbox could write in it, whatever its mode.
        mount("/dev", "tmpfs", "tmpfs", device_options()),
    ];
    // The shared root has no point for each package and mount.
    let all_binds = shown::above(spec).into_iter().chain(mounts(spec, program));
    all.extend(all_binds.map(|item| oci_mount(&item, id)));
    Value::object([
        ("ociVersion", "1.0.0".into()),
        ("process", process),
        ("root", root),
        ("hostname", "sandbox".into()),
        ("mounts", Value::Array(all)),
        ("linux", linux(spaces)),
    ])
}

fn linux(spaces: Spaces) -> Value {
    let mut names = vec!["pid", "ipc", "uts", "mount"];
    if !fault::weakened("network") {
        names.push("network");
    }
    let mut fields = Vec::new();
    if let Spaces::Mapped { wall, group } = spaces {
        names.push("user");
        let entry = |inner: u32, host: u32| {
            Value::object([("containerID", inner.into()), ("hostID", host.into()), ("size", 1u32.into())])
        };
        let map = Value::Array(vec![entry(0, wall), entry(paths::INNER_ID, group)]);
        fields.extend([("uidMappings", map.clone()), ("gidMappings", map)]);
    }
    let namespaces = names.into_iter().map(|name| Value::object([("type", name.into())])).collect();
    fields.insert(0, ("namespaces", Value::Array(namespaces)));
    if !fault::weakened("seccomp") && !fault::weakened("no_new_privs") {
        fields.push(("seccomp", oci_seccomp()));
    }
    Value::object(fields)
}

fn rlimits(limits: &ProcessLimits) -> Vec<Value> {
    let mut all =
        vec![("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", limits.file_bytes), ("RLIMIT_NOFILE", limits.open_files)];
    all.extend(limits.threads.map(|threads| ("RLIMIT_NPROC", threads)));
    all.extend(limits.address_space.map(|bytes| ("RLIMIT_AS", bytes)));
    all.into_iter()
        .map(|(kind, value)| {
            Value::object([("type", kind.into()), ("soft", value.into()), ("hard", value.into())])
        })
        .collect()
}

fn oci_mount(item: &Mount, id: u32) -> Value {
    match item {
        Mount::Memory { at, bytes, mode } => {
            // One option a string: runsc refuses two in one.
            let options = [
                format!("size={bytes}"),
                format!("mode={mode:04o}"),
                format!("uid={id}"),
                format!("gid={id}"),
            ];
            let mut all = quiet(&["nosuid", "nodev", "noexec"]);
            all.extend(options.iter().map(String::as_str));
            mount(&at.to_string_lossy(), "tmpfs", "tmpfs", &all)
        }
        Mount::Bind { source, at, access } => {
            let (bind, kind, flags): (_, _, &[&str]) = match access {
                Access::ReadOnly => ("rbind", "ro", &["nosuid", "nodev", "noexec"]),
                Access::ReadWrite => ("rbind", "rw", &["nosuid", "nodev", "noexec"]),
                Access::Program => ("rbind", "ro", &["nosuid", "nodev"]),
                Access::Device => ("rbind", "ro", &["nosuid", "noexec"]),
                Access::Foreign => ("bind", "ro", &["nosuid", "nodev", "noexec"]),
            };
            let mut all = vec![bind, kind];
            all.extend(quiet(flags));
            mount(&at.to_string_lossy(), "bind", &source.to_string_lossy(), &all)
        }
        Mount::Directory { at } => mount(&at.to_string_lossy(), "tmpfs", "tmpfs", &["ro", "size=4096"]),
    }
}

fn device_options() -> &'static [&'static str] {
    if fault::weakened("readonly_root") {
        return &["nosuid", "noexec", "mode=755"];
    }
    &["ro", "nosuid", "noexec", "mode=755"]
}

fn quiet(flags: &[&'static str]) -> Vec<&'static str> {
    flags.iter().copied().filter(|flag| !fault::weakened(flag)).collect()
}

fn mount(at: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    Value::object([
        ("destination", at.into()),
        ("type", kind.into()),
        ("source", source.into()),
        ("options", strings(options.iter().copied())),
    ])
}

/// The table of `os::seccomp` as an OCI filter: everything else answers EPERM.
fn oci_seccomp() -> Value {
    let mut plain = Vec::new();
    let mut ruled = Vec::new();
    let allow = |names: Value, args: Vec<Value>| {
        let mut fields = vec![("names", names), ("action", "SCMP_ACT_ALLOW".into())];
        if !args.is_empty() {
            fields.push(("args", Value::Array(args)));
        }
        Value::object(fields)
    };
    let argument = |index: u8, operator: &str, value: u64, second: u64| {
        Value::object([
            ("index", u64::from(index).into()),
            ("value", value.into()),
            ("valueTwo", second.into()),
            ("op", operator.into()),
        ])
    };
    for call in seccomp::allowed(seccomp::Stage::Start) {
        match call.rule {
            // The first process of a gVisor sandbox cannot be told its own number beforehand; there is no other.
            Rule::Any | Rule::OwnProcess(_) => plain.push(call.name),
            Rule::OneOf(index, values) => {
                ruled.extend(values.iter().map(|value| {
                    allow(strings([call.name]), vec![argument(index, "SCMP_CMP_EQ", *value, 0)])
                }))
            }
            Rule::Bits(index, mask, value) => ruled
                .push(allow(strings([call.name]), vec![argument(index, "SCMP_CMP_MASKED_EQ", mask, value)])),
        }
    }
    let mut all = vec![allow(strings(plain), vec![])];
    all.extend(ruled);
    let architecture = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    Value::object([
        ("defaultAction", "SCMP_ACT_ERRNO".into()),
        ("architectures", strings([architecture])),
        ("syscalls", Value::Array(all)),
    ])
}

fn strings<T: Into<String>>(words: impl IntoIterator<Item = T>) -> Value {
    Value::Array(words.into_iter().map(|word| Value::String(word.into())).collect())
}

fn text(path: &Path) -> Value {
    Value::String(path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ids::{GroupName, SessionId};
    use crate::controlplane::isolation::{IsolationPaths, SessionPaths, Shown};

    fn spec(identity: Identity) -> SandboxSpec {
        let paths = IsolationPaths { state_dir: "/s".into(), bundle_root: "/b".into(), run_dir: "/r".into() };
        let session = SessionId::parse("ses_01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        SandboxSpec {
            paths: SessionPaths::new(&paths, &session, &GroupName::parse("g").unwrap()),
            session,
            identity,
            limits: Limits::default(),
            shown: vec![],
            args: vec!["--x".into()],
            #[cfg(feature = "faults")]
            executable_override: None,
        }
    }

    fn made(identity: Identity) -> Value {
        let spec = spec(identity);
        let limits = process_limits(&spec.limits, true);
        let spaces = Spaces::of(identity);
        bundle(&spec, spaces, Path::new("/b/rootfs"), Path::new("/b/bin/abc"), &limits)
    }

    fn names(bundle: &Value) -> Vec<String> {
        let linux = bundle.get("linux").unwrap();
        let list = linux.get("namespaces").unwrap().as_array().unwrap();
        list.iter().map(|entry| entry.get("type").unwrap().as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_bundle_of_a_mapped_sandbox_is_closed_on_every_side() {
        let bundle = made(Identity::Mapped { wall: 10, group: 20 });
        assert_eq!(names(&bundle), ["pid", "ipc", "uts", "mount", "network", "user"]);
        let process = bundle.get("process").unwrap();
        assert_eq!(
            process.get("user").unwrap().to_string(),
            r#"{"uid":65532,"gid":65532,"additionalGids":[]}"#
        );
        assert_eq!(process.get("args").unwrap().to_string(), r#"["/ironclaw","sandbox","--x"]"#);
        assert_eq!(process.get("env").unwrap().to_string(), "[]");
        assert_eq!(
            process.get("capabilities").unwrap().to_string(),
            r#"{"bounding":[],"effective":[],"inheritable":[],"permitted":[],"ambient":[]}"#
        );
        assert_eq!(process.get("noNewPrivileges").unwrap().as_bool(), Some(true));
        assert_eq!(bundle.get("root").unwrap().to_string(), r#"{"path":"/b/rootfs","readonly":true}"#);
        assert_eq!(
            bundle.get("linux").unwrap().get("uidMappings").unwrap().to_string(),
            r#"[{"containerID":0,"hostID":10,"size":1},{"containerID":65532,"hostID":20,"size":1}]"#
        );
        let expected = concat!(
            r#"[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","nodev","noexec"]},"#,
            r#"{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["ro","nosuid","noexec","mode=755"]},"#,
            r#"{"destination":"/ironclaw","type":"bind","source":"/b/bin/abc","options":["rbind","ro","nosuid","nodev"]},"#,
            r#"{"destination":"/tmp","type":"tmpfs","source":"tmpfs","options":["nosuid","nodev","noexec","size=16777216","mode=0700","uid=65532","gid=65532"]},"#,
            r#"{"destination":"/in","type":"bind","source":"/s/sessions/ses_01ARZ3NDEKTSV4RRFFQ69G5FAV/in","options":["rbind","ro","nosuid","nodev","noexec"]},"#,
            r#"{"destination":"/out","type":"tmpfs","source":"tmpfs","options":["nosuid","nodev","noexec","size=67108864","mode=0700","uid=65532","gid=65532"]},"#,
            r#"{"destination":"/out/outbound.db","type":"bind","source":"/s/sessions/ses_01ARZ3NDEKTSV4RRFFQ69G5FAV/outbound.db","options":["rbind","rw","nosuid","nodev","noexec"]},"#,
            r#"{"destination":"/session","type":"bind","source":"/s/sessions/ses_01ARZ3NDEKTSV4RRFFQ69G5FAV/session","options":["rbind","rw","nosuid","nodev","noexec"]},"#,
            r#"{"destination":"/workspace","type":"bind","source":"/s/workspaces/g","options":["rbind","rw","nosuid","nodev","noexec"]},"#,
            r#"{"destination":"/memory","type":"bind","source":"/s/memory/g","options":["rbind","rw","nosuid","nodev","noexec"]},"#,
            r#"{"destination":"/run/ironclaw","type":"bind","source":"/r/ses_01ARZ3NDEKTSV4RRFFQ69G5FAV","options":["rbind","ro","nosuid","nodev","noexec"]}]"#,
        );
        assert_eq!(bundle.get("mounts").unwrap().to_string(), expected);
    }

    #[test]
    fn what_is_shown_of_the_host_is_mounted_with_its_right_over_points_of_its_own() {
        let shown = vec![
            Shown::Package { at: "/opt/packages/p".into(), source: "/s/packages/.store/d".into() },
            Shown::Own { at: "/mnt/o".into(), source: "/s/mounts/g/o".into() },
            Shown::Directory {
                at: "/mnt/d".into(),
                name: "d".into(),
                source: "/srv/d".into(),
                device: 1,
                inode: 2,
            },
        ];
        let tail = |identity| {
            let spec = SandboxSpec { shown: shown.clone(), ..spec(identity) };
            let limits = process_limits(&spec.limits, true);
            let made = bundle(&spec, Spaces::of(identity), Path::new("/r"), Path::new("/p"), &limits);
            let text = made.get("mounts").unwrap().to_string();
            let session = spec.session.to_string();
            text.replace(&session, "S").replace(r#","options":["rbind""#, "")
        };
        let quiet = r#","nosuid","nodev","noexec"]}"#;
        let expected = |source: &str| {
            format!(
                concat!(
                    r#"{{"destination":"/opt/packages/p","type":"bind","source":"/s/packages/.store/d","ro"{quiet},"#,
                    r#"{{"destination":"/mnt/o","type":"bind","source":"/s/mounts/g/o","rw"{quiet},"#,
                    r#"{{"destination":"/mnt/d","type":"bind","source":"{source}","options":["bind","ro"{quiet}]"#,
                ),
                quiet = quiet,
                source = source
            )
        };
        for (identity, source) in [
            (Identity::Mapped { wall: 10, group: 20 }, "/b/staging/S/host/d"),
            // Who is the sandbox's user reaches it without a stage.
            (Identity::OwnUser, "/srv/d"),
        ] {
            let text = tail(identity);
            assert!(text.ends_with(&expected(source)), "{text}");
            for (point, directory) in [("/opt/packages", "packages"), ("/mnt", "mnt")] {
                let above = format!(
                    r#"{{"destination":"{point}","type":"bind","source":"/b/staging/S/{directory}","ro"{quiet}"#
                );
                assert!(text.contains(&above), "{text}");
            }
        }
    }

    #[test]
    fn rootless_has_no_user_namespace_of_its_own() {
        let bundle = made(Identity::OwnUser);
        assert_eq!(names(&bundle), ["pid", "ipc", "uts", "mount", "network"]);
        assert_eq!(bundle.get("linux").unwrap().get("uidMappings"), None);
        let user = bundle.get("process").unwrap().get("user").unwrap();
        assert_eq!(user.get("uid").unwrap().as_u64(), Some(0));
    }

    #[test]
    fn every_mount_has_its_point_in_the_shared_root() {
        let spec = spec(Identity::OwnUser);
        for item in mounts(&spec, Path::new("/p")) {
            let at = match item {
                Mount::Memory { at, .. } | Mount::Bind { at, .. } | Mount::Directory { at } => at,
            };
            assert!(mount_points().iter().any(|(point, _)| Path::new(point) == at), "{}", at.display());
        }
    }

    #[test]
    fn the_seccomp_section_denies_by_default() {
        let section = oci_seccomp();
        assert_eq!(section.get("defaultAction").unwrap().as_str(), Some("SCMP_ACT_ERRNO"));
        let text = section.to_string();
        assert!(
            text.contains(r#"{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"#)
        );
        assert!(!text.contains("ptrace") && !text.contains("\"mount\""));
    }
}
