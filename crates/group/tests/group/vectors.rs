//! The vectors in `tests/vectors/group`: what an independent program made from the format page.

use std::{fs, path::Path};

use gridseal_crypto::{
    Key, PublicKey, Rng, RngError,
    group::Master,
    role::{GroupKey, GroupMaster},
};
use gridseal_group::{
    Rekey, Scheme,
    epoch::{CommandError, EpochKeys},
    fragment::{Collector, cut},
    header::{Facts, GroupId, Header, HeaderError},
    member::{Member, ReceiveError},
    pair::PairRegister,
    sd::{self, SdMember, SdSender, TreeId},
    storage::{CommandMark, EpochRecord, Recovered, Seating},
    tree::Height,
};
use gridseal_types::{SystemTitle, UtcTime};
use toml::{Table, Value};

struct Vector(Table);

impl Vector {
    fn at(&self, part: &str, name: &str) -> &Value {
        let part = self.0.get(part).and_then(Value::as_table).unwrap_or_else(|| panic!("no {part}"));
        part.get(name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn bytes(&self, part: &str, name: &str) -> Vec<u8> {
        hex::decode(self.at(part, name).as_str().unwrap()).unwrap()
    }

    fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes("input", name).try_into().unwrap()
    }

    fn number<T: TryFrom<i64>>(&self, name: &str) -> T {
        T::try_from(self.at("input", name).as_integer().unwrap()).ok().unwrap()
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn tree(&self) -> TreeId {
        TreeId { tree: self.number("tree"), tree_epoch: self.number("tree_epoch") }
    }

    fn sender(&self) -> PublicKey {
        PublicKey::from_point(&self.array("sender")).unwrap()
    }

    fn master(&self) -> Master {
        Master::new(&Key::<GroupMaster, 32>::take(&mut self.array("master")))
    }

    fn group_key(&self) -> Key<GroupKey, 16> {
        Key::take(&mut self.array("group_key"))
    }

    fn facts(&self) -> Facts {
        Facts {
            scheme: Scheme::SubsetDifference,
            group: GroupId(self.array("group")),
            tree: self.tree(),
            key_epoch: self.number("key_epoch"),
            deadline: UtcTime(self.number("deadline")),
        }
    }

    fn member(&self, height: Height, seat: u32, floor: u32) -> Member<SdMember> {
        let tree = self.tree();
        let group = GroupId(self.array("group"));
        let labels = sd::labels(&self.master(), tree, height, seat);
        let receiver = SdMember::new(tree, height, seat, labels).unwrap();
        Member::new(Seating { group, tree, height, seat, floor, sender: self.sender() }, receiver)
    }
}

struct Salt([u8; 8]);

impl Rng for Salt {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        buffer.copy_from_slice(&self.0);
        Ok(())
    }
}

fn header(vector: &Vector) {
    let height = Height::new(vector.number("height")).unwrap();
    let assigned: u32 = vector.number("assigned");
    let evicted: Vec<u32> = vector.at("input", "evicted").as_array().unwrap().iter().map(seat).collect();
    let (master, key, facts) = (vector.master(), vector.group_key(), vector.facts());
    let wanted = vector.bytes("expect", "header");

    let mut sender = SdSender::new(&master, vector.tree(), height, assigned, Vec::new());
    let mut salt = Salt(vector.array("salt"));
    let body = sender.rekey(facts.key_epoch, &evicted, &key, &mut salt).unwrap();
    let opened = Header::open(&wanted, &vector.sender()).unwrap();
    assert_eq!(hex::encode(opened.body), hex::encode(&body), "the body, byte for byte");
    assert_eq!(opened.facts, facts);
    assert!(opened.is_key(&key));

    let last = height.seat_count() - 1;
    for seat in (0..=last).take(64).chain(evicted.iter().copied()).chain([assigned.saturating_sub(1), last]) {
        let has_key = vector.member(height, seat, 0).receive(&wanted).is_ok();
        assert_eq!(has_key, seat < assigned && !evicted.contains(&seat), "seat {seat}");
    }
    let keys = EpochKeys::new(facts, key);
    let yields = |name| Key::take(&mut vector.bytes("expect", name).try_into().unwrap());
    assert!(bool::from(keys.broadcast_key().ct_eq(&yields("broadcast_key"))));
    assert!(bool::from(keys.content_key("firmware").ct_eq(&yields("content_key"))));
    let gak = Key::take(&mut vector.bytes("expect", "broadcast_authentication_key").try_into().unwrap());
    assert!(bool::from(keys.broadcast_authentication_key().ct_eq(&gak)));
}

fn seat(value: &Value) -> u32 {
    u32::try_from(value.as_integer().unwrap()).unwrap()
}

fn raw(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn header_refused(vector: &Vector) {
    let height = Height::new(vector.number("height")).unwrap();
    let mut member = vector.member(height, vector.number("seat"), vector.number("present"));
    let error = member.receive(&vector.bytes("input", "header")).unwrap_err();
    let name = match error {
        ReceiveError::Header(HeaderError::Signature) => "signature",
        ReceiveError::Header(HeaderError::Truncated { .. }) => "truncated",
        ReceiveError::Header(HeaderError::Format) => "format",
        ReceiveError::Header(HeaderError::TooLong { .. }) => "too-long",
        ReceiveError::Other => "other",
        ReceiveError::Epoch { .. } => "epoch",
        ReceiveError::NoKey => "no-key",
        _ => "another",
    };
    assert_eq!(name, vector.text("error"));
    assert_eq!(member.key_epoch(), vector.number::<u32>("present"), "nothing changed");
}

fn command(vector: &Vector) {
    let facts = vector.facts();
    let height = Height::new(3).unwrap();
    let command = CommandMark { key_epoch: facts.key_epoch, number: vector.number("last") };
    let Facts { scheme, tree, key_epoch, deadline, .. } = facts;
    let record = EpochRecord { scheme, tree_epoch: tree.tree_epoch, key_epoch, deadline, command };
    let seating = *vector.member(height, 1, 0).seating();
    let labels = sd::labels(&vector.master(), tree, height, 1);
    let receiver = SdMember::new(tree, height, 1, labels).unwrap();
    let mut member = Member::restore(seating, receiver, &record, vector.group_key()).unwrap();
    let told = member.command(&vector.bytes("input", "command"), UtcTime(vector.number("now")));
    let name = match told {
        Ok((command, record)) => {
            assert_eq!(command.apdu, vector.bytes("expect", "apdu"));
            assert_eq!(i64::try_from(record.command.number).ok(), vector.at("expect", "number").as_integer());
            ""
        }
        Err(CommandError::Format) => "format",
        Err(CommandError::Signature) => "signature",
        Err(CommandError::Replay(_)) => "replay",
        Err(CommandError::Late(_)) => "late",
        Err(_) => "another",
    };
    assert_eq!(name, vector.text("error"));
}

fn fragments(vector: &Vector) {
    let message = vector.bytes("input", "message");
    let wanted: Vec<Vec<u8>> = vector.at("expect", "fragments").as_array().unwrap().iter().map(raw).collect();
    let made = cut(&message, vector.number("payload"), vector.number("parity_percent")).unwrap();
    assert_eq!(made, wanted);
    let mut collector = Collector::new(1 << 16);
    let whole = wanted.iter().rev().find_map(|fragment| collector.take(fragment).unwrap());
    assert_eq!(whole, Some(message));
}

fn ticket(vector: &Vector) {
    let secret = Key::<GroupMaster, 32>::take(&mut vector.array("secret"));
    let other = SystemTitle(vector.array("other"));
    let mut register = PairRegister::default();
    register.allow(other).unwrap();
    assert_eq!(register.ticket(&secret, other).unwrap().as_slice(), vector.bytes("expect", "ticket"));
    let wanted = Key::take(&mut vector.bytes("expect", "pair_key").try_into().unwrap());
    assert!(bool::from(register.key_for(&secret, other).unwrap().ct_eq(&wanted)));
}

fn storage(vector: &Vector) {
    let key_epoch = vector.number("key_epoch");
    let record = EpochRecord {
        scheme: Scheme::SubsetDifference,
        tree_epoch: vector.number("tree_epoch"),
        key_epoch,
        deadline: UtcTime(vector.number("deadline")),
        command: CommandMark { key_epoch, number: vector.number("number") },
    };
    let (sealed, wanted) = (vector.bytes("input", "sealed"), vector.bytes("expect", "record"));
    assert_eq!(record.encode(&sealed), Some(wanted.clone()));
    let found = Recovered::Record { record, sealed, is_second: true };
    assert_eq!(EpochRecord::recover(&[], &wanted), found);
}

#[test]
fn an_independent_program_makes_the_same_bytes_and_the_same_refusals() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/group");
    let mut count = [0; 2];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        let vector = Vector(fs::read_to_string(&path).unwrap().parse().unwrap());
        match vector.text("kind") {
            "header" => header(&vector),
            "header-refused" => header_refused(&vector),
            "command" => command(&vector),
            "fragments" => fragments(&vector),
            "ticket" => ticket(&vector),
            "storage" => storage(&vector),
            other => panic!("no runner for {other}"),
        }
        count[usize::from(!vector.text("error").is_empty())] += 1;
    }
    assert!(count[0] >= 10 && count[1] >= 20, "{count:?} vectors");
}
