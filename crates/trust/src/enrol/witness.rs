//! Witnesses of a manufacturer's log of voucher entries: they read the log whole, sign the heads of one list only, and so no
//! two owners are shown two logs.
//!
//! An owner names witnesses and how many of them must have signed the head that comes with a shipment. Two words of one
//! witness on two lists of one size are proof against it; two heads of one size are proof against the manufacturer.
//!
//! # Source
//! Onboarding specification, sections 7.8 and row A22: a log; the witnesses and their word are ours (ADR 35).

use alloc::vec::Vec;

use gridseal_crypto::{KeyError, PublicKey, Signer};
use gridseal_types::{Code, Digest, UtcTime};

use super::{
    cose::{Sign1, SignedType, key_id, sign},
    document::read_digest,
    voucher_log::{LogHead, VoucherLog},
    wire::{Read, Reader, encode},
};
use crate::audit::tree::Head;

/// Largest word of a witness in bytes.
pub const COSIGNATURE_SIZE_MAX: usize = 512;
/// Most logs that a witness follows.
const LOGS_MAX: usize = 1_024;

/// A word on a head: `{1: size, 2: root, 3: when, 4: id of the voucher key that signs the log}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cosigned {
    /// Which log.
    pub log: Digest,
    /// Size and root.
    pub head: Head,
    /// When the witness signed.
    pub at: UtcTime,
}

impl Cosigned {
    /// Signs.
    ///
    /// # Errors
    /// As given by the signer.
    pub fn sign<S: Signer<Error = KeyError>>(&self, signer: &S) -> Result<Vec<u8>, KeyError> {
        let payload = encode(|w| {
            w.map(4).key(1).uint(self.head.size).key(2).bytes(self.head.root.as_bytes());
            w.key(3).uint(self.at.0).key(4).bytes(self.log.as_bytes());
        });
        sign(signer, SignedType::Witness, &payload)
    }

    fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut size, mut root, mut at, mut log) = (None, None, None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => size = Some(r.uint(0..=u64::MAX)?),
                    2 => root = Some(read_digest(r)?),
                    3 => at = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                    4 => log = Some(read_digest(r)?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            let head = Head { size: r.required(size)?, root: r.required(root)? };
            Ok(Self { log: r.required(log)?, head, at: r.required(at)? })
        })
    }
}

/// Whom an owner believes to have read the logs, and how many of them it wants.
#[derive(Debug, Clone, Default)]
pub struct WitnessPolicy {
    /// Keys of witnesses.
    pub witnesses: Vec<PublicKey>,
    /// How many of them must have signed a head; 0 asks for none.
    pub required: usize,
}

impl WitnessPolicy {
    /// Checks that enough witnesses have signed this head. Words of others, and on other logs or sizes, count for nothing.
    /// Returns every head of this log that a witness of ours has signed: to be compared with what was seen.
    ///
    /// # Errors
    /// [`Code::Fork`] when a witness of ours has signed another list of this size: somebody is shown another log;
    /// [`Code::Voucher`] when too few have signed this one.
    pub fn check(&self, head: &LogHead, words: &[Vec<u8>]) -> Result<Vec<LogHead>, Code> {
        let mut signed_by = Vec::new();
        let mut seen = Vec::new();
        for word in words {
            let Some((witness, cosigned)) = self.verified(word).filter(|(_, word)| word.log == head.signer)
            else {
                continue;
            };
            if cosigned.head.size == head.head.size && cosigned.head != head.head {
                return Err(Code::Fork);
            }
            if cosigned.head == head.head && !signed_by.contains(&witness) {
                signed_by.push(witness);
            }
            seen.push(LogHead { signer: cosigned.log, head: cosigned.head, at: cosigned.at });
        }
        if signed_by.len() < self.required { Err(Code::Voucher) } else { Ok(seen) }
    }

    /// The word of one of our witnesses, and which one's it is.
    fn verified(&self, word: &[u8]) -> Option<(Digest, Cosigned)> {
        let signed = Sign1::decode(word).ok().filter(|_| word.len() <= COSIGNATURE_SIZE_MAX)?;
        let key = self.witnesses.iter().find(|key| key_id(key) == signed.key_id)?;
        if !signed.verify(SignedType::Witness, key) {
            return None;
        }
        Some((signed.key_id, Cosigned::decode(signed.payload).ok()?))
    }
}

/// What a witness has signed last of each log. To be durable before a word leaves (rule S2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Witnessed {
    heads: Vec<(Digest, Head)>,
}

impl Witnessed {
    /// Takes a log that was opened: it must continue what this witness has signed of it, and have no fork.
    ///
    /// # Errors
    /// [`Code::Rollback`] when it is shorter than what was signed; [`Code::Fork`] when it is another list, or two entries
    /// follow one element; [`Code::Busy`] when too many logs are followed.
    pub fn take(&mut self, head: &LogHead, log: &VoucherLog, now: UtcTime) -> Result<Cosigned, Code> {
        if log.is_forked() {
            return Err(Code::Fork);
        }
        let count = self.heads.len();
        match self.heads.iter_mut().find(|(id, _)| *id == head.signer) {
            Some((_, last)) => {
                if head.head.size < last.size {
                    return Err(Code::Rollback);
                }
                if log.head_at(last.size) != Some(*last) {
                    return Err(Code::Fork);
                }
                *last = head.head;
            }
            None if count >= LOGS_MAX => return Err(Code::Busy),
            None => self.heads.push((head.signer, head.head)),
        }
        Ok(Cosigned { log: head.signer, head: head.head, at: now })
    }

    /// Encoded form: `[* [log, size, root]]`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.list(&self.heads, |w, (log, head)| {
                w.array(3).bytes(log.as_bytes()).uint(head.size).bytes(head.root.as_bytes());
            });
        })
    }

    /// Decodes what a witness has kept.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        Reader::whole(bytes, |r| {
            let heads = r.list(0..=LOGS_MAX, |r| {
                r.array(3..=3, |r, _| {
                    let log = read_digest(r)?;
                    Ok((log, Head { size: r.uint(0..=u64::MAX)?, root: read_digest(r)? }))
                })
            })?;
            Ok(Self { heads })
        })
    }
}

/// A witness's word and its memory on any bytes: no panic, and what decodes encodes to what it was.
pub(super) fn fuzz_entry(bytes: &[u8]) {
    assert_eq!(Cosigned::decode(bytes), Cosigned::decode(bytes), "equal input gives equal output");
    if let Ok(kept) = Witnessed::decode(bytes) {
        assert_eq!(kept.encode(), bytes, "one form only");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrol::voucher_log::LogEntry;
    use gridseal_crypto::{Key, SigningKey, role::WitnessSigning};

    const NOW: UtcTime = UtcTime(9);

    fn witness(number: u8) -> SigningKey<WitnessSigning> {
        SigningKey::new(&Key::take(&mut [number; 32])).unwrap()
    }

    /// A log of so many entries; `other` makes another list.
    fn log(size: u8, other: u8) -> (LogHead, VoucherLog) {
        let entry = |number: u8| LogEntry {
            previous: Digest([number; 32]),
            entry: Digest([number ^ 0x80 ^ if number == size { other } else { 0 }; 32]),
        };
        let log = VoucherLog::new((1..=size).map(entry).collect());
        let head = log.head_at(u64::from(size)).unwrap();
        (LogHead { signer: Digest([7; 32]), head, at: NOW }, log)
    }

    fn word(number: u8, head: &LogHead) -> Vec<u8> {
        Cosigned { log: head.signer, head: head.head, at: NOW }.sign(&witness(number)).unwrap()
    }

    #[test]
    fn enough_different_witnesses_of_ours_have_signed_this_head_of_this_log() {
        let (head, _) = log(5, 0);
        let policy =
            WitnessPolicy { witnesses: [1, 2, 3].map(|number| witness(number).public()).into(), required: 2 };
        let check = |words: &[Vec<u8>]| policy.check(&head, words).map(|seen| seen.len());
        assert_eq!(check(&[word(1, &head), word(3, &head)]), Ok(2));
        assert_eq!(check(&[]), Err(Code::Voucher));
        assert_eq!(check(&[word(1, &head), word(1, &head)]), Err(Code::Voucher), "one witness twice");
        assert_eq!(check(&[word(1, &head), word(4, &head)]), Err(Code::Voucher), "a stranger");
        let (shorter, _) = log(4, 0);
        assert_eq!(check(&[word(1, &head), word(2, &shorter)]), Err(Code::Voucher), "another size");
        let elsewhere = LogHead { signer: Digest([8; 32]), ..head };
        assert_eq!(check(&[word(1, &head), word(2, &elsewhere)]), Err(Code::Voucher), "another log");
        let mut forged = word(2, &head);
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert_eq!(check(&[word(1, &head), forged]), Err(Code::Voucher));
        assert_eq!(WitnessPolicy::default().check(&head, &[]), Ok(Vec::new()), "none is asked for");
    }

    #[test]
    fn two_lists_of_one_size_are_found_by_whoever_has_both_words() {
        let (ours, _) = log(5, 0);
        let (others, _) = log(5, 1);
        assert_ne!(ours.head.root, others.head.root);
        let policy =
            WitnessPolicy { witnesses: [1, 2].map(|number| witness(number).public()).into(), required: 1 };
        assert_eq!(policy.check(&ours, &[word(1, &ours), word(2, &others)]), Err(Code::Fork));
        assert_eq!(policy.check(&others, &[word(1, &ours)]), Err(Code::Fork));
    }

    #[test]
    fn a_witness_signs_one_growing_list_without_a_fork() {
        let mut kept = Witnessed::default();
        let take = |kept: &mut Witnessed, (head, log): &(LogHead, VoucherLog)| {
            let word = kept.take(head, log, NOW).map(|word| word.head);
            *kept = Witnessed::decode(&kept.encode()).unwrap();
            word
        };
        let (short, long, other) = (log(3, 0), log(6, 0), log(6, 1));
        assert_eq!(take(&mut kept, &short), Ok(short.0.head));
        assert_eq!(take(&mut kept, &long), Ok(long.0.head));
        assert_eq!(take(&mut kept, &long), Ok(long.0.head), "the same once more");
        assert_eq!(take(&mut kept, &short), Err(Code::Rollback));
        assert_eq!(take(&mut kept, &other), Err(Code::Fork), "another list of this size");
        let mut longer = other.1.clone();
        longer.append(LogEntry { previous: Digest([50; 32]), entry: Digest([51; 32]) }).unwrap();
        let head = LogHead { head: longer.head_at(7).unwrap(), ..other.0 };
        assert_eq!(take(&mut kept, &(head, longer)), Err(Code::Fork), "one that continues another");
        // A second sale of one device, though nothing before it was touched.
        let mut entries: Vec<LogEntry> = (1..=6)
            .map(|n: u8| LogEntry { previous: Digest([n; 32]), entry: Digest([n ^ 0x80; 32]) })
            .collect();
        entries.push(LogEntry { previous: Digest([2; 32]), entry: Digest([99; 32]) });
        let sold_twice = VoucherLog::new(entries);
        let head = LogHead { head: sold_twice.head_at(7).unwrap(), ..long.0 };
        assert_eq!(take(&mut kept, &(head, sold_twice)), Err(Code::Fork));
        assert_eq!(kept.heads, [(Digest([7; 32]), long.0.head)], "a refusal changes nothing");
        // Another manufacturer's log is another list.
        let apart = LogHead { signer: Digest([8; 32]), ..other.0 };
        assert_eq!(take(&mut kept, &(apart, other.1)), Ok(apart.head));
    }
}
