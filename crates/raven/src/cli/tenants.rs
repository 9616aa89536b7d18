//! `raven tenants`: tenants, for operators.

use raven_core::{
    UserId,
    address::Email,
    tenant::{is_country_code, is_locale, is_slug},
    time::is_time_zone,
};
use raven_store::{TenantRecord, UserProfile};
use serde_json::{Value, json};

use crate::{
    cli::Around,
    config::{self, Flags},
    failure::Failure,
    operator::{self, TenantWish},
};

/// Rows read at a time.
const PAGE: usize = 200;

/// List and create tenants. Works while a server runs.
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
    /// Decide whether a message that may have gone out, and whose outcome never came, is sent again (and perhaps arrives twice).
    SetRetryUnknown(SetRetryUnknown),
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
    #[command(flatten)]
    settings: Flags<false>,
}

pub(crate) async fn run(arguments: Arguments, around: Around) -> Result<(), Failure> {
    match arguments.command {
        Command::List(list) => self::list(list, around).await,
        Command::Create(wish) => create(*wish, around).await,
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
    };
    let record = operator::create_tenant(&*store, &operator::vault(&config)?, wish).await?;
    store.close().await;
    if arguments.json {
        return Ok(around.output.json(&view(&record))?);
    }
    Ok(around.output.line(format!("The tenant {} was created, with the slug {} and the id {}.", record.name, record.slug, record.id))?)
}

async fn set_retry_unknown(arguments: SetRetryUnknown, around: Around) -> Result<(), Failure> {
    let config = around.config(config::OPERATOR, &arguments.settings)?;
    let store = operator::open(&config).await?;
    let tenant = operator::tenant(&*store, &arguments.slug).await?;
    store.set_retry_unknown(tenant.id, arguments.retry).await?;
    store.close().await;
    let what = if arguments.retry { "are sent again" } else { "are not sent again" };
    Ok(around.output.line(format!("Messages of {} whose outcome is unknown {what}, from within a second on.", tenant.slug))?)
}

fn view(t: &TenantRecord) -> Value {
    json!({
        "id": t.id, "slug": t.slug, "name": t.name, "status": t.status.name(), "plan": t.plan, "countryCode": t.country_code,
        "defaultLocale": t.default_locale, "defaultTz": t.default_tz, "createdAt": t.created_at,
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
