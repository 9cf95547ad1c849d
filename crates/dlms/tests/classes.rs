//! Golden files of the interface classes: for each class and version one of its attributes and one of its methods, with
//! the type and one encoded value of each. A change of a table shows as a difference in a file that a person reviews.
//!
//! `GRIDSEAL_BLESS=1 cargo test -p gridseal-dlms --test classes` writes them anew.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::{fmt::Write as _, path::PathBuf};

use gridseal_dlms::{
    class::{self, Class, Type},
    wire::{BitString, Data, Date, DateTime, Time},
};

const DATE: Date = Date { year: 2026, month: 11, day: 25, weekday: 3 };
const TIME: Time = Time { hour: 13, minute: 30, second: 0, hundredths: 0 };
const NOON: [u8; 12] = [0x07, 0xEA, 11, 25, 3, 13, 30, 0, 0, 0xFF, 0xC4, 0];
static OCTETS: [u8; 64] = [0xA5; 64];

/// One value of each type.
fn sample(kind: &Type) -> Data<'static> {
    match kind {
        Type::Any => Data::DoubleLongUnsigned(123_456),
        Type::Boolean => Data::Boolean(true),
        Type::BitString(count) => {
            let count = count.unwrap_or(12);
            Data::BitString(BitString::new(count, &OCTETS[..count.div_ceil(8)]).unwrap())
        }
        Type::DoubleLong => Data::DoubleLong(-2),
        Type::DoubleLongUnsigned => Data::DoubleLongUnsigned(900),
        Type::OctetString(min, _) => Data::OctetString(&OCTETS[..*min]),
        Type::VisibleString => Data::VisibleString("Gridseal"),
        Type::Integer => Data::Integer(0),
        Type::Long => Data::Long(-60),
        Type::Unsigned => Data::Unsigned(7),
        Type::LongUnsigned => Data::LongUnsigned(300),
        Type::Long64Unsigned => Data::Long64Unsigned(1 << 40),
        Type::Enum(values) => Data::Enum(values[0].0),
        Type::EnumMask => Data::Enum(0b0110_1100),
        Type::LogicalName => Data::OctetString(&[1, 0, 1, 8, 0, 255]),
        Type::DateTime => Data::OctetString(&NOON),
        Type::Date => Data::OctetString(&NOON[..5]),
        Type::Time => Data::OctetString(&NOON[5..9]),
        Type::Text(_) => Data::OctetString(b"EUR"),
        Type::Array(element) | Type::Table(element) => Data::Array(vec![sample(element)]),
        Type::Structure(fields) => Data::Structure(fields.iter().map(|(_, kind)| sample(kind)).collect()),
        Type::Choice(types) => sample(&types[0]),
        _ => Data::Null,
    }
}

/// The type as text, one line.
fn text(kind: &Type) -> String {
    match kind {
        Type::Array(element) | Type::Table(element) => format!("{} of {}", kind.name(), text(element)),
        Type::Structure(fields) => {
            let fields: Vec<_> = fields.iter().map(|(name, kind)| format!("{name} {}", text(kind))).collect();
            format!("structure {{ {} }}", fields.join(", "))
        }
        Type::Enum(values) => {
            let values: Vec<_> = values.iter().map(|(value, name)| format!("{value} {name}")).collect();
            if values.len() > 12 {
                format!("enum of {}", values.len())
            } else {
                format!("enum ({})", values.join(", "))
            }
        }
        Type::OctetString(0, max) => format!("octet-string ..{max}"),
        Type::OctetString(min, max) => format!("octet-string {min}..{max}"),
        Type::LogicalName => "logical-name".into(),
        Type::EnumMask => "enum (bit mask)".into(),
        Type::BitString(Some(count)) => format!("bit-string {count}"),
        Type::Choice(types) => types.iter().map(text).collect::<Vec<_>>().join(" | "),
        kind => kind.name().into(),
    }
}

fn line(file: &mut String, id: i8, name: &str, kind: &Type) {
    let value = sample(kind);
    kind.check(&value).unwrap_or_else(|mismatch| panic!("{name}: {mismatch}"));
    let bytes = value.to_bytes();
    assert_eq!(Data::from_bytes(&bytes).unwrap(), value, "{name}");
    writeln!(file, "{id:>2} {name}: {}\n   {}", text(kind), hex::encode_upper(bytes)).unwrap();
}

fn attributes(class: &Class) -> String {
    let mut file = format!("class {} version {}: {}\n", class.id, class.version, class.name);
    class.all_attributes().for_each(|one| line(&mut file, one.id, one.name, &one.value));
    file
}

fn methods(class: &Class) -> String {
    let mut file = format!("class {} version {}: {}\n", class.id, class.version, class.name);
    for one in class.methods {
        line(&mut file, one.id, one.name, &one.parameter);
        if let Some(result) = &one.result {
            line(&mut file, one.id, "-> result", result);
        }
    }
    file
}

#[test]
fn each_class_is_as_its_golden_files_say() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    #[expect(clippy::disallowed_methods, reason = "whether a person asked for new files")]
    let bless = std::env::var_os("GRIDSEAL_BLESS").is_some();
    for class in class::ALL {
        let name = format!("{:03}-v{}-{}", class.id, class.version, class.name);
        for (what, text) in [("attributes", attributes(class)), ("methods", methods(class))] {
            let path = dir.join(format!("{name}.{what}"));
            if bless {
                std::fs::create_dir_all(&dir).unwrap();
                std::fs::write(&path, text).unwrap();
                continue;
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(text, golden, "{} differs from the table", path.display());
        }
    }
    let files = std::fs::read_dir(&dir).unwrap().count();
    assert_eq!(files, 2 * class::ALL.len(), "a golden file without a class, or the other way round");
}

#[test]
fn dates_come_with_their_own_tag_or_as_octet_strings() {
    let tagged = DateTime { date: DATE, time: TIME, deviation_min: Some(-60), status: 0 };
    assert!(Type::DateTime.check(&Data::DateTime(tagged)).is_ok());
    assert!(Type::Date.check(&Data::Date(DATE)).is_ok() && Type::Time.check(&Data::Time(TIME)).is_ok());
    assert!(Type::DateTime.check(&Data::OctetString(&NOON[..11])).is_err());
}
