//! GET, SET and ACTION on an open association, and the list of objects.

use gridseal_dlms::{
    apdu::{
        action::{ActionRequest, ActionResponse},
        get::{GetRequest, GetResponse},
        reference::{AttributeId, InvokeId, MethodId},
        result::{ActionResult, DataAccessResult},
        set::{SetRequest, SetResponse},
    },
    assoc::Protection,
    wire::Data,
};
use gridseal_types::ObisCode;

use super::{
    associate::{Open, named},
    talk::{Prober, Reply},
};

/// Largest value that is put together from blocks, bytes.
const VALUE_SIZE_MAX: usize = 262_144;
/// Most blocks of one value.
const BLOCKS_MAX: u32 = 4_096;
/// Most objects of a list that are looked at.
const OBJECTS_MAX: usize = 2_048;

/// The object list of whoever asks.
pub const OBJECT_LIST: AttributeId = AttributeId::new(15, ObisCode::new([0, 0, 40, 0, 0, 255]), 2);
/// The last counter that the meter has accepted.
pub const COUNTER: AttributeId = AttributeId::new(1, ObisCode::new([0, 0, 43, 1, 0, 255]), 2);
/// The device's name.
pub const NAME: AttributeId = AttributeId::new(1, ObisCode::new([0, 0, 42, 0, 0, 255]), 2);
/// Energy imported.
pub const ENERGY: AttributeId = AttributeId::new(3, ObisCode::ACTIVE_ENERGY_IMPORT, 2);
/// The meter's time.
pub const CLOCK: AttributeId = AttributeId::new(8, ObisCode::CLOCK, 2);

/// What came of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done; for GET with the encoded value.
    Done(Vec<u8>, Protection),
    /// Refused inside the service, with its result.
    Denied(String),
    /// Refused as a whole, or no answer.
    Refused(String),
}

impl Outcome {
    /// The value.
    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Self::Done(value, _) => Some(value),
            _ => None,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        match self {
            Self::Done(value, _) => format!("served, {} bytes", value.len()),
            Self::Denied(what) | Self::Refused(what) => what.clone(),
        }
    }
}

/// What an association may do with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Class.
    pub class: u16,
    /// Version.
    pub version: u8,
    /// Logical name.
    pub obis: ObisCode,
    /// Attributes that can be read.
    pub readable: Vec<i8>,
    /// Attributes that can be written.
    pub writable: Vec<i8>,
    /// Methods that can be invoked.
    pub invocable: Vec<i8>,
}

/// GET of one attribute, plain.
pub fn get_request(attribute: AttributeId) -> Vec<u8> {
    GetRequest::Normal { invoke_id: InvokeId::confirmed(1), attribute, selection: None }.to_bytes()
}

/// What a plain get-response of one result says.
fn got(apdu: &[u8], protection: Protection) -> Outcome {
    match GetResponse::from_bytes(apdu) {
        Ok(GetResponse::Normal { result: Ok(value), .. }) => Outcome::Done(value.to_vec(), protection),
        Ok(GetResponse::Block { result: Ok(raw), .. }) => Outcome::Done(raw.to_vec(), protection),
        Ok(
            GetResponse::Normal { result: Err(result), .. } | GetResponse::Block { result: Err(result), .. },
        ) => Outcome::Denied(result.to_string()),
        Ok(_) => Outcome::Refused("an answer to another request".into()),
        Err(_) => Outcome::Refused(named(apdu)),
    }
}

impl Prober<'_> {
    /// Sends bytes as they are and says what came of them, as of a GET.
    pub async fn try_get(&mut self, open: &mut Open, what: &str, apdu: &[u8]) -> Outcome {
        let reply = self.exchange(&mut open.talk, what, apdu, &[]).await;
        self.outcome(open, &reply)
    }

    fn outcome(&mut self, open: &Open, reply: &Reply) -> Outcome {
        let Some(apdu) = reply.apdu() else { return Outcome::Refused(reply.to_string()) };
        match self.open(&open.talk.setup, apdu) {
            Some(plain) => got(&plain.apdu, plain.protection),
            None => Outcome::Refused("an answer that does not open".into()),
        }
    }

    /// GET as an honest client, in blocks where the meter wants it.
    pub async fn get(&mut self, open: &mut Open, what: &str, attribute: AttributeId) -> Outcome {
        let setup = open.talk.setup;
        let mut whole = Vec::new();
        let mut request = get_request(attribute);
        for block in 0..BLOCKS_MAX {
            let apdu = self.sealed(&setup, &request, setup.protection, None);
            let reply = self.exchange(&mut open.talk, what, &apdu, &[]).await;
            let Some(found) = reply.apdu() else { return Outcome::Refused(reply.to_string()) };
            let Some(plain) = self.open(&setup, found) else {
                return Outcome::Refused("an answer that does not open".into());
            };
            let Ok(GetResponse::Block { last, block_number, result: Ok(raw), .. }) =
                GetResponse::from_bytes(&plain.apdu)
            else {
                return got(&plain.apdu, plain.protection);
            };
            if block_number != block.saturating_add(1)
                || whole.len().saturating_add(raw.len()) > VALUE_SIZE_MAX
            {
                return Outcome::Refused("blocks out of order or without an end".into());
            }
            whole.extend_from_slice(raw);
            if last {
                return Outcome::Done(whole, plain.protection);
            }
            request = GetRequest::Next { invoke_id: InvokeId::confirmed(1), block_number }.to_bytes();
        }
        Outcome::Refused("blocks without an end".into())
    }

    /// SET as an honest client.
    pub async fn set(&mut self, open: &mut Open, attribute: AttributeId, value: &[u8]) -> Outcome {
        let setup = open.talk.setup;
        let invoke_id = InvokeId::confirmed(1);
        let request = SetRequest::Normal { invoke_id, attribute, selection: None, value }.to_bytes();
        let apdu = self.sealed(&setup, &request, setup.protection, None);
        let what = format!("set of {}", super::super::item::dotted(attribute.obis));
        let reply = self.exchange(&mut open.talk, &what, &apdu, &[]).await;
        let Some(plain) = reply.apdu().and_then(|apdu| self.open(&setup, apdu)) else {
            return Outcome::Refused(reply.to_string());
        };
        match SetResponse::from_bytes(&plain.apdu) {
            Ok(SetResponse::Normal { result: DataAccessResult::Success, .. }) => {
                Outcome::Done(Vec::new(), plain.protection)
            }
            Ok(SetResponse::Normal { result, .. }) => Outcome::Denied(result.to_string()),
            _ => Outcome::Refused(named(&plain.apdu)),
        }
    }

    /// ACTION as an honest client.
    pub async fn action(&mut self, open: &mut Open, method: MethodId, value: &[u8]) -> Outcome {
        let setup = open.talk.setup;
        let request =
            ActionRequest::Normal { invoke_id: InvokeId::confirmed(1), method, parameters: Some(value) };
        let apdu = self.sealed(&setup, &request.to_bytes(), setup.protection, None);
        let what = format!("method {} of {}", method.method, super::super::item::dotted(method.obis));
        let reply = self.exchange(&mut open.talk, &what, &apdu, &[]).await;
        let Some(plain) = reply.apdu().and_then(|apdu| self.open(&setup, apdu)) else {
            return Outcome::Refused(reply.to_string());
        };
        match ActionResponse::from_bytes(&plain.apdu) {
            Ok(ActionResponse::Normal { outcome, .. }) if outcome.result == ActionResult::Success => {
                Outcome::Done(Vec::new(), plain.protection)
            }
            Ok(ActionResponse::Normal { outcome, .. }) => Outcome::Denied(outcome.result.to_string()),
            _ => Outcome::Refused(named(&plain.apdu)),
        }
    }
}

/// A number out of an encoded value.
pub fn number(value: &[u8]) -> Option<u64> {
    Some(match Data::from_bytes(value).ok()? {
        Data::Unsigned(number) | Data::Enum(number) => number.into(),
        Data::LongUnsigned(number) => number.into(),
        Data::DoubleLongUnsigned(number) => number.into(),
        Data::Long64Unsigned(number) => number,
        Data::DoubleLong(number) => u64::try_from(number).ok()?,
        _ => return None,
    })
}

/// An octet-string out of an encoded value.
pub fn octets(value: &[u8]) -> Option<Vec<u8>> {
    match Data::from_bytes(value).ok()? {
        Data::OctetString(bytes) => Some(bytes.to_vec()),
        _ => None,
    }
}

/// Reads an object list; `None` when it is malformed.
pub fn object_list(value: &[u8]) -> Option<Vec<Listed>> {
    let Ok(Data::Array(entries)) = Data::from_bytes(value) else { return None };
    entries.iter().take(OBJECTS_MAX).map(listed).collect()
}

fn listed(entry: &Data<'_>) -> Option<Listed> {
    let Data::Structure(parts) = entry else { return None };
    let [Data::LongUnsigned(class), Data::Unsigned(version), Data::OctetString(name), rest @ ..] =
        parts.as_slice()
    else {
        return None;
    };
    let mut object = Listed {
        class: *class,
        version: *version,
        obis: ObisCode::new((*name).try_into().ok()?),
        readable: Vec::new(),
        writable: Vec::new(),
        invocable: Vec::new(),
    };
    let Some(Data::Structure(rights)) = rest.first() else { return Some(object) };
    let [attributes, methods] = rights.as_slice() else { return Some(object) };
    for (id, mode) in modes(attributes) {
        // Versions 0 to 2 of associations: 1 and 4 read, 2 and 5 write, 3 and 6 both.
        if matches!(mode, 1 | 3 | 4 | 6) {
            object.readable.push(id);
        }
        if matches!(mode, 2 | 3 | 5 | 6) {
            object.writable.push(id);
        }
    }
    object.invocable = modes(methods).into_iter().filter(|(_, mode)| *mode != 0).map(|(id, _)| id).collect();
    Some(object)
}

/// Ids with their access modes.
fn modes(list: &Data<'_>) -> Vec<(i8, u8)> {
    let Data::Array(items) = list else { return Vec::new() };
    let mode = |item: &Data<'_>| match item {
        Data::Structure(parts) => match parts.as_slice() {
            [Data::Integer(id), Data::Enum(mode), ..] => Some((*id, *mode)),
            [Data::Integer(id), Data::Boolean(is_open), ..] => Some((*id, u8::from(*is_open))),
            _ => None,
        },
        _ => None,
    };
    items.iter().filter_map(mode).collect()
}
