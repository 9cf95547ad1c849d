//! Nodes as they are made: a reader moves on, a node says what lay between.

use alloc::{string::String, vec::Vec};

use super::{NODES_MAX, Node, Scalar};
use crate::wire::{DecodeError, Reader, Rule};

/// The fields of one level, and how many more the whole tree may have.
#[derive(Debug)]
pub(super) struct Branch {
    nodes: Vec<Node>,
    room: usize,
}

/// What a field says and means.
pub(super) type Said = (Option<Scalar>, Option<String>);

pub(super) fn unsigned(value: impl Into<u64>) -> Said {
    (Some(Scalar::Unsigned(value.into())), None)
}

pub(super) fn named(value: impl Into<u64>, name: impl Into<String>) -> Said {
    (Some(Scalar::Unsigned(value.into())), Some(name.into()))
}

pub(super) fn octets(bytes: &[u8]) -> Said {
    (Some(Scalar::Octets(bytes.to_vec())), None)
}

pub(super) fn text(text: impl Into<String>) -> Said {
    (Some(Scalar::Text(text.into())), None)
}

impl Branch {
    pub(super) const fn new() -> Self {
        Self { nodes: Vec::new(), room: NODES_MAX }
    }

    pub(super) fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }

    /// Adds a field between two positions of a reader.
    pub(super) fn leaf(
        &mut self,
        field: &'static str,
        from: &Reader<'_>,
        to: &Reader<'_>,
        (value, meaning): Said,
    ) -> Result<(), DecodeError> {
        self.room = self.room.checked_sub(1).ok_or_else(|| full(from))?;
        let size = to.offset().saturating_sub(from.offset());
        let offset = from.offset();
        self.nodes.push(Node { field, offset, size, value, meaning, is_inner: false, children: Vec::new() });
        Ok(())
    }

    /// Adds a field that has fields inside; what was read of them stays when one is wrong.
    pub(super) fn group<'a>(
        &mut self,
        field: &'static str,
        reader: &mut Reader<'a>,
        inside: impl FnOnce(&mut Self, &mut Reader<'a>) -> Result<Said, DecodeError>,
    ) -> Result<(), DecodeError> {
        let from = reader.clone();
        let mut children =
            Self { nodes: Vec::new(), room: self.room.checked_sub(1).ok_or_else(|| full(&from))? };
        let outcome = inside(&mut children, reader);
        self.room = children.room;
        let (value, meaning) = outcome.clone().unwrap_or_default();
        let (offset, size) = (from.offset(), reader.offset().saturating_sub(from.offset()));
        let children = children.nodes;
        self.nodes.push(Node { field, offset, size, value, meaning, is_inner: false, children });
        outcome.map(drop)
    }

    /// Adds bytes that were not in the frame as they are, decrypted or put together; their fields count from 0.
    pub(super) fn inner(
        &mut self,
        field: &'static str,
        bytes: &[u8],
        said: Said,
        inside: impl FnOnce(&mut Self, &mut Reader<'_>),
    ) {
        let mut children = Self { nodes: Vec::new(), room: self.room.saturating_sub(1) };
        inside(&mut children, &mut Reader::new(bytes));
        self.room = children.room;
        let (value, meaning) = said;
        let children = children.nodes;
        self.nodes.push(Node {
            field,
            offset: 0,
            size: bytes.len(),
            value,
            meaning,
            is_inner: true,
            children,
        });
    }

    /// Adds to what the last field means.
    pub(super) fn remark(&mut self, remark: impl Into<String>) {
        if let Some(last) = self.nodes.last_mut() {
            last.meaning = Some(remark.into());
        }
    }

    pub(super) fn u8(
        &mut self,
        field: &'static str,
        reader: &mut Reader<'_>,
        meaning: impl FnOnce(u8) -> Option<String>,
    ) -> Result<u8, DecodeError> {
        let from = reader.clone();
        let value = reader.u8(field)?;
        self.leaf(field, &from, reader, (Some(Scalar::Unsigned(value.into())), meaning(value)))?;
        Ok(value)
    }

    pub(super) fn u16(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Result<u16, DecodeError> {
        let from = reader.clone();
        let value = reader.u16(field)?;
        self.leaf(field, &from, reader, unsigned(value))?;
        Ok(value)
    }

    pub(super) fn u32(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
        let from = reader.clone();
        let value = reader.u32(field)?;
        self.leaf(field, &from, reader, unsigned(value))?;
        Ok(value)
    }

    /// Length and octets, one field.
    pub(super) fn prefixed<'a>(
        &mut self,
        field: &'static str,
        reader: &mut Reader<'a>,
    ) -> Result<&'a [u8], DecodeError> {
        let from = reader.clone();
        let bytes = reader.prefixed(field)?;
        self.leaf(field, &from, reader, octets(bytes))?;
        Ok(bytes)
    }

    /// An octet 00 or 01 that says whether something follows.
    pub(super) fn present(
        &mut self,
        field: &'static str,
        reader: &mut Reader<'_>,
    ) -> Result<bool, DecodeError> {
        let from = reader.clone();
        let is_there = match reader.u8(field)? {
            0 => false,
            1 => true,
            tag => return Err(from.fail(field, Rule::Tag { tag })),
        };
        let meaning = if is_there { "present" } else { "absent" };
        self.leaf(field, &from, reader, named(u8::from(is_there), meaning))?;
        Ok(is_there)
    }
}

fn full(at: &Reader<'_>) -> DecodeError {
    at.fail("tree", Rule::TooLong { found: NODES_MAX.saturating_add(1), limit: NODES_MAX })
}
