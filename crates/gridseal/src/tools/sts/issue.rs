//! `gridseal sts issue`.

use anyhow::{Context, Result, bail};
use clap::Args;
use gridseal_io::rng::OsRng;
use gridseal_sts::{
    issuer::{Account, Order, Request, RequestId},
    token::{Commodity, Content, Function, Manufacturer},
};
use gridseal_types::UtcTime;
use serde_json::json;

use super::{Meter, number, parse_rfc3339};
use crate::observe::tell;

/// A token to be made.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    meter: Meter,
    /// Class: 0 credit, 1 test, 2 management.
    #[arg(long)]
    class: u8,
    /// Subclass.
    #[arg(long)]
    subclass: u8,
    /// Tenths of the unit for credit, 10^-5 of the currency unit for currency credit, else the raw number (watts, register).
    #[arg(long, allow_negative_numbers = true)]
    value: Option<i64>,
    /// When it is issued (RFC 3339); now by default.
    #[arg(long, value_name = "TIME", value_parser = parse_rfc3339)]
    time: Option<UtcTime>,
    /// 4 random bits; drawn by default.
    #[arg(long)]
    rnd: Option<u8>,
    /// Class 1: what to test or show, a bit each; decimal, or hex after 0x.
    #[arg(long, value_parser = number)]
    control: Option<u64>,
    /// Class 1: manufacturer code, as a number: 2 digits in 1.0, 4 in 1.1.
    #[arg(long, default_value_t = 0)]
    manufacturer: u16,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Show the decoder key, too. For test keys.
    #[arg(long)]
    danger_show_keys: bool,
}

/// Makes the token and prints it.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.class == 1 {
        let content = test(arguments)?;
        let token = content.to_block()?.print().context("class 1 is not enciphered")?;
        return print(arguments, &token.to_string(), None);
    }
    let order = order(arguments)?;
    let attributes = arguments.meter.attributes()?;
    let key = arguments.meter.key(&attributes, None)?;
    let random = match arguments.rnd {
        Some(random @ 0..=15) => random,
        Some(_) => bail!("--rnd has 4 bits: 0 to 15"),
        None => gridseal_crypto::random::<1>(&mut OsRng)?[0] & 0xF,
    };
    let request = Request { id: RequestId([0; 16]), order, random, attributes };
    let now = arguments.time.unwrap_or_else(gridseal_io::clock::utc_now);
    let (_, issued) = Account::new(attributes).issue(request, now)?;
    let token = issued.content.to_block()?.seal(&key);
    let shown = arguments.danger_show_keys.then(|| key.danger_reveal_hex());
    print(arguments, &token.to_string(), shown.as_deref())
}

fn test(arguments: &Arguments) -> Result<Content> {
    let control = arguments.control.context("class 1 needs --control")?;
    Ok(match arguments.subclass {
        0 => {
            let code = u8::try_from(arguments.manufacturer).ok().filter(|code| *code <= 99);
            let code = code.context("--manufacturer has 2 digits in class 1.0")?;
            Content::Test { control, manufacturer: Manufacturer::Two(code) }
        }
        1 if arguments.manufacturer > 9_999 => bail!("--manufacturer has 4 digits in class 1.1"),
        1 => Content::Test { control, manufacturer: Manufacturer::Four(arguments.manufacturer) },
        2 => Content::ReadExtended { control },
        other => bail!("class 1.{other} is reserved or proprietary: not supported"),
    })
}

fn order(arguments: &Arguments) -> Result<Order> {
    let commodity = |number: u8| {
        [Commodity::Electricity, Commodity::Water, Commodity::Gas, Commodity::Time]
            .into_iter()
            .find(|commodity| commodity.number() == number)
    };
    let value = match (arguments.value, arguments.subclass) {
        (Some(value), _) => value,
        (None, 5) if arguments.class == 2 => 0,
        _ => bail!("--value is missing"),
    };
    Ok(match (arguments.class, arguments.subclass) {
        (0, subclass @ 0..=3) => Order::Credit(commodity(subclass).context("commodity")?, value),
        (0, subclass @ 4..=7) => Order::Currency(commodity(subclass - 4).context("commodity")?, value),
        (2, 3 | 4 | 8 | 9) => bail!("sections of a key change are made by `gridseal sts key-change`"),
        (2, subclass) if Function::of(subclass).is_some() => {
            Order::Management(Function::of(subclass).context("function")?, value)
        }
        (class, subclass) => bail!("class {class}.{subclass} is reserved or proprietary: not supported"),
    })
}

fn print(arguments: &Arguments, token: &str, key: Option<&str>) -> Result<()> {
    if !arguments.json {
        let grouped: Vec<&str> = (0..5).filter_map(|group| token.get(group * 4..group * 4 + 4)).collect();
        tell(&grouped.join(" "))?;
        return Ok(key.map_or(Ok(()), |key| tell(&format!("decoder key {key}")))?);
    }
    let told = match key {
        None => json!({ "token": token }),
        Some(key) => json!({ "token": token, "decoder_key": key }),
    };
    Ok(tell(&told.to_string())?)
}
