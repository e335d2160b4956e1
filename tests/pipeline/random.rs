//! Kills at random under load: the control plane dies again and again, also while it starts, while people write in three
//! chats of a webhook and in three of Telegram, to two agents, and both now and then refuse and break. Nothing is lost;
//! nothing comes twice where a message has a name of ours, and elsewhere only what was on its way; and each chat has its
//! answers in the order in which it was spoken in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::hand::{approve, submit};
use crate::heard::serve;
use crate::hook::{Hook, Manner};
use crate::world::daemon::lasting_port;
use crate::world::telegram::TOKEN;
use crate::world::{Build, Daemon, Home, Random, Runtime, Serve, Telegram, User, eventually, marker, rounds};

const HOOKED: [(&str, &str); 3] = [("mock-agent", "one"), ("mock-agent", "two"), ("dev-agent", "three")];
const PEOPLE: [(&str, i64); 3] = [("mock-agent", 41), ("mock-agent", 42), ("dev-agent", 43)];

/// Kills between two looks at everything that came.
const LOOK_AFTER: usize = 10;
/// Words of one chat between two kills.
const MOST_WORDS: usize = 8;

/// What somebody said.
struct Said {
    id: String,
    text: String,
    is_taken: bool,
}

impl Said {
    fn new() -> Said {
        Said { id: marker(), text: marker(), is_taken: false }
    }
}

struct Load {
    home: Home,
    hook: Hook,
    telegram: Telegram,
    ingress: std::net::SocketAddr,
    /// By chat of the webhook, and by chat of Telegram.
    hooked: Vec<Vec<Said>>,
    people: Vec<Vec<Said>>,
}

impl Load {
    fn serve(&self) -> Serve<'_> {
        serve(&self.home, Runtime::Native, &self.hook, self.ingress)
            .env("TELEGRAM_BOT_TOKEN", TOKEN)
            .env("TELEGRAM_API_BASE", self.telegram.base())
    }

    /// Everybody speaks until it is over.
    fn speak(&mut self, over: &AtomicBool, pause: Duration, daemon: &mut Daemon) {
        let (hook, telegram, ingress) = (&self.hook, &self.telegram, self.ingress);
        std::thread::scope(|scope| {
            for ((_, chat), said) in HOOKED.iter().zip(&mut self.hooked) {
                scope.spawn(move || {
                    for _ in 0..MOST_WORDS {
                        if over.load(Ordering::Relaxed) || !say(hook, ingress, chat, said) {
                            return;
                        }
                    }
                });
            }
            let people = &mut self.people;
            scope.spawn(move || {
                for _ in 0..MOST_WORDS / 2 {
                    for ((_, chat), said) in PEOPLE.iter().zip(people.iter_mut()) {
                        let new = Said::new();
                        telegram.tell("text", &json!({"chat": chat, "from": chat, "text": new.text}));
                        said.push(new);
                    }
                }
            });
            // A kill at no moment that anybody chose.
            std::thread::sleep(pause);
            daemon.kill9();
            over.store(true, Ordering::Relaxed);
        });
    }

    /// Lets everything come that is to come, and looks at it. Gives how often something came again at the webhook and at
    /// Telegram.
    #[track_caller]
    fn look(&mut self, kills: usize) -> (usize, usize) {
        let daemon = self.serve().ready();
        for ((_, chat), said) in HOOKED.iter().zip(&mut self.hooked) {
            let all_taken = said.last().is_none_or(|last| last.is_taken);
            assert!(all_taken || say(&self.hook, self.ingress, chat, said), "{chat} is not heard");
        }
        eventually("all is accepted", || (self.telegram.state()["waiting"] == 0).then_some(()));
        daemon.rests();
        assert!(daemon.stop().success());
        let (mut again, mut twice) = (0, 0);
        for ((_, chat), said) in HOOKED.iter().zip(&self.hooked) {
            let taken = self.hook.taken(chat);
            again += taken.iter().map(|taken| taken.times as usize - 1).sum::<usize>();
            let texts: Vec<String> = taken.into_iter().map(|taken| taken.text).collect();
            compare(chat, said, &texts);
        }
        for ((_, chat), said) in PEOPLE.iter().zip(&self.people) {
            let sent = self.telegram.sent(*chat);
            let mut texts: Vec<String> =
                sent.iter().map(|sent| sent["plain"].as_str().unwrap().to_owned()).collect();
            // What was on its way at a kill comes again before anything else does.
            texts.dedup();
            let doubled = sent.len() - texts.len();
            assert!(doubled <= kills, "{doubled} came twice in {chat} over {kills} kills");
            twice += doubled;
            compare(&chat.to_string(), said, &texts);
        }
        assert_eq!(self.hook.unsigned(), 0);
        (again, twice)
    }
}

/// Says the next thing, or the last again if nobody took it; gives whether somebody did.
fn say(hook: &Hook, ingress: std::net::SocketAddr, chat: &str, said: &mut Vec<Said>) -> bool {
    if said.last().is_none_or(|last| last.is_taken) {
        said.push(Said::new());
    }
    let last = said.last_mut().unwrap();
    let body = json!({"text": last.text, "chat": chat});
    if let Ok(answer) = hook.try_say(ingress, "/hooks/webhook", &last.id, &body) {
        assert_eq!(answer.status, 202, "{}", answer.text());
        last.is_taken = true;
    }
    last.is_taken
}

/// Each thing that was said is in one answer, in order, and nothing else came.
#[track_caller]
fn compare(chat: &str, said: &[Said], answers: &[String]) {
    let is_marker = |word: &&str| word.len() == 17 && word.starts_with('m');
    let words = |answer: &'_ String| -> Vec<String> {
        let words = answer.split(|c: char| !c.is_ascii_alphanumeric());
        words.filter(is_marker).map(str::to_owned).collect()
    };
    let other: Vec<&String> = answers.iter().filter(|answer| words(answer).is_empty()).collect();
    assert!(other.is_empty(), "in {chat} came also {other:?}");
    let heard: Vec<String> = answers.iter().flat_map(words).collect();
    let said: Vec<&String> = said.iter().map(|said| &said.text).collect();
    let same = heard.iter().zip(&said).take_while(|(heard, said)| heard == *said).count();
    let of = |count: usize| format!("{same} are as they were said; {count}");
    assert!(
        same == heard.len() && same == said.len(),
        "in {chat} {} were said and {} answered; next was said {:?} and answered {:?}",
        of(said.len()),
        heard.len(),
        said.iter().skip(same).take(3).collect::<Vec<_>>(),
        heard.iter().skip(same).take(3).collect::<Vec<_>>(),
    );
}

#[track_caller]
fn wire(daemon: &Daemon, channel: &str, agent: &str, chat: &str) {
    let wiring = json!({"channel": channel, "chat": chat, "senders": "anyone"});
    let change = submit(daemon, "wiring", agent, &json!({"add": [wiring]})).ok();
    assert_eq!(approve(daemon, &change).status, 200, "{change}");
}

#[test]
fn nothing_is_lost_or_doubled_whenever_it_is_killed() {
    let mut random = Random::of_run();
    let mut load = Load {
        home: Home::new(Build::Release, User::Root),
        hook: Hook::start(),
        telegram: Telegram::start(),
        // One that nobody else is given while it is dead.
        ingress: ([127, 0, 0, 1], lasting_port()).into(),
        hooked: HOOKED.iter().map(|_| Vec::new()).collect(),
        people: PEOPLE.iter().map(|_| Vec::new()).collect(),
    };
    let daemon = load.serve().ready();
    for (agent, chat) in HOOKED {
        wire(&daemon, "webhook", agent, chat);
    }
    for (agent, chat) in PEOPLE {
        load.telegram.chat(chat);
        wire(&daemon, "telegram", agent, &chat.to_string());
    }
    assert!(daemon.stop().success());
    let kills = rounds();
    let (mut again, mut twice) = (0, 0);
    for round in 1..=kills {
        if round % LOOK_AFTER == 1 {
            for (_, chat) in HOOKED {
                load.hook
                    .next(chat, &[[Manner::Status(503), Manner::Drop][random.below(2) as usize].clone()]);
            }
            let chat = PEOPLE[random.below(3) as usize].1;
            let kind = ["status", "disconnect"][random.below(2) as usize];
            let fault = json!({"kind": kind, "code": 502, "method": "sendMessage", "chat": chat});
            load.telegram.tell("fault", &fault);
        }
        // One in four dies before it is ready.
        let is_awaited = random.below(4) > 0;
        let pause = Duration::from_millis(random.below(300));
        let mut daemon = if is_awaited { load.serve().ready() } else { load.serve().start() };
        load.speak(&AtomicBool::new(false), pause, &mut daemon);
        if round % LOOK_AFTER == 0 || round == kills {
            (again, twice) = load.look(round);
        }
    }
    let count = |said: &[Vec<Said>]| said.iter().map(Vec::len).sum::<usize>();
    println!(
        "{kills} kills: {} messages of the webhook, of whose answers {again} came again under their names; {} of \
         Telegram, of whose answers {twice} came twice",
        count(&load.hooked),
        count(&load.people)
    );
}
