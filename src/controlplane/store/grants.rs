//! What of the host an agent group was granted: packages and mounts, by name, each pinned to what its approver saw.

use rusqlite::{Connection, Row, Transaction, params};

use super::StoreError;
use crate::contract::ids::GroupName;
use crate::contract::time::Millis;

/// One grant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// What the agent knows it by; the last part of its path.
    pub name: String,
    /// What it is.
    pub what: What,
}

/// The kinds of grant. Where and how an agent sees one follows from the kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A tree of files that the operator put among the packages.
    Package {
        /// Which of those of its name.
        version: String,
        /// Digest of the tree, in hexadecimal.
        digest: String,
    },
    /// A directory of the host, to be read.
    Directory {
        /// Its path.
        source: String,
        /// Its device.
        device: u64,
        /// Its number there.
        inode: u64,
    },
    /// A directory that the daemon makes for the group, to be written.
    Own,
}

/// One of the two sorts of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sort {
    /// Packages.
    Package,
    /// Mounts.
    Mount,
}

impl Sort {
    /// The word, also in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Package => "package",
            Self::Mount => "mount",
        }
    }
}

impl What {
    /// Among which names it is.
    pub fn sort(&self) -> Sort {
        match self {
            Self::Package { .. } => Sort::Package,
            Self::Directory { .. } | Self::Own => Sort::Mount,
        }
    }
}

const COLUMNS: &str = "kind, name, source, digest, device, inode";

fn read(row: &Row<'_>) -> Result<Grant, StoreError> {
    // A device's number may use all 64 bits; SQLite's have a sign.
    let number = |at: usize| row.get::<_, Option<i64>>(at).map(|number| number.map(i64::cast_unsigned));
    let what = match (row.get::<_, String>(0)?.as_str(), row.get(2)?, row.get(3)?, number(4)?, number(5)?) {
        ("package", Some(version), Some(digest), None, None) => What::Package { version, digest },
        ("mount", Some(source), None, Some(device), Some(inode)) => What::Directory { source, device, inode },
        ("mount", None, None, None, None) => What::Own,
        _ => return Err(StoreError::BadRow("a grant")),
    };
    Ok(Grant { name: row.get(1)?, what })
}

/// Grants it, in the place of what had its name.
///
/// # Errors
/// SQLite's.
pub fn put(tx: &Transaction<'_>, group: &GroupName, grant: &Grant) -> Result<(), StoreError> {
    let none: Option<i64> = None;
    let (source, digest, device, inode) = match &grant.what {
        What::Package { version, digest } => (Some(version), Some(digest), none, none),
        What::Directory { source, device, inode } => {
            (Some(source), None, Some(device.cast_signed()), Some(inode.cast_signed()))
        }
        What::Own => (None, None, none, none),
    };
    let sql = "INSERT INTO grants (agent_group, kind, name, source, digest, device, inode, since)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (agent_group, kind, name) DO UPDATE SET
                   source = excluded.source, digest = excluded.digest, device = excluded.device,
                   inode = excluded.inode, since = excluded.since";
    let kind = grant.what.sort().as_str();
    let values = params![group.as_str(), kind, grant.name, source, digest, device, inode, Millis::now().0];
    tx.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Takes it away. Says whether it was there.
///
/// # Errors
/// SQLite's.
pub fn remove(tx: &Transaction<'_>, group: &GroupName, sort: Sort, name: &str) -> Result<bool, StoreError> {
    let sql = "DELETE FROM grants WHERE agent_group = ?1 AND kind = ?2 AND name = ?3";
    Ok(tx.prepare_cached(sql)?.execute(params![group.as_str(), sort.as_str(), name])? == 1)
}

/// Forgets those of a group that is deleted.
///
/// # Errors
/// SQLite's.
pub fn forget(tx: &Transaction<'_>, group: &GroupName) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM grants WHERE agent_group = ?1")?.execute([group.as_str()])?;
    Ok(())
}

/// The one of that name.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn find(
    conn: &Connection,
    group: &GroupName,
    sort: Sort,
    name: &str,
) -> Result<Option<Grant>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM grants WHERE agent_group = ?1 AND kind = ?2 AND name = ?3");
    let mut query = conn.prepare_cached(&sql)?;
    query.query_and_then(params![group.as_str(), sort.as_str(), name], read)?.next().transpose()
}

/// All of a group, mounts before packages, by name. The gateway bounds their number.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn of(conn: &Connection, group: &GroupName) -> Result<Vec<Grant>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM grants WHERE agent_group = ?1 ORDER BY kind, name");
    conn.prepare_cached(&sql)?.query_and_then([group.as_str()], read)?.collect()
}
