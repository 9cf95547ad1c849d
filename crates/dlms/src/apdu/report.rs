//! InformationReport: what a server with short names tells on its own account.

use alloc::vec::Vec;

use super::{
    list,
    reference::{open, optional},
    tag::INFORMATION_REPORT,
};
use crate::wire::{Data, DecodeError, Reader, Rule, Writer};

/// Which variable: `02 name` or `04 name selector parameter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VariableAccess<'a> {
    /// `02`: the short name.
    Name(i16),
    /// `04`: the short name, a selector and an encoded parameter.
    Parameterised(i16, u8, &'a [u8]),
}

/// `18 | current-time, optional | variables | values`. It is never answered.
///
/// # Source
/// IEC 62056-5-3, InformationReportRequest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InformationReport<'a> {
    /// Generalized time as text.
    pub current_time: Option<&'a [u8]>,
    /// Whose values they are.
    pub variables: Vec<VariableAccess<'a>>,
    /// As many values, one encoded A-XDR value each.
    pub values: Vec<&'a [u8]>,
}

fn variable<'a>(reader: &mut Reader<'a>) -> Result<VariableAccess<'a>, DecodeError> {
    let start = reader.clone();
    let field = "variable-access-specification";
    let choice = reader.u8(field)?;
    let name = i16::from_be_bytes(reader.array(field)?);
    match choice {
        2 => Ok(VariableAccess::Name(name)),
        4 => Ok(VariableAccess::Parameterised(name, reader.u8("selector")?, Data::skip(reader)?)),
        tag => Err(start.fail(field, Rule::Tag { tag })),
    }
}

impl<'a> InformationReport<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, INFORMATION_REPORT)?;
        let current_time = match optional(&mut reader, "current-time")? {
            false => None,
            true => Some(reader.prefixed("current-time")?),
        };
        let variables = list::read(&mut reader, "variable-access-specification", variable)?;
        let values = list::read_exactly(&mut reader, "list-of-data", variables.len(), Data::skip)?;
        reader.finish("information-report")?;
        Ok(Self { current_time, variables, values })
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(32);
        writer.u8(INFORMATION_REPORT);
        match self.current_time {
            None => writer.u8(0),
            Some(time) => {
                writer.u8(1);
                writer.prefixed(time);
            }
        }
        writer.length(self.variables.len());
        for variable in &self.variables {
            match variable {
                VariableAccess::Name(name) => {
                    writer.u8(2);
                    writer.bytes(&name.to_be_bytes());
                }
                VariableAccess::Parameterised(name, selector, parameter) => {
                    writer.u8(4);
                    writer.bytes(&name.to_be_bytes());
                    writer.u8(*selector);
                    writer.bytes(parameter);
                }
            }
        }
        writer.length(self.values.len());
        self.values.iter().for_each(|value| writer.bytes(value));
        writer.into_bytes()
    }
}
