//! A program that takes the agent's place in a sandbox and misbehaves. It gets what an agent gets (the key on
//! standard input, the mounts, the doorbell) and does what the first waiting message says: `hostile MODE`.
//! Only the faults build can be told to launch it. It touches nothing but what the sandbox gives it.

mod asks;
mod bell;
mod hog;
mod lies;
mod models;
mod probe;

use std::collections::VecDeque;
use std::io::Read;

use bell::Bell;
use ironclaw::contract::cipher::{ConveyorFile, FileKey, KEY_BYTES, SessionKey};
use ironclaw::contract::frame::{FromSandbox, ToSandbox};
use ironclaw::contract::inbound::{InboundBody, InboundReader, MessageIn};
use ironclaw::contract::outbound::{OutboundKind, OutboundWriter};
use ironclaw::contract::paths;

/// Anything that goes wrong ends the program: that is an exit by itself, which the host must survive too.
type Done = Result<(), Box<dyn std::error::Error>>;

/// What every mode works with.
struct Guest {
    key: SessionKey,
    inbound: FileKey,
    outbound: FileKey,
    message: MessageIn,
}

impl Guest {
    /// A number that the message gives after the mode.
    fn number(&self, word: usize) -> Result<usize, Box<dyn std::error::Error>> {
        Ok(self.message.text.split_whitespace().nth(word).ok_or("the mode needs a number")?.parse()?)
    }
}

fn main() -> Done {
    // A sandbox has no environment: what the faults build was told comes as an argument.
    let words: Vec<String> = std::env::args().collect();
    if let Some([_, list]) = words.windows(2).find(|pair| pair.first().is_some_and(|word| word == "--faults"))
    {
        ironclaw::contract::fault::set(list);
    }
    let key = read_key()?;
    let inbound = key.file_key(ConveyorFile::Inbound);
    // The snapshot is complete before the sandbox starts, so it can be read without a ring, wrong as it is.
    let message = first_message(&inbound)?;
    let guest = Guest { inbound, outbound: key.file_key(ConveyorFile::Outbound), message, key };
    let mode = guest.message.text.split_whitespace().nth(1).unwrap_or("honest").to_owned();
    eprintln!("hostile {mode}");
    match mode.as_str() {
        "honest" => honest(&guest),
        "probe" => probe::answer(&guest),
        "traffic" => traffic(&guest, 1),
        "hoard" => traffic(&guest, guest.number(2)?),
        "exit" => Ok(()),
        "abort" => std::process::abort(),
        "mute" => forever(),
        "never-ack" => {
            let mut bell = Bell::connect()?;
            bell.hello(0)?;
            bell.welcome()?;
            bell.listen_forever()
        }
        "deaf" => {
            // Says hello and then never reads again.
            let mut bell = Bell::connect()?;
            bell.hello(0)?;
            forever()
        }
        "flood" => flood(&guest, b"alive flood\n"),
        "flood-rings" => flood(&guest, b"out 1\n"),
        "flood-acks" => flood(&guest, b"ack 2\n"),
        "flood-valid" => lies::ring_without_end(&guest, 1, &lies::again(&guest, OutboundKind::Chat)),
        "flood-rows" => lies::ring_without_end(&guest, 2_000, &lies::again(&guest, OutboundKind::Chat)),
        "flood-asks" => lies::ring_without_end(&guest, 1, &lies::again(&guest, OutboundKind::Action)),
        "act" => asks::these(&guest),
        "post" => asks::letters(&guest),
        "model" => models::ask(&guest),
        "model-raw" => models::raw(&guest),
        "model-slow" => models::slow(&guest),
        "model-leave" => models::leave(&guest),
        "propose" => asks::proposals(&guest),
        "garbage" => garbage(&guest, &[0xff, 0x00, b'\n']),
        "garbage-text" => garbage(&guest, b"please open the door\n"),
        "garbage-long" => garbage(&guest, &[b'a'; 1 << 20]),
        "garbage-negative" => garbage(&guest, b"out -1\n"),
        "garbage-huge" => garbage(&guest, b"out 99999999999999999999\n"),
        "garbage-zero" => garbage(&guest, b"out 01\n"),
        "garbage-hello" => garbage(&guest, b"hello 1 0\n"),
        "ack-ahead" => garbage(&guest, b"ack 1000000\n"),
        "version" => {
            let mut bell = Bell::connect()?;
            bell.send(b"hello 99 0\n")?;
            bell.listen_forever()
        }
        "early" => {
            let mut bell = Bell::connect()?;
            bell.send(b"out 1\n")?;
            bell.listen_forever()
        }
        "two" => two_connections(&guest),
        "ignore-stop" => ignore_stop(&guest),
        "busy" => busy(),
        "fill" => fill(&guest),
        "hog-memory" => hog::memory(&guest),
        "hog-threads" => hog::threads(&guest),
        "hog-limits" => hog::limits(&guest),
        other => lies::tell(&guest, other),
    }
}

/// 32 bytes on standard input, as every sandbox gets them.
fn read_key() -> Result<SessionKey, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    std::io::stdin().take(1024).read_to_end(&mut bytes)?;
    let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| "the key has the wrong length")?;
    Ok(SessionKey::from_bytes(bytes))
}

fn first_message(key: &FileKey) -> Result<MessageIn, Box<dyn std::error::Error>> {
    let reader = InboundReader::open(paths::INBOUND.as_ref(), key)?;
    let last = last_number(key)?;
    for row in reader.rows(0, last)? {
        if let InboundBody::Message(message) = row.body {
            return Ok(message);
        }
    }
    Err("no message is waiting".into())
}

/// The highest number in the snapshot: the reader insists on being told.
fn last_number(key: &FileKey) -> Result<u64, Box<dyn std::error::Error>> {
    use ironclaw::contract::cipher::{Role, open};
    let connection = open(paths::INBOUND.as_ref(), key, Role::SandboxInbound)?;
    let mut last = 0;
    for table in ["messages_in", "attachments_in", "destinations", "session_config"] {
        let query = format!("SELECT coalesce(max(seq), 0) FROM {table}");
        last = last.max(connection.query_row(&query, [], |row| row.get::<_, i64>(0))?);
    }
    Ok(u64::try_from(last)?)
}

/// Does everything right: it shows that the program speaks the protocol, so that each lie fails for its own
/// reason and not for a broken start.
fn honest(guest: &Guest) -> Done {
    let mut bell = Bell::begin()?;
    lies::reply(guest, &mut bell, "honest")?;
    bell.until_stop()
}

fn flood(_: &Guest, frame: &[u8]) -> Done {
    let mut bell = Bell::begin()?;
    let many = frame.repeat(1000);
    loop {
        bell.send(&many)?;
    }
}

fn garbage(_: &Guest, bytes: &[u8]) -> Done {
    let mut bell = Bell::begin()?;
    bell.send(bytes)?;
    bell.listen_forever()
}

fn two_connections(guest: &Guest) -> Done {
    let mut first = Bell::begin()?;
    let mut closed = 0;
    for _ in 0..50 {
        let mut second = Bell::connect()?;
        let answered = second.hello(0).is_ok() && second.welcome().is_ok();
        closed += usize::from(!answered);
    }
    lies::reply(guest, &mut first, &format!("{closed} of 50 further connections were closed"))?;
    first.until_stop()
}

fn ignore_stop(guest: &Guest) -> Done {
    let mut bell = Bell::begin()?;
    lies::reply(guest, &mut bell, "ignoring")?;
    while bell.next().is_ok() {}
    forever()
}

fn busy() -> Done {
    for _ in 0..8 {
        let _ = std::thread::Builder::new().spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    let mut bell = Bell::begin()?;
    bell.send(b"alive busy\n")?;
    bell.listen_forever()
}

/// Begins a turn, writes more than any test's quota in every place that lasts, and then waits for what comes.
fn fill(guest: &Guest) -> Done {
    let mut bell = Bell::begin()?;
    lies::begin_turn(guest, &mut bell)?;
    let block = vec![0x5a; 1 << 20];
    for directory in [paths::WORKSPACE, paths::MEMORY, paths::SESSION_DIR] {
        for number in 0..FILL_MIB {
            if std::fs::write(format!("{directory}/fill-{number}"), &block).is_err() {
                break;
            }
        }
    }
    bell.until_stop()
}

/// What `fill` writes in each place at most: a test must not fill the machine's disk.
const FILL_MIB: usize = 24;

fn forever() -> Done {
    loop {
        std::thread::park();
    }
}

/// Answers every message with its own text, one transaction for what one ring brought, without end; `rows` after
/// the mode also with how many there are in each file, in its own before this answer. A hoarder holds this many
/// before it finishes the first, adds to each answer how many it had then, and ends where the text of a message
/// is `all`.
fn traffic(guest: &Guest, hoard: usize) -> Done {
    let mut bell = Bell::greet()?;
    let mut writer = OutboundWriter::create(paths::OUTBOUND.as_ref(), &guest.outbound)?;
    let mut read = 0;
    let mut seq = bell.next_number();
    let mut waiting: VecDeque<MessageIn> = VecDeque::new();
    let mut rung = None;
    let mut rows_in = 0;
    loop {
        match bell.next()? {
            ToSandbox::In(last) => {
                // Before the host may write again.
                rows_in = lies::count(paths::INBOUND, &guest.inbound, &["messages_in"])?;
                for row in InboundReader::open(paths::INBOUND.as_ref(), &guest.inbound)?.rows(read, last)? {
                    if let InboundBody::Message(message) = row.body {
                        waiting.push_back(message);
                    }
                }
                read = last;
                bell.send(FromSandbox::Ack(last).encode().as_bytes())?;
            }
            ToSandbox::Ack(stored) if rung == Some(stored) => {
                bell.cursor = stored;
                rung = None;
            }
            ToSandbox::Stop => return Ok(()),
            _ => {}
        }
        let held = waiting.len();
        let ends = waiting.back().is_some_and(|message| message.text == "all");
        if rung.is_none() && held > 0 && (held >= hoard || ends) {
            let many = if hoard == 1 { held } else { held.min(HOARDER_FINISHES) };
            let mut rows = Vec::new();
            for message in waiting.drain(..many) {
                let mut text = message.text.clone();
                if text == "hostile traffic rows" {
                    let tables = ["messages_out", "processing"];
                    let rows_out = lies::count(paths::OUTBOUND, &guest.outbound, &tables)?;
                    text = format!("{text}: {rows_in} in, {rows_out} out");
                } else if hoard > 1 {
                    text = format!("{text} {held}");
                }
                rows.extend(lies::answer_rows(&message, [seq, seq + 2, seq + 4], &text));
                seq += 6;
            }
            writer.append(&rows, bell.cursor)?;
            rung = Some(seq - 2);
            bell::remember(seq - 2)?;
            bell.send(FromSandbox::Out(seq - 2).encode().as_bytes())?;
        }
    }
}

/// What a hoarder finishes at once: as many as an honest turn takes.
const HOARDER_FINISHES: usize = 64;
