//! The demo tenant and its keys. Their texts are kept in the data directory, so that a later run shows them again.

use std::path::PathBuf;

use anyhow::Context;
use raven_core::{Environment, permission::Scopes};
use raven_engine::{Engine, keyring::KeyError};
use raven_store::{Store, TenantRecord, UserProfile};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    cli::token::DEMO_EMAIL,
    config::Config,
    files,
    operator::{self, KeyWish, TenantWish},
};

pub(super) const TENANT_NAME: &str = "Demo";
pub(super) const TENANT_SLUG: &str = "demo";

/// What the demo needs.
#[derive(Debug)]
pub(super) struct Demo {
    pub(super) live_key: SecretString,
    pub(super) test_key: SecretString,
}

impl Demo {
    /// Finds what an earlier run made, and makes what is missing. Tells whether anything was made.
    pub(super) async fn prepare(config: &Config, store: &dyn Store, engine: &Engine) -> anyhow::Result<(Self, bool)> {
        let (tenant, mut made) = match store.find_tenant_by_slug(TENANT_SLUG).await? {
            Some(tenant) => (tenant, false),
            None => (create_tenant(store, engine).await?, true),
        };
        let path = path(config);
        let kept: toml::Table = match std::fs::read_to_string(&path) {
            Ok(text) => {
                toml::from_str(&text).map_err(|_| anyhow::anyhow!("{} is no TOML: remove it, and new keys are made", path.display()))?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => toml::Table::new(),
            Err(e) => return Err(e).with_context(|| format!("{} can't be read", path.display())),
        };
        let mut keys = Vec::with_capacity(2);
        for environment in [Environment::Live, Environment::Test] {
            let old = kept.get(name(environment)).and_then(toml::Value::as_str);
            let key = match old {
                Some(text) if is_good(engine, text, &tenant).await? => SecretString::from(text),
                _ => {
                    made = true;
                    create_key(store, engine, &tenant, environment).await?
                }
            };
            keys.push((environment, key));
        }
        if made {
            let lines: String =
                keys.iter().map(|(environment, key)| format!("{} = \"{}\"\n", name(*environment), key.expose_secret())).collect();
            files::write_private(&path, &format!("# The demo tenant's API keys, kept by raven quickstart to show them again.\n{lines}"))?;
        }
        let [(_, live_key), (_, test_key)] = <[_; 2]>::try_from(keys).map_err(|_| anyhow::anyhow!("there are two keys"))?;
        Ok((Self { live_key, test_key }, made))
    }
}

/// The file that the keys are kept in.
fn path(config: &Config) -> PathBuf {
    config.data_dir.join("quickstart.toml")
}

const fn name(environment: Environment) -> &'static str {
    match environment {
        Environment::Live => "live_key",
        Environment::Test => "test_key",
    }
}

async fn is_good(engine: &Engine, text: &str, tenant: &TenantRecord) -> anyhow::Result<bool> {
    match engine.keyring.check(text).await {
        Ok(key) => Ok(key.tenant == tenant.id),
        Err(KeyError::Invalid) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

async fn create_tenant(store: &dyn Store, engine: &Engine) -> anyhow::Result<TenantRecord> {
    let owner = UserProfile {
        id: operator::user_of(DEMO_EMAIL),
        email: DEMO_EMAIL.to_owned(),
        name: Some(TENANT_NAME.to_owned()),
        avatar_url: None,
    };
    let wish = TenantWish {
        name: TENANT_NAME.to_owned(),
        slug: Some(TENANT_SLUG.to_owned()),
        country_code: None,
        default_locale: "en".to_owned(),
        default_tz: "Africa/Nairobi".to_owned(),
        owner,
        plan: engine.plans.default().name.clone(),
    };
    operator::create_tenant(store, &engine.vault, wish).await
}

async fn create_key(store: &dyn Store, engine: &Engine, tenant: &TenantRecord, environment: Environment) -> anyhow::Result<SecretString> {
    let wish = KeyWish {
        tenant: tenant.id,
        name: format!("Quickstart, {}", environment.name()),
        environment,
        scopes: Scopes::DEFAULT,
        rate_limit_rpm: None,
        priority: None,
        expires_in: None,
    };
    Ok(operator::create_key(store, &engine.keyring, wish).await?.1)
}
