//! Entry for fuzzers and for the replay of kept inputs: an association machine under a sequence of operations, over the
//! real objects.

use gridseal_crypto::CurvePublic;
use gridseal_dlms::{
    acse::{Conformance, Mechanism},
    apdu::{
        reference::{AttributeId, MethodId},
        result::DataAccessResult,
    },
    assoc::{ActionReply, AttributeRequest, MethodRequest, Objects, Protection, Value},
    suite::local::{DataLayer, KeySet},
    wire::{Data, Reader},
};
use gridseal_trust::party::Purpose;
use gridseal_types::{ObisCode, SystemTitle, UtcTime};

use super::{Device, DeviceConfig, Grant, KeyId, KeyRefusal, Keyholder, Pairs, Part, Rights, StoreError};

/// Time that each call takes, seconds: periods end and schedules run while a client speaks.
const STEP_S: u64 = 37;
const START: UtcTime = UtcTime(1_800_000_000);
/// Largest value that is given back, bytes: a whole profile of the most rows and columns is below it.
const VALUE_SIZE_MAX: usize = 16 << 20;
/// Largest part of the state that is kept, bytes: all certificates.
const KEPT_SIZE_MAX: usize = 128 << 10;

/// Takes whatever it is given.
struct Holder;

impl Keyholder for Holder {
    fn transfer(&mut self, keys: &[(KeyId, &[u8])]) -> Result<(), KeyRefusal> {
        assert!(!keys.is_empty() && keys.len() <= 4, "each key once");
        Ok(())
    }

    fn change_secret(&mut self, _: &[u8]) -> Result<(), KeyRefusal> {
        Ok(())
    }

    fn change_password(&mut self, password: &[u8]) -> Result<(), KeyRefusal> {
        assert!(!password.is_empty() && password.len() <= 64, "size was judged");
        Ok(())
    }

    fn last_received(&self, _: KeySet, _: SystemTitle) -> Option<u32> {
        None
    }

    fn agree(&mut self, _: SystemTitle, _: &[(KeyId, CurvePublic)]) -> Result<Vec<Vec<u8>>, KeyRefusal> {
        Err(KeyRefusal::NoPair)
    }

    fn make_pair(&mut self, _: Purpose) -> Result<&'static str, KeyRefusal> {
        Ok("nothing")
    }

    fn pairs(&self, _: Purpose) -> Pairs {
        Pairs::default()
    }

    fn sign_request(&mut self, _: Purpose, _: &CurvePublic, _: &[u8]) -> Result<Vec<u8>, KeyRefusal> {
        Err(KeyRefusal::NoPair)
    }

    fn use_pair(&mut self, _: Purpose, _: &CurvePublic) -> Result<(), KeyRefusal> {
        Err(KeyRefusal::NoPair)
    }

    fn configured_key(&self, _: Purpose, _: SystemTitle) -> Option<CurvePublic> {
        None
    }

    fn believe(&mut self, peers: &[(Purpose, SystemTitle, CurvePublic)], _: &[(Purpose, SystemTitle)]) {
        assert!(peers.is_empty(), "nobody has an anchor here");
    }

    fn protect_data(
        &mut self,
        layers: &[DataLayer],
        plain: &[u8],
    ) -> Result<(Vec<DataLayer>, Vec<u8>), KeyRefusal> {
        Ok((layers.to_vec(), plain.to_vec()))
    }

    fn unprotect_data(&self, _: &[DataLayer], data: &[u8]) -> Result<Vec<u8>, KeyRefusal> {
        Ok(data.to_vec())
    }

    fn keep(&mut self, _: Part, bytes: &[u8]) -> Result<(), StoreError> {
        assert!(bytes.len() < KEPT_SIZE_MAX, "what is kept is bounded");
        Ok(())
    }

    fn append(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        self.keep(part, bytes)
    }
}

/// The device, with a name for whatever a fuzzer makes up. It is made when it is first reached: most inputs never do.
struct Named {
    device: Option<Device>,
    at: UtcTime,
    energy: i64,
}

impl Named {
    /// Time passes; gives the device.
    fn pass(&mut self) -> &mut Device {
        self.at = UtcTime(self.at.0.saturating_add(STEP_S));
        let device = self.device.get_or_insert_with(|| Device::new(config(), START));
        device.tick(self.at, &mut Holder);
        let import = device.objects.get(&ObisCode::ACTIVE_ENERGY_IMPORT);
        let value = import.and_then(|import| device.present(import, 2, self.at));
        let value =
            value.and_then(|value| super::object::number(&Data::from_bytes(&value).ok()?)).unwrap_or(0);
        assert!(value >= self.energy, "rule S15: energy never falls");
        self.energy = value;
        while let Some(push) = device.take_push() {
            assert!(push.len() < VALUE_SIZE_MAX, "a push is bounded");
        }
        device.take_notes();
        device
    }
}

/// The object of this name, or the one to which an unknown name leads.
fn name(device: &Device, class: u16, obis: ObisCode) -> (u16, ObisCode) {
    if device.objects.contains_key(&obis) {
        return (class, obis);
    }
    let sum = obis.groups().iter().map(|group| usize::from(*group)).sum::<usize>();
    let index = sum.checked_rem(device.objects.len()).unwrap_or(0);
    let object = device.objects.values().nth(index);
    object.map_or((class, obis), |object| (object.class.id, object.obis))
}

impl Objects for Named {
    fn get(&mut self, request: AttributeRequest<'_>) -> Result<Value, DataAccessResult> {
        let device = self.pass();
        let AttributeId { class, obis, attribute } = request.attribute;
        let (class, obis) = name(device, class, obis);
        let attribute = AttributeId { class, obis, attribute };
        let value = device.session(&mut Holder).get(AttributeRequest { attribute, ..request })?;
        let mut bytes = Vec::new();
        match value {
            Value::Encoded(value) => bytes = value,
            Value::Stream(mut source) => {
                while source.fill(64, &mut bytes)? {
                    assert!(bytes.len() < VALUE_SIZE_MAX, "a value is bounded");
                }
            }
        }
        let mut reader = Reader::new(&bytes);
        let whole = Data::skip(&mut reader).is_ok() && reader.left() == 0;
        assert!(whole, "one value is given back: {obis} {}", attribute.attribute);
        Ok(Value::Encoded(bytes))
    }

    fn set(&mut self, request: AttributeRequest<'_>, value: &[u8]) -> Result<(), DataAccessResult> {
        let device = self.pass();
        let AttributeId { class, obis, attribute } = request.attribute;
        let (class, obis) = name(device, class, obis);
        let attribute = AttributeId { class, obis, attribute };
        device.session(&mut Holder).set(AttributeRequest { attribute, ..request }, value)
    }

    fn action(&mut self, request: MethodRequest<'_>) -> ActionReply {
        let device = self.pass();
        let MethodId { class, obis, method } = request.method;
        let (class, obis) = name(device, class, obis);
        let method = MethodId { class, obis, method };
        device.session(&mut Holder).action(MethodRequest { method, ..request })
    }
}

fn config() -> DeviceConfig {
    let title = SystemTitle(*b"MMM\0\0\0\0\x01");
    let grant = |client_sap, is_ciphered| Grant {
        client_sap,
        mechanism: Mechanism::LowLevel,
        is_ciphered,
        rights: Rights::ALL,
    };
    DeviceConfig {
        title,
        client_title: title,
        sap: 1,
        suite: 1,
        policy: Protection::None,
        conformance: Conformance::SPOKEN,
        max_pdu: 300,
        grants: vec![grant(16, false), grant(1, true)],
        is_clock_trusted: true,
        image: None,
    }
}

/// A server over the objects of a meter.
pub fn fuzz_entry(bytes: &[u8]) {
    let mut objects = Named { device: None, at: START, energy: 0 };
    gridseal_dlms::fuzz_entry::assoc_server_over(bytes, &mut objects);
}
