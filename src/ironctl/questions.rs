//! `ctl question`: what agents ask people. Touches the network and the terminal.

use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::{Client, encode};
use super::lists::{Output, all, cell, of_group};
use super::shown::out;
use super::table;
use crate::contract::json::Value;
use crate::contract::plain;

/// What agents ask people.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "question")]
pub(super) struct Question {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Verb {
    List(List),
    Show(Show),
    Answer(Answer),
    Cancel(Cancel),
}

/// Questions that can be answered.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct List {
    /// of this agent only
    #[argh(option)]
    group: Option<String>,
    /// in this state: open, answered, expired, cancelled
    #[argh(option)]
    state: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// One question, with its options.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "show")]
struct Show {
    /// its id
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Answer one: the number of an option, its words, or words of your own.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "answer")]
struct Answer {
    /// its id
    #[argh(positional)]
    id: String,
    /// the answer
    #[argh(positional)]
    answer: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// End one without an answer.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "cancel")]
struct Cancel {
    /// its id
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// `ctl question`
pub(super) fn run(client: &Client, words: Question) -> Result<(), Failure> {
    match words.verb {
        Verb::List(words) => list(client, &words),
        Verb::Show(Show { id, json }) => {
            let question = client.get(&path(&id))?;
            if json {
                return out(&question);
            }
            io::stdout().write_all(described(&question).as_bytes())?;
            Ok(())
        }
        Verb::Answer(Answer { id, answer, json }) => {
            let question = client.post(&format!("{}/answer", path(&id)), &chosen(&answer))?;
            told(&question, "is answered; the agent is told", json)
        }
        Verb::Cancel(Cancel { id, json }) => {
            let question = client.post(&format!("{}/cancel", path(&id)), &Value::Object(Vec::new()))?;
            told(&question, "is cancelled", json)
        }
    }
}

fn path(id: &str) -> String {
    format!("/v1/questions/{}", encode(id))
}

/// The control plane knows what names an option.
fn chosen(answer: &str) -> Value {
    Value::object([("text", Value::from(answer))])
}

fn told(question: &Value, words: &str, json: bool) -> Result<(), Failure> {
    if json {
        return out(question);
    }
    writeln!(io::stdout(), "{} {words}", plain::line(&cell(question, "id")))?;
    Ok(())
}

fn list(client: &Client, asked: &List) -> Result<(), Failure> {
    let mut query = of_group("/v1/questions", asked.group.as_deref());
    if let Some(state) = &asked.state {
        let mark = if query.contains('?') { '&' } else { '?' };
        query.push_str(&format!("{mark}state={}", encode(state)));
    }
    let rows = all(client, &query, "questions")?;
    if Output::of(asked.json) == Output::Json {
        return out(&Value::from(rows));
    }
    if rows.is_empty() {
        writeln!(io::stdout(), "no agent asks anything")?;
        return Ok(());
    }
    let head = ["QUESTION", "AGENT", "STATE", "CHANNEL", "CHAT", "UNTIL", "ASKS"];
    let line = |question: &Value| {
        ["id", "group", "state", "channel", "chat", "expires_at", "question"]
            .map(|name| cell(question, name))
            .to_vec()
    };
    table::print(&head, &rows.iter().map(line).collect::<Vec<_>>())?;
    writeln!(
        io::stdout(),
        "`ironctl question show QUESTION` has the options, `answer QUESTION NUMBER` answers"
    )?;
    Ok(())
}

/// Everything about a question; what others wrote is escaped.
fn described(question: &Value) -> String {
    let mut shown = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            shown.push_str(&format!("{name:<10}{}\n", plain::line(value)));
        }
    };
    line("question", &cell(question, "id"));
    line("agent", &cell(question, "group"));
    line("state", &cell(question, "state"));
    line("channel", &cell(question, "channel"));
    line("instance", &cell(question, "instance"));
    line("chat", &cell(question, "chat"));
    line("thread", &cell(question, "thread"));
    line("asked at", &cell(question, "created_at"));
    line("until", &cell(question, "expires_at"));
    line("ended at", &cell(question, "ended_at"));
    line("by", &cell(question, "ended_by"));
    let asks = cell(question, "question");
    if asks.is_empty() {
        return shown;
    }
    shown.push_str(&format!("asks\n{}\n", plain::block(&asks)));
    let options = question.get("options").and_then(Value::as_array).unwrap_or_default();
    for (number, option) in (1..).zip(options) {
        let number: usize = number;
        shown.push_str(&format!("{number}. {}\n", plain::line(option.as_str().unwrap_or_default())));
    }
    if question.get("allow_freeform") == Some(&Value::Bool(true)) {
        shown.push_str("other words will do\n");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json;

    #[test]
    fn a_question_is_shown_with_its_options_and_without_tricks() {
        let question = r#"{"id":"q_1","state":"open","question":"Tea\u001b[2J?","options":["Yes","No\u202e"],
            "allow_freeform":true}"#;
        let shown = described(&json::parse(question.as_bytes()).unwrap());
        assert!(
            shown.ends_with("asks\nTea\\u{1b}[2J?\n1. Yes\n2. No\\u{202e}\nother words will do\n"),
            "{shown}"
        );
        let unseen = described(&json::parse(br#"{"id":"q_1","question":null,"options":null}"#).unwrap());
        assert_eq!(unseen, "question  q_1\n");
    }
}
