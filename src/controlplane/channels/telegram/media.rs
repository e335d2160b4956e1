//! What a Telegram message carries beside its text, as things that can be fetched. Pure.

use crate::contract::json::Value;

use super::super::event::{AttachmentKind, Incoming};

/// A field of a message that holds a file: the kind, and what it is called where Telegram does not say.
const FILES: &[(&str, AttachmentKind, &str, &str)] = &[
    ("animation", AttachmentKind::Video, "animation.mp4", "video/mp4"),
    ("document", AttachmentKind::File, "document", ""),
    ("audio", AttachmentKind::Audio, "audio.mp3", "audio/mpeg"),
    ("voice", AttachmentKind::Voice, "voice.ogg", "audio/ogg"),
    ("video", AttachmentKind::Video, "video.mp4", "video/mp4"),
    ("video_note", AttachmentKind::Video, "video_note.mp4", "video/mp4"),
    ("sticker", AttachmentKind::Sticker, "sticker.webp", "image/webp"),
];

/// The files of a message.
pub fn attachments(message: &Value) -> Vec<Incoming> {
    let mut found: Vec<Incoming> = largest_photo(message).into_iter().collect();
    for (field, kind, name, mime) in FILES {
        // A soundless film comes as a document a second time.
        let is_repeated = *field == "document" && message.get("animation").is_some();
        if let Some(file) = message.get(field)
            && !is_repeated
        {
            found.extend(incoming(file, *kind, name, mime));
        }
    }
    found
}

/// Telegram sends a picture in several sizes.
fn largest_photo(message: &Value) -> Option<Incoming> {
    let number = |photo: &Value, name: &str| photo.get(name).and_then(Value::as_u64).unwrap_or(0);
    let sizes = message.get("photo")?.as_array()?;
    let largest =
        sizes.iter().max_by_key(|photo| number(photo, "width").saturating_mul(number(photo, "height")))?;
    incoming(largest, AttachmentKind::Image, "photo.jpg", "image/jpeg")
}

fn incoming(file: &Value, kind: AttachmentKind, name: &str, mime: &str) -> Option<Incoming> {
    let text = |field: &str| file.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    Some(Incoming {
        id: text("file_id")?.to_owned(),
        kind,
        name: text("file_name").unwrap_or(name).to_owned(),
        mime: text("mime_type").unwrap_or(mime).to_owned(),
        size: file.get("file_size").and_then(Value::as_u64),
    })
}

/// A place on the map, as a line.
pub fn location(message: &Value) -> Option<String> {
    let location = message.get("location")?;
    let (latitude, longitude) = (location.get("latitude")?.as_f64()?, location.get("longitude")?.as_f64()?);
    Some(format!("Location: {latitude}, {longitude}"))
}
