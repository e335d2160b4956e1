//! Paths into routes, queries into parameters. Pure.

use hyper::Method;

use super::problem::Problem;
use crate::controlplane::principals::Scope;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Served without a token: what a supervisor asks before anything is set up.
    Health,
    /// The same.
    Ready,
    /// Everything else.
    Guarded(Guarded),
}

/// What only the holder of a token may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Guarded {
    Metrics,
    Whoami,
    Agents,
    Agent { name: String },
    EditAgent { name: String },
    DeleteAgent { name: String },
    Members { agent: String },
    Wirings,
    Destinations,
    MayReach,
    MessagingGroups,
    Channels,
    TryRoute,
    Pair,
    Deliveries,
    RetryDelivery { id: String },
    DiscardDelivery { id: String },
    Tasks,
    MakeTask,
    Task { id: String },
    EditTask { id: String },
    CancelTask { id: String },
    RunTask { id: String },
    Usage,
    Questions,
    Question { id: String },
    AnswerQuestion { id: String },
    CancelQuestion { id: String },
    Submit,
    Pending,
    ChangeHistory,
    Change { id: String },
    Decide { id: String },
    Withdraw { id: String },
    Retry { id: String },
    Users,
    PutUser,
    DeleteUser { id: String },
    ShowApprovals { id: String },
    HideApprovals { id: String },
    Roles,
    Tokens,
    MakeToken,
    RevokeToken { name: String },
    Sessions,
    Session { id: String },
    Release { id: String },
    EraseSession { id: String },
    Send { agent: String },
    History { agent: String },
    Events { agent: String },
    Feed,
    Audit,
    AuditEvents,
    AuditVerify,
    AuditAcknowledge,
}

impl Guarded {
    /// Whether it shows or changes what belongs to no agent in particular: that takes a role over all of them.
    pub(super) fn is_global(&self) -> bool {
        matches!(
            self,
            Self::Metrics
                | Self::MessagingGroups
                | Self::Channels
                | Self::Users
                | Self::PutUser
                | Self::DeleteUser { .. }
                | Self::ShowApprovals { .. }
                | Self::HideApprovals { .. }
                | Self::Roles
                | Self::Tokens
                | Self::MakeToken
                | Self::RevokeToken { .. }
                | Self::Audit
                | Self::AuditEvents
                | Self::AuditVerify
                | Self::AuditAcknowledge
        )
    }

    /// Whether reading it is told in the log: the audit, an agent's persona, conversations.
    pub(super) fn is_confidential(&self) -> bool {
        matches!(
            self,
            Self::Audit
                | Self::AuditEvents
                | Self::AuditVerify
                | Self::Agent { .. }
                | Self::Task { .. }
                | Self::Questions
                | Self::Question { .. }
                | Self::History { .. }
                | Self::Events { .. }
                | Self::Feed
        )
    }

    /// What a token must let through, and some role of its user allow, before anything else is looked at. Whom the
    /// request is about is looked at where it is known.
    pub(super) fn scope(&self) -> Scope {
        match self {
            Self::Metrics => Scope::Metrics,
            Self::Send { .. } | Self::History { .. } | Self::Events { .. } | Self::AnswerQuestion { .. } => {
                Scope::Chat
            }
            Self::Submit
            | Self::Withdraw { .. }
            | Self::Release { .. }
            | Self::EraseSession { .. }
            | Self::RetryDelivery { .. }
            | Self::DiscardDelivery { .. }
            | Self::MakeTask
            | Self::EditTask { .. }
            | Self::CancelTask { .. }
            | Self::RunTask { .. }
            | Self::CancelQuestion { .. }
            | Self::EditAgent { .. }
            | Self::DeleteAgent { .. } => Scope::Operate,
            Self::AuditAcknowledge => Scope::Admin,
            Self::Decide { .. } | Self::Retry { .. } | Self::Pair => Scope::Approve,
            Self::PutUser
            | Self::DeleteUser { .. }
            | Self::ShowApprovals { .. }
            | Self::HideApprovals { .. }
            | Self::Tokens
            | Self::MakeToken
            | Self::RevokeToken { .. } => Scope::Admin,
            _ => Scope::Read,
        }
    }
}

/// Finds the route of a method and path.
pub(super) fn route(method: &Method, path: &str) -> Result<Route, Problem> {
    let rest = path.strip_prefix('/').ok_or_else(Problem::no_route)?;
    let segments =
        rest.split('/').map(decode).collect::<Option<Vec<String>>>().ok_or_else(Problem::no_route)?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let owned = |text: &str| text.to_owned();
    let guarded = |route| Some(Route::Guarded(route));
    let (get, post, delete) = match segments.as_slice() {
        ["healthz"] => (Some(Route::Health), None, None),
        ["readyz"] => (Some(Route::Ready), None, None),
        ["metrics"] => (guarded(Guarded::Metrics), None, None),
        ["v1", "whoami"] => (guarded(Guarded::Whoami), None, None),
        ["v1", "agents"] => (guarded(Guarded::Agents), None, None),
        ["v1", "agents", name] => (
            guarded(Guarded::Agent { name: owned(name) }),
            guarded(Guarded::EditAgent { name: owned(name) }),
            guarded(Guarded::DeleteAgent { name: owned(name) }),
        ),
        ["v1", "agents", name, "members"] => (guarded(Guarded::Members { agent: owned(name) }), None, None),
        ["v1", "wirings"] => (guarded(Guarded::Wirings), None, None),
        ["v1", "destinations"] => (guarded(Guarded::Destinations), None, None),
        ["v1", "destinations", "check"] => (guarded(Guarded::MayReach), None, None),
        ["v1", "messaging_groups"] => (guarded(Guarded::MessagingGroups), None, None),
        ["v1", "channels"] => (guarded(Guarded::Channels), None, None),
        ["v1", "routes", "test"] => (None, guarded(Guarded::TryRoute), None),
        ["v1", "pairings"] => (None, guarded(Guarded::Pair), None),
        ["v1", "deliveries"] => (guarded(Guarded::Deliveries), None, None),
        ["v1", "deliveries", id, "retry"] => (None, guarded(Guarded::RetryDelivery { id: owned(id) }), None),
        ["v1", "deliveries", id, "discard"] => {
            (None, guarded(Guarded::DiscardDelivery { id: owned(id) }), None)
        }
        ["v1", "tasks"] => (guarded(Guarded::Tasks), guarded(Guarded::MakeTask), None),
        ["v1", "tasks", id] => (
            guarded(Guarded::Task { id: owned(id) }),
            guarded(Guarded::EditTask { id: owned(id) }),
            guarded(Guarded::CancelTask { id: owned(id) }),
        ),
        ["v1", "tasks", id, "run"] => (None, guarded(Guarded::RunTask { id: owned(id) }), None),
        ["v1", "usage"] => (guarded(Guarded::Usage), None, None),
        ["v1", "questions"] => (guarded(Guarded::Questions), None, None),
        ["v1", "questions", id] => (guarded(Guarded::Question { id: owned(id) }), None, None),
        ["v1", "questions", id, "answer"] => (None, guarded(Guarded::AnswerQuestion { id: owned(id) }), None),
        ["v1", "questions", id, "cancel"] => (None, guarded(Guarded::CancelQuestion { id: owned(id) }), None),
        ["v1", "changes"] => (None, guarded(Guarded::Submit), None),
        ["v1", "changes", "pending"] => (guarded(Guarded::Pending), None, None),
        ["v1", "changes", "history"] => (guarded(Guarded::ChangeHistory), None, None),
        ["v1", "changes", id] => (guarded(Guarded::Change { id: owned(id) }), None, None),
        ["v1", "changes", id, "decision"] => (None, guarded(Guarded::Decide { id: owned(id) }), None),
        ["v1", "changes", id, "withdraw"] => (None, guarded(Guarded::Withdraw { id: owned(id) }), None),
        ["v1", "changes", id, "retry"] => (None, guarded(Guarded::Retry { id: owned(id) }), None),
        ["v1", "users"] => (guarded(Guarded::Users), guarded(Guarded::PutUser), None),
        ["v1", "users", id] => (None, None, guarded(Guarded::DeleteUser { id: owned(id) })),
        ["v1", "users", id, "approvals"] => (
            None,
            guarded(Guarded::ShowApprovals { id: owned(id) }),
            guarded(Guarded::HideApprovals { id: owned(id) }),
        ),
        ["v1", "roles"] => (guarded(Guarded::Roles), None, None),
        ["v1", "tokens"] => (guarded(Guarded::Tokens), guarded(Guarded::MakeToken), None),
        ["v1", "tokens", name] => (None, None, guarded(Guarded::RevokeToken { name: owned(name) })),
        ["v1", "sessions"] => (guarded(Guarded::Sessions), None, None),
        ["v1", "sessions", id] => {
            let (one, erase) = (Guarded::Session { id: owned(id) }, Guarded::EraseSession { id: owned(id) });
            (guarded(one), None, guarded(erase))
        }
        ["v1", "sessions", id, "release"] => (None, guarded(Guarded::Release { id: owned(id) }), None),
        ["v1", "chat", agent, "messages"] => (
            guarded(Guarded::History { agent: owned(agent) }),
            guarded(Guarded::Send { agent: owned(agent) }),
            None,
        ),
        ["v1", "chat", agent, "events"] => (guarded(Guarded::Events { agent: owned(agent) }), None, None),
        ["v1", "events"] => (guarded(Guarded::Feed), None, None),
        ["v1", "audit"] => (guarded(Guarded::Audit), None, None),
        ["v1", "audit", "events"] => (guarded(Guarded::AuditEvents), None, None),
        ["v1", "audit", "verify"] => (guarded(Guarded::AuditVerify), None, None),
        ["v1", "audit", "acknowledge"] => (None, guarded(Guarded::AuditAcknowledge), None),
        _ => return Err(Problem::no_route()),
    };
    let methods = [(&get, "GET"), (&post, "POST"), (&delete, "DELETE")];
    let allowed: Vec<&str> =
        methods.iter().filter(|(route, _)| route.is_some()).map(|(_, name)| *name).collect();
    let found = match *method {
        Method::GET => get,
        Method::POST => post,
        Method::DELETE => delete,
        _ => None,
    };
    found.ok_or_else(|| Problem::method(&allowed))
}

/// The parameters of a query, each of the known names once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query whose names are all among `known`.
    pub(super) fn read(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut all: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name =
                decode(name).ok_or_else(|| Problem::invalid("the query is not percent-encoded UTF-8"))?;
            if matches!(name.as_str(), "token" | "access_token" | "api_token" | "api_key" | "key") {
                return Err(Problem::token_in_url());
            }
            if !known.contains(&name.as_str()) {
                let shown: String = name.chars().take(40).collect();
                let expected = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Problem::invalid(format!(
                    "unknown parameter {shown:?}; this path takes: {expected}"
                )));
            }
            if all.iter().any(|(other, _)| *other == name) {
                return Err(Problem::invalid(format!("the parameter {name} is given twice")));
            }
            let value = decode(&value.replace('+', " "));
            all.push((
                name,
                value.ok_or_else(|| Problem::invalid("the query is not percent-encoded UTF-8"))?,
            ));
        }
        Ok(Self(all))
    }

    /// One parameter.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// One parameter as a number in a range.
    pub(super) fn number(&self, name: &str, low: u64, high: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number = text
            .parse()
            .ok()
            .filter(|n| text.bytes().all(|b| b.is_ascii_digit()) && (low..=high).contains(n));
        number
            .map(Some)
            .ok_or_else(|| Problem::invalid(format!("{name} must be a whole number from {low} to {high}")))
    }
}

/// Percent-decoding into UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods() {
        let agent = || "mock-agent".to_owned();
        let cases = [
            (Method::GET, "/healthz", Ok(Route::Health)),
            (
                Method::GET,
                "/v1/chat/mock-agent/messages",
                Ok(Route::Guarded(Guarded::History { agent: agent() })),
            ),
            (
                Method::POST,
                "/v1/chat/mock%2Dagent/messages",
                Ok(Route::Guarded(Guarded::Send { agent: agent() })),
            ),
            (
                Method::GET,
                "/v1/chat/mock-agent/events",
                Ok(Route::Guarded(Guarded::Events { agent: agent() })),
            ),
            (Method::POST, "/v1/sessions/x/release", Ok(Route::Guarded(Guarded::Release { id: "x".into() }))),
            (
                Method::GET,
                "/v1/chat/a%2Fmessages/messages",
                Ok(Route::Guarded(Guarded::History { agent: "a/messages".into() })),
            ),
            (Method::POST, "/healthz", Err("method_not_allowed")),
            (Method::PUT, "/v1/sessions", Err("method_not_allowed")),
            (Method::GET, "/healthz/", Err("not_found")),
            (Method::GET, "//healthz", Err("not_found")),
            (Method::GET, "/v1/chat/%ff/messages", Err("not_found")),
            (Method::GET, "/v1/chat/%2/messages", Err("not_found")),
            (Method::GET, "/", Err("not_found")),
            (Method::GET, "*", Err("not_found")),
        ];
        for (method, path, expected) in cases {
            assert_eq!(route(&method, path).map_err(|problem| problem.code), expected, "{method} {path}");
        }
    }

    #[test]
    fn queries() {
        let known = &["chat", "after", "limit"];
        let query = Query::read(Some("chat=a%20b+c&after=7"), known).unwrap();
        assert_eq!(query.text("chat"), Some("a b c"));
        assert_eq!(query.number("after", 0, u64::MAX).unwrap(), Some(7));
        assert_eq!(query.number("limit", 1, 9).unwrap(), None);
        for (bad, code) in [
            ("token=x", "token_in_url"),
            ("tok%65n=x", "token_in_url"),
            ("other=1", "invalid_request"),
            ("chat=a&chat=b", "invalid_request"),
            ("chat=%zz", "invalid_request"),
        ] {
            assert_eq!(Query::read(Some(bad), known).unwrap_err().code, code, "{bad}");
        }
        for bad in ["after=-1", "after=+1", "after=x", "after=99999999999999999999"] {
            assert!(Query::read(Some(bad), known).unwrap().number("after", 0, u64::MAX).is_err(), "{bad}");
        }
    }
}
