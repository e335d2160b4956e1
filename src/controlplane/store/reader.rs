//! The reading connections: a pool that hands out one at a time and always gets it back, also when the reader
//! panics or is given up.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;
use smol::channel::{Receiver, Sender};

use super::StoreError;

/// Enough for two cores to be busy while others wait for the disk.
const CONNECTIONS: usize = 4;

/// The pool.
#[derive(Clone)]
pub(super) struct Readers {
    idle: Receiver<Connection>,
    back: Sender<Connection>,
}

/// One connection, given back when dropped.
pub(super) struct Lease {
    connection: Option<Connection>,
    back: Sender<Connection>,
}

impl Readers {
    pub(super) fn open(open: impl Fn() -> Result<Connection, StoreError>) -> Result<Self, StoreError> {
        let (back, idle) = smol::channel::bounded(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            back.try_send(open()?).map_err(|_| StoreError::Stopped)?;
        }
        Ok(Self { idle, back })
    }

    pub(super) async fn lease(&self) -> Result<Lease, StoreError> {
        let connection = self.idle.recv().await.map_err(|_| StoreError::Stopped)?;
        Ok(Lease { connection: Some(connection), back: self.back.clone() })
    }

    pub(super) fn lease_blocking(&self) -> Result<Lease, StoreError> {
        let connection = self.idle.recv_blocking().map_err(|_| StoreError::Stopped)?;
        Ok(Lease { connection: Some(connection), back: self.back.clone() })
    }
}

impl Lease {
    /// Runs a closure over one snapshot.
    pub(super) fn run<T>(
        self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let connection = self.connection.as_ref().ok_or(StoreError::Stopped)?;
        let snapshot = connection.unchecked_transaction()?;
        catch_unwind(AssertUnwindSafe(|| work(&snapshot))).unwrap_or(Err(StoreError::Panicked))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = self.back.try_send(connection);
        }
    }
}
