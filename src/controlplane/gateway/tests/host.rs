//! What of the host is granted: only what may be, pinned to what was seen, all of a change or none of it.

use super::*;
use crate::controlplane::grants::packages;
use crate::controlplane::store::revisions;

/// What nobody may pass off as the name of a package, a version or a mount.
const BAD_NAMES: &[&str] = &[
    "", ".", "..", "../x", "x/../y", "x/y", "/x", "x y", "x;y", "x&y", "x|y", "x>y", "$(x)", "`x`", "x'y",
    "x\\\"y", "x\\\\y", "x*", "x\\n", "x\\u0000", "X", "-x", ".x", "x..y", "x\\u202e", "é",
];

impl World {
    /// A change of packages that is approved, with nothing done on the host.
    fn approved(&self, payload: &str) -> Change {
        self.approve("local:owner", &self.submit("packages", "a", payload).unwrap()).unwrap()
    }

    /// The same, done.
    fn give(&self, payload: &str) {
        assert_eq!(self.finish(&self.approved(payload), None).state, State::Applied);
    }

    fn packages(&self) -> Vec<String> {
        self.facts().into_iter().filter(|(key, _)| key.starts_with("package")).map(|(_, what)| what).collect()
    }
}

fn texts(refused: NotSubmitted) -> String {
    let NotSubmitted::Invalid(refusals) = refused else { panic!("{refused:?}") };
    refusals.into_iter().map(|refusal| refusal.text).collect::<Vec<_>>().join("; ")
}

#[test]
fn inv_042_names_that_a_shell_or_a_path_would_read_otherwise_are_refused_in_every_field() {
    let world = World::new();
    for name in BAD_NAMES {
        for (kind, payload) in [
            ("packages", format!("{{\"add\":[\"{name}@1\"]}}")),
            ("packages", format!("{{\"add\":[\"p@{name}\"]}}")),
            ("packages", format!("{{\"remove\":[\"{name}\"]}}")),
            ("mounts", format!("{{\"add\":[{{\"name\":\"{name}\"}}]}}")),
            ("mounts", format!("{{\"remove\":[\"{name}\"]}}")),
        ] {
            let said = texts(world.submit(kind, "a", &payload).unwrap_err());
            assert!(said.contains("expected"), "{payload}: {said}");
        }
    }
    for payload in
        ["{\"add\":[\"p\"]}", "{\"add\":[\"p@1@2\"]}", "{\"add\":[{\"name\":\"p\",\"version\":\"1\"}]}"]
    {
        assert!(texts(world.submit("packages", "a", payload).unwrap_err()).contains("NAME@VERSION"));
    }
}

#[test]
fn inv_041_a_source_through_a_link_or_outside_is_refused() {
    let world = World::new();
    for (source, says) in [
        ("/usr/../etc", "without . and .."),
        ("/usr/./share", "without . and .."),
        ("usr/share", "absolute path"),
        ("/usr/share/", "without . and .."),
        ("/proc/self/root/usr", "not below"),
        // Nothing is told of what is elsewhere, not even whether it is there.
        ("/var/no-such", "not below"),
        ("/etc/passwd", "not a directory"),
        ("/usr/no-such", "not there"),
        ("/var", "not below"),
        ("/", "not below"),
    ] {
        let payload = format!("{{\"add\":[{{\"name\":\"m\",\"source\":\"{source}\"}}]}}");
        let said = texts(world.submit("mounts", "a", &payload).unwrap_err());
        assert!(said.contains(says), "{source}: {said}");
    }
    for (field, says) in [
        (r#""source":"/usr/share","access":"rw""#, "makes for it"),
        (r#""access":"ro""#, "needs source"),
        (r#""access":"x""#, "expected one of"),
        (r#""device":1"#, "device"),
    ] {
        let payload = format!("{{\"add\":[{{\"name\":\"m\",{field}}}]}}");
        let said = texts(world.submit("mounts", "a", &payload).unwrap_err());
        assert!(said.contains(says), "{field}: {said}");
    }
    let mut none = World::new();
    none.host = Host::with(&none.path, &[]);
    let said =
        texts(none.submit("mounts", "a", r#"{"add":[{"name":"m","source":"/usr/share"}]}"#).unwrap_err());
    assert!(said.contains("--mount-root DIR"), "{said}");
}

/// A decision that was made without a look at what the change names does nothing.
#[test]
fn a_mount_that_was_not_looked_at_again_is_not_granted() {
    let world = World::new();
    let change = world.submit("mounts", "a", r#"{"add":[{"name":"m","source":"/usr/share"}]}"#).unwrap();
    assert!(change.diff.contains("- none\n+ to read: /usr/share (device"), "{}", change.diff);
    let (keyring, policy) = (world.keyring.clone(), world.policy.clone());
    let (id, digest) = (change.id.clone(), Some(change.digest.clone()));
    let decided = world.write(move |tx| {
        let decide = Decide { verdict: Verdict::Approve, digest, note: String::new() };
        let facts = Facts::default();
        decide::decide(tx, &keyring, &policy, &person("local:owner"), &id, &decide, &facts)
    });
    assert!(matches!(decided, Err(NotDecided::Invalid(_))), "{decided:?}");
    assert_eq!(world.facts().get("mount a m"), None);
    world.approve("local:owner", &change).unwrap();
    assert!(world.facts()["mount a m"].contains("/usr/share"));
}

#[test]
fn no_agent_has_more_than_a_person_can_look_through() {
    let world = World::new();
    let many = |from: usize, to: usize| {
        let all: Vec<String> = (from..to).map(|n| format!("{{\"name\":\"m{n}\"}}")).collect();
        format!("{{\"add\":[{}]}}", all.join(","))
    };
    let change = world.submit("mounts", "a", &many(0, 16)).unwrap();
    world.approve("local:owner", &change).unwrap();
    assert!(texts(world.submit("mounts", "a", &many(16, 17)).unwrap_err()).contains("16 are the most"));
    assert!(texts(world.submit("mounts", "a", &many(0, 17)).unwrap_err()).contains("16 are the most"));
    let swap = r#"{"add":[{"name":"new"}],"remove":["m0"]}"#;
    world.approve("local:owner", &world.submit("mounts", "a", swap).unwrap()).unwrap();
}

/// INV-033: the last of several effects fails, and none of them has happened.
#[test]
fn inv_033_a_change_whose_last_effect_fails_has_no_effect() {
    let world = World::new();
    let before = world.facts();
    let payload = r#"{"add":[{"name":"one"},{"name":"two","source":"/usr/share"},{"name":"three"}]}"#;
    let change = world.submit("mounts", "a", payload).unwrap();
    world.write(|tx| {
        // Whatever it is that the ledger cannot do just then.
        let sql = "CREATE TRIGGER broken BEFORE INSERT ON grants WHEN new.name = 'three'
                   BEGIN SELECT RAISE(ABORT, 'broken'); END";
        Ok(tx.execute_batch(sql)?)
    });
    let (keyring, policy) = (world.keyring.clone(), world.policy.clone());
    let (id, digest) = (change.id.clone(), Some(change.digest.clone()));
    let facts = Facts::again(&world.host, &change);
    let failed = world.ledger.write_blocking(Step::Other, move |tx| {
        let decide = Decide { verdict: Verdict::Approve, digest, note: String::new() };
        decide::decide(tx, &keyring, &policy, &person("local:owner"), &id, &decide, &facts)
    });
    assert!(matches!(failed, Err(StoreError::Sqlite(_))), "{failed:?}");
    assert_eq!(world.facts(), before);
    let id = change.id.clone();
    let (state, acts) = world.write(move |tx| {
        let state = changes::get(tx, &id)?.unwrap().state;
        let lines = audit::after(tx, 0, 100)?.into_iter().map(|link| link.line).collect::<Vec<_>>();
        Ok((state, lines.join("\n")))
    });
    assert_eq!(state, State::Pending);
    assert!(!acts.contains("change.approved") && !acts.contains("change.applied"), "{acts}");
    world.write(|tx| Ok(tx.execute_batch("DROP TRIGGER broken")?));
    assert_eq!(world.approve("local:owner", &change).unwrap().state, State::Applied);
    assert_eq!(world.facts().len(), before.len() + 3);
}

/// What is there already is left out of the effects, and stands in nobody's way when the rest is decided.
#[test]
fn a_package_that_is_there_already_is_no_step() {
    let world = World::new();
    world.give(r#"{"add":["p@1"]}"#);
    let change = world.submit("packages", "a", r#"{"add":["p@1","q@1"]}"#).unwrap();
    assert_eq!(effects_of(&change).unwrap().len(), 1);
    assert_eq!(world.approve("local:owner", &change).unwrap().state, State::Approved);
}

/// Nothing of a change holds before all of it does: neither what it gives, nor what it takes away.
#[test]
fn a_change_gives_nothing_before_all_of_its_work_on_the_host_is_done() {
    let world = World::new();
    world.give(r#"{"add":["p@1"]}"#);
    let before = world.facts();
    let change = world.approved(r#"{"add":["q@1"],"remove":["p"]}"#);
    assert_eq!(world.facts(), before);
    let failed = world.finish(&change, Some("no room"));
    assert_eq!((failed.state, failed.failure.as_deref()), (State::Approved, Some("no room")));
    assert_eq!(world.facts(), before);
    assert_eq!(world.finish(&change, None).state, State::Applied);
    assert!(matches!(&world.packages()[..], [q] if q.contains("\"1\"")), "{:?}", world.packages());
    assert!(world.facts().contains_key("package a q"));
}

/// The newest decision about a thing is the one that holds, in whatever order the work on the host ends.
#[test]
fn a_change_that_was_superseded_after_its_approval_lapses() {
    let world = World::new();
    let first = world.approved(r#"{"add":["p@1"]}"#);
    world.finish(&first, Some("no room"));
    // Who looks at the second sees that the first was decided.
    let early = world.submit("packages", "a", r#"{"add":["p@2"]}"#).unwrap();
    world.give(r#"{"add":["p@2"]}"#);
    assert!(matches!(
        world.approve("local:owner", &early),
        Err(NotDecided::Stale(_) | NotDecided::Invalid(_))
    ));
    let before = world.facts();
    let lapsed = world.finish(&first, None);
    assert_eq!(lapsed.state, State::Expired);
    assert!(lapsed.failure.unwrap().contains("was replaced after it was approved"));
    assert_eq!(world.facts(), before);
    // One about something else is none the worse for it.
    world.give(r#"{"add":["q@1"]}"#);
    // Of two that wait, the one that was decided last.
    let (one, two) =
        (world.approved(r#"{"add":["p@1"]}"#), world.approved(r#"{"remove":["q"],"add":["p@1"]}"#));
    assert_eq!(world.finish(&two, None).state, State::Applied);
    assert_eq!(world.finish(&one, None).state, State::Expired);
    // Nobody's package outlives its agent.
    let last = world.approved(r#"{"add":["q@1"]}"#);
    world.write(|tx| revisions::bump(tx, "agent/a"));
    assert_eq!(world.finish(&last, None).state, State::Expired);
}

#[test]
fn what_is_approved_and_not_done_can_be_taken_back() {
    let world = World::new();
    let before = world.facts();
    let change = world.approved(r#"{"add":["p@1"]}"#);
    world.finish(&change, Some("no room"));
    let withdraw = |change: &Change| {
        let (keyring, id) = (world.keyring.clone(), change.id.clone());
        world.write(move |tx| decide::withdraw(tx, &keyring, &person("local:owner"), &id))
    };
    assert_eq!(withdraw(&change).unwrap().change.state, State::Withdrawn);
    assert!(matches!(withdraw(&change), Err(NotDecided::NotPending(_))));
    let (keyring, id) = (world.keyring.clone(), change.id.clone());
    assert!(world.write(move |tx| decide::finish(tx, &keyring, &id, None)).is_none());
    assert_eq!(world.facts(), before);
    let done = world.submit("mounts", "a", r#"{"add":[{"name":"m"}]}"#).unwrap();
    world.approve("local:owner", &done).unwrap();
    assert!(matches!(withdraw(&done), Err(NotDecided::NotPending(_))), "what is done is done");
}

/// Each was within the bounds when it was approved.
#[test]
fn changes_that_wait_for_their_work_do_not_add_up_to_more_than_an_agent_may_have() {
    let world = World::new();
    let directory = |name: usize| world.path.join(format!("state/packages/many{name}@1"));
    for name in 0..33 {
        std::fs::create_dir(directory(name)).unwrap();
    }
    let add = |from: usize, to: usize| {
        let words: Vec<String> = (from..to).map(|name| format!("\"many{name}@1\"")).collect();
        format!("{{\"add\":[{}]}}", words.join(","))
    };
    let (one, two) = (world.approved(&add(0, 20)), world.approved(&add(20, 33)));
    assert_eq!(world.finish(&one, None).state, State::Applied);
    let failed = world.finish(&two, None);
    assert_eq!(failed.state, State::Approved);
    assert!(failed.failure.unwrap().contains("33 packages, and 32 are the most"));
    assert_eq!(world.packages().len(), 20);
}

/// A grant counts from the record of the act that made it hold.
#[test]
fn a_grant_counts_once_its_record_is_in_the_audit_files() {
    let world = World::new();
    world.give(r#"{"add":["p@1"]}"#);
    let first = world.write(|tx| Ok(audit::tip(tx)?.0));
    world.approve("local:owner", &world.submit("mounts", "a", r#"{"add":[{"name":"m"}]}"#).unwrap()).unwrap();
    world.give(r#"{"add":["p@2"]}"#);
    let last = world.write(|tx| Ok(audit::tip(tx)?.0));
    let counts = |exported: u64| {
        let (counted, waiting) = world.write(move |tx| grants::recorded(tx, &group("a"), exported));
        assert_eq!(counted.len() + waiting.len(), 2);
        counted.into_iter().map(|grant| grant.name).collect::<Vec<_>>()
    };
    assert_eq!(counts(first), [""; 0]);
    assert_eq!(counts(last - 1), ["m"]);
    assert_eq!(counts(last), ["m", "p"]);
}

#[test]
fn a_package_is_known_by_all_that_is_in_it_and_copied_only_as_it_was_approved() {
    let world = World::new();
    let directory = world.path.join("state/packages/p@1");
    let look = || packages::look(&world.host, "p", "1").unwrap();
    let first = look();
    assert_eq!((first.files, first.bytes, first.clone()), (1, 3, look()));
    let digests: Vec<String> = [
        Box::new(|| std::fs::write(directory.join("file"), "p@X").unwrap()) as Box<dyn Fn()>,
        Box::new(|| std::fs::rename(directory.join("file"), directory.join("elif")).unwrap()),
        Box::new(|| {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(directory.join("elif"), mode).unwrap();
        }),
        Box::new(|| std::fs::create_dir(directory.join("empty")).unwrap()),
    ]
    .iter()
    .map(|alter| {
        alter();
        look().digest
    })
    .collect();
    let mut all: Vec<&String> = digests.iter().chain([&first.digest]).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 5, "each of them shows");

    let now = look().digest;
    let store = world.path.join("state/packages/.store");
    let wrong = packages::keep(&world.host, "p", "1", &first.digest).unwrap_err();
    assert!(wrong.contains("not those that were approved"), "{wrong}");
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 0, "nothing stays of it");
    // Half a copy that a crash left is in nobody's way.
    std::fs::create_dir_all(store.join(format!("{now}.new/x"))).unwrap();
    packages::keep(&world.host, "p", "1", &now).unwrap();
    packages::keep(&world.host, "p", "1", &now).unwrap();
    assert_eq!(std::fs::read_to_string(store.join(&now).join("elif")).unwrap(), "p@X");
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 1);
    // Later changes to what the operator has there change nothing.
    std::fs::remove_dir_all(&directory).unwrap();
    packages::keep(&world.host, "p", "1", &now).unwrap();
}

#[test]
fn a_package_holds_plain_files_and_directories_only() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let world = World::new();
    let directory = world.path.join("state/packages/q@1");
    let path = directory.join("odd");
    let refused = |says: &str| {
        let wrong = packages::look(&world.host, "q", "1").unwrap_err();
        assert!(wrong.contains(says), "{wrong}");
        std::fs::remove_file(&path).unwrap();
    };
    symlink("/etc/passwd", &path).unwrap();
    refused("symbolic link");
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    refused("neither a regular file");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755)).unwrap();
    refused("set-uid");
    std::fs::write(directory.join("a\nb"), "").unwrap();
    assert!(packages::look(&world.host, "q", "1").unwrap_err().contains("control characters"));
    std::fs::remove_file(directory.join("a\nb")).unwrap();
    std::fs::create_dir_all(directory.join(vec!["d"; 32].join("/"))).unwrap();
    assert!(packages::look(&world.host, "q", "1").unwrap_err().contains("deeper"));
    std::fs::remove_dir_all(&directory).unwrap();
    symlink("/etc", &directory).unwrap();
    assert!(packages::look(&world.host, "q", "1").unwrap_err().contains("is not a directory"));
}
