//! Making an agent step by step: one question at a time, each answer judged at once by the rules of the control
//! plane, `<` goes back, the end of the input ends it with nothing done. Touches the terminal it is given.

use std::io::{BufRead, Write};

use super::Failure;
use crate::contract::catalogue::{DOCUMENT_BYTES, TEMPLATES, TITLE_BYTES, TOOLS, Template, template, tool};
use crate::contract::ids::GroupName;
use crate::contract::plain;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) template: &'static Template,
    pub(super) tools: Vec<&'static str>,
    /// `None` keeps the template's.
    pub(super) instructions: Option<String>,
}

/// Questions and answers.
pub(super) struct Wizard<'a> {
    pub(super) input: &'a mut dyn BufRead,
    pub(super) out: &'a mut dyn Write,
    /// Whether there is an agent of that name.
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
    Done,
}

impl Step {
    fn next(self) -> Self {
        match self {
            Self::Name => Self::Title,
            Self::Title => Self::Template,
            Self::Template => Self::Tools,
            Self::Tools => Self::Instructions,
            Self::Instructions | Self::Done => Self::Done,
        }
    }

    fn back(self) -> Self {
        match self {
            Self::Name | Self::Title => Self::Name,
            Self::Template => Self::Title,
            Self::Tools => Self::Template,
            Self::Instructions | Self::Done => Self::Tools,
        }
    }
}

impl Wizard<'_> {
    /// # Errors
    /// When the input ends before the last answer, and what the check of a name gives.
    pub(super) fn run(mut self) -> Result<Answers, Failure> {
        writeln!(
            self.out,
            "A new agent. Enter takes what is in brackets, < goes back, Ctrl-D ends with nothing done."
        )?;
        let first = TEMPLATES.iter().find(|template| template.id == "assistant").or(TEMPLATES.first());
        let start = first.ok_or_else(|| Failure::of("this build has no templates; give flags instead"))?;
        let mut answers = Answers {
            name: String::new(),
            title: String::new(),
            template: start,
            tools: start.tools.to_vec(),
            instructions: None,
        };
        let mut step = Step::Name;
        while step != Step::Done {
            self.question(step, &answers)?;
            let mut line = String::new();
            let read = self.input.read_line(&mut line).map_err(|error| {
                Failure::of(format!("the answer cannot be read: {error}; nothing was done"))
            })?;
            if read == 0 {
                writeln!(self.out)?;
                return Err(Failure::of("the input ended, so nothing was done; start again when you like"));
            }
            let answer = line.trim();
            if answer == "<" {
                step = step.back();
                continue;
            }
            match self.take(step, answer, &mut answers)? {
                Ok(()) => step = step.next(),
                Err(wrong) => writeln!(self.out, "  {wrong}")?,
            }
        }
        Ok(answers)
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
                    writeln!(self.out, "  {:<12} {}", tool.name, tool.description)?;
                }
                let now = if answers.tools.is_empty() { "none".to_owned() } else { answers.tools.join(" ") };
                write!(self.out, "its tools: names, all or none [{now}]: ")?;
            }
            Step::Instructions => {
                let kept = answers.instructions.as_deref().unwrap_or(answers.template.instructions);
                let kept = if kept.is_empty() { "nothing" } else { kept };
                write!(self.out, "\nwhat it is to do, in a line [{}]: ", plain::line(kept))?;
            }
            Step::Done => {}
        }
        Ok(self.out.flush()?)
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
            Step::Instructions if answer.len() > DOCUMENT_BYTES => Err(format!(
                "that has {} bytes, and {DOCUMENT_BYTES} are the most; make it shorter",
                answer.len()
            )),
            Step::Instructions if answer.contains('\0') => {
                Err("that holds a zero byte; take it out".to_owned())
            }
            Step::Instructions => {
                if !answer.is_empty() {
                    answers.instructions = Some(answer.to_owned());
                }
                Ok(())
            }
            Step::Done => Ok(()),
        })
    }
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
        .run();
        (answers, String::from_utf8(out).unwrap())
    }

    #[test]
    fn answers_are_judged_at_once_and_asked_for_again() {
        let (answers, said) = ask("Bad Name\nmock-agent\nann\n\nking\ntriage\nrm\nall\nSort my mail.\n");
        let answers = answers.unwrap();
        assert_eq!((answers.name.as_str(), answers.title.as_str()), ("ann", "ann"));
        assert_eq!((answers.template.id, answers.tools.len()), ("triage", TOOLS.len()));
        assert_eq!(answers.instructions.as_deref(), Some("Sort my mail."));
        for wrong in
            ["not a valid identifier", "there is an agent mock-agent", "no template king", "no tool rm"]
        {
            assert!(said.contains(wrong), "{said}");
        }
    }

    #[test]
    fn one_goes_back_and_what_was_answered_is_still_there() {
        let (answers, said) = ask("<\nann\nAnn\n<\n<\n\n\n\nread_file\n<\n\n\n");
        let answers = answers.unwrap();
        assert_eq!((answers.name.as_str(), answers.title.as_str()), ("ann", "Ann"));
        assert_eq!((answers.template.id, answers.tools), ("assistant", vec!["read_file"]));
        assert_eq!(answers.instructions, None);
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
}
