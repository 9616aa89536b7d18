//! Documented answers and what follows from each; the expectation lies beside the fixture.

use raven_providers::{Bound, CATALOG, email::smtp};

use crate::{answer, bound, class, files, folder, read, shown};

#[test]
fn every_documented_answer_has_its_outcome() {
    let mut wrong = Vec::new();
    for provider in CATALOG {
        let Bound::Http(call) = bound(provider) else { continue };
        for file in files(folder(provider).join("answers"), "http") {
            let expected = read(&file.with_extension("expected"));
            let found = shown(&call.outcome(&answer(&read(&file))));
            if found != expected.trim_end() {
                wrong.push(format!("{}:\nexpected {}\nfound {found}", file.display(), expected.trim_end()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_smtp_reply_has_its_outcome() {
    let provider = raven_providers::find("smtp").expect("smtp is in the catalog");
    let table = read(&folder(provider).join("replies.txt"));
    for line in table.lines().filter(|l| !l.starts_with('#')) {
        let (reply, expected) = line.split_once(" => ").expect("a reply and an outcome");
        let (code, text) = reply.split_once(' ').unwrap_or((reply, ""));
        let found = match smtp::outcome(code.parse().expect("a code"), text) {
            Ok(sent) => format!("sent {}", sent.provider_message_id.unwrap_or_default()),
            Err(e) => {
                assert_eq!(e.message, format!("SMTP {code} {text}"));
                let (class, after) = class(e.class);
                format!("{class}{} {}", after.map(|s| format!(" after {s} s")).unwrap_or_default(), e.code)
            }
        };
        assert_eq!(found, expected, "{reply}");
    }
}

#[test]
fn a_late_wait_never_exceeds_a_day() {
    let provider = raven_providers::find("twilio").expect("twilio is in the catalog");
    let Bound::Http(call) = bound(provider) else { panic!("twilio speaks HTTP") };
    let error = call.outcome(&answer("HTTP/1.1 429 Too Many Requests\nRetry-After: 99999999999\n\n")).expect_err("throttled");
    assert_eq!(class(error.class), ("rate limited", Some(86_400)));
}

#[test]
fn a_check_of_credentials_tells_what_works_and_what_does_not() {
    let verified = |id: &str, head: &str| {
        let Bound::Http(call) = bound(raven_providers::find(id).expect("it is in the catalog")) else { panic!("{id} speaks HTTP") };
        call.verified(&answer(&format!("HTTP/1.1 {head}\n\n{{}}"))).map_err(|e| (class(e.class).0, e.code))
    };
    for id in ["vonage", "infobip", "messagebird", "termii", "plivo"] {
        assert_eq!(verified(id, "200 OK"), Ok(()), "{id}");
        assert_eq!(verified(id, "401 Unauthorized"), Err(("credentials", "invalid_credentials".to_owned())), "{id}");
        assert_eq!(verified(id, "503 Service Unavailable"), Err(("retry", "provider_unavailable".to_owned())), "{id}");
    }
    // A key that may only send is no wrong key.
    assert_eq!(verified("infobip", "403 Forbidden"), Err(("unknown", "missing_permission".to_owned())));
    assert_eq!(verified("plivo", "403 Forbidden"), Err(("credentials", "invalid_credentials".to_owned())));
}
