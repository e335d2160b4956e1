//! The end of a run: the sandbox is stopped or killed, whatever it rang is stored to the end or not at all,
//! nothing of it stays behind, and the ledger learns what its end means for the messages it held.

use std::sync::Arc;
use std::time::Duration;

use smol::Timer;

use super::actor::Actor;
use super::ingest::Failure;
use super::limits::{DEATHS_FOR_LONGEST_WAIT, DEATHS_TO_PARK, KILL_GRACE, STOP_GRACE};
use super::run::{Ending, Run};
use crate::contract::frame::ToSandbox;
use crate::contract::ids::MessageId;
use crate::controlplane::isolation::Exit;
use crate::controlplane::store::{Step, StoreError, history, inbox, outbox, sessions};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;
use crate::os::files;

const GIVEN_UP: &str = "This message could not be answered: the agent's sandbox ended five times while working \
                        on it. You may send it again.";
const OVER_QUOTA: &str = "This message was not answered: the agent's files grew past their quota. It can only \
                          read files until an operator has made room.";
/// Most other conversations that are told of it.
const MOST_TOLD: usize = 100;
/// What they are told.
const MAY_COME_TWICE: &str = "What the agent writes here from another conversation may come twice: its memory of that \
    conversation was lost.";
const MEMORY_LOST: &str =
    "The agent's memory of this conversation is lost, and part of an answer may come twice.";
const PARKED: &str = "This conversation is stopped until an operator has looked at it.";

impl Actor {
    /// Ends the run that there is. The actor takes no other event meanwhile.
    pub(super) async fn end(&mut self, ending: Ending) {
        let Some(mut run) = self.run.take() else { return };
        self.show("stopping", None);
        let exit = stop(&mut run, &ending).await;
        // What was rung is stored to its end: the transaction may already be on its way.
        let read = match run.reading.take() {
            Some((reading, _)) => Some(reading.await),
            None => None,
        };
        let ending = match (ending, &read) {
            // Ringing a bad file and leaving is no way around the consequence.
            (_, Some(Err(Failure::Violation(how)))) => Ending::Violation(how.clone()),
            (Ending::Died(how), _) if how.is_empty() => Ending::Died(describe(exit.as_ref())),
            // It was ended after that, which says nothing; what it had said, or that it had no memory, does.
            (Ending::Died(how), _) => match &exit {
                Some(exit) if exit.out_of_memory || !exit.words.is_empty() => {
                    Ending::Died(format!("{how}; {}", describe(Some(exit))))
                }
                _ => Ending::Died(how),
            },
            (other, _) => other,
        };
        if let Some(Ok(ingested)) = read {
            run.note(&ingested);
        }
        METRICS.kills.inc(ending.label());
        METRICS.sandboxes.dec();
        let words = ending.words();
        let say = if ending.is_polite() { log::info } else { log::warn };
        say("sandbox.ended", &[("session", &self.id), ("why", &words), ("open", &run.open.len())]);
        self.account(&ending, &mut run).await;
        tidy(&self.id, run, &ending).await;
        if exit.is_none() {
            // Two sandboxes on the same files would be worse than a long wait.
            self.deaths = self.deaths.max(DEATHS_FOR_LONGEST_WAIT);
            self.put_off();
        }
        self.sessions.leave_place(&self.id);
    }

    /// What the end means in the ledger, in one transaction.
    async fn account(&mut self, ending: &Ending, run: &mut Run) {
        // Without a turn and without an open message nothing is owed, and a wake is still in the queue.
        self.owed |= !run.open.is_empty() || !ending.is_polite();
        let began = run.turn_began;
        let result = match ending {
            Ending::Idle | Ending::Outdated | Ending::Evicted | Ending::Shutdown | Ending::Erased => {
                return self.show("asleep", None);
            }
            Ending::LowDisk | Ending::Host(_) => {
                self.deaths = self.deaths.saturating_add(1);
                self.put_off();
                self.wait(&ending.words()).await;
                return;
            }
            Ending::Quota => self.fail_turn(run).await,
            Ending::Lost => self.lose_memory(run).await,
            Ending::Violation(how) => {
                METRICS.violations.inc();
                self.park(how).await
            }
            Ending::Died(_) | Ending::Silent | Ending::Stalled | Ending::Overran => {
                self.count_death(began).await
            }
        };
        if let Err(error) = result {
            log::error("session.end_not_stored", &[("session", &self.id), ("error", &error)]);
        }
        if ending.is_death() || *ending == Ending::Lost {
            self.deaths = self.deaths.saturating_add(1);
            self.put_off();
            self.show("backing_off", Some(ending.words()));
        }
        self.sessions.ring_bell(&self.id, None);
    }

    async fn count_death(&mut self, began: bool) -> Result<(), StoreError> {
        let (id, keyring) = (self.id.clone(), self.sessions.context().keyring.clone());
        let park = self.sessions.context().ledger.write_step(Step::Finish, move |tx| {
            let failed = inbox::count_death(tx, &id)?;
            for message in &failed {
                history::notice(tx, &keyring, &id, Some(message), GIVEN_UP)?;
            }
            let park = !began && sessions::note_launch_death(tx, &id)? >= DEATHS_TO_PARK;
            if park {
                let reason = "its sandbox ended five times in a row before any turn began";
                sessions::park(tx, &id, reason)?;
                history::notice(tx, &keyring, &id, None, PARKED)?;
            }
            Ok((park, failed.len()))
        });
        let (parked, failed) = park.await?;
        METRICS.failed.add(failed as u64);
        if parked {
            log::error("session.parked", &[("session", &self.id), ("why", &"five deaths before any turn")]);
        }
        Ok(())
    }

    async fn park(&mut self, how: &str) -> Result<(), StoreError> {
        let (id, keyring, reason) =
            (self.id.clone(), self.sessions.context().keyring.clone(), how.to_owned());
        let stored = self.sessions.context().ledger.write_step(Step::Finish, move |tx| {
            sessions::park(tx, &id, &reason)?;
            history::notice(tx, &keyring, &id, None, PARKED)?;
            Ok(())
        });
        stored.await?;
        log::error("session.parked", &[("session", &self.id), ("why", &how)]);
        Ok(())
    }

    async fn fail_turn(&mut self, run: &mut Run) -> Result<(), StoreError> {
        let turn: Vec<MessageId> = std::mem::take(&mut run.turn);
        let (id, keyring) = (self.id.clone(), self.sessions.context().keyring.clone());
        let stored = self.sessions.context().ledger.write_step(Step::Finish, move |tx| {
            for message in &turn {
                inbox::fail(tx, &id, message, "the agent's files are over their quota")?;
                history::notice(tx, &keyring, &id, Some(message), OVER_QUOTA)?;
            }
            Ok(())
        });
        stored.await
    }

    /// A new epoch: its outputs are numbered from 1 again, so the cursor starts at 0. The ledger comes first, so
    /// that whatever happens to the directory, a sandbox that loses its memory at every launch is parked.
    async fn lose_memory(&mut self, run: &mut Run) -> Result<(), StoreError> {
        let (id, keyring) = (self.id.clone(), self.sessions.context().keyring.clone());
        let stored = self.sessions.context().ledger.write_step(Step::Finish, move |tx| {
            // What the unfinished messages made it send elsewhere may come twice there too.
            let elsewhere = outbox::sent_elsewhere(tx, &id, MOST_TOLD)?;
            sessions::new_epoch(tx, &id)?;
            history::notice(tx, &keyring, &id, None, MEMORY_LOST)?;
            for there in &elsewhere {
                match history::notice(tx, &keyring, there, None, MAY_COME_TWICE) {
                    Ok(_) | Err(StoreError::Key(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            let park = sessions::note_launch_death(tx, &id)? >= DEATHS_TO_PARK;
            if park {
                sessions::park(tx, &id, "its sandbox lost its memory five times in a row")?;
                history::notice(tx, &keyring, &id, None, PARKED)?;
            }
            Ok((park, elsewhere))
        });
        let (parked, elsewhere) = stored.await?;
        for there in &elsewhere {
            self.sessions.ring_bell(there, None);
        }
        if parked {
            log::error(
                "session.parked",
                &[("session", &self.id), ("why", &"memory lost five times in a row")],
            );
        }
        let aside = run.paths.session_root.join("session.lost");
        let from = run.paths.session_dir.clone();
        let set_aside = tasks::unblock(move || {
            // Only the latest is kept, so that losing it again and again does not fill the disk.
            files::remove_tree(&aside)?;
            match std::fs::rename(from, aside) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        });
        set_aside
            .await
            .map_err(|error| StoreError::Io(format!("the session directory could not be set aside: {error}")))
    }
}

/// Removes what the run leaves on the machine.
async fn tidy(id: &crate::contract::ids::SessionId, run: Run, ending: &Ending) {
    let Run { doorbell, model, sandbox, paths, inbound, watch, .. } = run;
    drop((doorbell, model, inbound, watch));
    let aside =
        matches!(ending, Ending::Violation(_)).then(|| paths.session_root.join("outbound.db.refused"));
    let result = tasks::unblock(move || {
        let kept = match aside {
            Some(aside) => std::fs::rename(&paths.outbound, aside),
            None => Ok(()),
        };
        let cleaned = match Arc::try_unwrap(sandbox) {
            Ok(sandbox) => sandbox.clean_up(),
            Err(_) => Err(std::io::Error::other("somebody still holds the sandbox")),
        };
        match std::fs::remove_dir_all(&paths.sockets) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => cleaned.and(kept),
        }
    })
    .await;
    if let Err(error) = result {
        log::warn("sandbox.not_tidied", &[("session", id), ("error", &error)]);
    }
}

/// Asks or forces the sandbox to end, and waits until it has.
async fn stop(run: &mut Run, ending: &Ending) -> Option<Exit> {
    if ending.is_polite()
        && run.doorbell.send(ToSandbox::Stop)
        && let Some(exit) = within(STOP_GRACE, &mut run.watch).await
    {
        return Some(exit);
    }
    run.sandbox.kill();
    let exit = within(KILL_GRACE, &mut run.watch).await;
    if exit.is_none() {
        log::error("sandbox.survives", &[("pid", &run.sandbox.pid())]);
    }
    exit
}

async fn within(limit: Duration, watch: &mut smol::Task<Exit>) -> Option<Exit> {
    smol::future::or(async { Some(watch.await) }, async {
        Timer::after(limit).await;
        None
    })
    .await
}

/// How it ended, for the log. The words are its own, cut and escaped by whoever took them.
fn describe(exit: Option<&Exit>) -> String {
    let Some(Exit { how, out_of_memory, words }) = exit else { return "gone".to_owned() };
    let memory = if *out_of_memory { "out of memory (its limit is --sandbox-memory), " } else { "" };
    let saying = if words.is_empty() { "" } else { ", saying: " };
    format!("{memory}{how}{saying}{words}")
}
