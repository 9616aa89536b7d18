//! Email.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response};
use serde_json::{Value, json};

use super::super::{
    server::answer,
    sheet::{Auth, Fault, Sheet, Why, either, json as json_answer, mailbox, to_each},
};

/// Members of a list, each at a place.
fn each<'a>(list: &'a Value, place: &'a str) -> impl Iterator<Item = &'a str> {
    list.as_array().into_iter().flatten().filter_map(move |item| item.pointer(place).and_then(Value::as_str))
}

/// Addresses in a text, or in a list of them.
fn addresses(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => text.split(',').collect(),
        list => each(list, "").collect(),
    }
}

/// <https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send>
pub(super) const SENDGRID: Sheet = Sheet {
    id: "sendgrid",
    path: "/v3",
    auth: Auth::Header("authorization", "Bearer "),
    send: "/mail/send",
    fields: "personalizations[].to[].email! personalizations[].to[].name personalizations[].cc[].email personalizations[].cc[].name \
        personalizations[].bcc[].email personalizations[].bcc[].name personalizations[].subject personalizations[].headers.** \
        personalizations[].custom_args.** from.email! from.name reply_to.email reply_to.name subject! content[].type! content[].value! \
        attachments[].content attachments[].filename attachments[].type attachments[].disposition attachments[].content_id headers.** \
        categories[] custom_args.** ip_pool_name batch_id send_at:n template_id asm.group_id:n mail_settings.sandbox_mode.enable:b",
    read: |body| {
        // Plain text must come first.
        let kinds: Vec<_> = each(&body["content"], "/type").collect();
        if kinds.len() > 1 && kinds[0] != "text/plain" {
            return Err(Fault::new("content", Why::Invalid));
        }
        let recipients = body["personalizations"].as_array().into_iter().flatten().flat_map(|p| each(&p["to"], "/email"));
        Ok(to_each(recipients, &either(body, &["/content/0/value"])?, body["from"]["email"].as_str()))
    },
    recipient: mailbox,
    fault: |fault| {
        let field = if fault.field.starts_with("to: ") { "personalizations.0.to.0.email" } else { &fault.field };
        let message = if fault.why == Why::Invalid { "Does not contain a valid address.".to_owned() } else { fault.text() };
        json_answer(400, &json!({"errors": [{"message": message, "field": field, "help": null}]}))
    },
    name: |_, n| format!("{n:011x}.dfd.64b469"),
    sent: |_, id| {
        let mut accepted = answer(202, "text/plain", "");
        let id = HeaderValue::from_str(id).expect("ids are ASCII");
        accepted.headers_mut().insert(HeaderName::from_static("x-message-id"), id);
        accepted
    },
    refused: |_, code| {
        json_answer(
            code_of(code, 403),
            &json!({"errors": [{"message": "The from address does not match a verified Sender Identity.", "field": "from", "help": null}]}),
        )
    },
    ask: |method, path| {
        (method == Method::GET && path == "/scopes").then(|| json_answer(200, &json!({"scopes": ["mail.send", "user.profile.read"]})))
    },
    wrong_credentials: |_| {
        let message = "The provided authorization grant is invalid, expired, or revoked";
        json_answer(401, &json!({"errors": [{"message": message, "field": null, "help": null}]}))
    },
    rate_limited: || json_answer(429, &json!({"errors": [{"message": "too many requests", "field": null, "help": null}]})),
};

/// A test that wants any refusal asks for 0; one that wants a status asks for it.
fn code_of(code: u32, usual: u16) -> u16 {
    u16::try_from(code).ok().filter(|status| (400..600).contains(status)).unwrap_or(usual)
}

/// <https://resend.com/docs/api-reference/emails/send-email>, <https://resend.com/docs/api-reference/errors>
pub(super) const RESEND: Sheet = Sheet {
    id: "resend",
    path: "",
    auth: Auth::Header("authorization", "Bearer "),
    send: "/emails",
    fields: "from! to to[] cc cc[] bcc bcc[] reply_to reply_to[] subject! html text headers.** scheduled_at template.** topic_id \
        attachments[].filename attachments[].content attachments[].content[]:n attachments[].path attachments[].content_type attachments[].content_id \
        tags[].name tags[].value",
    read: |body| {
        let to = addresses(&body["to"]);
        if to.is_empty() {
            return Err(Fault::new("to", Why::Missing));
        }
        if !mailbox(body["from"].as_str().unwrap_or_default()) {
            return Err(Fault::new("from", Why::Invalid));
        }
        Ok(to_each(to.into_iter(), &either(body, &["/text", "/html"])?, body["from"].as_str()))
    },
    recipient: mailbox,
    fault: |fault| {
        let field = fault.field.split([':', '.']).next().unwrap_or_default();
        let (name, message) = match fault.why {
            Why::Missing => ("missing_required_field", format!("Missing `{field}` field.")),
            Why::Unknown => ("invalid_parameter", fault.text()),
            Why::Invalid => {
                let format = "The email address needs to follow the `email@example.com` or `Name <email@example.com>` format.";
                ("validation_error", format!("Invalid `{field}` field. {format}"))
            }
        };
        resend_error(422, name, &message)
    },
    name: |_, n| format!("49a3999c-0ce1-4ea6-ab68-{n:012x}"),
    sent: |_, id| json_answer(200, &json!({"id": id})),
    refused: |_, _| {
        resend_error(
            403,
            "validation_error",
            "The acme.example domain is not verified. Please, add and verify your domain on https://resend.com/domains",
        )
    },
    ask: |method, path| (method == Method::GET && path == "/domains").then(|| json_answer(200, &json!({"object": "list", "data": []}))),
    wrong_credentials: |_| resend_error(403, "invalid_api_key", "API key is invalid"),
    rate_limited: || resend_error(429, "rate_limit_exceeded", "Too many requests. You can only make 2 requests per second."),
};

fn resend_error(status: u16, name: &str, message: &str) -> Response<Bytes> {
    json_answer(status, &json!({"statusCode": status, "name": name, "message": message}))
}

/// <https://postmarkapp.com/developer/api/email-api>
pub(super) const POSTMARK: Sheet = Sheet {
    id: "postmark",
    path: "",
    auth: Auth::Header("x-postmark-server-token", ""),
    send: "/email",
    fields: "From! To! Cc Bcc ReplyTo Subject TextBody HtmlBody Tag Metadata.** Headers[].Name Headers[].Value Attachments[].Name \
        Attachments[].Content Attachments[].ContentType Attachments[].ContentID Attachments[].ContentId TrackOpens:b TrackLinks MessageStream",
    read: |body| {
        let text = either(body, &["/TextBody", "/HtmlBody"])?;
        Ok(to_each(addresses(&body["To"]).into_iter(), &text, body["From"].as_str()))
    },
    recipient: mailbox,
    fault: |fault| {
        let message = match fault.field.strip_prefix("to: ") {
            Some(address) => format!("Invalid 'To' address: '{address}'."),
            None if fault.field == "TextBody" => "Provide either email TextBody or HtmlBody or both.".to_owned(),
            None => fault.text(),
        };
        postmark_error(422, 300, &message)
    },
    name: |_, n| format!("0a129aee-e1cd-480d-b08d-{n:012x}"),
    sent: |message, id| {
        let at = "2026-11-24T04:20:00.4178645-05:00";
        json_answer(200, &json!({"To": message.recipient, "SubmittedAt": at, "MessageID": id, "ErrorCode": 0, "Message": "OK"}))
    },
    refused: |message, code| match code {
        400 => postmark_error(422, 400, "The 'From' address you supplied is not a Sender Signature on your account."),
        _ => {
            let found = format!("Found inactive addresses: {}.", message.recipient);
            let why = "Inactive recipients are ones that have generated a hard bounce, a spam complaint, or a manual suppression.";
            postmark_error(422, 406, &format!("You tried to send to a recipient that has been marked as inactive.\n{found}\n{why}"))
        }
    },
    ask: |method, path| (method == Method::GET && path == "/server").then(|| json_answer(200, &json!({"ID": 1, "Name": "Simulated"}))),
    wrong_credentials: |_| postmark_error(401, 10, "Request does not contain a valid Server token."),
    rate_limited: || postmark_error(429, 429, "Too many requests"),
};

fn postmark_error(status: u16, code: u32, message: &str) -> Response<Bytes> {
    json_answer(status, &json!({"ErrorCode": code, "Message": message}))
}

/// <https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages>
pub(super) const MAILGUN: Sheet = Sheet {
    id: "mailgun",
    path: "/v3",
    auth: Auth::Basic,
    send: "/*/messages",
    fields: "from! to to[] cc cc[] bcc bcc[] subject text html amp-html template recipient-variables attachment.filename \
        attachment.size:n attachment[].filename attachment[].size:n inline.filename inline.size:n inline[].filename inline[].size:n t:** o:** h:** v:**",
    read: |body| {
        let to = addresses(&body["to"]);
        if to.is_empty() {
            return Err(Fault::new("to", Why::Missing));
        }
        let text = either(body, &["/text", "/html"]).map_err(|_| Fault::new("text", Why::Missing))?;
        Ok(to_each(to.into_iter(), &text, body["from"].as_str()))
    },
    recipient: mailbox,
    fault: |fault| {
        let field = fault.field.split([':', '.']).next().unwrap_or_default();
        let message = match (fault.why, field) {
            (Why::Missing, "text") => "need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified".to_owned(),
            (Why::Missing, _) => format!("{field} parameter is missing"),
            (Why::Invalid, _) => format!("'{field}' parameter is not a valid address. please check documentation"),
            (Why::Unknown, _) => fault.text(),
        };
        json_answer(400, &json!({"message": message}))
    },
    name: |_, n| format!("20160306015544.116301.{n}@mg.acme.example"),
    // In brackets here, without in events.
    sent: |_, id| json_answer(200, &json!({"id": format!("<{id}>"), "message": "Queued. Thank you."})),
    refused: |_, _| json_answer(404, &json!({"message": "Domain not found: mg.acme.example"})),
    ask: |method, path| {
        let domain = path.strip_prefix("/domains/").filter(|_| method == Method::GET)?;
        Some(json_answer(200, &json!({"domain": {"name": domain, "state": "active"}})))
    },
    wrong_credentials: |_| answer(401, "text/plain", "Forbidden"),
    rate_limited: || json_answer(429, &json!({"message": "Too many requests"})),
};

/// <https://dev.mailjet.com/email/guides/send-api-v31/>
pub(super) const MAILJET: Sheet = Sheet {
    id: "mailjet",
    path: "",
    auth: Auth::Basic,
    send: "/v3.1/send",
    fields: "SandboxMode:b Globals.** Messages[].From.Email! Messages[].From.Name Messages[].To[].Email! Messages[].To[].Name \
        Messages[].Cc[].Email Messages[].Cc[].Name Messages[].Bcc[].Email Messages[].Bcc[].Name Messages[].ReplyTo.Email \
        Messages[].ReplyTo.Name Messages[].Subject Messages[].TextPart Messages[].HTMLPart Messages[].Headers.** \
        Messages[].Attachments[].ContentType Messages[].Attachments[].Filename Messages[].Attachments[].Base64Content \
        Messages[].InlinedAttachments[].ContentType Messages[].InlinedAttachments[].Filename Messages[].InlinedAttachments[].Base64Content \
        Messages[].InlinedAttachments[].ContentID Messages[].CustomID Messages[].CustomCampaign Messages[].EventPayload \
        Messages[].TemplateID:n Messages[].TemplateLanguage:b Messages[].Variables.** Messages[].TrackOpens Messages[].TrackClicks",
    read: |body| {
        let first = &body["Messages"][0];
        let text = either(first, &["/TextPart", "/HTMLPart"])?;
        Ok(to_each(each(&first["To"], "/Email"), &text, first["From"]["Email"].as_str()))
    },
    recipient: mailbox,
    fault: |fault| {
        let (code, message, field) = match (fault.why, fault.field.strip_prefix("to: ")) {
            (_, Some(address)) => ("mj-0013", format!("\"{address}\" is an invalid email address."), "To[0].Email"),
            (Why::Missing, _) => ("mj-0003", format!("The {} is mandatory but missing from the input", fault.field), &*fault.field),
            _ => ("mj-0004", fault.text(), &*fault.field),
        };
        mailjet_error(code, &message, field)
    },
    // More than a number of JavaScript holds.
    name: |_, n| (576_460_752_303_423_000 + n).to_string(),
    sent: |message, id| {
        let number: u64 = id.parse().expect("it was made from one");
        let href = format!("https://api.mailjet.com/v3/message/{id}");
        let to = json!({"Email": message.recipient, "MessageUUID": "cb927469-36fd-4c02-bce4-0d199929a207", "MessageID": number, "MessageHref": href});
        let custom = message.body["Messages"][0]["CustomID"].as_str().unwrap_or_default();
        json_answer(200, &json!({"Messages": [{"Status": "success", "CustomID": custom, "To": [to], "Cc": [], "Bcc": []}]}))
    },
    refused: |_, _| {
        mailjet_error("send-0008", "\"hello@acme.example\" is not an authorized sender email address for your account.", "From")
    },
    ask: |method, path| {
        let account = json!({"Count": 1, "Data": [{"APIKey": "…", "IsActive": true}], "Total": 1});
        (method == Method::GET && path == "/v3/REST/apikey").then(|| json_answer(200, &account))
    },
    wrong_credentials: |_| {
        let message = "API key authentication/authorization failure. You may be unauthorized to access the API or your API key may be expired. \
            Visit API keys management section to check your keys.";
        json_answer(401, &json!({"ErrorIdentifier": MAILJET_ERROR, "StatusCode": 401, "ErrorMessage": message}))
    },
    rate_limited: || json_answer(429, &json!({"ErrorIdentifier": MAILJET_ERROR, "StatusCode": 429, "ErrorMessage": "Too many requests"})),
};

const MAILJET_ERROR: &str = "1ab23cd4-e567-8901-2345-6789f0abcdef";

fn mailjet_error(code: &str, message: &str, field: &str) -> Response<Bytes> {
    let error =
        json!({"ErrorIdentifier": MAILJET_ERROR, "ErrorCode": code, "StatusCode": 400, "ErrorMessage": message, "ErrorRelatedTo": [field]});
    json_answer(400, &json!({"Messages": [{"Status": "error", "Errors": [error]}]}))
}

/// <https://developers.brevo.com/reference/send-transac-email>
pub(super) const BREVO: Sheet = Sheet {
    id: "brevo",
    path: "/v3",
    auth: Auth::Header("api-key", ""),
    send: "/smtp/email",
    fields: "sender.email! sender.name to[].email! to[].name cc[].email cc[].name bcc[].email bcc[].name replyTo.email replyTo.name \
        subject! textContent htmlContent headers.** attachment[].name attachment[].content attachment[].url tags[] params.** \
        templateId:n scheduledAt batchId",
    read: |body| {
        let text = either(body, &["/htmlContent", "/textContent"]).map_err(|_| Fault::new("htmlContent or textContent", Why::Missing))?;
        Ok(to_each(each(&body["to"], "/email"), &text, body["sender"]["email"].as_str()))
    },
    recipient: mailbox,
    fault: |fault| {
        let (code, message) = match (fault.why, fault.field.starts_with("to: ")) {
            (_, true) => ("invalid_parameter", "email is not valid in to".to_owned()),
            (Why::Missing, _) => ("missing_parameter", fault.text()),
            _ => ("invalid_parameter", fault.text()),
        };
        json_answer(400, &json!({"code": code, "message": message}))
    },
    name: |_, n| format!("<201801020304.{n}@smtp-relay.mailin.fr>"),
    sent: |_, id| json_answer(201, &json!({"messageId": id})),
    refused: |_, _| json_answer(402, &json!({"code": "not_enough_credits", "message": "Not enough credits to send the email"})),
    ask: |method, path| {
        let account = json!({"email": "ada@acme.example", "plan": [{"type": "free", "credits": 300}], "relay": {"enabled": true}});
        (method == Method::GET && path == "/account").then(|| json_answer(200, &account))
    },
    wrong_credentials: |_| json_answer(401, &json!({"code": "unauthorized", "message": "Key not found"})),
    rate_limited: || json_answer(429, &json!({"code": "too_many_requests", "message": "Too many requests"})),
};
