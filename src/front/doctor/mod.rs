//! `ironclaw doctor`: whether this machine, this user and this state directory are as a control plane needs them, one
//! line a check with the next step for whatever is not. Makes nothing that stays: what it tries, it tries in a
//! directory of its own in the temporary directory, beside a control plane that runs. Only the controllers of the
//! machine's control groups stay switched on, as every start of a control plane leaves them: one that starts meanwhile
//! must not lose them again. May use every room.

mod host;
mod state;

use std::io::{self, IsTerminal, Write};

use crate::contract::json::Value;
use crate::contract::plain;
use crate::controlplane::config::{Config, ConfigError};
use crate::controlplane::telemetry::log::{self, Format, Level};
use crate::ironctl::Failure;

const HELP: &str = "Usage: ironclaw doctor [--json] [the flags of `ironclaw serve`]

Look whether this machine, this user and this state directory are as a control plane needs them. Settings are read as
`serve` reads them: flags, then environment, then the file of --config. Exit 1 when something failed.

`ironctl doctor` asks the control plane too.
";

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, with less than there could be.
    Warn,
    /// It does not work.
    Fail,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One check: what was looked at, what was seen, and for whatever is not well the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    seen: String,
    next: Option<String>,
}

impl Check {
    fn ok(name: &'static str, seen: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, seen: seen.into(), next: None }
    }

    fn warn(name: &'static str, seen: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, seen: seen.into(), next: Some(next.into()) }
    }

    fn fail(name: &'static str, seen: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, seen: seen.into(), next: Some(next.into()) }
    }

    /// From an error whose text ends with the next step, as ours do: `what; what to do`.
    fn told(name: &'static str, verdict: Verdict, error: &str) -> Self {
        let (seen, next) = match error.split_once("; ") {
            Some((seen, next)) => (seen, Some(next.to_owned())),
            None => (error, None),
        };
        Self { name, verdict, seen: seen.to_owned(), next }
    }

    fn to_value(&self) -> Value {
        Value::object([
            ("name", Value::from(self.name)),
            ("state", Value::from(self.verdict.as_str())),
            ("seen", Value::from(self.seen.as_str())),
            ("next", Value::from(self.next.clone())),
        ])
    }
}

/// Runs it. `words` are those after `doctor`.
///
/// # Errors
/// One line and the exit code: 2 for wrong words, 1 when a check failed.
pub fn run(words: &[&str]) -> Result<(), Failure> {
    if words.iter().any(|word| matches!(*word, "--help" | "-h")) {
        return Ok(io::stdout().write_all(HELP.as_bytes())?);
    }
    let is_json = words.contains(&"--json");
    let words: Vec<&str> = words.iter().copied().filter(|word| *word != "--json").collect();
    log::configure(Format::Text, Level::Error);
    let mut checks = Vec::new();
    match Config::load(&words) {
        Ok(config) => {
            state::look(&config, &mut checks);
            if let Err(wrong) = &config.accounts {
                let told = format!("{wrong}; see `ironclaw help channels`");
                checks.push(Check::told("channels", Verdict::Fail, &told));
            }
            checks.extend(host::kernel());
            if io::stderr().is_terminal() {
                let _ = writeln!(io::stderr(), "trying what sandboxes can run in here …");
            }
            host::boundary(&config, &mut checks);
        }
        Err(ConfigError::Usage(text)) => {
            return Err(Failure::usage(text.replace("`ironclaw serve", "`ironclaw doctor")));
        }
        Err(error) => {
            checks.push(Check::told("settings", Verdict::Fail, &error.to_string()));
            checks.extend(host::kernel());
        }
    }
    log::flush();
    show(&checks, is_json)?;
    match checks.iter().filter(|check| check.verdict == Verdict::Fail).count() {
        0 => Ok(()),
        count => Err(Failure::of(format!("failed checks: {count}; what to do is under each"))),
    }
}

fn show(checks: &[Check], is_json: bool) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if is_json {
        let is_ok = checks.iter().all(|check| check.verdict != Verdict::Fail);
        let all: Vec<Value> = checks.iter().map(Check::to_value).collect();
        writeln!(out, "{}", Value::object([("ok", Value::from(is_ok)), ("checks", Value::from(all))]))?;
        return Ok(());
    }
    for check in checks {
        writeln!(out, "{:<5} {:<16} {}", check.verdict.as_str(), check.name, plain::line(&check.seen))?;
        if let Some(next) = &check.next {
            writeln!(out, "{:22} next: {}", "", plain::line(next))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_ours_is_what_was_seen_and_what_to_do() {
        let check =
            Check::told("keys", Verdict::Fail, "no master key: x is not there; put it back, it is needed");
        assert_eq!(
            (check.seen.as_str(), check.next.as_deref()),
            ("no master key: x is not there", Some("put it back, it is needed"))
        );
        assert_eq!(Check::told("keys", Verdict::Warn, "odd").next, None);
    }

    #[test]
    fn wrong_words_are_told_before_anything_is_tried() {
        for words in [&["--no-such"][..], &["--state-dir"], &["--mcp-catalog", "x"]] {
            assert_eq!(run(words).unwrap_err().code, 2, "{words:?}");
        }
    }
}
