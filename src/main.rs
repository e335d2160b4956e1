//! Chooses the role from the program's name or its first word, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    ironclaw::os::startup();
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.get(1).copied() {
        Some("cage-init") => ironclaw::os::stage::run(),
        Some("sandbox") => ironclaw::sandbox::boot::main(words.get(2..).unwrap_or_default()),
        Some("serve") => {
            match ironclaw::controlplane::config::Config::load(words.get(2..).unwrap_or_default()) {
                Ok(config) => match ironclaw::controlplane::serve::run(config) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => {
                        eprintln!("ironclaw: {error}");
                        ExitCode::FAILURE
                    }
                },
                Err(error) => {
                    eprintln!("ironclaw: {error}");
                    ExitCode::from(2)
                }
            }
        }
        _ => ExitCode::from(2),
    }
}
