//! What tenants and memberships promise.

use std::sync::Arc;

use raven_core::{
    Environment, TenantId, UserId,
    permission::Role,
    tenant::{RESTORABLE, SuspendedBy, TenantStatus},
};

use super::fixture::{
    at, audit, claim, claim_all, furnished, id, key_record, member, message_claim, new_tenant, node, seq, step, tenant, tenant_record,
    tokens, user,
};
use crate::{
    Claim, Error, MemberRecord, MessageFilter, MessageQuery, NewTenant, Operation, Outcome, Result, Scope, StateChange, Store,
    TenantChange, TenantRecord, UserProfile,
};

fn claimed(n: u8, key: &str, payload: u8) -> NewTenant {
    NewTenant { claim: Some(claim(Scope::User(user(n).id), Operation::CreateTenant, key, payload)), ..new_tenant(n) }
}

pub async fn a_tenant_is_created_with_its_owner(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    tenant(&store, 2).await?;
    assert_eq!(store.find_tenant(one).await?, Some(tenant_record(1)));
    assert_eq!(store.find_tenant_by_slug("tenant-1").await?, Some(tenant_record(1)));
    assert_eq!(store.find_tenant_by_slug("TENANT-1").await?, None);
    assert_eq!(store.find_tenant(TenantId(id(99))).await?, None);
    let member = MemberRecord { tenant: tenant_record(1), role: Role::Owner };
    assert_eq!(store.find_membership(user(1).id, "tenant-1").await?, Some(member));
    assert_eq!(store.find_membership(user(1).id, "tenant-2").await?, None);
    assert_eq!(store.find_membership(UserId(id(99)), "tenant-1").await?, None);
    assert_eq!(store.find_membership(user(1).id, "no-such").await?, None);
    Ok(())
}

pub async fn a_taken_slug_is_a_conflict_and_uses_up_no_key(store: Arc<dyn Store>) -> Result<()> {
    tenant(&store, 1).await?;
    let mut second = claimed(2, "k", 7);
    second.record.slug = "tenant-1".to_owned();
    let second_id = second.record.id;
    assert!(matches!(store.create_tenant(second).await, Err(Error::Conflict("slug"))));
    assert_eq!(store.find_tenant(second_id).await?, None);
    assert_eq!(store.list_memberships(user(2).id, None, 10).await?, []);
    // Another payload under the same key: the first one used nothing up.
    assert_eq!(store.create_tenant(claimed(2, "k", 8)).await?, Outcome::Created);
    Ok(())
}

pub async fn a_replayed_creation_answers_its_first_body(store: Arc<dyn Store>) -> Result<()> {
    assert_eq!(store.create_tenant(claimed(1, "k", 7)).await?, Outcome::Created);
    // The slug is taken by now, but what the key says comes first.
    assert_eq!(store.create_tenant(claimed(1, "k", 7)).await?, Outcome::Replayed(r#"{"payload":7}"#.to_owned()));
    assert_eq!(store.create_tenant(claimed(1, "k", 8)).await?, Outcome::KeyReused);
    assert_eq!(store.create_tenant(claimed(2, "k", 8)).await?, Outcome::Created, "the key of another human");
    let tenant_scope = Scope::Tenant(tenant_record(1).id, Environment::Live);
    let third = Claim { scope: tenant_scope, ..claim(tenant_scope, Operation::CreateTenant, "k", 9) };
    assert_eq!(store.create_tenant(NewTenant { claim: Some(third), ..new_tenant(3) }).await?, Outcome::Created);
    let calls = (0..16).map(|_| {
        let store = Arc::clone(&store);
        async move { store.create_tenant(claimed(4, "raced", 7)).await }
    });
    let outcomes = futures_util::future::try_join_all(calls).await?;
    let replay = Outcome::Replayed(r#"{"payload":7}"#.to_owned());
    assert_eq!(outcomes.iter().filter(|o| **o == Outcome::Created).count(), 1);
    assert_eq!(outcomes.iter().filter(|o| **o == replay).count(), 15);
    Ok(())
}

pub async fn an_owners_profile_is_refreshed(store: Arc<dyn Store>) -> Result<()> {
    tenant(&store, 1).await?;
    let owner = UserProfile {
        id: user(1).id,
        email: "new@example.com".to_owned(),
        name: None,
        avatar_url: Some("https://example.com/a.png".to_owned()),
    };
    assert_eq!(store.create_tenant(NewTenant { owner, ..new_tenant(2) }).await?, Outcome::Created);
    assert_eq!(store.list_memberships(user(1).id, None, 10).await?.len(), 2);
    Ok(())
}

pub async fn tenants_are_listed_newest_first(store: Arc<dyn Store>) -> Result<()> {
    // Two of them were created at the same time.
    for n in [3, 1, 4, 2] {
        let new = new_tenant(n);
        let created_at = if n == 3 { at(2) } else { new.record.created_at };
        store.create_tenant(NewTenant { record: TenantRecord { created_at, ..new.record }, ..new }).await?;
    }
    let slugs = |rows: &[TenantRecord]| rows.iter().map(|t| t.slug.clone()).collect::<Vec<_>>();
    assert_eq!(slugs(&store.list_tenants(None, 10).await?), ["tenant-4", "tenant-3", "tenant-2", "tenant-1"]);
    let mut walked = Vec::new();
    let mut before = None;
    loop {
        let page = store.list_tenants(before, 1).await?;
        let Some(last) = page.last() else { break };
        before = Some((last.created_at, last.id));
        walked.extend(slugs(&page));
    }
    assert_eq!(walked, ["tenant-4", "tenant-3", "tenant-2", "tenant-1"]);
    Ok(())
}

pub async fn memberships_are_listed_newest_first(store: Arc<dyn Store>) -> Result<()> {
    for n in [2, 1, 3] {
        store.create_tenant(NewTenant { owner: user(7), ..new_tenant(n) }).await?;
    }
    tenant(&store, 4).await?;
    let slugs = |rows: &[MemberRecord]| rows.iter().map(|m| m.tenant.slug.clone()).collect::<Vec<_>>();
    assert_eq!(slugs(&store.list_memberships(user(7).id, None, 2).await?), ["tenant-3", "tenant-2"]);
    let before = Some((tenant_record(2).created_at, tenant_record(2).id));
    assert_eq!(slugs(&store.list_memberships(user(7).id, before, 2).await?), ["tenant-1"]);
    assert_eq!(store.list_memberships(UserId(id(99)), None, 2).await?, []);
    Ok(())
}

/// The states that a tenant can be in, by the steps that lead there.
const STATES: [&[StateChange]; 6] = {
    use StateChange::{Archive, Suspend};
    const ARCHIVE: StateChange = Archive(at(100));
    [
        &[],
        &[Suspend(SuspendedBy::Owner)],
        &[Suspend(SuspendedBy::Operator)],
        &[ARCHIVE],
        &[Suspend(SuspendedBy::Owner), ARCHIVE],
        &[Suspend(SuspendedBy::Operator), ARCHIVE],
    ]
};

pub async fn a_step_is_taken_where_the_state_allows_it(store: Arc<dyn Store>) -> Result<()> {
    use SuspendedBy::{Operator, Owner};
    use TenantStatus::{Active, Archived, Suspended};
    let steps = [
        StateChange::Suspend(Owner),
        StateChange::Suspend(Operator),
        StateChange::Reactivate(Owner),
        StateChange::Reactivate(Operator),
        StateChange::Archive(at(200)),
        StateChange::Restore(at(200)),
    ];
    let (suspended, operators) = (Some((Suspended, Some(Owner))), Some((Suspended, Some(Operator))));
    let active = Some((Active, None));
    let archived = |by| Some((Archived, by));
    // A row for each state, a column for each step.
    let expected = [
        [suspended, operators, None, None, archived(None), None],
        [None, operators, active, active, archived(Some(Owner)), None],
        [None, None, None, active, archived(Some(Operator)), None],
        [None, None, None, None, None, active],
        [None, None, None, None, None, suspended],
        [None, None, None, None, None, operators],
    ];
    let mut n = 0;
    for (path, row) in STATES.into_iter().zip(expected) {
        for (change, after) in steps.into_iter().zip(row) {
            n += 1;
            let tenant = tenant(&store, n).await?;
            for (i, change) in path.iter().enumerate() {
                step(&store, tenant, *change, i64::try_from(i).expect("few steps") + 1).await?;
            }
            let before = store.find_tenant(tenant).await?.expect("just created");
            let told = store.change_state(tenant, change, audit(tenant, 9)).await?.expect("just created");
            assert_eq!(told.changed, after.is_some(), "{path:?}, {change:?}");
            let expected = after.map_or(before.clone(), |(status, suspended_by)| TenantRecord {
                status,
                suspended_by,
                archived_at: (status == Archived).then_some(at(200)),
                ..before
            });
            assert_eq!(told.tenant, expected, "{path:?}, {change:?}");
            assert_eq!(store.find_tenant(tenant).await?, Some(expected));
        }
    }
    assert_eq!(store.change_state(TenantId(id(99)), steps[0], audit(TenantId(id(99)), 1)).await?, None);
    Ok(())
}

pub async fn a_tenant_is_restored_within_thirty_days(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let end = at(100).after(RESTORABLE).millis() - at(0).millis();
    for tenant in [one, two] {
        step(&store, tenant, StateChange::Archive(at(100)), 1).await?;
    }
    let late = store.change_state(one, StateChange::Restore(at(end)), audit(one, 2)).await?.expect("just created");
    assert!(!late.changed && late.tenant.archived_at == Some(at(100)), "{late:?}");
    let restored = step(&store, two, StateChange::Restore(at(end - 1)), 2).await?;
    assert_eq!(restored, tenant_record(2));
    Ok(())
}

/// What a change does to the record.
type Apply = fn(&mut TenantRecord);

pub async fn an_update_changes_what_is_given(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let none = TenantChange::default;
    let mut expected = tenant_record(1);
    let changes: [(TenantChange, Apply); 8] = [
        (TenantChange { name: Some("Ünïcode".to_owned()), ..none() }, |t| t.name = "Ünïcode".to_owned()),
        (TenantChange { country_code: Some(Some("TZ".to_owned())), ..none() }, |t| t.country_code = Some("TZ".to_owned())),
        (TenantChange { country_code: Some(None), ..none() }, |t| t.country_code = None),
        (TenantChange { default_locale: Some("sw".to_owned()), ..none() }, |t| t.default_locale = "sw".to_owned()),
        (TenantChange { default_tz: Some("UTC".to_owned()), ..none() }, |t| t.default_tz = "UTC".to_owned()),
        (TenantChange { plan: Some("pro".to_owned()), ..none() }, |t| t.plan = "pro".to_owned()),
        (TenantChange { retry_unknown: Some(true), ..none() }, |t| t.retry_unknown = true),
        (TenantChange { retry_unknown: Some(false), plan: Some("free".to_owned()), ..none() }, |t| {
            t.retry_unknown = false;
            t.plan = "free".to_owned();
        }),
    ];
    for (n, (change, apply)) in (1..).zip(changes) {
        apply(&mut expected);
        assert_eq!(store.update_tenant(one, change, audit(one, n)).await?.as_ref(), Some(&expected));
        assert_eq!(store.find_tenant(one).await?.as_ref(), Some(&expected));
    }
    assert_eq!(store.find_tenant(two).await?, Some(tenant_record(2)));
    let missing = TenantId(id(99));
    let change = TenantChange { name: Some("Nobody".to_owned()), ..none() };
    assert_eq!(store.update_tenant(missing, change, audit(missing, 1)).await?, None);
    Ok(())
}

pub async fn archived_tenants_are_listed_the_longest_ago_first(store: Arc<dyn Store>) -> Result<()> {
    let mut all = Vec::new();
    for (n, ms) in [(1, 300), (2, 100), (3, 200), (4, 0), (5, 150)] {
        let tenant = tenant(&store, n).await?;
        if ms > 0 {
            step(&store, tenant, StateChange::Archive(at(ms)), 1).await?;
        }
        all.push(tenant);
    }
    step(&store, all[4], StateChange::Restore(at(400)), 2).await?;
    assert_eq!(store.list_archived(at(1000), 10).await?, [all[1], all[2], all[0]]);
    assert_eq!(store.list_archived(at(300), 10).await?, [all[1], all[2]], "before that time");
    assert_eq!(store.list_archived(at(1000), 1).await?, [all[1]]);
    assert_eq!(store.list_archived(at(100), 10).await?, []);
    Ok(())
}

/// What [`traces`] looks for.
const KINDS: [&str; 16] = [
    "tenants",
    "slugs",
    "memberships",
    "members",
    "invitations",
    "keys",
    "prefixes",
    "configs",
    "audit records",
    "messages",
    "events",
    "contents",
    "message keys",
    "accepted counts",
    "outcome counts",
    "quotas",
];

/// All that can be read of a tenant which [`furnished`] made, by every verb that reads.
async fn traces(store: &Arc<dyn Store>, n: u8) -> Result<Vec<String>> {
    let tenant = tenant_record(n).id;
    let mut traces = Vec::new();
    let mut note = |what: &str, found: usize| {
        if found > 0 {
            traces.push(format!("{found} of {what}"));
        }
    };
    note("tenants", usize::from(store.find_tenant(tenant).await?.is_some()));
    note("slugs", usize::from(store.find_tenant_by_slug(&tenant_record(n).slug).await?.is_some()));
    note("memberships", store.list_memberships(user(n).id, None, 10).await?.len());
    note("members", store.list_members(tenant, None, 10).await?.len());
    note("invitations", store.list_invitations(tenant, None, 10).await?.len());
    note("keys", store.list_keys(tenant, None, None, 10).await?.len());
    note("prefixes", usize::from(store.find_key_by_prefix(&key_record(tenant, n).prefix).await?.is_some()));
    note("configs", store.list_configs(tenant, None, 10).await?.len());
    note("audit records", store.list_audit(tenant, None, 10).await?.len());
    let query = MessageQuery { filter: MessageFilter::default(), before: None, limit: 100, scan: 1000 };
    note("messages", store.list_messages(tenant, &query).await?.rows.len());
    for i in 0..9 {
        let seq = seq(100_000 * i64::from(n) + i);
        note("events", store.list_events(tenant, seq).await?.len());
        note("contents", usize::from(store.find_content(tenant, seq).await?.is_some()));
        let claim = message_claim(&format!("message-{i}"), 1);
        note("message keys", usize::from(store.find_replay(tenant, Environment::Live, &claim).await?.is_some()));
        note("message keys", usize::from(store.find_replay(tenant, Environment::Test, &claim).await?.is_some()));
    }
    let day = at(100_000 * i64::from(n)).day();
    let usage = store.usage(tenant, None, day..=day).await?;
    note("accepted counts", usage.accepted.len());
    note("outcome counts", usage.outcomes.len());
    note("quotas", usize::from(store.quota_used(tenant, day).await? > 0));
    Ok(traces)
}

pub async fn a_purged_tenant_leaves_nothing_behind(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (furnished(&store, 1).await?, furnished(&store, 2).await?);
    let neighbour = traces(&store, 2).await?;
    for what in KINDS {
        assert!(neighbour.iter().any(|trace| trace.ends_with(what)), "there is something of everything, but no {what}: {neighbour:?}");
    }
    step(&store, one, StateChange::Archive(at(1)), 1).await?;
    let mut portions = 1;
    while !store.purge_tenant(one, 2).await? {
        portions += 1;
        assert!(portions < 100, "each portion takes something away");
    }
    assert!(portions > 5, "two rows of nine messages: {portions} portions");
    assert_eq!(traces(&store, 1).await?, [] as [&str; 0]);
    assert_eq!(traces(&store, 2).await?, neighbour);
    assert!(store.purge_tenant(one, 2).await?, "what is gone is gone");
    // Its jobs are gone as well, and so is what stood in the buckets, and the content that waited for a message.
    let lease = node(&store, "a").await?;
    let claimed = claim_all(&store, lease, at(1_000_000)).await?;
    assert!(!claimed.jobs.is_empty() && claimed.jobs.iter().all(|job| job.lane.tenant == two), "{:?}", claimed.jobs);
    assert_eq!(store.take_tokens(tokens(one.0, 99)).await?.granted, 10);
    assert_eq!(store.take_tokens(tokens(key_record(one, 1).id.0, 99)).await?.granted, 10);
    assert_eq!(store.take_tokens(tokens(two.0, 99)).await?.granted, 9);
    assert_eq!(store.sweep_contents(at(1_000_000), 10).await?, 1, "the neighbour's alone");
    Ok(())
}

pub async fn a_purged_tenant_can_be_made_anew(store: Arc<dyn Store>) -> Result<()> {
    let one = furnished(&store, 1).await?;
    step(&store, one, StateChange::Archive(at(1)), 1).await?;
    while !store.purge_tenant(one, 100).await? {}
    // Neither a key nor a slug nor a row of it stands in the way.
    assert_eq!(furnished(&store, 1).await?, one);
    Ok(())
}

pub async fn a_tenant_that_is_not_archived_is_not_purged(store: Arc<dyn Store>) -> Result<()> {
    let one = furnished(&store, 1).await?;
    let before = traces(&store, 1).await?;
    assert!(store.purge_tenant(one, 100).await?);
    step(&store, one, StateChange::Suspend(SuspendedBy::Operator), 1).await?;
    assert!(store.purge_tenant(one, 100).await?);
    step(&store, one, StateChange::Archive(at(1)), 2).await?;
    step(&store, one, StateChange::Restore(at(2)), 3).await?;
    assert!(store.purge_tenant(one, 100).await?);
    step(&store, one, StateChange::Reactivate(SuspendedBy::Operator), 4).await?;
    assert_eq!(traces(&store, 1).await?, before);
    assert!(store.purge_tenant(TenantId(id(99)), 100).await?);
    Ok(())
}

pub async fn a_human_of_another_tenant_is_not_forgotten(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let shared = member(&store, one, 10, Role::Viewer).await?;
    let claimed = |payload| NewTenant {
        owner: user(10),
        claim: Some(claim(Scope::User(shared), Operation::CreateTenant, "k", payload)),
        ..new_tenant(3)
    };
    assert_eq!(store.create_tenant(claimed(1)).await?, Outcome::Created);
    step(&store, one, StateChange::Archive(at(1)), 1).await?;
    while !store.purge_tenant(one, 1).await? {}
    let memberships = store.list_memberships(shared, None, 10).await?;
    assert_eq!(memberships.iter().map(|m| m.tenant.id).collect::<Vec<_>>(), [new_tenant(3).record.id]);
    assert_eq!(store.list_members(new_tenant(3).record.id, None, 10).await?[0].user, user(10));
    assert!(matches!(store.create_tenant(claimed(1)).await?, Outcome::Replayed(_)), "another tenant's record is kept");
    assert_eq!(store.list_members(two, None, 10).await?.len(), 1);
    Ok(())
}
