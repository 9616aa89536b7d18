//! `raven callbacks`: what providers told, for operators.

use raven_core::{Clock, ConfigId, Timestamp};
use raven_engine::SystemClock;
use raven_store::Replay;
use serde_json::json;

use crate::{
    cli::Around,
    config::{self, Flags},
    failure::Failure,
    operator,
};

/// Callbacks in one transaction.
const PORTION: usize = 500;

/// Have stored callbacks of providers read again. Works while a server runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Have callbacks read again that could not be read, or that named messages which were not known: after an update that reads
    /// them, say. They are kept for 30 days. A running server takes them up within a second; what counts already is not counted
    /// again.
    Replay(ReplayArguments),
}

#[derive(Debug, clap::Args)]
struct ReplayArguments {
    /// Only of this tenant
    #[arg(long, value_name = "SLUG")]
    tenant: Option<String>,
    /// Only of this provider config
    #[arg(long, value_name = "ID", value_parser = config_id)]
    provider_config: Option<ConfigId>,
    /// Only those that came at this time or later (2026-05-01T10:23:18Z)
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// Also those that were read and counted
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Flags<false>,
}

fn config_id(text: &str) -> Result<ConfigId, String> {
    ConfigId::parse(text).ok_or_else(|| "must be the id of a provider config".to_owned())
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "must be a time such as 2026-05-01T10:23:18Z".to_owned())
}

pub(crate) async fn run(arguments: Arguments, around: Around) -> Result<(), Failure> {
    let Command::Replay(arguments) = arguments.command;
    let config = around.config(config::OPERATOR, &arguments.settings)?;
    let store = operator::open(&config).await?;
    let tenant = match &arguments.tenant {
        Some(slug) => Some(operator::tenant(&*store, slug).await?.id),
        None => None,
    };
    let which = Replay { tenant, config: arguments.provider_config, all: arguments.all, from: arguments.from };
    let (mut after, mut replayed) = (None, 0);
    loop {
        let (last, found) = store.replay_callbacks(&which, after, PORTION, SystemClock.now()).await?;
        replayed += found;
        if last.is_none() {
            break;
        }
        after = last;
    }
    store.close().await;
    if arguments.json {
        return Ok(around.output.json(&json!({ "replayed": replayed }))?);
    }
    Ok(around.output.line(match replayed {
        0 => "There was no such callback.".to_owned(),
        1 => "1 callback is read again.".to_owned(),
        n => format!("{n} callbacks are read again."),
    })?)
}
