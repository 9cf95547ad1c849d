//! What a process refused, on its own disk: one JSON object per line in `refusals.jsonl`, each with the hash of the line
//! before, so that a line that was taken out or changed shows.
//!
//! Bounded: a full file becomes `refusals.1.jsonl` in place of the one before it, and the chain goes on. Lines are not
//! flushed one by one: a flood must not cost a disk write each, and a power cut may take the last ones.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use gridseal_crypto::sha256;
use serde_json::{Map, Value};

/// Name of the file in the directory of the process.
pub const FILE: &str = "refusals.jsonl";
const OLDER_FILE: &str = "refusals.1.jsonl";
/// Size at which a file is put aside, bytes.
const SIZE_MAX: usize = 1024 * 1024;

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    file: File,
    size: usize,
    number: u64,
    before: [u8; 32],
}

impl Journal {
    /// Opens the journal of a directory; a line that a crash cut off is dropped.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE);
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let text = fs::read(&path)?;
        let size = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if size < text.len() {
            file.set_len(u64::try_from(size).map_err(io::Error::other)?)?;
        }
        let whole = text.get(..size).unwrap_or_default();
        let last = whole.split_inclusive(|byte| *byte == b'\n').next_back();
        let number = last
            .and_then(|line| serde_json::from_slice::<Value>(line).ok())
            .and_then(|line| line.get("number").and_then(Value::as_u64));
        let before = last.map_or([0; 32], |line| sha256(&[line]));
        file.flush()?;
        Ok(Self { dir: dir.to_path_buf(), file, size, number: number.unwrap_or(0), before })
    }

    /// Appends one line.
    pub fn append(&mut self, mut line: Map<String, Value>) -> io::Result<()> {
        self.number = self.number.saturating_add(1);
        line.insert("number".into(), self.number.into());
        line.insert("before".into(), hex::encode(self.before).into());
        let text = format!("{}\n", Value::Object(line));
        if self.size.saturating_add(text.len()) > SIZE_MAX {
            fs::rename(self.dir.join(FILE), self.dir.join(OLDER_FILE))?;
            self.file = OpenOptions::new().append(true).create(true).mode(0o600).open(self.dir.join(FILE))?;
            self.size = 0;
        }
        self.file.write_all(text.as_bytes())?;
        self.size = self.size.saturating_add(text.len());
        self.before = sha256(&[text.as_bytes()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(code: &str) -> Map<String, Value> {
        Map::from_iter([("code".to_owned(), Value::from(code))])
    }

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.split_inclusive('\n').map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_chained_across_restarts_and_a_torn_one_is_dropped() {
        let dir = std::env::temp_dir().join(format!("gridseal-journal-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Journal::open(&dir).unwrap().append(line("E_GRANT")).unwrap();
        let path = dir.join(FILE);
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"code\":\"E_").unwrap();
        let mut journal = Journal::open(&dir).unwrap();
        for _ in 0..2 {
            journal.append(line("E_NONCE")).unwrap();
        }
        let lines = lines(&path);
        assert_eq!(lines.len(), 3);
        for (number, pair) in lines.windows(2).enumerate() {
            let next: Value = serde_json::from_str(&pair[1]).unwrap();
            assert_eq!(next["before"], hex::encode(sha256(&[pair[0].as_bytes()])));
            assert_eq!(next["number"], number + 2);
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn two_files_hold_whatever_a_flood_leaves() {
        let dir = std::env::temp_dir().join(format!("gridseal-flood-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut journal = Journal::open(&dir).unwrap();
        let long = "x".repeat(100_000);
        for _ in 0..50 {
            journal.append(line(&long)).unwrap();
        }
        let size = |name| fs::metadata(dir.join(name)).unwrap().len();
        assert!(size(FILE) <= 1024 * 1024 && size(OLDER_FILE) <= 1024 * 1024);
        let older = lines(&dir.join(OLDER_FILE)).pop().unwrap();
        let first: Value = serde_json::from_str(&lines(&dir.join(FILE))[0]).unwrap();
        assert_eq!(first["before"], hex::encode(sha256(&[older.as_bytes()])));
        fs::remove_dir_all(&dir).unwrap();
    }
}
