//! Where an agent group may send beside the chat that it answers: names of its own for chats.

use rusqlite::{Connection, Row, Transaction, params};

use super::sessions::Place;
use super::{StoreError, wirings};
use crate::contract::ids::GroupName;
use crate::contract::time::Millis;

/// Where a name leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What people call it; may be empty.
    pub display_name: String,
    /// The platform.
    pub channel: String,
    /// The account on it; empty where there is only one.
    pub instance: String,
    /// The chat.
    pub chat: String,
    /// The thread in it; `None` for the chat itself.
    pub thread: Option<String>,
}

/// One destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Whose.
    pub group: GroupName,
    /// What the agent calls it; unique in its group.
    pub name: String,
    /// Where it leads.
    pub target: Target,
    /// Since when.
    pub created_at: Millis,
}

const SELECT: &str =
    "SELECT d.agent_group, d.name, d.display_name, m.channel, m.instance, m.chat, d.thread, d.created_at
    FROM destinations d JOIN messaging_groups m ON m.id = d.messaging_group";

fn read(row: &Row<'_>) -> Result<Destination, StoreError> {
    Ok(Destination {
        group: GroupName::parse(&row.get::<_, String>(0)?)
            .map_err(|_| StoreError::BadRow("an agent group's name"))?,
        name: row.get(1)?,
        target: Target {
            display_name: row.get(2)?,
            channel: row.get(3)?,
            instance: row.get(4)?,
            chat: row.get(5)?,
            thread: row.get(6)?,
        },
        created_at: Millis(row.get(7)?),
    })
}

/// Gives a group a destination, or lets one of that name lead elsewhere.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn put(tx: &Transaction<'_>, group: &GroupName, name: &str, target: &Target) -> Result<(), StoreError> {
    let Target { display_name, channel, instance, chat, thread } = target;
    let messaging_group = super::messaging_groups::ensure(tx, channel, instance, chat)?;
    let sql =
        "INSERT INTO destinations (agent_group, name, display_name, messaging_group, thread, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (agent_group, name) DO UPDATE SET display_name = ?3, messaging_group = ?4, thread = ?5,
             created_at = iif(messaging_group = ?4 AND thread IS ?5, created_at, ?6)";
    let values =
        params![group.as_str(), name, display_name, messaging_group.as_str(), thread, Millis::now().0];
    tx.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Takes a destination away from a group. Says whether there was one.
///
/// # Errors
/// SQLite's.
pub fn remove(tx: &Transaction<'_>, group: &GroupName, name: &str) -> Result<bool, StoreError> {
    let sql = "DELETE FROM destinations WHERE agent_group = ?1 AND name = ?2";
    Ok(tx.prepare_cached(sql)?.execute([group.as_str(), name])? == 1)
}

/// The destination of a group of that name.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn find(conn: &Connection, group: &GroupName, name: &str) -> Result<Option<Destination>, StoreError> {
    let sql = format!("{SELECT} WHERE d.agent_group = ?1 AND d.name = ?2");
    let mut query = conn.prepare_cached(&sql)?;
    query.query_and_then([group.as_str(), name], read)?.next().transpose()
}

/// The destination of a group that leads to this chat, by all that an agent knows of a chat.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn leading_to(
    conn: &Connection,
    group: &GroupName,
    channel: &str,
    chat: &str,
) -> Result<Option<Destination>, StoreError> {
    let sql = format!("{SELECT} WHERE d.agent_group = ?1 AND m.channel = ?2 AND m.chat = ?3");
    let mut query = conn.prepare_cached(&sql)?;
    query.query_and_then([group.as_str(), channel, chat], read)?.next().transpose()
}

/// Every destination of a group by name.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn of(conn: &Connection, group: &GroupName) -> Result<Vec<Destination>, StoreError> {
    let sql = format!("{SELECT} WHERE d.agent_group = ?1 ORDER BY d.name");
    conn.prepare_cached(&sql)?.query_and_then([group.as_str()], read)?.collect()
}

/// Takes every destination away from a group that is deleted.
///
/// # Errors
/// SQLite's.
pub fn forget(tx: &Transaction<'_>, group: &GroupName) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM destinations WHERE agent_group = ?1")?.execute([group.as_str()])?;
    Ok(())
}

/// Whether what an agent group says in a chat of a platform may go there: it is wired to the chat, or has a destination
/// that leads there.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn reach(conn: &Connection, group: &GroupName, place: &Place) -> Result<bool, StoreError> {
    let Place { channel, instance, chat, .. } = place;
    if wirings::find(conn, group, (channel, instance, chat))?.is_some() {
        return Ok(true);
    }
    let sql =
        "SELECT EXISTS (SELECT 1 FROM destinations d JOIN messaging_groups m ON m.id = d.messaging_group
               WHERE d.agent_group = ?1 AND m.channel = ?2 AND m.instance = ?3 AND m.chat = ?4)";
    Ok(conn.prepare_cached(sql)?.query_row([group.as_str(), channel, instance, chat], |row| row.get(0))?)
}

/// Takes every destination away that leads to a chat which is no more.
///
/// # Errors
/// SQLite's.
pub fn forget_leading_to(tx: &Transaction<'_>, channel: &str, chat: &str) -> Result<(), StoreError> {
    let sql = "DELETE FROM destinations WHERE messaging_group IN
                   (SELECT id FROM messaging_groups WHERE channel = ?1 AND chat = ?2)";
    tx.prepare_cached(sql)?.execute([channel, chat])?;
    Ok(())
}

/// Up to `limit` destinations by group and name, after one; of one group, or of all.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn list(
    conn: &Connection,
    group: Option<&GroupName>,
    (after_group, after_name): (&str, &str),
    limit: usize,
) -> Result<Vec<Destination>, StoreError> {
    let sql = format!(
        "{SELECT} WHERE (d.agent_group, d.name) > (?1, ?2) AND (?3 IS NULL OR d.agent_group = ?3)
         ORDER BY d.agent_group, d.name LIMIT ?4"
    );
    let values = params![after_group, after_name, group.map(GroupName::as_str), super::rows(limit)];
    conn.prepare_cached(&sql)?.query_and_then(values, read)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controlplane::store::tests::{World, group};

    fn target(chat: &str) -> Target {
        Target {
            display_name: chat.to_uppercase(),
            channel: "api".into(),
            instance: String::new(),
            chat: chat.into(),
            thread: None,
        }
    }

    #[test]
    fn a_name_leads_to_one_chat_and_lists_are_in_order() {
        let world = World::new();
        let group = group();
        let names = |world: &World, after: &'static str, limit| {
            let group = group.clone();
            let rows = world.read(move |conn| list(conn, None, (group.as_str(), after), limit));
            rows.into_iter().map(|row| row.name).collect::<Vec<_>>()
        };
        let own = group.clone();
        world.write(move |tx| {
            for name in ["ops", "alerts", "news"] {
                put(tx, &own, name, &target(name))?;
            }
            put(tx, &own, "ops", &target("other"))
        });
        assert_eq!(names(&world, "", 2), ["alerts", "news"]);
        assert_eq!(names(&world, "news", 2), ["ops"]);
        let found = world.read(|conn| find(conn, &group, "ops")).unwrap();
        assert_eq!(found.target, target("other"));
        assert_eq!(world.read(|conn| leading_to(conn, &group, "api", "other")).unwrap().name, "ops");
        assert_eq!(world.read(|conn| leading_to(conn, &group, "api", "ops")), None, "not any more");
        assert_eq!(world.read(|conn| leading_to(conn, &group, "telegram", "other")), None);
        assert_eq!(names(&world, "", 9), ["alerts", "news", "ops"]);
        world.write(move |tx| forget_leading_to(tx, "api", "news"));
        assert_eq!(names(&world, "", 9), ["alerts", "ops"]);
        let own = group.clone();
        assert!(
            world.write(move |tx| Ok((remove(tx, &own, "ops")?, remove(tx, &own, "ops")?))) == (true, false)
        );
        let own = group.clone();
        world.write(move |tx| forget(tx, &own));
        assert_eq!(world.read(|conn| of(conn, &group)), []);
    }
}
