//! WhatsApp and push.

use bytes::Bytes;
use http::{Method, Response};
use serde_json::{Value, json};

use super::super::sheet::{Auth, Fault, Sheet, Why, either, json as json_answer, phone, to_each};

/// <https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages>
pub(super) const WHATSAPP_CLOUD: Sheet = Sheet {
    id: "whatsapp_cloud",
    path: "/v25.0",
    auth: Auth::Header("authorization", "Bearer "),
    send: "/*/messages",
    fields: "messaging_product! recipient_type to! type! biz_opaque_callback_data context.message_id text.body text.preview_url:b \
        image.link image.caption image.id video.link video.caption video.id audio.link audio.id document.link document.caption \
        document.filename document.id template.name template.language.code template.language.policy template.components[].**",
    read: |body| {
        if body["messaging_product"] != "whatsapp" {
            return Err(Fault::new("messaging_product", Why::Invalid));
        }
        let kind = body["type"].as_str().unwrap_or_default();
        if !body[kind].is_object() {
            return Err(Fault::new(kind, Why::Missing));
        }
        let text = match kind {
            "template" if body["template"]["language"]["code"].is_string() => either(body, &["/template/name"])?,
            "template" => return Err(Fault::new("template.language.code", Why::Missing)),
            "text" => either(body, &["/text/body"])?,
            _ => either(body, &[&format!("/{kind}/link"), &format!("/{kind}/id")])?,
        };
        Ok(to_each(body["to"].as_str().into_iter(), &text, None))
    },
    recipient: phone,
    fault: |fault| match fault.why {
        Why::Missing => meta_error(400, 131_008, "Required parameter is missing", &fault.text()),
        Why::Invalid => meta_error(400, 131_009, "Parameter value is not valid", &fault.text()),
        Why::Unknown => meta_error(400, 100, "Invalid parameter", &fault.text()),
    },
    name: |_, n| format!("wamid.HBgMMjU0NzIyMDAwMDAwFQIAERgS{n:012X}AA=="),
    sent: |message, id| {
        let contact = json!({"input": message.recipient, "wa_id": message.recipient.trim_start_matches('+')});
        json_answer(200, &json!({"messaging_product": "whatsapp", "contacts": [contact], "messages": [{"id": id}]}))
    },
    refused: |_, code| meta_error(400, code, "Refused", "It was asked to refuse"),
    ask: |method, path| {
        let id = path.strip_prefix('/').filter(|id| method == Method::GET && !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))?;
        let number = json!({"display_phone_number": "+1 555 0100", "verified_name": "Acme", "quality_rating": "GREEN", "id": id});
        Some(json_answer(200, &number))
    },
    wrong_credentials: |_| meta_error(401, 190, "Error validating access token: Session has expired", ""),
    rate_limited: || meta_error(429, 130_429, "Rate limit hit", "Cloud API message throughput has been reached."),
};

fn meta_error(status: u16, code: u32, message: &str, details: &str) -> Response<Bytes> {
    let mut error =
        json!({"message": format!("(#{code}) {message}"), "type": "OAuthException", "code": code, "fbtrace_id": "AbCdEf0123456789"});
    if !details.is_empty() {
        error["error_data"] = json!({"messaging_product": "whatsapp", "details": details});
    }
    json_answer(status, &json!({"error": error}))
}

/// <https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages>, and Google's token endpoint at `/token`.
pub(super) const FCM: Sheet = Sheet {
    id: "fcm",
    path: "/v1",
    auth: Auth::ServiceAccount,
    send: "/projects/*/messages:send",
    fields: "validate_only:b message.token message.topic message.condition message.notification.title message.notification.body \
        message.notification.image message.data.** message.android.priority message.android.ttl message.android.collapse_key \
        message.android.notification.notification_count:n message.android.notification.title message.android.notification.body \
        message.apns.headers.** message.apns.payload.aps.badge:n message.apns.payload.aps.content-available:n \
        message.apns.payload.aps.alert.** message.apns.payload.aps.sound message.webpush.headers.** message.fcm_options.analytics_label",
    read: |body| {
        let message = &body["message"];
        let targets = ["token", "topic", "condition"].iter().filter(|name| message[**name].is_string()).count();
        if targets != 1 {
            return Err(Fault::new("message", Why::Invalid));
        }
        if message["data"].as_object().is_some_and(|data| data.values().any(|value| !value.is_string())) {
            return Err(Fault::new("message.data", Why::Invalid));
        }
        if message["android"]["ttl"].as_str().is_some_and(|ttl| !ttl.ends_with('s')) {
            return Err(Fault::new("message.android.ttl", Why::Invalid));
        }
        let text = message["notification"]["body"].as_str().unwrap_or_default();
        Ok(to_each(message["token"].as_str().into_iter(), text, None))
    },
    recipient: |token| token.len() > 20,
    fault: |fault| match fault.field.starts_with("to: ") {
        true => {
            fcm_error(400, "The registration token is not a valid FCM registration token", "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"))
        }
        false => {
            let message = format!("Invalid value at '{}'", fault.field);
            let violation = json!({"field": fault.field, "description": message});
            let detail = json!({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]});
            json_answer(400, &json!({"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT", "details": [detail]}}))
        }
    },
    name: |_, n| format!("projects/acme-notifications/messages/0:{:016}%7f4d3a2b7f4d3a2b", 1_671_819_112_768_910 + n),
    sent: |_, id| json_answer(200, &json!({"name": id})),
    refused: |_, code| match code {
        403 => fcm_error(403, "SenderId mismatch", "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH")),
        _ => fcm_error(404, "Requested entity was not found.", "NOT_FOUND", Some("UNREGISTERED")),
    },
    ask: |_, _| None,
    wrong_credentials: |path| match path {
        "/token" => json_answer(400, &json!({"error": "invalid_grant", "error_description": "Invalid grant: account not found"})),
        _ => {
            let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid \
                authentication credential.";
            fcm_error(401, message, "UNAUTHENTICATED", None)
        }
    },
    rate_limited: || fcm_error(429, "Quota exceeded", "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED")),
};

fn fcm_error(code: u16, message: &str, status: &str, own: Option<&str>) -> Response<Bytes> {
    let details: Vec<Value> =
        own.into_iter().map(|own| json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": own})).collect();
    json_answer(code, &json!({"error": {"code": code, "message": message, "status": status, "details": details}}))
}
