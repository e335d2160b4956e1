//! Takes of one thing until something stops it, and writes down on the way how far it came.

use std::fs::{self, File};
use std::io::Write;

use ironclaw::contract::paths;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::bell::Bell;
use super::{Done, Guest, lies};

const MIB: usize = 1 << 20;

/// Where the host reads how far it came.
fn note(so_far: usize) -> Done {
    Ok(fs::write(format!("{}/progress", paths::WORKSPACE), format!("{so_far}\n"))?)
}

/// Memory, touched page by page.
pub(super) fn memory(guest: &Guest) -> Done {
    let mut bell = Bell::begin()?;
    lies::begin_turn(guest, &mut bell)?;
    let mut held = Vec::new();
    for count in 1..=1024 {
        held.push(vec![0x5a_u8; MIB]);
        note(count)?;
    }
    lies::reply(guest, &mut bell, "it had a gigabyte")?;
    bell.until_stop()
}

/// Threads that wait.
pub(super) fn threads(guest: &Guest) -> Done {
    let mut bell = Bell::begin()?;
    let mut count = 0;
    let refused = loop {
        if count == 1024 {
            break "nothing refused".to_owned();
        }
        match std::thread::Builder::new().stack_size(64 * 1024).spawn(std::thread::park) {
            Ok(_) => count += 1,
            Err(error) => break error.to_string(),
        }
        note(count)?;
    };
    lies::reply(guest, &mut bell, &format!("{count} threads, then: {refused}"))?;
    bell.until_stop()
}

/// What the limits of the process are, and whether they are kept.
pub(super) fn limits(guest: &Guest) -> Done {
    ironclaw::os::process::ignore_file_size_signal()?;
    let mut found = Vec::new();
    let mut say = |name: &str, finding: String| found.push(format!("{name}={finding}"));
    for (name, resource) in [
        ("core", Resource::Core),
        ("file_size", Resource::Fsize),
        ("open_files", Resource::Nofile),
        ("threads", Resource::Nproc),
        ("address_space", Resource::As),
    ] {
        let limit = getrlimit(resource);
        let text = match (limit.current, limit.maximum) {
            (Some(current), Some(maximum)) => format!("{current} {maximum}"),
            _ => "none".to_owned(),
        };
        say(name, text);
    }
    let more = Rlimit { current: Some(1 << 40), maximum: Some(1 << 40) };
    say("raise", outcome(setrlimit(Resource::Fsize, more).map(|()| "raised".to_owned())));

    let path = format!("{}/large", paths::WORKSPACE);
    let mut file = File::create(&path)?;
    say("file_at_limit", outcome(file.set_len(64 << 20).map(|()| "written".to_owned())));
    say("file_beyond", outcome(file.set_len((64 << 20) + 1).map(|()| "written".to_owned())));
    drop(file);
    let opened: Vec<File> = (0..1024).map_while(|_| File::open(&path).ok()).collect();
    say("opened", opened.len().to_string());
    drop(opened);
    fs::remove_file(&path)?;

    let path = format!("{}/large", paths::TMP);
    file = File::create(&path)?;
    let written = (0..64).take_while(|_| file.write_all(&vec![0x5a; MIB]).is_ok()).count();
    say("tmp_mib", written.to_string());
    drop(file);
    fs::remove_file(&path)?;

    // Reserved and not touched.
    let mut large: Vec<u8> = Vec::new();
    say("gigabyte", outcome(large.try_reserve_exact(1024 * MIB).map(|()| "reserved".to_owned())));
    drop(large);

    let spawn = || std::thread::Builder::new().stack_size(64 * 1024).spawn(std::thread::park);
    let spawned: Vec<_> = (0..256).map_while(|_| spawn().ok()).collect();
    say("spawned", spawned.len().to_string());

    let mut bell = Bell::begin()?;
    lies::reply(guest, &mut bell, &found.join("\n"))?;
    bell.until_stop()
}

fn outcome<E: std::fmt::Display>(result: Result<String, E>) -> String {
    result.unwrap_or_else(|error| format!("error: {error}"))
}
