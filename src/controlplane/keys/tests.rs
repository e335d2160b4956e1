//! Tests of the whole chain, over real files: which state of master key, keystore and ledger is told how.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::contract::cipher::SessionSecret;
use crate::contract::ids::SessionId;
use crate::controlplane::state::{StateDir, Wall};

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("keys-{}", SessionId::mint()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn state(scratch: &Scratch) -> StateDir {
    StateDir::claim(&scratch.0.join("state"), Wall::OrdinaryUser).unwrap()
}

fn master(state: &StateDir) -> FileMaster {
    FileMaster::at(state.join("master.key"))
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_first_start_makes_both_and_the_next_finds_them() {
    let scratch = Scratch::new();
    let state = state(&scratch);
    let first = open(&state, &master(&state)).unwrap();
    assert_eq!(first.ledger_state(), LedgerState::Making);
    assert_eq!((mode(&state.join("master.key")), mode(&state.join("keystore"))), (0o600, 0o600));
    let again = open(&state, &master(&state)).unwrap();
    assert_eq!(again.ledger_key(), first.ledger_key());
    again.mark_ledger_made().unwrap();
    let third = open(&state, &master(&state)).unwrap();
    assert_eq!((third.ledger_state(), third.ledger_key()), (LedgerState::Made, first.ledger_key()));
    let text = fs::read_to_string(state.join("keystore")).unwrap();
    assert!(!text.contains(&hex(first.ledger_key().as_bytes())));
    assert!(!text.contains(fs::read_to_string(state.join("master.key")).unwrap().trim()));
}

#[test]
fn a_crash_between_master_key_and_keystore_is_taken_up() {
    let scratch = Scratch::new();
    let state = state(&scratch);
    private(&state.join("master.key"), &hex(KeyBytes::mint().unwrap().as_bytes()));
    let before = fs::read(state.join("master.key")).unwrap();
    open(&state, &master(&state)).unwrap();
    assert_eq!(fs::read(state.join("master.key")).unwrap(), before);
}

#[test]
fn missing_wrong_and_corrupt_are_told_apart_and_nothing_is_written() {
    let scratch = Scratch::new();
    let state = state(&scratch);
    open(&state, &master(&state)).unwrap().mark_ledger_made().unwrap();
    let (key, store) = (state.join("master.key"), state.join("keystore"));
    let (whole_key, whole_store) = (fs::read_to_string(&key).unwrap(), fs::read_to_string(&store).unwrap());
    let told = || {
        let before = (fs::read(&key).ok(), fs::read(&store).ok());
        let error = open(&state, &master(&state)).unwrap_err();
        assert_eq!((fs::read(&key).ok(), fs::read(&store).ok()), before, "{error}");
        assert!(error.to_string().contains(';'), "no next step: {error}");
        error
    };

    fs::remove_file(&key).unwrap();
    assert!(matches!(told(), KeyError::NoMaster { .. }));
    for bad in ["", "short", &whole_key[1..], &whole_key.replace(|c: char| c.is_ascii_digit(), "g")] {
        private(&key, bad);
        assert!(matches!(told(), KeyError::BadMaster { .. }), "{bad:?}");
    }
    private(&key, &hex(KeyBytes::mint().unwrap().as_bytes()));
    assert!(matches!(told(), KeyError::WrongMaster { .. }));
    private(&key, &whole_key);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(told(), KeyError::State(StateError::NotPrivate { .. })));
    private(&key, &whole_key);

    for at in 0..whole_store.len() {
        private(&store, &whole_store[..at]);
        assert!(matches!(told(), KeyError::CorruptKeystore { .. }), "cut at {at}");
        let mut damaged = whole_store.clone().into_bytes();
        damaged[at] ^= 1;
        private(&store, std::str::from_utf8(&damaged).unwrap());
        let damaged = told();
        // A damaged version number is another version's, as far as anyone can tell.
        let newer = matches!(damaged, KeyError::NewerKeystore { .. });
        assert!(newer || matches!(damaged, KeyError::CorruptKeystore { .. }), "byte {at}");
        assert_eq!(newer, at == "ironclaw keystore ".len(), "byte {at}");
    }
    fs::remove_file(&store).unwrap();
    fs::write(state.join("control.db"), b"anything").unwrap();
    assert!(matches!(told(), KeyError::NoKeystore { .. }));
    private(&store, &whole_store);
    open(&state, &master(&state)).unwrap();
}

#[test]
fn a_rotation_changes_the_master_key_and_nothing_else() {
    let scratch = Scratch::new();
    let state = state(&scratch);
    let old = master(&state);
    let before = open(&state, &old).unwrap();
    before.mark_ledger_made().unwrap();
    let new = FileMaster::at(scratch.0.join("new.key"));
    assert!(matches!(rotate(&state, &new, &old), Err(KeyError::NoMaster { .. })));
    rotate(&state, &old, &new).unwrap();
    let after = open(&state, &new).unwrap();
    assert_eq!((after.ledger_key(), after.ledger_state()), (before.ledger_key(), LedgerState::Made));
    assert!(matches!(open(&state, &old), Err(KeyError::WrongMaster { .. })));
}

#[test]
fn a_passphrase_or_a_credential_opens_it_too() {
    let scratch = Scratch::new();
    let state = state(&scratch);
    let file = scratch.0.join("passphrase");
    let source = PassphraseMaster::at(file.clone());
    assert!(matches!(open(&state, &source), Err(KeyError::NoMaster { .. })));
    private(&file, "short\n");
    assert!(matches!(open(&state, &source), Err(KeyError::BadMaster { .. })));
    assert!(!state.join("keystore").exists(), "nothing is made with a key that is not there");
    let passphrase = hex(KeyBytes::mint().unwrap().as_bytes());
    private(&file, &format!("{passphrase}\n"));
    let first = open(&state, &source).unwrap();
    private(&file, &format!("{passphrase}\r\n"));
    assert_eq!(open(&state, &source).unwrap().ledger_key(), first.ledger_key());
    private(&file, &passphrase.to_uppercase());
    assert!(matches!(open(&state, &source), Err(KeyError::WrongMaster { .. })));
    private(&file, &passphrase);

    let credential = scratch.0.join("ironclaw-master-key");
    let systemd = CredentialMaster::in_directory(&scratch.0);
    assert!(matches!(rotate(&state, &source, &systemd), Err(KeyError::NoMaster { .. })));
    private(&credential, &hex(KeyBytes::mint().unwrap().as_bytes()));
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o440)).unwrap();
    rotate(&state, &source, &systemd).unwrap();
    assert_eq!(open(&state, &systemd).unwrap().ledger_key(), first.ledger_key());
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o444)).unwrap();
    assert!(matches!(open(&state, &systemd), Err(KeyError::State(_))));
}

#[test]
fn a_sealed_secret_opens_only_for_its_session_and_its_keystore() {
    let scratch = Scratch::new();
    let one = state(&scratch);
    let other = StateDir::claim(&scratch.0.join("other"), Wall::OrdinaryUser).unwrap();
    let (one, other) = (open(&one, &master(&one)).unwrap(), open(&other, &master(&other)).unwrap());
    let (id, secret) = (SessionId::mint(), SessionSecret::mint());
    let sealed = one.seal_session(&id, &secret).unwrap();
    assert_eq!(one.open_session(&id, &sealed).unwrap(), secret);
    assert!(!sealed.windows(32).any(|window| window == secret.as_bytes()));
    assert!(matches!(one.open_session(&SessionId::mint(), &sealed), Err(KeyError::Sealed)));
    assert!(matches!(other.open_session(&id, &sealed), Err(KeyError::Sealed)));
    assert!(matches!(one.open_session(&id, &sealed[..sealed.len() - 1]), Err(KeyError::Sealed)));
    assert!(matches!(one.open_session(&id, b""), Err(KeyError::Sealed)));
    // A text is not a secret, even under the same key and name.
    let text = seal_text(one.ledger_key().as_bytes(), id.as_str(), secret.as_bytes()).unwrap();
    assert!(matches!(one.open_session(&id, &text), Err(KeyError::Sealed)));
}

#[test]
fn the_api_token_is_made_once_kept_private_and_compared() {
    let scratch = Scratch::new();
    let state = state(&scratch);
    let first = ApiToken::open(&state, None).unwrap();
    let path = state.join("api-token");
    assert_eq!((first.was_minted(), first.path(), mode(&path)), (true, Some(path.as_path()), 0o600));
    let text = fs::read_to_string(&path).unwrap();
    let token = text.trim();
    assert!(token.starts_with("ict_") && token.len() == 68);
    assert!(first.digest() == ApiToken::digest_of(token));
    for wrong in ["", &token[1..], &format!("{token}0"), &token.to_uppercase(), &text] {
        assert!(first.digest() != ApiToken::digest_of(wrong), "{wrong:?}");
    }
    let again = ApiToken::open(&state, None).unwrap();
    assert!(!again.was_minted() && again.digest() == first.digest());
    let given = ApiToken::open(&state, Some("one from the environment")).map(|_| ());
    assert!(matches!(given, Err(KeyError::BadToken { .. })), "spaces cannot be sent");
    assert!(matches!(ApiToken::open(&state, Some("short")), Err(KeyError::BadToken { .. })));
    let mine = hex(KeyBytes::mint().unwrap().as_bytes());
    let given = ApiToken::open(&state, Some(&mine)).unwrap();
    assert!(given.digest() == ApiToken::digest_of(&mine) && given.path().is_none());
    assert!(!format!("{given:?}{first:?}").contains(&mine));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(ApiToken::open(&state, None), Err(KeyError::State(StateError::NotPrivate { .. }))));
    private(&path, "\n");
    assert!(matches!(ApiToken::open(&state, None), Err(KeyError::BadToken { .. })));
}
