//! Which broadcast commands a member obeys.

use gridseal_crypto::{InvocationCounter, Key, SigningKey, apdu, role::GroupSigning};
use gridseal_group::{
    epoch::{Command, CommandError},
    header::Facts,
    member::Member,
    sd::SdMember,
    storage::EpochRecord,
};
use gridseal_types::{SystemTitle, UtcTime};

use crate::world::{NOW, World, take};

const SENDER: SystemTitle = SystemTitle(*b"GRIDSEAL");
const CLOCK: &[u8] = &[0xC3, 1, 0, 8, 0, 0, 1, 0, 0, 255, 2, 0];

fn command(number: u64) -> Command {
    Command { sender: SENDER, number, until: UtcTime(2_000), apdu: CLOCK.to_vec() }
}

fn facts(member: &Member<SdMember>) -> Facts {
    member.keys().unwrap().facts
}

fn obey(member: &mut Member<SdMember>, bytes: &[u8]) -> Result<EpochRecord, CommandError> {
    let (command, record) = member.command(bytes, NOW)?;
    assert_eq!(command.apdu, CLOCK);
    member.stored(true);
    Ok(record)
}

#[test]
fn an_honest_member_forges_a_clock_broadcast_under_the_group_key_and_is_refused() {
    let mut world = World::new(9);
    let (mut insider, mut victim) = (world.member(3), world.member(2));
    let header = world.header();
    take(&mut insider, &header);
    take(&mut victim, &header);
    // What every member can do: seal a broadcast that every other member opens.
    let own = SigningKey::<GroupSigning>::new(&Key::take(&mut [6; 32])).unwrap();
    let forged = command(1).sign(&facts(&insider), &own).unwrap();
    let keys = insider.keys().unwrap();
    let header = apdu::Header { originator: SENDER, security_control: 0x70 };
    let mut counter = InvocationCounter::resume(0);
    let reserved = counter.reserve(1).unwrap();
    counter.extend(reserved);
    let (gbek, gak) = (keys.broadcast_key(), keys.broadcast_authentication_key());
    let sealed = apdu::protect(&gbek, &gak, header, counter.take().unwrap(), &forged).unwrap();
    let keys = victim.keys().unwrap();
    let (gbek, gak) = (keys.broadcast_key(), keys.broadcast_authentication_key());
    let opened = apdu::unprotect(&gbek, &gak, header, 0, &sealed).unwrap();
    assert_eq!(opened, forged, "the broadcast itself proves no sender");
    assert_eq!(obey(&mut victim, &forged), Err(CommandError::Signature));
    let unsigned = &forged[..forged.len() - 64];
    assert_eq!(obey(&mut victim, unsigned), Err(CommandError::Format));
    let real = command(1).sign(&facts(&victim), &world.signer).unwrap();
    obey(&mut victim, &real).unwrap();
}

#[test]
fn no_changed_bit_of_a_command_is_obeyed_and_none_of_another_epoch() {
    let mut world = World::new(9);
    let mut member = world.member(2);
    take(&mut member, &world.header());
    let signed = command(4).sign(&facts(&member), &world.signer).unwrap();
    for bit in 0..signed.len() * 8 {
        let mut changed = signed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(obey(&mut member, &changed).is_err(), "bit {bit}");
    }
    let later = Facts { key_epoch: 2, ..facts(&member) };
    let ahead = command(5).sign(&later, &world.signer).unwrap();
    assert_eq!(obey(&mut member, &ahead), Err(CommandError::Signature));
    obey(&mut member, &signed).unwrap();
}

#[test]
fn a_command_is_obeyed_once_even_across_a_power_cut() {
    let mut world = World::new(9);
    let mut member = world.member(2);
    let seating = world.seating(2);
    let (header, key) = world.header_with(1);
    take(&mut member, &header);
    let signed = |number| command(number).sign(&facts(&member), &world.signer).unwrap();
    let (three, four) = (signed(3), signed(4));
    let record = obey(&mut member, &three).unwrap();
    assert_eq!(obey(&mut member, &three), Err(CommandError::Replay(3)));
    let mut back = Member::restore(seating, world.receiver(2), &record, key).unwrap();
    assert_eq!(obey(&mut back, &three), Err(CommandError::Replay(3)), "played back after the cut");
    // Not durable: not obeyed, and it may come again.
    back.command(&four, NOW).unwrap();
    assert_eq!(back.command(&four, NOW).unwrap_err(), CommandError::Busy);
    back.stored(false);
    obey(&mut back, &four).unwrap();
    take(&mut back, &world.header());
    assert_eq!(obey(&mut back, &four), Err(CommandError::Replay(4)), "nor under the next epoch");
}

#[test]
fn a_command_counts_until_its_time_and_under_the_epoch_before_until_the_deadline() {
    let mut world = World::new(9);
    let mut member = world.member(2);
    take(&mut member, &world.header());
    let old = facts(&member);
    let signed = |number, facts: &Facts, world: &World| command(number).sign(facts, &world.signer).unwrap();
    let (one, two, three) = (signed(1, &old, &world), signed(2, &old, &world), signed(3, &old, &world));
    assert_eq!(member.command(&one, UtcTime(2_001)).unwrap_err(), CommandError::Late(UtcTime(2_000)));
    obey(&mut member, &one).unwrap();
    take(&mut member, &world.header());
    obey(&mut member, &two).unwrap();
    let new = signed(1, &facts(&member), &world);
    obey(&mut member, &new).unwrap();
    assert_eq!(obey(&mut member, &three), Err(CommandError::Replay(3)), "overtaken by the new epoch");
    world.group = world.group.compromise(&[5]).unwrap();
    take(&mut member, &world.header());
    let last = signed(2, &Facts { key_epoch: 2, ..old }, &world);
    assert_eq!(obey(&mut member, &last), Err(CommandError::Signature), "nothing of a compromised epoch");
}

#[test]
fn the_keys_of_an_epoch_differ_from_each_other_and_from_those_of_every_other_epoch() {
    let mut world = World::new(9);
    let mut member = world.member(2);
    let mut seen: Vec<Key<gridseal_crypto::role::Gbek, 16>> = Vec::new();
    for _ in 0..3 {
        take(&mut member, &world.header_with(1).0);
        let keys = member.keys().unwrap();
        let fresh = [keys.broadcast_key(), keys.content_key("firmware"), keys.content_key("tariff")];
        for key in fresh {
            assert!(!seen.iter().any(|other| bool::from(other.ct_eq(&key))));
            seen.push(key);
        }
    }
}
