//! `ironclaw demo`: a control plane with private temporary state in this very process, one message, its
//! answer. Touches a directory of its own in the temporary directory, which it removes, and those that
//! earlier demos of the same user left behind.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::FromArgs;
use async_signal::{Signal, Signals};
use rustix::fs::{FlockOperation, flock};
use smol::future::FutureExt;
use smol::stream::StreamExt;

use crate::contract::address::{is_loopback, is_tailnet};
use crate::contract::ids::SessionId;
use crate::contract::plain;
use crate::controlplane::api::readiness::Stage;
use crate::controlplane::config::{Config, ConfigError, Flags, Runtime};
use crate::controlplane::isolation::{self, IsolationPaths, RuntimeChoice};
use crate::controlplane::serve::ControlPlane;
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::ironctl::{self, Failure};
use crate::os::files::remove_tree;

/// See an answer from a sealed agent: starts a control plane with private temporary state, sends a message,
/// prints what the agent ran in and what it said. Nothing is installed, and nothing is left behind.
#[derive(FromArgs)]
struct Words {
    /// end after the answer; without it the demo stays up until Ctrl-C
    #[argh(switch)]
    once: bool,
    /// what the sandbox runs in: runsc, native (weaker), auto (the default), or the path of a runsc
    #[argh(option, default = "String::from(\"auto\")")]
    runtime: String,
    /// where the API listens (127.0.0.1:8787, or a free port when that is taken)
    #[argh(option)]
    addr: Option<String>,
}

/// The address that the documentation names.
const USUAL: &str = "127.0.0.1:8787";
/// What the demo says to the agent.
const GREETING: &str = "Hello from the demo";
/// With the digits of the user's id longer than this, and the sockets below would not fit into a socket's
/// address.
const BASE_BYTES: usize = 25;
/// Something that takes longer is told about.
const SILENCE: Duration = Duration::from_secs(1);

/// Runs the demo. `words` are those after `demo`.
///
/// # Errors
/// One line with the next step, and the exit code.
pub fn run(words: &[&str]) -> Result<(), Failure> {
    let split: Vec<&str> = words
        .iter()
        .flat_map(|word| match word.split_once('=') {
            Some((flag @ ("--runtime" | "--addr"), value)) => vec![flag, value],
            _ => vec![*word],
        })
        .collect();
    let words = match Words::from_args(&["ironclaw demo"], &split) {
        Ok(words) => words,
        Err(early) if early.status.is_ok() => return Ok(io::stdout().write_all(early.output.as_bytes())?),
        Err(early) => {
            let said: Vec<&str> = early.output.split_whitespace().collect();
            return Err(Failure::usage(format!("{}; see `ironclaw demo --help`", said.join(" "))));
        }
    };
    keeps_to_itself(&words)?;
    let uid = rustix::process::geteuid().as_raw();
    let base = base(uid);
    sweep(&base, uid);
    let home = Home::make(&base, uid)?;
    let config = config(&words, &home, uid)?;
    let ended = tasks::block_on(async {
        // Before anything is started, so that Ctrl-C never leaves it behind.
        let mut signals = Signals::new([Signal::Int, Signal::Term, Signal::Hup])
            .map_err(|error| Failure::of(format!("signals cannot be caught: {error}")))?;
        let plane =
            ControlPlane::start(config.clone()).await.map_err(|error| Failure::of(error.to_string()))?;
        let interrupted = async {
            signals.next().await;
            Ok(())
        };
        let shown = show(&plane, &config, &home, &words).or(interrupted).await;
        plane.stop().await;
        shown
    });
    log::flush();
    ended
}

async fn show(plane: &ControlPlane, config: &Config, home: &Home, words: &Words) -> Result<(), Failure> {
    let waiting = async {
        smol::Timer::after(SILENCE).await;
        let _ = writeln!(io::stderr(), "testing what sandboxes can run in here …");
        smol::future::pending().await
    };
    match plane.readiness().settled().or(waiting).await {
        Stage::Ready { back_end, description, notes } => {
            let mut out = io::stdout().lock();
            writeln!(out, "back end: {} ({})", plain::line(&back_end), plain::line(&description))?;
            if back_end == "native" && config.runtime == Runtime::Auto {
                let why = match isolation::find_runtime(&RuntimeChoice::Runsc) {
                    Err(problem) => problem.to_string(),
                    Ok(_) => "runsc is there and did not pass its self-test".to_owned(),
                };
                writeln!(out, "note: gVisor, the stronger wall, is not used: {}", plain::line(&why))?;
            }
            for note in notes {
                writeln!(out, "note: {}", plain::line(&note))?;
            }
        }
        Stage::Broken { reason } => return Err(Failure::of(reason)),
        Stage::Starting { doing } => return Err(Failure::of(format!("the start did not end: {doing}"))),
    }
    let url = format!("http://{}", plane.address());
    let token = home.path.join("state/api-token").display().to_string();
    writeln!(io::stdout(), "you: {GREETING}")?;
    let chat = {
        let (url, token) = (url.clone(), token.clone());
        tasks::unblock(move || {
            ironctl::run(&["--addr", &url, "--token-file", &token, "chat", "mock-agent", GREETING])
        })
    };
    chat.await?;
    if words.once {
        return Ok(());
    }
    let program = std::env::args().next().unwrap_or_else(|| "ironclaw".to_owned());
    let program = if program.contains(' ') { "ironclaw".to_owned() } else { program };
    let mut out = io::stdout().lock();
    writeln!(out, "\nThe control plane is up at {url}. To go on, in another terminal:\n")?;
    for command in ["chat mock-agent", "session list", "status"] {
        writeln!(out, "  {program} ctl --addr {url} --token-file {token} {command}")?;
    }
    writeln!(out, "  curl -H \"Authorization: Bearer $(cat {token})\" {url}/v1/sessions")?;
    writeln!(out, "\nCtrl-C ends the demo and removes everything it made.")?;
    out.flush()?;
    drop(out);
    smol::future::pending().await
}

/// Refuses an address that others reach, before anything is made.
fn keeps_to_itself(words: &Words) -> Result<(), Failure> {
    let named = words.addr.as_deref().and_then(|addr| addr.parse::<SocketAddr>().ok());
    if let Some(addr) = named.filter(|addr| !is_loopback(addr.ip()) && !is_tailnet(addr.ip())) {
        // What protects an API that others reach is a matter of `serve`, whose flags the demo has not.
        return Err(Failure::usage(format!(
            "--addr: others could read the token on its way to {addr}; use 127.0.0.1:{}, or `ironclaw serve` with TLS \
             (ironclaw help tls)",
            addr.port()
        )));
    }
    Ok(())
}

fn config(words: &Words, home: &Home, uid: u32) -> Result<Config, Failure> {
    let text = |name: &str| Some(home.path.join(name).display().to_string());
    let addr = match &words.addr {
        Some(addr) => addr.clone(),
        // Only a look: if another program takes it now, the start says so.
        None if TcpListener::bind(USUAL).is_ok() => USUAL.to_owned(),
        None => "127.0.0.1:0".to_owned(),
    };
    let flags = Flags {
        dev: true,
        state_dir: text("state"),
        model_proxy_socket: text("run/model.sock"),
        runtime: Some(words.runtime.clone()),
        api_addr: Some(addr),
        log_level: Some("error".to_owned()),
        ..Flags::default()
    };
    // Nothing of the environment: the demo is private, whatever is set for a service.
    Config::resolve(flags, uid, &|_| None).map_err(|error| {
        let text = match &error {
            ConfigError::Usage(text) => text.replace("--api-addr", "--addr"),
            other => other.to_string(),
        };
        Failure { code: error.exit_code(), text }
    })
}

/// Where demos live: the temporary directory, unless its name is too long for sockets.
pub(super) fn base(uid: u32) -> PathBuf {
    let most = BASE_BYTES.saturating_sub(uid.to_string().len());
    let named = std::env::var_os("TMPDIR").map(PathBuf::from);
    named
        .filter(|path| path.is_absolute() && path.as_os_str().len() <= most && path.is_dir())
        .unwrap_or_else(|| PathBuf::from("/tmp"))
}

fn prefix(uid: u32) -> String {
    format!("ironclaw-demo-{uid}-")
}

/// The directory of one demo; removed when dropped.
pub(super) struct Home {
    pub(super) path: PathBuf,
    _lock: File,
}

impl Home {
    pub(super) fn make(base: &Path, uid: u32) -> Result<Self, Failure> {
        // Root's sandboxes have ids of their own and pass through; what is inside has its own walls.
        let mode = if uid == 0 { 0o711 } else { 0o700 };
        let mut last = io::Error::from(io::ErrorKind::Other);
        for _ in 0..8 {
            let name = SessionId::mint().as_str().to_ascii_lowercase();
            let name: String = name.chars().rev().take(8).collect();
            let path = base.join(format!("{}{name}", prefix(uid)));
            let made = DirBuilder::new().mode(mode).create(&path).and_then(|()| {
                let lock = File::open(&path)?;
                flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                // Another demo's sweep may have come between; its lock was taken on a directory that is gone.
                fs::symlink_metadata(&path)?;
                Ok(lock)
            });
            match made {
                Ok(lock) => return Ok(Self { path, _lock: lock }),
                Err(error) => last = error,
            }
        }
        Err(Failure::of(format!(
            "no directory can be made in {}: {last}; name a writable one with TMPDIR",
            base.display()
        )))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            let _ = writeln!(io::stderr(), "ironclaw: {} could not be removed: {error}", self.path.display());
        }
    }
}

/// Removes what killed demos of this user left: directories whose lock is free.
fn sweep(base: &Path, uid: u32) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(&prefix(uid)) {
            continue;
        }
        let path = entry.path();
        // Not through a link, and nobody else's: the temporary directory is everybody's.
        let ours = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir() && found.uid() == uid);
        let Some(lock) = ours.then(|| File::open(&path).ok()).flatten() else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let paths = path.canonicalize().map(|path| IsolationPaths {
                state_dir: path.join("state"),
                bundle_root: path.join("state/bundles"),
                run_dir: path.join("run"),
            });
            if paths.is_ok_and(|paths| isolation::sweep_abandoned(&paths).is_ok()) {
                let _ = remove_tree(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_demo_sweeps_what_is_free_and_leaves_what_is_in_use() {
        let base = std::env::temp_dir().join(format!("ic-sweep-{}", std::process::id()));
        fs::create_dir(&base).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let running = Home::make(&base, uid).unwrap();
        let dead = base.join(format!("{}dead", prefix(uid)));
        fs::create_dir_all(dead.join("state/inner")).unwrap();
        fs::set_permissions(dead.join("state"), fs::Permissions::from_mode(0o555)).unwrap();
        let other = base.join("ironclaw-demo-x");
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&other, base.join(format!("{}link", prefix(uid)))).unwrap();
        sweep(&base, uid);
        assert!(running.path.exists() && !dead.exists() && other.exists());
        let path = running.path.clone();
        drop(running);
        assert!(!path.exists());
        fs::remove_dir_all(&base).unwrap();
    }
}
