//! Who is calling. Each kind of caller is a type, and it is the only source of a tenant id here: a handler that did not ask
//! for a caller has none. Checks run in the contract's order: credential, tenant's state, rate limit, role or scope, and
//! only then the request.

use std::{marker::PhantomData, sync::Arc};

use axum::extract::FromRequestParts;
use http::{HeaderMap, Method, header, request::Parts};
use raven_core::{
    Environment, TenantId,
    permission::{Role, Scope},
    tenant::TenantStatus,
};
use raven_engine::{
    audit::{self, Entry},
    keyring::{KeyError, VerifiedKey},
    limiter::Standing,
    token::{Claims, TokenError},
};
use raven_store::{AuditRecord, TenantRecord};
use uuid::Uuid;

use crate::{
    App, codes,
    layers::Context,
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
    pub key: Arc<VerifiedKey>,
    needs: PhantomData<N>,
}

impl<N: Needs> FromRequestParts<Arc<App>> for Caller<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let context = context(parts)?;
        let Some(text) = key_header(&parts.headers) else {
            return Err(fails(app, &context, Problem::new(codes::MISSING_CREDENTIALS, "Send an API key in X-Raven-Key.")));
        };
        let key = check_key(app, &context, text).await?;
        context.is_from(key.tenant, Some(key.id));
        require_active(&key.tenant_record)?;
        if let Some(rpm) = key.plan.rate_of_key(key.rate_limit_rpm) {
            admit(&context, app.engine.limiter.count_in(&key.state.bucket, rpm).await?)?;
        }
        require_same_tenant(&key, &parts.headers)?;
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
/// One who may give the tenant away.
pub struct AsOwner;

impl AtLeast for AsViewer {
    const ROLE: Role = Role::Viewer;
}
impl AtLeast for AsMember {
    const ROLE: Role = Role::Member;
}
impl AtLeast for AsAdmin {
    const ROLE: Role = Role::Admin;
}
impl AtLeast for AsOwner {
    const ROLE: Role = Role::Owner;
}

/// In which states of a tenant a human may do something.
pub trait InState: Send + Sync {
    /// Is this state one of them?
    fn admits(status: TenantStatus, method: &Method) -> bool;
}

/// While the tenant is active; what only reads also while it is suspended.
pub struct Usual;
/// Also while it is suspended.
pub struct EvenSuspended;
/// In every state.
pub struct EvenArchived;

impl InState for Usual {
    fn admits(status: TenantStatus, method: &Method) -> bool {
        status == TenantStatus::Active || status == TenantStatus::Suspended && *method == Method::GET
    }
}
impl InState for EvenSuspended {
    fn admits(status: TenantStatus, _: &Method) -> bool {
        status != TenantStatus::Archived
    }
}
impl InState for EvenArchived {
    fn admits(_: TenantStatus, _: &Method) -> bool {
        true
    }
}

/// Who acts in a session.
#[derive(Clone)]
pub enum Actor {
    /// A human.
    Human(Claims),
    /// A key with scope `admin:*`.
    Key(Arc<VerifiedKey>),
}

impl Actor {
    /// As the audit log names them. A key's prefix is told by its id.
    fn named(&self) -> audit::Actor {
        match self {
            Self::Human(claims) => audit::Actor::User { id: claims.sub.0, email: claims.email.clone() },
            Self::Key(key) => audit::Actor::Key { id: key.id.0, prefix: key.prefix.to_string() },
        }
    }
}

/// Somebody who may do what role `R` may in a tenant, in the states `S` of it: a human with a token, or a key with scope
/// `admin:*`, which counts as role `admin`.
pub struct Session<R, S = Usual> {
    /// The tenant.
    pub tenant: TenantRecord,
    /// Who.
    pub actor: Actor,
    /// Their role.
    pub role: Role,
    context: Arc<Context>,
    allowed: PhantomData<(R, S)>,
}

impl<R, S> Session<R, S> {
    /// The tenant's id.
    #[must_use]
    pub const fn tenant_id(&self) -> TenantId {
        self.tenant.id
    }

    /// The environment that this caller is confined to; humans see both.
    #[must_use]
    pub fn confined_to(&self) -> Option<Environment> {
        match &self.actor {
            Actor::Human(_) => None,
            Actor::Key(key) => Some(key.environment),
        }
    }

    /// Of which environment a list is, when this one is asked for (inside: `None` for both): live when nothing is said, a
    /// key's own for a key.
    ///
    /// # Errors
    /// `insufficient_scope`, when a key asks for more than its own.
    pub fn environment(&self, asked: Option<Option<Environment>>) -> Result<Option<Environment>> {
        match (self.confined_to(), asked) {
            (Some(own), Some(asked)) if asked != Some(own) => {
                Err(Problem::new(codes::INSUFFICIENT_SCOPE, "A key sees its own environment only."))
            }
            (_, Some(asked)) => Ok(asked),
            (own, None) => Ok(own.or(Some(Environment::Live))),
        }
    }

    /// Id of the human or the key.
    #[must_use]
    pub fn actor_id(&self) -> Uuid {
        match &self.actor {
            Actor::Human(claims) => claims.sub.0,
            Actor::Key(key) => key.id.0,
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
                "A test key can neither read nor change providers, members and tenant settings: use a live key.",
            )),
            _ => Ok(()),
        }
    }

    /// An entry for the audit log: this session did something (`resource.verb`) to a resource.
    #[must_use]
    pub fn entry(&self, action: &str, resource: Uuid) -> Entry {
        signed(Entry::new(action, self.actor.named(), resource), &self.context)
    }

    /// An entry as a record of the tenant's log.
    #[must_use]
    pub fn record(&self, app: &App, entry: &Entry) -> AuditRecord {
        record(app, self.tenant.id, entry)
    }
}

/// An entry as a record of a tenant's log.
pub(crate) fn record(app: &App, tenant: TenantId, entry: &Entry) -> AuditRecord {
    entry.record(tenant, app.engine.membership.ids.next(app.engine.clock.now()))
}

fn signed(mut entry: Entry, context: &Context) -> Entry {
    entry.ip = context.address.map(|ip| ip.to_string());
    entry.request_id = Some(context.id().to_owned());
    entry
}

impl<R: AtLeast, S: InState> FromRequestParts<Arc<App>> for Session<R, S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let context = context(parts)?;
        let (tenant, actor, role) = match key_header(&parts.headers) {
            Some(text) => {
                let key = check_key(app, &context, text).await?;
                context.is_from(key.tenant, Some(key.id));
                require_active(&key.tenant_record)?;
                (TenantRecord::clone(&key.tenant_record), Actor::Key(key), Role::Admin)
            }
            None => {
                let claims = verify_token(parts, app, &context).await?;
                let slug = text_header(&parts.headers, "x-tenant-slug")?;
                let member = match slug {
                    Some(slug) => app.engine.store.find_membership(claims.sub, slug).await?,
                    None => None,
                };
                let Some(member) = member else {
                    admit_human(app, &context, &claims).await?;
                    return Err(match slug {
                        Some(_) => Problem::of(codes::NOT_A_MEMBER),
                        None => Problem::new(codes::NOT_A_MEMBER, "Name the tenant in X-Tenant-Slug."),
                    });
                };
                context.is_from(member.tenant.id, None);
                if !S::admits(member.tenant.status, &parts.method) {
                    return Err(Problem::of(match member.tenant.status {
                        TenantStatus::Archived => codes::TENANT_ARCHIVED,
                        _ => codes::TENANT_SUSPENDED,
                    }));
                }
                (member.tenant, Actor::Human(claims), member.role)
            }
        };
        if let Some(rpm) = app.engine.plans.of(&tenant.plan).admin_rpm {
            admit(&context, app.engine.limiter.count(tenant.id.0, rpm).await?)?;
        }
        require_our_app(&parts.headers)?;
        if let Actor::Key(key) = &actor {
            require_same_tenant(key, &parts.headers)?;
            require_scope(key, Scope::Admin)?;
        }
        if role < R::ROLE {
            let text = format!("This needs the role {} or higher; yours is {role}.", R::ROLE);
            return Err(Problem::new(codes::INSUFFICIENT_ROLE, text));
        }
        Ok(Self { tenant, actor, role, context, allowed: PhantomData })
    }
}

/// A human, outside of any tenant.
pub struct Human {
    /// What their token says.
    pub claims: Claims,
    context: Arc<Context>,
}

impl Human {
    /// An entry for the audit log: this human did something (`resource.verb`) to a resource.
    #[must_use]
    pub fn entry(&self, action: &str, resource: Uuid) -> Entry {
        let actor = audit::Actor::User { id: self.claims.sub.0, email: self.claims.email.clone() };
        signed(Entry::new(action, actor, resource), &self.context)
    }

    /// The address that the issuer has verified, in the form in which addresses are compared.
    ///
    /// # Errors
    /// `email_not_verified`.
    pub fn verified_email(&self) -> Result<String> {
        let verified = self.claims.email_verified == Some(true);
        let email = verified.then(|| raven_core::address::Email::parse(&self.claims.email).ok()).flatten();
        email.map(|email| email.comparable()).ok_or_else(|| Problem::of(codes::EMAIL_NOT_VERIFIED))
    }
}

impl FromRequestParts<Arc<App>> for Human {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let context = context(parts)?;
        if key_header(&parts.headers).is_some() {
            let text = "This endpoint is for signed-in humans: send a token in Authorization: Bearer, and no X-Raven-Key.";
            return Err(fails(app, &context, Problem::new(codes::MISSING_CREDENTIALS, text)));
        }
        let claims = verify_token(parts, app, &context).await?;
        admit_human(app, &context, &claims).await?;
        require_our_app(&parts.headers)?;
        Ok(Self { claims, context })
    }
}

/// The context of a request. It is missing only where a handler runs without the outermost layer, which is a bug.
fn context(parts: &Parts) -> Result<Arc<Context>> {
    parts.extensions.get::<Arc<Context>>().cloned().ok_or_else(|| Problem::of(codes::INTERNAL))
}

/// Credentials that open nothing: counted by address, so that guessing is slow. (Good ones from the same address go on.)
fn fails(app: &App, context: &Context, problem: Problem) -> Problem {
    let Some(address) = context.address else { return problem };
    match app.engine.limiter.count_failure(address).retry_after {
        None => problem,
        Some(seconds) => {
            Problem::new(codes::RATE_LIMITED, "Too many requests with wrong credentials came from this address. Correct them.")
                .after(seconds)
        }
    }
}

/// Notes where the caller stands, and refuses when its limit is reached.
fn admit(context: &Context, standing: Standing) -> Result<()> {
    context.note(standing);
    match standing.retry_after {
        None => Ok(()),
        Some(seconds) => Err(Problem::of(codes::RATE_LIMITED).after(seconds)),
    }
}

/// Counts a request of a human that belongs to no tenant: by the plan that new tenants get.
async fn admit_human(app: &App, context: &Context, claims: &Claims) -> Result<()> {
    match app.engine.plans.default().admin_rpm {
        Some(rpm) => admit(context, app.engine.limiter.count(claims.sub.0, rpm).await?),
        None => Ok(()),
    }
}

async fn verify_token(parts: &Parts, app: &App, context: &Context) -> Result<Claims> {
    let Some(value) = parts.headers.get(header::AUTHORIZATION) else {
        return Err(fails(app, context, Problem::new(codes::MISSING_CREDENTIALS, "Send a token in Authorization: Bearer.")));
    };
    let token = value.to_str().ok().and_then(|v| v.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, token)) = token else {
        return Err(fails(app, context, Problem::new(codes::INVALID_TOKEN, "Authorization must be Bearer and a token.")));
    };
    match app.engine.tokens.verify(token.trim(), app.engine.clock.now()).await {
        Ok(claims) => Ok(claims),
        Err(e) => {
            let problem = match e {
                TokenError::Expired => Problem::new(codes::INVALID_TOKEN, "The bearer token has expired. Sign in again."),
                TokenError::Invalid => Problem::of(codes::INVALID_TOKEN),
            };
            Err(fails(app, context, problem))
        }
    }
}

fn require_our_app(headers: &HeaderMap) -> Result<()> {
    match text_header(headers, "x-app-name")? {
        None | Some("raven-cloud") => Ok(()),
        Some(_) => Err(Problem::field("X-App-Name", "must be raven-cloud, or absent")),
    }
}

fn text_header<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>> {
    headers.get(name).map(|v| v.to_str().map_err(|_| Problem::field(name, "must be printable ASCII"))).transpose()
}

/// The presented key. Bytes that are no text are no key either.
fn key_header(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-raven-key").map(|v| v.to_str().unwrap_or_default())
}

async fn check_key(app: &App, context: &Context, text: &str) -> Result<Arc<VerifiedKey>> {
    match app.engine.keyring.check(text).await {
        Ok(key) => Ok(key),
        Err(KeyError::Invalid) => Err(fails(app, context, Problem::of(codes::INVALID_API_KEY))),
        Err(KeyError::Store(source)) => Err(Problem::from(&*source)),
    }
}

fn require_same_tenant(key: &VerifiedKey, headers: &HeaderMap) -> Result<()> {
    if text_header(headers, "x-tenant-slug")?.is_some_and(|slug| slug != key.tenant_record.slug) {
        let text = "does not match the API key's tenant: leave the header out, the key implies its tenant";
        return Err(Problem::field("X-Tenant-Slug", text));
    }
    Ok(())
}

fn require_scope(key: &VerifiedKey, scope: Scope) -> Result<()> {
    if key.scopes.contains(scope) {
        Ok(())
    } else {
        Err(Problem::new(codes::INSUFFICIENT_SCOPE, format!("This needs an API key with the scope {scope}.")))
    }
}

fn require_active(tenant: &TenantRecord) -> Result<()> {
    match tenant.status {
        TenantStatus::Active => Ok(()),
        TenantStatus::Suspended => Err(Problem::of(codes::TENANT_SUSPENDED)),
        TenantStatus::Archived => Err(Problem::of(codes::TENANT_ARCHIVED)),
    }
}
