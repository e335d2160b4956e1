//! A change of an agent group reaches a sandbox of it that runs. What the agent is told of itself travels with its next
//! message; what the host lets it have is another matter, and changes at once. Reads the ledger.

use super::actor::Actor;
use crate::controlplane::store::{grants, groups};
use crate::controlplane::telemetry::log;

impl Actor {
    /// A change of the group was decided and recorded.
    pub(super) async fn reconfigured(&mut self) {
        let context = self.sessions.context().clone();
        let Some(run) = &mut self.run else { return };
        run.reconfigured = true;
        let (name, exported) = (run.group.clone(), context.desk.audit.exported());
        let read = context
            .ledger
            .read(move |conn| Ok((grants::recorded(conn, &name, exported)?.0, groups::live(conn, &name)?)));
        let (grants, group) = match read.await {
            Ok(read) => read,
            Err(error) => {
                // Its successor is what the ledger says.
                run.outdated = true;
                return log::warn("session.group_not_read", &[("session", &self.id), ("error", &error)]);
            }
        };
        // What a sandbox is shown of the host is settled at its launch.
        run.outdated |= grants != run.grants;
        let Some(group) = group.filter(|group| group.unrecorded(exported).is_none()) else { return };
        // A turn that runs ends with the model that it began with.
        if let Err(error) = run.model.grant(&group.provider, &group.model, !run.is_idle()) {
            run.outdated = true;
            log::warn("session.model_not_granted", &[("session", &self.id), ("error", &error)]);
        }
    }
}
