//! The agent process from its first instruction to its last: hardening, the key, `session.db`, the doorbell's
//! greeting, the outbound conveyor with what the host has not stored, the seal, and then the two threads. It
//! touches the places that its flags name and nothing else.

mod flags;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::thread::JoinHandle;

use crate::contract::cipher::{ConveyorFile, SessionKey};
use crate::contract::conveyor::ConveyorError;
use crate::contract::fault;
use crate::contract::frame::HelloSeq;
use crate::contract::outbound::OutboundWriter;
use crate::os::memory;

use super::harden::{self, KeySource};
use super::journal::{Journal, JournalError};
use super::mailbox::{self, Doorbell, Farewell, FromTurn, InboundFile, Mailbox, MailboxError};
use super::models::client::Client;
use super::selftest;
use super::tools::jail::{Jail, JailError};
use super::tools::{Bench, Destinations};
use super::turn::{self, Retries, Turns};
use flags::{Asked, Flags};

/// Runs the role; `words` are those after `sandbox`. Exit code 0 when the host ended it, 1 for any failure,
/// 2 for wrong usage.
pub fn main(words: &[&str]) -> u8 {
    let flags = match flags::parse(words) {
        Ok(Asked::Run(flags)) => flags,
        Ok(Asked::Help(text)) => {
            print!("{text}");
            return 0;
        }
        Err(wrong) => {
            eprintln!("ironclaw sandbox: {wrong}");
            return 2;
        }
    };
    #[cfg(feature = "faults")]
    if let Some(list) = &flags.faults {
        fault::set(list);
    }
    match run(*flags) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("ironclaw sandbox: {error}");
            1
        }
    }
}

/// Where everything is; the flags after parsing, or a test's own places.
#[derive(Clone, Debug)]
struct Places {
    inbound: PathBuf,
    outbound: PathBuf,
    session: PathBuf,
    workspace: PathBuf,
    doorbell: PathBuf,
    model_socket: PathBuf,
    model_host: String,
    model: String,
    retries: Retries,
}

/// Why the sandbox ended by itself.
#[derive(Debug)]
enum BootError {
    /// It could not protect itself, or had no key.
    Harden(harden::HardenError),
    /// The runtime does not run what a sandbox needs.
    SelfTest(selftest::SelfTestError),
    /// `session.db` failed.
    Journal(JournalError),
    /// The doorbell did not connect.
    Doorbell(PathBuf, std::io::Error),
    /// The outbound conveyor could not be made.
    Outbound(ConveyorError),
    /// The workspace could not be opened.
    Workspace(PathBuf, JailError),
    /// The second thread did not start.
    Thread(std::io::Error),
    /// The mailbox failed while it served.
    Mailbox(MailboxError),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Harden(error) => write!(f, "{error}"),
            Self::SelfTest(error) => write!(f, "{error}"),
            Self::Journal(error) => write!(f, "{error}"),
            Self::Doorbell(path, error) => write!(
                f,
                "the doorbell {} does not connect: {error}; only the control plane starts a sandbox",
                path.display()
            ),
            Self::Outbound(error) => write!(f, "outbound: {error}"),
            Self::Workspace(path, error) => write!(f, "the workspace {}: {error}", path.display()),
            Self::Thread(error) => write!(f, "the turn's thread did not start: {error}"),
            Self::Mailbox(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for BootError {}

fn run(flags: Flags) -> Result<(), BootError> {
    memory::share_heaps(1);
    let source = flags.key.as_deref().map_or(KeySource::StandardInput, KeySource::File);
    let key = harden::early(source).map_err(BootError::Harden)?;
    if flags.self_test {
        return selftest::run(&key).map_err(BootError::SelfTest);
    }
    let places = Places {
        inbound: flags.inbound,
        outbound: flags.outbound,
        session: flags.session,
        workspace: flags.workspace,
        doorbell: flags.doorbell,
        model_socket: flags.model_socket,
        model_host: flags.model_host,
        model: flags.model,
        retries: Retries::default(),
    };
    live(places, key, || harden::seal().map(|_| ()).map_err(BootError::Harden)).map(drop)
}

/// The life of the process after it has its key. Gives the turn's thread, if it came to have one: it may still wait
/// for the model, and the process ends without it.
fn live(
    places: Places,
    key: SessionKey,
    seal: impl FnOnce() -> Result<(), BootError>,
) -> Result<Option<JoinHandle<()>>, BootError> {
    let journal = Journal::open(&places.session, &key.file_key(ConveyorFile::Session));
    fault::point("box.session_open");
    let stream = UnixStream::connect(&places.doorbell)
        .map_err(|error| BootError::Doorbell(places.doorbell.clone(), error))?;
    let mut bell = Doorbell::new(stream).map_err(BootError::Mailbox)?;
    let mut journal = match journal {
        Ok(journal) => journal,
        Err(JournalError::Lost(why)) => {
            eprintln!("ironclaw sandbox: session.db is damaged and left as it is: {why}");
            // The host answers `lost` with `stop`; a welcome would be its mistake, and there is nothing to
            // serve with.
            bell.hello(HelloSeq::Lost).map_err(BootError::Mailbox)?;
            return match bell.welcome().map_err(BootError::Mailbox)? {
                Ok(_) => Err(BootError::Journal(JournalError::Lost(why))),
                Err(_) => Ok(None),
            };
        }
        Err(error) => return Err(BootError::Journal(error)),
    };
    let minted = HelloSeq::Minted(journal.minted().map_err(BootError::Journal)?);
    bell.hello(minted).map_err(BootError::Mailbox)?;
    // While the host thinks about it, before its first word is read, and before the second thread: landlock holds
    // for this one and those that it starts.
    seal()?;
    fault::point("box.sealed");
    let cursor = match bell.welcome().map_err(BootError::Mailbox)? {
        Ok(cursor) => cursor,
        Err(_) => return Ok(None),
    };
    let finished_before = journal.finished().map_err(BootError::Journal)?;
    journal.accept(cursor);
    let outputs = journal.outputs().map_err(BootError::Journal)?;
    let outbound = OutboundWriter::create(&places.outbound, &key.file_key(ConveyorFile::Outbound))
        .map_err(BootError::Outbound)?;
    fault::point("box.outbound_made");
    let files = Jail::open(&places.workspace)
        .map_err(|error| BootError::Workspace(places.workspace.clone(), error))?;
    let inbound = InboundFile { path: places.inbound, key: key.file_key(ConveyorFile::Inbound) };
    // The files' keys are derived; the key that they come from is not needed any more.
    drop(key);
    let (to_turn, inlet) = std::sync::mpsc::channel();
    let parts = mailbox::Parts { bell, inbound, outbound, cursor, outputs };
    let (mut mailbox, outlet) = Mailbox::new(parts, to_turn).map_err(BootError::Mailbox)?;
    mailbox.put_back().map_err(BootError::Mailbox)?;
    let gate = journal.gate();
    let turns = Turns::new(
        turn::Parts {
            journal,
            model: Client::new(places.model_socket, places.model_host),
            bench: Bench { files, destinations: Destinations::default() },
            model_name: places.model,
            retries: places.retries,
        },
        finished_before,
        inlet,
        outlet.clone(),
    );
    let turning = std::thread::Builder::new()
        .name("turn".into())
        .spawn(move || {
            let ended = std::panic::catch_unwind(AssertUnwindSafe(|| turns.run()));
            if ended.is_err() {
                outlet.send(FromTurn::Failed("it panicked".into()));
            }
        })
        .map_err(BootError::Thread)?;
    let served = mailbox.serve();
    // Whatever ended it: the transaction in progress is finished, and none begins after it.
    gate.close();
    match served.map_err(BootError::Mailbox)? {
        Farewell::Stopped | Farewell::Closed => Ok(Some(turning)),
    }
}
