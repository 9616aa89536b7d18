//! The table of settings: everything that an operator can decide, as data. Names of variables, flags and keys in
//! `raven.toml` follow from it, and so do `--help` and `docs/configuration.md`.

use raven_providers::Provider;

/// One setting. `public_url` is `RAVEN_PUBLIC_URL` in the environment, `--public-url` as a flag, `public_url` in `raven.toml`.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Its key in `raven.toml`.
    pub(crate) key: &'static str,
    /// Which commands take it as a flag.
    pub(crate) flag: Flag,
    /// Its value is never shown.
    pub(crate) secret: bool,
    /// What kind of value it takes, as `--help` shows it.
    pub(crate) form: &'static str,
    /// The value when nobody sets it, in words where it has no fixed one.
    pub(crate) fallback: Fallback,
    /// What it does.
    pub(crate) doc: &'static str,
}

/// Where a setting can be given as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    /// Every command that reaches the data.
    All,
    /// `serve` and `quickstart`.
    Server,
    /// Nowhere: a command line can be read by every user of the machine.
    Never,
}

/// The value when nobody sets it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fallback {
    /// This one.
    Value(&'static str),
    /// One that depends, told in words.
    Words(&'static str),
}

impl Setting {
    /// The environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.key.to_ascii_uppercase())
    }

    /// The flag, without its dashes.
    pub(crate) fn flag_name(&self) -> String {
        self.key.replace('_', "-")
    }
}

/// Every variable of ours begins so.
pub(crate) const PREFIX: &str = "RAVEN_";

/// Variables that begin like ours and are none: clusters inject them for a service that is called `raven`, tests have their own.
pub(crate) const FOREIGN: &[&str] = &["RAVEN_PORT", "RAVEN_SERVICE_", "RAVEN_TEST_"];

/// The table in `raven.toml` that holds base URLs of providers by id.
pub(crate) const BASE_URLS: &str = "provider_base_url";

/// Providers whose base URL can be replaced.
pub(crate) fn with_base_url() -> impl Iterator<Item = &'static Provider> {
    raven_providers::CATALOG.iter().filter(|provider| provider.has_base_url)
}

/// The variable that replaces a provider's base URL.
pub(crate) fn base_url_variable(provider: &str) -> String {
    format!("{PREFIX}PROVIDER_{}_BASE_URL", provider.to_ascii_uppercase())
}

const fn setting(key: &'static str, flag: Flag, form: &'static str, fallback: Fallback, doc: &'static str) -> Setting {
    Setting { key, flag, secret: false, form, fallback, doc }
}

const fn secret(key: &'static str, flag: Flag, form: &'static str, fallback: Fallback, doc: &'static str) -> Setting {
    Setting { key, flag, secret: true, form, fallback, doc }
}

pub(crate) const CONFIG: Setting = setting(
    "config",
    Flag::All,
    "PATH",
    Fallback::Words("raven.toml in the working directory, if it is there"),
    "The file that settings are read from. It can't be set in the file itself.",
);
pub(crate) const LISTEN: Setting = setting(
    "listen",
    Flag::Server,
    "HOST:PORT",
    Fallback::Value("127.0.0.1:8080"),
    "Where the API listens. Port 0 takes a free one. A process that only works (`only = \"worker\"`) answers nothing but health and metrics there.",
);
pub(crate) const DATA_DIR: Setting = setting(
    "data_dir",
    Flag::All,
    "PATH",
    Fallback::Value("./raven-data"),
    "The directory for the embedded database, the node's id and what quickstart generates. It is made with mode 0700.",
);
pub(crate) const DATABASE_URL: Setting = secret(
    "database_url",
    Flag::All,
    "URL",
    Fallback::Words("the embedded SQLite in the data directory"),
    "The PostgreSQL to use, as postgres://user:password@host:5432/database. It may lead through a transaction pooler.",
);
pub(crate) const DATABASE_DIRECT_URL: Setting = secret(
    "database_direct_url",
    Flag::All,
    "URL",
    Fallback::Words("the same as the database URL"),
    "The same PostgreSQL without the pooler between: for migrations and notifications.",
);
pub(crate) const JWT_SECRET: Setting = secret(
    "jwt_secret",
    Flag::Never,
    "TEXT",
    Fallback::Words("none; serve requires it, quickstart generates it"),
    "The secret shared with single sign-on that signs bearer tokens (HS256): at least 32 bytes.",
);
pub(crate) const JWT_ISSUER: Setting = setting(
    "jwt_issuer",
    Flag::Server,
    "TEXT",
    Fallback::Words("not checked"),
    "The issuer (`iss`) that bearer tokens with the shared secret must name.",
);
pub(crate) const JWT_AUDIENCE: Setting = setting(
    "jwt_audience",
    Flag::Server,
    "TEXT",
    Fallback::Words("not checked"),
    "The audience (`aud`) that bearer tokens with the shared secret must name.",
);
pub(crate) const OIDC_ISSUER: Setting = setting(
    "oidc_issuer",
    Flag::Server,
    "URL",
    Fallback::Words("none"),
    "An OpenID Connect issuer whose bearer tokens (RS256, ES256, EdDSA) are taken, too, exactly as they carry it in `iss`. Plain http only on this machine or at a private address.",
);
pub(crate) const OIDC_AUDIENCE: Setting = setting(
    "oidc_audience",
    Flag::Server,
    "TEXT",
    Fallback::Words("none; required with an OIDC issuer"),
    "The audience (`aud`) that the OIDC issuer's tokens must name: one for another app is refused.",
);
pub(crate) const OIDC_JWKS_URL: Setting = setting(
    "oidc_jwks_url",
    Flag::Server,
    "URL",
    Fallback::Words("what the issuer's discovery document says"),
    "Where the OIDC issuer's public keys are.",
);
pub(crate) const MASTER_KEY: Setting = secret(
    "master_key",
    Flag::Never,
    "BASE64",
    Fallback::Words("none; serve requires it, quickstart generates it"),
    "The key that wraps all other keys: 32 bytes in base64. Who loses it loses the tenants' provider credentials.",
);
pub(crate) const NODE_ID: Setting = setting(
    "node_id",
    Flag::Server,
    "TEXT",
    Fallback::Words("the one in the data directory, made at the first start"),
    "This process's name among the nodes: 1 to 64 letters, digits, '-', '_' and '.'. No two running processes may share one.",
);
pub(crate) const PUBLIC_URL: Setting = setting(
    "public_url",
    Flag::Server,
    "URL",
    Fallback::Words("http:// and the address it listens on"),
    "Where the world reaches this installation: stands in webhook URLs and links.",
);
pub(crate) const ENVIRONMENT: Setting =
    setting("environment", Flag::Server, "NAME", Fallback::Value("production"), "What this installation is: `production` or `staging`.");
pub(crate) const ONLY: Setting = setting(
    "only",
    Flag::Server,
    "ROLE",
    Fallback::Words("both"),
    "Do only one half of the work in this process: `api` takes requests, `worker` calls providers.",
);
pub(crate) const ALLOW_PRIVATE_NETWORKS: Setting = setting(
    "allow_private_networks",
    Flag::Server,
    "BOOL",
    Fallback::Words("false; true for quickstart"),
    "May hosts and URLs that tenants set lead to private networks and to this machine?",
);
pub(crate) const LOG: Setting = setting(
    "log",
    Flag::Server,
    "FILTER",
    Fallback::Words("info; warn for quickstart"),
    "What is logged: a level (error, warn, info, debug, trace), or a list such as `info,raven_engine=debug`.",
);
pub(crate) const LOG_FORMAT: Setting =
    setting("log_format", Flag::Server, "FORMAT", Fallback::Value("text"), "How log lines look on standard error: `text` or `json`.");
pub(crate) const METRICS_LISTEN: Setting = setting(
    "metrics_listen",
    Flag::Server,
    "HOST:PORT",
    Fallback::Words("none"),
    "A listener of its own for metrics and health, which asks for no token: keep it off the internet.",
);
pub(crate) const METRICS_TOKEN: Setting = secret(
    "metrics_token",
    Flag::Never,
    "TEXT",
    Fallback::Words("none: no metrics on the API's listener"),
    "Opens /metrics on the API's own listener, sent as a bearer token: at least 16 characters.",
);
pub(crate) const EXTRA_CA_FILE: Setting = setting(
    "extra_ca_file",
    Flag::Server,
    "PATH",
    Fallback::Words("none"),
    "Certificate authorities (PEM) that are trusted beside the public ones when providers and the OIDC issuer are called.",
);
pub(crate) const HELLO_NAME: Setting = setting(
    "hello_name",
    Flag::Server,
    "HOST",
    Fallback::Words("the host of the public URL"),
    "The name that mail servers are greeted with (EHLO).",
);

pub(crate) const IDEMPOTENCY_DAYS: Setting = setting(
    "idempotency_days",
    Flag::Server,
    "DAYS",
    Fallback::Value("30"),
    "How long an idempotency key is kept: 1 to 3650 days. A request that comes again within that time is answered as the first was.",
);

pub(crate) const DEFAULT_PLAN: Setting = setting(
    "default_plan",
    Flag::Server,
    "NAME",
    Fallback::Value("free"),
    "The plan that new tenants get: `free` (shown as Hatchling), `unlimited`, or one of the tables `[plans.NAME]` in `raven.toml`.",
);
pub(crate) const TRUSTED_PROXIES: Setting = setting(
    "trusted_proxies",
    Flag::Server,
    "NUMBER",
    Fallback::Value("0"),
    "Reverse proxies in front of this process that each add the caller's address to `X-Forwarded-For`: 0 to 16. The audit log and the limit on wrong credentials go by the address that the outermost of them saw.",
);
pub(crate) const STOP_KEYWORDS: Setting = setting(
    "stop_keywords",
    Flag::Server,
    "WORDS",
    Fallback::Words("none beside STOP and its like in several languages"),
    "Further words, with commas between them, that alone in an inbound message mean that its sender wants no more messages.",
);
pub(crate) const START_KEYWORDS: Setting = setting(
    "start_keywords",
    Flag::Server,
    "WORDS",
    Fallback::Words("none beside START and its like"),
    "Further words, with commas between them, that alone in an inbound message mean that its sender wants messages again.",
);
pub(crate) const SOFT_BOUNCES: Setting = setting(
    "soft_bounces",
    Flag::Server,
    "NUMBER",
    Fallback::Value("5"),
    "Soft bounces without a delivery after which an address is suppressed: 0 (never) to 1000.",
);
pub(crate) const SOFT_BOUNCE_DAYS: Setting =
    setting("soft_bounce_days", Flag::Server, "DAYS", Fallback::Value("30"), "Days within which soft bounces count: 1 to 30.");

/// All of them, in the order in which they are shown.
pub(crate) const ALL: &[&Setting] = &[
    &CONFIG,
    &LISTEN,
    &DATA_DIR,
    &DATABASE_URL,
    &DATABASE_DIRECT_URL,
    &JWT_SECRET,
    &JWT_ISSUER,
    &JWT_AUDIENCE,
    &OIDC_ISSUER,
    &OIDC_AUDIENCE,
    &OIDC_JWKS_URL,
    &MASTER_KEY,
    &NODE_ID,
    &PUBLIC_URL,
    &ENVIRONMENT,
    &ONLY,
    &ALLOW_PRIVATE_NETWORKS,
    &LOG,
    &LOG_FORMAT,
    &METRICS_LISTEN,
    &METRICS_TOKEN,
    &EXTRA_CA_FILE,
    &HELLO_NAME,
    &IDEMPOTENCY_DAYS,
    &DEFAULT_PLAN,
    &TRUSTED_PROXIES,
    &STOP_KEYWORDS,
    &START_KEYWORDS,
    &SOFT_BOUNCES,
    &SOFT_BOUNCE_DAYS,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_their_names_follow() {
        let mut keys: Vec<_> = ALL.iter().map(|s| s.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), ALL.len());
        assert_eq!((PUBLIC_URL.variable().as_str(), PUBLIC_URL.flag_name().as_str()), ("RAVEN_PUBLIC_URL", "public-url"));
        assert_eq!(base_url_variable("africas_talking"), "RAVEN_PROVIDER_AFRICAS_TALKING_BASE_URL");
    }

    #[test]
    fn only_urls_are_both_secret_and_flags() {
        let shown: Vec<_> = ALL.iter().filter(|s| s.secret && s.flag != Flag::Never).map(|s| s.key).collect();
        assert_eq!(shown, ["database_url", "database_direct_url"]);
    }

    #[test]
    fn no_variable_of_ours_looks_foreign() {
        for setting in ALL {
            assert!(!FOREIGN.iter().any(|prefix| setting.variable().starts_with(prefix)), "{}", setting.key);
        }
    }
}
