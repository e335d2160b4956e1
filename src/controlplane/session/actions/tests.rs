//! Tests of actions over a real ledger: what a sandbox may ask, and that it may do nothing else.

mod fuzz;
mod questions;
mod tasks;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Asked, TABLE, execute};
use crate::contract::action::{Action, Outcome};
use crate::contract::catalogue;
use crate::contract::ids::{ChangeId, GroupName, MessageId, SessionId, UserId};
use crate::contract::inbound::InboundKind;
use crate::contract::json::{self, JsonError, Value};
use crate::contract::time::Millis;
use crate::controlplane::audit::Audit;
use crate::controlplane::gateway::decide::{self, Decide, NotDecided, Verdict};
use crate::controlplane::gateway::desk::Desk;
use crate::controlplane::gateway::facts::Facts;
use crate::controlplane::gateway::policy::Policy;
use crate::controlplane::gateway::submit::{MOST_A_DAY, MOST_BYTES_A_DAY, MOST_PENDING};
use crate::controlplane::grants::Host;
use crate::controlplane::keys::{self, FileMaster};
use crate::controlplane::principals::Principal;
use crate::controlplane::state::{StateDir, Wall};
use crate::controlplane::store::changes::{self, Change, State};
use crate::controlplane::store::groups::{self, NewGroup, Tools};
use crate::controlplane::store::inbox::{self, NewInbound};
use crate::controlplane::store::roles::{self, Role};
use crate::controlplane::store::sessions::{Partition, Place};
use crate::controlplane::store::{
    Ledger, Step, StoreError, audit, calls, members, summaries, users, wirings,
};

struct World {
    ledger: Ledger,
    desk: Desk,
    path: std::path::PathBuf,
    _state: StateDir,
}

impl Drop for World {
    fn drop(&mut self) {
        smol::block_on(self.desk.audit.stop());
        self.ledger.stop();
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn group(name: &str) -> GroupName {
    GroupName::parse(name).unwrap()
}

fn owner() -> Principal {
    Principal::of("local:owner")
}

fn asked(cause: Option<MessageId>, action: Result<Action, JsonError>) -> Asked {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    Asked { number: (1, NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed)), cause, action }
}

impl World {
    fn new() -> Self {
        Self::with(Policy::default())
    }

    fn with(policy: Policy) -> Self {
        let path = std::env::temp_dir().join(format!("actions-{}", SessionId::mint()));
        std::fs::create_dir(&path).unwrap();
        let state = StateDir::claim(&path.join("state"), Wall::OrdinaryUser).unwrap();
        let keyring = keys::open(&state, &FileMaster::at(state.join("master.key"))).unwrap();
        let ledger = Ledger::open(&state, &keyring).unwrap();
        let audit = Audit::start(ledger.clone(), state.path()).unwrap();
        let desk =
            Desk::new(audit, keyring, Arc::new(policy), Arc::new(Host::with(state.path(), &[])), 60_000);
        let world = Self { ledger, desk, path, _state: state };
        world.write(|tx| {
            owner().introduce(tx)?;
            roles::grant(tx, &owner().user, Role::Owner, None)?;
            let none = ("none", Tools::None);
            for (name, tools) in [("a", Tools::All), ("b", Tools::All), none] {
                let (provider, model) = ("mock".to_owned(), "mock".to_owned());
                groups::ensure(
                    tx,
                    &NewGroup { name: group(name), title: name.into(), provider, model, tools },
                )?;
            }
            Ok(())
        });
        world
    }

    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> T {
        self.ledger.write_blocking(Step::Other, work).unwrap()
    }

    /// A session of an agent.
    fn session(&self, agent: &str) -> SessionId {
        let (keyring, agent) = (self.desk.keyring.clone(), group(agent));
        let place =
            Place { channel: "api".into(), instance: String::new(), chat: "main".into(), thread: None };
        self.write(move |tx| {
            let message = NewInbound {
                partition: Partition { group: agent, place: place.clone() },
                place,
                event_id: SessionId::mint().to_string(),
                kind: InboundKind::Chat,
                engage: true,
                sender_id: "local:owner".into(),
                sender_name: String::new(),
                text: "x".into(),
                in_reply_to: None,
                source_session: None,
                hop: 0,
                platform_message: None,
            };
            inbox::accept(tx, &keyring, &message)
        })
        .session
    }

    fn send(
        &self,
        session: &SessionId,
        envelopes: Vec<Vec<u8>>,
        unavailable: Option<&'static str>,
    ) -> Vec<Outcome> {
        let (desk, session) = (self.desk.clone(), session.clone());
        self.write(move |tx| {
            let cause = inbox::open_ids(tx, &session)?.into_iter().next();
            let answer = |envelope: Vec<u8>| {
                let action = Action::parse(&envelope);
                let super::Answer { outcome, refused, .. } =
                    execute(tx, &desk, &session, unavailable, asked(cause.clone(), action))?;
                // Whatever is refused is counted in the audit, by the word that the agent is told.
                let told = (!outcome.ok).then(|| why(&outcome).split(':').next().unwrap().to_owned());
                assert_eq!(refused.map(|refused| refused.why.to_owned()), told);
                Ok(outcome)
            };
            envelopes.into_iter().map(answer).collect()
        })
    }

    fn act(&self, session: &SessionId, name: &str, call: &str, arguments: &str) -> Outcome {
        let arguments = json::parse(arguments.as_bytes()).unwrap();
        let action = Action { name: name.into(), call: call.into(), arguments };
        self.send(session, vec![action.encode().into_bytes()], None).remove(0)
    }

    fn ask(&self, session: &SessionId, call: &str, kind: &str, payload: &str) -> Outcome {
        let arguments = format!(r#"{{"kind":"{kind}","payload":{payload},"reason":"because"}}"#);
        self.act(session, "request_capability_change", call, &arguments)
    }

    fn change(&self, outcome: &Outcome) -> Change {
        assert!(outcome.ok, "{outcome:?}");
        let id = outcome.result.get("change").and_then(Value::as_str).unwrap();
        let id = ChangeId::parse(id).unwrap();
        self.write(move |tx| changes::get(tx, &id)).unwrap()
    }

    fn decide(&self, change: &Change, verdict: Verdict) -> Result<Change, NotDecided> {
        let (keyring, id, digest) = (self.desk.keyring.clone(), change.id.clone(), change.digest.clone());
        self.write(move |tx| {
            let decide = Decide { verdict, digest: Some(digest), note: String::new() };
            decide::decide(tx, &keyring, &Policy::default(), &owner(), &id, &decide, &Facts::default())
        })
        .map(|outcome| outcome.change)
    }

    fn all(&self) -> Vec<Change> {
        self.write(|tx| {
            let mut ids = Vec::new();
            summaries::history(tx, None, None, 10_000, |change| {
                ids.push(ChangeId::parse(change.id).unwrap())
            })?;
            ids.iter().filter_map(|id| changes::get(tx, id).transpose()).collect()
        })
    }

    /// How much the ledger holds that an action could have made.
    fn weight(&self) -> (u64, u64, u64) {
        self.write(|tx| {
            let count = |table: &str| {
                tx.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, u64>(0))
            };
            Ok((count("changes")?, count("calls")?, audit::tip(tx)?.0))
        })
    }
}

fn why(outcome: &Outcome) -> String {
    assert!(!outcome.ok, "{outcome:?}");
    outcome.result.as_str().unwrap().to_owned()
}

#[test]
fn every_action_wants_a_tool_of_the_catalogue() {
    for entry in TABLE {
        assert!(catalogue::tool(entry.tool).is_some(), "{}", entry.tool);
    }
}

#[test]
fn an_agent_asks_and_is_told_what_came_of_it() {
    let world = World::new();
    let session = world.session("a");
    let outcome = world.ask(&session, "1", "persona", r#"{"soul":"x"}"#);
    let change = world.change(&outcome);
    assert_eq!((change.state, change.requested_by.as_str()), (State::Pending, "agent:a"));
    assert_eq!((change.via, change.reason.as_str()), (format!("session:{session}"), "because"));
    assert_eq!((outcome.name.as_str(), outcome.call.as_str()), ("request_capability_change", "1"));
    for bad in
        [r#"{"kind":"persona","payload":{"soul":"y"}}"#, r#"{"kind":"persona","reason":"x"}"#, "{}", "[]"]
    {
        assert!(
            why(&world.act(&session, "request_capability_change", "2", bad)).starts_with("refused"),
            "{bad}"
        );
    }
    let empty = r#"{"kind":"persona","payload":{"soul":"y"},"reason":" "}"#;
    assert!(why(&world.act(&session, "request_capability_change", "2", empty)).contains("say why"));
    assert!(why(&world.ask(&session, "2", "create_agent", "{}")).contains("create_agent"));
    assert!(why(&world.ask(&session, "2", "egress", "{}")).starts_with("unsupported_here"));
    assert_eq!(world.all().len(), 1);
}

#[test]
fn what_the_ledger_does_not_grant_is_refused_there() {
    let world = World::new();
    let session = world.session("none");
    let said = why(&world.ask(&session, "1", "persona", r#"{"soul":"x"}"#));
    assert!(said.starts_with("not_granted") && said.contains("request_capability_change"), "{said}");
    let create = r#"{"name":"new","reason":"x"}"#;
    assert!(why(&world.act(&session, "create_agent", "2", create)).starts_with("not_granted"));
    // One tool is not the other.
    world.write(|tx| groups::set_tools(tx, &group("none"), &Tools::List(vec!["create_agent".into()])));
    assert!(world.act(&session, "create_agent", "3", create).ok);
    assert!(why(&world.ask(&session, "4", "persona", r#"{"soul":"x"}"#)).starts_with("not_granted"));
}

#[test]
fn inv_025_what_the_verifiers_reject_reaches_no_approver() {
    let world = World::new();
    let session = world.session("a");
    let before = world.weight();
    for (kind, payload) in [
        ("persona", r#"{"soul":1}"#),
        ("persona", r#"{"soul":"","tools":"all"}"#),
        ("enabled_tools", r#"{"tools":["no_such_tool"]}"#),
        ("enabled_tools", r#"{"tools":"all"}"#),
        ("model", r#"{"model":""}"#),
        ("wiring", r#"{"add":[{"channel":"../x","chat":"1"}]}"#),
        ("script", "{}"),
    ] {
        let said = why(&world.ask(&session, kind, kind, payload));
        assert!(said.starts_with("refused: ") && said.len() > 25, "{payload}: {said}");
    }
    assert_eq!(world.weight(), before);
}

#[test]
fn inv_035_the_group_is_that_of_the_socket() {
    let world = World::new();
    let session = world.session("a");
    for forged in [
        r#"{"kind":"persona","payload":{"soul":"x"},"reason":"x","group":"b"}"#,
        r#"{"kind":"persona","payload":{"soul":"x","group":"b"},"reason":"x"}"#,
        r#"{"kind":"persona","payload":{"soul":"x"},"reason":"x","session":"ses_1","origin":{"group":"b"}}"#,
        r#"{"kind":"persona","payload":{"soul":"x"},"reason":"x","requested_by":"local:owner"}"#,
    ] {
        let said = why(&world.act(&session, "request_capability_change", "1", forged));
        assert!(said.starts_with("refused"), "{forged}: {said}");
    }
    let envelope = br#"{"action":"request_capability_change","call":"1","group":"b","arguments":{}}"#;
    assert!(why(&world.send(&session, vec![envelope.to_vec()], None)[0]).starts_with("unreadable"));
    let change = world.change(&world.ask(&session, "2", "persona", r#"{"soul":"x"}"#));
    assert_eq!(change.group, group("a"));
    assert_eq!(world.all().len(), 1);
}

/// There is no name for deciding: not with the id and the digest, and not in the owner's name.
#[test]
fn inv_038_a_sandbox_cannot_decide() {
    let world = World::new();
    let session = world.session("a");
    let change = world.change(&world.ask(&session, "1", "persona", r#"{"soul":"x"}"#));
    let arguments = format!(
        r#"{{"id":"{0}","change":"{0}","digest":"{1}","outcome":"approve","verdict":"approve","by":"local:owner"}}"#,
        change.id, change.digest
    );
    for name in
        ["decide", "approve", "change_approve", "decision", "change_decide", "grant", "withdraw", "apply"]
    {
        let said = why(&world.act(&session, name, name, &arguments));
        assert!(said.starts_with("unknown_action"), "{name}: {said}");
    }
    for name in TABLE.iter().map(|entry| entry.action) {
        assert!(why(&world.act(&session, name, name, &arguments)).starts_with("refused"), "{name}");
    }
    assert_eq!(world.all()[0].state, State::Pending);
}

/// A small generator that gives the same numbers for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most as u64).unwrap()
    }
}

#[test]
fn inv_039_what_is_not_in_the_table_does_nothing() {
    let world = World::new();
    let session = world.session("a");
    let before = world.weight();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let known: BTreeSet<&str> = TABLE.iter().map(|entry| entry.action).collect();
    let words =
        ["create", "agent", "request", "capability", "change", "decide", "approve", "exec", "bash", "_"];
    let valid = r#""arguments":{"kind":"persona","payload":{"soul":"x"},"name":"n","reason":"x"}"#;
    for round in 0..40 {
        let mut envelopes = Vec::new();
        for number in 0..50 {
            let mut name: String = (0..1 + dice.below(3)).map(|_| words[dice.below(words.len())]).collect();
            match dice.below(8) {
                0 => name = name.to_uppercase(),
                1 => name.push_str("\\u0000"),
                2 => name.insert_str(0, "../"),
                3 => name = name.repeat(20),
                4 => name.push('\u{200b}'),
                _ => {}
            }
            if known.contains(name.as_str()) {
                continue;
            }
            let mut envelope =
                format!(r#"{{"action":"{name}","call":"{round}-{number}",{valid}}}"#).into_bytes();
            match dice.below(6) {
                // Cut, or with one byte changed, or all of another kind.
                0 => envelope.truncate(dice.below(envelope.len())),
                1 => {
                    let at = dice.below(20);
                    envelope[at] ^= 1 << dice.below(8);
                }
                2 => envelope = b"[".repeat(dice.below(5_000)),
                _ => {}
            }
            envelopes.push(envelope);
        }
        for outcome in world.send(&session, envelopes, None) {
            let said = why(&outcome);
            assert!(said.starts_with("unknown_action") || said.starts_with("unreadable"), "{said}");
            // Whatever it was, it can be told to the sandbox.
            assert!(Outcome::parse(outcome.encode().as_bytes()).is_ok(), "{outcome:?}");
        }
    }
    assert_eq!(world.weight(), before);
}

#[test]
fn the_same_call_is_answered_with_the_same_change() {
    let world = World::new();
    let session = world.session("a");
    let first = world.ask(&session, "1", "persona", r#"{"soul":"x"}"#);
    let again = world.ask(&session, "1", "persona", r#"{"soul":"x"}"#);
    let (change, id) = (world.change(&first), world.change(&again).id);
    assert_eq!((&change.id, world.all().len()), (&id, 1));
    // Another call for the same while it waits is the same request; and that call stays it, whatever comes.
    assert_eq!(world.change(&world.ask(&session, "2", "persona", r#"{"soul":"x"}"#)).id, change.id);
    assert!(why(&world.ask(&session, "1", "persona", r#"{"soul":"y"}"#)).starts_with("call_reused"));
    world.decide(&change, Verdict::Reject).unwrap();
    for call in ["1", "2"] {
        let late = world.ask(&session, call, "persona", r#"{"soul":"x"}"#);
        assert_eq!((world.change(&late).id, world.change(&late).state), (change.id.clone(), State::Rejected));
    }
    assert_eq!(world.all().len(), 1);
    // Calls are a session's own: the same mark elsewhere is another call.
    let elsewhere = world.change(&world.ask(&world.session("b"), "1", "persona", r#"{"soul":"x"}"#));
    assert_eq!(elsewhere.group, group("b"));
    assert_ne!(elsewhere.id, change.id);
}

#[test]
fn inv_040_a_flood_of_proposals_is_answered_and_fills_nothing() {
    let world = World::new();
    let (session, second) = (world.session("a"), world.session("b"));
    let (mut taken, mut refused) = (0, 0);
    for round in 0..100 {
        let propose = |number: usize| {
            let call = format!("{round}-{number}");
            let arguments = format!(r#"{{"kind":"persona","payload":{{"soul":"{call}"}},"reason":"x"}}"#);
            let arguments = json::parse(arguments.as_bytes()).unwrap();
            Action { name: "request_capability_change".into(), call, arguments }.encode().into_bytes()
        };
        for outcome in world.send(&session, (0..100).map(propose).collect(), None) {
            if outcome.ok {
                taken += 1;
            } else {
                assert!(why(&outcome).starts_with("too_many_pending"));
                refused += 1;
            }
        }
    }
    assert_eq!((taken, refused), (MOST_PENDING, 10_000 - MOST_PENDING));
    let (stored, calls, records) = world.weight();
    assert_eq!((stored, calls, records), (MOST_PENDING, MOST_PENDING, MOST_PENDING));
    // Another agent still gets through.
    assert!(world.ask(&second, "1", "persona", r#"{"soul":"x"}"#).ok);
    // Nor does deciding them make room for ever.
    let mut asked = MOST_PENDING;
    loop {
        let pending: Vec<Change> =
            world.all().into_iter().filter(|change| change.requested_by == "agent:a").collect();
        for change in pending.iter().filter(|change| change.state == State::Pending) {
            world.decide(change, Verdict::Reject).unwrap();
        }
        let outcome =
            world.ask(&session, &format!("more-{asked}"), "persona", &format!(r#"{{"soul":"{asked}"}}"#));
        if !outcome.ok {
            assert!(why(&outcome).starts_with("too_many_requests"));
            break;
        }
        asked += 1;
    }
    assert_eq!(asked, MOST_A_DAY);
    let id = session.clone();
    assert!(world.write(move |tx| calls::count(tx, &id)) <= MOST_A_DAY);
    // A day later it may again.
    world.write(|tx| Ok(tx.execute("UPDATE changes SET submitted_at = ?1", [Millis::now().0 - 86_400_001])?));
    assert!(world.ask(&session, "tomorrow", "persona", r#"{"soul":"tomorrow"}"#).ok);
}

/// Few requests, each as large as it may be: what they have together is bounded as well.
#[test]
fn an_agent_asks_for_no_more_bytes_a_day_than_it_may() {
    let world = World::new();
    let session = world.session("a");
    let large = |at: u64| {
        let text = format!("{at:06}{}", "x".repeat(30_000));
        format!(r#"{{"identity":"{text}","soul":"{text}","instructions":"{text}"}}"#)
    };
    let mut bytes = 0;
    let mut asked = 0;
    let refused = loop {
        let payload = large(asked);
        let outcome = world.ask(&session, &format!("call-{asked}"), "persona", &payload);
        if !outcome.ok {
            break outcome;
        }
        bytes += payload.len() as u64;
        asked += 1;
        assert!(bytes <= MOST_BYTES_A_DAY, "{bytes}");
    };
    assert!(why(&refused).starts_with("too_many_bytes"), "{}", why(&refused));
    assert!(bytes + large(0).len() as u64 > MOST_BYTES_A_DAY && asked < MOST_PENDING, "{asked}");
    // A small one still fits, and another agent has its own.
    assert!(world.ask(&session, "small", "persona", r#"{"soul":"x"}"#).ok);
    world.write(|tx| Ok(tx.execute("UPDATE changes SET submitted_at = ?1", [Millis::now().0 - 86_400_001])?));
    assert!(world.ask(&session, "tomorrow", "persona", &large(9999)).ok);
}

#[test]
fn what_cannot_be_recorded_is_not_asked() {
    let world = World::new();
    let session = world.session("a");
    let before = world.weight();
    let arguments = json::parse(br#"{"kind":"persona","payload":{"soul":"x"},"reason":"x"}"#).unwrap();
    let action = Action { name: "request_capability_change".into(), call: "1".into(), arguments };
    let outcome =
        world.send(&session, vec![action.encode().into_bytes()], Some("the disk is full")).remove(0);
    let said = why(&outcome);
    assert!(said.starts_with("audit_unavailable") && said.contains("the disk is full"), "{said}");
    assert_eq!(world.weight(), before);
}

#[test]
fn inv_043_another_agent_is_asked_for_by_a_plain_name_and_inherits_nothing() {
    let world = World::new();
    let session = world.session("a");
    world.write(|tx| {
        let member = UserId::parse("local:ann").unwrap();
        users::put(tx, &member, "")?;
        members::add(tx, &group("a"), &member)?;
        groups::set_document(tx, &group("a"), groups::Document::Soul, "proud")
    });
    let create = |call: &str, name: &str, more: &str| {
        let name = Value::from(name);
        world.act(&session, "create_agent", call, &format!(r#"{{"name":{name},"reason":"x"{more}}}"#))
    };
    let long = "x".repeat(64);
    for name in ["../a", "..", "/etc", "a/b", "A", "a b", "a;rm", "$(x)", "a\0", "\u{202e}a", "-a", "", &long]
    {
        assert!(why(&create("1", name, "")).starts_with("refused"), "{name:?}");
    }
    assert!(why(&create("1", "b", "")).contains("there is or was an agent b"));
    for more in [r#","members":["local:owner"]"#, r#","wirings":[]"#, r#","inherit":"a""#, r#","group":"b""#]
    {
        assert!(why(&create("1", "new", more)).starts_with("refused"), "{more}");
    }
    assert!(world.all().is_empty());

    // Two of the same name: whoever is first is made, the other cannot be any more.
    let first = world.change(&create("1", "new", ""));
    let other =
        world.change(&world.act(&world.session("b"), "create_agent", "1", r#"{"name":"new","reason":"y"}"#));
    assert_ne!(first.id, other.id);
    assert!(world.write(|tx| groups::get(tx, &group("new"))).is_none(), "nothing before a decision");
    assert_eq!(world.decide(&first, Verdict::Approve).unwrap().state, State::Applied);
    assert!(matches!(world.decide(&other, Verdict::Approve), Err(NotDecided::Invalid(_))));
    let (agent, people, chats) = world.write(|tx| {
        let agent = groups::live(tx, &group("new"))?.unwrap();
        Ok((
            agent,
            members::list(tx, &group("new"), "", 10)?,
            wirings::list(tx, Some(&group("new")), "", 10)?,
        ))
    });
    assert_eq!((agent.tools, agent.persona.soul.as_str()), (Tools::None, ""));
    assert!(people.is_empty() && chats.is_empty());
}

#[test]
fn what_the_policy_approves_is_in_effect_and_the_agent_is_told_once() {
    let file = std::env::temp_dir().join(format!("policy-{}", SessionId::mint()));
    std::fs::write(&file, r#"{"auto_approve":["persona"]}"#).unwrap();
    let world = World::with(Policy::load(&file).unwrap());
    std::fs::remove_file(&file).unwrap();
    let session = world.session("a");
    let messages =
        || world.write(|tx| Ok(tx.query_row("SELECT count(*) FROM inbox", [], |row| row.get::<_, u64>(0))?));
    let before = messages();
    let (desk, id) = (world.desk.clone(), session.clone());
    let answer = world.write(move |tx| {
        let arguments = json::parse(br#"{"kind":"persona","payload":{"soul":"x"},"reason":"x"}"#).unwrap();
        let action = Action { name: "request_capability_change".into(), call: "1".into(), arguments };
        execute(tx, &desk, &id, None, asked(None, Ok(action)))
    });
    assert_eq!(answer.outcome.result.get("state").and_then(Value::as_str), Some("applied"));
    let decided = answer.decided.unwrap();
    // The answer to the call says so; a message would start a turn to say it again.
    assert_eq!((decided.changed, decided.answered, messages()), (vec![group("a")], None, before));
    assert_eq!(world.write(|tx| groups::live(tx, &group("a"))).unwrap().persona.soul, "x");
    assert_eq!(
        world.change(&world.act(&session, "create_agent", "2", r#"{"name":"n","reason":"x"}"#)).state,
        State::Pending
    );
}
