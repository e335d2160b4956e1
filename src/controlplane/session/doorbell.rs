//! The host's end of one sandbox's doorbell: a listener, the one connection it accepts, and frames both ways.
//! Whatever the sandbox sends turns into an event for the session's actor, slowly enough that a flood costs
//! only the flooder, and whatever the host sends waits in a queue of a few frames.

use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use smol::channel::{Receiver, Sender};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, Task, Timer};

use super::run::Pace;
use crate::contract::frame::{FromSandbox, LONGEST, Lines, ToSandbox};
use crate::controlplane::isolation::{Identity, peer_is_ours};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;

/// Frames that may wait for a sandbox that does not read. An honest one is owed four at the most.
const WAITING: usize = 16;

/// Most bytes taken in one reading; with the pace of readings it bounds what a flood of frames can cost.
const GULP: usize = 4 * LONGEST;

/// Readings a second beyond those that the permitted rings need: reports of life, and frames in pieces.
const SPARE_READINGS: u32 = 50;

/// Readings that each permitted ring may need: the ring, the acknowledgement of the host's, each in two pieces.
const READINGS_A_RING: u32 = 4;

/// Pause between two refused connections.
const PAUSE: Duration = Duration::from_millis(20);

/// Pause after `accept` failed, so that a shortage of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What came through the doorbell.
#[derive(Debug)]
pub(super) enum Heard {
    /// A frame.
    Frame(FromSandbox),
    /// Something that is none.
    Garbage,
    /// The connection ended.
    Closed,
}

/// A listening doorbell. Dropping it closes the listener and the connection.
#[derive(Debug)]
pub(super) struct Doorbell {
    outgoing: Sender<ToSandbox>,
    _task: Task<()>,
}

impl Doorbell {
    /// Serves `listener`; every event goes to `hear`. A sandbox that sends more than `rings_per_second` need
    /// is read more slowly, and then waits for its own buffer.
    pub(super) fn serve(
        listener: UnixListener,
        identity: Identity,
        rings_per_second: u32,
        hear: impl Fn(Heard) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = Async::new_nonblocking(listener)?;
        let (outgoing, frames) = smol::channel::bounded(WAITING);
        let task = tasks::spawn(async move {
            let first = accept_one(&listener, identity).await;
            // One connection is all a sandbox gets; others are closed as they come.
            let refuse = async {
                loop {
                    drop(accept_one(&listener, identity).await);
                    log::warn("doorbell.second_connection", &[]);
                    Timer::after(PAUSE).await;
                }
            };
            smol::future::or(talk(first, frames, rings_per_second, &hear), refuse).await;
            hear(Heard::Closed);
        });
        Ok(Self { outgoing, _task: task })
    }

    /// Queues a frame. `false` when the sandbox has not taken the earlier ones: it counts as stalled.
    pub(super) fn send(&self, frame: ToSandbox) -> bool {
        self.outgoing.try_send(frame).is_ok()
    }
}

async fn accept_one(listener: &Async<UnixListener>, identity: Identity) -> Async<UnixStream> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if peer_is_ours(&stream, identity) => return stream,
            Ok(_) => log::warn("doorbell.foreign_peer", &[]),
            Err(error) => {
                log::warn("doorbell.accept_failed", &[("error", &error)]);
                Timer::after(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Runs until either direction ends.
async fn talk(
    stream: Async<UnixStream>,
    frames: Receiver<ToSandbox>,
    rings_per_second: u32,
    hear: &(impl Fn(Heard) + Sync),
) {
    let reading = async {
        let most = rings_per_second.saturating_mul(READINGS_A_RING).saturating_add(SPARE_READINGS);
        let mut pace = Pace::new(most, Instant::now());
        let mut lines = Lines::default();
        let mut buffer = [0; GULP];
        loop {
            let count = match (&stream).read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            };
            let Ok(complete) = lines.feed(buffer.get(..count).unwrap_or_default()) else {
                hear(Heard::Garbage);
                return;
            };
            for line in complete {
                match FromSandbox::parse(&line) {
                    Ok(frame) => hear(Heard::Frame(frame)),
                    Err(_) => {
                        hear(Heard::Garbage);
                        return;
                    }
                }
            }
            let hold = pace.hold(Instant::now());
            if !hold.is_zero() {
                Timer::after(hold).await;
            }
        }
    };
    let writing = async {
        while let Ok(frame) = frames.recv().await {
            if (&stream).write_all(frame.encode().as_bytes()).await.is_err() {
                return;
            }
        }
        // The actor is done with this sandbox.
    };
    smol::future::or(reading, writing).await;
}
