//! A telegram as JSON: everything that `gridseal encode mbus` needs to make it again.

use gridseal_lmn::{
    mbus::{
        Authenticity, BodyKind, Header, MeterAddress, OpenError, Opened, Quirks,
        afl::Afl,
        ell::Ell,
        record::Record,
        tpl::{Configuration, Content, Tpl},
    },
    reading::{Compound, Decimal, Quality, Reading, Unit, Value as Reads},
};
use serde_json::{Map, Value, json};

/// Named fields of the object.
pub type Fields = Vec<(&'static str, Value)>;

/// Why a telegram is refused.
pub fn error(error: &OpenError) -> Value {
    json!({"code": error.code(), "offset": error.offset(), "message": error.to_string()})
}

fn address(address: MeterAddress) -> Value {
    json!({
        "manufacturer": address.manufacturer().to_string(), "id": address.id_text(),
        "version": address.version(), "medium_code": address.medium().0,
    })
}

/// What is said before anything is believed.
pub fn header(header: &Header) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    if let Some(meter) = header.meter {
        put("manufacturer", json!(meter.manufacturer().to_string()));
        put("id", json!(meter.id_text()));
        put("version", json!(meter.version()));
        put("medium", json!(meter.medium().name()));
        put("medium_code", json!(meter.medium().0));
    }
    if let Some(format) = header.format {
        put("frame", json!(format.name()));
    }
    if let Some(link) = header.link {
        let mut value = address(link.address);
        value["control"] = json!(format!("{:02x}", link.control));
        value["control_name"] = json!(link.control_name());
        put("link", value);
    }
    if let Some((control, primary)) = header.wired {
        put("frame", json!("wired"));
        put("wired", json!({"control": format!("{control:02x}"), "address": primary}));
    }
    if let Some(layer) = &header.ell {
        put("ell", ell(layer));
    }
    if let Some(layer) = &header.afl {
        put("afl", afl(layer));
    }
    if let Some(layer) = &header.tpl {
        put("tpl", tpl(layer));
    }
    put("security", security(header));
    if let Some(counter) = header.counter() {
        put("counter", json!(counter));
    }
    Value::Object(fields)
}

fn security(header: &Header) -> Value {
    let mode = header.tpl.map(|tpl| tpl.mode());
    let is_session = header.ell.is_some_and(|ell| ell.is_encrypted());
    let name = match (mode, is_session) {
        (None | Some(0), true) => "AES-128-CTR in the extended link layer",
        (Some(mode), _) => Configuration::mode_name(mode),
        (None, false) => "not known",
    };
    let profile = match (mode, is_session) {
        (Some(5), _) => Some("A"),
        (Some(7), _) => Some("B"),
        (Some(10), _) => Some("D"),
        (Some(13), _) => Some("C"),
        (_, true) => Some("ELL"),
        _ => None,
    };
    json!({"mode": mode, "name": name, "profile": profile})
}

fn ell(ell: &Ell) -> Value {
    let mut value = json!({
        "ci": format!("{:02x}", ell.ci), "control": format!("{:02x}", ell.control), "access": ell.access,
    });
    if let Some(second) = ell.address {
        value["address"] = address(second);
    }
    if let Some(session) = ell.session {
        value["session"] = json!(format!("{:08x}", session.0));
        value["minutes"] = json!(session.minutes());
    }
    value
}

fn afl(afl: &Afl) -> Value {
    json!({
        "fcl": format!("{:04x}", afl.fcl), "mcl": afl.mcl.map(|mcl| format!("{mcl:02x}")),
        "ki": afl.ki.map(|ki| format!("{ki:04x}")), "mcr": afl.mcr,
        "mac": afl.mac.map(|mac| hex::encode(mac.as_bytes())), "ml": afl.ml,
    })
}

fn tpl(tpl: &Tpl) -> Value {
    let mut value = json!({"ci": format!("{:02x}", tpl.ci)});
    if let Some(meter) = tpl.address {
        value["address"] = address(meter);
    }
    if let Some(fields) = tpl.fields {
        value["access"] = json!(fields.access);
        value["status"] = json!(format!("{:02x}", fields.status));
        value["state"] = json!(fields.application_state());
        value["configuration"] = json!(format!("{:04x}", fields.configuration.cf));
        value["extension"] = json!(hex::encode(fields.configuration.extension()));
        value["mcr"] = json!(fields.configuration.mcr);
        value["key_version"] = json!(fields.configuration.key_version);
    }
    value
}

const fn content(kind: BodyKind) -> &'static str {
    match kind {
        BodyKind::Fragment => "fragment",
        BodyKind::Short => "no data",
        BodyKind::Content(Content::Full) => "records",
        BodyKind::Content(Content::Compact) => "compact records",
        BodyKind::Content(Content::Command) => "command",
        BodyKind::Content(Content::Transport) => "transport",
        BodyKind::Content(Content::ApplicationError) => "application error",
        BodyKind::Content(Content::Alarm) => "alarm",
        BodyKind::Content(Content::Other(name)) => name,
        BodyKind::Content(_) => "other",
    }
}

/// What the body says. An error in one record releases none of them.
pub fn opened(header: &Header, opened: &Opened<'_>, quirks: Quirks) -> Result<Fields, OpenError> {
    let authenticated = match opened.authenticity {
        Authenticity::None => json!("none"),
        Authenticity::Unproven => json!(false),
        Authenticity::Verified => json!(true),
    };
    let mut fields: Fields = vec![("authenticated", authenticated)];
    if opened.authenticity == Authenticity::Verified {
        fields.push(("address_authenticated", json!(opened.address_is_proven)));
    }
    fields.push(("content", json!(content(opened.body.kind))));
    // Check bytes belong to the protection and not to the body.
    let is_blocks = matches!(header.tpl.map(|tpl| tpl.mode()), Some(5 | 7));
    let mut check = if is_blocks { 2 } else { 0 };
    let Some(mut records) = opened.body.records(header.meter, quirks) else {
        if !opened.body.bytes.is_empty() {
            fields.push(("body", json!(hex::encode(opened.body.bytes))));
        }
        return Ok(fields);
    };
    let mut all = Vec::new();
    for found in &mut records {
        all.push(record(&found?, check));
        check = 0;
    }
    let after = records.trailing_fillers().saturating_sub(check);
    fields.push(("records", Value::Array(all)));
    if after > 0 {
        fields.push(("fillers_after", json!(after)));
    }
    if is_blocks && opened.clear_tail > 0 {
        fields.push(("clear_tail", json!(opened.clear_tail)));
    }
    Ok(fields)
}

fn record(record: &Record<'_>, check: usize) -> Value {
    let reading = &record.reading;
    let mut value = json!({
        "quantity": reading.quantity.name(), "value": read_value(reading), "unit": unit(record),
        "obis": reading.obis.map(|code| code.to_string()), "storage": reading.storage, "tariff": reading.tariff,
        "subunit": reading.subunit, "function": reading.function.name(), "scaler": reading.scaler(),
        "quality": reading.quality.name(), "dif_vif": hex::encode(record.header), "data": hex::encode(record.data),
    });
    if let Quality::Reported(code) = reading.quality {
        value["error_code"] = json!(code);
    }
    let qualifiers: Vec<_> = record.qualifiers.as_slice().iter().map(|qualifier| qualifier.name()).collect();
    if !qualifiers.is_empty() {
        value["qualifiers"] = json!(qualifiers);
    }
    if record.filler_count > check {
        value["fillers_before"] = json!(record.filler_count - check);
    }
    if record.more_follows {
        value["more_follows"] = json!(true);
    }
    value
}

fn unit(record: &Record<'_>) -> Value {
    let base = match (record.unit_text, record.reading.unit) {
        (Some(text), _) => text.to_string(),
        (None, Unit::None) => return Value::Null,
        (None, unit) => unit.symbol().to_owned(),
    };
    json!(match record.reading.compound {
        Compound::None => base,
        Compound::Per(unit) => format!("{base}/{}", unit.symbol()),
        Compound::Times(unit) => format!("{base}*{}", unit.symbol()),
    })
}

fn read_value(reading: &Reading<'_>) -> Value {
    match reading.value {
        Reads::Number(number) => number_value(number),
        Reads::Real(real) => json!(real),
        Reads::Boolean(boolean) => json!(boolean),
        Reads::Text(text) => json!(text.to_string()),
        Reads::Octets(octets) | Reads::NotANumber(octets) => json!(hex::encode(octets)),
        Reads::Date(date) => json!(date.to_string()),
        Reads::DateTime(at) => json!(at.to_string()),
        Reads::Time(time) => json!(time.to_string()),
        _ => Value::Null,
    }
}

/// A JSON number where one says exactly the same, else the digits as text.
pub fn number_value(number: Decimal) -> Value {
    let text = number.to_string();
    if let Ok(integer) = text.parse::<i64>() {
        return json!(integer);
    }
    let digits = text.chars().filter(char::is_ascii_digit).count();
    match text.parse::<f64>() {
        Ok(real) if digits <= 15 => json!(real),
        _ => json!(text),
    }
}
