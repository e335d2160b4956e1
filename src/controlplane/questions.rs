//! Questions of agents to people: what may be asked, how it is shown where it was asked, what counts as an answer, and what
//! becomes of one: a message to the agent, once, in the transaction that ends the question. Touches the ledger through
//! its keeper.

use rusqlite::{Connection, Transaction};

use super::keys::Keyring;
use super::store::inbox::{self, Accepted, NewInbound};
use super::store::questions::{self, Question, State};
use super::store::{StoreError, groups, sessions};
use super::telemetry::log;
use crate::contract::catalogue::{MOST_OPTION, MOST_OPTIONS, MOST_QUESTION};
use crate::contract::ids::QuestionId;
use crate::contract::inbound::InboundKind;
use crate::contract::json::{self, Value};
use crate::contract::plain;
use crate::contract::time::Millis;

/// Open questions of one conversation: people are asked, not flooded.
pub const MOST_OPEN: u64 = 8;
/// Open questions of one chat that an answer is looked for in.
const LOOKED_AT: usize = 16;
/// How long a question can be answered unless it says so, and at least and most, in minutes.
const USUAL_MINUTES: u64 = 24 * 60;
const LONGEST_MINUTES: u64 = 7 * 24 * 60;
const MINUTE: i64 = 60_000;
/// Characters of an option on a button.
const LABEL: usize = 60;
/// What the data of a button of a question begins with.
const BUTTON: &str = "q:";

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// In the agent's words.
    pub question: String,
    /// What can be chosen.
    pub options: Vec<String>,
    /// An answer may be in the person's own words.
    pub takes_words: bool,
}

/// What a person said to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// One of the options, from 0.
    Option(usize),
    /// Words of their own.
    Words(String),
}

/// One button under a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Button {
    /// What is on it.
    pub label: String,
    /// What comes back when it is pressed.
    pub data: String,
}

impl Asked {
    /// Reads what an agent asks, and for how long it can be answered, in milliseconds.
    ///
    /// # Errors
    /// What is wrong with it, for the agent.
    pub fn read(arguments: &Value) -> Result<(Self, i64), String> {
        let given = |name: &str| arguments.get(name).filter(|value| **value != Value::Null);
        let question = given("question").and_then(Value::as_str).ok_or("question is missing: a text")?.trim();
        if question.is_empty() || question.len() > MOST_QUESTION {
            return Err(format!("question must have 1 to {MOST_QUESTION} bytes and not only spaces"));
        }
        let options = match given("options") {
            None => &[][..],
            Some(value) => value.as_array().ok_or("options must be a list of texts")?,
        };
        if options.len() > MOST_OPTIONS {
            return Err(format!("{MOST_OPTIONS} options are the most"));
        }
        let mut read: Vec<String> = Vec::with_capacity(options.len());
        for (at, option) in options.iter().enumerate() {
            let option = option.as_str().ok_or("options must be a list of texts")?.trim();
            let is_line = !option.is_empty() && !option.chars().any(char::is_control);
            if !is_line || option.len() > MOST_OPTION {
                return Err(format!("an option must be one line of 1 to {MOST_OPTION} bytes"));
            }
            if read.iter().any(|known| is_same(known, option)) {
                return Err(format!("the option {} is there twice", plain::word(option)));
            }
            let number = option.parse::<usize>().ok().filter(|number| (1..=options.len()).contains(number));
            if number.is_some_and(|number| number != at + 1) {
                return Err(format!("the option {option} would be taken for the number of another"));
            }
            read.push(option.to_owned());
        }
        let takes_words = match given("allow_freeform") {
            None => read.is_empty(),
            Some(Value::Bool(false)) if read.is_empty() => {
                return Err("without options an answer can only be in words: allow_freeform".to_owned());
            }
            Some(Value::Bool(allowed)) => *allowed,
            Some(_) => return Err("allow_freeform must be true or false".to_owned()),
        };
        let minutes = match given("expires_minutes") {
            None => USUAL_MINUTES,
            Some(value) => {
                let minutes = value.as_u64().filter(|minutes| (1..=LONGEST_MINUTES).contains(minutes));
                minutes.ok_or(format!("expires_minutes must be a whole number, 1 to {LONGEST_MINUTES}"))?
            }
        };
        let lasts = i64::try_from(minutes).unwrap_or(i64::MAX).saturating_mul(MINUTE);
        Ok((Self { question: question.to_owned(), options: read, takes_words }, lasts))
    }

    /// As the ledger keeps it.
    pub fn kept(&self) -> String {
        let options: Vec<Value> = self.options.iter().map(|option| Value::from(option.as_str())).collect();
        Value::object([
            ("question", Value::from(self.question.as_str())),
            ("options", Value::from(options)),
            ("allow_freeform", Value::from(self.takes_words)),
        ])
        .to_string()
    }

    /// What the ledger kept; `None` when it was erased, or another version wrote it.
    ///
    /// # Errors
    /// As [`Question::content`].
    pub fn of(conn: &Connection, keyring: &Keyring, kept: &Question) -> Result<Option<Self>, StoreError> {
        let content = match kept.content(conn, keyring) {
            Err(StoreError::Key(error)) => {
                log::error("question.not_read", &[("question", &kept.id), ("error", &error)]);
                None
            }
            content => content?,
        };
        let document = content.and_then(|content| json::parse(content.as_bytes()).ok());
        Ok(document.and_then(|document| Self::read(&document).ok()).map(|(asked, _)| asked))
    }

    /// As it is shown in a chat.
    pub fn text(&self) -> String {
        let mut text = self.question.clone();
        if self.options.is_empty() {
            return text;
        }
        text.push('\n');
        for (number, option) in (1..).zip(&self.options) {
            text.push_str(&format!("\n{}. {option}", number as usize));
        }
        text.push_str(match self.takes_words {
            true => "\n\nAnswer with a number, or in your own words.",
            false => "\n\nAnswer with a number.",
        });
        text
    }

    /// The buttons under it.
    pub fn buttons(&self, id: &QuestionId) -> Vec<Button> {
        let button = |(number, option): (usize, &String)| Button {
            label: format!("{number}. {option}").chars().take(LABEL).collect(),
            data: format!("{BUTTON}{id}:{number}"),
        };
        (1..).zip(&self.options).map(button).collect()
    }

    /// The option that somebody names, by its number or its text.
    pub fn named(&self, said: &str) -> Option<Choice> {
        let said = said.trim();
        let number = said.trim_end_matches('.').parse::<usize>().ok();
        let by_number = number.and_then(|number| number.checked_sub(1)).filter(|at| *at < self.options.len());
        let by_text = || self.options.iter().position(|option| is_same(option, said));
        by_number.or_else(by_text).map(Choice::Option)
    }

    /// What was chosen, in words.
    pub fn words(&self, choice: &Choice) -> Option<String> {
        match choice {
            Choice::Option(at) => self.options.get(*at).cloned(),
            Choice::Words(words) if self.takes_words && !words.trim().is_empty() => Some(words.clone()),
            Choice::Words(_) => None,
        }
    }
}

fn is_same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// The question and the option that a button stands for.
pub fn pressed(data: &str) -> Option<(QuestionId, usize)> {
    let (id, number) = data.strip_prefix(BUTTON)?.rsplit_once(':')?;
    Some((QuestionId::parse(id).ok()?, number.parse::<usize>().ok()?.checked_sub(1)?))
}

/// Who answers.
#[derive(Clone, Copy, Debug)]
pub struct Person<'a> {
    /// As the ledger names them.
    pub id: &'a str,
    /// What they call themselves.
    pub name: &'a str,
    /// The platform's own name of what they wrote, if it is of their own.
    pub message: Option<&'a str>,
}

/// Why nothing came of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is over.
    Over(State),
    /// Its agent is gone, or what it asked.
    Gone,
    /// It is none of the options, and words will not do.
    NoAnswer,
    /// As much waits for the agent as may.
    Crowded,
}

impl Refused {
    /// For whoever answered.
    pub fn words(self) -> &'static str {
        match self {
            Self::Over(State::Answered) => "It was answered already.",
            Self::Over(State::Expired) => "It is too late to answer this.",
            Self::Over(_) | Self::Gone => "This question is not open any more.",
            Self::NoAnswer => "That is none of the answers.",
            Self::Crowded => "The agent has too much to do; try again later.",
        }
    }
}

/// Ends a question with an answer, and tells the agent in a message that starts a turn: both or neither, and once.
///
/// # Errors
/// The ledger's; the inner ones are the person's.
pub fn answer(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    question: &Question,
    choice: &Choice,
    person: Person<'_>,
) -> Result<Result<Accepted, Refused>, StoreError> {
    if question.state != State::Open {
        return Ok(Err(Refused::Over(question.state)));
    }
    if question.expires_at <= Millis::now() {
        return Ok(Err(Refused::Over(State::Expired)));
    }
    let (Some(asked), Some(row)) = (Asked::of(tx, keyring, question)?, sessions::get(tx, &question.session)?)
    else {
        return Ok(Err(Refused::Gone));
    };
    if groups::live(tx, &question.group)?.is_none() {
        return Ok(Err(Refused::Gone));
    }
    let Some(words) = asked.words(choice) else { return Ok(Err(Refused::NoAnswer)) };
    let new = NewInbound {
        partition: row.partition,
        place: question.place.clone(),
        event_id: format!("question:{}", question.id),
        kind: InboundKind::Answer,
        engage: true,
        sender_id: person.id.to_owned(),
        sender_name: person.name.to_owned(),
        text: format!("You asked ({}): {}\nThe answer: {words}", question.id, asked.question),
        in_reply_to: Some(question.message.to_string()),
        source_session: None,
        hop: 0,
        platform_message: person.message.map(str::to_owned),
    };
    let accepted = match inbox::add(tx, keyring, &new) {
        Err(StoreError::Crowded { .. }) => return Ok(Err(Refused::Crowded)),
        accepted => accepted?,
    };
    match questions::end(tx, &question.id, State::Answered, Some(person.id), Some(&accepted.message))? {
        true => Ok(Ok(accepted)),
        // Whoever calls this has read the question in this transaction.
        false => Err(StoreError::BadRow("a question")),
    }
}

/// Ends a question without an answer. The agent is told, and starts no turn for it. Says whether it was open.
///
/// # Errors
/// The ledger's.
pub fn end(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    question: &Question,
    state: State,
    by: Option<&str>,
) -> Result<bool, StoreError> {
    if !questions::end(tx, &question.id, state, by, None)? {
        return Ok(false);
    }
    let Some(row) = sessions::get(tx, &question.session)? else { return Ok(true) };
    // Where the conversation was erased, nothing begins it anew.
    if groups::live(tx, &question.group)?.is_none() || Asked::of(tx, keyring, question)?.is_none() {
        return Ok(true);
    }
    let how = if state == State::Expired { "expired without an answer" } else { "was cancelled" };
    let new = NewInbound {
        partition: row.partition,
        place: question.place.clone(),
        event_id: format!("question:{}", question.id),
        kind: InboundKind::Answer,
        engage: false,
        sender_id: "system:questions".to_owned(),
        sender_name: "questions".to_owned(),
        text: format!("Your question {} {how}.", question.id),
        in_reply_to: Some(question.message.to_string()),
        source_session: None,
        hop: 0,
        platform_message: None,
    };
    match inbox::add(tx, keyring, &new) {
        Err(error) if error.is_disk() => return Err(error),
        Err(error) => log::warn("question.not_told", &[("question", &question.id), ("error", &error)]),
        Ok(_) => {}
    }
    Ok(true)
}

/// Ends up to `most` questions whose time is over. Gives them.
///
/// # Errors
/// The ledger's.
pub fn expire(tx: &Transaction<'_>, keyring: &Keyring, most: usize) -> Result<Vec<Question>, StoreError> {
    let due = questions::due(tx, Millis::now(), most)?;
    for question in &due {
        end(tx, keyring, question, State::Expired, None)?;
    }
    Ok(due)
}

/// The open questions that something said in a place may answer, the newest first, each with what it asks.
///
/// # Errors
/// The ledger's.
pub fn open_in(
    conn: &Connection,
    keyring: &Keyring,
    place: &sessions::Place,
) -> Result<Vec<(Question, Asked)>, StoreError> {
    let open = questions::open_in(conn, place, LOOKED_AT)?;
    let read = |question: Question| Ok(Asked::of(conn, keyring, &question)?.map(|asked| (question, asked)));
    open.into_iter().filter_map(|question| read(question).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Asked, i64), String> {
        Asked::read(&json::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn what_may_be_asked() {
        let (asked, lasts) = read(r#"{"question":" Tea? ","options":["Yes"," No "]}"#).unwrap();
        assert_eq!(
            (asked.options.as_slice(), asked.takes_words),
            (&["Yes".to_owned(), "No".to_owned()][..], false)
        );
        assert_eq!(lasts, 24 * 60 * MINUTE);
        assert_eq!(asked.text(), "Tea?\n\n1. Yes\n2. No\n\nAnswer with a number.");
        let again = json::parse(asked.kept().as_bytes()).unwrap();
        assert_eq!(Asked::read(&again).unwrap().0, asked);
        let (open, lasts) = read(r#"{"question":"Why?","expires_minutes":1}"#).unwrap();
        assert_eq!((open.text().as_str(), open.takes_words, lasts), ("Why?", true, MINUTE));
        assert!(read(r#"{"question":"When?","options":["2024","2025"]}"#).is_ok());
        assert!(read(r#"{"question":"Which?","options":["1","2"]}"#).is_ok(), "each is its own number");
        for bad in [
            r#"{}"#,
            r#"{"question":" "}"#,
            r#"{"question":1}"#,
            r#"{"question":"x","options":"a"}"#,
            r#"{"question":"x","options":[1]}"#,
            r#"{"question":"x","options":[""]}"#,
            r#"{"question":"x","options":["a\nb"]}"#,
            r#"{"question":"x","options":["a","A"]}"#,
            r#"{"question":"x","options":["2","a"]}"#,
            r#"{"question":"x","options":["1","2","3","4","5","6","7","8","9","10","11"]}"#,
            r#"{"question":"x","allow_freeform":false}"#,
            r#"{"question":"x","allow_freeform":"yes"}"#,
            r#"{"question":"x","expires_minutes":0}"#,
            r#"{"question":"x","expires_minutes":10081}"#,
            r#"{"question":"x","expires_minutes":1.5}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for (bytes, is_taken) in [(MOST_QUESTION, true), (MOST_QUESTION + 1, false)] {
            assert_eq!(read(&format!(r#"{{"question":"{}"}}"#, "x".repeat(bytes))).is_ok(), is_taken);
        }
    }

    #[test]
    fn what_counts_as_an_answer() {
        let (asked, _) = read(r#"{"question":"Tea?","options":["Yes, please","No"]}"#).unwrap();
        for (said, at) in [
            ("1", Some(0)),
            (" 2. ", Some(1)),
            ("no", Some(1)),
            ("YES, PLEASE", Some(0)),
            ("0", None),
            ("3", None),
            ("-1", None),
            ("yes", None),
            ("", None),
            ("1 of them", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(asked.named(said), at.map(Choice::Option), "{said}");
        }
        assert_eq!(asked.words(&Choice::Option(1)).as_deref(), Some("No"));
        assert_eq!(asked.words(&Choice::Option(2)), None);
        assert_eq!(asked.words(&Choice::Words("maybe".into())), None);
        let free = Asked { takes_words: true, ..asked };
        assert_eq!(free.words(&Choice::Words("maybe".into())).as_deref(), Some("maybe"));
        assert_eq!(free.words(&Choice::Words(" ".into())), None);
    }

    #[test]
    fn a_button_names_its_question_and_option() {
        let id = QuestionId::mint();
        let (asked, _) = read(r#"{"question":"x","options":["a","b"]}"#).unwrap();
        let buttons = asked.buttons(&id);
        assert_eq!(buttons[1].label, "2. b");
        assert!(buttons.iter().all(|button| button.data.len() <= 64));
        assert_eq!(pressed(&buttons[1].data), Some((id.clone(), 1)));
        for bad in [
            "".to_owned(),
            "q:".to_owned(),
            format!("q:{id}"),
            format!("q:{id}:0"),
            format!("q:{id}:x"),
            format!("a:{id}:1"),
            "q:x:1".to_owned(),
        ] {
            assert_eq!(pressed(&bad), None, "{bad}");
        }
    }
}
