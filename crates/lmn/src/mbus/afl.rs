//! Authentication and fragmentation layer (EN 13757-7, CI 90), and the re-assembly of fragments.

use alloc::{collections::BTreeMap, vec::Vec};

use gridseal_types::Tick;

use super::address::MeterAddress;
use crate::wire::{DecodeError, Reader, Rule};

/// CI field of the layer.
pub const CI: u8 = 0x90;
/// Longest authentication code, bytes.
pub const MAC_SIZE_MAX: usize = 16;
/// Longest re-assembled message, bytes.
pub const MESSAGE_SIZE_MAX: usize = 16_384;
/// Messages that may be in re-assembly at a time.
pub const PENDING_COUNT_MAX: usize = 64;
/// How long a message may wait for its next fragment, milliseconds.
pub const PENDING_MS_MAX: u64 = 30_000;

const FCL_RESERVED: u16 = 1 << 15 | 1 << 8;
const FCL_MORE: u16 = 1 << 14;
const FCL_MCL: u16 = 1 << 13;
const FCL_ML: u16 = 1 << 12;
const FCL_MCR: u16 = 1 << 11;
const FCL_MAC: u16 = 1 << 10;
const FCL_KI: u16 = 1 << 9;

const MCL_ML: u8 = 1 << 6;
const MCL_MCR: u8 = 1 << 5;
const MCL_KI: u8 = 1 << 4;

/// An authentication code as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac {
    bytes: [u8; MAC_SIZE_MAX],
    size: usize,
}

impl Mac {
    /// The first 16 bytes at most.
    #[must_use]
    pub fn new(sent: &[u8]) -> Self {
        let mut bytes = [0; MAC_SIZE_MAX];
        bytes.iter_mut().zip(sent).for_each(|(byte, sent)| *byte = *sent);
        Self { bytes, size: sent.len().min(MAC_SIZE_MAX) }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.size).unwrap_or_default()
    }
}

/// The layer of one frame, or of a re-assembled message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Afl {
    /// Fragmentation control field.
    pub fcl: u16,
    /// Message control field, first fragment only.
    pub mcl: Option<u8>,
    /// Key information: version in bits 15 to 8, derivation in 5 and 4, key id in 3 to 0.
    pub ki: Option<u16>,
    /// Message counter.
    pub mcr: Option<u32>,
    /// Authentication code.
    pub mac: Option<Mac>,
    /// Bytes of the whole message after this layer.
    pub ml: Option<u16>,
}

/// Size of the authentication code of a type (AT), `None` for types that are refused.
const fn mac_size(authentication: u8) -> Option<usize> {
    match authentication {
        0 => Some(0),
        3 => Some(2),
        4 => Some(4),
        5 => Some(8),
        6 => Some(12),
        7 => Some(16),
        _ => None,
    }
}

impl Afl {
    /// Fragment number; 0 for a message in one piece.
    #[must_use]
    pub const fn fragment(&self) -> u8 {
        let [low, _] = self.fcl.to_le_bytes();
        low
    }

    /// Whether further fragments follow.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.fcl & FCL_MORE != 0
    }

    /// Type of authentication (AT), 0 for none.
    #[must_use]
    pub fn authentication(&self) -> u8 {
        self.mcl.unwrap_or(0) & 0x0F
    }

    /// Bytes of the authentication code of this layer's type; 0 for a type that is refused.
    #[must_use]
    pub fn mac_size(&self) -> usize {
        mac_size(self.authentication()).unwrap_or(0)
    }

    /// Reads the layer.
    ///
    /// # Errors
    /// [`Rule::Unsupported`] for GMAC, [`Rule::Unknown`] for other types of authentication, [`Rule::Mismatch`] for
    /// lengths and presence bits that do not agree.
    ///
    /// # Source
    /// EN 13757-7; local network fact sheet, section 5.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        match reader.u8("CI field")? {
            CI => {}
            found => return Err(start.fail("CI field", Rule::Unknown { found: found.into() })),
        }
        let length = usize::from(reader.u8("AFL length")?);
        let at = reader.offset();
        let mut fields = Reader::at(reader.bytes("AFL", length)?, at);
        let control = fields.clone();
        let fcl = fields.u16_le("FCL")?;
        let has = |bit| fcl & bit != 0;
        // The authentication code does not cover this field: what must not be set is refused here.
        if fcl & FCL_RESERVED != 0 {
            return Err(control.fail("FCL", Rule::Unknown { found: fcl.into() }));
        }
        //= LMN 5: number 0 is a message in one piece, others belong to a message of several
        let is_only = fcl & 0xFF == 1 && !has(FCL_MORE);
        if is_only || (has(FCL_MORE) && fcl & 0xFF == 0) {
            return Err(control.fail("FCL", Rule::Mismatch { other: "the number of the fragment" }));
        }
        let mut afl = Self { fcl, ..Self::default() };
        let at_mcl = fields.clone();
        if has(FCL_MCL) {
            afl.mcl = Some(fields.u8("MCL")?);
        } else if has(FCL_KI) || has(FCL_MCR) || has(FCL_ML) {
            return Err(control.fail("FCL", Rule::Mismatch { other: "MCL, which is not present" }));
        }
        let size = match afl.authentication() {
            8 | 9 => return Err(at_mcl.fail("MCL", Rule::Unsupported { name: "AES-GMAC-128" })),
            authentication => mac_size(authentication)
                .ok_or_else(|| at_mcl.fail("MCL", Rule::Unknown { found: authentication.into() }))?,
        };
        if let Some(mcl) = afl.mcl {
            //= LMN 5: MCL bits must agree with what the FCL delivers
            let agree = (mcl & MCL_ML != 0) == has(FCL_ML)
                && (mcl & MCL_MCR != 0) == has(FCL_MCR)
                && (mcl & MCL_KI != 0) == has(FCL_KI)
                && (!has(FCL_MAC) || size > 0);
            if !agree {
                return Err(at_mcl.fail("MCL", Rule::Mismatch { other: "FCL" }));
            }
        }
        afl.ki = has(FCL_KI).then(|| fields.u16_le("KI")).transpose()?;
        afl.mcr = has(FCL_MCR).then(|| fields.u32_le("MCR")).transpose()?;
        if has(FCL_MAC) {
            let left = fields.left().saturating_sub(if has(FCL_ML) { 2 } else { 0 });
            let size = if afl.mcl.is_some() { size } else { left };
            if size == 0 || size > MAC_SIZE_MAX {
                return Err(fields.fail("MAC", Rule::LengthNotAllowed { found: size }));
            }
            afl.mac = Some(Mac::new(fields.bytes("MAC", size)?));
        }
        afl.ml = has(FCL_ML).then(|| fields.u16_le("ML")).transpose()?;
        fields.finish("AFL")?;
        Ok(afl)
    }

    /// The layer as sent, from its fields; the presence bits of the control fields are set to match them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let bit = |present: bool, bit: u16| if present { bit } else { 0 };
        let fcl = (self.fcl & (FCL_MORE | 0xFF))
            | bit(self.mcl.is_some(), FCL_MCL)
            | bit(self.ml.is_some(), FCL_ML)
            | bit(self.mcr.is_some(), FCL_MCR)
            | bit(self.mac.is_some(), FCL_MAC)
            | bit(self.ki.is_some(), FCL_KI);
        out.push(CI);
        let start = out.len();
        out.push(0);
        out.extend_from_slice(&fcl.to_le_bytes());
        out.extend(self.mcl);
        out.extend(self.ki.iter().flat_map(|ki| ki.to_le_bytes()));
        out.extend(self.mcr.iter().flat_map(|mcr| mcr.to_le_bytes()));
        out.extend(self.mac.iter().flat_map(|mac| mac.as_bytes().iter().copied()));
        out.extend(self.ml.iter().flat_map(|ml| ml.to_le_bytes()));
        let length = u8::try_from(out.len().saturating_sub(start).saturating_sub(1)).unwrap_or(u8::MAX);
        if let Some(place) = out.get_mut(start) {
            *place = length;
        }
    }

    /// What the authentication code covers before the message: `MCL || {KI} || {MCR} || {ML}`, and its size.
    ///
    /// Some open decoders leave KI and ML out; EN 13757-7:2018 has them in.
    #[must_use]
    pub fn covered(&self) -> ([u8; 9], usize) {
        //= LMN 5: MAC = CMAC(Kmac, MCL || {KI} || {MCR} || {ML} || message)
        let mut covered = [0; 9];
        let fields = self
            .mcl
            .into_iter()
            .chain(self.ki.into_iter().flat_map(u16::to_le_bytes))
            .chain(self.mcr.into_iter().flat_map(u32::to_le_bytes))
            .chain(self.ml.into_iter().flat_map(u16::to_le_bytes));
        let mut size = 0usize;
        covered.iter_mut().zip(fields).for_each(|(place, byte)| {
            *place = byte;
            size = size.saturating_add(1);
        });
        (covered, size)
    }
}

/// A fragment does not continue its message; the whole message is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FragmentError {
    /// A fragment out of turn: a gap, a repetition, or a first one missing.
    #[error("fragment {found} out of turn, {expected} was expected")]
    Sequence {
        /// Number found.
        found: u8,
        /// Number that was expected.
        expected: u16,
    },
    /// The message grows above its own announcement or the limit.
    #[error("message of fragments has {found} bytes, {limit} are allowed")]
    TooLong {
        /// Bytes.
        found: usize,
        /// Limit.
        limit: usize,
    },
    /// The message is not as long as its first fragment said.
    #[error("message of fragments ends after {found} bytes, {announced} were announced")]
    Length {
        /// Bytes.
        found: usize,
        /// Bytes announced.
        announced: usize,
    },
    /// A later fragment announces other control fields than the first.
    #[error("fragment changes the message's control fields")]
    Changed,
    /// Too many messages are waiting.
    #[error("{limit} messages are already waiting for fragments")]
    Full {
        /// Limit.
        limit: usize,
    },
}

impl FragmentError {
    /// Stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Sequence { .. } => "lmn.fragment_sequence",
            Self::TooLong { .. } => "lmn.too_long",
            Self::Length { .. } => "lmn.fragment_length",
            Self::Changed => "lmn.fragment_changed",
            Self::Full { .. } => "lmn.fragment_full",
        }
    }
}

struct Pending {
    afl: Afl,
    next: u16,
    bytes: Vec<u8>,
    deadline: u64,
}

/// Puts messages together from their fragments. At most [`PENDING_COUNT_MAX`] messages of at most
/// [`MESSAGE_SIZE_MAX`] bytes wait, each for at most [`PENDING_MS_MAX`] from one fragment to the next.
#[derive(Default)]
pub struct Reassembler {
    pending: BTreeMap<MeterAddress, Pending>,
}

impl core::fmt::Debug for Reassembler {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Reassembler[{} pending]", self.pending.len())
    }
}

impl Reassembler {
    /// Nothing pending.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Messages that wait for fragments.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Drops what waits for too long, and gives the senders whose message is lost.
    pub fn expire(&mut self, now: Tick) -> Vec<MeterAddress> {
        let expired: Vec<_> =
            self.pending.iter().filter(|(_, p)| p.deadline <= now.0).map(|(address, _)| *address).collect();
        expired.iter().for_each(|address| drop(self.pending.remove(address)));
        expired
    }

    /// Takes one fragment of `sender`. The whole message with its layer once the last fragment is there.
    ///
    /// # Errors
    /// [`FragmentError`]; the message of that sender is dropped, others are not touched. A new first fragment replaces
    /// a message that was waiting.
    pub fn push(
        &mut self,
        now: Tick,
        sender: MeterAddress,
        afl: &Afl,
        bytes: &[u8],
    ) -> Result<Option<(Afl, Vec<u8>)>, FragmentError> {
        self.expire(now);
        let deadline = now.0.saturating_add(PENDING_MS_MAX);
        let mut pending = match (afl.fragment(), self.pending.remove(&sender)) {
            (1, _) if self.pending.len() >= PENDING_COUNT_MAX => {
                return Err(FragmentError::Full { limit: PENDING_COUNT_MAX });
            }
            (1, _) => Pending { afl: *afl, next: 2, bytes: Vec::new(), deadline },
            (found, Some(mut pending)) if u16::from(found) == pending.next => {
                if afl.mcl.is_some() || afl.mcr.is_some() || afl.ki.is_some() || afl.ml.is_some() {
                    return Err(FragmentError::Changed);
                }
                pending.afl.mac = afl.mac.or(pending.afl.mac);
                //= LMN 5: fragments count 1, 2, 3 with no wrap
                pending.next = pending.next.saturating_add(1);
                pending
            }
            (found, waiting) => {
                let expected = waiting.map_or(1, |pending| pending.next);
                return Err(FragmentError::Sequence { found, expected });
            }
        };
        pending.bytes.extend_from_slice(bytes);
        pending.deadline = deadline;
        let limit = pending.afl.ml.map_or(MESSAGE_SIZE_MAX, |ml| usize::from(ml).min(MESSAGE_SIZE_MAX));
        if pending.bytes.len() > limit {
            return Err(FragmentError::TooLong { found: pending.bytes.len(), limit });
        }
        if afl.has_more() {
            self.pending.insert(sender, pending);
            return Ok(None);
        }
        if let Some(announced) = pending.afl.ml.map(usize::from)
            && announced != pending.bytes.len()
        {
            return Err(FragmentError::Length { found: pending.bytes.len(), announced });
        }
        Ok(Some((pending.afl, pending.bytes)))
    }
}

/// Cuts a message into fragments of at most `size` bytes each: layer and part, in order. `None` for more than 255.
#[must_use]
pub fn fragments<'a>(afl: &Afl, message: &'a [u8], size: usize) -> Option<Vec<(Afl, &'a [u8])>> {
    let parts: Vec<_> = message.chunks(size.max(1)).collect();
    let count = u8::try_from(parts.len()).ok()?;
    let cut = |(number, part): (u8, &'a [u8])| {
        let is_last = number == count;
        let fcl = if count == 1 { 0 } else { u16::from(number) | if is_last { 0 } else { FCL_MORE } };
        let mac = if is_last { afl.mac } else { None };
        let layer = if number == 1 { Afl { fcl, mac, ..*afl } } else { Afl { fcl, mac, ..Afl::default() } };
        (layer, part)
    };
    Some((1..=count).zip(parts).map(cut).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: MeterAddress = MeterAddress([1; 8]);

    fn whole() -> Afl {
        let ml = Some(100);
        let mac = Some(Mac::new(&[7; 8]));
        Afl { fcl: 0, mcl: Some(0x75), ki: Some(0x0100), mcr: Some(9), mac, ml }
    }

    fn encoded(afl: &Afl) -> Vec<u8> {
        let mut out = Vec::new();
        afl.encode(&mut out);
        out
    }

    #[test]
    fn all_fields_round_trip_in_their_fixed_order() {
        let bytes = encoded(&whole());
        let fixed = [0x90, 19, 0x00, 0x3E, 0x75, 0x00, 0x01, 9, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 100, 0];
        assert_eq!(bytes, fixed);
        let mut reader = Reader::new(&bytes);
        let afl = Afl::decode(&mut reader).unwrap();
        assert_eq!((encoded(&afl), reader.left()), (bytes.clone(), 0));
        for end in 0..bytes.len() {
            assert!(Afl::decode(&mut Reader::new(&bytes[..end])).is_err());
        }
    }

    //= LMN 5: MAC = CMAC(Kmac, MCL || {KI} || {MCR} || {ML} || message)
    #[test]
    fn the_code_covers_key_information_and_length_too() {
        let (covered, size) = whole().covered();
        assert_eq!(&covered[..size], [0x75, 0x00, 0x01, 9, 0, 0, 0, 100, 0]);
    }

    //= LMN 5: MCL bits must agree with what the FCL delivers
    #[test]
    fn control_fields_that_do_not_agree_and_unknown_authentication_are_refused() {
        let rule = |bytes: &[u8]| Afl::decode(&mut Reader::new(bytes)).unwrap_err().rule;
        assert_eq!(rule(&[0x90, 3, 0x00, 0x20, 0x25]), Rule::Mismatch { other: "FCL" });
        assert_eq!(
            rule(&[0x90, 11, 0x00, 0x24, 0x00, 1, 2, 3, 4, 5, 6, 7, 8]),
            Rule::Mismatch { other: "FCL" }
        );
        assert_eq!(
            rule(&[0x90, 6, 0x00, 0x08, 1, 2, 3, 4]),
            Rule::Mismatch { other: "MCL, which is not present" }
        );
        assert!(matches!(rule(&[0x90, 3, 0x00, 0x20, 0x08]), Rule::Unsupported { .. }));
        assert_eq!(rule(&[0x90, 3, 0x00, 0x20, 0x0F]), Rule::Unknown { found: 0x0F });
        assert_eq!(rule(&[0x90, 3, 0x00, 0x00, 0x00]), Rule::Trailing { count: 1 });
        assert_eq!(rule(&[0x90, 2, 0x00, 0x80]), Rule::Unknown { found: 0x8000 });
        assert_eq!(rule(&[0x90, 2, 0x00, 0x01]), Rule::Unknown { found: 0x0100 });
        assert!(matches!(rule(&[0x90, 2, 0x00, 0x40]), Rule::Mismatch { .. }));
        assert!(matches!(rule(&[0x90, 2, 0x01, 0x00]), Rule::Mismatch { .. }));
    }

    fn cut(size: usize) -> (Vec<u8>, Vec<(Afl, Vec<u8>)>) {
        let message: Vec<u8> = (0..100).collect();
        let parts = fragments(&whole(), &message, size).unwrap();
        let parts = parts.into_iter().map(|(afl, part)| (afl, part.to_vec())).collect();
        (message, parts)
    }

    #[test]
    fn fragments_in_order_give_the_message_and_its_layer() {
        for size in [1, 7, 33, 99] {
            let (message, parts) = cut(size);
            let mut reassembler = Reassembler::new();
            for (index, (afl, part)) in parts.iter().enumerate() {
                let again = Afl::decode(&mut Reader::new(&encoded(afl))).unwrap();
                let done = reassembler.push(Tick(0), SENDER, &again, part).unwrap();
                assert_eq!(done.is_some(), index + 1 == parts.len());
                if let Some((layer, bytes)) = done {
                    assert_eq!((layer.covered(), layer.mac), (whole().covered(), whole().mac));
                    assert_eq!(bytes, message);
                }
            }
            assert_eq!(reassembler.pending_count(), 0);
        }
    }

    #[test]
    fn a_gap_a_repetition_or_a_late_start_drops_the_message() {
        let (_, parts) = cut(30);
        for order in [&[0, 2][..], &[0, 1, 1], &[1], &[0, 1, 3]] {
            let mut reassembler = Reassembler::new();
            let results: Vec<_> = order
                .iter()
                .map(|index: &usize| reassembler.push(Tick(0), SENDER, &parts[*index].0, &parts[*index].1))
                .collect();
            assert!(matches!(results.last(), Some(Err(FragmentError::Sequence { .. }))), "{order:?}");
            assert_eq!(reassembler.pending_count(), 0);
        }
    }

    #[test]
    fn changed_control_fields_and_wrong_lengths_are_refused() {
        let (_, parts) = cut(60);
        let mut reassembler = Reassembler::new();
        let mut push = |afl: &Afl, bytes: &[u8]| reassembler.push(Tick(0), SENDER, afl, bytes);
        push(&parts[0].0, &parts[0].1).unwrap();
        let changed = Afl { mcl: Some(0x05), ..parts[1].0 };
        assert_eq!(push(&changed, &parts[1].1), Err(FragmentError::Changed));
        push(&parts[0].0, &parts[0].1).unwrap();
        assert_eq!(push(&parts[1].0, &[0; 41]), Err(FragmentError::TooLong { found: 101, limit: 100 }));
        push(&parts[0].0, &parts[0].1).unwrap();
        let short = Err(FragmentError::Length { found: 99, announced: 100 });
        assert_eq!(push(&parts[1].0, &[0; 39]), short);
    }

    #[test]
    fn waiting_messages_are_limited_in_number_size_and_time() {
        let first = Afl { fcl: FCL_MORE | 1, ..Afl::default() };
        let mut reassembler = Reassembler::new();
        let address = |number: usize| MeterAddress(u64::try_from(number).unwrap().to_le_bytes());
        for number in 0..PENDING_COUNT_MAX {
            reassembler.push(Tick(0), address(number), &first, &[0]).unwrap();
        }
        let full = Err(FragmentError::Full { limit: PENDING_COUNT_MAX });
        assert_eq!(reassembler.push(Tick(0), address(999), &first, &[0]), full);
        let mut last = Ok(None);
        for number in 2..=255 {
            let next = Afl { fcl: FCL_MORE | number, ..Afl::default() };
            last = reassembler.push(Tick(0), address(0), &next, &[0; 200]);
            if last.is_err() {
                break;
            }
        }
        assert!(matches!(last, Err(FragmentError::TooLong { limit: MESSAGE_SIZE_MAX, .. })));
        assert_eq!(reassembler.expire(Tick(PENDING_MS_MAX - 1)).len(), 0);
        assert_eq!(reassembler.expire(Tick(PENDING_MS_MAX)).len(), PENDING_COUNT_MAX - 1);
    }

    #[test]
    fn more_fragments_than_the_number_can_count_are_refused() {
        let mut reassembler = Reassembler::new();
        for number in 1..=255 {
            let afl = Afl { fcl: FCL_MORE | number, ..Afl::default() };
            reassembler.push(Tick(0), SENDER, &afl, &[0]).unwrap();
        }
        let wrapped = Afl::default();
        assert!(!matches!(reassembler.push(Tick(0), SENDER, &wrapped, &[0]), Ok(Some(_))));
        assert_eq!(fragments(&whole(), &[0; 256], 1), None);
    }
}
