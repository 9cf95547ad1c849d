//! Which headers a member takes.

use gridseal_crypto::{Key, SigningKey, role::GroupSigning};
use gridseal_group::{
    Receive, Rekey, Scheme,
    flat::FlatSender,
    header::{self, Facts, HeaderError},
    lkh::LkhSender,
    member::{Member, ReceiveError},
    sender::Group,
    storage::{EpochRecord, Recovered},
};
use gridseal_types::UtcTime;

use crate::world::{CountingRng, NOW, World, take};

#[test]
fn a_member_never_takes_an_epoch_at_or_below_its_own() {
    let mut world = World::new(9);
    let mut member = world.member(2);
    let (first, second, third) = (world.header(), world.header(), world.header());
    take(&mut member, &second);
    assert_eq!(member.receive(&first), Err(ReceiveError::Epoch { found: 1, present: 2 }));
    assert_eq!(member.receive(&second), Err(ReceiveError::Epoch { found: 2, present: 2 }));
    assert_eq!(member.key_epoch(), 2);
    take(&mut member, &third);
    assert_eq!(member.receive(&second), Err(ReceiveError::Epoch { found: 2, present: 3 }));
}

#[test]
fn a_member_seated_again_takes_nothing_at_or_below_its_floor() {
    let mut world = World::new(9);
    let (first, second) = (world.header(), world.header());
    let mut member = world.member(2);
    assert_eq!(member.seating().floor, 2);
    for header in [&first, &second] {
        assert!(matches!(member.receive(header), Err(ReceiveError::Epoch { present: 2, .. })));
    }
    let third = world.header();
    take(&mut member, &third);
}

#[test]
fn every_changed_byte_of_a_header_is_refused_and_so_is_every_shorter_one() {
    let mut world = World::new(9);
    world.group = world.group.evict(&[4]).unwrap();
    let mut member = world.member(2);
    let header = world.header();
    for at in 0..header.len() {
        let mut changed = header.clone();
        changed[at] ^= 0x40;
        assert!(member.receive(&changed).is_err(), "byte {at}");
        assert!(member.receive(&header[..at]).is_err(), "cut at {at}");
    }
    take(&mut member, &header);
}

#[test]
fn a_header_signed_by_a_member_or_a_stranger_is_refused() {
    let mut world = World::new(9);
    let mut member = world.member(2);
    let own = SigningKey::<GroupSigning>::new(&Key::take(&mut [6; 32])).unwrap();
    let planned = world.group.next_epoch(&world.policy, NOW).unwrap();
    let (forged, _) = planned.header(&world.master, &own, &mut CountingRng(1)).unwrap();
    assert_eq!(member.receive(&forged), Err(ReceiveError::Header(HeaderError::Signature)));
    take(&mut member, &world.header());
}

#[test]
fn who_was_evicted_has_no_key_and_who_slept_needs_the_newest_header_only() {
    let mut world = World::new(9);
    let (mut evicted, mut sleeper) = (world.member(4), world.member(2));
    let header = world.header();
    take(&mut evicted, &header);
    world.group = world.group.evict(&[4]).unwrap();
    for _ in 0..20 {
        let header = world.header();
        assert_eq!(evicted.receive(&header), Err(ReceiveError::NoKey));
    }
    let (newest, key) = world.header_with(9);
    take(&mut sleeper, &newest);
    assert!(bool::from(sleeper.keys().unwrap().group_key().ct_eq(&key)));
    assert_eq!(evicted.key_epoch(), 1);
}

#[test]
fn one_epoch_made_twice_after_a_fail_over_is_survived_with_either_header() {
    let mut world = World::new(9);
    let (mut here, mut there) = (world.member(2), world.member(3));
    let before = world.group.clone();
    let (one, key_one) = world.header_with(1);
    world.group = before;
    let (two, key_two) = world.header_with(100);
    take(&mut here, &one);
    take(&mut there, &two);
    assert!(!bool::from(key_one.ct_eq(&key_two)));
    assert_eq!(here.receive(&two), Err(ReceiveError::Epoch { found: 1, present: 1 }));
    assert_eq!(there.receive(&one), Err(ReceiveError::Epoch { found: 1, present: 1 }));
    let next = world.header();
    take(&mut here, &next);
    take(&mut there, &next);
    let keys = |member: &Member<_>| member.keys().unwrap().broadcast_key();
    assert!(bool::from(keys(&here).ct_eq(&keys(&there))), "the next epoch brings all together");
}

#[test]
fn two_senders_of_one_epoch_hide_nothing_under_one_mask_in_the_other_schemes_either() {
    let master = World::new(9).master;
    let body_of = |random: u64, scheme: Scheme| {
        let mut rng = CountingRng(random);
        let key = Key::take(&mut [7; 16]);
        match scheme {
            Scheme::Flat => FlatSender::new(&master, 7, 9).rekey(1, &[4], &key, &mut rng),
            _ => LkhSender::new(&master, 7, 9).rekey(1, &[4], &key, &mut rng),
        }
    };
    // One group key under one mask would give one block.
    for (wrap, last) in body_of(1, Scheme::Flat).unwrap()[8..]
        .chunks(20)
        .zip(body_of(2, Scheme::Flat).unwrap()[8..].chunks(20))
    {
        assert!(wrap[..4] == last[..4] && wrap[4..] != last[4..]);
    }
    let hierarchy = [1, 2].map(|random| body_of(random, Scheme::KeyHierarchy).unwrap());
    assert_ne!(hierarchy[0][..8], hierarchy[1][..8], "a salt of its own for each message");
}

#[test]
fn a_random_source_that_repeats_itself_repeats_no_nonce() {
    let world = World::new(9);
    let nonce_of = |header: &[u8]| {
        let sender = world.seating(0).sender;
        let header = gridseal_group::header::Header::open(header, &sender).unwrap();
        let body = gridseal_group::sd::SdBody::decode(header.body).unwrap();
        body.nonce(header.facts.tree.tree_epoch, header.facts.key_epoch)
    };
    let mut other = World::new(9);
    let (one, two) = (other.header_with(1).0, other.header_with(1).0);
    assert_ne!(nonce_of(&one), nonce_of(&two), "the epoch is part of the nonce");
    let (group, _) = other.group.reseat(other.group.height, NOW).unwrap();
    other.group = group;
    let again = other.header_with(1).0;
    assert_ne!(nonce_of(&one), nonce_of(&again), "so is the tree epoch");
    take(&mut world.member(1), &one);
}

#[test]
fn a_tree_epoch_is_a_world_of_its_own() {
    let mut world = World::new(9);
    let (mut old, mut evicted) = (world.member(2), world.member(4));
    let before = world.header();
    world.group = world.group.evict(&[4]).unwrap();
    let (group, moves) = world.group.reseat(world.group.height, NOW).unwrap();
    world.group = group;
    let seat = moves.iter().find(|(from, _)| *from == 2).unwrap().1;
    let mut new = world.member(seat);
    let after = world.header();
    assert_eq!(old.receive(&after), Err(ReceiveError::Other));
    assert_eq!(evicted.receive(&after), Err(ReceiveError::Other));
    assert_eq!(new.receive(&before), Err(ReceiveError::Other), "no way back to the old tree");
    take(&mut new, &after);
}

#[test]
fn a_power_cut_at_any_byte_of_storing_leaves_a_member_that_goes_on() {
    let mut world = World::new(9);
    let mut member = world.member(2);
    let mut slots = [Vec::new(), Vec::new()];
    let first = world.header_with(1);
    let record = member.receive(&first.0).unwrap();
    assert!(bool::from(member.key_to_store().unwrap().ct_eq(&first.1)));
    slots[0] = record.encode(b"key of epoch 1, sealed").unwrap();
    member.stored(true);
    let second = world.header_with(50);
    let record = member.receive(&second.0).unwrap();
    let whole = record.encode(b"key of epoch 2, sealed").unwrap();
    for cut in 0..=whole.len() {
        slots[1] = vec![0xFF; whole.len()];
        slots[1][..cut].copy_from_slice(&whole[..cut]);
        let Recovered::Record { record, sealed, .. } = EpochRecord::recover(&slots[0], &slots[1]) else {
            panic!("cut at {cut}: nothing is left")
        };
        let key = if sealed == b"key of epoch 1, sealed" { &first.1 } else { &second.1 };
        // A vault gives the key back; here its bytes go by way of a wrap.
        let wrapped = gridseal_crypto::group::wrap_once(key, &[0; 16], key);
        let key = gridseal_crypto::group::unwrap_once(key, &[0; 16], &wrapped);
        let mut back = Member::restore(world.seating_at(2, 0), world.receiver(2), &record, key).unwrap();
        let is_new = cut == whole.len();
        assert_eq!(back.key_epoch(), if is_new { 2 } else { 1 });
        assert!(matches!(back.receive(&first.0), Err(ReceiveError::Epoch { .. })), "never a lower epoch");
        assert_eq!(back.receive(&second.0).is_ok(), !is_new);
    }
    let key = Key::take(&mut [0; 16]);
    let other = EpochRecord { tree_epoch: 9, ..record };
    assert!(Member::restore(world.seating(2), world.receiver(2), &other, key).is_none());
}

#[test]
fn a_member_of_a_key_hierarchy_takes_a_header_again_after_a_power_cut() {
    let world = World::new(9);
    let Group { id: group, tree, .. } = world.group;
    let mut sender = LkhSender::new(&world.master, 7, 9);
    let mut member = Member::new(world.seating(2), sender.member(2));
    let mut rng = CountingRng(7);
    let mut others = [sender.member(4), sender.member(8)];
    for (epoch, evicted) in [(1u32, 4u32), (2, 8), (3, 3)] {
        let key = Key::take(&mut [u8::try_from(epoch).unwrap(); 16]);
        let body = sender.rekey(epoch, &[evicted], &key, &mut rng).unwrap();
        let facts =
            Facts { scheme: Scheme::KeyHierarchy, group, tree, key_epoch: epoch, deadline: UtcTime(0) };
        let header = header::seal(&facts, &body, &key, &world.signer).unwrap();
        for _ in 0..2 {
            member.receive(&header).unwrap();
            member.stored(false);
        }
        member.receive(&header).unwrap();
        member.stored(true);
        assert!(bool::from(member.keys().unwrap().group_key().ct_eq(&key)));
        let opened = header::Header::open(&header, &world.seating(2).sender).unwrap();
        for (other, leaves) in others.iter_mut().zip([1, 2]) {
            let found = other.receive(epoch, &body).filter(|key| opened.is_key(key));
            assert_eq!(found.is_some(), epoch < leaves, "epoch {epoch}");
            other.settle(true);
        }
    }
}

#[test]
fn a_header_of_a_key_hierarchy_that_was_not_stored_leaves_no_trace() {
    let world = World::new(9);
    let Group { id: group, tree, .. } = world.group;
    let mut member = Member::new(world.seating(5), LkhSender::new(&world.master, 7, 9).member(5));
    // Two senders after a fail-over make the same epoch, each with another eviction.
    let headers = [(4u32, 1u64), (8, 2)].map(|(evicted, random)| {
        let mut sender = LkhSender::new(&world.master, 7, 9);
        let mut rng = CountingRng(random);
        let key = Key::generate(&mut rng).unwrap();
        let body = sender.rekey(1, &[evicted], &key, &mut rng).unwrap();
        let facts = Facts { scheme: Scheme::KeyHierarchy, group, tree, key_epoch: 1, deadline: UtcTime(0) };
        header::seal(&facts, &body, &key, &world.signer).unwrap()
    });
    headers.iter().for_each(|header| {
        member.receive(header).unwrap();
        member.stored(false);
    });
    member.receive(&headers[0]).unwrap();
    member.stored(true);
}

#[test]
fn what_the_epoch_before_sealed_is_opened_until_the_announced_deadline_only() {
    //= S8: from its announced deadline nothing under an old one
    let mut world = World::new(9);
    let mut member = world.member(2);
    take(&mut member, &world.header());
    let deadline = NOW.0 + world.policy.overlap_s;
    take(&mut member, &world.header());
    assert_eq!(member.keys_before(UtcTime(deadline - 1)).unwrap().facts.key_epoch, 1);
    assert!(member.keys_before(UtcTime(deadline)).is_none());
    world.group = world.group.compromise(&[4]).unwrap();
    take(&mut member, &world.header());
    assert!(member.keys_before(NOW).is_none(), "no overlap after a compromise");
}
