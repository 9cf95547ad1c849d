//! Consents: two persons sign an act, and the core itself verifies both. A name in a request is none: whoever has taken
//! `keys` over could write any.

use alloc::{string::String, vec::Vec};

use gridseal_crypto::PublicKey;
use gridseal_types::{
    records::{Records, Table},
    service::keys::{
        Approval, CONSENT_PERIOD_S, ClaimState, ConsentedAct, Denial, KeyAct, KeyReply, KeyRequest,
        ProposedAct, SiteMode, SiteRequest,
    },
};

use crate::{
    acts::{dual_control, names},
    core::{Stop, Work, name_of},
};

/// Acts that were carried out, by their identifier, with their end of validity.
pub const CONSENTS: Table = "key_consents";
/// Consents of one act.
const CONSENTS_MAX: usize = 8;

/// A person whose consent counts.
#[derive(Debug, Clone)]
pub struct Approver {
    /// Name, as in the audit log.
    pub name: String,
    /// Key that signs this person's consents.
    pub key: PublicKey,
}

/// Whether an act may be proposed to two persons.
#[must_use]
pub const fn needs_consent(request: &KeyRequest) -> bool {
    matches!(
        request,
        KeyRequest::KeyAct { act: KeyAct::Compromise | KeyAct::Destroy, .. }
            | KeyRequest::SetClaim { claim: ClaimState::Lost, .. }
            | KeyRequest::Site(
                SiteRequest::Promote { .. }
                    | SiteRequest::Fence { .. }
                    | SiteRequest::Restore { .. }
                    | SiteRequest::ApproveDegraded { .. }
                    | SiteRequest::RaiseCounter { .. }
            )
    )
}

/// The same request with these consents in place of those in it.
pub(crate) fn with_approvals(mut request: KeyRequest, verified: Vec<Approval>) -> KeyRequest {
    match &mut request {
        KeyRequest::KeyAct { approvals, .. }
        | KeyRequest::Site(
            SiteRequest::Promote { approvals, .. }
            | SiteRequest::Restore { approvals, .. }
            | SiteRequest::ApproveDegraded { approvals, .. }
            | SiteRequest::RaiseCounter { approvals, .. },
        ) => *approvals = verified,
        _ => {}
    }
    request
}

impl<R: Records> Work<'_, R> {
    /// Carries an act out that two persons have signed.
    pub(crate) fn consented(&mut self, consented: &ConsentedAct) -> Result<KeyReply, Stop> {
        let act: ProposedAct = minicbor::decode(&consented.act.0).map_err(|_| Denial::Malformed)?;
        let request: KeyRequest = minicbor::decode(&act.request.0).map_err(|_| Denial::Malformed)?;
        if !needs_consent(&request) {
            return Err(Denial::PolicyDenied.into());
        }
        if self.site.mode != SiteMode::Active && !matches!(request, KeyRequest::Site(_)) {
            return Err(Denial::Fenced { epoch: self.site.row.highest }.into());
        }
        let is_in_time =
            self.now <= act.not_after && act.not_after.0.saturating_sub(self.now.0) <= CONSENT_PERIOD_S;
        if !is_in_time || self.records.get(CONSENTS, act.id.as_bytes())?.is_some() {
            return Err(Denial::ConsentUsed.into());
        }
        let approvals = self.persons(consented)?;
        dual_control(&approvals)?;
        if let (Some((from, to)), KeyRequest::Site(site)) = (act.epochs, &request) {
            // What the two persons have read is what comes of it, or nothing does.
            if self.site.row.epoch != from || self.epoch_after(site)? != Some(to) {
                return Err(Denial::ConsentUsed.into());
            }
        }
        let detail = alloc::format!("{} {}: {}", name_of(&request), names(&approvals), act.reason);
        let reply = self.control(with_approvals(request, approvals))?;
        self.records.put(CONSENTS, act.id.as_bytes(), act.not_after.0.to_be_bytes().to_vec());
        self.audit("act.consented", &act.id, &detail)?;
        Ok(reply)
    }

    /// Those whose signatures verify. One that does not refuses the whole: nobody puts it there in good faith.
    fn persons(&self, consented: &ConsentedAct) -> Result<Vec<Approval>, Denial> {
        let approvers = self.core.approvers.as_deref().unwrap_or_default();
        if consented.consents.len() > CONSENTS_MAX {
            return Err(Denial::Malformed);
        }
        let signed = ProposedAct::to_be_signed(&consented.act.0);
        let verified = |consent: &gridseal_types::service::keys::Consent| {
            let person = approvers.iter().find(|approver| approver.name == consent.by)?;
            person.key.verifies(&signed, &consent.signature).then(|| Approval(person.name.clone()))
        };
        consented.consents.iter().map(verified).collect::<Option<_>>().ok_or(Denial::NeedsApproval)
    }
}
