//! Choosing the back end: finds `runsc`, tries what it offers with a real self-test, falls back to the native cage
//! only where that was allowed, and says why not when nothing works. Touches the bundle root and the processes of
//! the self-test.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ring::digest;

use super::gvisor::Gvisor;
use super::native::Native;
use super::setup::{self, Ground, hexadecimal};
use super::{Identity, IsolationPaths, Isolator, Limits, RuntimeChoice, SandboxSpec, SessionPaths, layout};
use crate::contract::cipher::SessionKey;
use crate::contract::ids::{GroupName, SessionId};
use crate::os::files::{Lock, remove_tree};
use crate::os::process;
use crate::os::userns::Cause;

/// Where `runsc` is looked for after the search path, which a service may not have.
const USUAL_PLACES: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"];

/// Platforms in the order of preference. `kvm` hangs where virtualisation is nested, so it is never tried.
const PLATFORMS: [&str; 2] = ["systrap", "ptrace"];

/// How long a self-test may take; a working one takes a quarter of a second in gVisor.
const TEST_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no boundary to launch sandboxes in.
#[derive(Debug)]
pub enum RuntimeProblem {
    /// The runtime that was asked for by name is not there.
    Missing {
        /// The path or name.
        runtime: String,
    },
    /// No runtime was found, and the native cage was not allowed.
    NoneFound,
    /// It is there and does not work.
    Unusable {
        /// Its name.
        runtime: String,
        /// What happened.
        reason: String,
    },
    /// Another daemon works in the same bundle root.
    InUse {
        /// The directory.
        bundle_root: PathBuf,
    },
    /// The directories of isolation could not be made.
    Ground {
        /// What was being done.
        doing: String,
        /// The answer.
        error: std::io::Error,
    },
}

impl fmt::Display for RuntimeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuntimeProblem::Missing { runtime } => write!(
                f,
                "the runtime {runtime} is not there or cannot be executed; install gVisor (Debian: `apt install \
                 runsc`), or name another with --runtime"
            ),
            RuntimeProblem::NoneFound => f.write_str(
                "gVisor's runsc was not found, and the weaker native cage is used only when it is asked for; \
                 install gVisor (Debian: `apt install runsc`), or choose --runtime native",
            ),
            RuntimeProblem::Unusable { runtime, reason } => {
                write!(f, "{runtime} does not work here: {reason}")
            }
            RuntimeProblem::InUse { bundle_root } => write!(
                f,
                "another ironclaw works in {}; stop it, or choose another --bundle-root",
                bundle_root.display()
            ),
            RuntimeProblem::Ground { doing, error } => write!(
                f,
                "{doing}: {error}; check the directory's owner, its mode and the free space, or choose another \
                 --bundle-root"
            ),
        }
    }
}

impl std::error::Error for RuntimeProblem {}

/// The directories of isolation, claimed for this process alone.
#[derive(Debug)]
pub struct Claim {
    pub(super) paths: IsolationPaths,
    pub(super) identity: Identity,
    pub(super) lock: Lock,
}

/// Makes the bundle root and takes its lock, until the claim or the isolator made with it is dropped. `identity`
/// tells root's daemon from an ordinary user's; its group owns the files of the self-test.
///
/// # Errors
/// [`RuntimeProblem::InUse`] and [`RuntimeProblem::Ground`]: the daemon cannot serve with these directories.
pub fn claim(paths: &IsolationPaths, identity: Identity) -> Result<Claim, RuntimeProblem> {
    let lock = setup::bundle_root(paths, identity)?;
    Ok(Claim { paths: paths.clone(), identity, lock })
}

/// What of this host a boundary is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Why user namespaces cannot be made, and the step that failed.
    pub no_namespaces: Option<(Cause, String)>,
    /// What no control group bounds, one sentence.
    pub no_cgroups: Option<String>,
}

/// Looks at it without choosing anything.
///
/// # Errors
/// As [`claim`].
pub fn survey(claim: Claim) -> Result<Survey, RuntimeProblem> {
    let ground = Ground::make(claim)?;
    Ok(Survey { no_namespaces: ground.forbidden.clone(), no_cgroups: ground.cgroups.missing() })
}

/// Finds and tests a back end, with sandboxes of these limits. Blocks, up to a second for a runtime not seen
/// before. To be called once per daemon, in the process that will launch, which becomes the parent of what the
/// runtime leaves.
pub fn choose(
    choice: &RuntimeChoice,
    claim: Claim,
    limits: Limits,
) -> Result<Arc<dyn Isolator>, RuntimeProblem> {
    // What was asked for by name is looked for before anything is made.
    let found = match choice {
        RuntimeChoice::Native => None,
        RuntimeChoice::Runsc => {
            Some(find_runsc().ok_or(RuntimeProblem::Missing { runtime: "runsc".into() })?)
        }
        RuntimeChoice::Path(path) => Some(
            is_executable(path)
                .then(|| path.clone())
                .ok_or_else(|| RuntimeProblem::Missing { runtime: path.display().to_string() })?,
        ),
        RuntimeChoice::Auto { allow_native: false } => Some(find_runsc().ok_or(RuntimeProblem::NoneFound)?),
        RuntimeChoice::Auto { allow_native: true } => find_runsc(),
    };
    let ground = Arc::new(Ground::make(claim)?);
    let gvisor = found.map(|program| gvisor(&ground, program, limits));
    match (gvisor, choice) {
        (Some(Ok(isolator)), _) => Ok(isolator),
        (Some(Err(problem)), RuntimeChoice::Auto { allow_native: true }) => {
            native(&ground, limits).map_err(|_| problem)
        }
        (Some(Err(problem)), _) => Err(problem),
        (None, _) => native(&ground, limits),
    }
}

/// Whether what was asked for by name is there at all; nothing is started or made.
///
/// # Errors
/// [`RuntimeProblem::Missing`].
pub fn find_runtime(choice: &RuntimeChoice) -> Result<(), RuntimeProblem> {
    let missing = |runtime: String| Err(RuntimeProblem::Missing { runtime });
    match choice {
        RuntimeChoice::Runsc if find_runsc().is_none() => missing("runsc".to_owned()),
        RuntimeChoice::Path(path) if !is_executable(path) => missing(path.display().to_string()),
        _ => Ok(()),
    }
}

fn find_runsc() -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&search).chain(USUAL_PLACES.iter().map(PathBuf::from));
    places
        .filter(|place| place.is_absolute())
        .map(|place| place.join("runsc"))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn native(ground: &Arc<Ground>, limits: Limits) -> Result<Arc<dyn Isolator>, RuntimeProblem> {
    let unusable = |reason| RuntimeProblem::Unusable { runtime: "the native cage".into(), reason };
    if ground.rootless()
        && let Some((cause, step)) = &ground.forbidden
    {
        return Err(unusable(format!("{cause} ({step})")));
    }
    let isolator = Native { ground: Arc::clone(ground) };
    self_test(&isolator, ground, limits).map_err(unusable)?;
    Ok(Arc::new(isolator))
}

fn gvisor(
    ground: &Arc<Ground>,
    program: PathBuf,
    limits: Limits,
) -> Result<Arc<dyn Isolator>, RuntimeProblem> {
    let name = program.display().to_string();
    let unusable = |reason| RuntimeProblem::Unusable { runtime: name.clone(), reason };
    // It starts its kernel in a user namespace whatever the bundle says; without one it would run as root.
    if let Some((cause, step)) = &ground.forbidden {
        // Root of a user namespace, as in a container, is an ordinary user here.
        let who = if ground.rootless() { "as the host's root " } else { "" };
        return Err(unusable(format!(
            "gVisor needs user namespaces, and {cause} ({step}); {who}the weaker --runtime native works without \
             them"
        )));
    }
    let version = version(&program).map_err(unusable)?;
    let mark = mark(ground, &program, &limits).map_err(|error| unusable(error.to_string()))?;
    let make = |platform| Gvisor::new(Arc::clone(ground), program.clone(), version.clone(), platform);
    let cache = ground.paths.bundle_root.join("self-test");
    let cached = std::fs::read_to_string(&cache).unwrap_or_default();
    if let Some((known, platform)) = cached.trim_end().rsplit_once(' ')
        && known == mark
        && let Some(platform) = PLATFORMS.into_iter().find(|name| *name == platform)
    {
        return Ok(Arc::new(make(platform)));
    }
    let mut reasons = Vec::new();
    for platform in PLATFORMS {
        let mut isolator = make(platform);
        let usual_limit = std::mem::replace(&mut isolator.start_limit, TEST_LIMIT);
        match self_test(&isolator, ground, limits) {
            Ok(()) => {
                // Only a shortcut: without it the test runs again at the next start.
                let _ = std::fs::write(&cache, format!("{mark} {platform}\n"));
                isolator.start_limit = usual_limit;
                return Ok(Arc::new(isolator));
            }
            Err(reason) => reasons.push(format!("on {platform}, {reason}")),
        }
    }
    Err(unusable(reasons.join("; ")))
}

/// What a passed self-test holds for: this runtime, this executable, this kernel, this kind of daemon,
/// these limits.
fn mark(ground: &Ground, program: &Path, limits: &Limits) -> std::io::Result<String> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut file = File::open(program)?;
    let mut part = vec![0u8; 1 << 16];
    loop {
        match file.read(&mut part)? {
            0 => break,
            count => context.update(part.get(..count).unwrap_or_default()),
        }
    }
    let runtime = hexadecimal(context.finish().as_ref());
    let kind = if ground.rootless() { "rootless" } else { "root" };
    let limits = format!("{}-{}-{}", limits.memory_bytes, limits.cpu_percent, limits.pids);
    Ok(format!("{runtime} {} {} {kind} {limits}", ground.digest, process::kernel_release()))
}

fn version(program: &Path) -> Result<String, String> {
    let text = output(program, &["--version"])?;
    let line = text.lines().find_map(|line| line.strip_prefix("runsc version "));
    let version = line.ok_or("it does not answer `--version` as runsc does")?;
    Ok(version.trim_start_matches("release-").trim_start_matches("0.0~").trim().to_owned())
}

fn output(program: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// Runs a whole sandbox, as for a conversation, whose program tests what the real one needs.
fn self_test(isolator: &dyn Isolator, ground: &Ground, limits: Limits) -> Result<(), String> {
    let top = ground.paths.bundle_root.join("self-test-session");
    let paths = IsolationPaths {
        state_dir: top.clone(),
        bundle_root: ground.paths.bundle_root.clone(),
        run_dir: top.join("run"),
    };
    let session = SessionId::mint();
    let group = GroupName::parse("self-test").map_err(|error| error.to_string())?;
    let spec = SandboxSpec {
        paths: SessionPaths::new(&paths, &session, &group),
        session,
        identity: ground.identity,
        limits,
        shown: vec![],
        args: vec!["--self-test".into()],
        #[cfg(feature = "faults")]
        executable_override: None,
    };
    let result = run_test(isolator, &spec);
    let removed = remove_tree(&top).map_err(|error| format!("{}: {error}", top.display()));
    result.and(removed)
}

fn run_test(isolator: &dyn Isolator, spec: &SandboxSpec) -> Result<(), String> {
    layout::prepare(spec).map_err(|error| error.to_string())?;
    crate::os::files::fresh_file(&spec.paths.inbound, spec.identity.owner(), 0o600)
        .map_err(|error| format!("{}: {error}", spec.paths.inbound.display()))?;
    let key = SessionKey::from_bytes([7; 32]);
    let staged = isolator.stage(&spec.session, &spec.limits).map_err(|error| error.to_string())?;
    let sandbox = isolator.start(staged, spec, &key).map_err(|error| error.to_string())?;
    let exit = sandbox.wait(TEST_LIMIT);
    let words = exit.as_ref().map_or_else(|| sandbox.last_words(), |exit| exit.words.clone());
    let cleaned = sandbox.clean_up().map_err(|error| format!("cleaning up: {error}"));
    match exit {
        Some(_) if words == "ok" => cleaned,
        Some(exit) => Err(format!("the self-test ended with {}: {words}", exit.how)),
        None => Err(format!("the self-test did not end within {} s: {words}", TEST_LIMIT.as_secs())),
    }
}
