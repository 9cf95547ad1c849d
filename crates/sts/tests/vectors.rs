//! The published tokens of the fact sheet, issued and read bit for bit.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use gridseal_crypto::sts::{Algorithm, DecoderKey};
use gridseal_sts::{
    amount::{Amount, Money},
    derive::{DeriveError, Dkga, VendingKey},
    identity::{
        DrnCheck, KeyAttributes, KeyExpiryNumber, KeyRevisionNumber, KeyType, Pan, SupplyGroupCode,
        TariffIndex,
    },
    key_change::{KeyChange, Sections},
    tid::{BaseDate, Tid},
    token::{Block, Class, Commodity, Content, Function, Manufacturer, Token},
};
use gridseal_types::UtcTime;
use toml::Table;

fn file(name: &str) -> Table {
    let path = format!("{}/../../tests/vectors/sts/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn cases<'f>(file: &'f Table, name: &str) -> impl Iterator<Item = &'f Table> {
    file[name].as_array().unwrap().iter().map(|case| case.as_table().unwrap())
}

/// Compares what came out with `expect` or `error` of a case; a case with neither only has to succeed.
fn judge(case: &Table, found: Result<String, String>) {
    match (case.get("error"), found) {
        (Some(error), Err(found)) => assert!(found.starts_with(error.as_str().unwrap()), "{case}: {found}"),
        (None, Ok(found)) => {
            let expected =
                case.get("expect").map(|value| value.as_str().map_or(value.to_string(), Into::into));
            assert!(expected.as_ref().is_none_or(|expected| *expected == found), "{case}: {found}");
        }
        (_, found) => panic!("{case}: {found:?}"),
    }
}

fn text<'t>(case: &'t Table, name: &str) -> &'t str {
    case.get(name).and_then(toml::Value::as_str).unwrap_or_else(|| panic!("{name} is missing in {case}"))
}

fn number(case: &Table, name: &str, default: i64) -> i64 {
    case.get(name).map_or(default, |value| value.as_integer().unwrap())
}

fn time(text: &str) -> UtcTime {
    let part = |from: usize, to: usize| text[from..to].parse::<u16>().unwrap();
    let small = |from: usize, to: usize| u8::try_from(part(from, to)).unwrap();
    UtcTime::from_civil(part(0, 4), small(5, 7), small(8, 10), small(11, 13), small(14, 16), 0).unwrap()
}

fn attributes(case: &Table, prefix: &str) -> KeyAttributes {
    let name = |field: &str| {
        let prefixed = format!("{prefix}{field}");
        if case.contains_key(&prefixed) { prefixed } else { field.to_owned() }
    };
    let small = |field, default| u8::try_from(number(case, &name(field), default)).unwrap();
    KeyAttributes {
        key_type: KeyType::from_number(small("key_type", 2)).unwrap(),
        supply_group: SupplyGroupCode::new(u32::try_from(number(case, &name("sgc"), 201_457)).unwrap())
            .unwrap(),
        tariff_index: TariffIndex::new(small("ti", 1)).unwrap(),
        revision: KeyRevisionNumber::new(small("krn", 1)).unwrap(),
        expiry: KeyExpiryNumber(small("ken", 255)),
        base: BaseDate::of_year(u16::try_from(number(case, &name("base"), 2014)).unwrap()).unwrap(),
    }
}

fn algorithm(case: &Table) -> Algorithm {
    if number(case, "ea", 7) == 11 { Algorithm::Misty1 } else { Algorithm::Sta }
}

fn key(case: &Table, prefix: &str) -> DecoderKey {
    derived(case, prefix).unwrap()
}

fn derived(case: &Table, prefix: &str) -> Result<DecoderKey, DeriveError> {
    let dkga = if number(case, "dkga", 4) == 2 { Dkga::Two } else { Dkga::Four };
    let default = match dkga {
        Dkga::Two => "abababababababab",
        Dkga::Four => "abababababababab949494949494949401234567",
    };
    let vending = case.get("vending_key").map_or(default, |key| key.as_str().unwrap());
    let vending = VendingKey::take(dkga, &mut hex::decode(vending).unwrap())?;
    let pan = Pan::parse(text(case, "pan"), DrnCheck::Off).unwrap();
    vending.derive(algorithm(case), &pan, &attributes(case, prefix))
}

fn content(case: &Table) -> Content {
    let value = number(case, "value", 0);
    let tid = || Tid::at(attributes(case, "").base, time(text(case, "time"))).unwrap();
    let (class, subclass) = text(case, "class").split_once('.').unwrap();
    let commodity = |subclass: u8| {
        [Commodity::Electricity, Commodity::Water, Commodity::Gas, Commodity::Time][usize::from(subclass)]
    };
    let control = || u64::try_from(number(case, "control", 0)).unwrap();
    match (class, subclass.parse::<u8>().unwrap()) {
        ("0", subclass @ 0..=3) => {
            let amount = Amount::new(value).unwrap();
            Content::Credit { commodity: commodity(subclass), random: 5, tid: tid(), amount }
        }
        ("0", subclass) => {
            let amount = Money::new(value).unwrap();
            Content::Currency { commodity: commodity(subclass - 4), tid: tid(), amount }
        }
        ("1", 0) => Content::Test { control: control(), manufacturer: Manufacturer::Two(0) },
        ("1", _) => Content::Test { control: control(), manufacturer: Manufacturer::Four(0) },
        (_, subclass) => {
            let function = Function::of(subclass).unwrap();
            let value = if function.is_amount() {
                Amount::new(value).unwrap().bits()
            } else {
                u16::try_from(value).unwrap()
            };
            Content::Management { function, random: 5, tid: tid(), value }
        }
    }
}

#[test]
fn each_published_token_is_issued_and_read_bit_for_bit() {
    let file = file("tokens");
    let cases = file["case"].as_array().unwrap();
    for case in cases {
        let case = case.as_table().unwrap();
        let (content, expected) = (content(case), text(case, "token"));
        let block = content.to_block().unwrap();
        if !block.class.is_enciphered() {
            assert_eq!(block.print().unwrap().to_string(), expected, "{case}");
            assert_eq!(Block::open(Token::parse(expected).unwrap(), None), Some((block, true)));
            continue;
        }
        let key = key(case, "");
        assert_eq!(block.seal(&key).to_string(), expected, "{case}");
        let (opened, is_right) = Block::open(Token::parse(expected).unwrap(), Some(&key)).unwrap();
        assert!(is_right && opened == block, "{case}");
        assert_eq!(Content::of_block(opened), Ok(content), "{case}");
    }
    assert!(cases.len() >= 30, "only {} cases", cases.len());
}

#[test]
fn each_published_key_change_is_issued_and_its_sections_make_the_key_in_any_order() {
    let file = file("tokens");
    for case in file["key_change"].as_array().unwrap() {
        let case = case.as_table().unwrap();
        let (present, next) = (key(case, ""), key(case, "to_"));
        let triplet = case.get("triplet").is_some_and(|value| value.as_bool().unwrap());
        let attributes = attributes(case, "to_");
        let change = KeyChange { key: &next, attributes, roll_over: false, triplet };
        let tokens: Vec<String> = change.tokens(&present).unwrap().iter().map(ToString::to_string).collect();
        let expected: Vec<&str> =
            case["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
        assert_eq!(tokens, expected, "{case}");

        for turn in 0..expected.len() {
            let mut sections = Sections::default();
            let mut order = expected.clone();
            order.rotate_left(turn);
            for (place, token) in order.iter().enumerate() {
                assert!(sections.complete(algorithm(case)).unwrap().is_none(), "{place} sections are no set");
                let (block, is_right) = Block::open(Token::parse(token).unwrap(), Some(&present)).unwrap();
                assert!(is_right);
                sections.take(block, false).unwrap();
            }
            let set = sections.complete(algorithm(case)).unwrap().unwrap();
            assert!(set.key.ct_eq(&next), "{case}");
            assert_eq!(
                (set.revision, set.expiry, set.tariff_index, set.key_type),
                (attributes.revision, attributes.expiry, attributes.tariff_index, attributes.key_type)
            );
            assert!(set.supply_group.is_none_or(|group| group == attributes.supply_group));
        }
    }
}

#[test]
fn keys_ciphers_and_amounts_are_those_of_the_sheet_and_what_is_not_verified_is_refused() {
    let file = file("decoder-keys");
    let block = |text: &str| u64::from_str_radix(text, 16).unwrap();
    for case in cases(&file, "decoder_key") {
        // A key cannot be shown: it is compared with the expected one.
        let expected = |key: DecoderKey| {
            let mut bytes = hex::decode(text(case, "expect")).unwrap();
            assert!(key.ct_eq(&DecoderKey::take(algorithm(case), &mut bytes).unwrap()), "{case}");
            text(case, "expect").to_owned()
        };
        judge(case, derived(case, "").map(expected).map_err(|error| error.to_string()));
    }
    for case in cases(&file, "cipher") {
        let key = DecoderKey::take(algorithm(case), &mut hex::decode(text(case, "key")).unwrap()).unwrap();
        let sealed = key.encrypt(block(text(case, "input")));
        judge(case, Ok(format!("{sealed:016x}")));
        assert_eq!(key.decrypt(sealed), block(text(case, "input")));
    }
    for case in cases(&file, "amount") {
        let coded = Amount::new(number(case, "value", 0));
        judge(case, coded.map(|coded| coded.bits().to_string()).map_err(|error| error.to_string()));
    }
}

#[test]
fn what_is_no_token_of_this_meter_is_refused_for_its_reason() {
    let file = file("refusals");
    let key = DecoderKey::take(Algorithm::Sta, &mut hex::decode("87f3ecbb2e46b48f").unwrap()).unwrap();
    let read = |text: &str| -> Result<String, String> {
        let token = Token::parse(text).map_err(|error| error.to_string())?;
        if Block::class_of(token) == Class::Reserved {
            return Err("class 3 is reserved".into());
        }
        let (block, is_right) = Block::open(token, Some(&key)).unwrap();
        if !is_right {
            return Err("check sum".into());
        }
        Content::of_block(block).map_err(|error| error.to_string())?;
        Ok(format!("{}.{}", block.class.number(), block.subclass))
    };
    for case in cases(&file, "token") {
        judge(case, read(text(case, "input")));
    }
    let payload = |case| u64::from_str_radix(text(case, "payload"), 16).unwrap();
    for case in cases(&file, "block") {
        let class = [Class::Credit, Class::Test, Class::Management][number(case, "class", 0) as usize];
        let block = Block { class, subclass: number(case, "subclass", 0) as u8, payload: payload(case) };
        judge(case, read(&block.seal(&key).to_string()));
    }
    for case in cases(&file, "section") {
        let subclass = number(case, "subclass", 0) as u8;
        let block = Block { class: Class::Management, subclass, payload: payload(case) };
        let mut sections = Sections::default();
        let taken = sections.take(block, false);
        assert_eq!(sections.is_empty(), taken.is_err(), "nothing is kept of what is refused");
        judge(case, taken.map(|()| String::new()).map_err(|error| error.to_string()));
    }
    for case in cases(&file, "pan") {
        let pan = Pan::parse(text(case, "input"), DrnCheck::Strict);
        judge(case, pan.map(|pan| pan.to_string()).map_err(|error| error.to_string()));
    }
}
