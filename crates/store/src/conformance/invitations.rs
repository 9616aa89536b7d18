//! What invitations promise.

use std::sync::Arc;

use raven_core::{
    Environment, InvitationId, TenantId,
    permission::Role,
    tenant::{InvitationStatus, SuspendedBy},
};

use super::fixture::{at, audit, claim, id, invitation_record, invite, member, new_invitation, step, tenant, tenant_record, user};
use crate::{
    Answered, Error, InvitationRecord, NewInvitation, Operation, Outcome, Reply, Result, Scope, StateChange, Store, TenantMember,
    UserProfile,
};

fn ids(rows: &[InvitationRecord]) -> Vec<InvitationId> {
    rows.iter().map(|i| i.id).collect()
}

/// The `n`th human says yes to an invitation of theirs.
async fn accept(store: &Arc<dyn Store>, tenant: TenantId, invitation: InvitationId, n: u8) -> Result<Answered> {
    let user = user(n);
    let email = user.email.clone();
    store.answer_invitation(invitation, &email, Reply::Accept(user), at(500), audit(tenant, 500 + i64::from(n))).await
}

pub async fn an_invitation_is_found_by_its_tenant_and_its_address(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let record = InvitationRecord { role: Role::Admin, ..invitation_record(one, 10) };
    let invitation = invite(&store, record.clone()).await?;
    assert_eq!(store.find_invitation(one, invitation).await?.as_ref(), Some(&record));
    assert_eq!(store.find_invitation(two, invitation).await?, None);
    assert_eq!(store.find_invitation_of(&record.email, invitation).await?, Some((record, tenant_record(1))));
    assert_eq!(store.find_invitation_of(&user(11).email, invitation).await?, None);
    assert_eq!(store.find_invitation_of(&user(10).email, InvitationId(id(99))).await?, None);
    Ok(())
}

pub async fn invitations_are_listed_newest_first(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    for n in [12, 10, 13, 11] {
        let created_at = at(i64::from(n / 2));
        invite(&store, InvitationRecord { created_at, ..invitation_record(one, n) }).await?;
    }
    invite(&store, invitation_record(two, 20)).await?;
    let all = [13, 12, 11, 10].map(|n| invitation_record(one, n).id);
    assert_eq!(ids(&store.list_invitations(one, None, 100).await?), all);
    let first = store.list_invitations(one, None, 3).await?;
    assert_eq!(ids(&first), all[..3]);
    assert_eq!(ids(&store.list_invitations(one, Some((first[2].created_at, first[2].id)), 3).await?), all[3..]);
    Ok(())
}

pub async fn an_address_has_one_open_invitation(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let first = invite(&store, invitation_record(one, 10)).await?;
    // Good from 10 until 1010; at that very instant it makes room.
    let again = |n: u8, ms: i64| InvitationRecord {
        email: user(10).email,
        created_at: at(ms),
        expires_at: at(ms + 1000),
        ..invitation_record(one, n)
    };
    let scope = Scope::Tenant(one, Environment::Live);
    let claimed = |payload| Some(claim(scope, Operation::CreateInvitation, "k", payload));
    let taken = NewInvitation { claim: claimed(1), ..new_invitation(again(11, 1009)) };
    assert!(matches!(store.create_invitation(taken).await, Err(Error::Conflict("invitation"))));
    assert_eq!(store.find_invitation(one, first).await?, Some(invitation_record(one, 10)));
    let next = NewInvitation { claim: claimed(2), ..new_invitation(again(12, 1010)) };
    assert_eq!(store.create_invitation(next).await?, Outcome::Created, "a conflict uses up no key");
    let closed = InvitationRecord { status: InvitationStatus::Expired, ..invitation_record(one, 10) };
    assert_eq!(store.find_invitation(one, first).await?, Some(closed));
    invite(&store, InvitationRecord { email: user(10).email, ..invitation_record(two, 20) }).await?;
    invite(&store, invitation_record(one, 13)).await?;
    // One that was closed in another way makes room too.
    assert!(store.revoke_invitation(one, again(12, 0).id, audit(one, 1)).await?);
    invite(&store, again(14, 1020)).await?;
    Ok(())
}

pub async fn a_replayed_invitation_answers_its_first_body(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let scope = Scope::Tenant(one, Environment::Live);
    let new = |n, payload| NewInvitation {
        claim: Some(claim(scope, Operation::CreateInvitation, "k", payload)),
        ..new_invitation(invitation_record(one, n))
    };
    assert_eq!(store.create_invitation(new(10, 7)).await?, Outcome::Created);
    assert_eq!(store.create_invitation(new(10, 7)).await?, Outcome::Replayed(r#"{"payload":7}"#.to_owned()));
    assert_eq!(store.create_invitation(new(11, 8)).await?, Outcome::KeyReused);
    assert_eq!(store.list_invitations(one, None, 10).await?, [invitation_record(one, 10)]);
    Ok(())
}

pub async fn who_accepts_becomes_a_member(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let invitation = invite(&store, InvitationRecord { role: Role::Admin, ..invitation_record(one, 10) }).await?;
    // What the token says now is what is kept, of one who was known before too.
    member(&store, two, 11, Role::Viewer).await?;
    let other = invite(&store, InvitationRecord { email: user(11).email, ..invitation_record(one, 12) }).await?;
    let profile = |n| UserProfile { name: Some("Grace".to_owned()), avatar_url: Some("https://example.com/g.png".to_owned()), ..user(n) };
    for (n, invitation, role) in [(10, invitation, Role::Admin), (11, other, Role::Member)] {
        let reply = Reply::Accept(profile(n));
        let line = audit(one, i64::from(n));
        assert_eq!(store.answer_invitation(invitation, &user(n).email, reply, at(700), line).await?, Answered::Done);
        let joined = TenantMember { user: profile(n), role, joined_at: at(700) };
        assert_eq!(store.find_member(one, user(n).id).await?, Some(joined));
        assert_eq!(store.find_invitation(one, invitation).await?.map(|i| i.status), Some(InvitationStatus::Accepted));
    }
    let memberships = store.list_memberships(user(10).id, None, 10).await?;
    assert_eq!(memberships.iter().map(|m| (m.tenant.id, m.role)).collect::<Vec<_>>(), [(one, Role::Admin)]);
    Ok(())
}

pub async fn who_declines_does_not(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let invitation = invite(&store, invitation_record(one, 10)).await?;
    assert_eq!(store.answer_invitation(invitation, &user(10).email, Reply::Decline, at(20), audit(one, 1)).await?, Answered::Done);
    assert_eq!(store.find_member(one, user(10).id).await?, None);
    assert_eq!(accept(&store, one, invitation, 10).await?, Answered::Closed(InvitationStatus::Declined));
    assert_eq!(store.find_invitation(one, invitation).await?.map(|i| i.status), Some(InvitationStatus::Declined));
    Ok(())
}

pub async fn an_invitation_is_answered_once_by_whom_it_was_sent_to(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let invitation = invite(&store, invitation_record(one, 10)).await?;
    assert_eq!(accept(&store, one, invitation, 11).await?, Answered::Missing, "another address");
    assert_eq!(accept(&store, one, InvitationId(id(99)), 10).await?, Answered::Missing);
    assert_eq!(store.find_member(one, user(11).id).await?, None);
    assert_eq!(accept(&store, one, invitation, 10).await?, Answered::Done);
    assert_eq!(accept(&store, one, invitation, 10).await?, Answered::Closed(InvitationStatus::Accepted));
    let declined = store.answer_invitation(invitation, &user(10).email, Reply::Decline, at(501), audit(one, 1)).await?;
    assert_eq!(declined, Answered::Closed(InvitationStatus::Accepted));
    assert!(store.find_member(one, user(10).id).await?.is_some());
    Ok(())
}

pub async fn of_many_answers_at_the_same_time_one_counts(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let invitation = invite(&store, invitation_record(one, 10)).await?;
    let answers = (0..12).map(|n| {
        // As two humans with the same address might.
        let reply = if n % 3 == 2 { Reply::Decline } else { Reply::Accept(UserProfile { email: user(10).email, ..user(20 + n % 2) }) };
        let (store, line) = (Arc::clone(&store), audit(one, 100 + i64::from(n)));
        async move { store.answer_invitation(invitation, &user(10).email, reply, at(20), line).await }
    });
    let answers = futures_util::future::try_join_all(answers).await?;
    assert_eq!(answers.iter().filter(|a| **a == Answered::Done).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|a| matches!(a, Answered::Done | Answered::Closed(_))), "{answers:?}");
    let status = store.find_invitation(one, invitation).await?.map(|i| i.status);
    let joined = usize::from(status == Some(InvitationStatus::Accepted));
    assert_eq!(store.list_members(one, None, 10).await?.len(), 1 + joined);
    Ok(())
}

pub async fn an_expired_invitation_is_not_accepted(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let invitation = invite(&store, InvitationRecord { expires_at: at(500), ..invitation_record(one, 10) }).await?;
    assert_eq!(accept(&store, one, invitation, 10).await?, Answered::Expired, "the very instant is too late");
    assert_eq!(store.find_member(one, user(10).id).await?, None);
    assert_eq!(store.find_invitation(one, invitation).await?.map(|i| i.status), Some(InvitationStatus::Pending));
    // Another one took its place, and this one is still what it was to whom it was sent to.
    invite(&store, InvitationRecord { email: user(10).email, created_at: at(600), ..invitation_record(one, 12) }).await?;
    assert_eq!(accept(&store, one, invitation, 10).await?, Answered::Expired);
    let in_time = invite(&store, InvitationRecord { expires_at: at(501), ..invitation_record(one, 11) }).await?;
    assert_eq!(accept(&store, one, in_time, 11).await?, Answered::Done);
    Ok(())
}

pub async fn a_member_does_not_join_again(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    member(&store, one, 10, Role::Viewer).await?;
    let record = InvitationRecord { email: user(10).email, role: Role::Owner, ..invitation_record(one, 11) };
    let invitation = invite(&store, record.clone()).await?;
    assert_eq!(accept(&store, one, invitation, 10).await?, Answered::AlreadyMember);
    assert_eq!(store.find_member(one, user(10).id).await?.map(|m| m.role), Some(Role::Viewer));
    assert_eq!(store.find_invitation(one, invitation).await?, Some(record));
    assert_eq!(store.answer_invitation(invitation, &user(10).email, Reply::Decline, at(20), audit(one, 1)).await?, Answered::Done);
    Ok(())
}

pub async fn nobody_joins_a_tenant_that_is_not_active(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let invitation = invite(&store, invitation_record(one, 10)).await?;
    let changes = [StateChange::Suspend(SuspendedBy::Owner), StateChange::Archive(at(2)), StateChange::Restore(at(3))];
    for (n, change) in (1..).zip(changes) {
        step(&store, one, change, n).await?;
        assert_eq!(accept(&store, one, invitation, 10).await?, Answered::TenantRefused);
        assert_eq!(store.find_member(one, user(10).id).await?, None);
    }
    step(&store, one, StateChange::Reactivate(SuspendedBy::Owner), 4).await?;
    assert_eq!(accept(&store, one, invitation, 10).await?, Answered::Done);
    Ok(())
}

pub async fn only_an_open_invitation_is_revoked(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let (open, answered) = (invite(&store, invitation_record(one, 10)).await?, invite(&store, invitation_record(one, 11)).await?);
    assert_eq!(accept(&store, one, answered, 11).await?, Answered::Done);
    assert!(!store.revoke_invitation(two, open, audit(two, 1)).await?);
    assert!(!store.revoke_invitation(one, InvitationId(id(99)), audit(one, 2)).await?);
    assert!(!store.revoke_invitation(one, answered, audit(one, 3)).await?);
    assert!(store.revoke_invitation(one, open, audit(one, 4)).await?);
    assert!(!store.revoke_invitation(one, open, audit(one, 5)).await?);
    assert_eq!(accept(&store, one, open, 10).await?, Answered::Closed(InvitationStatus::Revoked));
    assert_eq!(store.find_member(one, user(10).id).await?, None);
    assert!(store.find_member(one, user(11).id).await?.is_some());
    Ok(())
}

pub async fn an_address_sees_what_it_can_accept(store: Arc<dyn Store>) -> Result<()> {
    let email = user(50).email;
    let mut tenants = Vec::new();
    for n in 1..9 {
        tenants.push(tenant(&store, n).await?);
        let expires_at = if n == 3 { at(100) } else { at(101) };
        let record = invitation_record(tenants[usize::from(n - 1)], 10 + n);
        invite(&store, InvitationRecord { email: email.clone(), expires_at, ..record }).await?;
    }
    invite(&store, invitation_record(tenants[0], 30)).await?;
    // The second one was suspended, the third one expires, the fourth to sixth were closed.
    step(&store, tenants[1], StateChange::Suspend(SuspendedBy::Operator), 1).await?;
    assert!(store.revoke_invitation(tenants[3], invitation_record(tenants[3], 14).id, audit(tenants[3], 1)).await?);
    for (n, reply) in [(5_u8, Reply::Accept(UserProfile { email: email.clone(), ..user(50) })), (6, Reply::Decline)] {
        let tenant = tenants[usize::from(n - 1)];
        let invitation = invitation_record(tenant, 10 + n).id;
        assert_eq!(store.answer_invitation(invitation, &email, reply, at(99), audit(tenant, 1)).await?, Answered::Done);
    }
    let seen = |rows: &[(InvitationRecord, crate::TenantRecord)]| rows.iter().map(|(i, t)| (i.id, t.id)).collect::<Vec<_>>();
    let expected = [(18, 8), (17, 7), (11, 1)].map(|(n, t)| (invitation_record(tenants[0], n).id, tenant_record(t).id));
    let all = store.list_invitations_of(&email, at(100), None, 100).await?;
    assert_eq!(seen(&all), expected);
    assert_eq!(all[0].1, tenant_record(8));
    let first = store.list_invitations_of(&email, at(100), None, 2).await?;
    assert_eq!(seen(&first), expected[..2]);
    let before = Some((first[1].0.created_at, first[1].0.id));
    assert_eq!(seen(&store.list_invitations_of(&email, at(100), before, 2).await?), expected[2..]);
    assert_eq!(store.list_invitations_of(&email, at(99), None, 100).await?.len(), 4);
    assert_eq!(store.list_invitations_of("nobody@example.com", at(1), None, 100).await?, []);
    Ok(())
}
