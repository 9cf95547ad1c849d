//! Records (EN 13757-3): DIF, VIF and data to typed readings.

mod date;
mod obis;
mod qualifier;
mod value;
mod vif;

pub use qualifier::{Qualifier, Qualifiers};
pub use vif::Vif;

use crate::{
    reading::{Function, Quality, Quantity, Reading, Text, Unit, Value},
    wire::{DecodeError, Reader, Rule},
};

use super::address::Medium;

/// Extension bytes that may follow a DIF or a VIF.
pub const EXTENSION_COUNT_MAX: usize = 10;

/// Filler.
pub(super) const FILLER: u8 = 0x2F;
/// Manufacturer data to the end.
const MANUFACTURER_DATA: u8 = 0x0F;
/// The same, and more telegrams follow.
const MORE_FOLLOWS: u8 = 0x1F;
/// Global readout request.
const GLOBAL_READOUT: u8 = 0x7F;

/// One record of a telegram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Record<'a> {
    /// DIF to the last VIFE, as sent, with a unit that is spelled out.
    pub header: &'a [u8],
    /// Data as sent, with the length byte of variable data.
    pub data: &'a [u8],
    /// Offset of the header in the telegram.
    pub offset: usize,
    /// Fillers in front of the record.
    pub filler_count: usize,
    /// What the record says.
    pub reading: Reading<'a>,
    /// What qualifies it: "backward", "per hour", "phase L1".
    pub qualifiers: Qualifiers,
    /// The unit, when it is spelled out.
    pub unit_text: Option<Text<'a>>,
    /// Whether further telegrams belong to this answer (DIF 1F).
    pub more_follows: bool,
}

/// How records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordOptions {
    /// Medium of the meter, for OBIS codes.
    pub medium: Medium,
    /// The unit in words stands before the VIFE and not after them (an older order).
    pub text_before_extensions: bool,
}

impl Default for RecordOptions {
    fn default() -> Self {
        Self { medium: Medium(0x0F), text_before_extensions: false }
    }
}

/// The records of a body, one after the other. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    reader: Reader<'a>,
    options: RecordOptions,
    trailing_fillers: usize,
}

impl<'a> Records<'a> {
    /// The records of `body`, which begins at `offset` of the telegram.
    #[must_use]
    pub const fn new(body: &'a [u8], offset: usize, options: RecordOptions) -> Self {
        Self { reader: Reader::at(body, offset), options, trailing_fillers: 0 }
    }

    /// Fillers after the last record, once all are read.
    #[must_use]
    pub const fn trailing_fillers(&self) -> usize {
        self.trailing_fillers
    }

    fn record(&mut self, filler_count: usize) -> Result<Record<'a>, DecodeError> {
        let start = self.reader.clone();
        let header = Header::decode(&mut self.reader, self.options.text_before_extensions)?;
        let at = self.reader.clone();
        let data = self.reader.bytes("data", header.data_size(&at)?)?;
        let size = at.offset().saturating_sub(start.offset());
        let raw = start.rest().get(..size).unwrap_or_default();
        let (reading, qualifiers) = value::reading(&header, data, at.offset(), self.options.medium)?;
        Ok(Record {
            header: raw,
            data,
            offset: start.offset(),
            filler_count,
            reading,
            qualifiers,
            unit_text: header.unit_text,
            more_follows: header.dif == MORE_FOLLOWS,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut fillers = 0usize;
        while self.reader.peek() == Some(FILLER) {
            self.reader.u8("filler").ok()?;
            fillers = fillers.saturating_add(1);
        }
        if self.reader.left() == 0 {
            self.trailing_fillers = fillers;
            return None;
        }
        let record = self.record(fillers);
        if record.is_err() {
            self.reader.remainder();
        }
        Some(record)
    }
}

/// DIF to the last VIFE, read.
#[derive(Debug, Clone)]
pub(super) struct Header<'a> {
    pub(super) dif: u8,
    pub(super) storage: u64,
    pub(super) tariff: u32,
    pub(super) subunit: u16,
    pub(super) vif: Vif,
    /// VIFE that qualify, without the one that selects from an extension table.
    pub(super) extensions: &'a [u8],
    pub(super) unit_text: Option<Text<'a>>,
}

impl<'a> Header<'a> {
    /// Reads a header.
    pub(super) fn decode(reader: &mut Reader<'a>, text_before_extensions: bool) -> Result<Self, DecodeError> {
        let start = reader.clone();
        let dif = reader.u8("DIF")?;
        let mut header = Self {
            dif,
            storage: u64::from((dif >> 6) & 1),
            tariff: 0,
            subunit: 0,
            vif: Vif::NONE,
            extensions: &[],
            unit_text: None,
        };
        if matches!(dif, MANUFACTURER_DATA | MORE_FOLLOWS | GLOBAL_READOUT) {
            return Ok(header);
        }
        if dif & 0x0F == 0x0F {
            return Err(start.fail("DIF", Rule::Unknown { found: dif.into() }));
        }
        let mut is_extended = dif & 0x80 != 0;
        let mut count = 0u32;
        while is_extended {
            let at = reader.clone();
            let extension = reader.u8("DIFE")?;
            if count >= 10 {
                return Err(at.fail("DIFE", Rule::TooLong { found: 11, limit: EXTENSION_COUNT_MAX }));
            }
            header.storage |= u64::from(extension & 0x0F) << count.saturating_mul(4).saturating_add(1);
            header.tariff |= u32::from((extension >> 4) & 3) << count.saturating_mul(2);
            header.subunit |= u16::from((extension >> 6) & 1) << count;
            is_extended = extension & 0x80 != 0;
            count = count.saturating_add(1);
        }
        header.value_information(reader, text_before_extensions)?;
        Ok(header)
    }

    fn value_information(&mut self, reader: &mut Reader<'a>, text_first: bool) -> Result<(), DecodeError> {
        let vif = reader.u8("VIF")?;
        let is_text = vif & 0x7F == 0x7C;
        if is_text && text_first {
            self.unit_text = Some(unit_text(reader)?);
        }
        let mut is_extended = vif & 0x80 != 0;
        let table = match vif {
            0xFB | 0xFD => {
                let code = reader.u8("VIFE")?;
                is_extended = code & 0x80 != 0;
                code & 0x7F
            }
            _ => 0,
        };
        self.vif = Vif { primary: vif & 0x7F, table };
        let extensions = reader.clone();
        let mut count = 0usize;
        while is_extended {
            let at = reader.clone();
            let extension = reader.u8("VIFE")?;
            if count >= EXTENSION_COUNT_MAX {
                return Err(at.fail("VIFE", Rule::TooLong { found: 11, limit: EXTENSION_COUNT_MAX }));
            }
            is_extended = extension & 0x80 != 0;
            count = count.saturating_add(1);
        }
        self.extensions = extensions.rest().get(..count).unwrap_or_default();
        if is_text && !text_first {
            self.unit_text = Some(unit_text(reader)?);
        }
        Ok(())
    }

    /// Low four bits of the DIF: how the data is coded.
    pub(super) const fn data_field(&self) -> u8 {
        self.dif & 0x0F
    }

    pub(super) const fn function(&self) -> Function {
        match (self.dif >> 4) & 3 {
            0 => Function::Instantaneous,
            1 => Function::Maximum,
            2 => Function::Minimum,
            _ => Function::DuringError,
        }
    }

    pub(super) const fn is_manufacturer_data(&self) -> bool {
        matches!(self.dif, MANUFACTURER_DATA | MORE_FOLLOWS)
    }

    /// Bytes of data at the reader.
    pub(super) fn data_size(&self, reader: &Reader<'_>) -> Result<usize, DecodeError> {
        if self.is_manufacturer_data() {
            return Ok(reader.left());
        }
        Ok(match self.data_field() {
            1 | 9 => 1,
            2 | 0xA => 2,
            3 | 0xB => 3,
            4 | 5 | 0xC => 4,
            6 | 0xE => 6,
            7 => 8,
            0xD => {
                let at = reader.clone();
                let length = reader.clone().u8("LVAR")?;
                let size = match length {
                    0x00..=0xBF => usize::from(length),
                    0xC0..=0xC9 | 0xD0..=0xD9 | 0xE0..=0xEF => usize::from(length & 0x0F),
                    0xF0..=0xF4 => usize::from(length.saturating_sub(0xEC)).saturating_mul(4),
                    _ => return Err(at.fail("LVAR", Rule::Unknown { found: length.into() })),
                };
                size.saturating_add(1)
            }
            _ => 0,
        })
    }
}

fn unit_text<'a>(reader: &mut Reader<'a>) -> Result<Text<'a>, DecodeError> {
    let length = reader.u8("length of the unit")?;
    Ok(Text::reversed(reader.bytes("unit", length.into())?))
}

/// What a manufacturer's data is presented as: octets, and nothing guessed.
pub(super) const fn manufacturer_reading(data: &[u8]) -> Reading<'_> {
    let mut reading = Reading::new(Quantity::Manufacturer, Value::Octets(data));
    reading.unit = Unit::None;
    reading.quality = Quality::Good;
    reading
}

#[cfg(test)]
mod tests;
