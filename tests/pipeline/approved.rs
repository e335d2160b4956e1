//! Approvals in chats: who may decide is shown what waits, exactly as it is, and decides by a press; nobody else does, no
//! press decides twice, and nothing on a card is what it is not, whoever dies when.

use serde_json::{Value, json};

use crate::hand::{approve, ctl, json as printed, refused, said, submit};
use crate::heard::{admit, ingress};
use crate::hook::Hook;
use crate::telegram::{self, ANN};
use crate::world::http::Request;
use crate::world::telegram::Telegram;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, eventually, leftovers, marker};

crate::world::boxes::in_both_back_ends!(what_an_agent_asks_for_is_decided_by_a_press_and_it_is_told);

const BEA: i64 = 43;
const STRANGER: i64 = 99;
const NOTHING: &str = "This button does nothing any more.";

/// The words of an agent that asks for another persona.
fn wish(soul: &str, reason: &str) -> String {
    let input = json!({"kind": "persona", "payload": {"soul": soul}, "reason": reason});
    format!("tool:request_capability_change {input}")
}

/// Somebody who may decide for `mock-agent` and is shown what waits.
fn approver(home: &Home, daemon: &Daemon, user: &str, more: &[&str]) {
    daemon.send(Request::post("/v1/users", &json!({"id": user}))).ok();
    let grant = json!({"grant": [{"user": user, "role": "approver"}]});
    let change = submit(daemon, "permissions", "mock-agent", &grant).ok();
    assert_eq!(approve(daemon, &change).status, 200, "{change}");
    let mut words = vec!["user", "notify", user];
    words.extend(more);
    said(ctl(home, daemon, &words));
}

fn on_telegram<'a>(home: &'a Home, runtime: Runtime, telegram: &Telegram) -> Serve<'a> {
    for person in [ANN, BEA] {
        telegram.chat(person);
    }
    telegram::serve(home, runtime, telegram)
}

fn soul(daemon: &Daemon, text: &str) -> Value {
    submit(daemon, "persona", "mock-agent", &json!({"soul": text})).ok()
}

fn id_of(change: &Value) -> String {
    change["id"].as_str().unwrap().to_owned()
}

fn change(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/v1/changes/{id}"))
}

fn plain(sent: &Value) -> &str {
    sent["plain"].as_str().unwrap()
}

/// The labels and the data of the buttons of a message.
fn buttons(sent: &Value) -> Vec<(String, String)> {
    let rows = sent["reply_markup"]["inline_keyboard"].as_array().cloned().unwrap_or_default();
    let text = |button: &Value, name: &str| button[name].as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(&row[0], "text"), text(&row[0], "callback_data"))).collect()
}

/// The newest card of a change in somebody's chat that begins so, as it is now.
#[track_caller]
fn card(telegram: &Telegram, chat: i64, id: &str, begins: &str) -> Value {
    eventually(&format!("a card of {id} in {chat} that begins {begins:?}"), || {
        let all = telegram.sent(chat);
        all.into_iter().rev().find(|sent| plain(sent).starts_with(begins) && plain(sent).contains(id))
    })
}

const ASKS: &str = "A change waits for your decision.";

fn press(telegram: &Telegram, who: i64, card: &Value, label: &str) {
    let click =
        json!({"chat": card["chat_id"], "message_id": card["message_id"], "from": who, "text": label});
    telegram.tell("click", &click);
}

/// A press as somebody makes it who writes their own requests.
fn forge(telegram: &Telegram, who: i64, chat: i64, data: &str) {
    let query = json!({"id": marker(), "from": {"id": who, "is_bot": false, "first_name": "E"}, "chat_instance": "1",
        "data": data, "message": {"message_id": 1, "date": 1_790_000_000,
        "chat": {"id": chat, "type": "private", "first_name": "E"}}});
    telegram.tell("update", &json!({"callback_query": query}));
}

/// What was shown to those who pressed, in order, once there are so many.
#[track_caller]
fn waved(telegram: &Telegram, count: usize) -> Vec<String> {
    eventually(&format!("{count} presses are answered"), || {
        let all = telegram.state()["answered"].as_array().unwrap().clone();
        let all: Vec<String> = all.iter().map(|one| one["text"].as_str().unwrap_or("").to_owned()).collect();
        (all.len() >= count).then_some(all)
    })
}

fn what_an_agent_asks_for_is_decided_by_a_press_and_it_is_told(runtime: Runtime) {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    let daemon = on_telegram(&home, runtime, &telegram).ready();
    approver(&home, &daemon, &format!("telegram:{ANN}"), &[]);
    let listed = printed(ctl(&home, &daemon, &["user", "list", "--json"]));
    let listed = listed.as_array().unwrap().iter().find(|user| user["id"] == "telegram:42").unwrap().clone();
    assert_eq!((&listed["approvals"]["chat"], &listed["approvals"]["problem"]), (&json!("42"), &Value::Null));
    assert!(said(ctl(&home, &daemon, &["user", "list"])).contains("telegram 42"));
    let chat = daemon.chat("mock-agent", "main");
    for (verdict, outcome) in [("Approve", "applied"), ("Reject", "rejected")] {
        let (text, reason) = (marker(), marker());
        chat.ask(&wish(&text, &reason));
        let id = id_of(&daemon.get("/v1/changes/pending")["changes"][0]);
        let pending = change(&daemon, &id);
        let asked = card(&telegram, ANN, &id, ASKS);
        for words in [
            format!("persona of mock-agent, {id}\nasked by agent:mock-agent\nbecause: {reason}\n"),
            pending["diff"].as_str().unwrap().trim_end().to_owned(),
            format!("+ {text}"),
            format!("digest {}\nlapses ", pending["digest"].as_str().unwrap()),
        ] {
            assert!(plain(&asked).contains(&words), "no {words:?} in {}", plain(&asked));
        }
        let labels: Vec<String> = buttons(&asked).into_iter().map(|(label, _)| label).collect();
        assert_eq!(labels, ["Approve", "Reject"]);
        assert_eq!(change(&daemon, &id)["state"], "pending");
        let before = chat.history().last().unwrap().position;
        press(&telegram, ANN, &asked, verdict);
        let told = chat.answer_after(before);
        assert!(told.text.contains(&id), "{}", told.text);
        let decided = change(&daemon, &id);
        assert_eq!((&decided["state"], &decided["decided_by"]), (&json!(outcome), &json!("telegram:42")));
        let says =
            if verdict == "Approve" { "Approved by telegram:42; it is in effect." } else { "Rejected by" };
        let over = card(&telegram, ANN, &id, says);
        assert_eq!(over["message_id"], asked["message_id"], "it is the same card");
        assert!(buttons(&over).is_empty(), "{over}");
        let record = daemon.get("/v1/audit?limit=20")["records"].as_array().unwrap().clone();
        let act = if verdict == "Approve" { "change.approved" } else { "change.rejected" };
        let record = record.iter().find(|one| one["act"] == act && one["object"] == json!(id)).unwrap();
        assert_eq!((&record["actor"], &record["via"]), (&json!("telegram:42"), &json!("chat:telegram")));
        // What a button carries is told to nobody else.
        let audit = std::fs::read_to_string(home.state().join("audit.jsonl")).unwrap();
        for (_, data) in buttons(&asked) {
            let nonce = data.rsplit(':').next().unwrap();
            assert_eq!(nonce.len(), 32, "{data}");
            assert!(!daemon.log.contains(nonce) && !audit.contains(nonce), "{data}");
            assert!(!decided.to_string().contains(nonce) && !pending.to_string().contains(nonce), "{data}");
        }
    }
    assert_eq!(
        waved(&telegram, 2),
        ["Approved; it is in effect.", "Rejected; nothing was changed."],
        "each press was answered"
    );
    assert_eq!(telegram.sent(ANN).len(), 2, "one card for each");
    assert!(daemon.stop().success());
}

/// A forwarded card, another member's press, a made-up button, a role that is gone: nothing is decided.
#[test]
fn nobody_else_decides_and_nobody_after_their_right_is_gone() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    let daemon = on_telegram(&home, Runtime::Native, &telegram).ready();
    approver(&home, &daemon, "telegram:42", &[]);
    approver(&home, &daemon, "telegram:43", &[]);
    let id = id_of(&soul(&daemon, "one"));
    let (ann, bea) = (card(&telegram, ANN, &id, ASKS), card(&telegram, BEA, &id, ASKS));
    let (yes, of_bea) = (buttons(&ann)[0].1.clone(), buttons(&bea)[0].1.clone());
    assert_ne!(yes, of_bea, "each has their own");
    let other = format!("{}{}", &yes[..yes.len() - 1], if yes.ends_with('0') { '1' } else { '0' });
    let mut expected = Vec::new();
    for (who, chat, data, words) in [
        (STRANGER, ANN, yes.as_str(), "This is for somebody else to decide."),
        (BEA, ANN, &yes, "This is for somebody else to decide."),
        // Forwarded, or copied by hand.
        (BEA, BEA, &yes, NOTHING),
        (ANN, BEA, &yes, NOTHING),
        (STRANGER, STRANGER, &yes, NOTHING),
        (ANN, ANN, &of_bea, NOTHING),
        (ANN, ANN, &other, NOTHING),
        (ANN, ANN, "a:", NOTHING),
        (ANN, ANN, "a:1:", NOTHING),
        (ANN, ANN, "a:99999999999999999999:00000000000000000000000000000000", NOTHING),
        (ANN, ANN, "a:18446744073709551615:00000000000000000000000000000000", NOTHING),
        (ANN, ANN, "a:1:000000000000000000000000000000000", NOTHING),
        (ANN, ANN, "a:+1:00000000000000000000000000000000", NOTHING),
    ] {
        forge(&telegram, who, chat, data);
        expected.push(words.to_owned());
        // The answers come beside each other.
        let mut told = waved(&telegram, expected.len());
        assert_eq!(told.pop().as_deref(), Some(words), "{data} by {who} in {chat}");
    }
    assert_eq!(change(&daemon, &id)["state"], "pending");
    // A role that is taken away counts at once, whatever the card still shows.
    let revoke = json!({"revoke": [{"user": "telegram:42", "role": "approver"}]});
    let revoked = submit(&daemon, "permissions", "mock-agent", &revoke).ok();
    assert_eq!(approve(&daemon, &revoked).status, 200);
    forge(&telegram, ANN, ANN, &yes);
    let told = waved(&telegram, expected.len() + 1).pop().unwrap();
    assert_eq!(told, "your roles do not let you decide for this agent");
    let off = card(&telegram, ANN, &id, "You are not asked about this change any more.");
    assert!(buttons(&off).is_empty(), "{off}");
    // Given back, the same card asks again.
    let grant = json!({"grant": [{"user": "telegram:42", "role": "approver"}]});
    let granted = submit(&daemon, "permissions", "mock-agent", &grant).ok();
    assert_eq!(approve(&daemon, &granted).status, 200);
    let again = card(&telegram, ANN, &id, ASKS);
    assert_eq!((&again["message_id"], buttons(&again).len()), (&ann["message_id"], 2));
    // Who is not to be shown things decides nothing there, and is shown nothing.
    said(ctl(&home, &daemon, &["user", "notify", "telegram:42", "--off"]));
    forge(&telegram, ANN, ANN, &yes);
    waved(&telegram, expected.len() + 2);
    assert_eq!(change(&daemon, &id)["state"], "pending");
    card(&telegram, ANN, &id, "You are not asked about this change any more.");
    let next = id_of(&soul(&daemon, "two"));
    let asked = card(&telegram, BEA, &next, ASKS);
    assert!(telegram.sent(ANN).iter().all(|sent| !plain(sent).contains(&next)));
    press(&telegram, BEA, &asked, "Approve");
    card(&telegram, BEA, &next, "Approved by telegram:43");
    assert!(daemon.stop().success());
}

/// Two people at once, one of them twice; and what is decided elsewhere is on the card.
#[test]
fn a_change_is_decided_once_and_every_card_says_how() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    let daemon = on_telegram(&home, Runtime::Native, &telegram).ready();
    approver(&home, &daemon, "telegram:42", &[]);
    approver(&home, &daemon, "telegram:43", &[]);
    let id = id_of(&soul(&daemon, "one"));
    let (ann, bea) = (card(&telegram, ANN, &id, ASKS), card(&telegram, BEA, &id, ASKS));
    for (who, shown, label) in [(ANN, &ann, "Approve"), (BEA, &bea, "Reject"), (ANN, &ann, "Approve")] {
        press(&telegram, who, shown, label);
    }
    let mut told = waved(&telegram, 3);
    told.sort();
    assert_eq!(told, ["Approved; it is in effect.", "It was approved already.", "It was approved already."]);
    for who in [ANN, BEA] {
        card(&telegram, who, &id, "Approved by telegram:42; it is in effect.");
    }
    let acts = |act: &str| {
        let records = daemon.get("/v1/audit?limit=50")["records"].as_array().unwrap().clone();
        records.iter().filter(|one| one["act"] == act && one["object"] == json!(id)).count()
    };
    assert_eq!((acts("change.approved"), acts("change.applied"), acts("change.rejected")), (1, 1, 0));
    // Over the interface, with a word, by whoever asked, and while a press is on its way.
    let rejected = id_of(&soul(&daemon, "two"));
    let asked = card(&telegram, ANN, &rejected, ASKS);
    let body = json!({"outcome": "reject", "note": "not\nnow\u{202e}"});
    daemon.send(Request::post(&format!("/v1/changes/{rejected}/decision"), &body)).ok();
    let over = card(&telegram, ANN, &rejected, "Rejected by local:owner; nothing was changed.\nnote: \"not");
    assert!(plain(&over).contains(r"not\u{a}now\u{202e}"), "{}", plain(&over));
    forge(&telegram, ANN, ANN, &buttons(&asked)[0].1);
    assert_eq!(waved(&telegram, 4)[3], "It was rejected already.");
    let withdrawn = id_of(&soul(&daemon, "three"));
    let asked = card(&telegram, BEA, &withdrawn, ASKS);
    daemon.send(Request::post(&format!("/v1/changes/{withdrawn}/withdraw"), &json!({}))).ok();
    card(&telegram, BEA, &withdrawn, "Withdrawn; nothing was changed.");
    forge(&telegram, BEA, BEA, &buttons(&asked)[0].1);
    assert_eq!(waved(&telegram, 5)[4], "It was withdrawn.");
    assert!(daemon.stop().success());
}

/// What the change replaces was replaced since the card was sent: the press decides nothing, and the card shows what it
/// would do now.
#[test]
fn a_card_of_something_else_decides_nothing_and_is_shown_anew() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    let daemon = on_telegram(&home, Runtime::Native, &telegram).ready();
    approver(&home, &daemon, "telegram:42", &[]);
    let (one, two) = (soul(&daemon, "first"), soul(&daemon, "second"));
    let id = id_of(&two);
    let before = card(&telegram, ANN, &id, ASKS);
    assert_eq!(approve(&daemon, &one).status, 200);
    press(&telegram, ANN, &before, "Approve");
    assert_eq!(waved(&telegram, 1), ["It is not what it was: look at what it would do now."]);
    let now = eventually("the card shows it as it is", || {
        Some(card(&telegram, ANN, &id, ASKS)).filter(|now| plain(now).contains("- first\n+ second"))
    });
    assert_eq!(now["message_id"], before["message_id"]);
    // The button of before is nothing any more.
    forge(&telegram, ANN, ANN, &buttons(&before)[0].1);
    assert_eq!(waved(&telegram, 2)[1], NOTHING);
    assert_eq!(change(&daemon, &id)["state"], "pending");
    press(&telegram, ANN, &now, "Approve");
    card(&telegram, ANN, &id, "Approved by telegram:42");
    assert!(daemon.stop().success());
}

/// Who may not approve what they asked for, or what the policy leaves to others, is not asked.
#[test]
fn who_may_not_approve_it_is_not_asked() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    let policy = home.root.join("policy.json");
    std::fs::write(&policy, json!({"four_eyes": true, "approver_roles": {"model": ["owner"]}}).to_string())
        .unwrap();
    let daemon = on_telegram(&home, Runtime::Native, &telegram).ready();
    // Made before the policy, which lets nobody be two people.
    approver(&home, &daemon, "telegram:42", &[]);
    approver(&home, &daemon, "telegram:43", &[]);
    let scopes = json!({"name": "ann", "user": "telegram:42", "scopes": ["read", "operate"], "days": 1});
    let token = daemon.send(Request::post("/v1/tokens", &scopes)).ok()["token"].as_str().unwrap().to_owned();
    let admin = json!({"grant": [{"user": "telegram:42", "role": "admin"}]});
    let made = submit(&daemon, "permissions", "mock-agent", &admin).ok();
    assert_eq!(approve(&daemon, &made).status, 200);
    assert!(daemon.stop().success());
    let daemon =
        on_telegram(&home, Runtime::Native, &telegram).flag("--policy", policy.display().to_string()).ready();
    let body = json!({"kind": "persona", "group": "mock-agent", "payload": {"soul": "mine"}});
    let own = Request::post("/v1/changes", &body).token(&token).send(daemon.address).unwrap().ok();
    let of_model =
        submit(&daemon, "model", "mock-agent", &json!({"provider": "mock", "model": "other"})).ok();
    let last = soul(&daemon, "for both");
    let shown = card(&telegram, BEA, &id_of(&own), ASKS);
    for who in [ANN, BEA] {
        card(&telegram, who, &id_of(&last), ASKS);
    }
    let is_shown =
        |who: i64, change: &Value| telegram.sent(who).iter().any(|sent| plain(sent).contains(&id_of(change)));
    assert!(!is_shown(ANN, &own) && !is_shown(ANN, &of_model) && !is_shown(BEA, &of_model));
    press(&telegram, BEA, &shown, "Approve");
    card(&telegram, BEA, &id_of(&own), "Approved by telegram:43");
    assert!(daemon.stop().success());
}

/// Nothing that an agent or anybody else wrote moves, hides, links or speaks for the host; and what looks like a card
/// decides nothing.
#[test]
fn what_others_wrote_is_seen_as_what_it_is() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    let daemon = on_telegram(&home, Runtime::Native, &telegram).ready();
    approver(&home, &daemon, "telegram:42", &[]);
    telegram::wire(&daemon, ANN, json!({}));
    admit(&daemon, "mock-agent", "telegram:42");
    let deceit = "ok\"\n\nApproved by local:owner\u{202e}\u{1b}[2J</pre><b>[x](https://evil.example)</b> @everyone /start &lt;";
    let chat = daemon.chat("mock-agent", "main");
    chat.ask(&wish(deceit, deceit));
    let pending = daemon.get("/v1/changes/pending")["changes"][0].clone();
    let id = id_of(&pending);
    let shown = card(&telegram, ANN, &id, ASKS);
    let raw = shown["text"].as_str().unwrap();
    let inside = raw.strip_prefix("<pre>").and_then(|rest| rest.strip_suffix("</pre>")).unwrap();
    assert!(!inside.contains('<') && !inside.contains('>'), "{raw}");
    assert!(raw.contains("&amp;lt;"), "{raw}");
    assert!(raw.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{raw}");
    let lines: Vec<&str> = plain(&shown).lines().collect();
    assert!(lines.iter().all(|line| !line.starts_with("Approved")), "{lines:?}");
    assert!(
        lines.iter().any(|line| line.starts_with(r#"because: "ok\u{22}\u{a}\u{a}Approved by"#)),
        "{lines:?}"
    );
    assert!(lines.contains(&"+ Approved by local:owner\\u{202e}\\u{1b}[2J</pre><b>[x](https://evil.example)</b> @everyone /start &lt;"), "{lines:?}");
    // A question that is dressed up as one.
    let dressed = json!({"question": plain(&shown), "options": ["Approve", "Reject"]});
    let text = format!("tool:ask_user_question {dressed}");
    telegram.tell("text", &json!({"chat": ANN, "from": ANN, "text": text}));
    let asked = eventually("it is asked", || {
        telegram
            .sent(ANN)
            .into_iter()
            .find(|sent| buttons(sent).first().is_some_and(|(label, _)| label == "1. Approve"))
    });
    press(&telegram, ANN, &asked, "1. Approve");
    assert_eq!(waved(&telegram, 1), ["Your answer is taken."]);
    assert_eq!(change(&daemon, &id)["state"], "pending");
    assert!(daemon.stop().success());
}

/// What does not fit is not approved by a button; who asks for much floods nobody, and hides nobody else's.
#[test]
fn what_is_long_or_much_is_shown_in_part_and_says_so() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    let daemon = on_telegram(&home, Runtime::Native, &telegram).ready();
    let everywhere = json!({"grant": [{"user": "telegram:42", "role": "approver", "scope": "*"}]});
    daemon.send(Request::post("/v1/users", &json!({"id": "telegram:42"}))).ok();
    let granted = submit(&daemon, "permissions", "mock-agent", &everywhere).ok();
    assert_eq!(approve(&daemon, &granted).status, 200);
    said(ctl(&home, &daemon, &["user", "notify", "telegram:42"]));
    let long = soul(&daemon, &"many words 😀 ".repeat(2000));
    let shown = card(&telegram, ANN, &id_of(&long), ASKS);
    let labels: Vec<String> = buttons(&shown).into_iter().map(|(label, _)| label).collect();
    assert_eq!(labels, ["Reject"]);
    let left = format!(
        "characters are not shown here; all of it, and the way to approve it:\nironctl change approve {}",
        id_of(&long)
    );
    assert!(plain(&shown).contains(&left), "{}", plain(&shown));
    assert!(plain(&shown).encode_utf16().count() <= 3600 && plain(&shown).encode_utf16().count() > 3400);
    let mut asked: Vec<String> = vec![id_of(&long)];
    for number in 0..6 {
        asked.push(id_of(&soul(&daemon, &format!("{number}"))));
    }
    let other = submit(&daemon, "persona", "dev-agent", &json!({"soul": "another's"})).ok();
    let third = card(&telegram, ANN, &asked[2], ASKS);
    eventually("the newest card says that more wait", || {
        let last = card(&telegram, ANN, &id_of(&other), ASKS);
        plain(&last).contains("\nMore wait that are not shown here: ironctl change pending").then_some(())
    });
    let shown = || -> Vec<String> {
        let all = telegram.sent(ANN);
        asked.iter().filter(|id| all.iter().any(|sent| plain(sent).contains(id.as_str()))).cloned().collect()
    };
    assert_eq!(shown(), asked[..3], "three of one agent");
    // One goes, the next comes.
    press(&telegram, ANN, &third, "Reject");
    card(&telegram, ANN, &asked[3], ASKS);
    assert_eq!(shown(), asked[..4]);
    assert!(daemon.stop().success());
}

/// Over a webhook, and what is refused when it is set.
#[test]
fn a_webhook_gets_cards_and_what_is_to_be_shown_in_their_place() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = crate::heard::serve(&home, Runtime::Native, &hook, ingress).ready();
    approver(&home, &daemon, "webhook:ann", &["--chat", "dm/ann"]);
    for (words, about) in [
        (&["user", "notify", "local:owner"][..], "nobody on a platform with buttons"),
        (&["user", "notify", "webhook:ann"], "chat is missing"),
        (&["user", "notify", "webhook-ops:ann", "--chat", "x"], "no account of webhook called ops"),
        (&["user", "notify", "webhook:eve", "--chat", "x"], "there is no user"),
        (&["user", "notify", "telegram:42"], "no account of telegram"),
        (&["user", "notify", "webhook:ann", "--chat", "x", "--instance", "y"], "one account only"),
    ] {
        refused(ctl(&home, &daemon, words), 1, &[about]);
    }
    let id = id_of(&soul(&daemon, "one"));
    let card = hook.wait("dm/ann", &id);
    assert_eq!((card.kind.as_str(), card.replaces.as_deref(), card.buttons.len()), ("approval", None, 2));
    let data = card.buttons[0]["data"].clone();
    let say = |chat: &str, more: Value| {
        let mut body = json!({"chat": chat, "sender": "ann", "button": data});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        hook.say(ingress, &body).json()["pressed"].clone()
    };
    assert_eq!(say("ops", json!({})), NOTHING, "from another chat");
    assert_eq!(say("dm/ann", json!({"sender": "eve"})), "This is for somebody else to decide.");
    assert_eq!(say("dm/ann", json!({"bot": true})), "Only a person decides this.");
    assert_eq!(change(&daemon, &id)["state"], "pending");
    assert_eq!(say("dm/ann", json!({})), "Approved; it is in effect.");
    let over = hook.wait("dm/ann", "Approved by webhook:ann; it is in effect.");
    assert_eq!((over.replaces.as_deref(), over.buttons.len()), (Some(card.given.as_str()), 0));
    assert_eq!(say("dm/ann", json!({})), "It was approved already.");
    assert_eq!(hook.taken("dm/ann").len(), 2, "the card, and what is in its place");
    let audit = said(ctl(&home, &daemon, &["audit", "--json"]));
    assert!(audit.contains("user.shown_approvals") && audit.contains("chat:webhook"), "{audit}");
    assert!(daemon.stop().success());
}

/// A platform that refuses the card is seen where people are listed, and asked again when an operator says so.
#[test]
fn a_card_that_cannot_be_shown_is_seen() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    let daemon = on_telegram(&home, Runtime::Native, &telegram).ready();
    telegram.tell("chat", &json!({"id": ANN, "blocked": true}));
    approver(&home, &daemon, "telegram:42", &[]);
    let id = id_of(&soul(&daemon, "one"));
    let problem = || {
        let users = daemon.get("/v1/users")["users"].as_array().unwrap().clone();
        users.into_iter().find(|user| user["id"] == "telegram:42").unwrap()["approvals"]["problem"].clone()
    };
    let why = eventually("it is seen", || problem().as_str().map(str::to_owned));
    assert!(why.contains("403"), "{why}");
    assert!(said(ctl(&home, &daemon, &["user", "list"])).contains("telegram 42 (!)"));
    assert!(telegram.sent(ANN).is_empty());
    telegram.tell("chat", &json!({"id": ANN}));
    said(ctl(&home, &daemon, &["user", "notify", "telegram:42"]));
    card(&telegram, ANN, &id, ASKS);
    eventually("all is well", || problem().is_null().then_some(()));
    // What is to be tried later is.
    telegram.tell("fault", &json!({"method": "sendMessage", "kind": "status", "code": 502, "times": 1}));
    telegram.tell("fault", &json!({"method": "editMessageText", "kind": "status", "code": 502, "times": 1}));
    let next = id_of(&soul(&daemon, "two"));
    let shown = card(&telegram, ANN, &next, ASKS);
    press(&telegram, ANN, &shown, "Reject");
    card(&telegram, ANN, &next, "Rejected by telegram:42");
    assert!(daemon.stop().success());
}

/// The control plane dies right before and right after each thing that it writes down on the way of a card and of a
/// press: the card comes, the change is decided once, and the agent is told once.
#[test]
fn every_crash_point_of_a_card_and_its_press_is_survived() {
    for (point, is_of_the_card) in [
        ("card.before_commit", true),
        ("card.after_commit", true),
        ("card.before_commit@2", true),
        ("card.after_commit@2", true),
        ("decide.before_commit", false),
        ("decide.after_commit", false),
        ("accept.before_commit", false),
        ("accept.after_commit", false),
        ("card.before_commit", false),
        ("card.after_commit", false),
    ] {
        println!("{point} {is_of_the_card}");
        let (home, telegram) = (Home::new(Build::Faults, User::Root), Telegram::start());
        let daemon = on_telegram(&home, Runtime::Native, &telegram).ready();
        approver(&home, &daemon, "telegram:42", &[]);
        let chat = daemon.chat("mock-agent", "main");
        chat.ask("hello");
        assert!(daemon.stop().success());
        let armed = home.root.join("armed");
        let mut daemon = on_telegram(&home, Runtime::Native, &telegram)
            .fault(format!("crash={point},armed={}", armed.display()))
            .ready();
        // Answered when what the start recorded is in the audit files.
        daemon.get("/v1/audit/verify");
        let text = marker();
        if is_of_the_card {
            std::fs::write(&armed, "").unwrap();
            let _ = daemon.chat("mock-agent", "main").try_say(&wish(&text, "x"), &marker());
        } else {
            daemon.chat("mock-agent", "main").ask(&wish(&text, "x"));
            let id = id_of(&daemon.get("/v1/changes/pending")["changes"][0]);
            let shown = card(&telegram, ANN, &id, ASKS);
            eventually("it is written down", || daemon.log.contains("approvals.shown").then_some(()));
            std::fs::write(&armed, "").unwrap();
            press(&telegram, ANN, &shown, "Approve");
        }
        assert!(leftovers::ended(daemon.id(), crate::world::PATIENCE), "{point}: it does not die");
        daemon.kill9();
        let daemon = on_telegram(&home, Runtime::Native, &telegram).ready();
        if is_of_the_card {
            let id = eventually("it waits", || {
                let all = daemon.get("/v1/changes/pending")["changes"].as_array().unwrap().clone();
                all.first().map(id_of)
            });
            // Either of them, where it was sent and then not written down.
            let shown = card(&telegram, ANN, &id, ASKS);
            press(&telegram, ANN, &shown, "Approve");
        }
        let history = eventually(&format!("{point}: it is applied"), || {
            let all = daemon.get("/v1/changes/history")["changes"].as_array().unwrap().clone();
            all.iter().any(|one| one["kind"] == "persona" && one["state"] == "applied").then_some(all)
        });
        assert_eq!(history.iter().filter(|one| one["kind"] == "persona").count(), 1, "{history:?}");
        let id = id_of(history.iter().find(|one| one["kind"] == "persona").unwrap());
        card(&telegram, ANN, &id, "Approved by telegram:42; it is in effect.");
        let cards = telegram.sent(ANN).len();
        assert!(cards <= if point == "card.before_commit@2" { 2 } else { 1 }, "{point}: {cards} cards");
        let chat = daemon.chat("mock-agent", "main");
        let told = || {
            chat.history().iter().filter(|entry| entry.text.contains("was approved and is in effect")).count()
        };
        eventually(&format!("{point}: the agent is told"), || (told() >= 1).then_some(()));
        let last = marker();
        chat.ask(&last);
        assert!(told() <= 2, "{point}: once, and in its answer");
        let records = daemon.get("/v1/audit?limit=50")["records"].as_array().unwrap().clone();
        let applied =
            records.iter().filter(|one| one["act"] == "change.applied" && one["object"] == json!(id)).count();
        assert_eq!(applied, 1, "{point}");
        assert_eq!(daemon.get("/v1/audit/verify")["ok"], true, "{point}");
        assert!(daemon.stop().success());
    }
}
