//! Who asks, and what they may: a person with the token they came with, or with the button they pressed. Role and way in
//! count at the moment of the act, in the transaction of the act, for a request may be long on its way; a token only
//! narrows the role, and a button is only to decide. Touches the ledger.

use rusqlite::Connection;

use super::audit::By;
use super::store::roles::{self, Role, RoleGrant};
use super::store::{StoreError, approvals, members, tokens};
use crate::contract::ids::{GroupName, UserId};

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Look at agents, sessions, changes, the audit.
    Read,
    /// Submit changes, release sessions, make and delete what is no capability.
    Operate,
    /// Decide changes.
    Approve,
    /// Users and tokens.
    Admin,
    /// The metrics.
    Metrics,
    /// Talk to agents.
    Chat,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Operate, Self::Approve, Self::Admin, Self::Metrics, Self::Chat];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Approve => "approve",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
            Self::Chat => "chat",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }

    /// Whether changes are asked for or decided with it, or more tokens made.
    pub fn acts(self) -> bool {
        match self {
            Self::Operate | Self::Approve | Self::Admin => true,
            Self::Read | Self::Metrics | Self::Chat => false,
        }
    }

    /// Reads words between spaces; `None` when one of them is no scope.
    pub fn parse_all(words: &str) -> Option<Vec<Self>> {
        words.split_whitespace().map(Self::parse).collect()
    }

    /// As words between spaces, in the order of [`Scope::ALL`].
    pub fn write_all(scopes: &[Self]) -> String {
        let words: Vec<&str> =
            Self::ALL.into_iter().filter(|scope| scopes.contains(scope)).map(Self::as_str).collect();
        words.join(" ")
    }
}

/// How somebody comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// With a token.
    Token {
        /// Its name.
        name: String,
        /// Its SHA-256: another token of that name is another one.
        digest: [u8; 32],
    },
    /// By a button under what they were shown in a chat.
    Button {
        /// The number of the card.
        card: u64,
        /// The platform, and the account on it where it has a name.
        account: String,
    },
}

/// A person with the way they came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Who.
    pub user: UserId,
    /// How they came in.
    pub way: Way,
    /// What that lets through.
    pub scopes: Vec<Scope>,
}

impl Principal {
    /// Somebody who presses a button under a card.
    pub fn pressing(user: UserId, card: u64, account: String) -> Self {
        Self { user, way: Way::Button { card, account }, scopes: vec![Scope::Approve] }
    }

    /// How the audit names the way they came in.
    pub fn via(&self) -> String {
        match &self.way {
            Way::Token { name, .. } => format!("token:{name}"),
            Way::Button { account, .. } => format!("chat:{account}"),
        }
    }

    /// The name of the token they came with; empty where they came with none.
    pub fn token(&self) -> &str {
        match &self.way {
            Way::Token { name, .. } => name,
            Way::Button { .. } => "",
        }
    }

    /// As the audit names them.
    pub fn by(&self) -> By {
        By { actor: self.user.to_string(), via: self.via() }
    }

    /// Their standing now; none with a token that was revoked or is over, or a card that is.
    ///
    /// # Errors
    /// SQLite's, or [`StoreError::BadRow`].
    pub fn standing(&self, conn: &Connection) -> Result<Standing, StoreError> {
        if self.opens(conn)? { Standing::of(conn, &self.user) } else { Ok(Standing::default()) }
    }

    /// Whether the token still opens the door, or the card is still theirs to decide by.
    ///
    /// # Errors
    /// SQLite's.
    pub fn opens(&self, conn: &Connection) -> Result<bool, StoreError> {
        match &self.way {
            Way::Token { name, digest } => tokens::opens(conn, name, digest),
            Way::Button { card, .. } => approvals::is_open(conn, *card, &self.user),
        }
    }

    /// Whether the way they came in lets this through at all.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

/// What somebody's roles come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    roles: Vec<RoleGrant>,
}

impl Standing {
    /// The standing of somebody, now.
    ///
    /// # Errors
    /// SQLite's, or [`StoreError::BadRow`].
    pub fn of(conn: &Connection, user: &UserId) -> Result<Self, StoreError> {
        Ok(Self { roles: roles::of(conn, user)? })
    }

    fn has(&self, role: Role, group: Option<&GroupName>) -> bool {
        self.roles
            .iter()
            .any(|held| held.role == role && (held.scope.is_none() || held.scope.as_ref() == group))
    }

    /// Whether one of these roles is held for a group, or for all when there is none.
    pub fn has_one_of(&self, roles: &[Role], group: Option<&GroupName>) -> bool {
        roles.iter().any(|role| self.has(*role, group))
    }

    /// Whether every role of an earlier standing is still held.
    pub fn keeps(&self, earlier: &Self) -> bool {
        earlier.roles.iter().all(|role| self.has_one_of(&[role.role], role.scope.as_ref()))
    }

    /// Owner of everything.
    pub fn is_owner(&self) -> bool {
        self.has(Role::Owner, None)
    }

    /// Whether the roles allow this for a group, or for all when there is none.
    pub fn allows(&self, scope: Scope, group: Option<&GroupName>) -> bool {
        let admin = self.is_owner() || self.has(Role::Admin, group);
        match scope {
            Scope::Operate | Scope::Chat | Scope::Admin | Scope::Metrics => admin,
            Scope::Read | Scope::Approve => admin || self.has(Role::Approver, group),
        }
    }

    /// The groups for which the roles allow this; `None` is all of them.
    pub fn reach(&self, scope: Scope) -> Option<Vec<GroupName>> {
        if self.allows(scope, None) {
            return None;
        }
        let groups = self.roles.iter().filter_map(|held| held.scope.clone());
        Some(groups.filter(|group| self.allows(scope, Some(group))).collect())
    }

    /// Whether the roles allow this for some group at least.
    pub fn allows_somewhere(&self, scope: Scope) -> bool {
        self.allows(scope, None) || self.roles.iter().any(|held| self.allows(scope, held.scope.as_ref()))
    }
}

/// Whether somebody may do this for a group, or for all when there is none: role and token both must allow it. A
/// member may talk.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn may(
    conn: &Connection,
    principal: &Principal,
    scope: Scope,
    group: Option<&GroupName>,
) -> Result<bool, StoreError> {
    if !principal.has(scope) || !principal.opens(conn)? {
        return Ok(false);
    }
    if Standing::of(conn, &principal.user)?.allows(scope, group) {
        return Ok(true);
    }
    match group {
        Some(group) if scope == Scope::Chat => members::has(conn, group, &principal.user),
        _ => Ok(false),
    }
}

#[cfg(test)]
impl Principal {
    /// Somebody with a token of all scopes.
    pub fn of(user: &str) -> Self {
        let (digest, token) = (crate::contract::chain::hash(user), user.replace(':', "."));
        let way = Way::Token { name: token, digest };
        Self { user: UserId::parse(user).unwrap(), way, scopes: Scope::ALL.to_vec() }
    }

    /// Makes user and token known.
    pub fn introduce(&self, tx: &rusqlite::Transaction<'_>) -> Result<(), StoreError> {
        super::store::users::put(tx, &self.user, "")?;
        let Way::Token { name, digest } = self.way.clone() else { return Ok(()) };
        tokens::add(
            tx,
            &tokens::Token {
                name,
                user: self.user.clone(),
                scopes: Scope::write_all(&self.scopes),
                digest,
                created_at: crate::contract::time::Millis(0),
                expires_at: None,
                revoked_at: None,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::time::Millis;

    fn standing(roles: &[(Role, Option<&str>)]) -> Standing {
        let user = UserId::parse("local:ann").unwrap();
        let roles = roles.iter().map(|(role, scope)| RoleGrant {
            user: user.clone(),
            role: *role,
            scope: scope.map(|name| GroupName::parse(name).unwrap()),
            since: Millis(0),
        });
        Standing { roles: roles.collect() }
    }

    #[test]
    fn a_role_reaches_as_far_as_its_scope() {
        let (a, b) = (GroupName::parse("a").unwrap(), GroupName::parse("b").unwrap());
        let owner = standing(&[(Role::Owner, None)]);
        let admin = standing(&[(Role::Admin, Some("a"))]);
        let approver = standing(&[(Role::Approver, Some("a"))]);
        for scope in Scope::ALL {
            assert!(owner.allows(scope, None) && owner.allows(scope, Some(&a)));
            assert!(!standing(&[]).allows(scope, Some(&a)));
            assert!(
                admin.allows(scope, Some(&a)) && !admin.allows(scope, Some(&b)) && !admin.allows(scope, None)
            );
            let decides = matches!(scope, Scope::Read | Scope::Approve);
            assert_eq!(approver.allows(scope, Some(&a)), decides, "{scope:?}");
            assert!(!approver.allows(scope, Some(&b)) && !approver.allows(scope, None));
        }
        assert!(admin.allows_somewhere(Scope::Operate) && !approver.allows_somewhere(Scope::Operate));
        assert!(!admin.is_owner());
    }

    #[test]
    fn scopes_are_words() {
        assert_eq!(Scope::parse_all("chat read"), Some(vec![Scope::Chat, Scope::Read]));
        assert_eq!(Scope::write_all(&[Scope::Chat, Scope::Read]), "read chat");
        assert_eq!(Scope::parse_all("read everything"), None);
    }
}
