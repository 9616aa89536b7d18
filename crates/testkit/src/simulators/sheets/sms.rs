//! SMS.

use bytes::Bytes;
use http::{Method, Response};
use raven_core::sms;
use serde_json::{Value, json};

use super::super::{
    Received,
    sheet::{Auth, Fault, Sheet, Why, either, json as json_answer, phone, to_each},
};

/// Numbers in a text, or in a list of texts or numbers.
fn numbers(value: &Value, separator: char) -> Vec<String> {
    match value {
        Value::String(text) => text.split(separator).map(str::to_owned).collect(),
        Value::Array(list) => list.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

fn parts(message: &Received) -> u16 {
    sms::segments(&message.text).count
}

/// <https://developer.vonage.com/en/api/sms>
pub(super) const VONAGE: Sheet = Sheet {
    id: "vonage",
    path: "",
    auth: Auth::Basic,
    send: "/sms/json",
    fields: "from! to! text! type client-ref ttl status-report-req callback message-class account-ref entity-id content-id",
    read: |body| {
        let text = either(body, &["/text"])?;
        // Without being told, Vonage would put question marks there.
        if body["type"] != "unicode" && sms::segments(&text).encoding == sms::Encoding::Ucs2 {
            return Err(Fault::new("type", Why::Invalid));
        }
        Ok(to_each(body["to"].as_str().into_iter(), &text, body["from"].as_str()))
    },
    recipient: |to| phone(to) && !to.starts_with('+'),
    fault: |fault| match fault.why {
        Why::Missing => vonage_error(2, &format!("Missing {} param", fault.field)),
        _ => vonage_error(3, &format!("Invalid value for param: {}", fault.field)),
    },
    name: |_, n| format!("0A{n:014X}"),
    sent: |message, id| {
        let one = |part: u16| {
            json!({
                "to": message.recipient, "message-id": if part == 0 { id.to_owned() } else { format!("{id}{part}") }, "status": "0",
                "remaining-balance": "3.14159265", "message-price": "0.03330000", "network": "63902",
                "client-ref": message.body["client-ref"].as_str().unwrap_or_default(),
            })
        };
        let all: Vec<_> = (0..parts(message)).map(one).collect();
        json_answer(200, &json!({"message-count": all.len().to_string(), "messages": all}))
    },
    refused: |_, code| vonage_error(code, "Refused"),
    ask: |method, path| {
        let balance = json!({"value": 10.28, "autoReload": false});
        (method == Method::GET && path == "/account/get-balance").then(|| json_answer(200, &balance))
    },
    wrong_credentials: |_| {
        let kind = "https://developer.vonage.com/api-errors#unauthorized";
        json_answer(401, &json!({"type": kind, "title": "Unauthorized", "detail": "You did not provide correct credentials."}))
    },
    rate_limited: || json_answer(429, &json!({"type": "https://developer.vonage.com/api-errors#throttled", "title": "Rate Limit Hit"})),
};

fn vonage_error(status: u32, text: &str) -> Response<Bytes> {
    json_answer(200, &json!({"message-count": "1", "messages": [{"status": status.to_string(), "error-text": text}]}))
}

/// <https://developers.messagebird.com/api/sms-messaging/>
pub(super) const MESSAGEBIRD: Sheet = Sheet {
    id: "messagebird",
    path: "",
    auth: Auth::Header("authorization", "AccessKey "),
    send: "/messages",
    fields: "originator! recipients recipients[]:* body! reference reportUrl type datacoding validity:n gateway:n mclass:n \
        scheduledDatetime typeDetails.** shortenUrls:b groupIds[]",
    read: |body| {
        let to = numbers(&body["recipients"], ',');
        if to.is_empty() {
            return Err(Fault::new("recipients", Why::Missing));
        }
        let text = either(body, &["/body"])?;
        if body["datacoding"].as_str().unwrap_or("plain") == "plain" && sms::segments(&text).encoding == sms::Encoding::Ucs2 {
            return Err(Fault::new("datacoding", Why::Invalid));
        }
        Ok(to_each(to.iter().map(String::as_str), &text, body["originator"].as_str()))
    },
    recipient: phone,
    fault: |fault| {
        let field = fault.field.split([':', '.']).next().unwrap_or_default();
        let field = if field == "to" { "recipients" } else { field };
        match fault.why {
            Why::Missing => messagebird_error(422, 9, &format!("no (correct) {field} found"), field),
            _ => messagebird_error(422, 10, &format!("{field} has unknown format"), field),
        }
    },
    name: |_, n| format!("e8077d803532c0b5{n:016x}"),
    sent: |message, id| {
        let at = "2026-11-24T04:20:00+00:00";
        let number: u64 = message.recipient.trim_start_matches('+').parse().expect("it was checked");
        let item = json!({"recipient": number, "status": "sent", "statusDatetime": at, "messagePartCount": parts(message)});
        let recipients =
            json!({"totalCount": 1, "totalSentCount": 1, "totalDeliveredCount": 0, "totalDeliveryFailedCount": 0, "items": [item]});
        let given = &message.body;
        json_answer(
            201,
            &json!({
                "id": id, "href": format!("https://rest.messagebird.com/messages/{id}"), "direction": "mt", "type": "sms",
                "originator": given["originator"], "body": given["body"], "reference": given["reference"], "validity": null,
                "gateway": 239, "typeDetails": {}, "datacoding": given["datacoding"].as_str().unwrap_or("plain"), "mclass": 1,
                "scheduledDatetime": null, "createdDatetime": at, "recipients": recipients,
            }),
        )
    },
    refused: |_, _| messagebird_error(422, 25, "Not enough balance", ""),
    ask: |method, path| {
        let balance = json!({"payment": "prepaid", "type": "credits", "amount": 42.5});
        (method == Method::GET && path == "/balance").then(|| json_answer(200, &balance))
    },
    wrong_credentials: |_| messagebird_error(401, 2, "Request not allowed (incorrect access_key)", "access_key"),
    rate_limited: || messagebird_error(429, 429, "Too many requests", ""),
};

fn messagebird_error(status: u16, code: u32, description: &str, parameter: &str) -> Response<Bytes> {
    let parameter = Some(parameter).filter(|p| !p.is_empty());
    json_answer(status, &json!({"errors": [{"code": code, "description": description, "parameter": parameter}]}))
}

/// <https://www.plivo.com/docs/messaging/api/message/send-a-message/>
pub(super) const PLIVO: Sheet = Sheet {
    id: "plivo",
    path: "/v1",
    auth: Auth::Basic,
    send: "/Account/*/Message/",
    fields: "src powerpack_uuid dst! text! type url method log:* trackable:b message_expiry:n media_urls[] media_ids[] dlt_entity_id \
        dlt_template_id dlt_template_category",
    read: |body| {
        let sender = body["src"].as_str().or_else(|| body["powerpack_uuid"].as_str());
        if sender.is_none() {
            return Err(Fault::new("src", Why::Missing));
        }
        let to = numbers(&body["dst"], '<');
        Ok(to_each(to.iter().map(String::as_str), &either(body, &["/text"])?, sender))
    },
    recipient: phone,
    fault: |fault| {
        let text = match (fault.why, fault.field.strip_prefix("to: ")) {
            (_, Some(number)) => format!("{number} is not a valid phone number"),
            (Why::Missing, _) => format!("{} parameter is missing", fault.field),
            _ => fault.text(),
        };
        plivo_error(400, &text)
    },
    name: |_, n| format!("db3ce55a-7f1d-11e1-8ea7-{n:012x}"),
    sent: |_, id| json_answer(202, &json!({"api_id": PLIVO_API, "message": "message(s) queued", "message_uuid": [id]})),
    refused: |_, _| plivo_error(400, "insufficient credit"),
    ask: |method, path| {
        let id = path.strip_prefix("/Account/").and_then(|rest| rest.strip_suffix('/')).filter(|_| method == Method::GET)?;
        Some(json_answer(200, &json!({"api_id": PLIVO_API, "auth_id": id, "cash_credits": "10.00000", "state": "active"})))
    },
    wrong_credentials: |_| plivo_error(401, "authentication failed"),
    rate_limited: || plivo_error(429, "too many requests"),
};

const PLIVO_API: &str = "db342550-7f1d-11e1-8ea7-1231380bc196";

fn plivo_error(status: u16, text: &str) -> Response<Bytes> {
    json_answer(status, &json!({"api_id": PLIVO_API, "error": text}))
}

/// <https://www.infobip.com/docs/api/channels/sms/outbound-sms/send-sms-messages>
pub(super) const INFOBIP: Sheet = Sheet {
    id: "infobip",
    path: "",
    auth: Auth::Header("authorization", "App "),
    send: "/sms/3/messages",
    fields: "messages[].sender messages[].destinations[].to! messages[].destinations[].messageId messages[].content.text! \
        messages[].content.transliteration messages[].content.language.** messages[].options.** messages[].webhooks.delivery.url \
        messages[].webhooks.delivery.intermediateReport:b messages[].webhooks.delivery.notify:b messages[].webhooks.contentType \
        messages[].webhooks.callbackData options.includeSmsCountInResponse:b options.schedule.**",
    read: |body| {
        let first = &body["messages"][0];
        let to = first["destinations"].as_array().into_iter().flatten().filter_map(|d| d["to"].as_str());
        Ok(to_each(to, &either(first, &["/content/text"])?, first["sender"].as_str()))
    },
    recipient: phone,
    fault: |fault| {
        let (property, violation) = match fault.why {
            Why::Missing => (fault.field.clone(), "must not be blank".to_owned()),
            _ => (fault.field.clone(), fault.text()),
        };
        infobip_error(400, "Request cannot be processed.", &json!([{"property": property, "violation": violation}]))
    },
    // That of the caller, if it gives one.
    name: |message, n| {
        let given = message.body["messages"][0]["destinations"][0]["messageId"].as_str();
        given.map_or_else(|| format!("2250be2d4219-3af1-78856-aabe-{n:012x}"), str::to_owned)
    },
    sent: |message, id| infobip_status(message, id, (1, "PENDING"), (26, "PENDING_ACCEPTED"), "Message sent to next instance"),
    refused: |message, code| {
        let id = message.body["messages"][0]["destinations"][0]["messageId"].as_str().unwrap_or("none");
        infobip_status(message, id, (5, "REJECTED"), (code, "REJECTED"), "Refused")
    },
    ask: |method, path| {
        let balance = json!({"balance": 47.79134, "currency": "EUR"});
        (method == Method::GET && path == "/account/1/balance").then(|| json_answer(200, &balance))
    },
    wrong_credentials: |_| infobip_error(401, "Invalid credentials.", &json!([])),
    rate_limited: || infobip_error(429, "Too many requests sent.", &json!([])),
};

fn infobip_error(status: u16, description: &str, violations: &Value) -> Response<Bytes> {
    let action = "Check the documentation.";
    let body =
        json!({"errorCode": format!("E{status}"), "description": description, "action": action, "violations": violations, "resources": []});
    json_answer(status, &body)
}

fn infobip_status(message: &Received, id: &str, group: (u32, &str), status: (u32, &str), text: &str) -> Response<Bytes> {
    let state = json!({"groupId": group.0, "groupName": group.1, "id": status.0, "name": status.1, "description": text});
    let mut one = json!({"messageId": id, "status": state, "destination": message.recipient});
    if message.body["options"]["includeSmsCountInResponse"] == true {
        one["details"] = json!({"messageCount": parts(message)});
    }
    json_answer(200, &json!({"bulkId": "1688025180464000013", "messages": [one]}))
}

/// <https://developers.termii.com/messaging-api>
pub(super) const TERMII: Sheet = Sheet {
    id: "termii",
    path: "",
    auth: Auth::Body("api_key"),
    send: "/api/sms/send",
    fields: "api_key! to to[] from! sms! type! channel! media.media_url media.caption",
    read: |body| {
        let to = numbers(&body["to"], ',');
        if to.is_empty() {
            return Err(Fault::new("to", Why::Missing));
        }
        if !["generic", "dnd", "whatsapp"].iter().any(|channel| body["channel"] == *channel) {
            return Err(Fault::new("channel", Why::Invalid));
        }
        Ok(to_each(to.iter().map(String::as_str), &either(body, &["/sms"])?, body["from"].as_str()))
    },
    recipient: |to| phone(to) && !to.starts_with('+'),
    fault: |fault| termii_error(400, &fault.text()),
    // More digits than a number holds.
    name: |_, n| format!("30178578121382245171{n:05}"),
    sent: |_, id| {
        let message = "Successfully Sent";
        json_answer(
            200,
            &json!({"code": "ok", "message_id": id, "message_id_str": id, "message": message, "balance": 9, "user": "Ada Obi"}),
        )
    },
    refused: |_, _| termii_error(404, "ApplicationSenderId not found for applicationId: 53060 and senderName: ACME"),
    ask: |method, path| {
        let balance = json!({"user": "Ada Obi", "balance": 9, "currency": "NGN"});
        (method == Method::GET && path == "/api/get-balance").then(|| json_answer(200, &balance))
    },
    wrong_credentials: |_| termii_error(401, "Invalid api key"),
    rate_limited: || termii_error(429, "Too many requests"),
};

fn termii_error(status: u16, message: &str) -> Response<Bytes> {
    json_answer(status, &json!({"code": status, "message": message, "status": "error", "link": "uri=/sms/send"}))
}
