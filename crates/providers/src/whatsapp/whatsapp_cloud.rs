//! WhatsApp Cloud API of Meta: <https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages>.
//!
//! Free text reaches only those who wrote in the last 24 hours; everybody else gets a template. What kind of media a link leads
//! to must be said, and only the link's ending tells it. There is no idempotency key; our id comes back with each status. What Meta
//! tells afterwards is read in `whatsapp_cloud/callbacks.rs`.

mod callbacks;

use bytes::Bytes;
use http::{Request, Response, header};
use raven_core::{
    Channel, Timestamp,
    message::{Feature, Template},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Callback, Challenge, Class, Cx, Field, HttpProvider, Kind, Outbound, SendError, Sent, Spec, Told, Unreadable, Verdict,
    callback::Proof,
    wire::{self, BUSY, RETRY, Row, refused, row},
};

const HOST: &str = "https://graph.facebook.com";
const TEXT_MAX: usize = 4096;
const CAPTION_MAX: usize = 1024;

/// The adapter.
#[derive(Debug)]
pub struct WhatsappCloud;

/// A tenant's settings.
#[derive(Debug, Deserialize)]
pub struct Settings {
    phone_number_id: String,
    #[serde(default = "newest")]
    api_version: String,
    access_token: SecretString,
    app_secret: Option<SecretString>,
    verify_token: Option<SecretString>,
}

fn newest() -> String {
    "v25.0".into()
}

impl Settings {
    /// The sender's own resource.
    fn url(&self, cx: &Cx<'_>) -> String {
        match &cx.base_url {
            Some(base) => format!("{base}/{}", self.phone_number_id),
            None => format!("{HOST}/{}/{}", self.api_version, self.phone_number_id),
        }
    }
}

impl HttpProvider for WhatsappCloud {
    type Settings = Settings;

    const SPEC: Spec = Spec {
        id: "whatsapp_cloud",
        name: "WhatsApp Cloud API",
        channel: Channel::Whatsapp,
        docs_url: "https://developers.facebook.com/docs/whatsapp/cloud-api",
        base_url: Some("https://graph.facebook.com/v25.0"),
        features: &[Feature::MediaUrl, Feature::WhatsappTemplate],
        callbacks: Some(callbacks::CALLBACKS),
        fields: &[
            Field::public(
                "phone_number_id",
                "Phone number id",
                Kind::Digits(32),
                "The id of the sender's number, from WhatsApp, API Setup in the app's dashboard; not the number itself.",
            )
            .required(),
            Field::public("api_version", "API version", Kind::Version, "The version of Meta's Graph API, v25.0 by default."),
            Field::secret(
                "access_token",
                "Access token",
                Kind::Token(1024),
                "A system user's token with the permission whatsapp_business_messaging. Tokens of the API Setup page last only a day.",
            )
            .required(),
            Field::secret(
                "app_secret",
                "App secret",
                Kind::Token(128),
                "The app's secret, from App settings, Basic in its dashboard. With it, callbacks must be signed.",
            ),
            Field::secret(
                "verify_token",
                "Verify token",
                Kind::Token(256),
                "A word that you make up, and put beside the callback URL in the app's dashboard. Meta shows it when it first asks for the URL.",
            ),
        ],
        rules: &[],
    };

    fn request(settings: &Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let (kind, payload) = payload(message)?;
        let body = json!({
            "biz_opaque_callback_data": message.id.to_string(),
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": message.recipient.trim_start_matches('+'),
            "type": kind,
            kind: payload,
        });
        let token = wire::bearer(settings.access_token.expose_secret());
        Ok(wire::json_post(&format!("{}/messages", settings.url(cx)), &body, (header::AUTHORIZATION, &token)))
    }

    fn verify(settings: &Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let url = format!("{}?fields=display_phone_number,verified_name,quality_rating", settings.url(cx));
        Some(wire::get(&url, (header::AUTHORIZATION, &wire::bearer(settings.access_token.expose_secret()))))
    }

    fn verified(_: &Settings, response: &Response<Bytes>) -> Result<(), SendError> {
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        // Meta answers a wrong token with 400 at times.
        if response.status().is_success() { Ok(()) } else { Err(failure(response, &answer)) }
    }

    fn outcome(_: &Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        if !response.status().is_success() || answer["error"].is_object() {
            return Err(failure(response, &answer));
        }
        match answer["messages"][0]["id"].as_str().and_then(wire::id) {
            Some(id) => Ok(Sent { provider_message_id: Some(id), ..Sent::default() }),
            None => Err(failure(response, &Value::Null)),
        }
    }

    fn authenticate(settings: &Settings, callback: &Callback<'_>, _: &Proof<'_>) -> Verdict {
        callbacks::authenticate(settings, callback)
    }

    fn challenge(settings: &Settings, callback: &Callback<'_>) -> Option<Challenge> {
        callbacks::challenge(settings, callback)
    }

    fn read(settings: &Settings, callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
        callbacks::read(settings, callback)
    }
}

/// What is sent, and the member that it stands in.
fn payload(message: &Outbound<'_>) -> Result<(&'static str, Value), SendError> {
    let content = message.content;
    let body = content.body.as_deref();
    let length = body.map_or(0, |b| b.chars().count());
    match (&content.whatsapp_template, content.media_url.as_deref(), body) {
        (Some(template), None, None) => Ok(("template", filled(template)?)),
        (Some(_), ..) => Err(refused("invalid_message", "a template takes the place of body and mediaUrl: leave them out")),
        (None, Some(url), _) => {
            let (kind, name) = media(url);
            if kind == "audio" && body.is_some() {
                return Err(refused("invalid_message", "WhatsApp shows no text beside audio: send the body as a message of its own"));
            }
            if length > CAPTION_MAX {
                return Err(refused("body_too_long", format!("WhatsApp takes at most {CAPTION_MAX} characters beside media")));
            }
            Ok((kind, link(kind, url, name, body)))
        }
        (None, None, Some(_)) if length > TEXT_MAX => {
            Err(refused("body_too_long", format!("WhatsApp takes at most {TEXT_MAX} characters")))
        }
        (None, None, Some(body)) => Ok(("text", json!({ "body": body, "preview_url": false }))),
        (None, None, None) => Err(refused("missing_body", "the message has neither a body, a mediaUrl nor a whatsappTemplate")),
    }
}

/// A template with what is filled in.
fn filled(template: &Template) -> Result<Value, SendError> {
    let Some(language) = &template.language else {
        return Err(refused("invalid_template", "the template needs its language, for example en_US"));
    };
    let mut components = Vec::new();
    if let Some(url) = &template.header_media_url {
        let (kind, name) = media(url);
        if kind == "audio" {
            return Err(refused("invalid_template", "a template's header is a picture, a video or a document"));
        }
        components.push(json!({ "parameters": [{ kind: link(kind, url, name, None), "type": kind }], "type": "header" }));
    }
    if !template.parameters.is_empty() {
        let parameters: Value = template.parameters.iter().map(|text| json!({ "text": text, "type": "text" })).collect();
        components.push(json!({ "parameters": parameters, "type": "body" }));
    }
    Ok(json!({
        "components": components,
        "language": { "code": language, "policy": "deterministic" },
        "name": template.name,
    }))
}

/// The kind of media by the ending of the link's path, and the file's name where people see one.
fn media(url: &str) -> (&'static str, Option<&str>) {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let name = path.split_once("://").and_then(|(_, rest)| rest.split_once('/')).and_then(|(_, path)| path.rsplit('/').next());
    let ending = name.and_then(|n| n.rsplit_once('.')).map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    match ending.as_str() {
        "jpg" | "jpeg" | "png" => ("image", None),
        "mp4" | "3gp" | "3gpp" => ("video", None),
        "aac" | "amr" | "mp3" | "m4a" | "ogg" | "opus" => ("audio", None),
        _ => ("document", name.filter(|n| !n.is_empty())),
    }
}

fn link(kind: &str, url: &str, name: Option<&str>, caption: Option<&str>) -> Value {
    let mut media = serde_json::Map::new();
    media.extend(caption.map(|text| ("caption".to_owned(), text.into())));
    if kind == "document" {
        media.extend(name.map(|name| ("filename".to_owned(), name.into())));
    }
    media.insert("link".to_owned(), url.into());
    media.into()
}

/// Outcomes by error code. <https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes>
const CODES: &[Row] = &[
    row(0, Class::Credentials, "invalid_credentials"),
    row(1, RETRY, "provider_error"),
    row(2, RETRY, "provider_unavailable"),
    row(3, Class::Credentials, "permission_denied"),
    row(4, BUSY, "rate_limited"),
    row(10, Class::Credentials, "permission_denied"),
    row(33, Class::Rejected, "sender_not_registered"),
    row(100, Class::Rejected, "invalid_message"),
    row(190, Class::Credentials, "invalid_credentials"),
    row(368, Class::Credentials, "account_suspended"),
    row(613, BUSY, "rate_limited"),
    row(80007, BUSY, "rate_limited"),
    row(130_429, BUSY, "rate_limited"),
    row(130_472, Class::Rejected, "held_back"),
    row(130_497, Class::Rejected, "region_not_permitted"),
    row(131_000, RETRY, "provider_error"),
    row(131_008, Class::Rejected, "invalid_message"),
    row(131_009, Class::Rejected, "invalid_message"),
    row(131_016, RETRY, "provider_unavailable"),
    row(131_021, Class::Rejected, "invalid_recipient"),
    row(131_026, Class::Rejected, "unreachable"),
    row(131_030, Class::Rejected, "recipient_not_verified"),
    row(131_031, Class::Credentials, "account_suspended"),
    // Everything fails until the bill is paid, which may happen in time.
    row(131_042, RETRY, "insufficient_balance"),
    row(131_047, Class::Rejected, "outside_window"),
    row(131_048, BUSY, "rate_limited"),
    // Meta spares its users: another try at once would be held back as well.
    row(131_049, Class::Rejected, "held_back"),
    row(131_050, Class::Rejected, "recipient_opted_out"),
    row(131_051, Class::Rejected, "invalid_message"),
    row(131_053, RETRY, "media_unavailable"),
    row(131_056, BUSY, "rate_limited"),
    row(132_000, Class::Rejected, "invalid_template"),
    row(132_001, Class::Rejected, "template_not_found"),
    row(132_005, Class::Rejected, "body_too_long"),
    row(132_007, Class::Rejected, "rejected_by_policy"),
    row(132_012, Class::Rejected, "invalid_template"),
    row(132_015, Class::Rejected, "template_paused"),
    row(132_016, Class::Rejected, "template_disabled"),
    row(133_010, Class::Rejected, "sender_not_registered"),
    row(133_016, BUSY, "rate_limited"),
];

/// What an answer without a message means: by its code, which Meta asks to go by, else by its status.
fn failure(response: &Response<Bytes>, answer: &Value) -> SendError {
    let (code, error) = (wire::code(&answer["error"]["code"]), &answer["error"]);
    let detail = error["error_data"]["details"].as_str().or_else(|| error["message"].as_str());
    let Some(mut known) = code.and_then(|code| known(code, detail)) else {
        return wire::by_status(WhatsappCloud::SPEC.name, response.status(), response.headers(), code, detail);
    };
    known.class = wire::with_wait(known.class, response.headers());
    known
}

/// The error of a code that is documented.
fn known(code: u64, detail: Option<&str>) -> Option<SendError> {
    let row = match code {
        200..=299 => row(code, Class::Credentials, "permission_denied"),
        code => CODES.iter().find(|r| r.code == code).map(|r| row(r.code, r.class, r.ours))?,
    };
    let advice = if row.ours == "outside_window" { wire::SEND_A_TEMPLATE } else { "" };
    Some(SendError::new(row.class, row.ours, format!("{advice}WhatsApp {}: {}", row.code, detail.unwrap_or(row.ours))))
}
