//! Tests of what may be granted, and of the copies of packages: what is lost or altered is never shown.

use std::collections::BTreeSet;

use super::*;
use crate::contract::ids::SessionId;
use crate::os::files;

/// A state directory with one package, and its grant.
struct World {
    host: Host,
    grant: Grant,
    digest: String,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = files::remove_tree(&self.host.state);
    }
}

impl World {
    fn new() -> Self {
        let state = std::env::temp_dir().join(format!("grants-{}", SessionId::mint()));
        std::fs::create_dir_all(state.join("packages/p@1/below")).unwrap();
        std::fs::write(state.join("packages/p@1/below/file"), "approved").unwrap();
        let host = Host::with(&state, &[]);
        let digest = packages::look(&host, "p", "1").unwrap().digest;
        let what = What::Package { version: "1".into(), digest: digest.clone() };
        Self { grant: Grant { name: "p".into(), what }, digest, host }
    }

    fn source(&self) -> PathBuf {
        self.host.state.join("packages/p@1/below/file")
    }

    fn copy(&self) -> PathBuf {
        self.host.store().join(&self.digest)
    }

    /// The daemon is started anew, and has read no copy.
    fn restart(&mut self) {
        self.host = Host::with(&self.host.state.clone(), &[]);
    }

    /// What a launch shows of it, or why it is left out.
    fn shown(&self) -> Result<String, String> {
        let group = GroupName::parse("a").unwrap();
        let (shown, mut left_out) = self.host.show(&group, std::slice::from_ref(&self.grant));
        assert_eq!(shown.len() + left_out.len(), 1);
        match shown.first() {
            Some((_, Shown::Package { source, .. })) => {
                Ok(std::fs::read_to_string(source.join("below/file")).unwrap())
            }
            _ => Err(left_out.remove(0)),
        }
    }

    fn problem(&self) -> Option<String> {
        let group = GroupName::parse("a").unwrap();
        self.host.problems(&group, std::slice::from_ref(&self.grant)).remove(0).1
    }
}

#[test]
fn a_copy_that_is_lost_is_made_again_from_what_was_approved_and_from_nothing_else() {
    let world = World::new();
    packages::keep(&world.host, "p", "1", &world.digest).unwrap();
    assert_eq!((world.shown(), world.problem()), (Ok("approved".into()), None));
    files::remove_tree(&world.copy()).unwrap();
    assert!(world.problem().unwrap().contains("lost or was altered"));
    assert!(!world.copy().exists(), "looking mends nothing");
    assert_eq!(world.shown(), Ok("approved".into()));
    assert_eq!(world.problem(), None);
    files::remove_tree(&world.copy()).unwrap();
    std::fs::write(world.source(), "another").unwrap();
    assert!(world.shown().unwrap_err().contains("not those that were approved"));
    assert!(!world.copy().exists());
    std::fs::write(world.source(), "approved").unwrap();
    assert_eq!(world.shown(), Ok("approved".into()));
}

#[test]
fn a_copy_that_was_altered_is_seen_at_the_next_start_and_never_shown() {
    let mut world = World::new();
    packages::keep(&world.host, "p", "1", &world.digest).unwrap();
    let inside = world.copy().join("below/file");
    let alter = || {
        files::set_mode(&inside, 0o644).unwrap();
        std::fs::write(&inside, "altered!").unwrap();
    };
    alter();
    world.restart();
    assert_eq!(world.problem(), None, "who asks what is wrong reads nothing");
    assert_eq!(world.shown(), Ok("approved".into()));
    alter();
    std::fs::write(world.source(), "another").unwrap();
    world.restart();
    assert!(world.shown().is_err());
    assert!(world.problem().unwrap().contains("lost or was altered"));
    // What was found is not read again: it is made anew, or left out.
    std::fs::write(&inside, "approved").unwrap();
    assert!(world.shown().is_err() && world.problem().is_some());
    // Its directory itself is looked at each time.
    std::fs::write(world.source(), "approved").unwrap();
    assert!(world.shown().is_ok());
    files::set_mode(&world.copy(), 0o755).unwrap();
    std::fs::write(world.copy().join("more"), "").unwrap();
    assert!(world.problem().is_some());
    assert_eq!(world.shown(), Ok("approved".into()));
    assert!(!world.copy().join("more").exists());
}

#[test]
fn who_asks_what_is_wrong_waits_for_nobody_that_reads() {
    let mut world = World::new();
    packages::keep(&world.host, "p", "1", &world.digest).unwrap();
    let host = world.host.clone();
    let turn = host.copies.turn();
    assert_eq!(world.problem(), None, "it was read");
    world.restart();
    let other = world.host.clone();
    let _turn = (turn, other.copies.turn());
    assert!(world.problem().unwrap().contains("look again"));
}

/// One directory on a server that is gone takes none of the others' time.
#[test]
fn what_does_not_answer_keeps_nothing_else_from_being_seen() {
    let mut host = Host::with(Path::new("/no-such-state"), &["/usr"]);
    host.looks = Looks::waiting(std::time::Duration::from_secs(5));
    let (_held, waits) = std::sync::mpsc::channel::<()>();
    let (gone, there) = ("/usr/bin", "/usr/lib");
    let _asked = host.looks.start(Path::new(gone), host.looks.begin(), move || {
        let _ = waits.recv();
        Err("late".to_owned())
    });
    let found = host.look([gone, there]);
    assert!(found[gone].as_ref().unwrap_err().contains("does not answer"));
    let which = found[there].as_ref().unwrap().which;
    let grant = |name: &str, source: &str| Grant {
        name: name.into(),
        what: What::Directory { source: source.into(), which },
    };
    let (group, grants) = (GroupName::parse("a").unwrap(), [grant("a", gone), grant("b", there)]);
    host.looks = Looks::waiting(std::time::Duration::from_secs(5));
    let (_held, waits) = std::sync::mpsc::channel::<()>();
    let _asked = host.looks.start(Path::new(gone), host.looks.begin(), move || {
        let _ = waits.recv();
        Err("late".to_owned())
    });
    let problems = host.problems(&group, &grants);
    assert!(problems[0].1.is_some() && problems[1].1.is_none(), "{problems:?}");
    let (shown, left_out) = host.show(&group, &grants);
    assert_eq!((shown.len(), left_out.len()), (1, 1), "{left_out:?}");
}

/// Whoever looks leaves the ledger's readers their threads, also when those who asked are gone.
#[test]
fn few_requests_look_at_once() {
    let host = Arc::new(Host::with(Path::new("/no-such-state"), &[]));
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let (begun, begins) = smol::channel::unbounded();
    for _ in 0..MOST_LOOKING {
        let (host, held, begun) = (host.clone(), held.clone(), begun.clone());
        let asked = crate::controlplane::tasks::spawn(async move {
            let work = move |_: &Host| {
                let _ = begun.try_send(());
                let _ = held.lock().unwrap().recv();
            };
            host.unblock(work).await;
        });
        begins.recv_blocking().unwrap();
        drop(asked);
    }
    assert!(host.looking.try_acquire().is_none());
    let mut next = Box::pin(host.unblock(|_| 7));
    let polled = smol::future::poll_once(&mut next);
    assert_eq!(smol::block_on(polled), None);
    drop(release);
    assert_eq!(smol::block_on(next), 7);
}

#[test]
fn copies_that_nobody_uses_go_and_what_a_crash_left_of_them() {
    let world = World::new();
    packages::keep(&world.host, "p", "1", &world.digest).unwrap();
    std::fs::create_dir(world.host.store().join("0123.new")).unwrap();
    let collect = |used: &[&String]| {
        let used: BTreeSet<String> = used.iter().map(|digest| (*digest).clone()).collect();
        packages::collect(&world.host, || Ok::<_, ()>(used))
    };
    assert_eq!(collect(&[&world.digest]), Ok(1));
    assert!(world.shown().is_ok());
    assert_eq!(packages::collect(&world.host, || Err(())), Err(()));
    assert!(world.copy().exists(), "who does not know removes nothing");
    assert_eq!(collect(&[]), Ok(1));
    assert_eq!(std::fs::read_dir(world.host.store()).unwrap().count(), 0);
}

#[test]
fn a_copy_leaves_the_room_that_launches_need() {
    let mut world = World::new();
    world.host.space = FreeSpace::new(&world.host.state, MinFree::Bytes(u64::MAX));
    let said = packages::keep(&world.host, "p", "1", &world.digest).unwrap_err();
    assert!(said.contains("--min-free"), "{said}");
    assert_eq!(std::fs::read_dir(world.host.store()).unwrap().count(), 0, "nothing stays of it");
    world.host.space = FreeSpace::new(&world.host.state, MinFree::Bytes(0));
    packages::keep(&world.host, "p", "1", &world.digest).unwrap();
}

/// A link of ours leads to where it leads, and what holds that is no more to be seen than what holds the link.
#[test]
fn what_ours_leads_to_is_ours() {
    let mut host = Host::with(Path::new("/no-such-state"), &["/usr", "/proc"]);
    let link = std::env::temp_dir().join(format!("link-{}", SessionId::mint()));
    std::os::unix::fs::symlink("/usr/share/doc", &link).unwrap();
    host.private.push(link.clone());
    for path in ["/usr/share", "/usr"] {
        let said = mounts::look(&host, Path::new(path)).unwrap_err();
        assert!(said.contains("no agent may see"), "{path}: {said}");
    }
    assert!(mounts::look(&host, Path::new("/usr/lib")).is_ok());
    std::fs::remove_file(link).unwrap();
}

/// INV-042.
#[test]
fn inv_042_no_name_means_anything_to_a_shell_or_a_path() {
    for good in ["a", "0", "left-pad", "lib_x.y", "1.2.3-rc.1"] {
        assert!(is_name(good), "{good}");
    }
    for bad in BAD_NAMES {
        assert!(!is_name(bad), "{bad:?}");
    }
    assert!(!is_name(&"x".repeat(NAME_BYTES + 1)) && is_name(&"x".repeat(NAME_BYTES)));
}

#[test]
fn nothing_of_the_daemons_own_is_shown_nor_anything_above_it() {
    let host = Host::with(Path::new("/usr/share"), &["/usr"]);
    for path in ["/usr/share", "/usr"] {
        let said = mounts::look(&host, Path::new(path)).unwrap_err();
        assert!(said.contains("no agent may see"), "{path}: {said}");
    }
    assert!(mounts::look(&host, Path::new("/usr/lib")).is_ok());
}

const BAD_NAMES: &[&str] = &[
    "",
    ".",
    "..",
    "-x",
    "_x",
    ".x",
    "a..b",
    "a/b",
    "/a",
    "a/",
    "../a",
    "a b",
    " a",
    "a\n",
    "a\0",
    "a\t",
    "A",
    "a;b",
    "a&b",
    "a|b",
    "a>b",
    "a<b",
    "a$b",
    "$(a)",
    "`a`",
    "a'b",
    "a\"b",
    "a\\b",
    "a*",
    "a?",
    "a[b]",
    "a{b}",
    "a(b)",
    "a!b",
    "a#b",
    "a~b",
    "a%b",
    "a^b",
    "a=b",
    "a+b",
    "a,b",
    "a:b",
    "a@b",
    "é",
    "a\u{202e}",
    "a\u{200b}",
];
