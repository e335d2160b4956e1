//! Cards as texts and buttons.

use super::card::{self, Face};
use crate::contract::ids::{ChangeId, GroupName, MessageId, UserId};
use crate::contract::time::Millis;
use crate::controlplane::gateway::decide::Verdict;
use crate::controlplane::keys::Keyring;
use crate::controlplane::store::approvals::Card;
use crate::controlplane::store::changes::{Change, Decision, State};
use crate::controlplane::store::tests::{Scratch, claim};

fn change(diff: &str) -> Change {
    Change {
        id: ChangeId::mint(),
        kind: "persona".to_owned(),
        group: GroupName::parse("ann").unwrap(),
        state: State::Pending,
        requested_by: "agent:ann".to_owned(),
        via: "session:x".to_owned(),
        label: String::new(),
        reason: "because".to_owned(),
        payload: "{}".to_owned(),
        effects: "[]".to_owned(),
        diff: diff.to_owned(),
        base: "[]".to_owned(),
        digest: "d1".to_owned(),
        idempotency_key: None,
        request: String::new(),
        submitted_at: Millis(0),
        expires_at: Millis(1_800_000_000_000),
        decision: None,
        note: String::new(),
        failure: None,
        finished_at: None,
    }
}

fn card_of(change: &Change, number: u64, user: &str) -> Card {
    Card {
        number,
        change: change.id.clone(),
        user: UserId::parse(user).unwrap(),
        channel: "telegram".to_owned(),
        instance: String::new(),
        chat: "42".to_owned(),
        message: MessageId::mint(),
        shown: String::new(),
        edits: 0,
        receipt: None,
    }
}

fn keyring() -> Keyring {
    let scratch = Scratch::new();
    crate::controlplane::store::tests::keyring(&claim(&scratch))
}

fn data(face: &Face) -> Vec<&str> {
    face.buttons.iter().map(|button| button.data.as_str()).collect()
}

#[test]
fn a_button_is_of_one_verdict_change_digest_person_and_card() {
    let (keyring, change) = (keyring(), change("+ x"));
    let one = card_of(&change, 7, "telegram:42");
    let face = card::asking(&keyring, &one, &change, false);
    assert!(data(&face).iter().all(|data| data.len() <= 64), "as long as a platform takes: {face:?}");
    let (number, nonce) = card::pressed(data(&face)[0]).unwrap();
    assert_eq!((number, nonce), (7, card::nonce(&keyring, &one, "d1", Verdict::Approve)));
    assert_eq!(
        data(&card::asking(&keyring, &one, &change, true)),
        data(&face),
        "the same however often it is sent"
    );
    let mut all = vec![nonce, card::nonce(&keyring, &one, "d1", Verdict::Reject)];
    all.push(card::nonce(&keyring, &one, "d2", Verdict::Approve));
    all.push(card::nonce(
        &keyring,
        &Card { user: UserId::parse("telegram:43").unwrap(), ..one.clone() },
        "d1",
        Verdict::Approve,
    ));
    all.push(card::nonce(
        &keyring,
        &Card { message: MessageId::mint(), ..one.clone() },
        "d1",
        Verdict::Approve,
    ));
    all.push(card::nonce(
        &keyring,
        &Card { change: ChangeId::mint(), ..one.clone() },
        "d1",
        Verdict::Approve,
    ));
    all.push(card::nonce(&self::keyring(), &one, "d1", Verdict::Approve));
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "each is another one");
}

#[test]
fn what_is_no_button_of_a_card_is_none() {
    let good = format!("a:7:{}", "0f".repeat(16));
    assert_eq!(card::pressed(&good), Some((7, [0x0f; 16])));
    for bad in [
        "",
        "a:",
        "a:7",
        "a:7:",
        "q:7:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f",
        "a:-7:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f",
        "a:+7:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f",
        "a:7:0F0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f",
        "a:7:+f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f",
        "a:7:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0",
        "a:7:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0",
        "a:7:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0é",
        "a:99999999999999999999:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f",
    ] {
        assert_eq!(card::pressed(bad), None, "{bad}");
    }
}

#[test]
fn of_what_is_cut_nothing_is_approved() {
    let keyring = keyring();
    for length in [10, 501, 3000, 3400, 3501, 3600, 5000, 200_001] {
        for letter in ["x", "é", "😀"] {
            let mut change = change(&format!("+ {}", letter.repeat(length)));
            change.reason = ["r\u{202e}\n", "\u{e0041}"][length % 2].repeat(length);
            change.label = "l".repeat(length);
            let face = card::asking(&keyring, &card_of(&change, 1, "telegram:42"), &change, true);
            let units = face.text.encode_utf16().count();
            assert!(units <= 3600, "{units} of {length} {letter}");
            let is_whole = face.text.contains(&change.diff);
            assert_eq!(face.buttons.len(), if is_whole { 2 } else { 1 }, "{length} {letter}");
            assert_eq!(face.text.contains("are not shown here; all of it"), !is_whole, "{length} {letter}");
            assert!(face.text.contains("More wait") && face.text.contains("digest d1"));
        }
    }
}

#[test]
fn a_card_says_what_came_of_it() {
    let by = |state| Change {
        state,
        decision: Some(Decision { by: "telegram:42".into(), via: "chat:telegram".into(), at: Millis(1) }),
        ..change("+ x")
    };
    let failed = |state| Change { failure: Some("no room\u{1b}[2J".to_owned()), ..by(state) };
    for (change, begins, is_over) in [
        (by(State::Applied), "Approved by telegram:42; it is in effect.", true),
        (by(State::Approved), "Approved by telegram:42; the host does its part now.", false),
        (
            failed(State::Approved),
            "Approved by telegram:42, but the host could not do its part: no room\\u{1b}[2J",
            false,
        ),
        (by(State::Rejected), "Rejected by telegram:42; nothing was changed.", true),
        (by(State::Withdrawn), "Withdrawn; nothing was changed.", true),
        (by(State::Expired), "Nobody decided in time; nothing was changed.", true),
        (failed(State::Expired), "Lapsed: no room", true),
    ] {
        let face = card::decided(&change);
        assert!(face.text.starts_with(begins), "{}", face.text);
        assert_eq!((face.is_over, face.buttons.len()), (is_over, 0), "{}", face.text);
    }
    let hostile = Change {
        decision: Some(Decision { by: "webhook:a\u{202e}b".into(), via: String::new(), at: Millis(1) }),
        note: "one\ntwo".to_owned(),
        ..by(State::Rejected)
    };
    let face = card::decided(&hostile);
    assert!(
        face.text.contains("Rejected by \"webhook:a\\u{202e}b\"")
            && face.text.contains(r#"note: "one\u{a}two""#),
        "{}",
        face.text
    );
}
