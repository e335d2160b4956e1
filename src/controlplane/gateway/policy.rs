//! The operator's policy: which kinds are approved without a person, and who may approve which. Inert unless a file
//! says otherwise, and some kinds are never approved by it. Touches the file it is told to read.

use std::fmt;
use std::fs;
use std::path::Path;

use ring::digest::{SHA256, digest};

use super::kind::Kind;
use crate::contract::json::{self, Value};
use crate::contract::plain;
use crate::controlplane::state::{self, Readers};
use crate::controlplane::store::roles::Role;

/// A policy is a few lines; more than this is some other file.
const FILE_BYTES: usize = 64 << 10;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    auto_approve: Vec<Kind>,
    approvers: Vec<(Kind, Vec<Role>)>,
    four_eyes: bool,
    /// SHA-256 of the file; empty without one.
    digest: String,
}

/// Why a file is no policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError(String);

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PolicyError {}

impl Policy {
    /// Reads the file: `{"auto_approve": [KIND], "approver_roles": {KIND: [ROLE]}, "four_eyes": BOOL}`.
    ///
    /// Whoever may write it decides what is approved, so it must be root's or this user's, and nobody else's to write.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let failed =
            |error: String| PolicyError(format!("the policy {} cannot be used: {error}", path.display()));
        // A link may lead to it; it is the file itself that counts.
        let real = fs::canonicalize(path).map_err(|error| failed(format!("{error}; check --policy")))?;
        let text = state::read_private(&real, FILE_BYTES, Readers::Everybody)
            .map_err(|error| failed(error.to_string()))?
            .ok_or_else(|| failed("it is gone; check --policy".to_owned()))?;
        let policy = Self::parse(&text).map_err(failed)?;
        let digest = digest(&SHA256, &text).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { digest, ..policy })
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let value = json::parse(text).map_err(|error| error.to_string())?;
        json::only_fields(&value, &["auto_approve", "approver_roles", "four_eyes"])
            .map_err(|error| plain::line(&error.to_string()).into_owned())?;
        let words = |value: &Value, name: &str| -> Result<Vec<String>, String> {
            let items = value.as_array().ok_or_else(|| format!("{name} must be a list"))?;
            let words: Option<Vec<String>> =
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            words.ok_or_else(|| format!("{name} must be a list of words"))
        };
        let kind = |word: &str| {
            Kind::parse(word)
                .map_err(|_| format!("{:?} is no kind of change in this build", plain::line(word)))
        };
        let mut policy = Self::default();
        if let Some(list) = value.get("auto_approve") {
            for word in words(list, "auto_approve")? {
                let kind = kind(&word)?;
                if kind.is_for_humans_only() {
                    return Err(format!(
                        "{word} is never approved without a person; take it out of auto_approve"
                    ));
                }
                policy.auto_approve.push(kind);
            }
        }
        if let Some(table) = value.get("approver_roles") {
            for (word, list) in table.as_object().ok_or("approver_roles must be an object")? {
                let roles = words(list, "approver_roles")?
                    .iter()
                    .map(|word| {
                        Role::parse(word).ok_or_else(|| format!("{:?} is no role", plain::line(word)))
                    })
                    .collect::<Result<Vec<Role>, String>>()?;
                policy.approvers.push((kind(word)?, roles));
            }
        }
        policy.four_eyes = match value.get("four_eyes") {
            None => false,
            Some(truth) => truth.as_bool().ok_or("four_eyes must be true or false")?,
        };
        Ok(policy)
    }

    /// Whether changes of a kind take effect without a person.
    pub fn approves(&self, kind: Kind) -> bool {
        self.auto_approve.contains(&kind) && !kind.is_for_humans_only()
    }

    /// The roles of which an approver of this kind must have one; `None` when any that may decide will do.
    pub fn approvers(&self, kind: Kind) -> Option<&[Role]> {
        self.approvers.iter().find(|(known, _)| *known == kind).map(|(_, roles)| roles.as_slice())
    }

    /// SHA-256 of the file as it was read, in hexadecimal digits; empty without one.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether nobody may approve what they asked for themselves.
    pub fn wants_four_eyes(&self) -> bool {
        self.four_eyes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_only_what_it_may() {
        let policy = Policy::parse(
            br#"{"auto_approve":["persona"],"approver_roles":{"model":["owner"]},"four_eyes":true}"#,
        )
        .unwrap();
        assert!(policy.approves(Kind::Persona) && !policy.approves(Kind::Model));
        assert_eq!(policy.approvers(Kind::Model), Some(&[Role::Owner][..]));
        assert_eq!(policy.approvers(Kind::Persona), None);
        assert!(policy.wants_four_eyes());
        for (bad, says) in [
            (&br#"{"auto_approve":["create_agent"]}"#[..], "never approved"),
            (br#"{"auto_approve":["permissions"]}"#, "never approved"),
            (br#"{"auto_approve":["mounts"]}"#, "never approved"),
            (br#"{"auto_approve":["egress"]}"#, "no kind"),
            (br#"{"auto_approve":"persona"}"#, "a list"),
            (br#"{"autoApprove":[]}"#, "autoApprove"),
            (br#"{"approver_roles":{"persona":["king"]}}"#, "no role"),
            (br#"{"four_eyes":1}"#, "true or false"),
            (b"{", "end"),
        ] {
            let error = Policy::parse(bad).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(Policy::parse(b"{}"), Ok(Policy::default()));
    }

    #[test]
    fn without_a_file_every_kind_waits_for_a_person() {
        for kind in Kind::ALL {
            assert!(!Policy::default().approves(kind));
        }
    }
}
