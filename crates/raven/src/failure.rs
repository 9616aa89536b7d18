//! How a command ends when it does not end well.

use std::process::ExitCode;

use crate::config::Mistakes;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The settings are wrong: exit code 2, as for a wrong command line.
    Settings(Mistakes),
    /// An argument is wrong: exit code 2.
    Usage(String),
    /// Something failed: exit code 1.
    Failed(anyhow::Error),
    /// It was told already: exit code 1.
    Told,
}

impl Failure {
    /// What to say on standard error; nothing if that was done.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::Settings(mistakes) => Some(mistakes.to_string()),
            Self::Usage(text) => Some(text.clone()),
            // With all causes, in one line.
            Self::Failed(error) => Some(format!("{error:#}")),
            Self::Told => None,
        }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Settings(_) | Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) | Self::Told => ExitCode::FAILURE,
        }
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::Settings(mistakes)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<raven_store::Error> for Failure {
    fn from(error: raven_store::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}
