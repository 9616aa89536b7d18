//! `raven docs`: documents of the repository that are made from tables in the code.

/// Print a generated document of the repository.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which one
    #[arg(value_enum)]
    document: Document,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Document {
    /// docs/configuration.md
    Configuration,
}

impl Arguments {
    /// The document.
    pub(crate) fn text(&self) -> String {
        match self.document {
            Document::Configuration => crate::config::document::markdown(),
        }
    }
}
