//! What a tenant used: accepted messages and what became of them, day by day, and today's quota.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use raven_core::{Channel, Day, Environment, KeyId, Timestamp};
use raven_engine::plans::Plan;
use raven_store::Usage;
use serde::Serialize;

use super::AppState;
use crate::{
    caller::{AsViewer, Session},
    openapi::closed::{ChannelName, EnvironmentFilter, StatusName},
    problem::Result,
    query::{Parameters, RawQuery},
};

/// Days of a range at most.
const MAX_DAYS: i32 = 366;
/// Days of a range when nothing is said.
const DEFAULT_DAYS: i32 = 30;

/// What a tenant used.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageView {
    /// What is counted here.
    #[schema(value_type = EnvironmentFilter)]
    pub environment: &'static str,
    /// The first day of the range (UTC).
    #[schema(value_type = String, format = "date")]
    pub from: Day,
    /// The last day of the range (UTC).
    #[schema(value_type = String, format = "date")]
    pub until: Day,
    /// The tenant's plan.
    pub plan: PlanView,
    /// Today's quota; `null` for a test key, which sees nothing live.
    #[schema(required)]
    pub today: Option<QuotaView>,
    /// Messages accepted in the range.
    pub accepted: i64,
    /// Days with messages, the newest first.
    pub days: Vec<DayView>,
}

/// A plan.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanView {
    /// Its name.
    #[schema(example = "free")]
    pub name: String,
    /// Its name for people.
    #[schema(example = "Hatchling")]
    pub display_name: String,
    /// Live messages a day; `null`: no limit.
    #[schema(required)]
    pub daily_messages: Option<u32>,
    /// Requests a minute to the admin endpoints; `null`: no limit.
    #[schema(required)]
    pub admin_rpm: Option<u32>,
    /// Requests a minute of a key without a rate of its own; `null`: no limit.
    #[schema(required)]
    pub key_rpm: Option<u32>,
}

/// The quota of today (UTC).
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaView {
    /// Today.
    #[schema(value_type = String, format = "date")]
    pub date: Day,
    /// Live messages accepted today.
    pub used: i64,
    /// How many may be; `null`: no limit.
    #[schema(required)]
    pub limit: Option<u32>,
    /// How many are left; `null`: no limit.
    #[schema(required)]
    pub remaining: Option<i64>,
    /// The burn: live messages an hour so far today.
    pub burn_per_hour: f64,
    /// When the quota will be used up if it goes on like this; `null` when that is not before it is reset.
    #[schema(required, value_type = Option<String>, format = "date-time")]
    pub exhausted_at: Option<Timestamp>,
    /// When the next day begins.
    #[schema(value_type = String, format = "date-time")]
    pub resets_at: Timestamp,
}

/// A day.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DayView {
    /// Which (UTC): the day of acceptance.
    #[schema(value_type = String, format = "date")]
    pub date: Day,
    /// Messages accepted.
    pub accepted: i64,
    /// By channel.
    pub channels: Vec<ChannelView>,
    /// By key.
    pub keys: Vec<KeyUsageView>,
}

/// A day's messages of a channel.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ChannelView {
    /// The channel.
    #[schema(value_type = ChannelName)]
    pub channel: Channel,
    /// Messages accepted.
    pub accepted: i64,
    /// How many of them have reached each status since.
    #[schema(value_type = BTreeMap<StatusName, i64>, example = json!({"sent": 120, "delivered": 117, "failed": 3}))]
    pub statuses: BTreeMap<&'static str, i64>,
}

/// A day's messages of a key.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyUsageView {
    /// The key; `null`: humans.
    #[schema(required, value_type = Option<uuid::Uuid>)]
    pub key_id: Option<KeyId>,
    /// Messages accepted.
    pub accepted: i64,
}

/// The parameters of usage, for the OpenAPI document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "read by name; this lists them for the document")]
pub struct UsageParameters {
    /// The first day (UTC): 29 days before the last one when absent.
    #[param(format = "date", example = "2026-05-01")]
    from: Option<String>,
    /// The last day (UTC), at most 366 days from the first: today when absent.
    #[param(format = "date", example = "2026-05-31")]
    until: Option<String>,
    /// Of which environment: `live` when absent, or the key's own.
    #[param(value_type = Option<EnvironmentFilter>)]
    environment: Option<String>,
}

impl From<&Plan> for PlanView {
    fn from(plan: &Plan) -> Self {
        Self {
            name: plan.name.clone(),
            display_name: plan.display_name.clone(),
            daily_messages: plan.daily_messages,
            admin_rpm: plan.admin_rpm,
            key_rpm: plan.key_rpm,
        }
    }
}

impl QuotaView {
    fn new(plan: &Plan, used: i64, now: Timestamp) -> Self {
        let (day, limit) = (now.day(), plan.daily_messages);
        let resets_at = day.plus(1).start();
        let elapsed = now.since(day.start());
        #[expect(clippy::cast_precision_loss, reason = "a rate for people, not a count")]
        let burn = if elapsed.is_zero() { 0.0 } else { used as f64 * 3_600_000.0 / elapsed.as_millis() as f64 };
        let remaining = limit.map(|limit| (i64::from(limit) - used).max(0));
        Self {
            date: day,
            used,
            limit,
            remaining,
            burn_per_hour: (burn * 100.0).round() / 100.0,
            exhausted_at: remaining.and_then(|left| exhausted(left, burn, now)).filter(|at| *at < resets_at),
            resets_at,
        }
    }
}

/// When so many messages will be gone at so many an hour.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a forecast; out of range is never"
)]
fn exhausted(left: i64, burn_per_hour: f64, now: Timestamp) -> Option<Timestamp> {
    if left == 0 {
        return Some(now);
    }
    let ahead = left as f64 / burn_per_hour * 3_600_000.0;
    (ahead.is_finite() && ahead < 86_400_000.0).then(|| now.after(std::time::Duration::from_millis(ahead as u64)))
}

fn days(usage: &Usage) -> Vec<DayView> {
    let dates: BTreeSet<Day> = usage.accepted.iter().map(|a| a.day).chain(usage.outcomes.iter().map(|o| o.day)).collect();
    dates.into_iter().rev().map(|date| day(usage, date)).collect()
}

fn day(usage: &Usage, date: Day) -> DayView {
    let (mut channels, mut keys) = (BTreeMap::<Channel, ChannelView>::new(), BTreeMap::<Option<KeyId>, i64>::new());
    let empty = |channel| ChannelView { channel, accepted: 0, statuses: BTreeMap::new() };
    for a in usage.accepted.iter().filter(|a| a.day == date) {
        channels.entry(a.channel).or_insert_with(|| empty(a.channel)).accepted += a.messages;
        *keys.entry(a.key).or_default() += a.messages;
    }
    for o in usage.outcomes.iter().filter(|o| o.day == date) {
        *channels.entry(o.channel).or_insert_with(|| empty(o.channel)).statuses.entry(o.status.name()).or_default() += o.messages;
    }
    DayView {
        date,
        accepted: keys.values().sum(),
        channels: channels.into_values().collect(),
        keys: keys.into_iter().map(|(key_id, accepted)| KeyUsageView { key_id, accepted }).collect(),
    }
}

fn range(parameters: &mut Parameters<'_>, today: Day) -> (Day, Day) {
    let form = || "must be a day, for example 2026-05-01".to_owned();
    let (from, until) = (parameters.read("from", Day::parse, form), parameters.read("until", Day::parse, form));
    let until = until.unwrap_or(today);
    let from = from.unwrap_or_else(|| until.plus(1 - DEFAULT_DAYS));
    if from > until {
        parameters.note("from", "must not be after until");
    } else if until.0.saturating_sub(from.0) >= MAX_DAYS {
        parameters.note("from", format!("must be at most {MAX_DAYS} days from until, both counted"));
    }
    (from, until)
}

/// What the tenant used by day, channel, status and key, and where it stands with today's quota.
#[utoipa::path(get, path = "/v1/admin/usage", tag = "usage", params(UsageParameters), responses((status = 200, body = UsageView)))]
pub async fn find(session: Session<AsViewer>, State(app): AppState, query: RawQuery) -> Result<axum::Json<UsageView>> {
    let mut parameters = query.parameters(&["from", "until", "environment"]);
    let now = app.engine.clock.now();
    let (from, until) = range(&mut parameters, now.day());
    let asked = parameters.environment();
    parameters.finish()?;
    let environment = session.environment(asked)?;
    let (store, tenant) = (&app.engine.store, session.tenant_id());
    let usage = store.usage(tenant, environment, from..=until).await?;
    let plan = app.engine.plans.of(&session.tenant.plan);
    let today = match session.confined_to() {
        Some(Environment::Test) => None,
        _ => Some(QuotaView::new(plan, store.quota_used(tenant, now.day()).await?, now)),
    };
    Ok(axum::Json(UsageView {
        environment: environment.map_or("all", Environment::name),
        from,
        until,
        plan: PlanView::from(&**plan),
        today,
        accepted: usage.accepted.iter().map(|a| a.messages).sum(),
        days: days(&usage),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burn_and_the_end_of_the_quota_are_told() {
        let noon = Day(20_000).start().after(std::time::Duration::from_secs(12 * 3600));
        let view = QuotaView::new(&Plan::free(), 6000, noon);
        assert_eq!(
            (view.remaining, view.burn_per_hour, view.exhausted_at),
            (Some(4000), 500.0, Some(noon.after(std::time::Duration::from_secs(8 * 3600))))
        );
        assert_eq!(QuotaView::new(&Plan::free(), 4000, noon).exhausted_at, None, "the day ends first");
        assert_eq!(QuotaView::new(&Plan::free(), 10_000, noon).exhausted_at, Some(noon));
        let unlimited = QuotaView::new(&Plan::unlimited(), 6000, noon);
        assert_eq!((unlimited.limit, unlimited.remaining, unlimited.exhausted_at), (None, None, None));
        assert_eq!(QuotaView::new(&Plan::free(), 0, Day(20_000).start()).burn_per_hour, 0.0);
    }
}
