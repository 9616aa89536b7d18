//! Why a message goes where it goes, or waits: for dry runs, and for messages that were accepted. What is told is computed by the
//! same functions that decide it.

use axum::extract::State;
use raven_core::{ConfigId, Environment, MessageId, Seq, SuppressionReason, TenantId, Timestamp, tenant::TenantStatus};
use raven_engine::{
    directory::{Route, TenantView},
    routing::{self, Contender, Needs, Objection, Query, Rank},
    worker::PROVIDER_PAUSED,
};
use raven_store::{Action, JobRecord, MessageRecord};
use serde::Serialize;

use super::{
    AppState,
    routing::{RulesView, told},
};
use crate::{
    App,
    caller::{AsViewer, Caller, ReadMessages, Session},
    codes,
    openapi::closed::{
        ChannelName, EncodingName, EnvironmentName, RoutingReasonName, StatusName, SuppressionReasonName, WaitingReasonName,
    },
    problem::{Problem, Result},
    query::{PathId, RawQuery},
};

/// Why a config is chosen, or stands where it stands.
pub(crate) const REASONS: &[&str] = &[
    "sandbox",
    "went_through",
    "only_candidate",
    "first_by_breaker",
    "first_untried",
    "first_by_weight_at_all",
    "first_by_priority",
    "first_by_rules",
    "first_by_draw",
    "pinned_elsewhere",
    "rules",
    "no_sender",
    "unsupported_feature",
    "paused",
    "breaker_open",
    "tried",
    "stands_by",
    "pace",
];
/// Why a message waits.
pub(crate) const WAITS: &[&str] = &[
    "sending",
    "tenant_suspended",
    "outcome_unknown",
    "sandbox",
    PROVIDER_PAUSED,
    "no_candidate",
    "retry",
    "breaker_open",
    "pace",
    "queue",
];

/// A reason, for programs and for people.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = RoutingReason)]
pub struct RoutingReasonView {
    /// What it is.
    #[schema(value_type = RoutingReasonName)]
    pub code: &'static str,
    /// The same in words.
    pub message: String,
}

fn reason(code: &'static str, message: impl Into<String>) -> RoutingReasonView {
    RoutingReasonView { code, message: message.into() }
}

/// Where a message goes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteView {
    /// The provider's id.
    #[schema(example = "africas_talking")]
    pub provider: String,
    /// Through which config; `null` for the sandbox.
    #[schema(required, value_type = Option<uuid::Uuid>)]
    pub provider_config_id: Option<ConfigId>,
    /// The config's label.
    #[schema(required)]
    pub label: Option<String>,
    /// Why it is this one.
    pub reasons: Vec<RoutingReasonView>,
}

/// A provider config of the message's channel.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CandidateView {
    /// The provider's id.
    pub provider: &'static str,
    /// The config's id.
    #[schema(value_type = uuid::Uuid)]
    pub provider_config_id: ConfigId,
    /// The config's label.
    pub label: String,
    /// Lower ones come first.
    pub priority: i16,
    /// Its share among those of equal priority.
    pub weight: i16,
    /// Could the message go through it now?
    pub candidate: bool,
    /// Is it the one?
    pub chosen: bool,
    /// Why it is no candidate, or what holds it back.
    pub reasons: Vec<RoutingReasonView>,
}

/// The tenant's messages of the day.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct QuotaUseView {
    /// Live messages that it may have accepted; `null`: as many as it likes.
    #[schema(required)]
    pub limit: Option<u32>,
    /// Live messages that were accepted today (UTC).
    pub used: i64,
}

/// The limits of the tenant's plan.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitsView {
    /// The plan's name.
    pub plan: String,
    /// Requests a minute with a key that has no rate of its own; `null`: no limit.
    #[schema(required)]
    pub key_requests_per_minute: Option<u32>,
    /// Requests a minute to the admin endpoints; `null`: no limit.
    #[schema(required)]
    pub admin_requests_per_minute: Option<u32>,
}

/// Why a message waits.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct WaitingView {
    /// What it is.
    #[schema(value_type = WaitingReasonName)]
    pub reason: &'static str,
    /// Until when, at most; `null` where no time is set.
    #[schema(required, value_type = Option<String>, format = "date-time")]
    pub until: Option<Timestamp>,
    /// The same in words.
    pub message: String,
}

/// Why a message is where it is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplainView {
    /// The message's id.
    #[schema(value_type = uuid::Uuid)]
    pub id: MessageId,
    /// Where it is in its life.
    #[schema(value_type = StatusName)]
    pub status: raven_core::Status,
    /// How it travels.
    #[schema(value_type = ChannelName)]
    pub channel: raven_core::Channel,
    /// What it belongs to.
    #[schema(value_type = EnvironmentName)]
    pub environment: Environment,
    /// Why its recipient is not to be written to at present.
    #[schema(required, value_type = Option<SuppressionReasonName>)]
    pub suppression_reason: Option<&'static str>,
    /// The tenant's messages of the day.
    pub quota: QuotaUseView,
    /// The limits of the tenant's plan.
    pub limits: LimitsView,
    /// Parts of an SMS.
    #[schema(required)]
    pub segments: Option<i16>,
    /// Encoding of an SMS.
    #[schema(required, value_type = Option<EncodingName>)]
    pub encoding: Option<&'static str>,
    /// Where it went, or would go now; `null` when no config takes it.
    #[schema(required)]
    pub route: Option<RouteView>,
    /// The channel's configs, the best ones first; none for the sandbox.
    pub candidates: Vec<CandidateView>,
    /// Why it waits; `null` when nothing is to be done for it any more.
    #[schema(required)]
    pub waiting: Option<WaitingView>,
}

/// The route of a message, with why it is this one.
pub(super) fn route(view: &TenantView, environment: Environment, query: &Query<'_>, now: Timestamp) -> Option<RouteView> {
    let route = view.route(environment, query, now)?;
    let Route::Provider(connection) = &route else {
        let reasons = vec![reason("sandbox", "Test messages go to the sandbox.")];
        return Some(RouteView { provider: route.provider().to_owned(), provider_config_id: None, label: None, reasons });
    };
    let mut ranks: Vec<(Rank, &str)> = view
        .on(query.channel)
        .filter_map(|other| Some((routing::assess(&other.contender(now), query).ok()?, other.record().label.as_str())))
        .collect();
    ranks.sort_unstable();
    Some(RouteView {
        provider: route.provider().to_owned(),
        provider_config_id: route.config(),
        label: Some(connection.record().label.clone()),
        reasons: vec![why(&ranks)],
    })
}

/// Why the first one is before the second.
fn why(ranks: &[(Rank, &str)]) -> RoutingReasonView {
    let [(first, _), (second, other), ..] = ranks else {
        return reason("only_candidate", "No other config takes the message.");
    };
    if first.open != second.open {
        reason("first_by_breaker", format!("The provider of {other}, which comes next, has trouble at present."))
    } else if first.tried != second.tried {
        reason("first_untried", format!("{other}, which comes next, was tried before."))
    } else if first.stands_by != second.stands_by {
        reason("first_by_weight_at_all", format!("{other}, which comes next, has weight 0 and stands by."))
    } else if first.priority != second.priority {
        reason("first_by_priority", format!("Its priority {} comes before {} of {other}.", first.priority, second.priority))
    } else if first.for_everybody != second.for_everybody {
        reason("first_by_rules", format!("Its rules name the recipient, and {other} takes everybody."))
    } else {
        reason("first_by_draw", format!("It was drawn by weight; {other} would be next."))
    }
}

fn objection(objection: Objection, contender: &Contender<'_>, rules: Option<RulesView>, why_failed: Option<&str>) -> RoutingReasonView {
    match objection {
        Objection::Pin => reason("pinned_elsewhere", "The message is for another provider or config."),
        Objection::Rules => {
            let rules = rules.as_ref().map(told).unwrap_or_default();
            reason("rules", format!("Its rules don't name the recipient: {rules}."))
        }
        Objection::Sender => reason("no_sender", "The message names no sender, and the config has no from_email."),
        Objection::Features(needed) => {
            let names: Vec<&str> = needed.beyond(contender.features).map(raven_core::message::Feature::name).collect();
            reason("unsupported_feature", format!("{} can't carry {}.", contender.provider, names.join(", ")))
        }
        Objection::Paused => reason("paused", format!("Its credentials were refused: {}", why_failed.unwrap_or("just now"))),
    }
}

/// The channel's configs, the best ones first.
fn candidates(view: &TenantView, query: &Query<'_>, now: Timestamp) -> Vec<CandidateView> {
    let mut all: Vec<(Option<Rank>, CandidateView)> = Vec::new();
    for connection in view.on(query.channel) {
        let (contender, record) = (connection.contender(now), connection.record());
        let assessed = routing::assess(&contender, query);
        let mut reasons = Vec::new();
        match assessed {
            Err(why) => {
                let rules = RulesView::of(record.routing.rules.as_deref());
                reasons.push(objection(why, &contender, rules, record.status_reason.as_deref()));
            }
            Ok(rank) => {
                let (pace, breaker) = connection.gate.waits(now);
                if rank.open {
                    let until = breaker.map(|at| format!(" until {at}")).unwrap_or_default();
                    reasons.push(reason("breaker_open", format!("Its provider has trouble; nothing goes through it{until}.")));
                }
                if rank.tried {
                    reasons.push(reason("tried", "It had its turn in this round."));
                }
                if rank.stands_by {
                    reasons.push(reason("stands_by", "It has weight 0: it is used when no other is left."));
                }
                if let Some(at) = pace {
                    reasons.push(reason("pace", format!("Its pace lets the next one through at {at}.")));
                }
            }
        }
        let candidate = CandidateView {
            provider: connection.provider.spec.id,
            provider_config_id: contender.id,
            label: record.label.clone(),
            priority: contender.priority,
            weight: contender.weight,
            candidate: assessed.is_ok(),
            chosen: false,
            reasons,
        };
        all.push((assessed.ok(), candidate));
    }
    all.sort_by_key(|(rank, _)| (rank.is_none(), *rank));
    let mut views: Vec<CandidateView> = all.into_iter().map(|(_, view)| view).collect();
    if let Some(first) = views.first_mut().filter(|first| first.candidate) {
        first.chosen = true;
    }
    views
}

/// Why a message waits that there is a job for.
fn waiting(view: &TenantView, environment: Environment, query: &Query<'_>, job: &JobRecord, now: Timestamp) -> WaitingView {
    let waits = |reason, until, message: &str| WaitingView { reason, until, message: message.to_owned() };
    if job.started_at.is_some() {
        return waits("sending", None, "The provider is being called.");
    }
    if view.record.status != TenantStatus::Active {
        return waits("tenant_suspended", Some(job.expires_at), "The tenant is not active; the message waits until it is, or too old.");
    }
    match job.action {
        Action::GiveUp => {
            return waits(
                "outcome_unknown",
                Some(job.due_at),
                "It may have gone out, and the provider gave no answer. Without word it fails then.",
            );
        }
        Action::Play => return waits("sandbox", Some(job.due_at), "The sandbox reports the next step then."),
        Action::Send => {}
    }
    if !job.parked && job.due_at > now {
        return waits("retry", Some(job.due_at), "It is tried again then.");
    }
    let Some(route) = view.route(environment, query, now) else {
        if view.waits_for_a_paused_one(environment, query, now) {
            return waits(
                PROVIDER_PAUSED,
                Some(job.expires_at),
                "It waits until the credentials of its config are mended or work again; then it fails.",
            );
        }
        return waits("no_candidate", Some(job.expires_at), "No provider config of the tenant takes it. It goes on when one does.");
    };
    let (pace, breaker) = route.gate().map_or((None, None), |gate| gate.waits(now));
    match (breaker, pace) {
        (Some(at), _) => waits("breaker_open", Some(at), "The provider has trouble. Whether that is over is tried then."),
        (None, Some(at)) => waits("pace", Some(at), "The config's pace lets the next one through then; those that came before go first."),
        (None, None) => waits("queue", None, "It is due, and waits for its turn."),
    }
}

/// Why a message goes where it goes, or waits.
///
/// Told as it is now: for a message that still waits that is what will happen, unless something changes.
#[utoipa::path(get, path = "/v1/messages/{id}/explain", tag = "messages", params(("id" = uuid::Uuid, Path, description = "The message's id.", example = "8ad4f7c2-9e3b-4a1c-bc2f-1d8e3a9b7c4d")), responses((status = 200, body = ExplainView)), security(("key" = [])))]
pub async fn explain(
    caller: Caller<ReadMessages>,
    State(app): AppState,
    PathId(id): PathId,
    query: RawQuery,
) -> Result<axum::Json<ExplainView>> {
    query.none()?;
    answer(&app, caller.key.tenant, Some(caller.key.environment), &id).await
}

/// Why a message of either environment goes where it goes, or waits.
#[utoipa::path(get, path = "/v1/admin/messages/{id}/explain", tag = "messages", params(("id" = uuid::Uuid, Path, description = "The message's id.", example = "8ad4f7c2-9e3b-4a1c-bc2f-1d8e3a9b7c4d")), responses((status = 200, body = ExplainView)))]
pub async fn explain_as_human(
    session: Session<AsViewer>,
    State(app): AppState,
    PathId(id): PathId,
    query: RawQuery,
) -> Result<axum::Json<ExplainView>> {
    query.none()?;
    answer(&app, session.tenant_id(), session.confined_to(), &id).await
}

async fn answer(app: &App, tenant: TenantId, environment: Option<Environment>, id: &str) -> Result<axum::Json<ExplainView>> {
    let not_found = || Problem::of(codes::NOT_FOUND);
    let engine = &app.engine;
    let seq = MessageId::parse(id).and_then(|id| engine.ids.open(id)).ok_or_else(not_found)?;
    let message = engine.store.find_message(tenant, environment, seq).await?.ok_or_else(not_found)?;
    let job = engine.store.find_job(tenant, seq).await?;
    let view = engine.directory.tenant(tenant).await.map_err(|e| Problem::from(&*e))?.ok_or_else(not_found)?;
    let now = engine.clock.now();
    let live = message.environment == Environment::Live;
    let needs = if live {
        let content = engine.store.find_content(tenant, seq).await?;
        content.map(|content| Needs::read(message.channel, &content)).unwrap_or_default()
    } else {
        Needs::default()
    };
    let tried = job.as_ref().and_then(|job| job.tried.clone());
    let asked = Query { channel: message.channel, recipient: &message.recipient, needs: &needs, seq: Seq(seq.0), tried: tried.as_ref() };
    let plan = engine.plans.of(&view.record.plan);
    let suppressed = engine.store.find_suppression_of(tenant, message.environment, message.channel, &message.recipient).await?;
    Ok(axum::Json(ExplainView {
        id: engine.ids.seal(seq),
        status: message.status,
        channel: message.channel,
        environment: message.environment,
        suppression_reason: suppressed.map(SuppressionReason::name),
        quota: QuotaUseView { limit: plan.daily_messages, used: engine.store.quota_used(tenant, now.day()).await? },
        limits: LimitsView { plan: plan.name.clone(), key_requests_per_minute: plan.key_rpm, admin_requests_per_minute: plan.admin_rpm },
        segments: message.segments,
        encoding: message.encoding.map(raven_core::sms::Encoding::name),
        route: if job.is_none() { gone(&view, &message) } else { route(&view, message.environment, &asked, now) },
        candidates: if live { candidates(&view, &asked, now) } else { Vec::new() },
        waiting: job.map(|job| waiting(&view, message.environment, &asked, &job, now)),
    }))
}

/// Where a message went that nothing is to be done for any more; `None` where it went nowhere.
fn gone(view: &TenantView, message: &MessageRecord) -> Option<RouteView> {
    let label = message.config.and_then(|id| view.connection(id)).map(|connection| connection.record().label.clone());
    let reasons = vec![reason("went_through", "It went through this one.")];
    Some(RouteView { provider: message.provider.clone()?, provider_config_id: message.config, label, reasons })
}
