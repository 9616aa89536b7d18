//! What the audit log promises.

use std::sync::Arc;

use raven_core::{Environment, TenantId, permission::Role, tenant::SuspendedBy};

use super::fixture::{
    accept, at, audit, claim, config_record, create, create_config, create_key, id, invitation_record, invite, key_record, keyed, member,
    message, new_invitation, new_key, new_tenant, seq, step, tenant, user,
};
use crate::{
    Accepted, Answered, AuditRecord, KeyChange, MemberChange, NewInvitation, NewKey, NewMessage, NewTenant, Operation, Outcome, Refusal,
    Reply, Result, Rotation, Scope, StateChange, Store, TenantChange,
};

/// The whole log of a tenant.
async fn log(store: &Arc<dyn Store>, tenant: TenantId) -> Result<Vec<AuditRecord>> {
    store.list_audit(tenant, None, 1000).await
}

fn records<const N: usize>(tenant: TenantId, numbers: [i64; N]) -> Vec<AuditRecord> {
    numbers.into_iter().map(|n| audit(tenant, n)).collect()
}

pub async fn a_change_is_written_to_the_log_with_it(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    assert_eq!(log(&store, one).await?, records(one, [0]));
    let change = TenantChange { name: Some("Other".to_owned()), ..TenantChange::default() };
    assert!(store.update_tenant(one, change, audit(one, 1)).await?.is_some());
    step(&store, one, StateChange::Suspend(SuspendedBy::Owner), 2).await?;
    step(&store, one, StateChange::Reactivate(SuspendedBy::Owner), 3).await?;
    step(&store, one, StateChange::Archive(at(4)), 4).await?;
    step(&store, one, StateChange::Restore(at(5)), 5).await?;
    assert_eq!(log(&store, one).await?, records(one, [5, 4, 3, 2, 1, 0]));

    let two = tenant(&store, 2).await?;
    let key = create_key(&store, key_record(two, 2)).await?;
    let change = KeyChange { name: Some("other".to_owned()), rate_limit_rpm: None, priority: None };
    assert!(store.update_key(two, None, key, change, audit(two, 1)).await?.is_some());
    let rotation = Rotation { old: key, old_expires_at: at(9), new: new_key(key_record(two, 3)) };
    assert_eq!(store.rotate_key(rotation).await?, Some(Outcome::Created));
    assert!(store.revoke_key(two, None, key, at(5), audit(two, 2)).await?);
    let config = create_config(&store, config_record(two, 4)).await?;
    assert!(store.delete_config(two, config, audit(two, 3)).await?);
    assert_eq!(log(&store, two).await?, records(two, [3004, 2003, 2002, 3, 2, 1, 0]));

    let three = tenant(&store, 3).await?;
    let (ten, eleven) = (member(&store, three, 10, Role::Member).await?, member(&store, three, 11, Role::Admin).await?);
    let declined = invite(&store, invitation_record(three, 12)).await?;
    let told = store.answer_invitation(declined, &user(12).email, Reply::Decline, at(20), audit(three, 1)).await?;
    assert_eq!(told, Answered::Done);
    let revoked = invite(&store, invitation_record(three, 13)).await?;
    assert!(store.revoke_invitation(three, revoked, audit(three, 2)).await?);
    let told = store.set_member_role(three, ten, Role::Viewer, Role::Admin, audit(three, 3)).await?;
    assert!(matches!(told, MemberChange::Done(_)));
    assert!(matches!(store.transfer_ownership(three, user(3).id, eleven, audit(three, 4)).await?, MemberChange::Done(_)));
    assert!(matches!(store.remove_member(three, ten, Role::Owner, audit(three, 5)).await?, MemberChange::Done(_)));
    assert_eq!(log(&store, three).await?, records(three, [5011, 5010, 4013, 4012, 4011, 4010, 5, 4, 3, 2, 1, 0]));
    Ok(())
}

pub async fn a_change_that_did_not_happen_is_not_in_the_log(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let nobody = TenantId(id(99));
    assert_eq!(store.update_tenant(nobody, TenantChange::default(), audit(nobody, 1)).await?, None);
    assert_eq!(store.change_state(nobody, StateChange::Archive(at(1)), audit(nobody, 2)).await?, None);
    assert_eq!(log(&store, nobody).await?, []);
    let refused = store.change_state(one, StateChange::Restore(at(1)), audit(one, 1)).await?;
    assert_eq!(refused.map(|told| told.changed), Some(false));

    // A replay and a reused key: of a tenant, a key, a rotation, an invitation.
    let scope = Scope::User(user(3).id);
    let first = |payload| NewTenant { claim: Some(claim(scope, Operation::CreateTenant, "k", payload)), ..new_tenant(3) };
    assert_eq!(store.create_tenant(first(1)).await?, Outcome::Created);
    assert!(matches!(store.create_tenant(first(1)).await?, Outcome::Replayed(_)));
    assert_eq!(store.create_tenant(first(2)).await?, Outcome::KeyReused);
    let three = new_tenant(3).record.id;
    assert_eq!(log(&store, three).await?, records(three, [0]));
    let scope = Scope::Tenant(one, Environment::Live);
    let claimed = |operation, payload| Some(claim(scope, operation, "k", payload));
    let with = |n, operation, payload| NewKey { claim: claimed(operation, payload), ..new_key(key_record(one, n)) };
    let rotation = |n, payload| Rotation { old: key_record(one, 1).id, old_expires_at: at(9), new: with(n, Operation::RotateKey, payload) };
    let invitation =
        |n, payload| NewInvitation { claim: claimed(Operation::CreateInvitation, payload), ..new_invitation(invitation_record(one, n)) };
    assert_eq!(store.create_key(with(1, Operation::CreateKey, 1)).await?, Outcome::Created);
    assert_eq!(store.rotate_key(rotation(2, 1)).await?, Some(Outcome::Created));
    assert_eq!(store.create_invitation(invitation(10, 1)).await?, Outcome::Created);
    let before = log(&store, one).await?;
    assert_eq!(before, records(one, [4010, 2002, 2001, 0]));
    for payload in [1, 2] {
        assert_ne!(store.create_key(with(3, Operation::CreateKey, payload)).await?, Outcome::Created);
        assert_ne!(store.rotate_key(rotation(4, payload)).await?, Some(Outcome::Created));
        assert_ne!(store.create_invitation(invitation(11, payload)).await?, Outcome::Created);
    }

    // What is missing, taken or refused.
    let (key, config) = (key_record(two, 50).id, config_record(two, 50).id);
    assert!(store.create_key(NewKey { claim: None, ..with(1, Operation::CreateKey, 1) }).await.is_err());
    assert!(store.create_invitation(new_invitation(invitation_record(one, 10))).await.is_err());
    assert_eq!(store.update_key(one, None, key, KeyChange::default(), audit(one, 2)).await?, None);
    assert!(!store.revoke_key(one, None, key, at(1), audit(one, 3)).await?);
    assert_eq!(store.rotate_key(Rotation { old: key, old_expires_at: at(9), new: new_key(key_record(one, 5)) }).await?, None);
    assert!(!store.delete_config(one, config, audit(one, 4)).await?);
    let (owner, stranger) = (user(1).id, user(50).id);
    assert_eq!(store.set_member_role(one, stranger, Role::Viewer, Role::Owner, audit(one, 5)).await?, MemberChange::Missing);
    assert_eq!(store.set_member_role(one, owner, Role::Viewer, Role::Owner, audit(one, 6)).await?, MemberChange::LastOwner);
    assert_eq!(store.remove_member(one, owner, Role::Admin, audit(one, 7)).await?, MemberChange::AboveActor);
    assert_eq!(store.remove_member(one, owner, Role::Owner, audit(one, 8)).await?, MemberChange::LastOwner);
    assert_eq!(store.transfer_ownership(one, owner, stranger, audit(one, 9)).await?, MemberChange::Missing);
    // What is so already.
    assert!(matches!(store.set_member_role(one, owner, Role::Owner, Role::Owner, audit(one, 12)).await?, MemberChange::Done(_)));
    assert!(matches!(store.transfer_ownership(one, owner, owner, audit(one, 13)).await?, MemberChange::Done(_)));
    let open = invitation_record(one, 10).id;
    assert_eq!(store.answer_invitation(open, &user(11).email, Reply::Decline, at(11), audit(one, 10)).await?, Answered::Missing);
    let late = store.answer_invitation(open, &user(10).email, Reply::Decline, at(9999), audit(one, 11)).await?;
    assert_eq!(late, Answered::Expired);
    assert!(!store.revoke_invitation(two, open, audit(two, 1)).await?);
    assert_eq!(log(&store, one).await?, before);
    assert_eq!(log(&store, two).await?, records(two, [0]));
    Ok(())
}

pub async fn a_log_is_listed_newest_first(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    // Not in the order of their times.
    for n in [30, 10, 20, 40] {
        store.update_tenant(one, TenantChange { plan: Some(format!("plan-{n}")), ..TenantChange::default() }, audit(one, n)).await?;
    }
    assert_eq!(log(&store, one).await?, records(one, [40, 30, 20, 10, 0]));
    let first = store.list_audit(one, None, 2).await?;
    assert_eq!(first, records(one, [40, 30]));
    let second = store.list_audit(one, first.last().map(|line| line.seq), 2).await?;
    assert_eq!(second, records(one, [20, 10]));
    assert_eq!(store.list_audit(one, second.last().map(|line| line.seq), 2).await?, records(one, [0]));
    assert_eq!(store.list_audit(one, Some(audit(one, 0).seq), 2).await?, []);
    Ok(())
}

pub async fn another_tenants_log_is_out_of_reach(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let plan = || TenantChange { plan: Some("pro".to_owned()), ..TenantChange::default() };
    store.update_tenant(one, plan(), audit(one, 1)).await?;
    // The same key in both logs: they are told apart by the tenant.
    store.update_tenant(two, plan(), audit(two, 1)).await?;
    store.update_tenant(two, plan(), audit(two, 2)).await?;
    assert_eq!(log(&store, one).await?, records(one, [1, 0]));
    assert_eq!(log(&store, two).await?, records(two, [2, 1, 0]));
    Ok(())
}

pub async fn an_accepted_message_is_in_the_log_once(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let told = |n: i64, new: NewMessage| NewMessage { seq: seq(n), audit: Some(format!(r#"{{"message":{n}}}"#)), ..new };
    let line = |n: i64| AuditRecord { tenant: one, seq: seq(n), entry: format!(r#"{{"message":{n}}}"#) };
    let batch = vec![
        told(11, keyed(one, seq(11), "k", 7)),
        message(one, seq(12)),
        told(13, NewMessage { environment: Environment::Test, ..message(one, seq(13)) }),
    ];
    assert_eq!(accept(&store, batch).await?, vec![Accepted::Created; 3]);
    assert_eq!(log(&store, one).await?, [line(13), line(11), audit(one, 0)]);
    let again = accept(&store, vec![told(14, keyed(one, seq(14), "k", 7))]).await?;
    assert!(matches!(again[..], [Accepted::Replayed { .. }]));
    assert_eq!(accept(&store, vec![told(15, keyed(one, seq(15), "k", 8))]).await?, [Accepted::KeyReused]);
    let full = told(16, NewMessage { quota: Some(0), ..message(one, seq(16)) });
    assert_eq!(accept(&store, vec![full]).await?, [Accepted::Refused(Refusal::Quota)]);
    assert_eq!(log(&store, one).await?, [line(13), line(11), audit(one, 0)]);
    create(&store, told(17, message(one, seq(17)))).await?;
    assert_eq!(store.list_audit(one, None, 1).await?, [line(17)]);
    Ok(())
}
