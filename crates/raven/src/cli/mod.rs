//! The command line: what commands there are. Each has a file of its own.

use clap::{Parser, Subcommand};

use crate::{
    config::{Config, Environment, Flags, Profile},
    failure::Failure,
    output::Output,
};

mod callbacks;
mod docs;
mod doctor;
mod keys;
mod migrate;
mod quickstart;
mod serve;
mod span;
mod tenants;
mod token;

/// A self-hosted, multi-tenant messaging platform: SMS, email, push and WhatsApp through your own providers.
#[derive(Debug, Parser)]
#[command(
    name = "raven",
    version,
    disable_help_subcommand = true,
    after_help = "Begin with `raven quickstart`. Every setting is described by `raven serve --help`."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

// What a command does is said by its own arguments: a line here would stand in its place.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Quickstart(quickstart::Arguments),
    Serve(serve::Arguments),
    Migrate(migrate::Arguments),
    Doctor(doctor::Arguments),
    Token(token::Arguments),
    Keys(keys::Arguments),
    Tenants(tenants::Arguments),
    Callbacks(callbacks::Arguments),
    /// Print the OpenAPI 3.1 document.
    Openapi,
    /// Print a generated document of the repository.
    #[command(hide = true)]
    Docs(docs::Arguments),
}

/// What surrounds a command.
#[derive(Debug)]
pub(crate) struct Around {
    pub(crate) environment: Environment,
    /// No colours are wanted.
    pub(crate) plain: bool,
    /// How the program was called.
    pub(crate) program: String,
    pub(crate) output: Output,
}

impl Around {
    /// The settings for a command, and its logs begun.
    fn config<const SERVER: bool>(&self, profile: Profile, flags: &Flags<SERVER>) -> Result<Config, Failure> {
        let config = Config::load(profile, flags.given(), self.environment.clone())?;
        crate::telemetry::start(&config, self.plain)?;
        Ok(config)
    }
}

/// Does what a command says.
///
/// # Errors
/// [`Failure`], which carries the exit code.
pub(crate) fn run(command: Command, around: Around) -> Result<(), Failure> {
    match command {
        Command::Openapi => Ok(around.output.line(raven_http::openapi())?),
        Command::Docs(arguments) => Ok(around.output.line(arguments.text().trim_end())?),
        Command::Quickstart(arguments) => block_on(quickstart::run(arguments, around)),
        Command::Serve(arguments) => block_on(serve::run(arguments, around)),
        Command::Migrate(arguments) => block_on(migrate::run(arguments, around)),
        Command::Doctor(arguments) => block_on(doctor::run(arguments, around)),
        Command::Token(arguments) => token::run(arguments, around),
        Command::Keys(arguments) => block_on(keys::run(arguments, around)),
        Command::Tenants(arguments) => block_on(tenants::run(arguments, around)),
        Command::Callbacks(arguments) => block_on(callbacks::run(arguments, around)),
    }
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // What is left by then (a blocked file system, say) must not hold the exit back.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}
