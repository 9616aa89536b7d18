//! A dry run: what would become of a message, with nothing stored, counted or sent.

use axum::response::{IntoResponse, Response};
use raven_core::{Channel, Environment, Seq, Status, SuppressionReason, TenantId};
use serde::Serialize;

use super::{
    explain::{self, RouteView},
    send_request::Parsed,
};
use crate::{
    App, codes,
    openapi::closed::{EncodingName, ErrorCodeName, SuppressionReasonName},
    problem::{Problem, Result},
    query::RawQuery,
};

/// What would become of a message.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DryRunView {
    /// Would it be accepted and sent?
    pub would_send: bool,
    /// The status that it would be accepted with; `null` when it would be refused.
    #[schema(required, example = "queued")]
    pub status: Option<&'static str>,
    /// Why it would be accepted as `suppressed`, and not sent.
    #[schema(required, value_type = Option<SuppressionReasonName>)]
    pub suppression_reason: Option<&'static str>,
    /// Parts of an SMS.
    #[schema(required)]
    pub segments: Option<u16>,
    /// Encoding of an SMS.
    #[schema(required, value_type = Option<EncodingName>)]
    pub encoding: Option<&'static str>,
    /// Through which provider config it would go, and why; `null` when none takes it at present. Where weights decide, each message
    /// is drawn for itself.
    #[schema(required)]
    pub route: Option<RouteView>,
    /// Why it would be refused, as the errors that sending would answer; none when it would be accepted.
    pub reasons: Vec<ReasonView>,
}

/// Why a message would not be sent.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ReasonView {
    /// The error's code.
    #[schema(value_type = ErrorCodeName)]
    pub code: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl From<Problem> for ReasonView {
    fn from(problem: Problem) -> Self {
        let details = problem.errors.iter().map(|e| format!(" {}: {}.", e.field, e.message));
        Self { code: problem.code.name, message: std::iter::once(problem.message.to_string()).chain(details).collect() }
    }
}

/// The parameter of sending, for the OpenAPI document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "read by name below; this lists it for the document")]
pub struct DryRunParameter {
    /// `true`: only tell what would become of the message. Nothing is stored, counted or sent.
    #[param(rename = "dryRun", default = false, example = true)]
    dry_run: Option<bool>,
}

/// The one parameter of sending.
pub(super) const PARAMETERS: &[&str] = &["dryRun"];

/// Is this a dry run?
pub(super) fn asked(query: &RawQuery) -> Result<bool> {
    let mut parameters = query.parameters(PARAMETERS);
    let asked = parameters.read("dryRun", |text| text.parse().ok(), || "must be true or false".to_owned());
    parameters.finish()?;
    Ok(asked.unwrap_or(false))
}

/// Looks at all that acceptance would.
pub(super) async fn answer(app: &App, tenant: TenantId, environment: Environment, parsed: &Parsed) -> Result<Response> {
    let engine = &app.engine;
    let view = engine.directory.tenant(tenant).await.map_err(|e| Problem::from(&*e))?.ok_or_else(|| Problem::of(codes::NOT_A_MEMBER))?;
    let now = engine.clock.now();
    let mut reasons: Vec<ReasonView> = parsed.check(&view, environment, now).err().map(ReasonView::from).into_iter().collect();
    reasons.extend(parsed.check_link(&engine.unsubscribe_links).err().map(ReasonView::from));
    let query = parsed.query(Seq::first_at(now));
    let route = explain::route(&view, environment, &query, now);
    if environment == Environment::Live && engine.store.quota_used(tenant, now.day()).await? >= engine.plans.of(&view.record.plan).quota() {
        reasons.push(Problem::of(codes::DAILY_QUOTA_EXCEEDED).into());
    }
    let suppressed = engine.store.find_suppression_of(tenant, environment, parsed.channel, &parsed.recipient).await?;
    let segments = parsed.segments.filter(|_| parsed.channel == Channel::Sms);
    let view = DryRunView {
        would_send: reasons.is_empty() && suppressed.is_none(),
        status: reasons.is_empty().then_some(if suppressed.is_some() { Status::Suppressed } else { Status::Queued }.name()),
        suppression_reason: suppressed.map(SuppressionReason::name),
        segments: segments.map(|s| s.count),
        encoding: segments.map(|s| s.encoding.name()),
        route,
        reasons,
    };
    Ok(axum::Json(view).into_response())
}
