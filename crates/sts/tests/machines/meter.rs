//! The meter through ten thousand power cuts: every write torn at every length, no credit doubled, none lost.

use std::collections::BTreeMap;

use gridseal_crypto::{
    EnvelopeContext, Key, Origin, Rng, RngError, WrappedKey,
    role::Dek,
    sts::{Algorithm, DecoderKey},
};
use gridseal_sts::{
    amount::{Amount, Money},
    derive::{Dkga, VendingKey},
    identity::{
        DrnCheck, KeyAttributes, KeyExpiryNumber, KeyRevisionNumber, KeyType, Pan, SupplyGroupCode,
        TariffIndex,
    },
    key_change::{KeyChange, KeyChangeError},
    meter::{
        Accepted, Configuration, Input, KeyVault, Meter, MeterError, Output, Refusal, Slot, State, TidMemory,
        encode_record, recover,
    },
    tid::{BaseDate, Tid},
    token::{Block, Commodity, Content, Function, Manufacturer, Token},
};
use gridseal_types::{Tick, UtcTime};

/// Numbers for a test, all from one seed.
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

impl Rng for Draws {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        buffer.iter_mut().for_each(|byte| *byte = self.below(256) as u8);
        Ok(())
    }
}

struct Vault {
    dek: Key<Dek, 32>,
    draws: Draws,
    fails: bool,
}

const CONTEXT: EnvelopeContext =
    EnvelopeContext { tenant: [1; 16], object: [2; 16], version: 1, suite: 0, origin: Origin::Operator };

impl KeyVault for Vault {
    fn wrap(&mut self, key: &DecoderKey) -> Option<Vec<u8>> {
        if self.fails {
            return None;
        }
        Some(key.wrap(&self.dek, &CONTEXT, &mut self.draws).unwrap().0)
    }

    fn unwrap_key(&mut self, algorithm: Algorithm, wrapped: &[u8]) -> Option<DecoderKey> {
        DecoderKey::unwrap_key(algorithm, &self.dek, &CONTEXT, &WrappedKey(wrapped.to_vec())).ok()
    }
}

fn attributes(krn: u8, key_type: KeyType) -> KeyAttributes {
    KeyAttributes {
        key_type,
        supply_group: SupplyGroupCode::new(201_457).unwrap(),
        tariff_index: TariffIndex::new(1).unwrap(),
        revision: KeyRevisionNumber::new(krn).unwrap(),
        expiry: KeyExpiryNumber(254),
        base: BaseDate::Y2014,
    }
}

fn key(seed: u8, algorithm: Algorithm) -> DecoderKey {
    let size = if algorithm == Algorithm::Misty1 { 16 } else { 8 };
    DecoderKey::take(algorithm, &mut vec![seed; size]).unwrap()
}

const MADE: u32 = 1_000_000;

struct Bench {
    vault: Vault,
    slots: [Vec<u8>; 2],
    meter: Option<Meter>,
    now: Tick,
    /// Flash that is erased before it is written: a cut leaves ones behind what was written, not what was there before.
    erases: bool,
}

impl Bench {
    fn new(algorithm: Algorithm, key_type: KeyType, memory: usize) -> Self {
        Self::with(algorithm, key_type, memory, &key(1, algorithm))
    }

    fn with(algorithm: Algorithm, key_type: KeyType, memory: usize, present: &DecoderKey) -> Self {
        let mut vault = Vault { dek: Key::take(&mut [9; 32]), draws: Draws(5), fails: false };
        let configuration = Configuration {
            algorithm,
            magnetic_card: false,
            refuse_future: true,
            register_max: 1_000_000_000_000,
        };
        let wrapped = vault.wrap(present).unwrap();
        let memory = TidMemory::new(memory, Tid::from_bits(MADE)).unwrap();
        let state = State::new(configuration, attributes(1, key_type), wrapped, memory);
        let slots = [encode_record(&state), Vec::new()];
        let mut bench = Self { vault, slots, meter: None, now: Tick(0), erases: false };
        bench.power_on();
        bench
    }

    fn power_on(&mut self) {
        let recovered = recover(&self.slots[0], &self.slots[1]).unwrap();
        self.meter = Some(Meter::start(recovered, self.now, &mut self.vault).unwrap());
    }

    fn state(&self) -> &State {
        self.meter.as_ref().unwrap().state()
    }

    /// Enters a token; `cut` says after how many bytes of a record the power fails, `None` for never. `None` comes back
    /// when the power failed before anybody was told.
    fn enter(&mut self, token: Token, cut: Option<usize>) -> Option<Result<Accepted, Refusal>> {
        self.now.0 += 2_000_000;
        self.enter_now(token, cut)
    }

    fn enter_now(&mut self, token: Token, cut: Option<usize>) -> Option<Result<Accepted, Refusal>> {
        let meter = self.meter.as_mut().unwrap();
        meter.handle(self.now, Input::Token(token, None), &mut self.vault).unwrap();
        match meter.poll().unwrap() {
            Output::Told(told) => Some(told),
            Output::Persist { sequence, slot, record } => {
                let place = usize::from(slot == Slot::B);
                let written = cut.map_or(record.len(), |cut| cut.min(record.len()));
                let target = &mut self.slots[place];
                if self.erases {
                    target.fill(0xFF);
                }
                if target.len() < record.len() {
                    target.resize(record.len(), 0xFF);
                }
                target[..written].copy_from_slice(&record[..written]);
                if cut.is_some() {
                    self.power_on();
                    return None;
                }
                meter.handle(self.now, Input::Persisted(sequence), &mut self.vault).unwrap();
                let Some(Output::Told(told)) = meter.poll() else { panic!("nobody is told") };
                Some(told)
            }
            other => panic!("{other:?}"),
        }
    }
}

fn credit(tid: u32, value: i64, key: &DecoderKey) -> Token {
    let amount = Amount::new(value).unwrap();
    let tid = Tid::from_bits(tid);
    Content::Credit { commodity: Commodity::Electricity, random: 5, tid, amount }
        .to_block()
        .unwrap()
        .seal(key)
}

fn money(tid: u32, value: i64, key: &DecoderKey) -> Token {
    let amount = Money::new(value).unwrap();
    Content::Currency { commodity: Commodity::Gas, tid: Tid::from_bits(tid), amount }
        .to_block()
        .unwrap()
        .seal(key)
}

fn manage(function: Function, tid: u32, value: u16, key: &DecoderKey) -> Token {
    let tid = Tid::from_bits(tid);
    Content::Management { function, random: 5, tid, value }.to_block().unwrap().seal(key)
}

fn sections(from: &DecoderKey, to: &DecoderKey, krn: u8) -> Vec<Token> {
    KeyChange { key: to, attributes: attributes(krn, KeyType::Unique), roll_over: false, triplet: false }
        .tokens(from)
        .unwrap()
}

/// Kinds of writes, for coverage.
const KINDS: [&str; 5] = ["credit", "money", "management", "key change", "bad entry"];

#[test]
fn ten_thousand_power_cuts_double_and_lose_nothing() {
    let mut cuts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut lengths = std::collections::BTreeSet::new();
    for algorithm in [Algorithm::Sta, Algorithm::Misty1] {
        let mut bench = Bench::new(algorithm, KeyType::Unique, 20);
        let mut draws = Draws(17);
        let (mut owed, mut owed_money) = (0i64, 0i64);
        let mut generation = 1u8;
        for round in 0..2_200u32 {
            let tid = (MADE + round * 3 + 2) / 1_440 * 1_440 + 2 + round % 1_400 + round / 1_400 * 1_440;
            let tid = tid.max(MADE + 1 + round);
            let present = key(generation, algorithm);
            let kind = KINDS[(round % 5) as usize];
            let entered: Vec<Token> = match kind {
                "credit" => vec![credit(tid, 17, &present)],
                "money" => vec![money(tid, 250_000, &present)],
                "management" => vec![manage(Function::MaximumPower, tid, 1_000, &present)],
                "bad entry" => vec![Token::parse(&format!("{:020}", draws.below(1 << 60))).unwrap()],
                _ => {
                    generation = generation % 200 + 1;
                    sections(&present, &key(generation, algorithm), generation % 9 + 1)
                }
            };
            // Three cuts at any byte of the record, or after its last one; then the power stays on.
            for _ in 0..3 {
                let record_size = encode_record(bench.state()).len() as u64;
                let cut = draws.below(record_size + 80) as usize;
                bench.erases = draws.below(2) == 0;
                for token in &entered {
                    if bench.enter(*token, Some(cut)).is_none() {
                        *cuts.entry(kind).or_default() += 1;
                        lengths.insert(cut.min(record_size as usize));
                    }
                }
            }
            let told: Vec<_> = entered.iter().map(|token| bench.enter(*token, None).unwrap()).collect();
            match kind {
                "credit" => owed += 17,
                "money" => owed_money += Money::new(250_000).unwrap().value().unwrap(),
                _ => {}
            }
            if matches!(kind, "credit" | "money" | "management") {
                assert!(matches!(told[0], Ok(_) | Err(Refusal::Used)), "{kind} {round}: {told:?}");
                assert_eq!(bench.enter(entered[0], None), Some(Err(Refusal::Used)));
            }
            let registers = &bench.state().registers;
            assert_eq!((registers.credit[0], registers.credit[6]), (owed, owed_money), "{kind} {round}");
        }
    }
    let all: u32 = cuts.values().sum();
    assert!(all >= 10_000 && KINDS.iter().all(|kind| cuts[kind] >= 100), "{cuts:?}");
    assert!(
        (0..lengths.last().unwrap() - 1).all(|length| lengths.contains(&length)),
        "every length was torn"
    );
}

#[test]
fn tokens_are_refused_for_the_reason_that_the_sheet_names() {
    let algorithm = Algorithm::Misty1;
    let present = key(1, algorithm);
    let mut bench = Bench::new(algorithm, KeyType::Unique, 2);
    let mut enter = |token| bench.enter(token, None).unwrap();
    assert!(enter(credit(MADE + 100, 5, &present)).is_ok());
    assert!(enter(credit(MADE + 200, 5, &present)).is_ok());
    assert_eq!(enter(credit(MADE + 200, 9, &present)), Err(Refusal::Used), "one identifier, two tokens");
    assert_eq!(enter(credit(MADE + 99, 5, &present)), Err(Refusal::Old));
    assert!(enter(credit(MADE + 150, 5, &present)).is_ok(), "between two that were used");
    assert_eq!(enter(credit(0xFF_0000, 5, &present)), Err(Refusal::KeyExpired));
    assert_eq!(enter(credit(MADE + 300, 5, &key(7, algorithm))), Err(Refusal::Crc), "for another meter");
    assert_eq!(enter(manage(Function::TariffRate, MADE + 300, 5, &present)), Err(Refusal::Function));
    assert_eq!(enter(manage(Function::ClearCredit, MADE + 300, 8, &present)), Err(Refusal::Range));
    let test =
        Content::Test { control: 1, manufacturer: Manufacturer::Two(0) }.to_block().unwrap().print().unwrap();
    assert!(enter(test).is_ok());
    assert!(enter(manage(Function::ClearCredit, MADE + 300, 0xFFFF, &present)).is_ok());
    assert_eq!(bench.state().registers.credit, [0; 8]);
}

#[test]
fn an_overflowing_token_stays_good_and_a_default_key_takes_no_credit() {
    let algorithm = Algorithm::Sta;
    let present = key(1, algorithm);
    let mut bench = Bench::new(algorithm, KeyType::Unique, 5);
    let most = money(MADE + 1, i64::MAX / 1_000_000, &present);
    assert_eq!(bench.enter(most, None), Some(Err(Refusal::Overflow)));
    assert_eq!(bench.state().lockout.bad_count, 0, "a genuine token is no bad entry");
    assert!(bench.enter(credit(MADE + 1, 5, &present), None).unwrap().is_ok(), "its identifier is not used");

    let mut shipped = Bench::new(algorithm, KeyType::Default, 5);
    assert_eq!(shipped.enter(credit(MADE + 1, 5, &present), None), Some(Err(Refusal::DefaultKey)));
    let refused: Vec<_> = sections(&present, &key(2, algorithm), 2)
        .into_iter()
        .map(|token| shipped.enter(token, None).unwrap())
        .collect();
    assert_eq!(refused, [Ok(Accepted::Section), Err(Refusal::KeyType)]);
}

#[test]
fn guessing_locks_and_a_power_cut_does_not_unlock() {
    let present = key(1, Algorithm::Misty1);
    let mut bench = Bench::new(Algorithm::Misty1, KeyType::Unique, 5);
    let guess = |number: u64| Token::parse(&format!("{number:020}")).unwrap();
    for number in 1..=3 {
        assert_eq!(bench.enter_now(guess(number), None), Some(Err(Refusal::Crc)));
    }
    let good = credit(MADE + 1, 5, &present);
    assert_eq!(bench.enter_now(good, None), Some(Err(Refusal::Locked { left_s: 10 })));
    bench.now.0 += 9_000;
    bench.power_on();
    assert_eq!(bench.enter_now(good, None), Some(Err(Refusal::Locked { left_s: 10 })), "it starts anew");
    let test =
        Content::Test { control: 1, manufacturer: Manufacturer::Two(0) }.to_block().unwrap().print().unwrap();
    assert!(bench.enter_now(test, None).unwrap().is_ok(), "tests still work");
    bench.now.0 += 10_000;
    assert!(bench.enter_now(good, None).unwrap().is_ok());
    assert_eq!(bench.state().lockout.bad_count, 0);
    // A cut before the count is durable tells the guesser nothing.
    assert_eq!(bench.enter_now(guess(9), Some(0)), None);
}

#[test]
fn sections_mixed_from_two_sets_do_not_strand_the_meter() {
    for algorithm in [Algorithm::Sta, Algorithm::Misty1] {
        let (present, one, two) = (key(1, algorithm), key(2, algorithm), key(3, algorithm));
        let mut bench = Bench::new(algorithm, KeyType::Unique, 5);
        let (first, second) = (sections(&present, &one, 2), sections(&present, &two, 2));
        let mixed: Vec<Token> = first[..1].iter().chain(&second[1..]).copied().collect();
        for token in mixed {
            assert!(bench.enter(token, None).unwrap().is_ok(), "nothing in the standard tells them apart");
        }
        // The key that came of it is nobody's. Credit under the old one is refused, the set under it still brings the new one.
        assert_eq!(bench.enter(credit(MADE + 1, 5, &present), None), Some(Err(Refusal::Crc)));
        bench.power_on();
        let told: Vec<_> = second.iter().map(|token| bench.enter(*token, None).unwrap()).collect();
        assert_eq!(told.last(), Some(&Ok(Accepted::KeyChanged)));
        assert!(bench.enter(credit(MADE + 1, 5, &two), None).unwrap().is_ok());
        // The proved key is alone now.
        for token in &first {
            assert_eq!(bench.enter(*token, None), Some(Err(Refusal::Crc)));
        }
        assert!(bench.state().before.is_none());
    }
}

#[test]
fn a_section_that_differs_from_the_one_with_its_number_starts_a_new_set() {
    let algorithm = Algorithm::Misty1;
    let (present, one, two) = (key(1, algorithm), key(2, algorithm), key(3, algorithm));
    let (first, second) = (sections(&present, &one, 2), sections(&present, &two, 2));
    for number in 0..3 {
        let mut bench = Bench::new(algorithm, KeyType::Unique, 5);
        for token in first[..3].iter().chain(&second[number..=number]).chain(&first[3..]) {
            assert_eq!(bench.enter(*token, None), Some(Ok(Accepted::Section)), "no set is complete");
        }
        for token in &second {
            bench.enter(*token, None).unwrap().unwrap();
        }
        for token in &second {
            bench.enter(*token, None).unwrap().unwrap();
        }
        assert!(bench.enter(credit(MADE + 1, 5, &two), None).unwrap().is_ok(), "the second set is whole");
    }
}

#[test]
fn a_token_of_another_meter_or_base_date_is_refused() {
    let vending = || VendingKey::take(Dkga::Four, &mut [3; 20]).unwrap();
    let pan = |drn: &str| Pan::new("600727", drn, DrnCheck::Off).unwrap();
    for algorithm in [Algorithm::Sta, Algorithm::Misty1] {
        let own = attributes(1, KeyType::Unique);
        let derive = |drn, attributes| vending().derive(algorithm, &pan(drn), &attributes).unwrap();
        let present = derive("11111111115", own);
        let mut bench = Bench::with(algorithm, KeyType::Unique, 5, &present);
        for (name, other) in [
            ("meter", derive("11111111123", own)),
            ("base", derive("11111111115", KeyAttributes { base: BaseDate::Y2035, ..own })),
            ("revision", derive("11111111115", attributes(2, KeyType::Unique))),
            ("kind", derive("11111111115", attributes(1, KeyType::Default))),
        ] {
            let token = credit(MADE + 1, 5, &other);
            assert_eq!(bench.enter(token, None), Some(Err(Refusal::Crc)), "{name}");
        }
        assert_eq!(bench.state().registers.credit, [0; 8]);
        assert!(bench.enter(credit(MADE + 1, 5, &present), None).unwrap().is_ok());
    }
}

#[test]
fn sections_are_forgotten_after_a_day_and_by_a_power_cut() {
    let algorithm = Algorithm::Misty1;
    let (present, next) = (key(1, algorithm), key(2, algorithm));
    let set = sections(&present, &next, 2);
    for forget in ["day", "power"] {
        let mut bench = Bench::new(algorithm, KeyType::Unique, 5);
        for token in &set[..3] {
            assert_eq!(bench.enter_now(*token, None), Some(Ok(Accepted::Section)));
        }
        match forget {
            "day" => bench.now.0 += 25 * 3_600_000,
            _ => bench.power_on(),
        }
        assert_eq!(bench.enter_now(set[3], None), Some(Ok(Accepted::Section)), "{forget}");
        for token in &set[..3] {
            bench.enter_now(*token, None).unwrap().unwrap();
        }
        assert_eq!(bench.state().attributes.revision.value(), 2);
    }
}

#[test]
fn every_changed_digit_is_refused() {
    let present = key(1, Algorithm::Misty1);
    let token = credit(MADE + 1, 500, &present).to_string();
    for place in 0..20 {
        for digit in b'0'..=b'9' {
            let mut changed = token.clone().into_bytes();
            if changed[place] == digit {
                continue;
            }
            changed[place] = digit;
            let Ok(changed) = Token::parse(core::str::from_utf8(&changed).unwrap()) else { continue };
            let mut bench = Bench::new(Algorithm::Misty1, KeyType::Unique, 5);
            let told = bench.enter(changed, None).unwrap();
            // A changed class bit can make a token of class 1; it then has no check sum that fits.
            assert!(told.is_err(), "place {place} digit {digit}: {told:?}");
            assert_eq!(bench.state().registers.credit, [0; 8]);
        }
    }
}

#[test]
fn a_token_far_ahead_of_a_trusted_clock_is_refused() {
    let present = key(1, Algorithm::Misty1);
    let mut bench = Bench::new(Algorithm::Misty1, KeyType::Unique, 5);
    let now = Tid::from_bits(MADE).time(BaseDate::Y2014);
    let mut at = |token, time: Option<UtcTime>| {
        let (meter, vault) = (bench.meter.as_mut().unwrap(), &mut bench.vault);
        meter.handle(Tick(1), Input::Token(token, time), vault).unwrap();
        meter.poll().unwrap()
    };
    assert_eq!(at(credit(MADE + 1_442, 5, &present), Some(now)), Output::Told(Err(Refusal::Future)));
    // A bad entry is durable before it is told; until then the meter is busy.
    let Output::Persist { sequence, .. } = at(credit(MADE + 2, 5, &key(9, Algorithm::Misty1)), Some(now))
    else {
        panic!()
    };
    let (meter, vault) = (bench.meter.as_mut().unwrap(), &mut bench.vault);
    let busy = meter.handle(Tick(1), Input::Token(credit(1, 1, &present), None), vault);
    assert_eq!(busy, Err(MeterError::Busy));
    assert_eq!(meter.handle(Tick(1), Input::Persisted(9), vault), Err(MeterError::NotAwaited(9)));
    meter.handle(Tick(1), Input::Persisted(sequence), vault).unwrap();
    assert_eq!(meter.poll(), Some(Output::Told(Err(Refusal::Crc))));
}

#[test]
fn the_lock_out_never_ends_for_good() {
    let present = key(1, Algorithm::Misty1);
    let mut bench = Bench::new(Algorithm::Misty1, KeyType::Unique, 5);
    for number in 0..300u64 {
        let guess = Token::parse(&format!("{number:020}")).unwrap();
        assert_eq!(bench.enter(guess, None), Some(Err(Refusal::Crc)), "{number}");
    }
    let good = credit(MADE + 1, 5, &present);
    assert_eq!(bench.enter_now(good, None), Some(Err(Refusal::Locked { left_s: 1_280 })));
}

#[test]
fn genuine_tokens_that_are_refused_lock_nobody_out() {
    let present = key(1, Algorithm::Misty1);
    let mut bench = Bench::new(Algorithm::Misty1, KeyType::Unique, 5);
    for _ in 0..10 {
        assert_eq!(bench.enter_now(credit(5, 5, &present), None), Some(Err(Refusal::Old)));
        assert_eq!(bench.enter_now(credit(0xFF_0000, 5, &present), None), Some(Err(Refusal::KeyExpired)));
    }
    assert!(bench.enter_now(credit(MADE + 1, 5, &present), None).unwrap().is_ok());
}

fn roll_over(from: &DecoderKey, to: &DecoderKey) -> Vec<Token> {
    let attributes = KeyAttributes { base: BaseDate::Y2035, ..attributes(2, KeyType::Unique) };
    KeyChange { key: to, attributes, roll_over: true, triplet: false }.tokens(from).unwrap()
}

/// A roll-over to the key that the meter has, from an issuer without our guard.
fn same_key(present: &DecoderKey, other: &DecoderKey) -> Vec<Token> {
    let attributes = KeyAttributes { base: BaseDate::Y2035, ..attributes(2, KeyType::Unique) };
    let change = KeyChange { key: present, attributes, roll_over: true, triplet: false };
    assert_eq!(change.tokens(present), Err(KeyChangeError::SameKey));
    let under_other = change.tokens(other).unwrap();
    under_other.into_iter().map(|token| Block::open(token, Some(other)).unwrap().0.seal(present)).collect()
}

#[test]
fn a_roll_over_entered_twice_moves_the_base_date_once_and_needs_another_key() {
    for algorithm in [Algorithm::Sta, Algorithm::Misty1] {
        let (present, next) = (key(1, algorithm), key(2, algorithm));
        let mut bench = Bench::new(algorithm, KeyType::Unique, 5);
        for _ in 0..3 {
            let told: Vec<_> = roll_over(&present, &next)
                .into_iter()
                .map(|token| bench.enter(token, None).unwrap())
                .collect();
            assert_eq!(told.last(), Some(&Ok(Accepted::KeyChanged)));
            assert_eq!(bench.state().attributes.base, BaseDate::Y2035);
        }
        assert!(bench.enter(credit(7, 5, &next), None).unwrap().is_ok(), "identifiers count from anew");

        let mut same = Bench::new(algorithm, KeyType::Unique, 5);
        assert!(same.enter(credit(MADE + 1, 5, &present), None).unwrap().is_ok());
        let told: Vec<_> =
            same_key(&present, &next).into_iter().map(|token| same.enter(token, None).unwrap()).collect();
        assert_eq!(told.last(), Some(&Err(Refusal::Range)));
        assert_eq!(same.enter(credit(MADE + 1, 5, &present), None), Some(Err(Refusal::Used)));
    }
}

#[test]
fn a_mixed_set_that_brings_in_a_default_key_is_repaired_by_the_right_one() {
    let algorithm = Algorithm::Sta;
    let (present, one, two) = (key(1, algorithm), key(2, algorithm), key(3, algorithm));
    let to_default = |to: &DecoderKey| {
        KeyChange { key: to, attributes: attributes(2, KeyType::Default), roll_over: false, triplet: false }
            .tokens(&present)
            .unwrap()
    };
    let mut bench = Bench::new(algorithm, KeyType::Unique, 5);
    bench.enter(to_default(&one)[0], None).unwrap().unwrap();
    bench.enter(to_default(&two)[1], None).unwrap().unwrap();
    let told: Vec<_> = to_default(&two).into_iter().map(|token| bench.enter(token, None).unwrap()).collect();
    assert_eq!(told.last(), Some(&Ok(Accepted::KeyChanged)));
    assert!(bench.enter(manage(Function::ClearTamper, MADE + 1, 0, &two), None).unwrap().is_ok());
}

#[test]
fn a_failing_vault_leaves_the_old_key_in_force() {
    let algorithm = Algorithm::Sta;
    let (present, next) = (key(1, algorithm), key(2, algorithm));
    let mut bench = Bench::new(algorithm, KeyType::Unique, 5);
    let set = sections(&present, &next, 2);
    bench.enter(set[0], None).unwrap().unwrap();
    bench.vault.fails = true;
    let meter = bench.meter.as_mut().unwrap();
    assert_eq!(
        meter.handle(Tick(9_000_000), Input::Token(set[1], None), &mut bench.vault),
        Err(MeterError::Vault)
    );
    assert!(meter.poll().is_none());
    bench.vault.fails = false;
    assert!(bench.enter(credit(MADE + 1, 5, &present), None).unwrap().is_ok());
}
