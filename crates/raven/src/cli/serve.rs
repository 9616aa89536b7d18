//! `raven serve`: a server.

use crate::{
    cli::Around,
    config::{self, Flags, settings},
    failure::Failure,
    files,
    run::{self, Outdated, Signals},
};

/// Run a server: API and workers in one process.
///
/// Requires RAVEN_JWT_SECRET and RAVEN_MASTER_KEY. With the embedded database one server at a time may use a data
/// directory, and migrates it; any number may share a PostgreSQL, which `raven migrate` prepares. SIGTERM and SIGINT stop
/// it in order within 30 seconds, a second one at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Bring the schema of a PostgreSQL up to date before serving
    #[arg(long)]
    migrate: bool,
    #[command(flatten)]
    settings: Flags<true>,
}

pub(crate) async fn run(arguments: Arguments, around: Around) -> Result<(), Failure> {
    let config = around.config(config::SERVE, &arguments.settings)?;
    let mut signals = Signals::listen()?;
    let _lock = if config.is_embedded() {
        files::make_data_dir(&config.data_dir)?;
        Some(files::lock_data_dir(&config.data_dir)?)
    } else {
        None
    };
    let listener = run::bind(&config.listen, &settings::LISTEN).await?;
    let outdated = if arguments.migrate { Outdated::Migrate } else { Outdated::Refuse };
    let store = run::open_store(&config, outdated).await?;
    let server = run::start(&config, store, listener).await?;
    signals.next().await;
    signals.impatiently(server.stop()).await;
    Ok(())
}
