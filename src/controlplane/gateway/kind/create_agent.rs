//! `create_agent`: `{"title"?, "provider"?, "model"?, "identity"?, "soul"?, "instructions"?, "tools"?, "members"?,
//! "wirings"?, "destinations"?}`. The group of the change is the one that it makes. Nothing is inherited from anybody.

use rusqlite::Connection;

use super::{Read, Reading, destinations, model, permissions, persona, tools, wiring};
use crate::contract::catalogue::TITLE_BYTES;
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::controlplane::gateway::effect::{Effect, tools_value};
use crate::controlplane::gateway::payload::{Refusal, Refusals, fields, optional};
use crate::controlplane::store::groups::{self, Tools};

/// What an agent thinks with when nobody says.
const PROVIDER: &str = "mock";
const MODEL: &str = "mock";

pub(super) fn read(conn: &Connection, group: &GroupName, payload: &Value) -> Read {
    let reading: Result<Reading, Refusals> = (|| {
        fields(
            payload,
            &[
                "title",
                "provider",
                "model",
                "identity",
                "soul",
                "instructions",
                "tools",
                "members",
                "wirings",
                "destinations",
            ],
        )?;
        let title = optional(payload, "title", TITLE_BYTES)?.filter(|title| !title.trim().is_empty());
        let title = title.unwrap_or_else(|| group.to_string());
        let provider = optional(payload, "provider", 64)?.unwrap_or_else(|| PROVIDER.to_owned());
        let name = optional(payload, "model", 200)?.unwrap_or_else(|| MODEL.to_owned());
        model::check(&provider, &name)?;
        let documents = persona::documents(payload)?;
        // Least of all: an agent without tools only talks.
        let tools = if payload.get("tools").is_some() { tools::tools(payload)? } else { Tools::None };
        let members = permissions::members(payload, "members")?;
        let (wired, wirings) = wiring::added(group, payload, "wirings")?;
        let (given, destinations) = destinations::added(group, payload, "destinations")?;

        let mut written = vec![
            ("title", Value::from(title.as_str())),
            ("provider", Value::from(provider.as_str())),
            ("model", Value::from(name.as_str())),
        ];
        written
            .extend(documents.iter().map(|(document, text)| (document.as_str(), Value::from(text.as_str()))));
        written.push(("tools", tools_value(&tools)));
        written.push((
            "members",
            Value::Array(members.iter().map(|user| Value::from(user.to_string())).collect()),
        ));
        written.push(("wirings", Value::Array(wired)));
        written.push(("destinations", Value::Array(given)));

        let mut effects = vec![Effect::CreateAgent { group: group.clone(), title, provider, model: name }];
        effects.extend(
            documents
                .into_iter()
                .filter(|(_, text)| !text.is_empty())
                .map(|(document, text)| Effect::SetDocument { group: group.clone(), document, text }),
        );
        effects.push(Effect::SetTools { group: group.clone(), tools });
        effects.extend(members.into_iter().map(|user| Effect::SetMember {
            group: group.clone(),
            user,
            given: true,
        }));
        effects.extend(wirings);
        effects.extend(destinations);
        Ok(Reading { payload: Value::object(written), effects })
    })();
    // Last, so that nobody learns of names by requests that could not be made.
    if groups::get(conn, group)?.is_some() {
        let text = format!("there is or was an agent {group}; choose another name");
        return Ok(reading.and(Err(vec![Refusal::new("group", text)])));
    }
    destinations::within(conn, group, reading)
}
