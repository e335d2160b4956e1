//! Agent groups: what an agent is called, which model answers for it, which host id its sandboxes have.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::limits::GroupLimits;
use super::{StoreError, meta};
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::contract::time::Millis;

/// The highest host id ever given to a group.
const HIGHEST_HOST_ID: &str = "highest_host_id";

/// Which tools an agent has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tools {
    /// Every tool of this build.
    All,
    /// None.
    None,
    /// These; names of `a-z 0-9 _`.
    List(Vec<String>),
}

impl Tools {
    /// The form in the ledger: `all`, `none`, or `list` and the names.
    fn encode(&self) -> String {
        match self {
            Self::All => "all".to_owned(),
            Self::None => "none".to_owned(),
            Self::List(names) => format!("list {}", names.join(" ")),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text.split_once(' ') {
            None if text == "all" => Some(Self::All),
            None if text == "none" => Some(Self::None),
            Some(("list", names)) => Some(Self::List(names.split_whitespace().map(str::to_owned).collect())),
            _ => None,
        }
    }

    /// Whether the agent has this one.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::List(names) => names.iter().any(|known| known == name),
        }
    }

    /// As `contract::inbound::SessionConfig` has them: `None` is all.
    pub fn names(&self) -> Option<Vec<String>> {
        match self {
            Self::All => None,
            Self::None => Some(Vec::new()),
            Self::List(names) => Some(names.clone()),
        }
    }
}

/// A document of an agent's persona.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Document {
    /// Who the agent is.
    Identity,
    /// What it cares about and how it speaks.
    Soul,
    /// What it does and how.
    Instructions,
}

impl Document {
    /// All of them, in the order in which the agent reads them.
    pub const ALL: [Self; 3] = [Self::Identity, Self::Soul, Self::Instructions];

    /// The word; also the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Soul => "soul",
            Self::Instructions => "instructions",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|document| document.as_str() == word)
    }
}

/// The documents of a persona; empty ones are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persona {
    /// Who the agent is.
    pub identity: String,
    /// What it cares about.
    pub soul: String,
    /// What it does.
    pub instructions: String,
}

impl Persona {
    /// One document.
    pub fn document(&self, document: Document) -> &str {
        match document {
            Document::Identity => &self.identity,
            Document::Soul => &self.soul,
            Document::Instructions => &self.instructions,
        }
    }

    /// As the agent is told of it: the documents that there are, each under its name.
    pub fn told(&self) -> String {
        let titled =
            [("Identity", &self.identity), ("Soul", &self.soul), ("Instructions", &self.instructions)];
        let there = titled.into_iter().filter(|(_, text)| !text.trim().is_empty());
        there.map(|(title, text)| format!("### {title}\n\n{}", text.trim())).collect::<Vec<_>>().join("\n\n")
    }
}

/// What is needed to make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGroup {
    /// Its name.
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// The provider of its model, by its name in the providers' table.
    pub provider: String,
    /// The model, by the provider's name for it.
    pub model: String,
    /// Its tools.
    pub tools: Tools,
}

/// One agent group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentGroup {
    /// Its name.
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// The provider of its model.
    pub provider: String,
    /// The model.
    pub model: String,
    /// Its tools.
    pub tools: Tools,
    /// Who it is.
    pub persona: Persona,
    /// The host's user and group id of its sandboxes, once one was needed.
    pub host_id: Option<u32>,
    /// When it was made.
    pub created_at: Millis,
    /// Counts the changes of what the agent is told, from 1.
    pub revision: u64,
    /// When it was deleted. Its name stays taken, for its files and its history bear it.
    pub deleted_at: Option<Millis>,
    /// The audit record of the last change of what it is: nothing comes of it before that is in the audit files.
    pub record: u64,
    /// The same of its tools and destinations alone.
    pub reach_record: u64,
    /// What an operator allows it, where that is not what the daemon allows every agent.
    pub limits: GroupLimits,
}

impl AgentGroup {
    /// Why no sandbox becomes what it is now, when the audit files hold the records up to `exported`.
    pub fn unrecorded(&self, exported: u64) -> Option<String> {
        self.waits(self.record, exported)
    }

    /// Why nothing is done yet that it asks for.
    pub fn reach_unrecorded(&self, exported: u64) -> Option<String> {
        self.waits(self.reach_record, exported)
    }

    fn waits(&self, record: u64, exported: u64) -> Option<String> {
        (record > exported).then(|| {
            format!(
                "what was decided about {} is not in the audit files yet; see `ironctl audit verify`",
                self.name
            )
        })
    }
}

const COLUMNS: &str =
    "name, title, provider, model, tools, host_id, created_at, revision, identity, soul, instructions,
    deleted_at, record, reach_record, turn_seconds, quota_bytes, quota_files, tokens_a_day";

fn read(row: &Row<'_>) -> Result<AgentGroup, StoreError> {
    Ok(AgentGroup {
        name: GroupName::parse(&row.get::<_, String>(0)?)
            .map_err(|_| StoreError::BadRow("an agent group's name"))?,
        title: row.get(1)?,
        provider: row.get(2)?,
        model: row.get(3)?,
        tools: Tools::parse(&row.get::<_, String>(4)?).ok_or(StoreError::BadRow("an agent group's tools"))?,
        host_id: row.get(5)?,
        created_at: Millis(row.get(6)?),
        revision: row.get(7)?,
        persona: Persona { identity: row.get(8)?, soul: row.get(9)?, instructions: row.get(10)? },
        deleted_at: row.get::<_, Option<i64>>(11)?.map(Millis),
        record: row.get(12)?,
        reach_record: row.get(13)?,
        limits: GroupLimits {
            turn_seconds: row.get(14)?,
            quota_bytes: row.get(15)?,
            quota_files: row.get(16)?,
            tokens_a_day: row.get(17)?,
        },
    })
}

/// Makes it if there is none of that name; one that is there is left as it is. Says whether it was made.
///
/// # Errors
/// [`StoreError::Conflict`] for a tool's name with other characters, or SQLite's.
pub fn ensure(tx: &Transaction<'_>, new: &NewGroup) -> Result<bool, StoreError> {
    if let Tools::List(names) = &new.tools {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if names.iter().any(|name| name.is_empty() || !name.bytes().all(plain)) {
            return Err(StoreError::Conflict("a tool's name is made of a-z 0-9 _; ironctl tools lists them"));
        }
    }
    let sql = "INSERT INTO agent_groups (name, title, provider, model, tools, host_id, created_at, revision)
               VALUES (?1, ?2, ?3, ?4, ?5, NULL, ?6, 1) ON CONFLICT (name) DO NOTHING";
    let made = tx.prepare_cached(sql)?.execute(params![
        new.name.as_str(),
        new.title,
        new.provider,
        new.model,
        new.tools.encode(),
        Millis::now().0
    ])?;
    Ok(made == 1)
}

fn change(tx: &Transaction<'_>, name: &GroupName, set: &str, values: (&str, &str)) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE agent_groups SET {set}, revision = revision + 1 WHERE name = ?1 AND deleted_at IS NULL"
    );
    match tx.prepare_cached(&sql)?.execute(params![name.as_str(), values.0, values.1])? {
        1 => Ok(()),
        _ => Err(StoreError::NoGroup(name.clone())),
    }
}

/// Replaces a document of the persona.
///
/// # Errors
/// [`StoreError::NoGroup`], or SQLite's.
pub fn set_document(
    tx: &Transaction<'_>,
    name: &GroupName,
    document: Document,
    text: &str,
) -> Result<(), StoreError> {
    change(tx, name, &format!("{} = ?2 || ?3", document.as_str()), (text, ""))
}

/// Sets the tools.
///
/// # Errors
/// [`StoreError::NoGroup`], or SQLite's.
pub fn set_tools(tx: &Transaction<'_>, name: &GroupName, tools: &Tools) -> Result<(), StoreError> {
    change(tx, name, "tools = ?2 || ?3", (&tools.encode(), ""))
}

/// Sets the model.
///
/// # Errors
/// [`StoreError::NoGroup`], or SQLite's.
pub fn set_model(
    tx: &Transaction<'_>,
    name: &GroupName,
    provider: &str,
    model: &str,
) -> Result<(), StoreError> {
    change(tx, name, "provider = ?2, model = ?3", (provider, model))
}

/// Says which audit record tells of what it is now, and of how far it reaches if that changed.
///
/// # Errors
/// SQLite's.
pub fn set_record(
    tx: &Transaction<'_>,
    name: &GroupName,
    record: u64,
    reach: bool,
) -> Result<(), StoreError> {
    let sql = "UPDATE agent_groups SET record = ?2, reach_record = iif(?3, ?2, reach_record) WHERE name = ?1";
    tx.prepare_cached(sql)?.execute(params![name.as_str(), super::stored(record), reach])?;
    Ok(())
}

/// Gives it another title, which is no capability.
///
/// # Errors
/// [`StoreError::NoGroup`], or SQLite's.
pub fn set_title(tx: &Transaction<'_>, name: &GroupName, title: &str) -> Result<(), StoreError> {
    change(tx, name, "title = ?2 || ?3", (title, ""))
}

/// Deletes it: it answers no more, and nothing can be granted to it. Says whether it was there.
///
/// # Errors
/// SQLite's.
pub fn delete(tx: &Transaction<'_>, name: &GroupName) -> Result<bool, StoreError> {
    let sql = "UPDATE agent_groups SET deleted_at = ?2 WHERE name = ?1 AND deleted_at IS NULL";
    Ok(tx.prepare_cached(sql)?.execute(params![name.as_str(), Millis::now().0])? == 1)
}

/// Whether there is such a group and it is not deleted.
///
/// # Errors
/// SQLite's.
pub fn is_live(conn: &Connection, name: &GroupName) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM agent_groups WHERE name = ?1 AND deleted_at IS NULL)";
    Ok(conn.prepare_cached(sql)?.query_row([name.as_str()], |row| row.get(0))?)
}

/// The group of that name, if it was not deleted.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn live(conn: &Connection, name: &GroupName) -> Result<Option<AgentGroup>, StoreError> {
    Ok(get(conn, name)?.filter(|group| group.deleted_at.is_none()))
}

/// The group of that name, deleted ones too.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn get(conn: &Connection, name: &GroupName) -> Result<Option<AgentGroup>, StoreError> {
    let mut query = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM agent_groups WHERE name = ?1"))?;
    query.query_and_then([name.as_str()], read)?.next().transpose()
}

/// Up to `limit` groups by name, after the one of that name, of those `among` which are asked for, or of all.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn list(
    conn: &Connection,
    after: Option<&GroupName>,
    limit: usize,
    among: Option<&[GroupName]>,
) -> Result<Vec<AgentGroup>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM agent_groups WHERE name > ?1 AND deleted_at IS NULL
         AND (?3 IS NULL OR name IN (SELECT value FROM json_each(?3))) ORDER BY name LIMIT ?2"
    );
    let values = params![after.map_or("", GroupName::as_str), super::rows(limit), among.map(names)];
    conn.prepare_cached(&sql)?.query_and_then(values, read)?.collect()
}

/// Names as a statement takes a list of them.
pub(super) fn names(groups: &[GroupName]) -> String {
    Value::Array(groups.iter().map(|group| Value::from(group.as_str())).collect()).to_string()
}

/// The host id of a group, given once and for ever: above `base` and above every id given before, so that
/// none is used again, also after its group was deleted.
///
/// # Errors
/// [`StoreError::NoGroup`]; [`StoreError::Conflict`] when no id is left.
pub fn host_id(tx: &Transaction<'_>, name: &GroupName, base: u32) -> Result<u32, StoreError> {
    let mut query = tx.prepare_cached("SELECT host_id FROM agent_groups WHERE name = ?1")?;
    let found: Option<Option<u32>> = query.query_row([name.as_str()], |row| row.get(0)).optional()?;
    if let Some(id) = found.ok_or_else(|| StoreError::NoGroup(name.clone()))? {
        return Ok(id);
    }
    let highest = match meta::get(tx, HIGHEST_HOST_ID)? {
        Some(text) => text.parse().map_err(|_| StoreError::BadRow("a counter of host ids"))?,
        None => base,
    };
    // The last id, 2^32-1, means "none" to the system.
    let id = highest.max(base).checked_add(1).filter(|id| *id != u32::MAX);
    let id = id.ok_or(StoreError::Conflict("no host id is left; choose a lower --sandbox-uid-base"))?;
    meta::set(tx, HIGHEST_HOST_ID, &id.to_string())?;
    let sql = "UPDATE agent_groups SET host_id = ?2 WHERE name = ?1";
    tx.prepare_cached(sql)?.execute(params![name.as_str(), id])?;
    Ok(id)
}
