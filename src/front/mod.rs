//! The roles that need both sides of the house: the demo, the doctor, the manual, the version. May use every room.

pub mod demo;
pub mod doctor;
pub mod help;

use std::io::{self, Write};

use crate::controlplane::config::{Config, ConfigError};
use crate::controlplane::serve;
use crate::ironctl::Failure;
use crate::os::memory;

/// `ironclaw serve`
///
/// # Errors
/// One line with the next step, and the exit code.
pub fn serve(words: &[&str]) -> Result<(), Failure> {
    memory::restart_without_thread_caches();
    match Config::load(words) {
        Ok(config) => serve::run(config).map_err(|error| Failure::of(error.to_string())),
        Err(ConfigError::Help(text)) => Ok(io::stdout().write_all(text.as_bytes())?),
        Err(error) => Err(Failure { code: error.exit_code(), text: error.to_string() }),
    }
}

/// `ironclaw rotate-key --new-master-key-file FILE`, beside the flags that name the state directory and the
/// master key of now as for `serve`. No daemon may be running on that state directory.
///
/// # Errors
/// One line with the next step, and the exit code.
pub fn rotate_key(words: &[&str]) -> Result<(), Failure> {
    const FLAG: &str = "--new-master-key-file";
    if words.iter().any(|word| matches!(*word, "--help" | "-h")) {
        return help::run(&["keys"]);
    }
    let wrong = || {
        Failure::usage(format!(
            "rotate-key needs {FLAG} FILE, beside the flags that `serve` gets; `ironclaw help keys` says more"
        ))
    };
    let mut words = words.to_vec();
    let at = words.iter().position(|word| *word == FLAG).ok_or_else(wrong)?;
    let [_, new] = words.splice(at..words.len().min(at + 2), []).collect::<Vec<_>>()[..] else {
        return Err(wrong());
    };
    let new = std::path::absolute(new)?;
    match Config::load(&words) {
        Ok(config) => {
            serve::rotate(&config, new.clone()).map_err(|error| Failure::of(error.to_string()))?;
            let new = new.display();
            Ok(writeln!(
                io::stdout(),
                "the keystore opens with {new} from now on, and not with the old key: start with \
                 --master-key-file {new}, back it up, then delete the old key"
            )?)
        }
        Err(ConfigError::Help(text)) => Ok(io::stdout().write_all(text.as_bytes())?),
        Err(error) => Err(Failure { code: error.exit_code(), text: error.to_string() }),
    }
}

/// `ironclaw version`
///
/// # Errors
/// When the output cannot be written.
pub fn version() -> Result<(), Failure> {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let faults = if cfg!(feature = "faults") { ", with fault switches: for tests only" } else { "" };
    let (version, machine, system) =
        (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS);
    let linked = if cfg!(target_feature = "crt-static") { "static" } else { "dynamic" };
    writeln!(io::stdout(), "ironclaw {version} ({machine} {system}, {linked}, {profile}{faults})")?;
    Ok(())
}
