//! Email by SMTP: connections that are kept and used again, and the knowledge of how far an attempt came. Until the first
//! byte of the message itself is written nothing was sent; from then on, without a reply, it may have been.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use lettre::{
    Address, Message,
    transport::smtp::{
        Error as SmtpError,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, TlsParameters},
        commands::{Data, Mail, Rcpt},
        extension::{ClientId, Extension, MailBodyParameter, MailParameter},
    },
};
use parking_lot::Mutex;
use raven_core::{Clock, Timestamp, problem::chain};
use raven_providers::{
    Class, Outbound, SendError, Sent,
    email::smtp::{self, Settings, Tls},
};
use secrecy::ExposeSecret;
use std::sync::Arc;

use crate::{
    guard::{Guard, GuardError, is_public},
    transport::{CALL_CAP, ExtraRoots},
};

const CONNECT_CAP: Duration = Duration::from_secs(5);
/// Servers close idle connections after some minutes; a kept one older than this is not trusted.
const KEEP: Duration = Duration::from_secs(50);
/// Kept connections of one config.
const KEPT: usize = 16;

/// A config's kept connections, the latest used last.
#[derive(Default)]
pub struct Mailbag(Mutex<Vec<(Timestamp, AsyncSmtpConnection)>>);

/// Sends email.
#[derive(Clone)]
pub struct Mailer {
    guard: Guard,
    clock: Arc<dyn Clock>,
    hello: ClientId,
    cap: Duration,
    roots: Vec<Certificate>,
}

impl Mailer {
    /// A mailer that greets servers with `hello` (a host name) and trusts the public authorities and these.
    /// An attempt may take `cap` (at most [`CALL_CAP`]).
    ///
    /// # Errors
    /// A sentence, when one of the extra certificates can't be used.
    pub fn new(guard: Guard, clock: Arc<dyn Clock>, hello: &str, extra: &ExtraRoots, cap: Duration) -> Result<Self, String> {
        let roots: Result<Vec<_>, _> = extra.iter().map(|der| Certificate::from_der(der.to_vec())).collect();
        let hello = match hello.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => ClientId::Ipv4(ip),
            Ok(IpAddr::V6(ip)) => ClientId::Ipv6(ip),
            Err(_) => ClientId::Domain(hello.to_owned()),
        };
        Ok(Self { guard, clock, hello, cap: cap.min(CALL_CAP), roots: roots.map_err(|e| e.to_string())? })
    }

    /// Makes one attempt.
    ///
    /// # Errors
    /// What follows from it.
    pub async fn send(&self, bag: &Mailbag, settings: &Settings, outbound: &Outbound<'_>) -> Result<Sent, SendError> {
        let message = smtp::message(settings, outbound)?;
        let written = AtomicBool::new(false);
        match tokio::time::timeout(self.cap, self.deliver(bag, settings, &message, &written)).await {
            Ok(result) => result,
            Err(_) if written.load(Ordering::Acquire) => {
                Err(SendError::new(Class::Unknown, "no_answer", "the mail server did not confirm the message in time"))
            }
            Err(_) => Err(unreachable("the mail server did not answer in time")),
        }
    }

    /// Connects and signs in, and sends nothing.
    ///
    /// # Errors
    /// Why it can't.
    pub async fn verify(&self, settings: &Settings) -> Result<(), SendError> {
        match tokio::time::timeout(self.cap, self.connect(settings)).await {
            Ok(Ok(mut connection)) => {
                // The answer is the server's own business: we are in.
                let _ = connection.quit().await;
                Ok(())
            }
            Ok(Err(e)) => Err(e),
            Err(_) => Err(unreachable("the mail server did not answer in time")),
        }
    }

    async fn deliver(&self, bag: &Mailbag, settings: &Settings, message: &Message, written: &AtomicBool) -> Result<Sent, SendError> {
        // A kept connection may have died in the meantime. As long as the message was not begun, a fresh one is tried.
        if let Some(mut kept) = self.take(bag) {
            match self.submit(&mut kept, settings, message, written).await {
                Ok(sent) => {
                    self.keep(bag, kept);
                    return Ok(sent);
                }
                Err(Failure::Reply(error)) => {
                    self.keep_after_refusal(bag, kept).await;
                    return Err(error);
                }
                Err(Failure::Broken(text)) if written.load(Ordering::Acquire) => return Err(lost(&text)),
                Err(Failure::Broken(_)) => {}
            }
        }
        let mut fresh = self.connect(settings).await?;
        match self.submit(&mut fresh, settings, message, written).await {
            Ok(sent) => {
                self.keep(bag, fresh);
                Ok(sent)
            }
            Err(Failure::Reply(error)) => {
                self.keep_after_refusal(bag, fresh).await;
                Err(error)
            }
            Err(Failure::Broken(text)) if written.load(Ordering::Acquire) => Err(lost(&text)),
            Err(Failure::Broken(text)) => Err(unreachable(&text)),
        }
    }

    async fn connect(&self, settings: &Settings) -> Result<AsyncSmtpConnection, SendError> {
        let address = self.guard.resolve(&settings.host, settings.port).await.map_err(|e| match e {
            GuardError::Unresolved => unreachable("the mail server's host name has no address"),
            GuardError::NotPublic => SendError::new(Class::Rejected, "host_not_allowed", e.to_string()),
        })?;
        let tls = self.tls(settings).map_err(|e| SendError::new(Class::Rejected, "tls_unusable", chain(&e)))?;
        let (implicit, upgrade) = match settings.tls() {
            Tls::Implicit => (Some(tls), None),
            Tls::Required | Tls::Offered => (None, Some(tls)),
        };
        let connected = AsyncSmtpConnection::connect_tokio1(address, Some(CONNECT_CAP), &self.hello, implicit, None).await;
        let mut connection = connected.map_err(|e| greeting_failure(settings, &e))?;
        if let Some(tls) = upgrade {
            if connection.can_starttls() {
                connection.starttls(tls, &self.hello).await.map_err(|e| greeting_failure(settings, &e))?;
            } else if settings.tls() == Tls::Required {
                return Err(SendError::new(
                    Class::Rejected,
                    "tls_required",
                    "the mail server offers no STARTTLS, and the config requires TLS",
                ));
            }
        }
        if let (Some(username), Some(password)) = (&settings.username, &settings.password) {
            // In clear they go only to a private host, and only where the operator allows those.
            if !connection.is_encrypted() && (is_public(address.ip()) || !self.guard.allow_private) {
                return Err(SendError::new(Class::Rejected, "tls_required", "credentials are not sent to the mail server without TLS"));
            }
            let credentials = Credentials::new(username.clone(), password.expose_secret().to_owned());
            connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await.map_err(|e| greeting_failure(settings, &e))?;
        }
        Ok(connection)
    }

    async fn submit(
        &self,
        connection: &mut AsyncSmtpConnection,
        settings: &Settings,
        message: &Message,
        written: &AtomicBool,
    ) -> Result<Sent, Failure> {
        let raw = message.formatted();
        let envelope = message.envelope();
        let mut options = Vec::new();
        if !envelope.to().iter().chain(envelope.from()).all(|a| AsRef::<str>::as_ref(a).is_ascii()) {
            if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                let text = "the address is not ASCII, and the mail server does not take such addresses (SMTPUTF8)";
                return Err(Failure::Reply(SendError::new(Class::Rejected, "address_not_ascii", text)));
            }
            options.push(MailParameter::SmtpUtfEight);
        }
        if !raw.is_ascii() && connection.server_info().supports_feature(Extension::EightBitMime) {
            options.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let failed = |e: SmtpError| Failure::of(settings, &e);
        connection.command(Mail::new(envelope.from().cloned(), options)).await.map_err(failed)?;
        for recipient in envelope.to() {
            connection.command(Rcpt::new(Address::clone(recipient), Vec::new())).await.map_err(failed)?;
        }
        connection.command(Data).await.map_err(failed)?;
        written.store(true, Ordering::Release);
        let reply = connection.message(&raw).await.map_err(failed)?;
        let lines: Vec<&str> = reply.message().collect();
        settings.outcome(u16::from(reply.code()), &lines.join("\n")).map_err(Failure::Reply)
    }

    fn tls(&self, settings: &Settings) -> Result<TlsParameters, SmtpError> {
        let mut builder = TlsParameters::builder(settings.host.clone());
        for root in &self.roots {
            builder = builder.add_root_certificate(root.clone());
        }
        builder.build_rustls()
    }

    fn take(&self, bag: &Mailbag) -> Option<AsyncSmtpConnection> {
        let oldest = self.clock.now().before(KEEP);
        let mut kept = bag.0.lock();
        kept.retain(|(used, _)| *used > oldest);
        kept.pop().map(|(_, connection)| connection)
    }

    fn keep(&self, bag: &Mailbag, connection: AsyncSmtpConnection) {
        let mut kept = bag.0.lock();
        if kept.len() < KEPT && !connection.has_broken() {
            kept.push((self.clock.now(), connection));
        }
    }

    /// After a refusal the session is cleared, and kept if the server still answers.
    async fn keep_after_refusal(&self, bag: &Mailbag, mut connection: AsyncSmtpConnection) {
        if connection.command("RSET\r\n").await.is_ok() {
            self.keep(bag, connection);
        }
    }
}

/// Why a submission failed.
enum Failure {
    /// The server said so (or we knew before asking).
    Reply(SendError),
    /// The connection broke, or what came back is not SMTP.
    Broken(String),
}

impl Failure {
    fn of(settings: &Settings, error: &SmtpError) -> Self {
        match reply(settings, error) {
            Some(error) => Self::Reply(error),
            None => Self::Broken(chain(error)),
        }
    }
}

/// The server's refusal in an error, classified.
fn reply(settings: &Settings, error: &SmtpError) -> Option<SendError> {
    let code = u16::from(error.status()?);
    let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    settings.outcome(code, &text).err()
}

/// A failure before any message: while connecting, upgrading or signing in. Nothing was sent.
fn greeting_failure(settings: &Settings, error: &SmtpError) -> SendError {
    reply(settings, error).unwrap_or_else(|| {
        let text = chain(error);
        if error.is_tls() { SendError::new(Class::Retry { after: None }, "tls_failed", text) } else { unreachable(&text) }
    })
}

fn unreachable(text: &str) -> SendError {
    SendError::new(Class::Retry { after: None }, "provider_unreachable", text)
}

fn lost(text: &str) -> SendError {
    SendError::new(Class::Unknown, "no_answer", format!("the connection broke before the mail server confirmed the message: {text}"))
}
