//! The tables of the providers, by what their documents say (`crates/providers/fixtures` has the answers word by word).

mod email;
mod others;
mod sms;

use super::sheet::Sheet;

/// All of them.
pub(super) const ALL: &[Sheet] = &[
    email::SENDGRID,
    email::RESEND,
    email::POSTMARK,
    email::MAILGUN,
    email::MAILJET,
    email::BREVO,
    sms::VONAGE,
    sms::MESSAGEBIRD,
    sms::PLIVO,
    sms::INFOBIP,
    sms::TERMII,
    others::WHATSAPP_CLOUD,
    others::FCM,
];
