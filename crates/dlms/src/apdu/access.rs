//! ACCESS: reading, writing and invoking in one request.

use alloc::vec::Vec;

use super::{
    list,
    notification::{LongInvokeId, optional_date_time, write_date_time},
    reference::{AttributeId, MethodId, Selection, open, optional},
    result::{ActionResult, DataAccessResult},
    tag::{ACCESS_REQUEST, ACCESS_RESPONSE},
};
use crate::wire::{Data, DateTime, DecodeError, Reader, Rule, Writer};

/// One thing to do: `choice | descriptor | selection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessSpecification<'a> {
    /// `01` or, with a selection, `04`.
    Get(AttributeId, Option<Selection<'a>>),
    /// `02` or, with a selection, `05`.
    Set(AttributeId, Option<Selection<'a>>),
    /// `03`.
    Action(MethodId),
}

impl<'a> AccessSpecification<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        Ok(match reader.u8("access-request-specification")? {
            1 => Self::Get(AttributeId::decode(reader)?, None),
            2 => Self::Set(AttributeId::decode(reader)?, None),
            3 => Self::Action(MethodId::decode(reader)?),
            4 => Self::Get(AttributeId::decode(reader)?, Some(Selection::decode(reader)?)),
            5 => Self::Set(AttributeId::decode(reader)?, Some(Selection::decode(reader)?)),
            tag => return Err(start.fail("access-request-specification", Rule::Tag { tag })),
        })
    }

    fn encode(&self, writer: &mut Writer) {
        let (choice, selection) = match self {
            Self::Get(_, selection) => (if selection.is_some() { 4 } else { 1 }, selection),
            Self::Set(_, selection) => (if selection.is_some() { 5 } else { 2 }, selection),
            Self::Action(_) => (3, &None),
        };
        writer.u8(choice);
        match self {
            Self::Get(attribute, _) | Self::Set(attribute, _) => attribute.encode(writer),
            Self::Action(method) => method.encode(writer),
        }
        if let Some(selection) = selection {
            selection.encode(writer);
        }
    }
}

/// `D9 | long-invoke-id u32 | date-time | specifications | values`: as many values as specifications, null where none
/// is wanted.
///
/// # Source
/// DLMS fact sheet, section 11, vector 14.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessRequest<'a> {
    /// Invocation.
    pub long_invoke_id: LongInvokeId,
    /// When it was sent.
    pub date_time: Option<DateTime>,
    /// What is to be done.
    pub specifications: Vec<AccessSpecification<'a>>,
    /// Values to write and parameters, one encoded A-XDR value each.
    pub values: Vec<&'a [u8]>,
}

impl<'a> AccessRequest<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, ACCESS_REQUEST)?;
        let long_invoke_id = LongInvokeId(reader.u32("long-invoke-id")?);
        let date_time = optional_date_time(&mut reader)?;
        let field = "access-request-specification";
        let specifications = list::read(&mut reader, field, AccessSpecification::decode)?;
        let field = "access-request-list-of-data";
        let values = list::read_exactly(&mut reader, field, specifications.len(), Data::skip)?;
        reader.finish("access-request")?;
        Ok(Self { long_invoke_id, date_time, specifications, values })
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(64);
        writer.u8(ACCESS_REQUEST);
        writer.u32(self.long_invoke_id.0);
        write_date_time(&mut writer, self.date_time);
        write_specifications(&mut writer, &self.specifications);
        writer.length(self.values.len());
        self.values.iter().for_each(|value| writer.bytes(value));
        writer.into_bytes()
    }
}

fn write_specifications(writer: &mut Writer, specifications: &[AccessSpecification<'_>]) {
    writer.length(specifications.len());
    specifications.iter().for_each(|specification| specification.encode(writer));
}

/// What came of one specification: `choice | result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessResult {
    /// `01`.
    Get(DataAccessResult),
    /// `02`.
    Set(DataAccessResult),
    /// `03`.
    Action(ActionResult),
}

impl AccessResult {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        let choice = reader.u8("access-response-specification")?;
        let number = reader.u8("access-response-specification")?;
        Ok(match choice {
            1 => Self::Get(DataAccessResult::from_number(number)),
            2 => Self::Set(DataAccessResult::from_number(number)),
            3 => Self::Action(ActionResult::from_number(number)),
            tag => return Err(start.fail("access-response-specification", Rule::Tag { tag })),
        })
    }

    fn encode(self, writer: &mut Writer) {
        let (choice, number) = match self {
            Self::Get(result) => (1, result.number()),
            Self::Set(result) => (2, result.number()),
            Self::Action(result) => (3, result.number()),
        };
        writer.u8(choice);
        writer.u8(number);
    }

    /// Whether it was done.
    #[must_use]
    pub const fn is_success(self) -> bool {
        match self {
            Self::Get(result) | Self::Set(result) => matches!(result, DataAccessResult::Success),
            Self::Action(result) => matches!(result, ActionResult::Success),
        }
    }
}

/// `DA | long-invoke-id u32 | date-time | specifications, optional | values | results`.
///
/// # Source
/// IEC 62056-5-3, access-response; checked with other code bases only.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessResponse<'a> {
    /// Invocation.
    pub long_invoke_id: LongInvokeId,
    /// When it was sent.
    pub date_time: Option<DateTime>,
    /// The request's specifications, repeated, or none.
    pub specifications: Option<Vec<AccessSpecification<'a>>>,
    /// Values read and returned, one encoded A-XDR value each; null where there is none.
    pub values: Vec<&'a [u8]>,
    /// As many results.
    pub results: Vec<AccessResult>,
}

impl<'a> AccessResponse<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, ACCESS_RESPONSE)?;
        let long_invoke_id = LongInvokeId(reader.u32("long-invoke-id")?);
        let date_time = optional_date_time(&mut reader)?;
        let field = "access-request-specification";
        let specifications = match optional(&mut reader, field)? {
            false => None,
            true => Some(list::read(&mut reader, field, AccessSpecification::decode)?),
        };
        let values = list::read(&mut reader, "access-response-list-of-data", Data::skip)?;
        let field = "access-response-specification";
        let results = list::read_exactly(&mut reader, field, values.len(), AccessResult::decode)?;
        reader.finish("access-response")?;
        Ok(Self { long_invoke_id, date_time, specifications, values, results })
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(64);
        writer.u8(ACCESS_RESPONSE);
        writer.u32(self.long_invoke_id.0);
        write_date_time(&mut writer, self.date_time);
        match &self.specifications {
            None => writer.u8(0),
            Some(specifications) => {
                writer.u8(1);
                write_specifications(&mut writer, specifications);
            }
        }
        writer.length(self.values.len());
        self.values.iter().for_each(|value| writer.bytes(value));
        writer.length(self.results.len());
        self.results.iter().for_each(|result| result.encode(&mut writer));
        writer.into_bytes()
    }
}
