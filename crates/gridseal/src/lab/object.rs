//! Objects of a lab file: an override of a built-in object, or one more.

use std::collections::BTreeMap;

use gridseal_dlms::{class, wire::Data};
use gridseal_types::ObisCode;
use toml::{Spanned, Value};

use super::{LabError, Rights, file::Place, obis};

/// The fields as written: class, obis, version, access, and any attribute_N.
pub(super) type Fields = BTreeMap<Spanned<String>, Spanned<Value>>;

/// An object as a file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabObject {
    /// Interface class.
    pub class: u16,
    /// Version; `None` for the built-in object's, or the newest one known.
    pub version: Option<u8>,
    /// Logical name.
    pub obis: ObisCode,
    /// What any client may do with it at most.
    pub access: Option<Rights>,
    /// Values by attribute, each one encoded value of the type that the class gives it.
    pub attributes: BTreeMap<i8, Vec<u8>>,
}

pub(super) fn read(place: &Place<'_>, entry: &Spanned<Fields>) -> Result<LabObject, LabError> {
    let fields = entry.get_ref();
    let missing =
        |name| place.error(entry.span().start, "lab-missing-field", format!("missing field `{name}`"));
    let at = |value: &Spanned<Value>, code, message: String| place.error(value.span().start, code, message);
    let field = |name: &str| fields.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value);
    let class_field = field("class").ok_or_else(|| missing("class"))?;
    let number = |value: &Spanned<Value>| value.get_ref().as_integer();
    let class_id = number(class_field)
        .and_then(|id| u16::try_from(id).ok())
        .ok_or_else(|| at(class_field, "lab-value", "class is no class id".into()))?;
    let obis_field = field("obis").ok_or_else(|| missing("obis"))?;
    let name = obis_field.get_ref().as_str().and_then(obis);
    let name =
        name.ok_or_else(|| at(obis_field, "lab-value", "obis is no code such as 1.0.1.8.0.255".into()))?;
    let version = field("version")
        .map(|value| {
            let version = number(value).and_then(|version| u8::try_from(version).ok());
            version.ok_or_else(|| at(value, "lab-value", "version is none".into()))
        })
        .transpose()?;
    let known = version.map_or_else(|| class::newest(class_id), |version| class::find(class_id, version));
    let class = known.ok_or_else(|| {
        at(class_field, "lab-value", format!("class {class_id} is not known in this version"))
    })?;
    let mut object =
        LabObject { class: class_id, version, obis: name, access: None, attributes: BTreeMap::new() };
    for (key, value) in fields {
        let text = || value.get_ref().as_str();
        match key.get_ref().as_str() {
            "class" | "obis" | "version" => {}
            "access" => {
                let rights = text().and_then(Rights::parse);
                object.access =
                    Some(rights.ok_or_else(|| {
                        at(value, "lab-value", "access is letters of r, w and x, or -".into())
                    })?);
            }
            other => {
                let attribute = other.strip_prefix("attribute_").and_then(|id| id.parse::<i8>().ok());
                // The logical name is `obis`, and each attribute has one spelling.
                let is_known = |id: &i8| *id > 1 && other == format!("attribute_{id}");
                let attribute =
                    attribute.filter(is_known).and_then(|id| class.attribute(id)).ok_or_else(|| {
                        let message = format!("unknown field `{other}` of an object of class {class_id}");
                        place.error(key.span().start, "lab-unknown-field", message)
                    })?;
                let bytes = text().and_then(|text| hex::decode(text).ok());
                let bytes = bytes.ok_or_else(|| at(value, "lab-hex", format!("{other} is not hex")))?;
                let data = Data::from_bytes(&bytes).map_err(|error| {
                    at(value, "lab-value", format!("{other} is not one value in A-XDR: {error}"))
                })?;
                attribute.value.check(&data).map_err(|error| {
                    at(value, "lab-type", format!("{other} ({}): {error}", attribute.name))
                })?;
                object.attributes.insert(attribute.id, bytes);
            }
        }
    }
    Ok(object)
}
