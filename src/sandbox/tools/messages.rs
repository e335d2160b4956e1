//! The tools with which an agent writes to others than the one that it answers. Where it may do so the host has said, by
//! name, and the host looks again when a message comes. Pure: the turn hands over what is sent.

use std::collections::BTreeMap;

use super::{Bench, Repeat, Task, Tool, ToolError, text};
use crate::contract::catalogue::{self, MOST_LETTER};
use crate::contract::inbound::{DESTINATION, Destination};
use crate::contract::json::{Value, only_fields};

/// What the model may call the chat that is answered.
const HERE: &[&str] = &["", "current", "here"];

/// Where this agent may send, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations(BTreeMap<String, Destination>);

/// A message that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// What it says.
    pub text: String,
    /// Where it goes; `None` is the chat that is answered.
    pub to: Option<Address>,
    /// The file that goes with it.
    pub parcel: Option<Parcel>,
}

/// A file that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// What it is called.
    pub name: String,
    /// The content.
    pub content: Vec<u8>,
}

/// A chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The platform.
    pub channel: String,
    /// The chat on it.
    pub chat: String,
}

/// Tells where it may send.
pub(super) const LIST_DESTINATIONS: Tool = Tool {
    name: "list_destinations",
    description: "List where you may send messages beside the chat that you answer: a JSON array of name, and of \
        display_name where there is one, with the channel of a chat or the name of another agent. Give a name to \
        send_message.",
    group: "messages",
    schema: || {
        Value::object([
            ("type", Value::from("object")),
            ("properties", Value::object::<String>([])),
            ("additionalProperties", false.into()),
        ])
    },
    repeat: Repeat::ReadOnly,
    task: Task::Here(list),
};

/// Sends a message.
pub(super) const SEND_MESSAGE: Tool = Tool {
    name: catalogue::SEND_MESSAGE,
    description: "Send a message now. Without \"to\" it goes to the chat that you answer, before your answer; with the \
        name of a destination (list_destinations has them) to that chat or agent. What an agent answers comes in a new \
        message, so do not wait for it. Your answer itself needs no tool.",
    group: "messages",
    schema: || {
        let word = |description: &'static str| {
            Value::object([("type", Value::from("string")), ("description", description.into())])
        };
        Value::object([
            ("type", Value::from("object")),
            (
                "properties",
                Value::object([
                    ("text", word("What it says")),
                    ("to", word("The name of a destination; left out, the chat that you answer")),
                ]),
            ),
            ("required", Value::Array(vec![Value::from("text")])),
            ("additionalProperties", false.into()),
        ])
    },
    // It is kept with its number before it goes, and goes once whoever goes on with it.
    repeat: Repeat::Idempotent,
    task: Task::Send(letter),
};

impl Destinations {
    /// Adds one; one of its name gives way.
    pub fn put(&mut self, destination: Destination) {
        self.0.insert(destination.name.clone(), destination);
    }

    /// What a name means: as it is written, and if there is none, in whatever case.
    fn find(&self, name: &str) -> Result<&Destination, ToolError> {
        let folded = name.to_lowercase();
        let found =
            self.0.get(name).or_else(|| self.0.values().find(|one| one.name.to_lowercase() == folded));
        found.ok_or_else(|| {
            let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
            ToolError(match names.as_slice() {
                [] => "there is no such destination; you have none, so you can only answer".to_owned(),
                names => format!("there is no such destination; those that you have: {}", names.join(", ")),
            })
        })
    }
}

fn list(bench: &Bench, input: &Value, _: &str) -> Result<String, ToolError> {
    only_fields(input, &[]).map_err(|error| ToolError(error.to_string()))?;
    let shown = bench.destinations.0.values().map(|one| {
        let mut fields = vec![("name", Value::from(one.name.as_str()))];
        if !one.display_name.is_empty() {
            fields.push(("display_name", Value::from(one.display_name.as_str())));
        }
        fields.extend(one.channel.as_deref().map(|channel| ("channel", Value::from(channel))));
        fields.extend(one.agent_group.as_deref().map(|agent| ("agent", Value::from(agent))));
        Value::object(fields)
    });
    Ok(Value::Array(shown.collect()).to_string())
}

fn letter(Bench { destinations, .. }: &Bench, input: &Value) -> Result<Letter, ToolError> {
    only_fields(input, &["text", "to"]).map_err(|error| ToolError(error.to_string()))?;
    let said = text(input, "text")?;
    if said.trim().is_empty() {
        return Err(ToolError("the text is empty; nothing was sent".to_owned()));
    }
    if said.len() > MOST_LETTER {
        let bytes = said.len();
        let why = format!("the text has {bytes} bytes, and {MOST_LETTER} are the most; nothing was sent");
        return Err(ToolError(why));
    }
    let name = match input.get("to") {
        None | Some(Value::Null) => "",
        Some(Value::String(name)) => name.trim(),
        Some(_) => return Err(ToolError("\"to\" must be the name of a destination".to_owned())),
    };
    let to = match HERE.contains(&name.to_lowercase().as_str()) {
        true => None,
        false => {
            let name = destinations.find(name)?.name.clone();
            Some(Address { channel: DESTINATION.to_owned(), chat: name })
        }
    };
    Ok(Letter { text: said.to_owned(), to, parcel: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json;
    use crate::sandbox::scratch::Scratch;
    use crate::sandbox::tools::jail::Jail;

    fn bench(destinations: Destinations) -> (Scratch, Bench) {
        let scratch = Scratch::new();
        let bench = Bench { files: Jail::open(scratch.path()).unwrap(), destinations };
        (scratch, bench)
    }

    fn known() -> Destinations {
        let mut known = Destinations::default();
        for (name, display_name) in [("ops", "Operations"), ("Alerts", ""), ("alerts", "")] {
            known.put(Destination {
                name: name.into(),
                kind: "chat".into(),
                display_name: display_name.into(),
                channel: Some("api".into()),
                chat: Some(format!("chat of {name}")),
                agent_group: None,
            });
        }
        known
    }

    fn tried(input: &str) -> Result<Letter, ToolError> {
        letter(&bench(known()).1, &json::parse(input.as_bytes()).unwrap())
    }

    #[test]
    fn a_name_is_taken_as_it_is_written_and_else_in_any_case() {
        let to = |name: &str| {
            let letter = tried(&Value::object([("text", Value::from("x")), ("to", name.into())]).to_string());
            letter.map(|letter| letter.to.map(|to| to.chat))
        };
        for here in ["", "current", "here", " Here ", "CURRENT"] {
            assert_eq!(to(here), Ok(None), "{here:?}");
        }
        for (name, found) in
            [("ops", "ops"), ("OPS", "ops"), (" ops ", "ops"), ("Alerts", "Alerts"), ("alerts", "alerts")]
        {
            assert_eq!(to(name), Ok(Some(found.to_owned())), "{name:?}");
        }
        let unknown = to("op").unwrap_err().0;
        assert_eq!(unknown, "there is no such destination; those that you have: Alerts, alerts, ops");
        assert_eq!(tried(r#"{"text":"x"}"#).unwrap().to, None);
        assert_eq!(tried(r#"{"text":"x","to":null}"#).unwrap().to, None);
        let input = json::parse(br#"{"text":"x","to":"ops"}"#).unwrap();
        assert!(letter(&bench(Destinations::default()).1, &input).unwrap_err().0.contains("you have none"));
    }

    #[test]
    fn what_cannot_be_sent_is_not() {
        for bad in [r#"{}"#, r#"{"text":""}"#, r#"{"text":" \n"}"#, r#"{"text":1}"#, r#"{"text":"x","to":1}"#]
        {
            assert!(tried(bad).is_err(), "{bad}");
        }
        assert!(tried(r#"{"text":"x","chat":"ops"}"#).unwrap_err().0.contains("chat"));
        let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(MOST_LETTER + 1));
        assert!(tried(&long).unwrap_err().0.contains("65537 bytes"));
    }

    #[test]
    fn the_list_is_in_order_and_leaves_out_what_is_not_there() {
        let (_scratch, bench) = bench(known());
        let empty = Value::Object(Vec::new());
        assert_eq!(
            list(&bench, &empty, "1").unwrap(),
            r#"[{"name":"Alerts","channel":"api"},{"name":"alerts","channel":"api"},{"name":"ops","display_name":"Operations","channel":"api"}]"#
        );
        assert!(list(&bench, &Value::object([("group", Value::from("x"))]), "1").is_err());
    }
}
