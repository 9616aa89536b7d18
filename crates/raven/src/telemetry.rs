//! Logs: one subscriber for the process, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Begins to log. Colours only for humans: `plain` is set when the environment asks for none.
pub(crate) fn start(config: &Config, plain: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&config.log)?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.log_format {
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
        LogFormat::Text => logs.with_ansi(!plain && std::io::stderr().is_terminal()).try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("logging can't be started: {e}"))
}
