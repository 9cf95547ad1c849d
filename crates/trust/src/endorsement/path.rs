//! The path from a device's certificate to a trust anchor of the owner.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "judges bytes from outside"
)]

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use gridseal_crypto::{ForeignKey, tpm::EndorsementKey};
use gridseal_types::{Digest, UtcTime};

use super::{
    CHAIN_MAX, Certificate, Fault, RevocationList, TpmModel,
    certificate::{KEY_AGREEMENT, KEY_ENCIPHERMENT},
};

/// Longest path: the device's certificate, at most three authorities, the anchor.
const PATH_MAX: usize = 5;
/// Most signatures that are verified for one device, whatever it presents.
const SIGNATURES_MAX: usize = 16;

/// Whom the owner believes about the TPMs of a model.
#[derive(Clone, Debug, Default)]
pub struct Issuers {
    anchors: Vec<Certificate>,
    intermediates: Vec<Certificate>,
    lists: Vec<RevocationList>,
    manufacturers: Vec<String>,
}

/// What a certificate that was believed says.
#[derive(Clone, PartialEq, Eq, Debug, minicbor::Encode, minicbor::Decode)]
pub struct Assured {
    /// The TPM.
    #[n(0)]
    pub tpm: TpmModel,
    /// SHA-256 of each certificate of the path, the device's first, the anchor last.
    #[n(1)]
    pub path: Vec<Digest>,
}

/// What the owner wants to see of endorsement keys.
#[derive(Clone, Debug, Default)]
pub struct Endorsements {
    models: BTreeMap<String, Issuers>,
    others: Option<Issuers>,
    /// Whether every device must show a certificate that is believed.
    pub required: bool,
}

impl Endorsements {
    /// Nobody is believed yet.
    #[must_use]
    pub fn new(required: bool) -> Self {
        Self { required, ..Self::default() }
    }

    /// Says who is believed about the TPMs of these models; of all other models when there are none.
    pub fn believe(&mut self, models: &[String], issuers: &Issuers) {
        if models.is_empty() {
            self.others = Some(issuers.clone());
        }
        for model in models {
            self.models.insert(model.clone(), issuers.clone());
        }
    }

    /// Judges what was presented for a device: `None` when nobody is named who could be believed about its model, or when
    /// nothing was presented. Then the manufacturer's manifest is the only anchor.
    ///
    /// # Errors
    /// [`Fault`] of [`Issuers::judge`].
    pub fn judge(
        &self,
        model: &str,
        endorsement: &EndorsementKey,
        chain: &[Vec<u8>],
        now: UtcTime,
    ) -> Result<Option<Assured>, Fault> {
        match self.models.get(model).or(self.others.as_ref()) {
            Some(issuers) if !chain.is_empty() => issuers.judge(endorsement, chain, now).map(Some),
            _ => Ok(None),
        }
    }
}

impl Issuers {
    /// Adds a trust anchor: a self-signed root, or any authority that the owner believes by itself.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be read, or is no authority with a key that is supported.
    pub fn anchor(&mut self, der: &[u8]) -> Result<(), Fault> {
        let certificate = Certificate::parse(der)?;
        if certificate.key.is_none() {
            return Err(Fault::Algorithm);
        }
        if !certificate.may_issue(0) {
            return Err(Fault::Authority);
        }
        self.anchors.push(certificate);
        Ok(())
    }

    /// Adds an authority that has to be certified by an anchor; one that cannot be read is left out. Whether it was taken.
    pub fn intermediate(&mut self, der: &[u8]) -> bool {
        let Ok(certificate) = Certificate::parse(der) else { return false };
        self.intermediates.push(certificate);
        true
    }

    /// Adds a revocation list.
    pub fn revocation_list(&mut self, list: RevocationList) {
        self.lists.push(list);
    }

    /// Allows this TPM manufacturer, for example `id:53544D20`; without any all are allowed.
    pub fn manufacturer(&mut self, id: &str) {
        self.manufacturers.push(id.into());
    }

    /// Judges the certificate of an endorsement key; `chain` is the device's certificate and what was presented with it.
    ///
    /// # Errors
    /// The first [`Fault`] in the order: size, format, key, purpose, attributes, manufacturer, time, path, revocation.
    ///
    /// # Source
    /// Onboarding specification, section 4.
    pub fn judge(
        &self,
        endorsement: &EndorsementKey,
        chain: &[Vec<u8>],
        now: UtcTime,
    ) -> Result<Assured, Fault> {
        if chain.len() > CHAIN_MAX {
            return Err(Fault::Size);
        }
        let (leaf, presented) = chain.split_first().ok_or(Fault::Missing)?;
        let leaf = Certificate::parse(leaf)?;
        let presented =
            presented.iter().map(|der| Certificate::parse(der)).collect::<Result<Vec<_>, Fault>>()?;
        self.judge_leaf(endorsement, &leaf, now)?;
        let pool: Vec<&Certificate> = presented.iter().chain(&self.intermediates).collect();
        let mut search = Search { issuers: self, pool: &pool, now, signatures: 0, worst: Fault::NoPath };
        let mut path = alloc::vec![&leaf];
        if !search.extend(&mut path) {
            return Err(search.worst);
        }
        let path = path.iter().map(|certificate| certificate.fingerprint).collect();
        Ok(Assured { tpm: leaf.extensions.tpm, path })
    }

    fn judge_leaf(
        &self,
        endorsement: &EndorsementKey,
        leaf: &Certificate,
        now: UtcTime,
    ) -> Result<(), Fault> {
        let extensions = &leaf.extensions;
        let is_same = match (&leaf.key, endorsement) {
            (Some(ForeignKey::P256(key)), EndorsementKey::P256(own)) => key == own,
            (Some(ForeignKey::Rsa(key)), EndorsementKey::Rsa2048(own)) => key == own,
            _ => false,
        };
        if !is_same {
            return Err(Fault::OtherKey);
        }
        if extensions.is_authority {
            return Err(Fault::Authority);
        }
        if extensions.has_unknown_critical {
            return Err(Fault::CriticalExtension);
        }
        let wanted = match endorsement {
            EndorsementKey::P256(_) => KEY_AGREEMENT,
            EndorsementKey::Rsa2048(_) => KEY_ENCIPHERMENT,
        };
        if !extensions.is_endorsement || extensions.key_usage.is_some_and(|usage| usage & wanted == 0) {
            return Err(Fault::Purpose);
        }
        let tpm = &extensions.tpm;
        if tpm.manufacturer.is_empty() || tpm.model.is_empty() || tpm.version.is_empty() {
            return Err(Fault::Attributes);
        }
        let is_allowed = |id: &String| id.eq_ignore_ascii_case(&tpm.manufacturer);
        if !self.manufacturers.is_empty() && !self.manufacturers.iter().any(is_allowed) {
            return Err(Fault::Manufacturer);
        }
        if leaf.is_valid_at(now) { Ok(()) } else { Err(Fault::Time) }
    }
}

/// A depth-first search for a path, bounded in depth and in signatures.
struct Search<'s> {
    issuers: &'s Issuers,
    pool: &'s [&'s Certificate],
    now: UtcTime,
    signatures: usize,
    /// What stood in the way of the path that came furthest.
    worst: Fault,
}

impl<'s> Search<'s> {
    /// Extends a path by an issuer until an anchor ends it; whether one was found.
    fn extend(&mut self, path: &mut Vec<&'s Certificate>) -> bool {
        let Some(last) = path.last().copied() else { return false };
        if path.len() >= PATH_MAX {
            return false;
        }
        let issuers = self.issuers;
        for anchor in issuers.anchors.iter().filter(|anchor| anchor.subject == last.issuer) {
            if self.steps(path, last, anchor) {
                path.push(anchor);
                return true;
            }
        }
        let pool = self.pool;
        for issuer in pool.iter().copied().filter(|issuer| issuer.subject == last.issuer) {
            let is_used = path.iter().any(|used| used.fingerprint == issuer.fingerprint);
            if is_used || !self.steps(path, last, issuer) {
                continue;
            }
            if !issuer.is_valid_at(self.now) {
                self.worst = Fault::Time;
                continue;
            }
            path.push(issuer);
            if self.extend(path) {
                return true;
            }
            path.pop();
        }
        false
    }

    /// Whether `issuer` may and did issue `last`, and has not revoked it.
    fn steps(&mut self, path: &[&Certificate], last: &Certificate, issuer: &Certificate) -> bool {
        // Authorities between the issuer and the device's certificate.
        if !issuer.may_issue(path.len().saturating_sub(1)) {
            return false;
        }
        self.signatures = self.signatures.saturating_add(1);
        if self.signatures > SIGNATURES_MAX {
            return false;
        }
        if let Err(fault) = last.is_signed_by(issuer) {
            self.worst = fault;
            return false;
        }
        if self.issuers.lists.iter().any(|list| list.revokes(last, issuer)) {
            self.worst = Fault::Revoked;
            return false;
        }
        true
    }
}
