//! One launch, from the ledger's open messages to a process: a number for every row, a new `inbound.db`, an
//! empty `outbound.db`, the sockets, the sandbox. Every step can be interrupted: what was handed over and not
//! finished is handed over again under new numbers.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::channel::Sender;

use super::actor::Event;
use super::context::Context;
use super::disk;
use super::doorbell::Doorbell;
use super::handing;
use super::ingest::Spent;
use super::limits::{BYTES_A_RING, MEASURE_EVERY, MESSAGES_A_RING};
use super::run::{Pace, Run};
use crate::contract::cipher::{ConveyorFile, FileKey, SessionKey};
use crate::contract::conveyor::ConveyorError;
use crate::contract::fault;
use crate::contract::ids::SessionId;
use crate::contract::inbound::{self, InboundBody, InboundRow, InboundWriter, Place, SessionConfig, Usage};
use crate::controlplane::brokers::model::OpenSocket;
use crate::controlplane::isolation::{
    self, Identity, Isolator, SandboxSpec, SessionPaths, Shown, bind_socket, hand_over,
};
use crate::controlplane::state::Wall;
use crate::controlplane::store::attachments::MOST_OF_A_MESSAGE;
use crate::controlplane::store::destinations::Destination;
use crate::controlplane::store::grants::Grant;
use crate::controlplane::store::groups::AgentGroup;
use crate::controlplane::store::inbox::{OpenMessage, Page, PageRoom};
use crate::controlplane::store::sessions::{SessionRow, SessionState};
use crate::controlplane::store::{Step, StoreError, destinations, grants, groups, inbox, secrets, sessions};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;

/// Longest answer that the agent asks of a model, in tokens.
const MAX_TOKENS: u64 = 4096;

/// Why there is no new sandbox.
#[derive(Debug)]
pub(super) enum Unlaunched {
    /// No open message: nothing is owed.
    NothingOwed,
    /// An operator must release the session first.
    Parked,
    /// What was decided about the agent is not in the audit files yet.
    Unrecorded(String),
    /// The machine is at fault; the messages wait, shown with this reason.
    Machine(String),
}

/// What the ledger gave for a launch.
struct Order {
    row: SessionRow,
    group: AgentGroup,
    grants: Vec<Grant>,
    /// Those that nothing may come of yet.
    unrecorded: Vec<Grant>,
    identity: Identity,
    key: SessionKey,
    destinations: Vec<Destination>,
    /// The numbers of the configuration and of the destinations, below those of the messages.
    config_seqs: Vec<u64>,
    /// The numbers of the pieces of their files.
    file_seqs: Vec<u64>,
    messages: Vec<(u64, OpenMessage)>,
    /// The ledger has more than there was room for.
    more: bool,
}

impl Order {
    /// The number of the last row that travels.
    fn last(&self) -> u64 {
        let below = self.config_seqs.last().copied().unwrap_or_default();
        self.messages.last().map_or(below, |(seq, _)| *seq)
    }
}

/// Everything that a sandbox needs beside its process.
struct Prepared {
    order: Order,
    usage: Usage,
    grants: Vec<Grant>,
    left_out: Vec<String>,
    places: Vec<Place>,
    spec: SandboxSpec,
    inbound: InboundWriter,
    doorbell: Doorbell,
    model: OpenSocket,
}

/// Launches a sandbox for `session`; `number` marks its events.
pub(super) async fn launch(
    context: &Arc<Context>,
    isolator: &Arc<dyn Isolator>,
    session: &SessionId,
    number: u64,
    events: &Sender<Event>,
) -> Result<Run, Unlaunched> {
    let started = Instant::now();
    // Launches block for long and so never take every thread that the ledger's readers need.
    let _launching = context.launches.acquire().await;
    // Its first process joins its cgroups while everything else is made ready.
    let staging = {
        let (isolator, session, limits) = (isolator.clone(), session.clone(), context.limits);
        tasks::unblock(move || isolator.stage(&session, &limits))
    };
    let prepared = prepare(context, session, number, events).await;
    let staged = staging.await.map_err(|error| Unlaunched::Machine(error.to_string()));
    let (staged, prepared) = match (staged, prepared) {
        (Ok(staged), Ok(prepared)) => (staged, prepared),
        (staged, prepared) => {
            // It must be gone before the next launch of this session makes cgroups of the same name.
            let staged = tasks::unblock(move || staged.map(drop)).await;
            return Err(prepared.err().or(staged.err()).unwrap_or(Unlaunched::NothingOwed));
        }
    };
    let Prepared { order, usage, grants, left_out, places, spec, inbound, doorbell, model } = prepared;
    let paths = spec.paths.clone();
    let last = order.last();
    let (isolator, key) = (isolator.clone(), order.key.clone());
    let sandbox = tasks::unblock(move || isolator.start(staged, &spec, &key))
        .await
        .map_err(|error| Unlaunched::Machine(error.to_string()))?;
    fault::point("launch.started");

    let sandbox = Arc::new(sandbox);
    let (watched, sender) = (sandbox.clone(), events.clone());
    let watch = tasks::spawn(async move {
        let exit = watched.exited().await;
        let _ = sender.try_send(Event::Exited(number));
        exit
    });
    let now = Instant::now();
    Ok(Run {
        number,
        more: order.more,
        group: order.group.name.clone(),
        sandbox,
        watch,
        doorbell,
        model,
        paths,
        inbound: Some(inbound),
        outbound_key: order.key.file_key(ConveyorFile::Outbound),
        launched: started,
        welcomed: false,
        epoch: order.row.epoch,
        cursor: order.row.out_cursor,
        handed: order.messages.last().map_or(0, |(_, open)| open.position),
        rung: last,
        acked: 0,
        rung_at: now,
        stalled: false,
        open: order.messages.iter().map(|(seq, open)| (*seq, open)).collect(),
        finished: Vec::new(),
        turn: Vec::new(),
        turn_began: false,
        waiting_since: now,
        turn_at: None,
        reading: None,
        spent: Spent::default(),
        pace: Pace::new(context.config.rings_per_second, now),
        outcomes: Vec::new(),
        answered: Vec::new(),
        closed_at: None,
        idle_since: None,
        measure_at: now + MEASURE_EVERY,
        measuring: false,
        allowed: context.allowed(&order.group),
        usage,
        grants,
        left_out,
        places,
        outdated: false,
        reconfigured: false,
    })
}

/// Numbers for the rows, directories, the conveyors, the sockets.
async fn prepare(
    context: &Arc<Context>,
    session: &SessionId,
    number: u64,
    events: &Sender<Event>,
) -> Result<Prepared, Unlaunched> {
    let order = order(context, session).await?;
    let paths = SessionPaths::new(&context.paths, session, &order.group.name);
    let (host, name, granted) = (context.host.clone(), order.group.name.clone(), order.grants.clone());
    let (shown, mut left_out) = tasks::unblock(move || host.show(&name, &granted)).await;
    left_out.extend(order.unrecorded.iter().map(Grant::unrecorded));
    for why in &left_out {
        log::warn("sandbox.left_out", &[("session", session), ("group", &order.group.name), ("why", why)]);
    }
    let (grants, shown): (Vec<Grant>, Vec<Shown>) = shown.into_iter().unzip();
    let places: Vec<Place> = shown.iter().map(Shown::told).collect();
    let spec = SandboxSpec {
        session: session.clone(),
        paths: paths.clone(),
        identity: order.identity,
        limits: context.limits,
        shown,
        args: arguments(),
        #[cfg(feature = "faults")]
        executable_override: fault::value(&format!("sandbox-exe@{}", order.group.name)).map(Into::into),
    };
    let prepared = spec.clone();
    tasks::unblock(move || isolation::prepare(&prepared).map_err(|error| error.to_string()))
        .await
        .map_err(Unlaunched::Machine)?;
    let allowed = context.allowed(&order.group);
    let usage = disk::measure(context, &order.group.name, session, &paths, allowed).await;

    let (inbound, listeners) = {
        let open: Vec<_> = order.messages.iter().map(|(_, open)| open.clone()).collect();
        let (files, _) =
            handing::attached(context, &open).await.map_err(|ending| Unlaunched::Machine(ending.words()))?;
        let rows = snapshot(&order, places.clone(), usage, allowed.turn, files);
        let identity = order.identity;
        let key = order.key.file_key(ConveyorFile::Inbound);
        tasks::unblock(move || {
            let inbound = new_inbound(&paths, identity, &key, &rows)
                .map_err(|error| format!("inbound.db could not be made: {error}"))?;
            let bind = |path: &Path| {
                bind_socket(path, identity)
                    .map_err(|error| format!("{} could not be bound: {error}", path.display()))
            };
            Ok::<_, String>((inbound, (bind(&paths.doorbell)?, bind(&paths.model)?)))
        })
        .await
        .map_err(Unlaunched::Machine)?
    };
    fault::point("launch.conveyors_ready");

    let sender = events.clone();
    let doorbell =
        Doorbell::serve(listeners.0, order.identity, context.config.rings_per_second, move |heard| {
            let _ = sender.try_send(Event::Heard(number, heard));
        })
        .map_err(|error| Unlaunched::Machine(format!("the doorbell does not listen: {error}")))?;
    let identity = order.identity;
    let refused = {
        let (audit, session, group) = (context.desk.audit.clone(), session.clone(), order.group.name.clone());
        move |why| audit.action_refused(&session, &group, "model", why)
    };
    let terms = (order.group.provider.as_str(), order.group.model.as_str());
    let peer = move |stream: BorrowedFd<'_>| isolation::peer_is_ours(stream, identity);
    let model = context
        .models
        .open(listeners.1, (session, &order.group.name), terms, peer, refused)
        .map_err(|error| Unlaunched::Machine(format!("the model socket does not listen: {error}")))?;
    Ok(Prepared { order, usage, grants, left_out, places, spec, inbound, doorbell, model })
}

/// One transaction: is anything owed, and if so a number for every row that will travel.
async fn order(context: &Context, session: &SessionId) -> Result<Order, Unlaunched> {
    let (session, keyring) = (session.clone(), context.keyring.clone());
    let wall = context.wall;
    // Asked before the transaction, so that all of these are in it.
    let exported = context.desk.audit.exported();
    let found = context.ledger.write_step(Step::Launch, move |tx| {
        let row = sessions::get(tx, &session)?.ok_or_else(|| StoreError::NoSession(session.clone()))?;
        if matches!(row.state, SessionState::Parked { .. }) {
            return Ok(Err(Unlaunched::Parked));
        }
        if row.open_engaging == 0 {
            return Ok(Err(Unlaunched::NothingOwed));
        }
        let name = &row.partition.group;
        let group = groups::live(tx, name)?.ok_or_else(|| StoreError::NoGroup(name.clone()))?;
        if let Some(reason) = group.unrecorded(exported) {
            return Ok(Err(Unlaunched::Unrecorded(reason)));
        }
        let (grants, unrecorded) = grants::recorded(tx, name, exported)?;
        let Some(secret) = secrets::get(tx, &keyring, &session)? else {
            let reason =
                "the key of this conversation is not in the ledger; its texts cannot be read any more";
            return Ok(Err(Unlaunched::Machine(reason.to_owned())));
        };
        let identity = match wall {
            // Agent groups' ids come after the self-test's.
            Wall::Root { mapped_root } => Identity::Mapped {
                wall: mapped_root,
                group: groups::host_id(tx, name, mapped_root + isolation::SELF_TEST_ID)?,
            },
            Wall::OrdinaryUser => Identity::OwnUser,
        };
        let room = PageRoom { rows: MESSAGES_A_RING, bytes: BYTES_A_RING, attached: MOST_OF_A_MESSAGE };
        let Page { open, is_cut: more } = inbox::open_messages(tx, &keyring, &session, 0, room)?;
        if open.is_empty() {
            // What is open waits for its files, and wakes when they are here.
            return Ok(Err(Unlaunched::NothingOwed));
        }
        let destinations = destinations::of(tx, name)?;
        let config_seqs = sessions::mint_seqs(tx, &session, 1 + destinations.len())?;
        let ids: Vec<_> = open.iter().map(|open| open.message.id.clone()).collect();
        let file_seqs = sessions::mint_seqs(tx, &session, handing::pieces(&open))?;
        let seqs = inbox::hand_over(tx, &session, &ids)?;
        let messages = seqs.into_iter().zip(open).collect();
        let key = secret.sandbox_key();
        Ok(Ok(Order {
            row,
            group,
            grants,
            unrecorded,
            identity,
            key,
            destinations,
            config_seqs,
            file_seqs,
            messages,
            more,
        }))
    });
    found.await.map_err(|error| Unlaunched::Machine(error.to_string()))?
}

/// What an agent is told of itself.
pub(super) fn told(group: &AgentGroup, places: Vec<Place>, usage: Usage, turn: Duration) -> SessionConfig {
    SessionConfig {
        agent: group.name.to_string(),
        persona: group.persona.told(),
        provider: group.provider.clone(),
        model: group.model.clone(),
        max_tokens: MAX_TOKENS,
        turn_seconds: turn.as_secs(),
        tools: group.tools.names(),
        usage,
        places,
    }
}

/// What an agent is told of itself and of where it may send, in the order in which it is told.
pub(super) fn told_all(config: SessionConfig, destinations: &[Destination]) -> Vec<InboundBody> {
    let destination = |Destination { name, target, .. }: &Destination| {
        let is_agent = target.channel == inbound::AGENT;
        let of_a_chat = |part: &String| (!is_agent).then(|| part.clone());
        InboundBody::Destination(inbound::Destination {
            name: name.clone(),
            kind: if is_agent { "agent" } else { "chat" }.to_owned(),
            display_name: target.display_name.clone(),
            channel: of_a_chat(&target.channel),
            chat: of_a_chat(&target.chat),
            agent_group: is_agent.then(|| target.chat.clone()),
        })
    };
    std::iter::once(InboundBody::Config(config)).chain(destinations.iter().map(destination)).collect()
}

/// The rows of a new `inbound.db`: the configuration, the destinations, the files, then the open messages.
fn snapshot(
    order: &Order,
    places: Vec<Place>,
    usage: Usage,
    turn: Duration,
    files: Vec<InboundBody>,
) -> Vec<InboundRow> {
    let config = told(&order.group, places, usage, turn);
    let told = order.config_seqs.iter().zip(told_all(config, &order.destinations));
    let mut rows: Vec<InboundRow> = told.map(|(seq, body)| InboundRow { seq: *seq, body }).collect();
    let files = order.file_seqs.iter().zip(files);
    rows.extend(files.map(|(seq, body)| InboundRow { seq: *seq, body }));
    rows.extend(
        order
            .messages
            .iter()
            .map(|(seq, open)| InboundRow { seq: *seq, body: InboundBody::Message(open.message.clone()) }),
    );
    rows
}

/// Makes the file under another name and renames it, so that no half-made one is ever mounted.
fn new_inbound(
    paths: &SessionPaths,
    identity: Identity,
    key: &FileKey,
    rows: &[InboundRow],
) -> Result<InboundWriter, ConveyorError> {
    let io =
        |doing: &'static str| move |error: std::io::Error| ConveyorError::Host(format!("{doing}: {error}"));
    let new = paths.inbound.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("clearing")(error)),
        _ => {}
    }
    let inbound = InboundWriter::create(&new, key, rows)?;
    hand_over(&new, identity).map_err(io("handing over"))?;
    std::fs::rename(&new, &paths.inbound).map_err(io("renaming"))?;
    Ok(inbound)
}

#[cfg(not(feature = "faults"))]
fn arguments() -> Vec<String> {
    Vec::new()
}

/// A sandbox has no environment, so the faults that it should play reach it as an argument. With
/// `sandbox-launches=K` only the first K sandboxes of this daemon play them, so that a test can see what the
/// next one makes of it.
#[cfg(feature = "faults")]
fn arguments() -> Vec<String> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LAUNCHES: AtomicU64 = AtomicU64::new(0);
    let launches = LAUNCHES.fetch_add(1, Ordering::Relaxed);
    let playing = fault::value("sandbox-launches").and_then(|most| most.parse().ok()).unwrap_or(u64::MAX);
    if launches < playing { vec!["--faults".to_owned(), fault::all().to_owned()] } else { Vec::new() }
}
