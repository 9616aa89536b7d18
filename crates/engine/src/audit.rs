//! What the audit log says: who did what to which resource, from where, and how it looked before and after. An entry holds
//! no secret: it is made of what the API shows.

use raven_core::{Seq, TenantId};
use raven_store::AuditRecord;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// Who acted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Actor {
    /// A signed-in human.
    User {
        /// `sub` of their token.
        id: Uuid,
        /// `email` of their token.
        email: String,
    },
    /// An API key with scope `admin:*`.
    Key {
        /// Its id.
        id: Uuid,
        /// What it begins with.
        prefix: String,
    },
    /// The installation itself: an operator's command, or a chore.
    System {
        /// Which.
        name: String,
    },
}

impl Actor {
    /// An operator's command.
    #[must_use]
    pub fn operator() -> Self {
        Self::System { name: "operator".to_owned() }
    }

    /// The actor's id, where there is one.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        match self {
            Self::User { id, .. } | Self::Key { id, .. } => *id,
            Self::System { .. } => Uuid::nil(),
        }
    }
}

/// What was acted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Its kind: `tenant`, `member`, `invitation`, `api_key`, `provider_config`, `message`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id.
    pub id: Uuid,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// What was done: the kind of the resource, a dot, and the verb (`api_key.create`).
    pub action: String,
    /// Who did it.
    pub actor: Actor,
    /// To what.
    pub resource: Resource,
    /// What changed, as it was before; absent for creations.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub before: Value,
    /// What changed, as it is now; absent for deletions.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub after: Value,
    /// The address that the request came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The id of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Entry {
    /// Somebody did something to a resource; `action` begins with the resource's kind and a dot.
    #[must_use]
    pub fn new(action: &str, actor: Actor, resource: Uuid) -> Self {
        let kind = action.split('.').next().unwrap_or_default().to_owned();
        Self {
            action: action.to_owned(),
            actor,
            resource: Resource { kind, id: resource },
            before: Value::Null,
            after: Value::Null,
            ip: None,
            request_id: None,
        }
    }

    /// The entry as it is stored.
    #[must_use]
    pub fn text(&self) -> String {
        // Strings, ids and JSON values always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The record of the entry under a key.
    #[must_use]
    pub fn record(&self, tenant: TenantId, seq: Seq) -> AuditRecord {
        AuditRecord { tenant, seq, entry: self.text() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_back_from_what_is_stored() {
        let actor = Actor::User { id: Uuid::from_u128(7), email: "ada@example.com".to_owned() };
        let mut entry = Entry::new("api_key.create", actor, Uuid::from_u128(9));
        entry.after = serde_json::json!({ "name": "orders" });
        entry.ip = Some("192.0.2.1".to_owned());
        assert_eq!(entry.resource.kind, "api_key");
        let stored = entry.record(TenantId(Uuid::nil()), Seq(1)).entry;
        assert!(!stored.contains("before"));
        assert_eq!(serde_json::from_str::<Entry>(&stored).unwrap(), entry);
        let system = Entry::new("tenant.suspend", Actor::operator(), Uuid::nil());
        assert_eq!(serde_json::from_str::<Entry>(&system.text()).unwrap().actor, Actor::System { name: "operator".to_owned() });
    }
}
