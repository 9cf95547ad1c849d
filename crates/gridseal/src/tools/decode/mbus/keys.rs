//! Keys of meters, from the command line or a file.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{Key, role::MeterLmn};
use gridseal_lmn::mbus::{
    Counter, Header, KeySource, Known, Manufacturer, Medium, MeterAddress, Profile, SingleKey,
    registry::{LastMessage, Registry},
};
use serde::Deserialize;

use super::state::State;
use crate::{files, tools::Usage};

/// One key for all, or a file of them.
#[derive(Default)]
pub struct Keys {
    single: Option<SingleKey>,
    meters: Registry,
    keeps_counters: bool,
    last: BTreeMap<(MeterAddress, [u8; 4]), LastMessage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    #[serde(default)]
    meter: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    manufacturer: String,
    version: u8,
    medium: MediumField,
    key: String,
    profile: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MediumField {
    Code(u8),
    Name(String),
}

/// Eight digits as printed.
pub fn id(text: &str) -> Option<[u8; 4]> {
    (text.len() == 8).then(|| hex::decode(text).ok()?.try_into().ok()).flatten()
}

/// A manufacturer by its letters, or by four hex digits.
pub fn manufacturer(text: &str) -> Option<Manufacturer> {
    let by_code = || (text.len() == 4).then(|| u16::from_str_radix(text, 16).ok()).flatten();
    Manufacturer::from_letters(text).or_else(|| by_code().map(Manufacturer))
}

/// A key of 32 hex digits.
pub fn key(text: &str) -> Option<Key<MeterLmn, 16>> {
    Key::take_slice(&mut hex::decode(text.trim()).ok()?)
}

impl Entry {
    fn address(&self) -> Result<MeterAddress> {
        let id = id(&self.id).context("id is not 8 digits")?;
        let manufacturer =
            manufacturer(&self.manufacturer).context("manufacturer is not three capital letters")?;
        let medium = match &self.medium {
            MediumField::Code(code) => Medium(*code),
            MediumField::Name(name) => Medium::from_name(name).context("medium is not known by this name")?,
        };
        Ok(MeterAddress::new(manufacturer, id, self.version, medium))
    }

    fn profile(&self) -> Result<Option<Profile>> {
        let named = |name| Profile::from_name(name).context("profile is none of A, B, D, ELL");
        self.profile.as_deref().map(named).transpose()
    }
}

impl Keys {
    /// Keys as given on the command line.
    pub fn load(single: Option<&str>, path: Option<&Path>) -> Result<Self> {
        let mut keys = Self::default();
        if let Some(text) = single {
            let Some(key) = key(text) else { bail!(Usage("--key is not 32 hex digits".into())) };
            keys.single = Some(SingleKey(key));
        }
        if let Some(path) = path {
            let text = String::from_utf8(files::read(path)?).context("file of keys is not text")?;
            match toml::from_str(&text) {
                Ok(file) => keys.insert(path, &file)?,
                // A parse error of TOML quotes the line, which may hold a key: only the place is said.
                Err(error) => bail!(Usage(format!("{}: {}", path.display(), place(&text, &error)))),
            }
        }
        Ok(keys)
    }

    fn insert(&mut self, path: &Path, file: &KeyFile) -> Result<()> {
        self.meters = Registry::with_capacity(file.meter.len());
        // For bench work: a documentation key is taken, and every telegram under it carries a warning.
        self.meters.danger_accept_well_known_keys();
        for (index, entry) in file.meter.iter().enumerate() {
            let inserted = entry.address().and_then(|address| {
                let key = key(&entry.key).context("key is not 32 hex digits")?;
                Ok(self.meters.insert(address, &key, entry.profile()?)?)
            });
            if let Err(error) = inserted {
                bail!(Usage(format!("{}: meter {} of the file: {error:#}", path.display(), index + 1)));
            }
        }
        Ok(())
    }

    /// What is known about a meter, without its counter.
    pub fn known(&self, meter: MeterAddress) -> Option<Known<'_>> {
        self.meters.find(meter).or_else(|| self.single.as_ref()?.find(meter))
    }

    /// Takes over what was durable; from now on replays are refused.
    pub fn restore(&mut self, state: &State) {
        self.keeps_counters = true;
        self.last = state.last().clone();
    }

    /// The last messages, by meter and check value of the key.
    pub const fn last(&self) -> &BTreeMap<(MeterAddress, [u8; 4]), LastMessage> {
        &self.last
    }

    /// Notes the counter of a message, if counters are kept.
    pub fn accept(&mut self, counter: &Counter) {
        if let (true, Some(known)) = (self.keeps_counters, self.known(counter.meter)) {
            let name = (counter.meter, known.key.check_value());
            self.last.insert(name, LastMessage { counter: counter.value, tag: counter.tag });
        }
    }

    /// Something to be said about the key of a telegram.
    pub fn warning(&self, header: &Header) -> Option<&'static str> {
        let is_session = header.ell.is_some_and(|ell| ell.is_encrypted());
        let is_protected = is_session || header.tpl.is_some_and(|tpl| tpl.mode() != 0);
        let known = self.known(header.meter?)?;
        (is_protected && known.key.is_well_known())
            .then_some("the key stands in documentation and protects nothing: a gateway refuses it")
    }
}

fn place(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start);
    let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
    let message = error.message();
    // What is said of an unknown or missing field is a name; what is said of a value may quote it.
    let is_safe = message.starts_with("missing field") || message.starts_with("unknown field");
    format!("line {line}: {}", if is_safe { message } else { "not a file of keys (TOML, [[meter]])" })
}

impl KeySource for Keys {
    fn find(&self, meter: MeterAddress) -> Option<Known<'_>> {
        let known = self.known(meter)?;
        if self.last.is_empty() {
            return Some(known);
        }
        let last = self.last.get(&(meter, known.key.check_value())).copied();
        Some(Known { last, ..known })
    }
}
