//! The low-level stage: what was typed, as text, from flags, environment and file; nothing is judged here
//! except names. One table makes the flags, their environment variables and the keys of the file, so that
//! the three can never differ. Reads the process's environment only through the function it is given.

use argh::FromArgs;

use super::ConfigError;

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident, $flag:literal, $env:literal;)*) => {
        /// Run the control plane: hold the keys and the ledger, serve the API, launch a sandbox per conversation.
        /// Every flag has an environment variable: --api-addr is IRONCLAW_API_ADDR.
        #[derive(FromArgs, Clone, Debug, Default, PartialEq, Eq)]
        pub struct Flags {
            /// read settings from this JSON file; keys are the flags' names with _ for -; flags and environment win
            #[argh(option)]
            pub config: Option<String>,
            /// for development: the runtime defaults to auto
            #[argh(switch)]
            pub dev: bool,
            /// plain HTTP on any address, because a proxy before it ends TLS; needs --api-public-url
            #[argh(switch)]
            pub api_behind_proxy: bool,
            /// do not judge what a credential gateway on this machine shows; for trying one out
            #[argh(switch)]
            pub model_gateway_insecure: bool,
            $(
                $(#[doc = $doc])+
                #[argh(option)]
                pub $field: Option<String>,
            )*
        }

        /// Flag, environment variable and key of the file, of every setting with a value.
        const SETTINGS: &[(&str, &str, &str)] = &[$(($flag, $env, stringify!($field)),)*];

        impl Flags {
            /// The text of one setting, by its key.
            pub(super) fn slot(&mut self, key: &str) -> Option<&mut Option<String>> {
                match key {
                    $(stringify!($field) => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

settings! {
    /// where the API listens: IP:PORT, or tailscale[:PORT] for the tailnet; beyond both with TLS or a proxy
    /// (127.0.0.1:8787)
    api_addr, "--api-addr", "IRONCLAW_API_ADDR";
    /// self-signed: TLS with a certificate made at the first start; the log has its fingerprint
    tls, "--tls", "IRONCLAW_TLS";
    /// TLS with the certificate of this PEM file, its issuers after it
    tls_cert, "--tls-cert", "IRONCLAW_TLS_CERT";
    /// the certificate's key, a PEM file that others may not read
    tls_key, "--tls-key", "IRONCLAW_TLS_KEY";
    /// with --api-behind-proxy: what people use, https://NAME or https://NAME:PORT
    api_public_url, "--api-public-url", "IRONCLAW_API_PUBLIC_URL";
    /// another name by which this machine is reached; may be repeated, or name several with commas between
    api_host, "--api-host", "IRONCLAW_API_HOST";
    /// where platforms reach this machine, IP:PORT; beyond loopback only with --api-behind-proxy (nowhere)
    ingress_addr, "--ingress-addr", "IRONCLAW_INGRESS_ADDR";
    /// a directory below which agents may be granted mounts; may be repeated (none: no mounts)
    mount_root, "--mount-root", "IRONCLAW_MOUNT_ROOT";
    /// what is approved without a person, and who approves what: a JSON file (nothing, and whoever has the role)
    policy, "--policy", "IRONCLAW_POLICY";
    /// how long a change waits for a decision before it lapses (336h)
    change_lifetime, "--change-lifetime", "IRONCLAW_CHANGE_LIFETIME";
    /// how long a conversation that nobody uses is kept before it is erased (90d)
    session_expiry, "--session-expiry", "IRONCLAW_SESSION_EXPIRY";
    /// requests of one token in a second, four times as many at once; 0 for no limit (100)
    token_rate, "--token-rate", "IRONCLAW_TOKEN_RATE";
    /// where everything durable is kept (/var/lib/ironclaw as root, else $XDG_STATE_HOME/ironclaw)
    state_dir, "--state-dir", "IRONCLAW_STATE_DIR";
    /// its directory holds the run directory with the sandboxes' sockets
    model_proxy_socket, "--model-proxy-socket", "IRONCLAW_MODEL_PROXY_SOCKET";
    /// where a model provider is, PROVIDER=URL, in the place of its usual address; may be repeated
    model_upstream, "--model-upstream", "IRONCLAW_MODEL_UPSTREAM";
    /// a server of one's own that speaks OpenAI Chat Completions (provider local)
    local_model_url, "--local-model-url", "IRONCLAW_LOCAL_MODEL_URL";
    /// the model that --dev uses of it
    local_model, "--local-model", "IRONCLAW_LOCAL_MODEL";
    /// more roots to trust, beside those of browsers, for model providers: a PEM file
    ca_file, "--ca-file", "IRONCLAW_CA_FILE";
    /// who signs what the credential gateway of IRONCLAW_MODEL_GATEWAY_URL shows, a PEM file
    model_gateway_ca_file, "--model-gateway-ca-file", "IRONCLAW_MODEL_GATEWAY_CA_FILE";
    /// the provider of the agent that --dev makes (whose credential is set, else mock)
    dev_provider, "--dev-provider", "IRONCLAW_DEV_PROVIDER";
    /// and its model
    dev_model, "--dev-model", "IRONCLAW_DEV_MODEL";
    /// what a sandbox runs in: runsc, native (weaker), auto (with --dev), or the path of a runsc
    runtime, "--runtime", "IRONCLAW_RUNTIME";
    /// where the sandboxes' roots and bundles are made (bundles, inside the state directory)
    bundle_root, "--bundle-root", "IRONCLAW_BUNDLE_ROOT";
    /// time between two safety passes over all sessions (60s)
    sweep_interval, "--sweep-interval", "IRONCLAW_SWEEP_INTERVAL";
    /// text or json (text)
    log_format, "--log-format", "IRONCLAW_LOG_FORMAT";
    /// error, warn, info or debug (info)
    log_level, "--log-level", "IRONCLAW_LOG_LEVEL";
    /// how long a sandbox stays after its last answer (30s)
    linger, "--linger", "IRONCLAW_LINGER";
    /// the longest a turn may take (10m)
    turn_timeout, "--turn-timeout", "IRONCLAW_TURN_TIMEOUT";
    /// the longest a sandbox may take from launch to its first word (30s)
    launch_timeout, "--launch-timeout", "IRONCLAW_LAUNCH_TIMEOUT";
    /// the longest a sandbox may take to acknowledge a ring (30s)
    stall_timeout, "--stall-timeout", "IRONCLAW_STALL_TIMEOUT";
    /// how many sandboxes run at once, 1 to 1000 (32)
    max_sandboxes, "--max-sandboxes", "IRONCLAW_MAX_SANDBOXES";
    /// rings of a sandbox's doorbell served in a second (50)
    rings_per_second, "--rings-per-second", "IRONCLAW_RINGS_PER_SECOND";
    /// free disk space below which nothing is launched (the smaller of 512MiB and 5 %)
    min_free, "--min-free", "IRONCLAW_MIN_FREE";
    /// what the files of one agent group may take (256MiB)
    group_quota_bytes, "--group-quota-bytes", "IRONCLAW_GROUP_QUOTA_BYTES";
    /// how many files one agent group may have (20000)
    group_quota_files, "--group-quota-files", "IRONCLAW_GROUP_QUOTA_FILES";
    /// size at which the audit file is closed and a new one begun (64MiB)
    audit_file_bytes, "--audit-file-bytes", "IRONCLAW_AUDIT_FILE_BYTES";
    /// memory of one sandbox (256MiB)
    sandbox_memory, "--sandbox-memory", "IRONCLAW_SANDBOX_MEMORY";
    /// processor time of one sandbox in hundredths of a core (200)
    sandbox_cpu_percent, "--sandbox-cpu-percent", "IRONCLAW_SANDBOX_CPU_PERCENT";
    /// processes and threads of one sandbox on the host, with gVisor at least 256 (256)
    sandbox_pids, "--sandbox-pids", "IRONCLAW_SANDBOX_PIDS";
    /// first of the host user ids that a root control plane gives to sandboxes (2000000000)
    sandbox_uid_base, "--sandbox-uid-base", "IRONCLAW_SANDBOX_UID_BASE";
    /// read the master key from this file of mode 0600
    master_key_file, "--master-key-file", "IRONCLAW_MASTER_KEY_FILE";
    /// derive the master key from the passphrase in this file of mode 0600
    master_passphrase_file, "--master-passphrase-file", "IRONCLAW_MASTER_PASSPHRASE_FILE";
}

/// Flags that may be given again: the values are joined with commas.
const REPEATED: &[&str] = &["--api-host", "--mount-root", "--model-upstream"];

/// Settings of parts that this build does not have: flag and what it belongs to. Refused wherever given.
const ABSENT: &[(&str, &str)] = &[
    ("--egress-socket", "egress"),
    ("--egress-allow", "egress"),
    ("--search-backend", "web search"),
    ("--mcp-catalog", "MCP"),
    ("--mcp-isolation", "MCP"),
    ("--mcp-runtime", "MCP"),
    ("--mcp-image", "MCP"),
];

fn environment_name(flag: &str) -> String {
    format!("IRONCLAW_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase())
}

fn key_name(flag: &str) -> String {
    flag.trim_start_matches('-').replace('-', "_")
}

impl Flags {
    /// Reads the words after `serve`. A flag's value may follow it as the next word or after `=`.
    pub fn from_words(words: &[&str]) -> Result<Self, ConfigError> {
        let mut split = Vec::with_capacity(words.len());
        let words = joined(words);
        for word in &words {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) if word.starts_with("--") => (flag, Some(value)),
                _ => (word.as_str(), None),
            };
            if let Some((flag, part)) = ABSENT.iter().find(|(absent, _)| *absent == flag) {
                return Err(ConfigError::absent(flag, part));
            }
            split.push(flag);
            split.extend(value);
        }
        Flags::from_args(&["ironclaw serve"], &split).map_err(|early| match early.status {
            Ok(()) => ConfigError::Help(early.output),
            Err(()) => {
                let said = early.output.trim().replace('\n', " ");
                ConfigError::Usage(format!("{said}; `ironclaw serve --help` lists the flags"))
            }
        })
    }

    /// Fills what no flag set from the environment. A variable that is set and empty counts as not set.
    pub(super) fn fill_from_environment(
        &mut self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let read = |name: &str| environment(name).filter(|text| !text.is_empty());
        for (flag, part) in ABSENT {
            if read(&environment_name(flag)).is_some() {
                return Err(ConfigError::absent(&environment_name(flag), part));
            }
        }
        for (_, variable, key) in SETTINGS {
            if let (Some(slot @ None), Some(text)) = (self.slot(key), read(variable)) {
                *slot = Some(text);
            }
        }
        if self.config.is_none() {
            self.config = read("IRONCLAW_CONFIG");
        }
        for (slot, name) in self.switches() {
            let variable = &environment_name(name);
            if let (false, Some(text)) = (*slot, read(variable)) {
                *slot = truth(variable, &text)?;
            }
        }
        Ok(())
    }

    /// The settings without a value, by their keys.
    fn switches(&mut self) -> [(&mut bool, &'static str); 3] {
        [
            (&mut self.dev, "dev"),
            (&mut self.api_behind_proxy, "api_behind_proxy"),
            (&mut self.model_gateway_insecure, "model_gateway_insecure"),
        ]
    }

    /// Takes one setting of the file, when neither flag nor environment set it.
    pub(super) fn fill_one(&mut self, key: &str, text: String) -> Result<(), ConfigError> {
        for (slot, name) in self.switches() {
            if key == name {
                *slot = *slot || truth(name, &text)?;
                return Ok(());
            }
        }
        if let Some((flag, part)) = ABSENT.iter().find(|(flag, _)| key_name(flag) == key) {
            return Err(ConfigError::absent(&key_name(flag), part));
        }
        match self.slot(key) {
            Some(slot @ None) => *slot = Some(text),
            Some(Some(_)) => {}
            None => {
                let known: Vec<&str> = SETTINGS.iter().map(|(_, _, key)| *key).collect();
                return Err(ConfigError::Usage(format!(
                    "the configuration file sets `{key}`, which is no setting; known are dev, api_behind_proxy, model_gateway_insecure, {}",
                    known.join(", ")
                )));
            }
        }
        Ok(())
    }
}

/// The words with the values of a [`REPEATED`] flag in one word, where it was given first.
fn joined(words: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = Vec::with_capacity(words.len());
    let mut rest = words.iter().copied();
    while let Some(word) = rest.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (word, None),
        };
        // Without a value it goes on as it is, and is refused as every flag without one.
        let Some(value) = value.or_else(|| REPEATED.contains(&flag).then(|| rest.next()).flatten()) else {
            all.push(word.to_owned());
            continue;
        };
        if !REPEATED.contains(&flag) {
            all.push(word.to_owned());
            continue;
        }
        let first =
            all.iter_mut().find(|known| known.split_once('=').is_some_and(|(known, _)| known == flag));
        match first {
            Some(known) => *known = format!("{known},{value}"),
            None => all.push(format!("{flag}={value}")),
        }
    }
    all
}

fn truth(name: &str, text: &str) -> Result<bool, ConfigError> {
    match text {
        "1" | "true" | "yes" => Ok(true),
        "0" | "false" | "no" => Ok(false),
        other => Err(ConfigError::Usage(format!("{name} is {other:?}; expected true or false"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_the_flag_the_variable_and_the_key_of_one_name() {
        for (flag, variable, key) in SETTINGS {
            assert_eq!(environment_name(flag), *variable);
            assert_eq!(key_name(flag), *key);
            assert!(Flags::default().slot(key).is_some());
            let flags = Flags::from_words(&[flag, "x"]).unwrap();
            assert_eq!(flags.clone().slot(key).cloned(), Some(Some("x".to_owned())), "{flag}");
            assert_eq!(Flags::from_words(&[&format!("{flag}=x")]).unwrap(), flags);
        }
    }

    #[test]
    fn absent_parts_are_refused_by_name() {
        for words in [&["--mcp-catalog", "x"][..], &["--egress-allow=x"]] {
            let error = Flags::from_words(words).unwrap_err();
            assert!(error.to_string().contains("is not part of this build"), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn an_unknown_flag_is_a_usage_error_in_one_line() {
        let error = Flags::from_words(&["--no-such"]).unwrap_err();
        assert!(error.to_string().contains("--no-such"), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
