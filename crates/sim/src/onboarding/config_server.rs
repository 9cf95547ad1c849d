//! The config server's shell: connections of devices, and pulls that are held until there is work.

use std::collections::BTreeMap;

use gridseal_onboarding::config_server::{Answer, ConfigServer};
use gridseal_trust::enrol::relay::RelayPull;
use gridseal_types::{N16, Tick};

use super::{
    network::Content,
    report::{Rule, Violation},
    world::{Actor, Happening, Step, World},
};

/// How long a pull is held when there is no work.
const HOLD_MS: u64 = 5_000;
/// How long a device's connection is held.
const CONNECTION_MS: u64 = 4_000;

/// The process. All of it is memory.
#[derive(Debug, Default)]
pub(super) struct ConfigProcess {
    relay: ConfigServer,
    /// Who waits on which connection, and what the device calls it: a doubled message comes on one of its own.
    devices: BTreeMap<u64, (Actor, u64)>,
    pulls: Vec<(u64, Tick)>,
    is_woken: bool,
}

impl ConfigProcess {
    pub(super) fn lose_memory(&mut self) {
        *self = Self::default();
    }

    pub(super) fn start(&mut self, first_id: u64) {
        self.relay = ConfigServer::new(first_id);
    }

    pub(super) const fn wake(&mut self) {
        self.is_woken = true;
    }
}

impl World {
    pub(super) fn relay_receives(&mut self, from: Actor, content: Content) {
        let now = self.now;
        match content {
            Content::Ask { connection, wire } => {
                let Actor::Meter(number) = from else { return };
                let source = N16([u8::try_from(number).unwrap_or(0); 16]);
                let own = self.number();
                self.relay.devices.insert(own, (from, connection));
                self.relay.relay.message(now, own, source, wire);
                self.schedule(CONNECTION_MS, Happening::GiveUp(own));
            }
            Content::Pull { connection, bytes } => {
                let Ok(pull) = RelayPull::decode(&bytes) else { return };
                let has_replies = !pull.replies.is_empty();
                if has_replies || self.relay.relay.has_work() {
                    let work = self.relay.relay.pull(now, pull);
                    let content = Content::Work { connection, bytes: work.encode() };
                    self.send(Actor::ConfigServer, Actor::Manager, content);
                } else {
                    let until = Tick(now.0 + HOLD_MS);
                    self.relay.pulls.push((connection, until));
                    self.wake_at(Actor::ConfigServer, until);
                }
            }
            _ => {}
        }
    }

    pub(super) fn relay_gives_up(&mut self, connection: u64) -> Step {
        self.relay.relay.give_up(connection);
        self.stir(Actor::ConfigServer);
        Ok(())
    }

    pub(super) fn relay_acts(&mut self) -> Step {
        let now = self.now;
        if let Some(output) = self.relay.relay.poll() {
            let Some((to, connection)) = self.relay.devices.remove(&output.connection) else {
                return Err(Violation::new(Rule::Contract, "config server answers a connection twice"));
            };
            let wire = match output.answer {
                Answer::Message(wire) => Some(wire),
                _ => None,
            };
            self.send(Actor::ConfigServer, to, Content::Answer { connection, wire });
        } else if self.relay.relay.has_work() && !self.relay.pulls.is_empty() {
            let (connection, _) = self.relay.pulls.remove(0);
            let work = self.relay.relay.pull(now, RelayPull { replies: Vec::new(), most: 8 });
            self.send(
                Actor::ConfigServer,
                Actor::Manager,
                Content::Work { connection, bytes: work.encode() },
            );
        } else if let Some(at) = self.relay.pulls.iter().position(|(_, until)| *until <= now) {
            let (connection, _) = self.relay.pulls.remove(at);
            let bytes = gridseal_trust::enrol::relay::RelayWork::default().encode();
            self.send(Actor::ConfigServer, Actor::Manager, Content::Work { connection, bytes });
        } else {
            if let Some(next) = self.relay.pulls.iter().map(|(_, until)| *until).min() {
                self.wake_at(Actor::ConfigServer, next);
            }
            return Ok(());
        }
        self.stir(Actor::ConfigServer);
        Ok(())
    }
}
