//! Results of services.

use crate::wire::{Data, DecodeError, Reader, Rule, Writer};

/// Most items of one list, in requests and in responses.
pub const LIST_MAX: usize = 256;

macro_rules! results {
    ($(#[$doc:meta])* $name:ident { $($number:literal $variant:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
        #[non_exhaustive]
        pub enum $name {
            $(#[doc = $text] #[error($text)] $variant,)*
            /// A number that the standard does not define.
            #[error("result {0}")]
            Unknown(u8),
        }

        impl $name {
            /// The result with this number.
            #[must_use]
            pub const fn from_number(number: u8) -> Self {
                match number { $($number => Self::$variant,)* other => Self::Unknown(other) }
            }

            /// Its number.
            #[must_use]
            pub const fn number(self) -> u8 {
                match self { $(Self::$variant => $number,)* Self::Unknown(number) => number }
            }
        }
    };
}

results! {
    /// data-access-result: what came of reading or writing an attribute.
    ///
    /// # Source
    /// DLMS fact sheet, section 7.
    DataAccessResult {
        0 Success "success",
        1 HardwareFault "hardware fault",
        2 TemporaryFailure "temporary failure",
        3 ReadWriteDenied "read or write denied",
        4 ObjectUndefined "object undefined",
        9 ObjectClassInconsistent "object class inconsistent",
        11 ObjectUnavailable "object unavailable",
        12 TypeUnmatched "type unmatched",
        13 ScopeOfAccessViolated "scope of access violated",
        14 DataBlockUnavailable "data block unavailable",
        15 LongGetAborted "long get aborted",
        16 NoLongGetInProgress "no long get in progress",
        17 LongSetAborted "long set aborted",
        18 NoLongSetInProgress "no long set in progress",
        19 DataBlockNumberInvalid "data block number invalid",
        250 OtherReason "other reason",
    }
}

results! {
    /// action-result: what came of invoking a method.
    ///
    /// # Source
    /// DLMS fact sheet, section 7; IEC 62056-5-3, action-result.
    ActionResult {
        0 Success "success",
        1 HardwareFault "hardware fault",
        2 TemporaryFailure "temporary failure",
        3 ReadWriteDenied "read or write denied",
        4 ObjectUndefined "object undefined",
        9 ObjectClassInconsistent "object class inconsistent",
        11 ObjectUnavailable "object unavailable",
        12 TypeUnmatched "type unmatched",
        13 ScopeOfAccessViolated "scope of access violated",
        14 DataBlockUnavailable "data block unavailable",
        15 LongActionAborted "long action aborted",
        16 NoLongActionInProgress "no long action in progress",
        250 OtherReason "other reason",
    }
}

/// `00 value` or `01 data-access-result`: the value is one encoded A-XDR value.
pub type GetResult<'a> = Result<&'a [u8], DataAccessResult>;

pub(crate) fn decode_get_result<'a>(reader: &mut Reader<'a>) -> Result<GetResult<'a>, DecodeError> {
    let start = reader.clone();
    match reader.u8("get-data-result")? {
        0 => Data::skip(reader).map(Ok),
        1 => reader.u8("data-access-result").map(|number| Err(DataAccessResult::from_number(number))),
        tag => Err(start.fail("get-data-result", Rule::Tag { tag })),
    }
}

pub(crate) fn encode_get_result(writer: &mut Writer, result: &GetResult<'_>) {
    match result {
        Ok(value) => {
            writer.u8(0);
            writer.bytes(value);
        }
        Err(result) => {
            writer.u8(1);
            writer.u8(result.number());
        }
    }
}
