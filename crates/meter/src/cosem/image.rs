//! Image transfer: blocks in any order, verified as a whole, activated only with both signatures of its manifest (rule
//! S6), resumed after a power cut.

use gridseal_dlms::{
    apdu::result::DataAccessResult,
    wire::{BitString, Data},
};
use gridseal_trust::firmware::{FirmwareRefusal, FirmwareTrust, Verified};
use gridseal_types::ObisCode;

use super::{
    Device, Keyholder, Note, Part, StoreError,
    durable::{kept_block, take_block},
    object::{items, number},
    profile,
};

/// Largest image, bytes, with its manifest.
const IMAGE_SIZE_MAX: usize = 262_144;
/// Smallest block, bytes.
const BLOCK_SIZE_MIN: usize = 16;
/// Application firmware: its identification is the one of the active image. The metrological part has another one.
const FIRMWARE: ObisCode = ObisCode::new([1, 1, 0, 2, 0, 255]);
const FIRMWARE_SIGNATURE: ObisCode = ObisCode::new([1, 1, 0, 2, 8, 255]);

/// States of attribute 6.
mod status {
    pub(super) const INITIATED: u8 = 1;
    pub(super) const VERIFIED: u8 = 3;
    pub(super) const VERIFICATION_FAILED: u8 = 4;
    pub(super) const ACTIVATED: u8 = 6;
    pub(super) const ACTIVATION_FAILED: u8 = 7;
}

/// Why an image was refused: for the log alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageRefusal {
    /// Manifest, model, version, size or contents.
    #[error(transparent)]
    Firmware(#[from] FirmwareRefusal),
    /// Nobody is named whose images are taken.
    #[error("nobody is named whose images are taken")]
    NoTrust,
    /// It could not be made durable.
    #[error("the image's state could not be stored")]
    Store,
}

/// Whose images a device takes, and which one it runs.
#[derive(Debug, Clone)]
pub struct ImageConfig {
    /// Keys that sign manifests, and the model.
    pub trust: FirmwareTrust,
    /// Version that runs at first.
    pub version: u32,
}

/// The image that runs.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(super) struct Active {
    #[n(0)]
    version: u32,
    #[cbor(n(1), with = "minicbor::bytes")]
    identifier: Vec<u8>,
    #[cbor(n(2), with = "minicbor::bytes")]
    signature: Vec<u8>,
}

/// An image on its way.
#[derive(Debug, Default)]
pub(super) struct Image {
    identifier: Vec<u8>,
    bytes: Vec<u8>,
    /// Size of a block, bytes; the last one may be short.
    block_size: usize,
    /// Which blocks are there.
    blocks: Vec<bool>,
    status: u8,
}

#[derive(minicbor::Encode, minicbor::Decode)]
struct Record {
    #[cbor(n(0), with = "minicbor::bytes")]
    identifier: Vec<u8>,
    #[n(1)]
    size: u32,
    #[n(2)]
    block_size: u32,
    #[n(3)]
    status: u8,
}

impl Image {
    pub(super) const fn status(&self) -> u8 {
        self.status
    }

    fn new(identifier: &[u8], size: usize, block_size: usize) -> Option<Self> {
        let is_sound = (1..=IMAGE_SIZE_MAX).contains(&size)
            && (1..=255).contains(&identifier.len())
            && block_size >= BLOCK_SIZE_MIN;
        is_sound.then(|| Self {
            identifier: identifier.to_vec(),
            bytes: vec![0; size],
            block_size,
            blocks: vec![false; size.div_ceil(block_size)],
            status: status::INITIATED,
        })
    }

    /// The image of a record, with the blocks that were kept, and how many bytes of them are whole.
    pub(super) fn restore(record: &[u8], kept: &[u8]) -> Option<(Self, usize)> {
        let record: Record = minicbor::decode(record).ok()?;
        let size = |number: u32| usize::try_from(number).ok();
        let mut image = Self::new(&record.identifier, size(record.size)?, size(record.block_size)?)?;
        let mut rest = kept;
        while let Some((number, contents, after)) = take_block(rest) {
            // A block of an image before this one: power went between the two records.
            if image.place(number, contents).is_err() {
                break;
            }
            rest = after;
        }
        image.status = match record.status {
            known @ status::INITIATED..=status::ACTIVATION_FAILED => known,
            _ => return None,
        };
        // A verdict on blocks that are not all there is none.
        if image.status != status::INITIATED && !image.is_complete() {
            image.status = status::INITIATED;
        }
        Some((image, kept.len().saturating_sub(rest.len())))
    }

    fn record(&self) -> Result<Vec<u8>, StoreError> {
        let number = |size: usize| u32::try_from(size).map_err(|_| StoreError);
        let record = Record {
            identifier: self.identifier.clone(),
            size: number(self.bytes.len())?,
            block_size: number(self.block_size)?,
            status: self.status,
        };
        minicbor::to_vec(&record).map_err(|_| StoreError)
    }

    /// Number of the first block that is not there; the number of blocks when all are.
    pub(super) fn first_missing(&self) -> u32 {
        let found = self.blocks.iter().position(|is_there| !is_there).unwrap_or(self.blocks.len());
        u32::try_from(found).unwrap_or(u32::MAX)
    }

    fn is_complete(&self) -> bool {
        !self.blocks.is_empty() && self.blocks.iter().all(|is_there| *is_there)
    }

    /// Attribute 3.
    pub(super) fn blocks_status(&self) -> Vec<u8> {
        let mut bytes = vec![0u8; self.blocks.len().div_ceil(8)];
        for (index, is_there) in self.blocks.iter().enumerate() {
            if let Some(octet) = bytes.get_mut(index / 8).filter(|_| *is_there) {
                *octet |= 0x80 >> (index % 8);
            }
        }
        BitString::new(self.blocks.len(), &bytes).map_or(Data::Null, Data::BitString).to_bytes()
    }

    /// Attribute 7: what may be activated, once it was verified; the signature is the first one of the manifest.
    pub(super) fn to_activate(&self) -> Vec<u8> {
        let is_ready = matches!(self.status, status::VERIFIED | status::ACTIVATED);
        let entry = Data::Structure(vec![
            Data::DoubleLongUnsigned(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)),
            Data::OctetString(&self.identifier),
            Data::OctetString(gridseal_trust::firmware::signature(&self.bytes).unwrap_or_default()),
        ]);
        Data::Array(if is_ready { vec![entry] } else { Vec::new() }).to_bytes()
    }

    /// Puts a block in its place; gives whether it was not there before.
    fn place(&mut self, number: u32, block: &[u8]) -> Result<bool, DataAccessResult> {
        let violated = DataAccessResult::ScopeOfAccessViolated;
        let index = usize::try_from(number).map_err(|_| violated)?;
        let start = index.checked_mul(self.block_size).ok_or(violated)?;
        let end = start.saturating_add(self.block_size).min(self.bytes.len());
        let place =
            self.bytes.get_mut(start..end).filter(|place| place.len() == block.len()).ok_or(violated)?;
        let is_there = self.blocks.get_mut(index).ok_or(violated)?;
        if *is_there {
            return if *place == *block { Ok(false) } else { Err(violated) };
        }
        place.copy_from_slice(block);
        *is_there = true;
        Ok(true)
    }

    /// Takes a block back that could not be kept.
    fn forget(&mut self, number: u32) {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(is_there) = self.blocks.get_mut(index) {
            *is_there = false;
        }
    }
}

impl Device {
    /// Methods 1 to 4.
    pub(super) fn image_method(
        &mut self,
        (obis, method): (ObisCode, i8),
        value: &Data<'_>,
        keys: &mut dyn Keyholder,
    ) -> Result<(), DataAccessResult> {
        let object = self.objects.get(&obis).ok_or(DataAccessResult::ObjectUndefined)?;
        if object.number(5) == 0 {
            return Err(DataAccessResult::ReadWriteDenied);
        }
        let block_size = usize::try_from(object.number(2)).unwrap_or(0);
        match method {
            1 => self.initiate_image(value, block_size, keys),
            2 => self.take_block(value, keys),
            3 => self.verify_image(keys),
            _ => self.activate_image(keys),
        }
    }

    fn initiate_image(
        &mut self,
        value: &Data<'_>,
        block_size: usize,
        keys: &mut dyn Keyholder,
    ) -> Result<(), DataAccessResult> {
        let [Data::OctetString(identifier), size] = items(value) else {
            return Err(DataAccessResult::TypeUnmatched);
        };
        let size = number(size).and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
        let image =
            Image::new(identifier, size, block_size).ok_or(DataAccessResult::ScopeOfAccessViolated)?;
        // The old blocks go first: with the new record they would be none of its own.
        let kept = keys.keep(Part::Blocks, &[]).and_then(|()| keys.keep(Part::Image, &image.record()?));
        kept.map_err(|StoreError| DataAccessResult::HardwareFault)?;
        self.image = image;
        Ok(())
    }

    fn take_block(&mut self, value: &Data<'_>, keys: &mut dyn Keyholder) -> Result<(), DataAccessResult> {
        let [index, Data::OctetString(block)] = items(value) else {
            return Err(DataAccessResult::TypeUnmatched);
        };
        if self.image.status != status::INITIATED {
            return Err(DataAccessResult::OtherReason);
        }
        let index = number(index).and_then(|index| u32::try_from(index).ok());
        let index = index.ok_or(DataAccessResult::ScopeOfAccessViolated)?;
        if self.image.place(index, block)? && keys.append(Part::Blocks, &kept_block(index, block)).is_err() {
            self.image.forget(index);
            return Err(DataAccessResult::HardwareFault);
        }
        Ok(())
    }

    /// The verdict on the image, whatever its status.
    fn judge_image(&self) -> Result<Verified<'_>, ImageRefusal> {
        let config = self.config.image.as_ref().ok_or(ImageRefusal::NoTrust)?;
        let version = self.active.as_ref().map_or(config.version, |active| active.version);
        Ok(config.trust.verify(&self.image.bytes, &self.image.identifier, version)?)
    }

    fn set_status(&mut self, status: u8, keys: &mut dyn Keyholder) -> Result<(), StoreError> {
        let before = core::mem::replace(&mut self.image.status, status);
        let kept = self.image.record().and_then(|record| keys.keep(Part::Image, &record));
        kept.inspect_err(|_| self.image.status = before)
    }

    fn refuse_image(&mut self, refusal: ImageRefusal) -> DataAccessResult {
        self.note(Note::ImageRefused(refusal));
        self.log_event(profile::EVENT_IMAGE_REFUSED);
        DataAccessResult::OtherReason
    }

    fn verify_image(&mut self, keys: &mut dyn Keyholder) -> Result<(), DataAccessResult> {
        if !matches!(self.image.status, status::INITIATED | status::VERIFIED) {
            return Err(DataAccessResult::OtherReason);
        }
        if !self.image.is_complete() {
            // Not a verdict: the missing blocks may still come.
            return Err(DataAccessResult::TemporaryFailure);
        }
        let verdict = self.judge_image().map(|verified| verified.version);
        let status = if verdict.is_ok() { status::VERIFIED } else { status::VERIFICATION_FAILED };
        let verdict = verdict.and_then(|version| {
            self.set_status(status, keys).map_err(|_| ImageRefusal::Store)?;
            Ok(version)
        });
        match verdict {
            Ok(version) => {
                self.note(Note::ImageVerified { version });
                Ok(())
            }
            Err(refusal) => {
                if refusal != ImageRefusal::Store {
                    // Whether or not this can be kept: without it the image is verified, and refused, once more.
                    let _ = self.set_status(status, keys);
                    self.image.status = status;
                }
                Err(self.refuse_image(refusal))
            }
        }
    }

    fn activate_image(&mut self, keys: &mut dyn Keyholder) -> Result<(), DataAccessResult> {
        if self.image.status == status::INITIATED {
            self.verify_image(keys)?;
        }
        if self.image.status != status::VERIFIED {
            return Err(DataAccessResult::OtherReason);
        }
        // Once more: what runs may have become newer since, and what was kept may have been changed.
        let active = self.judge_image().map(|verified| Active {
            version: verified.version,
            identifier: self.image.identifier.clone(),
            signature: verified.signature.to_vec(),
        });
        let active = match active {
            Ok(active) if self.objects.contains_key(&FIRMWARE) => active,
            Ok(_) => {
                let _ = self.set_status(status::ACTIVATION_FAILED, keys);
                return Err(DataAccessResult::HardwareFault);
            }
            Err(refusal) => {
                let _ = self.set_status(status::ACTIVATION_FAILED, keys);
                self.image.status = status::ACTIVATION_FAILED;
                return Err(self.refuse_image(refusal));
            }
        };
        let before = self.active.replace(active.clone());
        if self.keep_setup(keys).is_err() {
            self.active = before;
            return Err(self.refuse_image(ImageRefusal::Store));
        }
        // Power may go here: the new image runs, its status is still "verified", and activating it again changes nothing.
        let _ = self.set_status(status::ACTIVATED, keys);
        self.image.status = status::ACTIVATED;
        self.show_active(&active);
        self.note(Note::ImageActivated { version: active.version });
        self.log_event(profile::EVENT_IMAGE_ACTIVATED);
        Ok(())
    }

    /// Shows identification and signature of the active image.
    pub(super) fn show_active(&mut self, active: &Active) {
        for (obis, value) in [(FIRMWARE, &active.identifier), (FIRMWARE_SIGNATURE, &active.signature)] {
            if let Some(object) = self.objects.get_mut(&obis) {
                object.keep(2, &Data::OctetString(value));
            }
        }
    }
}
