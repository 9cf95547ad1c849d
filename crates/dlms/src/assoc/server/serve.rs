//! GET, SET, ACTION and ACCESS.

use alloc::vec::Vec;

use super::{
    Refusal, Server, Shape,
    transfer::{Incoming, Outgoing, OwnedSelection, Purpose},
};
use crate::{
    acse::Conformance,
    apdu::{
        access::{AccessRequest, AccessResponse, AccessResult, AccessSpecification},
        action::{ActionOutcome, ActionRequest, ActionResponse},
        get::{GetRequest, GetResponse},
        reference::{AttributeId, InvokeId, MethodId, REPLY_TO_HLS_AUTHENTICATION, Selection},
        result::{ActionResult, DataAccessResult, GetResult, encode_get_result},
        set::{Block, SetRequest, SetResponse},
        tag,
    },
    assoc::{AccessContext, ActionReply, AttributeRequest, MethodRequest, Objects, Value},
    wire::{Data, Reader, Writer},
};

/// Bytes of a get-response around its value: tag, choice, invoke-id, result.
const GET_HEADER: usize = 4;
/// Bytes of a response block around its data: tag, choice, invoke-id, last, number, result, length.
const BLOCK_HEADER: usize = 12;

type Served = Result<Option<Vec<u8>>, Refusal>;

/// What one request works with.
struct Call<'c> {
    context: AccessContext,
    shape: Shape,
    objects: &'c mut dyn Objects,
}

impl Call<'_> {
    fn get(
        &mut self,
        attribute: AttributeId,
        selection: Option<Selection<'_>>,
    ) -> Result<Value, DataAccessResult> {
        self.objects.get(AttributeRequest { context: &self.context, attribute, selection })
    }

    fn set(
        &mut self,
        attribute: AttributeId,
        selection: Option<Selection<'_>>,
        value: &[u8],
    ) -> DataAccessResult {
        let request = AttributeRequest { context: &self.context, attribute, selection };
        self.objects.set(request, value).err().unwrap_or(DataAccessResult::Success)
    }

    fn action(&mut self, method: MethodId, parameters: Option<&[u8]>) -> ActionReply {
        // The reply to a challenge has its place in time, and that is over.
        if method == REPLY_TO_HLS_AUTHENTICATION {
            return ActionReply::refused(ActionResult::ReadWriteDenied);
        }
        self.objects.action(MethodRequest { context: &self.context, method, parameters })
    }
}

impl Server {
    /// Serves a plain request; gives the plain response, none for an unconfirmed request.
    pub(super) fn serve(&mut self, plain: &[u8], shape: Shape, objects: &mut dyn Objects) -> Served {
        let first = plain.first().copied().unwrap_or_default();
        let needed = match first {
            tag::GET_REQUEST => Conformance::GET,
            tag::SET_REQUEST => Conformance::SET,
            tag::ACTION_REQUEST => Conformance::ACTION,
            tag::ACCESS_REQUEST => Conformance::ACCESS,
            _ => return Err(Refusal::Service(first)),
        };
        if !shape.is_broadcast && !self.session.conformance.has(needed) {
            return Err(Refusal::Service(first));
        }
        if shape.is_broadcast && !is_for_all(plain) {
            return Err(Refusal::Service(first));
        }
        let call = &mut Call { context: self.context(shape), shape, objects };
        let (response, is_confirmed) = match first {
            tag::GET_REQUEST => {
                let request = GetRequest::from_bytes(plain)?;
                let invoke_id = InvokeId(plain.get(2).copied().unwrap_or_default());
                (self.get(request, call)?, invoke_id.is_confirmed())
            }
            tag::SET_REQUEST => {
                let request = SetRequest::from_bytes(plain)?;
                let invoke_id = InvokeId(plain.get(2).copied().unwrap_or_default());
                (self.set(request, call)?.to_bytes(), invoke_id.is_confirmed())
            }
            tag::ACTION_REQUEST => {
                let request = ActionRequest::from_bytes(plain)?;
                let invoke_id = InvokeId(plain.get(2).copied().unwrap_or_default());
                (self.action(request, call)?, invoke_id.is_confirmed())
            }
            _ => {
                let request = AccessRequest::from_bytes(plain)?;
                let is_confirmed = request.long_invoke_id.is_confirmed();
                (self.access(&request, call), is_confirmed)
            }
        };
        Ok((is_confirmed && !shape.is_broadcast).then_some(response))
    }

    const fn agreed(&self, service: Conformance) -> bool {
        self.session.conformance.has(service)
    }

    fn get(&mut self, request: GetRequest<'_>, call: &mut Call<'_>) -> Result<Vec<u8>, Refusal> {
        match request {
            GetRequest::Normal { invoke_id, attribute, selection } => {
                if selection.is_some() && !self.agreed(Conformance::SELECTIVE_ACCESS) {
                    return Ok(get_error(invoke_id, DataAccessResult::ScopeOfAccessViolated));
                }
                let value = match call.get(attribute, selection) {
                    Ok(value) => value,
                    Err(result) => return Ok(get_error(invoke_id, result)),
                };
                let limit = self.response_size_max(call.shape).saturating_sub(GET_HEADER);
                let mut outgoing = Outgoing::new((invoke_id, call.shape), false, value);
                match outgoing.whole(limit) {
                    Ok(Some(value)) => Ok(GetResponse::Normal { invoke_id, result: Ok(&value) }.to_bytes()),
                    Ok(None) => Ok(self.long_get(outgoing, call, |invoke_id, whole| {
                        GetResponse::Normal { invoke_id, result: Ok(whole) }.to_bytes()
                    })),
                    Err(result) => Ok(get_error(invoke_id, result)),
                }
            }
            GetRequest::List { invoke_id, items } => {
                if !self.agreed(Conformance::MULTIPLE_REFERENCES) {
                    return Err(Refusal::Service(tag::GET_REQUEST));
                }
                let mut list = Writer::default();
                list.length(items.len());
                let mut left = self.settings.assembled_size_max;
                for (attribute, selection) in items {
                    let value = call.get(attribute, selection).and_then(|value| collected(value, &mut left));
                    encode_get_result(&mut list, &as_result(&value));
                }
                let list = list.into_bytes();
                let fits = list.len().saturating_add(GET_HEADER) <= self.response_size_max(call.shape);
                let whole =
                    |invoke_id: InvokeId, list: &[u8]| [&[tag::GET_RESPONSE, 3, invoke_id.0], list].concat();
                if fits {
                    return Ok(whole(invoke_id, &list));
                }
                Ok(self.long_get(
                    Outgoing::new((invoke_id, call.shape), false, Value::Encoded(list)),
                    call,
                    whole,
                ))
            }
            GetRequest::Next { invoke_id, block_number } => {
                Ok(self.next_block(invoke_id, block_number, false, call))
            }
        }
    }

    /// A value that is too large for one response: in blocks of the service, else whole in general blocks.
    fn long_get(
        &mut self,
        mut outgoing: Outgoing,
        call: &Call<'_>,
        whole: impl Fn(InvokeId, &[u8]) -> Vec<u8>,
    ) -> Vec<u8> {
        let invoke_id = outgoing.invoke_id;
        if self.agreed(Conformance::BLOCK_GET) {
            return self.first_block(outgoing, call);
        }
        if self.agreed(Conformance::GENERAL_BLOCK_TRANSFER)
            && let Ok(Some(value)) = outgoing.whole(self.settings.assembled_size_max)
        {
            return whole(invoke_id, &value);
        }
        get_error(invoke_id, DataAccessResult::OtherReason)
    }

    fn first_block(&mut self, mut outgoing: Outgoing, call: &Call<'_>) -> Vec<u8> {
        let size = self.response_size_max(call.shape).saturating_sub(BLOCK_HEADER).max(1);
        match outgoing.next(size) {
            Ok(()) => {
                let response = block_response(&outgoing);
                self.session.outgoing = Some(outgoing);
                response
            }
            Err(result) => get_error(outgoing.invoke_id, result),
        }
    }

    fn next_block(
        &mut self,
        invoke_id: InvokeId,
        confirmed: u32,
        is_action: bool,
        call: &Call<'_>,
    ) -> Vec<u8> {
        let size = self.response_size_max(call.shape).saturating_sub(BLOCK_HEADER).max(1);
        let refuse = |result| block_error(invoke_id, confirmed, is_action, result);
        let same = |outgoing: &&mut Outgoing| {
            (outgoing.invoke_id.id(), outgoing.is_action) == (invoke_id.id(), is_action)
                && outgoing.shape == call.shape
        };
        let Some(outgoing) = self.session.outgoing.as_mut().filter(same) else {
            return refuse(DataAccessResult::NoLongGetInProgress);
        };
        //= DLMS 5.8: the next block follows the one that was confirmed; any other number changes nothing
        if confirmed.saturating_add(1) == outgoing.number {
            return block_response(outgoing);
        }
        if confirmed != outgoing.number || outgoing.is_last {
            return refuse(DataAccessResult::DataBlockNumberInvalid);
        }
        match outgoing.next(size) {
            Ok(()) => block_response(outgoing),
            Err(result) => {
                self.session.outgoing = None;
                refuse(result)
            }
        }
    }

    fn set(&mut self, request: SetRequest<'_>, call: &mut Call<'_>) -> Result<SetResponse, Refusal> {
        let own = |selection: Option<Selection<'_>>| selection.map(OwnedSelection::of);
        Ok(match request {
            SetRequest::Normal { invoke_id, attribute, selection, value } => {
                SetResponse::Normal { invoke_id, result: call.set(attribute, selection, value) }
            }
            SetRequest::List { invoke_id, items, values } => {
                if !self.agreed(Conformance::MULTIPLE_REFERENCES) {
                    return Err(Refusal::Service(tag::SET_REQUEST));
                }
                let items = items.into_iter().zip(values);
                let results = items.map(|((at, selection), value)| call.set(at, selection, value)).collect();
                SetResponse::List { invoke_id, results }
            }
            SetRequest::FirstBlock { invoke_id, attribute, selection, block } => {
                let purpose = Purpose::Set(attribute, own(selection));
                return self.begin(invoke_id, purpose, &block, call);
            }
            SetRequest::FirstBlockList { invoke_id, items, block } => {
                let items = items.into_iter().map(|(at, selection)| (at, own(selection))).collect();
                return self.begin(invoke_id, Purpose::SetList(items), &block, call);
            }
            SetRequest::Block { invoke_id, block } => {
                match self.take_block((invoke_id, call.shape), &block, false) {
                    Ok(None) => SetResponse::Block { invoke_id, block_number: block.number },
                    Ok(Some(incoming)) => set_assembled(incoming, call),
                    Err(result) => SetResponse::LastBlock { invoke_id, result, block_number: block.number },
                }
            }
        })
    }

    fn begin(
        &mut self,
        invoke_id: InvokeId,
        purpose: Purpose,
        block: &Block<'_>,
        call: &mut Call<'_>,
    ) -> Result<SetResponse, Refusal> {
        if !self.agreed(Conformance::BLOCK_SET) {
            return Err(Refusal::Service(tag::SET_REQUEST));
        }
        self.session.incoming = Some(Incoming::new((invoke_id, call.shape), purpose));
        let block_number = block.number;
        Ok(match self.take_block((invoke_id, call.shape), block, false) {
            Ok(None) => SetResponse::Block { invoke_id, block_number },
            Ok(Some(incoming)) => set_assembled(incoming, call),
            Err(result) => SetResponse::LastBlock { invoke_id, result, block_number },
        })
    }

    /// Takes the next block of a request; gives the whole with the last one.
    fn take_block(
        &mut self,
        (invoke_id, shape): (InvokeId, Shape),
        block: &Block<'_>,
        is_action: bool,
    ) -> Result<Option<Incoming>, DataAccessResult> {
        let limit = self.settings.assembled_size_max;
        let is_same = |incoming: &Incoming| {
            (incoming.invoke_id.id(), incoming.purpose.is_action()) == (invoke_id.id(), is_action)
                && incoming.shape == shape
        };
        //= DLMS 12.8: every block of a request is protected as its first one
        let incoming = self
            .session
            .incoming
            .as_mut()
            .filter(|incoming| is_same(incoming))
            .ok_or(DataAccessResult::NoLongSetInProgress)?;
        //= DLMS 5.8: a missing or repeated block of a request is refused and changes nothing
        if block.number != incoming.number.saturating_add(1) {
            return Err(DataAccessResult::DataBlockNumberInvalid);
        }
        if incoming.data.len().saturating_add(block.raw.len()) > limit {
            self.session.incoming = None;
            return Err(DataAccessResult::LongSetAborted);
        }
        incoming.data.extend_from_slice(block.raw);
        incoming.number = block.number;
        Ok(if block.last { self.session.incoming.take() } else { None })
    }

    fn action(&mut self, request: ActionRequest<'_>, call: &mut Call<'_>) -> Result<Vec<u8>, Refusal> {
        match request {
            ActionRequest::Normal { invoke_id, method, parameters } => {
                let reply = call.action(method, parameters);
                Ok(self.action_response(invoke_id, &[reply], false, call))
            }
            ActionRequest::List { invoke_id, methods, parameters } => {
                if !self.agreed(Conformance::MULTIPLE_REFERENCES) {
                    return Err(Refusal::Service(tag::ACTION_REQUEST));
                }
                let mut left = self.settings.assembled_size_max;
                let calls = methods.into_iter().zip(parameters);
                let replies: Vec<_> = calls
                    .map(|(method, parameters)| bounded(call.action(method, Some(parameters)), &mut left))
                    .collect();
                Ok(self.action_response(invoke_id, &replies, true, call))
            }
            ActionRequest::Next { invoke_id, block_number } => {
                Ok(self.next_block(invoke_id, block_number, true, call))
            }
            ActionRequest::FirstBlock { invoke_id, method, block } => {
                self.action_block(invoke_id, Some(Purpose::Action(method)), &block, call)
            }
            ActionRequest::FirstBlockList { invoke_id, methods, block } => {
                self.action_block(invoke_id, Some(Purpose::ActionList(methods)), &block, call)
            }
            ActionRequest::Block { invoke_id, block } => self.action_block(invoke_id, None, &block, call),
        }
    }

    fn action_block(
        &mut self,
        invoke_id: InvokeId,
        purpose: Option<Purpose>,
        block: &Block<'_>,
        call: &mut Call<'_>,
    ) -> Result<Vec<u8>, Refusal> {
        if !self.agreed(Conformance::BLOCK_ACTION) {
            return Err(Refusal::Service(tag::ACTION_REQUEST));
        }
        if let Some(purpose) = purpose {
            self.session.incoming = Some(Incoming::new((invoke_id, call.shape), purpose));
        }
        let refused = |result: ActionResult| {
            let outcome = ActionOutcome { result, returned: None };
            ActionResponse::Normal { invoke_id, outcome }.to_bytes()
        };
        let incoming = match self.take_block((invoke_id, call.shape), block, true) {
            Ok(None) => {
                return Ok(ActionResponse::Next { invoke_id, block_number: block.number }.to_bytes());
            }
            Ok(Some(incoming)) => incoming,
            Err(DataAccessResult::LongSetAborted) => return Ok(refused(ActionResult::LongActionAborted)),
            Err(DataAccessResult::NoLongSetInProgress) => {
                return Ok(refused(ActionResult::NoLongActionInProgress));
            }
            Err(_) => return Ok(refused(ActionResult::DataBlockUnavailable)),
        };
        let unmatched = || ActionReply::refused(ActionResult::TypeUnmatched);
        Ok(match incoming.purpose {
            Purpose::Action(method) => {
                let is_whole = whole_value(&incoming.data);
                let reply = if is_whole { call.action(method, Some(&incoming.data)) } else { unmatched() };
                self.action_response(invoke_id, &[reply], false, call)
            }
            Purpose::ActionList(methods) => {
                let replies: Vec<_> = match values(&incoming.data, methods.len()) {
                    Some(values) => {
                        let mut left = self.settings.assembled_size_max;
                        let calls = methods.into_iter().zip(values);
                        calls
                            .map(|(method, value)| bounded(call.action(method, Some(value)), &mut left))
                            .collect()
                    }
                    None => methods.iter().map(|_| unmatched()).collect(),
                };
                self.action_response(invoke_id, &replies, true, call)
            }
            Purpose::Set(..) | Purpose::SetList(_) => refused(ActionResult::NoLongActionInProgress),
        })
    }

    fn action_response(
        &mut self,
        invoke_id: InvokeId,
        replies: &[ActionReply],
        is_list: bool,
        call: &Call<'_>,
    ) -> Vec<u8> {
        let mut body = Writer::default();
        if is_list {
            body.length(replies.len());
        }
        for reply in replies {
            let returned = reply.returned.as_ref().map(as_result);
            ActionOutcome { result: reply.result, returned }.encode(&mut body);
        }
        let body = body.into_bytes();
        let choice = if is_list { 3 } else { 1 };
        let fits = body.len().saturating_add(GET_HEADER) <= self.response_size_max(call.shape);
        if fits || call.shape.is_broadcast || !self.agreed(Conformance::BLOCK_ACTION) {
            // What does not fit goes in general blocks or is refused when it is sent.
            return [&[tag::ACTION_RESPONSE, choice, invoke_id.0], body.as_slice()].concat();
        }
        self.first_block(Outgoing::new((invoke_id, call.shape), true, Value::Encoded(body)), call)
    }

    fn access(&self, request: &AccessRequest<'_>, call: &mut Call<'_>) -> Vec<u8> {
        let null = Data::Null.to_bytes();
        let mut left = self.settings.assembled_size_max;
        let mut outcomes = Vec::new();
        for (specification, value) in request.specifications.iter().zip(&request.values) {
            let (value, result) = match *specification {
                AccessSpecification::Get(attribute, selection) => {
                    match call.get(attribute, selection).and_then(|value| collected(value, &mut left)) {
                        Ok(value) => (Some(value), AccessResult::Get(DataAccessResult::Success)),
                        Err(result) => (None, AccessResult::Get(result)),
                    }
                }
                AccessSpecification::Set(attribute, selection) => {
                    (None, AccessResult::Set(call.set(attribute, selection, value)))
                }
                AccessSpecification::Action(method) => {
                    let reply = bounded(call.action(method, Some(value)), &mut left);
                    match reply.returned {
                        Some(Err(_)) => (None, AccessResult::Action(ActionResult::OtherReason)),
                        returned => (returned.and_then(Result::ok), AccessResult::Action(reply.result)),
                    }
                }
            };
            outcomes.push((value, result));
        }
        AccessResponse {
            long_invoke_id: request.long_invoke_id,
            date_time: None,
            specifications: None,
            values: outcomes.iter().map(|(value, _)| value.as_deref().unwrap_or(&null)).collect(),
            results: outcomes.iter().map(|(_, result)| *result).collect(),
        }
        .to_bytes()
    }
}

/// Whether a service may be sent to all: what is whole, and wants no answer.
fn is_for_all(plain: &[u8]) -> bool {
    match (plain.first(), plain.get(1)) {
        (Some(&tag::SET_REQUEST), choice) => matches!(choice, Some(1 | 4)),
        (Some(&tag::ACTION_REQUEST), choice) => matches!(choice, Some(1 | 3)),
        (service, _) => service == Some(&tag::ACCESS_REQUEST),
    }
}

fn set_assembled(incoming: Incoming, call: &mut Call<'_>) -> SetResponse {
    let Incoming { invoke_id, purpose, number: block_number, data, .. } = incoming;
    let unmatched = DataAccessResult::TypeUnmatched;
    match purpose {
        Purpose::Set(attribute, selection) => {
            let result = if whole_value(&data) {
                call.set(attribute, selection.as_ref().map(OwnedSelection::borrow), &data)
            } else {
                unmatched
            };
            SetResponse::LastBlock { invoke_id, result, block_number }
        }
        Purpose::SetList(items) => {
            let results = match values(&data, items.len()) {
                Some(values) => items
                    .iter()
                    .zip(values)
                    .map(|((attribute, selection), value)| {
                        call.set(*attribute, selection.as_ref().map(OwnedSelection::borrow), value)
                    })
                    .collect(),
                None => items.iter().map(|_| unmatched).collect(),
            };
            SetResponse::LastBlockList { invoke_id, results, block_number }
        }
        Purpose::Action(_) | Purpose::ActionList(_) => {
            SetResponse::LastBlock { invoke_id, result: DataAccessResult::NoLongSetInProgress, block_number }
        }
    }
}

/// Whether the bytes are exactly one value.
fn whole_value(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    Data::skip(&mut reader).is_ok() && reader.left() == 0
}

/// `count | values`, exactly `expected` of them.
fn values(bytes: &[u8], expected: usize) -> Option<Vec<&[u8]>> {
    let mut reader = Reader::new(bytes);
    if reader.length("value-list").ok()? != expected {
        return None;
    }
    let values = (0..expected).map(|_| Data::skip(&mut reader)).collect::<Result<_, _>>().ok()?;
    (reader.left() == 0).then_some(values)
}

/// A whole value, when there is room for it.
fn collected(value: Value, left: &mut usize) -> Result<Vec<u8>, DataAccessResult> {
    let mut outgoing = Outgoing::new((InvokeId(0), Shape::PLAIN), false, value);
    let whole = outgoing.whole(*left)?.ok_or(DataAccessResult::OtherReason)?;
    *left = left.saturating_sub(whole.len());
    Ok(whole)
}

/// What a method returned, when there is room for it; it ran either way.
fn bounded(reply: ActionReply, left: &mut usize) -> ActionReply {
    let fit = |value| collected(Value::Encoded(value), left);
    ActionReply { returned: reply.returned.map(|value| value.and_then(fit)), ..reply }
}

fn as_result(value: &Result<Vec<u8>, DataAccessResult>) -> GetResult<'_> {
    value.as_deref().map_err(|result| *result)
}

fn get_error(invoke_id: InvokeId, result: DataAccessResult) -> Vec<u8> {
    GetResponse::Normal { invoke_id, result: Err(result) }.to_bytes()
}

fn block_response(outgoing: &Outgoing) -> Vec<u8> {
    let Outgoing { invoke_id, number, is_last, .. } = *outgoing;
    if outgoing.is_action {
        let block = Block { last: is_last, number, raw: &outgoing.current };
        return ActionResponse::Block { invoke_id, block }.to_bytes();
    }
    let result = Ok(outgoing.current.as_slice());
    GetResponse::Block { invoke_id, last: is_last, block_number: number, result }.to_bytes()
}

fn block_error(invoke_id: InvokeId, number: u32, is_action: bool, result: DataAccessResult) -> Vec<u8> {
    if is_action {
        let outcome = ActionOutcome { result: ActionResult::DataBlockUnavailable, returned: None };
        return ActionResponse::Normal { invoke_id, outcome }.to_bytes();
    }
    GetResponse::Block { invoke_id, last: true, block_number: number, result: Err(result) }.to_bytes()
}
