use super::*;
use crate::audit::{AUDIT, append, end, verify_chain};
use gridseal_types::records::{Commit, MemoryRecords};

fn item(number: u32) -> Item {
    Item {
        operation: 2,
        system_title: SystemTitle([7; 8]),
        version: 3,
        counter: number,
        verdict: 1,
        tag: [number as u8; 8],
    }
}

fn batch(count: u32) -> Batch {
    let mut batch = Batch::new();
    (0..count).for_each(|number| batch.push(&item(number)));
    batch
}

const ACT: Act<'static> = Act { actor: "keys", act: "apdus", subject: &"", detail: &"" };

fn log(counts: &[u32]) -> MemoryRecords {
    let mut store = MemoryRecords::default();
    for count in counts {
        let mut overlay = Overlay::new(&store);
        append_batch(&mut overlay, UtcTime(7), ACT, batch(*count)).unwrap();
        append(&mut overlay, UtcTime(7), ACT).unwrap();
        let writes = overlay.into_writes();
        store.commit(writes).unwrap();
    }
    store
}

fn chain(store: &MemoryRecords) -> Vec<Entry> {
    let rows = store.range(AUDIT, &[], 1_000).unwrap();
    verify_chain(rows.iter().map(|(_, value)| value.as_slice()), end(store).unwrap()).unwrap()
}

fn verify(store: &MemoryRecords) -> Result<usize, BatchBroken> {
    verify_batches(&chain(store), |sequence| {
        Ok::<_, BatchBroken>(store.get(AUDIT_BATCH, &sequence.to_be_bytes()).unwrap())
    })
}

#[test]
fn an_item_is_26_bytes_and_comes_back_as_it_was() {
    let item = Item {
        operation: 1,
        system_title: SystemTitle([2, 3, 4, 5, 6, 7, 8, 9]),
        version: 0x0a0b_0c0d,
        counter: 0x0e0f_1011,
        verdict: 0x12,
        tag: [0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a],
    };
    let bytes = item.to_bytes();
    assert!(bytes.iter().copied().eq(1..=26));
    assert_eq!(Item::from_bytes(&bytes), item);
}

#[test]
fn a_leaf_holds_sixteen_items_and_the_last_one_the_rest() {
    for count in [1, 15, 16, 17, 32, 33, 256, 1_000] {
        let (summary, items) = batch(count).finish();
        assert_eq!(summary.count, count);
        let leaves: Vec<Digest> = items.chunks(16 * 26).map(tree::leaf_hash).collect();
        assert_eq!(leaves.len(), count.div_ceil(16) as usize);
        assert_eq!(summary.root, tree::root(&leaves), "{count}");
    }
}

#[test]
fn every_item_of_a_batch_is_proven_and_no_other() {
    let (summary, items) = batch(100).finish();
    for index in 0..100 {
        let proof = prove_item(&items, index).unwrap();
        assert_eq!(proven_item(&summary, index, &proof), Some(item(index as u32)));
        assert_eq!(proven_item(&summary, index + 16, &proof), None, "a group further");
        let mut changed = proof;
        changed.group[3] ^= 1;
        assert_eq!(proven_item(&summary, index, &changed), None);
    }
    assert_eq!(prove_item(&items, 100), None);
}

#[test]
fn a_batch_leaves_one_entry_in_the_chain_and_an_empty_one_none() {
    let store = log(&[5, 0, 300]);
    let chain = chain(&store);
    let counts: Vec<Option<u32>> = chain.iter().map(|entry| entry.batch.map(|batch| batch.count)).collect();
    assert_eq!(counts, [Some(5), None, None, Some(300), None]);
    assert_eq!(verify(&store), Ok(2));
}

#[test]
fn changed_cut_swapped_or_lost_items_are_found_with_their_entry() {
    let whole = log(&[40, 40, 40]);
    let items = |sequence: u64| whole.get(AUDIT_BATCH, &sequence.to_be_bytes()).unwrap().unwrap();
    let with = |sequence: u64, value: Option<Vec<u8>>| {
        let mut store = whole.clone();
        store
            .commit(vec_of(Write { table: AUDIT_BATCH, key: sequence.to_be_bytes().to_vec(), value }))
            .unwrap();
        verify(&store)
    };
    for index in [0, 26, 40 * 26 - 1] {
        let mut changed = items(3);
        changed[index] ^= 0x80;
        assert_eq!(with(3, Some(changed)), Err(BatchBroken::Root { sequence: 3 }));
    }
    let mut swapped = items(5);
    swapped.rotate_left(26);
    assert_eq!(with(5, Some(swapped)), Err(BatchBroken::Root { sequence: 5 }));
    assert_eq!(with(1, Some(items(1)[26..].to_vec())), Err(BatchBroken::Count { sequence: 1 }));
    assert_eq!(with(1, Some(items(1)[1..].to_vec())), Err(BatchBroken::Count { sequence: 1 }));
    assert_eq!(with(3, None), Err(BatchBroken::Missing { sequence: 3 }));
}

fn vec_of(write: Write) -> Vec<Write> {
    core::iter::once(write).collect()
}

#[test]
fn items_are_pruned_by_an_entry_the_oldest_first_and_only_those() {
    let mut store = log(&[20, 20, 20, 20]);
    let writes = prune(&store, UtcTime(8), "keys", 6, 2).unwrap();
    store.commit(writes).unwrap();
    assert_eq!(verify(&store), Ok(2), "two at most");
    let writes = prune(&store, UtcTime(8), "keys", 6, 10).unwrap();
    store.commit(writes).unwrap();
    assert_eq!(verify(&store), Ok(1), "none from the given entry on");
    assert_eq!(prune(&store, UtcTime(8), "keys", 6, 10), Ok(Vec::new()));
    let told: Vec<_> = chain(&store).into_iter().filter(|entry| entry.act == PRUNED).collect();
    assert_eq!(told.iter().map(|entry| entry.detail.as_str()).collect::<Vec<_>>(), ["3", "5"]);
    store
        .commit(vec_of(Write { table: AUDIT_BATCH, key: 7_u64.to_be_bytes().to_vec(), value: None }))
        .unwrap();
    assert_eq!(verify(&store), Err(BatchBroken::Missing { sequence: 7 }), "what was not pruned is missed");
}
