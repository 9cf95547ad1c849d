//! Reading: what is asked for, in which requests, and how it is put together.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use gridseal_dlms::{
    apdu::{
        reference::AttributeId,
        result::{DataAccessResult, LIST_MAX},
    },
    assoc::client::{OwnedSelection, Request, Response},
    class,
    wire::Data,
};
use gridseal_types::ObisCode;
use serde_json::{Value, json};

use super::{
    item::{Item, dotted, usual_class},
    profile,
    session::{Session, refused},
    shown::{ScalerUnit, Shown, head, named, plain, scaled, typed},
};
use crate::tools::Usage;

/// Attributes that go into one request: the answer stays within what a small meter can hold.
const LIST_SIZE: usize = 16;
const _: () = assert!(LIST_SIZE <= LIST_MAX);

/// Where an association lists the objects that it shows.
const OBJECT_LIST: AttributeId = AttributeId::new(15, ObisCode::new([0, 0, 40, 0, 0, 255]), 2);

/// One attribute to be read.
#[derive(Debug, Clone)]
pub struct Read {
    attribute: AttributeId,
    selection: Option<OwnedSelection>,
}

impl Read {
    /// All of it.
    pub const fn plain(attribute: AttributeId) -> Self {
        Self { attribute, selection: None }
    }
}

/// Encoded value, or why there is none.
type Got = Result<Vec<u8>, DataAccessResult>;

/// Reads attributes in their order: several in one request where the meter takes lists; buffers alone.
pub async fn fetch<const N: usize>(session: &mut Session<'_, N>, reads: &[Read]) -> Result<Vec<Got>> {
    let is_alone =
        |read: &Read| read.selection.is_some() || (read.attribute.class, read.attribute.attribute) == (7, 2);
    let mut got = Vec::with_capacity(reads.len());
    for run in reads.chunk_by(|a, b| !is_alone(a) && !is_alone(b)) {
        for part in run.chunks(LIST_SIZE) {
            if part.len() > 1 && session.has_lists() {
                let items = part.iter().map(|read| (read.attribute, read.selection.clone())).collect();
                match session.ask(Request::GetList(items)).await? {
                    Response::GetList(results) if results.len() == part.len() => got.extend(results),
                    other => return Err(refused(&other)),
                }
                continue;
            }
            for read in part {
                match session.ask(Request::Get(read.attribute, read.selection.clone())).await? {
                    Response::Get(result) => got.push(result),
                    other => return Err(refused(&other)),
                }
            }
        }
    }
    Ok(got)
}

/// Where the scaler of an attribute is, if it has one.
pub const fn scaler_of(attribute: AttributeId) -> Option<AttributeId> {
    let scaler = match (attribute.class, attribute.attribute) {
        (3 | 4, 2) => 3,
        (5, 2 | 3) => 4,
        _ => return None,
    };
    Some(AttributeId { attribute: scaler, ..attribute })
}

/// The attribute that holds the value of an object of this class.
const fn usual_attribute(class: u16) -> i8 {
    match class {
        // Entries in use, of an account the available credit: attribute 2 says what state it is in.
        111 => 5,
        _ => 2,
    }
}

/// Reads everything and puts it together.
pub async fn get<const N: usize>(
    session: &mut Session<'_, N>,
    items: &[Item],
    selection: Option<&OwnedSelection>,
) -> Result<Vec<Shown>> {
    let attributes = resolve(session, items).await?;
    let mut reads = Vec::new();
    for attribute in &attributes {
        let is_buffer = (attribute.class, attribute.attribute) == (7, 2);
        reads.push(Read { attribute: *attribute, selection: selection.filter(|_| is_buffer).cloned() });
    }
    let scalers: Vec<AttributeId> = attributes.iter().filter_map(|attribute| scaler_of(*attribute)).collect();
    reads.extend(scalers.iter().map(|scaler| Read::plain(*scaler)));
    let mut got = fetch(session, &reads).await?;
    let scaler_units: BTreeMap<AttributeId, ScalerUnit> = scalers
        .into_iter()
        .zip(got.split_off(attributes.len()))
        .filter_map(|(attribute, value)| Some((attribute, ScalerUnit::read(&value.ok()?)?)))
        .collect();
    let is_proven = session.is_proven();
    let mut shown = Vec::new();
    for (attribute, value) in attributes.into_iter().zip(got) {
        shown.push(match value {
            Err(result) => profile::refused(attribute, result),
            Ok(buffer) if (attribute.class, attribute.attribute) == (7, 2) => {
                let layout = profile::layout(session, attribute.obis).await?;
                layout.show(attribute, &buffer, is_proven)
            }
            Ok(value) => {
                let scaler_unit = scaler_of(attribute).and_then(|scaler| scaler_units.get(&scaler)).copied();
                show_value(attribute, &value, scaler_unit, is_proven)
            }
        });
    }
    Ok(shown)
}

/// One value as it is printed.
pub fn show_value(
    attribute: AttributeId,
    value: &[u8],
    scaler_unit: Option<ScalerUnit>,
    is_proven: bool,
) -> Shown {
    let mut object = named(attribute);
    let data = match Data::from_bytes(value) {
        Ok(data) => data,
        Err(error) => {
            object.insert("error".into(), json!({"code": "dlms.form", "message": error.to_string()}));
            return Shown::new(object, format!("{}  {error}", head(attribute)), false);
        }
    };
    let kind = class::newest(attribute.class).and_then(|class| class.attribute(attribute.attribute));
    let told = typed(&data, kind.map(|attribute| &attribute.value));
    let number = scaler_unit.and_then(|unit| scaled(&told, unit.scaler));
    let mut text = format!("{}  {}", head(attribute), number.unwrap_or_else(|| plain(&told)));
    if let Value::Object(fields) = told {
        object.extend(fields.into_iter().map(|(name, field)| {
            // The code of the object itself stands there already.
            (if name == "obis" { "value_obis".to_owned() } else { name }, field)
        }));
    }
    if let Some(scaler_unit) = scaler_unit {
        scaler_unit.put(&mut object);
        text.push_str(&format!(" {}", scaler_unit.symbol()));
    }
    object.insert("authenticated".into(), json!(is_proven));
    Shown::new(object, text, true)
}

/// Puts in what was left out: the class from the built-in table, else from the meter's object list.
async fn resolve<const N: usize>(session: &mut Session<'_, N>, items: &[Item]) -> Result<Vec<AttributeId>> {
    let mut listed: Option<BTreeMap<ObisCode, u16>> = None;
    let mut attributes = Vec::new();
    for item in items {
        let class = match item.class.or_else(|| usual_class(item.obis)) {
            Some(class) => class,
            None => {
                if listed.is_none() {
                    listed = Some(object_list(session).await?);
                }
                let found = listed.as_ref().and_then(|listed| listed.get(&item.obis)).copied();
                found.ok_or_else(|| {
                    let why = "neither the built-in table nor the meter's object list has its class";
                    Usage(format!("{}: {why}; give OBIS:CLASS", dotted(item.obis)))
                })?
            }
        };
        attributes.push(AttributeId::new(
            class,
            item.obis,
            item.number.unwrap_or_else(|| usual_attribute(class)),
        ));
    }
    Ok(attributes)
}

async fn object_list<const N: usize>(session: &mut Session<'_, N>) -> Result<BTreeMap<ObisCode, u16>> {
    let got = fetch(session, &[Read::plain(OBJECT_LIST)]).await?.into_iter().next();
    let value = got.and_then(Result::ok).unwrap_or_default();
    let data = Data::from_bytes(&value).ok();
    let Some(Data::Array(entries)) = data else { return Ok(BTreeMap::new()) };
    let entry = |entry: &Data<'_>| match entry {
        Data::Structure(parts) => match parts.as_slice() {
            [Data::LongUnsigned(class), Data::Unsigned(_), Data::OctetString(name), ..] => {
                Some((ObisCode::new((*name).try_into().ok()?), *class))
            }
            _ => None,
        },
        _ => None,
    };
    entries.iter().map(entry).collect::<Option<_>>().context("the meter's object list is malformed")
}
