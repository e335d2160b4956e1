//! The power goes: the state is on a disk of its own that forgets, at a random moment, whatever nobody waited for
//! to be written, and everything that ran ends. Afterwards every message that was accepted is answered exactly
//! once, every answer that was seen is still there, and no conversation lost its memory.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::crash::all_answered_once;
use crate::world::http::Events;
use crate::world::{
    Build, Chat, Daemon, Entry, Home, Random, Runtime, Serve, User, eventually, install, leftovers, marker,
    rounds,
};

/// A file system in a file. Only the control plane sees it mounted, in a mount namespace of its own: that of
/// another test's sandbox must not keep it in use.
struct Disk {
    home: Home,
    image: PathBuf,
}

/// Nothing is written by itself, for longer than any test, nor out of kindness to programs that replace a file
/// without waiting: what is found later, somebody has waited for.
const OPTIONS: &str = "loop,commit=900,noauto_da_alloc";

impl Disk {
    fn new() -> Disk {
        let mut home = Home::new(Build::Release, User::Root);
        let image = home.root.join("disk");
        fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        let script = format!(
            "#!/bin/sh\nexec unshare -m --propagation private \
             sh -c 'mount -o {OPTIONS} {} {} && exec {} \"$@\"' sh \"$@\"\n",
            image.display(),
            home.root.join("lib").display(),
            home.exe.display()
        );
        let program = home.root.join("bin/on-its-disk");
        install::script(&script, &program);
        home.exe = program;
        Disk { home, image }
    }

    /// Starts the control plane on it; its state is then seen where it always is.
    fn ready(&self) -> Daemon {
        let mut daemon = Serve::new(&self.home, Runtime::Native).start();
        let seen = self.home.state();
        let _ = fs::remove_file(&seen);
        std::os::unix::fs::symlink(format!("/proc/{}/root{}", daemon.id(), seen.display()), &seen).unwrap();
        daemon.wait_ready();
        daemon
    }

    /// What nobody waited for is gone: so the rest of the test means something.
    #[track_caller]
    fn forgot(&self, round: usize) {
        let kept = fs::read_to_string(self.home.state().join("../unsynced")).unwrap_or_default();
        assert_eq!(kept, "", "round {round}: this disk writes by itself");
    }

    /// From now on nothing reaches the disk; then everything ends.
    fn cut(&self, daemon: &Daemon) {
        let directory = format!("/proc/{}/root{}", daemon.id(), self.home.root.join("lib").display());
        fs::write(format!("{directory}/unsynced"), "for which nobody waited").unwrap();
        run(Command::new("python3").args(["-c", SHUT_DOWN, &directory, &daemon.id().to_string()]));
        self.home.processes().into_iter().for_each(leftovers::kill);
        eventually("the disk is free", || {
            let devices = Command::new("losetup").arg("-j").arg(&self.image).output().unwrap();
            assert!(devices.status.success(), "{devices:?}");
            devices.stdout.is_empty().then_some(())
        });
    }
}

/// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: neither files nor the file system's own log are written out.
/// The process is killed just before, so that it tells nobody anything more: a sync that is under way just then
/// ends as if it had gone well. The open directory keeps the file system from being put away in order.
const SHUT_DOWN: &str = "import fcntl, os, signal, struct, sys
directory = os.open(sys.argv[1], os.O_RDONLY)
os.kill(int(sys.argv[2]), signal.SIGKILL)
fcntl.ioctl(directory, 0x8004587d, struct.pack('I', 2))";

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// What the client of one chat knows.
#[derive(Default)]
struct Client {
    /// Texts that were accepted.
    accepted: Vec<String>,
    /// A text of which it does not know whether it was accepted, and its event.
    unsure: Option<(String, String)>,
    /// Entries of the history that it was shown.
    shown: Vec<Entry>,
}

impl Client {
    /// Sends one message after the other until the connection breaks or the daemon cannot store it.
    fn talk(&mut self, chat: &Chat<'_>) {
        loop {
            // What was not acknowledged is sent again, as a client does.
            let (text, event) = self.unsure.take().unwrap_or_else(|| (marker(), marker()));
            match chat.try_say(&text, &event) {
                Ok(answer) if answer.status == 202 => self.accepted.push(text),
                _ => {
                    self.unsure = Some((text, event));
                    return;
                }
            }
        }
    }
}

/// Reads what a chat says until the connection breaks.
fn listen(mut events: Events) -> Vec<Entry> {
    let mut shown = Vec::new();
    while let Some(event) = events.try_next() {
        if let Ok(value) = serde_json::from_str::<Value>(&event.data)
            && value.get("position").is_some()
        {
            shown.push(Entry::from_json(&value));
        }
    }
    shown
}

const CHATS: usize = 3;

#[test]
fn a_machine_without_power_loses_nothing_that_was_said() {
    let disk = Disk::new();
    let mut random = Random::of_run();
    let names: [String; CHATS] = std::array::from_fn(|number| format!("chat-{number}"));
    let mut clients: [Client; CHATS] = std::array::from_fn(|_| Client::default());
    for round in 0..rounds() {
        let daemon = disk.ready();
        disk.forgot(round);
        for (name, client) in names.iter().zip(&mut clients) {
            remembers(&daemon.chat("mock-agent", name), client, round);
        }
        std::thread::scope(|scope| {
            let mut listeners = Vec::new();
            for (name, client) in names.iter().zip(&mut clients) {
                let chat = daemon.chat("mock-agent", name);
                let events = chat.events(client.shown.last().map_or(0, |entry| entry.position));
                listeners.push(scope.spawn(|| listen(events)));
                scope.spawn(move || client.talk(&chat));
            }
            std::thread::sleep(Duration::from_millis(random.below(400)));
            disk.cut(&daemon);
            listeners.into_iter().map(|listener| listener.join().unwrap()).collect::<Vec<_>>()
        })
        .into_iter()
        .zip(&mut clients)
        .for_each(|(shown, client)| client.shown.extend(shown));
    }
    let accepted: usize = clients.iter().map(|client| client.accepted.len()).sum();
    let answers = clients.iter().flat_map(|client| &client.shown).filter(|entry| entry.direction == "out");
    let answers = answers.count();
    assert!(accepted > 0 && answers > 0, "{accepted} messages were accepted, {answers} answers shown");
    let daemon = disk.ready();
    for (name, client) in names.iter().zip(&mut clients) {
        let chat = daemon.chat("mock-agent", name);
        remembers(&chat, client, rounds());
        if let Some((text, event)) = client.unsure.take() {
            chat.say_as(&text, &event);
            client.accepted.push(text);
        }
        println!("{name}: {} messages, {} entries were shown", client.accepted.len(), client.shown.len());
        // What is answered after a later message cannot still bring an earlier one.
        all_answered_once(&chat, &client.accepted[client.accepted.len().saturating_sub(5)..]);
        let history = chat.history();
        let said = |direction: &str| -> String {
            let entries = history.iter().filter(|entry| entry.direction == direction);
            entries.map(|entry| format!("{}\n", entry.text)).collect()
        };
        let answers = said("out");
        for text in &client.accepted {
            assert_eq!(answers.matches(text.as_str()).count(), 1, "answers to {text} in {history:#?}");
        }
        assert_eq!(said("notice"), "");
    }
    assert!(daemon.stop().success());
}

/// Whatever was accepted or shown is in the history.
#[track_caller]
fn remembers(chat: &Chat<'_>, client: &Client, round: usize) {
    let history = chat.history();
    for text in &client.accepted {
        let count = history.iter().filter(|entry| entry.direction == "in" && entry.text == *text).count();
        assert_eq!(count, 1, "round {round}: {text} was accepted");
    }
    for shown in &client.shown {
        let there = history.iter().any(|entry| {
            (entry.position, &entry.direction, &entry.text) == (shown.position, &shown.direction, &shown.text)
        });
        assert!(there, "round {round}: {shown:?} was shown, and is not among {history:#?}");
    }
}
