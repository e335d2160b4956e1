//! What a change does, one small typed step at a time. The steps are what an approver sees, what the digest
//! covers, and what is done: nothing else of a payload ever takes effect. Pure.

mod host;

pub use host::{Mount, Package, READ, WRITE};

use super::payload::{Refusal, Refusals, fields, list, optional, text};
use crate::contract::ids::{GroupName, UserId};
use crate::contract::inbound::AGENT;
use crate::contract::json::Value;
use crate::controlplane::store::destinations::Target;
use crate::controlplane::store::groups::{Document, Tools};
use crate::controlplane::store::roles::Role;
use crate::controlplane::store::wirings::Terms;

/// The word for every group; no group can have it as its name.
pub const EVERYWHERE: &str = "*";

/// A chat on a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chat {
    /// The platform.
    pub channel: String,
    /// The account on it; empty where there is only one.
    pub instance: String,
    /// The chat.
    pub chat: String,
}

impl Chat {
    /// The three parts.
    pub fn parts(&self) -> (&str, &str, &str) {
        (&self.channel, &self.instance, &self.chat)
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Makes an agent group.
    CreateAgent {
        /// Its name.
        group: GroupName,
        /// What people call it.
        title: String,
        /// The provider of its model.
        provider: String,
        /// The model.
        model: String,
    },
    /// Replaces a document of the persona.
    SetDocument {
        /// Whose.
        group: GroupName,
        /// Which.
        document: Document,
        /// The new text; empty takes the document away.
        text: String,
    },
    /// Sets the tools.
    SetTools {
        /// Whose.
        group: GroupName,
        /// Which.
        tools: Tools,
    },
    /// Sets the model.
    SetModel {
        /// Whose.
        group: GroupName,
        /// The provider.
        provider: String,
        /// The model, by the provider's name for it.
        model: String,
    },
    /// Gives or takes a role.
    SetRole {
        /// Whose.
        user: UserId,
        /// Which.
        role: Role,
        /// For which group; `None` is all.
        scope: Option<GroupName>,
        /// Given, or taken.
        given: bool,
    },
    /// Makes somebody a member, or no longer one.
    SetMember {
        /// Of which group.
        group: GroupName,
        /// Who.
        user: UserId,
        /// Made one, or no longer one.
        given: bool,
    },
    /// Wires a chat, changes how it is wired, or unwires it.
    SetWiring {
        /// To which group.
        group: GroupName,
        /// The chat.
        chat: Chat,
        /// How; `None` takes it away.
        terms: Option<Terms>,
    },
    /// Gives a destination, lets one of its name lead elsewhere, or takes it away.
    SetDestination {
        /// To which group.
        group: GroupName,
        /// What the agent calls it.
        name: String,
        /// Where it leads; `None` takes it away.
        target: Option<Target>,
    },
    /// Gives a package, another version of it, or takes it away.
    SetPackage {
        /// To which group.
        group: GroupName,
        /// Its name.
        name: String,
        /// Which; `None` takes it away.
        package: Option<Package>,
    },
    /// Gives a mount, another one of its name, or takes it away.
    SetMount {
        /// To which group.
        group: GroupName,
        /// Its name.
        name: String,
        /// Which; `None` takes it away.
        mount: Option<Mount>,
    },
}

impl Effect {
    /// Whether no policy approves it, whatever its kind: who is written to by an agent asked for nothing.
    pub fn is_for_humans_only(&self) -> bool {
        matches!(self, Self::SetDestination { target: Some(_), .. })
    }

    /// The name of the object that the step replaces, for its revision.
    pub fn object(&self) -> String {
        match self {
            Self::CreateAgent { group, .. } => format!("agent/{group}"),
            Self::SetDocument { group, document, .. } => format!("agent/{group}/{}", document.as_str()),
            Self::SetTools { group, .. } => format!("agent/{group}/tools"),
            Self::SetModel { group, .. } => format!("agent/{group}/model"),
            Self::SetRole { user, role, scope, .. } => {
                let scope = scope.as_ref().map_or("", GroupName::as_str);
                format!("role/{scope}/{}/{user}", role.as_str())
            }
            Self::SetMember { group, user, .. } => format!("member/{group}/{user}"),
            Self::SetWiring { group, chat, .. } => {
                format!("wiring/{group}/{}/{}/{}", chat.channel, chat.instance, chat.chat)
            }
            Self::SetDestination { group, name, .. } => format!("destination/{group}/{name}"),
            Self::SetPackage { group, name, .. } => format!("package/{group}/{name}"),
            Self::SetMount { group, name, .. } => format!("mount/{group}/{name}"),
        }
    }

    /// What else its approver reads beside it: the other roles of the person, who else answers in the chat.
    pub fn neighbours(&self) -> Option<String> {
        match self {
            Self::SetRole { user, .. } => Some(format!("roles/{user}")),
            Self::SetWiring { chat, .. } => {
                Some(format!("chat/{}/{}/{}", chat.channel, chat.instance, chat.chat))
            }
            _ => None,
        }
    }

    /// The agent that another one may write to from then on.
    pub fn agent_written_to(&self) -> Option<GroupName> {
        match self {
            Self::SetDestination { target: Some(target), .. } if target.channel == AGENT => {
                GroupName::parse(&target.chat).ok()
            }
            _ => None,
        }
    }

    /// The group that the step is about; `None` for a role that reaches over all of them.
    pub fn group(&self) -> Option<&GroupName> {
        match self {
            Self::CreateAgent { group, .. }
            | Self::SetDocument { group, .. }
            | Self::SetTools { group, .. }
            | Self::SetModel { group, .. }
            | Self::SetMember { group, .. }
            | Self::SetWiring { group, .. }
            | Self::SetDestination { group, .. }
            | Self::SetPackage { group, .. }
            | Self::SetMount { group, .. } => Some(group),
            Self::SetRole { scope, .. } => scope.as_ref(),
        }
    }

    /// Whether the ledger alone is not enough: something is to be done on the host after the decision.
    pub fn has_host_work(&self) -> bool {
        matches!(self, Self::SetPackage { package: Some(_), .. })
    }

    /// As it is stored, shown and digested.
    pub fn to_value(&self) -> Value {
        let word = |word: &str| Value::from(word);
        let fields = match self {
            Self::CreateAgent { group, title, provider, model } => vec![
                ("effect", word("create_agent")),
                ("group", word(group.as_str())),
                ("title", word(title)),
                ("provider", word(provider)),
                ("model", word(model)),
            ],
            Self::SetDocument { group, document, text } => vec![
                ("effect", word("set_document")),
                ("group", word(group.as_str())),
                ("document", word(document.as_str())),
                ("text", word(text)),
            ],
            Self::SetTools { group, tools } => {
                vec![
                    ("effect", word("set_tools")),
                    ("group", word(group.as_str())),
                    ("tools", tools_value(tools)),
                ]
            }
            Self::SetModel { group, provider, model } => vec![
                ("effect", word("set_model")),
                ("group", word(group.as_str())),
                ("provider", word(provider)),
                ("model", word(model)),
            ],
            Self::SetRole { user, role, scope, given } => vec![
                ("effect", word("set_role")),
                ("user", word(&user.to_string())),
                ("role", word(role.as_str())),
                ("scope", word(scope.as_ref().map_or(EVERYWHERE, GroupName::as_str))),
                ("given", Value::from(*given)),
            ],
            Self::SetMember { group, user, given } => vec![
                ("effect", word("set_member")),
                ("group", word(group.as_str())),
                ("user", word(&user.to_string())),
                ("given", Value::from(*given)),
            ],
            Self::SetWiring { group, chat, terms } => {
                let mut all = vec![
                    ("effect", word("set_wiring")),
                    ("group", word(group.as_str())),
                    ("channel", word(&chat.channel)),
                    ("instance", word(&chat.instance)),
                    ("chat", word(&chat.chat)),
                ];
                all.push(("terms", terms.as_ref().map_or(Value::Null, terms_value)));
                all
            }
            Self::SetDestination { group, name, target: Some(target) } => {
                let mut all = vec![
                    ("effect", word("set_destination")),
                    ("group", word(group.as_str())),
                    ("name", word(name)),
                ];
                all.extend(target_value(target));
                all
            }
            Self::SetDestination { group, name, target: None } => vec![
                ("effect", word("remove_destination")),
                ("group", word(group.as_str())),
                ("name", word(name)),
            ],
            Self::SetPackage { group, name, package } => vec![
                ("effect", word("set_package")),
                ("group", word(group.as_str())),
                ("name", word(name)),
                ("package", package.as_ref().map_or(Value::Null, Package::to_value)),
            ],
            Self::SetMount { group, name, mount } => vec![
                ("effect", word("set_mount")),
                ("group", word(group.as_str())),
                ("name", word(name)),
                ("mount", mount.as_ref().map_or(Value::Null, Mount::to_value)),
            ],
        };
        Value::object(fields)
    }

    /// Reads what [`Effect::to_value`] wrote, strictly.
    ///
    /// # Errors
    /// What is not as it is written.
    pub fn from_value(value: &Value) -> Result<Self, Refusals> {
        let bad = |what: &str| vec![Refusal::new("effect", format!("the stored effect has a wrong {what}"))];
        let group = || {
            let name = text(value, "group", 63)?;
            GroupName::parse(&name).map_err(|_| bad("group"))
        };
        let user = || UserId::parse(&text(value, "user", 512)?).map_err(|_| bad("user"));
        let given = || value.get("given").and_then(Value::as_bool).ok_or_else(|| bad("mark"));
        match value.get("effect").and_then(Value::as_str).unwrap_or_default() {
            "create_agent" => {
                fields(value, &["effect", "group", "title", "provider", "model"])?;
                Ok(Self::CreateAgent {
                    group: group()?,
                    title: text(value, "title", usize::MAX)?,
                    provider: text(value, "provider", usize::MAX)?,
                    model: text(value, "model", usize::MAX)?,
                })
            }
            "set_document" => {
                fields(value, &["effect", "group", "document", "text"])?;
                let document =
                    Document::parse(&text(value, "document", 64)?).ok_or_else(|| bad("document"))?;
                Ok(Self::SetDocument { group: group()?, document, text: text(value, "text", usize::MAX)? })
            }
            "set_tools" => {
                fields(value, &["effect", "group", "tools"])?;
                let tools = value.get("tools").and_then(tools_from).ok_or_else(|| bad("list of tools"))?;
                Ok(Self::SetTools { group: group()?, tools })
            }
            "set_model" => {
                fields(value, &["effect", "group", "provider", "model"])?;
                Ok(Self::SetModel {
                    group: group()?,
                    provider: text(value, "provider", usize::MAX)?,
                    model: text(value, "model", usize::MAX)?,
                })
            }
            "set_role" => {
                fields(value, &["effect", "user", "role", "scope", "given"])?;
                let scope = match text(value, "scope", 63)?.as_str() {
                    EVERYWHERE => None,
                    name => Some(GroupName::parse(name).map_err(|_| bad("scope"))?),
                };
                let role = Role::parse(&text(value, "role", 64)?).ok_or_else(|| bad("role"))?;
                Ok(Self::SetRole { user: user()?, role, scope, given: given()? })
            }
            "set_member" => {
                fields(value, &["effect", "group", "user", "given"])?;
                Ok(Self::SetMember { group: group()?, user: user()?, given: given()? })
            }
            "set_wiring" => {
                fields(value, &["effect", "group", "channel", "instance", "chat", "terms"])?;
                let terms = match value.get("terms") {
                    None | Some(Value::Null) => None,
                    Some(terms) => Some(terms_from(terms)?),
                };
                let chat = Chat {
                    channel: text(value, "channel", usize::MAX)?,
                    instance: text(value, "instance", usize::MAX)?,
                    chat: text(value, "chat", usize::MAX)?,
                };
                Ok(Self::SetWiring { group: group()?, chat, terms })
            }
            "set_destination" => {
                fields(
                    value,
                    &["effect", "group", "name", "display_name", "channel", "instance", "chat", "thread"],
                )?;
                let target = Target {
                    display_name: text(value, "display_name", usize::MAX)?,
                    channel: text(value, "channel", usize::MAX)?,
                    instance: text(value, "instance", usize::MAX)?,
                    chat: text(value, "chat", usize::MAX)?,
                    thread: optional(value, "thread", usize::MAX)?,
                };
                let name = text(value, "name", 64)?;
                Ok(Self::SetDestination { group: group()?, name, target: Some(target) })
            }
            "remove_destination" => {
                fields(value, &["effect", "group", "name"])?;
                Ok(Self::SetDestination { group: group()?, name: text(value, "name", 64)?, target: None })
            }
            "set_package" => {
                fields(value, &["effect", "group", "name", "package"])?;
                let package = some(value, "package").map(Package::from_value).transpose()?;
                Ok(Self::SetPackage { group: group()?, name: text(value, "name", 64)?, package })
            }
            "set_mount" => {
                fields(value, &["effect", "group", "name", "mount"])?;
                let mount = some(value, "mount").map(Mount::from_value).transpose()?;
                Ok(Self::SetMount { group: group()?, name: text(value, "name", 64)?, mount })
            }
            _ => Err(bad("name")),
        }
    }
}

/// A field that is not null.
fn some<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).filter(|field| **field != Value::Null)
}

/// The tools as the interface writes them: `"all"`, `"none"` or their names.
pub fn tools_value(tools: &Tools) -> Value {
    match tools {
        Tools::All => Value::from("all"),
        Tools::None => Value::from("none"),
        Tools::List(names) => Value::Array(names.iter().map(|name| Value::from(name.as_str())).collect()),
    }
}

fn tools_from(value: &Value) -> Option<Tools> {
    match value {
        Value::String(word) if word == "all" => Some(Tools::All),
        Value::String(word) if word == "none" => Some(Tools::None),
        Value::Array(names) => {
            names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>().map(Tools::List)
        }
        _ => None,
    }
}

/// How a chat is wired, as the interface writes it.
pub fn terms_value(terms: &Terms) -> Value {
    Value::object([
        ("engage", Value::from(terms.engage.as_str())),
        ("pattern", terms.pattern.as_deref().map_or(Value::Null, Value::from)),
        ("senders", Value::from(terms.senders.as_str())),
        ("unknown", Value::from(terms.unknown.as_str())),
        ("ignored", Value::from(terms.ignored.as_str())),
        ("sessions", Value::from(terms.sessions.as_str())),
    ])
}

fn terms_from(value: &Value) -> Result<Terms, Refusals> {
    fields(value, &["engage", "pattern", "senders", "unknown", "ignored", "sessions"])?;
    let senders = text(value, "senders", 64)?;
    // What was asked for before there was a choice meant this.
    let unknown = optional(value, "unknown", 64)?.unwrap_or_else(|| usual_unknown(&senders).to_owned());
    Ok(Terms {
        engage: text(value, "engage", 64)?,
        pattern: optional(value, "pattern", usize::MAX)?,
        senders,
        unknown,
        ignored: text(value, "ignored", 64)?,
        sessions: text(value, "sessions", 64)?,
    })
}

/// What becomes of strangers where nothing is said of it: who hears anyone hears them.
pub fn usual_unknown(senders: &str) -> &'static str {
    if senders == "anyone" { "public" } else { "strict" }
}

/// Where a destination leads, as the interface writes it.
pub fn target_value(target: &Target) -> [(&'static str, Value); 5] {
    [
        ("display_name", Value::from(target.display_name.as_str())),
        ("channel", Value::from(target.channel.as_str())),
        ("instance", Value::from(target.instance.as_str())),
        ("chat", Value::from(target.chat.as_str())),
        ("thread", target.thread.as_deref().map_or(Value::Null, Value::from)),
    ]
}

/// All steps as one list.
pub fn to_list(effects: &[Effect]) -> Value {
    Value::Array(effects.iter().map(Effect::to_value).collect())
}

/// Reads what [`to_list`] wrote.
///
/// # Errors
/// As [`Effect::from_value`].
pub fn from_list(value: &Value) -> Result<Vec<Effect>, Refusals> {
    list(value)?.iter().map(Effect::from_value).collect()
}
