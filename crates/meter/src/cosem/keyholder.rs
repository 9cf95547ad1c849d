//! The port to whoever holds the keys of a device, and keeps what must survive a power cut.

use gridseal_crypto::CurvePublic;
use gridseal_dlms::{
    assoc::CryptoFault,
    suite::local::{DataLayer, KeySet},
};
use gridseal_trust::party::Purpose;
use gridseal_types::SystemTitle;

/// Which key a transfer brings. Closed: the enumeration of the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyId {
    /// Global unicast encryption key.
    Unicast,
    /// Global broadcast encryption key.
    Broadcast,
    /// Authentication key.
    Authentication,
    /// Master key.
    Master,
}

impl KeyId {
    /// Its number in the class.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Unicast => 0,
            Self::Broadcast => 1,
            Self::Authentication => 2,
            Self::Master => 3,
        }
    }

    /// The key with this number in the class.
    #[must_use]
    pub const fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            0 => Self::Unicast,
            1 => Self::Broadcast,
            2 => Self::Authentication,
            3 => Self::Master,
            _ => return None,
        })
    }
}

/// Why keys were not taken over: for the log alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRefusal {
    /// There is no master key.
    #[error("there is no master key")]
    NoMaster,
    /// A wrapped key has the wrong size, or does not open under the master key.
    #[error("a wrapped key does not open under the master key")]
    Wrapped,
    /// One key twice in a transfer, or none.
    #[error("the transfer names a key twice, or none")]
    List,
    /// They could not be made durable.
    #[error("keys could not be stored")]
    Store,
    /// The suite cannot do this here.
    #[error("this suite cannot do this here")]
    Suite,
    /// The client has not proven who it is, or has no system title.
    #[error("the client has not proven who it is")]
    Client,
    /// No certificate of the client for signatures is believed.
    #[error("no signing certificate of the client is believed")]
    NoCertificate,
    /// The data of a key is no point and signature of the suite's size.
    #[error("key data is no point and raw signature of the suite")]
    KeyData,
    /// The point is not on the curve.
    #[error("point is not on the curve")]
    Point,
    /// The point is a key that is in use for something else, or came twice.
    #[error("point is a key that has another purpose")]
    Swapped,
    /// The client's signature does not verify.
    #[error("signature over the point does not verify")]
    Signature,
    /// There is no key pair for this.
    #[error("there is no key pair for this")]
    NoPair,
    /// The transaction-id of protected data is not above the last one of the client, has not 8 bytes, or the originator is
    /// not the client.
    #[error("transaction-id or originator of protected data is not accepted")]
    Transaction,
    /// A layer of protected data does not open, or cannot be made.
    #[error("protected data: {0}")]
    Data(CryptoFault),
    /// Random source or root of trust failed.
    #[error("key pair could not be made or used")]
    Root,
}

/// What could not be made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("state could not be stored")]
pub struct StoreError;

/// Parts of a device's state that survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Part {
    /// Policy, certificates, latest trusted time, active image.
    Setup,
    /// The image that is on its way: name, size, status.
    Image,
    /// Blocks of that image, one behind the other.
    Blocks,
}

/// Public keys of the pairs of one purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    /// The pair in use.
    pub current: Option<CurvePublic>,
    /// The pair that waits for its certificate.
    pub waiting: Option<CurvePublic>,
}

/// Holds the keys of a device. Whatever it takes over is durable when it returns, and is used once the answer has left.
pub trait Keyholder {
    /// Opens wrapped keys under the master key and takes all of them over, or none.
    ///
    /// # Errors
    /// [`KeyRefusal`]; nothing changed.
    fn transfer(&mut self, keys: &[(KeyId, &[u8])]) -> Result<(), KeyRefusal>;

    /// Agrees on keys with a client (C(2e,0s): a fresh ephemeral key for each) and takes all of them over, or none. The
    /// points are on the curve, and were signed by the client. Gives the meter's key data in the same order.
    ///
    /// # Errors
    /// [`KeyRefusal`]; nothing changed.
    fn agree(
        &mut self,
        client: SystemTitle,
        keys: &[(KeyId, CurvePublic)],
    ) -> Result<Vec<Vec<u8>>, KeyRefusal>;

    /// Takes a new secret of high level security over, wrapped under the master key.
    ///
    /// # Errors
    /// [`KeyRefusal`]; nothing changed.
    fn change_secret(&mut self, wrapped: &[u8]) -> Result<(), KeyRefusal>;

    /// Takes a new password of mechanism 1 over.
    ///
    /// # Errors
    /// [`KeyRefusal`]; nothing changed.
    fn change_password(&mut self, password: &[u8]) -> Result<(), KeyRefusal>;

    /// Highest counter accepted of a client under a key.
    fn last_received(&self, set: KeySet, client: SystemTitle) -> Option<u32>;

    /// Makes a key pair on the curve of the suite, which waits for its certificate in place of one that waits already.
    /// Gives what holds its private key, such as `tpm` or `software`.
    ///
    /// # Errors
    /// [`KeyRefusal`]; nothing changed.
    fn make_pair(&mut self, purpose: Purpose) -> Result<&'static str, KeyRefusal>;

    /// The pairs of a purpose.
    fn pairs(&self, purpose: Purpose) -> Pairs;

    /// Signature r || s by the pair with this public key, which proves its possession.
    ///
    /// # Errors
    /// [`KeyRefusal`].
    fn sign_request(
        &mut self,
        purpose: Purpose,
        key: &CurvePublic,
        message: &[u8],
    ) -> Result<Vec<u8>, KeyRefusal>;

    /// The pair with this public key has a certificate: it is in use from now on.
    ///
    /// # Errors
    /// [`KeyRefusal`]; nothing changed.
    fn use_pair(&mut self, purpose: Purpose, key: &CurvePublic) -> Result<(), KeyRefusal>;

    /// Public key of a peer that the device was configured with, beside certificates.
    fn configured_key(&self, purpose: Purpose, title: SystemTitle) -> Option<CurvePublic>;

    /// The certified keys of peers that are believed from now on, instead of those of the last call. Of whom a certificate is
    /// held, believed or not (`certified`), no configured key counts.
    fn believe(
        &mut self,
        peers: &[(Purpose, SystemTitle, CurvePublic)],
        certified: &[(Purpose, SystemTitle)],
    );

    /// Puts layers on data; gives them with titles and keys filled in.
    ///
    /// # Errors
    /// [`KeyRefusal::Data`].
    fn protect_data(
        &mut self,
        layers: &[DataLayer],
        plain: &[u8],
    ) -> Result<(Vec<DataLayer>, Vec<u8>), KeyRefusal>;

    /// Takes layers off data. Changes nothing; the caller judges the transaction-id.
    ///
    /// # Errors
    /// [`KeyRefusal::Data`].
    fn unprotect_data(&self, layers: &[DataLayer], data: &[u8]) -> Result<Vec<u8>, KeyRefusal>;

    /// Keeps a part of the device's state in place of what was kept.
    ///
    /// # Errors
    /// [`StoreError`]; what was kept stays.
    fn keep(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError>;

    /// Adds to the end of what is kept of a part.
    ///
    /// # Errors
    /// [`StoreError`]; the end may then be torn, what was before it stays.
    fn append(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError>;
}
