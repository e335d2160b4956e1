//! The HTTP interface: who may come in, what each path does, one file per noun, errors as problem documents.
//! Touches the ledger, the audit chain and the session actors through their functions, and the listener.

mod agents;
mod approvals;
mod audit;
mod certificate;
mod changes;
mod channels;
mod chat;
mod deliveries;
mod destinations;
#[cfg(test)]
mod document;
mod door;
mod events;
mod feed;
mod handshake;
mod lists;
mod pairings;
mod people;
mod problem;
mod questions;
mod rate;
pub mod readiness;
mod router;
mod server;
mod sse;
mod tasks;
mod throttle;
pub mod tls;
mod usage;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderValue;
use hyper::{Request, Response, header};

use self::problem::Problem;
use self::router::{Guarded, Query};
pub use self::server::{Entrance, Server};
use self::throttle::Source;
use super::audit::Audit;
use super::bell::Bell;
use super::channels::supervisor::Channels;
use super::delivery::Courier;
use super::gateway::Gateway;
use super::http::{self, Body, Closing};
use super::keys::Keyring;
use super::places::Visitor;
use super::places::seats::Seats;
use super::principals::{self, Principal, Scope, Standing};
use super::router::Inbound;
use super::session::Sessions;
use super::store::{Ledger, groups, sessions};
use super::telemetry::metrics::{self, METRICS};
use super::tokens::Tokens;
use crate::contract::ids::GroupName;
use crate::contract::json::Value;

/// Event streams at once, so that they never take every connection.
const STREAMS: usize = 64;

/// Everything the interface needs.
pub struct Api {
    ledger: Ledger,
    keyring: Keyring,
    actors: Sessions,
    audit: Audit,
    tokens: Tokens,
    gateway: Gateway,
    inbound: Inbound,
    channels: Channels,
    courier: Courier,
    closing: Closing,
    failures: throttle::Failures,
    rates: rate::Rates,
    /// Rings when somebody may have less than before: open streams look again whether they may go on.
    rights: Arc<Bell>,
    streams: Seats,
    /// Wrong codes of late.
    codes: pairings::Tries,
}

impl Api {
    /// Puts the interface together; `closing` is that of the server that will serve it, and a token may make
    /// `token_rate` requests a second.
    #[expect(clippy::too_many_arguments, reason = "one part each, named where they are given")]
    pub fn new(
        ledger: Ledger,
        keyring: Keyring,
        actors: Sessions,
        audit: Audit,
        tokens: Tokens,
        gateway: Gateway,
        inbound: Inbound,
        channels: Channels,
        courier: Courier,
        token_rate: u32,
        closing: Closing,
    ) -> Self {
        Self {
            ledger,
            keyring,
            actors,
            audit,
            tokens,
            rights: gateway.rights().clone(),
            gateway,
            inbound,
            channels,
            courier,
            closing,
            failures: throttle::Failures::default(),
            rates: rate::Rates::new(token_rate),
            streams: Seats::new(STREAMS),
            codes: pairings::Tries::default(),
        }
    }

    /// Answers a request that only the token's holder may make, on a connection of this visitor.
    async fn respond(
        self: &Arc<Self>,
        route: Guarded,
        request: Request<Incoming>,
        visitor: &Visitor,
        source: Source,
        noted: &OnceLock<server::Noted>,
    ) -> Result<Response<Body>, Problem> {
        let now = Instant::now();
        let Some(principal) = door::bearer(request.headers()).and_then(|token| self.tokens.find(token))
        else {
            visitor.showed(None);
            self.audit.login_failed(visitor.peer.ip());
            return Err(self.failures.note(source, now));
        };
        visitor.showed(Some(principal.token()));
        let _ = noted.set(server::Noted {
            user: principal.user.clone(),
            token: principal.token().to_owned(),
            is_confidential: route.is_confidential(),
        });
        self.rates.take(principal.token(), now).map_err(Problem::too_many_requests)?;
        self.admit(&principal, &route).await?;
        let query = request.uri().query().map(str::to_owned);
        let query = query.as_deref();
        match route {
            Guarded::Metrics => {
                Query::read(query, &[])?;
                self.metrics().await
            }
            Guarded::Whoami => {
                Query::read(query, &[])?;
                people::whoami(self, &principal).await
            }
            Guarded::Agents => lists::agents(self, &principal, query).await,
            Guarded::Agent { name } => {
                Query::read(query, &[])?;
                agents::show(self, &principal, &name).await
            }
            Guarded::EditAgent { name } => {
                Query::read(query, &[])?;
                agents::edit(self, principal, &name, request).await
            }
            Guarded::DeleteAgent { name } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                agents::delete(self, principal, &name).await
            }
            Guarded::Members { agent } => people::list_members(self, &principal, &agent, query).await,
            Guarded::Wirings => agents::wirings(self, &principal, query).await,
            Guarded::Destinations => destinations::list(self, &principal, query).await,
            Guarded::MayReach => destinations::check(self, &principal, query).await,
            Guarded::Channels => {
                Query::read(query, &[])?;
                Ok(channels::list(self))
            }
            Guarded::TryRoute => {
                Query::read(query, &[])?;
                channels::try_route(self, &principal, request).await
            }
            Guarded::Pair => {
                Query::read(query, &[])?;
                pairings::find(self, &principal, request).await
            }
            Guarded::Deliveries => deliveries::list(self, &principal, query).await,
            Guarded::RetryDelivery { id } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                deliveries::retry(self, principal, &id).await
            }
            Guarded::DiscardDelivery { id } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                deliveries::discard(self, principal, &id).await
            }
            Guarded::Tasks => tasks::list(self, &principal, query).await,
            Guarded::MakeTask => {
                Query::read(query, &[])?;
                tasks::create(self, principal, request).await
            }
            Guarded::Task { id } => {
                Query::read(query, &[])?;
                tasks::show(self, &principal, &id).await
            }
            Guarded::EditTask { id } => {
                Query::read(query, &[])?;
                tasks::edit(self, principal, &id, request).await
            }
            Guarded::CancelTask { id } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                tasks::cancel(self, principal, &id).await
            }
            Guarded::RunTask { id } => {
                Query::read(query, &[])?;
                let key = changes::key(request.headers())?;
                no_fields(request).await?;
                tasks::run(self, principal, &id, key).await
            }
            Guarded::Usage => usage::list(self, &principal, query).await,
            Guarded::Questions => questions::list(self, &principal, query).await,
            Guarded::Question { id } => {
                Query::read(query, &[])?;
                questions::show(self, &principal, &id).await
            }
            Guarded::AnswerQuestion { id } => {
                Query::read(query, &[])?;
                questions::answer(self, principal, &id, request).await
            }
            Guarded::CancelQuestion { id } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                questions::cancel(self, principal, &id).await
            }
            Guarded::MessagingGroups => agents::messaging_groups(self, query).await,
            Guarded::Submit => {
                Query::read(query, &[])?;
                changes::submit(self, principal, request).await
            }
            Guarded::Pending => changes::pending(self, &principal, query).await,
            Guarded::ChangeHistory => changes::history(self, &principal, query).await,
            Guarded::Change { id } => {
                Query::read(query, &[])?;
                changes::show(self, &principal, &id).await
            }
            Guarded::Decide { id } => {
                Query::read(query, &[])?;
                changes::decide(self, principal, &id, request).await
            }
            Guarded::Withdraw { id } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                changes::withdraw(self, principal, &id).await
            }
            Guarded::Retry { id } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                changes::retry(self, principal, &id).await
            }
            Guarded::Users => people::list(self, query).await,
            Guarded::PutUser => {
                Query::read(query, &[])?;
                people::put(self, principal, request).await
            }
            Guarded::DeleteUser { id } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                people::delete(self, principal, &id).await
            }
            Guarded::ShowApprovals { id } => {
                Query::read(query, &[])?;
                approvals::begin(self, principal, &id, request).await
            }
            Guarded::HideApprovals { id } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                approvals::end(self, principal, &id).await
            }
            Guarded::Roles => people::list_roles(self, query).await,
            Guarded::Tokens => people::list_tokens(self, query).await,
            Guarded::MakeToken => {
                Query::read(query, &[])?;
                people::make_token(self, principal, request).await
            }
            Guarded::RevokeToken { name } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                people::revoke_token(self, principal, &name).await
            }
            Guarded::Sessions => lists::sessions(self, &principal, query).await,
            Guarded::Session { id } => {
                Query::read(query, &[])?;
                lists::session(self, &principal, &id).await
            }
            Guarded::EraseSession { id } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                lists::erase(self, principal, &id).await
            }
            Guarded::Release { id } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                lists::release(self, &principal, &id).await
            }
            Guarded::Send { agent } => {
                Query::read(query, &[])?;
                chat::send(self, &principal, &agent, request).await
            }
            Guarded::History { agent } => chat::page(self, &principal, &agent, query).await,
            Guarded::Events { agent } => events::stream(self, &principal, &agent, &request).await,
            Guarded::Feed => feed::stream(self, principal, &request).await,
            Guarded::Audit => audit::list(self, query).await,
            Guarded::AuditEvents => audit::events(self, principal, &request).await,
            Guarded::AuditVerify => {
                Query::read(query, &[])?;
                audit::verify(self, &principal)
            }
            Guarded::AuditAcknowledge => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                audit::acknowledge(self, &principal).await
            }
        }
    }

    /// Whether this token and the roles of its user come as far as this route at all. Talking is for members too, so
    /// it is judged where the agent is known.
    async fn admit(&self, principal: &Principal, route: &Guarded) -> Result<(), Problem> {
        // Who somebody is, they may know; what of the feed somebody may hear depends on its topics.
        if matches!(route, Guarded::Whoami | Guarded::Feed) {
            return Ok(());
        }
        let scope = route.scope();
        if !principal.has(scope) {
            let detail = format!("the token's scopes do not hold {}; see `ironctl whoami`", scope.as_str());
            return Err(Problem::forbidden(detail));
        }
        // These are judged where they look at the ledger anyway.
        if scope == Scope::Chat || matches!(route, Guarded::Pending | Guarded::ChangeHistory) {
            return Ok(());
        }
        let (user, is_global) = (principal.user.clone(), route.is_global());
        let allowed = self
            .ledger
            .read(move |conn| {
                let standing = Standing::of(conn, &user)?;
                Ok(if is_global { standing.allows(scope, None) } else { standing.allows_somewhere(scope) })
            })
            .await?;
        if allowed {
            Ok(())
        } else {
            Err(Problem::forbidden("your roles do not allow this; see `ironctl whoami`"))
        }
    }

    /// Whether a stream that was opened with this token may go on: the token opens the door, and the roles of its user
    /// still reach as far.
    async fn may_go_on(&self, principal: &Principal, scope: Scope, group: Option<GroupName>) -> bool {
        let (principal, tokens) = (principal.clone(), self.tokens.clone());
        let allowed = self.ledger.read(move |conn| {
            if !tokens.holds(&principal) {
                return Ok(false);
            }
            if let Some(group) = &group
                && groups::live(conn, group)?.is_none()
            {
                return Ok(false);
            }
            principals::may(conn, &principal, scope, group.as_ref())
        });
        allowed.await.unwrap_or(false)
    }

    /// Whether this token and the roles of its user allow this for an agent.
    async fn reaches(&self, principal: &Principal, scope: Scope, group: &GroupName) -> Result<(), Problem> {
        let (principal, about) = (principal.clone(), group.clone());
        let allowed =
            self.ledger.read(move |conn| principals::may(conn, &principal, scope, Some(&about))).await?;
        if allowed {
            Ok(())
        } else {
            Err(Problem::forbidden(format!("your roles do not allow this for {group}")))
        }
    }

    async fn metrics(&self) -> Result<Response<Body>, Problem> {
        let totals = self.ledger.read(sessions::totals).await?;
        METRICS.open_messages.set(totals.open_messages);
        METRICS.sessions_owed.set(totals.owed);
        METRICS.parked.set(totals.parked);
        let mut response = Response::new(http::full(metrics::render()));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok(response)
    }
}

/// The JSON body of a request that must have one.
async fn body(request: Request<Incoming>, most: usize) -> Result<Value, Problem> {
    if !http::says_json(request.headers()) {
        return Err(Problem::not_json());
    }
    Ok(http::json_body(request.into_body(), most).await?)
}

/// For a request that says everything with its path: no body, or an empty JSON object.
async fn no_fields(request: Request<Incoming>) -> Result<(), Problem> {
    if request.body().is_end_stream() {
        return Ok(());
    }
    match body(request, 1024).await? {
        Value::Object(fields) if fields.is_empty() => Ok(()),
        _ => Err(Problem::invalid("this path takes no fields; send no body, or {}")),
    }
}
