//! Africa's Talking's wire format: form in, JSON out, 201 whatever became of the recipients, plain text on a 401.

use bytes::Bytes;
use http::{Method, Request, Response};
use raven_core::{address, sms};
use serde_json::json;

use super::{Received, Wire, server::answer};

const JSON: &str = "application/json";

/// Makes a server Africa's Talking.
#[derive(Debug, Default)]
pub struct Play;

impl Wire for Play {
    fn path(&self) -> &'static str {
        "/version1"
    }

    fn auth(&self, request: &Request<Bytes>) -> String {
        request.headers().get("apikey").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    }

    fn read(&self, request: &Request<Bytes>, _: &dyn Fn(&str) -> Option<Received>) -> Result<Vec<Received>, Response<Bytes>> {
        let auth = self.auth(request);
        if auth.is_empty() {
            return Err(self.wrong_credentials(request));
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/version1/user") => return Err(answer(200, JSON, json!({"UserData": {"balance": "KES 1785.50"}}).to_string())),
            (&Method::POST, "/version1/messaging") => {}
            _ => return Err(answer(404, "text/plain", "Not found")),
        }
        let fields: Vec<(String, String)> = form_urlencoded::parse(request.body()).into_owned().collect();
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty());
        let (Some(_), Some(to), Some(text)) = (field("username"), field("to"), field("message")) else {
            return Err(answer(400, "text/plain", "Request is missing required form field 'username', 'to' or 'message'"));
        };
        let sender = field("from");
        if sender.is_some_and(|s| address::sender_id(s).is_err()) {
            return Err(answer(201, JSON, json!({"SMSMessageData": {"Message": "InvalidSenderId", "Recipients": []}}).to_string()));
        }
        Ok(to.split(',').map(|number| Received::new(number.trim(), text, sender.map(str::to_owned), auth.clone())).collect())
    }

    fn accept(&self, message: &Received, n: u64) -> Result<String, u32> {
        if address::phone(&message.recipient).is_ok() { Ok(format!("ATXid_{n:032x}")) } else { Err(403) }
    }

    fn answer(&self, _: &Request<Bytes>, messages: &[(Received, Result<String, u32>)]) -> Response<Bytes> {
        let (mut total, mut accepted) = (0.0, 0);
        let recipients: Vec<_> = messages
            .iter()
            .map(|(message, outcome)| {
                let (code, id, cost) = match outcome {
                    Ok(id) => {
                        let price = 0.8 * f64::from(sms::segments(&message.text).count);
                        total += price;
                        accepted += 1;
                        (101, id.as_str(), format!("KES {price:.4}"))
                    }
                    Err(code) => (*code, "None", "0".to_owned()),
                };
                json!({"statusCode": code, "number": message.recipient, "status": word(code), "cost": cost, "messageId": id})
            })
            .collect();
        let total = if accepted > 0 { format!("KES {total:.4}") } else { "0".to_owned() };
        let message = format!("Sent to {accepted}/{} Total Cost: {total}", messages.len());
        answer(201, JSON, json!({"SMSMessageData": {"Message": message, "Recipients": recipients}}).to_string())
    }

    fn wrong_credentials(&self, _: &Request<Bytes>) -> Response<Bytes> {
        answer(401, "text/plain", "The supplied authentication is invalid")
    }

    fn rate_limited(&self) -> Response<Bytes> {
        answer(429, "text/plain", "Too many requests")
    }
}

const fn word(code: u32) -> &'static str {
    match code {
        101 => "Success",
        401 => "RiskHold",
        402 => "InvalidSenderId",
        403 => "InvalidPhoneNumber",
        404 => "UnsupportedNumberType",
        405 => "InsufficientBalance",
        406 => "UserInBlacklist",
        407 => "CouldNotRoute",
        409 => "DoNotDisturbRejection",
        500 => "InternalServerError",
        501 => "GatewayError",
        502 => "RejectedByGateway",
        _ => "Unknown",
    }
}
