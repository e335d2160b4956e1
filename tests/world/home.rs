//! A directory of its own for one test: the executable's copy, the state, the run directory, the user's home.
//! Every directory on the way can be passed by anybody, because the sandbox's user must reach what is below.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{PATIENCE, install, leftovers, marker};

/// Which executable is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// What users get.
    Release,
    /// The same with crash points and switches in it.
    Faults,
    /// The hostile program that takes a sandbox's place.
    Hostile,
    /// A Telegram of our own.
    Telegram,
    /// Providers of models of our own.
    Models,
}

/// As whom it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    Root,
    Ordinary,
}

/// An id that no account has: the program must not need one.
const ORDINARY: u32 = 31_337;

/// A test's directory; removed at its end, with whatever was started in it.
pub struct Home {
    pub root: PathBuf,
    pub user: User,
    pub exe: PathBuf,
}

impl Home {
    pub fn new(build: Build, user: User) -> Home {
        Home::of(&executable(build), user)
    }

    /// With a copy of this executable.
    pub fn of(program: &Path, user: User) -> Home {
        assert!(
            rustix::process::geteuid().is_root(),
            "run the tests as root: they start the program both as root and as an ordinary user"
        );
        // Short, because a unix socket's path has at most 107 bytes.
        let root = PathBuf::from("/tmp").join(format!("ic-{}", &marker()[1..8]));
        directory(&root, 0o755, None);
        directory(&root.join("bin"), 0o755, None);
        let exe = root.join("bin/ironclaw");
        install::copy(program, &exe);
        let owner = match user {
            User::Root => None,
            User::Ordinary => Some(ORDINARY),
        };
        for name in ["lib", "run", "user"] {
            directory(&root.join(name), 0o755, owner);
        }
        Home { root, user, exe }
    }

    /// The state directory; the program makes it.
    pub fn state(&self) -> PathBuf {
        self.root.join("lib/state")
    }

    /// What `--model-proxy-socket` names.
    pub fn model_socket(&self) -> PathBuf {
        self.root.join("run/model.sock")
    }

    /// Puts the hostile program beside the executable and gives its path.
    pub fn hostile(&self) -> PathBuf {
        let path = self.root.join("bin/hostile");
        if !path.exists() {
            install::copy(&executable(Build::Hostile), &path);
        }
        path
    }

    /// The executable with these words, as this home's user, with a bare environment.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        // Who runs the tests with `nohup` has them ignore hangups, and so would all that they start.
        let mut command = Command::new("/usr/bin/env");
        command
            .arg("--default-signal=HUP")
            .arg(&self.exe)
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.root.join("user"))
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.user == User::Ordinary {
            command.uid(ORDINARY).gid(ORDINARY);
        }
        command
    }

    /// Runs it to its end.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Output {
        finish(self.command(words).spawn().expect("the executable starts"))
    }

    /// The name of the control group that holds those of this home's sandboxes.
    pub fn cgroup(&self) -> String {
        use ring::digest;
        let root = self.state().join("bundles");
        let digest = digest::digest(&digest::SHA256, root.as_os_str().as_encoded_bytes());
        let digits: String = digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        format!("ironclaw-{digits}")
    }

    /// Ids of the living processes that were started in this home: those that name it in their arguments or
    /// were executed from a file in it.
    pub fn processes(&self) -> Vec<i32> {
        leftovers::processes_of(&self.root)
    }

    /// Whoever runs as the home's user, in the world's own words.
    pub fn owner(&self) -> u32 {
        match self.user {
            User::Root => 0,
            User::Ordinary => ORDINARY,
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Only what was started in this home is ended; a failed test may leave a daemon and its sandboxes.
        let begun = Instant::now();
        while let found = self.processes()
            && !found.is_empty()
            && begun.elapsed() < PATIENCE
        {
            found.iter().for_each(|id| leftovers::kill(*id));
            for id in found {
                leftovers::ended(id, PATIENCE.saturating_sub(begun.elapsed()));
            }
        }
        // Nobody comes back for the groups of a daemon that was killed; those of a group's own come first.
        let mut groups = leftovers::cgroups(&[self.cgroup()]);
        groups.sort_by_key(|path| std::cmp::Reverse(path.len()));
        groups.iter().for_each(|path| drop(fs::remove_dir(path)));
        if std::thread::panicking() && std::env::var_os("IRONCLAW_TEST_KEEP").is_some() {
            eprintln!("kept {}", self.root.display());
            return;
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Waits for the end of a process within the world's patience and gives what it printed.
pub fn finish(child: Child) -> Output {
    finish_within(child, PATIENCE)
}

/// The same within a time of the caller's.
pub fn finish_within(mut child: Child, time: Duration) -> Output {
    let id = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let reader = std::thread::spawn(move || {
        use std::io::Read;
        let rest = std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut stderr) = stderr {
                let _ = stderr.read_to_end(&mut text);
            }
            text
        });
        let mut text = Vec::new();
        if let Some(mut stdout) = stdout {
            let _ = stdout.read_to_end(&mut text);
        }
        let _ = sender.send((text, rest.join().unwrap()));
    });
    let Ok((stdout, stderr)) = receiver.recv_timeout(time) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("process {id} did not end within {} s", time.as_secs());
    };
    reader.join().unwrap();
    let status = child.wait().unwrap();
    Output { status, stdout, stderr }
}

/// Where a build's executable is: named by `tests/run`, else where cargo puts it.
pub fn executable(build: Build) -> PathBuf {
    let (variable, fallback) = match build {
        Build::Release => ("IRONCLAW_TEST_EXE", PathBuf::from(env!("CARGO_BIN_EXE_ironclaw"))),
        Build::Faults => ("IRONCLAW_TEST_FAULTS_EXE", faults_build("ironclaw")),
        Build::Hostile => ("IRONCLAW_TEST_HOSTILE_EXE", faults_build("hostile-sandbox")),
        Build::Telegram => ("IRONCLAW_TEST_TELEGRAM_EXE", faults_build("fake-telegram")),
        Build::Models => ("IRONCLAW_TEST_MODELS_EXE", faults_build("fake-models")),
    };
    let path = std::env::var_os(variable).map_or(fallback, PathBuf::from);
    assert!(path.exists(), "{} is not there; tests/run builds it ({variable} may name it)", path.display());
    path
}

/// `target/faults/TRIPLE/faults/NAME`, found from `target/TRIPLE/PROFILE/ironclaw`.
fn faults_build(name: &str) -> PathBuf {
    let ours = Path::new(env!("CARGO_BIN_EXE_ironclaw"));
    let triple = ours.parent().and_then(Path::parent).unwrap();
    triple.parent().unwrap().join("faults").join(triple.file_name().unwrap()).join("faults").join(name)
}

fn directory(path: &Path, mode: u32, owner: Option<u32>) {
    fs::create_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if let Some(owner) = owner {
        chown(path, Some(owner), Some(owner)).unwrap();
    }
}
