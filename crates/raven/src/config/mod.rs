//! Settings as one value: read from all sources, checked at once.
//!
//! What lives here: the table of settings ([`settings`]), where values come from ([`sources`], [`flags`]), how they are
//! read ([`parse`]), the document made of the table ([`document`]). What must not: anything that acts on them.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use raven_core::keyword::Keywords;
use raven_engine::{
    callbacks::SoftBounces,
    calls::BaseUrls,
    oidc::IssuerOptions,
    plans::{self as engine_plans, Plans},
    transport::ExtraRoots,
    vault::SecretKey,
};
use raven_store::Location;
use secrecy::{ExposeSecret, SecretString};

pub(crate) mod document;
pub(crate) mod flags;
pub(crate) mod parse;
pub(crate) mod plans;
pub(crate) mod settings;
pub(crate) mod sources;

pub(crate) use flags::Flags;
use parse::Reason;
use settings::{Fallback, Setting};
pub(crate) use sources::Environment;
use sources::Sources;

/// What a command wants of the settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    /// Settings that must be given.
    pub(crate) needs: &'static [&'static Setting],
    /// Are secrets that quickstart generated good enough?
    pub(crate) generated: bool,
    /// Are the fallbacks those of quickstart?
    pub(crate) quickstart: bool,
}

/// `serve`: secrets must be given.
pub(crate) const SERVE: Profile = Profile { needs: &[&settings::JWT_SECRET, &settings::MASTER_KEY], generated: false, quickstart: false };
/// `quickstart`: what is missing is generated.
pub(crate) const QUICKSTART: Profile = Profile { needs: &[], generated: true, quickstart: true };
/// Commands that only reach the data.
pub(crate) const OPERATOR: Profile = Profile { needs: &[], generated: true, quickstart: false };
/// Commands that make or open secrets in the data.
pub(crate) const KEEPER: Profile = Profile { needs: &[&settings::MASTER_KEY], generated: true, quickstart: false };
/// Commands that sign tokens.
pub(crate) const SIGNER: Profile = Profile { needs: &[&settings::JWT_SECRET], generated: true, quickstart: false };

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Which half of the work a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Api,
    Worker,
}

/// All settings. Its `Debug` shows no secret.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) listen: String,
    pub(crate) data_dir: PathBuf,
    database_url: Option<SecretString>,
    database_direct_url: Option<SecretString>,
    pub(crate) jwt_secret: Option<SecretString>,
    pub(crate) jwt_issuer: Option<String>,
    pub(crate) jwt_audience: Option<String>,
    pub(crate) oidc: Option<IssuerOptions>,
    pub(crate) master_key: Option<SecretKey>,
    pub(crate) node_id: Option<String>,
    pub(crate) public_url: Option<String>,
    pub(crate) environment: &'static str,
    pub(crate) only: Option<Role>,
    pub(crate) allow_private_networks: bool,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) metrics_listen: Option<String>,
    pub(crate) metrics_token: Option<SecretString>,
    pub(crate) extra_roots: ExtraRoots,
    pub(crate) hello_name: Option<String>,
    pub(crate) idempotency_kept: std::time::Duration,
    pub(crate) base_urls: BaseUrls,
    pub(crate) plans: Plans,
    pub(crate) trusted_proxies: usize,
    pub(crate) keywords: Keywords,
    pub(crate) soft_bounces: SoftBounces,
    /// The file of settings, if secrets stand in it.
    pub(crate) secret_file: Option<PathBuf>,
}

impl Config {
    /// Reads all settings.
    ///
    /// # Errors
    /// Every mistake that was found.
    pub(crate) fn load(profile: Profile, flags: &BTreeMap<&'static str, String>, environment: Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader { sources: Sources::collect(flags, environment), profile };
        let data_dir = PathBuf::from(reader.with_fallback(&settings::DATA_DIR, |text| Ok(text.to_owned())));
        if profile.generated {
            reader.sources.generated(&data_dir);
        }
        let usual_log = if profile.quickstart { "warn" } else { "info" };
        let config = Self {
            listen: reader.with_fallback(&settings::LISTEN, parse::listen),
            database_url: reader.read(&settings::DATABASE_URL, parse::database_url),
            database_direct_url: reader.read(&settings::DATABASE_DIRECT_URL, parse::database_url),
            jwt_secret: reader.read(&settings::JWT_SECRET, parse::jwt_secret),
            jwt_issuer: reader.read(&settings::JWT_ISSUER, text),
            jwt_audience: reader.read(&settings::JWT_AUDIENCE, text),
            oidc: reader.oidc(),
            master_key: reader.read(&settings::MASTER_KEY, parse::master_key),
            node_id: reader.read(&settings::NODE_ID, parse::node_id),
            public_url: reader.read(&settings::PUBLIC_URL, parse::url),
            environment: reader
                .with_fallback(&settings::ENVIRONMENT, parse::one_of(&[("production", "production"), ("staging", "staging")])),
            only: reader.read(&settings::ONLY, parse::one_of(&[("api", Role::Api), ("worker", Role::Worker)])),
            allow_private_networks: reader.read(&settings::ALLOW_PRIVATE_NETWORKS, parse::boolean).unwrap_or(profile.quickstart),
            log: reader.read(&settings::LOG, parse::log_filter).unwrap_or_else(|| usual_log.to_owned()),
            log_format: reader.with_fallback(&settings::LOG_FORMAT, parse::one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)])),
            metrics_listen: reader.read(&settings::METRICS_LISTEN, parse::listen),
            metrics_token: reader.read(&settings::METRICS_TOKEN, parse::metrics_token),
            extra_roots: reader.read(&settings::EXTRA_CA_FILE, extra_roots).unwrap_or_default(),
            hello_name: reader.read(&settings::HELLO_NAME, parse::hello_name),
            idempotency_kept: reader.with_fallback(&settings::IDEMPOTENCY_DAYS, parse::days),
            base_urls: reader.base_urls(),
            plans: reader.plans(),
            keywords: Keywords::with(
                &reader.read(&settings::STOP_KEYWORDS, parse::words).unwrap_or_default(),
                &reader.read(&settings::START_KEYWORDS, parse::words).unwrap_or_default(),
            ),
            soft_bounces: SoftBounces {
                bounces: reader.with_fallback(&settings::SOFT_BOUNCES, parse::number(0, 1000)),
                days: reader.with_fallback(&settings::SOFT_BOUNCE_DAYS, parse::number(1, 30)),
            },
            trusted_proxies: reader.with_fallback(&settings::TRUSTED_PROXIES, parse::proxies),
            secret_file: reader.sources.secret_file.take(),
            data_dir,
        };
        let mut mistakes = reader.sources.mistakes;
        if config.database_direct_url.is_some() && config.database_url.is_none() {
            mistakes.push(useless_without(&settings::DATABASE_DIRECT_URL, &settings::DATABASE_URL));
        }
        if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
    }

    /// Where the data is.
    pub(crate) fn location(&self) -> Location {
        match &self.database_url {
            None => Location::Sqlite(self.sqlite_file()),
            Some(url) => Location::Postgres {
                url: url.expose_secret().to_owned(),
                direct_url: self.database_direct_url.as_ref().map(|direct| direct.expose_secret().to_owned()),
            },
        }
    }

    /// Is the data in the embedded database?
    pub(crate) fn is_embedded(&self) -> bool {
        self.database_url.is_none()
    }

    /// The file of the embedded database.
    pub(crate) fn sqlite_file(&self) -> PathBuf {
        self.data_dir.join("raven.db")
    }

    /// The file that generated secrets are in.
    pub(crate) fn secrets_file(&self) -> PathBuf {
        self.data_dir.join(sources::SECRETS_FILE)
    }
}

/// What is wrong with the settings, all of it.
#[derive(Debug)]
pub(crate) struct Mistakes(pub(crate) Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => writeln!(f, "there is a mistake in the settings:")?,
            n => writeln!(f, "there are {n} mistakes in the settings:")?,
        }
        for mistake in &self.0 {
            writeln!(f, "  {mistake}")?;
        }
        f.write_str("What there is to set: raven serve --help")
    }
}

impl std::error::Error for Mistakes {}

struct Reader {
    sources: Sources,
    profile: Profile,
}

impl Reader {
    fn read<T>(&mut self, setting: &'static Setting, read: impl FnOnce(&str) -> Result<T, Reason>) -> Option<T> {
        let Some(given) = self.sources.take(setting) else {
            if self.profile.needs.iter().any(|s| s.key == setting.key) {
                self.sources.mistakes.push(required(setting));
            }
            return None;
        };
        match read(&given.text) {
            Ok(value) => Some(value),
            Err(reason) if setting.secret => self.refuse(format!("{}: {reason}", given.place)),
            Err(reason) => self.refuse(format!("{}: {reason}, not {:?}", given.place, given.text)),
        }
    }

    /// A setting whose fallback stands in the table. A value that can't be read counts as the fallback until the mistakes are told.
    fn with_fallback<T>(&mut self, setting: &'static Setting, read: impl Fn(&str) -> Result<T, Reason>) -> T {
        let value = self.read(setting, &read);
        let Fallback::Value(fallback) = setting.fallback else { unreachable!("{} has no fixed fallback", setting.key) };
        value.unwrap_or_else(|| read(fallback).expect("the table's own fallbacks are checked by a test"))
    }

    /// The settings of the OIDC issuer, which need each other.
    fn oidc(&mut self) -> Option<IssuerOptions> {
        // One that was given and can't be read is told once, not as missing, too.
        let (mut issuer_given, mut audience_given, mut url_given) = (false, false, false);
        let issuer = self.read(&settings::OIDC_ISSUER, |t| {
            issuer_given = true;
            parse::oidc_issuer(t)
        });
        let audience = self.read(&settings::OIDC_AUDIENCE, |t| {
            audience_given = true;
            text(t)
        });
        let jwks_url = self.read(&settings::OIDC_JWKS_URL, |t| {
            url_given = true;
            parse::oidc_url(t)
        });
        for (setting, given) in [(&settings::OIDC_AUDIENCE, audience_given), (&settings::OIDC_JWKS_URL, url_given)] {
            if given && !issuer_given {
                self.sources.mistakes.push(useless_without(setting, &settings::OIDC_ISSUER));
            }
        }
        if issuer_given && !audience_given {
            let (audience, issuer) = (settings::OIDC_AUDIENCE.variable(), settings::OIDC_ISSUER.variable());
            self.sources.mistakes.push(format!("{audience}: is required with {issuer}: a token for another app must be refused"));
        }
        Some(IssuerOptions { issuer: issuer?, audience: audience?, jwks_url })
    }

    fn plans(&mut self) -> Plans {
        let own = std::mem::take(&mut self.sources.plans);
        let default = self.with_fallback(&settings::DEFAULT_PLAN, text);
        Plans::new(own, &default).unwrap_or_else(|reason| {
            self.sources.mistakes.push(format!("{}: {reason}", settings::DEFAULT_PLAN.variable()));
            Plans::new(Vec::new(), engine_plans::FREE).expect("it is built in")
        })
    }

    fn base_urls(&mut self) -> BaseUrls {
        let given = std::mem::take(&mut self.sources.base_urls);
        let mut urls = BaseUrls::new();
        for (id, given) in given {
            match parse::url(&given.text) {
                Ok(url) => {
                    urls.insert(id.to_owned(), url);
                }
                Err(reason) => self.sources.mistakes.push(format!("{}: {reason}, not {:?}", given.place, given.text)),
            }
        }
        urls
    }

    fn refuse<T>(&mut self, mistake: String) -> Option<T> {
        self.sources.mistakes.push(mistake);
        None
    }
}

fn required(setting: &Setting) -> String {
    let make = if setting.key == settings::MASTER_KEY.key { "openssl rand -base64 32" } else { "openssl rand -hex 32" };
    format!("{}: is required; make one with `{make}`", setting.variable())
}

fn useless_without(setting: &Setting, other: &Setting) -> String {
    format!("{}: has no use without {}", setting.variable(), other.variable())
}

fn text(text: &str) -> Result<String, Reason> {
    Ok(text.to_owned())
}

fn extra_roots(path: &str) -> Result<ExtraRoots, Reason> {
    let pem = std::fs::read(Path::new(path)).map_err(|e| format!("the file can't be read ({e})"))?;
    ExtraRoots::from_pem(&pem).map_err(|e| format!("the file can't be used ({e})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn load(profile: Profile, flags: &[(&'static str, &str)], variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let mut given: BTreeMap<_, _> = flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        given.entry("config").or_insert_with(|| "/dev/null".to_owned());
        let environment = variables.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Config::load(profile, &given, environment).map_err(|m| m.0)
    }

    #[test]
    fn defaults_of_the_table_can_be_used() {
        let config = load(OPERATOR, &[], &[]).unwrap();
        assert_eq!((config.listen.as_str(), config.environment, config.log.as_str()), ("127.0.0.1:8080", "production", "info"));
        assert!(!config.allow_private_networks && config.is_embedded());
        assert_eq!(config.sqlite_file(), Path::new("./raven-data/raven.db"));
        assert!(load(QUICKSTART, &[], &[]).unwrap().allow_private_networks);
    }

    #[test]
    fn flags_go_over_the_environment_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("raven.toml");
        std::fs::write(&file, "listen = \"127.0.0.1:1\"\nlog = \"error\"\nnode_id = \"file\"\nallow_private_networks = true\n[provider_base_url]\ntwilio = \"http://127.0.0.1:9\"\n").unwrap();
        let file = file.to_str().unwrap();
        let config = load(
            OPERATOR,
            &[("listen", "127.0.0.1:3")],
            &[("RAVEN_CONFIG", file), ("RAVEN_LISTEN", "127.0.0.1:2"), ("RAVEN_LOG", "debug")],
        );
        assert!(config.is_ok(), "{config:?}");
        let config =
            load(OPERATOR, &[("config", file), ("listen", "127.0.0.1:3")], &[("RAVEN_LISTEN", "127.0.0.1:2"), ("RAVEN_LOG", "debug")])
                .unwrap();
        assert_eq!((config.listen.as_str(), config.log.as_str(), config.node_id.as_deref()), ("127.0.0.1:3", "debug", Some("file")));
        assert!(config.allow_private_networks);
        assert_eq!(config.base_urls["twilio"], "http://127.0.0.1:9");
    }

    #[test]
    fn all_mistakes_are_told_at_once_without_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("raven.toml");
        std::fs::write(&file, "listn = 1\npublic_url = [1]\nmaster_key = \"hush\"\n").unwrap();
        let mistakes = load(
            SERVE,
            &[("config", file.to_str().unwrap()), ("only", "both")],
            &[
                ("RAVEN_LISTEN", "nowhere"),
                ("RAVEN_JWT_SECRET", "hush"),
                ("RAVEN_DATABASE_URL", "mysql://u:hush@h/d"),
                ("RAVEN_PROVIDER_TWILIO_BASE_URL", "x"),
                ("RAVEN_LGO", "info"),
            ],
        )
        .unwrap_err();
        let all = mistakes.join("\n");
        for part in [
            "RAVEN_LGO: no such setting; did you mean RAVEN_LOG?",
            "listn in ",
            "did you mean listen?",
            "public_url in ",
            "master_key in ",
            "--only: must be api or worker, not \"both\"",
            "RAVEN_LISTEN: must be an address and a port",
            "RAVEN_JWT_SECRET: must have at least 32 bytes and has 4",
            "RAVEN_DATABASE_URL: must be a URL",
            "RAVEN_PROVIDER_TWILIO_BASE_URL: must be a URL",
        ] {
            assert!(all.contains(part), "{part} is missing in\n{all}");
        }
        assert_eq!(mistakes.len(), 9, "{all}");
        assert!(!all.contains("hush"), "{all}");
    }

    #[test]
    fn a_file_that_is_no_toml_is_told_by_its_line_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("raven.toml");
        std::fs::write(&file, "log = \"info\"\nmaster_key = hush\n").unwrap();
        let mistakes = load(OPERATOR, &[("config", file.to_str().unwrap())], &[]).unwrap_err();
        assert_eq!(mistakes, [format!("{} line 2: is no TOML", file.display())]);
        let mistakes = load(OPERATOR, &[("config", "/nowhere/raven.toml")], &[]).unwrap_err();
        assert!(mistakes[0].starts_with("/nowhere/raven.toml (--config): can't be read"), "{mistakes:?}");
    }

    #[test]
    fn serve_names_both_secrets_that_are_missing_and_takes_none_that_was_generated() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secrets.toml"), format!("jwt_secret = \"{SECRET}\"\nmaster_key = \"{KEY}\"\n")).unwrap();
        let data_dir = [("data_dir", dir.path().to_str().unwrap())];
        let mistakes = load(SERVE, &data_dir, &[]).unwrap_err();
        assert_eq!(mistakes.len(), 2);
        assert!(
            mistakes[0].starts_with("RAVEN_JWT_SECRET: is required") && mistakes[1].starts_with("RAVEN_MASTER_KEY: is required"),
            "{mistakes:?}"
        );
        let config = load(KEEPER, &data_dir, &[]).unwrap();
        assert!(config.master_key.is_some() && config.jwt_secret.is_some());
        assert!(load(SIGNER, &data_dir, &[]).is_ok());
    }

    #[test]
    fn a_config_shows_no_secret() {
        let variables = [
            ("RAVEN_JWT_SECRET", "hush-hush-hush-hush-hush-hush-hush"),
            ("RAVEN_MASTER_KEY", KEY),
            ("RAVEN_DATABASE_URL", "postgres://u:hush@h/d"),
            ("RAVEN_METRICS_TOKEN", "hush-hush-hush-hush"),
        ];
        let shown = format!("{:?}", load(SERVE, &[], &variables).unwrap());
        assert!(!shown.contains("hush") && !shown.contains("AAAAAAAA"), "{shown}");
    }

    #[test]
    fn a_direct_url_without_a_database_is_a_mistake() {
        let mistakes = load(OPERATOR, &[], &[("RAVEN_DATABASE_DIRECT_URL", "postgres://h/d")]).unwrap_err();
        assert_eq!(mistakes, ["RAVEN_DATABASE_DIRECT_URL: has no use without RAVEN_DATABASE_URL"]);
    }

    #[test]
    fn an_oidc_issuer_and_an_audience_go_together() {
        let issuer = ("RAVEN_OIDC_ISSUER", "https://id.example.com/");
        let audience = ("RAVEN_OIDC_AUDIENCE", "raven");
        let keys = ("RAVEN_OIDC_JWKS_URL", "https://id.example.com/keys");
        assert_eq!(load(OPERATOR, &[], &[]).unwrap().oidc, None);
        let oidc = load(OPERATOR, &[], &[issuer, audience, keys]).unwrap().oidc.unwrap();
        assert_eq!((oidc.issuer.as_str(), oidc.audience.as_str(), oidc.jwks_url.as_deref()), (issuer.1, audience.1, Some(keys.1)));
        assert_eq!(load(OPERATOR, &[], &[issuer, audience]).unwrap().oidc.unwrap().jwks_url, None);
        let mistakes = load(OPERATOR, &[], &[issuer]).unwrap_err();
        assert_eq!(mistakes, ["RAVEN_OIDC_AUDIENCE: is required with RAVEN_OIDC_ISSUER: a token for another app must be refused"]);
        let mistakes = load(OPERATOR, &[], &[audience, keys]).unwrap_err();
        assert_eq!(
            mistakes,
            ["RAVEN_OIDC_AUDIENCE: has no use without RAVEN_OIDC_ISSUER", "RAVEN_OIDC_JWKS_URL: has no use without RAVEN_OIDC_ISSUER"]
        );
        let plain = ("RAVEN_OIDC_ISSUER", "http://id.example.com");
        let mistakes = load(OPERATOR, &[], &[plain, audience, keys]).unwrap_err();
        assert!(
            mistakes.len() == 1 && mistakes[0].starts_with("RAVEN_OIDC_ISSUER: must be a URL that begins with https://"),
            "{mistakes:?}"
        );
    }
}
