//! Entries for the fuzzer: no panic, bounded work, and what is accepted comes back as the same bytes.

use alloc::vec::Vec;

use gridseal_types::{
    records::RecordsError,
    service::{
        Batch,
        keys::{KeyReply, KeyRequest},
    },
};

use crate::{
    front, is_harmless,
    traffic::log::{Entry, Log, fold_into, read, unfold},
};

/// A row of the traffic plane, as a damaged database may give it back: a log blob, then a folded row.
pub fn keys_traffic(bytes: &[u8]) {
    let mut log = Log::default();
    let logged = read(bytes, |entry| {
        match entry {
            Entry::Opened { slot, version, counter, tag } => log.opened(slot, version, counter, tag),
            Entry::Leased { slot, version, epoch, end } => log.leased(slot, version, epoch, end),
            Entry::Sealed(seal) => log.sealed(&seal),
        }
        Ok::<_, RecordsError>(())
    });
    if let (Ok(()), Some(blob)) = (logged, log.take()) {
        assert_eq!(blob.0, bytes, "one encoding for one log");
    }
    if let Ok(folded) = unfold(bytes) {
        let mut row = Vec::new();
        folded.iter().for_each(|one| fold_into(&mut row, one));
        assert_eq!(row, bytes, "one encoding for one row");
    }
}

/// A batch of requests, as a caller of the key service sends it, and the answers, as a caller gets them.
pub fn keys_request(bytes: &[u8]) {
    if let Ok(Batch(requests)) = minicbor::decode::<Batch<KeyRequest>>(bytes) {
        for request in &requests {
            let callers = front::CALLERS.iter().filter(|caller| front::allows(caller, request)).count();
            assert!(callers <= 2 && !front::allows("", request), "default deny");
            match request {
                KeyRequest::OpenApdu { apdu } | KeyRequest::OpenFrom { apdu, .. } => {
                    crate::apdu::look_at(apdu)
                }
                KeyRequest::ReportClaim { apdu, .. } => {
                    crate::apdu::look_at(apdu);
                    // The same bytes as what a meter may have said inside.
                    crate::setup::look_at(apdu);
                    let _ = crate::agreement::answer_of(apdu);
                }
                KeyRequest::Seal(seal) => {
                    let _ = is_harmless(&seal.apdu);
                }
                _ => {}
            }
        }
        let encoded = minicbor::to_vec(Batch(requests)).unwrap_or_default();
        let again = minicbor::decode::<Batch<KeyRequest>>(&encoded).map(|batch| batch.0);
        assert_eq!(again.map(minicbor::to_vec).ok().and_then(Result::ok), Some(encoded));
    }
    if let Ok(Batch(replies)) = minicbor::decode::<Batch<KeyReply>>(bytes) {
        let encoded = minicbor::to_vec(Batch(replies)).unwrap_or_default();
        assert!(minicbor::decode::<Batch<KeyReply>>(&encoded).is_ok());
    }
}
