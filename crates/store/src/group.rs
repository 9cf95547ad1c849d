//! Group commit (decision D6): a service decides on while a commit runs, and all that was decided meanwhile goes into
//! the next one. Idle, a batch is committed at once; there is no timer.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel},
    },
    thread::JoinHandle,
};

use gridseal_types::records::{Commit, Durability, Records, RecordsError, Row, Table, Write};

/// Changes in one commit; a batch beyond it waits for the next.
pub const GROUP_WRITES_MAX: usize = 5_000;
/// Batches that wait; the next one blocks its caller.
pub const GROUP_QUEUE_MAX: usize = 256;

/// The writing half of records on a thread of its own, and the reading half here, which shows every batch as soon as it
/// is submitted: the next decision may rest on it. What a decision answers may leave when its [`Receipt`] says so.
///
/// After a commit that failed nothing is committed any more: what was decided after it rests on what is not on record.
/// The service is to be loaded again, after [`GroupCommit::recover`] or from a store that was opened anew.
#[derive(Debug)]
pub struct GroupCommit<R> {
    reader: R,
    /// Changes under way, the newest of each key, with the number of their batch.
    pending: BTreeMap<Place, (u64, Option<Vec<u8>>)>,
    /// Keys of each batch under way.
    batches: VecDeque<(u64, Vec<Place>)>,
    submitted: u64,
    /// Number of the last batch that is durable.
    committed: Arc<AtomicU64>,
    /// Of the first commit that failed.
    failed: Failure,
    queue: Option<SyncSender<Work>>,
    worker: Option<JoinHandle<()>>,
}

/// Table and key of a row.
type Place = (Table, Vec<u8>);

type Failure = Arc<Mutex<Option<RecordsError>>>;

/// What the writing thread is asked for.
#[derive(Debug)]
enum Work {
    Commit(Job),
    /// Forget that a commit has failed, and say so.
    Recover(Sender<()>),
}

#[derive(Debug)]
struct Job {
    number: u64,
    writes: Vec<Write>,
    durability: Durability,
    done: Sender<Result<(), RecordsError>>,
}

/// Tells when a batch is durable. Receipts of one [`GroupCommit`] are resolved in the order of their batches.
#[derive(Debug)]
pub struct Receipt(Receiver<Result<(), RecordsError>>);

impl Receipt {
    /// Waits until the batch and all before it are durable.
    ///
    /// # Errors
    /// [`RecordsError`] of this commit or of one before.
    pub fn wait(self) -> Result<(), RecordsError> {
        self.0.recv().unwrap_or(Err(RecordsError::Uncertain))
    }

    /// The same without waiting; `None` as long as it is not known.
    #[must_use]
    pub fn poll(&self) -> Option<Result<(), RecordsError>> {
        match self.0.try_recv() {
            Ok(done) => Some(done),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(RecordsError::Uncertain)),
        }
    }
}

impl<R: Records> GroupCommit<R> {
    /// Starts the writing thread. `writer` has claimed the database; `reader` shows what it commits.
    #[must_use]
    pub fn start(writer: impl Commit + Send + 'static, reader: R) -> Self {
        let (queue, jobs) = sync_channel(GROUP_QUEUE_MAX);
        let committed = Arc::new(AtomicU64::new(0));
        let failed = Failure::default();
        let report = (Arc::clone(&committed), Arc::clone(&failed));
        let worker = std::thread::spawn(move || work(writer, &jobs, &report.0, &report.1));
        Self {
            reader,
            pending: BTreeMap::new(),
            batches: VecDeque::new(),
            submitted: 0,
            committed,
            failed,
            queue: Some(queue),
            worker: Some(worker),
        }
    }

    /// Hands over the changes of one decision, in the order of the decisions. A decision without changes is handed over
    /// as well: its answer may rest on those before.
    pub fn submit(&mut self, writes: Vec<Write>, durability: Durability) -> Receipt {
        self.forget_committed();
        self.submitted = self.submitted.saturating_add(1);
        let number = self.submitted;
        let mut keys = Vec::with_capacity(writes.len());
        for Write { table, key, value } in &writes {
            self.pending.insert((*table, key.clone()), (number, value.clone()));
            keys.push((*table, key.clone()));
        }
        self.batches.push_back((number, keys));
        let (done, receipt) = channel();
        // A worker that is gone drops the sender: the receipt then says so.
        if let Some(queue) = &self.queue {
            let _ = queue.send(Work::Commit(Job { number, writes, durability, done }));
        }
        Receipt(receipt)
    }

    /// Why nothing is committed any more, since a commit that failed.
    #[must_use]
    pub fn failure(&self) -> Option<RecordsError> {
        // Whoever holds it does nothing but read or set it.
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits again after one that failed: the store shows what is durable and nothing of what was decided since, and
    /// every receipt from before is resolved. What rests on memory is to be loaded again.
    ///
    /// # Errors
    /// [`RecordsError::Uncertain`]: the writing thread is gone.
    pub fn recover(&mut self) -> Result<(), RecordsError> {
        let (done, resolved) = channel();
        let queue = self.queue.as_ref().ok_or(RecordsError::Uncertain)?;
        queue.send(Work::Recover(done)).map_err(|_| RecordsError::Uncertain)?;
        resolved.recv().map_err(|_| RecordsError::Uncertain)?;
        self.pending.clear();
        self.batches.clear();
        Ok(())
    }

    /// What is durable is read from the store again.
    fn forget_committed(&mut self) {
        let committed = self.committed.load(Ordering::Acquire);
        while let Some((number, keys)) = self.batches.pop_front_if(|(number, _)| *number <= committed) {
            for key in keys {
                if self.pending.get(&key).is_some_and(|(newest, _)| *newest == number) {
                    self.pending.remove(&key);
                }
            }
        }
    }
}

impl<R> Drop for GroupCommit<R> {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(worker) = self.worker.take() {
            // What was handed over is committed before the records are let go. A panic was told by the receipts.
            let _ = worker.join();
        }
    }
}

impl<R: Records> Records for GroupCommit<R> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        match self.pending.get(&(table, key.to_vec())) {
            Some((_, value)) => Ok(value.clone()),
            None => self.reader.get(table, key),
        }
    }

    fn range(&self, table: Table, after: &[u8], limit: usize) -> Result<Vec<Row>, RecordsError> {
        let start = std::ops::Bound::Excluded((table, after.to_vec()));
        let pending = self.pending.range((start, std::ops::Bound::Unbounded));
        let pending: Vec<_> = pending.take_while(|((found, _), _)| *found == table).collect();
        // Each pending key takes the place of at most one stored row.
        let stored = self.reader.range(table, after, limit.saturating_add(pending.len()))?;
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = stored.into_iter().collect();
        for ((_, key), (_, value)) in pending {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows.into_iter().take(limit).collect())
    }
}

fn work(mut records: impl Commit, jobs: &Receiver<Work>, committed: &AtomicU64, failed: &Failure) {
    let failed = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    let mut waiting: Option<Work> = None;
    while let Some(first) = waiting.take().or_else(|| jobs.recv().ok()) {
        let first = match first {
            Work::Commit(job) => job,
            Work::Recover(done) => {
                *failed() = None;
                let _ = done.send(());
                continue;
            }
        };
        let mut group = vec![first];
        let mut count = group.iter().map(|job| job.writes.len()).sum::<usize>();
        while let Ok(work) = jobs.try_recv() {
            match work {
                Work::Commit(job) if count.saturating_add(job.writes.len()) <= GROUP_WRITES_MAX => {
                    count = count.saturating_add(job.writes.len());
                    group.push(job);
                }
                other => {
                    waiting = Some(other);
                    break;
                }
            }
        }
        let durability = group.iter().map(|job| job.durability).max().unwrap_or_default();
        let writes: Vec<Write> = group.iter_mut().flat_map(|job| std::mem::take(&mut job.writes)).collect();
        let before = *failed();
        let done = match before {
            Some(error) => Err(error),
            None if writes.is_empty() => Ok(()),
            None => records.commit_with(writes, durability),
        };
        if let (None, Err(error)) = (before, done) {
            *failed() = Some(error);
        }
        for Job { number, done: tell, .. } in group {
            if done.is_ok() {
                committed.store(number, Ordering::Release);
            }
            // Nobody may be waiting any more.
            let _ = tell.send(done);
        }
    }
}
