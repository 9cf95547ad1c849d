//! Power comes back to a whole town: who arrives when, at a server that can answer only so many in a second.
//!
//! Every device is the real machine with its real waiting times, in virtual time; whom the server cannot answer waits and
//! comes again, as the machine says. A device that was answered is done here.

use std::{cmp::Reverse, collections::BinaryHeap};

use gridseal_crypto::PublicKey;
use gridseal_trust::{
    enrol::device::{Device, DeviceRecord, Firmware, Input, Output, Pace},
    root::{Description, RootReply, RootRequest},
    tpm,
};
use gridseal_types::Tick;

use crate::Schedule;

/// Generator of P-256: a point like any other.
const POINT: [u8; 64] = [
    0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77,
    0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f, 0xe3,
    0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33,
    0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];

/// What to simulate.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Devices that get power at the same moment.
    pub devices: u32,
    /// How patient each of them is.
    pub pace: Pace,
    /// Questions that the server answers in a second; the others get no answer.
    pub answers_per_second: u32,
    /// Seed of all draws.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// Arrivals in each second since power came.
    pub by_second: Vec<u32>,
    /// Devices that were answered.
    pub answered: u32,
    /// When the last of them was.
    pub last: Tick,
}

impl Arrivals {
    /// Most arrivals in one second.
    #[must_use]
    pub fn peak(&self) -> u32 {
        self.by_second.iter().copied().max().unwrap_or(0)
    }

    /// All arrivals, the repeated ones included.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_second.iter().map(|count| u64::from(*count)).sum()
    }
}

/// A device under way.
struct Town {
    devices: Vec<Option<Device>>,
    schedule: Schedule,
    queue: BinaryHeap<Reverse<(Tick, usize)>>,
    arrivals: Arrivals,
    answered_in: (usize, u32),
    answers_per_second: u32,
    /// The same for all: nobody looks at it here.
    ek_public: Vec<u8>,
}

/// Runs until every device was answered.
#[must_use]
pub fn run(plan: &Plan) -> Arrivals {
    let mut town = Town {
        devices: Vec::new(),
        schedule: Schedule::new(plan.seed),
        queue: BinaryHeap::new(),
        arrivals: Arrivals::default(),
        answered_in: (0, 0),
        answers_per_second: plan.answers_per_second,
        ek_public: PublicKey::from_point(&POINT)
            .map(|point| tpm::with_point(&tpm::ENDORSEMENT_TEMPLATE, &point))
            .unwrap_or_default(),
    };
    for number in 0..plan.devices {
        let firmware = Firmware {
            init_keys: Vec::new(),
            voucher_keys: Vec::new(),
            subject: number.to_string(),
            pace: plan.pace,
            place: None,
        };
        let mut device = Device::new(firmware, DeviceRecord::default());
        // Power comes to all at the same moment.
        if device.handle(Tick(0), Input::Start).is_ok() {
            town.devices.push(Some(device));
        }
    }
    for number in 0..town.devices.len() {
        town.drain(Tick(0), number);
    }
    while let Some(Reverse((now, number))) = town.queue.pop() {
        if let Some(Some(device)) = town.devices.get_mut(number) {
            // A deadline that has moved is not due any more.
            if device.deadline() == Some(now) && device.handle(now, Input::Timeout).is_ok() {
                town.drain(now, number);
            }
        }
    }
    town.arrivals
}

impl Town {
    /// Does what a device asks until it waits or was answered.
    fn drain(&mut self, now: Tick, number: usize) {
        let Some(Some(mut device)) = self.devices.get_mut(number).map(Option::take) else { return };
        while let Some(output) = device.poll() {
            let answered = match output {
                Output::Random(length) => {
                    let bytes: Vec<u8> = (0..length).map(|_| self.byte()).collect();
                    device.handle(now, Input::Random(&bytes))
                }
                Output::Root(RootRequest::Describe) => {
                    device.handle(now, Input::Root(Ok(RootReply::Described(described(&self.ek_public)))))
                }
                Output::Root(_) => device.handle(now, Input::Root(Ok(RootReply::Done))),
                Output::Transmit(..) => {
                    if self.arrives(now) {
                        return;
                    }
                    device.handle(now, Input::NoReply)
                }
                _ => Ok(()),
            };
            debug_assert!(answered.is_ok(), "the machine takes what it asked for");
        }
        if let Some(deadline) = device.deadline() {
            self.queue.push(Reverse((deadline, number)));
        }
        if let Some(place) = self.devices.get_mut(number) {
            *place = Some(device);
        }
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.schedule.below(256)).unwrap_or(0)
    }

    /// One arrival; whether the server can answer it.
    fn arrives(&mut self, now: Tick) -> bool {
        let second = usize::try_from(now.0 / 1_000).unwrap_or(usize::MAX);
        if self.arrivals.by_second.len() <= second {
            self.arrivals.by_second.resize(second.saturating_add(1), 0);
        }
        if let Some(count) = self.arrivals.by_second.get_mut(second) {
            *count = count.saturating_add(1);
        }
        if self.answered_in.0 != second {
            self.answered_in = (second, 0);
        }
        let is_answered = self.answered_in.1 < self.answers_per_second;
        if is_answered {
            self.answered_in.1 = self.answered_in.1.saturating_add(1);
            self.arrivals.answered = self.arrivals.answered.saturating_add(1);
            self.arrivals.last = now;
        }
        is_answered
    }
}

/// What any device's root says of itself before it has an owner.
fn described(ek_public: &[u8]) -> Description {
    Description {
        ek_public: ek_public.to_vec(),
        epoch: 0,
        pin: None,
        generation: 0,
        permanent: 0x400,
        platform_open: false,
        iak_public: Vec::new(),
        ek_certificate: Vec::new(),
    }
}
