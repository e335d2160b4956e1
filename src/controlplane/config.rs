//! Flags over environment over file, into one validated [`Config`]. Nothing after it reads a flag or the
//! environment. Touches only the configuration file it is told to read, and the user's id.

mod door;
mod flags;
mod host;
mod models;

use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use door::{Door, Listen, Protection};
pub use flags::Flags;
pub use models::Models;

use super::audit;
use super::channels::settings::{self, Account, SettingsError};
use super::isolation::{GVISOR_PIDS, Limits};
use super::telemetry::log::{Format, Level};
use crate::contract::json::{self, Value};
use crate::contract::places;
use crate::contract::values;
use crate::controlplane::keys::ApiToken;
use crate::controlplane::state::CHANNELS;

/// A configuration file holds a few dozen short settings; more than this is some other file.
const FILE_BYTES: u64 = 64 << 10;

/// Everything the control plane was told, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// How the API can be reached.
    pub door: Door,
    /// Where platforms reach this machine, if anywhere.
    pub ingress: Option<SocketAddr>,
    /// The accounts on platforms, or what is wrong with them.
    pub accounts: Result<Vec<Account>, SettingsError>,
    /// The model providers that can be asked.
    pub models: Models,
    /// The state directory, absolute.
    pub state_dir: PathBuf,
    /// The directory in which the run directory is made, absolute.
    pub run_base: PathBuf,
    /// What sandboxes run in.
    pub runtime: Runtime,
    /// Where roots and bundles are made; `None` is `bundles` in the state directory.
    pub bundle_root: Option<PathBuf>,
    /// Time between two safety passes.
    pub sweep_interval: Duration,
    /// Development mode.
    pub dev: bool,
    /// How log lines look.
    pub log_format: Format,
    /// The least important events logged.
    pub log_level: Level,
    /// How long a sandbox stays after nothing is in flight.
    pub linger: Duration,
    /// The longest turn.
    pub turn_timeout: Duration,
    /// The longest time from launch to `hello`.
    pub launch_timeout: Duration,
    /// From a ring to its acknowledgement, at the most.
    pub stall_timeout: Duration,
    /// Sandboxes running at once.
    pub max_sandboxes: usize,
    /// Rings of one doorbell served in a second; more are held by delaying the ack.
    pub rings_per_second: u32,
    /// Free space below which nothing is launched.
    pub min_free: MinFree,
    /// Quota of an agent group, bytes.
    pub group_quota_bytes: u64,
    /// Quota of an agent group, files.
    pub group_quota_files: u64,
    /// Size at which the audit file is closed and a new one begun, bytes.
    pub audit_file_bytes: u64,
    /// Memory of one sandbox, bytes.
    pub sandbox_memory: u64,
    /// Processor time of one sandbox, hundredths of a core.
    pub sandbox_cpu_percent: u32,
    /// Processes and threads of one sandbox.
    pub sandbox_pids: u32,
    /// First of the host ids for sandboxes (only used by root).
    pub sandbox_uid_base: u32,
    /// Directories below which mounts may lie, absolute.
    pub mount_roots: Vec<PathBuf>,
    /// The operator's policy, a file.
    pub policy: Option<PathBuf>,
    /// How long a change waits for a decision.
    pub change_lifetime: Duration,
    /// How long a conversation that nobody uses can still be read.
    pub session_expiry: Duration,
    /// Where the master key comes from.
    pub master_key: MasterKeySource,
    /// The API's token, when the environment gave one.
    pub api_token: Option<Secret>,
    /// The files that settings and the token were read from, absolute.
    pub read_from: Vec<PathBuf>,
}

/// What sandboxes run in, and whether somebody asked for exactly that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Nothing was said: `runsc` from the usual places; without it serve, but not ready.
    DefaultRunsc,
    /// `runsc` was asked for; without it the program ends.
    Runsc,
    /// This `runsc`; without it the program ends.
    Path(PathBuf),
    /// The native cage, weaker than gVisor.
    Native,
    /// `runsc`, else the native cage, saying so. Only with `--dev` and in the demo.
    Auto,
}

/// Free space below which nothing is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFree {
    /// The smaller of 512 MiB and 5 % of the file system.
    Default,
    /// This many bytes.
    Bytes(u64),
}

/// Where the master key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeySource {
    /// A file in the state directory, made on first start.
    StateFile,
    /// The systemd credential in this directory.
    Credential(PathBuf),
    /// This file.
    KeyFile(PathBuf),
    /// Derived from the passphrase in this file.
    PassphraseFile(PathBuf),
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes it.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Why there is no `Config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Not an error: help was asked for, and this is it.
    Help(String),
    /// Something typed wrongly; the program ends with 2.
    Usage(String),
    /// The configuration file cannot be used; the program ends with 1.
    File(String),
}

impl ConfigError {
    fn absent(name: &str, part: &str) -> Self {
        Self::Usage(format!("{name} is not part of this build ({part} is not there yet); leave it out"))
    }

    /// 0 for help, 2 for what was typed, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Help(_) => 0,
            Self::Usage(_) => 2,
            Self::File(_) => 1,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Help(text) | Self::Usage(text) | Self::File(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads flags, this process's environment and the file they name.
    pub fn load(words: &[&str]) -> Result<Self, ConfigError> {
        let uid = rustix::process::geteuid().as_raw();
        Self::resolve(Flags::from_words(words)?, uid, &|name| std::env::var(name).ok())
    }

    /// The same with everything given: flags, user id, environment.
    pub fn resolve(
        mut flags: Flags,
        uid: u32,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        flags.fill_from_environment(environment)?;
        if let Some(path) = flags.config.clone() {
            read_file(Path::new(&path), &mut flags)?;
        }
        let token = match environment("IRONCLAW_API_TOKEN").filter(|text| !text.is_empty()) {
            Some(text) => Some(text),
            None => match environment("IRONCLAW_API_TOKEN_FILE").filter(|text| !text.is_empty()) {
                Some(path) => Some(read_secret(Path::new(&path))?),
                None => None,
            },
        };
        validate(flags, uid, environment, token)
    }

    /// What one sandbox may use: what was set, and the defaults for the rest.
    pub fn sandbox_limits(&self) -> Limits {
        Limits {
            memory_bytes: self.sandbox_memory,
            cpu_percent: self.sandbox_cpu_percent,
            pids: u64::from(self.sandbox_pids),
            ..Limits::default()
        }
    }
}

fn default_run_base(uid: u32, environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    if uid == 0 {
        return PathBuf::from("/run/ironclaw");
    }
    match environment("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute() && path.is_dir())
    {
        Some(base) => base.join("ironclaw"),
        None => PathBuf::from(format!("/tmp/ironclaw-{uid}")),
    }
}

fn validate(
    flags: Flags,
    uid: u32,
    environment: &dyn Fn(&str) -> Option<String>,
    token: Option<String>,
) -> Result<Config, ConfigError> {
    let token = token.map(|text| checked_token(&text)).transpose()?;
    let state_dir = match &flags.state_dir {
        Some(path) => absolute("--state-dir", path)?,
        None => places::default_state_dir(uid, environment).ok_or_else(|| {
            usage(
                "--state-dir",
                "neither XDG_STATE_HOME nor HOME is set, so there is no default; name a directory",
            )
        })?,
    };
    let run_base = match &flags.model_proxy_socket {
        Some(path) => {
            let path = absolute("--model-proxy-socket", path)?;
            match path.parent() {
                Some(parent) if path.file_name().is_some() => parent.to_path_buf(),
                _ => return Err(usage("--model-proxy-socket", "the path of a socket is expected")),
            }
        }
        None => default_run_base(uid, environment),
    };
    let bundle_root = flags.bundle_root.as_deref().map(|path| absolute("--bundle-root", path)).transpose()?;
    let master_key = match (&flags.master_key_file, &flags.master_passphrase_file) {
        (Some(_), Some(_)) => {
            return Err(usage(
                "--master-key-file",
                "it cannot be used with --master-passphrase-file; choose one",
            ));
        }
        (Some(path), None) => MasterKeySource::KeyFile(absolute("--master-key-file", path)?),
        (None, Some(path)) => MasterKeySource::PassphraseFile(absolute("--master-passphrase-file", path)?),
        (None, None) => match credential(environment) {
            Some(directory) => MasterKeySource::Credential(directory),
            None => MasterKeySource::StateFile,
        },
    };
    let duration = |flag: &str, text: &Option<String>, default: Duration, least: Duration| match text {
        None => Ok(default),
        Some(text) => {
            let value = values::duration(text).map_err(|wrong| usage(flag, &wrong))?;
            if value < least {
                return Err(usage(
                    flag,
                    &format!("{text} is too short; the least is {} ms", least.as_millis()),
                ));
            }
            Ok(value)
        }
    };
    let number = |flag: &str, text: &Option<String>, default: u64, low: u64, high: u64| match text {
        None => Ok(default),
        Some(text) => values::count(text, low, high).map_err(|wrong| usage(flag, &wrong)),
    };
    let size = |flag: &str, text: &Option<String>, default: u64, least: u64| match text {
        None => Ok(default),
        Some(text) => match values::size(text).map_err(|wrong| usage(flag, &wrong))? {
            bytes if bytes < least => {
                Err(usage(flag, &format!("{text} is too small; the least is {least} bytes")))
            }
            bytes => Ok(bytes),
        },
    };
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let second = Duration::from_secs(1);
    let limits = Limits::default();
    let runtime = runtime(flags.runtime.as_deref(), flags.dev)?;
    // Wherever the sandbox may be gVisor's.
    let least_pids = if runtime == Runtime::Native { 16 } else { GVISOR_PIDS };
    Ok(Config {
        door: door::door(&flags)?,
        ingress: door::ingress(&flags)?,
        accounts: settings::load(&state_dir.join(CHANNELS), environment),
        models: models::models(&flags, environment)?,
        state_dir,
        run_base,
        runtime,
        bundle_root,
        sweep_interval: duration("--sweep-interval", &flags.sweep_interval, 60 * second, second)?,
        dev: flags.dev,
        log_format: match flags.log_format.as_deref() {
            None | Some("text") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => {
                return Err(usage("--log-format", &format!("{other:?} is unknown; expected text or json")));
            }
        },
        log_level: match flags.log_level.as_deref() {
            None | Some("info") => Level::Info,
            Some("error") => Level::Error,
            Some("warn") => Level::Warn,
            Some("debug") => Level::Debug,
            Some(other) => {
                let wrong = format!("{other:?} is unknown; expected error, warn, info or debug");
                return Err(usage("--log-level", &wrong));
            }
        },
        mount_roots: host::mount_roots(flags.mount_root.as_deref().unwrap_or_default())?,
        policy: flags.policy.as_deref().map(|path| absolute("--policy", path)).transpose()?,
        change_lifetime: duration(
            "--change-lifetime",
            &flags.change_lifetime,
            14 * 24 * 3600 * second,
            second,
        )?,
        session_expiry: duration("--session-expiry", &flags.session_expiry, 90 * 24 * 3600 * second, second)?,
        linger: duration("--linger", &flags.linger, 30 * second, Duration::ZERO)?,
        turn_timeout: duration("--turn-timeout", &flags.turn_timeout, 600 * second, second)?,
        launch_timeout: duration("--launch-timeout", &flags.launch_timeout, 30 * second, second)?,
        stall_timeout: duration("--stall-timeout", &flags.stall_timeout, 30 * second, second)?,
        max_sandboxes: number("--max-sandboxes", &flags.max_sandboxes, 32, 1, 1000)? as usize,
        rings_per_second: small(number("--rings-per-second", &flags.rings_per_second, 50, 1, 1_000_000)?),
        min_free: match &flags.min_free {
            None => MinFree::Default,
            Some(text) => MinFree::Bytes(values::size(text).map_err(|wrong| usage("--min-free", &wrong))?),
        },
        group_quota_bytes: size("--group-quota-bytes", &flags.group_quota_bytes, 256 << 20, 1 << 20)?,
        group_quota_files: number("--group-quota-files", &flags.group_quota_files, 20_000, 100, 100_000_000)?,
        audit_file_bytes: size("--audit-file-bytes", &flags.audit_file_bytes, audit::FILE_BYTES, 1 << 10)?,
        sandbox_memory: size("--sandbox-memory", &flags.sandbox_memory, limits.memory_bytes, 64 << 20)?,
        sandbox_cpu_percent: small(number(
            "--sandbox-cpu-percent",
            &flags.sandbox_cpu_percent,
            u64::from(limits.cpu_percent),
            5,
            100_000,
        )?),
        sandbox_pids: small(number("--sandbox-pids", &flags.sandbox_pids, limits.pids, least_pids, 100_000)?),
        sandbox_uid_base: small(number(
            "--sandbox-uid-base",
            &flags.sandbox_uid_base,
            2_000_000_000,
            // Below are the ids of people and services; a million ids above the base must stay in 31 bits.
            100_000,
            2_146_000_000,
        )?),
        master_key,
        api_token: token,
        read_from: host::read_from(&flags, environment),
    })
}

/// systemd's directory of credentials, when it holds ours.
fn credential(environment: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let directory = environment("CREDENTIALS_DIRECTORY").map(PathBuf::from)?;
    directory.join("ironclaw-master-key").exists().then_some(directory)
}

fn usage(flag: &str, wrong: &str) -> ConfigError {
    ConfigError::Usage(format!("{flag}: {wrong}"))
}

fn absolute(flag: &str, text: &str) -> Result<PathBuf, ConfigError> {
    if text.is_empty() || text.contains('\0') {
        return Err(usage(flag, "a path is expected"));
    }
    // Lexical only: symbolic links are judged by whoever opens the path.
    std::path::absolute(text).map_err(|error| usage(flag, &format!("{text:?} is not a usable path: {error}")))
}

fn runtime(text: Option<&str>, dev: bool) -> Result<Runtime, ConfigError> {
    match text {
        None if dev => Ok(Runtime::Auto),
        None => Ok(Runtime::DefaultRunsc),
        Some("runsc") => Ok(Runtime::Runsc),
        Some("native") => Ok(Runtime::Native),
        Some("auto") if dev => Ok(Runtime::Auto),
        // In production a missing runsc must not quietly become a weaker wall, so auto is the default's meaning.
        Some("auto") => Ok(Runtime::DefaultRunsc),
        Some(path) if path.starts_with('/') => Ok(Runtime::Path(absolute("--runtime", path)?)),
        Some(other) => Err(usage(
            "--runtime",
            &format!("{other:?} is unknown; expected runsc, native, auto or the absolute path of a runsc"),
        )),
    }
}

fn checked_token(text: &str) -> Result<Secret, ConfigError> {
    if ApiToken::is_well_formed(text) {
        Ok(Secret::new(text.to_owned()))
    } else {
        Err(ConfigError::Usage(
            "IRONCLAW_API_TOKEN: expected 16 to 256 visible ASCII characters without spaces; unset it to use the \
             token in the state directory"
                .to_owned(),
        ))
    }
}

fn read_limited(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let shown = path.display();
    let file = std::fs::File::open(path).map_err(|error| {
        ConfigError::File(format!("cannot open {shown}: {error}; check the path and its mode"))
    })?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| ConfigError::File(format!("cannot read {shown}: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(ConfigError::File(format!(
            "{shown} is larger than {FILE_BYTES} bytes; is it the right file?"
        )));
    }
    Ok(bytes)
}

fn read_secret(path: &Path) -> Result<String, ConfigError> {
    let bytes = read_limited(path)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| ConfigError::File(format!("{} is not text; it should hold a token", path.display())))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_file(path: &Path, flags: &mut Flags) -> Result<(), ConfigError> {
    let shown = path.display();
    let document = json::parse(&read_limited(path)?).map_err(|error| {
        ConfigError::File(format!("{shown}: {error}; the file holds one JSON object of settings"))
    })?;
    let settings = document
        .as_object()
        .ok_or_else(|| ConfigError::File(format!("{shown}: the file holds one JSON object of settings")))?;
    for (key, value) in settings {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(text) => text.clone(),
            Value::Bool(truth) => truth.to_string(),
            _ => {
                let wrong = format!("{shown}: `{key}` must be a text, a number or true/false");
                return Err(ConfigError::File(wrong));
            }
        };
        flags.fill_one(key, text).map_err(|error| ConfigError::File(format!("{shown}: {error}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(words: &[&str], environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let find = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Config::resolve(Flags::from_words(words)?, 1000, &|name| {
            find(name).or((name == "HOME").then(|| "/home/ann".into()))
        })
    }

    #[test]
    fn defaults() {
        let config = with(&[], &[]).unwrap();
        assert_eq!(config.door.listen, Listen::At(([127, 0, 0, 1], 8787).into()));
        assert_eq!(config.state_dir, Path::new("/home/ann/.local/state/ironclaw"));
        assert_eq!(config.runtime, Runtime::DefaultRunsc);
        assert_eq!(config.run_base, Path::new("/tmp/ironclaw-1000"));
        assert_eq!((config.linger.as_secs(), config.rings_per_second, config.max_sandboxes), (30, 50, 32));
        assert_eq!(config.sandbox_uid_base, 2_000_000_000);
    }

    #[test]
    fn flags_win_over_environment_and_environment_over_the_file() {
        let path = std::env::temp_dir().join(format!("ironclaw-config-{}.json", std::process::id()));
        std::fs::write(&path, r#"{"linger":"1s","max_sandboxes":5,"turn_timeout":"7s","dev":true}"#).unwrap();
        let file = path.to_str().unwrap();
        let config = with(
            &["--config", file, "--linger", "3s"],
            &[("IRONCLAW_LINGER", "2s"), ("IRONCLAW_MAX_SANDBOXES", "6")],
        );
        std::fs::write(&path, r#"{"lingre":"1s"}"#).unwrap();
        let unknown = with(&["--config", file], &[]);
        std::fs::write(&path, r#"{"mcp_image":"x"}"#).unwrap();
        let absent = with(&["--config", file], &[]);
        std::fs::write(&path, r#"{"linger":"1s","linger":"2s"}"#).unwrap();
        let twice = with(&["--config", file], &[]);
        std::fs::remove_file(&path).unwrap();
        let config = config.unwrap();
        assert_eq!(config.linger.as_secs(), 3);
        assert_eq!(config.max_sandboxes, 6);
        assert_eq!(config.turn_timeout.as_secs(), 7);
        assert_eq!(config.runtime, Runtime::Auto);
        for (wrong, word) in
            [(unknown, "lingre"), (absent, "not part of this build"), (twice, "occurs twice")]
        {
            let error = wrong.unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(error.exit_code(), 1);
        }
    }

    #[test]
    fn wrong_values_name_the_flag_and_what_is_expected() {
        let cases: &[(&[&str], &str)] = &[
            (&["--api-addr", "0.0.0.0:8787"], "ssh -L"),
            (&["--api-addr", "[::]:1"], "ssh -L"),
            (&["--api-addr", "8787"], "IP:PORT"),
            (&["--sandbox-pids", "255"], "256"),
            (&["--runtime", "docker"], "expected runsc, native, auto"),
            (&["--linger", "30"], "30s"),
            (&["--turn-timeout", "0s"], "too short"),
            (&["--max-sandboxes", "0"], "from 1 to 1000"),
            (&["--group-quota-bytes", "1MB"], "MiB"),
            (&["--sandbox-uid-base", "0"], "from 100000"),
            (&["--log-format", "xml"], "text or json"),
            (&["--mount-root", "/srv,etc"], "absolute"),
            (&["--log-level", "loud"], "error, warn, info or debug"),
            (&["--master-key-file", "a", "--master-passphrase-file", "b"], "choose one"),
        ];
        for (words, expected) in cases {
            let error = with(words, &[]).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with(words[0]) && text.contains(expected), "{text}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn runtimes() {
        for (words, runtime) in [
            (&["--dev"][..], Runtime::Auto),
            (&["--runtime", "auto"], Runtime::DefaultRunsc),
            (&["--runtime", "auto", "--dev"], Runtime::Auto),
            (&["--runtime=native"], Runtime::Native),
            (&["--runtime=/opt/runsc", "--dev"], Runtime::Path("/opt/runsc".into())),
        ] {
            assert_eq!(with(words, &[]).unwrap().runtime, runtime);
        }
        assert_eq!(with(&[], &[("IRONCLAW_RUNTIME", "native")]).unwrap().runtime, Runtime::Native);
        assert_eq!(with(&[], &[("IRONCLAW_DEV", "true")]).unwrap().runtime, Runtime::Auto);
    }

    #[test]
    fn a_token_is_checked_and_never_shown() {
        let token: String = (0..40).map(|at| char::from(b'a' + at % 26)).collect();
        let config = with(&[], &[("IRONCLAW_API_TOKEN", &token)]).unwrap();
        assert_eq!(config.api_token.as_ref().map(Secret::expose), Some(token.as_str()));
        assert!(!format!("{config:?}").contains(&token));
        for bad in ["short", "has a space in the middle"] {
            let error = with(&[], &[("IRONCLAW_API_TOKEN", bad)]).unwrap_err().to_string();
            assert!(!error.contains(bad), "{error}");
        }
    }

    #[test]
    fn the_run_base_is_the_directory_of_the_model_socket() {
        let config = with(&["--model-proxy-socket", "/run/x/model.sock"], &[]).unwrap();
        assert_eq!(config.run_base, Path::new("/run/x"));
        assert!(with(&["--model-proxy-socket", "/"], &[]).is_err());
    }
}
