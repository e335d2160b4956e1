//! Destinations: only where a door leads, one name for a chat, and what was shown is what is given.

use super::*;

const OPS: &str = r#"{"destinations":[{"name":"ops","channel":"api","chat":"ops"}]}"#;

fn named(name: &str, chat: &str) -> String {
    format!(r#"{{"name":"{name}","channel":"api","chat":"{chat}"}}"#)
}

fn texts(refused: NotSubmitted) -> String {
    let NotSubmitted::Invalid(refusals) = refused else { panic!("{refused:?}") };
    refusals.into_iter().map(|refusal| refusal.text).collect::<Vec<_>>().join("; ")
}

#[test]
fn what_no_door_leads_to_is_not_taken() {
    let world = World::new();
    for (more, says) in [
        (r#""channel":"pigeon","chat":"1""#, "no channel but api"),
        (r#""channel":"api","chat":"a\nb""#, "control characters"),
        (r#""channel":"api","chat":"ops","thread":"t""#, "no threads"),
        (r#""channel":"api","chat":"ops","instance":"two""#, "no instances"),
    ] {
        for (kind, name, field) in [("wiring", "a", "destinations"), ("create_agent", "new", "destinations")]
        {
            let payload = format!("{{\"{field}\":[{{\"name\":\"ops\",{more}}}]}}");
            let Err(NotSubmitted::Unsupported(said)) = world.submit(kind, name, &payload) else {
                panic!("{payload}")
            };
            assert!(said.contains(says), "{payload}: {said}");
        }
    }
    // One that is as it should be beside one that is not: all or nothing.
    let both = format!(
        "{{\"destinations\":[{},{}]}}",
        named("one", "1"),
        r#"{"name":"x","channel":"t","chat":"1"}"#
    );
    assert!(matches!(world.submit("wiring", "a", &both), Err(NotSubmitted::Unsupported(_))));
    for bad in [
        r#"{"name":"ops","chat":"ops"}"#,
        r#"{"name":"ops","channel":"api"}"#,
        r#"{"name":"ops","channel":"api","chat":"ops","agent_group":"b"}"#,
        r#"{"name":"ops","channel":"api","chat":"ops","kind":"agent"}"#,
        r#"{"name":"ops","channel":"api","chat":"ops","kind":"person"}"#,
        r#"{"name":"here","channel":"api","chat":"ops"}"#,
        r#"{"name":"current","channel":"api","chat":"ops"}"#,
        r#"{"name":"Ops","channel":"api","chat":"ops"}"#,
        r#"{"name":"../x","channel":"api","chat":"ops"}"#,
        r#"{"name":"","channel":"api","chat":"ops"}"#,
        r#""ops""#,
    ] {
        texts(world.submit("wiring", "a", &format!("{{\"destinations\":[{bad}]}}")).unwrap_err());
    }
}

#[test]
fn a_chat_has_one_name_and_an_agent_so_many() {
    let world = World::new();
    let change = world.submit("wiring", "a", OPS).unwrap();
    assert!(
        change.diff.contains("destination ops") && change.diff.contains("+ chat ops on api"),
        "{}",
        change.diff
    );
    world.approve("local:owner", &change).unwrap();
    let second = format!("{{\"destinations\":[{}]}}", named("alerts", "ops"));
    assert!(
        texts(world.submit("wiring", "a", &second).unwrap_err()).contains("alerts and ops would be the same")
    );
    let twice = format!("{{\"destinations\":[{},{}]}}", named("x", "1"), named("y", "1"));
    assert!(texts(world.submit("wiring", "b", &twice).unwrap_err()).contains("x and y would be the same"));
    // Of two steps for one name, what is as it was already would not be shown.
    for both in [
        format!("{{\"destinations\":[{}],\"remove_destinations\":[\"ops\"]}}", named("ops", "ops")),
        format!("{{\"destinations\":[{},{}]}}", named("ops", "ops"), named("ops", "elsewhere")),
    ] {
        assert!(
            texts(world.submit("wiring", "a", &both).unwrap_err()).contains("ops is there twice"),
            "{both}"
        );
    }
    // Given another name in one change, and another chat at once.
    let moved =
        format!("{{\"destinations\":[{}],\"remove_destinations\":[\"ops\"]}}", named("alerts", "ops"));
    let change = world.submit("wiring", "a", &moved).unwrap();
    world.approve("local:owner", &change).unwrap();
    let known = || -> Vec<(String, String)> {
        let all = world.write(|tx| destinations::of(tx, &group("a")));
        all.into_iter().map(|one| (one.name, one.target.chat)).collect()
    };
    assert_eq!(known(), [("alerts".to_owned(), "ops".to_owned())]);
    assert!(texts(world.submit("wiring", "a", &second).unwrap_err()).contains("nothing would change"));
    for part in 0..2 {
        let more: Vec<String> =
            (0..50).map(|n| named(&format!("n{part}-{n}"), &format!("c{part}-{n}"))).collect();
        let change = world.submit("wiring", "a", &format!("{{\"destinations\":[{}]}}", more.join(",")));
        match part {
            0 => world.approve("local:owner", &change.unwrap()).map(drop).unwrap(),
            _ => assert!(texts(change.unwrap_err()).contains("101 destinations, and 100 are the most")),
        }
    }
    assert_eq!(known().len(), 51);
}

#[test]
fn what_was_shown_of_a_destination_is_what_is_approved() {
    let world = World::new();
    let one = world.submit("wiring", "a", OPS).unwrap();
    let elsewhere =
        world.submit("wiring", "a", r#"{"destinations":[{"name":"ops","channel":"api","chat":"two"}]}"#);
    world.approve("local:owner", &elsewhere.unwrap()).unwrap();
    let Err(NotDecided::Stale(now)) = world.approve("local:owner", &one) else { panic!("approved") };
    assert!(now.diff.contains("- chat two on api\n+ chat ops on api"), "{}", now.diff);
    // Another one who may decide for this agent may do so; who may not, may not.
    assert!(matches!(world.approve("local:nobody", &now), Err(NotDecided::Forbidden(_))));
    world.approve("local:ann", &now).unwrap();
    let gone = world.submit("wiring", "a", r#"{"remove_destinations":["ops"]}"#).unwrap();
    world.approve("local:owner", &gone).unwrap();
    assert_eq!(world.write(|tx| destinations::of(tx, &group("a"))), []);
    // A new agent has those that it is made with.
    let made = world.submit("create_agent", "new", OPS).unwrap();
    assert!(made.diff.contains("new: destination ops"), "{}", made.diff);
    world.approve("local:owner", &made).unwrap();
    assert_eq!(world.write(|tx| destinations::of(tx, &group("new"))).len(), 1);
}

#[test]
fn no_policy_gives_a_destination() {
    let mut world = World::new();
    let file = world.path.join("policy.json");
    std::fs::write(&file, r#"{"auto_approve": ["wiring"]}"#).unwrap();
    world.policy = Policy::load(&file).unwrap();
    let given = world.submit("wiring", "a", OPS).unwrap();
    assert_eq!(given.state, State::Pending);
    world.approve("local:owner", &given).unwrap();
    // What is taken away reaches nobody.
    let taken = world.submit("wiring", "a", "{\"remove_destinations\":[\"ops\"]}").unwrap();
    assert_eq!(taken.state, State::Applied);
}

/// What stands beside a step is read by its approver too: who else is there, and what somebody may do already.
#[test]
fn who_approves_reads_what_stands_beside_it_now() {
    let world = World::new();
    let wire = r#"{"add":[{"channel":"telegram","chat":"1","engage":"mention"}]}"#;
    let (first, second) =
        (world.submit("wiring", "a", wire).unwrap(), world.submit("wiring", "b", wire).unwrap());
    assert!(!second.diff.contains("also there"), "{}", second.diff);
    world.approve("local:owner", &first).unwrap();
    let Err(NotDecided::Stale(now)) = world.approve("local:owner", &second) else { panic!("{second:?}") };
    assert!(now.diff.contains("also there: a"), "{}", now.diff);
    world.approve("local:owner", &now).unwrap();

    let grant = |role: &str| format!(r#"{{"grant":[{{"user":"local:eve","role":"{role}"}}]}}"#);
    let approver = world.submit("permissions", "a", &grant("approver")).unwrap();
    let admin = world.submit("permissions", "b", &grant("admin")).unwrap();
    world.approve("local:owner", &approver).unwrap();
    let Err(NotDecided::Stale(now)) = world.approve("local:owner", &admin) else { panic!("{admin:?}") };
    assert!(now.diff.contains("until now approver of a"), "{}", now.diff);
    world.approve("local:owner", &now).unwrap();
}

#[test]
fn a_scope_is_a_text_or_left_out() {
    let world = World::new();
    for scope in ["7", "{}", "[]", "true", r#""b""#] {
        let payload = format!(r#"{{"grant":[{{"user":"local:eve","role":"approver","scope":{scope}}}]}}"#);
        assert!(texts(world.submit("permissions", "a", &payload).unwrap_err()).contains("scope"), "{scope}");
    }
    let null = r#"{"grant":[{"user":"local:eve","role":"approver","scope":null}]}"#;
    assert!(world.submit("permissions", "a", null).is_ok());
}
