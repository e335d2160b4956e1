//! The API on the tailnet, in a network of the test's own: a tunnel with an address of the tailnet, and nothing beyond.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::hand::run;
use crate::world::daemon::Log;
use crate::world::home::finish;
use crate::world::{Build, Home, User, marker};

/// What the executable does in a network and mount namespace of its own, where these commands ran before; the
/// directory of devices is that of the namespace.
fn inside(home: &Home, before: &str, words: &[&str]) -> Command {
    let script = format!("set -e; mount -t sysfs sysfs /sys; ip link set lo up; {before}; exec \"$@\"");
    let asked = home.command(words);
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
    command.arg(asked.get_program()).args(asked.get_args()).env_clear();
    command.envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(&home.root).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const TUNNEL: &str = "ip tuntap add dev tailscale0 mode tun; ip addr add 100.64.1.2/32 dev tailscale0; \
                      ip link set tailscale0 up";

fn serve(home: &Home, before: &str, address: &str) -> Command {
    let (state, socket) = (home.state(), home.model_socket());
    let words = [
        "serve",
        "--dev",
        "--runtime",
        "native",
        "--api-addr",
        address,
        "--state-dir",
        state.to_str().unwrap(),
        "--model-proxy-socket",
        socket.to_str().unwrap(),
    ];
    inside(home, before, &words)
}

#[test]
fn the_api_listens_on_the_tunnel_and_nowhere_else() {
    let home = Home::new(Build::Release, User::Root);
    let mut child = serve(&home, TUNNEL, "tailscale:8787").spawn().unwrap();
    let log = Arc::new(Log::default());
    Log::follow(&log, child.stdout.take().unwrap());
    Log::follow(&log, child.stderr.take().unwrap());
    let line = log.wait_for("where it listens", |line| line.contains("api.listening"));
    assert!(line.contains("100.64.1.2:8787"), "{line}");
    log.wait_for("it is ready", |line| line.contains("runtime.ready"));
    let net = format!("--net=/proc/{}/ns/net", child.id());
    let ctl = |address: &str, words: &[&str]| {
        let mut command = Command::new("nsenter");
        command.arg(&net).arg(&home.exe).args(["ctl", "--addr", address, "--token-file"]);
        command.arg(home.state().join("api-token")).args(words).env_clear().env("HOME", &home.root);
        run({
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        })
    };
    // Over the tunnel without TLS, which it has no need of.
    let text = marker();
    let said = ctl("http://100.64.1.2:8787", &["chat", "mock-agent", &text]);
    assert!(said.status.success() && String::from_utf8_lossy(&said.stdout).contains(&text), "{said:?}");
    let elsewhere = ctl("http://127.0.0.1:8787", &["agent", "list"]);
    assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere:?}");
    let id = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(finish(child).status.success(), "{}", log.text());
}

/// An address of that range which no tunnel has protects nothing: others have such addresses too.
#[test]
fn without_a_tunnel_it_says_so_and_does_not_start() {
    let home = Home::new(Build::Release, User::Root);
    for (before, address) in [
        ("true", "tailscale"),
        ("ip addr add 100.64.1.2/32 dev lo", "tailscale"),
        ("ip addr add 100.64.1.2/32 dev lo", "100.64.1.2:8787"),
        // A tunnel of something else.
        (
            "ip tuntap add dev tun0 mode tun; ip addr add 10.8.0.2/32 dev tun0; ip link set tun0 up",
            "tailscale",
        ),
    ] {
        let output = finish(serve(&home, before, address).spawn().unwrap());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{before}: {said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains("tunnel") && last.contains("tailscale up"), "{before}: {said}");
        assert!(!fs::exists(home.state().join("api-token")).unwrap(), "{before}: something was begun");
    }
}
