//! Faults by name, for the tests that kill and weaken: a crash point ends the process at one exact place, a
//! switch turns off exactly one control. They exist only under the `faults` feature; in a normal build every
//! function here is a constant that the compiler removes, and no name of a fault is in the executable.
//!
//! The faults build reads `IRONCLAW_FAULTS`, a comma-separated list: `crash=NAME` (the first time this process
//! passes it), `crash=NAME@K` (the K-th time), `weaken=NAME`, and `KEY=VALUE` settings. With `armed=FILE` crash points
//! count only while that file is there, and `passed=FILE` has the name of each that is passed added to that file. A
//! sandbox has no environment: the host hands the list on as the argument `--faults`, through [`set`].

/// Ends the process as `kill -9` would, if the faults build was told to crash here.
#[inline(always)]
pub fn point(name: &'static str) {
    #[cfg(feature = "faults")]
    on::point(name);
    #[cfg(not(feature = "faults"))]
    let _ = name;
}

/// Whether this one control is to be left out. Always false in a normal build.
#[inline(always)]
pub fn weakened(control: &'static str) -> bool {
    #[cfg(feature = "faults")]
    return on::listed("weaken", control);
    #[cfg(not(feature = "faults"))]
    {
        let _ = control;
        false
    }
}

#[cfg(feature = "faults")]
pub use on::{all, panic, set, value, wait};

#[cfg(feature = "faults")]
mod on {
    //! The list and its readers.
    use std::collections::HashMap;
    use std::sync::{Mutex, OnceLock, PoisonError};

    static GIVEN: OnceLock<String> = OnceLock::new();
    static PASSED: Mutex<Option<HashMap<&'static str, u32>>> = Mutex::new(None);

    /// Sets the list for a process that has no environment. Only the first call counts.
    pub fn set(list: &str) {
        let _ = GIVEN.set(list.to_owned());
    }

    /// The whole list.
    pub fn all() -> &'static str {
        GIVEN.get_or_init(|| std::env::var("IRONCLAW_FAULTS").unwrap_or_default())
    }

    /// The value of the first `KEY=VALUE` with this key.
    pub fn value(key: &str) -> Option<&'static str> {
        all().split(',').find_map(|item| item.split_once('=').filter(|(k, _)| *k == key).map(|(_, v)| v))
    }

    /// Waits for as long as there is a file of the path that this key has.
    pub fn wait(key: &str) {
        while value(key).is_some_and(|gate| std::path::Path::new(gate).exists()) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Panics, as a mistake in the code would.
    pub fn panic() -> ! {
        panic!("told to panic")
    }

    fn note(file: &str, name: &str) {
        use std::io::Write;
        // One write, so that no other thread's name comes between; a sandbox does not see the file.
        if let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(file) {
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
    }

    pub(super) fn listed(key: &str, name: &str) -> bool {
        all().split(',').any(|item| item.split_once('=') == Some((key, name)))
    }

    pub(super) fn point(name: &'static str) {
        if value("armed").is_some_and(|file| !std::path::Path::new(file).exists()) {
            return;
        }
        if let Some(file) = value("passed") {
            note(file, name);
        }
        let wanted = all().split(',').filter_map(|item| item.strip_prefix("crash=")).find_map(|item| {
            let (what, count) = item.split_once('@').unwrap_or((item, "1"));
            (what == name).then(|| count.parse::<u32>().unwrap_or(1))
        });
        let Some(wanted) = wanted else { return };
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        let times = passed.get_or_insert_with(HashMap::new).entry(name).or_insert(0);
        *times += 1;
        if *times == wanted {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // As pid 1 of its namespace a process cannot kill itself with a signal.
            std::process::abort();
        }
    }
}
