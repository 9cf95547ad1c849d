//! NV indices: epoch counter, its base, the owner pin, the counter of generations, and the certificate of the endorsement
//! key.

use alloc::vec::Vec;

use gridseal_types::{Digest, Epoch};

use super::{
    Tpm2Root,
    wire::{Auth, Call, PARAMETER_SIZE_MAX, cc, rc},
};
use crate::{
    endorsement,
    root::{EndorsementKind, OwnerPin, RootError, TpmTransport},
    tpm::{ALG_SHA256, RH_PLATFORM, Reader, tpm2b},
};

/// An NV index, its TPMA_NV and its size in bytes.
#[derive(Clone, Copy)]
struct Index {
    handle: u32,
    attributes: u32,
    size: u16,
}

/// Counter, AUTHWRITE, AUTHREAD, POLICY_DELETE, NO_DA, PLATFORMCREATE; not ORDERLY, which could jump after a power cut.
const EPOCH_COUNTER: Index = Index { handle: 0x0141_0001, attributes: 0x4204_0414, size: 8 };
/// Ordinary, otherwise the same.
const OWNER_PIN: Index = Index { handle: 0x0141_0002, attributes: 0x4204_0404, size: 40 };
/// Ordinary with WRITEDEFINE: locked for ever at production.
const EPOCH_BASE: Index = Index { handle: 0x0141_0003, attributes: 0x4204_2404, size: 8 };

/// Certificate of an RSA 2048 endorsement key, and of one on P-256, where the TCG has them.
const CERTIFICATE_RSA_2048: u32 = 0x01c0_0002;
const CERTIFICATE_P256: u32 = 0x01c0_000a;
/// What is read of a certificate's index, bytes: no certificate that is taken is longer.
const CERTIFICATE_READ_MAX: u16 = 4_096;
/// What is read at once, bytes.
const NV_PIECE: u16 = 512;

/// As the epoch counter: raised with each durable reservation on the device's flash (attack A37).
const GENERATION: Index = Index { handle: 0x0141_0004, attributes: 0x4204_0414, size: 8 };

/// `Ok(None)` for one response code that is an answer and no failure.
fn unless<R>(result: Result<R, RootError>, code: u32) -> Result<Option<R>, RootError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(RootError::Refused { rc, .. }) if rc == code => Ok(None),
        Err(error) => Err(error),
    }
}

impl<T: TpmTransport> Tpm2Root<T> {
    fn nv_call(&mut self, cc: u32, index: Index, parameters: &[u8]) -> Result<Vec<u8>, RootError> {
        let handles = [index.handle, index.handle];
        Ok(self.run(&Call { cc, handles: &handles, auths: &[Auth::Empty], parameters })?.parameters)
    }

    fn nv_define(&mut self, index: Index) -> Result<(), RootError> {
        let mut public = Vec::with_capacity(14);
        public.extend_from_slice(&index.handle.to_be_bytes());
        public.extend_from_slice(&ALG_SHA256.to_be_bytes());
        public.extend_from_slice(&index.attributes.to_be_bytes());
        tpm2b(&mut public, &[]);
        public.extend_from_slice(&index.size.to_be_bytes());
        let mut parameters = Vec::with_capacity(18);
        tpm2b(&mut parameters, &[]);
        tpm2b(&mut parameters, &public);
        let call = Call {
            cc: cc::NV_DEFINE_SPACE,
            handles: &[RH_PLATFORM],
            auths: &[Auth::Empty],
            parameters: &parameters,
        };
        unless(self.run(&call).map(|_| ()), rc::NV_DEFINED).map(|_| ())
    }

    /// The content, `None` when the index was never written.
    fn nv_read(&mut self, index: Index) -> Result<Option<Vec<u8>>, RootError> {
        let parameters = [index.size, 0].map(u16::to_be_bytes).concat();
        let answer = unless(self.nv_call(cc::NV_READ, index, &parameters), rc::NV_UNINITIALIZED)?;
        let Some(answer) = answer else { return Ok(None) };
        let mut reader = Reader::new(&answer);
        let data = reader.tpm2b(usize::from(index.size), "data")?.to_vec();
        reader.finish("parameters")?;
        if data.len() == usize::from(index.size) { Ok(Some(data)) } else { Err(RootError::Malformed) }
    }

    /// The endorsement key's certificate as the TPM's maker left it, cut at its own length; empty where there is none.
    pub(super) fn endorsement_certificate(&mut self) -> Result<Vec<u8>, RootError> {
        let handle = match self.endorsement {
            EndorsementKind::Rsa2048 => CERTIFICATE_RSA_2048,
            EndorsementKind::P256 => CERTIFICATE_P256,
        };
        let call = Call { cc: cc::NV_READ_PUBLIC, handles: &[handle], auths: &[], parameters: &[] };
        let Some(answer) = unless(self.run(&call), rc::HANDLE_H1)? else { return Ok(Vec::new()) };
        let mut reader = Reader::new(&answer.parameters);
        let mut public = Reader::new(reader.tpm2b(PARAMETER_SIZE_MAX, "nvPublic")?);
        public.u32("nvIndex")?;
        public.u16("nameAlg")?;
        let attributes = public.u32("attributes")?;
        public.tpm2b(PARAMETER_SIZE_MAX, "authPolicy")?;
        let size = public.u16("dataSize")?;
        let index = Index { handle, attributes, size };
        let mut certificate = Vec::with_capacity(usize::from(size));
        // In pieces that every TPM reads at once. One that is too large for a message is as good as none.
        for offset in (0..size.min(CERTIFICATE_READ_MAX)).step_by(usize::from(NV_PIECE)) {
            let piece = size.saturating_sub(offset).min(NV_PIECE);
            let parameters = [piece, offset].map(u16::to_be_bytes).concat();
            let answer = match self.nv_call(cc::NV_READ, index, &parameters) {
                Ok(answer) => answer,
                // Never written, or not for us to read: as good as none.
                Err(RootError::Refused { .. }) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            certificate.extend_from_slice(Reader::new(&answer).tpm2b(usize::from(piece), "data")?);
        }
        Ok(endorsement::cut(&certificate).unwrap_or_default().to_vec())
    }

    fn nv_write(&mut self, index: Index, data: &[u8]) -> Result<(), RootError> {
        let mut parameters = Vec::with_capacity(44);
        tpm2b(&mut parameters, data);
        parameters.extend_from_slice(&[0, 0]);
        self.nv_call(cc::NV_WRITE, index, &parameters).map(|_| ())
    }

    fn nv_u64(&mut self, index: Index) -> Result<Option<u64>, RootError> {
        let Some(data) = self.nv_read(index)? else { return Ok(None) };
        Ok(Some(Reader::new(&data).u64("data")?))
    }

    /// Defines the four indices and fixes the base. What an earlier attempt left is taken up, so that production may be
    /// repeated after a power cut.
    pub(super) fn define_indices(&mut self) -> Result<(), RootError> {
        for index in [EPOCH_COUNTER, OWNER_PIN, EPOCH_BASE, GENERATION] {
            self.nv_define(index)?;
        }
        // A counter has no value before its first increment, and that is not 1 on a TPM that ever deleted one.
        if self.nv_u64(EPOCH_COUNTER)?.is_none() {
            self.raise_epoch()?;
        }
        if self.nv_u64(GENERATION)?.is_none() {
            self.raise_generation()?;
        }
        if self.nv_read(EPOCH_BASE)?.is_none() {
            let counter = self.nv_u64(EPOCH_COUNTER)?.ok_or(RootError::Malformed)?;
            self.nv_write(EPOCH_BASE, &counter.to_be_bytes())?;
        }
        unless(self.nv_call(cc::NV_WRITE_LOCK, EPOCH_BASE, &[]), rc::NV_LOCKED).map(|_| ())
    }

    pub(super) fn raise_epoch(&mut self) -> Result<(), RootError> {
        self.nv_call(cc::NV_INCREMENT, EPOCH_COUNTER, &[]).map(|_| ())
    }

    pub(super) fn raise_generation(&mut self) -> Result<(), RootError> {
        self.nv_call(cc::NV_INCREMENT, GENERATION, &[]).map(|_| ())
    }

    /// The counter as it is: only equality and order of its values count.
    pub(super) fn generation(&mut self) -> Result<u64, RootError> {
        self.nv_u64(GENERATION)?.ok_or(RootError::Malformed)
    }

    /// Counter minus base.
    pub(super) fn epoch(&mut self) -> Result<Epoch, RootError> {
        let counter = self.nv_u64(EPOCH_COUNTER)?.ok_or(RootError::Malformed)?;
        let base = self.nv_u64(EPOCH_BASE)?.ok_or(RootError::Malformed)?;
        counter.checked_sub(base).and_then(|epoch| Epoch::try_from(epoch).ok()).ok_or(RootError::Malformed)
    }

    pub(super) fn pin(&mut self) -> Result<Option<OwnerPin>, RootError> {
        let Some(data) = self.nv_read(OWNER_PIN)? else { return Ok(None) };
        let mut reader = Reader::new(&data);
        let (index, generation) = (reader.u32("index")?, reader.u32("generation")?);
        let entry = Digest::from_slice(reader.rest()).ok_or(RootError::Malformed)?;
        Ok(Some(OwnerPin { index, generation, entry }))
    }

    pub(super) fn write_pin(&mut self, pin: &OwnerPin) -> Result<(), RootError> {
        let mut data = Vec::with_capacity(40);
        data.extend_from_slice(&pin.index.to_be_bytes());
        data.extend_from_slice(&pin.generation.to_be_bytes());
        data.extend_from_slice(pin.entry.as_bytes());
        self.nv_write(OWNER_PIN, &data)
    }
}
