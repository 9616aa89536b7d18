//! WhatsApp by Twilio: <https://www.twilio.com/docs/whatsapp/api>.
//!
//! The same resource as for text messages, with `whatsapp:` before the numbers. Templates are Twilio's own contents, by SID;
//! the SID stands for one language.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Request, Response};
use raven_core::{
    Channel, Timestamp, address,
    message::{Feature, Template},
};

use crate::{
    Callback, Cx, Field, HttpProvider, Kind, Outbound, SendError, Sent, Spec, Told, Unreadable, Verdict,
    callback::Proof,
    sms::twilio::{self, Settings},
    wire::refused,
};

/// The adapter.
#[derive(Debug)]
pub struct TwilioWhatsapp;

/// Longest text, in characters.
const BODY_MAX: usize = 1600;

impl HttpProvider for TwilioWhatsapp {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "twilio_whatsapp",
        name: "WhatsApp by Twilio",
        channel: Channel::Whatsapp,
        docs_url: "https://www.twilio.com/docs/whatsapp/api",
        base_url: Some(twilio::BASE),
        features: &[Feature::From, Feature::MediaUrl, Feature::WhatsappTemplate],
        callbacks: Some(twilio::CALLBACKS),
        fields: &[
            twilio::ACCOUNT_SID,
            Field::public(
                "from",
                "From",
                Kind::Phone,
                "The WhatsApp sender's number that messages come from, for example +14155238886, unless a message names another.",
            ),
            twilio::MESSAGING_SERVICE_SID,
            twilio::API_KEY_SID,
            twilio::AUTH_TOKEN,
            twilio::API_KEY_SECRET,
        ],
        rules: twilio::RULES,
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let content = message.content;
        let to = format!("whatsapp:{}", message.recipient);
        let from =
            match content.from.as_deref() {
                Some(own) => Some(address::phone(own).map_err(|_| {
                    refused("invalid_sender", "a WhatsApp sender is a phone number in E.164 form, for example +14155238886")
                })?),
                None => settings.from.as_deref(),
            };
        let from = from.map(|number| format!("whatsapp:{number}"));
        let variables;
        let mut fields = vec![("To", to.as_str())];
        match &content.whatsapp_template {
            Some(template) => {
                if content.body.is_some() || content.media_url.is_some() {
                    return Err(refused("invalid_message", "a template takes the place of body and mediaUrl: leave them out"));
                }
                check(template)?;
                fields.push(("ContentSid", &template.name));
                if !template.parameters.is_empty() {
                    variables = numbered(&template.parameters);
                    fields.push(("ContentVariables", &variables));
                }
            }
            None => {
                let body = content.body.as_deref();
                if body.is_some_and(|b| b.chars().count() > BODY_MAX) {
                    return Err(refused("body_too_long", format!("Twilio takes at most {BODY_MAX} characters")));
                }
                if body.is_none() && content.media_url.is_none() {
                    return Err(refused("missing_body", "the message has neither a body, a mediaUrl nor a whatsappTemplate"));
                }
                fields.extend(body.map(|body| ("Body", body)));
                fields.extend(content.media_url.as_deref().map(|url| ("MediaUrl", url)));
            }
        }
        fields.extend(from.as_deref().map(|from| ("From", from)));
        // A sender of the message's own need not be in the service's pool.
        if content.from.is_none() {
            fields.extend(settings.messaging_service_sid.as_deref().map(|sid| ("MessagingServiceSid", sid)));
        }
        let callback = cx.callback_of(message.id);
        fields.extend(callback.as_deref().map(|url| ("StatusCallback", url)));
        Ok(settings.post(&fields, cx))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        Some(settings.read_account(cx))
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        twilio::outcome(response)
    }

    fn authenticate(settings: &Settings, callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
        settings.authenticate(callback, proof)
    }

    fn read(_: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        twilio::read(callback)
    }
}

/// A template that Twilio can be asked for.
fn check(template: &Template) -> Result<(), SendError> {
    let hex = template.name.strip_prefix("HX").unwrap_or_default();
    if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(refused("invalid_template", "the template's name must be the content's SID: 'HX' and 32 hexadecimal digits"));
    }
    if template.language.is_some() || template.header_media_url.is_some() {
        let text = "Twilio's content SID fixes language and header: leave out language, give the header's link as a parameter";
        return Err(refused("invalid_template", text));
    }
    Ok(())
}

/// Parameters by their place: `{"1":"Ada","2":"noon"}`.
fn numbered(parameters: &[String]) -> String {
    let by_place: BTreeMap<usize, &String> = (1..).zip(parameters).collect();
    // Numbers as keys and texts as values always serialize.
    serde_json::to_string(&by_place).unwrap_or_default()
}
