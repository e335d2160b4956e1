//! `persona`: `{"identity"?, "soul"?, "instructions"?}`. A document that is not named stays; an empty one goes away.

use rusqlite::Connection;

use super::{Read, Reading};
use crate::contract::catalogue::DOCUMENT_BYTES;
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::controlplane::gateway::effect::Effect;
use crate::controlplane::gateway::payload::{Refusal, Refusals, fields, optional};
use crate::controlplane::store::groups::Document;

/// The documents that a payload names.
pub(super) fn documents(payload: &Value) -> Result<Vec<(Document, String)>, Refusals> {
    let mut found = Vec::new();
    for document in Document::ALL {
        if let Some(text) = optional(payload, document.as_str(), DOCUMENT_BYTES)? {
            if text.contains('\0') {
                let name = document.as_str();
                return Err(vec![Refusal::new(name, format!("{name} holds a zero byte; take it out"))]);
            }
            found.push((document, text.trim_end().to_owned()));
        }
    }
    Ok(found)
}

pub(super) fn read(_: &Connection, group: &GroupName, payload: &Value) -> Read {
    Ok((|| {
        fields(payload, &["identity", "soul", "instructions"])?;
        let documents = documents(payload)?;
        if documents.is_empty() {
            let text = "the payload names no document; give identity, soul or instructions";
            return Err(vec![Refusal::new("payload", text)]);
        }
        let written =
            documents.iter().map(|(document, text)| (document.as_str(), Value::from(text.as_str())));
        Ok(Reading {
            payload: Value::object(written),
            effects: documents
                .iter()
                .map(|(document, text)| Effect::SetDocument {
                    group: group.clone(),
                    document: *document,
                    text: text.clone(),
                })
                .collect(),
        })
    })())
}
