//! A request on its way: what is still to be sent, and what has come of the answer.

use alloc::vec::Vec;

use gridseal_types::Tick;

use super::{
    AccessItem, AccessReply, ActionOutcomeOwned, Client, ClientError, Event, Failure, Refusal, Request,
    Response,
};
use crate::{
    acse::Conformance,
    apdu::{
        access::{AccessRequest, AccessResponse, AccessSpecification},
        action::{ActionOutcome, ActionRequest, ActionResponse},
        exception::ExceptionResponse,
        get::{GetRequest, GetResponse},
        notification::LongInvokeId,
        reference::{AttributeId, InvokeId, MethodId},
        result::{ActionResult, DataAccessResult, decode_get_result},
        set::{Block, SetRequest, SetResponse},
        tag,
    },
    assoc::table::{ClientEvent, ClientState},
    wire::{Data, Reader},
};

/// Most items of a list: their count fits into one octet.
const ITEMS_MAX: usize = 255;
/// Bytes of a request block around its data: last, number, length.
const BLOCK_HEADER: usize = 8;

/// A request on its way.
#[derive(Debug)]
pub(super) struct Exchange {
    request: Request,
    invoke_id: InvokeId,
    long_invoke_id: LongInvokeId,
    /// Encoded values that go in blocks, and how many bytes and blocks of them were sent.
    outgoing: Option<Outgoing>,
    /// Blocks of the answer.
    incoming: Vec<u8>,
    blocks: u32,
}

#[derive(Debug)]
struct Outgoing {
    data: Vec<u8>,
    sent: usize,
    number: u32,
}

type Item = (AttributeId, Option<super::OwnedSelection>);

fn borrowed(item: &Item) -> (AttributeId, Option<crate::apdu::reference::Selection<'_>>) {
    (item.0, item.1.as_ref().map(super::OwnedSelection::borrow))
}

fn is_value(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    Data::skip(&mut reader).is_ok() && reader.left() == 0
}

impl Request {
    fn service(&self) -> Conformance {
        let list = Conformance::MULTIPLE_REFERENCES;
        match self {
            Self::Get(..) => Conformance::GET,
            Self::GetList(_) => Conformance::GET | list,
            Self::Set(..) => Conformance::SET,
            Self::SetList(_) => Conformance::SET | list,
            Self::Action(..) => Conformance::ACTION,
            Self::ActionList(_) => Conformance::ACTION | list,
            Self::Access(_) => Conformance::ACCESS,
        }
    }

    fn is_valid(&self) -> bool {
        let counted = |count| (1..=ITEMS_MAX).contains(&count);
        let optional = |value: &Option<Vec<u8>>| value.as_deref().is_none_or(is_value);
        match self {
            Self::Get(..) => true,
            Self::GetList(items) => counted(items.len()),
            Self::Set(_, _, value) => is_value(value),
            Self::SetList(items) => counted(items.len()) && items.iter().all(|item| is_value(&item.2)),
            Self::Action(_, parameters) => optional(parameters),
            Self::ActionList(items) => counted(items.len()) && items.iter().all(|item| optional(&item.1)),
            Self::Access(items) => {
                counted(items.len())
                    && items.iter().all(|item| match item {
                        AccessItem::Get(..) => true,
                        AccessItem::Set(_, _, value) => is_value(value),
                        AccessItem::Action(_, parameters) => optional(parameters),
                    })
            }
        }
    }

    fn to_apdu(&self, invoke_id: InvokeId, long_invoke_id: LongInvokeId) -> Vec<u8> {
        let null = Data::Null.to_bytes();
        let or_null = |value: &'_ Option<Vec<u8>>| value.clone().unwrap_or_else(|| null.clone());
        match self {
            Self::Get(attribute, selection) => {
                let selection = selection.as_ref().map(super::OwnedSelection::borrow);
                GetRequest::Normal { invoke_id, attribute: *attribute, selection }.to_bytes()
            }
            Self::GetList(items) => {
                GetRequest::List { invoke_id, items: items.iter().map(borrowed).collect() }.to_bytes()
            }
            Self::Set(attribute, selection, value) => {
                let selection = selection.as_ref().map(super::OwnedSelection::borrow);
                SetRequest::Normal { invoke_id, attribute: *attribute, selection, value }.to_bytes()
            }
            Self::SetList(items) => SetRequest::List {
                invoke_id,
                items: items
                    .iter()
                    .map(|(at, selection, _)| (*at, selection.as_ref().map(super::OwnedSelection::borrow)))
                    .collect(),
                values: items.iter().map(|(_, _, value)| value.as_slice()).collect(),
            }
            .to_bytes(),
            Self::Action(method, parameters) => {
                let parameters = parameters.as_deref();
                ActionRequest::Normal { invoke_id, method: *method, parameters }.to_bytes()
            }
            Self::ActionList(items) => {
                let parameters: Vec<_> = items.iter().map(|(_, parameters)| or_null(parameters)).collect();
                ActionRequest::List {
                    invoke_id,
                    methods: items.iter().map(|(method, _)| *method).collect(),
                    parameters: parameters.iter().map(Vec::as_slice).collect(),
                }
                .to_bytes()
            }
            Self::Access(items) => access_request(items, long_invoke_id),
        }
    }

    /// What goes in blocks when the request is too large: the encoded value, or count and values.
    fn block_data(&self) -> Option<Vec<u8>> {
        let list = |values: Vec<Vec<u8>>| {
            let count = u8::try_from(values.len()).ok().filter(|count| *count < 0x80);
            let mut head = count.map_or_else(
                || [0x81, u8::try_from(values.len()).unwrap_or(u8::MAX)].to_vec(),
                |count| [count].to_vec(),
            );
            head.extend(values.concat());
            head
        };
        let null = Data::Null.to_bytes();
        match self {
            Self::Set(_, _, value) => Some(value.clone()),
            Self::SetList(items) => Some(list(items.iter().map(|item| item.2.clone()).collect())),
            Self::Action(_, parameters) => parameters.clone(),
            Self::ActionList(items) => {
                let value = |item: &(MethodId, Option<Vec<u8>>)| item.1.clone().unwrap_or(null.clone());
                Some(list(items.iter().map(value).collect()))
            }
            Self::Get(..) | Self::GetList(_) | Self::Access(_) => None,
        }
    }

    const fn block_service(&self) -> Conformance {
        match self {
            Self::Action(..) | Self::ActionList(_) => Conformance::BLOCK_ACTION,
            _ => Conformance::BLOCK_SET,
        }
    }

    fn first_block(&self, invoke_id: InvokeId, block: Block<'_>) -> Option<Vec<u8>> {
        Some(match self {
            Self::Set(attribute, selection, _) => {
                let selection = selection.as_ref().map(super::OwnedSelection::borrow);
                SetRequest::FirstBlock { invoke_id, attribute: *attribute, selection, block }.to_bytes()
            }
            Self::SetList(items) => {
                let items = items
                    .iter()
                    .map(|(at, selection, _)| (*at, selection.as_ref().map(super::OwnedSelection::borrow)))
                    .collect();
                SetRequest::FirstBlockList { invoke_id, items, block }.to_bytes()
            }
            Self::Action(method, _) => {
                ActionRequest::FirstBlock { invoke_id, method: *method, block }.to_bytes()
            }
            Self::ActionList(items) => {
                let methods = items.iter().map(|(method, _)| *method).collect();
                ActionRequest::FirstBlockList { invoke_id, methods, block }.to_bytes()
            }
            Self::Get(..) | Self::GetList(_) | Self::Access(_) => return None,
        })
    }
}

fn access_request(items: &[AccessItem], long_invoke_id: LongInvokeId) -> Vec<u8> {
    let null = Data::Null.to_bytes();
    let borrow = |selection: &'_ Option<super::OwnedSelection>| selection.clone();
    let selections: Vec<_> = items
        .iter()
        .map(|item| match item {
            AccessItem::Get(_, selection) | AccessItem::Set(_, selection, _) => borrow(selection),
            AccessItem::Action(..) => None,
        })
        .collect();
    let specifications = items.iter().zip(&selections).map(|(item, selection)| {
        let selection = selection.as_ref().map(super::OwnedSelection::borrow);
        match item {
            AccessItem::Get(attribute, _) => AccessSpecification::Get(*attribute, selection),
            AccessItem::Set(attribute, _, _) => AccessSpecification::Set(*attribute, selection),
            AccessItem::Action(method, _) => AccessSpecification::Action(*method),
        }
    });
    let values = items.iter().map(|item| match item {
        AccessItem::Get(..) | AccessItem::Action(_, None) => null.as_slice(),
        AccessItem::Set(_, _, value) | AccessItem::Action(_, Some(value)) => value.as_slice(),
    });
    AccessRequest {
        long_invoke_id,
        date_time: None,
        specifications: specifications.collect(),
        values: values.collect(),
    }
    .to_bytes()
}

impl Client {
    pub(super) fn request(&mut self, now: Tick, request: Request) -> Result<(), ClientError> {
        if self.state != ClientState::Associated {
            return Err(ClientError::State);
        }
        if !self.session.conformance.has(request.service()) {
            return Err(ClientError::Service);
        }
        if !request.is_valid() {
            return Err(ClientError::Form);
        }
        self.advance(ClientEvent::Request)?;
        self.invoke_id = self.invoke_id.wrapping_add(1) & 0x0F;
        let invoke_id = InvokeId::confirmed(self.invoke_id);
        let long_invoke_id = LongInvokeId::confirmed(u32::from(self.invoke_id));
        let plain = request.to_apdu(invoke_id, long_invoke_id);
        let exchange =
            Exchange { request, invoke_id, long_invoke_id, outgoing: None, incoming: Vec::new(), blocks: 0 };
        let exchange = self.exchange.insert(exchange);
        let goes_in_blocks = self.session.conformance.has(exchange.request.block_service());
        if plain.len() > self.request_size_max() && goes_in_blocks {
            let exchange = self.exchange.as_mut().map(|exchange| exchange.request.block_data());
            if let (Some(Some(data)), Some(exchange)) = (exchange, self.exchange.as_mut()) {
                exchange.outgoing = Some(Outgoing { data, sent: 0, number: 0 });
                self.next_request_block(now);
                return Ok(());
            }
        }
        self.protect(now, plain);
        Ok(())
    }

    fn next_request_block(&mut self, now: Tick) {
        let limit = self.request_size_max();
        let Some(Exchange { request, invoke_id, outgoing: Some(outgoing), .. }) = self.exchange.as_mut()
        else {
            return;
        };
        let number = outgoing.number.saturating_add(1);
        // The first block also names what is written or invoked.
        let head = if number == 1 {
            let empty = Block { last: false, number, raw: &[] };
            request.first_block(*invoke_id, empty).map_or(0, |apdu| apdu.len())
        } else {
            BLOCK_HEADER
        };
        let Some(size) = limit.checked_sub(head.saturating_add(BLOCK_HEADER)).filter(|size| *size > 0) else {
            return self.fail(Failure::TooLong);
        };
        let rest = outgoing.data.get(outgoing.sent..).unwrap_or_default();
        let raw = rest.get(..size).unwrap_or(rest);
        let block = Block { last: raw.len() == rest.len(), number, raw };
        let invoke_id = *invoke_id;
        let apdu = match (number, &request) {
            (1, request) => request.first_block(invoke_id, block),
            (_, Request::Action(..) | Request::ActionList(_)) => {
                Some(ActionRequest::Block { invoke_id, block }.to_bytes())
            }
            _ => Some(SetRequest::Block { invoke_id, block }.to_bytes()),
        };
        outgoing.sent = outgoing.sent.saturating_add(raw.len());
        outgoing.number = number;
        match apdu {
            Some(apdu) => self.protect(now, apdu),
            None => self.fail(Failure::TooLong),
        }
    }

    /// A plain APDU that was protected as it must be.
    pub(super) fn opened(&mut self, now: Tick, plain: &[u8]) {
        let first = plain.first().copied().unwrap_or_default();
        if super::is_notification(plain)
            && matches!(
                self.state,
                ClientState::Associated | ClientState::Requesting | ClientState::Releasing
            )
        {
            return self.event(Event::Notification(plain.to_vec()));
        }
        match (self.state, first) {
            (ClientState::Proving, tag::ACTION_RESPONSE) => self.server_replied(plain),
            (ClientState::Requesting, _) => {
                if let Err(refusal) = self.response(now, plain, first) {
                    self.ignore(refusal);
                }
            }
            _ => self.ignore(Refusal::Unexpected),
        }
    }

    fn response(&mut self, now: Tick, plain: &[u8], first: u8) -> Result<(), Refusal> {
        let exchange = self.exchange.as_ref().ok_or(Refusal::Unexpected)?;
        let same = |invoke_id: InvokeId| invoke_id.id() == exchange.invoke_id.id();
        match (first, &exchange.request) {
            (tag::GET_RESPONSE, Request::Get(..) | Request::GetList(_)) => {
                let response = GetResponse::from_bytes(plain)?;
                if !same(response.invoke_id()) {
                    return Err(Refusal::Unexpected);
                }
                self.get_response(now, response)
            }
            (tag::SET_RESPONSE, Request::Set(..) | Request::SetList(_)) => {
                let response = SetResponse::from_bytes(plain)?;
                if !same(response.invoke_id()) {
                    return Err(Refusal::Unexpected);
                }
                self.set_response(now, response)
            }
            (tag::ACTION_RESPONSE, Request::Action(..) | Request::ActionList(_)) => {
                let response = ActionResponse::from_bytes(plain)?;
                if !same(response.invoke_id()) {
                    return Err(Refusal::Unexpected);
                }
                self.action_response(now, response)
            }
            (tag::ACCESS_RESPONSE, Request::Access(items)) => {
                let response = AccessResponse::from_bytes(plain)?;
                let is_ours = response.long_invoke_id.id() == exchange.long_invoke_id.id()
                    && response.results.len() == items.len();
                if !is_ours {
                    return Err(Refusal::Unexpected);
                }
                let replies = response.results.iter().zip(&response.values);
                let replies =
                    replies.map(|(result, value)| AccessReply { result: *result, value: value.to_vec() });
                let replies = replies.collect();
                self.answer(Response::Access(replies));
                Ok(())
            }
            // This one was protected as a response must be, or nothing is.
            (tag::EXCEPTION_RESPONSE, _) => {
                let exception = ExceptionResponse::from_bytes(plain)?;
                self.answer(Response::Exception(exception));
                Ok(())
            }
            _ => Err(Refusal::Unexpected),
        }
    }

    fn answer(&mut self, response: Response) {
        self.finish();
        self.event(Event::Response(response));
    }

    fn item_count(&self) -> Option<usize> {
        match &self.exchange.as_ref()?.request {
            Request::GetList(items) => Some(items.len()),
            Request::SetList(items) => Some(items.len()),
            Request::ActionList(items) => Some(items.len()),
            _ => None,
        }
    }

    /// Whether blocks of the request are still to be sent.
    fn is_sending(&self) -> bool {
        let outgoing = self.exchange.as_ref().and_then(|exchange| exchange.outgoing.as_ref());
        outgoing.is_some_and(|outgoing| outgoing.sent < outgoing.data.len())
    }

    /// Whether blocks of the request are still to be sent, or blocks of the answer to come: only an error ends it here.
    fn is_midway(&self) -> bool {
        //= DLMS 5.8: an answer whose blocks are missing is none, and neither is one to a request that is not whole yet
        self.is_sending() || self.exchange.as_ref().is_some_and(|exchange| exchange.blocks > 0)
    }

    fn get_response(&mut self, now: Tick, response: GetResponse<'_>) -> Result<(), Refusal> {
        let is_midway = self.is_midway();
        match (response, self.item_count()) {
            (GetResponse::Normal { result: Ok(_), .. }, _) if is_midway => return Err(Refusal::Unexpected),
            (GetResponse::List { results, .. }, _) if is_midway && results.iter().any(Result::is_ok) => {
                return Err(Refusal::Unexpected);
            }
            (GetResponse::Normal { result, .. }, None) => {
                self.answer(Response::Get(result.map(<[u8]>::to_vec)));
            }
            // One error for the whole list: the server could not even begin.
            (GetResponse::Normal { result: Err(result), .. }, Some(count)) => {
                self.answer(Response::GetList((0..count).map(|_| Err(result)).collect()));
            }
            (GetResponse::List { results, .. }, Some(count)) if results.len() == count => {
                let results = results.into_iter().map(|result| result.map(<[u8]>::to_vec)).collect();
                self.answer(Response::GetList(results));
            }
            (GetResponse::Block { result: Err(result), .. }, None) => self.answer(Response::Get(Err(result))),
            (GetResponse::Block { result: Err(result), .. }, Some(count)) => {
                self.answer(Response::GetList((0..count).map(|_| Err(result)).collect()));
            }
            (GetResponse::Block { last, block_number, result: Ok(raw), .. }, count) => {
                if !self.take_block(now, last, block_number, raw)? {
                    return Ok(());
                }
                let whole = self.exchange.as_mut().map(|e| core::mem::take(&mut e.incoming));
                let whole = whole.unwrap_or_default();
                match count {
                    None if is_value(&whole) => self.answer(Response::Get(Ok(whole))),
                    None => self.fail(Failure::Blocks),
                    Some(count) => match list_of(&whole, count, |reader| {
                        Some(decode_get_result(reader).ok()?.map(<[u8]>::to_vec))
                    }) {
                        Some(results) => self.answer(Response::GetList(results)),
                        None => self.fail(Failure::Blocks),
                    },
                }
            }
            _ => return Err(Refusal::Unexpected),
        }
        Ok(())
    }

    /// Takes one block of an answer and asks for the next; true when it was the last.
    fn take_block(&mut self, now: Tick, last: bool, number: u32, raw: &[u8]) -> Result<bool, Refusal> {
        let limit = self.settings.assembled_size_max;
        let Some(exchange) = self.exchange.as_mut() else { return Err(Refusal::Unexpected) };
        //= DLMS 5.8: blocks of an answer follow one another
        if number != exchange.blocks.saturating_add(1) {
            return Err(Refusal::Unexpected);
        }
        // A block without data would go on for ever.
        let is_empty = raw.is_empty() && !last;
        if is_empty || exchange.incoming.len().saturating_add(raw.len()) > limit {
            self.fail(Failure::Blocks);
            return Ok(false);
        }
        exchange.incoming.extend_from_slice(raw);
        exchange.blocks = number;
        if last {
            return Ok(true);
        }
        let invoke_id = exchange.invoke_id;
        let next = match exchange.request {
            Request::Action(..) | Request::ActionList(_) => {
                ActionRequest::Next { invoke_id, block_number: number }.to_bytes()
            }
            _ => GetRequest::Next { invoke_id, block_number: number }.to_bytes(),
        };
        self.protect(now, next);
        Ok(false)
    }

    fn set_response(&mut self, now: Tick, response: SetResponse) -> Result<(), Refusal> {
        let is_midway = self.is_midway();
        match (response, self.item_count()) {
            (SetResponse::Normal { result, .. } | SetResponse::LastBlock { result, .. }, _)
                if is_midway && result == DataAccessResult::Success =>
            {
                return Err(Refusal::Unexpected);
            }
            (SetResponse::List { results, .. } | SetResponse::LastBlockList { results, .. }, _)
                if is_midway && results.contains(&DataAccessResult::Success) =>
            {
                return Err(Refusal::Unexpected);
            }
            (SetResponse::Normal { result, .. } | SetResponse::LastBlock { result, .. }, None) => {
                self.answer(Response::Set(result));
            }
            (SetResponse::Normal { result, .. } | SetResponse::LastBlock { result, .. }, Some(count)) => {
                self.answer(Response::SetList(alloc::vec![result; count]));
            }
            (SetResponse::List { results, .. } | SetResponse::LastBlockList { results, .. }, Some(count))
                if results.len() == count =>
            {
                self.answer(Response::SetList(results));
            }
            (SetResponse::Block { block_number, .. }, _) => self.block_confirmed(now, block_number)?,
            _ => return Err(Refusal::Unexpected),
        }
        Ok(())
    }

    /// The server took a block of the request: the next one follows.
    fn block_confirmed(&mut self, now: Tick, number: u32) -> Result<(), Refusal> {
        let is_ours = self
            .exchange
            .as_ref()
            .and_then(|exchange| exchange.outgoing.as_ref())
            .is_some_and(|outgoing| outgoing.number == number && outgoing.sent < outgoing.data.len());
        if !is_ours {
            return Err(Refusal::Unexpected);
        }
        self.next_request_block(now);
        Ok(())
    }

    fn action_response(&mut self, now: Tick, response: ActionResponse<'_>) -> Result<(), Refusal> {
        let is_midway = self.is_midway();
        match (response, self.item_count()) {
            (ActionResponse::Normal { outcome, .. }, _)
                if is_midway && outcome.result == ActionResult::Success =>
            {
                return Err(Refusal::Unexpected);
            }
            (ActionResponse::List { outcomes, .. }, _)
                if is_midway && outcomes.iter().any(|outcome| outcome.result == ActionResult::Success) =>
            {
                return Err(Refusal::Unexpected);
            }
            (ActionResponse::Block { .. }, _) if self.is_sending() => return Err(Refusal::Unexpected),
            (ActionResponse::Normal { outcome, .. }, None) => {
                self.answer(Response::Action(owned(&outcome)));
            }
            (ActionResponse::Normal { outcome, .. }, Some(count)) if outcome.returned.is_none() => {
                self.answer(Response::ActionList((0..count).map(|_| owned(&outcome)).collect()));
            }
            (ActionResponse::List { outcomes, .. }, Some(count)) if outcomes.len() == count => {
                self.answer(Response::ActionList(outcomes.iter().map(owned).collect()));
            }
            (ActionResponse::Next { block_number, .. }, _) => self.block_confirmed(now, block_number)?,
            (ActionResponse::Block { block, .. }, count) => {
                if !self.take_block(now, block.last, block.number, block.raw)? {
                    return Ok(());
                }
                let whole = self.exchange.as_mut().map(|e| core::mem::take(&mut e.incoming));
                let whole = whole.unwrap_or_default();
                let decode = |reader: &mut Reader<'_>| ActionOutcome::decode(reader).ok().map(|o| owned(&o));
                match count {
                    None => {
                        let mut reader = Reader::new(&whole);
                        match decode(&mut reader).filter(|_| reader.left() == 0) {
                            Some(outcome) => self.answer(Response::Action(outcome)),
                            None => self.fail(Failure::Blocks),
                        }
                    }
                    Some(count) => match list_of(&whole, count, decode) {
                        Some(outcomes) => self.answer(Response::ActionList(outcomes)),
                        None => self.fail(Failure::Blocks),
                    },
                }
            }
            _ => return Err(Refusal::Unexpected),
        }
        Ok(())
    }
}

fn owned(outcome: &ActionOutcome<'_>) -> ActionOutcomeOwned {
    let returned: Option<Result<Vec<u8>, DataAccessResult>> =
        outcome.returned.map(|returned| returned.map(<[u8]>::to_vec));
    ActionOutcomeOwned { result: outcome.result, returned }
}

/// `count | items`, exactly `expected` of them and nothing after them.
fn list_of<T>(
    bytes: &[u8],
    expected: usize,
    mut item: impl FnMut(&mut Reader<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let mut reader = Reader::new(bytes);
    if reader.length("list").ok()? != expected {
        return None;
    }
    let items = (0..expected).map(|_| item(&mut reader)).collect::<Option<_>>()?;
    (reader.left() == 0).then_some(items)
}
