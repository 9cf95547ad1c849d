//! The init server's shell: one message, one transaction, one answer.

use std::collections::VecDeque;

use gridseal_types::records::{Commit, MemoryRecords};

use super::{
    network::Content,
    report::{Point, Rule, Violation},
    world::{Actor, Step, World},
};

use crate::works::vendor;

/// The process.
#[derive(Debug, Default)]
pub(super) struct InitProcess {
    records: MemoryRecords,
    inbox: VecDeque<(Actor, Content)>,
}

impl InitProcess {
    pub(super) fn lose_memory(&mut self) {
        self.inbox.clear();
    }

    pub(super) fn receive(&mut self, from: Actor, content: Content) {
        self.inbox.push_back((from, content));
    }
}

impl World {
    pub(super) fn init_acts(&mut self) -> Step {
        let utc = self.utc();
        let Some((from, content)) = self.init.inbox.pop_front() else { return Ok(()) };
        self.stir(Actor::InitServer);
        let (Content::Ask { wire, .. } | Content::Register { wire, .. }) = &content else { return Ok(()) };
        let answer = vendor().init.answer(&self.init.records, utc, wire);
        let answer =
            answer.map_err(|error| Violation::new(Rule::Contract, format!("init server: {error}")))?;
        if let Some(code) = answer.refused {
            self.note(format_args!("init server refused: {code:?}"));
        }
        if self.crashes(Actor::InitServer, Point::BeforeCommit) {
            return Ok(());
        }
        self.init.records.commit(answer.writes).expect("memory");
        if self.crashes(Actor::InitServer, Point::AfterCommit) {
            return Ok(());
        }
        self.check.answered(wire, &answer.reply);
        let reply = match content {
            Content::Register { call, .. } => Content::Registered { call, wire: answer.reply },
            Content::Ask { connection, .. } => Content::Answer { connection, wire: Some(answer.reply) },
            _ => return Ok(()),
        };
        self.send(Actor::InitServer, from, reply);
        Ok(())
    }
}
