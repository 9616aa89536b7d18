//! What a provider wants to be told: one description that gives validation, the catalog, the dashboard's form and the docs.

use raven_core::{Channel, Problems};
use serde_json::{Map, Value};

/// A provider as the catalog shows it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Its id in the API (`africas_talking`).
    pub id: &'static str,
    /// Its name for people.
    pub name: &'static str,
    /// Its channel.
    pub channel: Channel,
    /// Where its own documentation is.
    pub docs_url: &'static str,
    /// Its documented base URL, version path included; `None` where the tenant names the host.
    pub base_url: Option<&'static str>,
    /// Its settings.
    pub fields: &'static [Field],
}

/// One setting of a provider.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in `publicConfig` or `secretConfig`.
    pub name: &'static str,
    /// Its name for people.
    pub label: &'static str,
    /// What to put there.
    pub help: &'static str,
    /// Of `secretConfig`?
    pub secret: bool,
    /// Must it be given?
    pub required: bool,
    /// What values it takes.
    pub kind: Kind,
}

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 1 to this many characters, no control characters.
    Text(usize),
    /// A boolean.
    Bool,
    /// 1 to 65535.
    Port,
    /// An email address.
    Email,
    /// A host name or address, no scheme, no port.
    Host,
    /// A sender id of SMS ([`raven_core::address::sender_id`]).
    SenderId,
    /// One of these.
    OneOf(&'static [&'static str]),
}

impl Kind {
    /// The name in the catalog.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text(_) | Self::Host | Self::SenderId => "string",
            Self::Bool => "boolean",
            Self::Port => "integer",
            Self::Email => "email",
            Self::OneOf(_) => "enum",
        }
    }
}
