//! A day with an agent, as a person on Telegram has it: an answer, a question with buttons, something every weekday, a word
//! to another agent; each in its topic. Right before each step the control plane is killed, and at once after it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::hand::{approve, submit};
use crate::heard::admit;
use crate::telegram::{self, ANN};
use crate::world::http::{Events, Request};
use crate::world::{Build, Daemon, Home, Random, Runtime, Telegram, User, eventually, marker, rounds};

crate::world::boxes::in_both_back_ends!(
    every_step_with_an_agent_survives_a_kill_before_and_after_it,
    what_was_said_to_nobody_is_heard_once,
);

const GROUP: i64 = -1001;
const TOPIC: i64 = 55;

/// Deaths of each step at moments that nobody chose.
const KILLS: usize = 3;

/// When the person does something.
enum When {
    /// The control plane was just started again.
    Running,
    /// It is dead.
    Dead,
    /// It runs, and dies several times at moments that nobody chose.
    Chance(Random),
}

impl When {
    /// Deaths of each step at which something can be on its way to Telegram: when it is accepted, when it is seen, and between.
    fn in_flight(&self) -> usize {
        match self {
            When::Running | When::Dead => 2,
            When::Chance(_) => 2 + KILLS,
        }
    }
}

struct Scene<'a> {
    when: When,
    home: &'a Home,
    telegram: &'a Telegram,
    runtime: Runtime,
    daemon: Daemon,
    steps: usize,
}

impl Scene<'_> {
    #[track_caller]
    fn starts(&mut self) {
        self.daemon = telegram::serve(self.home, self.runtime, self.telegram).ready();
    }

    /// The control plane dies, somebody does this, and it dies again as soon as Telegram need not tell it any more, and once
    /// more as soon as what comes of it is seen. Gives what is seen.
    #[track_caller]
    fn step(&mut self, act: impl FnOnce(&Telegram), seen: &str) -> Value {
        self.daemon.rests();
        self.daemon.kill9();
        if matches!(self.when, When::Dead) {
            act(self.telegram);
            self.starts();
        } else {
            self.starts();
            act(self.telegram);
        }
        for _ in 0..KILLS {
            let When::Chance(random) = &mut self.when else { break };
            std::thread::sleep(Duration::from_millis(random.below(120)));
            self.daemon.kill9();
            self.starts();
        }
        eventually("it is accepted", || (self.telegram.state()["waiting"] == 0).then_some(()));
        self.daemon.kill9();
        self.starts();
        let seen = telegram::wait(self.telegram, GROUP, seen);
        self.daemon.kill9();
        self.starts();
        assert_eq!(seen["message_thread_id"], TOPIC, "{seen}");
        self.steps += 1;
        seen
    }

    /// [`Self::step`], where what is done is to say something in the topic.
    #[track_caller]
    fn say(&mut self, text: &str, seen: &str) -> Value {
        let said = json!({"chat": GROUP, "from": ANN, "thread": TOPIC, "text": text, "mention": true});
        self.step(|telegram| drop(telegram.tell("text", &said)), seen)
    }

    /// Everything that was said in all conversations, as the ledger has it, up to the answer to these words.
    #[track_caller]
    fn told(&self, last: &str) -> Vec<Value> {
        let token = self.daemon.token();
        let request = Request::get("/v1/events?topics=chat&after=a0.c0").token(&token);
        let (mut events, mut all) = (Events::open(request, self.daemon.address), Vec::new());
        loop {
            let event = events.next().expect("the stream goes on");
            let entry: Value = serde_json::from_str(&event.data).unwrap();
            let is_last = entry["direction"] == "out" && entry["text"] == answer(last);
            all.push(entry);
            if is_last {
                return all;
            }
        }
    }
}

/// What the mock agent says to this.
fn answer(text: &str) -> String {
    format!("mock-agent received: {text}")
}

fn tool(name: &str, input: &Value) -> String {
    format!("tool:{name} {input}")
}

/// Makes the agent `helper`, and lets the other one write to it.
#[track_caller]
fn helper(daemon: &Daemon) {
    let own = json!({"provider": "mock", "model": "mock", "tools": "none"});
    let to = json!({"destinations": [{"name": "helper", "kind": "agent", "agent_group": "helper"}]});
    for (kind, agent, payload) in [("create_agent", "helper", own), ("wiring", "mock-agent", to)] {
        let change = submit(daemon, kind, agent, &payload).ok();
        assert_eq!(approve(daemon, &change).status, 200, "{change}");
    }
}

fn every_step_with_an_agent_survives_a_kill_before_and_after_it(runtime: Runtime) {
    play(runtime, When::Running);
}

/// The same, where each step is taken while the control plane is dead.
fn what_was_said_to_nobody_is_heard_once(runtime: Runtime) {
    play(runtime, When::Dead);
}

/// The same, with more deaths while each step is on its way.
#[test]
fn a_day_goes_on_whenever_it_is_killed() {
    let mut random = Random::of_run();
    for _ in 0..rounds().div_ceil(10) {
        play(Runtime::Native, When::Chance(Random(random.below(u64::MAX))));
    }
}

fn play(runtime: Runtime, when: When) {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    telegram.tell("chat", &json!({"id": GROUP, "topics": [TOPIC, 77]}));
    let daemon = telegram::serve(&home, runtime, &telegram).ready();
    telegram::wire(&daemon, GROUP, json!({"engage": "mention", "sessions": "per-thread"}));
    admit(&daemon, "mock-agent", &format!("telegram:{ANN}"));
    helper(&daemon);
    let mut scene = Scene { when, home: &home, telegram: &telegram, runtime, daemon, steps: 0 };
    // A word and its answer.
    let word = marker();
    scene.say(&word, &word);
    // A question, and a press.
    let asked = marker();
    let input = json!({"question": asked, "options": ["Tea", "Coffee"]});
    let shown = scene.say(&tool("ask_user_question", &input), &asked);
    let press = json!({"chat": GROUP, "message_id": shown["message_id"], "from": ANN, "text": "2. Coffee"});
    scene.step(|telegram| drop(telegram.tell("click", &press)), "The answer: Coffee");
    // Every weekday at nine: scheduled, listed, cancelled.
    let daily = json!({"prompt": "stand up", "cron": "0 9 * * 1-5", "zone": "Europe/Berlin"});
    scene.say(&tool("schedule_task", &daily), "active, 0 9 * * 1-5 Europe/Berlin; next 2");
    let tasks = |scene: &Scene<'_>, state: &str| {
        scene.daemon.get(&format!("/v1/tasks?state={state}"))["tasks"].as_array().unwrap().clone()
    };
    let live = tasks(&scene, "live");
    assert_eq!((live.len(), &live[0]["thread"]), (1, &json!(TOPIC.to_string())), "{live:?}");
    for run in live[0]["next"].as_array().unwrap() {
        assert!(run["local"].as_str().unwrap().contains("T09:00:00+0"), "{run}");
    }
    let id = live[0]["id"].as_str().unwrap();
    let listed = scene.say(&tool("list_tasks", &json!({})), &format!("tool result: {id}: active"));
    assert!(listed["plain"].as_str().unwrap().contains("asks: stand up"), "{listed}");
    scene.say(&tool("cancel_task", &json!({"task": id})), &format!("tool result: {id}: cancelled"));
    assert_eq!((tasks(&scene, "live").len(), tasks(&scene, "cancelled").len()), (0, 1));
    // A word to another agent, whose answer the person hears.
    let letter = marker();
    let heard = answer(&answer(&letter));
    scene.say(&tool("send_message", &json!({"text": letter, "to": "helper"})), &heard);
    let last = marker();
    scene.say(&last, &last);
    scene.daemon.rests();

    // What the ledger has is there once, whatever was killed when: each message, and each answer.
    let told = scene.told(&last);
    let of = |direction: &str| -> Vec<&str> {
        let entries = told.iter().filter(|entry| entry["direction"] == direction);
        entries.map(|entry| entry["text"].as_str().unwrap()).collect()
    };
    let with = |direction: &str, text: &str| of(direction).iter().filter(|said| said.contains(text)).count();
    assert_eq!((of("in").len(), of("out").len()), (10, 11), "{told:#?}");
    assert_eq!((of("notice").len(), with("in", "The answer: Coffee")), (0, 1), "{told:#?}");
    for text in [&word, &last, &heard] {
        assert_eq!(with("out", text), 1, "{text}: {told:#?}");
    }
    assert_eq!(of("in").iter().filter(|said| **said == letter).count(), 1, "the other agent has one letter");
    let questions = |state: &str| {
        let found = scene.daemon.get(&format!("/v1/questions?state={state}"));
        found["questions"].as_array().unwrap().len()
    };
    assert_eq!((questions("open"), questions("answered")), (0, 1));
    assert_eq!(scene.daemon.get("/v1/audit/verify")["ok"], true);
    // Telegram has each too; it knows no name of ours for a message, so that the one that was under way at a kill may be
    // there twice.
    let sent = telegram.sent(GROUP);
    let said = |sent: &'_ Value| {
        let text = sent["plain"].as_str().unwrap();
        // Of two the one that the ledger knows may say what came of it.
        if text.starts_with(&asked) { asked.clone() } else { text.to_owned() }
    };
    let mut once: Vec<String> = sent.iter().map(said).collect();
    once.sort_unstable();
    once.dedup();
    // The other agent's answer is for the one that asked.
    assert_eq!(once.len(), 10, "{sent:#?}");
    let (twice, most) = (sent.len() - once.len(), scene.when.in_flight() * scene.steps);
    assert!(twice <= most, "{twice} came twice over {most} kills: {sent:#?}");
    assert!(sent.iter().all(|sent| sent["message_thread_id"] == TOPIC), "{sent:#?}");
    // The question that the ledger knows is the last one, where it came twice.
    let question = sent.iter().rev().find(|sent| sent["plain"].as_str().unwrap().contains(&asked));
    assert!(question.unwrap()["reply_markup"].is_null(), "{question:?}");
    println!("{} steps, {} messages, {twice} twice", scene.steps, once.len());
    assert!(scene.daemon.stop().success());
}
