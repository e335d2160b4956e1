//! What the nouns promise.

use super::{World, group, message, room};
use crate::contract::ids::{GroupName, MessageId};
use crate::contract::time::Millis;
use crate::controlplane::router::plan::agent_place;
use crate::controlplane::store::deliveries;
use crate::controlplane::store::history::{self, Direction, Entry};
use crate::controlplane::store::inbox::{self, Accepted, MOST_DEATHS, Marked, NewInbound, State};
use crate::controlplane::store::outbox::{self, Output};
use crate::controlplane::store::sessions::{self, Partition, Place, SessionState};
use crate::controlplane::store::{StoreError, groups, messaging_groups, retention, secrets};
use crate::controlplane::tasks;

type Mark = fn(&rusqlite::Transaction<'_>, &super::SessionId, &MessageId) -> Result<Marked, StoreError>;

impl World {
    fn page(&self, accepted: &Accepted, after: u64) -> Vec<Entry> {
        self.read(|conn| history::page(conn, &self.keyring, &accepted.session, after, 100))
    }

    fn open(&self, accepted: &Accepted) -> Vec<inbox::OpenMessage> {
        self.read(|conn| inbox::open_messages(conn, &self.keyring, &accepted.session, 0, room(100, 1 << 20)))
            .open
    }

    pub(super) fn hand_over(&self, accepted: &Accepted) -> Vec<u64> {
        let a = accepted.clone();
        self.write(move |tx| inbox::hand_over(tx, &a.session, &[a.message]))
    }

    pub(super) fn mark(&self, accepted: &Accepted, mark: Mark) -> Marked {
        let a = accepted.clone();
        self.write(move |tx| mark(tx, &a.session, &a.message))
    }

    pub(super) fn session(&self, accepted: &Accepted) -> sessions::SessionRow {
        self.read(|conn| sessions::get(conn, &accepted.session)).unwrap()
    }

    fn store(&self, accepted: &Accepted, epoch: u64, seq: u64, text: &str) -> outbox::Stored {
        let keyring = self.keyring.clone();
        let output = Output {
            session: accepted.session.clone(),
            epoch,
            seq,
            ordinal: 0,
            in_reply_to: Some(accepted.message.clone()),
            place: message("main", "", "").place,
            shown_in: accepted.session.clone(),
            text: text.to_owned(),
        };
        self.write(move |tx| outbox::store(tx, &keyring, &output))
    }
}

#[test]
fn an_event_is_accepted_once_whatever_it_says_later() {
    let world = World::new();
    let first = world.accept("main", "e1", "hello");
    assert!(!first.duplicate);
    let again = world.accept("main", "e1", "something else");
    assert_eq!(again, Accepted { duplicate: true, ..first.clone() });
    let second = world.accept("main", "e2", "hello");
    assert_eq!(second.session, first.session);
    assert_ne!(world.accept("other", "e3", "hello").session, first.session);
    let texts: Vec<_> = world.open(&first).into_iter().map(|m| m.message.text).collect();
    assert_eq!(texts, ["hello", "hello"]);
    assert_eq!(world.session(&first).open_messages, 2);
}

#[test]
fn an_event_is_known_until_it_is_pruned() {
    let world = World::new();
    world.accept("main", "e1", "hello");
    let before = Millis(Millis::now().0 + 1);
    assert_eq!(world.write(|tx| retention::prune_events(tx, Millis(0), 10)), 0);
    assert_eq!(world.write(move |tx| retention::prune_events(tx, before, 10)), 1);
    assert!(!world.accept("main", "e1", "hello").duplicate);
}

#[test]
fn a_group_must_be_there_and_limits_hold() {
    let world = World::new();
    let try_accept = |new: inbox::NewInbound| {
        let keyring = world.keyring.clone();
        world.ledger.write_blocking(super::super::Step::Accept, move |tx| inbox::accept(tx, &keyring, &new))
    };
    let mut new = message("main", "e", "hello");
    new.partition.group = GroupName::parse("nobody").unwrap();
    assert!(matches!(try_accept(new), Err(StoreError::NoGroup(_))));
    let new = message("main", "e", &"x".repeat(inbox::MOST_TEXT + 1));
    assert!(matches!(try_accept(new), Err(StoreError::TooLong { .. })));
    let accepted = world.accept("main", "e", "hello");
    let full = format!("UPDATE sessions SET open_messages = {}", inbox::MOST_OPEN);
    world.write(move |tx| Ok(tx.execute(&full, [])?));
    assert!(matches!(try_accept(message("main", "f", "hello")), Err(StoreError::Crowded { .. })));
    assert!(world.accept("main", "e", "").duplicate, "a full session still knows what it took");
    assert_eq!(world.page(&accepted, 0).len(), 1, "a refused message leaves nothing");
}

#[test]
fn inbound_numbers_are_even_rise_and_are_new_each_time() {
    let world = World::new();
    let a = world.accept("main", "a", "one");
    let b = world.accept("main", "b", "two");
    let ids = [a.message.clone(), b.message.clone()];
    let session = a.session.clone();
    assert_eq!(world.write(move |tx| inbox::hand_over(tx, &session, &ids)), [2, 4]);
    let session = a.session.clone();
    assert_eq!(world.write(move |tx| sessions::mint_seqs(tx, &session, 3)), [6, 8, 10]);
    let session = a.session.clone();
    assert!(world.write(move |tx| sessions::mint_seqs(tx, &session, 0)).is_empty());
    assert_eq!(world.hand_over(&a), [12]);
    let seqs: Vec<_> = world.open(&a).into_iter().map(|m| m.seq).collect();
    assert_eq!(seqs, [Some(12), Some(4)]);
    let other = world.accept("other", "c", "three");
    let (session, id) = (a.session.clone(), other.message.clone());
    let wrong = world
        .ledger
        .write_blocking(super::super::Step::Launch, move |tx| inbox::hand_over(tx, &session, &[id]));
    assert!(matches!(wrong, Err(StoreError::Conflict(_))));
    assert_eq!(world.session(&a).in_seq, 12);
}

#[test]
fn open_messages_come_in_pieces_but_never_none() {
    let world = World::new();
    for at in 0..5 {
        world.accept("main", &format!("e{at}"), &"x".repeat(1000));
    }
    let a = world.accept("main", "e0", "");
    let taken = |rows, bytes| {
        world
            .read(|conn| inbox::open_messages(conn, &world.keyring, &a.session, 0, room(rows, bytes)))
            .open
            .len()
    };
    assert_eq!((taken(3, 1 << 20), taken(100, 2500), taken(100, 10), taken(100, 1 << 20)), (3, 2, 1, 5));
}

#[test]
fn the_next_that_starts_a_turn_is_found_past_those_that_start_none() {
    let world = World::new();
    let a = world.accept("main", "a", "one");
    let next = |after| {
        let found = world.read(|conn| inbox::open_trigger(conn, &world.keyring, &a.session, after));
        found.map(|open| open.message.id)
    };
    for at in 0..3 {
        let keyring = world.keyring.clone();
        let quiet = inbox::NewInbound { engage: false, ..message("main", &format!("q{at}"), "hm") };
        world.write(move |tx| inbox::accept(tx, &keyring, &quiet));
    }
    assert_eq!(next(a.position), None);
    let b = world.accept("main", "b", "two");
    assert_eq!(next(0), Some(a.message.clone()));
    assert_eq!(next(a.position), Some(b.message.clone()));
    world.hand_over(&b);
    world.mark(&b, inbox::finish);
    assert_eq!(next(a.position), None);
}

#[test]
fn marks_change_a_message_once_and_only_in_its_session() {
    let world = World::new();
    let a = world.accept("main", "a", "one");
    let stranger = Accepted { session: world.accept("other", "b", "two").session, ..a.clone() };
    assert_eq!(world.mark(&a, inbox::finish), Marked::NotOfThisSession, "never handed over");
    world.hand_over(&a);
    assert_eq!(world.mark(&stranger, inbox::begin), Marked::NotOfThisSession);
    assert_eq!(world.mark(&stranger, inbox::finish), Marked::NotOfThisSession);
    assert_eq!(world.mark(&a, inbox::begin), Marked::Changed);
    assert!(world.open(&a)[0].began);
    world.hand_over(&a);
    assert!(!world.open(&a)[0].began, "handed over anew, its turn has not begun");
    assert_eq!(world.mark(&a, inbox::finish), Marked::Changed);
    assert_eq!(world.mark(&a, inbox::finish), Marked::AlreadyFinished);
    assert_eq!(world.mark(&a, inbox::begin), Marked::AlreadyFinished);
    assert!(world.open(&a).is_empty());
    assert_eq!((world.session(&a).open_messages, world.session(&a).open_engaging), (0, 0));
    let found = world.read(|conn| inbox::find(conn, &a.session, &a.message)).unwrap();
    assert_eq!((found.state, found.position), (State::Done, a.position));
    assert_eq!(world.read(|conn| inbox::find(conn, &stranger.session, &a.message)), None);
}

#[test]
fn a_session_is_owed_while_a_message_that_starts_a_turn_is_open() {
    let world = World::new();
    let owed = || world.read(sessions::owed);
    let keyring = world.keyring.clone();
    let quiet = inbox::NewInbound { engage: false, ..message("main", "q", "hm") };
    let quiet = world.write(move |tx| inbox::accept(tx, &keyring, &quiet));
    assert!(owed().is_empty());
    let a = world.accept("main", "a", "one");
    let b = world.accept("other", "b", "two");
    let mut both = vec![a.session.clone(), b.session.clone()];
    both.sort();
    assert_eq!(owed(), both);
    let session = a.session.clone();
    world.write(move |tx| sessions::park(tx, &session, "it lied"));
    assert_eq!(world.session(&a).state, SessionState::Parked { reason: "it lied".to_owned() });
    assert_eq!(owed(), both.iter().filter(|id| **id == b.session).cloned().collect::<Vec<_>>());
    let session = a.session.clone();
    world.write(move |tx| sessions::release(tx, &session));
    assert_eq!(owed(), both);
    for done in [&a, &b] {
        world.hand_over(done);
        world.mark(done, inbox::finish);
    }
    assert!(owed().is_empty());
    assert_eq!(world.session(&quiet).open_messages, 1);
}

#[test]
fn five_deaths_in_its_turn_fail_a_message() {
    let world = World::new();
    let a = world.accept("main", "a", "one");
    let bystander = world.accept("main", "b", "two");
    let die = || {
        let session = a.session.clone();
        world.write(move |tx| inbox::count_death(tx, &session))
    };
    world.hand_over(&a);
    assert!(die().is_empty(), "before its turn began nothing counts");
    for round in 1..=MOST_DEATHS {
        assert_eq!(world.open(&a)[0].deaths, round - 1);
        world.hand_over(&a);
        world.mark(&a, inbox::begin);
        let failed = die();
        assert_eq!(failed.is_empty(), round < MOST_DEATHS);
        assert!(die().is_empty(), "the same death again");
    }
    let open = world.open(&a);
    assert_eq!((open.len(), &open[0].message.id, open[0].deaths), (1, &bystander.message, 0));
    let last = world.page(&a, 0).pop().unwrap();
    assert_eq!((last.direction, last.state), (Direction::Finished, Some(State::Failed)));
    assert_eq!(last.message, a.message);
    assert!(last.reason.unwrap().contains("five times"));
}

#[test]
fn deaths_before_a_turn_are_counted_until_one_begins() {
    let world = World::new();
    let a = world.accept("main", "a", "one");
    let note = || {
        let session = a.session.clone();
        world.write(move |tx| sessions::note_launch_death(tx, &session))
    };
    assert_eq!((note(), note()), (1, 2));
    world.hand_over(&a);
    world.mark(&a, inbox::begin);
    assert_eq!(note(), 1);
    let session = a.session.clone();
    world.write(move |tx| sessions::set_wait_reason(tx, &session, Some("no runtime")));
    assert_eq!(world.session(&a).wait_reason.as_deref(), Some("no runtime"));
    let session = a.session.clone();
    world.write(move |tx| sessions::release(tx, &session));
    let row = world.session(&a);
    assert_eq!((row.launch_deaths, row.wait_reason), (0, None));
}

#[test]
fn the_cursor_moves_only_from_where_it_is_in_the_epoch_it_is_in() {
    let world = World::new();
    let a = world.accept("main", "a", "one");
    let step = |epoch, from, to| {
        let session = a.session.clone();
        world.write(move |tx| sessions::advance_cursor(tx, &session, epoch, from, to))
    };
    assert!(step(1, 0, 5));
    assert!(!step(1, 0, 7) && !step(1, 5, 3) && !step(2, 5, 7));
    let session = a.session.clone();
    assert_eq!(world.write(move |tx| sessions::new_epoch(tx, &session)), 2);
    assert_eq!((world.session(&a).epoch, world.session(&a).out_cursor), (2, 0));
    assert!(!step(1, 0, 9) && step(2, 0, 9));
}

#[test]
fn an_output_is_stored_once_per_epoch_and_number() {
    let world = World::new();
    let a = world.accept("main", "a", "one");
    let first = world.store(&a, 1, 1, "answer");
    assert_eq!(world.store(&a, 1, 1, "lie"), outbox::Stored { duplicate: true, ..first.clone() });
    assert!(!world.store(&a, 2, 1, "again").duplicate);
    let texts: Vec<_> = world.page(&a, a.position).into_iter().map(|e| e.text.unwrap()).collect();
    assert_eq!(texts, ["answer", "again"]);
}

#[test]
fn a_client_that_follows_the_history_learns_everything() {
    let world = World::new();
    let a = world.accept("main", "a", "question");
    world.hand_over(&a);
    world.mark(&a, inbox::begin);
    world.store(&a, 1, 1, "answer");
    world.mark(&a, inbox::finish);
    let (keyring, session) = (world.keyring.clone(), a.session.clone());
    world.write(move |tx| history::notice(tx, &keyring, &session, None, "by the way"));
    world.accept("other", "b", "not theirs");
    let page = world.page(&a, 0);
    let seen: Vec<_> = page.iter().map(|e| (e.direction, e.text.as_deref(), e.state)).collect();
    assert_eq!(
        seen,
        [
            (Direction::In, Some("question"), Some(State::Done)),
            (Direction::Out, Some("answer"), None),
            (Direction::Finished, None, Some(State::Done)),
            (Direction::Notice, Some("by the way"), None),
        ]
    );
    assert_eq!(page[1].in_reply_to.as_deref(), Some(a.message.as_str()));
    assert_eq!(world.page(&a, page[1].position), page[2..]);
    assert!(world.page(&a, page[3].position).is_empty() && world.page(&a, u64::MAX).is_empty());
    let one = world.read(|conn| history::page(conn, &world.keyring, &a.session, 0, 1));
    assert_eq!(one, page[..1]);
}

/// What the host says of a conversation that several chats share is told in those that wait for it, or else where it was
/// had last.
#[test]
fn a_notice_of_a_shared_conversation_reaches_its_chats() {
    let world = World::new();
    let accept = |chat: &str, event: &str| {
        let place = Place {
            channel: "webhook".to_owned(),
            instance: String::new(),
            chat: chat.to_owned(),
            thread: Some("t".to_owned()),
        };
        let partition = Partition { group: group(), place: agent_place(&group()) };
        let new = NewInbound { partition, place, ..message(chat, event, "hello") };
        let keyring = world.keyring.clone();
        world.write(move |tx| inbox::accept(tx, &keyring, &new))
    };
    let (one, other) = (accept("one", "a"), accept("other", "b"));
    accept("one", "c");
    assert_eq!(one.session, other.session);
    let tell = |text: &'static str| {
        let (keyring, session) = (world.keyring.clone(), one.session.clone());
        world.write(move |tx| history::notice(tx, &keyring, &session, None, text));
    };
    let told = || -> Vec<(String, Option<String>)> {
        world.read(|conn| {
            let all = deliveries::list(conn, deliveries::State::Waiting, 0, 100, None)?;
            Ok(all.into_iter().map(|(_, one)| (one.place.chat, one.place.thread)).collect())
        })
    };
    let at = |chat: &str| (chat.to_owned(), Some("t".to_owned()));
    tell("it is parked");
    assert_eq!(told(), [at("one"), at("other")]);
    // Where nobody waits, the last that spoke is told.
    for accepted in [&one, &other] {
        world.hand_over(accepted);
    }
    let session = one.session.clone();
    world.write(move |tx| {
        Ok(tx.execute("UPDATE inbox SET state = 'done' WHERE session = ?1", [session.as_str()])?)
    });
    tell("and again");
    assert_eq!(told(), [at("one"), at("other"), at("one")]);
    // A chat that has another name now is brought what waits for it under that.
    world.write(|tx| messaging_groups::rename(tx, "webhook", "", "one", "new"));
    assert_eq!(told(), [at("new"), at("other"), at("new")]);
}

#[test]
fn a_page_of_long_texts_ends_early() {
    let world = World::new();
    let long = "x".repeat(inbox::MOST_TEXT);
    for at in 0..6 {
        world.accept("main", &format!("e{at}"), &long);
    }
    let a = world.accept("main", "e0", "");
    let page = world.page(&a, 0);
    assert_eq!(page.len(), 4);
    assert_eq!(world.page(&a, page[3].position).len(), 2);
}

#[test]
fn an_erased_session_cannot_be_read_but_goes_on() {
    let world = World::new();
    let a = world.accept("main", "a", "secret words");
    world.store(&a, 1, 1, "secret answer");
    let before = world.read(|conn| secrets::get(conn, &world.keyring, &a.session)).unwrap();
    let session = a.session.clone();
    world.write(move |tx| secrets::erase(tx, &session));
    assert!(world.read(|conn| secrets::get(conn, &world.keyring, &a.session)).is_none());
    assert!(world.page(&a, 0).iter().all(|entry| entry.text.is_none()));
    assert!(world.open(&a).is_empty() && world.read(sessions::owed).is_empty());
    let b = world.accept("main", "b", "new words");
    assert_eq!(b.session, a.session);
    assert_ne!(world.read(|conn| secrets::get(conn, &world.keyring, &a.session)).unwrap(), before);
    let texts: Vec<_> = world.page(&a, 0).into_iter().filter_map(|entry| entry.text).collect();
    assert_eq!(texts, ["new words"]);
    tasks::block_on(world.ledger.checkpoint()).unwrap();
}

#[test]
fn a_secret_is_made_once_and_a_damaged_one_is_not_a_missing_one() {
    let world = World::new();
    let a = world.accept("main", "a", "one");
    let first = world.read(|conn| secrets::get(conn, &world.keyring, &a.session)).unwrap();
    let (keyring, session) = (world.keyring.clone(), a.session.clone());
    assert_eq!(world.write(move |tx| Ok(secrets::get_or_create(tx, &keyring, &session)?.0)), first);
    let b = world.accept("other", "b", "two");
    // A sealed secret moved to another session must not open there.
    let (from, to) = (a.session.clone(), b.session.clone());
    world.write(move |tx| {
        let sql = "UPDATE session_secrets SET sealed =
                   (SELECT sealed FROM session_secrets WHERE session = ?1) WHERE session = ?2";
        Ok(tx.execute(sql, [from.as_str(), to.as_str()])?)
    });
    let moved = world.ledger.read_blocking(|conn| secrets::get(conn, &world.keyring, &b.session));
    assert!(matches!(moved, Err(StoreError::Key(_))));
    let (keyring, session) = (world.keyring.clone(), b.session.clone());
    let moved = world.ledger.write_blocking(super::super::Step::Other, move |tx| {
        Ok(secrets::get_or_create(tx, &keyring, &session)?.0)
    });
    assert!(matches!(moved, Err(StoreError::Key(_))), "and is never replaced by a new one");
}

#[test]
fn a_text_moved_to_another_row_does_not_open() {
    let world = World::new();
    let a = world.accept("main", "a", "one");
    world.accept("main", "b", "two");
    world.write(|tx| Ok(tx.execute("UPDATE inbox SET text = (SELECT text FROM inbox LIMIT 1)", [])?));
    let page = world.read(|conn| history::page(conn, &world.keyring, &a.session, 0, 100));
    let told: Vec<_> = page.iter().map(|entry| (entry.text.as_deref(), entry.is_unreadable)).collect();
    assert_eq!(told, [(Some("one"), false), (None, true)], "and does not hide the others");
}

#[test]
fn host_ids_are_given_once_and_never_again() {
    let world = World::new();
    let host_id = |name: GroupName| world.write(move |tx| groups::host_id(tx, &name, 1000));
    assert_eq!((host_id(group()), host_id(group())), (1001, 1001));
    let second = GroupName::parse("second").unwrap();
    let new = groups::NewGroup {
        name: second.clone(),
        title: "Second".to_owned(),
        provider: "mock".to_owned(),
        model: "mock".to_owned(),
        tools: groups::Tools::List(vec!["read_file".to_owned()]),
    };
    let again = new.clone();
    assert!(world.write(move |tx| groups::ensure(tx, &again)));
    let again = new.clone();
    assert!(!world.write(move |tx| groups::ensure(tx, &again)));
    assert_eq!(host_id(second.clone()), 1002);
    world.write(|tx| Ok(tx.execute("DELETE FROM agent_groups WHERE name = 'second'", [])?));
    world.write(move |tx| groups::ensure(tx, &new));
    assert_eq!(host_id(second.clone()), 1003);
    let listed = world.read(|conn| groups::list(conn, None, 10, None));
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1].tools, groups::Tools::List(vec!["read_file".to_owned()]));
    assert_eq!(world.read(|conn| groups::get(conn, &second)).unwrap(), listed[1]);
    assert_eq!(world.read(|conn| groups::list(conn, Some(&group()), 10, None)), listed[1..]);
}

#[test]
fn old_history_goes_and_open_messages_stay() {
    let world = World::new();
    let a = world.accept("main", "a", "one");
    world.hand_over(&a);
    world.store(&a, 1, 1, "answer");
    world.mark(&a, inbox::finish);
    let open = world.accept("main", "b", "two");
    let later = Millis(Millis::now().0 + 1);
    let prune = |most| world.write(move |tx| retention::prune_history(tx, later, most));
    assert_eq!((prune(2), prune(2), prune(2)), (2, 1, 0));
    let left: Vec<_> = world.page(&a, 0).into_iter().map(|entry| entry.message).collect();
    assert_eq!(left, [open.message]);
    let rows = |table: &'static str| {
        world.read(move |c| {
            Ok(c.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get::<_, i64>(0))?)
        })
    };
    assert_eq!((rows("inbox"), rows("outbox"), rows("history")), (1, 0, 1));
}

#[test]
fn sessions_are_listed_in_pages() {
    let world = World::new();
    for chat in ["a", "b", "c"] {
        world.accept(chat, chat, "hello");
    }
    let all = world.read(|conn| sessions::list(conn, None, 10, None));
    assert_eq!(all.len(), 3);
    assert_eq!(world.read(|conn| sessions::list(conn, Some(&all[0].id), 1, None)), all[1..2]);
}

#[test]
fn who_was_written_to_for_an_unfinished_message_is_found() {
    let world = World::new();
    let (a, b) = (world.accept("main", "a", "one"), world.accept("other", "b", "two"));
    let keyring = world.keyring.clone();
    let output = |from: &Accepted, seq: u64, there: &Accepted| Output {
        session: from.session.clone(),
        epoch: 1,
        seq,
        ordinal: 0,
        in_reply_to: Some(from.message.clone()),
        place: message("main", "", "").place,
        shown_in: there.session.clone(),
        text: "look".to_owned(),
    };
    let all = [output(&a, 1, &b), output(&a, 3, &b), output(&a, 5, &a), output(&b, 1, &b)];
    world.write(move |tx| all.iter().try_for_each(|output| outbox::store(tx, &keyring, output).map(drop)));
    let of = |accepted: &Accepted| {
        let session = accepted.session.clone();
        world.write(move |tx| outbox::sent_elsewhere(tx, &session, 10))
    };
    assert_eq!((of(&a), of(&b)), (vec![b.session.clone()], vec![]));
    let told = world.page(&b, 0);
    let from: Vec<Option<String>> = told
        .into_iter()
        .filter(|entry| entry.direction == Direction::Out)
        .map(|entry| entry.from_session)
        .collect();
    assert_eq!(from, [Some(a.session.to_string()), Some(a.session.to_string()), None]);
    world.hand_over(&a);
    world.mark(&a, inbox::begin);
    world.mark(&a, inbox::finish);
    assert_eq!(of(&a), []);
}

#[test]
fn what_is_asked_often_is_found_by_an_index() {
    let world = World::new();
    let plan = |sql: &'static str| {
        world.read(move |conn| {
            let mut query = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let lines: Result<Vec<String>, _> = query.query_map([], |row| row.get(3))?.collect();
            Ok(lines?.join("; "))
        })
    };
    for (sql, index) in [
        ("SELECT 1 FROM inbox WHERE session = 's' AND state = 'open' ORDER BY position", "inbox_open"),
        ("SELECT 1 FROM history WHERE session = 's' AND position > 1 ORDER BY position", "history_session"),
        (sessions::OWED, "inbox_open"),
        ("SELECT 1 FROM inbox WHERE id = 'm' AND session = 's'", "autoindex_inbox"),
        ("SELECT 1 FROM history WHERE at < 1 ORDER BY at", "history_at"),
        ("SELECT 1 FROM events WHERE at < 1 ORDER BY at", "events_at"),
    ] {
        let plan = plan(sql);
        assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}

#[test]
fn what_waits_for_deleted_agents_is_failed_in_pieces() {
    let world = World::new();
    let waiting: Vec<Accepted> =
        (0..5).map(|n| world.accept(["one", "two"][n % 2], &format!("e{n}"), "hi")).collect();
    let fail = || world.write(|tx| inbox::fail_of_deleted(tx, 2));
    assert_eq!(fail(), 0, "its agent lives");
    world.write(|tx| groups::delete(tx, &group()));
    assert_eq!((fail(), fail(), fail(), fail()), (2, 2, 1, 0));
    for accepted in &waiting {
        let row = world.session(accepted);
        assert_eq!((row.open_messages, row.open_engaging), (0, 0));
        let told = world.page(accepted, 0);
        let end = told
            .iter()
            .find(|entry| entry.direction == Direction::Finished && entry.message == accepted.message);
        assert!(end.is_some(), "{told:?}");
    }
}
