//! Tests of the ledger, over real files in a directory of their own.

mod changes;
mod conversations;
mod ending;
mod erased;
mod files;
mod migrations;
mod power;
mod usage;
mod writing;

use std::path::{Path, PathBuf};

use super::Ledger;
use super::groups::{NewGroup, Tools, ensure};
use super::inbox::{self, Accepted, NewInbound};
use super::sessions::{Partition, Place};
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::inbound::InboundKind;
use crate::controlplane::keys::{self, FileMaster, Keyring};
use crate::controlplane::state::{StateDir, Wall};

/// A directory that is deleted afterwards.
pub(in crate::controlplane) struct Scratch(PathBuf);

impl Scratch {
    pub(in crate::controlplane) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("store-{}", SessionId::mint()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(in crate::controlplane) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A state directory with its keyring and its open ledger.
pub(in crate::controlplane) struct World {
    pub(in crate::controlplane) ledger: Ledger,
    pub(in crate::controlplane) keyring: Keyring,
    pub(in crate::controlplane) state: StateDir,
    _scratch: Scratch,
}

pub(in crate::controlplane) fn claim(scratch: &Scratch) -> StateDir {
    StateDir::claim(&scratch.path().join("state"), Wall::OrdinaryUser).unwrap()
}

pub(in crate::controlplane) fn keyring(state: &StateDir) -> Keyring {
    keys::open(state, &FileMaster::at(state.join("master.key"))).unwrap()
}

pub(in crate::controlplane) fn group() -> GroupName {
    GroupName::parse("mock-agent").unwrap()
}

impl World {
    pub(in crate::controlplane) fn new() -> Self {
        let scratch = Scratch::new();
        let state = claim(&scratch);
        let keyring = keyring(&state);
        let ledger = Ledger::open(&state, &keyring).unwrap();
        let world = Self { ledger, keyring, state, _scratch: scratch };
        world.write(|tx| {
            ensure(
                tx,
                &NewGroup {
                    name: group(),
                    title: "Mock Agent (offline)".to_owned(),
                    provider: "mock".to_owned(),
                    model: "mock".to_owned(),
                    tools: Tools::All,
                },
            )
        });
        world
    }

    pub(in crate::controlplane) fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, super::StoreError> + Send + 'static,
    ) -> T {
        self.ledger.write_blocking(super::Step::Other, work).unwrap()
    }

    pub(in crate::controlplane) fn read<T>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, super::StoreError>,
    ) -> T {
        self.ledger.read_blocking(work).unwrap()
    }

    /// Accepts a message in the chat `chat`.
    pub(in crate::controlplane) fn accept(&self, chat: &str, event: &str, text: &str) -> Accepted {
        let keyring = self.keyring.clone();
        let new = message(chat, event, text);
        self.write(move |tx| inbox::accept(tx, &keyring, &new))
    }
}

pub(in crate::controlplane) fn message(chat: &str, event: &str, text: &str) -> NewInbound {
    let place =
        Place { channel: "api".to_owned(), instance: String::new(), chat: chat.to_owned(), thread: None };
    NewInbound {
        partition: Partition { group: group(), place: place.clone() },
        place,
        event_id: event.to_owned(),
        kind: InboundKind::Chat,
        engage: true,
        sender_id: "local:owner".to_owned(),
        sender_name: "Owner".to_owned(),
        text: text.to_owned(),
        in_reply_to: None,
        source_session: None,
        hop: 0,
        platform_message: None,
    }
}

/// Room for so many messages and bytes of text.
pub(super) fn room(rows: usize, bytes: usize) -> inbox::PageRoom {
    inbox::PageRoom { rows, bytes, attached: super::attachments::MOST_OF_A_MESSAGE }
}
