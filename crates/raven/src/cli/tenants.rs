//! `raven tenants`: tenants, for operators.

use raven_core::{
    Clock, UserId,
    address::Email,
    tenant::{SuspendedBy, is_country_code, is_locale, is_slug},
    time::is_time_zone,
};
use raven_engine::SystemClock;
use raven_store::{StateChange, StateChanged, Store, TenantChange, TenantRecord, UserProfile};
use serde_json::{Value, json};

use crate::{
    cli::Around,
    config::{self, Config, Flags},
    failure::Failure,
    operator::{self, TenantWish},
};

/// Rows read at a time.
const PAGE: usize = 200;

/// Create, list and change tenants. Works while a server runs, which follows within a second.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All tenants, newest first.
    List(List),
    /// Create a tenant and its owner. Needs RAVEN_MASTER_KEY (or quickstart's in the data directory).
    Create(Box<Create>),
    /// One tenant.
    Show(One),
    /// Put a tenant on another plan.
    SetPlan(SetPlan),
    /// Suspend a tenant: its keys do nothing, its people only read, what waits is held. Its owners can't lift it.
    Suspend(One),
    /// Lift a suspension, by whomever it is.
    Reactivate(One),
    /// Archive a tenant. It can be restored for 30 days; then it is deleted with all its data.
    Archive(One),
    /// Restore a tenant from the archive: it is what it was before.
    Restore(One),
    /// Decide whether a message that may have gone out, and whose outcome never came, is sent again (and perhaps arrives twice).
    SetRetryUnknown(SetRetryUnknown),
}

#[derive(Debug, clap::Args)]
struct One {
    /// The tenant's slug
    slug: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Flags<false>,
}

#[derive(Debug, clap::Args)]
struct SetPlan {
    /// The tenant's slug
    slug: String,
    /// The plan's name: `free`, `unlimited`, or one of the settings
    plan: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Flags<false>,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Flags<false>,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Its name: 2 to 80 characters
    #[arg(long, value_parser = name)]
    name: String,
    /// What stands in X-Tenant-Slug; made from the name by default
    #[arg(long, value_parser = slug)]
    slug: Option<String>,
    /// The address of its owner
    #[arg(long, value_name = "ADDRESS", value_parser = email)]
    owner_email: String,
    /// The owner's id, as single sign-on names it (`sub`); by default the one that `raven token` makes from the address
    #[arg(long, value_name = "UUID", value_parser = user)]
    owner_id: Option<UserId>,
    /// The owner's name
    #[arg(long, value_name = "TEXT")]
    owner_name: Option<String>,
    /// ISO 3166-1 alpha-2, for example KE
    #[arg(long, value_name = "CODE", value_parser = country)]
    country_code: Option<String>,
    /// BCP 47
    #[arg(long, value_name = "TAG", default_value = "en", value_parser = locale)]
    default_locale: String,
    /// A time zone of the IANA database
    #[arg(long, value_name = "ZONE", default_value = "Africa/Nairobi", value_parser = zone)]
    default_tz: String,
    /// The plan's name; by default that of RAVEN_DEFAULT_PLAN
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Flags<false>,
}

#[derive(Debug, clap::Args)]
struct SetRetryUnknown {
    /// The tenant's slug
    slug: String,
    /// `true`: send again; `false` (how every tenant begins): never
    #[arg(action = clap::ArgAction::Set)]
    retry: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Flags<false>,
}

pub(crate) async fn run(arguments: Arguments, around: Around) -> Result<(), Failure> {
    match arguments.command {
        Command::List(list) => self::list(list, around).await,
        Command::Create(wish) => create(*wish, around).await,
        Command::Show(which) => show(which, around).await,
        Command::SetPlan(wish) => set_plan(wish, around).await,
        Command::Suspend(which) => step(which, "tenant.suspend", StateChange::Suspend(SuspendedBy::Operator), around).await,
        Command::Reactivate(which) => step(which, "tenant.reactivate", StateChange::Reactivate(SuspendedBy::Operator), around).await,
        Command::Archive(which) => step(which, "tenant.archive", StateChange::Archive(SystemClock.now()), around).await,
        Command::Restore(which) => step(which, "tenant.restore", StateChange::Restore(SystemClock.now()), around).await,
        Command::SetRetryUnknown(wish) => set_retry_unknown(wish, around).await,
    }
}

async fn list(arguments: List, around: Around) -> Result<(), Failure> {
    let config = around.config(config::OPERATOR, &arguments.settings)?;
    let store = operator::open(&config).await?;
    let (mut tenants, mut before) = (Vec::new(), None);
    loop {
        let page = store.list_tenants(before, PAGE).await?;
        let full = page.len() == PAGE;
        before = page.last().map(|t| (t.created_at, t.id));
        tenants.extend(page);
        if !full {
            break;
        }
    }
    store.close().await;
    if arguments.json {
        return Ok(around.output.json(&tenants.iter().map(view).collect())?);
    }
    let rows: Vec<Vec<String>> = tenants
        .iter()
        .map(|t| vec![t.slug.clone(), t.name.clone(), t.status.to_string(), t.plan.clone(), t.created_at.to_string(), t.id.to_string()])
        .collect();
    Ok(around.output.table(&["SLUG", "NAME", "STATUS", "PLAN", "CREATED", "ID"], &rows)?)
}

async fn create(arguments: Create, around: Around) -> Result<(), Failure> {
    let config = around.config(config::KEEPER, &arguments.settings)?;
    let store = operator::open(&config).await?;
    // Opening the installation's keys first proves that the master key is the right one: a tenant sealed with another is lost.
    let _ = operator::keyring(&config, &store).await?;
    let owner = UserProfile {
        id: arguments.owner_id.unwrap_or_else(|| operator::user_of(&arguments.owner_email)),
        email: arguments.owner_email,
        name: arguments.owner_name,
        avatar_url: None,
    };
    let wish = TenantWish {
        name: arguments.name,
        slug: arguments.slug,
        country_code: arguments.country_code,
        default_locale: arguments.default_locale,
        default_tz: arguments.default_tz,
        owner,
        plan: plan(&config, arguments.plan.as_deref())?,
    };
    let record = operator::create_tenant(&*store, &operator::vault(&config)?, wish).await?;
    store.close().await;
    if arguments.json {
        return Ok(around.output.json(&view(&record))?);
    }
    Ok(around.output.line(format!("The tenant {} was created, with the slug {} and the id {}.", record.name, record.slug, record.id))?)
}

async fn show(arguments: One, around: Around) -> Result<(), Failure> {
    let config = around.config(config::OPERATOR, &arguments.settings)?;
    let store = operator::open(&config).await?;
    let tenant = operator::tenant(&*store, &arguments.slug).await?;
    let used = store.quota_used(tenant.id, SystemClock.now().day()).await?;
    store.close().await;
    if arguments.json {
        let mut view = view(&tenant);
        view["usedToday"] = used.into();
        return Ok(around.output.json(&view)?);
    }
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let rows = [
        ("slug", tenant.slug),
        ("name", tenant.name),
        ("status", tenant.status.to_string()),
        ("suspended by", text(tenant.suspended_by.map(|by| by.to_string()))),
        ("archived", text(tenant.archived_at.map(|at| at.to_string()))),
        ("plan", tenant.plan),
        ("live messages today", used.to_string()),
        ("country", text(tenant.country_code)),
        ("locale", tenant.default_locale),
        ("time zone", tenant.default_tz),
        ("created", tenant.created_at.to_string()),
        ("repeats unknown outcomes", tenant.retry_unknown.to_string()),
        ("id", tenant.id.to_string()),
    ];
    Ok(around.output.table(&["FIELD", "VALUE"], &rows.map(|(name, value)| vec![name.to_owned(), value]))?)
}

/// The name of a plan that there is.
fn plan(config: &Config, name: Option<&str>) -> Result<String, Failure> {
    let Some(name) = name else { return Ok(config.plans.default().name.clone()) };
    if config.plans.find(name).is_some() {
        return Ok(name.to_owned());
    }
    let known: Vec<&str> = config.plans.names().collect();
    Err(Failure::Usage(format!("there is no plan {name:?}: known are {}", known.join(", "))))
}

async fn set_plan(arguments: SetPlan, around: Around) -> Result<(), Failure> {
    let config = around.config(config::OPERATOR, &arguments.settings)?;
    let plan = plan(&config, Some(&arguments.plan))?;
    let store = operator::open(&config).await?;
    let tenant = operator::tenant(&*store, &arguments.slug).await?;
    let change = TenantChange { plan: Some(plan.clone()), ..TenantChange::default() };
    let changed = update(&*store, &tenant, change, json!({ "plan": tenant.plan }), json!({ "plan": plan })).await?;
    store.close().await;
    if arguments.json {
        return Ok(around.output.json(&view(&changed))?);
    }
    Ok(around.output.line(format!("{} is on the plan {}, from within a second on.", changed.slug, changed.plan))?)
}

async fn update(
    store: &dyn Store,
    tenant: &TenantRecord,
    change: TenantChange,
    before: Value,
    after: Value,
) -> Result<TenantRecord, Failure> {
    let audit = operator::audit(tenant.id, "tenant.update", tenant.id.0, before, after)?;
    let changed = store.update_tenant(tenant.id, change, audit).await?;
    changed.ok_or_else(|| anyhow::anyhow!("the tenant {} was deleted just now", tenant.slug).into())
}

async fn step(arguments: One, action: &str, change: StateChange, around: Around) -> Result<(), Failure> {
    let config = around.config(config::OPERATOR, &arguments.settings)?;
    let store = operator::open(&config).await?;
    let tenant = operator::tenant(&*store, &arguments.slug).await?;
    let audit = operator::audit(tenant.id, action, tenant.id.0, json!({ "status": tenant.status }), Value::Null)?;
    let changed = store.change_state(tenant.id, change, audit).await?;
    store.close().await;
    let Some(StateChanged { tenant, changed }) = changed else {
        return Err(anyhow::anyhow!("the tenant {} was deleted just now", tenant.slug).into());
    };
    if !changed {
        let wanted = match change {
            StateChange::Suspend(_) => "active, or suspended by its owner",
            StateChange::Reactivate(_) => "suspended",
            StateChange::Archive(_) => "active or suspended",
            StateChange::Restore(_) => "archived less than 30 days ago",
        };
        return Err(anyhow::anyhow!("{} is {}; for this it must be {wanted}", tenant.slug, tenant.status).into());
    }
    if arguments.json {
        return Ok(around.output.json(&view(&tenant))?);
    }
    Ok(around.output.line(format!("{} is {}, from within a second on.", tenant.slug, tenant.status))?)
}

async fn set_retry_unknown(arguments: SetRetryUnknown, around: Around) -> Result<(), Failure> {
    let config = around.config(config::OPERATOR, &arguments.settings)?;
    let store = operator::open(&config).await?;
    let tenant = operator::tenant(&*store, &arguments.slug).await?;
    let change = TenantChange { retry_unknown: Some(arguments.retry), ..TenantChange::default() };
    let (before, after) = (json!({ "retryUnknown": tenant.retry_unknown }), json!({ "retryUnknown": arguments.retry }));
    let changed = update(&*store, &tenant, change, before, after).await?;
    store.close().await;
    if arguments.json {
        return Ok(around.output.json(&view(&changed))?);
    }
    let what = if arguments.retry { "are sent again" } else { "are not sent again" };
    Ok(around.output.line(format!("Messages of {} whose outcome is unknown {what}, from within a second on.", tenant.slug))?)
}

fn view(t: &TenantRecord) -> Value {
    json!({
        "id": t.id, "slug": t.slug, "name": t.name, "status": t.status.name(), "plan": t.plan, "countryCode": t.country_code,
        "defaultLocale": t.default_locale, "defaultTz": t.default_tz, "createdAt": t.created_at, "suspendedBy": t.suspended_by,
        "archivedAt": t.archived_at, "retryUnknown": t.retry_unknown,
    })
}

fn name(text: &str) -> Result<String, String> {
    let text = text.trim();
    let good = (2..=80).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if good { Ok(text.to_owned()) } else { Err("must have 2 to 80 characters in one line".to_owned()) }
}

fn slug(text: &str) -> Result<String, String> {
    if is_slug(text) { Ok(text.to_owned()) } else { Err("must be 2 to 63 lower-case letters, digits and single inner hyphens".to_owned()) }
}

fn email(text: &str) -> Result<String, String> {
    Email::parse(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

fn user(text: &str) -> Result<UserId, String> {
    UserId::parse(text).ok_or_else(|| "must be a UUID".to_owned())
}

fn country(text: &str) -> Result<String, String> {
    if is_country_code(text) { Ok(text.to_owned()) } else { Err("must be two capital letters, for example KE".to_owned()) }
}

fn locale(text: &str) -> Result<String, String> {
    if is_locale(text) { Ok(text.to_owned()) } else { Err("must be a language tag, for example en or en-KE".to_owned()) }
}

fn zone(text: &str) -> Result<String, String> {
    if is_time_zone(text) {
        Ok(text.to_owned())
    } else {
        Err("must be a time zone of the IANA database, for example Africa/Nairobi".to_owned())
    }
}
