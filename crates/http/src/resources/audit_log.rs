//! The audit log, for reading: entries are written by what changes something.

use axum::extract::State;
use raven_core::{MessageId, Seq, Timestamp, problem::chain};
use raven_engine::audit::{Actor, Entry};
use raven_store::AuditRecord;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::AppState;
use crate::{
    App,
    caller::{AsAdmin, Session},
    openapi::closed::ActorKindName,
    page::{self, Page, PageParameters},
    problem::Result,
    query::RawQuery,
};

const USER: &str = "user";
const KEY: &str = "key";
const SYSTEM: &str = "system";
/// Kinds of actors.
pub(crate) const ACTOR_KINDS: &[&str] = &[USER, KEY, SYSTEM];

/// An entry of the audit log.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntryView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: MessageId,
    /// When.
    #[schema(value_type = String, format = "date-time")]
    pub occurred_at: Timestamp,
    /// What was done: the kind of the resource, a dot, and the verb.
    #[schema(example = "api_key.create")]
    pub action: String,
    /// Who did it.
    pub actor: ActorView,
    /// To what.
    pub resource: ResourceView,
    /// What changed, as it was before; `null` for creations. Never a secret.
    #[schema(required, value_type = Option<std::collections::BTreeMap<String, Value>>)]
    pub before: Option<Value>,
    /// What changed, as it is now; `null` for deletions. Never a secret.
    #[schema(required, value_type = Option<std::collections::BTreeMap<String, Value>>)]
    pub after: Option<Value>,
    /// The address that the request came from.
    #[schema(required, example = "192.0.2.7")]
    pub ip: Option<String>,
    /// The id of the request (`X-Request-Id`).
    #[schema(required)]
    pub request_id: Option<String>,
}

/// Who acted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ActorView {
    /// What kind of actor: `system` is an operator's command.
    #[serde(rename = "type")]
    #[schema(value_type = ActorKindName)]
    pub kind: &'static str,
    /// Id of the human or the key.
    #[schema(required)]
    pub id: Option<Uuid>,
    /// The human's address, what the key begins with, or which part of the system.
    pub name: String,
}

/// What was acted on.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ResourceView {
    /// Its kind.
    #[serde(rename = "type")]
    #[schema(example = "api_key")]
    pub kind: String,
    /// Its id.
    pub id: Uuid,
}

impl From<Actor> for ActorView {
    fn from(actor: Actor) -> Self {
        match actor {
            Actor::User { id, email } => Self { kind: USER, id: Some(id), name: email },
            Actor::Key { id, prefix } => Self { kind: KEY, id: Some(id), name: prefix },
            Actor::System { name } => Self { kind: SYSTEM, id: None, name },
        }
    }
}

fn view(app: &App, record: &AuditRecord) -> Option<AuditEntryView> {
    let entry = serde_json::from_str::<Entry>(&record.entry)
        .map_err(|e| tracing::error!(error = chain(&e), tenant = %record.tenant, "an entry of the audit log can't be read"))
        .ok()?;
    Some(AuditEntryView {
        id: app.engine.ids.seal(record.seq),
        occurred_at: record.seq.at(),
        action: entry.action,
        actor: entry.actor.into(),
        resource: ResourceView { kind: entry.resource.kind, id: entry.resource.id },
        before: Some(entry.before).filter(|v| !v.is_null()),
        after: Some(entry.after).filter(|v| !v.is_null()),
        ip: entry.ip,
        request_id: entry.request_id,
    })
}

/// Who changed what in the tenant, newest first. Entries are never changed or deleted while the tenant exists.
#[utoipa::path(get, path = "/v1/admin/audit-log", tag = "audit", params(PageParameters), responses((status = 200, body = Page<AuditEntryView>)))]
pub async fn list(session: Session<AsAdmin>, State(app): AppState, query: RawQuery) -> Result<axum::Json<Page<AuditEntryView>>> {
    session.require_live()?;
    let mut parameters = query.parameters(page::PARAMETERS);
    let limit = page::limit(&mut parameters);
    let cursor = parameters.get("cursor");
    parameters.finish()?;
    let scope = page::Scope::new("audit-log", session.tenant_id().0);
    let before: Option<Seq> = scope.open(&app.engine.cursors, cursor.as_deref())?;
    let rows = app.engine.store.list_audit(session.tenant_id(), before, limit + 1).await?;
    let found = page::page(rows, limit, &scope, &app.engine.cursors, |r| r.seq, |r| view(&app, &r));
    Ok(axum::Json(Page { data: found.data.into_iter().flatten().collect(), next_cursor: found.next_cursor }))
}
