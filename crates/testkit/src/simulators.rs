//! Providers played on 127.0.0.1: they speak the documented wire format, keep what they received, and misbehave on request.
//!
//! What lives here: the HTTP providers ([`AfricasTalking`], [`Twilio`], and by their tables [`Listed`]) on a common server, a real
//! SMTP server ([`smtp::Smtp`]) and a real SMPP message centre ([`smpp::MessageCentre`]). What must not: anything that the product
//! would run.

mod africas_talking;
mod body;
mod server;
mod sheet;
mod sheets;
pub mod smpp;
pub mod smtp;
mod twilio;

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

pub use self::server::{Simulator, Wire};

/// Plays Africa's Talking. Credentials are its API key.
pub type AfricasTalking = Simulator<africas_talking::Play>;

/// Plays Twilio. Credentials are `user:password` of HTTP Basic.
pub type Twilio = Simulator<twilio::Play>;

/// Plays a provider whose wire format is a table: [`Listed::of`]. Credentials are what stands in its header, `user:password` of
/// HTTP Basic, or for FCM the service account's address.
pub type Listed = Simulator<sheet::Play>;

/// A message as it arrived. One that was answered with an error, or not at all, is here too.
#[derive(Clone, Debug)]
pub struct Received {
    /// When its request had been read to the end.
    pub at: Instant,
    /// Whom it is for.
    pub recipient: String,
    /// What it says.
    pub text: String,
    /// Whom it says it is from.
    pub sender: Option<String>,
    /// The credentials that came with it.
    pub auth: String,
    /// Where the sender wants to be told what becomes of it.
    pub callback_url: Option<String>,
    /// The provider's id for it, if it was accepted. The answer may still have been lost on the way.
    pub accepted: Option<String>,
    /// The request's body, as JSON whatever it was; `null` where the simulator does not keep it.
    pub body: Value,
}

impl Received {
    fn new(recipient: &str, text: &str, sender: Option<String>, auth: String) -> Self {
        Self {
            at: Instant::now(),
            recipient: recipient.to_owned(),
            text: text.to_owned(),
            sender,
            auth,
            callback_url: None,
            accepted: None,
            body: Value::Null,
        }
    }
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// The documented answer.
    Normal,
    /// The documented answer, this much later.
    After(Duration),
    /// Accepted, and never answered.
    Hang,
    /// The connection is reset as soon as it, or the next request on it, comes in. Nothing is received.
    ResetBeforeRequest,
    /// Accepted, then the connection is reset instead of an answer.
    ResetAfterRequest,
    /// Accepted, and answered with the usual status and a body of noise.
    Garbage,
    /// Answered by something else than the provider: 200 and a page.
    Html,
    /// Too many requests.
    RateLimited {
        /// `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// HTTP 500.
    ServerError,
    /// Accepted, and the answer's body comes a byte at a time with this pause before each.
    Trickle(Duration),
    /// Accepted, and the answer's body breaks off in its middle.
    HalfBody,
    /// Accepted, and the documented answer says that it is a page.
    WrongType,
    /// Sent on to another place, and nothing accepted.
    Redirect {
        /// `Location`.
        to: String,
    },
    /// The documented answer to wrong credentials.
    WrongCredentials,
    /// Refused with the provider's own code: a recipient's `statusCode` at Africa's Talking, an error code at Twilio.
    Refuse(u32),
    /// Exactly this.
    Answer {
        /// HTTP status.
        status: u16,
        /// `Content-Type`.
        content_type: &'static str,
        /// The body.
        body: Bytes,
    },
}

impl Behaviour {
    /// Does the provider take the message, whatever becomes of the answer?
    const fn accepts(&self) -> bool {
        matches!(
            self,
            Self::Normal
                | Self::After(_)
                | Self::Hang
                | Self::ResetAfterRequest
                | Self::Garbage
                | Self::Trickle(_)
                | Self::HalfBody
                | Self::WrongType
        )
    }
}
