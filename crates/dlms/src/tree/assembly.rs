//! Messages that came in parts.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{FaultCause, Route};

/// Largest message that is put together, bytes.
const SIZE_MAX: usize = 1 << 20;
/// Messages that may be in the making.
const ASSEMBLIES_MAX: usize = 64;

/// Which way of cutting a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cut {
    /// Segments of HDLC, numbered modulo 8.
    Hdlc,
    /// general-block-transfer.
    General,
    /// Blocks of a service, by the tag of the plain APDU.
    Service(u8),
}

/// One part.
pub(super) struct Part<'a> {
    pub(super) number: u32,
    pub(super) is_first: bool,
    pub(super) is_last: bool,
    pub(super) bytes: &'a [u8],
}

/// What became of a part.
pub(super) enum Put {
    /// The message is whole.
    Whole(Vec<u8>),
    /// More follow; bytes so far.
    Open(usize),
    /// It was there before.
    Repeated,
}

#[derive(Debug)]
struct Assembly {
    bytes: Vec<u8>,
    /// Number of the last part.
    last: u32,
}

#[derive(Debug, Default)]
pub(super) struct Assemblies(BTreeMap<(Route, Cut), Assembly>);

impl Assemblies {
    /// Messages in the making.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a message of this kind is in the making.
    pub(super) fn is_open(&self, route: Route, cut: Cut) -> bool {
        self.0.contains_key(&(route, cut))
    }

    /// Puts one part behind those that are there. A missing one ends the message: nothing is made up.
    pub(super) fn put(&mut self, route: Route, cut: Cut, part: &Part<'_>) -> Result<Put, FaultCause> {
        let key = (route, cut);
        if part.is_first {
            self.0.remove(&key);
            if self.0.len() >= ASSEMBLIES_MAX {
                self.0.clear();
            }
            self.0.insert(key, Assembly { bytes: Vec::new(), last: part.number });
        } else {
            let expected = self.0.get(&key).map(|so_far| next(cut, so_far.last));
            match (expected, self.0.get_mut(&key)) {
                (Some(expected), Some(so_far)) if expected == part.number => so_far.last = part.number,
                (_, Some(so_far)) if so_far.last == part.number => return Ok(Put::Repeated),
                (expected, _) => {
                    self.0.remove(&key);
                    return Err(FaultCause::Missing { found: part.number, expected: expected.unwrap_or(1) });
                }
            }
        }
        let Some(assembly) = self.0.get_mut(&key) else { return Ok(Put::Repeated) };
        if assembly.bytes.len().saturating_add(part.bytes.len()) > SIZE_MAX {
            self.0.remove(&key);
            return Err(FaultCause::TooLong { limit: SIZE_MAX });
        }
        assembly.bytes.extend_from_slice(part.bytes);
        let size = assembly.bytes.len();
        if !part.is_last {
            return Ok(Put::Open(size));
        }
        Ok(self.0.remove(&key).map_or(Put::Open(size), |whole| Put::Whole(whole.bytes)))
    }
}

const fn next(cut: Cut, number: u32) -> u32 {
    let next = number.wrapping_add(1);
    if matches!(cut, Cut::Hdlc) { next & 7 } else { next }
}
