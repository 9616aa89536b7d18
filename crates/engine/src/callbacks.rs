//! Callbacks of providers: whether one is genuine ([`Reception`]), that it is kept before it is answered, and that what it tells
//! counts ([`applying`]).
//!
//! A callback is stored raw first, and read afterwards: what a parser gets wrong is read again by a later version.

pub mod applying;
pub mod reading;
mod reception;

use http::{HeaderMap, Method};
use raven_core::{ConfigId, TenantId, Timestamp};
use raven_providers::{Bound, Callback, Road, Verdict, callback::Proof};
use subtle::ConstantTimeEq;

use crate::{directory::Connection, vault::SecretKey};

pub use applying::Applier;
pub use reading::{CallbackOptions, SoftBounces};
pub use reception::{Answer, Arrival, Reception, Refusal};
pub(crate) use reception::{Intake, Recorder, passage};

/// How long a stored callback is its recorder's alone. Others take it then, in case that one is gone.
pub(crate) const OWN: std::time::Duration = std::time::Duration::from_secs(15);

/// Where a config's callbacks go, and what proves there that one is the provider's.
pub struct CallbackUrls {
    /// Where the world reaches this installation; `None` where nobody said so.
    public_url: Option<String>,
    key: SecretKey,
}

impl CallbackUrls {
    /// URLs of an installation, with tokens under its key.
    #[must_use]
    pub fn new(public_url: Option<String>, key: SecretKey) -> Self {
        Self { public_url, key }
    }

    /// The token of a config: part of its URL where the provider signs nothing. It follows from the installation's key, and is
    /// stored nowhere.
    #[must_use]
    pub fn token(&self, tenant: TenantId, config: ConfigId) -> String {
        let mut hasher = blake3::Hasher::new_keyed(self.key.expose());
        hasher.update(tenant.0.as_bytes()).update(config.0.as_bytes());
        // 160 bits: nobody guesses them.
        hasher.finalize().to_hex()[..40].to_owned()
    }

    /// Is this the config's token?
    fn opens(&self, tenant: TenantId, config: ConfigId, token: &str) -> bool {
        self.token(tenant, config).as_bytes().ct_eq(token.as_bytes()).into()
    }

    /// Where the callbacks of a connection go, below `base`; `None` for a provider that makes none, or not over HTTP.
    #[must_use]
    pub fn url(&self, base: &str, connection: &Connection) -> Option<String> {
        let spec = connection.provider.spec;
        spec.callbacks.filter(|callbacks| callbacks.road == Road::Url)?;
        let tenant = connection.record().tenant;
        let mut url = format!("{base}/v1/webhooks/{}/{}/{tenant}/{}", spec.channel.name(), spec.id, connection.id);
        if !signs(&connection.bound) {
            url.push('/');
            url.push_str(&self.token(tenant, connection.id));
        }
        Some(url)
    }

    /// The same, for a message that takes it along: only where the operator said how the world reaches us.
    #[must_use]
    pub fn public(&self, connection: &Connection) -> Option<String> {
        self.url(self.public_url.as_deref()?, connection)
    }
}

/// Does the provider sign its callbacks, with these settings? One that does refuses what is not signed at all.
fn signs(bound: &Bound) -> bool {
    let Bound::Http(provider) = bound else { return false };
    let nothing = Callback { method: &Method::POST, query: "", headers: &HeaderMap::new(), body: b"" };
    let proof = Proof { url: "", now: Timestamp::from_millis(0), certificate: None };
    provider.authenticate(&nothing, &proof) != Verdict::Unsigned
}
