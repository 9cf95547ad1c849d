//! What is named on the command line: `OBIS[:CLASS[:NUMBER]]`, with or without a value.

use std::fmt;

use anyhow::Result;
use gridseal_dlms::apdu::reference::{AttributeId, MethodId};
use gridseal_types::ObisCode;

use super::notation;
use crate::{lab, tools::Usage};

/// An attribute or method; what was left out is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Logical name.
    pub obis: ObisCode,
    /// Class.
    pub class: Option<u16>,
    /// Attribute or method.
    pub number: Option<i8>,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", dotted(self.obis))?;
        self.class.map_or(Ok(()), |class| write!(f, ":{class}"))?;
        self.number.map_or(Ok(()), |number| write!(f, ":{number}"))
    }
}

/// An OBIS code with dots, as in lab files.
pub fn dotted(obis: ObisCode) -> String {
    let groups: Vec<String> = obis.groups().iter().map(u8::to_string).collect();
    groups.join(".")
}

/// Classes of objects by their logical names, where `*` is any group: what residential meters have.
const CLASSES: &[(&str, u16)] = &[
    ("0.*.1.0.0.255", 8),
    ("0.0.40.0.*.255", 15),
    ("0.0.41.0.0.255", 17),
    ("0.0.42.0.0.255", 1),
    ("0.0.43.0.*.255", 64),
    ("0.0.43.1.*.255", 1),
    ("0.0.43.2.*.255", 30),
    ("0.0.44.0.*.255", 18),
    ("0.*.96.1.*.255", 1),
    ("0.0.96.3.10.255", 70),
    ("0.0.96.7.*.255", 1),
    ("0.0.96.10.*.255", 1),
    ("0.0.96.11.*.255", 1),
    ("0.0.96.14.0.255", 1),
    ("0.0.97.98.*.255", 1),
    ("0.0.17.0.0.255", 71),
    ("0.0.10.0.*.255", 9),
    ("0.0.13.0.0.255", 20),
    ("0.0.11.0.0.255", 11),
    ("0.0.15.0.*.255", 22),
    ("0.*.25.9.0.255", 40),
    ("0.0.25.0.0.255", 41),
    ("0.0.25.1.0.255", 42),
    ("0.0.25.6.0.255", 47),
    ("0.0.22.0.0.255", 23),
    ("0.*.24.1.0.255", 72),
    ("0.*.24.2.*.255", 4),
    ("0.*.24.3.*.255", 7),
    ("0.0.19.0.*.255", 111),
    ("0.0.19.10.*.255", 112),
    ("0.0.19.20.*.255", 113),
    ("0.0.19.40.*.255", 115),
    ("0.*.98.*.*.255", 7),
    ("0.0.99.98.*.255", 7),
    ("1.*.99.*.*.255", 7),
    ("1.*.98.*.*.255", 7),
    ("*.*.0.2.*.255", 1),
    ("1.0.*.32.0.255", 1),
    ("1.0.*.36.0.255", 1),
    ("1.*.*.7.*.255", 3),
    ("1.*.*.8.*.255", 3),
    ("1.*.*.6.*.255", 4),
    ("1.*.*.4.0.255", 5),
];

/// The class that an object of this name has in residential meters.
pub fn usual_class(obis: ObisCode) -> Option<u16> {
    let fits = |pattern: &str| {
        let mut groups = pattern.split('.').zip(obis.groups());
        groups.all(|(wanted, found)| wanted == "*" || wanted.parse() == Ok(*found))
    };
    CLASSES.iter().find(|(pattern, _)| fits(pattern)).map(|(_, class)| *class)
}

impl Item {
    /// Reads `OBIS[:CLASS[:NUMBER]]`; the code with dots or as people write it, which has a colon of its own.
    pub fn parse(text: &str) -> Result<Self, Usage> {
        let bad = |what: &str| {
            Usage(format!("{text}: {what}; expected OBIS[:CLASS[:NUMBER]], such as 1.0.1.8.0.255:3:2"))
        };
        // The colon of 1-0:1.8.0.255 stands right behind a medium and a channel.
        let skipped = match text.split_once(':') {
            Some((head, _)) if head.contains('-') && !head.contains('.') => head.len() + 1,
            _ => 0,
        };
        let end = text.get(skipped..).and_then(|rest| rest.find(':')).map_or(text.len(), |at| at + skipped);
        let (code, rest) = text.split_at(end);
        let obis = lab::obis(code).ok_or_else(|| bad("no OBIS code"))?;
        let mut parts = rest.split(':').skip(1);
        let class = parts.next().map(|part| part.parse().map_err(|_| bad("no class id"))).transpose()?;
        let number = parts.next().map(|part| part.parse::<i8>().ok().filter(|number| *number != 0));
        let number = number
            .map(|number| number.ok_or_else(|| bad("no number of an attribute or method")))
            .transpose()?;
        if parts.next().is_some() {
            return Err(bad("too many parts"));
        }
        Ok(Self { obis, class, number })
    }

    /// Whether it is, or may be, the buffer of a profile.
    pub fn is_buffer(&self) -> bool {
        self.class.or_else(|| usual_class(self.obis)).is_none_or(|class| class == 7)
            && self.number.is_none_or(|number| number == 2)
    }

    /// What to write: class and attribute must be said.
    pub fn attribute(&self) -> Result<AttributeId> {
        let (class, attribute) = self.named("OBIS:CLASS:ATTRIBUTE")?;
        Ok(AttributeId::new(class, self.obis, attribute))
    }

    /// What to invoke: class and method must be said.
    pub fn method(&self) -> Result<MethodId> {
        let (class, method) = self.named("OBIS:CLASS:METHOD")?;
        Ok(MethodId::new(class, self.obis, method))
    }

    fn named(&self, form: &str) -> Result<(u16, i8)> {
        self.class.zip(self.number).ok_or_else(|| Usage(format!("{self}: expected {form}")).into())
    }
}

/// Items, each with `=VALUE`, with the next argument as value, or without one.
pub fn with_values(texts: &[String]) -> Result<Vec<(Item, Option<Vec<u8>>)>> {
    let mut items: Vec<(Item, Option<Vec<u8>>)> = Vec::new();
    for text in texts {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text.as_str(), None),
        };
        match (Item::parse(name), items.last_mut()) {
            (Ok(item), _) => {
                item.named("OBIS:CLASS:NUMBER")?;
                items.push((item, value.map(notation::parse).transpose()?));
            }
            (Err(_), Some((_, slot @ None))) => *slot = Some(notation::parse(text)?),
            (Err(usage), _) => return Err(usage.into()),
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read_in_both_ways_of_writing_a_code() {
        let energy = |class, number| Item { obis: ObisCode::ACTIVE_ENERGY_IMPORT, class, number };
        for (text, expected) in [
            ("1.0.1.8.0.255", energy(None, None)),
            ("1-0:1.8.0.255", energy(None, None)),
            ("1.0.1.8.0.255:3", energy(Some(3), None)),
            ("1-0:1.8.0.255:3:2", energy(Some(3), Some(2))),
            ("1.0.1.8.0.255:3:-1", energy(Some(3), Some(-1))),
        ] {
            assert_eq!(Item::parse(text).ok(), Some(expected), "{text}");
        }
        for text in
            ["", "1.0.1.8.0", "1.0.1.8.0.256", "1.0.1.8.0.255:x", "1.0.1.8.0.255:3:0", "1.0.1.8.0.255:3:2:1"]
        {
            assert!(Item::parse(text).is_err(), "{text}");
        }
        assert_eq!(usual_class(ObisCode::ACTIVE_ENERGY_IMPORT), Some(3));
        assert_eq!(usual_class(ObisCode::LOAD_PROFILE_1), Some(7));
        assert_eq!(usual_class(ObisCode::new([1, 0, 0, 2, 0, 255])), Some(1));
        assert_eq!(usual_class(ObisCode::new([9, 9, 9, 9, 9, 9])), None);
    }

    #[test]
    fn a_value_stands_behind_an_equals_sign_or_is_the_next_argument() {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let read =
            with_values(&texts(&["0.0.1.0.0.255:8:3=i16:60", "0.0.96.3.10.255:70:1", "0f00"])).unwrap();
        assert_eq!(read[0].1.as_deref(), Some(&[0x10, 0, 60][..]));
        assert_eq!(read[1].1.as_deref(), Some(&[0x0F, 0][..]));
        let none = with_values(&texts(&["0.0.96.3.10.255:70:1", "0.0.96.3.10.255:70:2"])).unwrap();
        assert_eq!(none.iter().filter(|(_, value)| value.is_none()).count(), 2);
        assert!(with_values(&texts(&["u32:5"])).is_err());
        assert!(with_values(&texts(&["0.0.1.0.0.255:8=u8:1"])).is_err(), "the number is missing");
    }
}
