//! Tests of the gateway over a real ledger: nothing before an approval, exactly what was shown after it, once.

mod host;
mod reach;

use std::collections::BTreeMap;

use super::decide::{self, Decide, NotDecided, Verdict, effects_of};
use super::effect::Effect;
use super::facts::Facts;
use super::kind::Kind;
use super::policy::Policy;
use super::submit::{self, NotSubmitted, Origin, Request};
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::json::{self, Value};
use crate::controlplane::grants::Host;
use crate::controlplane::keys::{self, FileMaster, Keyring};
use crate::controlplane::principals::{Principal, Scope};
use crate::controlplane::state::{StateDir, Wall};
use crate::controlplane::store::changes::{self, Change, State};
use crate::controlplane::store::groups::{self, Document, NewGroup, Tools};
use crate::controlplane::store::roles::{self, Role};
use crate::controlplane::store::{Ledger, Step, StoreError, audit, destinations, grants, members, wirings};

struct World {
    ledger: Ledger,
    keyring: Keyring,
    policy: Policy,
    host: Host,
    path: std::path::PathBuf,
    _state: StateDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.ledger.stop();
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn group(name: &str) -> GroupName {
    GroupName::parse(name).unwrap()
}

fn person(user: &str) -> Principal {
    Principal::of(user)
}

impl World {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("gateway-{}", SessionId::mint()));
        std::fs::create_dir(&path).unwrap();
        let state = StateDir::claim(&path.join("state"), Wall::OrdinaryUser).unwrap();
        let keyring = keys::open(&state, &FileMaster::at(state.join("master.key"))).unwrap();
        let ledger = Ledger::open(&state, &keyring).unwrap();
        let host = Host::with(state.path(), &["/usr", "/etc"]);
        for package in ["p@1", "p@2", "q@1"] {
            let directory = state.path().join("packages").join(package);
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join("file"), package).unwrap();
        }
        let world = Self { ledger, keyring, policy: Policy::default(), host, path, _state: state };
        world.write(|tx| {
            for name in ["a", "b"] {
                let new = NewGroup {
                    name: group(name),
                    title: name.into(),
                    provider: "mock".into(),
                    model: "mock".into(),
                    tools: Tools::All,
                };
                groups::ensure(tx, &new)?;
            }
            for (user, role) in
                [("local:owner", Role::Owner), ("local:adam", Role::Admin), ("local:ann", Role::Approver)]
            {
                let principal = person(user);
                principal.introduce(tx)?;
                let scope = (role != Role::Owner).then(|| group("a"));
                roles::grant(tx, &principal.user, role, scope.as_ref())?;
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

    fn submit_as(&self, user: &str, kind: &str, name: &str, payload: &str) -> Result<Change, NotSubmitted> {
        let origin = Origin::Person { principal: person(user), label: String::new() };
        self.ask(origin, kind, name, payload)
    }

    fn ask(&self, origin: Origin, kind: &str, name: &str, payload: &str) -> Result<Change, NotSubmitted> {
        let request = Request {
            kind: kind.into(),
            group: group(name),
            facts: Facts::gather(&self.host, kind, &json::parse(payload.as_bytes()).unwrap()),
            payload: json::parse(payload.as_bytes()).unwrap(),
            reason: String::new(),
            key: None,
        };
        let (keyring, policy) = (self.keyring.clone(), self.policy.clone());
        self.write(move |tx| submit::submit(tx, &keyring, &policy, 60_000, &origin, &request))
            .map(|submitted| submitted.change)
    }

    fn submit(&self, kind: &str, name: &str, payload: &str) -> Result<Change, NotSubmitted> {
        self.submit_as("local:owner", kind, name, payload)
    }

    fn decide(
        &self,
        user: &str,
        change: &Change,
        verdict: Verdict,
        digest: &str,
    ) -> Result<Change, NotDecided> {
        let (keyring, policy, principal) = (self.keyring.clone(), self.policy.clone(), person(user));
        let (id, digest) = (change.id.clone(), Some(digest.to_owned()));
        let facts = Facts::again(&self.host, change);
        self.write(move |tx| {
            let decide = Decide { verdict, digest, note: String::new() };
            decide::decide(tx, &keyring, &policy, &principal, &id, &decide, &facts)
        })
        .map(|outcome| outcome.change)
    }

    fn approve(&self, user: &str, change: &Change) -> Result<Change, NotDecided> {
        self.decide(user, change, Verdict::Approve, &change.digest)
    }

    /// What becomes of an approved change when its work on the host is done, or has failed.
    fn finish(&self, change: &Change, failure: Option<&'static str>) -> Change {
        let (keyring, id) = (self.keyring.clone(), change.id.clone());
        self.write(move |tx| decide::finish(tx, &keyring, &id, failure)).expect("it is approved").change
    }

    /// Everything that a change can touch, as facts.
    fn facts(&self) -> BTreeMap<String, String> {
        self.write(|tx| {
            let mut facts = BTreeMap::new();
            for agent in groups::list(tx, None, 100, None)? {
                let name = &agent.name;
                facts.insert(format!("agent {name}"), agent.title.clone());
                facts.insert(format!("model {name}"), format!("{}/{}", agent.provider, agent.model));
                facts.insert(format!("tools {name}"), format!("{:?}", agent.tools));
                for document in Document::ALL {
                    let text = agent.persona.document(document);
                    facts.insert(format!("{} {name}", document.as_str()), text.to_owned());
                }
                for grant in grants::of(tx, name)? {
                    let key = format!("{} {name} {}", grant.what.sort().as_str(), grant.name);
                    facts.insert(key, format!("{:?}", grant.what));
                }
                for member in members::list(tx, name, "", 100)? {
                    facts.insert(format!("member {name} {}", member.user), String::new());
                }
            }
            for role in roles::list(tx, ("", "", ""), 100)? {
                facts.insert(
                    format!("role {} {} {:?}", role.user, role.role.as_str(), role.scope),
                    String::new(),
                );
            }
            for wiring in wirings::list(tx, None, "", 100)? {
                let (group, channel, chat) = (&wiring.group, &wiring.channel, &wiring.chat);
                facts.insert(format!("wiring {group} {channel} {chat}"), format!("{:?}", wiring.terms));
            }
            for one in destinations::list(tx, None, ("", ""), 100)? {
                facts.insert(format!("destination {} {}", one.group, one.name), format!("{:?}", one.target));
            }
            Ok(facts)
        })
    }
}

/// What the shown effects come to, told independently of how they are done.
fn expected(mut facts: BTreeMap<String, String>, effects: &[Effect]) -> BTreeMap<String, String> {
    let mut set = |key: String, value: Option<String>| {
        match value {
            Some(value) => facts.insert(key, value),
            None => facts.remove(&key),
        };
    };
    for effect in effects {
        match effect {
            Effect::CreateAgent { group, title, provider, model } => {
                set(format!("agent {group}"), Some(title.clone()));
                set(format!("model {group}"), Some(format!("{provider}/{model}")));
                set(format!("tools {group}"), Some(format!("{:?}", Tools::None)));
                for document in Document::ALL {
                    set(format!("{} {group}", document.as_str()), Some(String::new()));
                }
            }
            Effect::SetDocument { group, document, text } => {
                set(format!("{} {group}", document.as_str()), Some(text.clone()));
            }
            Effect::SetTools { group, tools } => set(format!("tools {group}"), Some(format!("{tools:?}"))),
            Effect::SetModel { group, provider, model } => {
                set(format!("model {group}"), Some(format!("{provider}/{model}")));
            }
            Effect::SetRole { user, role, scope, given } => {
                set(format!("role {user} {} {scope:?}", role.as_str()), given.then(String::new));
            }
            Effect::SetMember { group, user, given } => {
                set(format!("member {group} {user}"), given.then(String::new));
            }
            Effect::SetWiring { group, chat, terms } => {
                let key = format!("wiring {group} {} {}", chat.channel, chat.chat);
                set(key, terms.as_ref().map(|terms| format!("{terms:?}")));
            }
            Effect::SetDestination { group, name, target } => {
                let what = target.as_ref().map(|target| format!("{target:?}"));
                set(format!("destination {group} {name}"), what);
            }
            Effect::SetPackage { group, name, package } => {
                let what = package.as_ref().map(|package| package.grant(name).what);
                set(format!("package {group} {name}"), what.map(|what| format!("{what:?}")));
            }
            Effect::SetMount { group, name, mount } => {
                let what = mount.as_ref().map(|mount| mount.grant(name).what);
                set(format!("mount {group} {name}"), what.map(|what| format!("{what:?}")));
            }
        }
    }
    facts
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

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    fn payload(&mut self, kind: Kind, number: usize) -> (String, String) {
        let name = self.pick(&["a", "b"]).to_owned();
        let text = self.pick(&["", "one", "two\\nlines", "\\u001b[2J\\u202e"]);
        let user = self.pick(&["local:x", "matrix:@y:z", "local:ann"]);
        let tools =
            self.pick(&["\"all\"", "\"none\"", "[\"read_file\"]", "[\"write_file\",\"read_file\"]", "[]"]);
        let payload = match kind {
            Kind::Persona => {
                let document = self.pick(&["identity", "soul", "instructions"]);
                format!("{{\"{document}\":\"{text}\"}}")
            }
            Kind::EnabledTools => format!("{{\"tools\":{tools}}}"),
            Kind::Model => format!("{{\"model\":\"{}\"}}", self.pick(&["mock", "other", "m:1"])),
            Kind::Wiring if self.below(2) == 0 => {
                let (name, chat) = (self.pick(&["x", "y"]), self.pick(&["one", "two", "\\u202e"]));
                match self.below(3) {
                    0 => format!("{{\"remove_destinations\":[\"{name}\"]}}"),
                    _ => format!(
                        "{{\"destinations\":[{{\"name\":\"{name}\",\"channel\":\"api\",\"chat\":\"{chat}\",\
                         \"display_name\":\"{text}\"}}]}}"
                    ),
                }
            }
            Kind::Wiring => {
                let field = self.pick(&["add", "remove"]);
                let chat = self.pick(&["1", "2"]);
                format!("{{\"{field}\":[{{\"channel\":\"telegram\",\"chat\":\"{chat}\"}}]}}")
            }
            Kind::Permissions => match self.below(3) {
                0 => format!("{{\"grant\":[{{\"user\":\"{user}\",\"role\":\"approver\"}}]}}"),
                1 => format!("{{\"revoke\":[{{\"user\":\"{user}\",\"role\":\"approver\"}}]}}"),
                _ => format!("{{\"add_members\":[\"{user}\"],\"remove_members\":[]}}"),
            },
            Kind::Packages => match self.below(3) {
                0 => "{\"remove\":[\"p\"]}".to_owned(),
                _ => format!("{{\"add\":[\"{}\"]}}", self.pick(&["p@1", "p@2", "q@1"])),
            },
            Kind::Mounts => match self.below(4) {
                0 => "{\"remove\":[\"m\"]}".to_owned(),
                1 => "{\"add\":[{\"name\":\"m\"}]}".to_owned(),
                _ => {
                    let source = self.pick(&["/usr/share", "/usr/lib"]);
                    format!("{{\"add\":[{{\"name\":\"m\",\"source\":\"{source}\"}}]}}")
                }
            },
            Kind::CreateAgent => {
                let payload = format!(
                    "{{\"title\":\"{text}\",\"tools\":{tools},\"members\":[\"{user}\"],\"soul\":\"{text}\"}}"
                );
                return (format!("new-{number}"), payload);
            }
        };
        (name, payload)
    }
}

#[test]
fn inv_023_nothing_changes_before_an_approval_and_exactly_what_was_shown_after_it() {
    let world = World::new();
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let mut applied = 0;
    for number in 0..300 {
        let kind = Kind::ALL[dice.below(Kind::ALL.len())];
        let (name, payload) = dice.payload(kind, number);
        let before = world.facts();
        let change = match world.submit(kind.as_str(), &name, &payload) {
            Ok(change) => change,
            // What would change nothing is refused.
            Err(NotSubmitted::Invalid(_)) => continue,
            Err(other) => panic!("{other:?} for {payload}"),
        };
        assert_eq!(world.facts(), before, "{payload}");
        if dice.below(4) == 0 {
            assert_eq!(
                world.decide("local:owner", &change, Verdict::Reject, "").unwrap().state,
                State::Rejected
            );
            assert_eq!(world.facts(), before, "{payload}");
            assert!(matches!(world.approve("local:owner", &change), Err(NotDecided::NotPending(_))));
            continue;
        }
        let mut done = world.approve("local:owner", &change).unwrap();
        if kind == Kind::Packages && payload.contains("add") {
            // Nothing holds before its work on the host is done.
            assert_eq!((done.state, &done.failure), (State::Approved, &None));
            assert_eq!(world.facts(), before, "{payload}");
            done = world.finish(&change, None);
        }
        assert_eq!((done.state, done.failure), (State::Applied, None));
        let after = world.facts();
        assert_eq!(after, expected(before, &effects_of(&change).unwrap()), "{payload}");
        assert!(matches!(world.approve("local:owner", &change), Err(NotDecided::NotPending(_))), "once");
        assert_eq!(world.facts(), after);
        applied += 1;
    }
    assert!(applied > 100, "{applied}");
}

#[test]
fn inv_034_an_effect_of_another_kind_is_refused() {
    let world = World::new();
    let fields = [
        ("persona", "\"identity\":\"x\""),
        ("enabled_tools", "\"tools\":\"none\""),
        ("model", "\"model\":\"x\""),
        ("wiring", "\"add\":[{\"channel\":\"api\",\"chat\":\"x\"}]"),
        ("permissions", "\"add_members\":[\"local:x\"]"),
        ("egress", "\"egress\":[\"evil.example\"]"),
        ("vault_policy", "\"vault_policy\":{}"),
        ("skill_install", "\"skill\":\"x\""),
        ("mounts", "\"mounts\":[]"),
        ("packages", "\"packages\":[]"),
    ];
    let before = world.facts();
    for (kind, own) in &fields[..5] {
        for (other, smuggled) in &fields {
            if kind == other {
                continue;
            }
            let refused = world.submit(kind, "a", &format!("{{{own},{smuggled}}}")).unwrap_err();
            assert!(matches!(refused, NotSubmitted::Invalid(_)), "{kind} with {other}: {refused:?}");
        }
    }
    for (kind, _) in &fields[5..8] {
        let refused = world.submit(kind, "a", "{}").unwrap_err();
        assert!(matches!(refused, NotSubmitted::Unsupported(_)), "{kind}");
    }
    assert!(matches!(world.submit("script", "a", "{}"), Err(NotSubmitted::Invalid(_))));
    assert_eq!(world.facts(), before);
}

#[test]
fn the_second_of_two_is_stale_and_shown_anew() {
    let world = World::new();
    let first = world.submit("persona", "a", r#"{"soul":"one"}"#).unwrap();
    let second = world.submit("persona", "a", r#"{"soul":"two"}"#).unwrap();
    let other = world.submit("persona", "a", r#"{"identity":"me"}"#).unwrap();
    world.approve("local:owner", &first).unwrap();
    let Err(NotDecided::Stale(now)) = world.approve("local:owner", &second) else { panic!("not stale") };
    assert!(now.diff.contains("- one\n+ two"), "{}", now.diff);
    assert_ne!(now.digest, second.digest);
    assert_eq!(now.state, State::Pending);
    // The old digest is worth nothing any more; the new one is what was seen.
    assert!(matches!(world.approve("local:owner", &second), Err(NotDecided::WrongDigest(_))));
    assert_eq!(world.facts()["soul a"], "one");
    world.approve("local:owner", &now).unwrap();
    assert_eq!(world.facts()["soul a"], "two");
    // Another document of the same agent is another object.
    world.approve("local:owner", &other).unwrap();
}

#[test]
fn what_was_done_meanwhile_is_not_done_again() {
    let world = World::new();
    let first = world.submit("enabled_tools", "a", r#"{"tools":"none"}"#).unwrap();
    let twin = world.submit("enabled_tools", "a", r#"{"tools":[]}"#).unwrap();
    world.approve("local:owner", &first).unwrap();
    assert!(matches!(world.approve("local:owner", &twin), Err(NotDecided::Invalid(_))));
}

#[test]
fn inv_037_who_decides_must_have_the_right_now() {
    let world = World::new();
    let change = world.submit("persona", "a", r#"{"soul":"x"}"#).unwrap();
    let elsewhere = world.submit("persona", "b", r#"{"soul":"x"}"#).unwrap();
    let admin = world.submit("permissions", "a", r#"{"grant":[{"user":"local:x","role":"admin"}]}"#).unwrap();
    let everywhere = world
        .submit("permissions", "a", r#"{"grant":[{"user":"local:x","role":"approver","scope":"*"}]}"#)
        .unwrap();
    let new = world.submit("create_agent", "n", "{}").unwrap();
    for user in ["local:ann", "local:adam"] {
        for change in [&elsewhere, &admin, &everywhere, &new] {
            let refused = world.approve(user, change);
            assert!(matches!(refused, Err(NotDecided::Forbidden(_))), "{user} {}: {refused:?}", change.kind);
        }
    }
    assert!(matches!(world.approve("local:nobody", &change), Err(NotDecided::Forbidden(_))));
    // Revoked while the change waited.
    let revoke =
        world.submit("permissions", "a", r#"{"revoke":[{"user":"local:ann","role":"approver"}]}"#).unwrap();
    world.approve("local:owner", &revoke).unwrap();
    assert!(matches!(world.approve("local:ann", &change), Err(NotDecided::Forbidden(_))));
    world.approve("local:adam", &change).unwrap();
    // A token that does not hold the scope does not decide, whoever it belongs to.
    let (keyring, id) = (world.keyring.clone(), elsewhere.id.clone());
    let decide =
        Decide { verdict: Verdict::Approve, digest: Some(elsewhere.digest.clone()), note: String::new() };
    let narrow = Principal { scopes: vec![Scope::Read, Scope::Operate], ..person("local:owner") };
    let refused = world.write(move |tx| {
        decide::decide(tx, &keyring, &Policy::default(), &narrow, &id, &decide, &Facts::default())
    });
    assert!(matches!(refused, Err(NotDecided::Forbidden(_))));
}

#[test]
fn a_key_names_one_request() {
    let world = World::new();
    let ask = |payload: &str| {
        let origin = Origin::Person { principal: person("local:owner"), label: String::new() };
        let request = Request {
            kind: "persona".into(),
            group: group("a"),
            payload: json::parse(payload.as_bytes()).unwrap(),
            reason: String::new(),
            facts: Facts::default(),
            key: Some("k".into()),
        };
        let (keyring, policy) = (world.keyring.clone(), world.policy.clone());
        world.write(move |tx| submit::submit(tx, &keyring, &policy, 60_000, &origin, &request))
    };
    let first = ask(r#"{"soul":"one"}"#).unwrap().change;
    assert!(ask(r#"{ "soul" : "one" }"#).unwrap().is_repeat);
    // Neither what would change nothing nor what is no payload passes for the first one.
    for other in [r#"{"soul":""}"#, r#"{"soul":1}"#, r#"{"soul":"two"}"#, "{}"] {
        assert!(matches!(ask(other), Err(NotSubmitted::KeyReused(_))), "{other}");
    }
    world.approve("local:owner", &first).unwrap();
    assert!(ask(r#"{"soul":"one"}"#).unwrap().is_repeat, "also when it is done");
}

#[test]
fn the_last_owner_stays() {
    let world = World::new();
    let payload = r#"{"revoke":[{"user":"local:owner","role":"owner"}]}"#;
    let Err(NotSubmitted::Invalid(why)) = world.submit("permissions", "a", payload) else { panic!("taken") };
    assert!(why[0].text.contains("nobody would be an owner"), "{why:?}");
    // Not both at once either; one may hand it on to another.
    let second =
        world.submit("permissions", "a", r#"{"grant":[{"user":"local:two","role":"owner"}]}"#).unwrap();
    world.approve("local:owner", &second).unwrap();
    let both = r#"{"revoke":[{"user":"local:owner","role":"owner"},{"user":"local:two","role":"owner"}]}"#;
    assert!(matches!(world.submit("permissions", "a", both), Err(NotSubmitted::Invalid(_))));
    let hand_on =
        r#"{"grant":[{"user":"local:x","role":"owner"}],"revoke":[{"user":"local:owner","role":"owner"}]}"#;
    let change = world.submit("permissions", "a", hand_on).unwrap();
    world.approve("local:owner", &change).unwrap();
}

#[test]
fn inv_035_an_agent_asks_for_itself_only_and_not_for_ever() {
    let world = World::new();
    let session = SessionId::mint();
    let origin = || Origin::Agent { session: session.clone(), group: group("a") };
    assert!(matches!(world.ask(origin(), "persona", "b", r#"{"soul":"x"}"#), Err(NotSubmitted::Forbidden)));
    let first = world.ask(origin(), "persona", "a", r#"{"soul":"x"}"#).unwrap();
    let again = world.ask(origin(), "persona", "a", r#"{ "soul" : "x" }"#).unwrap();
    assert_eq!(first.id, again.id, "the same request is one change");
    for kind in ["packages", "mounts"] {
        let asked = world.ask(origin(), kind, "a", r#"{"add":[]}"#);
        assert!(matches!(asked, Err(NotSubmitted::Unsupported(_))), "what of the host it sees is for people");
    }
    assert_eq!(first.requested_by, "agent:a");
    for number in 1..submit::MOST_PENDING {
        world.ask(origin(), "persona", "a", &format!("{{\"soul\":\"{number}\"}}")).unwrap();
    }
    let refused = world.ask(origin(), "persona", "a", r#"{"soul":"one too many"}"#);
    assert_eq!(refused, Err(NotSubmitted::TooMany(submit::MOST_PENDING)));
    // A person still gets through.
    world.submit("persona", "a", r#"{"soul":"one too many"}"#).unwrap();
}

#[test]
fn inv_026_no_policy_approves_what_is_for_people() {
    let mut world = World::new();
    let file = world.path.join("policy.json");
    std::fs::write(&file, r#"{"auto_approve":["persona","enabled_tools","model","wiring"]}"#).unwrap();
    world.policy = Policy::load(&file).unwrap();
    let change = world.submit("persona", "a", r#"{"soul":"x"}"#).unwrap();
    assert_eq!((change.state, change.decision.unwrap().by.as_str()), (State::Applied, "policy"));
    for (kind, name, payload) in
        [("create_agent", "n", "{}"), ("permissions", "a", r#"{"add_members":["local:x"]}"#)]
    {
        assert_eq!(world.submit(kind, name, payload).unwrap().state, State::Pending);
    }
}

#[test]
fn inv_037_four_eyes_are_two_people() {
    let mut world = World::new();
    let file = world.path.join("policy.json");
    std::fs::write(&file, r#"{"four_eyes":true,"approver_roles":{"model":["owner"]}}"#).unwrap();
    world.policy = Policy::load(&file).unwrap();
    let change = world.submit("persona", "a", r#"{"soul":"x"}"#).unwrap();
    assert!(matches!(world.approve("local:owner", &change), Err(NotDecided::Forbidden(_))));
    world.approve("local:ann", &change).unwrap();
    let change = world.submit("model", "a", r#"{"model":"x"}"#).unwrap();
    assert!(matches!(world.approve("local:ann", &change), Err(NotDecided::Forbidden(_))));
}

#[test]
fn every_act_is_in_the_chain() {
    let world = World::new();
    let change = world.submit("persona", "a", r#"{"soul":"x"}"#).unwrap();
    world.approve("local:owner", &change).unwrap();
    let other = world.submit("persona", "a", r#"{"soul":"y"}"#).unwrap();
    world.decide("local:owner", &other, Verdict::Reject, "").unwrap();
    let acts: Vec<String> = world
        .write(|tx| audit::after(tx, 0, 100))
        .iter()
        .map(|link| {
            let line: Value = json::parse(link.line.as_bytes()).unwrap();
            let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap().to_owned();
            format!("{} {} {}", text("act"), text("actor"), text("object"))
        })
        .collect();
    let (a, b) = (&change.id, &other.id);
    assert_eq!(
        acts,
        [
            format!("change.submitted local:owner {a}"),
            format!("change.approved local:owner {a}"),
            format!("change.applied local:owner {a}"),
            format!("change.submitted local:owner {b}"),
            format!("change.rejected local:owner {b}"),
        ]
    );
}

#[test]
fn what_nobody_decides_lapses() {
    let world = World::new();
    let change = world.submit("persona", "a", r#"{"soul":"x"}"#).unwrap();
    let id = change.id.clone();
    world.write(move |tx| {
        tx.execute("UPDATE changes SET expires_at = 1 WHERE id = ?1", [id.as_str()])?;
        Ok(())
    });
    let Err(NotDecided::NotPending(now)) = world.approve("local:owner", &change) else { panic!("decided") };
    assert_eq!(now.state, State::Expired);
    assert_eq!(world.write(changes_pending), 0);
}

fn changes_pending(tx: &rusqlite::Transaction<'_>) -> Result<u64, StoreError> {
    changes::pending(tx)
}
