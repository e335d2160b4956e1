//! How an output is kept in `session.db`: one JSON object a row. Pure: it touches nothing.

use crate::contract::ids::MessageId;
use crate::contract::inbound::Attachment;
use crate::contract::json::{self, Value};
use crate::contract::outbound::{MessageOut, OutboundBody, OutboundKind, Processing};
use crate::contract::time::Millis;

/// The text that [`decode`] reads.
pub(super) fn encode(body: &OutboundBody) -> String {
    match body {
        OutboundBody::Message(message) => Value::object([
            ("in_reply_to", Value::from(message.in_reply_to.as_ref().map(MessageId::as_str))),
            ("kind", message.kind.as_str().into()),
            ("channel", message.channel.clone().into()),
            ("chat", message.chat.clone().into()),
            ("thread", message.thread.clone().into()),
            ("text", message.text.as_str().into()),
            ("created_at", message.created_at.0.into()),
        ]),
        OutboundBody::Processing(message, state) => {
            Value::object([("message", Value::from(message.as_str())), ("state", state.as_str().into())])
        }
        OutboundBody::Attachment(message, part) => Value::object([
            ("message_seq", Value::from(*message)),
            ("ordinal", part.ordinal.into()),
            ("chunk", part.chunk.into()),
            ("name", part.name.as_str().into()),
            ("mime", part.mime.as_str().into()),
            ("hex", part.bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()),
        ]),
    }
    .to_string()
}

/// `None` for what [`encode`] never writes.
pub(super) fn decode(text: &str) -> Option<OutboundBody> {
    let value = json::parse(text.as_bytes()).ok()?;
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let owned = |name: &str| text(name).map(str::to_owned);
    let small = |name: &str| value.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    if let Some(state) = text("state") {
        return Some(OutboundBody::Processing(
            MessageId::parse(text("message")?).ok()?,
            Processing::parse(state)?,
        ));
    }
    if let Some(hex) = text("hex") {
        let digits = hex.as_bytes().chunks(2);
        let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        return Some(OutboundBody::Attachment(
            value.get("message_seq")?.as_u64()?,
            Attachment {
                ordinal: small("ordinal")?,
                chunk: small("chunk")?,
                name: owned("name")?,
                mime: owned("mime")?,
                bytes: bytes.collect::<Option<_>>()?,
            },
        ));
    }
    Some(OutboundBody::Message(MessageOut {
        in_reply_to: match text("in_reply_to") {
            Some(id) => Some(MessageId::parse(id).ok()?),
            None => None,
        },
        kind: OutboundKind::parse(text("kind")?)?,
        channel: owned("channel"),
        chat: owned("chat"),
        thread: owned("thread"),
        text: owned("text")?,
        created_at: Millis(value.get("created_at")?.as_i64()?),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_output_reads_back() {
        let message = MessageOut {
            in_reply_to: Some(MessageId::mint()),
            kind: OutboundKind::Chat,
            channel: Some("local".into()),
            chat: None,
            thread: Some("\u{1}t".into()),
            text: "text \u{1f600} \"quoted\"".into(),
            created_at: Millis(-5),
        };
        let part = Attachment {
            ordinal: 1,
            chunk: 2,
            name: "n".into(),
            mime: "m".into(),
            bytes: (0..=255).collect(),
        };
        for body in [
            OutboundBody::Message(MessageOut { in_reply_to: None, ..message.clone() }),
            OutboundBody::Message(message),
            OutboundBody::Processing(MessageId::mint(), Processing::Done),
            OutboundBody::Attachment(7, part),
        ] {
            assert_eq!(decode(&encode(&body)), Some(body));
        }
        assert_eq!(decode("{}"), None);
        assert_eq!(decode(""), None);
    }
}
