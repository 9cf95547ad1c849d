//! Data protection: attributes and a method, read, written and invoked through layers of their own.
//!
//! A client reaches nothing through it that it may not reach directly. What is protected are the values of the list, in
//! their order, as one structure; of a method its parameter, or nothing. The fact sheet has the types of the class; this
//! reading of them is ours \[check\]. `protection_buffer` and the parameters beside it are kept and not acted upon.
//!
//! # Source
//! DLMS fact sheet, section 8, class 30.

use gridseal_dlms::{
    apdu::{
        reference::{AttributeId, MethodId},
        result::DataAccessResult,
    },
    assoc::{AccessContext, ActionReply, AttributeRequest, MethodRequest, Objects, Protection, Value},
    suite::local::{DataKey, DataLayer, DataProtection},
    wire::Data,
};
use gridseal_types::{ObisCode, SystemTitle};

use super::{
    Note,
    access::{Session, refused},
    object::{items, name, number},
    security::is_proven,
};

/// Class of this.
pub(super) const DATA_PROTECTION: u16 = 30;
/// Layers of one exchange: a cipher and a signature.
const LAYERS_MAX: usize = 2;
/// Attributes of one exchange.
const ATTRIBUTES_MAX: usize = 16;
/// Largest value that is protected, bytes.
const VALUE_SIZE_MAX: usize = 32_768;
/// Bits of required_protection, as those of the policy of the security setup \[check\].
const REQUIRED: [(i64, Layer); 3] = [(4, Layer::Tag), (8, Layer::Cipher), (16, Layer::Signature)];

/// What a layer gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Tag,
    Cipher,
    Signature,
}

type Outcome<T> = Result<T, DataAccessResult>;

impl Session<'_> {
    /// Methods 1 to 3, whose right was judged.
    pub(super) fn protected(&mut self, request: &MethodRequest<'_>) -> ActionReply {
        let MethodId { obis, method, .. } = request.method;
        let outcome = request.parameters.ok_or(DataAccessResult::TypeUnmatched).and_then(|bytes| {
            let data = Data::from_bytes(bytes).map_err(|_| DataAccessResult::TypeUnmatched)?;
            let known = self.device.objects.get(&obis).and_then(|object| object.class.method(method));
            let known = known.ok_or(DataAccessResult::ObjectUndefined)?;
            known.parameter.check(&data).map_err(|_| DataAccessResult::TypeUnmatched)?;
            if !is_proven(request.context) {
                return Err(DataAccessResult::ReadWriteDenied);
            }
            match (method, items(&data)) {
                (1, [list, layers]) => self.protected_get((obis, request.context), list, layers).map(Some),
                (2, [list, layers, Data::OctetString(data)]) => {
                    self.protected_set((obis, request.context), list, (layers, data)).map(|()| None)
                }
                (3, [target, layers, Data::OctetString(data)]) => {
                    self.protected_call((obis, request.context), target, (layers, data))
                }
                _ => Err(DataAccessResult::TypeUnmatched),
            }
        });
        match outcome {
            Ok(None) => ActionReply::SUCCESS,
            Ok(Some(value)) => ActionReply::returns(value),
            Err(result) => refused(result),
        }
    }

    fn protected_get(
        &mut self,
        (own, context): (ObisCode, &AccessContext),
        list: &Data<'_>,
        layers: &Data<'_>,
    ) -> Outcome<Vec<u8>> {
        let layers = self.layers(own, layers)?;
        let mut values = Vec::new();
        for attribute in attributes(list)? {
            let request = AttributeRequest { context, attribute, selection: None };
            values.push(whole(self.get(request)?)?);
        }
        let values: Option<Vec<Data<'_>>> = values.iter().map(|value| Data::from_bytes(value).ok()).collect();
        let plain = Data::Structure(values.ok_or(DataAccessResult::OtherReason)?).to_bytes();
        self.put_layers(&layers, &plain)
    }

    fn protected_set(
        &mut self,
        (own, context): (ObisCode, &AccessContext),
        list: &Data<'_>,
        (layers, data): (&Data<'_>, &[u8]),
    ) -> Outcome<()> {
        let list = attributes(list)?;
        let (_, plain) = self.take_layers((own, context), layers, data)?;
        let values = Data::from_bytes(&plain).map_err(|_| DataAccessResult::TypeUnmatched)?;
        let Data::Structure(values) = values else { return Err(DataAccessResult::TypeUnmatched) };
        if values.len() != list.len() {
            return Err(DataAccessResult::TypeUnmatched);
        }
        // One after the other, like a SET with a list: the first that is refused ends it.
        for (attribute, value) in list.into_iter().zip(values) {
            let request = AttributeRequest { context, attribute, selection: None };
            self.set(request, &value.to_bytes())?;
        }
        Ok(())
    }

    fn protected_call(
        &mut self,
        (own, context): (ObisCode, &AccessContext),
        target: &Data<'_>,
        (layers, data): (&Data<'_>, &[u8]),
    ) -> Outcome<Option<Vec<u8>>> {
        let [class, obis, method] = items(target) else { return Err(DataAccessResult::TypeUnmatched) };
        let class = number(class).and_then(|class| u16::try_from(class).ok());
        let method = number(method).and_then(|method| i8::try_from(method).ok());
        let (Some(class), Some(obis), Some(method)) = (class, name(obis), method) else {
            return Err(DataAccessResult::TypeUnmatched);
        };
        // Layers inside layers have no end.
        if class == DATA_PROTECTION {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        let (layers, plain) = self.take_layers((own, context), layers, data)?;
        let parameters = if plain.is_empty() { None } else { Some(plain.as_slice()) };
        if parameters.is_some_and(|bytes| Data::from_bytes(bytes).is_err()) {
            return Err(DataAccessResult::TypeUnmatched);
        }
        let method = MethodId::new(class, obis, method);
        let reply = self.action(MethodRequest { context, method, parameters });
        if reply.result != gridseal_dlms::apdu::result::ActionResult::Success {
            return Err(DataAccessResult::from_number(reply.result.number()));
        }
        let Some(Ok(returned)) = reply.returned else { return Ok(None) };
        // The answer has the layers of the request, the other way round.
        let back: Vec<DataLayer> = layers.into_iter().map(answering).collect();
        self.put_layers(&back, &returned).map(Some)
    }

    fn put_layers(&mut self, layers: &[DataLayer], plain: &[u8]) -> Outcome<Vec<u8>> {
        if plain.len() > VALUE_SIZE_MAX {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        match self.keys.protect_data(layers, plain) {
            Ok((layers, data)) => {
                let layers: Vec<Vec<u8>> = layers.iter().map(written).collect();
                let layers = layers.iter().filter_map(|layer| Data::from_bytes(layer).ok()).collect();
                Ok(Data::Structure(vec![Data::Array(layers), Data::OctetString(&data)]).to_bytes())
            }
            Err(refusal) => {
                self.device.note(Note::KeysRefused(refusal));
                Err(DataAccessResult::OtherReason)
            }
        }
    }

    /// Opens what a client protected; its transaction-id must be above all before it, and is kept before anything is done.
    fn take_layers(
        &mut self,
        (own, context): (ObisCode, &AccessContext),
        layers: &Data<'_>,
        data: &[u8],
    ) -> Outcome<(Vec<DataLayer>, Vec<u8>)> {
        let layers = self.layers(own, layers)?;
        let originators = layers.iter().map(|layer| layer.originator);
        let client =
            context.client_title.filter(|_| originators.clone().all(|title| title == context.client_title));
        let ids = layers.iter().map(|layer| <[u8; 8]>::try_from(layer.transaction_id.as_slice()).ok());
        let mut ids = ids.map(|id| id.map(u64::from_be_bytes));
        let first = ids.next().flatten();
        let id = first.filter(|_| ids.all(|id| id == first));
        let (Some(client), Some(id)) = (client, id) else {
            return self.refuse_data(super::KeyRefusal::Transaction);
        };
        if self.device.transactions.get(&client).is_some_and(|last| id <= *last) {
            return self.refuse_data(super::KeyRefusal::Transaction);
        }
        let plain = match self.keys.unprotect_data(&layers, data) {
            Ok(plain) => plain,
            Err(refusal) => return self.refuse_data(refusal),
        };
        let before = self.device.transactions.insert(client, id);
        if self.device.keep_setup(self.keys).is_err() {
            match before {
                Some(before) => self.device.transactions.insert(client, before),
                None => self.device.transactions.remove(&client),
            };
            return Err(DataAccessResult::HardwareFault);
        }
        Ok((layers, plain))
    }

    fn refuse_data<T>(&mut self, refusal: super::KeyRefusal) -> Outcome<T> {
        self.device.note(Note::KeysRefused(refusal));
        Err(DataAccessResult::OtherReason)
    }

    /// The layers that a client names, if they are enough.
    fn layers(&self, own: ObisCode, layers: &Data<'_>) -> Outcome<Vec<DataLayer>> {
        let layers: Option<Vec<DataLayer>> = items(layers).iter().map(layer).collect();
        let layers = layers.ok_or(DataAccessResult::TypeUnmatched)?;
        let signatures = layers.iter().filter(|layer| layer.protection == DataProtection::Signature).count();
        if layers.is_empty() || layers.len() > LAYERS_MAX || (layers.len() == LAYERS_MAX && signatures != 1) {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        let required = self.device.objects.get(&own).map_or(0, |object| object.number(6));
        let gives = |wanted| {
            layers.iter().any(|layer| match (layer.protection, wanted) {
                (DataProtection::Signature, _) => wanted == Layer::Signature,
                (DataProtection::Cipher(done), Layer::Tag) => done.covers(Protection::Authenticated),
                (DataProtection::Cipher(done), Layer::Cipher) => done.covers(Protection::Encrypted),
                (DataProtection::Cipher(_), Layer::Signature) => false,
            })
        };
        let is_enough = REQUIRED.iter().all(|(bit, wanted)| required & bit == 0 || gives(*wanted));
        if is_enough { Ok(layers) } else { Err(DataAccessResult::ReadWriteDenied) }
    }
}

/// Attributes of a list; parts of them are not given.
fn attributes(list: &Data<'_>) -> Outcome<Vec<AttributeId>> {
    let read = |entry: &Data<'_>| match items(entry) {
        [class, obis, attribute, index, restriction] => {
            let is_whole = number(index) == Some(0) && is_unrestricted(restriction);
            let class = number(class).and_then(|class| u16::try_from(class).ok());
            let attribute = number(attribute).and_then(|attribute| i8::try_from(attribute).ok());
            let id = AttributeId::new(class?, name(obis)?, attribute?);
            Some(if is_whole && id.class != DATA_PROTECTION { Ok(id) } else { Err(()) })
        }
        _ => None,
    };
    let list: Option<Vec<Result<AttributeId, ()>>> = items(list).iter().map(read).collect();
    let list: Result<Vec<AttributeId>, ()> =
        list.ok_or(DataAccessResult::TypeUnmatched)?.into_iter().collect();
    let list = list.map_err(|()| DataAccessResult::ScopeOfAccessViolated)?;
    if list.is_empty() || list.len() > ATTRIBUTES_MAX {
        return Err(DataAccessResult::ScopeOfAccessViolated);
    }
    Ok(list)
}

/// None, or `{0, null}`.
fn is_unrestricted(restriction: &Data<'_>) -> bool {
    match restriction {
        Data::Null => true,
        Data::Structure(parts) => match parts.as_slice() {
            [kind, Data::Null] => number(kind) == Some(0),
            _ => false,
        },
        _ => false,
    }
}

fn whole(value: Value) -> Outcome<Vec<u8>> {
    match value {
        Value::Encoded(bytes) => Ok(bytes),
        Value::Stream(mut source) => {
            let mut bytes = Vec::new();
            while source.fill(1_024, &mut bytes)? {
                if bytes.len() > VALUE_SIZE_MAX {
                    return Err(DataAccessResult::ScopeOfAccessViolated);
                }
            }
            Ok(bytes)
        }
    }
}

/// A layer as it is on the wire.
fn layer(value: &Data<'_>) -> Option<DataLayer> {
    let [kind, options] = items(value) else { return None };
    let [
        Data::OctetString(id),
        Data::OctetString(from),
        Data::OctetString(to),
        Data::OctetString(other),
        key,
    ] = items(options)
    else {
        return None;
    };
    let [key_kind, key_options] = items(key) else { return None };
    let protection = match number(kind)? {
        0 => DataProtection::Cipher(Protection::Authenticated),
        1 => DataProtection::Cipher(Protection::Encrypted),
        2 => DataProtection::Cipher(Protection::AuthenticatedEncrypted),
        _ => DataProtection::Signature,
    };
    let key = match (number(key_kind)?, key_options, items(key_options)) {
        _ if protection == DataProtection::Signature => DataKey::Identified(0),
        (0, id, _) => DataKey::Identified(u8::try_from(number(id)?).ok()?),
        (1, _, [id, Data::OctetString(wrapped)]) => {
            DataKey::Wrapped { kek_id: u8::try_from(number(id)?).ok()?, wrapped: wrapped.to_vec() }
        }
        (2, _, [Data::OctetString(parameters), Data::OctetString(data)]) => {
            DataKey::Agreed { parameters: parameters.to_vec(), data: data.to_vec() }
        }
        _ => return None,
    };
    let title = |bytes: &[u8]| match bytes {
        [] => Some(None),
        bytes => SystemTitle::from_slice(bytes).map(Some),
    };
    Some(DataLayer {
        protection,
        transaction_id: id.to_vec(),
        originator: title(from)?,
        recipient: title(to)?,
        other_information: other.to_vec(),
        key,
    })
}

/// The layer that answers one: ends exchanged, and a fresh key of the same kind.
fn answering(layer: DataLayer) -> DataLayer {
    let key = match layer.key {
        DataKey::Identified(id) => DataKey::Identified(id),
        DataKey::Wrapped { kek_id, .. } => DataKey::Wrapped { kek_id, wrapped: Vec::new() },
        DataKey::Agreed { parameters, .. } => DataKey::Agreed { parameters, data: Vec::new() },
    };
    DataLayer { originator: layer.recipient, recipient: layer.originator, key, ..layer }
}

fn written(layer: &DataLayer) -> Vec<u8> {
    let title = |title: &Option<SystemTitle>| title.map_or(Vec::new(), |title| title.as_bytes().to_vec());
    let (from, to) = (title(&layer.originator), title(&layer.recipient));
    let kind = match layer.protection {
        DataProtection::Cipher(Protection::Authenticated) => 0,
        DataProtection::Cipher(Protection::Encrypted) => 1,
        DataProtection::Cipher(_) => 2,
        DataProtection::Signature => 3,
    };
    let (key_kind, key_options) = match &layer.key {
        DataKey::Identified(id) => (0, Data::Enum(*id)),
        DataKey::Wrapped { kek_id, wrapped } => {
            (1, Data::Structure(vec![Data::Enum(*kek_id), Data::OctetString(wrapped)]))
        }
        DataKey::Agreed { parameters, data } => {
            (2, Data::Structure(vec![Data::OctetString(parameters), Data::OctetString(data)]))
        }
    };
    let key = Data::Structure(vec![Data::Enum(key_kind), key_options]);
    let options = Data::Structure(vec![
        Data::OctetString(&layer.transaction_id),
        Data::OctetString(&from),
        Data::OctetString(&to),
        Data::OctetString(&layer.other_information),
        key,
    ]);
    Data::Structure(vec![Data::Enum(kind), options]).to_bytes()
}
