//! People on Telegram: in private, in groups and topics, over polls and over the ingress, and over a Bot API that
//! refuses, breaks and repeats itself.

use serde_json::{Value, json};

use crate::hand::{approve, ctl, json as printed, submit};
use crate::heard::{admit, ingress};
use crate::world::telegram::{TOKEN, Telegram};
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, eventually, marker};

crate::world::boxes::in_both_back_ends!(an_answer_comes_in_the_topic_in_which_it_was_asked_for);

pub(crate) const ANN: i64 = 42;
const GROUP: i64 = -1001;

pub(crate) fn serve<'a>(home: &'a Home, runtime: Runtime, telegram: &Telegram) -> Serve<'a> {
    Serve::new(home, runtime).env("TELEGRAM_BOT_TOKEN", TOKEN).env("TELEGRAM_API_BASE", telegram.base())
}

#[track_caller]
pub(crate) fn wire(daemon: &Daemon, chat: i64, terms: Value) {
    let mut wiring = json!({"channel": "telegram", "chat": chat.to_string()});
    wiring.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
    let change = submit(daemon, "wiring", "mock-agent", &json!({"add": [wiring]})).ok();
    assert_eq!(approve(daemon, &change).status, 200, "{change}");
}

/// Waits for a message of the bot with this text, and gives it.
#[track_caller]
pub(crate) fn wait(telegram: &Telegram, chat: i64, text: &str) -> Value {
    eventually(&format!("{text} in {chat}"), || {
        telegram.sent(chat).into_iter().find(|sent| sent["plain"].as_str().unwrap().contains(text))
    })
}

pub(crate) fn state(daemon: &Daemon) -> String {
    daemon.get("/v1/channels")["channels"][0]["state"].as_str().unwrap().to_owned()
}

fn an_answer_comes_in_the_topic_in_which_it_was_asked_for(runtime: Runtime) {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    telegram.chat(ANN);
    telegram.tell("chat", &json!({"id": GROUP, "topics": [55, 77]}));
    let daemon = serve(&home, runtime, &telegram).ready();
    eventually("the bot is connected", || (state(&daemon) == "connected").then_some(()));
    wire(&daemon, ANN, json!({}));
    wire(&daemon, GROUP, json!({"engage": "mention", "sessions": "per-thread"}));
    admit(&daemon, "mock-agent", &format!("telegram:{ANN}"));
    // In private everything is meant for the agent.
    let text = marker();
    let said = telegram.tell("text", &json!({"chat": ANN, "from": ANN, "text": text}));
    let answer = wait(&telegram, ANN, &text);
    assert_eq!(answer["reply_parameters"]["message_id"], said["message_id"], "{answer}");
    // In a group what names it, and the answer is in that topic.
    telegram.tell("text", &json!({"chat": GROUP, "from": ANN, "thread": 55, "text": "among ourselves"}));
    let text = marker();
    telegram.tell("text", &json!({"chat": GROUP, "from": ANN, "thread": 55, "text": text, "mention": true}));
    let answer = wait(&telegram, GROUP, &text);
    assert_eq!(answer["message_thread_id"], 55, "{answer}");
    let other = marker();
    telegram.tell("text", &json!({"chat": GROUP, "from": ANN, "thread": 77, "text": other, "mention": true}));
    assert_eq!(wait(&telegram, GROUP, &other)["message_thread_id"], 77);
    // Strangers are not heard, whatever they call.
    telegram
        .tell("text", &json!({"chat": GROUP, "from": 99, "thread": 55, "text": "stranger", "mention": true}));
    let last = marker();
    telegram.tell("text", &json!({"chat": GROUP, "from": ANN, "text": last, "mention": true}));
    assert!(wait(&telegram, GROUP, &last)["message_thread_id"].is_null(), "the chat itself");
    let all = telegram.sent(GROUP);
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all.iter().all(|sent| !sent["plain"].as_str().unwrap().contains("among ourselves")), "{all:?}");
    // A destination in another topic of the same chat is that topic.
    let there = json!({"destinations": [
        {"name": "there", "channel": "telegram", "chat": GROUP.to_string(), "thread": "77"}]});
    let change = submit(&daemon, "wiring", "mock-agent", &there).ok();
    assert_eq!(approve(&daemon, &change).status, 200, "{change}");
    let letter = marker();
    let words = format!("tool:send_message {}", json!({"text": letter, "to": "there"}));
    telegram.tell("text", &json!({"chat": GROUP, "from": ANN, "thread": 55, "text": words, "mention": true}));
    assert_eq!(wait(&telegram, GROUP, &letter)["message_thread_id"], 77);
    let sessions = daemon.get("/v1/sessions")["sessions"].as_array().unwrap().len();
    assert_eq!(sessions, 4, "one in private, one for each topic, one for the group");
    assert!(!daemon.log.contains(TOKEN), "the token is in the log");
    assert!(daemon.stop().success());
}

/// While an agent is at work that is shown, in that chat and topic and in no other.
#[test]
fn that_an_agent_is_at_work_is_shown_where_it_was_asked() {
    let (home, telegram) = (Home::new(Build::Faults, User::Root), Telegram::start());
    let gates = home.root.join("user");
    telegram.chat(ANN);
    telegram.tell("chat", &json!({"id": GROUP, "topics": [55, 77]}));
    let daemon =
        serve(&home, Runtime::Native, &telegram).fault(format!("mock-gate={}", gates.display())).ready();
    wire(&daemon, ANN, json!({}));
    wire(&daemon, GROUP, json!({"sessions": "per-thread"}));
    admit(&daemon, "mock-agent", &format!("telegram:{ANN}"));
    let shown = || -> Vec<(i64, Option<i64>)> {
        let actions = telegram.state()["actions"].as_array().unwrap().clone();
        let typing = actions.iter().filter(|action| action["action"] == "typing");
        typing.map(|one| (one["chat_id"].as_i64().unwrap(), one["message_thread_id"].as_i64())).collect()
    };
    let mut before = Vec::new();
    for (number, (chat, thread)) in [(ANN, None), (GROUP, Some(55)), (GROUP, None)].into_iter().enumerate() {
        // A turn takes as long as it is held.
        let text = format!("hold:gate{number} {}", marker());
        telegram.tell("text", &json!({"chat": chat, "from": ANN, "thread": thread, "text": text}));
        eventually(&format!("typing in {chat} {thread:?}"), || {
            shown().contains(&(chat, thread)).then_some(())
        });
        before.push((chat, thread));
        assert!(shown().iter().all(|place| before.contains(place)), "{:?}", shown());
        std::fs::write(gates.join(format!("gate{number}")), "").unwrap();
        wait(&telegram, chat, text.split(' ').next_back().unwrap());
    }
    assert!(daemon.stop().success());
}

#[test]
fn a_bot_api_that_refuses_breaks_and_repeats_itself_loses_nothing() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    telegram.chat(ANN);
    let daemon = serve(&home, Runtime::Native, &telegram).ready();
    wire(&daemon, ANN, json!({"senders": "anyone"}));
    let say = |text: &str| telegram.tell("text", &json!({"chat": ANN, "from": ANN, "text": text}));
    let fault = |how: Value| drop(telegram.tell("fault", &how));
    // On the way in: the same twice, in another order, and answers that are none.
    fault(json!({"kind": "duplicate", "method": "getUpdates", "times": 3}));
    fault(json!({"kind": "reorder", "method": "getUpdates", "times": 3}));
    say("in one");
    say("in two");
    wait(&telegram, ANN, "in one");
    wait(&telegram, ANN, "in two");
    fault(json!({"kind": "garbage", "method": "getUpdates"}));
    fault(json!({"kind": "disconnect", "method": "getUpdates"}));
    say("in three");
    wait(&telegram, ANN, "in three");
    // An update with more in it than anything that is read keeps nobody from being heard.
    let parts = vec![0; 200_001];
    let chat = json!({"id": ANN, "type": "private"});
    telegram.tell(
        "update",
        &json!({"message": {"message_id": 9001, "date": 0, "chat": chat, "text": "x", "x": parts}}),
    );
    say("in four");
    wait(&telegram, ANN, "in four");
    // On the way out: what Telegram says is heeded.
    fault(json!({"kind": "status", "code": 429, "retry_after": 1, "method": "sendMessage"}));
    fault(json!({"kind": "status", "code": 502, "method": "sendMessage"}));
    fault(json!({"kind": "disconnect", "method": "sendMessage"}));
    say("out one");
    say("out two");
    wait(&telegram, ANN, "out one");
    wait(&telegram, ANN, "out two");
    // Markup that is none, and a text that is too long for one message.
    say("a <b> & *bold* `code");
    wait(&telegram, ANN, "a <b> & bold");
    let long = "word ".repeat(1800);
    say(&format!("{long}\u{1f600}end"));
    wait(&telegram, ANN, "\u{1f600}end");
    let all = telegram.sent(ANN);
    for text in ["in one", "in two", "in three", "out one", "out two"] {
        let times = all.iter().filter(|sent| sent["plain"].as_str().unwrap().contains(text)).count();
        assert_eq!(times, 1, "{text}: {all:?}");
    }
    let words: usize = all.iter().map(|sent| sent["plain"].as_str().unwrap().matches("word").count()).sum();
    assert_eq!(words, 1800);
    // A chat that is closed to it keeps a dead letter and nothing behind it.
    telegram.tell("chat", &json!({"id": 7, "blocked": true}));
    wire(&daemon, 7, json!({"senders": "anyone"}));
    telegram.tell("text", &json!({"chat": 7, "from": 7, "text": "to nobody"}));
    let dead = eventually("a dead letter", || {
        let dead = daemon.get("/v1/deliveries?state=dead")["deliveries"].as_array().unwrap().clone();
        dead.first().cloned()
    });
    assert!(dead["error"].as_str().unwrap().contains("403"), "{dead}");
    // A group that became another one goes on under its new name.
    telegram.tell("chat", &json!({"id": -7, "type": "group"}));
    wire(&daemon, -7, json!({"senders": "anyone"}));
    telegram.tell("chat", &json!({"id": -7, "type": "group", "moved_to": -1007}));
    telegram.chat(-1007);
    telegram.tell("text", &json!({"chat": -7, "from": ANN, "text": "moving", "mention": true}));
    wait(&telegram, -1007, "moving");
    assert!(daemon.stop().success());
}

#[test]
fn a_token_that_is_refused_is_said_and_what_waits_is_kept() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    telegram.chat(ANN);
    let daemon = serve(&home, Runtime::Native, &telegram).ready();
    wire(&daemon, ANN, json!({"senders": "anyone"}));
    eventually("the bot is connected", || (state(&daemon) == "connected").then_some(()));
    telegram.tell("fault", &json!({"kind": "revoked"}));
    telegram.tell("text", &json!({"chat": ANN, "from": ANN, "text": "while it was revoked"}));
    eventually("the token is refused", || (state(&daemon) == "auth_failed").then_some(()));
    let listed = printed(ctl(&home, &daemon, &["channel", "list", "--json"]));
    assert!(listed[0]["reason"].as_str().unwrap().contains("token"), "{listed}");
    assert!(!listed.to_string().contains("fake-token"));
    assert!(daemon.stop().success());
    telegram.tell("heal", &json!({}));
    let daemon = serve(&home, Runtime::Native, &telegram).ready();
    wait(&telegram, ANN, "while it was revoked");
    assert!(daemon.stop().success());
}

#[test]
fn telegram_tells_the_ingress_when_it_is_asked_to() {
    let (home, telegram, ingress) = (Home::new(Build::Release, User::Root), Telegram::start(), ingress());
    telegram.chat(ANN);
    telegram.tell("hook_target", &json!({"address": ingress.to_string()}));
    let secret = marker();
    let daemon = serve(&home, Runtime::Native, &telegram)
        .env("TELEGRAM_WEBHOOK_URL", "https://bot.example/hooks/telegram")
        .env("TELEGRAM_WEBHOOK_SECRET", secret.clone())
        .flag("--ingress-addr", ingress.to_string())
        .ready();
    wire(&daemon, ANN, json!({"senders": "anyone"}));
    eventually("the webhook is set", || (state(&daemon) == "connected").then_some(()));
    assert_eq!(telegram.state()["webhook"], "https://bot.example/hooks/telegram");
    let text = marker();
    telegram.tell("text", &json!({"chat": ANN, "from": ANN, "text": text}));
    wait(&telegram, ANN, &text);
    // Nobody else is Telegram.
    let update = json!({"update_id": 1, "message": {"message_id": 1, "date": 1, "text": "forged",
        "chat": {"id": ANN, "type": "private"}, "from": {"id": ANN, "is_bot": false, "first_name": "A"}}});
    for said in [None, Some("wrong"), Some("")] {
        let mut request = crate::world::http::Request::post("/hooks/telegram", &update);
        request.headers.extend(said.map(|said| ("X-Telegram-Bot-Api-Secret-Token", said.to_owned())));
        assert_eq!(request.send(ingress).unwrap().status, 401);
    }
    assert_eq!(telegram.sent(ANN).len(), 1);
    assert!(daemon.stop().success());
}

/// A group becomes another one while the agent is at work on what was said there: the answer is brought to the new one.
#[test]
fn a_group_that_moves_while_it_is_answered_gets_the_answer() {
    let (home, telegram) = (Home::new(Build::Faults, User::Root), Telegram::start());
    let gates = home.root.join("gates");
    std::fs::create_dir(&gates).unwrap();
    telegram.tell("chat", &json!({"id": -7, "type": "group"}));
    let daemon =
        serve(&home, Runtime::Native, &telegram).fault(format!("mock-gate={}", gates.display())).ready();
    wire(&daemon, -7, json!({"senders": "anyone"}));
    let words = marker();
    telegram.tell("text", &json!({"chat": -7, "from": ANN, "text": format!("hold:gate {words}")}));
    eventually("the model is asked", || (daemon.metric("ironclaw_model_requests_total") > 0.0).then_some(()));
    telegram.tell("chat", &json!({"id": -7, "type": "group", "moved_to": -1007}));
    telegram.chat(-1007);
    let moves = |from: i64, to: i64| {
        json!({"message": {"message_id": 9000, "date": 1, "migrate_to_chat_id": to,
            "chat": {"id": from, "type": "group"}, "from": {"id": ANN, "is_bot": false, "first_name": "A"}}})
    };
    telegram.tell("update", &moves(-7, -1007));
    eventually("the wiring leads to the new one", || {
        let wirings = daemon.get("/v1/wirings")["wirings"].to_string();
        wirings.contains("-1007").then_some(())
    });
    std::fs::write(gates.join("gate"), "").unwrap();
    wait(&telegram, -1007, &words);
    assert!(telegram.sent(-7).is_empty(), "{:?}", telegram.sent(-7));
    // What waited for the old one is brought to the new one at once.
    telegram.tell("chat", &json!({"id": -8, "type": "group"}));
    wire(&daemon, -8, json!({"senders": "anyone"}));
    let later =
        json!({"kind": "status", "code": 429, "retry_after": 3000, "chat": -8, "method": "sendMessage"});
    telegram.tell("fault", &later);
    telegram.tell("text", &json!({"chat": -8, "from": ANN, "text": "too early"}));
    eventually("it waits", || {
        let waiting = daemon.get("/v1/deliveries?state=waiting")["deliveries"].clone();
        (waiting[0]["attempts"] == 1).then_some(())
    });
    telegram.chat(-1008);
    telegram.tell("update", &moves(-8, -1008));
    wait(&telegram, -1008, "too early");
    // What is said in the new one goes on in the same conversation.
    let next = marker();
    telegram.tell("text", &json!({"chat": -1007, "from": ANN, "text": next}));
    wait(&telegram, -1007, &next);
    assert_eq!(daemon.get("/v1/sessions")["sessions"].as_array().unwrap().len(), 2);
    assert!(daemon.stop().success());
}

/// A short answer means nothing without what it answers.
#[test]
fn an_answer_comes_with_what_it_answers() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    telegram.chat(ANN);
    let daemon = serve(&home, Runtime::Native, &telegram).ready();
    wire(&daemon, ANN, json!({"senders": "anyone"}));
    let question = marker();
    telegram.tell("text", &json!({"chat": ANN, "from": ANN, "text": question}));
    let said = wait(&telegram, ANN, &question);
    let told = json!({"chat": ANN, "from": ANN, "text": "that one", "reply_to": said["message_id"]});
    telegram.tell("text", &told);
    let answer = wait(&telegram, ANN, "that one");
    assert!(answer["plain"].as_str().unwrap().contains(&question), "{answer}");
    assert!(daemon.stop().success());
}

/// That Telegram cannot reach the ingress is told by Telegram only, and said here.
#[test]
fn what_telegram_cannot_tell_the_ingress_is_said() {
    let (home, telegram, ingress) = (Home::new(Build::Release, User::Root), Telegram::start(), ingress());
    telegram.tell("hook_target", &json!({"address": ingress.to_string()}));
    telegram.tell("hook_error", &json!({"words": "Connection refused"}));
    let secret = marker();
    let told = || {
        serve(&home, Runtime::Native, &telegram)
            .env("TELEGRAM_WEBHOOK_URL", "https://bot.example/hooks/telegram")
            .env("TELEGRAM_WEBHOOK_SECRET", secret.clone())
    };
    let daemon = told().flag("--ingress-addr", ingress.to_string()).ready();
    eventually("it is known to fail", || (state(&daemon) == "degraded").then_some(()));
    let reason = daemon.get("/v1/channels")["channels"][0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("Connection refused"), "{reason}");
    assert!(daemon.stop().success());
    telegram.tell("hook_error", &json!({}));
    let daemon = told().flag("--ingress-addr", ingress.to_string()).ready();
    eventually("the webhook is set", || (state(&daemon) == "connected").then_some(()));
    assert!(daemon.stop().success());
    // Nothing would be heard at all.
    let mut daemon = told().start();
    assert_eq!(daemon.ended().code(), Some(1));
    daemon.log.wait_for("what to do", |line| line.contains("webhook_url") && line.contains("--ingress-addr"));
}

/// An account that asked for too much says so while it waits.
#[test]
fn an_account_that_is_told_to_wait_says_so() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    telegram.chat(ANN);
    let daemon = serve(&home, Runtime::Native, &telegram).ready();
    eventually("the bot is connected", || (state(&daemon) == "connected").then_some(()));
    telegram
        .tell("fault", &json!({"kind": "status", "code": 429, "retry_after": 3000, "method": "getUpdates"}));
    telegram.tell("text", &json!({"chat": ANN, "from": ANN, "text": "an update ends the poll"}));
    eventually("it waits", || (state(&daemon) == "degraded").then_some(()));
    let reason = daemon.get("/v1/channels")["channels"][0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("3000 seconds"), "{reason}");
    assert!(daemon.stop().success());
}
