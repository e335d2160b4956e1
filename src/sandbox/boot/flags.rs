//! The flags of `ironclaw sandbox` and the places they name. Pure: it touches nothing.

use std::path::PathBuf;

use argh::FromArgs;

use crate::contract::paths;

/// The agent process inside its box. The control plane starts it; by hand it is of use only to tests.
#[derive(Debug, FromArgs)]
pub(super) struct Flags {
    /// the inbound conveyor (/in/inbound.db)
    #[argh(option, default = "paths::INBOUND.into()")]
    pub(super) inbound: PathBuf,
    /// the outbound conveyor (/out/outbound.db)
    #[argh(option, default = "paths::OUTBOUND.into()")]
    pub(super) outbound: PathBuf,
    /// transcript and step journal (/session/session.db)
    #[argh(option, default = "paths::SESSION.into()")]
    pub(super) session: PathBuf,
    /// file with the 32 bytes of the session key, removed when read (standard input)
    #[argh(option)]
    pub(super) key: Option<PathBuf>,
    /// directory of the file tools (/workspace)
    #[argh(option, default = "paths::WORKSPACE.into()")]
    pub(super) workspace: PathBuf,
    /// the host's doorbell (/run/ironclaw/doorbell.sock)
    #[argh(option, default = "paths::DOORBELL.into()")]
    pub(super) doorbell: PathBuf,
    /// the model proxy (/run/ironclaw/model.sock)
    #[argh(option, default = "paths::MODEL.into()")]
    pub(super) model_socket: PathBuf,
    /// the host header of calls to the model (model)
    #[argh(option, default = "String::from(\"model\")")]
    pub(super) model_host: String,
    /// the model to ask for where the session's configuration names none
    #[argh(option, default = "String::new()")]
    pub(super) model: String,
    /// try threads, databases and the seal, print `ok`, and exit
    #[argh(switch)]
    pub(super) self_test: bool,
    /// crash points and weakened controls
    #[cfg(feature = "faults")]
    #[argh(option)]
    pub(super) faults: Option<String>,
}

/// Flags that other versions have, and what to say about them.
const REFUSED: &[(&str, &str)] = &[
    ("--heartbeat", "there is no heartbeat file: the doorbell's `alive` has replaced it"),
    ("--memory", "this build has no memory tools"),
    ("--egress-socket", "this build has no egress"),
    ("--mcp-socket", "this build has no MCP"),
    ("--search-backend", "this build has no web search"),
    ("--persona", "the persona comes with the session's configuration, never as an argument"),
    ("--enabled-tools", "the tools come with the session's configuration"),
    ("--provider", "the model socket belongs to one provider already"),
];

/// What the words ask for.
#[derive(Debug)]
pub(super) enum Asked {
    /// To run.
    Run(Box<Flags>),
    /// To show this text.
    Help(String),
}

/// Reads the words after `sandbox`; a value may follow its flag as the next word or after `=`.
pub(super) fn parse(words: &[&str]) -> Result<Asked, String> {
    let mut split = Vec::with_capacity(words.len());
    for word in words {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) if word.starts_with("--") => (flag, Some(value)),
            _ => (*word, None),
        };
        if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == flag) {
            return Err(format!("{flag} is not known here: {why}; leave it out"));
        }
        split.push(flag);
        split.extend(value);
    }
    match Flags::from_args(&["ironclaw sandbox"], &split) {
        Ok(flags) => Ok(Asked::Run(Box::new(flags))),
        Err(early) if early.status.is_ok() => Ok(Asked::Help(early.output)),
        Err(early) => {
            let said = early.output.trim().replace('\n', " ");
            Err(format!("{said}; `ironclaw sandbox --help` lists the flags"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_the_contract_s_defaults() {
        let Ok(Asked::Run(flags)) = parse(&["--model=m", "--session", "/tmp/s.db"]) else { panic!() };
        assert_eq!((flags.inbound, flags.session), (paths::INBOUND.into(), PathBuf::from("/tmp/s.db")));
        assert_eq!((flags.model.as_str(), flags.key), ("m", None));
        assert!(matches!(parse(&["--help"]), Ok(Asked::Help(text)) if text.contains("--doorbell")));
    }

    #[test]
    fn what_is_not_here_is_refused_with_a_reason() {
        assert_eq!(
            parse(&["--heartbeat=/x"]).unwrap_err(),
            "--heartbeat is not known here: there is no heartbeat file: the doorbell's `alive` has replaced it; \
             leave it out"
        );
        assert!(parse(&["--memory", "/memory"]).is_err());
        assert!(parse(&["--nonsense"]).unwrap_err().contains("--help"));
        assert!(parse(&["--session"]).is_err());
    }
}
