//! `ctl doctor`: asks the control plane what can be asked from here, then runs `ironclaw doctor`, the same executable,
//! for what only this machine can say. One line a check, the next step under whatever is not well. Touches the network,
//! the terminal, and starts that one process.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use argh::{ArgsInfo, FromArgs};

use super::client::{Client, Refused};
use super::lists::cell;
use super::{Failure, people};
use crate::contract::json::{self, Value};
use crate::contract::plain;
use crate::contract::time::Millis;

/// A client whose clock is further off than this gets confused by what it reads, and its certificates fail.
const CLOCK_APART: i64 = 30_000;

/// What is well here and what is not: the control plane, then this machine. Exit 1 when something failed.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "doctor")]
pub(super) struct Doctor {
    /// the state directory, as for `ironclaw serve`
    #[argh(option)]
    pub(super) state_dir: Option<String>,
    /// the configuration file, as for `ironclaw serve`
    #[argh(option)]
    config: Option<String>,
    /// what sandboxes run in, as for `ironclaw serve`
    #[argh(option)]
    runtime: Option<String>,
    /// where the API is to listen, as for `ironclaw serve`
    #[argh(option)]
    api_addr: Option<String>,
    /// free space that is needed, as for `ironclaw serve`
    #[argh(option)]
    min_free: Option<String>,
    /// the master key's file, as for `ironclaw serve`
    #[argh(option)]
    master_key_file: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    tls: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    tls_cert: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    tls_key: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    api_public_url: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    ingress_addr: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    policy: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    change_lifetime: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    token_rate: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    model_proxy_socket: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    bundle_root: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    sweep_interval: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    log_format: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    log_level: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    session_expiry: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    linger: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    turn_timeout: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    launch_timeout: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    stall_timeout: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    max_sandboxes: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    rings_per_second: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    group_quota_bytes: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    group_quota_files: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    audit_file_bytes: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    sandbox_memory: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    sandbox_cpu_percent: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    sandbox_pids: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    sandbox_uid_base: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    master_passphrase_file: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    local_model_url: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    local_model: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    ca_file: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    model_gateway_ca_file: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    dev_provider: Option<String>,
    /// as for `ironclaw serve`
    #[argh(option)]
    dev_model: Option<String>,
    /// as for `ironclaw serve`; may be repeated
    #[argh(option)]
    model_upstream: Vec<String>,
    /// as for `ironclaw serve`; may be repeated
    #[argh(option)]
    api_host: Vec<String>,
    /// as for `ironclaw serve`; may be repeated
    #[argh(option)]
    mount_root: Vec<String>,
    /// a proxy before it ends TLS, as for `ironclaw serve`
    #[argh(switch)]
    api_behind_proxy: bool,
    /// as for `ironclaw serve`
    #[argh(switch)]
    model_gateway_insecure: bool,
    /// the sandboxes may be native, as for `ironclaw serve`
    #[argh(switch)]
    dev: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// `ctl doctor`
pub(super) fn run(client: Result<Client, Failure>, words: &Doctor) -> Result<(), Failure> {
    let mut checks = match client {
        Ok(client) => ask(&client),
        Err(failure) if failure.code == 2 => return Err(failure),
        // This machine can be looked at all the same.
        Err(failure) => {
            vec![refused("control plane", &Refused::Problem(failure.text))]
        }
    };
    let mut out = io::stdout().lock();
    if !words.json {
        show(&mut out, &checks)?;
    }
    let local = match local(words) {
        Ok(local) => local,
        Err(Failure { code: 2, text }) => {
            vec![fail("settings", text, "name them as the control plane's own start does")]
        }
        Err(failure) => {
            vec![fail("this machine", failure.text, "run `ironclaw doctor` by itself to see why")]
        }
    };
    if !words.json {
        show(&mut out, &local)?;
    }
    checks.extend(local);
    let failed = checks.iter().filter(|check| cell(check, "state") == "fail").count();
    if words.json {
        let fields = [("ok", Value::from(failed == 0)), ("checks", Value::from(checks))];
        writeln!(out, "{}", Value::object(fields))?;
    }
    match failed {
        0 => Ok(()),
        count => Err(Failure::of(format!("failed checks: {count}; what to do is under each"))),
    }
}

fn check(name: &str, state: &str, seen: String, next: Option<&str>) -> Value {
    Value::object([
        ("name", Value::from(name)),
        ("state", Value::from(state)),
        ("seen", Value::from(seen)),
        ("next", Value::from(next)),
    ])
}

fn ok(name: &str, seen: impl Into<String>) -> Value {
    check(name, "ok", seen.into(), None)
}

fn warn(name: &str, seen: impl Into<String>, next: &str) -> Value {
    check(name, "warn", seen.into(), Some(next))
}

fn fail(name: &str, seen: impl Into<String>, next: &str) -> Value {
    check(name, "fail", seen.into(), Some(next))
}

/// From a refusal, whose text ends with the next step.
fn refused(name: &str, refused: &Refused) -> Value {
    let (seen, next) =
        refused.text().split_once("; ").unwrap_or((refused.text(), "see `ironclaw help troubleshooting`"));
    fail(name, seen, next)
}

/// What the control plane says. One that does not answer is asked nothing more.
pub(super) fn ask(client: &Client) -> Vec<Value> {
    let before = Millis::now();
    let (date, health) = match client.get_dated("/healthz") {
        Ok((200, date, health)) => (date, health),
        Ok((status, ..)) => {
            let seen = format!("what answers at {} says {status} to /healthz", client.base());
            return vec![fail("control plane", seen, "check --addr: it may be another program")];
        }
        Err(error) => return vec![refused("control plane", &error)],
    };
    let mut checks = vec![ok("control plane", format!("answers at {}", client.base()))];
    let (theirs, ours) = (cell(&health, "version"), env!("CARGO_PKG_VERSION"));
    checks.push(if theirs == ours {
        ok("version", format!("{ours}, like this program"))
    } else {
        let seen = format!("{theirs}, and this program is {ours}");
        warn("version", seen, "use the program that the control plane was started from")
    });
    checks.push(readiness(client));
    checks.extend(date.map(|date| clock(date, before, Millis::now())));
    let me = client.get("/v1/whoami");
    checks.push(match &me {
        Ok(me) => token(me),
        Err(error) => refused("token", error),
    });
    if me.is_ok() {
        checks.push(audit(client));
        checks.extend(channels(client));
    }
    checks
}

/// The accounts on platforms, where there are some and the token may see them.
fn channels(client: &Client) -> Option<Value> {
    const NAME: &str = "channels";
    let document = client.get("/v1/channels").ok()?;
    let accounts = document.get("channels").and_then(Value::as_array).filter(|all| !all.is_empty())?;
    let named = |account: &Value| format!("{} {}", cell(account, "channel"), cell(account, "instance"));
    let wrong = accounts.iter().find(|one| matches!(cell(one, "state").as_str(), "auth_failed" | "degraded"));
    Some(match wrong {
        None => ok(NAME, format!("{} accounts, and none of them is refused or cut off", accounts.len())),
        Some(account) => {
            let (state, reason) = (cell(account, "state"), cell(account, "reason"));
            let seen = format!("{} is {state}: {reason}", named(account).trim_end());
            fail(NAME, seen, "see `ironctl channel list` and `ironclaw help channels`")
        }
    })
}

fn readiness(client: &Client) -> Value {
    const NAME: &str = "readiness";
    let ready = match client.get_any("/readyz") {
        Ok((_, ready)) => ready,
        Err(error) => return refused(NAME, &error),
    };
    let reason = cell(&ready, "reason");
    match cell(&ready, "status").as_str() {
        "ready" => ok(NAME, format!("sandboxes can be launched: {}", cell(&ready, "description"))),
        "starting" => warn(NAME, format!("it starts: {reason}"), "ask again in a moment"),
        _ => {
            let (seen, next) =
                reason.split_once("; ").unwrap_or((&reason, "see `ironclaw help troubleshooting`"));
            fail(NAME, seen, next)
        }
    }
}

/// A date has whole seconds, and is of some moment between the two.
fn clock(date: Millis, before: Millis, after: Millis) -> Value {
    const NAME: &str = "clocks";
    let apart = (before.0 - date.0 - 1000).max(date.0 - after.0).max(0);
    if apart <= CLOCK_APART {
        ok(NAME, "the control plane's and this machine's agree")
    } else {
        let seen = format!("the control plane's and this machine's are {} s apart", apart / 1000);
        warn(NAME, seen, "set the one that is wrong (timedatectl set-ntp true)")
    }
}

fn token(me: &Value) -> Value {
    const NAME: &str = "token";
    let roles = people::roles_in_words(me);
    let seen = format!("{} of {}, with {}", cell(me, "token"), cell(me, "user"), cell(me, "scopes"));
    if roles.is_empty() {
        warn(NAME, format!("{seen}, without a role"), "an admin gives one with `ironctl role grant`")
    } else {
        ok(NAME, format!("{seen}: {}", roles.join(", ")))
    }
}

fn audit(client: &Client) -> Value {
    const NAME: &str = "audit";
    match client.get_slowly("/v1/audit/verify") {
        Ok(report) if report.get("ok").and_then(Value::as_bool) == Some(true) => {
            ok(NAME, format!("{} records, and the files are as the ledger is", cell(&report, "records")))
        }
        Ok(report) => {
            let what = report.get("fault").map(|fault| cell(fault, "what")).unwrap_or_default();
            let what = if what.is_empty() { cell(&report, "disagreement") } else { what };
            fail(NAME, what, "see `ironctl audit verify` and `ironclaw help audit`")
        }
        Err(error @ Refused::Later(_)) => refused(NAME, &error),
        Err(error) => {
            warn(NAME, format!("not checked: {}", error.text()), "use a token that may read all agents")
        }
    }
}

/// What `ironclaw doctor` says here.
fn local(words: &Doctor) -> Result<Vec<Value>, Failure> {
    let cannot = |error: io::Error| Failure::of(format!("`ironclaw doctor` cannot be run: {error}"));
    // Itself, also where its file was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("ironclaw").args(["doctor", "--json"]).stdin(Stdio::null()).stderr(Stdio::piped());
    for (flag, value) in [
        ("--state-dir", &words.state_dir),
        ("--config", &words.config),
        ("--runtime", &words.runtime),
        ("--api-addr", &words.api_addr),
        ("--min-free", &words.min_free),
        ("--master-key-file", &words.master_key_file),
        ("--tls", &words.tls),
        ("--tls-cert", &words.tls_cert),
        ("--tls-key", &words.tls_key),
        ("--api-public-url", &words.api_public_url),
        ("--ingress-addr", &words.ingress_addr),
        ("--policy", &words.policy),
        ("--change-lifetime", &words.change_lifetime),
        ("--token-rate", &words.token_rate),
        ("--model-proxy-socket", &words.model_proxy_socket),
        ("--bundle-root", &words.bundle_root),
        ("--sweep-interval", &words.sweep_interval),
        ("--log-format", &words.log_format),
        ("--log-level", &words.log_level),
        ("--session-expiry", &words.session_expiry),
        ("--linger", &words.linger),
        ("--turn-timeout", &words.turn_timeout),
        ("--launch-timeout", &words.launch_timeout),
        ("--stall-timeout", &words.stall_timeout),
        ("--max-sandboxes", &words.max_sandboxes),
        ("--rings-per-second", &words.rings_per_second),
        ("--group-quota-bytes", &words.group_quota_bytes),
        ("--group-quota-files", &words.group_quota_files),
        ("--audit-file-bytes", &words.audit_file_bytes),
        ("--sandbox-memory", &words.sandbox_memory),
        ("--sandbox-cpu-percent", &words.sandbox_cpu_percent),
        ("--sandbox-pids", &words.sandbox_pids),
        ("--sandbox-uid-base", &words.sandbox_uid_base),
        ("--master-passphrase-file", &words.master_passphrase_file),
        ("--local-model-url", &words.local_model_url),
        ("--local-model", &words.local_model),
        ("--ca-file", &words.ca_file),
        ("--model-gateway-ca-file", &words.model_gateway_ca_file),
        ("--dev-provider", &words.dev_provider),
        ("--dev-model", &words.dev_model),
    ] {
        command.args(value.iter().flat_map(|value| [flag, value]));
    }
    for (flag, values) in [
        ("--model-upstream", &words.model_upstream),
        ("--api-host", &words.api_host),
        ("--mount-root", &words.mount_root),
    ] {
        command.args(values.iter().flat_map(|value| [flag, value]));
    }
    if words.api_behind_proxy {
        command.arg("--api-behind-proxy");
    }
    if words.dev {
        command.arg("--dev");
    }
    if words.model_gateway_insecure {
        command.arg("--model-gateway-insecure");
    }
    // This one is the client's; the control plane has an environment of its own.
    command.env_remove("IRONCLAW_API_TOKEN");
    let output = command.stdout(Stdio::piped()).output().map_err(cannot)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or("it said nothing").trim_start_matches("ironclaw: ");
    if output.status.code() == Some(2) {
        return Err(Failure::usage(said));
    }
    let report = json::parse(&output.stdout).ok();
    let checks = report.as_ref().and_then(|report| report.get("checks")).and_then(Value::as_array);
    checks.map(<[Value]>::to_vec).ok_or_else(|| Failure::of(format!("`ironclaw doctor` failed: {said}")))
}

/// Prints them as `ironclaw doctor` does.
pub(super) fn show(out: &mut dyn Write, checks: &[Value]) -> Result<(), Failure> {
    for check in checks {
        let (state, name, seen) = (cell(check, "state"), cell(check, "name"), cell(check, "seen"));
        writeln!(out, "{:<5} {:<16} {}", plain::line(&state), plain::line(&name), plain::line(&seen))?;
        let next = cell(check, "next");
        if !next.is_empty() {
            writeln!(out, "{:22} next: {}", "", plain::line(&next))?;
        }
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_agree_to_the_second_agree() {
        for (date, before, after, state) in [
            (10_000, 10_900, 11_000, "ok"),
            (10_000, 9_000, 10_000, "ok"),
            (10_000, 41_500, 41_500, "warn"),
            (10_000, 0, 0, "ok"),
            (50_000, 0, 10_000, "warn"),
        ] {
            let told = clock(Millis(date), Millis(before), Millis(after));
            assert_eq!(cell(&told, "state"), state, "{date} {before} {after}");
        }
    }
}
