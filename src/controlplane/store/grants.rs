//! What of the host an agent group was granted: packages and mounts, by name, each pinned to what its approver saw, and
//! with the audit record that says so.

use std::collections::BTreeSet;

use rusqlite::{Connection, Row, Transaction, params};

use super::StoreError;
use crate::contract::ids::GroupName;
use crate::contract::time::Millis;
use crate::os::source::Which;

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
        /// Which directory that is.
        which: Which,
    },
    /// A directory that the daemon makes for the group, to be written.
    Own,
}

impl Grant {
    /// Why nothing comes of it as long as its record is not in the audit files.
    pub fn unrecorded(&self) -> String {
        let sort = self.what.sort().as_str();
        format!("{sort} {}: its record is not in the audit files yet; see `ironctl audit verify`", self.name)
    }
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

const COLUMNS: &str = "kind, name, source, digest, device, inode, born";

fn read(row: &Row<'_>) -> Result<Grant, StoreError> {
    // A device's number may use all 64 bits; SQLite's have a sign.
    let number = |at: usize| row.get::<_, Option<i64>>(at).map(|number| number.map(i64::cast_unsigned));
    let what = match (row.get::<_, String>(0)?.as_str(), row.get(2)?, row.get(3)?, number(4)?, number(5)?) {
        ("package", Some(version), Some(digest), None, None) => What::Package { version, digest },
        ("mount", Some(source), None, Some(device), Some(inode)) => {
            What::Directory { source, which: Which { device, inode, born: number(6)? } }
        }
        ("mount", None, None, None, None) => What::Own,
        _ => return Err(StoreError::BadRow("a grant")),
    };
    Ok(Grant { name: row.get(1)?, what })
}

/// Grants it, in the place of what had its name. `record` is the number of the audit record of that: nothing comes of
/// the grant before it is in the audit files.
///
/// # Errors
/// SQLite's.
pub fn put(tx: &Transaction<'_>, group: &GroupName, grant: &Grant, record: u64) -> Result<(), StoreError> {
    let (source, digest, which) = match &grant.what {
        What::Package { version, digest } => (Some(version), Some(digest), None),
        What::Directory { source, which } => (Some(source), None, Some(which)),
        What::Own => (None, None, None),
    };
    let device = which.map(|which| which.device.cast_signed());
    let inode = which.map(|which| which.inode.cast_signed());
    let born = which.and_then(|which| which.born).map(u64::cast_signed);
    let sql = "INSERT INTO grants (agent_group, kind, name, source, digest, device, inode, since, record, born)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (agent_group, kind, name) DO UPDATE SET
                   source = excluded.source, digest = excluded.digest, device = excluded.device,
                   inode = excluded.inode, since = excluded.since, record = excluded.record,
                   born = excluded.born";
    let kind = grant.what.sort().as_str();
    let (since, record) = (Millis::now().0, super::stored(record));
    let group = group.as_str();
    let values = params![group, kind, grant.name, source, digest, device, inode, since, record, born];
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

/// All of a group, in the same order: first those that count, then those whose records are not in the audit files yet,
/// which go up to `exported`.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn recorded(
    conn: &Connection,
    group: &GroupName,
    exported: u64,
) -> Result<(Vec<Grant>, Vec<Grant>), StoreError> {
    let sql =
        format!("SELECT {COLUMNS}, record <= ?2 FROM grants WHERE agent_group = ?1 ORDER BY kind, name");
    let mut query = conn.prepare_cached(&sql)?;
    let values = params![group.as_str(), super::stored(exported)];
    let all =
        query.query_and_then(values, |row| Ok::<_, StoreError>((read(row)?, row.get::<_, bool>(7)?)))?;
    let (counted, waiting): (Vec<_>, Vec<_>) =
        all.collect::<Result<Vec<_>, _>>()?.into_iter().partition(|(_, is_recorded)| *is_recorded);
    let grants = |all: Vec<(Grant, bool)>| all.into_iter().map(|(grant, _)| grant).collect();
    Ok((grants(counted), grants(waiting)))
}

/// The digests of all packages that anybody is granted.
///
/// # Errors
/// SQLite's.
pub fn digests(conn: &Connection) -> Result<BTreeSet<String>, StoreError> {
    let mut query = conn.prepare_cached("SELECT digest FROM grants WHERE digest IS NOT NULL")?;
    Ok(query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}
