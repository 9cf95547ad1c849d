//! What of a device survives a power cut, and how it comes back.
//!
//! | part | holds | written |
//! |---|---|---|
//! | setup | policy, certificates, latest trusted time, active image, transaction-ids of protected data, breaker | as a whole, before the answer |
//! | image | name, size, block size and status of the image on its way | as a whole, when one of them changes |
//! | blocks | each block with its number and a check | at the end, before the answer |

use gridseal_crypto::sha256;
use gridseal_dlms::wire::Data;
use gridseal_trust::party::{Certificate, Role};
use gridseal_types::{SystemTitle, UtcTime};

use super::{
    Device, Keyholder, Part, StoreError,
    certificates::{CERTIFICATES_MAX, Held},
    image::{Active, Image},
    security::SECURITY_SETUP,
};

/// Form of the setup record.
const VERSION: u8 = 1;
/// Bytes of the check behind a block.
const CHECK_SIZE: usize = 4;
/// Bytes before a block: number, size.
const BLOCK_HEADER_SIZE: usize = 6;

/// What was kept, as [`Keyholder::keep`] and [`Keyholder::append`] were given it.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    /// [`Part::Setup`].
    pub setup: Option<Vec<u8>>,
    /// [`Part::Image`].
    pub image: Option<Vec<u8>>,
    /// [`Part::Blocks`].
    pub blocks: Option<Vec<u8>>,
}

/// What was kept cannot be read, which is no reason to begin again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The setup is damaged.
    #[error("the kept security setup is damaged")]
    Setup,
    /// The image's record is damaged.
    #[error("the kept record of the image is damaged")]
    Image,
    /// It could not be mended.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(minicbor::Encode, minicbor::Decode)]
struct Setup {
    #[n(0)]
    version: u8,
    #[n(1)]
    policy: u8,
    #[n(2)]
    floor: u64,
    #[n(3)]
    certificates: Vec<KeptCertificate>,
    #[n(4)]
    active: Option<Active>,
    /// Highest transaction-ids of protected data, by system title.
    #[n(5)]
    transactions: Vec<([u8; 8], u64)>,
    /// State of the breaker.
    #[n(6)]
    breaker: Option<u8>,
}

#[derive(minicbor::Encode, minicbor::Decode)]
struct KeptCertificate {
    #[n(0)]
    is_anchor: bool,
    #[cbor(n(1), with = "minicbor::bytes")]
    der: Vec<u8>,
}

impl Device {
    /// Keeps policy, certificates, latest trusted time, active image and the state of the breaker.
    pub(super) fn keep_setup(&self, keys: &mut dyn Keyholder) -> Result<(), StoreError> {
        let policy = self.objects.get(&SECURITY_SETUP).map_or(0, |setup| setup.number(2));
        let certificates = self
            .certificates
            .0
            .iter()
            .map(|held| KeptCertificate { is_anchor: held.is_anchor, der: held.certificate.der().to_vec() });
        let setup = Setup {
            version: VERSION,
            policy: u8::try_from(policy).unwrap_or(u8::MAX),
            floor: self.floor.0,
            certificates: certificates.collect(),
            active: self.active.clone(),
            transactions: self.transactions.iter().map(|(title, id)| (*title.as_bytes(), *id)).collect(),
            breaker: self.breaker_state(),
        };
        keys.keep(Part::Setup, &minicbor::to_vec(&setup).map_err(|_| StoreError)?)
    }

    /// Goes on where a device stood when power went: call it once, before anything else.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore(&mut self, saved: &Saved, keys: &mut dyn Keyholder) -> Result<(), RestoreError> {
        if let Some(setup) = &saved.setup {
            self.restore_setup(setup).ok_or(RestoreError::Setup)?;
        }
        if let Some(record) = &saved.image {
            let blocks = saved.blocks.as_deref().unwrap_or_default();
            let (image, whole) = Image::restore(record, blocks).ok_or(RestoreError::Image)?;
            self.image = image;
            // A torn end is cut off before anything is put behind it.
            if whole < blocks.len() {
                keys.keep(Part::Blocks, blocks.get(..whole).unwrap_or_default())?;
            }
        }
        // Power may have gone between a certificate and the use of its key pair.
        let own = self.certificates.0.iter().map(|held| &held.certificate);
        for certificate in own.filter(|certificate| certificate.title() == Some(self.config.title)) {
            let Some(Role::Party(purpose)) = certificate.role() else { continue };
            if keys.pairs(purpose).waiting.as_ref() == Some(certificate.key()) {
                let _ = keys.use_pair(purpose, certificate.key());
            }
        }
        self.tell_believed(keys);
        Ok(())
    }

    fn restore_setup(&mut self, bytes: &[u8]) -> Option<()> {
        let setup: Setup = minicbor::decode(bytes).ok()?;
        if setup.version != VERSION || setup.certificates.len() > CERTIFICATES_MAX {
            return None;
        }
        let held = |kept: &KeptCertificate| {
            Some(Held { certificate: Certificate::parse(&kept.der).ok()?, is_anchor: kept.is_anchor })
        };
        self.certificates.0 = setup.certificates.iter().map(held).collect::<Option<Vec<_>>>()?;
        self.floor = UtcTime(setup.floor);
        let transactions = setup.transactions.into_iter();
        self.transactions = transactions.map(|(title, id)| (SystemTitle(title), id)).collect();
        if let Some(object) = self.objects.get_mut(&SECURITY_SETUP) {
            // What the configuration demands since is not taken back.
            let configured = u8::try_from(object.number(2)).unwrap_or(0);
            object.keep(2, &Data::Enum(setup.policy | configured));
        }
        if let Some(state) = setup.breaker {
            self.show_breaker(state);
        }
        if let Some(active) = setup.active {
            self.show_active(&active);
            self.active = Some(active);
        }
        Some(())
    }
}

/// A block as it is kept: number, size, contents, check.
pub(super) fn kept_block(number: u32, contents: &[u8]) -> Vec<u8> {
    let size = u16::try_from(contents.len()).unwrap_or(u16::MAX);
    let mut kept = [&number.to_be_bytes()[..], &size.to_be_bytes(), contents].concat();
    kept.extend(check(&kept));
    kept
}

fn check(bytes: &[u8]) -> [u8; CHECK_SIZE] {
    let [a, b, c, d, ..] = sha256(&[bytes]);
    [a, b, c, d]
}

/// Takes one block off the front: its number, its contents, and what follows; `None` at the end, torn or not.
pub(super) fn take_block(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(BLOCK_HEADER_SIZE)?;
    let [a, b, c, d, high, low] = header else { return None };
    let (contents, rest) = rest.split_at_checked(u16::from_be_bytes([*high, *low]).into())?;
    let (found, rest) = rest.split_at_checked(CHECK_SIZE)?;
    let covered = bytes.get(..bytes.len().checked_sub(rest.len())?.checked_sub(CHECK_SIZE)?)?;
    (check(covered) == found).then_some((u32::from_be_bytes([*a, *b, *c, *d]), contents, rest))
}
