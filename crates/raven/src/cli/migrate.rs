//! `raven migrate`: brings the schema up to date.

use anyhow::Context;
use raven_core::Clock;
use raven_engine::SystemClock;

use crate::{
    cli::Around,
    config::{self, Flags},
    failure::Failure,
    run,
};

/// Bring the database's schema up to date.
///
/// One process at a time does it, others wait; servers of the version before go on working. Does nothing when the schema is
/// current. Needs no secrets.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: Flags<false>,
}

pub(crate) async fn run(arguments: Arguments, around: Around) -> Result<(), Failure> {
    let config = around.config(config::OPERATOR, &arguments.settings)?;
    let store = run::connect(&config).await?;
    let before = store.migrations().await.context("the state of the schema can't be read")?;
    let after = store.migrate(SystemClock.now()).await.context("the database can't be migrated")?;
    store.close().await;
    let told = match after.applied - before.applied {
        0 => format!("The database is up to date (step {}).", after.applied),
        _ => format!("The database was migrated from step {} to step {}.", before.applied, after.applied),
    };
    Ok(around.output.line(told)?)
}
