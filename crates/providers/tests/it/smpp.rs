//! SMPP: what answers mean, what a message centre tells, and that it may say anything.
//!
//! A delivery's fixture says what stands in a `deliver_sm`, from which the test makes the PDU by itself. `RAVEN_UPDATE_DOCS=1` writes
//! expectations that are missing, to be read.

use std::fs;

use http::{HeaderMap, Method};
use proptest::prelude::*;
use raven_core::{Channel, message::Content};
use raven_providers::{
    Bound, Callback, Class, SendError, Told, Unreadable, find,
    sms::smpp::{HEADER, LONGEST, Pdu, Settings, command, cut_short},
};
use serde_json::{Value, json};

use crate::{class, files, folder, json, outbound, read, secrets, settings};

/// The fixtures' settings, with these beside them.
fn with(more: &Value) -> Box<Settings> {
    let provider = find("smpp").expect("it is in the catalog");
    let (mut public, secret) = settings(provider);
    for (name, value) in more.as_object().into_iter().flatten() {
        public.insert(name.clone(), value.clone());
    }
    let (public, secret) = provider.spec.validate(Some(&public.into()), Some(&secret.into())).expect("good settings");
    let Ok(Bound::Smpp(settings)) = provider.bind(&public, &secret) else { panic!("it speaks SMPP") };
    settings
}

fn pdu(command: u32, status: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).expect("a short one");
    [&length.to_be_bytes()[..], &command.to_be_bytes(), &status.to_be_bytes(), &7_u32.to_be_bytes(), body].concat()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits")).collect()
}

fn bytes(of: &Value) -> Vec<u8> {
    match (of["hex"].as_str(), of["text"].as_str()) {
        (Some(hex), _) => unhex(hex),
        (_, Some(text)) => text.as_bytes().to_vec(),
        _ => Vec::new(),
    }
}

/// The body of a `deliver_sm`, by the table in the standard.
fn delivery(fixture: &Value) -> Vec<u8> {
    let number = |name: &str| u8::try_from(fixture[name].as_u64().unwrap_or(0)).expect("one octet");
    let mut body = b"CMT\0\x01\x01".to_vec();
    body.extend(fixture["source"].as_str().expect("a source").bytes());
    body.extend(b"\0\x05\x00");
    body.extend(fixture["destination"].as_str().expect("a destination").bytes());
    body.extend([0, number("esmClass"), 0, 0, 0, 0, 0, 0, number("dataCoding"), 0]);
    let text = bytes(fixture);
    body.push(u8::try_from(text.len()).expect("a short text"));
    body.extend(text);
    // One that nobody knows stands before the others.
    body.extend(unhex("1403000401020304"));
    for (tag, value) in fixture["tlvs"].as_object().into_iter().flatten() {
        let mut value = bytes(value);
        if tag == "001e" {
            value.push(0);
        }
        body.extend(unhex(tag));
        body.extend(u16::try_from(value.len()).expect("a short one").to_be_bytes());
        body.extend(value);
    }
    body
}

fn told(settings: &Settings, pdu: &[u8], query: &str) -> Result<Vec<Told>, Unreadable> {
    settings.read(&Callback { method: &Method::POST, query, headers: &HeaderMap::new(), body: pdu })
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a switch of the test itself")]
fn every_delivery_tells_what_is_expected() {
    let mut wrong = Vec::new();
    for file in files(folder(find("smpp").expect("it is in the catalog")).join("deliveries"), "json") {
        let fixture = json(&file);
        let found = match told(&with(&fixture["settings"]), &pdu(command::DELIVER_SM, 0, &delivery(&fixture)), "arrival=1") {
            Ok(told) => format!("{}\n", serde_json::to_string_pretty(&told).expect("JSON")),
            Err(why) => format!("unreadable: {why}\n"),
        };
        let beside = file.with_extension("expected");
        if !beside.exists() && std::env::var_os("RAVEN_UPDATE_DOCS").is_some() {
            fs::write(&beside, &found).expect("a writable folder");
        }
        let expected = read(&beside);
        if found != expected {
            wrong.push(format!("{}:\nexpected\n{expected}\nfound\n{found}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn outcome(result: Result<String, SendError>) -> String {
    match result {
        Ok(told) => told,
        Err(e) => {
            let (class, after) = class(e.class);
            format!("{class}{} {}", after.map(|s| format!(" after {s} s")).unwrap_or_default(), e.code)
        }
    }
}

#[test]
fn every_status_has_its_outcome() {
    let settings = with(&Value::Null);
    for line in read(&folder(find("smpp").expect("it is in the catalog")).join("statuses.txt")).lines().filter(|l| !l.starts_with('#')) {
        let (status, expected) = line.split_once(" => ").expect("a status and outcomes");
        let (submit, bind) = expected.split_once(" | ").expect("an outcome of each");
        let status = u32::from_str_radix(status, 16).expect("hexadecimal digits");
        let answer = |to| pdu(command::answer(to), status, if status == 0 { b"4bf0a7\0" } else { b"" });
        let submitted = answer(command::SUBMIT_SM);
        let submitted = settings.outcome(&Pdu::read(&submitted).expect("a PDU")).map(|id| format!("sent {}", id.unwrap_or_default()));
        assert_eq!(outcome(submitted), submit, "{status:x}");
        let bound = answer(command::BIND_TRANSCEIVER);
        assert_eq!(outcome(settings.bound(&Pdu::read(&bound).expect("a PDU")).map(|()| "bound".to_owned())), bind, "{status:x}");
    }
}

#[test]
fn an_answer_that_is_no_answer_leaves_it_open_and_one_that_could_not_be_read_does_not() {
    let settings = with(&Value::Null);
    let of = |bytes: &[u8]| settings.outcome(&Pdu::read(bytes).expect("a PDU")).map_err(|e| e.class);
    assert_eq!(of(&pdu(command::answer(command::SUBMIT_SM), 0, b"")), Ok(None));
    assert_eq!(of(&pdu(command::answer(command::SUBMIT_SM), 0, b"no end")), Ok(Some("no end".to_owned())));
    assert_eq!(of(&pdu(command::answer(command::ENQUIRE_LINK), 0, b"")), Err(Class::Unknown));
    assert_eq!(of(&pdu(command::GENERIC_NACK, 0, b"")), Err(Class::Rejected));
    assert_eq!(of(&pdu(command::GENERIC_NACK, 0x58, b"")).map_err(|c| class(c).0), Err("rate limited"));
    let other = pdu(command::answer(command::ENQUIRE_LINK), 0, b"");
    assert!(settings.bound(&Pdu::read(&other).expect("a PDU")).is_err(), "it binds nothing");
}

#[test]
fn ids_are_kept_in_one_form_whatever_answers_and_receipts_have() {
    let receipt = |settings: &Settings, id: &str| {
        let text = format!("id:{id} sub:001 dlvrd:001 stat:DELIVRD err:000");
        let body = delivery(&json!({ "source": "254722000000", "destination": "ACME", "esmClass": 4, "text": text }));
        match told(settings, &pdu(command::DELIVER_SM, 0, &body), "").expect("a receipt").remove(0) {
            Told::Report(report) => report.provider_message_id,
            other => panic!("{other:?}"),
        }
    };
    for (mode, answered, received, kept) in [
        ("same", "4bf0A7", "4bf0A7", "4bf0A7"),
        ("same", "0017", "0017", "0017"),
        ("decimal", "4BF0A7", "4976807", "4976807"),
        ("decimal", "004bf0a7", "0004976807", "4976807"),
        ("hexadecimal", "4976807", "4bf0a7", "4976807"),
        ("hexadecimal", "0004976807", "004BF0A7", "4976807"),
        // What is no number is what it is.
        ("decimal", "no-number", "no-number", "no-number"),
    ] {
        let settings = with(&json!({ "receipt_ids": mode }));
        let answer = pdu(command::answer(command::SUBMIT_SM), 0, format!("{answered}\0").as_bytes());
        assert_eq!(settings.outcome(&Pdu::read(&answer).expect("a PDU")), Ok(Some(kept.to_owned())), "{mode} {answered}");
        assert_eq!(receipt(&settings, received).as_deref(), Some(kept), "{mode} {received}");
    }
}

#[test]
fn only_the_last_part_asks_for_a_receipt_and_all_have_one_reference() {
    let settings = with(&Value::Null);
    let text = "x".repeat(153 * 254 + 160);
    let parts = |text: &str| {
        let content = Content { body: Some(text.to_owned().into()), ..Content::default() };
        settings.submits(&outbound(Channel::Sms, "+254722000000", &content))
    };
    let submits = parts(&text[..153 * 3]).expect("three parts");
    assert_eq!(submits.len(), 3);
    // After the addresses, of which ACME and twelve digits: esm_class, and registered_delivery four octets later.
    let at = 1 + 2 + 5 + 2 + 13;
    let fields: Vec<(u8, u8)> = submits.iter().map(|body| (body[at], body[at + 5])).collect();
    assert_eq!(fields, [(0x40, 0), (0x40, 0), (0x40, 1)]);
    let headers: Vec<&[u8]> = submits.iter().map(|body| &body[at + 10..at + 16]).collect();
    assert_eq!(headers, [[5, 0, 3, 0x4d, 3, 1], [5, 0, 3, 0x4d, 3, 2], [5, 0, 3, 0x4d, 3, 3]]);
    assert_eq!(parts(&text[..153 * 255]).expect("as many as there can be").len(), 255);
    assert_eq!(parts(&text).map_err(|e| (e.class, e.code)), Err((Class::Rejected, "message_too_long".to_owned())));
}

#[test]
fn a_message_that_went_out_in_part_is_not_begun_again() {
    let error = |class| SendError::new(class, "throttled", "SMPP 0x58");
    for class in [Class::Rejected, Class::Retry { after: None }, Class::RateLimited { after: None }, Class::Credentials] {
        let cut = cut_short(2, 3, error(class));
        assert_eq!((cut.class, cut.code.as_str()), (Class::Rejected, "partly_sent"));
        assert_eq!(cut.message, "part 2 of 3 was not taken, those before it were: throttled: SMPP 0x58");
    }
    assert_eq!(cut_short(2, 3, error(Class::Unknown)), error(Class::Unknown));
}

#[test]
fn the_same_text_twice_is_two_messages_and_one_read_twice_is_one() {
    let settings = with(&Value::Null);
    let body = delivery(&json!({ "source": "254722000000", "destination": "22384", "text": "yes" }));
    let id = |query: &str| match told(&settings, &pdu(command::DELIVER_SM, 0, &body), query).expect("a message").remove(0) {
        Told::Inbound(inbound) => inbound.provider_message_id,
        other => panic!("{other:?}"),
    };
    assert_eq!(id("arrival=1"), id("arrival=1"));
    assert_ne!(id("arrival=1"), id("arrival=2"));
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    let provider = find("smpp").expect("it is in the catalog");
    let (public, secret) = settings(provider);
    for (name, value, why) in [
        ("window", json!(0), "must be a whole number from 1 to 100"),
        ("window", json!("10"), "must be a whole number from 1 to 100"),
        ("binds", json!(9), "must be a whole number from 1 to 8"),
        ("source_ton", json!(1.5), "must be a whole number from 0 to 7"),
    ] {
        let mut public = public.clone();
        public.insert(name.to_owned(), value);
        let found = provider.spec.validate(Some(&public.into()), Some(&secret.clone().into())).expect_err("it is refused").into_vec();
        assert_eq!(
            found.iter().map(|p| (p.field.as_str(), p.message.as_str())).collect::<Vec<_>>(),
            [(format!("publicConfig.{name}").as_str(), why)]
        );
    }
}

/// Nothing that was told is longer or stranger than what the database takes, and no secret is in it.
fn check(told: &[Told]) {
    let shown = format!("{told:?}");
    for secret in secrets(find("smpp").expect("it is in the catalog")) {
        assert!(!shown.contains(&secret), "{shown}");
    }
    for each in told {
        match each {
            Told::Report(report) => {
                assert!(!report.key.contains(char::is_control) && report.key.len() <= 512, "{report:?}");
                assert!(report.payload.len() <= 4096 && !report.payload.contains('\0'), "{report:?}");
                assert!(report.provider_message_id.as_ref().is_none_or(|id| !id.is_empty() && id.len() <= 512), "{report:?}");
            }
            Told::Inbound(inbound) => {
                assert!(!inbound.provider_message_id.is_empty() && inbound.provider_message_id.len() <= 512, "{inbound:?}");
                assert!(!inbound.text.contains('\0') && !inbound.payload.contains('\0'), "{inbound:?}");
                assert!(!format!("{}{}", inbound.from, inbound.to).contains(char::is_control), "{inbound:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_the_reader_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        command in prop_oneof![Just(command::DELIVER_SM), Just(command::answer(command::SUBMIT_SM)), any::<u32>()],
        status in any::<u32>(),
    ) {
        let _ = Pdu::whole(&bytes);
        prop_assert!(Pdu::whole(&bytes).ok().flatten().is_none_or(|length| (HEADER..=LONGEST).contains(&length) && length <= bytes.len()));
        let settings = with(&Value::Null);
        check(&told(&settings, &bytes, "arrival=1").unwrap_or_default());
        let framed = pdu(command, status, &bytes);
        check(&told(&settings, &framed, "arrival=1").unwrap_or_default());
        let answer = Pdu::read(&framed).expect("it was framed");
        let _ = (settings.bound(&answer), settings.outcome(&answer));
    }

    #[test]
    fn a_delivery_with_anything_in_it_never_panics(
        file in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        with_bytes in prop::collection::vec(any::<u8>(), 0..12),
        secret in any::<bool>(),
    ) {
        let files = files(folder(find("smpp").expect("it is in the catalog")).join("deliveries"), "json");
        let fixture = json(file.get(&files));
        let mut body = delivery(&fixture);
        let at = at.index(body.len() + 1);
        let end = (at + with_bytes.len()).min(body.len());
        body.splice(at..end, if secret { b"hushhush".to_vec() } else { with_bytes });
        for body in [&body[..], &body[..at]] {
            check(&told(&with(&fixture["settings"]), &pdu(command::DELIVER_SM, 0, body), "arrival=1").unwrap_or_default());
        }
    }
}
