//! What Infobip tells afterwards, several things at once: delivery reports and inbound messages.
//! <https://www.infobip.com/docs/api/channels/sms/outbound-sms/logs-and-status-reports/receive-outbound-sms-message-report-v3>

use raven_core::{MessageId, money::Money};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::CODES;
use crate::{
    Callback, Callbacks, Class, Road, Told, Unreadable,
    callback::{Batch, Happened, Inbound, Report},
    wire,
};

pub(super) const CALLBACKS: Callbacks = Callbacks {
    authenticity: "not signed: the token in the URL stands for it",
    setup: "Nothing for reports: the URL travels with each message. For inbound messages, in the portal under Channels and numbers, \
        Numbers: open the number, and put the URL where its keyword forwards messages (Forward to HTTP, as JSON, by POST).",
    // The messages' ids are ours.
    by_id: false,
    road: Road::Url,
    answer: "",
};

#[derive(Deserialize)]
struct Results {
    results: Vec<Box<RawValue>>,
}

pub(super) fn read(callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
    let mut batch = Batch::default();
    for raw in callback.json::<Results>()?.results {
        let item: Value = serde_json::from_str(raw.get()).map_err(|_| Unreadable::new("a result is no JSON"))?;
        let Some(id) = item["messageId"].as_str().and_then(wire::id) else {
            return Err(Unreadable::new("a result has no messageId"));
        };
        batch.add(if item["status"].is_object() {
            report(&item, id, raw.get()).map(|report| report.into_iter().map(Told::Report).collect())
        } else {
            inbound(&item, id, raw.get()).map(|inbound| vec![Told::Inbound(inbound)])
        });
    }
    batch.told()
}

/// What a report tells: nothing, where its status is none that is documented; no report, where nothing follows from it.
fn report(item: &Value, id: String, payload: &str) -> Option<Option<Report>> {
    let (status, error) = (&item["status"], &item["error"]);
    let number = wire::code(&status["id"])?;
    let known = CODES.iter().find(|row| row.code == number);
    let happened = match (wire::code(&status["groupId"])?, number) {
        // The group tells only that it is under way; these, that an operator has it.
        (1, 3 | 7) => Happened::Sent,
        (0 | 1, _) => return Some(None),
        // It stands in the group of what is delivered.
        (3, 2) => Happened::Sent,
        (3, 5) => Happened::Delivered,
        // What became of the message can't be told: there was no report, or another attempt is under way.
        (2 | 4 | 5, _) if known.is_some_and(|row| row.class == Class::Unknown) => return Some(None),
        (2 | 4 | 5, _) => Happened::Failed,
        _ => return None,
    };
    let mut report = Report::new(happened, format!("{id} {number}"), payload);
    report.message = MessageId::parse(&id);
    report.recipient = item["to"].as_str().map(wire::with_plus);
    report.at = item["doneAt"].as_str().and_then(wire::utc);
    report.provider_message_id = Some(id);
    report.segments = wire::parts(&item["messageCount"]);
    report.cost = cost(item, report.segments);
    if happened == Happened::Failed {
        let of_error = error["name"].as_str().and_then(|name| wire::ours(ERRORS, &name.to_ascii_uppercase().as_str()));
        let of_error = of_error.or_else(|| wire::ours(wire::NETWORK, &wire::code(&error["id"])?));
        report.code = Some(of_error.or(known.map(|row| row.ours)).map_or_else(|| number.to_string(), str::to_owned));
        let by = if matches!(wire::code(&error["id"]), None | Some(0)) { status } else { error };
        let name = by["name"].as_str().or(status["groupName"].as_str()).unwrap_or_default();
        report.detail = Some(format!("Infobip {name}: {}", by["description"].as_str().unwrap_or("no reason given")));
    }
    Some(Some(report))
}

/// What all parts cost together.
fn cost(item: &Value, parts: Option<i16>) -> Option<Money> {
    let price = &item["price"];
    let each = Money::parse(price["currency"].as_str()?, &price["pricePerMessage"].as_number()?.to_string())?;
    Some(Money { micros: each.micros.checked_mul(i64::from(parts.unwrap_or(1)))?, ..each })
}

fn inbound(item: &Value, id: String, payload: &str) -> Option<Inbound> {
    let text = item["text"].as_str()?;
    Some(Inbound {
        provider_message_id: id,
        from: wire::with_plus(item["from"].as_str()?),
        to: item["to"].as_str().map(wire::with_plus).unwrap_or_default(),
        text: text.to_owned(),
        media: Vec::new(),
        at: item["receivedAt"].as_str().and_then(wire::utc),
        // Its `keyword` is one by which the account shares a number out.
        keyword: None,
        in_reply_to: None,
        payload: payload.to_owned(),
    })
}

/// What an error means by its name, where the number is not one that networks share.
/// <https://www.infobip.com/docs/developer-resources/api-fundamentals/error-code-reference>
const ERRORS: &[(&str, &str)] = &[
    ("EC_SM_DF_MEMORYCAPACITYEXCEEDED", "unreachable"),
    ("EC_TIME_OUT", "gateway_error"),
    ("EC_IMSI_BLACKLISTED", "blocked"),
    // The operator's list of those who want no such messages.
    ("EC_DEST_ADDRESS_BLACKLISTED", "do_not_disturb"),
    ("EC_BLACKLISTED_DESTINATIONADDRESS", "blocked"),
    ("EC_BLACKLISTED_SENDERADDRESS", "invalid_sender"),
    ("EC_MESSAGE_CANCELED", "canceled"),
    ("EC_VALIDITYEXPIRED", "expired"),
    ("EC_VALIDITY_EXPIRED", "expired"),
    ("EC_DESTINATION_FLOODING", "too_many_to_recipient"),
    ("EC_DESTINATION_TXT_FLOODING", "too_many_to_recipient"),
];
