//! The end of a conversation's content: its secret is deleted from the ledger, and with it everything that was ever said
//! in it and whatever its sandbox wrote for itself becomes unreadable, in every file and every copy of one. The
//! conversation itself stays: who writes in it next begins anew. An operator erases one; one that nobody used for long is
//! erased by itself. Touches the ledger and the session's directory.

use smol::channel::Sender;

use super::Sessions;
use super::actor::{Actor, Event};
use super::run::Ending;
use crate::contract::ids::SessionId;
use crate::contract::json::Value;
use crate::contract::time::Millis;
use crate::controlplane::audit::{self, ActError, Audit, By, Record};
use crate::controlplane::isolation::SessionPaths;
use crate::controlplane::principals::{self, Principal, Scope};
use crate::controlplane::store::{Step, StoreError, secrets, sessions};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::os::files::remove_tree;

/// Who does what nobody asked for.
const HOST: &str = "host";
/// Conversations that expire in one look.
const AT_ONCE: usize = 100;
/// One that nobody uses and that owes something is looked at again after so many milliseconds, if it does not expire
/// sooner.
const LOOKED_AT_AGAIN: i64 = 24 * 60 * 60 * 1000;
/// Directories that are asked about in one look.
const LISTED_AT_ONCE: usize = 1000;

/// Who wants a conversation erased.
#[derive(Debug)]
pub(super) enum Wish {
    /// Somebody who may.
    Of(Principal),
    /// Nobody used it since then.
    Unused(Millis),
}

/// What came of it.
#[derive(Debug)]
pub enum EraseError {
    /// There is no such conversation.
    NoSession,
    /// Whoever asked may not.
    Forbidden,
    /// The ledger or the audit file failed.
    Act(ActError<()>),
    /// It is erased; what is left of its files, which nobody can read, could not be removed.
    Files(std::io::Error),
}

impl From<StoreError> for EraseError {
    fn from(error: StoreError) -> Self {
        Self::Act(ActError::Store(error))
    }
}

/// A wish on its way to the actor.
#[derive(Debug)]
pub(super) struct Erase {
    wish: Wish,
    reply: Sender<Result<(), EraseError>>,
}

impl Sessions {
    /// Erases what was said in a conversation. Its sandbox is ended first.
    ///
    /// # Errors
    /// [`EraseError`]
    pub async fn erase(&self, session: &SessionId, principal: &Principal) -> Result<(), EraseError> {
        let (id, who) = (session.clone(), principal.clone());
        let may = self.context().ledger.read(move |conn| {
            let Some(row) = sessions::get(conn, &id)? else { return Ok(None) };
            principals::may(conn, &who, Scope::Operate, Some(&row.partition.group)).map(Some)
        });
        match may.await? {
            None => return Err(EraseError::NoSession),
            Some(false) => return Err(EraseError::Forbidden),
            Some(true) => {}
        }
        self.wish(session, Wish::Of(principal.clone())).await
    }

    /// Erases conversations that nobody used for so many milliseconds and that owe nobody anything. Gives how many.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    pub async fn expire(&self, expiry: i64) -> Result<usize, StoreError> {
        let ledger = &self.context().ledger;
        let mut all = 0;
        loop {
            let before = Millis(Millis::now().0.saturating_sub(expiry));
            // Of one that owes something nobody says when it does no more.
            let again = Millis(before.0.saturating_add(expiry.min(LOOKED_AT_AGAIN)));
            let due = ledger.read(move |conn| sessions::expiring(conn, before, AT_ONCE)).await?;
            let looked_at = due.len();
            let mut kept = Vec::new();
            for (session, is_unused) in due {
                let erased = match is_unused {
                    true => self.wish(&session, Wish::Unused(before)).await,
                    false => Err(EraseError::Forbidden),
                };
                match erased {
                    Ok(()) | Err(EraseError::Files(_)) => all += 1,
                    Err(EraseError::NoSession | EraseError::Forbidden) => kept.push(session),
                    Err(EraseError::Act(ActError::Store(error))) => return Err(error),
                    Err(EraseError::Act(
                        ActError::Unavailable(reason) | ActError::Unexported { reason, .. },
                    )) => {
                        return Err(StoreError::Io(reason));
                    }
                }
            }
            if !kept.is_empty() {
                let put_off = ledger.write(move |tx| {
                    kept.iter().try_for_each(|session| sessions::expires_later(tx, session, before, again))
                });
                put_off.await?;
            }
            if looked_at < AT_ONCE {
                return Ok(all);
            }
        }
    }

    /// Removes what conversations that were erased left on the disk, where a daemon died between the two. Before anything is
    /// launched.
    ///
    /// # Errors
    /// When the ledger cannot be read; what cannot be removed is logged.
    pub async fn sweep_erased(&self) -> Result<(), StoreError> {
        let paths = self.context().paths.clone();
        let at = paths.state_dir.join("sessions");
        let listed = tasks::unblock(move || -> std::io::Result<Vec<SessionId>> {
            let names = std::fs::read_dir(at)?.map(|entry| Ok(entry?.file_name()));
            let names = names.collect::<std::io::Result<Vec<_>>>()?;
            Ok(names.iter().filter_map(|name| SessionId::parse(name.to_str()?).ok()).collect())
        });
        let listed = listed.await.map_err(|error| StoreError::Io(error.to_string()))?;
        for some in listed.chunks(LISTED_AT_ONCE) {
            let some = some.to_vec();
            for session in self.context().ledger.read(move |conn| sessions::erased(conn, &some)).await? {
                let root = SessionPaths::root(&paths, &session);
                if let Err(error) = tasks::unblock(move || remove_tree(&root)).await {
                    log::warn("session.not_removed", &[("session", &session), ("error", &error)]);
                }
            }
        }
        Ok(())
    }

    async fn wish(&self, session: &SessionId, wish: Wish) -> Result<(), EraseError> {
        let (reply, answer) = smol::channel::bounded(1);
        self.post_or_spawn(session, Event::Erase(Erase { wish, reply }));
        answer.recv().await.unwrap_or(Err(StoreError::Stopped.into()))
    }
}

impl Actor {
    /// Ends the run and erases. Nothing is launched meanwhile, for all that happens to a session happens here in turn.
    pub(super) async fn erase(&mut self, Erase { wish, reply }: Erase) {
        let context = self.sessions.context().clone();
        if let Wish::Of(_) = wish {
            self.end(Ending::Erased).await;
        }
        let result = if self.run.is_some() {
            // It came to life meanwhile, so somebody uses it.
            Err(EraseError::Forbidden)
        } else {
            erase(&context.desk.audit, &self.id, wish).await
        };
        let unexported = match result {
            Ok(()) => None,
            Err(EraseError::Act(ActError::Unexported { done: (), reason })) => Some(reason),
            Err(error) => {
                let _ = reply.try_send(Err(error));
                return;
            }
        };
        log::info("session.erased", &[("session", &self.id)]);
        let root = SessionPaths::root(&context.paths, &self.id);
        let removed = tasks::unblock(move || remove_tree(&root)).await;
        // The log of the ledger still has the pages as they were.
        let emptied = context.ledger.checkpoint().await;
        let result = match (removed, emptied, unexported) {
            (_, Err(error), _) => Err(error.into()),
            (_, _, Some(reason)) => Err(EraseError::Act(ActError::Unexported { done: (), reason })),
            (Err(error), ..) => {
                log::warn("session.not_removed", &[("session", &self.id), ("error", &error)]);
                Err(EraseError::Files(error))
            }
            (Ok(()), Ok(()), None) => Ok(()),
        };
        self.sessions.ring_bell(&self.id, None);
        let _ = reply.try_send(result);
    }
}

async fn erase(audit: &Audit, id: &SessionId, wish: Wish) -> Result<(), EraseError> {
    let id = id.clone();
    let erased = audit.act(Step::Erase, move |tx| {
        let Some(row) = sessions::get(tx, &id)? else { return Ok(Err(EraseError::NoSession)) };
        let (act, by) = match &wish {
            Wish::Of(principal) => {
                if !principals::may(tx, principal, Scope::Operate, Some(&row.partition.group))? {
                    return Ok(Err(EraseError::Forbidden));
                }
                ("session.erased", principal.by())
            }
            Wish::Unused(before) => {
                // Looked at again: somebody may have written meanwhile.
                if !sessions::is_unused(tx, &id, *before)? {
                    return Ok(Err(EraseError::Forbidden));
                }
                ("session.expired", By { actor: HOST.to_owned(), via: String::new() })
            }
        };
        secrets::erase(tx, &id)?;
        sessions::new_epoch(tx, &id)?;
        audit::record(
            tx,
            &Record {
                act,
                actor: &by.actor,
                via: &by.via,
                group: Some(&row.partition.group),
                object: id.as_str(),
                detail: Value::Null,
            },
        )?;
        Ok(Ok(()))
    });
    match erased.await {
        Ok(erased) => erased,
        Err(ActError::Unexported { done, reason }) => {
            done?;
            Err(EraseError::Act(ActError::Unexported { done: (), reason }))
        }
        Err(ActError::Unavailable(reason)) => Err(EraseError::Act(ActError::Unavailable(reason))),
        Err(ActError::Store(error)) => Err(error.into()),
    }
}
