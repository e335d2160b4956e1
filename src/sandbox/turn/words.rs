//! What people are told in the end of a turn. Pure.

use crate::sandbox::models::{ModelError, Response, Stop};
use crate::sandbox::prompt;

/// The answer as a person reads it; never empty, since somebody waits for it.
pub(super) fn words(response: &Response) -> String {
    let text = response.text();
    let text = text.trim();
    match response.stop {
        Stop::Length if text.is_empty() => "[The answer was cut off before its first word.]".into(),
        Stop::Length => format!("{text}\n\n[The answer was cut off here: it reached its longest length.]"),
        Stop::Refused if text.is_empty() => "[The model declined to answer.]".into(),
        Stop::Finished if text.is_empty() && response.wants_tools() => {
            "[I used as many tools as one answer may, and have no result to tell. Ask me to go on.]".into()
        }
        Stop::Finished if text.is_empty() => "[The model gave an empty answer.]".into(),
        Stop::Finished | Stop::Refused => text.to_owned(),
    }
}

/// What a person is told when the model did not answer.
pub(super) fn apology(error: &ModelError) -> String {
    let shown: String = error
        .to_string()
        .chars()
        .flat_map(|c| {
            let hidden = prompt::is_hidden(c);
            hidden.then(|| c.escape_unicode()).into_iter().flatten().chain((!hidden).then_some(c))
        })
        .collect();
    let next = if error.is_passing() {
        "I tried several times; please send your message again in a while."
    } else {
        "Trying again will not help until its cause is removed; the owner of this machine can see more in its log."
    };
    format!("I could not get an answer: {shown}. {next}")
}

/// The text cut to so many bytes, on a character.
pub(super) fn within(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
