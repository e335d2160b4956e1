//! `enabled_tools`: `{"tools": "all" | "none" | [NAME, …]}`.

use super::Reading;
use crate::contract::catalogue::{self, TOOLS};
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::controlplane::gateway::effect::{Effect, tools_value};
use crate::controlplane::gateway::payload::{Refusal, Refusals, fields, shown};
use crate::controlplane::store::groups::Tools;

/// The tools that a payload names under `tools`.
pub(super) fn tools(payload: &Value) -> Result<Tools, Refusals> {
    let wrong = || {
        let text = "tools must be \"all\", \"none\" or a list of names; `ironctl tools` lists them";
        vec![Refusal::new("tools", text)]
    };
    match payload.get("tools") {
        Some(Value::String(word)) if word == "all" => Ok(Tools::All),
        Some(Value::String(word)) if word == "none" => Ok(Tools::None),
        Some(Value::Array(names)) if names.len() <= TOOLS.len() => {
            let mut known = Vec::new();
            for name in names {
                let name = name.as_str().ok_or_else(wrong)?;
                let Some(tool) = catalogue::tool(name) else {
                    let text =
                        format!("there is no tool {}; `ironctl tools` lists those there are", shown(name));
                    return Err(vec![Refusal::new("tools", text)]);
                };
                known.push(tool.name.to_owned());
            }
            known.sort_unstable();
            known.dedup();
            Ok(if known.is_empty() { Tools::None } else { Tools::List(known) })
        }
        _ => Err(wrong()),
    }
}

pub(super) fn read(group: &GroupName, payload: &Value) -> Result<Reading, Refusals> {
    fields(payload, &["tools"])?;
    let tools = tools(payload)?;
    Ok(Reading {
        payload: Value::object([("tools", tools_value(&tools))]),
        effects: vec![Effect::SetTools { group: group.clone(), tools }],
    })
}
