//! Twilio's wire format: form in, JSON out, 201 with a message or an error with a code; its magic numbers too.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use raven_core::{address, sms};
use serde_json::{Value, json};

use super::{Received, Wire, server::answer};

const JSON: &str = "application/json";
/// Any date will do: nothing reads it.
const DATE: &str = "Tue, 24 Nov 2026 04:20:00 +0000";

/// Makes a server Twilio.
#[derive(Debug, Default)]
pub struct Play;

impl Wire for Play {
    fn path(&self) -> &'static str {
        "/2010-04-01"
    }

    fn auth(&self, request: &Request<Bytes>) -> String {
        let header = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let plain = header.and_then(|h| h.strip_prefix("Basic ")).and_then(|b| STANDARD.decode(b).ok());
        plain.and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
    }

    fn read(&self, request: &Request<Bytes>, accepted: &dyn Fn(&str) -> Option<Received>) -> Result<Vec<Received>, Response<Bytes>> {
        let auth = self.auth(request);
        if !auth.contains(':') {
            return Err(self.wrong_credentials(request));
        }
        let path: Vec<_> = request.uri().path().trim_start_matches('/').split('/').collect();
        match (request.method(), path.as_slice()) {
            (&Method::POST, ["2010-04-01", "Accounts", _, "Messages.json"]) => {}
            (&Method::GET, ["2010-04-01", "Accounts", account, "Messages", file]) => {
                let sid = file.strip_suffix(".json").unwrap_or(file);
                let found = accepted(sid).map(|m| answer(200, JSON, view(account, sid, "sent", None, &m).to_string()));
                return Err(found.unwrap_or_else(|| error(20404)));
            }
            (&Method::GET, ["2010-04-01", "Accounts", file]) if file.ends_with(".json") => {
                let sid = file.trim_end_matches(".json");
                return Err(answer(
                    200,
                    JSON,
                    json!({"sid": sid, "status": "active", "friendly_name": "Simulated", "type": "Full"}).to_string(),
                ));
            }
            _ => return Err(error(20404)),
        }
        let fields: Vec<(String, String)> = form_urlencoded::parse(request.body()).into_owned().collect();
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty());
        let to = field("To").ok_or_else(|| error(21604))?;
        let text = field("Body").ok_or_else(|| error(21602))?;
        let sender = field("From").or_else(|| field("MessagingServiceSid")).ok_or_else(|| error(21603))?;
        let callback_url = field("StatusCallback").map(str::to_owned);
        Ok(vec![Received { callback_url, ..Received::new(to, text, Some(sender.to_owned()), auth) }])
    }

    fn accept(&self, message: &Received, n: u64) -> Result<String, u32> {
        let magic = |table: &[(&str, u32)], number: &str| table.iter().find(|(magic, _)| *magic == number).map(|(_, code)| *code);
        if let Some(code) = magic(MAGIC_FROM, message.sender.as_deref().unwrap_or_default()).or_else(|| magic(MAGIC_TO, &message.recipient))
        {
            return Err(code);
        }
        if address::phone(&message.recipient).is_err() {
            return Err(21211);
        }
        if message.text.chars().count() > 1600 {
            return Err(21617);
        }
        Ok(format!("SM{n:032x}"))
    }

    fn answer(&self, request: &Request<Bytes>, messages: &[(Received, Result<String, u32>)]) -> Response<Bytes> {
        // One recipient a request: `read` gives one message.
        let Some((message, outcome)) = messages.first() else { return error(21604) };
        let account = request.uri().path().split('/').nth(3).unwrap_or_default();
        match outcome {
            Ok(sid) => {
                let service = message.sender.as_deref().filter(|s| s.starts_with("MG"));
                let status = if service.is_some() { "accepted" } else { "queued" };
                answer(201, JSON, view(account, sid, status, service, message).to_string())
            }
            Err(code) => error(*code),
        }
    }

    fn wrong_credentials(&self, _: &Request<Bytes>) -> Response<Bytes> {
        error(20003)
    }

    fn rate_limited(&self) -> Response<Bytes> {
        error(20429)
    }
}

/// <https://www.twilio.com/docs/iam/test-credentials>
const MAGIC_FROM: &[(&str, u32)] = &[("+15005550001", 21212), ("+15005550007", 21606), ("+15005550008", 21611)];
const MAGIC_TO: &[(&str, u32)] =
    &[("+15005550001", 21211), ("+15005550002", 21612), ("+15005550003", 21408), ("+15005550004", 21610), ("+15005550009", 21614)];

fn view(account: &str, sid: &str, status: &str, service: Option<&str>, message: &Received) -> Value {
    let uri = format!("/2010-04-01/Accounts/{account}/Messages/{sid}");
    // A Messaging Service has not picked a sender yet, and so not counted parts.
    let segments = if service.is_some() { 0 } else { sms::segments(&message.text).count };
    let from = message.sender.as_deref().filter(|_| service.is_none());
    json!({
        "sid": sid, "account_sid": account, "status": status, "to": message.recipient, "from": from, "messaging_service_sid": service,
        "body": message.text, "num_segments": segments.to_string(), "num_media": "0", "price": null, "price_unit": "USD",
        "error_code": null, "error_message": null, "direction": "outbound-api", "api_version": "2010-04-01",
        "date_created": DATE, "date_sent": null, "date_updated": DATE,
        "uri": format!("{uri}.json"), "subresource_uris": {"media": format!("{uri}/Media.json")},
    })
}

fn error(code: u32) -> Response<Bytes> {
    let (status, message) = match code {
        20003 => (401, "Authentication Error - invalid username"),
        20404 => (404, "The requested resource was not found"),
        20429 => (429, "Too Many Requests"),
        21211 => (400, "The 'To' number is not a valid phone number."),
        21408 => (403, "Permission to send an SMS has not been enabled for the region indicated by the 'To' number"),
        21602 => (400, "Message body is required."),
        21603 => (400, "A 'From' phone number is required."),
        21604 => (400, "A 'To' phone number is required."),
        21606 => (400, "The 'From' phone number provided is not a valid message-capable Twilio phone number"),
        21610 => (400, "Attempt to send to unsubscribed recipient"),
        21611 => (429, "This 'From' number has exceeded the maximum number of queued messages"),
        21612 => (400, "The 'To' phone number is not currently reachable via SMS"),
        21614 => (400, "'To' number is not a valid mobile number"),
        21617 => (400, "The concatenated message body exceeds the 1600 character limit"),
        _ => (400, "Refused"),
    };
    let body =
        json!({"code": code, "message": message, "more_info": format!("https://www.twilio.com/docs/errors/{code}"), "status": status});
    answer(status, JSON, body.to_string())
}
