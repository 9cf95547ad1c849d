//! Who may do what, and the port through which a server machine reaches the device.

use gridseal_dlms::{
    acse::Mechanism,
    apdu::{
        reference::{AttributeId, MethodId},
        result::{ActionResult, DataAccessResult},
    },
    assoc::{AccessContext, ActionReply, AttributeRequest, MethodRequest, Objects, Value},
    wire::Data,
};
use gridseal_types::ObisCode;

use super::{Device, Keyholder, Note, object::Object, protection::DATA_PROTECTION};

/// The class of associations.
pub(super) const ASSOCIATION: u16 = 15;
/// Attribute of an association that nobody reads.
pub(super) const SECRET: i8 = 7;

/// What a client may do, beyond reading what everybody may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Read attributes.
    pub read: bool,
    /// Write attributes.
    pub write: bool,
    /// Invoke methods.
    pub invoke: bool,
}

impl Rights {
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true, invoke: true };
    /// Nothing.
    pub const NONE: Self = Self { read: false, write: false, invoke: false };
}

/// What a client is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Its service access point.
    pub client_sap: u16,
    /// How it must authenticate itself.
    pub mechanism: Mechanism,
    /// Whether its association is ciphered.
    pub is_ciphered: bool,
    /// What it may do.
    pub rights: Rights,
}

/// A device lent to one input of an association machine.
#[allow(missing_debug_implementations, reason = "a device and a port")]
pub struct Session<'d> {
    pub(super) device: &'d mut Device,
    pub(super) keys: &'d mut dyn Keyholder,
}

impl Object {
    /// Whether an attribute can be read by a client with these rights.
    pub(super) fn is_readable(&self, attribute: i8, rights: Rights) -> bool {
        let is_secret = self.class.id == ASSOCIATION && attribute == SECRET;
        let is_allowed = self.is_public || rights.read;
        is_allowed && !is_secret && self.limit.is_none_or(|limit| limit.read)
    }

    /// Whether an attribute can be written by a client with these rights.
    pub(super) fn is_writable(&self, attribute: i8, rights: Rights) -> bool {
        rights.write && self.writable.contains(&attribute) && self.limit.is_none_or(|limit| limit.write)
    }

    /// Whether methods can be invoked by a client with these rights.
    pub(super) fn is_invocable(&self, rights: Rights) -> bool {
        rights.invoke && self.limit.is_none_or(|limit| limit.invoke)
    }
}

impl Session<'_> {
    /// What a request may do. The policy of the security setup binds associations that are open already.
    fn rights(&self, context: &AccessContext) -> Option<Rights> {
        let grant = self.device.grant(context.client_sap)?;
        let (required, _) = self.device.policy();
        let (must_sign, _) = self.device.signatures();
        let is_protected = !grant.is_ciphered
            || (context.protection.covers(required)
                && (context.is_signed || !must_sign || context.is_broadcast));
        is_protected.then_some(grant.rights)
    }

    fn denied(&mut self, context: &AccessContext, obis: ObisCode, member: i8) {
        self.device.note(Note::Denied { client_sap: context.client_sap, obis, member });
    }

    /// The object, if it is of that class.
    fn find(&self, class: u16, obis: ObisCode) -> Result<&Object, DataAccessResult> {
        let object = self.device.objects.get(&obis).ok_or(DataAccessResult::ObjectUndefined)?;
        if object.class.id == class { Ok(object) } else { Err(DataAccessResult::ObjectClassInconsistent) }
    }

    fn may_get(&self, request: &AttributeRequest<'_>) -> Result<(), DataAccessResult> {
        let AttributeId { class, obis, attribute } = request.attribute;
        let rights = self.rights(request.context).ok_or(DataAccessResult::ReadWriteDenied)?;
        let object = self.find(class, obis)?;
        if !object.is_public && rights == Rights::NONE {
            return Err(DataAccessResult::ObjectUndefined);
        }
        object.class.attribute(attribute).ok_or(DataAccessResult::ObjectUndefined)?;
        if request.context.is_broadcast || !object.is_readable(attribute, rights) {
            return Err(DataAccessResult::ReadWriteDenied);
        }
        Ok(())
    }

    fn may_set(&self, request: &AttributeRequest<'_>, value: &[u8]) -> Result<(), DataAccessResult> {
        let AttributeId { class, obis, attribute: id } = request.attribute;
        let rights = self.rights(request.context).ok_or(DataAccessResult::ReadWriteDenied)?;
        let object = self.find(class, obis)?;
        let attribute = object.class.attribute(id).ok_or(DataAccessResult::ObjectUndefined)?;
        let is_other_secret = (class, id) == (ASSOCIATION, SECRET)
            && !self.device.takes_password(obis, request.context.client_sap);
        if request.context.is_broadcast || is_other_secret || !object.is_writable(id, rights) {
            return Err(DataAccessResult::ReadWriteDenied);
        }
        if request.selection.is_some() {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        let data = Data::from_bytes(value).map_err(|_| DataAccessResult::TypeUnmatched)?;
        attribute.value.check(&data).map_err(|_| DataAccessResult::TypeUnmatched)
    }

    fn may_act(&self, request: &MethodRequest<'_>) -> Result<(), DataAccessResult> {
        let MethodId { class, obis, method } = request.method;
        let rights = self.rights(request.context).ok_or(DataAccessResult::ReadWriteDenied)?;
        let object = self.find(class, obis)?;
        object.class.method(method).ok_or(DataAccessResult::ObjectUndefined)?;
        // Anybody who has the broadcast key is the originator: only image blocks, which a signature covers.
        let is_harmless = (class, method) == (18, 2);
        if (request.context.is_broadcast && !is_harmless) || !object.is_invocable(rights) {
            return Err(DataAccessResult::ReadWriteDenied);
        }
        Ok(())
    }
}

impl Objects for Session<'_> {
    fn get(&mut self, request: AttributeRequest<'_>) -> Result<Value, DataAccessResult> {
        let at = request.attribute;
        if let Err(result) = self.may_get(&request) {
            if result == DataAccessResult::ReadWriteDenied {
                self.denied(request.context, at.obis, at.attribute);
            }
            return Err(result);
        }
        self.device.get(at, request.selection, request.context.client_sap, self.keys)
    }

    fn set(&mut self, request: AttributeRequest<'_>, value: &[u8]) -> Result<(), DataAccessResult> {
        let at = request.attribute;
        if let Err(result) = self.may_set(&request, value) {
            if result == DataAccessResult::ReadWriteDenied {
                self.denied(request.context, at.obis, at.attribute);
            }
            return Err(result);
        }
        self.device.set(at, value, Some(request.context), self.keys)
    }

    fn action(&mut self, request: MethodRequest<'_>) -> ActionReply {
        let method = request.method;
        if let Err(result) = self.may_act(&request) {
            if result == DataAccessResult::ReadWriteDenied {
                self.denied(request.context, method.obis, method.method);
            }
            return refused(result);
        }
        if method.class == DATA_PROTECTION {
            return self.protected(&request);
        }
        self.device.action(method, request.parameters, request.context, self.keys)
    }
}

/// The results of both services have the same numbers.
pub(super) fn refused(result: DataAccessResult) -> ActionReply {
    ActionReply::refused(ActionResult::from_number(result.number()))
}
