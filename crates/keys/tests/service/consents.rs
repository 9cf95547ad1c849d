//! Acts of two persons: what the core takes for their consent, and what it does not.

use gridseal_crypto::{Signer, SigningKey, role::ConsentSigning};
use gridseal_keys::Approver;
use gridseal_types::service::keys::{
    Bytes, CONSENT_PERIOD_S, ClaimState, Consent, ConsentedAct, KeyAct, KeyRef, ProposedAct,
};

use super::*;

fn signer(number: u8) -> SigningKey<ConsentSigning> {
    SigningKey::new(&Key::take(&mut [number; 32])).unwrap()
}

/// A service at which alice and bob count.
fn service() -> Driver {
    let core = Owner::new(1).open_keys(&Factory::new());
    let approver = |name: &str, number| Approver { name: name.into(), key: signer(number).public() };
    let core = core.with_approvers(vec![approver("alice", 1), approver("bob", 2)]);
    let mut driver = Driver::new();
    driver.core = Box::leak(Box::new(core));
    driver.restart();
    driver
}

fn compromise() -> KeyRequest {
    let key = KeyRef { system_title: METER, kind: KeyKind::Guek, version: 1 };
    KeyRequest::KeyAct { key, act: KeyAct::Compromise, approvals: vec![], reason: "lost".into() }
}

fn act(id: u8, not_after: UtcTime, request: &KeyRequest) -> Vec<u8> {
    act_between(id, not_after, request, None)
}

fn act_between(id: u8, not_after: UtcTime, request: &KeyRequest, epochs: Option<(u32, u32)>) -> Vec<u8> {
    let request = Bytes(minicbor::to_vec(request).unwrap());
    let act = ProposedAct { id: N16([id; 16]), not_after, reason: "why".into(), request, epochs };
    minicbor::to_vec(act).unwrap()
}

fn signed(act: &[u8], by: &[(&str, u8)]) -> KeyRequest {
    let consent = |(name, number): &(&str, u8)| Consent {
        by: (*name).into(),
        signature: signer(*number).sign(&ProposedAct::to_be_signed(act)).unwrap(),
    };
    let consents = by.iter().map(consent).collect();
    KeyRequest::Consented(ConsentedAct { act: Bytes(act.to_vec()), consents })
}

fn denied(keys: &mut Driver, request: KeyRequest) -> Option<Denial> {
    match keys.exchange(request) {
        ExchangeReply::Denied(denial) => Some(denial),
        _ => None,
    }
}

const TWO: [(&str, u8); 2] = [("alice", 1), ("bob", 2)];

#[test]
fn an_act_needs_two_signatures_of_different_persons_over_its_very_bytes() {
    let mut keys = service();
    let end = UtcTime(START.0 + 3_600);
    let good = act(1, end, &compromise());
    let needs = Some(Denial::NeedsApproval);
    let by: [&[(&str, u8)]; 7] = [
        &[],
        &TWO[..1],
        &[("alice", 1), ("alice", 1)],
        &[("alice", 1), ("bob", 1)],
        &[("alice", 1), ("mallory", 3)],
        &[("alice", 1), ("bob", 2), ("mallory", 3)],
        &[("alice", 1), ("alice ", 1)],
    ];
    for by in by {
        assert_eq!(denied(&mut keys, signed(&good, by)), needs, "{by:?}");
    }
    // Signatures of another act.
    let KeyRequest::Consented(mut moved) = signed(&act(2, end, &compromise()), &TWO) else { unreachable!() };
    moved.act = Bytes(good.clone());
    assert_eq!(denied(&mut keys, KeyRequest::Consented(moved)), needs);
    // Names that nobody has signed, however they come.
    let named = |approvals: Vec<Approval>| match compromise() {
        KeyRequest::KeyAct { key, act, reason, .. } => KeyRequest::KeyAct { key, act, approvals, reason },
        other => other,
    };
    assert_eq!(denied(&mut keys, named(approvals())), needs);
    let restore = SiteRequest::Restore { witness: Some(9), changed_since: vec![], approvals: approvals() };
    assert_eq!(denied(&mut keys, KeyRequest::Site(restore)), needs);
    let smuggled = act(3, end, &named(approvals()));
    assert_eq!(denied(&mut keys, signed(&smuggled, &TWO[..1])), needs);
    assert_eq!(keys.active(KeyKind::Guek), Some(1), "nothing was done");
    assert_eq!(denied(&mut keys, signed(&good, &TWO)), None);
    assert_eq!(keys.active(KeyKind::Guek), None);
}

#[test]
fn an_act_is_carried_out_once_in_its_time_and_only_when_it_is_one_for_two_persons() {
    let mut keys = service();
    let used = Some(Denial::ConsentUsed);
    let at = |offset: i64| UtcTime(START.0.checked_add_signed(offset).unwrap());
    let period = i64::try_from(CONSENT_PERIOD_S).unwrap();
    assert_eq!(denied(&mut keys, signed(&act(1, at(-1), &compromise()), &TWO)), used, "too late");
    assert_eq!(denied(&mut keys, signed(&act(1, at(period + 1), &compromise()), &TWO)), used, "too early");
    let status = KeyRequest::KeyStatus { system_title: METER };
    let suspend = match compromise() {
        KeyRequest::KeyAct { key, approvals, reason, .. } => {
            KeyRequest::KeyAct { key, act: KeyAct::Suspend, approvals, reason }
        }
        other => other,
    };
    let nested = signed(&act(4, at(1), &compromise()), &TWO);
    for request in
        [status, suspend, nested, KeyRequest::SetClaim { system_title: METER, claim: ClaimState::Retired }]
    {
        let act = act(2, at(1), &request);
        assert_eq!(denied(&mut keys, signed(&act, &TWO)), Some(Denial::PolicyDenied), "{request:?}");
    }
    assert_eq!(denied(&mut keys, signed(&[0x84], &TWO)), Some(Denial::Malformed));
    // What fails may be tried again; what was done may not, also after a restart.
    let raise = SiteRequest::RaiseCounter { system_title: METER, at_least: 7, approvals: vec![] };
    let raise = signed(&act(5, at(1), &KeyRequest::Site(raise)), &TWO);
    assert_eq!(denied(&mut keys, raise.clone()), Some(Denial::IllegalTransition), "counters by epoch");
    assert_eq!(denied(&mut keys, raise), Some(Denial::IllegalTransition));
    let lost = KeyRequest::SetClaim { system_title: METER, claim: ClaimState::Lost };
    let lost = signed(&act(6, at(1), &lost), &TWO);
    assert_eq!(denied(&mut keys, lost.clone()), None);
    keys.restart();
    assert_eq!(denied(&mut keys, lost), used);
    // A site that does not serve takes acts on itself alone.
    let fence = signed(&act(7, at(1), &KeyRequest::Site(SiteRequest::Fence { epoch: 40 })), &TWO);
    assert_eq!(denied(&mut keys, fence), None);
    let late = signed(&act(8, at(1), &compromise()), &TWO);
    assert_eq!(denied(&mut keys, late), Some(Denial::Fenced { epoch: 40 }));
    let promote = SiteRequest::Promote { above: 40, approvals: vec![] };
    assert_eq!(denied(&mut keys, signed(&act(9, at(1), &KeyRequest::Site(promote)), &TWO)), None);
    assert_eq!(keys.service.mode(), SiteMode::Active);
    assert!(keys.service.epoch() > 40);
}

#[test]
fn an_act_that_gives_another_epoch_is_carried_out_between_the_two_that_were_signed_or_not_at_all() {
    let mut keys = service();
    let end = UtcTime(START.0 + 3_600);
    keys.site.marker = Some(8);
    keys.restart();
    let before = keys.service.epoch();
    let restore = SiteRequest::Restore { witness: Some(9), changed_since: vec![], approvals: vec![] };
    let restore = KeyRequest::Site(restore);
    for (id, epochs) in [(1, (before, 11)), (2, (before + 1, 10)), (3, (before, 9))] {
        let act = act_between(id, end, &restore, Some(epochs));
        assert_eq!(denied(&mut keys, signed(&act, &TWO)), Some(Denial::ConsentUsed), "{epochs:?}");
    }
    assert_eq!((keys.service.mode(), keys.service.epoch()), (SiteMode::Outdated, before));
    let act = act_between(4, end, &restore, Some((before, 10)));
    assert_eq!(denied(&mut keys, signed(&act, &TWO)), None);
    assert_eq!((keys.service.mode(), keys.service.epoch()), (SiteMode::Active, 10));
}

//= S5: no epoch is taken that leaves a key in use without counters
#[test]
fn an_epoch_that_a_slip_of_the_pen_names_uses_up_no_keys_counters() {
    let mut keys = Driver::new();
    let exhausted = ExchangeReply::Denied(Denial::CounterExhausted);
    let restore = |witness| SiteRequest::Restore { witness, changed_since: vec![], approvals: approvals() };
    let illegal = ExchangeReply::Denied(Denial::IllegalTransition);
    assert_eq!(keys.site_act(restore(Some(3))), illegal, "it serves");
    let fence = SiteRequest::Fence { epoch: 3_000 };
    assert_eq!(keys.site_act(fence), exhausted);
    keys.site.marker = Some(8);
    keys.restart();
    for far in [300, 209, u32::MAX] {
        assert_eq!(keys.site_act(restore(Some(far))), exhausted, "{far}");
    }
    assert_eq!(keys.service.mode(), SiteMode::Outdated);
    // What the site knows by itself it has to believe.
    let ExchangeReply::Site(status) = keys.site_act(SiteRequest::Status) else { panic!("status") };
    assert_eq!((status.epoch, status.highest), (1, 8), "the marker is told");
    keys.site_act(restore(Some(208)));
    assert_eq!(keys.service.epoch(), 209);
    let used = keys.sealed(1).counter;
    // Within the bound, and yet above the last epoch of a key that is made in epoch 1.
    let promote = SiteRequest::Promote { above: 300, approvals: approvals() };
    assert_eq!(keys.site_act(promote), exhausted);
    let promote = SiteRequest::Promote { above: 250, approvals: approvals() };
    assert!(matches!(keys.site_act(promote), ExchangeReply::Site(_)));
    assert!(keys.sealed(2).counter > used);
    keys.site.marker = Some(400);
    keys.restart();
    assert!(matches!(keys.site_act(restore(None)), ExchangeReply::Site(_)));
    assert_eq!(keys.get(3), exhausted);
    let versions = keys.status().versions;
    let guek = versions.iter().find(|version| version.kind == KeyKind::Guek).unwrap();
    assert_eq!(guek.next_counter, None, "an operator sees it");
}
