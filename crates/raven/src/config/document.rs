//! `docs/configuration.md`, made from the table of settings.

use super::{
    plans::{KEYS, PLANS},
    settings::{self, BASE_URLS, FOREIGN, Fallback, Flag, PREFIX},
};

/// The whole document.
pub(crate) fn markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    for setting in settings::ALL {
        let flag = match setting.flag {
            Flag::All => format!("`--{}` on every command that reaches the data", setting.flag_name()),
            Flag::Server => format!("`--{}` on `serve` and `quickstart`", setting.flag_name()),
            Flag::Never => "none: a command line can be read by other users of the machine".to_owned(),
        };
        let key = if setting.key == settings::CONFIG.key { "none".to_owned() } else { format!("`{}`", setting.key) };
        let fallback = match setting.fallback {
            Fallback::Value(text) => format!("`{text}`"),
            Fallback::Words(text) => text.to_owned(),
        };
        let secret = if setting.secret { " Secret: never shown or logged." } else { "" };
        out.push_str(&format!(
            "\n### `{}`\n\n{}{secret}\n\n- Takes: {}\n- Default: {fallback}\n- Flag: {flag}\n- In `raven.toml`: {key}\n",
            setting.variable(),
            setting.doc,
            setting.form,
        ));
    }
    out.push_str(&format!(
        "\n### `{PREFIX}PROVIDER_<ID>_BASE_URL`\n\nReplaces the documented base URL of a provider, version path included: for provider sandboxes and tests. In `raven.toml` it is the table `[{BASE_URLS}]`, by the provider's id.\n\n"
    ));
    for provider in settings::with_base_url() {
        out.push_str(&format!("- `{}` ({})\n", settings::base_url_variable(provider.spec.id), provider.spec.name));
    }
    out.push_str(&format!(
        "\n## Plans\n\nA plan says what a tenant may do in a minute and in a day. Two are built in: `free` (shown as Hatchling: 10,000 live messages a day, 60 requests a minute to the admin endpoints, 1,000 with each API key) and `unlimited`. Your own are tables `[{PLANS}.NAME]` in `raven.toml`, the same on every node; one that is called like a built-in plan replaces it. `raven tenants set-plan` puts a tenant on a plan.\n\n| key | takes | |\n|---|---|---|\n"
    ));
    for (key, form, doc) in KEYS {
        out.push_str(&format!("| `{key}` | {form} | {doc} |\n"));
    }
    let foreign: Vec<String> = FOREIGN.iter().map(|p| format!("`{p}*`")).collect();
    out.push_str(&format!(
        "\n## Unknown variables\n\nA variable that begins with `{PREFIX}` and is not listed here stops the start. Passed over are {}: clusters inject the first two for a service that is called `raven`, the third is for tests.\n",
        foreign.join(", ")
    ));
    out
}

const INTRODUCTION: &str = "# Configuration

<!-- Made by `raven docs configuration` from the table in crates/raven/src/config/settings.rs. Change it there. -->

A value is looked for in flags, then in environment variables, then in `raven.toml` (in the working directory, or where `--config` points), then in
what follows as default. An empty variable counts as unset. All mistakes are told at once, and a start with one exits with code 2. Relative paths begin at the working directory.

`raven quickstart` generates `RAVEN_JWT_SECRET` and `RAVEN_MASTER_KEY` where they are missing and keeps them in `secrets.toml` (mode 0600) in the data
directory. Operator commands read that file too; `raven serve` does not: what it needs must be given.

## Settings
";
