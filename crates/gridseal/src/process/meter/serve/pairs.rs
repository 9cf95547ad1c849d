//! Key pairs of the meter: in a TPM where one is there and has the curve, else sealed in a file, and said so.
//!
//! A TPM makes signing keys on P-256. Keys of agreement, and everything on P-384, are made in software.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{
    Curve, CurveAgreement, CurvePublic, CurveSigner, EnvelopeContext, Key, WrappedKey,
    role::{Dek, DlmsAgreement, DlmsSigning, Role},
    sha256,
};
use gridseal_io::rng::OsRng;
use gridseal_meter::cosem::{KeyRefusal, Pairs as Public};
use gridseal_trust::{
    party::Purpose,
    root::{KeyBlob, RootReply, RootRequest},
    tpm,
};
use serde::{Deserialize, Serialize};

use crate::{files, process::meter::root::SharedRoot};

/// Name of the file.
const FILE: &str = "pairs.json";

/// A pair as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Kept {
    /// Scalar, sealed under the directory's key, hex.
    Software(String),
    /// Public and private area, hex.
    Tpm { public: String, private: String },
}

/// The pairs of one purpose, as they are kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    current: Option<Kept>,
    waiting: Option<Kept>,
}

/// A scalar on one of the curves.
enum Scalar<R: Role> {
    P256(Key<R, 32>),
    P384(Key<R, 48>),
}

impl<R: Role> Scalar<R> {
    fn generate(curve: Curve) -> Result<Self, KeyRefusal> {
        let failed = |_| KeyRefusal::Root;
        Ok(match curve {
            Curve::P256 => Self::P256(Key::generate_scalar(&mut OsRng).map_err(failed)?),
            Curve::P384 => Self::P384(Key::generate_scalar(&mut OsRng).map_err(failed)?),
        })
    }

    fn seal(&self, dek: &Key<Dek, 32>, context: &EnvelopeContext) -> Result<WrappedKey, KeyRefusal> {
        let sealed = match self {
            Self::P256(key) => key.wrap(dek, context, &mut OsRng),
            Self::P384(key) => key.wrap(dek, context, &mut OsRng),
        };
        sealed.map_err(|_| KeyRefusal::Root)
    }

    fn open(
        curve: Curve,
        dek: &Key<Dek, 32>,
        context: &EnvelopeContext,
        sealed: &WrappedKey,
    ) -> Option<Self> {
        Some(match curve {
            Curve::P256 => Self::P256(Key::unwrap_key(dek, context, sealed).ok()?),
            Curve::P384 => Self::P384(Key::unwrap_key(dek, context, sealed).ok()?),
        })
    }

    fn signer(&self) -> Result<CurveSigner, KeyRefusal> {
        let signer = match self {
            Self::P256(key) => CurveSigner::new(key),
            Self::P384(key) => CurveSigner::new(key),
        };
        signer.map_err(|_| KeyRefusal::Root)
    }

    fn agreement(&self) -> Result<CurveAgreement, KeyRefusal> {
        let agreement = match self {
            Self::P256(key) => CurveAgreement::new(key),
            Self::P384(key) => CurveAgreement::new(key),
        };
        agreement.map_err(|_| KeyRefusal::Root)
    }
}

/// What a pair can do.
pub enum Usable {
    /// It signs.
    Signer(CurveSigner),
    /// It agrees.
    Agreement(CurveAgreement),
}

/// The pairs of a meter.
pub struct PairStore {
    curve: Curve,
    path: Option<PathBuf>,
    /// Seals scalars; fresh in each run without a directory.
    dek: Key<Dek, 32>,
    root: Option<SharedRoot>,
    slots: BTreeMap<u8, Slot>,
}

impl PairStore {
    /// The pairs of a directory; a file that cannot be read is no reason to begin again.
    pub fn load(curve: Curve, dir: Option<&Path>, root: Option<SharedRoot>) -> Result<Self> {
        let (path, dek) = match dir {
            Some(dir) => (Some(dir.join(FILE)), files::Zone::open_or_create(dir)?.into_dek()),
            None => (None, Key::generate(&mut OsRng)?),
        };
        let bytes = path.as_deref().map(files::read_if_there).transpose()?.flatten();
        let slots = match &bytes {
            Some(bytes) => serde_json::from_slice(bytes).with_context(|| format!("{FILE} is damaged"))?,
            None => BTreeMap::new(),
        };
        let store = Self { curve, path, dek, root, slots };
        for purpose in Purpose::ALL {
            let slot = store.slot(purpose);
            for kept in slot.current.iter().chain(&slot.waiting) {
                if store.usable(purpose, kept).is_err() {
                    bail!("a key pair of {FILE} does not open: other directory, other TPM, or other suite");
                }
            }
        }
        Ok(store)
    }

    /// Seals what belongs to the directory.
    pub const fn dek(&self) -> &Key<Dek, 32> {
        &self.dek
    }

    fn slot(&self, purpose: Purpose) -> Slot {
        self.slots.get(&purpose.number()).cloned().unwrap_or_default()
    }

    fn put(&mut self, purpose: Purpose, slot: Slot) -> Result<(), KeyRefusal> {
        let mut slots = self.slots.clone();
        slots.insert(purpose.number(), slot);
        if let Some(path) = &self.path {
            let bytes = serde_json::to_vec(&slots).map_err(|_| KeyRefusal::Store)?;
            files::write_atomic(path, &bytes).map_err(|_| KeyRefusal::Store)?;
        }
        self.slots = slots;
        Ok(())
    }

    /// Makes a pair, which waits; gives what holds it.
    pub fn make(&mut self, purpose: Purpose) -> Result<&'static str, KeyRefusal> {
        let (kept, holder) = match (&self.root, self.curve, purpose) {
            (Some(root), Curve::P256, Purpose::Signature | Purpose::Tls) => {
                let reply = root.perform(RootRequest::CreateSigningKey).map_err(|_| KeyRefusal::Root)?;
                let RootReply::SigningKey(KeyBlob { public, private }) = reply else {
                    return Err(KeyRefusal::Root);
                };
                (Kept::Tpm { public: hex::encode(public), private: hex::encode(private) }, "tpm")
            }
            (_, curve, Purpose::Agreement) => {
                let scalar = Scalar::<DlmsAgreement>::generate(curve)?;
                (Kept::Software(hex::encode(scalar.seal(&self.dek, &context(purpose))?.0)), "software")
            }
            (_, curve, _) => {
                let scalar = Scalar::<DlmsSigning>::generate(curve)?;
                (Kept::Software(hex::encode(scalar.seal(&self.dek, &context(purpose))?.0)), "software")
            }
        };
        self.put(purpose, Slot { waiting: Some(kept), ..self.slot(purpose) })?;
        Ok(holder)
    }

    /// Public keys of both pairs.
    pub fn public(&self, purpose: Purpose) -> Public {
        let slot = self.slot(purpose);
        let public = |kept: Option<Kept>| self.signer(purpose, &kept?).ok().map(|signer| signer.public());
        Public { current: public(slot.current), waiting: public(slot.waiting) }
    }

    /// The pair in use.
    pub fn current(&self, purpose: Purpose) -> Option<Usable> {
        self.usable(purpose, self.slot(purpose).current.as_ref()?).ok()
    }

    /// Proves possession of the pair with this public key.
    pub fn sign(&self, purpose: Purpose, key: &CurvePublic, message: &[u8]) -> Result<Vec<u8>, KeyRefusal> {
        let slot = self.slot(purpose);
        for kept in slot.waiting.iter().chain(&slot.current) {
            let signer = self.signer(purpose, kept)?;
            if signer.public() == *key {
                return signer.sign(message).ok_or(KeyRefusal::Root);
            }
        }
        Err(KeyRefusal::NoPair)
    }

    /// The waiting pair with this public key is in use from now on; one that is in use stays so.
    pub fn adopt(&mut self, purpose: Purpose, key: &CurvePublic) -> Result<(), KeyRefusal> {
        let public = self.public(purpose);
        if public.current.as_ref() == Some(key) {
            return Ok(());
        }
        if public.waiting.as_ref() != Some(key) {
            return Err(KeyRefusal::NoPair);
        }
        self.put(purpose, Slot { current: self.slot(purpose).waiting, waiting: None })
    }

    fn usable(&self, purpose: Purpose, kept: &Kept) -> Result<Usable, KeyRefusal> {
        match (purpose, kept) {
            (Purpose::Agreement, Kept::Software(sealed)) => {
                let scalar: Scalar<DlmsAgreement> = self.open(purpose, sealed)?;
                Ok(Usable::Agreement(scalar.agreement()?))
            }
            _ => self.signer(purpose, kept).map(Usable::Signer),
        }
    }

    fn open<R: Role>(&self, purpose: Purpose, sealed: &str) -> Result<Scalar<R>, KeyRefusal> {
        let sealed = WrappedKey(hex::decode(sealed).map_err(|_| KeyRefusal::NoPair)?);
        Scalar::open(self.curve, &self.dek, &context(purpose), &sealed).ok_or(KeyRefusal::NoPair)
    }

    /// Whatever a pair is for, it signs the request for its own certificate.
    fn signer(&self, purpose: Purpose, kept: &Kept) -> Result<CurveSigner, KeyRefusal> {
        match kept {
            Kept::Software(sealed) if purpose == Purpose::Agreement => {
                self.open::<DlmsAgreement>(purpose, sealed)?.signer()
            }
            Kept::Software(sealed) => self.open::<DlmsSigning>(purpose, sealed)?.signer(),
            Kept::Tpm { public, private } => {
                let root = self.root.clone().ok_or(KeyRefusal::NoPair)?;
                let bytes = |digits: &String| hex::decode(digits).map_err(|_| KeyRefusal::NoPair);
                let tls = KeyBlob { public: bytes(public)?, private: bytes(private)? };
                let key = tpm::tls_key(&tls.public).map_err(|_| KeyRefusal::NoPair)?;
                Ok(CurveSigner::external(key, move |message| {
                    let request = RootRequest::Sign { tls: tls.clone(), message: message.to_vec() };
                    match root.perform(request) {
                        Ok(RootReply::Signature(signature)) => Some(signature),
                        _ => None,
                    }
                }))
            }
        }
    }
}

/// Binds a sealed scalar to its purpose.
fn context(purpose: Purpose) -> EnvelopeContext {
    let [object @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
        sha256(&[b"gridseal dlms key pair", &[purpose.number()]]);
    EnvelopeContext::new([0; 16], object, 1)
}
