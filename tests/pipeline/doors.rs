//! What the accounts are told: from the environment and from `channels.toml`, and what is wrong in either.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::hand::{ctl, json as printed, run, said, submit};
use crate::heard::{admit, ingress, wire};
use crate::hook::Hook;
use crate::world::{Build, Home, Runtime, Serve, User, eventually, marker};

pub(crate) fn write(home: &Home, text: &str, mode: u32) {
    std::fs::create_dir_all(home.state()).unwrap();
    let path = home.state().join("channels.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn several_accounts_of_one_platform_are_told_apart() {
    let (home, one, two, ingress) =
        (Home::new(Build::Release, User::Root), Hook::start(), Hook::start(), ingress());
    let secret = home.root.join("two-secret");
    std::fs::write(&secret, format!("{}\n", two.secret)).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "[[channel]]\ntype = \"webhook\"\ninstance = \"one\"\nurl = \"{}\"\nsecret = \"${{ONE_SECRET}}\"\n\n\
         [[channel]]\ntype = \"webhook\"\ninstance = \"two\"\nurl = \"{}\"\nsecret = \"file:{}\"\n\n\
         [[channel]]\ntype = \"webhook\"\ninstance = \"off\"\nsecret = \"{}\"\ndisabled = true\n",
        one.url(),
        two.url(),
        secret.display(),
        marker() + &marker(),
    );
    write(&home, &text, 0o600);
    let daemon = Serve::new(&home, Runtime::Native)
        .env("ONE_SECRET", one.secret.clone())
        .flag("--ingress-addr", ingress.to_string())
        .ready();
    let own = |words: &[&str]| ctl(&home, &daemon, words);
    let listed = printed(own(&["channel", "list", "--json"]));
    let states: Vec<_> =
        listed.as_array().unwrap().iter().map(|one| (&one["instance"], &one["state"])).collect();
    assert_eq!(
        states,
        [
            (&json!("off"), &json!("disabled")),
            (&json!("one"), &json!("connected")),
            (&json!("two"), &json!("connected"))
        ]
    );
    assert!(said(own(&["channel", "platforms"])).contains("IRONCLAW_WEBHOOK_SECRET"));
    for instance in ["one", "two"] {
        wire(&daemon, "mock-agent", "ops", json!({"instance": instance, "senders": "anyone"}));
        wire(&daemon, "mock-agent", "members", json!({"instance": instance}));
    }
    // Who is known to one account is nobody to another, whose holder could call anybody so.
    admit(&daemon, "mock-agent", "webhook-one:ann");
    let claimed = json!({"text": "it is me", "chat": "members", "sender": "ann"});
    let verdict = |hook: &Hook, path: &str| {
        hook.try_say(ingress, path, &marker(), &claimed).unwrap().json()["outcomes"][0]["verdict"].clone()
    };
    assert_eq!(verdict(&two, "/hooks/webhook/two"), "drop");
    assert_eq!(verdict(&one, "/hooks/webhook/one"), "engage");
    one.wait("members", "it is me");
    let text = marker();
    let body = json!({"text": text, "chat": "ops"});
    assert_eq!(one.try_say(ingress, "/hooks/webhook/two", "x", &body).unwrap().status, 401);
    assert_eq!(one.try_say(ingress, "/hooks/webhook/off", "x", &body).unwrap().status, 503);
    assert_eq!(one.try_say(ingress, "/hooks/webhook", "x", &body).unwrap().status, 404);
    assert_eq!(two.try_say(ingress, "/hooks/webhook/two", "x", &body).unwrap().status, 202);
    two.wait("ops", &text);
    assert!(one.taken("ops").is_empty());
    // The same name on another account is another event.
    assert_eq!(one.try_say(ingress, "/hooks/webhook/one", "x", &body).unwrap().json()["duplicate"], false);
    one.wait("ops", &text);
    for secret in [&one.secret, &two.secret] {
        assert!(!daemon.log.contains(secret));
        assert!(!daemon.get("/v1/channels").to_string().contains(secret));
    }
    let refused = submit(
        &daemon,
        "wiring",
        "mock-agent",
        &json!({"destinations": [{"name": "x", "channel": "webhook", "chat": "a b"}]}),
    );
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(daemon.stop().success());
}

#[test]
fn what_is_wrong_in_the_settings_keeps_it_from_starting() {
    let home = Home::new(Build::Release, User::Root);
    let long = marker() + &marker();
    let good = format!("[[channel]]\ntype = \"webhook\"\nsecret = \"{long}\"\n");
    for (text, mode, about) in [
        (good.as_str(), 0o644, "channels.toml"),
        ("[[channel]\n", 0o600, "line 1"),
        ("[[channel]]\ntype = \"pigeon\"\n", 0o600, "pigeon"),
        ("[[channel]]\ntype = \"webhook\"\n", 0o600, "secret is missing"),
        (&format!("{good}url = \"http://chat.example\"\n"), 0o600, "https://"),
        (&format!("{good}colour = \"red\"\n"), 0o600, "colour is unknown"),
        (&format!("{good}{good}"), 0o600, "two accounts"),
        ("[[channel]]\ntype = \"webhook\"\nsecret = \"short\"\n", 0o600, "24 to 128"),
    ] {
        write(&home, text, mode);
        let mut daemon = Serve::new(&home, Runtime::Native).start();
        let ended = daemon.ended();
        assert_eq!(ended.code(), Some(1), "{ended}: {text}");
        let line = daemon.log.wait_for(about, |line| line.contains(about));
        assert!(line.contains("help channels") || mode == 0o644, "{line}");
        assert!(!daemon.log.contains(&long), "{line}");
    }
    std::fs::remove_file(home.state().join("channels.toml")).unwrap();
    for (flag, about) in [("0.0.0.0:8790", "127.0.0.0/8"), ("here", "IP:PORT")] {
        let output = run(home.command(["serve", "--ingress-addr", flag]));
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(about), "{output:?}");
    }
}

/// Whoever is still at work in the ledger when a start fails does not turn its end into a crash.
#[test]
fn a_start_that_fails_ends_in_order_whatever_still_works() {
    let home = Home::new(Build::Faults, User::Root);
    let url = format!(
        "[[channel]]\ntype = \"webhook\"\nsecret = \"{}\"\nurl = \"http://chat.example\"\n",
        marker() + &marker()
    );
    write(&home, &url, 0o600);
    for _ in 0..10 {
        let mut daemon = Serve::new(&home, Runtime::Native).fault("busy-ledger=1").start();
        let ended = daemon.ended();
        assert_eq!(ended.code(), Some(1), "{ended}");
    }
}

/// An account that is told of what happens by requests says that none can come; what is sent is sent all the same.
#[test]
fn an_account_that_nobody_can_reach_says_so_and_sends() {
    let (home, hook) = (Home::new(Build::Release, User::Root), Hook::start());
    let daemon = Serve::new(&home, Runtime::Native)
        .env("IRONCLAW_WEBHOOK_URL", hook.url())
        .env("IRONCLAW_WEBHOOK_SECRET", hook.secret.clone())
        .ready();
    let listed = || printed(ctl(&home, &daemon, &["channel", "list", "--json"]));
    let is_deaf = |listed: &serde_json::Value| {
        listed[0]["state"] == "degraded" && listed[0]["reason"].as_str().unwrap().contains("--ingress-addr")
    };
    eventually("it is known", || is_deaf(&listed()).then_some(()));
    let there = json!({"destinations": [{"name": "ops", "channel": "webhook", "chat": "ops"}]});
    let change = submit(&daemon, "wiring", "mock-agent", &there).ok();
    assert_eq!(crate::hand::approve(&daemon, &change).status, 200);
    let text = marker();
    let words = format!("tool:send_message {}", json!({"text": text, "to": "ops"}));
    daemon.chat("mock-agent", "main").ask(&words);
    hook.wait("ops", &text);
    assert!(is_deaf(&listed()), "{}", listed());
    assert!(daemon.stop().success());
}

/// A receiver that was made for another scheme finds the signature that it knows, where the account says so.
#[test]
fn posts_are_signed_for_a_receiver_of_another_scheme_too() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = crate::heard::serve(&home, Runtime::Native, &hook, ingress).ready();
    wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
    hook.say(ingress, &json!({"text": "one", "chat": "ops"}));
    hook.wait("ops", "one");
    assert_eq!(hook.body_signatures(), [None], "nobody asked for it");
    assert!(daemon.stop().success());
    let daemon = crate::heard::serve(&home, Runtime::Native, &hook, ingress)
        .env("IRONCLAW_WEBHOOK_SIGNATURE", "github")
        .ready();
    hook.say(ingress, &json!({"text": "two", "chat": "ops"}));
    hook.wait("ops", "two");
    assert!(hook.body_signatures()[1].as_ref().unwrap().starts_with("sha256="));
    assert_eq!(hook.unsigned(), 0);
    assert!(daemon.stop().success());
}
