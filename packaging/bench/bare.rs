//! The floors: the same machine doing only what cannot be left out. A bare `runsc run` of the bundle that the
//! daemon itself wrote, with another program in it; a bare cage from `unshare`; a socket round trip; a durable
//! write. Touches directories of the home it is given and the processes it starts.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::table::Samples;
use crate::world::{Daemon, Home, eventually, leftovers};

/// A runsc of our own, with the daemon's flags and the daemon's bundle.
pub struct Runsc {
    program: PathBuf,
    flags: Vec<String>,
    config: Value,
    root: PathBuf,
    count: usize,
}

impl Runsc {
    /// Takes the bundle of a session of the daemon that lives now. The files of that session are replaced by
    /// empty ones with the same owners, so that the bundle outlives it.
    pub fn like(home: &Home, daemon: &Daemon) -> Runsc {
        let written = eventually("a bundle of the daemon is there", || {
            leftovers::files_below(&home.root).into_iter().find(|path| path.ends_with("config.json"))
        });
        let mut config: Value = serde_json::from_slice(&fs::read(&written).unwrap()).unwrap();
        let root = home.root.join("bare");
        fs::create_dir(&root).unwrap();
        let host = |config: &Value, map: &str| {
            let found = config["linux"][map].as_array().and_then(|map| map.last()?["hostID"].as_u64());
            found.map(|id| u32::try_from(id).unwrap())
        };
        let owner = (host(&config, "uidMappings"), host(&config, "gidMappings"));
        for (index, mount) in config["mounts"].as_array_mut().unwrap().iter_mut().enumerate() {
            if mount["type"] != "bind" || mount["destination"] == "/ironclaw" {
                continue;
            }
            let path = root.join(format!("mount-{index}"));
            let (mode, made) = if mount["destination"].as_str().is_some_and(|at| at.ends_with(".db")) {
                (0o600, File::create(&path).map(drop))
            } else {
                (0o700, fs::create_dir(&path))
            };
            made.unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            chown(&path, owner.0, owner.1).unwrap();
            mount["source"] = json!(path);
        }
        let described = daemon.get("/readyz")["description"].as_str().unwrap().to_owned();
        let platform = described.split("platform ").nth(1).and_then(|rest| rest.split(')').next());
        let platform = platform.unwrap_or_else(|| panic!("no platform in {described}"));
        let mut flags = vec![format!("--root={}", root.join("runsc").display())];
        flags.extend(
            ["--network=none", "--host-uds=open", "--overlay2=none", "--ignore-cgroups", "--oci-seccomp"]
                .map(str::to_owned),
        );
        flags.push(format!("--platform={platform}"));
        Runsc { program: find("runsc"), flags, config, root, count: 0 }
    }

    fn bundle(&mut self, args: &[&str]) -> (String, PathBuf) {
        self.count += 1;
        let name = format!("bare-{}", self.count);
        let bundle = self.root.join(&name);
        fs::create_dir(&bundle).unwrap();
        self.config["process"]["args"] = json!(args);
        fs::write(bundle.join("config.json"), self.config.to_string()).unwrap();
        (name, bundle)
    }

    /// From starting runsc to the first byte that the guest prints.
    pub fn first_output(&mut self) -> Duration {
        let (name, bundle) = self.bundle(&["/ironclaw", "version"]);
        let mut command = Command::new(&self.program);
        command.env_clear().args(&self.flags).arg("run");
        first_output(command.arg("--bundle").arg(bundle).arg(name))
    }

    /// Starts one whose guest waits for ever in `read`: the sandbox role, before it was given a key. It lives
    /// until the other end of `input` is closed or it is killed.
    pub fn blocked(&mut self, input: std::io::PipeReader) {
        let (name, bundle) = self.bundle(&["/ironclaw", "sandbox"]);
        let status = Command::new(&self.program)
            .env_clear()
            .args(&self.flags)
            .args(["run", "--detach", "--bundle"])
            .arg(bundle)
            .arg(name)
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "bare runsc ended with {status}");
    }
}

/// A cage as the system's own tool makes it, with this executable in it.
fn cage(exe: &Path) -> Command {
    let mut command = Command::new(find("unshare"));
    command
        .args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount", "--net"])
        .args(["--ipc", "--uts", "--cgroup", "--"])
        .arg(exe)
        .env_clear();
    command
}

/// From starting `unshare` to the first byte that the program in it prints.
pub fn cage_first_output(exe: &Path) -> Duration {
    first_output(cage(exe).arg("version"))
}

/// A cage whose program waits for ever in `read`.
pub fn cage_blocked(exe: &Path, input: std::io::PipeReader) -> Child {
    cage(exe).arg("sandbox").stdin(input).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// From starting the executable to the first byte of `version`.
pub fn plain_first_output(exe: &Path) -> Duration {
    first_output(Command::new(exe).arg("version").env_clear())
}

fn first_output(command: &mut Command) -> Duration {
    let begun = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut byte = [0];
    let count = child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
    let took = begun.elapsed();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(count == 1 && output.status.success(), "the floor ended with {}: {said}", output.status);
    took
}

/// A line there and a line back over a unix socket, between two threads.
pub fn socket_round_trip(samples: usize) -> Duration {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let echo = std::thread::spawn(move || {
        let mut line = [0; 8];
        while theirs.read_exact(&mut line).is_ok() {
            theirs.write_all(&line).unwrap();
        }
    });
    let times = Samples::of(samples, || {
        let begun = Instant::now();
        let mut line = *b"ack 123\n";
        ours.write_all(&line).unwrap();
        ours.read_exact(&mut line).unwrap();
        begun.elapsed()
    });
    drop(ours);
    echo.join().unwrap();
    times.median()
}

/// One page written and made durable, on the file system of the homes: what a commit costs at the least.
pub fn durable_write(home: &Home, samples: usize) -> Duration {
    let path = home.root.join("durable");
    let mut file = File::create(&path).unwrap();
    let page = [7; 4096];
    let times = Samples::of(samples, || {
        let begun = Instant::now();
        file.write_all(&page).unwrap();
        file.sync_data().unwrap();
        begun.elapsed()
    });
    fs::remove_file(path).unwrap();
    times.median()
}

fn find(name: &str) -> PathBuf {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"].map(PathBuf::from);
    let found =
        std::env::split_paths(&search).chain(usual).map(|place| place.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed"))
}
