//! Whether a value has the type that its class gives it.

use crate::wire::Data;

use super::schema::Type;

/// A value is not of the type that the class gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("value does not have the type {expected}")]
pub struct TypeMismatch {
    /// Type expected, in the standard's words.
    pub expected: &'static str,
}

impl Type {
    /// Checks a value: types, lengths, the elements of structures and arrays, known values of enumerations.
    ///
    /// # Errors
    /// [`TypeMismatch`] with the innermost type that does not fit.
    pub fn check(&self, value: &Data<'_>) -> Result<(), TypeMismatch> {
        let fits = match (self, value) {
            (Self::Choice(types), _) => types.iter().any(|one| one.check(value).is_ok()),
            (Self::Array(element) | Self::Table(element), Data::Array(items)) => {
                return items.iter().try_for_each(|item| element.check(item));
            }
            (Self::Structure(fields), Data::Structure(items)) if fields.len() == items.len() => {
                return fields.iter().zip(items).try_for_each(|((_, field), item)| field.check(item));
            }
            (Self::Enum(values), Data::Enum(found)) => values.iter().any(|(known, _)| known == found),
            (Self::BitString(count), Data::BitString(bits)) => {
                count.is_none_or(|count| bits.bit_count() == count)
            }
            (Self::OctetString(min, max), Data::OctetString(bytes)) => (*min..=*max).contains(&bytes.len()),
            (Self::Text(max), Data::OctetString(bytes)) => bytes.len() <= *max,
            (Self::LogicalName, Data::OctetString(bytes)) => bytes.len() == 6,
            (Self::DateTime, Data::OctetString(bytes)) => crate::wire::DateTime::from_bytes(bytes).is_ok(),
            (Self::Date, Data::OctetString(bytes)) => bytes.len() == 5,
            (Self::Time, Data::OctetString(bytes)) => bytes.len() == 4,
            _ => self.fits_plainly(value),
        };
        if fits { Ok(()) } else { Err(TypeMismatch { expected: self.name() }) }
    }

    /// Types whose tag alone decides.
    const fn fits_plainly(&self, value: &Data<'_>) -> bool {
        matches!(
            (self, value),
            (Self::Any, _)
                | (Self::Null, Data::Null)
                | (Self::Boolean, Data::Boolean(_))
                | (Self::DoubleLong, Data::DoubleLong(_))
                | (Self::DoubleLongUnsigned, Data::DoubleLongUnsigned(_))
                | (Self::VisibleString, Data::VisibleString(_))
                | (Self::EnumMask, Data::Enum(_))
                | (Self::Integer, Data::Integer(_))
                | (Self::Long, Data::Long(_))
                | (Self::Unsigned, Data::Unsigned(_))
                | (Self::LongUnsigned, Data::LongUnsigned(_))
                | (Self::Long64Unsigned, Data::Long64Unsigned(_))
                | (Self::DateTime, Data::DateTime(_))
                | (Self::Date, Data::Date(_))
                | (Self::Time, Data::Time(_))
        )
    }

    /// Name of the type in the standard's words.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Any => "CHOICE",
            Self::Null => "null-data",
            Self::Boolean => "boolean",
            Self::BitString(_) => "bit-string",
            Self::DoubleLong => "double-long",
            Self::DoubleLongUnsigned => "double-long-unsigned",
            Self::OctetString(..) | Self::LogicalName | Self::Text(_) => "octet-string",
            Self::VisibleString => "visible-string",
            Self::Integer => "integer",
            Self::Long => "long",
            Self::Unsigned => "unsigned",
            Self::LongUnsigned => "long-unsigned",
            Self::Long64Unsigned => "long64-unsigned",
            Self::Enum(_) | Self::EnumMask => "enum",
            Self::DateTime => "date-time",
            Self::Date => "date",
            Self::Time => "time",
            Self::Array(_) => "array",
            Self::Table(_) => "array or compact-array",
            Self::Structure(_) => "structure",
            Self::Choice(_) => "one of several types",
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const MODE: Type = Type::Enum(&[(0, "off"), (1, "on")]);
    const ROW: Type = Type::Structure(&[("mode", MODE), ("power", Type::LongUnsigned)]);

    #[test]
    fn a_value_of_another_type_is_refused_and_the_innermost_type_is_named() {
        let row = |mode, power| Data::Structure(vec![mode, power]);
        let table = Type::Array(&ROW);
        let good = row(Data::Enum(1), Data::LongUnsigned(7));
        assert_eq!(table.check(&Data::Array(vec![good.clone()])), Ok(()));
        let unknown = row(Data::Enum(2), Data::LongUnsigned(7));
        let mismatch = table.check(&Data::Array(vec![good, unknown])).unwrap_err();
        assert_eq!(mismatch.expected, "enum");
        let short = Data::Structure(vec![Data::Enum(1)]);
        assert_eq!(ROW.check(&short).unwrap_err().expected, "structure");
        assert!(Type::OctetString(1, 2).check(&Data::OctetString(&[])).is_err());
        assert!(Type::OctetString(1, 2).check(&Data::OctetString(&[1, 2, 3])).is_err());
        assert!(Type::LogicalName.check(&Data::OctetString(&[0; 5])).is_err());
        let thirteenth_month = [0x07, 0xEA, 13, 1, 1, 0, 0, 0, 0, 0x80, 0, 0];
        assert!(Type::DateTime.check(&Data::OctetString(&thirteenth_month)).is_err());
        assert!(Type::BitString(Some(8)).check(&Data::Boolean(true)).is_err());
        assert!(Type::Any.check(&Data::Null).is_ok());
    }
}
