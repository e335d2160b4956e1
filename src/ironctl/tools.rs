//! `ctl tools`: what an agent can be given, family by family, from the catalogue of this build. Needs no control
//! plane; touches the terminal.

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::lists::{Output, print};
use crate::contract::catalogue::{TEMPLATES, TOOLS, Tool};
use crate::contract::json::Value;

/// The tools that an agent can have. Needs no control plane.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "tools")]
pub(super) struct Tools {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Runs it.
pub(super) fn run(words: &Tools) -> Result<(), Failure> {
    let mut all: Vec<&Tool> = TOOLS.iter().collect();
    // Stable: within a family the order is the catalogue's.
    all.sort_by_key(|tool| tool.category);
    let rows: Vec<Value> = all.into_iter().map(row).collect();
    let columns = [
        ("CATEGORY", "category"),
        ("TOOL", "name"),
        ("TITLE", "title"),
        ("WHAT", "description"),
        ("TEMPLATES", "templates"),
    ];
    print(&rows, Output::of(words.json), &columns, "this build has no tools")
}

fn row(tool: &Tool) -> Value {
    let templates = TEMPLATES.iter().filter(|template| template.tools.contains(&tool.name));
    Value::object([
        ("name", Value::from(tool.name)),
        ("title", Value::from(tool.title)),
        ("description", Value::from(tool.description)),
        ("category", Value::from(tool.category)),
        ("templates", Value::Array(templates.map(|template| Value::from(template.id)).collect())),
    ])
}
