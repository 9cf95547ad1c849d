//! What the head-end may ask over the push link: the logical device name, and the exchange of keys.
//!
//! The association is pre-established: general-glo-ciphering from management client to management logical device, no
//! AARQ. Everything that an association would agree upon is fixed; each request proves its client by its tag.

use gridseal_dlms::{
    apdu::{
        action::{ActionOutcome, ActionRequest, ActionResponse},
        exception::{ExceptionResponse, ServiceError, StateError},
        get::{GetRequest, GetResponse},
        reference::{AttributeId, InvokeId, MethodId},
        result::{ActionResult, DataAccessResult},
    },
    wire::Data,
};
use gridseal_types::{ObisCode, SystemTitle};

use super::keys::{Change, KeyRing};
use crate::cosem::logical_device_name;

/// Logical device name.
const NAME: AttributeId = AttributeId::new(1, ObisCode::new([0, 0, 42, 0, 0, 255]), 2);
/// key_transfer of the security setup.
const KEY_TRANSFER: MethodId = MethodId::new(64, ObisCode::new([0, 0, 43, 0, 0, 255]), 2);

/// What came of a request.
#[derive(Debug)]
pub(super) struct Answer {
    /// Plain response; none when the client wants none.
    pub(super) plain: Option<Vec<u8>>,
    /// Keys to be taken into use once the response is sealed under those before.
    pub(super) change: Option<Change>,
}

/// Serves one plain request.
pub(super) fn serve(ring: &KeyRing, own: SystemTitle, plain: &[u8]) -> Answer {
    let answer = |invoke_id: InvokeId, plain: Vec<u8>, change| Answer {
        plain: invoke_id.is_confirmed().then_some(plain),
        change,
    };
    if let Ok(GetRequest::Normal { invoke_id, attribute, selection: None }) = GetRequest::from_bytes(plain) {
        let name = logical_device_name(own);
        let value = Data::OctetString(&name).to_bytes();
        let result = if attribute == NAME { Ok(&*value) } else { Err(DataAccessResult::ObjectUndefined) };
        return answer(invoke_id, GetResponse::Normal { invoke_id, result }.to_bytes(), None);
    }
    if let Ok(ActionRequest::Normal { invoke_id, method, parameters }) = ActionRequest::from_bytes(plain) {
        let (result, change) = if method == KEY_TRANSFER {
            match parameters.and_then(|parameters| transferred(ring, parameters)) {
                Some(change) => (ActionResult::Success, Some(change)),
                None => (ActionResult::OtherReason, None),
            }
        } else {
            (ActionResult::ObjectUndefined, None)
        };
        let outcome = ActionOutcome { result, returned: None };
        return answer(invoke_id, ActionResponse::Normal { invoke_id, outcome }.to_bytes(), change);
    }
    let refused =
        ExceptionResponse { state: StateError::ServiceUnknown, service: ServiceError::ServiceNotSupported };
    Answer { plain: Some(refused.to_bytes()), change: None }
}

/// The keys of an array of {key_id, wrapped key}.
///
/// # Source
/// DLMS fact sheet, section 6.2.
fn transferred(ring: &KeyRing, parameters: &[u8]) -> Option<Change> {
    let Ok(Data::Array(items)) = Data::from_bytes(parameters) else { return None };
    let mut keys = Vec::with_capacity(items.len());
    for item in &items {
        let Data::Structure(fields) = item else { return None };
        let [Data::Enum(id), Data::OctetString(wrapped)] = fields.as_slice() else { return None };
        keys.push((*id, *wrapped));
    }
    ring.transferred(&keys)
}
