//! What provider configs promise.

use std::sync::Arc;

use raven_core::Environment;

use super::fixture::{at, audit, claim, config_record, create_config, new_config, step, tenant};
use crate::{ConfigRecord, NewConfig, Operation, Outcome, Result, Scope, StateChange, Store};

pub async fn a_config_is_created_found_and_deleted(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let config = create_config(&store, config_record(one, 1)).await?;
    assert_eq!(store.find_config(one, config).await?, Some(config_record(one, 1)));
    assert!(store.delete_config(one, config, audit(one, 1)).await?);
    assert!(!store.delete_config(one, config, audit(one, 2)).await?);
    assert_eq!(store.find_config(one, config).await?, None);
    Ok(())
}

pub async fn configs_are_listed_newest_first(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    for n in [3, 1, 2, 4] {
        create_config(&store, ConfigRecord { created_at: at(i64::from(n / 2)), ..config_record(one, n) }).await?;
    }
    let labels = |rows: &[ConfigRecord]| rows.iter().map(|c| c.label.clone()).collect::<Vec<_>>();
    let first = store.list_configs(one, None, 2).await?;
    assert_eq!(labels(&first), ["config 4", "config 3"]);
    let last = first.last().expect("a page of two");
    assert_eq!(labels(&store.list_configs(one, Some((last.created_at, last.id)), 9).await?), ["config 2", "config 1"]);
    Ok(())
}

pub async fn a_replayed_creation_answers_its_first_body(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let scope = |environment| Scope::Tenant(one, environment);
    let new = |n, environment, payload| NewConfig {
        claim: Some(claim(scope(environment), Operation::CreateConfig, "k", payload)),
        ..new_config(config_record(one, n))
    };
    assert_eq!(store.create_config(new(1, Environment::Live, 7)).await?, Outcome::Created);
    assert_eq!(store.create_config(new(2, Environment::Live, 7)).await?, Outcome::Replayed(r#"{"payload":7}"#.to_owned()));
    assert_eq!(store.create_config(new(3, Environment::Live, 8)).await?, Outcome::KeyReused);
    assert_eq!(store.create_config(new(4, Environment::Test, 8)).await?, Outcome::Created);
    assert_eq!(store.list_configs(one, None, 10).await?.len(), 2);
    Ok(())
}

pub async fn a_config_is_replaced_only_as_long_as_it_is_what_was_read(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let old = config_record(one, 1);
    let id = create_config(&store, old.clone()).await?;
    let failed = ConfigRecord { status: "failed".to_owned(), status_reason: Some("a wrong key".to_owned()), ..old.clone() };
    assert!(store.replace_config(&old, &failed, None).await?);
    assert_eq!(store.find_config(one, id).await?, Some(failed.clone()));
    assert!(!store.replace_config(&old, &failed, Some(audit(one, 7))).await?, "it is another by now");

    let mended =
        ConfigRecord { label: "mended".to_owned(), public: "{}".to_owned(), secret: vec![9], status_reason: None, ..failed.clone() };
    assert!(!store.replace_config(&ConfigRecord { tenant: two, ..failed.clone() }, &mended, None).await?);
    let entries = store.list_audit(one, None, 100).await?.len();
    assert!(store.replace_config(&failed, &mended, Some(audit(one, 8))).await?);
    assert_eq!(store.find_config(one, id).await?, Some(mended));
    assert_eq!(store.list_audit(one, None, 100).await?.len(), entries + 1);
    Ok(())
}

pub async fn configs_of_another_tenant_are_out_of_reach(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let config = create_config(&store, config_record(one, 1)).await?;
    assert_eq!(store.find_config(two, config).await?, None);
    assert_eq!(store.list_configs(two, None, 10).await?, []);
    assert!(!store.delete_config(two, config, audit(two, 1)).await?);
    assert!(store.find_config(one, config).await?.is_some());
    Ok(())
}

pub async fn configs_of_a_provider_are_listed_over_all_active_tenants(store: Arc<dyn Store>) -> Result<()> {
    let (one, two, three) = (tenant(&store, 1).await?, tenant(&store, 2).await?, tenant(&store, 3).await?);
    let of = |tenant, n| ConfigRecord { provider: "smpp".to_owned(), ..config_record(tenant, n) };
    for record in [of(two, 3), of(one, 1), config_record(one, 2), of(three, 4), of(one, 5)] {
        create_config(&store, record).await?;
    }
    let first = store.list_configs_of("smpp", None, 2).await?;
    assert_eq!(first, [of(one, 1), of(two, 3)], "whole records, by their ids");
    assert_eq!(store.list_configs_of("smpp", Some(first[1].id), 9).await?, [of(three, 4), of(one, 5)]);
    step(&store, one, StateChange::Suspend(raven_core::tenant::SuspendedBy::Owner), 7).await?;
    step(&store, two, StateChange::Archive(at(9)), 8).await?;
    assert_eq!(store.list_configs_of("smpp", None, 9).await?, [of(three, 4)]);
    assert_eq!(store.list_configs_of("nobody", None, 9).await?, []);
    Ok(())
}
