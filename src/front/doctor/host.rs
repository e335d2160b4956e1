//! The checks of what belongs to the machine: what its kernel offers, its clock, and a real sandbox that is launched,
//! tests itself and is gone. What is made is made in a directory of its own, which is removed.

use std::fs;
use std::path::Path;

use super::{Check, Verdict};
use crate::contract::time::Millis;
use crate::controlplane::config::{Config, Runtime};
use crate::controlplane::isolation::{self, BackEnd, Identity, IsolationPaths, SELF_TEST_ID};
use crate::controlplane::serve::runtime_choice;
use crate::controlplane::state::{StateDir, Wall};
use crate::front::demo::{Home, base};
use crate::os::{files, landlock};

/// A clock that shows a time before this program was written has not been set.
const WRITTEN: &str = "2025-01-01T00:00:00.000Z";
/// And one after this was set wrongly: certificates and tokens are judged by it.
const FAR: &str = "2099-12-31T00:00:00.000Z";

/// What needs nothing but a look.
pub(super) fn kernel() -> Vec<Check> {
    vec![landlock_check(landlock::version()), seccomp_check(), clock_check(Millis::now())]
}

fn landlock_check(version: Option<u32>) -> Check {
    const NAME: &str = "landlock";
    match version {
        Some(version @ 6..) => Check::ok(NAME, format!("interface {version}")),
        Some(version) => Check::warn(
            NAME,
            format!("interface {version}: some of what the native cage asks for is not enforced by it"),
            "6 has all of it (Linux 6.12); the other layers of the cage do not depend on it",
        ),
        None => Check::warn(
            NAME,
            "this kernel has none, or it is switched off",
            "boot with lsm=landlock,… (Linux 5.13 and later); gVisor and the other layers of the cage do without",
        ),
    }
}

fn seccomp_check() -> Check {
    const NAME: &str = "seccomp";
    let path = "/proc/sys/kernel/seccomp/actions_avail";
    match fs::read_to_string(path) {
        Ok(actions) if actions.contains("kill_process") && actions.contains("errno") => {
            Check::ok(NAME, "filters that refuse and that kill")
        }
        Ok(actions) => Check::fail(
            NAME,
            format!("this kernel offers only {}", actions.trim()),
            "sandboxes need filters that refuse and that kill: Linux 4.14 or later",
        ),
        Err(error) => Check::warn(
            NAME,
            format!("{path} cannot be read: {error}"),
            "the self-test of the runtime says whether filters work",
        ),
    }
}

fn clock_check(now: Millis) -> Check {
    const NAME: &str = "clock";
    let (written, far) = (Millis::parse(WRITTEN), Millis::parse(FAR));
    if written.is_some_and(|least| now < least) || far.is_some_and(|most| now > most) {
        return Check::fail(
            NAME,
            format!("it shows {now}"),
            "set it (timedatectl set-ntp true): tokens, certificates and the audit go by it",
        );
    }
    Check::ok(NAME, format!("it shows {now}"))
}

/// What only trying shows.
pub(super) fn boundary(config: &Config, checks: &mut Vec<Check>) {
    let scratch = match Scratch::make(config) {
        Ok(scratch) => scratch,
        Err(error) => {
            checks.push(Check::told("runtime", Verdict::Fail, &error));
            return;
        }
    };
    let survey = isolation::claim(&scratch.paths, scratch.identity).and_then(isolation::survey);
    match survey {
        Ok(survey) => {
            checks.push(match survey.no_namespaces {
                None => Check::ok("user namespaces", "can be made"),
                Some((cause, step)) => {
                    let text = cause.to_string();
                    let (seen, next) =
                        text.split_once(": ").unwrap_or((&text, "run `ironclaw help isolation`"));
                    // Root's native cage is closed without; gVisor and everybody else need them.
                    match (scratch.identity, &config.runtime) {
                        (Identity::Mapped { .. }, Runtime::Native) => {
                            Check::warn("user namespaces", format!("{seen} ({step})"), next)
                        }
                        _ => Check::fail("user namespaces", format!("{seen} ({step})"), next),
                    }
                }
            });
            checks.push(match survey.no_cgroups {
                None => Check::ok(
                    "control groups",
                    "memory, tasks and processor time of each sandbox are bounded",
                ),
                Some(missing) => Check::warn(
                    "control groups",
                    missing,
                    "run the control plane as root, or as a systemd unit with Delegate=yes",
                ),
            });
        }
        Err(error) => checks.push(Check::told("isolation", Verdict::Fail, &error.to_string())),
    }
    checks.push(runtime_check(config, &scratch));
}

fn runtime_check(config: &Config, scratch: &Scratch) -> Check {
    const NAME: &str = "runtime";
    let choice = runtime_choice(&config.runtime);
    let chosen = isolation::claim(&scratch.paths, scratch.identity)
        .and_then(|claim| isolation::choose(&choice, claim, config.sandbox_limits()));
    match chosen {
        Ok(isolator) => {
            let seen = format!("{} passed its self-test", isolator.describe());
            match isolator.back_end() {
                BackEnd::Gvisor => Check::ok(NAME, seen),
                BackEnd::Native => Check::warn(
                    NAME,
                    format!("{seen}; {}", isolator.back_end().strength()),
                    "install gVisor for the stronger wall (Debian: `apt install runsc`)",
                ),
            }
        }
        Err(error) => Check::told(NAME, Verdict::Fail, &error.to_string()),
    }
}

/// Directories like those of a control plane, removed when dropped.
struct Scratch {
    paths: IsolationPaths,
    identity: Identity,
    _state: StateDir,
    _home: Home,
}

impl Scratch {
    fn make(config: &Config) -> Result<Self, String> {
        let uid = rustix::process::geteuid().as_raw();
        // Where the temporary directory is closed to this user, or closed to programs, of which one is copied there,
        // the place of the state is as good; never the state itself, which holds what is its own and nothing else.
        let beside = config.state_dir.ancestors().skip(1).find(|path| path.is_dir());
        let places = [Some(base(uid)), Some("/var/tmp".into()), beside.map(Path::to_owned)];
        let mut made = Err("no directory can be made; name a writable one with TMPDIR".to_owned());
        for place in places.into_iter().flatten() {
            made = if files::runs_programs(&place) {
                Home::make(&place, uid).map_err(|failure| failure.to_string())
            } else {
                Err(format!(
                    "{} is mounted noexec, so no sandbox can be tried there; name another with TMPDIR",
                    place.display()
                ))
            };
            if made.is_ok() {
                break;
            }
        }
        let home = made?;
        let wall = Wall::of_this_process(config.sandbox_uid_base);
        let state = StateDir::claim(&home.path.join("state"), wall).map_err(|error| error.to_string())?;
        let identity = match wall {
            Wall::OrdinaryUser => Identity::OwnUser,
            Wall::Root { mapped_root } => {
                Identity::Mapped { wall: mapped_root, group: mapped_root + SELF_TEST_ID }
            }
        };
        let paths = IsolationPaths {
            bundle_root: state.join("bundles"),
            run_dir: home.path.join("run"),
            state_dir: state.path().to_owned(),
        };
        Ok(Self { paths, identity, _state: state, _home: home })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_of_the_kernel_has_its_verdict() {
        assert_eq!(landlock_check(Some(7)).verdict, Verdict::Ok);
        for old in [Some(1), None] {
            let check = landlock_check(old);
            assert!(check.verdict == Verdict::Warn && check.next.is_some());
        }
        for (time, verdict) in [
            ("1970-01-01T00:00:10.000Z", Verdict::Fail),
            ("2026-11-22T00:00:00.000Z", Verdict::Ok),
            ("2199-01-01T00:00:00.000Z", Verdict::Fail),
        ] {
            assert_eq!(clock_check(Millis::parse(time).unwrap()).verdict, verdict, "{time}");
        }
    }
}
