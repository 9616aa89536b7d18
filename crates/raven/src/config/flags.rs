//! Settings as flags of the command line, made from the table.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::settings::{self, Fallback, Flag, Setting};

/// What was given as flags, by the setting's key. With `SERVER`, the settings of a server are taken as well.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags<const SERVER: bool>(BTreeMap<&'static str, String>);

impl<const SERVER: bool> Flags<SERVER> {
    /// What was given.
    pub(crate) fn given(&self) -> &BTreeMap<&'static str, String> {
        &self.0
    }

    fn settings() -> impl Iterator<Item = &'static Setting> {
        settings::ALL.iter().copied().filter(|s| s.flag == Flag::All || (SERVER && s.flag == Flag::Server))
    }
}

impl<const SERVER: bool> Args for Flags<SERVER> {
    fn augment_args(command: Command) -> Command {
        let command = Self::settings().fold(command, |command, setting| command.arg(argument(setting)));
        let variables: Vec<String> = settings::ALL
            .iter()
            .filter(|s| s.flag == Flag::Never && (SERVER || s.key != settings::METRICS_TOKEN.key))
            .map(|s| format!("  {}\n      {}", s.variable(), s.doc))
            .collect();
        command.after_help(format!(
            "Flags go over RAVEN_* environment variables, those over raven.toml, that over defaults.\n\nSettings that are no flags, because a command line can be read by others:\n{}",
            variables.join("\n")
        ))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const SERVER: bool> FromArgMatches for Flags<SERVER> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = Self::settings().filter_map(|s| matches.get_one::<String>(s.key).map(|text| (s.key, text.clone())));
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn argument(setting: &'static Setting) -> Arg {
    let fallback = match setting.fallback {
        Fallback::Value(text) | Fallback::Words(text) => text,
    };
    let help = format!("{} [variable: {}] [default: {fallback}]", setting.doc.trim_end_matches('.'), setting.variable());
    let argument = Arg::new(setting.key).long(setting.flag_name()).value_name(setting.form).help(help).help_heading("Settings");
    if setting.form == "BOOL" { argument.num_args(0..=1).require_equals(true).default_missing_value("true") } else { argument }
}
