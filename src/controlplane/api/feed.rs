//! `GET /v1/events`: all that an operator follows as one stream of server-sent events, each topic for whoever may
//! read it. Records, entries and happenings have places in the ledger that last, so that a reader who comes again with the id of
//! the last event misses none and gets none twice; what sessions do is told anew. Touches the ledger, reading, and
//! asks the actors what runs.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use rusqlite::Connection;
use smol::channel::Receiver;
use smol::future::FutureExt;

use super::problem::Problem;
use super::router::Query;
use super::sse::{self, Filled, Seat, Source};
use super::{Api, audit, chat, lists};
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::json::Value;
use crate::controlplane::http::Body;
use crate::controlplane::principals::{Principal, Scope, Standing};
use crate::controlplane::session::{Changed, Live, StateWatch};
use crate::controlplane::store::audit::{self as chain, Link};
use crate::controlplane::store::happenings::{self, Happening, Kind};
use crate::controlplane::store::history::{self, Everywhere, Told};
use crate::controlplane::store::sessions::{self, Partition};
use crate::controlplane::store::{StoreError, groups, members};

/// Rows of each topic read from the ledger at once.
const PAGE: usize = 50;
/// Whoever has found nothing in so many pages says so, and lets others read.
const AT_ONCE: usize = 8;
/// Longest id of an event: three numbers of nineteen digits, three letters and two points.
const ID_BYTES: usize = 62;
/// Acts on changes begin with this.
const CHANGE: &str = "change.";
/// The channel of the API's own chats.
const API: &str = "api";

/// What can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topic {
    Approvals,
    Sessions,
    Chat,
    Audit,
    Deliveries,
    Questions,
}

impl Topic {
    const ALL: [Self; 6] =
        [Self::Approvals, Self::Sessions, Self::Chat, Self::Audit, Self::Deliveries, Self::Questions];

    fn as_str(self) -> &'static str {
        match self {
            Self::Approvals => "approvals",
            Self::Sessions => "sessions",
            Self::Chat => "chat",
            Self::Audit => "audit",
            Self::Deliveries => "deliveries",
            Self::Questions => "questions",
        }
    }

    fn scope(self) -> Scope {
        match self {
            Self::Chat => Scope::Chat,
            Self::Approvals | Self::Sessions | Self::Audit | Self::Deliveries | Self::Questions => {
                Scope::Read
            }
        }
    }
}

/// How far a reader is: the last record, the last entry and the last happening that it has, or that were not for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    record: u64,
    entry: u64,
    /// `None` in an id from before these were told: whoever comes with it hears them from now on.
    happening: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}.c{}", self.record, self.entry)?;
        self.happening.map_or(Ok(()), |happening| write!(f, ".h{happening}"))
    }
}

impl Place {
    /// Reads exactly what [`Place`] writes.
    fn parse(text: &str) -> Option<Self> {
        if text.len() > ID_BYTES {
            return None;
        }
        let (record, rest) = text.strip_prefix('a')?.split_once(".c")?;
        let (entry, happening) = match rest.split_once(".h") {
            Some((entry, happening)) => (entry, Some(happening.parse().ok()?)),
            None => (rest, None),
        };
        let place = Self { record: record.parse().ok()?, entry: entry.parse().ok()?, happening };
        (place.to_string() == text).then_some(place)
    }

    fn tip(conn: &Connection) -> Result<Self, StoreError> {
        let happening = Some(happenings::tip(conn)?);
        Ok(Self { record: chain::tip(conn)?.0, entry: history::tip(conn)?, happening })
    }
}

/// What somebody may hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reach {
    standing: Standing,
    member_of: BTreeSet<GroupName>,
}

impl Reach {
    fn of(conn: &Connection, principal: &Principal) -> Result<Self, StoreError> {
        Ok(Self {
            standing: Standing::of(conn, &principal.user)?,
            member_of: members::of(conn, &principal.user)?,
        })
    }

    /// Whether anything of a topic is for them.
    fn allows(&self, topic: Topic) -> bool {
        match topic {
            Topic::Audit => self.standing.allows(Scope::Read, None),
            Topic::Chat => self.standing.allows_somewhere(Scope::Chat) || !self.member_of.is_empty(),
            Topic::Approvals | Topic::Sessions | Topic::Deliveries | Topic::Questions => {
                self.standing.allows_somewhere(Scope::Read)
            }
        }
    }

    fn reads(&self, group: Option<&GroupName>) -> bool {
        self.standing.allows(Scope::Read, group)
    }

    /// Members read the chats of the API, as they do one by one; an agent's admin reads those of every channel.
    fn hears(&self, partition: &Partition) -> bool {
        self.standing.allows(Scope::Chat, Some(&partition.group))
            || partition.place.channel == API && self.member_of.contains(&partition.group)
    }

    fn keeps(&self, earlier: &Self) -> bool {
        self.standing.keeps(&earlier.standing) && self.member_of.is_superset(&earlier.member_of)
    }
}

/// `GET /v1/events`
pub(super) async fn stream(
    api: &Arc<Api>,
    principal: Principal,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(request.uri().query(), &["topics", "after"])?;
    let asked = query.text("topics").map(topics).transpose()?;
    let after = match sse::last_event(request, Place::parse)? {
        Some(place) => Some(place),
        None => {
            let wrong = || Problem::invalid("after must be the id of an event of this stream");
            query.text("after").map(|text| Place::parse(text).ok_or_else(wrong)).transpose()?
        }
    };
    let seat = Seat::take(api, &principal)?;
    let (records, entries, states) = (api.audit.watch(), api.actors.watch_all(), api.actors.watch_states());
    let happened = api.ledger.watch_happenings();
    let asker = principal.clone();
    let read = api.ledger.read(move |conn| Ok((Reach::of(conn, &asker)?, Place::tip(conn)?)));
    let (reach, tip) = read.await?;
    let may = |topic: &Topic| principal.has(topic.scope()) && reach.allows(*topic);
    let topics = match asked {
        Some(topics) => match topics.iter().find(|topic| !may(topic)) {
            Some(topic) => {
                let detail = format!(
                    "your token or your roles do not let you follow {}; see `ironctl whoami`",
                    topic.as_str()
                );
                return Err(Problem::forbidden(detail));
            }
            None => topics,
        },
        None => Topic::ALL.into_iter().filter(may).collect(),
    };
    if topics.is_empty() {
        let detail = "your token or your roles let you follow none of the topics; see `ironctl whoami`";
        return Err(Problem::forbidden(detail));
    }
    let mut place = after.unwrap_or(tip);
    place.happening = place.happening.or(tip.happening);
    if place.record > tip.record || place.entry > tip.entry || place.happening > tip.happening {
        // It would hear nothing of what comes until then.
        return Err(Problem::invalid(
            "this id is of an event that is not in the ledger; begin again without one",
        ));
    }
    let first = format!("id: {place}\n");
    let pending = BTreeSet::new();
    let principal_of = principal.clone();
    let feed =
        Feed { principal: principal_of, topics, reach, place, records, entries, happened, states, pending };
    Ok(seat.stream(api, principal, feed, &first))
}

fn topics(text: &str) -> Result<Vec<Topic>, Problem> {
    let named = |word: &str| Topic::ALL.into_iter().find(|topic| topic.as_str() == word);
    text.split(',').map(|word| named(word.trim())).collect::<Option<Vec<Topic>>>().ok_or_else(|| {
        let all = Topic::ALL.map(Topic::as_str).join(", ");
        Problem::invalid(format!("topics takes some of these, with commas between: {all}"))
    })
}

/// One reader.
struct Feed {
    principal: Principal,
    topics: Vec<Topic>,
    /// As it was when the stream was opened.
    reach: Reach,
    place: Place,
    records: Receiver<()>,
    entries: Receiver<()>,
    happened: Receiver<()>,
    states: StateWatch,
    /// Sessions to be told of.
    pending: BTreeSet<SessionId>,
}

/// What one look at the ledger gives.
#[derive(Default)]
struct Look {
    reach: Reach,
    links: Vec<Link>,
    chat: Everywhere,
    happenings: Vec<Happening>,
}

impl Feed {
    fn follows(&self, topic: Topic) -> bool {
        self.topics.contains(&topic)
    }

    async fn look(&self, api: &Api) -> Result<Look, StoreError> {
        let wants_records = self.follows(Topic::Approvals) || self.follows(Topic::Audit);
        let wants_chat = self.follows(Topic::Chat);
        let wants_happenings = self.follows(Topic::Deliveries) || self.follows(Topic::Questions);
        let (principal, keyring, place) = (self.principal.clone(), api.keyring.clone(), self.place);
        let read = api.ledger.read(move |conn| {
            // What may be heard is what may be heard now.
            let mut live = BTreeMap::new();
            let mut look = Look { reach: Reach::of(conn, &principal)?, ..Look::default() };
            if wants_records {
                look.links = chain::after(conn, place.record, PAGE)?;
            }
            if wants_chat {
                // Nor is anything told of an agent that is gone, as where its chats are asked for.
                let hears = |partition: &Partition| {
                    let is_live = match live.entry(partition.group.clone()) {
                        Slot::Occupied(known) => *known.get(),
                        Slot::Vacant(unknown) => *unknown.insert(groups::is_live(conn, &partition.group)?),
                    };
                    Ok(is_live && look.reach.hears(partition))
                };
                look.chat = history::everywhere(conn, &keyring, place.entry, PAGE, hears)?;
            }
            if wants_happenings {
                look.happenings = happenings::after(conn, place.happening.unwrap_or(0), PAGE)?;
            }
            Ok(look)
        });
        read.await
    }

    /// A record comes once: as `approval` where that is followed and it is one, else as `audit`.
    fn tell_record(
        &mut self,
        link: &Link,
        reach: &Reach,
        ready: &mut VecDeque<Bytes>,
    ) -> Result<(), StoreError> {
        self.place.record = link.seq;
        let record = audit::record_json(link)?;
        let is_change = record.get("act").and_then(Value::as_str).is_some_and(|act| act.starts_with(CHANGE));
        let group = record.get("group").and_then(Value::as_str).and_then(|name| GroupName::parse(name).ok());
        let name = if is_change && self.follows(Topic::Approvals) && reach.reads(group.as_ref()) {
            "approval"
        } else if self.follows(Topic::Audit) && reach.reads(None) {
            "audit"
        } else {
            return Ok(());
        };
        ready.push_back(sse::event(Some(&self.place.to_string()), name, &record));
        Ok(())
    }

    fn tell_entry(&mut self, told: &Told, ready: &mut VecDeque<Bytes>) {
        self.place.entry = told.entry.position;
        let place = &told.partition.place;
        let mut fields = vec![
            ("agent".to_owned(), Value::from(told.partition.group.as_str())),
            ("session_id".to_owned(), Value::from(told.session.as_str())),
            ("channel".to_owned(), Value::from(place.channel.as_str())),
            ("chat".to_owned(), Value::from(place.chat.as_str())),
            ("thread".to_owned(), Value::from(place.thread.clone())),
        ];
        if let Value::Object(entry) = chat::entry_json(&told.entry) {
            fields.extend(entry);
        }
        ready.push_back(sse::event(Some(&self.place.to_string()), "chat", &Value::Object(fields)));
    }

    /// What became of a delivery or a question, without a word of what was said.
    fn tell_happening(&mut self, happening: &Happening, reach: &Reach, ready: &mut VecDeque<Bytes>) {
        self.place.happening = Some(happening.position);
        let (topic, name, detail) = match happening.kind {
            Kind::Delivery => (Topic::Deliveries, "delivery", "error"),
            Kind::Question => (Topic::Questions, "question", "by"),
        };
        if !self.follows(topic) || !reach.reads(Some(&happening.group)) {
            return;
        }
        let place = &happening.place;
        let data = Value::object([
            ("id", Value::from(happening.object.as_str())),
            ("what", Value::from(happening.what.as_str())),
            ("at", Value::from(happening.at.to_rfc3339())),
            ("group", Value::from(happening.group.as_str())),
            ("session", Value::from(happening.session.as_str())),
            ("channel", Value::from(place.channel.as_str())),
            ("instance", Value::from(place.instance.as_str())),
            ("chat", Value::from(place.chat.as_str())),
            ("thread", Value::from(place.thread.clone())),
            (detail, Value::from(happening.detail.clone())),
        ]);
        ready.push_back(sse::event(Some(&self.place.to_string()), name, &data));
    }

    /// Tells what sessions do that may do something else than before; of all of them after the word to forget what
    /// was told earlier.
    async fn tell_sessions(&mut self, api: &Api, ready: &mut VecDeque<Bytes>) -> Result<(), StoreError> {
        match self.states.take() {
            Changed::Some(names) => self.pending.extend(names),
            Changed::Any => {
                let mut names: BTreeSet<SessionId> =
                    api.actors.live().into_iter().map(|live| live.session).collect();
                let principal = self.principal.clone();
                let read = api.ledger.read(move |conn| {
                    names.extend(sessions::parked(conn)?);
                    // How many others have is not told either.
                    let reach = Reach::of(conn, &principal)?;
                    let mut reached = BTreeSet::new();
                    for name in names {
                        let row = sessions::get(conn, &name)?;
                        if row.is_some_and(|row| reach.reads(Some(&row.partition.group))) {
                            reached.insert(name);
                        }
                    }
                    Ok(reached)
                });
                self.pending = read.await?;
                let data = Value::object([("count", Value::from(self.pending.len() as u64))]);
                ready.push_back(sse::event(None, "sessions", &data));
            }
        }
        let mut now = Vec::new();
        while now.len() < PAGE
            && let Some(session) = self.pending.pop_first()
        {
            now.push(session);
        }
        if now.is_empty() {
            return Ok(());
        }
        let principal = self.principal.clone();
        let (names, actors) = (now, api.actors.clone());
        let read = api.ledger.read(move |conn| {
            let reach = Reach::of(conn, &principal)?;
            let mut rows = Vec::new();
            for name in &names {
                rows.extend(sessions::get(conn, name)?.filter(|row| reach.reads(Some(&row.partition.group))));
            }
            Ok(rows)
        });
        for row in read.await? {
            let live: Vec<Live> = actors.look(&row.id).into_iter().collect();
            ready.push_back(sse::event(None, "session", &lists::session_json(&row, &live)));
        }
        Ok(())
    }
}

impl Source for Feed {
    async fn fill(&mut self, api: &Api, ready: &mut VecDeque<Bytes>) -> Result<Filled, StoreError> {
        for _ in 0..AT_ONCE {
            let look = self.look(api).await?;
            for link in &look.links {
                self.tell_record(link, &look.reach, ready)?;
            }
            for told in &look.chat.told {
                self.tell_entry(told, ready);
            }
            self.place.entry = look.chat.last.unwrap_or(self.place.entry);
            for happening in &look.happenings {
                self.tell_happening(happening, &look.reach, ready);
            }
            if self.follows(Topic::Sessions) {
                self.tell_sessions(api, ready).await?;
            }
            // Nothing of this page may have been for this reader.
            let is_all = look.links.is_empty()
                && look.chat.last.is_none()
                && look.happenings.is_empty()
                && self.pending.is_empty();
            if is_all || !ready.is_empty() {
                return Ok(Filled::Done);
            }
            // Much that is for others may lie in between: whoever is not to hear more any longer, or keeps the daemon
            // from stopping, is not read for to the end.
            if !api.tokens.holds(&self.principal) || api.closing.is_closed() {
                return Ok(Filled::Done);
            }
        }
        Ok(Filled::Passed)
    }

    async fn changed(&self) {
        let changed = sse::rung(&self.records).or(sse::rung(&self.entries)).or(sse::rung(&self.happened));
        match self.follows(Topic::Sessions) {
            true => changed.or(sse::rung(self.states.bell())).await,
            false => changed.await,
        }
    }

    async fn may_go_on(&self, api: &Api, principal: &Principal) -> bool {
        let (principal, tokens, before) = (principal.clone(), api.tokens.clone(), self.reach.clone());
        let kept = api.ledger.read(move |conn| {
            // Who may hear less than before comes again, and is told what there is for them.
            Ok(tokens.holds(&principal) && Reach::of(conn, &principal)?.keeps(&before))
        });
        kept.await.unwrap_or(false)
    }

    fn quiet(&mut self) -> String {
        // Much may have passed that was not for this reader; it need not be looked at again.
        format!("id: {}\n", self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_what_was_written_and_nothing_else() {
        let most = u64::MAX >> 1;
        for happening in [None, Some(0), Some(most)] {
            let place = Place { record: 7, entry: most, happening };
            assert_eq!(Place::parse(&place.to_string()), Some(place));
        }
        let longest = Place { record: most, entry: most, happening: Some(most) }.to_string();
        assert_eq!(longest.len(), ID_BYTES);
        assert!(Place::parse(&longest).is_some());
        for bad in [
            "",
            "7",
            "a7",
            "a7.c",
            "a.c7",
            "a7.c7 ",
            "a+7.c7",
            "a07.c7",
            "a7.c-1",
            "c7.a7",
            "a7.c7.c7",
            "a7.c7.h",
            "a7.c7.h07",
            "a7.h7",
            "a7.h7.c7",
            "a7.c7.h7.h7",
            "a18446744073709551616.c1",
            "a99999999999999999999999999999999999999999.c1",
        ] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }
}
