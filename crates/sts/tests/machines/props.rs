//! Tokens, amounts and sets at random.

use gridseal_crypto::sts::{Algorithm, DecoderKey};
use gridseal_sts::{
    amount::{Amount, Money},
    tid::Tid,
    token::{Block, Class, Commodity, Content, Function, Token},
};
use proptest::prelude::*;

fn key(algorithm: Algorithm, seed: u128) -> DecoderKey {
    let size = if algorithm == Algorithm::Misty1 { 16 } else { 8 };
    DecoderKey::take(algorithm, &mut seed.to_be_bytes()[..size]).unwrap()
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop_oneof![Just(Algorithm::Sta), Just(Algorithm::Misty1)]
}

fn content() -> impl Strategy<Value = Content> {
    let commodity = (0usize..4)
        .prop_map(|at| [Commodity::Electricity, Commodity::Water, Commodity::Gas, Commodity::Time][at]);
    let tid = (0u32..1 << 24).prop_map(Tid::from_bits);
    prop_oneof![
        (commodity.clone(), 0u8..16, tid.clone(), 0..=Amount::MAX).prop_map(
            |(commodity, random, tid, value)| {
                Content::Credit { commodity, random, tid, amount: Amount::new(value).unwrap() }
            }
        ),
        (commodity, tid.clone(), any::<i64>()).prop_map(|(commodity, tid, value)| {
            Content::Currency { commodity, tid, amount: Money::new(value).unwrap() }
        }),
        (0u8..16, tid, any::<u16>(), prop::sample::select(vec![0u8, 1, 2, 6, 7, 10])).prop_map(
            |(random, tid, value, subclass)| {
                Content::Management { function: Function::of(subclass).unwrap(), random, tid, value }
            }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_sealed_opens_to_itself(content in content(), algorithm in algorithm(), seed: u128) {
        let key = key(algorithm, seed);
        let token = content.to_block().unwrap().seal(&key);
        let read = Token::parse(&token.to_string()).unwrap();
        let (block, is_right) = Block::open(read, Some(&key)).unwrap();
        prop_assert!(is_right);
        prop_assert_eq!(Content::of_block(block), Ok(content));
    }

    #[test]
    fn ciphers_invert_each_other(algorithm in algorithm(), seed: u128, block: u64) {
        let key = key(algorithm, seed);
        prop_assert_eq!(key.decrypt(key.encrypt(block)), block);
        prop_assert_eq!(key.encrypt(key.decrypt(block)), block);
    }

    #[test]
    fn any_text_is_a_token_or_one_error(text in "\\PC{0,40}") {
        if let Ok(token) = Token::parse(&text) {
            prop_assert_eq!(Token::parse(&token.to_string()), Ok(token));
        }
    }

    #[test]
    fn any_digits_open_without_a_panic(bits in 0u128..1 << 66, algorithm in algorithm(), seed: u128) {
        let token = Token::parse(&format!("{bits:020}")).unwrap();
        let key = key(algorithm, seed);
        let (block, is_right) = Block::open(token, Some(&key)).unwrap();
        if is_right && block.class != Class::Reserved && block.class.is_enciphered() {
            prop_assert_eq!(block.seal(&key), token);
        }
    }

    #[test]
    fn a_single_changed_bit_of_the_payload_changes_the_check_sum(content in content(), bit in 0u32..44, seed: u128) {
        let key = key(Algorithm::Misty1, seed);
        let block = content.to_block().unwrap();
        let changed = Block { payload: block.payload ^ 1 << bit, ..block };
        prop_assert_ne!(changed.seal(&key), block.seal(&key));
    }

    #[test]
    fn money_is_booked_in_the_customers_favour_and_within_one_step(value: i64) {
        let money = Money::new(value).unwrap();
        prop_assert_eq!(Money::from_bits(money.bits()), money);
        if let Some(booked) = money.value() {
            prop_assert!(booked >= value);
            // 14 bits of mantissa: a step is at most a thousandth of what it is a step of.
            prop_assert!(i128::from(booked) - i128::from(value) <= i128::from(value).abs() / 1_000 + 1);
        }
    }
}
