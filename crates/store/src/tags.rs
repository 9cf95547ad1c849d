//! Authenticated rows: every row carries an HMAC over its table, key and value, and the writer's row the sum of all these
//! tags. A row that was changed or moved to another key is found when it is read; one that was put back to an older
//! state, deleted or added is found when the database is claimed, because the sum does not fit any more. An older state
//! of the whole is for the marker to find (module `fence`).
//!
//! The sum is over integers modulo 2^256: adding a row and taking it away need no look at the others. Without the key
//! its terms are random numbers to whoever changes the database.

use std::{collections::BTreeMap, fmt::Write as _};

use gridseal_crypto::{
    Key, ct_eq,
    role::{Dek, RecordTag},
};
use gridseal_types::records::{RecordsError, Table, Write};

use crate::fence::{ClaimError, Position, WRITER};

const LABEL: &[u8] = b"gs-records-v1";
/// Rows looked at in one go.
const PAGE: usize = 256;

/// The key under which a service authenticates its records, from its data key.
#[must_use]
pub fn record_tag_key(dek: &Key<Dek, 32>) -> Key<RecordTag, 32> {
    dek.derive(&[LABEL])
}

/// HMAC-SHA-256 of a row.
pub(crate) type Tag = [u8; 32];
/// Key, value and tag of a row that was not checked yet.
pub(crate) type Unchecked = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// A row as it is stored, its table by name.
#[derive(Debug)]
pub(crate) struct StoredRow {
    pub(crate) table: String,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) tag: Option<Vec<u8>>,
}

/// What a database offers below the records, within its transaction.
pub(crate) trait Stored {
    /// The rows above table and key, ascending.
    fn page(&self, above: (&str, &[u8]), limit: usize) -> Result<Vec<StoredRow>, RecordsError>;

    /// The row of the writer, unchecked.
    fn writer_row(&self) -> Result<Option<StoredRow>, RecordsError>;

    /// The tags that rows have, in the order of their places.
    fn tags(&self, places: &[(Table, &[u8])]) -> Result<Vec<Option<Tag>>, RecordsError>;

    /// Sets the tags of rows that are there.
    fn set_tags(&self, rows: &[(StoredRow, Tag)]) -> Result<(), RecordsError>;
}

/// A change with the tag of its row.
#[derive(Debug)]
pub(crate) struct Tagged {
    pub(crate) table: Table,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) tag: Option<Tag>,
}

/// Sum of tags modulo 2^256, lowest word first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(crate) struct Sum(#[n(0)] [u64; 4]);

impl Sum {
    fn add(&mut self, tag: &Tag) {
        let mut carry = false;
        for (word, add) in self.0.iter_mut().zip(words(tag)) {
            let (sum, first) = word.overflowing_add(add);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*word, carry) = (sum, first || second);
        }
    }

    fn subtract(&mut self, tag: &Tag) {
        let mut borrow = false;
        for (word, subtract) in self.0.iter_mut().zip(words(tag)) {
            let (rest, first) = word.overflowing_sub(subtract);
            let (rest, second) = rest.overflowing_sub(u64::from(borrow));
            (*word, borrow) = (rest, first || second);
        }
    }
}

fn words(tag: &Tag) -> impl Iterator<Item = u64> {
    tag.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word))
}

/// The key of a store's tags.
#[derive(Debug)]
pub(crate) struct RowTags(pub(crate) Key<RecordTag, 32>);

impl RowTags {
    fn of(&self, table: &str, key: &[u8], value: &[u8]) -> Tag {
        let size = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes();
        self.0.mac(&[&size(table.as_bytes()), table.as_bytes(), &size(key), key, value])
    }

    /// Whether a row is what was written under its key.
    pub(crate) fn check(
        &self,
        table: &str,
        key: &[u8],
        value: &[u8],
        tag: Option<&[u8]>,
    ) -> Result<(), RecordsError> {
        if tag.is_some_and(|tag| ct_eq(tag, &self.of(table, key, value))) {
            return Ok(());
        }
        tracing::error!(code = RecordsError::Damaged.code(), table, "row does not have its tag");
        Err(RecordsError::Damaged)
    }

    /// Checks all rows, and returns their sum.
    pub(crate) fn check_all(&self, store: &impl Stored) -> Result<Sum, ClaimError> {
        let mut sum = Sum::default();
        for_each_page(store, |rows| {
            for StoredRow { table, key, value, tag } in rows {
                let tag = tag.as_deref().and_then(|tag| <&Tag>::try_from(tag).ok());
                if self.check(&table, &key, &value, tag.map(<[u8; 32]>::as_slice)).is_err() {
                    return Err(ClaimError::Damaged { table, key: hex_of(&key) });
                }
                if let Some(tag) = tag.filter(|_| table != WRITER) {
                    sum.add(tag);
                }
            }
            Ok(())
        })?;
        Ok(sum)
    }

    /// Tags all rows as they are, and returns their sum.
    pub(crate) fn adopt(&self, store: &impl Stored) -> Result<Sum, RecordsError> {
        let mut sum = Sum::default();
        for_each_page(store, |rows| {
            let tagged = rows.into_iter().map(|row| {
                let tag = self.of(&row.table, &row.key, &row.value);
                if row.table != WRITER {
                    sum.add(&tag);
                }
                (row, tag)
            });
            store.set_tags(&tagged.collect::<Vec<_>>())
        })?;
        Ok(sum)
    }
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Into memory this cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn for_each_page<E: From<RecordsError>>(
    store: &impl Stored,
    mut visit: impl FnMut(Vec<StoredRow>) -> Result<(), E>,
) -> Result<(), E> {
    let (mut table, mut key) = (String::new(), Vec::new());
    loop {
        let rows = store.page((&table, &key), PAGE)?;
        let Some(last) = rows.last() else { return Ok(()) };
        table.clone_from(&last.table);
        key.clone_from(&last.key);
        visit(rows)?;
    }
}

/// The changes of a transaction as they are stored: the last one of each key, each with its tag, and the row of the
/// writer, whose next position is given.
pub(crate) fn tagged(
    tags: Option<&RowTags>,
    writes: Vec<Write>,
    next: Option<Position>,
    store: &impl Stored,
) -> Result<Vec<Tagged>, RecordsError> {
    let last: BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>> =
        writes.into_iter().map(|write| ((write.table, write.key), write.value)).collect();
    let mut changes: Vec<Tagged> = last
        .into_iter()
        .map(|((table, key), value)| {
            let tag = tags.and_then(|tags| Some(tags.of(table, &key, value.as_deref()?)));
            Tagged { table, key, value, tag }
        })
        .collect();
    let Some(mut next) = next else { return Ok(changes) };
    if let (Some(tags), Some(sum)) = (tags, &mut next.sum) {
        let places: Vec<(Table, &[u8])> =
            changes.iter().map(|change| (change.table, change.key.as_slice())).collect();
        store.tags(&places)?.iter().flatten().for_each(|tag| sum.subtract(tag));
        changes.iter().filter_map(|change| change.tag.as_ref()).for_each(|tag| sum.add(tag));
        let row = next.row();
        let tag = row.value.as_deref().map(|value| tags.of(row.table, &row.key, value));
        changes.push(Tagged { table: row.table, key: row.key, value: row.value, tag });
    } else {
        let Write { table, key, value } = next.row();
        changes.push(Tagged { table, key, value, tag: None });
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_forgets_what_is_taken_away_in_any_order() {
        let tags = [[0xff; 32], [1; 32], core::array::from_fn(|index| (index as u8).wrapping_mul(9))];
        let mut sum = Sum::default();
        tags.iter().for_each(|tag| sum.add(tag));
        let mut other = Sum::default();
        tags.iter().rev().for_each(|tag| other.add(tag));
        assert_eq!(sum, other);
        [1, 0, 2].iter().for_each(|index: &usize| sum.subtract(&tags[*index]));
        assert_eq!(sum, Sum::default());
        sum.subtract(&[1; 32]);
        assert_ne!(sum, Sum::default());
        sum.add(&[1; 32]);
        assert_eq!(sum, Sum::default());
    }

    #[test]
    fn a_tag_tells_table_key_and_value_apart() {
        let tags = RowTags(Key::take(&mut [7; 32]));
        let tag = tags.of("ab", b"c", b"d");
        assert!(tags.check("ab", b"c", b"d", Some(&tag)).is_ok());
        for (table, key, value) in [
            ("a", b"bc".as_slice(), b"d".as_slice()),
            ("ab", b"", b"cd"),
            ("ab", b"cd", b""),
            ("ab", b"c", b"e"),
        ] {
            assert_eq!(tags.check(table, key, value, Some(&tag)), Err(RecordsError::Damaged));
        }
        assert_eq!(tags.check("ab", b"c", b"d", None), Err(RecordsError::Damaged));
        assert_eq!(tags.check("ab", b"c", b"d", Some(&tag[..31])), Err(RecordsError::Damaged));
    }
}
