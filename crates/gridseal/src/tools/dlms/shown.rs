//! What is printed: one item, typed, as JSON or for people.

use gridseal_dlms::{
    apdu::{
        reference::{AttributeId, MethodId},
        result::{ActionResult, DataAccessResult},
    },
    assoc::client::ActionOutcomeOwned,
    class::{self, Type},
    wire::{Data, DateTime, DeviationSign},
};
use serde_json::{Map, Value, json};

use super::item::dotted;
use crate::observe::printable;

/// One item with what came of it.
pub struct Shown {
    object: Map<String, Value>,
    text: String,
    is_good: bool,
}

/// Scaler and unit of a register: value x 10^scaler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalerUnit {
    /// Power of ten.
    pub scaler: i8,
    /// Number of the unit.
    pub unit: u8,
}

impl ScalerUnit {
    /// Reads attribute 3 of a register.
    pub fn read(value: &[u8]) -> Option<Self> {
        match Data::from_bytes(value).ok()? {
            Data::Structure(parts) => match parts.as_slice() {
                [Data::Integer(scaler), Data::Enum(unit)] => Some(Self { scaler: *scaler, unit: *unit }),
                _ => None,
            },
            _ => None,
        }
    }

    /// Symbol of the unit, or its number.
    pub fn symbol(self) -> String {
        let known =
            class::newest(3).and_then(|class| class.attribute(3)).and_then(|attribute| {
                match attribute.value {
                    Type::Structure(fields) => fields.iter().find_map(|(_, kind)| match kind {
                        Type::Enum(units) => {
                            units.iter().find(|(number, _)| *number == self.unit).map(|(_, name)| *name)
                        }
                        _ => None,
                    }),
                    _ => None,
                }
            });
        known.map_or_else(|| format!("unit {}", self.unit), str::to_owned)
    }

    /// Puts scaler and unit into an object.
    pub fn put(self, object: &mut Map<String, Value>) {
        object.insert("scaler".into(), json!(self.scaler));
        object.insert("unit".into(), json!(self.symbol()));
    }
}

impl Shown {
    /// An item that says this; `text` for people.
    pub const fn new(object: Map<String, Value>, text: String, is_good: bool) -> Self {
        Self { object, text, is_good }
    }

    /// Whether the meter did what was asked.
    pub const fn is_good(&self) -> bool {
        self.is_good
    }

    /// The line that is printed.
    pub fn line(&self, as_json: bool) -> String {
        if as_json { Value::Object(self.object.clone()).to_string() } else { self.text.clone() }
    }

    /// What came of writing.
    pub fn written(attribute: AttributeId, result: DataAccessResult, is_proven: bool) -> Self {
        let mut object = named(attribute);
        let is_good = result == DataAccessResult::Success;
        object.insert("ok".into(), json!(is_good));
        object.insert("result".into(), json!(result.to_string()));
        object.insert("authenticated".into(), json!(is_proven));
        if !is_good {
            object.insert("error".into(), access_error(result));
        }
        Self::new(object, format!("{}  {result}", head(attribute)), is_good)
    }

    /// What came of invoking.
    pub fn invoked(method: MethodId, outcome: &ActionOutcomeOwned, is_proven: bool) -> Self {
        let mut object = Map::new();
        object.insert("obis".into(), json!(dotted(method.obis)));
        object.insert("class".into(), json!(method.class));
        object.insert("method".into(), json!(method.method));
        let known = class::newest(method.class).and_then(|class| class.method(method.method));
        let is_good = outcome.result == ActionResult::Success;
        object.insert("ok".into(), json!(is_good));
        object.insert("result".into(), json!(outcome.result.to_string()));
        object.insert("authenticated".into(), json!(is_proven));
        let name = known.map_or("", |method| method.name);
        let mut text =
            format!("{} {}:{} {name}  {}", dotted(method.obis), method.class, method.method, outcome.result);
        if !is_good {
            let (number, message) = (outcome.result.number(), outcome.result.to_string());
            object
                .insert("error".into(), json!({"code": "dlms.action", "result": number, "message": message}));
        }
        match outcome.returned.as_ref().map(|returned| returned.as_deref().map(Data::from_bytes)) {
            Some(Ok(Ok(data))) => {
                let kind = known.and_then(|method| method.result);
                let value = typed(&data, kind.as_ref());
                text.push_str(&format!("  {}", plain(&value)));
                object.insert("returned".into(), value);
            }
            Some(Err(result)) => {
                object.insert("returned".into(), json!({"error": access_error(*result)}));
            }
            Some(Ok(Err(_))) | None => {}
        }
        Self::new(object, text, is_good)
    }
}

/// The fields that name an attribute.
pub fn named(attribute: AttributeId) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("obis".into(), json!(dotted(attribute.obis)));
    object.insert("class".into(), json!(attribute.class));
    object.insert("attribute".into(), json!(attribute.attribute));
    object
}

/// What an attribute is, for people.
pub fn head(attribute: AttributeId) -> String {
    let known = class::newest(attribute.class).and_then(|class| class.attribute(attribute.attribute));
    let name = known.map_or("", |attribute| attribute.name);
    format!("{} {}:{} {name}", dotted(attribute.obis), attribute.class, attribute.attribute)
}

/// A refusal of the meter.
pub fn access_error(result: DataAccessResult) -> Value {
    json!({"code": "dlms.access", "result": result.number(), "message": refusal(result)})
}

/// Why there is no value: one that is said to have succeeded is missing all the same.
pub fn refusal(result: DataAccessResult) -> String {
    match result {
        DataAccessResult::Success => "no value: the meter sent the result success in its place".into(),
        result => result.to_string(),
    }
}

/// A value with its type; octet-strings in hex, dates also as ISO 8601, enumerations with their meaning, structures
/// with the names of their fields.
pub fn typed(data: &Data<'_>, kind: Option<&Type>) -> Value {
    let kind = kind.map(|kind| chosen(kind, data));
    let mut object = Map::new();
    object.insert("type".into(), json!(data.type_name()));
    let value = match (data, kind) {
        (Data::Array(items), Some(Type::Array(element) | Type::Table(element))) => {
            items.iter().map(|item| typed(item, Some(element))).collect()
        }
        (Data::Structure(items), Some(Type::Structure(fields))) if fields.len() == items.len() => {
            let parts = items.iter().zip(*fields).map(|(item, (name, kind))| {
                let mut value = typed(item, Some(kind));
                value["name"] = json!(name);
                value
            });
            parts.collect()
        }
        (Data::Array(items) | Data::Structure(items), _) => {
            items.iter().map(|item| typed(item, None)).collect()
        }
        (Data::CompactArray(array), kind) => {
            let element = match kind {
                Some(Type::Array(element) | Type::Table(element)) => Some(*element),
                _ => None,
            };
            array.elements().map_while(Result::ok).map(|item| typed(&item, element)).collect()
        }
        (simple, _) => scalar(simple),
    };
    object.insert("value".into(), value);
    if let (Data::Enum(number), Some(Type::Enum(values))) = (data, kind)
        && let Some((_, name)) = values.iter().find(|(known, _)| known == number)
    {
        object.insert("meaning".into(), json!(name));
    }
    if let Some(at) = date_time(data, kind) {
        object.insert("time".into(), json!(at.to_string()));
        if let Ok(utc) = at.to_utc(DeviationSign::Standard) {
            object.insert("utc".into(), json!(utc.to_string()));
        }
    }
    if let (Data::OctetString(bytes), Some(Type::LogicalName)) = (data, kind)
        && let Ok(groups) = <[u8; 6]>::try_from(*bytes)
    {
        object.insert("obis".into(), json!(dotted(gridseal_types::ObisCode::new(groups))));
    }
    Value::Object(object)
}

/// Of several possible types the one that the value has.
fn chosen<'t>(kind: &'t Type, data: &Data<'_>) -> &'t Type {
    match kind {
        Type::Choice(kinds) => kinds.iter().find(|kind| kind.check(data).is_ok()).unwrap_or(kind),
        kind => kind,
    }
}

/// A date-time by its own tag, by the class, or where the class says nothing by what it looks like.
fn date_time(data: &Data<'_>, kind: Option<&Type>) -> Option<DateTime> {
    match (data, kind) {
        (Data::DateTime(at), _) => Some(*at),
        (Data::OctetString(bytes), Some(Type::DateTime)) => DateTime::from_bytes(bytes).ok(),
        (Data::OctetString(bytes), None | Some(Type::Any)) => {
            DateTime::from_bytes(bytes).ok().filter(|at| (1_990..=2_100).contains(&at.date.year))
        }
        _ => None,
    }
}

fn scalar(data: &Data<'_>) -> Value {
    match data {
        Data::Boolean(value) => json!(value),
        Data::BitString(bits) => json!(bits.to_string()),
        Data::DoubleLong(value) | Data::DeltaDoubleLong(value) => json!(value),
        Data::DoubleLongUnsigned(value) | Data::DeltaDoubleLongUnsigned(value) => json!(value),
        Data::OctetString(bytes) => json!(hex::encode(bytes)),
        Data::VisibleString(text) | Data::Utf8String(text) => json!(text),
        Data::Integer(value) | Data::DeltaInteger(value) => json!(value),
        Data::Long(value) | Data::DeltaLong(value) => json!(value),
        Data::Unsigned(value) | Data::Enum(value) | Data::DeltaUnsigned(value) => json!(value),
        Data::Bcd(value) => json!(format!("{value:02x}")),
        Data::LongUnsigned(value) | Data::DeltaLongUnsigned(value) => json!(value),
        Data::Long64(value) => json!(value),
        Data::Long64Unsigned(value) => json!(value),
        Data::Float32(value) => real(f64::from(*value)),
        Data::Float64(value) => real(*value),
        Data::DateTime(at) => json!(hex::encode(at.to_bytes())),
        Data::Date(date) => json!(date.to_string()),
        Data::Time(time) => json!(time.to_string()),
        _ => Value::Null,
    }
}

/// A number, or in words what JSON has no number for: `NaN`, `inf`, `-inf`.
pub fn real(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

/// A typed value for people, on one line.
pub fn plain(value: &Value) -> String {
    if let Some(time) = value.get("time").and_then(Value::as_str) {
        return time.to_owned();
    }
    if let Some(code) = value.get("obis").and_then(Value::as_str) {
        return code.to_owned();
    }
    match value.get("value") {
        Some(Value::Array(items)) => {
            let parts: Vec<String> = items
                .iter()
                .map(|item| match item.get("name").and_then(Value::as_str) {
                    Some(name) => format!("{name}: {}", plain(item)),
                    None => plain(item),
                })
                .collect();
            let is_structure = value.get("type").and_then(Value::as_str) == Some("structure");
            let (open, close) = if is_structure { ('{', '}') } else { ('[', ']') };
            format!("{open}{}{close}", parts.join(", "))
        }
        Some(Value::String(text)) => printable(text),
        Some(scalar) => {
            let meaning = value.get("meaning").and_then(Value::as_str);
            meaning.map_or_else(|| scalar.to_string(), |meaning| format!("{scalar} ({meaning})"))
        }
        None => String::new(),
    }
}

/// A number with its scaler, exactly: digits are moved, nothing is rounded.
pub fn scaled(value: &Value, scaler: i8) -> Option<String> {
    let number = value.get("value")?.as_number()?;
    let digits = number.to_string();
    if scaler == 0 || !digits.chars().all(|c| c.is_ascii_digit() || c == '-') {
        return Some(digits);
    }
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |digits| ("-", digits));
    let shift = usize::from(scaler.unsigned_abs());
    if scaler > 0 {
        let zeros = if digits == "0" { String::new() } else { "0".repeat(shift) };
        return Some(format!("{sign}{digits}{zeros}"));
    }
    let padded = format!("{digits:0>width$}", width = shift + 1);
    let (whole, fraction) = padded.split_at(padded.len() - shift);
    Some(format!("{sign}{whole}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridseal_types::ObisCode;

    #[test]
    fn values_have_their_type_and_dates_an_iso_time() {
        let noon = [0x07, 0xEA, 11, 25, 3, 12, 0, 0, 0, 0xFF, 0xC4, 0];
        let told = typed(&Data::OctetString(&noon), Some(&Type::DateTime));
        assert_eq!(told["value"], hex::encode(noon));
        assert_eq!(
            (&told["time"], &told["utc"]),
            (&json!("2026-11-25T12:00:00+01:00"), &json!("2026-11-25T11:00:00Z"))
        );
        let mode = Type::Enum(&[(1, "on")]);
        assert_eq!(typed(&Data::Enum(1), Some(&mode))["meaning"], "on");
        let parts = Data::Structure(vec![Data::Enum(1), Data::Integer(-1)]);
        let kind = Type::Structure(&[("mode", Type::Enum(&[(1, "on")])), ("scaler", Type::Integer)]);
        let told = typed(&parts, Some(&kind));
        assert_eq!((&told["value"][0]["name"], &told["value"][1]["value"]), (&json!("mode"), &json!(-1)));
        assert_eq!(plain(&told), "{mode: 1 (on), scaler: -1}");
        let name = typed(&Data::OctetString(ObisCode::CLOCK.groups()), Some(&Type::LogicalName));
        assert_eq!(name["obis"], "0.0.1.0.0.255");
        assert_eq!(typed(&Data::Float32(1.5), None)["value"], 1.5);
        let turned = typed(&Data::Utf8String("a\u{202E}b\u{1b}c\u{200B}é"), None);
        assert_eq!(plain(&turned), "a\u{FFFD}b\u{FFFD}c\u{FFFD}é", "a terminal acts upon none of it");
        for (value, told) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
            assert_eq!(typed(&Data::Float32(value), None)["value"], told, "JSON has no number for it");
        }
    }

    #[test]
    fn a_success_without_a_value_is_an_error_and_says_so() {
        let attribute = AttributeId::new(3, ObisCode::ACTIVE_ENERGY_IMPORT, 2);
        let shown = super::super::profile::refused(attribute, DataAccessResult::Success);
        assert!(!shown.is_good() && shown.line(false).contains("no value"), "{}", shown.line(false));
        assert_eq!(
            shown.object["error"]["message"],
            "no value: the meter sent the result success in its place"
        );
        let written = Shown::written(attribute, DataAccessResult::Success, true);
        assert_eq!((&written.object["ok"], &written.object["authenticated"]), (&json!(true), &json!(true)));
    }

    #[test]
    fn scalers_move_digits_and_round_nothing() {
        let value = |number: i64| json!({"type": "long64", "value": number});
        for (number, scaler, text) in [
            (123_456, -1, "12345.6"),
            (5, -3, "0.005"),
            (-42, -2, "-0.42"),
            (7, 3, "7000"),
            (0, 3, "0"),
            (9, 0, "9"),
        ] {
            assert_eq!(scaled(&value(number), scaler).as_deref(), Some(text));
        }
        assert_eq!(ScalerUnit { scaler: -1, unit: 30 }.symbol(), "Wh");
        assert_eq!(
            ScalerUnit::read(&[2, 2, 0x0F, 0xFF, 0x16, 30]),
            Some(ScalerUnit { scaler: -1, unit: 30 })
        );
    }
}
