//! Chooses the role from the program's name or its first word, and nothing else.

use std::io::Write;

use ironclaw::ironctl::Failure;
use ironclaw::{front, ironctl, os, sandbox};

fn main() -> ! {
    os::startup();
    os::process::leave(run())
}

/// The process's exit code.
fn run() -> u8 {
    let words: Result<Vec<String>, _> = std::env::args_os().map(std::ffi::OsString::into_string).collect();
    let Ok(words) = words else { return end(Err(Failure::usage("an argument is not UTF-8 text"))) };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (name, rest) = words.split_first().map_or(("", words.as_slice()), |(name, rest)| (*name, rest));
    let (role, rest) = match (name.rsplit('/').next().unwrap_or(name), rest) {
        ("ironclaw-controlplane", _) => ("serve", rest),
        ("ironctl", _) => ("ctl", rest),
        ("ironclaw-sandbox", _) => ("sandbox", rest),
        (_, [role, rest @ ..]) => (*role, rest),
        (_, []) => ("help", rest),
    };
    match role {
        os::stage::ROLE => os::stage::run(),
        "sandbox" => sandbox::boot::main(rest),
        "serve" => end(front::serve(rest)),
        "rotate-key" => end(front::rotate_key(rest)),
        "ctl" => end(ironctl::run(rest)),
        "doctor" => end(front::doctor::run(rest)),
        "demo" => end(front::demo::run(rest)),
        "help" | "--help" | "-h" => end(front::help::run(rest)),
        "version" | "--version" | "-V" => end(front::version()),
        "install" | "mcp-sample" | "vault-injector" => end(Err(Failure::usage(format!(
            "`{role}` is not part of this build; `ironclaw help` lists what is"
        )))),
        _ => end(Err(Failure::usage("there is no such role; `ironclaw help` lists them"))),
    }
}

/// One line for people, a code for programs; a reader that left is no failure.
fn end(result: Result<(), Failure>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(failure) => {
            if !failure.text.is_empty() {
                let _ = writeln!(std::io::stderr(), "ironclaw: {failure}");
            }
            failure.code
        }
    }
}
