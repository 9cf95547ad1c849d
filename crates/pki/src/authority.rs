//! The service as a function: who may have which certificate, and what has to be on record before it leaves.

use std::{collections::BTreeMap, time::Duration};

use const_oid::ObjectIdentifier;
use gridseal_crypto::{Rng, Signer};
use gridseal_trust::party::parse_csr;
use gridseal_types::{
    Code, Digest, EkName, UtcTime,
    service::{
        certificates::{CertificateReply, CertificateRequest},
        keys::{Bytes, CertifyRequest},
    },
};

use crate::{
    Certificate, Csr, Draft, DraftError, IssueError, Issuer, PartyAuthority, SubjectName, Validity,
    profile::{self, Device},
};

/// The only service that asks for LDevIDs.
pub const ENDPOINT_MANAGER: &str = "endpoint-manager";
/// The service that carries requests of meters which the key service vouches for.
const HEADEND: &str = "headend";

/// How far a certificate starts before the moment of issue: clocks of our own machines differ by less.
const BACKDATE: Duration = Duration::from_secs(300);

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A device.
    Device(EkName),
    /// A service, by name.
    Service(String),
}

/// One issued certificate, to be durable before it leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRecord {
    /// Whom it is for.
    pub holder: Holder,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: Digest,
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// End of validity.
    pub not_after: UtcTime,
    /// When it was issued.
    pub issued_at: UtcTime,
}

/// The records could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("certificate records could not be read")]
pub struct RecordsError;

/// What the authority has issued: a port of the storage.
pub trait CertificateRecords {
    /// The newest certificate for a public key (SHA-256 of its SubjectPublicKeyInfo), whoever holds it.
    ///
    /// # Errors
    /// [`RecordsError`] when that cannot be known; nothing is issued then.
    fn newest_for_key(&self, key: &Digest) -> Result<Option<CertificateRecord>, RecordsError>;
}

/// A request with what the decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The request.
    pub request: &'a CertificateRequest,
    /// Name of the calling service, as its own certificate has proven it.
    pub caller: &'a str,
    /// The authority's own clock.
    pub now: UtcTime,
}

/// What the owner decided.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Life of an LDevID, at most 8 years. Like the other, it begins five minutes before the moment of issue.
    pub ldevid_lifetime: Duration,
    /// Life of a server certificate, at most 24 hours.
    pub server_lifetime: Duration,
    /// Services that may have a server certificate for themselves, and under which names they are reached.
    pub servers: BTreeMap<String, Vec<SubjectName>>,
    /// hwType of the meters, an arc of the manufacturer's.
    pub hardware_type: ObjectIdentifier,
}

impl Default for Settings {
    /// LDevIDs of 8 years, servers of a day, no server; the hardware type is under the arc for examples (RFC 5612).
    fn default() -> Self {
        Self {
            ldevid_lifetime: Duration::from_secs(8 * 365 * 86_400),
            server_lifetime: Duration::from_secs(86_400),
            servers: BTreeMap::new(),
            hardware_type: ObjectIdentifier::new_unwrap("1.3.6.1.4.1.32473.1"),
        }
    }
}

/// A certificate authority: an issuing key under a root.
#[derive(Debug)]
pub struct Authority<S> {
    issuer: Issuer<S>,
    root: Certificate,
    settings: Settings,
    parties: Vec<PartyAuthority>,
}

impl<S: Signer> Authority<S> {
    /// Puts the authority together.
    ///
    /// # Errors
    /// [`IssueError::NotAnAuthority`] when the root did not sign the issuer's certificate.
    pub fn new(issuer: Issuer<S>, root: Certificate, settings: Settings) -> Result<Self, IssueError> {
        if root.has_signed(issuer.certificate()) {
            Ok(Self { issuer, root, settings, parties: Vec::new() })
        } else {
            Err(IssueError::NotAnAuthority)
        }
    }

    /// Certificates of the issuing authority and of its root, DER.
    #[must_use]
    pub fn chain(&self) -> [&[u8]; 2] {
        [self.issuer.certificate().der(), self.root.der()]
    }

    /// The same with authorities of DLMS parties.
    #[must_use]
    pub fn with_parties(self, parties: Vec<PartyAuthority>) -> Self {
        Self { parties, ..self }
    }

    /// Decides on one request.
    ///
    /// The record, if there is one, must be durable, and visible through `records`, before the reply leaves and before the
    /// next decision (rule S2). The same holder and key get the certificate on record again, so a repeated request costs
    /// nothing and changes nothing.
    ///
    /// Refusals: [`Code::Refused`] for a caller without the right, [`Code::Csr`] for a request without proof of possession
    /// or for a key that another holder has, [`Code::Format`] for texts that fit no certificate, [`Code::Time`] when the
    /// authority itself is not valid by its clock, [`Code::Busy`] when records, randomness or key store failed.
    pub fn decide(
        &self,
        call: Call<'_>,
        rng: &mut dyn Rng,
        records: &impl CertificateRecords,
    ) -> (CertificateReply, Option<CertificateRecord>) {
        match self.attempt(call, rng, records) {
            Ok(issued) => issued,
            Err(code) => (CertificateReply::Refused { code }, None),
        }
    }

    fn attempt(
        &self,
        call: Call<'_>,
        rng: &mut dyn Rng,
        records: &impl CertificateRecords,
    ) -> Result<(CertificateReply, Option<CertificateRecord>), Code> {
        if let CertificateRequest::Party(request) = call.request {
            return self.certify_party(request, call, rng, records);
        }
        let own = self.issuer.certificate();
        if call.now < own.not_before() || call.now > own.not_after() {
            return Err(Code::Time);
        }
        let Wanted { holder, key, rest_min, draft } = self.wanted(call)?;
        if let Some(record) = records.newest_for_key(&key).map_err(|_| Code::Busy)? {
            if record.holder != holder {
                return Err(Code::Csr);
            }
            if let Some(certificate) = self.still_good(&record, rest_min, call.now) {
                return Ok((self.reply(&certificate), None));
            }
        }
        let certificate = self.issuer.issue(draft, rng).map_err(|_| Code::Busy)?;
        let record = CertificateRecord {
            holder,
            key,
            serial: certificate.serial().to_vec(),
            certificate: certificate.der().to_vec(),
            not_after: certificate.not_after(),
            issued_at: call.now,
        };
        Ok((self.reply(&certificate), Some(record)))
    }

    /// A meter's certificate as a DLMS party. The authority follows from the key that is in the request.
    fn certify_party(
        &self,
        request: &CertifyRequest,
        call: Call<'_>,
        rng: &mut dyn Rng,
        records: &impl CertificateRecords,
    ) -> Result<(CertificateReply, Option<CertificateRecord>), Code> {
        if call.caller != HEADEND {
            return Err(Code::Refused);
        }
        let (_, key) = parse_csr(&request.csr.0).map_err(|_| Code::Csr)?;
        let authority = self.parties.iter().find(|authority| authority.curve() == key.curve());
        let authority = authority.ok_or(Code::Refused)?;
        let (der, not_after, record) = authority.decide(request, call.now, rng, records)?;
        let chain = vec![Bytes(der)];
        Ok((CertificateReply::Issued { chain, root: authority.der().to_vec(), not_after }, record))
    }

    /// Whom the request is for and what the certificate would say, if the caller may ask.
    fn wanted(&self, call: Call<'_>) -> Result<Wanted, Code> {
        let (holder, csr, rest_min, draft) = match call.request {
            CertificateRequest::LDevId { device, serial, model, csr } if call.caller == ENDPOINT_MANAGER => {
                let csr = Csr(csr).parse()?;
                let validity = self.validity(call.now, self.settings.ldevid_lifetime);
                let device_texts = Device { serial, model, hardware_type: self.settings.hardware_type };
                let draft = profile::ldevid(device_texts, csr.key(), validity);
                (Holder::Device(*device), csr, Duration::ZERO, draft)
            }
            CertificateRequest::Server { csr } => {
                let names = self.settings.servers.get(call.caller).ok_or(Code::Refused)?;
                let csr = Csr(csr).parse()?;
                let validity = self.validity(call.now, self.settings.server_lifetime);
                let draft = profile::server(call.caller, names, csr.key(), validity);
                let half = self.settings.server_lifetime / 2;
                (Holder::Service(call.caller.to_owned()), csr, half, draft)
            }
            _ => return Err(Code::Refused),
        };
        let draft = draft.map_err(|error| match error {
            DraftError::Text | DraftError::ServerName => Code::Format,
            DraftError::Encoding => Code::Busy,
        })?;
        Ok(Wanted { holder, key: csr.key_hash(), rest_min, draft })
    }

    /// From a little before `now` on; no certificate outlives its authority.
    fn validity(&self, now: UtcTime, lifetime: Duration) -> Validity {
        let wanted = Validity::starting(UtcTime(now.0.saturating_sub(BACKDATE.as_secs())), lifetime);
        let authority = self.issuer.certificate();
        Validity {
            not_before: wanted.not_before.max(authority.not_before()),
            not_after: wanted.not_after.min(authority.not_after()),
        }
    }

    /// The certificate on record, if it serves for longer than `rest_min` and this authority made it.
    fn still_good(
        &self,
        record: &CertificateRecord,
        rest_min: Duration,
        now: UtcTime,
    ) -> Option<Certificate> {
        let certificate = Certificate::parse(&record.certificate)?;
        let rest = certificate.not_after().0.checked_sub(now.0)?;
        let is_ours = self.issuer.certificate().has_signed(&certificate);
        // One that begins later was made when this clock was fast, and serves nobody before.
        let has_begun = certificate.not_before() <= now;
        (is_ours && has_begun && rest > rest_min.as_secs()).then_some(certificate)
    }

    fn reply(&self, certificate: &Certificate) -> CertificateReply {
        let chain = [certificate, self.issuer.certificate()];
        CertificateReply::Issued {
            chain: chain.map(|certificate| Bytes(certificate.der().to_vec())).into(),
            root: self.root.der().to_vec(),
            not_after: certificate.not_after(),
        }
    }
}

/// A request that the caller may make.
struct Wanted {
    holder: Holder,
    key: Digest,
    /// Life that a certificate on record must have left to be given again.
    rest_min: Duration,
    draft: Draft,
}
