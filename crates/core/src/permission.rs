//! Who may do what: the roles of humans, the scopes of keys.

use crate::message::named;
use std::fmt;

named! {
    /// A human's role in a tenant; each includes the ones before it.
    Role {
        /// Reads.
        Viewer = 1 "viewer",
        /// Also sends messages.
        Member = 2 "member",
        /// Also keys, providers, members.
        Admin = 3 "admin",
        /// Also archive, transfer and `admin:*` keys.
        Owner = 4 "owner",
    }
}

named! {
    /// What a key may do.
    Scope {
        /// `POST /v1/messages`.
        MessagesSend = 1 "messages:send",
        /// `GET /v1/messages`.
        MessagesRead = 2 "messages:read",
        /// The admin endpoints, as role `admin`.
        Admin = 4 "admin:*",
    }
}

/// A set of scopes, stored as one number: the sum of their codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(i16);

impl Scopes {
    /// What a key gets when its creator names none.
    pub const DEFAULT: Self = Self(Scope::MessagesSend.code() | Scope::MessagesRead.code());

    /// The set with this code; bits that no scope has are dropped.
    #[must_use]
    pub fn from_code(code: i16) -> Self {
        Scope::ALL.iter().filter(|s| code & s.code() != 0).copied().collect()
    }

    /// The code in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        self.0
    }

    /// Is this one in the set?
    #[must_use]
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.code() != 0
    }

    /// Those in the set, in order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |s| self.contains(*s))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |code, s| code | s.code()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_includes_the_ones_before_it() {
        assert!(Role::Owner > Role::Admin && Role::Admin > Role::Member && Role::Member > Role::Viewer);
    }

    #[test]
    fn scopes_read_back_from_their_code() {
        let set: Scopes = [Scope::MessagesSend, Scope::Admin].into_iter().collect();
        assert_eq!(Scopes::from_code(set.code()), set);
        assert_eq!(Scopes::from_code(-1).iter().count(), Scope::ALL.len());
        assert!(!set.contains(Scope::MessagesRead));
    }
}
