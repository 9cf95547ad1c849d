use super::*;
use alloc::vec;

fn settings(window: u8) -> BlockSettings {
    BlockSettings { window, apdu_size_max: 4_096, ..BlockSettings::default() }
}

/// Sends an APDU over a line that loses the blocks whose running number is in `lost`.
fn carry(window: u8, size: usize, lost: &[usize]) -> (Vec<u8>, usize) {
    let apdu: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
    let (mut sender, mut receiver) =
        (BlockTransfer::new(settings(window)), BlockTransfer::new(settings(window)));
    sender.peer_window = window;
    let (mut now, mut frames) = (Tick(0), 0);
    sender.send(now, apdu.clone(), 100).unwrap();
    for _ in 0..2_000 {
        let mut moved = false;
        while let Some(block) = sender.poll() {
            (moved, frames) = (true, frames + 1);
            if !lost.contains(&frames)
                && let Some(whole) = receiver.received(now, &block).unwrap()
            {
                assert_eq!(whole, apdu);
                return (whole, frames);
            }
        }
        while let Some(block) = receiver.poll() {
            (moved, frames) = (true, frames + 1);
            if !lost.contains(&frames) {
                assert_eq!(sender.received(now, &block), Ok(None));
            }
        }
        if !moved {
            now = [sender.deadline(), receiver.deadline()].into_iter().flatten().min().unwrap();
            receiver.timed_out(now).unwrap();
            sender.timed_out(now).unwrap();
        }
    }
    panic!("does not come to rest")
}

//= DLMS 5.7: blocks out of order or beyond the window are not taken, the last good one is acknowledged
#[test]
fn an_apdu_crosses_in_windows_whatever_block_or_acknowledgement_is_lost() {
    for window in [1, 2, 5, 63] {
        for size in [1, 100, 101, 1_950] {
            carry(window, size, &[]);
            for lost in 1..25 {
                carry(window, size, &[lost, lost + 1, lost + 7]);
            }
        }
    }
}

#[test]
fn missing_blocks_are_never_skipped_and_a_window_is_not_exceeded() {
    let mut receiver = BlockTransfer::new(settings(2));
    let block = |number, last, streaming| GeneralBlock {
        last,
        streaming,
        window: 63,
        number,
        acknowledged: 0,
        data: &[7; 10],
    };
    let feed = |receiver: &mut BlockTransfer, block: GeneralBlock<'_>| {
        receiver.received(Tick(0), &block.to_bytes()).unwrap()
    };
    assert_eq!(feed(&mut receiver, block(1, false, true)), None);
    assert_eq!(feed(&mut receiver, block(3, true, false)), None, "block 2 is missing");
    let answer = receiver.poll().unwrap();
    assert_eq!(GeneralBlock::from_bytes(&answer).unwrap().acknowledged, 1);
    for number in 2..60 {
        feed(&mut receiver, block(number, false, true));
    }
    let receiving = receiver.receiving.as_ref().unwrap();
    assert_eq!((receiving.number, receiving.data.len()), (3, 30), "two more, then the window is full");
}

#[test]
fn memory_is_bounded_and_forged_acknowledgements_do_not_multiply() {
    let mut receiver = BlockTransfer::new(settings(63));
    let data = vec![1; 1_000];
    let mut outcome = Ok(None);
    for number in 1..10 {
        let block =
            GeneralBlock { last: false, streaming: true, window: 1, number, acknowledged: 0, data: &data };
        outcome = receiver.received(Tick(0), &block.to_bytes());
        if outcome.is_err() {
            break;
        }
    }
    assert_eq!(outcome, Err(BlockError::TooLong { limit: 4_096 }));
    assert!(receiver.receiving.is_none());
    let mut sender = BlockTransfer::new(settings(4));
    sender.send(Tick(0), vec![0; 4_000], 100).unwrap();
    let mut sent = 0;
    let ack = |acknowledged| GeneralBlock {
        last: false,
        streaming: false,
        window: 1,
        number: 1,
        acknowledged,
        data: &[],
    };
    for _ in 0..1_000 {
        assert_eq!(sender.received(Tick(0), &ack(9).to_bytes()), Ok(None), "never sent");
        assert_eq!(sender.received(Tick(0), &ack(0).to_bytes()), Ok(None));
        while sender.poll().is_some() {
            sent += 1;
        }
    }
    assert!(sent <= 1 + 5, "{sent} blocks for a thousand false acknowledgements");
}

#[test]
fn a_silent_peer_ends_the_transfer() {
    let mut sender = BlockTransfer::new(settings(1));
    sender.send(Tick(0), vec![0; 200], 100).unwrap();
    let mut outcome = Ok(());
    for _ in 0..10 {
        let Some(now) = sender.deadline() else { break };
        outcome = sender.timed_out(now);
    }
    assert_eq!(outcome, Err(BlockError::Halted));
    assert_eq!(sender.deadline(), None);
}

#[test]
fn blocks_that_get_no_further_end_the_transfer_whether_an_answer_is_asked_for_or_not() {
    for streaming in [false, true] {
        let mut receiver = BlockTransfer::new(settings(4));
        let block =
            GeneralBlock { last: false, streaming, window: 1, number: 1, acknowledged: 0, data: &[7; 10] };
        let mut answers = 0;
        let mut outcome = Ok(None);
        for _ in 0..1_000 {
            outcome = receiver.received(Tick(0), &block.to_bytes());
            while receiver.poll().is_some() {
                answers += 1;
            }
            if outcome.is_err() {
                break;
            }
        }
        assert_eq!(outcome, Err(BlockError::Halted), "streaming {streaming}");
        assert!(answers <= 1 + 5 && receiver.deadline().is_none(), "{answers} answers");
    }
}
