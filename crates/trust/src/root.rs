//! The device's root of trust: a TPM 2.0, or a software stand-in that gives the same structures.
//!
//! The machine of the device side asks for coarse operations and gets plain results, so that it neither knows handles nor
//! sees which root it runs on. There is no silent fallback: a root reports its [`Assurance`].

pub mod software;
pub mod tpm2;

use alloc::vec::Vec;

use gridseal_crypto::{
    Key, Signature,
    role::{ActivationSecret, DeviceRootSecret, OwnerSecret},
    tpm::SealedSecret,
};
use gridseal_types::{Code, Digest, EkName, Epoch, N16, service::keys::TpmSession};

use crate::measured::Logs;

/// How far a root's word can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Assurance {
    /// A TPM 2.0 holds the keys.
    Tpm,
    /// Keys are in process memory: for tests, load and simulation only.
    Software,
}

impl Assurance {
    /// Name as reported: `tpm` or `software`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Software => "software",
        }
    }
}

/// Which endorsement key a device has. It is a property of the device for its whole life: its Name is the device's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EndorsementKind {
    /// P-256: suite 1.
    #[default]
    P256,
    /// RSA 2048: suite 2.
    Rsa2048,
}

/// A key of the device as it lies on flash: useless without the root that made it.
#[derive(Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct KeyBlob {
    /// TPMT_PUBLIC.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub public: Vec<u8>,
    /// TPM2B_PRIVATE with its size word, or what a software root keeps in its place.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub private: Vec<u8>,
}

impl core::fmt::Debug for KeyBlob {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "KeyBlob[{} bytes public]", self.public.len())
    }
}

/// The newest voucher entry and delegation that the device has accepted; in NV storage that survives Clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug, minicbor::Encode, minicbor::Decode)]
pub struct OwnerPin {
    /// Index of the entry, 1..=32.
    #[n(0)]
    pub index: u32,
    /// Highest delegation generation accepted under it.
    #[n(1)]
    pub generation: u32,
    /// Hash of the entry.
    #[n(2)]
    pub entry: Digest,
}

/// A signed TPM statement: TPMS_ATTEST and TPMT_SIGNATURE, byte-exact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attest {
    /// TPMS_ATTEST without a size word.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
}

/// What a root says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// TPMT_PUBLIC of the endorsement key.
    pub ek_public: Vec<u8>,
    /// Epoch: NV counter minus base, 0 at production.
    pub epoch: Epoch,
    /// The pin, `None` while the device never had an owner.
    pub pin: Option<OwnerPin>,
    /// Counter that only rises: generation of what the device keeps on flash.
    pub generation: u64,
    /// TPM_PT_PERMANENT.
    pub permanent: u32,
    /// Whether the platform hierarchy has an empty authorisation.
    pub platform_open: bool,
    /// TPMT_PUBLIC of the identity key.
    pub iak_public: Vec<u8>,
    /// Certificate of the endorsement key, DER without padding; empty where the TPM has none.
    pub ek_certificate: Vec<u8>,
}

/// Keys that the device makes for one owner, all children of the storage root key, and the public area of the identity
/// key of the endorsement hierarchy, which is made again when needed.
#[derive(Clone, PartialEq, Eq, Debug, minicbor::Encode, minicbor::Decode)]
pub struct OwnerKeys {
    /// Attestation key.
    #[n(0)]
    pub attestation: KeyBlob,
    /// Storage key: parent of what the owner delivers.
    #[n(1)]
    pub storage: KeyBlob,
    /// TLS key, to be the LDevID.
    #[n(2)]
    pub tls: KeyBlob,
    /// TPMT_PUBLIC of the IAK.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub iak_public: Vec<u8>,
}

/// Everything that C3 needs from the root, in one go.
#[derive(Clone, Debug)]
pub struct AttestRequest {
    /// The device's keys.
    pub keys: OwnerKeys,
    /// TPM2B_ID_OBJECT with its size word.
    pub credential: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET with its size word.
    pub secret: Vec<u8>,
    /// encryptedSalt (TPM2B with size word) of the owner and of the lockout session.
    pub salts: [Vec<u8>; 2],
    /// nonceCaller of the owner and of the lockout session.
    pub nonce_callers: [N16; 2],
    /// qualifyingData for: certify STO, certify TLS key, certify IAK, quote.
    pub qualifying: [Digest; 4],
    /// TPML_PCR_SELECTION for the quote.
    pub pcr_selection: Vec<u8>,
    /// First IMA entry that is wanted.
    pub ima_next: u64,
}

/// Answer to [`RootRequest::Attest`].
#[derive(Debug)]
pub struct Attested {
    /// K_act, the recovered credential.
    pub activation: Key<ActivationSecret, 32>,
    /// Sessions opened for the owner: owner hierarchy, lockout hierarchy. They live until used, flushed or reset.
    pub sessions: [TpmSession; 2],
    /// Certify of STO, TLS key and IAK, in this order, signed by the attestation key.
    pub certify: [Attest; 3],
    /// Quote.
    pub quote: Attest,
    /// Event log and IMA list, read after the quote was made; empty where none is kept.
    pub logs: Logs,
}

/// A secret delivered for the storage key.
#[derive(Clone, Debug)]
pub struct ImportObject {
    /// TPMT_PUBLIC of the sealed object.
    pub public: Vec<u8>,
    /// TPM2B_PRIVATE with its size word.
    pub duplicate: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET with its size word.
    pub in_sym_seed: Vec<u8>,
}

/// A statement about the software that runs, for an owner who knows the attestation key.
#[derive(Clone, Debug)]
pub struct QuoteRequest {
    /// Attestation key.
    pub attestation: KeyBlob,
    /// qualifyingData.
    pub qualifying: Digest,
    /// TPML_PCR_SELECTION.
    pub pcr_selection: Vec<u8>,
    /// First IMA entry that is wanted.
    pub ima_next: u64,
}

/// A new TLS key, and a new storage key where one is wanted, each certified by the attestation key.
#[derive(Clone, Debug)]
pub struct RenewRequest {
    /// Attestation key.
    pub attestation: KeyBlob,
    /// qualifyingData of the TLS key's certification.
    pub tls: Digest,
    /// qualifyingData of the storage key's, `None` when it stays.
    pub storage: Option<Digest>,
}

/// A new key and its certification.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Renewed {
    /// The key.
    pub key: KeyBlob,
    /// Certify, signed by the attestation key.
    pub certify: Attest,
}

/// One operation of the root.
#[derive(Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "made once, moved once, consumed")]
pub enum RootRequest {
    /// At production only: make the endorsement key, keep N_root, define epoch counter, base and pin.
    /// Answer: [`RootReply::Described`].
    Manufacture(Key<DeviceRootSecret, 32>),
    /// Answer: [`RootReply::Described`]. Re-creates a missing endorsement or storage root key.
    Describe,
    /// Makes the owner's key set. Answer: [`RootReply::Keys`].
    CreateKeys,
    /// Makes one more P-256 signing key under the storage root key, which is made when it is missing. Answer:
    /// [`RootReply::SigningKey`].
    CreateSigningKey,
    /// `N_e = HMAC(N_root, "gs-ndev-v1" || u64(e))`. Answer: [`RootReply::OwnerSecret`].
    OwnerSecret(Epoch),
    /// Writes the pin durably. Answer: [`RootReply::Done`].
    WritePin(OwnerPin),
    /// Raises the epoch counter by one. Answer: [`RootReply::Done`].
    RaiseEpoch,
    /// Recovers a credential that is bound to the identity key. Answer: [`RootReply::Activated`].
    ActivateIdentity {
        /// TPM2B_ID_OBJECT with its size word.
        credential: Vec<u8>,
        /// TPM2B_ENCRYPTED_SECRET with its size word.
        secret: Vec<u8>,
    },
    /// Raises the generation counter by one. Answer: [`RootReply::Done`].
    RaiseGeneration,
    /// Answer: [`RootReply::Attested`]. Flushes sessions of an earlier attempt first.
    Attest(AttestRequest),
    /// Runs tunnelled commands in order, stops after the first that fails. The caller has checked them against the
    /// allow-list. Answer: [`RootReply::Responses`].
    Execute(Vec<Vec<u8>>),
    /// Quote and logs alone; sessions of the owner stay open. Answer: [`RootReply::Quoted`].
    Quote(QuoteRequest),
    /// Opens one or two sessions for the owner's commands; those of earlier requests are closed first. Each has its
    /// encryptedSalt (TPM2B with size word) and nonceCaller. Answer: [`RootReply::Sessions`].
    OpenSessions(Vec<(Vec<u8>, N16)>),
    /// The identity key signs what a session has audited. Answer: [`RootReply::Audited`].
    SignAudit {
        /// Handle of the session.
        session: u32,
        /// qualifyingData.
        qualifying: Digest,
    },
    /// Makes new keys. Those in use stay what they are. Answer: [`RootReply::Renewed`].
    Renew(RenewRequest),
    /// Imports objects under the storage key. Answer: [`RootReply::Imported`].
    Import {
        /// Storage key.
        storage: KeyBlob,
        /// Objects in the order of delivery.
        objects: Vec<ImportObject>,
    },
    /// Gives a delivered secret to the device's memory. Answer: [`RootReply::Unsealed`].
    Unseal {
        /// Storage key.
        storage: KeyBlob,
        /// Imported object.
        object: KeyBlob,
    },
    /// Signs with the TLS key, or one of [`RootRequest::CreateSigningKey`]: ECDSA P-256 over SHA-256 of the message.
    /// Answer: [`RootReply::Signature`].
    Sign {
        /// TLS or other signing key.
        tls: KeyBlob,
        /// Message, hashed by the root.
        message: Vec<u8>,
    },
    /// Closes whatever sessions are open. Answer: [`RootReply::Done`].
    Flush,
    /// TPM2_Clear by the platform hierarchy: owner and lockout authorisation and all keys of the owner are gone. Only a root
    /// that was started for a recovery can, with [`RootError::Unsuitable`] otherwise: boot firmware saw the button. Answer:
    /// [`RootReply::Done`]; [`RootRequest::Describe`] comes next.
    Clear,
}

/// Result of one operation.
#[derive(Debug)]
#[non_exhaustive]
pub enum RootReply {
    /// To [`RootRequest::Manufacture`] and [`RootRequest::Describe`].
    Described(Description),
    /// To [`RootRequest::CreateKeys`].
    Keys(OwnerKeys),
    /// To [`RootRequest::CreateSigningKey`].
    SigningKey(KeyBlob),
    /// To [`RootRequest::OwnerSecret`].
    OwnerSecret(Key<OwnerSecret, 32>),
    /// To [`RootRequest::ActivateIdentity`].
    Activated(Key<ActivationSecret, 32>),
    /// To [`RootRequest::Attest`].
    Attested(alloc::boxed::Box<Attested>),
    /// To [`RootRequest::Execute`]: whole TPM responses; the first with rc != 0 ends the list.
    Responses(Vec<Vec<u8>>),
    /// To [`RootRequest::Quote`].
    Quoted {
        /// Quote.
        quote: Attest,
        /// Event log and IMA list, read after the quote was made.
        logs: Logs,
    },
    /// To [`RootRequest::OpenSessions`], in its order.
    Sessions(Vec<TpmSession>),
    /// To [`RootRequest::SignAudit`].
    Audited(Attest),
    /// To [`RootRequest::Renew`].
    Renewed {
        /// TLS key.
        tls: Renewed,
        /// Storage key, when one was wanted.
        storage: Option<Renewed>,
    },
    /// To [`RootRequest::Import`]: blobs and their Names as recomputed by the root, in order.
    Imported(Vec<(KeyBlob, EkName)>),
    /// To [`RootRequest::Unseal`].
    Unsealed(SealedSecret),
    /// To [`RootRequest::Sign`].
    Signature(Signature),
    /// Done.
    Done,
}

/// The root did not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// The TPM answered with this response code.
    #[error("TPM refused {command:#06x} with rc {rc:#05x}")]
    Refused {
        /// Command code.
        command: u32,
        /// Response code.
        rc: u32,
    },
    /// The TPM's answer is not a TPM response, or lacks a part.
    #[error("TPM answered with a malformed response")]
    Malformed,
    /// The TPM could not be reached.
    #[error("TPM did not answer")]
    Transport,
    /// The TPM keeps an endorsement key that no suite covers, or one of another kind than the device was made with.
    #[error("endorsement key: {0}")]
    Endorsement(Code),
    /// The request cannot be done by this root: a blob of another root, an unknown key type.
    #[error("request does not fit this root")]
    Unsuitable,
    /// The random source failed.
    #[error("random source failed")]
    Rng,
}

/// A root of trust.
pub trait DeviceRoot {
    /// What this root is.
    fn assurance(&self) -> Assurance;

    /// Does one operation. It is durable when this returns, where the operation says so.
    ///
    /// # Errors
    /// [`RootError`]; nothing that the request asked for is then to be relied on.
    fn perform(&mut self, request: RootRequest) -> Result<RootReply, RootError>;
}

/// Where a device's measurement logs come from.
pub trait MeasurementSource {
    /// Event log, and the IMA list from entry `ima_next` on, or from its start when it has fewer entries.
    ///
    /// # Errors
    /// [`RootError::Transport`] when a log that should be there cannot be read.
    fn read(&mut self, ima_next: u64) -> Result<Logs, RootError>;
}

/// Carries whole TPM commands to a TPM and whole responses back.
pub trait TpmTransport {
    /// Sends one command and returns the whole response.
    ///
    /// # Errors
    /// [`RootError::Transport`] when the TPM cannot be reached.
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, RootError>;
}
