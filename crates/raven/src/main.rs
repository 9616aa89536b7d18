//! The `raven` binary.
//!
//! What lives here: settings ([`config`]), commands ([`cli`]), the data directory ([`files`]), and the one place that
//! puts everything together ([`run`]). What must not: rules of messaging, SQL, the API. This crate alone reads the
//! environment, here, and passes it on as a value.

use std::{io::Write, process::ExitCode};

use clap::Parser;

mod cli;
mod config;
mod failure;
mod files;
mod operator;
mod output;
mod run;
mod telemetry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(clippy::disallowed_methods, reason = "this is where the environment enters")]
fn main() -> ExitCode {
    let environment: config::Environment = std::env::vars_os().collect();
    let plain = environment.iter().any(|(name, value)| name == "NO_COLOR" && !value.is_empty());
    let program = std::env::args_os().next().map_or_else(|| "raven".to_owned(), |name| name.to_string_lossy().into_owned());
    let arguments = cli::Cli::parse();
    let around = cli::Around { environment, plain, program, output: output::Output::new(plain) };
    match cli::run(arguments.command, around) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                // Nobody to tell it to is no reason for another exit code.
                let _ = writeln!(std::io::stderr(), "raven: {message}");
            }
            failure.code()
        }
    }
}
