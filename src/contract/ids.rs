//! Identifiers as types of their own, parsed once at the edge and never checked again. The host mints
//! every global one: a prefix that says what it names and a ULID (26 characters of Crockford's base 32,
//! <https://github.com/ulid/spec>). Agent groups and users are chosen by the operator.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};
use ulid::Ulid;

use super::time::Millis;

/// Why a text is not an identifier. The message names what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdError {
    expected: &'static str,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a valid identifier: expected {}", self.expected)
    }
}

impl std::error::Error for IdError {}

/// Sixteen random bytes from the system.
///
/// # Panics
/// When the system has no random source: nothing can be kept apart from anything then, so going on
/// would be worse than stopping.
fn random_part() -> u128 {
    let mut bytes = [0; 16];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        panic!("the system gives no random numbers");
    }
    u128::from_be_bytes(bytes)
}

macro_rules! minted {
    ($name:ident, $prefix:literal, $what:literal, $expected:literal) => {
        #[doc = $what]
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// A new one, unique for ever: the time and 80 random bits.
            pub fn mint() -> Self {
                let now = u64::try_from(Millis::now().0).unwrap_or(0);
                Self(format!(concat!($prefix, "{}"), Ulid::from_parts(now, random_part())))
            }

            /// Accepts exactly the form that `mint` writes.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let error = IdError { expected: $expected };
                let ulid = text.strip_prefix($prefix).ok_or_else(|| error.clone())?;
                let parsed = Ulid::from_string(ulid).map_err(|_| error.clone())?;
                // One spelling only: lower case and the look-alike letters would make two names for one thing.
                if parsed.to_string() == ulid { Ok(Self(text.to_owned())) } else { Err(error) }
            }

            /// The text form.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

minted!(
    SessionId,
    "ses_",
    "One conversation with one agent group.",
    "ses_ and 26 characters, as the server gave it"
);
minted!(MessageId, "msg_", "One message, in or out.", "msg_ and 26 characters, as the server gave it");
minted!(MessagingGroupId, "mg_", "One chat on one platform.", "mg_ and 26 characters, as the server gave it");
minted!(
    WiringId,
    "wr_",
    "One chat wired to one agent group.",
    "wr_ and 26 characters, as the server gave it"
);
minted!(ChangeId, "chg_", "One held change.", "chg_ and 26 characters, as the server gave it");
minted!(TaskId, "tsk_", "One scheduled task.", "tsk_ and 26 characters, as the server gave it");
minted!(QuestionId, "q_", "One question to a person.", "q_ and 26 characters, as the server gave it");

/// The name of an agent group, chosen by the operator. It is also a directory name, so it never starts
/// with a dot and holds no separator.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(String);

impl GroupName {
    /// 1 to 63 of `a-z 0-9 . _ -`, the first a letter or digit.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let error =
            IdError { expected: "an agent group: 1 to 63 of a-z 0-9 . _ -, starting with a letter or digit" };
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let starts_well = text.bytes().next().is_some_and(lower);
        let all_allowed = text.bytes().all(|b| lower(b) || matches!(b, b'.' | b'_' | b'-'));
        if starts_well && all_allowed && text.len() <= 63 { Ok(Self(text.to_owned())) } else { Err(error) }
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A person: the channel and the handle on it. The handle may hold colons and is never shortened.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UserId {
    channel: String,
    handle: String,
}

impl UserId {
    /// `channel:handle`, split at the first colon; both parts without control characters, 512 bytes at most.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let error = IdError { expected: "a user: channel:handle, at most 512 bytes" };
        let (channel, handle) = text.split_once(':').ok_or_else(|| error.clone())?;
        let well_formed = !channel.is_empty()
            && !handle.is_empty()
            && text.len() <= 512
            && channel.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !handle.chars().any(char::is_control);
        if well_formed {
            Ok(Self { channel: channel.to_owned(), handle: handle.to_owned() })
        } else {
            Err(error)
        }
    }

    /// The platform.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// The name on the platform.
    pub fn handle(&self) -> &str {
        &self.handle
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.channel, self.handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_identifier_parses_back() {
        let id = SessionId::mint();
        assert_eq!(SessionId::parse(id.as_str()), Ok(id.clone()));
        assert_eq!(id.as_str().len(), 30);
        assert_ne!(SessionId::mint(), id);
    }

    #[test]
    fn only_one_spelling_is_accepted() {
        let id = MessageId::mint();
        for bad in [
            id.as_str().to_lowercase(),
            format!("{id} "),
            id.as_str().replace("msg_", "ses_"),
            "msg_".to_owned(),
            "msg_../../../etc/passwd0000000".to_owned(),
            "msg_8ZZZZZZZZZZZZZZZZZZZZZZZZZ".to_owned(),
            String::new(),
        ] {
            assert!(MessageId::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn group_names_are_safe_directory_names() {
        for good in ["a", "mock-agent", "0.a_b", &"x".repeat(63)] {
            assert!(GroupName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "-a", "A", "a/b", "a\0", "ä", &"x".repeat(64)] {
            assert!(GroupName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_handle_keeps_its_colons() {
        let user = UserId::parse("matrix:@ann:example.org").unwrap();
        assert_eq!((user.channel(), user.handle()), ("matrix", "@ann:example.org"));
        for bad in ["", "ann", ":ann", "tg:", "TG:ann", "tg:a\nb"] {
            assert!(UserId::parse(bad).is_err(), "{bad}");
        }
    }
}
