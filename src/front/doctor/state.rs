//! The checks of what belongs to one control plane: its state directory, its keys, its token, its address and its
//! disk. Reads them; locks, makes and changes nothing.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Check, Verdict};
use crate::controlplane::config::{Config, MasterKeySource};
use crate::controlplane::keys::{self, ApiToken};
use crate::controlplane::listen;
use crate::controlplane::serve::master_key;
use crate::controlplane::session::{FreeSpace, Room};
use crate::controlplane::state::{self, Readers, StateDir};
use crate::os::{files, network};

/// The longest token and its line end.
const TOKEN_BYTES: usize = 258;

/// All of them.
pub(super) fn look(config: &Config, checks: &mut Vec<Check>) {
    let directory = &config.state_dir;
    let found = directory_check(directory);
    // What is in a directory that is not ours, or not there, says nothing.
    let is_there = found.verdict != Verdict::Fail && StateDir::was_claimed(directory);
    checks.push(found);
    if is_there {
        checks.push(keys_check(config));
        checks.push(token_check(config));
    }
    checks.push(port_check(config));
    checks.push(disk_check(config));
}

fn directory_check(directory: &Path) -> Check {
    const NAME: &str = "state directory";
    let shown = directory.display();
    let meta = match fs::symlink_metadata(directory) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Check::ok(NAME, format!("{shown} is not there yet: the first start makes it"));
        }
        Err(error) => {
            return Check::fail(
                NAME,
                format!("{shown} cannot be looked at: {error}"),
                "run as the user that the control plane runs as, or name another with --state-dir",
            );
        }
    };
    let me = rustix::process::geteuid().as_raw();
    if !meta.is_dir() {
        return Check::fail(
            NAME,
            format!("{shown} is a symbolic link or no directory"),
            "name the real directory with --state-dir",
        );
    }
    if meta.uid() != me {
        return Check::fail(
            NAME,
            format!("{shown} belongs to user id {}, and this is {me}", meta.uid()),
            "run as its owner, or name another with --state-dir",
        );
    }
    let is_empty = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    if !StateDir::was_claimed(directory) && !is_empty {
        return Check::fail(
            NAME,
            format!("{shown} holds something that is not ironclaw's"),
            "name an empty or a new directory with --state-dir",
        );
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o027 != 0 {
        return Check::warn(
            NAME,
            format!("{shown} has mode {mode:04o}, so others reach into it"),
            format!("chmod {} {shown} (the next start does it too)", if me == 0 { "0710" } else { "0700" }),
        );
    }
    match StateDir::holder(directory) {
        Some(pid) => Check::ok(NAME, format!("{shown}, mode {mode:04o}, in use by process {pid}")),
        None => Check::ok(NAME, format!("{shown}, mode {mode:04o}, no control plane runs on it")),
    }
}

fn keys_check(config: &Config) -> Check {
    const NAME: &str = "keys";
    let source = master_key(config, &config.state_dir);
    match keys::check(&config.state_dir, source.as_ref()) {
        Ok(true) if config.master_key == MasterKeySource::StateFile => Check::ok(
            NAME,
            format!(
                "{} opens the keystore; it lies beside what it protects (ironclaw help keys)",
                source.place()
            ),
        ),
        Ok(true) => Check::ok(NAME, format!("{} opens the keystore", source.place())),
        Ok(false) => Check::ok(NAME, "no keystore yet: the first start makes it"),
        Err(error) => Check::told(NAME, Verdict::Fail, &error.to_string()),
    }
}

fn token_check(config: &Config) -> Check {
    const NAME: &str = "token file";
    if config.api_token.is_some() {
        return Check::ok(NAME, "the environment gives the first token");
    }
    let path = config.state_dir.join("api-token");
    match state::read_private(&path, TOKEN_BYTES, Readers::OwnerOnly) {
        Ok(None) => Check::warn(
            NAME,
            format!("{} is not there", path.display()),
            "the next start makes another; tokens made with `ironctl token create` are as they were",
        ),
        Ok(Some(bytes)) => {
            let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
            if ApiToken::is_well_formed(text) {
                Check::ok(NAME, format!("{} holds a token, and nobody else may read it", path.display()))
            } else {
                Check::fail(
                    NAME,
                    format!("{} holds no token", path.display()),
                    "remove it; the next start makes another",
                )
            }
        }
        Err(error) => Check::told(NAME, Verdict::Fail, &error.to_string()),
    }
}

fn port_check(config: &Config) -> Check {
    const NAME: &str = "address";
    let address = match listen::resolve(&config.door) {
        Ok(address) => address,
        Err(error) => return Check::told(NAME, Verdict::Fail, &error.to_string()),
    };
    match TcpListener::bind(address) {
        Ok(_) => Check::ok(NAME, format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => match StateDir::holder(&config.state_dir) {
            Some(pid) if network::listens(pid, address.port()).unwrap_or(true) => {
                Check::ok(NAME, format!("{address} is in use, and process {pid} is our control plane"))
            }
            Some(_) | None => Check::fail(
                NAME,
                format!(
                    "{address} is in use by a program that is not the control plane of this state directory"
                ),
                "stop that one, or choose another port with --api-addr 127.0.0.1:PORT",
            ),
        },
        Err(error) => Check::fail(
            NAME,
            format!("{address} cannot be listened on: {error}"),
            "choose another address with --api-addr",
        ),
    }
}

fn size(bytes: u64) -> String {
    match bytes >> 20 {
        mib @ 0..10_000 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib >> 10),
    }
}

fn disk_check(config: &Config) -> Check {
    const NAME: &str = "disk";
    // Where the state directory will be, if it is not there yet.
    let place = config.state_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let space = match files::space(place) {
        Ok(space) => space,
        Err(error) => {
            return Check::fail(
                NAME,
                format!("the free space at {} cannot be read: {error}", place.display()),
                "choose another directory with --state-dir",
            );
        }
    };
    let seen = format!("{} free of {} at {}", size(space.free), size(space.total), place.display());
    match FreeSpace::new(place, config.min_free).room() {
        Room::Enough => Check::ok(NAME, seen),
        Room::Low => {
            Check::fail(NAME, format!("{seen}: nothing is launched"), "free some space, or lower --min-free")
        }
        Room::Critical => Check::fail(
            NAME,
            format!("{seen}: all sandboxes are stopped"),
            "free some space, or lower --min-free",
        ),
    }
}
