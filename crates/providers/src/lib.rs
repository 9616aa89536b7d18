//! Adapters for messaging providers: pure functions that build a request and read an answer.
//!
//! What lives here: the trait, the registry ([`CATALOG`]), one file for each provider, the sandbox.
//! What must not: a client, a runtime, a clock, randomness, the store, anything of Raven's own HTTP API.

use std::{borrow::Cow, fmt, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use raven_core::{Channel, MessageId, Timestamp, message::Content, money::Money};
use secrecy::SecretString;

pub mod callback;
pub mod email;
pub mod push;
mod redact;
pub mod registry;
pub mod sandbox;
pub mod schema;
pub mod sms;
pub mod whatsapp;
mod wire;

pub use callback::{Callback, Callbacks, Challenge, Road, Told, Unreadable, Verdict};
pub use registry::{CATALOG, Find, Provider, find};
pub use schema::{Field, Kind, Members, Rule, Spec};

/// A message on its way out, as an adapter sees it.
#[derive(Clone, Copy, Debug)]
pub struct Outbound<'a> {
    /// Raven's id of the message: the idempotency key or reference, where the provider takes one.
    pub id: MessageId,
    /// How it travels.
    pub channel: Channel,
    /// Whom it reaches, as acceptance checked it.
    pub recipient: &'a str,
    /// What it says.
    pub content: &'a Content<'a>,
    /// Which attempt this is, from 1.
    pub attempt: i16,
    /// The present.
    pub now: Timestamp,
}

/// What surrounds a call.
#[derive(Clone, Debug, Default)]
pub struct Cx<'a> {
    /// Replaces the provider's documented base URL (version path included, no slash at the end), where the operator set one.
    pub base_url: Option<Cow<'a, str>>,
    /// What [`HttpProvider::token`] got, where the provider hands out tokens that live for a while.
    pub token: Option<&'a str>,
    /// Where the provider is to tell what becomes of this message, if it can be told with the message: the config's own callback
    /// URL, whole, with nothing behind it.
    pub callback_url: Option<&'a str>,
}

impl Cx<'_> {
    /// The callback URL for a message, with the message's id in it: for providers that hand back nothing of ours.
    #[must_use]
    pub fn callback_of(&self, message: MessageId) -> Option<String> {
        self.callback_url.map(|url| format!("{url}?{}={message}", callback::MESSAGE_PARAMETER))
    }
}

/// A token that a provider handed out for the credentials.
#[derive(Debug)]
pub struct Token {
    /// What requests carry.
    pub secret: SecretString,
    /// How long it may be used from now on.
    pub lasts: Duration,
}

/// The provider took the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Its own id.
    pub provider_message_id: Option<String>,
    /// Parts, where it counted them.
    pub segments: Option<i16>,
    /// Cost, where it named one.
    pub cost: Option<Money>,
}

/// The provider did not take the message, or we can't know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendError {
    /// What follows from it.
    pub class: Class,
    /// A short stable code of ours or the provider's (`invalid_recipient`, `21211`): becomes `failureReason`.
    pub code: String,
    /// An explanation for people. No secrets; the provider's text at most 300 characters.
    pub message: String,
}

/// What follows from a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Never for this message.
    Rejected,
    /// Later, not sooner than this.
    Retry {
        /// The wait the provider asked for.
        after: Option<Duration>,
    },
    /// The provider is too busy for us: later, not sooner than this.
    RateLimited {
        /// The wait the provider asked for.
        after: Option<Duration>,
    },
    /// The credentials or the account don't work: nothing through this config until a human mends it.
    Credentials,
    /// It may have gone out.
    Unknown,
}

impl SendError {
    /// With a class, a code and an explanation. The explanation is cut to 300 characters and loses its control characters:
    /// it may be the provider's, ends in logs and in the database.
    pub fn new(class: Class, code: impl Into<String>, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let message = message.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { class, code: code.into(), message }
    }
}

/// A provider that is reached by one HTTP request a message.
pub trait HttpProvider: Send + Sync + Sized + 'static {
    /// A tenant's settings, typed; secrets as [`secrecy::SecretString`].
    type Settings: serde::de::DeserializeOwned + Send + Sync + 'static;

    /// What the catalog says of it; the base URL that the operator may replace is in it.
    const SPEC: Spec;

    /// Does the provider want a token in [`Cx::token`], which it hands out for the credentials?
    const WANTS_TOKEN: bool = false;

    /// The request that sends the message. The caller adds nothing to it.
    ///
    /// # Errors
    /// [`Class::Rejected`] when the provider can't be asked to send such a message.
    fn request(settings: &Self::Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError>;

    /// What an answer means. The body may be anything, cut off at 64 KiB.
    ///
    /// # Errors
    /// What follows from it.
    fn outcome(settings: &Self::Settings, response: &Response<Bytes>) -> Result<Sent, SendError>;

    /// A cheap request that tells whether the credentials work, and sends nothing; `None` where there is none, or where it tells
    /// enough that a token was handed out.
    fn verify(settings: &Self::Settings, now: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>>;

    /// What the answer to [`verify`](Self::verify) means; by its status, unless the provider has its own ways.
    ///
    /// # Errors
    /// [`Class::Credentials`] when they don't work, another class when it can't be told.
    fn verified(_: &Self::Settings, response: &Response<Bytes>) -> Result<(), SendError> {
        wire::verified(Self::SPEC.name, response)
    }

    /// The request for a token, of a provider that wants one; `None` of the others.
    fn token_request(_: &Self::Settings, _now: Timestamp, _: &Cx<'_>) -> Option<Request<Bytes>> {
        None
    }

    /// What the answer to [`token_request`](Self::token_request) means.
    ///
    /// # Errors
    /// What follows for the message that waits for it.
    fn token(_: &Self::Settings, response: &Response<Bytes>) -> Result<Token, SendError> {
        Err(wire::by_status(Self::SPEC.name, response.status(), response.headers(), None, None))
    }

    /// Is a callback the provider's own? Asked before it is stored. A provider that signs nothing leaves it to the config's token.
    fn authenticate(_: &Self::Settings, _: &Callback<'_>, _: &callback::Proof<'_>) -> Verdict {
        Verdict::Unsigned
    }

    /// The answer to a request that only asks whether the URL is ours; `None` when it is a callback, or anything else.
    fn challenge(_: &Self::Settings, _: &Callback<'_>) -> Option<Challenge> {
        None
    }

    /// What a callback tells, in the order in which the provider tells it. Nothing is an answer too: kinds of callbacks that are
    /// of no use to us.
    ///
    /// # Errors
    /// When it is not as documented. Whoever meant something by it meant what we don't know.
    fn read(_: &Self::Settings, _: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        Err(Unreadable::new("the provider makes no callbacks"))
    }
}

/// A provider bound to a tenant's settings, its type erased. Settings are zeroized on drop (by `secrecy`).
pub enum Bound {
    /// By HTTP.
    Http(Box<dyn HttpCall>),
    /// By SMTP.
    Smtp(Box<email::smtp::Settings>),
    /// By SMPP.
    Smpp(Box<sms::smpp::Settings>),
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http(_) => "Bound::Http",
            Self::Smtp(_) => "Bound::Smtp",
            Self::Smpp(_) => "Bound::Smpp",
        })
    }
}

/// [`HttpProvider`] with its settings inside.
pub trait HttpCall: Send + Sync {
    /// See [`HttpProvider::request`].
    ///
    /// # Errors
    /// As there.
    fn request(&self, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError>;

    /// See [`HttpProvider::outcome`].
    ///
    /// # Errors
    /// As there.
    fn outcome(&self, response: &Response<Bytes>) -> Result<Sent, SendError>;

    /// See [`HttpProvider::verify`].
    fn verify(&self, now: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>>;

    /// See [`HttpProvider::verified`].
    ///
    /// # Errors
    /// As there.
    fn verified(&self, response: &Response<Bytes>) -> Result<(), SendError>;

    /// See [`HttpProvider::WANTS_TOKEN`].
    fn wants_token(&self) -> bool;

    /// See [`HttpProvider::token_request`].
    fn token_request(&self, now: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>>;

    /// See [`HttpProvider::token`].
    ///
    /// # Errors
    /// As there.
    fn token(&self, response: &Response<Bytes>) -> Result<Token, SendError>;

    /// See [`HttpProvider::authenticate`].
    fn authenticate(&self, callback: &Callback<'_>, proof: &callback::Proof<'_>) -> Verdict;

    /// See [`HttpProvider::challenge`].
    fn challenge(&self, callback: &Callback<'_>) -> Option<Challenge>;

    /// See [`HttpProvider::read`]; secrets are taken out of all that is told.
    ///
    /// # Errors
    /// As there.
    fn read(&self, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable>;
}
