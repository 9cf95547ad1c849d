//! Search for key values in memory and files: raw, hex, base64 (rule S4).

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, Result};

/// Keys by role, in hex.
pub type Inventory = BTreeMap<String, Vec<String>>;

/// A spelling of a key: where to find it in the inventory.
#[derive(Debug, Clone)]
struct Pattern {
    bytes: Vec<u8>,
    role: String,
    spelling: &'static str,
}

/// Finds any of many keys in one pass.
pub struct Search {
    /// Whether a pattern starts with these two bytes: rules out nearly every place at the cost of one look.
    starts: Vec<bool>,
    by_head: HashMap<[u8; 8], Vec<usize>>,
    patterns: Vec<Pattern>,
    keys: usize,
}

/// One find.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Found {
    /// Role of the key.
    pub role: String,
    /// How it was spelled.
    pub spelling: &'static str,
    /// Where.
    pub place: String,
}

impl Search {
    /// A search for these keys in every spelling.
    pub fn new(inventory: &Inventory) -> Result<Self> {
        let mut patterns = Vec::new();
        let mut keys = 0;
        for (role, values) in inventory {
            for value in values {
                keys += 1;
                let raw = hex::decode(value).with_context(|| format!("inventory of {role} is not hex"))?;
                let mut add = |bytes: Vec<u8>, spelling| {
                    patterns.push(Pattern { bytes, role: role.clone(), spelling });
                };
                add(raw.clone(), "raw");
                add(value.to_ascii_lowercase().into_bytes(), "hex");
                add(value.to_ascii_uppercase().into_bytes(), "HEX");
                for shift in 0..3 {
                    add(base64_core(&raw, shift), "base64");
                }
            }
        }
        let mut by_head: HashMap<[u8; 8], Vec<usize>> = HashMap::new();
        let mut starts = vec![false; 1 << 16];
        for (at, pattern) in patterns.iter().enumerate() {
            let head = pattern.bytes.first_chunk::<8>().context("key is too short to search for")?;
            by_head.entry(*head).or_default().push(at);
            starts[start(head)] = true;
        }
        Ok(Self { starts, by_head, patterns, keys })
    }

    /// Number of keys.
    pub const fn key_count(&self) -> usize {
        self.keys
    }

    /// Searches one piece of memory or file.
    pub fn bytes(&self, place: &str, bytes: &[u8], found: &mut Vec<Found>) {
        for (at, head) in bytes.windows(8).enumerate() {
            if !self.starts[start(head)] {
                continue;
            }
            let Ok(head) = <[u8; 8]>::try_from(head) else { continue };
            for pattern in
                self.by_head.get(&head).into_iter().flatten().filter_map(|at| self.patterns.get(*at))
            {
                if bytes.get(at..).is_some_and(|rest| rest.starts_with(&pattern.bytes)) {
                    found.push(Found {
                        role: pattern.role.clone(),
                        spelling: pattern.spelling,
                        place: place.into(),
                    });
                }
            }
        }
    }

    /// Searches all files below a directory.
    pub fn files(&self, dir: &Path, found: &mut Vec<Found>) -> Result<u64> {
        let mut searched = 0;
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                searched += self.files(&path, found)?;
            } else if path.is_file() {
                let bytes = std::fs::read(&path)?;
                searched += u64::try_from(bytes.len())?;
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                self.bytes(&format!("file {name}"), &bytes, found);
            }
        }
        Ok(searched)
    }

    /// Searches the writable memory of a running process.
    pub fn memory(&self, process: u32, found: &mut Vec<Found>) -> Result<u64> {
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
        let mut memory = File::open(format!("/proc/{process}/mem"))?;
        let mut searched = 0;
        for line in
            maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw")))
        {
            let Some((start, end)) = line.split(' ').next().and_then(|range| range.split_once('-')) else {
                continue;
            };
            let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
            let mut bytes = vec![0; usize::try_from(end - start)?];
            memory.seek(SeekFrom::Start(start))?;
            // A region may vanish or be unreadable while we look.
            let Ok(count) = memory.read(&mut bytes) else { continue };
            searched += u64::try_from(count)?;
            bytes.truncate(count);
            self.bytes("memory", &bytes, found);
        }
        Ok(searched)
    }
}

/// The first two bytes as a number.
fn start(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// The part of a base64 text that does not depend on what stands around the key, when it starts `shift` bytes into a
/// group of three.
fn base64_core(raw: &[u8], shift: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let skip = (3 - shift) % 3;
    let aligned = raw.get(skip..).unwrap_or_default();
    let mut text = Vec::new();
    for group in aligned.chunks_exact(3) {
        let value = group.iter().fold(0usize, |value, byte| (value << 8) | usize::from(*byte));
        for bits in [18, 12, 6, 0] {
            text.push(ALPHABET[(value >> bits) & 63]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search() -> Search {
        let key: Vec<u8> = (0..16).map(|byte| byte * 7 + 3).collect();
        Search::new(&BTreeMap::from([("Guek".to_owned(), vec![hex::encode(key)])])).unwrap()
    }

    fn finds(bytes: &[u8]) -> Vec<&'static str> {
        let mut found = Vec::new();
        search().bytes("here", bytes, &mut found);
        found.into_iter().map(|found| found.spelling).collect()
    }

    #[test]
    fn every_spelling_is_found_at_any_place_and_nothing_else_is() {
        let key: Vec<u8> = (0..16).map(|byte| byte * 7 + 3).collect();
        let around = |text: &[u8]| [b"before".as_slice(), text, b"after"].concat();
        assert_eq!(finds(&around(&key)), ["raw"]);
        assert_eq!(finds(&around(hex::encode(&key).as_bytes())), ["hex"]);
        assert_eq!(finds(&around(hex::encode_upper(&key).as_bytes())), ["HEX"]);
        for shift in 0..3 {
            let mut padded = vec![0x55; shift];
            padded.extend_from_slice(&key);
            padded.extend_from_slice(&[0x55; 3]);
            let text = base64_core(&padded, 0);
            assert!(finds(&around(&text)).contains(&"base64"), "shift {shift}");
        }
        assert!(finds(&around(&key[..15])).is_empty());
    }
}
