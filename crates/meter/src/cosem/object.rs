//! One object: its class, its values as they are sent, and what of it can be written.

use std::collections::BTreeMap;

use gridseal_dlms::{
    class::{self, Class, Kind, Type},
    wire::{BitString, Data},
};
use gridseal_types::ObisCode;

use super::access::Rights;

/// An object of the device.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) class: &'static Class,
    pub(super) obis: ObisCode,
    /// Encoded values from attribute 2 on; what is computed has none.
    values: BTreeMap<i8, Vec<u8>>,
    /// Attributes that a SET may change.
    pub(super) writable: Vec<i8>,
    /// What any client may do at most.
    pub(super) limit: Option<Rights>,
    /// Whether everybody may read it.
    pub(super) is_public: bool,
}

/// An override of an object, or one more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectChange {
    /// Interface class.
    pub class: u16,
    /// Version; `None` for the present object's, or the newest one known.
    pub version: Option<u8>,
    /// Logical name.
    pub obis: ObisCode,
    /// What any client may do with it at most. With the right to write, every attribute that has a value here can be
    /// written.
    pub access: Option<Rights>,
    /// Values by attribute: each one encoded value.
    pub attributes: BTreeMap<i8, Vec<u8>>,
}

/// An object cannot be changed so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// Class or version is not known.
    #[error("class {0} is not known in this version")]
    Class(u16),
    /// Another class has this logical name.
    #[error("the logical name belongs to an object of class {0}")]
    Name(u16),
    /// The class has no such attribute.
    #[error("class has no attribute {0}")]
    Attribute(i8),
    /// The value is not one of the attribute's type.
    #[error("value of attribute {0} has the wrong type")]
    Value(i8),
}

impl Object {
    pub(super) fn new(class: &'static Class, obis: ObisCode) -> Self {
        let values = class
            .attributes
            .iter()
            .map(|attribute| (attribute.id, default_of(&attribute.value).to_bytes()))
            .collect();
        Self { class, obis, values, writable: writable(class), limit: None, is_public: false }
    }

    /// The encoded value that is kept.
    pub(super) fn kept(&self, attribute: i8) -> Option<&[u8]> {
        self.values.get(&attribute).map(Vec::as_slice)
    }

    /// The value that is kept.
    pub(super) fn data(&self, attribute: i8) -> Data<'_> {
        self.kept(attribute).and_then(|bytes| Data::from_bytes(bytes).ok()).unwrap_or(Data::Null)
    }

    /// A kept value that is a number or a boolean, 0 for anything else.
    pub(super) fn number(&self, attribute: i8) -> i64 {
        number(&self.data(attribute)).unwrap_or(0)
    }

    pub(super) fn keep(&mut self, attribute: i8, value: &Data<'_>) {
        self.values.insert(attribute, value.to_bytes());
    }

    pub(super) fn keep_encoded(&mut self, attribute: i8, value: &[u8]) {
        self.values.insert(attribute, value.to_vec());
    }

    /// From now on the attribute is computed.
    pub(super) fn compute(&mut self, attribute: i8) {
        self.values.remove(&attribute);
    }
}

/// A number or a boolean.
pub(super) fn number(value: &Data<'_>) -> Option<i64> {
    Some(match *value {
        Data::Boolean(value) => i64::from(value),
        Data::Integer(value) => i64::from(value),
        Data::Long(value) => i64::from(value),
        Data::DoubleLong(value) => i64::from(value),
        Data::Long64(value) => value,
        Data::Unsigned(value) | Data::Enum(value) | Data::Bcd(value) => i64::from(value),
        Data::LongUnsigned(value) => i64::from(value),
        Data::DoubleLongUnsigned(value) => i64::from(value),
        Data::Long64Unsigned(value) => i64::try_from(value).ok()?,
        _ => return None,
    })
}

/// The elements of an array or a structure.
pub(super) fn items<'a, 'b>(value: &'a Data<'b>) -> &'a [Data<'b>] {
    match value {
        Data::Array(items) | Data::Structure(items) => items,
        _ => &[],
    }
}

/// A logical name.
pub(super) fn name(value: &Data<'_>) -> Option<ObisCode> {
    match value {
        Data::OctetString(bytes) => Some(ObisCode::new((*bytes).try_into().ok()?)),
        _ => None,
    }
}

/// Which attributes of a class a SET may change, unless an object says otherwise.
fn writable(class: &Class) -> Vec<i8> {
    let all = || {
        class
            .attributes
            .iter()
            .filter(|attribute| attribute.kind == Kind::Static)
            .map(|attribute| attribute.id)
    };
    match class.id {
        // Values, units, rights and keys have no write path of this kind.
        1 | 3 | 4 | 5 | 17 | 47 | 64 | 115 => Vec::new(),
        7 => vec![3, 4, 5, 8],
        8 => vec![2, 3],
        15 => vec![7],
        18 => vec![5],
        20 => vec![6, 7, 8, 9, 10],
        _ => all().collect(),
    }
}

const NO_DATE_TIME: [u8; 12] = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x80, 0x00, 0xFF];
static ZEROS: [u8; 64] = [0; 64];

/// The emptiest value of a type.
pub(super) fn default_of(value: &Type) -> Data<'static> {
    let zeros = |size: usize| ZEROS.get(..size).unwrap_or_default();
    match value {
        Type::Boolean => Data::Boolean(false),
        Type::BitString(count) => {
            let count = count.unwrap_or(0);
            BitString::new(count, zeros(count.div_ceil(8))).map_or(Data::Null, Data::BitString)
        }
        Type::DoubleLong => Data::DoubleLong(0),
        Type::DoubleLongUnsigned => Data::DoubleLongUnsigned(0),
        Type::OctetString(min, _) => Data::OctetString(zeros(*min)),
        Type::VisibleString => Data::VisibleString(""),
        Type::Integer => Data::Integer(0),
        Type::Long => Data::Long(0),
        Type::Unsigned => Data::Unsigned(0),
        Type::LongUnsigned => Data::LongUnsigned(0),
        Type::Long64Unsigned => Data::Long64Unsigned(0),
        Type::Enum(values) => Data::Enum(values.first().map_or(0, |(number, _)| *number)),
        Type::EnumMask => Data::Enum(0),
        Type::LogicalName => Data::OctetString(zeros(6)),
        Type::DateTime => Data::OctetString(&NO_DATE_TIME),
        Type::Date => Data::OctetString(&[0xFF; 5]),
        Type::Time => Data::OctetString(&[0xFF; 4]),
        Type::Text(_) => Data::OctetString(&[]),
        Type::Array(_) | Type::Table(_) => Data::Array(Vec::new()),
        Type::Structure(fields) => {
            Data::Structure(fields.iter().map(|(_, field)| default_of(field)).collect())
        }
        Type::Choice(types) => types.first().map_or(Data::Null, default_of),
        _ => Data::Null,
    }
}

/// Applies an override.
pub(super) fn change(
    objects: &mut BTreeMap<ObisCode, Object>,
    change: &ObjectChange,
) -> Result<(), ObjectError> {
    let present = objects.get(&change.obis);
    if let Some(other) = present.filter(|object| object.class.id != change.class) {
        return Err(ObjectError::Name(other.class.id));
    }
    let class = match (change.version, present) {
        (Some(version), _) => class::find(change.class, version),
        (None, Some(object)) => Some(object.class),
        (None, None) => class::newest(change.class),
    };
    let class = class.ok_or(ObjectError::Class(change.class))?;
    for (id, value) in &change.attributes {
        let attribute =
            class.attribute(*id).filter(|attribute| attribute.id != 1).ok_or(ObjectError::Attribute(*id))?;
        let data = Data::from_bytes(value).map_err(|_| ObjectError::Value(*id))?;
        attribute.value.check(&data).map_err(|_| ObjectError::Value(*id))?;
    }
    let mut object = match objects.remove(&change.obis) {
        Some(object) if object.class == class => object,
        _ => Object::new(class, change.obis),
    };
    for (id, value) in &change.attributes {
        object.keep_encoded(*id, value);
        if change.access.is_some_and(|rights| rights.write) && !object.writable.contains(id) {
            object.writable.push(*id);
        }
    }
    object.limit = change.access.or(object.limit);
    objects.insert(change.obis, object);
    Ok(())
}
