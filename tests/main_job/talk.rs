//! A person talks to an agent: answers, order, duplicates, tools, history, events, and the idle sandbox's end.

use std::time::Duration;

use crate::world::http::Request;
use crate::world::{Build, Chat, Daemon, Home, Runtime, Serve, User, eventually, leftovers, marker};

crate::world::boxes::in_every_box!(an_answer_comes_and_nothing_stays);
crate::world::boxes::in_both_back_ends!(
    a_message_is_taken_once,
    messages_keep_their_order,
    a_flood_is_answered_in_order,
    chats_are_apart,
    tools_read_and_write_the_workspace,
    tools_stay_in_the_workspace,
    an_idle_session_has_no_process,
    a_restart_keeps_the_conversation,
);

/// The mock's answer to these texts in one turn.
fn received(texts: &[&str]) -> String {
    format!("mock-agent received: {}", texts.join("\n"))
}

fn an_answer_comes_and_nothing_stays(runtime: Runtime, user: User) {
    let home = Home::new(Build::Release, user);
    let daemon = Serve::new(&home, runtime).flag("--linger", "1s").ready();
    let chat = daemon.chat("mock-agent", "main");
    let text = marker();
    let sent = chat.say(&text);
    assert!(!sent.duplicate && sent.session_id.starts_with("ses_") && sent.message_id.starts_with("msg_"));
    let answer = chat.answer_after(sent.position);
    assert_eq!(answer.text, received(&[&text]));
    assert_eq!(answer.in_reply_to.as_deref(), Some(sent.message_id.as_str()));
    assert!(daemon.metric("ironclaw_launches_total") >= 1.0);
    // The message's text is in no log.
    assert!(!daemon.log.contains(&text));
    assert!(daemon.stop().success());
    leftovers::none_left(&home, &[sent.session_id], &[]);
}

fn a_message_is_taken_once(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    let event = marker();
    let first = chat.say_as("once", &event);
    let second = chat.say_as("once", &event);
    assert!(!first.duplicate && second.duplicate);
    assert_eq!((first.message_id.clone(), first.position), (second.message_id, second.position));
    chat.answer_after(first.position);
    let third = chat.say_as("once", &event);
    assert!(third.duplicate);
    // A later message is answered after everything before it, so nothing else can still come.
    assert_eq!(chat.ask("last"), received(&["last"]));
    let answers: Vec<_> = chat.history().into_iter().filter(|entry| entry.direction == "out").collect();
    assert_eq!(answers.len(), 2, "{answers:?}");
}

fn messages_keep_their_order(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    let mut texts: Vec<String> = (0..50).map(|n| format!("n{n:03}")).collect();
    let mut last = 0;
    for text in &texts {
        last = chat.say(text).position;
    }
    let end = chat.say("the end");
    assert!(end.position > last);
    texts.push("the end".to_owned());
    assert_eq!(said_until(&chat, "the end"), texts);
}

/// Far more than a sandbox is handed at a time; all of it waits when the sandbox is launched.
fn a_flood_is_answered_in_order(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    // Nothing is launched on a disk that counts as full.
    let daemon = Serve::new(&home, runtime).flag("--min-free", "1000000GiB").ready();
    let chat = daemon.chat("mock-agent", "main");
    let mut texts: Vec<String> = (0..3_000).map(|n| format!("n{n:04}")).collect();
    texts.push("the end".to_owned());
    for text in &texts {
        chat.say(text);
    }
    assert_eq!(daemon.metric("ironclaw_launches_total"), 0.0);
    assert!(daemon.stop().success());
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    let said = said_until(&chat, "the end");
    assert_eq!(said.len(), texts.len());
    assert!(said == texts, "not in the order in which they were sent: {said:?}");
    assert_eq!(daemon.metric("ironclaw_launches_total"), 1.0);
}

/// The texts that the mock says it received, once this one is among them.
fn said_until(chat: &Chat<'_>, last: &str) -> Vec<String> {
    chat.wait(0, "the last answer", |entry| entry.direction == "out" && entry.text.contains(last));
    chat.history()
        .into_iter()
        .filter(|entry| entry.direction == "out")
        .flat_map(|entry| {
            let lines = entry.text.strip_prefix("mock-agent received: ").unwrap().to_owned();
            lines.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

fn chats_are_apart(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).ready();
    let (one, other) = (daemon.chat("mock-agent", "one"), daemon.chat("mock-agent", "other"));
    let (first, second) = (marker(), marker());
    let (a, b) = (one.say(&first), other.say(&second));
    assert_ne!(a.session_id, b.session_id);
    assert_eq!(one.answer_after(a.position).text, received(&[&first]));
    assert_eq!(other.answer_after(b.position).text, received(&[&second]));
    for (chat, foreign) in [(&one, &second), (&other, &first)] {
        assert!(chat.history().iter().all(|entry| !entry.text.contains(foreign.as_str())));
    }
    let unknown = daemon.send(Request::get("/v1/chat/no-such-agent/messages"));
    assert_eq!(unknown.status, 404, "{}", unknown.text());
}

fn tools_read_and_write_the_workspace(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    let content = marker();
    let call = format!(r#"tool:write_file {{"path":"notes/a.txt","content":"{content}"}}"#);
    let answer = chat.ask(&call);
    assert!(answer.contains("mock-agent tool result:"), "{answer}");
    let on_host = home.state().join("workspaces/mock-agent/notes/a.txt");
    assert_eq!(std::fs::read_to_string(on_host).unwrap(), content);
    let answer = chat.ask(r#"tool:read_file {"path":"notes/a.txt"}"#);
    let result = answer.split_once("mock-agent tool result:").expect(&answer).1;
    assert!(result.contains(&content), "{answer}");
}

fn tools_stay_in_the_workspace(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    chat.ask("hello");
    let workspace = home.state().join("workspaces/mock-agent");
    std::os::unix::fs::symlink("/in", workspace.join("link")).unwrap();
    std::os::unix::fs::symlink("../../session", workspace.join("up")).unwrap();
    for path in ["/in/inbound.db", "../in/inbound.db", "link/inbound.db", "up/session.db", "/etc/passwd", ""]
    {
        let answer = chat.ask(&format!(r#"tool:read_file {{"path":"{path}"}}"#));
        let result = answer.split_once("mock-agent tool result:").expect(&answer).1;
        assert!(!result.contains("SQLite") && !result.contains("root:"), "{path}: {answer}");
        let answer = chat.ask(&format!(r#"tool:write_file {{"path":"{path}","content":"escaped"}}"#));
        assert!(answer.contains("mock-agent tool result:"), "{path}: {answer}");
    }
    for found in leftovers::files_below(&home.root) {
        if std::fs::metadata(&found).is_ok_and(|data| data.is_file() && data.len() == 7) {
            assert_ne!(std::fs::read(&found).unwrap(), b"escaped", "{}", found.display());
        }
    }
}

fn an_idle_session_has_no_process(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).flag("--linger", "1s").ready();
    let chat = daemon.chat("mock-agent", "main");
    let sent = chat.say("first");
    chat.answer_after(sent.position);
    eventually("the sandbox is gone", || {
        (home.processes() == [daemon.id()] && daemon.metric("ironclaw_sandboxes_running") == 0.0)
            .then_some(())
    });
    leftovers::none_left(&home, &[sent.session_id], &[daemon.id()]);
    assert_eq!(chat.ask("again"), received(&["again"]));
    assert!(daemon.metric("ironclaw_launches_total") >= 2.0);
}

fn a_restart_keeps_the_conversation(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).ready();
    let token = daemon.token();
    let sent = daemon.chat("mock-agent", "main").say("before");
    daemon.chat("mock-agent", "main").answer_after(sent.position);
    assert!(daemon.stop().success());
    let daemon = Serve::new(&home, runtime).ready();
    assert_eq!(daemon.token(), token);
    let chat = daemon.chat("mock-agent", "main");
    assert_eq!(chat.ask("after"), received(&["after"]));
    let texts: Vec<String> = chat
        .history()
        .into_iter()
        .filter(|e| e.direction == "in" || e.direction == "out")
        .map(|e| e.text)
        .collect();
    assert_eq!(texts, ["before", &received(&["before"]), "after", &received(&["after"])]);
}

/// Its time to answer begins with the message, however long the sandbox had nothing to do before.
#[test]
fn a_sandbox_that_was_idle_for_longer_than_a_turn_goes_on() {
    let home = Home::new(Build::Release, User::Root);
    let daemon =
        Serve::new(&home, Runtime::Native).flag("--linger", "60s").flag("--turn-timeout", "5s").ready();
    let chat = daemon.chat("mock-agent", "main");
    chat.ask("first");
    let after = chat.history().last().unwrap().position;
    assert!(chat.events(after).quiet_for(Duration::from_secs(6)));
    assert_eq!(chat.ask("second"), received(&["second"]));
    assert!(!daemon.log.contains("\"sandbox.ended\""));
    assert_eq!(daemon.metric("ironclaw_launches_total"), 1.0);
}

#[test]
fn events_resume_where_they_stopped() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let chat = daemon.chat("mock-agent", "main");
    let mut events = chat.events(0);
    let sent = chat.say("one");
    let mut ids: Vec<u64> = Vec::new();
    loop {
        let event = events.next().expect("the stream goes on");
        let Ok(id) = event.id.parse() else { continue };
        ids.push(id);
        if event.data.contains("mock-agent received") {
            break;
        }
    }
    drop(events);
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    let second = chat.ask("two");
    assert_eq!(second, received(&["two"]));
    // From every position the stream gives exactly what the history holds after it.
    let history: Vec<u64> = chat.history().iter().map(|entry| entry.position).collect();
    for after in [0, sent.position, *ids.last().unwrap()] {
        let expected: Vec<u64> = history.iter().copied().filter(|position| *position > after).collect();
        let mut events = chat.events(after);
        for position in expected {
            let event = loop {
                let event = events.next().expect("the stream goes on");
                if !event.id.is_empty() {
                    break event;
                }
            };
            assert_eq!(event.id, position.to_string());
        }
    }
}

#[test]
fn every_watcher_sees_the_history_once_and_in_its_order() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let chat = daemon.chat("mock-agent", "main");
    // The last text is longer than what a watcher is told of directly.
    let texts: Vec<String> = (0..40).map(|_| marker()).collect();
    let end = marker();
    let last = format!("{} {end}", "x".repeat((64 << 10) - 1 - end.len()));
    let watch = |mut events: crate::world::http::Events| {
        let mut seen = Vec::new();
        loop {
            let event = events.next().expect("the stream goes on");
            let Ok(value) = serde_json::from_str::<serde_json::Value>(&event.data) else { continue };
            seen.push((value["position"].as_u64().unwrap(), value["text"].as_str().map(str::to_owned)));
            let is_end =
                value["direction"] == "out" && value["text"].as_str().is_some_and(|t| t.ends_with(&end));
            if is_end {
                return seen;
            }
        }
    };
    let seen: Vec<_> = std::thread::scope(|scope| {
        // Some before there is a session, some while it grows.
        let mut watchers: Vec<_> = (0..2).map(|_| scope.spawn(|| watch(chat.events(0)))).collect();
        let senders: Vec<_> = texts
            .chunks(10)
            .map(|texts| scope.spawn(|| texts.iter().for_each(|text| drop(chat.say(text)))))
            .collect();
        watchers.extend((0..2).map(|_| scope.spawn(|| watch(chat.events(0)))));
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        chat.say(&last);
        watchers.into_iter().map(|watcher| watcher.join().unwrap()).collect()
    });
    let history: Vec<_> = chat.history().into_iter().map(|entry| (entry.position, entry.text)).collect();
    for seen in seen {
        let expected = history.iter().take(seen.len());
        for (found, (position, text)) in seen.iter().zip(expected) {
            assert_eq!((found.0, found.1.as_deref().unwrap_or_default()), (*position, text.as_str()));
        }
        assert!(seen.len() > 80 && seen.len() <= history.len(), "{} of {}", seen.len(), history.len());
    }
}

#[test]
fn history_comes_page_by_page() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let chat = daemon.chat("mock-agent", "main");
    for n in 0..7 {
        chat.ask(&format!("page {n}"));
    }
    let whole = chat.history();
    assert!(whole.is_sorted_by(|a, b| a.position < b.position));
    for limit in [1, 2, 5] {
        let mut paged = Vec::new();
        let mut after = 0;
        loop {
            let (entries, _) = chat.page(after, limit);
            assert!(entries.len() <= limit);
            let Some(last) = entries.last() else { break };
            after = last.position;
            paged.extend(entries);
        }
        assert_eq!(paged, whole);
    }
}

#[test]
fn the_command_line_talks_too() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let address = format!("http://{}", daemon.address);
    let text = marker();
    let output = ctl(&home, &daemon, &["--addr", &address, "chat", "mock-agent", &text]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(&received(&[&text])), "{output:?}");
    let output = ctl(&home, &daemon, &["--addr", &address, "chat", "no-such-agent", "x"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr).trim().lines().count(), 1, "{output:?}");
}

fn ctl(home: &Home, daemon: &Daemon, words: &[&str]) -> std::process::Output {
    let mut command = home.command(std::iter::once(&"ctl").chain(words));
    command.env("IRONCLAW_API_TOKEN", daemon.token());
    crate::world::home::finish(command.spawn().unwrap())
}
