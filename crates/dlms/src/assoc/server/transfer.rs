//! Long responses on their way out, long requests on their way in.

use alloc::{boxed::Box, vec::Vec};
use core::fmt;

use super::Shape;
use crate::{
    apdu::{
        reference::{AttributeId, InvokeId, MethodId, Selection},
        result::DataAccessResult,
    },
    assoc::{Value, ValueSource},
};

/// The block that was made last, and what is left.
pub(super) struct Outgoing {
    pub(super) invoke_id: InvokeId,
    /// How the request came: its other blocks are asked for alike.
    pub(super) shape: Shape,
    /// Whether an ACTION is answered, else a GET.
    pub(super) is_action: bool,
    /// Number of the block in `current`, from 1; 0 before the first.
    pub(super) number: u32,
    pub(super) current: Vec<u8>,
    pub(super) is_last: bool,
    buffer: Vec<u8>,
    source: Option<Box<dyn ValueSource>>,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Outgoing {
    pub(super) fn new((invoke_id, shape): (InvokeId, Shape), is_action: bool, value: Value) -> Self {
        let (buffer, source) = match value {
            Value::Encoded(bytes) => (bytes, None),
            Value::Stream(source) => (Vec::new(), Some(source)),
        };
        Self { invoke_id, shape, is_action, number: 0, current: Vec::new(), is_last: false, buffer, source }
    }

    /// Makes sure that more than `size` bytes are there, or all.
    fn fill(&mut self, size: usize) -> Result<(), DataAccessResult> {
        while let Some(source) = self.source.as_mut().filter(|_| self.buffer.len() <= size) {
            let before = self.buffer.len();
            let wanted = size.saturating_add(1).saturating_sub(before);
            let has_more = source.fill(wanted, &mut self.buffer)?;
            // A source that has more and gives nothing would never end.
            if !has_more || self.buffer.len() == before {
                self.source = None;
            }
        }
        Ok(())
    }

    /// The whole value when it has at most `size` bytes; what was read so far is kept otherwise.
    pub(super) fn whole(&mut self, size: usize) -> Result<Option<Vec<u8>>, DataAccessResult> {
        self.fill(size)?;
        Ok((self.buffer.len() <= size).then(|| core::mem::take(&mut self.buffer)))
    }

    /// Makes the next block, of at most `size` bytes.
    pub(super) fn next(&mut self, size: usize) -> Result<(), DataAccessResult> {
        self.fill(size)?;
        let rest = self.buffer.split_off(size.min(self.buffer.len()));
        self.current = core::mem::replace(&mut self.buffer, rest);
        self.number = self.number.saturating_add(1);
        self.is_last = self.buffer.is_empty() && self.source.is_none();
        Ok(())
    }
}

/// What a long request wants.
#[derive(Debug)]
pub(super) enum Purpose {
    Set(AttributeId, Option<OwnedSelection>),
    SetList(Vec<(AttributeId, Option<OwnedSelection>)>),
    Action(MethodId),
    ActionList(Vec<MethodId>),
}

impl Purpose {
    pub(super) const fn is_action(&self) -> bool {
        matches!(self, Self::Action(_) | Self::ActionList(_))
    }
}

/// Blocks of a request, in order.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) invoke_id: InvokeId,
    /// How the first block came: the others come alike.
    pub(super) shape: Shape,
    pub(super) purpose: Purpose,
    /// Number of the last block, from 1.
    pub(super) number: u32,
    pub(super) data: Vec<u8>,
}

impl Incoming {
    pub(super) const fn new((invoke_id, shape): (InvokeId, Shape), purpose: Purpose) -> Self {
        Self { invoke_id, shape, purpose, number: 0, data: Vec::new() }
    }
}

/// A selection that outlives its APDU.
#[derive(Debug, Clone)]
pub(super) struct OwnedSelection {
    selector: u8,
    parameter: Vec<u8>,
}

impl OwnedSelection {
    pub(super) fn of(selection: Selection<'_>) -> Self {
        Self { selector: selection.selector, parameter: selection.parameter.to_vec() }
    }

    pub(super) fn borrow(&self) -> Selection<'_> {
        Selection { selector: self.selector, parameter: &self.parameter }
    }
}
