//! A file as Telegram takes it: `sendDocument` with its fields and the content as `multipart/form-data` (RFC 7578). Pure.

use super::wire::{self, BadRequest};
use crate::contract::ids::MessageId;
use crate::contract::json::Value;

/// A request with a body of its own kind.
#[derive(Clone, PartialEq, Eq)]
pub struct Upload {
    /// The method of the Bot API.
    pub method: &'static str,
    /// The content type, with the boundary.
    pub kind: String,
    /// The body.
    pub body: Vec<u8>,
}

/// `sendDocument`. Telegram shows the name.
///
/// # Errors
/// When a part of it would be refused.
pub fn send_document(
    chat: &str,
    thread: Option<&str>,
    reply_to: Option<&str>,
    name: &str,
    content: &[u8],
) -> Result<Upload, BadRequest> {
    let mut fields = vec![("chat_id", wire::chat(chat)?.to_string().trim_matches('"').to_owned())];
    fields.extend(wire::thread(thread)?.map(|id| ("message_thread_id", id.to_string())));
    if let Some(id) = reply_to {
        let id = wire::positive(id).ok_or(BadRequest::Message)?;
        let reply = [("message_id", id), ("allow_sending_without_reply", Value::Bool(true))];
        fields.push(("reply_parameters", Value::object(reply).to_string()));
    }
    // Nobody who writes a file knows it, so that none can hold it.
    let boundary = format!("ironclaw-{}", MessageId::mint());
    let mut body = Vec::with_capacity(content.len() + 1024);
    for (field, value) in fields {
        let part =
            format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{field}\"\r\n\r\n{value}\r\n");
        body.extend(part.into_bytes());
    }
    // What would end the name is replaced, as browsers do it.
    let name: String =
        name.chars().map(|c| if c.is_control() || matches!(c, '"' | '\\') { '_' } else { c }).collect();
    let head = format!(
        "--{boundary}\r\ncontent-disposition: form-data; name=\"document\"; filename=\"{name}\"\r\ncontent-type: \
         application/octet-stream\r\n\r\n"
    );
    body.extend(head.into_bytes());
    body.extend(content);
    body.extend(format!("\r\n--{boundary}--\r\n").into_bytes());
    Ok(Upload { method: "sendDocument", kind: format!("multipart/form-data; boundary={boundary}"), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_one_part_and_its_name_ends_nothing() {
        let upload =
            send_document("-100", Some("5"), Some("7"), "a\"\r\nx: y\u{e9}.txt", b"--content\r\n").unwrap();
        let boundary = upload.kind.split_once("boundary=").unwrap().1;
        let body = String::from_utf8(upload.body.clone()).unwrap();
        assert!(body.contains("name=\"chat_id\"\r\n\r\n-100\r\n"), "{body}");
        assert!(body.contains("name=\"message_thread_id\"\r\n\r\n5\r\n"), "{body}");
        assert!(body.contains("filename=\"a___x: y\u{e9}.txt\"\r\n"), "{body}");
        assert!(body.ends_with(&format!("\r\n\r\n--content\r\n\r\n--{boundary}--\r\n")), "{body}");
        let again = send_document("-100", None, None, "a", b"x").unwrap();
        assert!(!again.kind.ends_with(boundary), "each has its own");
        assert!(send_document("no chat", None, None, "a", b"x").is_err());
    }
}
