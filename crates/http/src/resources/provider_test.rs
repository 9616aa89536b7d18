//! A test message through one provider config: sent at once, and once. It is no message of the tenant's: it has no timeline, is
//! not in its lists and not in its quota, and nothing of it is tried again.

use std::{borrow::Cow, time::Duration};

use axum::extract::State;
use raven_core::{Channel, ConfigId, Environment, Problems, Timestamp, json::Json, message::Content, problem::chain};
use raven_engine::directory::Connection;
use raven_providers::{Class, Outbound, SendError, Sent};
use raven_store::{
    ConfigRecord,
    providers::{FAILED, VERIFIED},
};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    AppState,
    extras::TemplateRequest,
    send_request::{BODY_MAX, NO_SENDER, Parsed, SendRequest},
};
use crate::{
    App,
    body::Body,
    caller::{AsAdmin, Session},
    codes,
    fields::{Fields, request},
    openapi::closed::{AnyRecipient, ProviderId, TestOutcomeName},
    problem::{Problem, Result},
    query::{PathId, RawQuery},
};

/// What a test says unless the caller has other words.
const TEXT: &str = "This is a test message from Raven. The provider config that sent it works.";
/// The subject of an email.
const SUBJECT: &str = "Test message from Raven";
/// Tests a minute of a tenant whose requests are limited at all: they are real messages, and in no quota.
const PER_MINUTE: u32 = 6;
/// How often a status is written down anew when somebody else's change came between.
const CHANGES: usize = 5;

/// What can come of a test.
pub(crate) const OUTCOMES: &[&str] = &["sent", "rejected", "temporary", "rate_limited", "credentials", "unknown"];

request! {
    /// A test message.
    pub struct ProviderTestRequest {
        /// Whom it reaches: as `to` of a message on the config's channel.
        #[schema(required, value_type = AnyRecipient)]
        to: Json<'a> = "to",
        /// The text; one of ours when absent. Of an email it is the plain text. 1 to 4096 characters.
        #[schema(min_length = 1, max_length = 4096, example = "A test of our new provider")]
        body: Cow<'a, str> = "body",
        /// The subject: email; one of ours when absent. 1 to 998 characters, no line breaks.
        #[schema(min_length = 1, max_length = 998, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "A test")]
        subject: Cow<'a, str> = "subject",
        /// The sender, as `from` of a message: email (required unless the config has `from_email`), sms. At most 320 characters.
        #[schema(min_length = 1, max_length = 320, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "Acme <hello@example.com>")]
        from: Cow<'a, str> = "from",
        /// An approved template instead of a text: whatsapp, which takes texts only from those who wrote within a day.
        #[schema(required = false, value_type = TemplateRequest)]
        whatsapp_template: Json<'a> = "whatsappTemplate",
    }
}

/// What came of a test message.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderTestView {
    /// Did the provider take it?
    pub ok: bool,
    /// What came of it.
    #[schema(value_type = TestOutcomeName)]
    pub outcome: &'static str,
    /// Id of the provider in the catalog.
    #[schema(value_type = ProviderId)]
    pub provider: &'static str,
    /// The provider's own id of the message.
    #[schema(required)]
    pub provider_message_id: Option<String>,
    /// What went wrong, for programs: a code of ours or of the provider's.
    #[schema(required, example = "invalid_credentials")]
    pub code: Option<String>,
    /// What went wrong, for people.
    #[schema(required)]
    pub message: Option<String>,
    /// How long it took, in milliseconds.
    #[schema(minimum = 0, example = 240)]
    pub duration_ms: u64,
}

impl ProviderTestView {
    fn new(provider: &'static str, ended: Result<Sent, SendError>, took: Duration) -> Self {
        let (outcome, provider_message_id, error) = match ended {
            Ok(sent) => ("sent", sent.provider_message_id, None),
            Err(error) => (outcome(error.class), None, Some(error)),
        };
        let (code, message) = error.map(|e| (e.code, e.message)).unzip();
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Self { ok: outcome == "sent", outcome, provider, provider_message_id, code, message, duration_ms }
    }
}

const fn outcome(class: Class) -> &'static str {
    match class {
        Class::Rejected => "rejected",
        Class::Retry { .. } => "temporary",
        Class::RateLimited { .. } => "rate_limited",
        Class::Credentials => "credentials",
        Class::Unknown => "unknown",
    }
}

/// Send a test message through just this provider config, now, and tell what came of it.
///
/// One call is made, and none is repeated; what the provider says is in the answer, which is 200 whatever that is. Rules, pace and
/// pauses of the config don't matter. The config is `verified` when the provider takes the message, and `failed` when the credentials
/// don't work. The message is a real one, with all that the provider charges. It is not among the tenant's messages, counts in no quota,
/// and what the provider tells of it later is not followed. At most 6 a minute, unless the tenant's plan has no limits.
#[utoipa::path(post, path = "/v1/admin/providers/{id}/test", tag = "providers", params(("id" = Uuid, Path, description = "The config's id.", example = "5b0f2e5c-9a53-4c0e-9b58-0f6c1c1f7a10")), request_body(content = ProviderTestRequest, examples(
    ("plain" = (summary = "With the usual text", value = json!({"to": "+254722000000"}))),
    ("email" = (summary = "An email with words of one's own", value = json!({"to": "ada@example.com", "subject": "A test", "body": "Does this arrive?"}))),
)), responses((status = 200, body = ProviderTestView)))]
pub async fn send(
    session: Session<AsAdmin>,
    State(app): AppState,
    PathId(id): PathId,
    query: RawQuery,
    body: Body,
) -> Result<axum::Json<ProviderTestView>> {
    session.require_live()?;
    query.none()?;
    let tenant = session.tenant_id();
    let mut fields = body.fields(ProviderTestRequest::FIELDS)?;
    let request = ProviderTestRequest::read(&mut fields);
    let record = match ConfigId::parse(&id) {
        Some(id) => app.engine.store.find_config(tenant, id).await?,
        None => None,
    };
    let Some(record) = record else {
        if request.to.is_none() {
            fields.require("to", "is required");
        }
        fields.finish()?;
        return Err(Problem::of(codes::NOT_FOUND));
    };
    let message = read(record.channel, request, &mut fields);
    fields.finish()?;
    let message = message.ok_or_else(|| Problem::of(codes::VALIDATION_FAILED))?;
    let connection =
        app.engine.directory.bound(&session.tenant, record.clone()).ok_or_else(|| {
            Problem::new(codes::INVALID_STATE, "This version can't use the config's settings. Set them again, then test it.")
        })?;
    let now = app.engine.clock.now();
    carried(&connection, &message, now)?;
    if app.engine.store.find_suppression_of(tenant, Environment::Live, record.channel, &message.recipient).await?.is_some() {
        return Err(Problem::of(codes::RECIPIENT_SUPPRESSED));
    }
    count(&app, &session).await?;

    // Before the call, so that none goes out of which nobody could tell who asked for it.
    let mut entry = session.entry("provider_config.test", record.id.0);
    entry.after = serde_json::json!({ "provider": record.provider, "channel": record.channel });
    if !app.engine.store.replace_config(&record, &record, Some(session.record(&app, &entry))).await? {
        return Err(Problem::new(codes::INVALID_STATE, "The config was changed at the same moment, and nothing was sent. Test it again."));
    }
    let content: Content<'_> = serde_json::from_str(&message.content).map_err(|e| {
        tracing::error!(error = %e, "the content of a test can't be read");
        Problem::of(codes::INTERNAL)
    })?;
    let outbound = Outbound {
        id: app.engine.ids.seal(app.engine.membership.ids.next(now)),
        channel: record.channel,
        recipient: &message.recipient,
        content: &content,
        attempt: 1,
        now,
    };
    let began = Instant::now();
    let ended = app.engine.calls.send(&connection, &outbound).await;
    let took = began.elapsed();
    tell(&app, record, &ended).await;
    Ok(axum::Json(ProviderTestView::new(connection.provider.spec.id, ended, took)))
}

/// The message that is asked for, with our words where the caller has none, by the rules of every message.
fn read<'a>(channel: Channel, request: ProviderTestRequest<'a>, fields: &mut Fields<'_>) -> Option<Parsed> {
    let ProviderTestRequest { to, body, subject, from, whatsapp_template } = request;
    let mut message = SendRequest { channel: Some(channel.name().into()), to, subject, from, whatsapp_template, ..SendRequest::default() };
    if channel == Channel::Email {
        let length = body.as_deref().map_or(1, |body| body.chars().count());
        if !(1..=BODY_MAX).contains(&length) {
            fields.note("body", format!("must be 1 to {BODY_MAX} characters long, and is {length}"));
        }
        message.subject = message.subject.or(Some(SUBJECT.into()));
        message.body_text = Some(body.filter(|_| length > 0).unwrap_or_else(|| TEXT.into()));
    } else {
        let usual = message.whatsapp_template.is_none().then(|| TEXT.into());
        message.body = body.or(usual);
    }
    message.parse(fields)
}

/// Refuses what this config can't send, of itself or of any recipient.
fn carried(connection: &Connection, message: &Parsed, now: Timestamp) -> Result<()> {
    let config = connection.contender(now);
    let mut problems = Problems::default();
    for feature in message.needs.features.beyond(config.features) {
        problems.add(feature.name(), format!("can't be carried by {}", config.provider));
    }
    if !problems.is_empty() {
        return Err(Problem::listed(codes::UNSUPPORTED_FEATURE, problems));
    }
    if message.needs.sender && !config.default_sender {
        return Err(Problem::field("from", NO_SENDER));
    }
    Ok(())
}

/// Counts a test of a tenant whose plan has limits.
async fn count(app: &App, session: &Session<AsAdmin>) -> Result<()> {
    let Some(rpm) = app.engine.plans.of(&session.tenant.plan).admin_rpm else { return Ok(()) };
    // A bucket beside that of the tenant's other requests.
    let bucket = Uuid::from_u128(session.tenant_id().0.as_u128() ^ 0x9d1c_5e0b_77f2_4a6e_b3a8_0c64_d15f_e29a);
    match app.engine.limiter.count(bucket, rpm.min(PER_MINUTE)).await?.retry_after {
        None => Ok(()),
        Some(seconds) => {
            Err(Problem::new(codes::RATE_LIMITED, format!("At most {PER_MINUTE} tests a minute are sent for a tenant.")).after(seconds))
        }
    }
}

/// Writes down on the config what a test tells of its credentials. Settings that were changed meanwhile were not the ones tested.
async fn tell(app: &App, tested: ConfigRecord, ended: &Result<Sent, SendError>) {
    let (status, reason) = match ended {
        Ok(_) => (VERIFIED, None),
        Err(e) if e.class == Class::Credentials => (FAILED, Some(format!("{}: {}", e.code, e.message))),
        Err(_) => return,
    };
    for _ in 0..CHANGES {
        let written = async {
            let Some(old) = app.engine.store.find_config(tested.tenant, tested.id).await? else { return Ok(true) };
            if (&old.public, &old.secret) != (&tested.public, &tested.secret) {
                return Ok(true);
            }
            let new = ConfigRecord { status: status.to_owned(), status_reason: reason.clone(), ..old.clone() };
            Ok::<bool, raven_store::Error>(old == new || app.engine.store.replace_config(&old, &new, None).await?)
        };
        match written.await {
            Ok(true) => break,
            Ok(false) => {}
            Err(e) => {
                // The answer tells it all the same, and the next message will show it.
                tracing::error!(error = chain(&e), "what a test told of a config can't be written down");
                break;
            }
        }
    }
    app.engine.configs_changed(tested.tenant, tested.channel).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_in_the_list() {
        let classes =
            [Class::Rejected, Class::Retry { after: None }, Class::RateLimited { after: None }, Class::Credentials, Class::Unknown];
        let mut named: Vec<&str> = classes.into_iter().map(outcome).collect();
        named.push("sent");
        named.sort_unstable();
        let mut listed = OUTCOMES.to_vec();
        listed.sort_unstable();
        assert_eq!(named, listed);
    }
}
