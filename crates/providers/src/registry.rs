//! The catalog: one line per provider, and how a provider is bound to a tenant's settings.

use bytes::Bytes;
use http::{Request, Response};
use raven_core::{Timestamp, money::Money};
use serde::de::{DeserializeOwned, value::MapDeserializer};
use serde_json::Value;

use crate::{
    Bound, Callback, Challenge, Cx, HttpCall, HttpProvider, Outbound, SendError, Sent, Spec, Token, Told, Unreadable, Verdict,
    callback::Proof, email, push, redact::Redactor, schema::Members, sms, whatsapp,
};

/// Every provider that tenants can configure, in the order the catalog shows them.
pub const CATALOG: &[Provider] = &[
    Provider::over_http::<sms::africas_talking::AfricasTalking>(),
    Provider::over_http::<sms::twilio::Twilio>(),
    Provider::over_http::<sms::vonage::Vonage>(),
    Provider::over_http::<sms::infobip::Infobip>(),
    Provider::over_http::<sms::messagebird::MessageBird>(),
    Provider::over_http::<sms::termii::Termii>(),
    Provider::over_http::<sms::plivo::Plivo>(),
    Provider { spec: &sms::smpp::SPEC, has_base_url: false, bind: sms::smpp::bind },
    Provider { spec: &email::smtp::SPEC, has_base_url: false, bind: email::smtp::bind },
    Provider::over_http::<email::postmark::Postmark>(),
    Provider::over_http::<email::resend::Resend>(),
    Provider::over_http::<email::ses::Ses>(),
    Provider::over_http::<email::sendgrid::SendGrid>(),
    Provider::over_http::<email::mailgun::Mailgun>(),
    Provider::over_http::<email::brevo::Brevo>(),
    Provider::over_http::<email::mailjet::Mailjet>(),
    Provider::over_http::<push::fcm::Fcm>(),
    Provider::over_http::<push::apns::Apns>(),
    Provider::over_http::<push::web_push::WebPush>(),
    Provider::over_http::<whatsapp::whatsapp_cloud::WhatsappCloud>(),
    Provider::over_http::<whatsapp::twilio_whatsapp::TwilioWhatsapp>(),
];

/// The provider with this id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Provider> {
    CATALOG.iter().find(|p| p.spec.id == id)
}

/// A provider, its type erased.
#[derive(Clone, Copy, Debug)]
pub struct Provider {
    /// What the catalog says of it.
    pub spec: &'static Spec,
    /// Is it called over HTTP, under one documented URL that an operator may put another one in the place of?
    pub has_base_url: bool,
    bind: fn(&Members, &Members) -> Result<Bound, String>,
}

/// How a provider is found by its id: [`find`], but for those who bring adapters of their own.
pub type Find = fn(&str) -> Option<&'static Provider>;

impl Provider {
    /// The provider of an adapter.
    #[must_use]
    pub const fn over_http<P: HttpProvider>() -> Self {
        Self { spec: const { &P::SPEC }, has_base_url: true, bind: bind_http::<P> }
    }

    /// Puts a tenant's stored settings into it. Nothing is checked beyond types: [`Spec::validate`] did that when they
    /// were stored, and rules that grow stricter later must not stop what works.
    ///
    /// # Errors
    /// What does not fit, without any value.
    pub fn bind(&self, public: &Members, secret: &Members) -> Result<Bound, String> {
        (self.bind)(public, secret)
    }
}

/// Reads typed settings from both maps, without a copy of either.
pub(crate) fn settings<S: DeserializeOwned>(spec: &Spec, public: &Members, secret: &Members) -> Result<S, String> {
    let members = public.iter().chain(secret).filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.as_str(), v));
    S::deserialize(MapDeserializer::new(members)).map_err(|e: serde_json::Error| {
        // The error itself may quote a value, and the value may be a secret.
        let problems = spec.validate(Some(&Value::Object(public.clone())), Some(&Value::Object(secret.clone()))).err();
        let first = problems.and_then(|p| p.into_vec().into_iter().next());
        if let Some(problem) = first {
            return format!("{} {}", problem.field, problem.message);
        }
        // Settings that look into a value say themselves what is wrong with it, after the field's name and without the value.
        let own = e.to_string();
        if own.starts_with("secretConfig.") || own.starts_with("publicConfig.") {
            return own;
        }
        format!("the settings of {} can't be read", spec.name)
    })
}

fn bind_http<P: HttpProvider>(public: &Members, secret: &Members) -> Result<Bound, String> {
    let settings = settings::<P::Settings>(&P::SPEC, public, secret)?;
    Ok(Bound::Http(Box::new(Call::<P> { settings, redactor: Redactor::of(secret) })))
}

/// An HTTP provider with its settings. Whatever the provider tells us passes the redactor before anybody sees it.
struct Call<P: HttpProvider> {
    settings: P::Settings,
    redactor: Redactor,
}

impl<P: HttpProvider> Call<P> {
    fn clean(&self, e: SendError) -> SendError {
        SendError { code: self.redactor.clean(e.code), message: self.redactor.clean(e.message), ..e }
    }
}

impl<P: HttpProvider> HttpCall for Call<P> {
    fn request(&self, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        P::request(&self.settings, message, cx).map_err(|e| self.clean(e))
    }

    fn verify(&self, now: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        P::verify(&self.settings, now, cx)
    }

    fn verified(&self, response: &Response<Bytes>) -> Result<(), SendError> {
        P::verified(&self.settings, response).map_err(|e| self.clean(e))
    }

    fn wants_token(&self) -> bool {
        P::WANTS_TOKEN
    }

    fn token_request(&self, now: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        P::token_request(&self.settings, now, cx)
    }

    fn token(&self, response: &Response<Bytes>) -> Result<Token, SendError> {
        P::token(&self.settings, response).map_err(|e| self.clean(e))
    }

    fn authenticate(&self, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
        P::authenticate(&self.settings, callback, proof)
    }

    fn challenge(&self, callback: &Callback<'_>) -> Option<Challenge> {
        P::challenge(&self.settings, callback)
    }

    fn read(&self, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        let mut told = P::read(&self.settings, callback)?;
        for each in &mut told {
            each.redact(&self.redactor);
        }
        Ok(told)
    }

    fn outcome(&self, response: &Response<Bytes>) -> Result<Sent, SendError> {
        match P::outcome(&self.settings, response) {
            Ok(sent) => Ok(Sent {
                provider_message_id: sent.provider_message_id.map(|id| self.redactor.clean(id)),
                cost: sent.cost.map(|c| Money { currency: self.redactor.clean(c.currency), ..c }),
                ..sent
            }),
            Err(e) => Err(self.clean(e)),
        }
    }
}
