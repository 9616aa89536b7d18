//! Who is calling. Each kind of caller is a type, and it is the only source of a tenant id here: a handler that did not ask
//! for a caller has none. Checks run in the contract's order: credential, tenant, role or scope, and only then the request.

use std::{marker::PhantomData, sync::Arc};

use axum::extract::FromRequestParts;
use http::{HeaderMap, Method, header, request::Parts};
use raven_core::{
    Environment, TenantId,
    permission::{Role, Scope},
    tenant::TenantStatus,
};
use raven_engine::{
    keyring::{KeyError, VerifiedKey},
    token::{Claims, TokenError},
};
use raven_store::TenantRecord;

use crate::{
    App, codes,
    problem::{Problem, Result},
};

/// What a service needs its key to allow.
pub trait Needs: Send + Sync {
    /// The scope.
    const SCOPE: Scope;
}

/// `messages:send`
pub struct SendMessages;
/// `messages:read`
pub struct ReadMessages;

impl Needs for SendMessages {
    const SCOPE: Scope = Scope::MessagesSend;
}
impl Needs for ReadMessages {
    const SCOPE: Scope = Scope::MessagesRead;
}

/// A service with a key that allows what `N` says.
pub struct Caller<N> {
    /// The key.
    pub key: VerifiedKey,
    needs: PhantomData<N>,
}

impl<N: Needs> FromRequestParts<Arc<App>> for Caller<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let text =
            key_header(&parts.headers)?.ok_or_else(|| Problem::new(codes::MISSING_CREDENTIALS, "Send an API key in X-Raven-Key."))?;
        let key = check_key(app, text, &parts.headers).await?;
        require_active(&key.tenant_record)?;
        require_scope(&key, N::SCOPE)?;
        Ok(Self { key, needs: PhantomData })
    }
}

/// What a human must be in the tenant.
pub trait AtLeast: Send + Sync {
    /// The role.
    const ROLE: Role;
}

/// Any member.
pub struct AsViewer;
/// A member who may send.
pub struct AsMember;
/// One who may change keys and providers.
pub struct AsAdmin;

impl AtLeast for AsViewer {
    const ROLE: Role = Role::Viewer;
}
impl AtLeast for AsMember {
    const ROLE: Role = Role::Member;
}
impl AtLeast for AsAdmin {
    const ROLE: Role = Role::Admin;
}

/// Who acts in a session.
#[derive(Clone)]
pub enum Actor {
    /// A human.
    Human(Claims),
    /// A key with scope `admin:*`.
    Key(VerifiedKey),
}

/// Somebody who may do what role `R` may in a tenant: a human with a token, or a key with scope `admin:*`, which counts as
/// role `admin`.
pub struct Session<R> {
    /// The tenant.
    pub tenant: TenantRecord,
    /// Who.
    pub actor: Actor,
    /// Their role.
    pub role: Role,
    at_least: PhantomData<R>,
}

impl<R> Session<R> {
    /// The tenant's id.
    #[must_use]
    pub const fn tenant_id(&self) -> TenantId {
        self.tenant.id
    }

    /// The environment that this caller is confined to; humans see both.
    #[must_use]
    pub const fn confined_to(&self) -> Option<Environment> {
        match &self.actor {
            Actor::Human(_) => None,
            Actor::Key(key) => Some(key.environment),
        }
    }

    /// Refuses a test key where live things are read or changed.
    ///
    /// # Errors
    /// `insufficient_scope`.
    pub fn require_live(&self) -> Result<()> {
        match self.confined_to() {
            Some(Environment::Test) => Err(Problem::new(
                codes::INSUFFICIENT_SCOPE,
                "A test key can neither read nor change providers and tenant settings: use a live key.",
            )),
            _ => Ok(()),
        }
    }
}

impl<R: AtLeast> FromRequestParts<Arc<App>> for Session<R> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let session: Self = match key_header(&parts.headers)? {
            Some(text) => {
                let key = check_key(app, text, &parts.headers).await?;
                require_scope(&key, Scope::Admin)?;
                let tenant = TenantRecord::clone(&key.tenant_record);
                require_active(&tenant)?;
                Self { tenant, actor: Actor::Key(key), role: Role::Admin, at_least: PhantomData }
            }
            None => {
                let Human { claims } = Human::from_request_parts(parts, app).await?;
                let slug = text_header(&parts.headers, "x-tenant-slug")?
                    .ok_or_else(|| Problem::new(codes::NOT_A_MEMBER, "Name the tenant in X-Tenant-Slug."))?;
                let member = app.engine.store.find_membership(claims.sub, slug).await?;
                let member =
                    member.filter(|m| m.tenant.status != TenantStatus::Archived).ok_or_else(|| Problem::of(codes::NOT_A_MEMBER))?;
                if parts.method != Method::GET {
                    require_active(&member.tenant)?;
                }
                Self { tenant: member.tenant, actor: Actor::Human(claims), role: member.role, at_least: PhantomData }
            }
        };
        if session.role < R::ROLE {
            return Err(Problem::new(
                codes::INSUFFICIENT_ROLE,
                format!("This needs the role {} or higher; yours is {}.", R::ROLE, session.role),
            ));
        }
        Ok(session)
    }
}

/// A human, outside of any tenant.
pub struct Human {
    /// What their token says.
    pub claims: Claims,
}

impl FromRequestParts<Arc<App>> for Human {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let Some(value) = parts.headers.get(header::AUTHORIZATION) else {
            return Err(Problem::new(codes::MISSING_CREDENTIALS, "Send a token in Authorization: Bearer."));
        };
        let token = value.to_str().ok().and_then(|v| v.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = token.ok_or_else(|| Problem::new(codes::INVALID_TOKEN, "Authorization must be Bearer and a token."))?;
        let claims = app.engine.tokens.verify(token.trim(), app.engine.clock.now()).map_err(|e| match e {
            TokenError::Expired => Problem::new(codes::INVALID_TOKEN, "The bearer token has expired. Sign in again."),
            TokenError::Invalid => Problem::of(codes::INVALID_TOKEN),
        })?;
        match text_header(&parts.headers, "x-app-name")? {
            None | Some("raven-cloud") => Ok(Self { claims }),
            Some(_) => Err(Problem::field("X-App-Name", "must be raven-cloud, or absent")),
        }
    }
}

fn text_header<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>> {
    headers.get(name).map(|v| v.to_str().map_err(|_| Problem::field(name, "must be printable ASCII"))).transpose()
}

fn key_header(headers: &HeaderMap) -> Result<Option<&str>> {
    // Bytes that are no text are no key either.
    headers.get("x-raven-key").map(|v| v.to_str().map_err(|_| Problem::of(codes::INVALID_API_KEY))).transpose()
}

async fn check_key(app: &App, text: &str, headers: &HeaderMap) -> Result<VerifiedKey> {
    let key = app.engine.keyring.check(text).await.map_err(|e| match e {
        KeyError::Invalid => Problem::of(codes::INVALID_API_KEY),
        KeyError::Store(source) => Problem::from(&*source),
    })?;
    if text_header(headers, "x-tenant-slug")?.is_some_and(|slug| slug != key.tenant_record.slug) {
        return Err(Problem::field(
            "X-Tenant-Slug",
            "does not match the API key's tenant: leave the header out, the key implies its tenant",
        ));
    }
    Ok(key)
}

fn require_scope(key: &VerifiedKey, scope: Scope) -> Result<()> {
    if key.scopes.contains(scope) {
        Ok(())
    } else {
        Err(Problem::new(codes::INSUFFICIENT_SCOPE, format!("This needs an API key with the scope {scope}.")))
    }
}

fn require_active(tenant: &TenantRecord) -> Result<()> {
    if tenant.status == TenantStatus::Active { Ok(()) } else { Err(Problem::of(codes::TENANT_SUSPENDED)) }
}
