//! What Amazon SES tells through Amazon SNS: the envelope and who signed it, and the events in it.
//!
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html>

use std::time::Duration;

use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY as RSA_SHA1, RSA_PKCS1_2048_8192_SHA256 as RSA_SHA256, RsaParameters, UnparsedPublicKey,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use raven_core::Timestamp;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;
use x509_cert::{Certificate, der::Decode};

use crate::{
    Callback, Told, Unreadable, Verdict,
    callback::{Happened, Proof, Report, Wish},
    email::{
        self,
        events::{self, HARD, OPTED_OUT, SOFT, SUPPRESSED, failed, needed, text, well},
    },
    wire,
};

const NAME: &str = "Amazon SES";

/// SNS tries for an hour at most, with the message as it was signed first.
const RETRIED: Duration = Duration::from_secs(3600);

/// The topics of a setting: ARNs with commas or spaces between them.
pub(super) fn topics<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let given = String::deserialize(from)?;
    let topics: Vec<String> = given.split([',', ' ']).filter(|arn| !arn.is_empty()).map(str::to_owned).collect();
    if topics.is_empty() || !topics.iter().all(|arn| is_topic(arn)) {
        return Err(D::Error::custom(
            "publicConfig.sns_topic_arns must be ARNs of SNS topics with commas between them, for example arn:aws:sns:eu-west-1:123456789012:ses-events",
        ));
    }
    Ok(topics)
}

fn is_topic(arn: &str) -> bool {
    let parts: Vec<_> = arn.split(':').collect();
    let [_, partition, _, region, account, name] = parts[..] else { return false };
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    arn.starts_with("arn:aws") && arn.contains(":sns:") && [partition, region, account, name].into_iter().all(plain)
}

/// What SNS sends. All texts are as JSON tells them, without its escapes.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope {
    r#type: String,
    message_id: String,
    topic_arn: String,
    subject: Option<String>,
    message: String,
    timestamp: String,
    signature_version: String,
    signature: String,
    #[serde(rename = "SigningCertURL")]
    signing_cert_url: String,
    #[serde(rename = "SubscribeURL")]
    subscribe_url: Option<String>,
    token: Option<String>,
}

impl Envelope {
    /// What is signed; nothing for a message of no known type.
    fn signed(&self) -> Option<String> {
        let (message, id, time) = (Some(&self.message), Some(&self.message_id), Some(&self.timestamp));
        let (topic, kind) = (("TopicArn", Some(&self.topic_arn)), ("Type", Some(&self.r#type)));
        let lines = match self.r#type.as_str() {
            "Notification" => {
                vec![("Message", message), ("MessageId", id), ("Subject", self.subject.as_ref()), ("Timestamp", time), topic, kind]
            }
            "SubscriptionConfirmation" | "UnsubscribeConfirmation" => vec![
                ("Message", message),
                ("MessageId", id),
                ("SubscribeURL", self.subscribe_url.as_ref()),
                ("Timestamp", time),
                ("Token", self.token.as_ref()),
                topic,
                kind,
            ],
            _ => return None,
        };
        Some(lines.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name}\n{value}\n"))).collect())
    }
}

/// Is it a message of one of these topics, and signed by SNS? SNS signs for everybody: only the topics tell the tenant's own.
pub(super) fn authenticate(topics: &[String], callback: &Callback<'_>, proof: &Proof<'_>) -> Verdict {
    if topics.is_empty() {
        return Verdict::Refused("publicConfig.sns_topic_arns names no topic");
    }
    let Ok(envelope) = callback.json::<Envelope>() else { return Verdict::Refused("it is no message of Amazon SNS") };
    let said = |name| callback.header(name);
    if said("x-amz-sns-message-type") != Some(&envelope.r#type) || said("x-amz-sns-message-id").is_some_and(|id| id != envelope.message_id)
    {
        return Verdict::Refused("its header fields are of another message");
    }
    if !topics.contains(&envelope.topic_arn) {
        return Verdict::Refused("its topic is none of publicConfig.sns_topic_arns");
    }
    if !wire::utc(&envelope.timestamp).is_some_and(|signed| events::fresh(signed, proof.now, RETRIED)) {
        return Verdict::Refused("it is not of this hour");
    }
    let algorithm = match envelope.signature_version.as_str() {
        "1" => &RSA_SHA1,
        "2" => &RSA_SHA256,
        _ => return Verdict::Refused("the version of the signature is neither 1 nor 2"),
    };
    let path = path_at_sns(&envelope.signing_cert_url);
    if !path.is_some_and(|path| path.ends_with(".pem") && !path.contains(['?', '#'])) {
        return Verdict::Refused("the certificate is not with Amazon SNS");
    }
    let Some(certificate) = proof.certificate else { return Verdict::Certificate(envelope.signing_cert_url) };
    let Some(key) = key(certificate, proof.now) else { return Verdict::Refused("the certificate can't be read, or is not valid now") };
    let signature = STANDARD.decode(&envelope.signature).unwrap_or_default();
    if envelope.signed().is_some_and(|signed| fits(algorithm, &key, &signed, &signature)) {
        Verdict::Genuine { once: None }
    } else {
        Verdict::Refused("the signature does not fit")
    }
}

fn fits(algorithm: &'static RsaParameters, key: &[u8], signed: &str, signature: &[u8]) -> bool {
    UnparsedPublicKey::new(algorithm, key).verify(signed.as_bytes(), signature).is_ok()
}

/// What stands behind the host, where that is one of SNS's own.
fn path_at_sns(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").filter(|rest| rest.bytes().all(|b| b.is_ascii_graphic()))?;
    let (host, path) = rest.split_at(rest.find('/')?);
    let host = host.strip_suffix(".cn").unwrap_or(host);
    let region = host.strip_prefix("sns.")?.strip_suffix(".amazonaws.com")?;
    // The buckets of S3 have hosts like that, too, and anybody may have named one `sns`.
    let good = region.len() >= 3 && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !region.starts_with("s3");
    good.then_some(path)
}

/// The public key of a certificate that is valid now. Its chain can't be followed: SNS hands out this one without those between it
/// and a root. That it is SNS's own is known by the host that it was got from.
fn key(pem: &[u8], now: Timestamp) -> Option<Vec<u8>> {
    let (_, rest) = std::str::from_utf8(pem).ok()?.split_once("-----BEGIN CERTIFICATE-----")?;
    let (inner, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let der = STANDARD.decode(inner.split_ascii_whitespace().collect::<String>()).ok()?;
    let certificate = Certificate::from_der(&der).ok()?.tbs_certificate;
    let (from, until) = (certificate.validity.not_before.to_unix_duration(), certificate.validity.not_after.to_unix_duration());
    let now = Duration::from_secs(u64::try_from(now.seconds()).ok()?);
    let valid = (from..=until).contains(&now);
    certificate.subject_public_key_info.subject_public_key.as_bytes().filter(|_| valid).map(<[u8]>::to_vec)
}

/// What a message of SNS tells.
///
/// # Errors
/// When it is none, or holds an event that is not as documented.
pub(super) fn read(callback: &Callback<'_>) -> Result<Vec<Told>, Unreadable> {
    let envelope: Envelope = callback.json()?;
    match envelope.r#type.as_str() {
        "SubscriptionConfirmation" => confirm(envelope).map(|told| vec![told]),
        "UnsubscribeConfirmation" => Ok(Vec::new()),
        // SES, and people who try a topic, write words as well.
        "Notification" if !envelope.message.trim_start().starts_with('{') => Ok(Vec::new()),
        "Notification" => events::each(envelope.message.as_bytes(), event),
        _ => Err(Unreadable::new("the Type is none of the documented ones")),
    }
}

/// SNS asks whether messages of a topic are wanted.
fn confirm(envelope: Envelope) -> Result<Told, Unreadable> {
    let url = envelope.subscribe_url.ok_or_else(|| Unreadable::new("it has no SubscribeURL"))?;
    let query = path_at_sns(&url).and_then(|path| path.strip_prefix("/?")).unwrap_or_default();
    let is = |name: &str, value: &str| form_urlencoded::parse(query.as_bytes()).any(|(n, v)| n == name && v == value);
    if !is("Action", "ConfirmSubscription") || !is("TopicArn", &envelope.topic_arn) {
        return Err(Unreadable::new("the SubscribeURL confirms nothing of this topic with Amazon SNS"));
    }
    Ok(Told::Confirm { url })
}

/// What an event tells, of each recipient that it names. Those of a configuration set (`eventType`) carry the message's tags, those of
/// an identity (`notificationType`) don't.
/// <https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html>
fn event(event: &Value, raw: &str) -> Result<Option<Vec<Told>>, Unreadable> {
    let Some(kind) = text(&event["eventType"]).or_else(|| text(&event["notificationType"])) else {
        return Err(Unreadable::new("it has neither eventType nor notificationType"));
    };
    let (part, each) = match kind {
        "Send" => ("mail", None),
        "Delivery" => ("delivery", Some("recipients")),
        "DeliveryDelay" => ("deliveryDelay", Some("delayedRecipients")),
        "Bounce" => ("bounce", Some("bouncedRecipients")),
        "Complaint" => ("complaint", Some("complainedRecipients")),
        "Reject" => ("reject", None),
        "Rendering Failure" => ("failure", None),
        "Open" => ("open", None),
        "Click" => ("click", None),
        "Subscription" => ("subscription", None),
        // Mail that came in, and that a topic works.
        "Received" | "AmazonSnsSubscriptionSucceeded" => return Ok(Some(Vec::new())),
        _ => return Ok(None),
    };
    let (mail, part) = (&event["mail"], &event[part]);
    let id = needed(mail, "messageId")?;
    let whole = [Value::Null];
    let recipients = match each {
        Some(list) => part[list].as_array().ok_or_else(|| Unreadable::new("it names no recipients"))?,
        None => &whole[..],
    };
    let mut told = Vec::with_capacity(recipients.len());
    for recipient in recipients {
        let address = text(recipient).or_else(|| text(&recipient["emailAddress"])).or_else(|| only(mail));
        let at = text(&part["timestamp"]).and_then(wire::utc);
        let (what, details) = match kind {
            "Send" => (well(Happened::Sent), [None; 3]),
            "Delivery" => (well(Happened::Delivered), [None; 3]),
            "DeliveryDelay" => (well(Happened::Delayed), [text(&part["delayType"]), text(&recipient["diagnosticCode"]), None]),
            "Bounce" => {
                (bounce(part, recipient)?, [text(&part["bounceType"]), text(&part["bounceSubType"]), text(&recipient["diagnosticCode"])])
            }
            // Somebody said that it is no spam.
            "Complaint" if text(&part["complaintFeedbackType"]) == Some("not-spam") => continue,
            "Complaint" if text(&part["complaintSubType"]) == Some("OnAccountSuppressionList") => {
                (SUPPRESSED, [text(&part["complaintSubType"]), None, None])
            }
            "Complaint" => (well(Happened::Complained), [None; 3]),
            "Reject" => (failed("rejected_by_policy"), [text(&part["reason"]), None, None]),
            "Rendering Failure" => (failed("invalid_template"), [text(&part["errorMessage"]), None, None]),
            "Open" => (well(Happened::Opened), [None; 3]),
            "Click" => (well(Happened::Clicked), [None; 3]),
            _ => match (&part["newTopicPreferences"]["unsubscribeAll"], &part["oldTopicPreferences"]["unsubscribeAll"]) {
                (Value::Bool(true), _) => (well(Happened::Unsubscribed), [None; 3]),
                (Value::Bool(false), Value::Bool(true)) => {
                    told.extend(address.map(|address| {
                        Told::Wish(Wish {
                            recipient: address.to_owned(),
                            wants: true,
                            at,
                            detail: Some(format!("{NAME}: subscribed again")),
                        })
                    }));
                    continue;
                }
                // Of single topics.
                _ => continue,
            },
        };
        let own = text(&part["feedbackId"]).unwrap_or(id);
        let also = |name: &str| text(&part[name]).unwrap_or_default();
        let key = format!("{kind} {own} {} {} {} {}", address.unwrap_or_default(), also("timestamp"), also("ipAddress"), also("link"));
        told.push(Told::Report(Report {
            message: events::reference(&mail["tags"][email::REFERENCE][0]),
            provider_message_id: wire::id(id),
            recipient: address.map(str::to_owned),
            at,
            ..events::report(NAME, what, key.trim_end().to_owned(), raw, &details)
        }));
    }
    Ok(Some(told))
}

/// The recipient of a mail that has one.
fn only(mail: &Value) -> Option<&str> {
    mail["destination"].as_array().filter(|all| all.len() == 1).and_then(|all| text(&all[0]))
}

fn bounce(bounce: &Value, recipient: &Value) -> Result<(Happened, Option<&'static str>), Unreadable> {
    match (text(&bounce["bounceType"]), text(&bounce["bounceSubType"]).unwrap_or_default()) {
        // It bounced before, and nothing was sent now.
        (Some("Permanent"), "Suppressed" | "OnAccountSuppressionList") => Ok((Happened::HardBounced, SUPPRESSED.1)),
        (Some("Permanent"), "UnsubscribedRecipient") => Ok(OPTED_OUT),
        (Some("Permanent"), _) => Ok(HARD),
        (Some("Transient" | "Undetermined"), _) if text(&recipient["action"]) == Some("delayed") => Ok(well(Happened::Delayed)),
        (Some("Transient" | "Undetermined"), _) => Ok(SOFT),
        _ => Err(Unreadable::new("the bounceType is none of the documented ones")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_of_sns_are_asked() {
        for (url, path) in [
            ("https://sns.eu-west-1.amazonaws.com/a.pem", Some("/a.pem")),
            ("https://sns.cn-north-1.amazonaws.com.cn/a.pem?x", Some("/a.pem?x")),
            ("http://sns.eu-west-1.amazonaws.com/a.pem", None),
            ("https://sns.eu-west-1.amazonaws.com", None),
            ("https://sns.eu-west-1.amazonaws.com:8443/a.pem", None),
            ("https://sns.eu-west-1.amazonaws.com@evil.example/a.pem", None),
            ("https://u:p@sns.eu-west-1.amazonaws.com/a.pem", None),
            ("https://evil.example/sns.eu-west-1.amazonaws.com/a.pem", None),
            ("https://sns.eu-west-1.amazonaws.com.evil.example/a.pem", None),
            ("https://sns.evil.example/.amazonaws.com/a.pem", None),
            ("https://sns.a.b.amazonaws.com/a.pem", None),
            ("https://sns.s3.amazonaws.com/a.pem", None),
            ("https://sns.s3-eu-west-1.amazonaws.com/a.pem", None),
            ("https://xsns.eu-west-1.amazonaws.com/a.pem", None),
            ("https://sns.eu-west-1.amazonaws.com/a.pem\r\nx", None),
        ] {
            assert_eq!(path_at_sns(url), path, "{url}");
        }
    }

    #[test]
    fn topics_are_named_by_their_arns() {
        for good in ["arn:aws:sns:eu-west-1:123456789012:ses-events", "arn:aws-cn:sns:cn-north-1:123456789012:ses_events.fifo"] {
            assert!(is_topic(good), "{good}");
        }
        for bad in ["", "ses-events", "arn:aws:sqs:eu-west-1:123456789012:ses", "arn:aws:sns:eu-west-1:123456789012:", "arn:aws:sns:*:1:a"]
        {
            assert!(!is_topic(bad), "{bad}");
        }
    }
}
