//! One JSON object to one telegram.

use anyhow::{Context, Result, bail};
use gridseal_crypto::{InvocationCounter, Ticket};
use gridseal_lmn::{
    mbus::{
        Medium, MeterAddress,
        afl::{Afl, Mac},
        compact::compact,
        ell::{Ell, Session},
        encode::{Telegram, data_for, header_for},
        frame::{Format, Link},
        tpl::{Configuration, Content, Tpl, TplFields, ci_field},
    },
    reading::{Decimal, Function, Quantity, Unit},
};
use serde_json::Value;

use crate::tools::decode::mbus::keys::{Keys, id, manufacturer};

/// Access number of a telegram that names none.
const ACCESS: u8 = 1;

/// The telegram of an object.
pub fn encode(value: &Value, keys: &Keys) -> Result<Vec<u8>> {
    if value["ok"] == Value::Bool(false) {
        bail!("the telegram was not decoded, there is nothing to encode");
    }
    let meter = address(value).context("address of the meter")?;
    let tpl = tpl(value)?;
    let ell = ell(value).context("ell")?;
    let mut body = body(value)?;
    if tpl.content == Content::Compact {
        body = compact(&body).context("records cannot be made compact")?;
    }
    let link = match present(value, "link") {
        Some(link) => Link {
            control: hex_field(link, "control")?.unwrap_or(0x44),
            address: address(link).context("link")?,
        },
        None => Link { control: 0x44, address: meter },
    };
    let clear_tail = number(value, "clear_tail")?.unwrap_or(0);
    let telegram = Telegram { link, ell, afl: afl(value, &tpl)?, tpl, body: &body, clear_tail };
    let key = keys.known(tpl.address.unwrap_or(link.address)).map(|known| known.key);
    let session = ell.filter(Ell::is_encrypted).and_then(|ell| ell.session);
    let counter = session.map(|session| session.0 & 0x1FFF_FFFF).or(number(value, "counter")?);
    let ticket = counter.and_then(ticket);
    if let Some(wired) = present(value, "wired") {
        let control = hex_field(wired, "control")?.unwrap_or(0x08);
        let primary = number(wired, "address")?.unwrap_or(0);
        return Ok(telegram.encode_wired(control, primary, key, ticket)?);
    }
    let format = match value["frame"].as_str() {
        None => Format::A,
        Some(name) => Format::from_name(name).context("frame is none of A, B, stripped")?,
    };
    Ok(telegram.encode(format, key, ticket)?)
}

/// The value as a ticket: whoever wrote the object answers for its being unused.
fn ticket(value: u32) -> Option<Ticket> {
    let mut counter = InvocationCounter::resume(value.into());
    let reservation = counter.reserve(1).ok()?;
    counter.extend(reservation);
    counter.take().ok()
}

fn present<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.get(name).filter(|found| !found.is_null())
}

fn number<T: TryFrom<u64>>(value: &Value, name: &'static str) -> Result<Option<T>> {
    let Some(found) = present(value, name) else { return Ok(None) };
    let number = found.as_u64().and_then(|number| T::try_from(number).ok());
    number.with_context(|| format!("{name} is not a number in its range")).map(Some)
}

/// A field of hex digits, most significant first.
fn hex_field<T: TryFrom<u64>>(value: &Value, name: &'static str) -> Result<Option<T>> {
    let Some(found) = present(value, name) else { return Ok(None) };
    let number = found.as_str().and_then(|text| u64::from_str_radix(text, 16).ok());
    let number = number.and_then(|number| T::try_from(number).ok());
    number.with_context(|| format!("{name} is not hex in its range")).map(Some)
}

fn bytes(value: &Value, name: &'static str) -> Result<Option<Vec<u8>>> {
    let Some(found) = present(value, name) else { return Ok(None) };
    let bytes = found.as_str().and_then(|text| hex::decode(text).ok());
    bytes.with_context(|| format!("{name} is not hex")).map(Some)
}

fn address(value: &Value) -> Result<MeterAddress> {
    // A wired telegram may say no address at all.
    if value["wired"].is_object() && value["id"].is_null() {
        return Ok(MeterAddress([0; 8]));
    }
    let letters = value["manufacturer"].as_str().context("manufacturer is missing")?;
    let manufacturer = manufacturer(letters).context("manufacturer is not three capital letters")?;
    let id = value["id"].as_str().and_then(id).context("id is not 8 digits")?;
    let version = number(value, "version")?.context("version is missing")?;
    let medium = match number(value, "medium_code")? {
        Some(code) => Medium(code),
        None => {
            let name = value["medium"].as_str().context("medium is missing")?;
            Medium::from_name(name).context("medium is not known by this name")?
        }
    };
    Ok(MeterAddress::new(manufacturer, id, version, medium))
}

fn ell(value: &Value) -> Result<Option<Ell>> {
    let Some(ell) = present(value, "ell") else { return Ok(None) };
    Ok(Some(Ell {
        ci: hex_field(ell, "ci")?.context("ci is missing")?,
        control: hex_field(ell, "control")?.unwrap_or(0x20),
        access: number(ell, "access")?.unwrap_or(ACCESS),
        address: present(ell, "address").map(address).transpose()?,
        session: hex_field(ell, "session")?.map(Session),
    }))
}

/// Mode by number or by profile.
fn mode(value: &Value) -> Result<u8> {
    let security = &value["security"];
    if let Some(mode) = number(security, "mode")? {
        return Ok(mode);
    }
    Ok(match security["profile"].as_str() {
        None | Some("ELL") => 0,
        Some("A") => 5,
        Some("B") => 7,
        Some("D") => 10,
        Some(_) => bail!("security.profile is none of A, B, D, ELL"),
    })
}

fn tpl(value: &Value) -> Result<Tpl> {
    let tpl = &value["tpl"];
    let ci: u8 = hex_field(tpl, "ci")?.unwrap_or(0x7A);
    let (_, content) = ci_field(ci).context("tpl.ci is not a CI field")?;
    let mut fields = None;
    if tpl.is_null() {
        // Mode 7 has a default key by KDF-A; mode 10 has the counter in the header and encrypts all that is left.
        let (cf, cfe, mcr) = match mode(value)? {
            10 => (0x2AFF, [0x10, 0x01], Some(0)),
            7 => (0x0700, [0x10, 0], None),
            mode => (u16::from(mode) << 8, [0; 2], None),
        };
        let configuration = Configuration { cf, cfe, mcr, key_version: None };
        let access = number(value, "access")?.unwrap_or(ACCESS);
        fields = Some(TplFields { access, status: 0, configuration });
    } else if let Some(cf) = hex_field(tpl, "configuration")? {
        let mut cfe = [0; 2];
        let extension = bytes(tpl, "extension")?.unwrap_or_default();
        cfe.iter_mut().zip(&extension).for_each(|(place, byte)| *place = *byte);
        let (mcr, key_version) = (number(tpl, "mcr")?, number(tpl, "key_version")?);
        let configuration = Configuration { cf, cfe, mcr, key_version };
        let (access, status) = (number(tpl, "access")?, hex_field(tpl, "status")?);
        fields =
            Some(TplFields { access: access.unwrap_or(ACCESS), status: status.unwrap_or(0), configuration });
    }
    let address = present(tpl, "address").map(address).transpose().context("tpl.address")?;
    Ok(Tpl { ci, content, address, fields })
}

fn afl(value: &Value, tpl: &Tpl) -> Result<Option<Afl>> {
    let Some(afl) = present(value, "afl") else {
        // An authentication code of 8 bytes and the counter: what mode 7 cannot be without.
        return Ok((tpl.mode() == 7).then(|| Afl { mcl: Some(0x25), mcr: Some(0), ..Afl::default() }));
    };
    Ok(Some(Afl {
        fcl: hex_field(afl, "fcl")?.unwrap_or(0),
        mcl: hex_field(afl, "mcl")?,
        ki: hex_field(afl, "ki")?,
        mcr: number(afl, "mcr")?,
        mac: bytes(afl, "mac")?.map(|mac| Mac::new(&mac)),
        ml: number(afl, "ml")?,
    }))
}

fn body(value: &Value) -> Result<Vec<u8>> {
    if let Some(body) = bytes(value, "body")? {
        return Ok(body);
    }
    let mut out = Vec::new();
    let fill = |out: &mut Vec<u8>, count: Option<u16>| {
        out.resize(out.len() + usize::from(count.unwrap_or(0)), 0x2F);
    };
    for (index, record) in value["records"].as_array().into_iter().flatten().enumerate() {
        fill(&mut out, number(record, "fillers_before")?);
        out.extend(self::record(record).with_context(|| format!("record {}", index + 1))?);
    }
    fill(&mut out, number(value, "fillers_after")?);
    Ok(out)
}

fn record(value: &Value) -> Result<Vec<u8>> {
    let mut header = match bytes(value, "dif_vif")? {
        Some(header) => header,
        None => header_of(value)?,
    };
    let data = match bytes(value, "data")? {
        Some(data) => data,
        None => data_for(&header, decimal(&value["value"])?)?,
    };
    header.extend(data);
    Ok(header)
}

/// DIF and VIF of a 32-bit integer, or of a 64-bit one when the value needs it.
fn header_of(value: &Value) -> Result<Vec<u8>> {
    let quantity =
        value["quantity"].as_str().and_then(Quantity::from_name).context("quantity is not known")?;
    let unit = match value["unit"].as_str() {
        None => Unit::None,
        Some(symbol) => Unit::from_symbol(symbol).context("unit is not known")?,
    };
    let function = match value["function"].as_str() {
        None => Function::Instantaneous,
        Some(name) => Function::from_name(name).context("function is not known")?,
    };
    let exact = decimal(&value["value"])?;
    let scaler = match value["scaler"].as_i64() {
        Some(scaler) => i16::try_from(scaler).context("scaler is out of range")?,
        None => exact.exponent,
    };
    let is_small = exact.in_units_of(scaler).is_some_and(|value| i32::try_from(value).is_ok());
    let storage = number(value, "storage")?.unwrap_or(0);
    let parts = (number(value, "tariff")?.unwrap_or(0), number(value, "subunit")?.unwrap_or(0));
    Ok(header_for(if is_small { 4 } else { 7 }, (quantity, unit, scaler), function, storage, parts)?)
}

/// A JSON number or digits as text, exactly.
fn decimal(value: &Value) -> Result<Decimal> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => bail!("value is not a number; give data in hex instead"),
    };
    text.parse().ok().context("value is not a decimal number")
}
