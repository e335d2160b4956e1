//! What a message costs when the ledger holds a long history, beside one that holds a short one. The history is written
//! by the ledger's own functions, for as many conversations as a house of that age has; then both control planes are
//! asked in turn, in a conversation that is as old as the others.

use std::time::Duration;

use ironclaw::contract::ids::GroupName;
use ironclaw::contract::inbound::InboundKind;
use ironclaw::controlplane::keys::{self, FileMaster, Keyring};
use ironclaw::controlplane::state::{StateDir, Wall};
use ironclaw::controlplane::store::inbox::{self, NewInbound};
use ironclaw::controlplane::store::outbox::{self, Output};
use ironclaw::controlplane::store::sessions::{Partition, Place};
use ironclaw::controlplane::store::{Ledger, Step, StoreError};

use crate::replies::{PAUSE, Talk};
use crate::table::{Amount, Row, Samples};
use crate::world::{Daemon, Home, Runtime, Serve};
use crate::{Bench, processes};

/// The short one.
const SHORT: usize = 1000;
/// Conversations that share a history.
const CHATS: usize = 50;
/// As `serve` has it unless told otherwise.
const FIRST_USER: u32 = 2_000_000_000;
/// Messages of one transaction.
const AT_ONCE: usize = 500;

pub fn history(bench: &Bench) -> Vec<Row> {
    let homes = [SHORT, bench.history].map(|messages| (grown(bench, messages), messages));
    let daemons = [0, 1].map(|at| serve(&homes[at].0));
    let mut talks = [0, 1].map(|at| Talk::open(&daemons[at], "chat-0"));
    for talk in &mut talks {
        talk.reply("hello");
    }
    let mut latencies = [Samples::default(), Samples::default()];
    let mut work = [Duration::ZERO; 2];
    for number in 0..2 * bench.replies {
        let at = number % 2;
        std::thread::sleep(PAUSE);
        let before = processes::processor_time(&[daemons[at].id()]);
        latencies[at].push(talks[at].reply("How are you?"));
        work[at] += processes::processor_time(&[daemons[at].id()]).saturating_sub(before);
    }
    let per_message = |at: usize| work[at] / u32::try_from(bench.replies).unwrap_or(u32::MAX);
    let (after, beside) = (format!("after {} messages", bench.history), format!("after {SHORT}"));
    vec![
        Row::times(format!("warm reply, native, {after} of history"), &latencies[1])
            .floor(Amount::Time(latencies[0].median()), &beside)
            .at_most_times_floor(1.1),
        Row::new(format!("processor time of a message {after} of history"), Amount::Time(per_message(1)))
            .floor(Amount::Time(per_message(0)), &beside)
            .at_most_times_floor(1.1),
    ]
}

fn serve(home: &Home) -> Daemon {
    Serve::new(home, Runtime::Native).flag("--linger", "1h").flag("--log-level", "warn").ready()
}

/// A home whose ledger holds so many messages, each with its answer.
fn grown(bench: &Bench, messages: usize) -> Home {
    let home = bench.home();
    // Makes the keys, the ledger and its agents.
    assert!(serve(&home).stop().success());
    let state = StateDir::claim(&home.state(), Wall::of_this_process(FIRST_USER)).expect("the state is free");
    let keyring = keys::open(&state, &FileMaster::at(state.join("master.key"))).expect("the keystore opens");
    let ledger = Ledger::open(&state, &keyring).expect("the ledger opens");
    let mut written = 0;
    while written < messages {
        let (keyring, count) = (keyring.clone(), AT_ONCE.min(messages - written));
        let done = ledger.write_blocking(Step::Other, move |tx| {
            (written..written + count).try_for_each(|number| message(tx, &keyring, number))
        });
        done.expect("the ledger takes them");
        written += count;
    }
    ledger.stop();
    home
}

/// One message with its answer, finished.
fn message(tx: &rusqlite::Transaction<'_>, keyring: &Keyring, number: usize) -> Result<(), StoreError> {
    let place = Place {
        channel: "api".to_owned(),
        instance: String::new(),
        chat: format!("chat-{}", number % CHATS),
        thread: None,
    };
    let group = GroupName::parse("mock-agent").map_err(|_| StoreError::BadRow("an agent"))?;
    let new = NewInbound {
        partition: Partition { group, place: place.clone() },
        place: place.clone(),
        event_id: format!("event-{number}"),
        kind: InboundKind::Chat,
        engage: true,
        sender_id: "local:owner".to_owned(),
        sender_name: "owner".to_owned(),
        text: format!("one of many messages, number {number}"),
        in_reply_to: None,
        source_session: None,
        hop: 0,
        platform_message: None,
    };
    let accepted = inbox::accept(tx, keyring, &new)?;
    let seqs = inbox::hand_over(tx, &accepted.session, std::slice::from_ref(&accepted.message))?;
    let output = Output {
        session: accepted.session.clone(),
        epoch: 0,
        seq: seqs.first().copied().unwrap_or(0),
        ordinal: 0,
        in_reply_to: Some(accepted.message.clone()),
        place,
        shown_in: accepted.session.clone(),
        text: format!("the answer to number {number}"),
    };
    outbox::store(tx, keyring, &output)?;
    inbox::finish(tx, &accepted.session, &accepted.message).map(drop)
}
