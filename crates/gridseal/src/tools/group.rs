//! `gridseal group`: what a change of a group's key costs, before it is sent.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use gridseal_group::{
    fragment::{FRAGMENT_OVERHEAD, fragment_count},
    header, sd,
    tree::Height,
};
use serde_json::json;

use crate::observe::say;

/// Noun `group`.
#[derive(Debug, Subcommand)]
pub enum Group {
    /// Size, airtime and energy of a re-key, before it is sent.
    #[command(
        after_help = "Examples:\n  gridseal group plan --members 1000000 --evict 1000 --channel plc-2400\n  \
        gridseal group plan --members 50000 --evict 3 --stock 8000 --channel gprs --json\n\n\
        Rates and powers of the channels are planning figures, not measurements: set your own by --bit-rate and --receive-mw.\n\
        Exit codes: 0 done, 2 wrong arguments."
    )]
    Plan(Plan),
}

/// What is planned.
#[derive(Debug, Args)]
pub struct Plan {
    /// Members, 1 to 1048576.
    #[arg(long)]
    members: u32,
    /// How many are evicted.
    #[arg(long)]
    evict: u32,
    /// They are neighbours in the tree, not scattered.
    #[arg(long)]
    adjacent: bool,
    /// Members that know nothing of groups: each needs a wrapped key by unicast.
    #[arg(long, default_value_t = 0)]
    stock: u32,
    /// What it is sent over.
    #[arg(long, value_enum)]
    channel: Channel,
    /// Useful bits per second, in place of the channel's planning figure.
    #[arg(long, value_name = "BIT/S", value_parser = clap::value_parser!(u32).range(1..))]
    bit_rate: Option<u32>,
    /// What a receiver draws, milliwatts, in place of the channel's planning figure.
    #[arg(long, value_name = "MW")]
    receive_mw: Option<u32>,
    /// Parity for lost fragments, percent of the data.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(0..=95))]
    parity: u8,
    /// Times that everything is sent.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    repeats: u32,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Channel {
    #[value(name = "plc-2400")]
    Plc2400,
    Prime,
    G3,
    Gprs,
    NbIot,
    Lte,
    Wmbus,
}

/// Useful bit rate, payload of a fragment in bytes, draw of a receiver in milliwatts: planning figures.
const fn figures(channel: Channel) -> (u32, usize, u32) {
    match channel {
        Channel::Plc2400 => (1_200, 96, 300),
        Channel::Prime => (20_000, 256, 500),
        Channel::G3 => (15_000, 256, 500),
        Channel::Gprs => (30_000, 1_024, 700),
        Channel::NbIot => (20_000, 512, 200),
        Channel::Lte => (1_000_000, 1_024, 900),
        Channel::Wmbus => (50_000, 192, 60),
    }
}

/// A key_transfer of two keys, ciphered, with its answer: what a stock meter costs by unicast, bytes.
const UNICAST_SIZE: u64 = 200;

/// Runs a verb.
pub fn run(group: &Group) -> Result<ExitCode> {
    match group {
        Group::Plan(plan) => self::plan(plan),
    }
}

fn plan(plan: &Plan) -> Result<ExitCode> {
    let wrong = |text: &str| {
        eprintln!("error: {text}");
        Ok(ExitCode::from(2))
    };
    let Some(height) = Height::for_seats(plan.members).filter(|_| plan.members > 0) else {
        return wrong("a group has 1 to 1048576 members: split a larger one into several trees");
    };
    if plan.evict > plan.members {
        return wrong("--evict is at most --members");
    }
    if plan.stock > plan.members - plan.evict {
        return wrong("--stock is at most the members that remain");
    }
    let (rate, payload, draw_mw) = figures(plan.channel);
    let (rate, draw_mw) = (plan.bit_rate.unwrap_or(rate), plan.receive_mw.unwrap_or(draw_mw));
    let (blocks, body) = sd::body_size(height, plan.members, &evicted(plan));
    let message = header::OVERHEAD + body;
    let sent = fragment_count(message, payload, plan.parity);
    let broadcast = u64::try_from(sent * (payload + FRAGMENT_OVERHEAD))? * u64::from(plan.repeats);
    let unicast = u64::from(plan.stock) * UNICAST_SIZE;
    let seconds = |bytes: u64| bytes as f64 * 8.0 / f64::from(rate);
    let energy_j = seconds(broadcast) * f64::from(draw_mw) / 1_000.0;
    if plan.json {
        say(&json!({
            "members": plan.members, "evicted": plan.evict, "stock": plan.stock,
            "subsets": blocks, "message_bytes": message, "fragments": sent, "broadcast_bytes": broadcast,
            "broadcast_s": seconds(broadcast), "unicast_bytes": unicast, "unicast_s": seconds(unicast),
            "member_energy_j": energy_j, "bit_rate": rate, "receive_mw": draw_mw, "figures": "planning",
        })
        .to_string());
    } else {
        say(&format!("message    {message} bytes, {blocks} subsets for {} evicted", plan.evict));
        say(&format!(
            "broadcast  {sent} fragments, {broadcast} bytes, {:.1} s at {rate} bit/s",
            seconds(broadcast)
        ));
        if plan.stock > 0 {
            say(&format!(
                "unicast    {} stock meters, {unicast} bytes, {:.1} s",
                plan.stock,
                seconds(unicast)
            ));
        }
        say(&format!("member     {energy_j:.2} J to receive it all at {draw_mw} mW"));
        say("rates and powers are planning figures; set your own by --bit-rate and --receive-mw");
    }
    Ok(ExitCode::SUCCESS)
}

/// Neighbours from the first seat on, or seats spread evenly with a jitter: what random evictions cost within a percent.
fn evicted(plan: &Plan) -> Vec<u32> {
    if plan.adjacent || plan.evict == 0 {
        return (0..plan.evict).collect();
    }
    let (members, evict) = (u64::from(plan.members), u64::from(plan.evict));
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut seats = std::collections::BTreeSet::new();
    for last in members - evict..members {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let seat = ((u128::from(state) * u128::from(last + 1)) >> 64) as u64;
        if !seats.insert(seat) {
            seats.insert(last);
        }
    }
    seats.into_iter().filter_map(|seat| u32::try_from(seat).ok()).collect()
}
