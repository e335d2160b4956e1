//! What is left of a conversation that was erased, for somebody who has every file and every key that there still is.

use aes::cipher::{BlockDecryptMut, KeyIvInit, block_padding::NoPadding};

use super::World;
use crate::controlplane::store::{history, secrets};
use crate::controlplane::tasks;

/// Page, and what SQLCipher 4 keeps of each for itself: an initialisation vector and an HMAC-SHA-512
/// (zetetic.net/sqlcipher/design).
const PAGE: usize = 4096;
const VECTOR: usize = 16;
const RESERVED: usize = VECTOR + 64;
/// The first page begins with the salt.
const SALT: usize = 16;

/// Every page of the ledger's file as it is under its key, those that SQLite does not use any more too.
fn pages(world: &World) -> Vec<u8> {
    let file = std::fs::read(world.state.join("control.db")).unwrap();
    assert_eq!(file.len() % PAGE, 0);
    let key = world.keyring.ledger_key();
    let mut all = Vec::new();
    for (number, page) in file.chunks(PAGE).enumerate() {
        let (content, rest) = page.split_at(PAGE - RESERVED);
        let mut content = content[if number == 0 { SALT } else { 0 }..].to_vec();
        let cipher = cbc::Decryptor::<aes::Aes256>::new_from_slices(key.as_bytes(), &rest[..VECTOR]).unwrap();
        cipher.decrypt_padded_mut::<NoPadding>(&mut content).unwrap();
        all.extend(content);
    }
    all
}

fn holds(all: &[u8], what: &[u8]) -> bool {
    all.windows(what.len()).any(|window| window == what)
}

#[test]
fn nothing_that_was_said_can_be_recovered_from_any_file() {
    let world = World::new();
    let (said, answered) = ("what Ann told the agent", "what the agent told Ann");
    let ann = world.accept("main", "a", said);
    for at in 0..200 {
        world.accept("other", &format!("e{at}"), &"x".repeat(2000));
    }
    world.accept("main", "b", answered);
    let session = ann.session.clone();
    let sealed: Vec<u8> = world.read(|conn| {
        let sql = "SELECT sealed FROM session_secrets WHERE session = ?1";
        Ok(conn.query_row(sql, [session.as_str()], |row| row.get(0))?)
    });
    tasks::block_on(world.ledger.checkpoint()).unwrap();
    let before = pages(&world);
    assert!(holds(&before, b"SQLite format 3") || holds(&before, b"CREATE TABLE session_secrets"));
    assert!(holds(&before, &sealed), "this is how it would be found");
    let id = session.clone();
    world.write(move |tx| secrets::erase(tx, &id));
    tasks::block_on(world.ledger.checkpoint()).unwrap();
    let after = pages(&world);
    assert!(!holds(&after, &sealed), "the secret is still there");
    // Nor is any half of it, where a page was split or moved.
    assert!(!sealed.chunks(16).filter(|part| part.len() == 16).any(|part| holds(&after, part)));
    for text in [said, answered] {
        assert!(!holds(&after, text.as_bytes()) && !holds(&before, text.as_bytes()), "texts are sealed");
    }
    for name in ["control.db-wal", "control.db-journal"] {
        let left = std::fs::metadata(world.state.join(name)).map_or(0, |meta| meta.len());
        assert_eq!(left, 0, "{name} may hold the pages as they were");
    }
    let page = world.read(|conn| history::page(conn, &world.keyring, &session, 0, 100));
    assert!(page.iter().all(|entry| entry.text.is_none()), "{page:?}");
}
