//! What the endpoint manager and the head-end may ask of the key service. No reply holds a key value; every secret that
//! the endpoint manager deals with stays behind these requests (rule Z1).

mod consent;
mod exchange;
mod order;
mod state;

pub use consent::{CONSENT_PERIOD_S, Consent, ConsentedAct, ProposedAct};
pub use exchange::{
    Approval, Carrier, CertifyRequest, ChangeOutcome, ChangeReply, ClaimStep, Denial, ExchangeReply,
    ExportedRow, HistoryEntry, HlsStep, KeyAct, OpenAssociation, Probe, Reached, Seal, Sealed, SiteMode,
    SiteRequest, SiteStatus, kinds_name,
};
pub use order::{OrderAct, OrderRequest, ProvisionOrder, SealedOrder, TunnelPurpose, Tunnelled};
pub use state::{
    ChangePhase, ChangeStatus, ClaimState, DeviceKeyStatus, KeyKind, KeyOrigin, KeyRef, VersionState,
    VersionStatus,
};

use alloc::{string::String, vec::Vec};

use crate::{Code, Digest, EkName, Epoch, Kid, N16, OrderSeq, Sid, SystemTitle, UtcTime};

/// One request to the key service.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum KeyRequest {
    /// Opens a delivery record (COSE_Encrypt to the owner's encryption key) and keeps the owner secret in it.
    /// Endpoint manager. Answer: [`KeyReply::Delivered`].
    #[n(0)]
    Deliver {
        /// One encoded NRecord.
        #[cbor(n(0), with = "minicbor::bytes")]
        record: Vec<u8>,
        /// System title that the manifest announces: APDUs of this device are opened under it.
        #[n(1)]
        system_title: SystemTitle,
    },
    /// Opens an owner secret that a person typed from label B, encrypted to the owner's encryption key by the tool, and keeps
    /// it when the voucher's header commits to it. Endpoint manager. Answer: [`KeyReply::Delivered`].
    #[n(30)]
    DeliverLabel {
        /// One encoded record, as [`KeyRequest::Deliver`] has it but for its type.
        #[cbor(n(0), with = "minicbor::bytes")]
        record: Vec<u8>,
        /// Encoded voucher.
        #[cbor(n(1), with = "minicbor::bytes")]
        voucher: Vec<u8>,
        /// System title that the manifest announces.
        #[n(2)]
        system_title: SystemTitle,
    },
    /// Signs a redirect payload with the delegated key. Endpoint manager. Answer: [`KeyReply::Signed`].
    #[n(1)]
    SignRedirect {
        /// Encoded RedirectP.
        #[cbor(n(0), with = "minicbor::bytes")]
        payload: Vec<u8>,
    },
    /// Opens the seal of a C1. Endpoint manager. Answer: [`KeyReply::Hello`].
    #[n(2)]
    OpenHello {
        /// The whole wire message.
        #[cbor(n(0), with = "minicbor::bytes")]
        wire: Vec<u8>,
    },
    /// Begins a session: credential, salts, grant, signature and seal of C2. Endpoint manager.
    /// Answer: [`KeyReply::Sealed`]; the same C1 gets the same bytes again.
    #[n(3)]
    Challenge(#[n(0)] Challenge),
    /// Opens C3, C5 or C7 of a session. Endpoint manager. Answer: [`KeyReply::Opened`].
    #[n(4)]
    OpenMessage {
        /// Session.
        #[n(0)]
        sid: Sid,
        /// The whole wire message.
        #[cbor(n(1), with = "minicbor::bytes")]
        wire: Vec<u8>,
    },
    /// Builds, signs and seals the ownership commands (C4). Endpoint manager. Answer: [`KeyReply::Sealed`].
    #[n(5)]
    Own {
        /// Session.
        #[n(0)]
        sid: Sid,
        /// Proof of the activated credential as the meter sent it; a wrong one is refused with `E_ACT`.
        #[n(1)]
        act: Digest,
        /// Transcript after C3.
        #[n(2)]
        th3: Digest,
        /// TPM sessions that the meter opened, for the owner and for the lockout hierarchy.
        #[n(3)]
        sessions: [TpmSession; 2],
        /// TPM_PT_PERMANENT as reported: bit 0 ownerAuthSet, bit 2 lockoutAuthSet.
        #[n(4)]
        permanent: u32,
    },
    /// Checks the response HMACs of C5 and records the ownership. Endpoint manager. Answer: [`KeyReply::Done`].
    #[n(6)]
    ConfirmOwnership {
        /// Session.
        #[n(0)]
        sid: Sid,
        /// Whole TPM responses, in the order of the commands.
        #[n(1)]
        responses: Vec<Bytes>,
    },
    /// Makes the device's channel secrets, wraps them to its storage key, signs and seals C6. Endpoint manager.
    /// Answer: [`KeyReply::Provisioned`].
    #[n(7)]
    Provision(#[n(0)] Provision),
    /// Checks the receipt of C7, then signs and seals C8. Endpoint manager. Answer: [`KeyReply::Sealed`].
    #[n(8)]
    Finish {
        /// Session.
        #[n(0)]
        sid: Sid,
        /// Receipt as the meter sent it.
        #[n(1)]
        receipt: Digest,
        /// Transcript after C6, which the receipt covers.
        #[n(2)]
        th6: Digest,
        /// Transcript after C7, which C8 covers.
        #[n(3)]
        th7: Digest,
        /// Time for the meter's floor clock.
        #[n(4)]
        now: UtcTime,
        /// When this session's evidence was verified (rule S13).
        #[n(5)]
        attested_at: UtcTime,
    },
    /// Tells the state of a device, so that seal and open follow it (rule S13). Endpoint manager.
    /// Answer: [`KeyReply::Done`].
    #[n(9)]
    SetState {
        /// Device.
        #[n(0)]
        device: EkName,
        /// New state.
        #[n(1)]
        state: crate::DeviceState,
        /// When its attestation was last verified.
        #[n(2)]
        attested_at: UtcTime,
    },
    /// Opens one ciphered APDU of a meter; idempotent. Head-end. Answer: [`KeyReply::Apdu`].
    #[n(10)]
    OpenApdu {
        /// The whole general-glo-ciphering APDU.
        #[cbor(n(0), with = "minicbor::bytes")]
        apdu: Vec<u8>,
    },
    /// Opens an APDU whose carrier names no originator (glo-get-response and so on), or names this one. Head-end.
    /// Answer: [`KeyReply::Apdu`].
    #[n(11)]
    OpenFrom {
        /// Meter, as association or connection knows it.
        #[n(0)]
        system_title: SystemTitle,
        /// The whole ciphered APDU.
        #[cbor(n(1), with = "minicbor::bytes")]
        apdu: Vec<u8>,
    },
    /// Seals one APDU for a meter. Head-end. Answer: [`ExchangeReply::Sealed`].
    #[n(12)]
    Seal(#[n(0)] Seal),
    /// Begins the change of a meter's keys, or goes on with the one that is not resolved, and gives what is to be sent now.
    /// The master key is changed alone. Head-end. Answer: [`ExchangeReply::Change`].
    #[n(13)]
    BeginKeyChange {
        /// Meter.
        #[n(0)]
        system_title: SystemTitle,
        /// Keys to replace; none: only goes on with a change that there is.
        #[n(1)]
        items: Vec<KeyKind>,
    },
    /// Prepares the change of a meter's keys, or shows the one that is not resolved. Nothing leaves by it: the meter's
    /// head-end finds it in [`KeyRequest::PendingChanges`]. Operator. Answer: [`ExchangeReply::Change`], without a transfer.
    #[n(60)]
    PrepareKeyChange {
        /// Meter.
        #[n(0)]
        system_title: SystemTitle,
        /// Keys to replace.
        #[n(1)]
        items: Vec<KeyKind>,
    },
    /// Prepares the key change that raises a meter's security suite; there is no way down. Nothing leaves by it. Operator.
    /// Answer: [`ExchangeReply::Change`], without a transfer.
    #[n(64)]
    RaiseSuite {
        /// Meter.
        #[n(0)]
        system_title: SystemTitle,
        /// Suite, 1 or 2.
        #[n(1)]
        suite: u8,
    },
    /// Brings the certificate of a meter's signing key. It counts when an authority that the core is configured with has
    /// issued it; a manufacturer's counts once, and never after the owner's. Operator. Answer: [`ExchangeReply::Status`].
    #[n(65)]
    MeterCertificate {
        /// Meter.
        #[n(0)]
        system_title: SystemTitle,
        /// X.509, DER.
        #[cbor(n(1), with = "minicbor::bytes")]
        der: Vec<u8>,
    },
    /// Meters whose key change is not resolved, by system title. Head-end. Answer: [`ExchangeReply::Pending`].
    #[n(61)]
    PendingChanges {
        /// Meter after which to go on; none at first.
        #[n(0)]
        after: Option<SystemTitle>,
    },
    /// Tells what came of a transfer. Head-end. Answer: [`ExchangeReply::Change`].
    #[n(14)]
    ReportKeyChange {
        /// Change.
        #[n(0)]
        change: N16,
        /// What came.
        #[n(1)]
        outcome: ChangeOutcome,
    },
    /// Sealed GETs, one for each pair of keys that the meter may have, within the budget. Head-end.
    /// Answer: [`ExchangeReply::Probes`].
    #[n(15)]
    ProbePlan {
        /// Meter.
        #[n(0)]
        system_title: SystemTitle,
    },
    /// Begins the authentication of an association. Head-end. Answer: [`ExchangeReply::Association`].
    #[n(16)]
    OpenAssociation(#[n(0)] OpenAssociation),
    /// Goes on with it. Head-end. Answer: [`ExchangeReply::HlsReply`], then [`ExchangeReply::HlsVerified`].
    #[n(17)]
    ContinueHls {
        /// Handle.
        #[n(0)]
        association: N16,
        /// Step.
        #[n(1)]
        step: HlsStep,
    },
    /// State of a meter's keys. Operator. Answer: [`ExchangeReply::Status`].
    #[n(18)]
    KeyStatus {
        /// Meter.
        #[n(0)]
        system_title: SystemTitle,
    },
    /// History of a meter's keys. Operator. Answer: [`ExchangeReply::History`].
    #[n(19)]
    KeyHistory {
        /// Meter.
        #[n(0)]
        system_title: SystemTitle,
    },
    /// What a compromise of this key would reach; changes nothing. Operator. Answer: [`ExchangeReply::Compromise`].
    #[n(20)]
    CompromisePlan {
        /// Key.
        #[n(0)]
        key: KeyRef,
    },
    /// An act on one key. Operator. Answer: [`ExchangeReply::Status`], or [`ExchangeReply::Compromise`].
    #[n(21)]
    KeyAct {
        /// Key.
        #[n(0)]
        key: KeyRef,
        /// Act.
        #[n(1)]
        act: KeyAct,
        /// Consents.
        #[n(2)]
        approvals: Vec<Approval>,
        /// Why, for the audit log.
        #[n(3)]
        reason: String,
    },
    /// The next step of the claim of a meter that came with its manufacturer's keys; each step is resumed by asking again.
    /// Head-end. Answer: [`ExchangeReply::Claim`].
    #[n(62)]
    Claim {
        /// Meter.
        #[n(0)]
        system_title: SystemTitle,
    },
    /// What the meter has answered to [`ClaimStep::Ask`]. Head-end. Answer: [`ExchangeReply::Claim`], the next step.
    #[n(66)]
    ReportClaim {
        /// Meter.
        #[n(0)]
        system_title: SystemTitle,
        /// Whole ciphered APDU.
        #[cbor(n(1), with = "minicbor::bytes")]
        apdu: Vec<u8>,
    },
    /// The certificate that the owner's authority has issued for [`ClaimStep::Certify`]. Head-end. Answer:
    /// [`ExchangeReply::Claim`], the next step.
    #[n(67)]
    ClaimCertificate {
        /// Meter.
        #[n(0)]
        system_title: SystemTitle,
        /// X.509, DER.
        #[cbor(n(1), with = "minicbor::bytes")]
        der: Vec<u8>,
    },
    /// Tells the state of a device's credentials. Operator. Answer: [`ExchangeReply::Status`].
    #[n(22)]
    SetClaim {
        /// Meter.
        #[n(0)]
        system_title: SystemTitle,
        /// New state.
        #[n(1)]
        claim: ClaimState,
    },
    /// An act on the site itself. Its state an operator may ask for; everything else comes in [`KeyRequest::Consented`], or
    /// over a local link.
    #[n(23)]
    Site(#[n(0)] SiteRequest),
    /// Signs and seals an order. Endpoint manager. Answer: [`KeyReply::Ordered`].
    #[n(40)]
    Order(#[n(0)] OrderRequest),
    /// Lets lost authorisations of a device's TPM be derived and tried when it onboards next: after the loss of the key
    /// service's database. Endpoint manager. Answer: [`KeyReply::Done`].
    #[n(44)]
    Recover {
        /// Device.
        #[n(0)]
        device: EkName,
    },
    /// Opens a device's question for orders. Endpoint manager. Answer: [`KeyReply::Polled`].
    #[n(41)]
    OpenPoll {
        /// The whole wire message.
        #[cbor(n(0), with = "minicbor::bytes")]
        wire: Vec<u8>,
    },
    /// Opens the result of an order that is remembered. Endpoint manager. Answer: [`KeyReply::Answered`].
    #[n(42)]
    OpenResult {
        /// The whole wire message.
        #[cbor(n(0), with = "minicbor::bytes")]
        wire: Vec<u8>,
    },
    /// Verifies what a TPM answered to tunnelled commands. Endpoint manager. Answer: [`KeyReply::Tunnelled`].
    #[n(43)]
    ConfirmCommands {
        /// Device.
        #[n(0)]
        device: EkName,
        /// Sequence number of the order that had the commands.
        #[n(1)]
        seq: OrderSeq,
        /// Whole TPM responses, in the order of the commands.
        #[n(2)]
        responses: Vec<Bytes>,
    },
    /// An act that two persons have signed. Operator. Answer: that of the act in it.
    #[n(63)]
    Consented(#[n(0)] ConsentedAct),
}

/// A byte string inside an array.
#[derive(Clone, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Bytes(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

impl core::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// One HMAC session that the meter's TPM opened for the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct TpmSession {
    /// Session handle, `02xxxxxx`.
    #[n(0)]
    pub handle: u32,
    /// nonceTPM of the session's start.
    #[n(1)]
    pub nonce_tpm: N16,
}

/// What C2 is made from.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
pub struct Challenge {
    /// The whole wire message C1; names device and session.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub c1: Vec<u8>,
    /// Endorsement key of the registered public area: x || y of a P-256 key, 64 bytes, or the modulus of an RSA key, 256
    /// bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub endorsement: Vec<u8>,
    /// TPM Name of the attestation key.
    #[n(2)]
    pub ak_name: EkName,
    /// Suites as the meter listed them.
    #[n(3)]
    pub suites: Vec<u16>,
    /// Encoded TPML_PCR_SELECTION that the quote must cover.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub pcr_selection: Vec<u8>,
    /// First IMA entry wanted.
    #[n(5)]
    pub ima_next: u64,
    /// Hash of the voucher's last element.
    #[n(6)]
    pub voucher_head: Digest,
}

/// What C6 is made from.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
pub struct Provision {
    /// Session.
    #[n(0)]
    pub sid: Sid,
    /// Transcript after C5.
    #[n(1)]
    pub th5: Digest,
    /// Point of the certified storage key, x || y, 64 bytes.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub storage_point: [u8; 64],
    /// LDevID chain, leaf first, DER.
    #[n(3)]
    pub ldevid_chain: Vec<Bytes>,
    /// Certificates against which the meter checks its terminus, DER.
    #[n(4)]
    pub ca_bundle: Vec<Bytes>,
    /// Terminus addresses in order of preference.
    #[n(5)]
    pub terminus: Vec<alloc::string::String>,
    /// Configuration version, above the meter's last.
    #[n(6)]
    pub policy_version: u64,
    /// Hash of the configuration before, zero at first.
    #[n(7)]
    pub previous: Digest,
    /// Index of the voucher's last entry.
    #[n(8)]
    pub entry_index: u32,
    /// Hash of the voucher's last entry.
    #[n(9)]
    pub entry: Digest,
    /// Time for the meter's floor clock.
    #[n(10)]
    pub now: UtcTime,
    /// Whether it is a meter, which gets DLMS keys: any other device gets none.
    #[n(11)]
    pub channel_keys: bool,
}

/// One answer of the key service.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum KeyReply {
    /// To [`KeyRequest::Deliver`].
    #[n(0)]
    Delivered {
        /// Device that the record names.
        #[n(0)]
        device: EkName,
        /// Its epoch.
        #[n(1)]
        epoch: Epoch,
        /// Its pseudonym in this epoch.
        #[n(2)]
        kid: Kid,
        /// Commitment to the secret: compare with manifest and voucher header.
        #[n(3)]
        n_commit: Digest,
        /// Serial number in the record.
        #[n(4)]
        serial: alloc::string::String,
    },
    /// To [`KeyRequest::SignRedirect`]: the COSE_Sign1 and the delegation under which it was made.
    #[n(1)]
    Signed {
        /// Encoded COSE_Sign1.
        #[cbor(n(0), with = "minicbor::bytes")]
        sign1: Vec<u8>,
        /// Encoded COSE_Sign1 of the delegation.
        #[cbor(n(1), with = "minicbor::bytes")]
        delegation: Vec<u8>,
    },
    /// To [`KeyRequest::OpenHello`]: the device that the pseudonym names and the opened body.
    #[n(2)]
    Hello {
        /// Device.
        #[n(0)]
        device: EkName,
        /// Epoch of the secret that opened it.
        #[n(1)]
        epoch: Epoch,
        /// Encoded C1b.
        #[cbor(n(2), with = "minicbor::bytes")]
        body: Vec<u8>,
    },
    /// A message ready to be sent; stored, and repeated byte for byte.
    #[n(3)]
    Sealed {
        /// The whole wire message.
        #[cbor(n(0), with = "minicbor::bytes")]
        wire: Vec<u8>,
    },
    /// To [`KeyRequest::OpenMessage`].
    #[n(4)]
    Opened {
        /// Encoded body.
        #[cbor(n(0), with = "minicbor::bytes")]
        body: Vec<u8>,
    },
    /// To [`KeyRequest::Provision`].
    #[n(5)]
    Provisioned {
        /// The whole wire message C6.
        #[cbor(n(0), with = "minicbor::bytes")]
        wire: Vec<u8>,
        /// TPM Names of the objects in it, in order.
        #[n(1)]
        objects: Vec<EkName>,
        /// Hash of the configuration: what the next one names as its previous.
        #[n(2)]
        configuration: Digest,
    },
    /// Done, nothing to tell.
    #[n(6)]
    Done,
    /// To [`KeyRequest::OpenApdu`].
    #[n(7)]
    Apdu(#[n(0)] OpenVerdict),
    /// Refused; nothing changed.
    #[n(8)]
    Refused {
        /// Why.
        #[n(0)]
        code: Code,
    },
    /// To every request that is not of an onboarding, except the opening of APDUs.
    #[n(9)]
    Exchange(#[n(0)] ExchangeReply),
    /// To [`KeyRequest::Order`].
    #[n(40)]
    Ordered(#[n(0)] SealedOrder),
    /// To [`KeyRequest::OpenPoll`].
    #[n(41)]
    Polled {
        /// Device that asks.
        #[n(0)]
        device: EkName,
        /// Sequence number that it accepted last, 0 before the first.
        #[n(1)]
        last_seq: OrderSeq,
    },
    /// To [`KeyRequest::OpenResult`].
    #[n(42)]
    Answered {
        /// Device that answers.
        #[n(0)]
        device: EkName,
        /// Sequence number of the order.
        #[n(1)]
        seq: OrderSeq,
        /// Encoded ResultB.
        #[cbor(n(2), with = "minicbor::bytes")]
        body: Vec<u8>,
    },
    /// To [`KeyRequest::ConfirmCommands`].
    #[n(43)]
    Tunnelled(#[n(0)] Tunnelled),
}

/// Verdict on one APDU (decision D1).
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum OpenVerdict {
    /// Never seen before; `late` when its counter lies below the highest one.
    #[n(0)]
    Fresh {
        /// Originator.
        #[n(0)]
        system_title: SystemTitle,
        /// Plain APDU.
        #[cbor(n(1), with = "minicbor::bytes")]
        plain: Vec<u8>,
        /// Whether it overtook or was overtaken.
        #[n(2)]
        late: bool,
    },
    /// The very same bytes were opened before: same plaintext again.
    #[n(1)]
    Duplicate {
        /// Originator.
        #[n(0)]
        system_title: SystemTitle,
        /// Plain APDU.
        #[cbor(n(1), with = "minicbor::bytes")]
        plain: Vec<u8>,
    },
    /// Authentic, but its counter was used by other bytes or lies below the window.
    #[n(2)]
    Replay,
    /// Anything else: unknown originator, bad tag, state that forbids it, malformed. No finer reason is given.
    #[n(3)]
    Rejected,
}
