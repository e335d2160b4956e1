//! Tests of what agents ask people: that a call that comes again asks once, that one answer counts, and what becomes of
//! what nobody answers.

use super::*;
use crate::contract::ids::QuestionId;
use crate::controlplane::questions::{self as rules, Choice, MOST_OPEN, Person, Refused};
use crate::controlplane::store::messaging_groups;
use crate::controlplane::store::questions::{self as kept, Question, State};

const TEA: &str = r#"{"question":"Tea?","options":["Yes","No"]}"#;

impl World {
    fn asks(&self, session: &SessionId, call: &str, arguments: &str) -> Outcome {
        self.act(session, "ask_user_question", call, arguments)
    }

    fn question(&self, outcome: &Outcome) -> Question {
        assert!(outcome.ok, "{outcome:?}");
        let id = outcome.result.get("question").and_then(Value::as_str).unwrap();
        let id = QuestionId::parse(id).unwrap();
        self.write(move |tx| kept::get(tx, &id)).unwrap()
    }

    fn answer(&self, question: &Question, option: usize) -> Result<(), Refused> {
        let (keyring, id) = (self.desk.keyring.clone(), question.id.clone());
        self.write(move |tx| {
            let question = kept::get(tx, &id)?.unwrap();
            let person = Person { id: "local:owner", name: "Ann", message: None };
            rules::answer(tx, &keyring, &question, &Choice::Option(option), person)
        })
        .map(drop)
    }

    fn expire(&self) -> Vec<QuestionId> {
        let keyring = self.desk.keyring.clone();
        self.write(move |tx| rules::expire(tx, &keyring, 100)).into_iter().map(|over| over.id).collect()
    }

    fn now(&self, question: &Question) -> Question {
        let id = question.id.clone();
        self.write(move |tx| kept::get(tx, &id)).unwrap()
    }

    fn over(&self) {
        self.write(|tx| Ok(tx.execute("UPDATE questions SET expires_at = 1 WHERE state = 'open'", [])?));
    }

    /// What the agent is told, and whether that starts a turn.
    fn told(&self, session: &SessionId) -> Vec<(String, bool)> {
        let (keyring, session) = (self.desk.keyring.clone(), session.clone());
        let room = inbox::PageRoom { rows: 1000, bytes: usize::MAX, attached: u64::MAX };
        let all = self.write(move |tx| inbox::open_messages(tx, &keyring, &session, 0, room)).open;
        let answers = all.into_iter().filter(|open| open.message.kind == InboundKind::Answer);
        answers.map(|open| (open.message.text, open.message.engage)).collect()
    }
}

#[test]
fn a_call_that_comes_again_asks_once_and_one_answer_counts() {
    let world = World::new();
    let session = world.session("a");
    let made = world.asks(&session, "1", TEA);
    let question = world.question(&made);
    assert_eq!(world.asks(&session, "1", TEA), made);
    assert!(why(&world.asks(&session, "1", r#"{"question":"Milk?"}"#)).starts_with("call_reused"));
    let open = |world: &World| {
        let session = session.clone();
        world.write(move |tx| kept::open_of(tx, &session))
    };
    assert_eq!(open(&world), 1);
    assert_eq!(world.answer(&question, 2), Err(Refused::NoAnswer));
    assert_eq!(world.answer(&question, 1), Ok(()));
    assert_eq!(world.answer(&question, 0), Err(Refused::Over(State::Answered)));
    let told = world.told(&session);
    assert!(told.len() == 1 && told[0].0.ends_with("The answer: No") && told[0].1, "{told:?}");
    // Also when it is over the same call asks nothing more.
    assert_eq!((world.asks(&session, "1", TEA), open(&world)), (made, 0));
    // So many at once, and no more.
    for number in 0..MOST_OPEN {
        world.question(&world.asks(&session, &format!("more {number}"), TEA));
    }
    assert!(why(&world.asks(&session, "last", TEA)).starts_with("too_many_open"));
    assert!(why(&world.asks(&world.session("none"), "1", TEA)).starts_with("not_granted"));
}

#[test]
fn what_nobody_answers_expires_once_and_starts_no_turn() {
    let world = World::new();
    let session = world.session("a");
    let question = world.question(&world.asks(&session, "1", TEA));
    assert_eq!(world.write(|tx| kept::next_expiry(tx)), Some(question.expires_at));
    assert_eq!(world.expire(), Vec::new(), "its time is not over");
    world.over();
    // Nobody looked yet, and still nobody can answer.
    assert_eq!(world.answer(&question, 0), Err(Refused::Over(State::Expired)));
    assert_eq!(world.expire(), std::slice::from_ref(&question.id));
    assert_eq!(world.expire(), Vec::new());
    let ended = world.now(&question);
    assert_eq!((ended.state, ended.ended_by, ended.answer), (State::Expired, None, None));
    assert_eq!(world.write(|tx| kept::next_expiry(tx)), None);
    let said = format!("Your question {} expired without an answer.", question.id);
    assert_eq!(world.told(&session), [(said, false)]);
    // A question of an erased conversation ends, and nothing begins that anew.
    let other = world.session("b");
    let erased = world.question(&world.asks(&other, "1", TEA));
    let id = other.clone();
    world.write(move |tx| crate::controlplane::store::secrets::erase(tx, &id));
    assert_eq!(world.now(&erased).state, State::Cancelled);
    assert_eq!(world.answer(&erased, 0), Err(Refused::Over(State::Cancelled)));
}

#[test]
fn a_question_moves_with_its_chat() {
    let world = World::new();
    let session = world.session("a");
    let question = world.question(&world.asks(&session, "1", TEA));
    let moved = Place { chat: "other".into(), ..question.place.clone() };
    let found = world.write(move |tx| {
        messaging_groups::rename(tx, "api", "", "main", "other")?;
        kept::open_in(tx, &moved, 10)
    });
    assert_eq!(found.iter().map(|found| &found.id).collect::<Vec<_>>(), [&question.id]);
}
