//! Files that people send: the agent has them before it is told of the message, whole or with the reason why not; once,
//! whoever dies when.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::hand::{ctl, said};
use crate::heard::admit;
use crate::telegram::{ANN, serve, state, wait, wire};
use crate::world::telegram::{TOKEN, Telegram};
use crate::world::{Build, Daemon, Home, Runtime, User, eventually, marker};

crate::world::boxes::in_both_back_ends!(
    what_people_send_is_there_before_the_agent_is_told,
    what_the_agent_sends_arrives_once,
);

/// The files of the agent's workspace that came with messages, by name and without the name of the message.
fn came(home: &Home) -> Vec<(String, Vec<u8>)> {
    let top = home.state().join("workspaces/mock-agent/attachments");
    let Ok(messages) = std::fs::read_dir(top) else { return Vec::new() };
    let mut all = Vec::new();
    for message in messages {
        for file in std::fs::read_dir(message.unwrap().path()).unwrap() {
            let path: PathBuf = file.unwrap().path();
            all.push((path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()));
        }
    }
    all.sort();
    all
}

fn begin(home: &Home, runtime: Runtime, telegram: &Telegram, fault: Option<&str>) -> Daemon {
    let mut serve = serve(home, runtime, telegram);
    if let Some(fault) = fault {
        serve = serve.fault(fault);
    }
    let daemon = serve.ready();
    eventually("the bot is connected", || (state(&daemon) == "connected").then_some(()));
    daemon
}

fn what_people_send_is_there_before_the_agent_is_told(runtime: Runtime) {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    telegram.chat(ANN);
    let daemon = begin(&home, runtime, &telegram, None);
    wire(&daemon, ANN, json!({}));
    admit(&daemon, "mock-agent", &format!("telegram:{ANN}"));
    let send = |kind: &str, fields: Value| {
        let mut message = json!({"chat": ANN, "from": ANN});
        message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        telegram.tell(kind, &message);
    };
    // Several pieces, and a name that leads elsewhere.
    let (caption, content) = (marker(), marker().repeat(20_000));
    assert!(content.len() > 256 << 10);
    send("document", json!({"name": "../../etc/pass\u{202e}wd", "content": content, "caption": caption}));
    wait(&telegram, ANN, &caption);
    let files = came(&home);
    assert_eq!(files.len(), 1, "{:?}", files.iter().map(|(name, _)| name).collect::<Vec<_>>());
    assert!(files[0].1 == content.as_bytes(), "it is whole");
    assert!(!files[0].0.contains("..") && files[0].0.starts_with("1-"), "{}", files[0].0);
    // The agent reads what it is told of.
    let (word, told) = (marker(), marker());
    send("document", json!({"name": "note.txt", "content": word, "caption": told}));
    wait(&telegram, ANN, &told);
    let top = home.state().join("workspaces/mock-agent/attachments");
    let mut messages: Vec<String> = std::fs::read_dir(top)
        .unwrap()
        .map(|message| message.unwrap().file_name().into_string().unwrap())
        .collect();
    messages.sort();
    let path = format!("attachments/{}/1-note.txt", messages[1]);
    let words = format!("tool:read_file {}", json!({"path": path}));
    telegram.tell("text", &json!({"chat": ANN, "from": ANN, "text": words}));
    wait(&telegram, ANN, &format!("tool result: {word}"));
    // A picture, without a word; and nothing, which is a file too.
    send("photo", json!({"name": "p.jpg", "content": "\u{ff}\u{d8}picture"}));
    send("document", json!({"name": "empty.txt", "content": "", "caption": "the empty one"}));
    wait(&telegram, ANN, "the empty one");
    assert_eq!(came(&home).len(), 4);
    // What is too large does not come, and the message does.
    send("document", json!({"name": "large.bin", "size": (20 << 20) + 1, "caption": "too much"}));
    wait(&telegram, ANN, "too much");
    send("document", json!({"name": "most.bin", "size": 20 << 20, "caption": "just so much"}));
    wait(&telegram, ANN, "just so much");
    let files = came(&home);
    assert_eq!((files.len(), files.iter().map(|(_, content)| content.len()).max().unwrap()), (5, 20 << 20));
    // An error of the moment, and a file that the platform does not have: what was said after it waits for it.
    telegram.tell("fault", &json!({"method": "getFile", "kind": "status", "code": 500, "times": 1}));
    send("document", json!({"name": "again.txt", "content": "here", "caption": "with trouble"}));
    let after = marker();
    telegram.tell("text", &json!({"chat": ANN, "from": ANN, "text": after}));
    wait(&telegram, ANN, &after);
    assert!(came(&home).iter().any(|(name, content)| name == "1-again.txt" && content == b"here"));
    let plain = |sent: &Value| sent["plain"].as_str().unwrap().to_owned();
    let sent: Vec<String> = telegram.sent(ANN).iter().map(plain).collect();
    let at = |text: &str| sent.iter().position(|sent| sent.contains(text)).unwrap();
    assert!(at("with trouble") <= at(&after), "{sent:?}");
    assert!(!daemon.log.contains(TOKEN), "the token is in the log");
    // With the conversation its files go; what the agent has of them is the agent's.
    let session = daemon.get("/v1/sessions")["sessions"][0]["id"].as_str().unwrap().to_owned();
    said(ctl(&home, &daemon, &["session", "erase", &session, "--yes"]));
    assert_eq!(came(&home).len(), 6);
    assert!(daemon.stop().success());
}

/// Whoever dies while a file is on its way: it comes, and the message is answered once for all that the platform knows.
#[test]
fn every_crash_point_of_fetching_is_survived() {
    for name in
        ["attach.before_commit", "attach.after_commit", "attach.before_commit@2", "attach.after_commit@2"]
    {
        let (home, telegram) = (Home::new(Build::Faults, User::Root), Telegram::start());
        telegram.chat(ANN);
        let daemon = begin(&home, Runtime::Native, &telegram, None);
        wire(&daemon, ANN, json!({}));
        admit(&daemon, "mock-agent", &format!("telegram:{ANN}"));
        assert!(daemon.stop().success());
        let mut daemon = begin(&home, Runtime::Native, &telegram, Some(&format!("crash={name}")));
        let (caption, content) = (marker(), marker().repeat(10_000));
        telegram.tell(
            "document",
            &json!({"chat": ANN, "from": ANN, "name": "a.txt", "content": content, "caption": caption}),
        );
        daemon.ended();
        drop(daemon);
        assert!(came(&home).is_empty(), "{name}: not before it is whole");
        let daemon = begin(&home, Runtime::Native, &telegram, None);
        wait(&telegram, ANN, &caption);
        let files = came(&home);
        assert_eq!((files.len(), files[0].1 == content.as_bytes()), (1, true), "{name}");
        assert!(daemon.stop().success());
    }
}

/// The files that arrived in a chat, by name and size.
fn arrived(telegram: &Telegram, chat: i64) -> Vec<(String, u64)> {
    let file = |sent: &Value| Some((sent["file_name"].as_str()?.to_owned(), sent["file_size"].as_u64()?));
    telegram.sent(chat).iter().filter_map(file).collect()
}

fn what_the_agent_sends_arrives_once(runtime: Runtime) {
    let (home, telegram) = (Home::new(Build::Faults, User::Root), Telegram::start());
    telegram.chat(ANN);
    let mut daemon = begin(&home, runtime, &telegram, None);
    wire(&daemon, ANN, json!({}));
    admit(&daemon, "mock-agent", &format!("telegram:{ANN}"));
    let say = |text: &str| telegram.tell("text", &json!({"chat": ANN, "from": ANN, "text": text}));
    let tool = |name: &str, input: Value| format!("tool:{name} {input}");
    let content = marker();
    say(&tool("write_file", json!({"path": "out/report.txt", "content": content})));
    wait(&telegram, ANN, "wrote ");
    let asked = say(&tool("send_file", json!({"path": "out/report.txt", "caption": "the report"})));
    wait(&telegram, ANN, "tool result: sent");
    let sent = telegram.sent(ANN);
    let at = |fits: &dyn Fn(&Value) -> bool| sent.iter().position(fits).unwrap();
    let caption = at(&|sent| sent["plain"] == "the report");
    let file = at(&|sent| sent["file_name"] == "report.txt");
    let answer = at(&|sent| sent["plain"].as_str().unwrap().contains("tool result: sent"));
    assert!(caption < file && file < answer, "in order: {sent:?}");
    assert_eq!(sent[caption]["reply_parameters"]["message_id"], asked["message_id"]);
    assert_eq!(arrived(&telegram, ANN), [("report.txt".to_owned(), content.len() as u64)]);
    say(&tool("send_file", json!({"path": "out/none"})));
    wait(&telegram, ANN, "tool result: there is no");
    // More than one ring carries, and whoever dies in the middle.
    let large = 12 << 20;
    let document =
        json!({"chat": ANN, "from": ANN, "name": "large.bin", "size": large, "caption": "keep it"});
    telegram.tell("document", &document);
    wait(&telegram, ANN, "keep it");
    let top = home.state().join("workspaces/mock-agent/attachments");
    let message = std::fs::read_dir(top).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let path = format!("attachments/{message}/1-large.bin");
    for (number, crash) in
        ["", "step.sent.before", "step.sent.after", "ingest.after_commit"].into_iter().enumerate()
    {
        if !crash.is_empty() {
            assert!(daemon.stop().success());
            daemon = begin(&home, runtime, &telegram, Some(&format!("crash={crash}")));
        }
        let mark = format!("take {number}.");
        say(&tool("send_file", json!({"path": path, "caption": mark})));
        if !crash.is_empty() {
            eventually(&format!("{crash} is passed"), || {
                let deaths = daemon.try_metric("ironclaw_sandbox_ends_total{reason=\"died\"}");
                (daemon.has_ended() || deaths.is_some_and(|count| count > 0.0)).then_some(())
            });
            daemon.kill9();
            daemon = begin(&home, runtime, &telegram, None);
        }
        wait(&telegram, ANN, &mark);
        eventually("the file is there", || (arrived(&telegram, ANN).len() >= number + 2).then_some(()));
        let word = marker();
        say(&word);
        wait(&telegram, ANN, &word);
        let all = arrived(&telegram, ANN);
        assert_eq!(all.len(), number + 2, "{crash}: {all:?}");
        assert_eq!(all[number + 1].1, large, "{crash}");
    }
    // Without the tool nothing goes.
    let change =
        crate::hand::submit(&daemon, "enabled_tools", "mock-agent", &json!({"tools": ["write_file"]})).ok();
    assert_eq!(crate::hand::approve(&daemon, &change).status, 200);
    say(&tool("send_file", json!({"path": "out/report.txt"})));
    let word = marker();
    say(&word);
    wait(&telegram, ANN, &word);
    assert_eq!(arrived(&telegram, ANN).len(), 5);
    assert!(daemon.stop().success());
}
