//! The process `keys`: who may ask for what. It holds no key and no state.

use gridseal_types::service::keys::{ChangeOutcome, KeyAct, KeyRequest, SiteRequest};

/// Service name of the endpoint manager.
pub const ENDPOINT_MANAGER: &str = "endpoint-manager";
/// Service name of the head-end.
pub const HEADEND: &str = "headend";
/// Service name in the certificates of operators.
pub const OPERATOR: &str = "operator";

/// Everybody who may call at all.
pub const CALLERS: &[&str] = &[ENDPOINT_MANAGER, HEADEND, OPERATOR];

/// Whether the authenticated caller may make this request. Default deny.
///
/// A taken-over head-end can have APDUs opened that meters sent to it, can have harmless ones sealed, can authenticate
/// towards meters and carry their key changes, none of which hands out a key or moves one without the meter's own proof.
/// It can neither give a change up nor touch a key, a credential or the site.
///
/// What needs the consent of two persons is an operator's when both have signed it: the core verifies that. The same
/// without signatures is for nobody.
#[must_use]
pub fn allows(caller: &str, request: &KeyRequest) -> bool {
    match request {
        KeyRequest::OpenApdu { .. }
        | KeyRequest::OpenFrom { .. }
        | KeyRequest::Seal(_)
        | KeyRequest::ProbePlan { .. }
        | KeyRequest::OpenAssociation(_)
        | KeyRequest::ContinueHls { .. }
        | KeyRequest::Claim { .. }
        | KeyRequest::ReportClaim { .. }
        | KeyRequest::ClaimCertificate { .. }
        | KeyRequest::ReportKeyChange {
            outcome: ChangeOutcome::NoReply | ChangeOutcome::Reply { .. }, ..
        } => caller == HEADEND,
        KeyRequest::BeginKeyChange { .. } | KeyRequest::PendingChanges { .. } => caller == HEADEND,
        KeyRequest::PrepareKeyChange { .. }
        | KeyRequest::RaiseSuite { .. }
        | KeyRequest::MeterCertificate { .. }
        | KeyRequest::KeyStatus { .. }
        | KeyRequest::KeyHistory { .. }
        | KeyRequest::CompromisePlan { .. }
        | KeyRequest::KeyAct { act: KeyAct::Suspend | KeyAct::Resume, .. }
        | KeyRequest::ReportKeyChange { outcome: ChangeOutcome::Abandon, .. }
        | KeyRequest::Site(SiteRequest::Status)
        | KeyRequest::Consented(_) => caller == OPERATOR,
        KeyRequest::Deliver { .. }
        | KeyRequest::DeliverLabel { .. }
        | KeyRequest::SignRedirect { .. }
        | KeyRequest::OpenHello { .. }
        | KeyRequest::Challenge(_)
        | KeyRequest::OpenMessage { .. }
        | KeyRequest::Own { .. }
        | KeyRequest::ConfirmOwnership { .. }
        | KeyRequest::Provision(_)
        | KeyRequest::Finish { .. }
        | KeyRequest::SetState { .. }
        | KeyRequest::Recover { .. }
        | KeyRequest::Order(_)
        | KeyRequest::OpenPoll { .. }
        | KeyRequest::OpenResult { .. }
        | KeyRequest::ConfirmCommands { .. } => caller == ENDPOINT_MANAGER,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{string::String, vec, vec::Vec};
    use gridseal_types::{
        DeviceState, Digest, EkName, N16, Sid, SystemTitle, UtcTime,
        service::keys::{
            Approval, Bytes, Carrier, ClaimState, ConsentedAct, HlsStep, KeyKind, KeyRef, OpenAssociation,
            OrderAct, OrderRequest, Seal,
        },
    };

    const TITLE: SystemTitle = SystemTitle([7; 8]);
    const KEY: KeyRef = KeyRef { system_title: TITLE, kind: KeyKind::Guek, version: 1 };

    fn act(act: KeyAct) -> KeyRequest {
        let approvals = vec![Approval("a".into()), Approval("b".into())];
        KeyRequest::KeyAct { key: KEY, act, approvals, reason: String::new() }
    }

    fn report(outcome: ChangeOutcome) -> KeyRequest {
        KeyRequest::ReportKeyChange { change: N16([1; 16]), outcome }
    }

    /// Requests, and who may make them.
    fn all() -> Vec<(KeyRequest, &'static [&'static str])> {
        let seal = Seal {
            system_title: TITLE,
            apdu: vec![],
            carrier: Carrier::GeneralGlo,
            idempotency: N16([0; 16]),
        };
        let association = OpenAssociation { system_title: TITLE, mechanism: 5, candidate: 0 };
        let step = HlsStep::Challenge { server_to_client: vec![] };
        let finish = KeyRequest::Finish {
            sid: Sid([0; 16]),
            receipt: Digest([0; 32]),
            th6: Digest([0; 32]),
            th7: Digest([0; 32]),
            now: UtcTime(0),
            attested_at: UtcTime(0),
        };
        let consented = ConsentedAct { act: Bytes(vec![]), consents: vec![] };
        let device = EkName([0; EkName::SIZE]);
        let state = DeviceState::Operating;
        vec![
            (KeyRequest::OpenApdu { apdu: vec![] }, &[HEADEND]),
            (KeyRequest::OpenFrom { system_title: TITLE, apdu: vec![] }, &[HEADEND]),
            (KeyRequest::Seal(seal), &[HEADEND]),
            (KeyRequest::ProbePlan { system_title: TITLE }, &[HEADEND]),
            (KeyRequest::OpenAssociation(association), &[HEADEND]),
            (KeyRequest::ContinueHls { association: N16([0; 16]), step }, &[HEADEND]),
            (KeyRequest::BeginKeyChange { system_title: TITLE, items: vec![] }, &[HEADEND]),
            (KeyRequest::PendingChanges { after: None }, &[HEADEND]),
            (KeyRequest::PrepareKeyChange { system_title: TITLE, items: vec![] }, &[OPERATOR]),
            (KeyRequest::RaiseSuite { system_title: TITLE, suite: 1 }, &[OPERATOR]),
            (KeyRequest::MeterCertificate { system_title: TITLE, der: vec![] }, &[OPERATOR]),
            (KeyRequest::Claim { system_title: TITLE }, &[HEADEND]),
            (KeyRequest::ReportClaim { system_title: TITLE, apdu: vec![] }, &[HEADEND]),
            (KeyRequest::ClaimCertificate { system_title: TITLE, der: vec![] }, &[HEADEND]),
            (report(ChangeOutcome::NoReply), &[HEADEND]),
            (report(ChangeOutcome::Reply { apdu: vec![] }), &[HEADEND]),
            (report(ChangeOutcome::Abandon), &[OPERATOR]),
            (KeyRequest::KeyStatus { system_title: TITLE }, &[OPERATOR]),
            (KeyRequest::KeyHistory { system_title: TITLE }, &[OPERATOR]),
            (KeyRequest::CompromisePlan { key: KEY }, &[OPERATOR]),
            (act(KeyAct::Suspend), &[OPERATOR]),
            (act(KeyAct::Resume), &[OPERATOR]),
            (act(KeyAct::Compromise), &[]),
            (act(KeyAct::Destroy), &[]),
            (KeyRequest::SetClaim { system_title: TITLE, claim: ClaimState::Lost }, &[]),
            (KeyRequest::Site(SiteRequest::Status), &[OPERATOR]),
            (KeyRequest::Site(SiteRequest::Fence { epoch: 9 }), &[]),
            (KeyRequest::Consented(consented), &[OPERATOR]),
            (KeyRequest::SetState { device, state, attested_at: UtcTime(0) }, &[ENDPOINT_MANAGER]),
            (finish, &[ENDPOINT_MANAGER]),
            (KeyRequest::Recover { device }, &[ENDPOINT_MANAGER]),
            (KeyRequest::OpenPoll { wire: vec![] }, &[ENDPOINT_MANAGER]),
            (KeyRequest::OpenResult { wire: vec![] }, &[ENDPOINT_MANAGER]),
            (KeyRequest::ConfirmCommands { device, seq: 1, responses: vec![] }, &[ENDPOINT_MANAGER]),
            (
                KeyRequest::Order(OrderRequest { device, id: N16([0; 16]), act: OrderAct::Suspend }),
                &[ENDPOINT_MANAGER],
            ),
        ]
    }

    #[test]
    fn each_request_is_for_its_callers_and_for_nobody_else() {
        for (request, callers) in all() {
            for caller in CALLERS.iter().chain(&["config-server", "pki", "vend", ""]) {
                assert_eq!(allows(caller, &request), callers.contains(caller), "{caller}: {request:?}");
            }
        }
    }
}
