//! The secrets of accounts on platforms: they open what is not this machine's, so they are where the operator put them
//! and nowhere else, also when a platform refuses, breaks, or sends them back.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::hand::{approve, ctl, run, submit};
use crate::heard::ingress;
use crate::hook::{Hook, Manner};
use crate::world::canaries::{Canaries, clean, look_at_answers, look_at_files, look_at_processes};
use crate::world::telegram::Telegram;
use crate::world::{Build, Home, Runtime, Serve, User, eventually, marker};

/// What the environment gives the control plane.
const GIVEN: [&str; 3] = ["the bot's token", "its secret half", "Telegram's secret"];

#[test]
fn inv_101_no_secret_of_an_account_is_where_it_does_not_belong() {
    let (home, ingress) = (Home::new(Build::Release, User::Root), ingress());
    let (half, told) = (format!("{}{}", marker(), marker()), marker() + &marker());
    let token = format!("1000:{half}");
    let (telegram, hook) = (Telegram::with(&token), Hook::start());
    let canaries: Canaries = [
        (GIVEN[0], token.as_str()),
        (GIVEN[1], half.as_str()),
        (GIVEN[2], told.as_str()),
        ("the webhook's secret", hook.secret.as_str()),
    ]
    .map(|(what, text)| (what, text.as_bytes().to_vec()))
    .into();
    let settings = home.state().join("channels.toml");
    fs::create_dir(home.state()).unwrap();
    fs::set_permissions(home.state(), fs::Permissions::from_mode(0o700)).unwrap();
    let text = format!(
        "[[channel]]\ntype = \"webhook\"\ninstance = \"one\"\nurl = \"{}\"\nsecret = \"{}\"\n",
        hook.url(),
        hook.secret
    );
    fs::write(&settings, text).unwrap();
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o600)).unwrap();
    let daemon = Serve::new(&home, Runtime::Native)
        .flag("--log-level", "debug")
        .flag("--ingress-addr", ingress.to_string())
        .env("TELEGRAM_BOT_TOKEN", &token)
        .env("TELEGRAM_API_BASE", telegram.base())
        .env("TELEGRAM_WEBHOOK_URL", "https://bot.example/hooks/telegram")
        .env("TELEGRAM_WEBHOOK_SECRET", &told)
        .ready();
    let wire = |channel: &str, instance: &str, chat: &str| {
        let wiring = json!({"channel": channel, "instance": instance, "chat": chat, "senders": "anyone"});
        let change = submit(&daemon, "wiring", "mock-agent", &json!({"add": [wiring]})).ok();
        assert_eq!(approve(&daemon, &change).status, 200, "{change}");
    };
    telegram.chat(42);
    telegram.tell("hook_target", &json!({"address": ingress.to_string()}));
    wire("telegram", "", "42");
    wire("webhook", "one", "ops");
    // All goes well; then the platforms refuse, in words that hold what they were sent.
    let body = json!({"text": "hello", "chat": "ops"});
    let say = |text: &str| {
        let body = json!({"text": text, "chat": "ops"});
        let answer = hook.try_say(ingress, "/hooks/webhook/one", &marker(), &body).unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text());
    };
    say("hello");
    hook.wait("ops", "hello");
    assert!(look_at_processes(&home, &canaries, &GIVEN) > 1, "no sandbox runs");
    for code in [400, 403, 502] {
        telegram.tell(
            "fault",
            &json!({"kind": "status", "code": code, "method": "sendMessage", "times": 1,
                    "words": format!("no such bot: /bot{token}/sendMessage, {half}, {told}")}),
        );
        telegram.tell("text", &json!({"chat": 42, "from": 42, "text": format!("on code {code}")}));
    }
    for kind in ["garbage", "disconnect"] {
        telegram.tell("fault", &json!({"kind": kind, "method": "sendMessage"}));
        telegram.tell("text", &json!({"chat": 42, "from": 42, "text": format!("on {kind}")}));
    }
    hook.next("ops", &[Manner::Status(500), Manner::Status(410), Manner::Drop]);
    say("to nobody");
    say("to somebody");
    hook.wait("ops", "to somebody");
    // Whoever guesses, or sends what is theirs to the wrong place.
    let mut wrong = crate::world::http::Request::post("/hooks/webhook/one", &body);
    wrong.headers.extend([
        ("webhook-id", "x".to_owned()),
        ("webhook-timestamp", "1".to_owned()),
        ("webhook-signature", hook.secret.clone()),
    ]);
    let answer = wrong.send(ingress).unwrap();
    clean(&canaries, "what a wrong signature is told", &answer.body);
    let mut wrong = crate::world::http::Request::post("/hooks/telegram", &body);
    wrong.headers.push(("X-Telegram-Bot-Api-Secret-Token", format!("{told}x")));
    clean(&canaries, "what a wrong secret is told", &wrong.send(ingress).unwrap().body);
    eventually("something was given up", || {
        let dead = daemon.get("/v1/deliveries?state=dead");
        (!dead["deliveries"].as_array().unwrap().is_empty()).then_some(())
    });
    telegram.tell("fault", &json!({"kind": "revoked"}));
    telegram.tell("text", &json!({"chat": 42, "from": 42, "text": "while it was revoked"}));
    eventually("the token is refused", || {
        let all = daemon.get("/v1/channels")["channels"].to_string();
        all.contains("auth_failed").then_some(())
    });
    // Over everything that people and programs read.
    assert!(look_at_answers(&daemon, &daemon.token(), &canaries) > 60);
    for words in [
        &["channel", "list"][..],
        &["channel", "list", "--json"],
        &["channel", "platforms"],
        &["delivery", "list"],
        &["delivery", "list", "--waiting", "--json"],
        &["wiring", "list"],
        &["change", "history", "--json"],
        &["audit", "--limit", "1000", "--json"],
        &["session", "list"],
        &["status"],
        &["doctor"],
        &["metrics"],
    ] {
        let output = run(ctl(&home, &daemon, words));
        clean(&canaries, &format!("ctl {words:?}"), &output.stdout);
        clean(&canaries, &format!("the errors of ctl {words:?}"), &output.stderr);
    }
    look_at_processes(&home, &canaries, &GIVEN);
    let log = daemon.log.clone();
    assert!(daemon.stop().success());
    assert!(log.contains("\"debug\""), "{}", log.text());
    clean(&canaries, "the log", log.text().as_bytes());
    assert!(look_at_files(&home, &canaries, &["lib/state/channels.toml"]) > 4);
}
