//! Image transfer: blocks in any order, verified as a whole, activated only with a signature (rule S6).

use gridseal_dlms::{
    apdu::result::DataAccessResult,
    wire::{BitString, Data, Writer},
};
use gridseal_types::ObisCode;

use super::{
    Device, Keyholder, Note,
    object::{items, number},
    profile,
};

/// Largest image, bytes.
const IMAGE_SIZE_MAX: usize = 262_144;
/// Smallest block, bytes.
const BLOCK_SIZE_MIN: usize = 16;
/// Application firmware: its identification is the one of the active image. The metrological part has another one.
const FIRMWARE: ObisCode = ObisCode::new([1, 1, 0, 2, 0, 255]);

/// States of attribute 6.
mod status {
    pub(super) const INITIATED: u8 = 1;
    pub(super) const VERIFIED: u8 = 3;
    pub(super) const VERIFICATION_FAILED: u8 = 4;
    pub(super) const ACTIVATED: u8 = 6;
    pub(super) const ACTIVATION_FAILED: u8 = 7;
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

impl Image {
    pub(super) const fn status(&self) -> u8 {
        self.status
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

    /// Attribute 7: what may be activated, once it was verified.
    pub(super) fn to_activate(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let is_ready = matches!(self.status, status::VERIFIED | status::ACTIVATED);
        let entry = Data::Structure(vec![
            Data::DoubleLongUnsigned(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)),
            Data::OctetString(&self.identifier),
            Data::OctetString(self.bytes.get(self.bytes.len().saturating_sub(64)..).unwrap_or_default()),
        ]);
        Data::Array(if is_ready { vec![entry] } else { Vec::new() }).encode(&mut writer);
        writer.into_bytes()
    }

    fn initiate(&mut self, value: &Data<'_>, block_size: usize) -> Result<(), DataAccessResult> {
        let [Data::OctetString(identifier), size] = items(value) else {
            return Err(DataAccessResult::TypeUnmatched);
        };
        let size = number(size).and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
        if size == 0 || size > IMAGE_SIZE_MAX || identifier.is_empty() || block_size < BLOCK_SIZE_MIN {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        *self = Self {
            identifier: identifier.to_vec(),
            bytes: vec![0; size],
            block_size,
            blocks: vec![false; size.div_ceil(block_size)],
            status: status::INITIATED,
        };
        Ok(())
    }

    fn take_block(&mut self, value: &Data<'_>) -> Result<(), DataAccessResult> {
        let [index, Data::OctetString(block)] = items(value) else {
            return Err(DataAccessResult::TypeUnmatched);
        };
        if self.status != status::INITIATED {
            return Err(DataAccessResult::OtherReason);
        }
        let violated = DataAccessResult::ScopeOfAccessViolated;
        let index = number(index).and_then(|index| usize::try_from(index).ok()).ok_or(violated)?;
        let start = index.checked_mul(self.block_size).ok_or(violated)?;
        let end = start.saturating_add(self.block_size).min(self.bytes.len());
        let place =
            self.bytes.get_mut(start..end).filter(|place| place.len() == block.len()).ok_or(violated)?;
        let is_there = self.blocks.get_mut(index).ok_or(violated)?;
        if *is_there && *place != **block {
            return Err(violated);
        }
        place.copy_from_slice(block);
        *is_there = true;
        Ok(())
    }
}

impl Device {
    /// Methods 1 to 4.
    pub(super) fn image_method(
        &mut self,
        obis: ObisCode,
        method: i8,
        value: &Data<'_>,
        keys: &dyn Keyholder,
    ) -> Result<(), DataAccessResult> {
        let object = self.objects.get(&obis).ok_or(DataAccessResult::ObjectUndefined)?;
        if object.number(5) == 0 {
            return Err(DataAccessResult::ReadWriteDenied);
        }
        let block_size = usize::try_from(object.number(2)).unwrap_or(0);
        match method {
            1 => self.image.initiate(value, block_size),
            2 => self.image.take_block(value),
            3 => self.verify_image(keys),
            _ => self.activate_image(keys),
        }
    }

    fn verify_image(&mut self, keys: &dyn Keyholder) -> Result<(), DataAccessResult> {
        if !matches!(self.image.status, status::INITIATED | status::VERIFIED) {
            return Err(DataAccessResult::OtherReason);
        }
        if !self.image.is_complete() {
            // Not a verdict: the missing blocks may still come.
            return Err(DataAccessResult::TemporaryFailure);
        }
        let is_good = keys.is_image_signed(&self.image.identifier, &self.image.bytes);
        self.image.status = if is_good { status::VERIFIED } else { status::VERIFICATION_FAILED };
        self.note(Note::ImageVerified { is_good });
        if is_good {
            return Ok(());
        }
        self.log_event(profile::EVENT_IMAGE_REFUSED);
        Err(DataAccessResult::OtherReason)
    }

    fn activate_image(&mut self, keys: &dyn Keyholder) -> Result<(), DataAccessResult> {
        if self.image.status == status::INITIATED {
            self.verify_image(keys)?;
        }
        if self.image.status != status::VERIFIED {
            return Err(DataAccessResult::OtherReason);
        }
        let Some(firmware) = self.objects.get_mut(&FIRMWARE) else {
            self.image.status = status::ACTIVATION_FAILED;
            return Err(DataAccessResult::HardwareFault);
        };
        firmware.keep(2, &Data::OctetString(&self.image.identifier));
        self.image.status = status::ACTIVATED;
        self.note(Note::ImageActivated);
        self.log_event(profile::EVENT_IMAGE_ACTIVATED);
        Ok(())
    }
}
