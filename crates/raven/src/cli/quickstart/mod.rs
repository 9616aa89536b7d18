//! `raven quickstart`: from nothing to a delivered message, in one command.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use raven_core::Timestamp;
use raven_engine::OsEntropy;
use raven_store::Store;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::{
    cli::Around,
    config::{self, Config, Flags, Role, parse, settings},
    failure::Failure,
    files,
    output::Output,
    run::{self, Outdated, Server, Signals},
};

mod client;
mod demo;

use client::Client;
use demo::Demo;

/// Whom the first message goes to: the sandbox plays the provider, nobody's phone rings.
const RECIPIENT: &str = "+254722000000";
/// Between two looks at the message.
const POLL: Duration = Duration::from_millis(25);
/// How long the first message may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Try Raven: no services and no settings needed, sends a first message.
///
/// Makes an embedded database and secrets in ./raven-data, a demo tenant with a live and a test key, starts a server, sends
/// an SMS to the built-in sandbox and shows its timeline. Run again, it uses what is there. Goes on serving until Ctrl-C.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: Flags<true>,
}

pub(crate) async fn run(arguments: Arguments, around: Around) -> Result<(), Failure> {
    let mut config = around.config(config::QUICKSTART, &arguments.settings)?;
    if let Some(Role::Api | Role::Worker) = config.only {
        return Err(Failure::Usage(format!("quickstart does all the work in one process: leave {} unset", settings::ONLY.variable())));
    }
    let out = around.output;
    let mut signals = Signals::listen()?;
    files::make_data_dir(&config.data_dir)?;
    let _lock = files::lock_data_dir(&config.data_dir)?;
    let listener = run::bind(&config.listen, &settings::LISTEN).await?;
    let store = run::open_store(&config, Outdated::Migrate).await?;
    let generated = complete_secrets(&mut config, &*store).await?;
    let server = run::start(&config, store.clone(), listener).await?;

    // A signal that comes while the first message is under way ends it all in order, too.
    let shown = tokio::select! {
        shown = show(&config, &around, store, &server, generated, out) => Some(shown),
        () = signals.next() => None,
    };
    let failed = match shown {
        Some(Ok(())) => {
            signals.next().await;
            None
        }
        Some(Err(e)) => Some(e),
        None => None,
    };
    if failed.is_none() {
        out.line("\nStopping.")?;
    }
    signals.impatiently(server.stop()).await;
    failed.map_or(Ok(()), Err)
}

async fn show(
    config: &Config,
    around: &Around,
    store: Arc<dyn Store>,
    server: &Server,
    generated: bool,
    out: Output,
) -> Result<(), Failure> {
    let (demo, made) = Demo::prepare(config, &*store, &server.engine).await?;
    let what = match made || generated {
        true => "Prepared",
        false => "Found what an earlier run made in",
    };
    let line = |label: &str, text: &str| out.line(format!("  {label:<14}{text}"));
    out.line(format!("{} {}\n", out.bold("Raven"), env!("CARGO_PKG_VERSION")))?;
    out.line(format!("{what} {}:", config.data_dir.display()))?;
    line(
        "database",
        &if config.is_embedded() { format!("embedded, {}", config.sqlite_file().display()) } else { "PostgreSQL".to_owned() },
    )?;
    line("secrets", &format!("{} (master key and token secret; keep it, show nobody)", config.secrets_file().display()))?;
    line("tenant", &format!("{} (slug {}, owner {})", demo::TENANT_NAME, demo::TENANT_SLUG, crate::cli::token::DEMO_EMAIL))?;
    line("live key", demo.live_key.expose_secret())?;
    line("test key", demo.test_key.expose_secret())?;
    out.line(format!("\nServing on {}", out.bold(&server.public_url)))?;

    let client = Client::new(run::reachable(server.address), demo.test_key.expose_secret());
    first_message(&client, out).await?;
    farewell(config, around, server, &demo, out)?;
    Ok(())
}

/// Sends an SMS with the test key and shows its timeline as it grows.
async fn first_message(client: &Client, out: Output) -> anyhow::Result<()> {
    let sent = client.post("/v1/messages", &json!({ "channel": "sms", "to": RECIPIENT, "body": "Hello from Raven" })).await?;
    let id = sent["id"].as_str().context("the answer to the first message has no id")?.to_owned();
    out.line(format!("\nFirst message: an SMS to {RECIPIENT}, to the built-in sandbox ({id})"))?;

    let watched = async {
        let (mut shown, mut begin) = (0, None);
        loop {
            let message = client.get(&format!("/v1/messages/{id}")).await?;
            let events = message["events"].as_array().map(Vec::as_slice).unwrap_or_default();
            for event in events.iter().skip(shown) {
                let at = event["occurredAt"].as_str().and_then(Timestamp::parse).context("an event has no time")?;
                let offset = at.since(*begin.get_or_insert(at)).as_millis();
                let kind = event["eventType"].as_str().unwrap_or("?");
                let kind = if kind == "delivered" { out.green(kind) } else { kind.to_owned() };
                out.line(format!("  {}  {kind}", out.dim(&format!("+{offset:>4} ms"))))?;
            }
            shown = events.len().max(shown);
            match message["status"].as_str() {
                Some("delivered") => return Ok(()),
                Some("queued" | "sending" | "sent") => {}
                other => bail!(
                    "the first message ended as {}: {}",
                    other.unwrap_or("nothing"),
                    message["failureReason"].as_str().unwrap_or("no reason is known")
                ),
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(PATIENCE, watched)
        .await
        .unwrap_or_else(|_| bail!("the first message was not delivered within {} s: see the log above", PATIENCE.as_secs()))
}

fn farewell(config: &Config, around: &Around, server: &Server, demo: &Demo, out: Output) -> std::io::Result<()> {
    let url = &server.public_url;
    let data_dir = match config.data_dir.to_str() {
        Some("./raven-data") => String::new(),
        _ => format!(" --data-dir {}", quoted(&config.data_dir.to_string_lossy())),
    };
    let body: Value = json!({ "channel": "sms", "to": RECIPIENT, "body": "Hello again" });
    out.line("\nSend your own:")?;
    out.line(format!(
        "  curl {url}/v1/messages \\\n    -H 'X-Raven-Key: {}' \\\n    -H 'Content-Type: application/json' \\\n    -d '{body}'",
        demo.test_key.expose_secret()
    ))?;
    out.line(format!("\nThe API's description (OpenAPI 3.1): {url}/v1/openapi.json"))?;
    out.line(format!("A bearer token for /v1/admin, as {}:", crate::cli::token::DEMO_EMAIL))?;
    out.line(format!("  {} token{data_dir}", quoted(&around.program)))?;
    out.line(format!("  curl {url}/v1/admin/me -H \"Authorization: Bearer $({} token{data_dir})\"", quoted(&around.program)))?;
    out.line("\nCtrl-C stops the server.")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+=:@".contains(&b));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Generates the secrets that nobody gave, and keeps them. Tells whether it did.
async fn complete_secrets(config: &mut Config, store: &dyn Store) -> anyhow::Result<bool> {
    if config.jwt_secret.is_some() && config.master_key.is_some() {
        return Ok(false);
    }
    let path = config.secrets_file();
    let mut kept: toml::Table = match std::fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map_err(|_| anyhow::anyhow!("{} is no TOML", path.display()))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => toml::Table::new(),
        Err(e) => return Err(e).with_context(|| format!("{} can't be read", path.display())),
    };
    if config.master_key.is_none() {
        if store.find_secret("id-tag").await?.is_some() {
            bail!("the database was used with a master key that is not in {}: give it as RAVEN_MASTER_KEY", path.display());
        }
        let text = STANDARD.encode(files::random::<32>(&OsEntropy)?);
        config.master_key = Some(parse::master_key(&text).map_err(anyhow::Error::msg)?);
        kept.insert(settings::MASTER_KEY.key.to_owned(), text.into());
    }
    if config.jwt_secret.is_none() {
        let text = files::hex(&files::random::<32>(&OsEntropy)?);
        config.jwt_secret = Some(parse::jwt_secret(&text).map_err(anyhow::Error::msg)?);
        kept.insert(settings::JWT_SECRET.key.to_owned(), text.into());
    }
    let mut text = String::from("# Generated by raven quickstart. Who has these reads and signs everything: keep them, show nobody.\n");
    for (key, value) in &kept {
        // Generated values are hexadecimal and base64; what else stands here was read as TOML and holds no quotes either.
        let value = value
            .as_str()
            .filter(|v| !v.contains(['"', '\\', '\n']))
            .with_context(|| format!("{key} in {} can't be kept", path.display()))?;
        text.push_str(&format!("{key} = \"{value}\"\n"));
    }
    files::write_private(&path, &text)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell_where_needed() {
        assert_eq!(quoted("./target/release/raven"), "./target/release/raven");
        assert_eq!(quoted("/tmp/my data"), "'/tmp/my data'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
