//! The thread that always answers. It owns the doorbell and both conveyors: it reads inbound between a ring
//! and its acknowledgement, writes what the turn hands it to outbound, and rings. At most one outbound
//! transaction is unacknowledged; what queues meanwhile goes into the next. It touches the doorbell, the two
//! conveyor files and the channels to the turn, and sleeps in `poll` when there is nothing to do.

use std::collections::VecDeque;
use std::fmt;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::rest::Rest;
use crate::contract::cipher::FileKey;
use crate::contract::conveyor::ConveyorError;
use crate::contract::fault;
use crate::contract::frame::{FrameError, FromSandbox, HelloSeq, Lines, ToSandbox, VERSION};
use crate::contract::inbound::{InboundReader, InboundRow};
use crate::contract::outbound::{BYTES_A_RING, OutboundRow, OutboundWriter, ROWS_A_RING};

/// How often a running turn is reported.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Unsent frames beyond this mean that the host does not read; reports of life are then left out.
const UNSENT_BYTES: usize = 256;

/// To the turn.
#[derive(Debug)]
pub enum ToTurn {
    /// New inbound rows, in order. The first of these is the snapshot of the launch.
    Delivered(Vec<InboundRow>),
    /// The host has stored the outputs up to this number.
    Accepted(u64),
}

/// From the turn.
#[derive(Debug)]
pub enum FromTurn {
    /// Outputs that are committed in `session.db`, in order.
    Outputs(Vec<OutboundRow>),
    /// What the running turn waits for, as a doorbell word.
    Doing(&'static str),
    /// No turn is running.
    Idle,
    /// The turn's thread cannot go on.
    Failed(String),
}

/// The turn's end of its channel to the mailbox: sending wakes the mailbox from its `poll`.
#[derive(Clone, Debug)]
pub struct Outlet {
    channel: Sender<FromTurn>,
    wake: Arc<OwnedFd>,
}

impl Outlet {
    /// Hands something to the mailbox. If it is gone the process is ending, and nothing is left to do.
    pub fn send(&self, word: FromTurn) {
        self.send_all([word]);
    }

    /// [`Outlet::send`] for several things at once, in order.
    pub fn send_all<const N: usize>(&self, words: [FromTurn; N]) {
        if words.into_iter().all(|word| self.channel.send(word).is_ok()) {
            // The counter only fails when it is full, and then the mailbox wakes anyway.
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// Why the mailbox ended the process.
#[derive(Debug)]
pub enum MailboxError {
    /// The doorbell failed.
    Doorbell(std::io::Error),
    /// The host said what makes no sense.
    Frame(FrameError),
    /// The host said the wrong thing at the wrong time.
    Unexpected(ToSandbox),
    /// The inbound conveyor failed.
    Inbound(ConveyorError),
    /// The outbound conveyor failed.
    Outbound(ConveyorError),
    /// The turn's thread failed.
    Turn(String),
}

impl fmt::Display for MailboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Doorbell(error) => write!(f, "the doorbell failed: {error}"),
            Self::Frame(error) => write!(f, "{error}"),
            Self::Unexpected(frame) => write!(f, "the host rang `{}` out of turn", frame.encode().trim_end()),
            Self::Inbound(error) => write!(f, "inbound: {error}"),
            Self::Outbound(error) => write!(f, "outbound: {error}"),
            Self::Turn(why) => write!(f, "the turn cannot go on: {why}"),
        }
    }
}

impl std::error::Error for MailboxError {}

/// Why the mailbox ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// The host said `stop`.
    Stopped,
    /// The host closed the doorbell.
    Closed,
}

/// The connection to the host.
#[derive(Debug)]
pub struct Doorbell {
    stream: UnixStream,
    lines: Lines,
    frames: VecDeque<ToSandbox>,
    unsent: Vec<u8>,
}

impl Doorbell {
    /// Takes a connected stream.
    ///
    /// # Errors
    /// When it cannot be made non-blocking.
    pub fn new(stream: UnixStream) -> Result<Self, MailboxError> {
        stream.set_nonblocking(true).map_err(MailboxError::Doorbell)?;
        Ok(Self { stream, lines: Lines::default(), frames: VecDeque::new(), unsent: Vec::new() })
    }

    /// Says `hello`.
    ///
    /// # Errors
    /// When the doorbell fails.
    pub fn hello(&mut self, seq: HelloSeq) -> Result<(), MailboxError> {
        self.say(&FromSandbox::Hello { version: VERSION, seq })?;
        fault::point("box.hello");
        Ok(())
    }

    /// Waits for the answer to `hello`; gives the host's cursor.
    ///
    /// # Errors
    /// When the doorbell fails or the host says anything but `welcome` or `stop`.
    pub fn welcome(&mut self) -> Result<Result<u64, Farewell>, MailboxError> {
        match self.wait()? {
            Ok(ToSandbox::Welcome(cursor)) => {
                fault::point("box.welcome");
                Ok(Ok(cursor))
            }
            Ok(ToSandbox::Stop) => Ok(Err(Farewell::Stopped)),
            Ok(other) => Err(MailboxError::Unexpected(other)),
            Err(farewell) => Ok(Err(farewell)),
        }
    }

    /// Waits, however long, for the next frame.
    fn wait(&mut self) -> Result<Result<ToSandbox, Farewell>, MailboxError> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(Ok(frame));
            }
            let mut fds = [PollFd::new(&self.stream, self.interest())];
            ready(&mut fds, None)?;
            self.flush()?;
            if let Err(farewell) = self.receive()? {
                return Ok(Err(farewell));
            }
        }
    }

    /// Writes a frame, now or when there is room.
    fn say(&mut self, frame: &FromSandbox) -> Result<(), MailboxError> {
        self.unsent.extend_from_slice(frame.encode().as_bytes());
        self.flush()
    }

    fn flush(&mut self) -> Result<(), MailboxError> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => return Ok(()),
                Ok(sent) => {
                    self.unsent.drain(..sent);
                }
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock => return Ok(()),
                    std::io::ErrorKind::Interrupted => {}
                    // What the host wrote before it closed is still to be read; its end is seen there.
                    std::io::ErrorKind::BrokenPipe => {
                        self.unsent.clear();
                        return Ok(());
                    }
                    _ => return Err(MailboxError::Doorbell(error)),
                },
            }
        }
        Ok(())
    }

    /// Reads what is there.
    fn receive(&mut self) -> Result<Result<(), Farewell>, MailboxError> {
        let mut buffer = [0; 256];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Err(Farewell::Closed)),
                Ok(read) => {
                    let bytes = buffer.get(..read).unwrap_or_default();
                    for line in self.lines.feed(bytes).map_err(MailboxError::Frame)? {
                        self.frames.push_back(ToSandbox::parse(&line).map_err(MailboxError::Frame)?);
                    }
                    // One buffer at a time: what was read is answered before more is read.
                    return Ok(Ok(()));
                }
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock => return Ok(Ok(())),
                    std::io::ErrorKind::Interrupted => {}
                    std::io::ErrorKind::ConnectionReset => return Ok(Err(Farewell::Closed)),
                    _ => return Err(MailboxError::Doorbell(error)),
                },
            }
        }
    }

    fn interest(&self) -> PollFlags {
        if self.unsent.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }
}

/// Waits; says whether anything came.
fn ready(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<bool, MailboxError> {
    let timeout = timeout.and_then(|duration| Timespec::try_from(duration).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(MailboxError::Doorbell(errno.into())),
    }
}

/// Where the inbound conveyor is and what opens it.
#[derive(Debug)]
pub struct InboundFile {
    /// The file.
    pub path: PathBuf,
    /// Its key.
    pub key: FileKey,
}

/// The mailbox after the welcome.
#[derive(Debug)]
pub struct Mailbox {
    bell: Doorbell,
    inbound: InboundFile,
    inbound_cursor: u64,
    outbound: OutboundWriter,
    queue: VecDeque<OutboundRow>,
    unacknowledged: Option<u64>,
    accepted: u64,
    wake: Arc<OwnedFd>,
    from_turn: Receiver<FromTurn>,
    to_turn: Sender<ToTurn>,
    alive: Option<(&'static str, Instant)>,
    rest: Rest,
}

/// The mailbox's parts that come from elsewhere.
#[derive(Debug)]
pub struct Parts {
    /// The doorbell, welcomed.
    pub bell: Doorbell,
    /// The inbound conveyor.
    pub inbound: InboundFile,
    /// The outbound conveyor, with its tables and no row.
    pub outbound: OutboundWriter,
    /// The host's cursor.
    pub cursor: u64,
    /// Outputs that the host has not stored, in order.
    pub outputs: Vec<OutboundRow>,
}

impl Mailbox {
    /// Puts the mailbox together; the outlet is the turn's.
    ///
    /// # Errors
    /// When the system gives no event descriptor.
    pub fn new(parts: Parts, to_turn: Sender<ToTurn>) -> Result<(Self, Outlet), MailboxError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(eventfd(0, flags).map_err(|errno| MailboxError::Doorbell(errno.into()))?);
        let (channel, from_turn) = std::sync::mpsc::channel();
        let mailbox = Self {
            bell: parts.bell,
            inbound: parts.inbound,
            inbound_cursor: 0,
            outbound: parts.outbound,
            queue: parts.outputs.into(),
            unacknowledged: None,
            accepted: parts.cursor,
            wake: wake.clone(),
            from_turn,
            to_turn,
            alive: None,
            rest: Rest::default(),
        };
        Ok((mailbox, Outlet { channel, wake }))
    }

    /// Puts back what waits, so that the host learns of it before anything else.
    ///
    /// # Errors
    /// When the conveyor or the doorbell fails.
    pub fn put_back(&mut self) -> Result<(), MailboxError> {
        self.ring_next()
    }

    /// Serves until the host ends it.
    ///
    /// # Errors
    /// When a conveyor fails, when the host breaks the protocol, or when the turn cannot go on.
    pub fn serve(&mut self) -> Result<Farewell, MailboxError> {
        let mut something_came = true;
        loop {
            while let Some(frame) = self.bell.frames.pop_front() {
                match frame {
                    ToSandbox::In(last) => self.read_inbound(last)?,
                    ToSandbox::Ack(seq) => self.acknowledged(seq)?,
                    ToSandbox::Stop => return Ok(Farewell::Stopped),
                    ToSandbox::Welcome(_) => return Err(MailboxError::Unexpected(frame)),
                }
            }
            self.hear_turn()?;
            self.ring_next()?;
            self.report_life()?;
            let is_busy = self.alive.is_some() || self.unacknowledged.is_some();
            let rest = self.rest.due(is_busy, something_came, Instant::now());
            let due = self.alive.map(|(_, due)| due).or(rest);
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            let mut fds = [
                PollFd::new(&self.bell.stream, self.bell.interest()),
                PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
            ];
            something_came = ready(&mut fds, timeout)?;
            self.bell.flush()?;
            if let Err(farewell) = self.bell.receive()? {
                return Ok(farewell);
            }
        }
    }

    fn read_inbound(&mut self, last: u64) -> Result<(), MailboxError> {
        let rows = InboundReader::open(&self.inbound.path, &self.inbound.key)
            .and_then(|reader| reader.rows(self.inbound_cursor, last))
            .map_err(MailboxError::Inbound)?;
        self.inbound_cursor = last;
        fault::point("box.in_read");
        self.tell_turn(ToTurn::Delivered(rows))?;
        self.bell.say(&FromSandbox::Ack(last))?;
        fault::point("box.in_acked");
        Ok(())
    }

    fn acknowledged(&mut self, seq: u64) -> Result<(), MailboxError> {
        if self.unacknowledged != Some(seq) {
            return Err(MailboxError::Unexpected(ToSandbox::Ack(seq)));
        }
        fault::point("ring.acked");
        self.unacknowledged = None;
        self.accepted = seq;
        self.tell_turn(ToTurn::Accepted(seq))
    }

    fn tell_turn(&self, word: ToTurn) -> Result<(), MailboxError> {
        self.to_turn.send(word).map_err(|_| MailboxError::Turn("its thread is gone".into()))
    }

    fn hear_turn(&mut self) -> Result<(), MailboxError> {
        // Cleared before the channel is emptied: what comes later wakes again.
        let mut counter = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut counter);
        loop {
            match self.from_turn.try_recv() {
                Ok(FromTurn::Outputs(rows)) => self.queue.extend(rows),
                Ok(FromTurn::Doing(word)) => {
                    let due = self.alive.map_or_else(|| Instant::now() + ALIVE_EVERY, |(_, due)| due);
                    self.alive = Some((word, due));
                }
                Ok(FromTurn::Idle) => self.alive = None,
                Ok(FromTurn::Failed(why)) => return Err(MailboxError::Turn(why)),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    return Err(MailboxError::Turn("its thread is gone".into()));
                }
            }
        }
    }

    /// Commits what waits in one transaction, as far as one ring may carry it, and rings.
    fn ring_next(&mut self) -> Result<(), MailboxError> {
        if self.unacknowledged.is_some() || self.queue.is_empty() {
            return Ok(());
        }
        let count = one_ring(&self.queue);
        let rows: Vec<OutboundRow> = self.queue.drain(..count).collect();
        let Some(last) = rows.last().map(|row| row.seq) else { return Ok(()) };
        self.outbound.append(&rows, self.accepted).map_err(MailboxError::Outbound)?;
        fault::point("ring.out.before");
        self.unacknowledged = Some(last);
        self.bell.say(&FromSandbox::Out(last))?;
        fault::point("ring.out.after");
        Ok(())
    }

    fn report_life(&mut self) -> Result<(), MailboxError> {
        let now = Instant::now();
        let Some((word, due)) = self.alive else { return Ok(()) };
        if now < due {
            return Ok(());
        }
        self.alive = Some((word, now + ALIVE_EVERY));
        if self.bell.unsent.len() < UNSENT_BYTES {
            self.bell.say(&FromSandbox::Alive(word.to_owned()))?;
        }
        Ok(())
    }
}

/// How many of the waiting rows one ring may carry; at least one.
fn one_ring(queue: &VecDeque<OutboundRow>) -> usize {
    let mut bytes = 0;
    let within = queue.iter().take(ROWS_A_RING).take_while(|row| {
        bytes += row.body.weight();
        bytes <= BYTES_A_RING
    });
    within.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ids::MessageId;
    use crate::contract::outbound::{MessageOut, OutboundBody, OutboundKind, Processing};
    use crate::contract::time::Millis;

    fn text(seq: u64, bytes: usize) -> OutboundRow {
        let message = MessageOut {
            in_reply_to: None,
            kind: OutboundKind::Chat,
            channel: None,
            chat: None,
            thread: None,
            text: "x".repeat(bytes),
            created_at: Millis(0),
        };
        OutboundRow { seq, body: OutboundBody::Message(message) }
    }

    #[test]
    fn one_ring_carries_no_more_than_the_host_accepts() {
        let state =
            |seq| OutboundRow { seq, body: OutboundBody::Processing(MessageId::mint(), Processing::Done) };
        assert_eq!(one_ring(&(0..5000).map(state).collect()), ROWS_A_RING);
        assert_eq!(one_ring(&(0..9).map(|seq| text(seq, 1 << 20)).collect()), 8);
        assert_eq!(one_ring(&(0..3).map(|seq| text(seq, 9 << 20)).collect()), 1);
    }
}
