//! Making an agent step by step: one question at a time, each answer judged at once by the rules of the control
//! plane, `<` goes back, the end of the input ends it with nothing done. Touches the terminal it is given.

use std::io::{BufRead, Write};

use super::Failure;
use crate::contract::catalogue::{DOCUMENT_BYTES, TEMPLATES, TITLE_BYTES, TOOLS, Template, template, tool};
use crate::contract::ids::{GroupName, UserId};
use crate::contract::json::Value;
use crate::contract::plain;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) name: String,
    title: String,
    template: &'static Template,
    tools: Vec<&'static str>,
    /// `None` keeps the template's, here and in the next two.
    instructions: Option<String>,
    identity: Option<String>,
    soul: Option<String>,
    /// Provider, where one was named, and model; `None` leaves both to the control plane.
    model: Option<(Option<String>, String)>,
    members: Vec<String>,
}

impl Answers {
    /// The payload of the change that makes the agent.
    pub(super) fn payload(&self) -> Value {
        let mut fields = vec![("title", Value::from(self.title.as_str()))];
        for (name, own, start) in [
            ("identity", &self.identity, self.template.identity),
            ("soul", &self.soul, self.template.soul),
            ("instructions", &self.instructions, self.template.instructions),
        ] {
            let text = own.as_deref().unwrap_or(start);
            fields.extend((!text.is_empty()).then(|| (name, Value::from(text))));
        }
        if let Some((provider, model)) = &self.model {
            fields.extend(provider.as_deref().map(|provider| ("provider", Value::from(provider))));
            fields.push(("model", Value::from(model.as_str())));
        }
        fields.push(("tools", self.tools.iter().map(|tool| Value::from(*tool)).collect::<Vec<_>>().into()));
        let members: Vec<Value> = self.members.iter().map(|user| Value::from(user.as_str())).collect();
        fields.push(("members", Value::from(members)));
        Value::object(fields)
    }
}

/// Where to begin.
pub(super) enum Begin {
    /// With the first question.
    Nothing,
    /// With what was answered, and why that did not do.
    Again(Box<Answers>, String),
}

/// Questions and answers.
pub(super) struct Wizard<'a> {
    pub(super) input: &'a mut dyn BufRead,
    pub(super) out: &'a mut dyn Write,
    /// Whether there is an agent of that name, as far as whoever asks may know.
    pub(super) is_taken: &'a dyn Fn(&str) -> Result<bool, Failure>,
}

/// The questions, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Name,
    Title,
    Template,
    Tools,
    Instructions,
    Identity,
    Soul,
    Model,
    Members,
}

/// All of them, by the words that choose one.
const STEPS: [(&str, Step); 9] = [
    ("name", Step::Name),
    ("title", Step::Title),
    ("template", Step::Template),
    ("tools", Step::Tools),
    ("instructions", Step::Instructions),
    ("identity", Step::Identity),
    ("soul", Step::Soul),
    ("model", Step::Model),
    ("members", Step::Members),
];

impl Wizard<'_> {
    /// # Errors
    /// When the input ends before the last answer or the person leaves, and what the check of a name gives.
    pub(super) fn run(mut self, from: Begin) -> Result<Answers, Failure> {
        let (mut answers, mut at) = match from {
            Begin::Again(answers, why) => {
                writeln!(self.out, "\n  {}", plain::line(&why))?;
                let at = self.choose()?;
                (*answers, at)
            }
            Begin::Nothing => {
                writeln!(
                    self.out,
                    "A new agent. Enter takes what is in brackets, < goes back, Ctrl-D ends with nothing done."
                )?;
                let first =
                    TEMPLATES.iter().find(|template| template.id == "assistant").or(TEMPLATES.first());
                let start =
                    first.ok_or_else(|| Failure::of("this build has no templates; give flags instead"))?;
                let answers = Answers {
                    name: String::new(),
                    title: String::new(),
                    template: start,
                    tools: start.tools.to_vec(),
                    instructions: None,
                    identity: None,
                    soul: None,
                    model: None,
                    members: Vec::new(),
                };
                (answers, 0)
            }
        };
        while let Some((_, step)) = STEPS.get(at) {
            self.question(*step, &answers)?;
            let answer = self.line()?;
            if answer == "<" {
                at = at.saturating_sub(1);
                continue;
            }
            match self.take(*step, &answer, &mut answers)? {
                Ok(()) => at += 1,
                Err(wrong) => writeln!(self.out, "  {wrong}")?,
            }
        }
        Ok(answers)
    }

    fn line(&mut self) -> Result<String, Failure> {
        self.out.flush()?;
        let mut line = String::new();
        let read = self.input.read_line(&mut line);
        let read = read
            .map_err(|error| Failure::of(format!("the answer cannot be read: {error}; nothing was done")))?;
        if read == 0 {
            writeln!(self.out)?;
            return Err(Failure::of("the input ended, so nothing was done; start again when you like"));
        }
        Ok(line.trim().to_owned())
    }

    /// Which question is asked again; those after it follow, with what was answered.
    fn choose(&mut self) -> Result<usize, Failure> {
        let words: Vec<&str> = STEPS.iter().map(|(word, _)| *word).collect();
        loop {
            write!(self.out, "what to change: {}; q leaves [name]: ", words.join(", "))?;
            match self.line()?.as_str() {
                "q" => return Err(Failure::of("you left, so nothing was done; start again when you like")),
                "" => return Ok(0),
                word => match words.iter().position(|known| *known == word) {
                    Some(at) => return Ok(at),
                    None => writeln!(self.out, "  {} is none of these", plain::line(word))?,
                },
            }
        }
    }

    fn question(&mut self, step: Step, answers: &Answers) -> Result<(), Failure> {
        match step {
            Step::Name if answers.name.is_empty() => write!(self.out, "\nname: ")?,
            Step::Name => write!(self.out, "\nname [{}]: ", answers.name)?,
            Step::Title => {
                let now = if answers.title.is_empty() { &answers.name } else { &answers.title };
                write!(self.out, "\nwhat people call it [{}]: ", plain::line(now))?;
            }
            Step::Template => {
                writeln!(self.out)?;
                for template in TEMPLATES {
                    writeln!(self.out, "  {:<12} {}", template.id, template.title)?;
                }
                write!(self.out, "what to start from [{}]: ", answers.template.id)?;
            }
            Step::Tools => {
                writeln!(self.out)?;
                for tool in TOOLS {
                    writeln!(self.out, "  {:<26} {}", tool.name, tool.description)?;
                }
                let now = if answers.tools.is_empty() { "none".to_owned() } else { answers.tools.join(" ") };
                write!(self.out, "its tools: names, all or none [{now}]: ")?;
            }
            Step::Instructions => {
                let kept = answers.instructions.as_deref().unwrap_or(answers.template.instructions);
                let kept = if kept.is_empty() { "nothing" } else { kept };
                write!(self.out, "\nwhat it is to do, in a line [{}]: ", plain::line(kept))?;
            }
            Step::Identity => {
                let kept = answers.identity.as_deref().unwrap_or(answers.template.identity);
                let kept = if kept.is_empty() { "nothing" } else { kept };
                write!(self.out, "\nwho it is, in a line [{}]: ", plain::line(kept))?;
            }
            Step::Soul => {
                let kept = answers.soul.as_deref().unwrap_or(answers.template.soul);
                let kept = if kept.is_empty() { "nothing" } else { kept };
                write!(self.out, "\nwhat it cares about, in a line [{}]: ", plain::line(kept))?;
            }
            Step::Model => {
                let kept = match &answers.model {
                    None => "the control plane's choice".to_owned(),
                    Some((None, model)) => model.clone(),
                    Some((Some(provider), model)) => format!("{provider} {model}"),
                };
                write!(self.out, "\nits model: MODEL, or PROVIDER MODEL [{}]: ", plain::line(&kept))?;
            }
            Step::Members => {
                let kept =
                    if answers.members.is_empty() { "none".to_owned() } else { answers.members.join(" ") };
                write!(
                    self.out,
                    "\nwho may talk to it: users such as local:ann, or none [{}]: ",
                    plain::line(&kept)
                )?;
            }
        }
        Ok(())
    }

    /// Takes an answer; the inner error says what is wrong with it.
    fn take(&self, step: Step, answer: &str, answers: &mut Answers) -> Result<Result<(), String>, Failure> {
        Ok(match step {
            Step::Name if answer.is_empty() && !answers.name.is_empty() => Ok(()),
            Step::Name => match GroupName::parse(answer) {
                Err(error) => Err(error.to_string()),
                Ok(name) if (self.is_taken)(name.as_str())? => {
                    Err(format!("there is an agent {name}; choose another name"))
                }
                Ok(name) => {
                    answers.name = name.to_string();
                    Ok(())
                }
            },
            Step::Title if answer.len() > TITLE_BYTES => Err(format!(
                "that has {} bytes, and {TITLE_BYTES} are the most; make it shorter",
                answer.len()
            )),
            Step::Title => {
                if !answer.is_empty() {
                    answers.title = answer.to_owned();
                } else if answers.title.is_empty() {
                    answers.title.clone_from(&answers.name);
                }
                Ok(())
            }
            Step::Template if answer.is_empty() => Ok(()),
            Step::Template => match template(answer) {
                None => Err(format!("there is no template {}; choose one of these", plain::line(answer))),
                Some(template) => {
                    answers.template = template;
                    answers.tools = template.tools.to_vec();
                    Ok(())
                }
            },
            Step::Tools if answer.is_empty() => Ok(()),
            Step::Tools => tools(answer).map(|tools| answers.tools = tools),
            Step::Instructions => document(answer, &mut answers.instructions),
            Step::Identity => document(answer, &mut answers.identity),
            Step::Soul => document(answer, &mut answers.soul),
            Step::Model | Step::Members if answer.is_empty() => Ok(()),
            Step::Model => {
                let words: Vec<&str> = answer.split_whitespace().collect();
                match words.as_slice() {
                    [model] => {
                        answers.model = Some((None, (*model).to_owned()));
                        Ok(())
                    }
                    [provider, model] => {
                        answers.model = Some((Some((*provider).to_owned()), (*model).to_owned()));
                        Ok(())
                    }
                    _ => Err("that is more than a provider and a model; name one of each".to_owned()),
                }
            }
            Step::Members => members(answer).map(|members| answers.members = members),
        })
    }
}

/// A document in a line; nothing keeps what there is.
fn document(answer: &str, kept: &mut Option<String>) -> Result<(), String> {
    if answer.len() > DOCUMENT_BYTES {
        return Err(format!(
            "that has {} bytes, and {DOCUMENT_BYTES} are the most; make it shorter",
            answer.len()
        ));
    }
    if answer.contains('\0') {
        return Err("that holds a zero byte; take it out".to_owned());
    }
    if !answer.is_empty() {
        *kept = Some(answer.to_owned());
    }
    Ok(())
}

fn members(answer: &str) -> Result<Vec<String>, String> {
    if answer == "none" {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for word in answer.split([' ', ',']).filter(|word| !word.is_empty()) {
        let user = UserId::parse(word).map_err(|_| {
            format!("{} is no user; expected CHANNEL:HANDLE, such as local:ann", plain::line(word))
        })?;
        if !found.contains(&user.to_string()) {
            found.push(user.to_string());
        }
    }
    Ok(found)
}

fn tools(answer: &str) -> Result<Vec<&'static str>, String> {
    match answer {
        "all" => return Ok(TOOLS.iter().map(|tool| tool.name).collect()),
        "none" => return Ok(Vec::new()),
        _ => {}
    }
    let mut found = Vec::new();
    for word in answer.split([' ', ',']).filter(|word| !word.is_empty()) {
        let known =
            tool(word).ok_or_else(|| format!("there is no tool {}; choose of these", plain::line(word)))?;
        if !found.contains(&known.name) {
            found.push(known.name);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(input: &str) -> (Result<Answers, Failure>, String) {
        let mut out = Vec::new();
        let answers = Wizard {
            input: &mut input.as_bytes(),
            out: &mut out,
            is_taken: &|name| Ok(name == "mock-agent"),
        }
        .run(Begin::Nothing);
        (answers, String::from_utf8(out).unwrap())
    }

    #[test]
    fn answers_are_judged_at_once_and_asked_for_again() {
        let (answers, said) = ask(
            "Bad Name\nmock-agent\nann\n\nking\ntriage\nrm\nall\nSort my mail.\nA sorter.\n\na b c\nmock mock\nbob\nlocal:bob, local:bob\n",
        );
        let answers = answers.unwrap();
        assert_eq!((answers.name.as_str(), answers.title.as_str()), ("ann", "ann"));
        assert_eq!((answers.template.id, answers.tools.len()), ("triage", TOOLS.len()));
        let payload = answers.payload();
        for (field, expected) in [
            ("instructions", "\"Sort my mail.\""),
            ("identity", "\"A sorter.\""),
            ("provider", "\"mock\""),
            ("members", "[\"local:bob\"]"),
        ] {
            assert_eq!(payload.get(field).unwrap().to_string(), expected, "{payload}");
        }
        for wrong in [
            "not a valid identifier",
            "there is an agent mock-agent",
            "no template king",
            "no tool rm",
            "more than a provider",
            "bob is no user",
        ] {
            assert!(said.contains(wrong), "{said}");
        }
    }

    #[test]
    fn one_goes_back_and_what_was_answered_is_still_there() {
        let (answers, said) =
            ask("<\nann\nAnn\n<\n<\n\n\n\nread_file\n<\n\n\nI.\nS.\nm\n<\n<\n<\n<\n<\n\n\n\n\n\nlocal:a\n");
        let answers = answers.unwrap();
        assert_eq!((answers.name.as_str(), answers.title.as_str()), ("ann", "Ann"));
        assert_eq!((answers.template.id, answers.tools), ("assistant", vec!["read_file"]));
        assert_eq!((answers.instructions, answers.identity.as_deref()), (None, Some("I.")));
        assert_eq!((answers.soul.as_deref(), answers.members), (Some("S."), vec!["local:a".to_owned()]));
        assert_eq!(answers.model, Some((None, "m".to_owned())));
        assert!(
            said.contains("name [ann]: ") && said.contains("[Ann]: ") && said.contains("[read_file]: "),
            "{said}"
        );
    }

    #[test]
    fn the_end_of_the_input_ends_it() {
        for input in ["", "ann\n", "ann\nAnn\nblank\n"] {
            let failure = ask(input).0.unwrap_err();
            assert!(failure.code == 1 && failure.text.contains("nothing was done"), "{failure}");
        }
    }

    #[test]
    fn what_did_not_do_is_asked_again_and_the_rest_is_kept() {
        let answers = ask("ann\nAnn\nblank\nall\nDo.\n\n\n\n\n").0.unwrap();
        let again = |input: &str| {
            let mut out = Vec::new();
            let wizard = Wizard { input: &mut input.as_bytes(), out: &mut out, is_taken: &|_| Ok(false) };
            wizard.run(Begin::Again(Box::new(answers.clone()), "there was an agent ann".to_owned()))
        };
        assert_eq!(again("nonsense\nmembers\n\n").unwrap(), answers);
        let renamed = again("\nbob\n\n\n\n\n\n\n\n\n").unwrap();
        assert_eq!(renamed, Answers { name: "bob".to_owned(), ..answers.clone() });
        assert!(again("q\n").unwrap_err().text.contains("nothing was done"));
    }
}
