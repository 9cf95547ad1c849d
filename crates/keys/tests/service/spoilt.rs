//! Key changes whose keys are compromised or destroyed, or that another site has ended: none goes on for ever.

use gridseal_keys::imported_name;
use gridseal_types::{
    DeviceState,
    service::keys::{KeyAct, KeyRef},
};

use super::*;

fn act(keys: &mut Driver, kind: KeyKind, version: u32, act: KeyAct) -> ExchangeReply {
    let key = KeyRef { system_title: METER, kind, version };
    keys.exchange(KeyRequest::KeyAct { key, act, approvals: approvals(), reason: "test".into() })
}

fn set_state(keys: &mut Driver, state: DeviceState) {
    let (device, attested_at) = (imported_name(METER), UtcTime(0));
    let reply = keys.ask(KeyRequest::SetState { device, state, attested_at });
    assert!(matches!(reply, KeyReply::Done), "{reply:?}");
}

//= S3: a compromised key is replaced, and its change does not send it for ever
#[test]
fn a_change_ends_with_the_compromise_of_a_key_of_it_and_the_next_one_replaces_that() {
    let (mut keys, mut meter) = (Driver::new(), Meter::new());
    let begun = keys.begin(&BOTH);
    let mut whole = meter.clone();
    whole.take(&begun.transfer.unwrap()).unwrap();
    // Its power failed between the two keys.
    (meter.guek, meter.sent) = (whole.guek, 0);
    assert!(keys.is_fresh(meter.push()));
    act(&mut keys, KeyKind::Guek, 2, KeyAct::Compromise);
    assert_eq!(keys.status().change, None);
    let told = keys.report(begun.status.change, ChangeOutcome::NoReply);
    assert_eq!((told.status.phase, told.transfer), (ChangePhase::Abandoned, None));
    let next = keys.begin(&BOTH);
    assert_ne!(next.status.change, begun.status.change);
    let answer = meter.take(&next.transfer.unwrap()).expect("sealed under what the meter has");
    let told = keys.report(next.status.change, ChangeOutcome::Reply { apdu: answer });
    assert_eq!(told.status.phase, ChangePhase::Activated);
    assert_eq!((keys.active(KeyKind::Guek), keys.active(KeyKind::Gak)), (Some(3), Some(3)));
}

#[test]
fn a_master_key_is_proven_by_another_key_when_the_first_is_compromised() {
    let (mut keys, mut meter) = (Driver::new(), Meter::new());
    let begun = keys.begin(&[KeyKind::Kek]);
    let change = begun.status.change;
    let answer = meter.take(&begun.transfer.unwrap()).unwrap();
    let lost = keys.report(change, ChangeOutcome::Reply { apdu: answer });
    assert!(lost.transfer.is_some());
    act(&mut keys, KeyKind::Guek, 3, KeyAct::Compromise);
    let again = keys.begin(&[KeyKind::Kek]);
    assert_eq!(again.status.change, change, "the master key itself is known to nobody");
    let answer = meter.take(&again.transfer.unwrap()).unwrap();
    let told = keys.report(change, ChangeOutcome::Reply { apdu: answer });
    assert_eq!(told.status.phase, ChangePhase::Activated);
    assert_eq!((keys.active(KeyKind::Kek), keys.active(KeyKind::Guek)), (Some(2), Some(4)));
}

#[test]
fn a_device_whose_keys_were_destroyed_is_refused_a_change_and_the_service_goes_on() {
    let mut keys = Driver::new();
    let begun = keys.begin(&BOTH);
    set_state(&mut keys, DeviceState::Released);
    for version in [1, 2] {
        act(&mut keys, KeyKind::Guek, version, KeyAct::Destroy);
        act(&mut keys, KeyKind::Gak, version, KeyAct::Destroy);
    }
    act(&mut keys, KeyKind::Kek, 1, KeyAct::Destroy);
    let status = keys.status();
    assert!(status.versions.iter().all(|version| version.state == VersionState::Destroyed));
    assert_eq!(status.change, None, "of what is gone nothing is sent");
    set_state(&mut keys, DeviceState::Operating);
    let items = BOTH.to_vec();
    let again = keys.exchange(KeyRequest::BeginKeyChange { system_title: METER, items });
    assert_eq!(again, ExchangeReply::Denied(Denial::UnknownKey));
    let told = keys.report(begun.status.change, ChangeOutcome::NoReply);
    assert_eq!((told.status.phase, told.transfer), (ChangePhase::Abandoned, None));
}

#[test]
fn a_change_that_the_other_site_has_given_up_does_not_go_on_here() {
    let mut first = Driver::of_two(MemoryRecords::default(), 0, None);
    first.import();
    let mut meter = Meter::new();
    let copy = first.records.clone();
    let begun = first.begin(&[KeyKind::Kek]);
    meter.take(&begun.transfer.unwrap()).unwrap();
    first.report(begun.status.change, ChangeOutcome::NoReply);
    let given_up = first.report(begun.status.change, ChangeOutcome::Abandon);
    assert_eq!(given_up.status.phase, ChangePhase::Abandoned);

    let mut second = Driver::of_two(copy, 1, None);
    second.site_act(SiteRequest::Promote { above: first.service.epoch(), approvals: approvals() });
    first.site_act(SiteRequest::Fence { epoch: second.service.epoch() });
    let ExchangeReply::Rows(rows) = first.site_act(SiteRequest::Export { after: None }) else {
        panic!("rows")
    };
    let versions = rows.len();
    let after = rows.last().cloned();
    let ExchangeReply::Rows(mut more) = first.site_act(SiteRequest::Export { after }) else { panic!("rows") };
    let rows = [rows, std::mem::take(&mut more)].concat();
    assert!(rows.len() > versions, "the change is among them");
    let joined = second.site_act(SiteRequest::Reconcile { rows });
    assert_eq!(joined, ExchangeReply::Reconciled { devices: vec![METER] });
    assert_eq!(second.status().change, None);
    // The master key that it delivered is not forgotten: the meter has it, and refuses the other.
    let refused = second.begin(&BOTH);
    let apdu = meter.take(&refused.transfer.unwrap()).unwrap();
    second.report(refused.status.change, ChangeOutcome::Reply { apdu });
    let next = second.begin(&BOTH);
    let apdu = meter.take(&next.transfer.unwrap()).unwrap();
    let told = second.report(next.status.change, ChangeOutcome::Reply { apdu });
    assert_eq!(told.status.phase, ChangePhase::Activated);
}

/// The meter answers a challenge under the keys in use.
fn authenticate(keys: &mut Driver, meter: &mut Meter) -> ExchangeReply {
    let request = OpenAssociation { system_title: METER, mechanism: 5, candidate: 0 };
    let reply = keys.exchange(KeyRequest::OpenAssociation(request));
    let ExchangeReply::Association { association, client_to_server, .. } = reply else { panic!("{reply:?}") };
    let step = HlsStep::Challenge { server_to_client: vec![9; 16] };
    keys.exchange(KeyRequest::ContinueHls { association, step });
    let ((guek, gak), ticket) = (meter.keys(), meter.next());
    let counter = ticket.value();
    let header = apdu::Header { originator: METER, security_control: 0x10 };
    let tag = apdu::gmac(&guek, &gak, header, ticket, &client_to_server).unwrap();
    let answer = [&[0x10][..], &counter.to_be_bytes(), &tag].concat();
    keys.exchange(KeyRequest::ContinueHls { association, step: HlsStep::Answer { answer } })
}

//= S3: a transfer that another site has sent under its own title may still arrive after a challenge of this one
#[test]
fn keys_that_another_site_has_sent_are_destroyed_only_when_later_ones_are_proven() {
    let mut first = Driver::of_two(MemoryRecords::default(), 0, None);
    first.import();
    let mut meter = Meter::new();
    let begun = first.begin(&BOTH);
    first.report(begun.status.change, ChangeOutcome::NoReply);
    first.report(begun.status.change, ChangeOutcome::Abandon);
    let mut second = Driver::of_two(first.records.clone(), 1, None);
    second.site_act(SiteRequest::Promote { above: first.service.epoch(), approvals: approvals() });
    let version = second.status().versions.last().unwrap().version;

    assert_eq!(authenticate(&mut second, &mut meter.clone()), ExchangeReply::HlsVerified);
    let guarded = act(&mut second, KeyKind::Guek, version, KeyAct::Destroy);
    assert_eq!(guarded, ExchangeReply::Denied(Denial::DestroyGuard), "it may be on its way");
    assert_eq!(authenticate(&mut first, &mut meter.clone()), ExchangeReply::HlsVerified);
    let done = act(&mut first, KeyKind::Guek, version, KeyAct::Destroy);
    assert!(matches!(done, ExchangeReply::Status(_)), "{done:?}");

    let next = second.begin(&BOTH);
    let answer = meter.take(&next.transfer.unwrap()).unwrap();
    let told = second.report(next.status.change, ChangeOutcome::Reply { apdu: answer });
    assert_eq!(told.status.phase, ChangePhase::Activated);
    assert_eq!(authenticate(&mut second, &mut meter), ExchangeReply::HlsVerified);
    let done = act(&mut second, KeyKind::Guek, version, KeyAct::Destroy);
    assert!(matches!(done, ExchangeReply::Status(_)), "{done:?}");
}

//= S3: what the other site sends again while it is not heard is not known here
#[test]
fn a_key_that_was_sent_is_destroyed_only_with_the_other_site_and_counts_what_that_has_sent() {
    let mut first = Driver::of_two(MemoryRecords::default(), 0, None);
    first.import();
    let mut meter = Meter::new();
    let begun = first.begin(&BOTH);
    let version = first.status().versions.last().unwrap().version;
    first.report(begun.status.change, ChangeOutcome::NoReply);
    assert_eq!(authenticate(&mut first, &mut meter), ExchangeReply::HlsVerified);
    let mut second = Driver::of_two(first.records.clone(), 1, None);
    // The link is broken. The meter has not taken the keys, so they are sent again.
    let again = first.begin(&BOTH);
    assert_eq!(again.status.change, begun.status.change);
    let late = again.transfer.expect("sent again");

    second.site_act(SiteRequest::Promote { above: first.service.epoch(), approvals: approvals() });
    second.report(begun.status.change, ChangeOutcome::Abandon);
    second.service.set_standby(Standby::Lost);
    let refused = act(&mut second, KeyKind::Guek, version, KeyAct::Destroy);
    assert_eq!(refused, ExchangeReply::Denied(Denial::NoStandby));
    // The link is there again.
    second.service.set_standby(Standby::Reachable);
    first.site_act(SiteRequest::Fence { epoch: second.service.epoch() });
    let ExchangeReply::Rows(rows) = first.site_act(SiteRequest::Export { after: None }) else {
        panic!("rows")
    };
    second.site_act(SiteRequest::Reconcile { rows });
    let refused = act(&mut second, KeyKind::Guek, version, KeyAct::Destroy);
    assert_eq!(refused, ExchangeReply::Denied(Denial::DestroyGuard));
    meter.take(&late).expect("it was on its way");
    assert!(second.is_fresh(meter.push()), "the meter is reached");
}
