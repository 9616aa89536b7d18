//! `raven keys`: API keys, for operators.

use std::time::Duration;

use raven_core::{
    Clock, Environment, KeyId, Priority, Timestamp,
    permission::{Scope, Scopes},
};
use raven_engine::SystemClock;
use raven_store::{KeyRecord, Store};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::{
    cli::{Around, span},
    config::{self, Flags},
    failure::Failure,
    operator::{self, KeyWish},
};

/// Rows read at a time.
const PAGE: usize = 200;

/// List, create and revoke API keys. Works while a server runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// A tenant's keys that are not revoked, newest first.
    List(List),
    /// Create a key and print it: it is shown this once. Needs RAVEN_MASTER_KEY (or quickstart's in the data directory).
    Create(Box<Create>),
    /// Revoke a key.
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
struct List {
    /// The tenant's slug
    #[arg(long, value_name = "SLUG")]
    tenant: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Flags<false>,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// The tenant's slug
    #[arg(long, value_name = "SLUG")]
    tenant: String,
    /// What people know it by: 1 to 80 characters
    #[arg(long, value_parser = name)]
    name: String,
    /// `live` or `test`
    #[arg(long, value_name = "NAME", default_value = "live", value_parser = environment)]
    environment: Environment,
    /// What it may do, separated by commas: messages:send, messages:read, admin:*
    #[arg(long, value_name = "LIST", default_value = "messages:send,messages:read", value_parser = scopes)]
    scopes: Scopes,
    /// Requests a minute; the plan's by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..=100_000_000))]
    rate_limit_rpm: Option<i32>,
    /// Priority of what is sent with it and doesn't say: `transactional` or `bulk`; the plan's by default
    #[arg(long, value_name = "NAME", value_parser = priority)]
    priority: Option<Priority>,
    /// How long it is good for: seconds, or 15m, 1h, 7d; forever by default
    #[arg(long, value_name = "SPAN", value_parser = span::parse)]
    expires_in: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Flags<false>,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// The key's id or its prefix (rk_live_a3f7b2c1)
    key: String,
    /// The tenant's slug
    #[arg(long, value_name = "SLUG")]
    tenant: String,
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
        Command::Revoke(which) => revoke(which, around).await,
    }
}

async fn list(arguments: List, around: Around) -> Result<(), Failure> {
    let config = around.config(config::OPERATOR, &arguments.settings)?;
    let store = operator::open(&config).await?;
    let tenant = operator::tenant(&*store, &arguments.tenant).await?.id;
    let (mut keys, mut before) = (Vec::new(), None);
    loop {
        let page = store.list_keys(tenant, None, before, PAGE).await?;
        let full = page.len() == PAGE;
        before = page.last().map(|k| (k.created_at, k.id));
        keys.extend(page);
        if !full {
            break;
        }
    }
    store.close().await;
    if arguments.json {
        return Ok(around.output.json(&keys.iter().map(view).collect())?);
    }
    let row = |k: &KeyRecord| {
        let shown = format!("{}_…{}", k.prefix, k.last_four);
        let or_never = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), |at| at.to_string());
        let (used, expires) = (or_never(k.last_used_at), or_never(k.expires_at));
        vec![shown, k.name.clone(), scope_names(k.scopes).join(","), k.created_at.to_string(), used, expires, k.id.to_string()]
    };
    Ok(around
        .output
        .table(&["KEY", "NAME", "SCOPES", "CREATED", "LAST USED", "EXPIRES", "ID"], &keys.iter().map(row).collect::<Vec<_>>())?)
}

async fn create(arguments: Create, around: Around) -> Result<(), Failure> {
    let config = around.config(config::KEEPER, &arguments.settings)?;
    let store = operator::open(&config).await?;
    let tenant = operator::tenant(&*store, &arguments.tenant).await?.id;
    let keyring = operator::keyring(&config, &store).await?;
    let wish = KeyWish {
        tenant,
        name: arguments.name,
        environment: arguments.environment,
        scopes: arguments.scopes,
        rate_limit_rpm: arguments.rate_limit_rpm,
        priority: arguments.priority,
        expires_in: arguments.expires_in,
    };
    let (record, plaintext) = operator::create_key(&*store, &keyring, wish).await?;
    store.close().await;
    if arguments.json {
        let mut view = view(&record);
        view["plaintext"] = plaintext.expose_secret().into();
        return Ok(around.output.json(&view)?);
    }
    around.output.line(plaintext.expose_secret())?;
    Ok(())
}

async fn revoke(arguments: Revoke, around: Around) -> Result<(), Failure> {
    let config = around.config(config::OPERATOR, &arguments.settings)?;
    let store = operator::open(&config).await?;
    let tenant = operator::tenant(&*store, &arguments.tenant).await?.id;
    let found = find(&*store, &arguments.key).await?;
    let revoked = match found {
        Some(id) => {
            let audit = operator::audit(tenant, "api_key.revoke", id.0, Value::Null, Value::Null)?;
            store.revoke_key(tenant, None, id, SystemClock.now(), audit).await?
        }
        None => false,
    };
    store.close().await;
    if !revoked {
        let text =
            format!("the tenant {} has no key {} that is not revoked: see `raven keys list --tenant {0}`", arguments.tenant, arguments.key);
        return Err(anyhow::anyhow!(text).into());
    }
    if arguments.json {
        return Ok(around.output.json(&json!({ "id": found, "revoked": true }))?);
    }
    Ok(around.output.line(format!("The key {} is revoked.", arguments.key))?)
}

/// The id of the key that is meant: by its id, or by its prefix. Whose it is, the verb that follows checks.
async fn find(store: &dyn Store, text: &str) -> raven_store::Result<Option<KeyId>> {
    if let Some(id) = KeyId::parse(text) {
        return Ok(Some(id));
    }
    Ok(store.find_key_by_prefix(text).await?.map(|(key, _)| key.id))
}

fn view(k: &KeyRecord) -> Value {
    json!({
        "id": k.id, "prefix": k.prefix, "lastFour": k.last_four, "name": k.name, "environment": k.environment.name(),
        "scopes": scope_names(k.scopes), "rateLimitRpm": k.rate_limit_rpm, "priority": k.priority,
        "expiresAt": k.expires_at, "createdAt": k.created_at,
        "lastUsedAt": k.last_used_at,
    })
}

fn scope_names(scopes: Scopes) -> Vec<&'static str> {
    scopes.iter().map(Scope::name).collect()
}

fn name(text: &str) -> Result<String, String> {
    let good = (1..=80).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if good { Ok(text.to_owned()) } else { Err("must have 1 to 80 characters in one line".to_owned()) }
}

fn environment(text: &str) -> Result<Environment, String> {
    Environment::parse(text).ok_or_else(|| "must be live or test".to_owned())
}

fn priority(text: &str) -> Result<Priority, String> {
    Priority::parse(text).ok_or_else(|| "must be transactional or bulk".to_owned())
}

fn scopes(text: &str) -> Result<Scopes, String> {
    let named: Option<Scopes> = text.split(',').map(|name| Scope::parse(name.trim())).collect();
    named.ok_or_else(|| "must name messages:send, messages:read or admin:*, separated by commas".to_owned())
}
