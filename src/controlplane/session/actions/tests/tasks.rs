//! Tests of what agents schedule: whose it is, how much of it there may be, and that a call that comes again schedules
//! once; and of what becomes of it when its time comes.

use super::*;
use crate::contract::ids::TaskId;
use crate::controlplane::schedule::tasks::{Fired, MOST_A_DAY, MOST_OF_AGENT, fire, give_up};
use crate::controlplane::store::tasks::{self as kept, State, Task};
use crate::controlplane::store::{destinations, secrets};

const HOURLY: &str = r#"{"prompt":"look","every":"hourly"}"#;

fn text<'a>(outcome: &'a Outcome, name: &str) -> &'a str {
    assert!(outcome.ok, "{outcome:?}");
    outcome.result.get(name).and_then(Value::as_str).unwrap()
}

impl World {
    fn schedule(&self, session: &SessionId, call: &str, arguments: &str) -> Outcome {
        self.act(session, "schedule_task", call, arguments)
    }

    fn task(&self, outcome: &Outcome) -> Task {
        let id = TaskId::parse(text(outcome, "id")).unwrap();
        self.write(move |tx| kept::get(tx, &id)).unwrap()
    }

    fn listed(&self, session: &SessionId) -> Vec<String> {
        let outcome = self.act(session, "list_tasks", "l", "{}");
        assert!(outcome.ok, "{outcome:?}");
        let all = outcome.result.get("tasks").and_then(Value::as_array).unwrap();
        all.iter().map(|task| task.get("id").and_then(Value::as_str).unwrap().to_owned()).collect()
    }

    /// What becomes of everything that is due then.
    fn at(&self, now: Millis) -> Vec<Fired> {
        let keyring = self.desk.keyring.clone();
        self.write(move |tx| {
            kept::due(tx, now, 100)?.iter().map(|task| fire(tx, &keyring, task, now)).collect()
        })
    }

    fn said(&self, session: &SessionId) -> Vec<inbox::OpenMessage> {
        let (keyring, session) = (self.desk.keyring.clone(), session.clone());
        let room = inbox::PageRoom { rows: 1000, bytes: usize::MAX, attached: u64::MAX };
        let all = self.write(move |tx| inbox::open_messages(tx, &keyring, &session, 0, room)).open;
        all.into_iter().filter(|open| open.message.kind == InboundKind::Task).collect()
    }
}

#[test]
fn a_task_is_the_conversations_own_and_a_call_that_comes_again_schedules_once() {
    let world = World::new();
    let (session, other) = (world.session("a"), world.session("b"));
    let made = world.schedule(&session, "1", r#"{"prompt":"x","cron":"0 9 * * 1-5","zone":"Europe/Berlin"}"#);
    let id = text(&made, "id").to_owned();
    assert_eq!(text(&made, "schedule"), "0 9 * * 1-5 Europe/Berlin");
    let next = made.result.get("next").and_then(Value::as_array).unwrap();
    assert_eq!(next.len(), 3);
    assert!(next[0].get("local").and_then(Value::as_str).unwrap().contains("T09:00:00+0"), "{next:?}");
    let again =
        world.schedule(&session, "1", r#"{"prompt":"x","cron":"0 9 * * 1-5","zone":"Europe/Berlin"}"#);
    assert_eq!(again, made);
    assert!(why(&world.schedule(&session, "1", HOURLY)).starts_with("call_reused"));
    assert_eq!((world.listed(&session), world.listed(&other)), (vec![id.clone()], vec![]));
    // Somebody else's task is none, whatever is wanted of it.
    for action in ["update_task", "pause_task", "resume_task", "cancel_task"] {
        let told = why(&world.act(&other, action, action, &format!(r#"{{"task":"{id}"}}"#)));
        assert!(told.starts_with("no_task"), "{action}: {told}");
        let told = why(&world.act(&session, action, action, r#"{"task":"tsk_1"}"#));
        assert!(told.starts_with("no_task"), "{action}: {told}");
    }
    let about =
        |action: &str, call: &str| world.act(&session, action, call, &format!(r#"{{"task":"{id}"}}"#));
    assert_eq!(text(&about("pause_task", "2"), "state"), "paused");
    assert_eq!(text(&about("pause_task", "3"), "state"), "paused", "twice is once");
    assert_eq!(text(&about("resume_task", "4"), "state"), "active");
    let update = format!(r#"{{"task":"{id}","prompt":"y","zone":"Asia/Tokyo"}}"#);
    let updated = world.act(&session, "update_task", "5", &update);
    assert_eq!((text(&updated, "schedule"), text(&updated, "prompt")), ("0 9 * * 1-5 Asia/Tokyo", "y"));
    assert_eq!(text(&about("cancel_task", "6"), "state"), "cancelled");
    assert_eq!(text(&about("cancel_task", "7"), "state"), "cancelled");
    assert!(why(&about("resume_task", "8")).starts_with("over"));
    assert_eq!(world.listed(&session), Vec::<String>::new());
    // What the audit has of it: that it was made and ended, and by whom.
    let acts = world.write(|tx| {
        let mut query = tx.prepare("SELECT line FROM audit ORDER BY seq")?;
        let lines: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(lines)
    });
    assert_eq!(acts.len(), 2, "{acts:?}");
    assert!(acts[0].contains("task.created") && acts[0].contains("agent:a") && !acts[0].contains("\"x\""));
    assert!(acts[1].contains("task.cancelled"));
}

#[test]
fn what_is_wrong_is_refused_and_keeps_nothing() {
    let world = World::new();
    let (session, none) = (world.session("a"), world.session("none"));
    let long = format!(r#"{{"prompt":"{}","every":"1h"}}"#, "x".repeat(8193));
    for (arguments, said) in [
        (r#"{"prompt":" ","every":"1h"}"#, "prompt"),
        (long.as_str(), "8192 bytes"),
        (r#"{"every":"1h"}"#, "prompt is missing"),
        (r#"{"prompt":"x"}"#, "one of at"),
        (r#"{"prompt":"x","every":"59s"}"#, "one minute"),
        (r#"{"prompt":"x","every":"1h","session":"ses_1"}"#, "session"),
    ] {
        let told = why(&world.schedule(&session, said, arguments));
        assert!(told.starts_with("refused: ") && told.contains(said), "{arguments}: {told}");
    }
    for action in ["schedule_task", "list_tasks", "update_task", "pause_task", "resume_task", "cancel_task"] {
        let told = why(&world.act(&none, action, action, HOURLY));
        assert!(told.starts_with("not_granted"), "{action}: {told}");
    }
    let arguments = json::parse(HOURLY.as_bytes()).unwrap();
    let action = Action { name: "schedule_task".into(), call: "u".into(), arguments };
    let told = why(&world.send(&session, vec![action.encode().into_bytes()], Some("no disk")).remove(0));
    assert!(told.starts_with("audit_unavailable"), "{told}");
    assert_eq!(world.listed(&session), Vec::<String>::new());
}

#[test]
fn an_agent_has_so_many_tasks_and_makes_so_many_in_a_day() {
    let world = World::new();
    let session = world.session("a");
    let mut made = Vec::new();
    for number in 0..MOST_OF_AGENT {
        made.push(text(&world.schedule(&session, &number.to_string(), HOURLY), "id").to_owned());
    }
    assert!(why(&world.schedule(&session, "more", HOURLY)).starts_with("too_many_tasks"));
    // The same call again is no further task.
    assert_eq!(text(&world.schedule(&session, "0", HOURLY), "id"), made[0]);
    for id in made {
        world.act(&session, "cancel_task", &id, &format!(r#"{{"task":"{id}"}}"#));
    }
    for number in MOST_OF_AGENT..MOST_A_DAY {
        let made = text(&world.schedule(&session, &number.to_string(), HOURLY), "id").to_owned();
        world.act(&session, "cancel_task", &made, &format!(r#"{{"task":"{made}"}}"#));
    }
    assert!(why(&world.schedule(&session, "more", HOURLY)).starts_with("too_often"));
    let yesterday = Millis::now().0 - 86_400_001;
    world.write(move |tx| Ok(tx.execute("UPDATE tasks SET created_at = ?1", [yesterday])?));
    assert!(world.schedule(&session, "more", HOURLY).ok);
}

#[test]
fn a_run_is_made_once_and_what_was_missed_is_one_run() {
    let world = World::new();
    let session = world.session("a");
    let task = world.task(&world.schedule(&session, "1", r#"{"prompt":"look","every":"hourly","count":3}"#));
    let due = task.times.due.unwrap();
    assert_eq!(world.at(Millis(due.0 - 1)), []);
    let late = Millis(due.0 + 5 * 3_600_000 + 7);
    let fired = world.at(late);
    assert!(matches!(fired.as_slice(), [Fired::Ran(_)]), "{fired:?}");
    assert_eq!(world.at(late), [], "once");
    let said = world.said(&session);
    assert_eq!(said.len(), 1);
    let message = &said[0].message;
    assert_eq!((message.text.as_str(), message.sender_id.as_str()), ("look", "system:schedule"));
    assert_eq!((message.sender_name.as_str(), message.engage), (task.id.as_str(), true));
    assert_eq!((message.channel.as_str(), message.chat.as_str()), ("api", "main"));
    // While that is not answered no other run is made, and its time passes.
    let next = Millis(due.0 + 6 * 3_600_000);
    assert_eq!(world.at(next), [Fired::Skipped]);
    let (id, asked) = (session.clone(), message.id.clone());
    world.write(move |tx| inbox::fail(tx, &id, &asked, "given up"));
    assert!(matches!(world.at(Millis(next.0 + 3_600_000)).as_slice(), [Fired::Ran(_)]));
    let (id, all) = (session.clone(), world.said(&session));
    world.write(move |tx| inbox::fail(tx, &id, &all[0].message.id, "given up"));
    assert!(matches!(world.at(Millis(next.0 + 2 * 3_600_000)).as_slice(), [Fired::Ran(_)]));
    let id = task.id.clone();
    let over = world.write(move |tx| kept::get(tx, &id)).unwrap();
    assert_eq!((over.state, over.runs, over.times.due), (State::Done, 3, None));
    assert_eq!(world.write(|tx| kept::next_due(tx)), None);
}

#[test]
fn no_run_makes_the_next_one_come_at_once() {
    let world = World::new();
    let session = world.session("a");
    let task = world.task(&world.schedule(&session, "1", HOURLY));
    let now = Millis::now();
    let id = task.id.clone();
    world.write(move |tx| kept::put_off(tx, &id, now));
    assert!(matches!(world.at(now).as_slice(), [Fired::Ran(_)]));
    let update = |call: &str, at: Millis| {
        let fields = format!(r#"{{"task":"{}","at":"{at}"}}"#, task.id);
        world.act(&session, "update_task", call, &fields)
    };
    for (call, at) in [("2", now), ("3", Millis(now.0 + 59_000))] {
        assert!(why(&update(call, at)).contains("is the earliest"), "{at}");
    }
    assert!(update("4", Millis(now.0 + 61_000)).ok);
}

#[test]
fn a_run_that_may_not_be_made_ends_or_pauses_the_task_and_says_why() {
    let far = Millis(Millis::now().0 + 40 * 86_400_000);
    let ends = |session: &str, does: fn(&World, &SessionId, &Task)| {
        let world = World::new();
        let session = world.session(session);
        let task = world.task(&world.schedule(&session, "1", HOURLY));
        does(&world, &session, &task);
        let fired = world.at(far);
        let id = task.id.clone();
        let found = world.write(move |tx| kept::get(tx, &id)).unwrap();
        assert_eq!(world.said(&session).len(), 0);
        (fired, found.state, found.reason)
    };
    let (fired, state, reason) = ends("a", |world, _, _| {
        world.write(|tx| groups::set_tools(tx, &group("a"), &Tools::None));
    });
    assert!(matches!(fired.as_slice(), [Fired::Ended(_)]), "{fired:?}");
    assert_eq!((state, reason.unwrap().as_str()), (State::Paused, "the agent may not schedule any more"));
    let (fired, state, reason) = ends("a", |world, _, _| {
        world.write(|tx| groups::delete(tx, &group("a")));
    });
    assert!(matches!(fired.as_slice(), [Fired::Ended(_)]), "{fired:?}");
    assert_eq!((state, reason.unwrap().as_str()), (State::Cancelled, "the agent was deleted"));
    let (fired, state, reason) = ends("a", |world, session, _| {
        let session = session.clone();
        world.write(move |tx| secrets::erase(tx, &session));
    });
    assert_eq!(fired, [], "erasing a conversation ended it");
    assert_eq!((state, reason.unwrap().as_str()), (State::Cancelled, "the conversation was erased"));
    let (fired, state, reason) = ends("a", |world, _, task| {
        let id = task.id.clone();
        world.write(move |tx| {
            Ok(tx.execute("UPDATE tasks SET channel = 'telegram' WHERE id = ?1", [id.as_str()])?)
        });
    });
    assert!(matches!(fired.as_slice(), [Fired::Ended(_)]), "{fired:?}");
    assert_eq!(
        (state, reason.unwrap().as_str()),
        (State::Cancelled, "the agent was taken away from that chat")
    );
    let (_, state, reason) = ends("a", |world, _, task| {
        let id = task.id.clone();
        world.write(move |tx| {
            Ok(tx.execute("UPDATE tasks SET recurrence = 'fortnightly' WHERE id = ?1", [id.as_str()])?)
        });
    });
    assert_eq!((state, reason.unwrap().as_str()), (State::Paused, "its times are those of another version"));
    let (_, state, reason) = ends("a", |world, _, task| {
        let task = task.clone();
        world.write(move |tx| give_up(tx, &task));
    });
    assert!(state == State::Paused && reason.unwrap().contains("the log"));
    // A row that does not read holds up no other.
    let world = World::new();
    let session = world.session("a");
    let broken = world.task(&world.schedule(&session, "1", HOURLY)).id;
    world.schedule(&session, "2", HOURLY);
    world.write(move |tx| {
        tx.execute("PRAGMA ignore_check_constraints = ON", [])?;
        Ok(tx.execute(
            "UPDATE tasks SET session = session, last_message = 'x' WHERE id = ?1",
            [broken.as_str()],
        )?)
    });
    let fired = world.at(far);
    assert!(matches!(fired.as_slice(), [Fired::Ran(_)]), "{fired:?}");
    assert_eq!(world.write(move |tx| Ok(kept::due(tx, far, 9)?.len())), 0);
}

#[test]
fn a_chat_of_a_platform_is_reached_by_a_wiring_or_a_destination() {
    let world = World::new();
    world.session("a");
    let place = Place {
        channel: "webhook".into(),
        instance: String::new(),
        chat: "ops".into(),
        thread: Some("t".into()),
    };
    let reaches = |world: &World| {
        let place = place.clone();
        world.write(move |tx| crate::controlplane::schedule::tasks::reaches(tx, &group("a"), &place))
    };
    assert!(!reaches(&world));
    world.write(|tx| {
        let target = destinations::Target {
            display_name: String::new(),
            channel: "webhook".into(),
            instance: "other".into(),
            chat: "ops".into(),
            thread: None,
        };
        destinations::put(tx, &group("a"), "ops", &target)
    });
    assert!(!reaches(&world), "another account's chat is another chat");
    world.write(|tx| {
        let terms = wirings::Terms {
            engage: "all".into(),
            pattern: None,
            senders: "members".into(),
            unknown: "strict".into(),
            ignored: "drop".into(),
            sessions: "shared".into(),
        };
        wirings::put(tx, &group("a"), ("webhook", "", "ops"), &terms)
    });
    assert!(reaches(&world));
}
