//! Questions of agents to people: shown where it was asked, with buttons and numbers, answered by who is heard there, by
//! one of them, once, whoever dies when.

use serde_json::{Value, json};

use crate::hand::{approve, ctl, json as printed, refused, said, submit};
use crate::heard::{admit, ingress};
use crate::hook::Hook;
use crate::telegram::{self, ANN};
use crate::world::http::{Answer, Request};
use crate::world::telegram::Telegram;
use crate::world::{Build, Daemon, Entry, Home, PATIENCE, Runtime, Serve, User, eventually, marker, within};

crate::world::boxes::in_both_back_ends!(
    a_question_is_asked_with_buttons_and_answered_by_a_press,
    every_crash_point_of_asking_is_survived,
);

const GROUP: i64 = -1001;
const BEA: i64 = 43;
const STRANGER: i64 = 99;

fn ask(input: &Value) -> String {
    format!("tool:ask_user_question {input}")
}

fn questions(daemon: &Daemon, state: &str) -> Vec<Value> {
    daemon.get(&format!("/v1/questions?state={state}"))["questions"].as_array().unwrap().clone()
}

fn answer(daemon: &Daemon, id: &str, body: &Value) -> Answer {
    daemon.send(Request::post(&format!("/v1/questions/{id}/answer"), body))
}

/// What was shown to those who pressed buttons, in order.
fn waved(telegram: &Telegram) -> Vec<String> {
    let all = telegram.state()["answered"].as_array().unwrap().clone();
    all.iter().map(|one| one["text"].as_str().unwrap_or("").to_owned()).collect()
}

/// Waits until the buttons under what was shown are gone.
#[track_caller]
fn without_buttons(telegram: &Telegram, shown: &Value) {
    eventually("the buttons are gone", || {
        let all = telegram.sent(shown["chat_id"].as_i64().unwrap());
        let now = all.into_iter().find(|sent| sent["message_id"] == shown["message_id"])?;
        now["reply_markup"].is_null().then_some(())
    });
}

fn a_question_is_asked_with_buttons_and_answered_by_a_press(runtime: Runtime) {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    telegram.tell("chat", &json!({"id": GROUP, "topics": [55, 77]}));
    let daemon = telegram::serve(&home, runtime, &telegram).ready();
    telegram::wire(&daemon, GROUP, json!({"engage": "mention", "sessions": "per-thread"}));
    for person in [ANN, BEA] {
        admit(&daemon, "mock-agent", &format!("telegram:{person}"));
    }
    let asked = marker();
    let text = ask(&json!({"question": asked, "options": ["Tea", "Coffee <b>"]}));
    telegram.tell("text", &json!({"chat": GROUP, "from": ANN, "thread": 55, "text": text, "mention": true}));
    let shown = telegram::wait(&telegram, GROUP, &format!("{asked}\n\n1. Tea\n2. Coffee <b>"));
    assert_eq!(shown["message_thread_id"], 55, "{shown}");
    let rows = shown["reply_markup"]["inline_keyboard"].as_array().unwrap();
    let labels: Vec<&str> = rows.iter().map(|row| row[0]["text"].as_str().unwrap()).collect();
    assert_eq!(labels, ["1. Tea", "2. Coffee <b>"]);
    let question = questions(&daemon, "open").remove(0);
    assert_eq!((&question["question"], &question["thread"]), (&json!(asked), &json!("55")), "{question}");
    // The turn did not wait: it is over, and the next message is answered.
    let next = marker();
    telegram.tell("text", &json!({"chat": GROUP, "from": ANN, "thread": 55, "text": next, "mention": true}));
    telegram::wait(&telegram, GROUP, &next);
    // Who is not heard there does not answer, whatever they press.
    let press = |who: i64, label: &str| {
        let click = json!({"chat": GROUP, "message_id": shown["message_id"], "from": who, "text": label});
        telegram.tell("click", &click);
    };
    press(STRANGER, "1. Tea");
    eventually("the stranger is told", || (waved(&telegram) == ["You may not answer this."]).then_some(()));
    assert_eq!(questions(&daemon, "open").len(), 1);
    // Whoever is does, also who did not ask.
    press(BEA, "2. Coffee <b>");
    let reply = telegram::wait(&telegram, GROUP, "The answer: Coffee <b>");
    assert_eq!(reply["message_thread_id"], 55, "{reply}");
    eventually("it is told", || waved(&telegram).contains(&"Your answer is taken.".to_owned()).then_some(()));
    let answered = questions(&daemon, "answered").remove(0);
    assert_eq!(answered["ended_by"], format!("telegram:{BEA}"), "{answered}");
    without_buttons(&telegram, &shown);
    let late = answer(&daemon, question["id"].as_str().unwrap(), &json!({"option": 1}));
    assert_eq!((late.status, late.json()["type"].clone()), (409, json!("question_over")), "{}", late.text());
    let replies = telegram.sent(GROUP).iter().filter(|sent| is(sent, "The answer:")).count();
    assert_eq!(replies, 1, "once");
    assert!(daemon.stop().success());
}

fn is(sent: &Value, text: &str) -> bool {
    sent["plain"].as_str().unwrap().contains(text)
}

/// A question that nobody answers ends by itself at its time, also when the control plane was killed meanwhile; and one that
/// an operator cancels at once. Nothing is left to press, who pressed before that is told, and the agent is told without a
/// turn for it.
#[test]
fn what_is_not_answered_loses_its_buttons_and_the_agent_is_told() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    telegram.tell("chat", &json!({"id": GROUP, "topics": [55, 77]}));
    let mut daemon = telegram::serve(&home, Runtime::Native, &telegram).ready();
    telegram::wire(&daemon, GROUP, json!({"sessions": "per-thread"}));
    admit(&daemon, "mock-agent", &format!("telegram:{ANN}"));
    let say = |thread: i64, text: &str| {
        telegram.tell("text", &json!({"chat": GROUP, "from": ANN, "thread": thread, "text": text}));
    };
    let put = |thread: i64| {
        let asked = marker();
        let input = json!({"question": asked, "options": ["Tea", "Coffee"], "expires_minutes": 1});
        say(thread, &ask(&input));
        // The end of its turn comes after it.
        let shown = telegram::wait(&telegram, GROUP, &asked);
        let ended = |sent: &Value| sent["message_thread_id"] == thread && is(sent, "asked, q_");
        eventually("its turn is over", || telegram.sent(GROUP).iter().any(ended).then_some(()));
        shown
    };
    // The button as it was on a screen that shows it still.
    let press = |shown: &Value| {
        let chat = json!({"id": GROUP, "type": "supergroup"});
        let under = json!({"message_id": shown["message_id"], "date": 1, "chat": chat,
            "message_thread_id": shown["message_thread_id"], "is_topic_message": true});
        let data = &shown["reply_markup"]["inline_keyboard"][0][0]["callback_data"];
        let from = json!({"id": ANN, "is_bot": false, "first_name": "Ann"});
        let query =
            json!({"id": marker(), "from": from, "message": under, "chat_instance": "1", "data": data});
        telegram.tell("update", &json!({"callback_query": query}));
    };
    let (left, ended) = (put(55), put(77));
    assert!([&left, &ended].iter().all(|shown| !shown["reply_markup"].is_null()), "{left} {ended}");
    let of_thread = |daemon: &Daemon, state: &str, thread: &str| {
        questions(daemon, state).into_iter().find(|question| question["thread"] == thread)
    };
    let id = of_thread(&daemon, "open", "77").unwrap()["id"].as_str().unwrap().to_owned();
    assert!(said(ctl(&home, &daemon, &["question", "cancel", &id])).contains("is cancelled"));
    without_buttons(&telegram, &ended);
    press(&ended);
    eventually("it is told", || (waved(&telegram) == ["This question is not open any more."]).then_some(()));
    daemon.kill9();
    let daemon = telegram::serve(&home, Runtime::Native, &telegram).ready();
    // Its time is over before this is given up.
    let expired = within(PATIENCE * 2, "it expires", || of_thread(&daemon, "expired", "55"));
    assert_eq!((&expired["ended_by"], &expired["answer"]), (&Value::Null, &Value::Null), "{expired}");
    without_buttons(&telegram, &left);
    press(&left);
    eventually("it is told", || (waved(&telegram).len() == 2).then_some(()));
    assert_eq!(waved(&telegram)[1], "It is too late to answer this.");
    // The agent knows it at its next turn.
    for (thread, id, how) in [
        (55, expired["id"].as_str().unwrap(), "expired without an answer"),
        (77, id.as_str(), "was cancelled"),
    ] {
        let next = marker();
        say(thread, &next);
        let answer = telegram::wait(&telegram, GROUP, &next);
        assert!(is(&answer, &format!("Your question {id} {how}.")), "{answer}");
    }
    // Each topic: the question, the end of its turn, and this; nothing started a turn of its own. What was on its way
    // when it was killed could have come twice, but nothing was.
    let all = telegram.sent(GROUP);
    assert_eq!(all.len(), 6, "{all:?}");
    assert!(daemon.stop().success());
}

/// Two people press at once, and one of them again: one answer counts, and everybody is told what came of theirs.
#[test]
fn of_two_answers_the_first_counts() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    telegram.tell("chat", &json!({"id": GROUP}));
    let daemon = telegram::serve(&home, Runtime::Native, &telegram).ready();
    telegram::wire(&daemon, GROUP, json!({}));
    for person in [ANN, BEA] {
        admit(&daemon, "mock-agent", &format!("telegram:{person}"));
    }
    let asked = marker();
    let text = ask(&json!({"question": asked, "options": ["Tea", "Coffee"]}));
    telegram.tell("text", &json!({"chat": GROUP, "from": ANN, "text": text}));
    let shown = telegram::wait(&telegram, GROUP, &asked);
    // All of it is there before any of it is fetched.
    let press = |who: i64, label: &str| json!({"chat": GROUP, "message_id": shown["message_id"], "from": who, "text": label});
    telegram.tell(
        "fault",
        &json!({"method": "editMessageReplyMarkup", "kind": "status", "code": 500, "times": 1}),
    );
    for (who, label) in [(ANN, "1. Tea"), (BEA, "2. Coffee"), (ANN, "1. Tea")] {
        telegram.tell("click", &press(who, label));
    }
    eventually("all are told", || (waved(&telegram).len() == 3).then_some(()));
    let mut told = waved(&telegram);
    told.sort();
    let already = "It was answered already.";
    assert_eq!(told, [already, already, "Your answer is taken."]);
    telegram::wait(&telegram, GROUP, "The answer: Tea");
    // One more word is answered after everything else.
    let last = marker();
    telegram.tell("text", &json!({"chat": GROUP, "from": ANN, "text": last}));
    telegram::wait(&telegram, GROUP, &last);
    assert_eq!(telegram.sent(GROUP).iter().filter(|sent| is(sent, "The answer:")).count(), 1);
    assert!(daemon.stop().success());
}

/// Where there are no buttons to press, and where there are: numbers, words, and buttons over a webhook; by who is heard.
#[test]
fn numbers_words_and_buttons_answer_over_a_webhook() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = crate::heard::serve(&home, Runtime::Native, &hook, ingress).ready();
    crate::heard::wire(&daemon, "mock-agent", "ops", json!({"engage": "mention", "sessions": "per-thread"}));
    admit(&daemon, "mock-agent", "webhook:ann");
    let say = |who: &str, thread: &str, more: &Value| {
        let mut body = json!({"chat": "ops", "thread": thread, "sender": who});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = hook.say(ingress, &body);
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()
    };
    let put = |thread: &str, input: &Value| -> Vec<Value> {
        say("ann", thread, &json!({"text": ask(input)}));
        hook.wait("ops", input["question"].as_str().unwrap()).buttons
    };
    let came = |question: &str, words: &str| {
        let text = format!("): {question}\nThe answer: {words}");
        hook.wait("ops", &text);
    };
    // A number, without the agent's name, from who is heard there.
    let one = marker();
    put("t1", &json!({"question": one, "options": ["Tea", "Coffee"]}));
    let stranger = say("eve", "t1", &json!({"text": "2", "mentioned": true}));
    assert_ne!(stranger["outcomes"][0]["reason"], "answer", "{stranger}");
    let elsewhere = say("ann", "t2", &json!({"text": "2", "mentioned": false}));
    assert_ne!(elsewhere["outcomes"][0]["reason"], "answer", "another thread is another conversation");
    let wrong = say("ann", "t1", &json!({"text": "3", "mentioned": false}));
    assert_ne!(wrong["outcomes"][0]["reason"], "answer", "{wrong}");
    let taken = say("ann", "t1", &json!({"text": " 2 ", "mentioned": false}));
    assert_eq!(
        (&taken["outcomes"][0]["verdict"], &taken["outcomes"][0]["reason"]),
        (&json!("engage"), &json!("answer"))
    );
    came(&one, "Coffee");
    // The words of an option, in any case.
    let two = marker();
    put("t1", &json!({"question": two, "options": ["Tea", "Coffee"]}));
    say("ann", "t1", &json!({"text": "tea", "mentioned": false}));
    came(&two, "Tea");
    // Words of one's own, where they will do, and are spoken to the agent.
    let three = marker();
    put("t1", &json!({"question": three, "options": ["Tea"], "allow_freeform": true}));
    let among = say("ann", "t1", &json!({"text": "a chat among ourselves", "mentioned": false}));
    assert_ne!(among["outcomes"][0]["reason"], "answer", "{among}");
    say("ann", "t1", &json!({"text": "cocoa", "mentioned": true}));
    came(&three, "cocoa");
    // A button, by its data.
    let four = marker();
    let buttons = put("t1", &json!({"question": four, "options": ["Tea", "Coffee"]}));
    assert_eq!(buttons[0]["label"], "1. Tea", "{buttons:?}");
    let data = &buttons[0]["data"];
    let eve = say("eve", "t1", &json!({"button": data}));
    assert_eq!(eve["pressed"], "You may not answer this.", "{eve}");
    let other = hook.say(ingress, &json!({"chat": "dev", "sender": "ann", "button": data})).json();
    assert_eq!(other["pressed"], "This button does nothing any more.", "from another chat: {other}");
    let program = say("ann", "t1", &json!({"button": data, "bot": true}));
    assert_eq!(program["pressed"], "You may not answer this.", "{program}");
    let ann = say("ann", "t1", &json!({"button": data}));
    assert_eq!(ann["pressed"], "Your answer is taken.", "{ann}");
    came(&four, "Tea");
    let again = say("ann", "t1", &json!({"button": data}));
    assert_eq!(again["pressed"], "It was answered already.", "{again}");
    let made_up = say("ann", "t1", &json!({"button": "q:q_01HZZZZZZZZZZZZZZZZZZZZZZZ:1"}));
    assert_eq!(made_up["pressed"], "This button does nothing any more.", "{made_up}");
    assert_eq!(questions(&daemon, "open"), Vec::<Value>::new());
    assert!(daemon.stop().success());
}

/// Over the interface and the command line; by who may, and what is shown to whom.
#[test]
fn people_answer_and_end_questions_from_the_command_line() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let own = |words: &[&str]| ctl(&home, &daemon, words);
    let chat = daemon.chat("mock-agent", "main");
    assert!(said(own(&["question", "list"])).contains("no agent asks anything"));
    let asked = marker();
    chat.ask(&ask(&json!({"question": format!("{asked}\u{1b}[2J"), "options": ["Tea", "Coffee"]})));
    let open = printed(own(&["question", "list", "--json"]));
    let id = open[0]["id"].as_str().unwrap().to_owned();
    assert!(said(own(&["question", "list"])).contains(&id));
    let shown = said(own(&["question", "show", &id]));
    assert!(shown.contains(&format!("{asked}\\u{{1b}}[2J\n1. Tea\n2. Coffee\n")), "{shown}");
    refused(own(&["question", "answer", &id, "milk"]), 1, &["none of its options"]);
    refused(own(&["question", "answer", &id, "3"]), 1, &["none of its options"]);
    refused(own(&["question", "show", "q_1"]), 1, &["no question q_1", "ironctl question list"]);
    let before = chat.history().last().unwrap().position;
    assert!(said(own(&["question", "answer", &id, "coffee"])).contains("is answered"));
    chat.wait(before, "the agent heard it", |entry| {
        entry.direction == "out" && entry.text.contains("The answer: Coffee")
    });
    refused(own(&["question", "answer", &id, "1"]), 1, &["answered already"]);
    refused(own(&["question", "cancel", &id]), 1, &["answered already"]);
    // In the terminal a number answers what was asked there.
    chat.ask(&ask(&json!({"question": marker(), "options": ["Left", "Right"]})));
    let heard = chat.ask("1");
    assert!(heard.contains("The answer: Left"), "{heard}");
    // Ended by an operator, the agent is told, and starts no turn for it.
    let third = marker();
    chat.ask(&ask(&json!({"question": third})));
    let id = printed(own(&["question", "list", "--json"]))[0]["id"].as_str().unwrap().to_owned();
    assert!(said(own(&["question", "cancel", &id])).contains("is cancelled"));
    let heard = chat.ask("anything");
    assert!(heard.contains("anything") && !heard.contains("The answer"), "{heard}");
    let all = daemon.get(&format!("/v1/questions/{id}"));
    assert_eq!((&all["state"], &all["ended_by"]), (&json!("cancelled"), &json!("local:owner")), "{all}");
    let records = daemon.get("/v1/audit")["records"].as_array().unwrap().clone();
    assert!(records.iter().any(|record| record["act"] == "question.cancelled" && record["object"] == id));
    // What cannot be asked is said to the agent, and nothing is shown.
    for (input, why) in [
        (json!({"question": " "}), "question must have"),
        (json!({"question": "x", "options": ["a", "a"]}), "is there twice"),
        (json!({"question": "x", "expires_minutes": 0}), "expires_minutes must be"),
    ] {
        let told = chat.ask(&ask(&input));
        assert!(told.contains(why), "{input}: {told}");
    }
    // As many as may.
    let mut last = String::new();
    for number in 0..9 {
        last = chat.ask(&ask(&json!({"question": format!("question {number}"), "options": ["only"]})));
    }
    assert!(last.contains("too_many_open"), "{last}");
    assert_eq!(questions(&daemon, "open").len(), 8);
    // A reader sees that there are questions, and not what they ask.
    let reader = printed(own(&["token", "create", "reader", "--scope=read", "--json"]));
    let token = reader["token"].as_str().unwrap();
    let seen = Request::get("/v1/questions").token(token).send(daemon.address).unwrap().ok();
    assert_eq!(seen["questions"][0]["question"], Value::Null, "{seen}");
    // With its conversation what was asked is erased.
    let session = seen["questions"][0]["session"].as_str().unwrap().to_owned();
    said(own(&["session", "erase", &session, "--yes"]));
    assert_eq!(questions(&daemon, "open"), Vec::<Value>::new());
    assert!(questions(&daemon, "cancelled").iter().all(|question| question["question"].is_null()));
    assert!(daemon.stop().success());
}

/// Without the tool nothing is asked, and a question of who lost the chat goes nowhere.
#[test]
fn who_may_not_ask_does_not() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = crate::heard::serve(&home, Runtime::Native, &hook, ingress).ready();
    let own = json!({"provider": "mock", "model": "mock", "tools": ["ask_user_question"]});
    let change = submit(&daemon, "create_agent", "helper", &own).ok();
    assert_eq!(approve(&daemon, &change).status, 200);
    let to = json!({"destinations": [{"name": "h", "kind": "agent", "agent_group": "helper"}]});
    let change = submit(&daemon, "wiring", "mock-agent", &to).ok();
    assert_eq!(approve(&daemon, &change).status, 200);
    // Nobody reads a conversation of two agents.
    let input = ask(&json!({"question": "x"}));
    let chat = daemon.chat("mock-agent", "main");
    let sent = chat.say(&format!("tool:send_message {}", json!({"text": input, "to": "h"})));
    chat.wait(sent.position, "what came of it", |entry: &Entry| {
        entry.direction == "in" && entry.text.contains("no_person")
    });
    assert!(questions(&daemon, "open").iter().all(|question| question["group"] != "helper"));
    // A tool that is off is not called.
    let change = submit(&daemon, "enabled_tools", "mock-agent", &json!({"tools": ["send_message"]})).ok();
    assert_eq!(approve(&daemon, &change).status, 200);
    daemon.chat("mock-agent", "other").ask(&input);
    assert!(questions(&daemon, "open").iter().all(|question| question["chat"] != "other"));
    assert!(daemon.stop().success());
}

/// The control plane dies right before and right after each thing that it writes down: there is one question, one answer,
/// and one turn for it.
fn every_crash_point_of_asking_is_survived(runtime: Runtime) {
    for name in [
        "ask.before_commit",
        "ask.after_commit",
        "ask.recorded",
        "step.asked.after",
        "finish.before_commit",
        "finish.after_commit",
        "accept.before_commit@2",
        "accept.after_commit@2",
        "finish.before_commit@2",
        "finish.after_commit@2",
    ] {
        let home = Home::new(Build::Faults, User::Root);
        let mut daemon = Serve::new(&home, runtime).fault(format!("crash={name}")).ready();
        let (asked, event, second) = (marker(), marker(), marker());
        let text = ask(&json!({"question": asked, "options": ["Tea", "Coffee"]}));
        let ended = |entry: &Entry| entry.direction == "out" && entry.text.contains("asked, q_");
        if name.ends_with("@2") {
            let chat = daemon.chat("mock-agent", "main");
            let first = chat.say_as(&text, &event);
            chat.wait(first.position, "the end of its turn", ended);
            let _ = chat.try_say("2", &second);
        } else {
            let _ = daemon.chat("mock-agent", "main").try_say(&text, &event);
        }
        eventually(&format!("{name} is passed"), || {
            let deaths = daemon.try_metric("ironclaw_sandbox_ends_total{reason=\"died\"}");
            (daemon.has_ended() || deaths.is_some_and(|count| count > 0.0)).then_some(())
        });
        daemon.kill9();
        drop(daemon);
        let daemon = Serve::new(&home, runtime).ready();
        let chat = daemon.chat("mock-agent", "main");
        let first = chat.say_as(&text, &event);
        chat.wait(first.position, "the question", |entry| entry.text.contains("1. Tea"));
        chat.wait(first.position, "the end of its turn", ended);
        let answer = chat.say_as("2", &second);
        chat.wait(answer.position, "the answer", |entry| {
            entry.direction == "out" && entry.text.contains("The answer: Coffee")
        });
        // Whatever else came of it would have come by now: one word after it is answered.
        chat.ask("and now");
        let is_shown = |entry: &Entry| entry.direction == "out" && entry.text.contains("1. Tea");
        assert_eq!(chat.history().into_iter().filter(is_shown).count(), 1, "{name}: it is shown once");
        let heard = chat.history().into_iter().filter(|entry| entry.direction == "in").count();
        assert_eq!(heard, 3, "{name}: what was said, the answer, and the last word");
        assert_eq!(
            (questions(&daemon, "open").len(), questions(&daemon, "answered").len()),
            (0, 1),
            "{name}"
        );
        assert!(daemon.stop().success());
    }
}
