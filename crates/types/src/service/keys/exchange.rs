//! Requests and replies of the meters' traffic, of key changes and of sites.

use alloc::{string::String, vec::Vec};

use super::{Bytes, ChangePhase, ChangeStatus, DeviceKeyStatus, KeyKind, KeyRef};
use crate::{EkName, N16, SystemTitle, UtcTime};

/// How a sealed APDU is carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum Carrier {
    /// general-glo-ciphering, with the system title of the client.
    #[n(0)]
    GeneralGlo,
    /// The service's own ciphered form (glo-get-request and so on); the association knows the titles.
    #[n(1)]
    GloService,
}

/// One APDU to be sealed for a meter. Nonce, counter, key version and associated data are the key service's choice.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Seal {
    /// Meter.
    #[n(0)]
    pub system_title: SystemTitle,
    /// Plain APDU.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub apdu: Vec<u8>,
    /// Carrier.
    #[n(2)]
    pub carrier: Carrier,
    /// Names this seal: the same one within ten minutes gets the same bytes. [`Seal::UNNAMED`] is not remembered: asked
    /// for again, the APDU is sealed anew under the next counter. Named ones are limited to about a million in ten
    /// minutes.
    #[n(3)]
    pub idempotency: N16,
}

impl Seal {
    /// Names no seal: for what may be sent twice, as every GET may.
    pub const UNNAMED: N16 = N16([0; 16]);
}

/// What a meter did with a key transfer, as its head-end tells.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum ChangeOutcome {
    /// No answer came.
    #[n(0)]
    NoReply,
    /// The answer, as it came; the key service verifies it.
    #[n(1)]
    Reply {
        /// Whole ciphered APDU.
        #[cbor(n(0), with = "minicbor::bytes")]
        apdu: Vec<u8>,
    },
    /// The operator gives the change up. What was sent stays known.
    #[n(2)]
    Abandon,
}

/// One person's consent, as the front of the service has verified it. Two different ones make dual control.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Approval(#[n(0)] pub String);

/// What is opened with a meter: an association's authentication.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct OpenAssociation {
    /// Meter.
    #[n(0)]
    pub system_title: SystemTitle,
    /// Authentication mechanism; 5 (GMAC) so far.
    #[n(1)]
    pub mechanism: u8,
    /// Place of the keys in the order of [`ProbePlan`], 0 for those in use. Others are tried within the same budget.
    ///
    /// [`ProbePlan`]: super::KeyRequest::ProbePlan
    #[n(2)]
    pub candidate: u8,
}

/// Next step of an association's authentication.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum HlsStep {
    /// The meter's challenge (StoC), from its AARE. Answer: the client's pass 3.
    #[n(0)]
    Challenge {
        /// 8 to 64 bytes.
        #[cbor(n(0), with = "minicbor::bytes")]
        server_to_client: Vec<u8>,
    },
    /// The client's InitiateRequest, to be sealed for the AARQ. Answer: [`ExchangeReply::Sealed`], a glo-initiateRequest.
    #[n(2)]
    Initiate {
        /// Plain InitiateRequest without a dedicated key.
        #[cbor(n(0), with = "minicbor::bytes")]
        apdu: Vec<u8>,
    },
    /// The meter's pass 4: return parameter of the ACTION. Answer: whether it is the meter.
    #[n(1)]
    Answer {
        /// Security control, counter, tag: 17 bytes.
        #[cbor(n(0), with = "minicbor::bytes")]
        answer: Vec<u8>,
    },
}

/// Acts on the site itself. Each needs the consent of two persons where it says so.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum SiteRequest {
    /// What this site is and in which state. No consent.
    #[n(0)]
    Status,
    /// Takes over: the next epoch of this site above every one it knows of. Two consents.
    #[n(1)]
    Promote {
        /// Highest epoch known from elsewhere: the other site, a witness.
        #[n(0)]
        above: u32,
        /// Consents.
        #[n(1)]
        approvals: Vec<Approval>,
    },
    /// Another site serves in a higher epoch: this one stops.
    #[n(2)]
    Fence {
        /// That epoch.
        #[n(0)]
        epoch: u32,
    },
    /// Serves again after this database was put back from a backup; of an outdated site only. Two consents.
    #[n(3)]
    Restore {
        /// Epoch that a witness has seen last; without it the marker outside the database has to be there.
        #[n(0)]
        witness: Option<u32>,
        /// Meters whose keys changed after the backup: each is put to `unknown` and probed.
        #[n(1)]
        changed_since: Vec<SystemTitle>,
        /// Consents.
        #[n(2)]
        approvals: Vec<Approval>,
    },
    /// Lets key changes be sent although no standby acknowledges, until a time. Two consents.
    #[n(4)]
    ApproveDegraded {
        /// Until when.
        #[n(0)]
        until: UtcTime,
        /// Consents.
        #[n(1)]
        approvals: Vec<Approval>,
    },
    /// Raises the sending counter of a meter with plain counters whose lease is in doubt. Two consents.
    #[n(5)]
    RaiseCounter {
        /// Meter.
        #[n(0)]
        system_title: SystemTitle,
        /// Lowest counter that was certainly not used: above everything that the service released, whether it was sent or
        /// not. The standby has the end of each block, because blocks of plain counters wait for it.
        #[n(1)]
        at_least: u32,
        /// Consents.
        #[n(2)]
        approvals: Vec<Approval>,
    },
    /// Brings in key versions and changes that another site made and did not replicate: rows as that site exports them.
    /// Every meter among them is put to `unknown`.
    #[n(6)]
    Reconcile {
        /// Rows, from [`SiteRequest::Export`] of the fenced site.
        #[n(0)]
        rows: Vec<ExportedRow>,
    },
    /// Rows of key versions and changes, for [`SiteRequest::Reconcile`]. A fenced site may answer it.
    #[n(7)]
    Export {
        /// Row after which to go on; empty at first.
        #[n(0)]
        after: Option<ExportedRow>,
    },
}

/// One row on its way between sites. Keys in it are envelopes.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct ExportedRow {
    /// Which table: 0 key versions, 1 key changes, 2 certificates of meters.
    #[n(0)]
    pub table: u8,
    /// Key.
    #[n(1)]
    pub key: Bytes,
    /// Value.
    #[n(2)]
    pub value: Bytes,
}

/// State of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum SiteMode {
    /// Serves.
    #[n(0)]
    Active,
    /// Follows another site and has not been promoted: reads only.
    #[n(1)]
    Standby,
    /// Has seen a higher epoch: reads only.
    #[n(2)]
    Fenced,
    /// Its database is older than its marker: reads only until it is restored.
    #[n(3)]
    Outdated,
}

impl SiteMode {
    /// Stable lower-case name, as printed and recorded.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Fenced => "fenced",
            Self::Outdated => "outdated",
        }
    }
}

/// What a site says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct SiteStatus {
    /// Index among the sites.
    #[n(0)]
    pub index: u8,
    /// Number of sites.
    #[n(1)]
    pub count: u8,
    /// Epoch.
    #[n(2)]
    pub epoch: u32,
    /// Highest epoch that it knows of: its own, one in which it was fenced, that of the marker outside the database.
    #[n(3)]
    pub highest: u32,
    /// State.
    #[n(4)]
    pub mode: SiteMode,
    /// Until when key changes may go without a standby.
    #[n(5)]
    pub degraded_until: UtcTime,
}

/// Why the key service does not do what it was asked for. Nothing changed; class A requests leave an audit entry.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum Denial {
    /// The request is not well-formed.
    #[n(0)]
    Malformed,
    /// No such device.
    #[n(1)]
    UnknownDevice,
    /// The device's state forbids it (rule S13).
    #[n(2)]
    StateForbids,
    /// The device's last attestation is too old (rule S13).
    #[n(3)]
    AttestationStale,
    /// Policy does not allow it: of APDUs, anything but GET of listed attributes (rule S9).
    #[n(4)]
    PolicyDenied,
    /// Consents are missing: two different persons.
    #[n(5)]
    NeedsApproval,
    /// The counter of this key and epoch is used up: the key has to be changed.
    #[n(6)]
    CounterExhausted,
    /// Which counters were used is not known since a restore: raise it, or change the key.
    #[n(7)]
    CounterDoubt,
    /// Another site serves, or this database is an older one.
    #[n(8)]
    Fenced {
        /// Highest epoch that is known.
        #[n(0)]
        epoch: u32,
    },
    /// No standby acknowledges, and nobody has approved going on without.
    #[n(9)]
    NoStandby,
    /// The idempotency key was used for another APDU.
    #[n(10)]
    IdempotencyConflict,
    /// The state of key, change or credentials does not allow it.
    #[n(11)]
    IllegalTransition,
    /// The key may be the only one that the meter knows, or its recipient period runs.
    #[n(12)]
    DestroyGuard,
    /// No such key version.
    #[n(13)]
    UnknownKey,
    /// No such key change.
    #[n(14)]
    UnknownChange,
    /// Another change of this device is not resolved.
    #[n(15)]
    ChangeInProgress {
        /// That change.
        #[n(0)]
        change: N16,
    },
    /// Too early: back-off, or the meter's lock-out threshold.
    #[n(16)]
    RetryLater {
        /// Not before.
        #[n(0)]
        at: UtcTime,
    },
    /// No such association, or its challenge was used.
    #[n(17)]
    UnknownAssociation,
    /// The meter's answer does not verify, or is one that was used before.
    #[n(18)]
    Rejected,
    /// Too many requests of this kind are remembered.
    #[n(19)]
    Busy,
    /// Restoring needs the marker outside the database or a witness.
    #[n(20)]
    NoWitness,
    /// What was given belongs to another tenant, device or site, or does not open.
    #[n(21)]
    ForeignRow,
    /// The consents are too old, reach too far ahead, were used before, or are for another epoch of the site.
    #[n(30)]
    ConsentUsed,
    /// Agreement on a key needs a signing key of the service and a certified one of the meter, of the suite.
    #[n(31)]
    NoCertificate,
    /// The certificate is not for this meter's signatures, its authority is not believed, or it comes too late.
    #[n(32)]
    BadCertificate,
    /// The key service has no room to put it on record; what only reads is answered.
    #[n(50)]
    StoreFull,
}

impl Denial {
    /// Stable name, as in logs and replies.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Malformed => "MALFORMED",
            Self::UnknownDevice => "UNKNOWN_DEVICE",
            Self::StateForbids => "STATE_FORBIDS",
            Self::AttestationStale => "ATTESTATION_STALE",
            Self::PolicyDenied => "POLICY_DENIED",
            Self::NeedsApproval => "NEEDS_APPROVAL",
            Self::CounterExhausted => "COUNTER_EXHAUSTED",
            Self::CounterDoubt => "COUNTER_DOUBT",
            Self::Fenced { .. } => "FENCED",
            Self::NoStandby => "NO_STANDBY",
            Self::IdempotencyConflict => "IDEMPOTENCY_CONFLICT",
            Self::IllegalTransition => "ILLEGAL_TRANSITION",
            Self::DestroyGuard => "DESTROY_GUARD",
            Self::UnknownKey => "UNKNOWN_KEY",
            Self::UnknownChange => "UNKNOWN_CHANGE",
            Self::ChangeInProgress { .. } => "CHANGE_IN_PROGRESS",
            Self::RetryLater { .. } => "RETRY_LATER",
            Self::UnknownAssociation => "UNKNOWN_ASSOCIATION",
            Self::Rejected => "REJECTED",
            Self::Busy => "BUSY",
            Self::NoWitness => "NO_WITNESS",
            Self::ForeignRow => "FOREIGN_ROW",
            Self::ConsentUsed => "CONSENT_USED",
            Self::StoreFull => "STORE_FULL",
            Self::NoCertificate => "NO_CERTIFICATE",
            Self::BadCertificate => "BAD_CERTIFICATE",
        }
    }

    /// Whether the same request may succeed later without anybody's act.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::AttestationStale | Self::NoStandby | Self::RetryLater { .. } | Self::Busy | Self::StoreFull
        )
    }
}

/// A sealed APDU, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Sealed {
    /// Whole ciphered APDU.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub apdu: Vec<u8>,
    /// Version of the encryption key.
    #[n(1)]
    pub version: u32,
    /// Invocation counter.
    #[n(2)]
    pub counter: u32,
}

/// Where a key change stands, and what is to be sent next, if anything.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct ChangeReply {
    /// The change.
    #[n(0)]
    pub status: ChangeStatus,
    /// ACTION key_transfer, sealed: to be sent to the meter now.
    #[n(1)]
    pub transfer: Option<Sealed>,
}

/// What a claim needs next.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum ClaimStep {
    /// A first contact under the factory's keys: an association with candidate 0.
    #[n(0)]
    Contact,
    /// Keys are being replaced.
    #[n(1)]
    Change(#[n(0)] ChangeReply),
    /// The factory's keys are to be shown closed: an association with this candidate, which must fail, then one with
    /// candidate 0.
    #[n(2)]
    Show {
        /// Place of the factory's pair.
        #[n(0)]
        candidate: u8,
    },
    /// The meter is the owner's alone, and that was shown.
    #[n(3)]
    Closed {
        /// When it was shown.
        #[n(0)]
        at: UtcTime,
    },
    /// A request for the meter, in suites 1 and 2, about its certificates: to be sent now, its answer to be reported.
    #[n(4)]
    Ask {
        /// The request.
        #[n(0)]
        sealed: Sealed,
        /// What it is about, for people.
        #[n(1)]
        what: String,
    },
    /// The owner's authority is to certify the meter's new key.
    #[n(5)]
    Certify(#[n(0)] CertifyRequest),
}

/// A meter's certificate request, and the key service's word that it is the meter's: signed with its key as a DLMS client
/// over a label, the device's name, the title and the request.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct CertifyRequest {
    /// Device.
    #[n(0)]
    pub device: EkName,
    /// Meter.
    #[n(1)]
    pub system_title: SystemTitle,
    /// PKCS#10, DER.
    #[n(2)]
    pub csr: Bytes,
    /// Signature r || s.
    #[n(3)]
    pub signature: Bytes,
}

/// One probe: a cheap GET under one pair of keys.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Probe {
    /// Place among the candidates, as for [`OpenAssociation::candidate`].
    #[n(0)]
    pub candidate: u8,
    /// Version of the authentication key.
    #[n(1)]
    pub gak_version: u32,
    /// The sealed GET.
    #[n(2)]
    pub sealed: Sealed,
}

/// A key that a compromise reaches, and how.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Reached {
    /// Key.
    #[n(0)]
    pub key: KeyRef,
    /// The key that leads to it; none for the first.
    #[n(1)]
    pub by: Option<KeyRef>,
    /// State it is in.
    #[n(2)]
    pub state: super::VersionState,
}

/// One entry of a meter's key history.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct HistoryEntry {
    /// When.
    #[n(0)]
    pub at: UtcTime,
    /// Act, as in the audit log.
    #[n(1)]
    pub act: String,
    /// What it says.
    #[n(2)]
    pub detail: String,
    /// Number of the audit entry.
    #[n(3)]
    pub sequence: u64,
}

/// Answers that are not of an onboarding.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum ExchangeReply {
    /// To a seal.
    #[n(0)]
    Sealed(#[n(0)] Sealed),
    /// To the begin or the report of a key change.
    #[n(1)]
    Change(#[n(0)] ChangeReply),
    /// To a probe plan.
    #[n(2)]
    Probes(#[n(0)] Vec<Probe>),
    /// To the start of an association: its handle and the client's challenge (CtoS) for the AARQ.
    #[n(3)]
    Association {
        /// Handle, good for this authentication alone.
        #[n(0)]
        association: N16,
        /// Challenge, 16 bytes.
        #[cbor(n(1), with = "minicbor::bytes")]
        client_to_server: Vec<u8>,
        /// System title of the client, for the AARQ.
        #[n(2)]
        client_title: SystemTitle,
    },
    /// The client's pass 3: parameter of the ACTION reply_to_HLS_authentication, and that ACTION sealed.
    #[n(4)]
    HlsReply {
        /// Security control, counter, tag: 17 bytes.
        #[cbor(n(0), with = "minicbor::bytes")]
        parameter: Vec<u8>,
        /// The whole ACTION, sealed under the next counter.
        #[n(1)]
        sealed: Sealed,
    },
    /// The meter has proved that it holds the keys.
    #[n(5)]
    HlsVerified,
    /// State of a meter's keys.
    #[n(6)]
    Status(#[n(0)] DeviceKeyStatus),
    /// History of a meter's keys, oldest first.
    #[n(7)]
    History(#[n(0)] Vec<HistoryEntry>),
    /// What a compromise reaches, the first key first.
    #[n(8)]
    Compromise {
        /// Keys.
        #[n(0)]
        reached: Vec<Reached>,
        /// Devices that need new keys.
        #[n(1)]
        devices: Vec<SystemTitle>,
    },
    /// State of the site.
    #[n(9)]
    Site(#[n(0)] SiteStatus),
    /// Rows for another site; the last one is where the next export goes on.
    #[n(10)]
    Rows(#[n(0)] Vec<ExportedRow>),
    /// What was brought in: meters that are to be probed.
    #[n(11)]
    Reconciled {
        /// Meters.
        #[n(0)]
        devices: Vec<SystemTitle>,
    },
    /// Denied; nothing changed.
    #[n(12)]
    Denied(#[n(0)] Denial),
    /// Meters whose key change is not resolved, ascending.
    #[n(20)]
    Pending {
        /// Meters.
        #[n(0)]
        meters: Vec<SystemTitle>,
        /// Whether none comes after them.
        #[n(1)]
        is_last: bool,
    },
    /// To a claim.
    #[n(21)]
    Claim(#[n(0)] ClaimStep),
}

/// An act on one key.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum KeyAct {
    /// Holds it back.
    #[n(0)]
    Suspend,
    /// Lifts that.
    #[n(1)]
    Resume,
    /// Declares it known to others, and everything it leads to. Two consents.
    #[n(2)]
    Compromise,
    /// Overwrites it, if no meter can be stranded by that. Two consents; they also end the recipient period.
    #[n(3)]
    Destroy,
}

/// Names of [`KeyKind`]s in one line, for logs: `guek+gak`.
#[must_use]
pub fn kinds_name(kinds: &[KeyKind]) -> String {
    kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join("+")
}

impl core::fmt::Display for ChangePhase {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
