//! Calls of providers: a message, a check of credentials, a token. What an attempt makes of a call is told in `attempt`.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use raven_core::{Clock, problem::chain};
use raven_providers::{Bound, Class, Cx, HttpCall, Outbound, Provider, SendError, Sent};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::{
    callbacks::CallbackUrls,
    directory::{Connection, HeldToken},
    mailer::Mailer,
    smpp::Sessions,
    transport::{CallError, Transport},
};

/// Base URLs that the operator put in place of documented ones, by provider id.
pub type BaseUrls = HashMap<String, String>;

/// Makes calls.
pub struct Calls {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) transport: Transport,
    pub(crate) mailer: Mailer,
    pub(crate) smpp: Arc<Sessions>,
    pub(crate) base_urls: BaseUrls,
    pub(crate) callback_urls: Arc<CallbackUrls>,
}

impl Calls {
    /// Sessions with message centres.
    #[must_use]
    pub fn smpp(&self) -> &Sessions {
        &self.smpp
    }

    /// Sends a message through a connection.
    ///
    /// # Errors
    /// What follows for the message.
    pub async fn send(&self, connection: &Arc<Connection>, message: &Outbound<'_>) -> Result<Sent, SendError> {
        match &connection.bound {
            Bound::Http(provider) => self.call_http(connection, &**provider, message).await,
            // Each in a box of its own, so that none makes every attempt's future as large as the largest of them.
            Bound::Smtp(settings) => Box::pin(self.mailer.send(&connection.mail, settings, message)).await,
            Bound::Smpp(settings) => Box::pin(self.smpp.send(connection, settings, message)).await,
        }
    }

    async fn call_http(&self, connection: &Connection, provider: &dyn HttpCall, message: &Outbound<'_>) -> Result<Sent, SendError> {
        let began = Instant::now();
        let callback_url = connection.provider.spec.callbacks.and_then(|_| self.callback_urls.public(connection));
        let mut cx = Cx { base_url: self.base_url(connection.provider), token: None, callback_url: callback_url.as_deref() };
        let token = self.token(connection, provider, &cx).await?;
        cx.token = token.as_ref().map(ExposeSecret::expose_secret);
        let request = provider.request(message, &cx)?;
        match self.transport.call(request, began.elapsed()).await {
            Ok(response) => {
                let outcome = provider.outcome(&response);
                match outcome {
                    Err(e) if token.is_some() && e.class == Class::Credentials => {
                        Err(Box::pin(self.without_token(connection, began, e)).await)
                    }
                    outcome => outcome,
                }
            }
            Err(CallError::NotSent(text)) => {
                tracing::warn!(config = %connection.id, error = text, "a provider can't be reached");
                Err(SendError::new(Class::Retry { after: None }, "provider_unreachable", "no connection to the provider"))
            }
            Err(CallError::Unknown(text)) => {
                tracing::warn!(config = %connection.id, error = text, "a provider gave no answer");
                Err(SendError::new(Class::Unknown, "no_answer", "the provider gave no answer"))
            }
        }
    }

    /// What a refusal says of the credentials where a token stood for them. One that was used before may have been withdrawn before
    /// its time: that is found out with a new one.
    async fn without_token(&self, connection: &Connection, began: Instant, refusal: SendError) -> SendError {
        let mut held = connection.token.lock().await;
        let was_new = held.as_ref().is_some_and(|token| token.fetched >= began);
        *held = None;
        if was_new { refusal } else { SendError { class: Class::Retry { after: None }, ..refusal } }
    }

    /// The base URL that the operator put in place of a provider's own.
    fn base_url(&self, provider: &Provider) -> Option<Cow<'_, str>> {
        self.base_urls.get(provider.spec.id).map(|url| url.as_str().into())
    }

    /// The provider's token for a config, where it wants one: the last one, or a new one. Nothing was sent when this fails. It may
    /// take a third of a call's time, with waiting for others who fetch the same token; the rest is for the message.
    async fn token(&self, connection: &Connection, provider: &dyn HttpCall, cx: &Cx<'_>) -> Result<Option<SecretString>, SendError> {
        if !provider.wants_token() {
            return Ok(None);
        }
        let fetched = tokio::time::timeout(self.transport.cap() / 3, Box::pin(self.fetch_token(connection, provider, cx))).await;
        fetched.unwrap_or_else(|_| Err(no_token()))
    }

    async fn fetch_token(&self, connection: &Connection, provider: &dyn HttpCall, cx: &Cx<'_>) -> Result<Option<SecretString>, SendError> {
        let now = self.clock.now();
        let mut held = connection.token.lock().await;
        if let Some(HeldToken { secret, until, .. }) = held.as_ref()
            && now < *until
        {
            return Ok(Some(secret.clone()));
        }
        let Some(request) = provider.token_request(now, cx) else { return Ok(None) };
        let fetched = Instant::now();
        let response = self.transport.call(request, Duration::ZERO).await.map_err(|e| {
            tracing::warn!(config = %connection.id, error = chain(&e), "a provider hands out no token");
            no_token()
        })?;
        let token = provider.token(&response)?;
        *held = Some(HeldToken { secret: token.secret.clone(), until: now.after(token.lasts), fetched });
        Ok(Some(token.secret))
    }

    /// Is there a question that tells whether a config's credentials work?
    #[must_use]
    pub fn can_ask(&self, connection: &Connection) -> bool {
        match &connection.bound {
            Bound::Http(provider) => {
                let cx = Cx { base_url: self.base_url(connection.provider), token: None, callback_url: None };
                provider.wants_token() || provider.verify(self.clock.now(), &cx).is_some()
            }
            Bound::Smtp(_) | Bound::Smpp(_) => true,
        }
    }

    /// Asks the provider whether a config's credentials work, and sends nothing. Where there is no such question, settings that
    /// could be read are all that can be said.
    ///
    /// # Errors
    /// [`Class::Credentials`] or [`Class::Rejected`] when they don't work, another class when it can't be told now.
    pub async fn verify(&self, connection: &Connection) -> Result<(), SendError> {
        let provider = match &connection.bound {
            Bound::Http(provider) => &**provider,
            Bound::Smtp(settings) => return self.mailer.verify(settings).await,
            Bound::Smpp(settings) => return self.smpp.verify(connection, settings).await,
        };
        let began = Instant::now();
        let mut cx = Cx { base_url: self.base_url(connection.provider), token: None, callback_url: None };
        // What was withdrawn must not be found good.
        *connection.token.lock().await = None;
        let token = self.token(connection, provider, &cx).await?;
        cx.token = token.as_ref().map(ExposeSecret::expose_secret);
        let Some(request) = provider.verify(self.clock.now(), &cx) else { return Ok(()) };
        let response = self.transport.call(request, began.elapsed()).await.map_err(|e| {
            tracing::warn!(config = %connection.id, error = chain(&e), "a provider can't be asked about credentials");
            SendError::new(Class::Retry { after: None }, "provider_unreachable", "the provider gave no answer")
        })?;
        provider.verified(&response)
    }
}

fn no_token() -> SendError {
    SendError::new(Class::Retry { after: None }, "provider_unreachable", "the provider's token service gave no answer")
}
