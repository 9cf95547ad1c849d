//! The few objects of the weak meter.

use std::collections::{BTreeMap, BTreeSet};

use gridseal_dlms::{
    acse::Mechanism,
    apdu::result::{ActionResult, DataAccessResult},
    assoc::{AccessContext, ActionReply, AttributeRequest, MethodRequest, Objects, Protection, Value},
    wire::Data,
};
use gridseal_types::{ObisCode, SystemTitle};

use super::Weakness;

const ASSOCIATION: ObisCode = ObisCode::new([0, 0, 40, 0, 0, 255]);
const COUNTER: ObisCode = ObisCode::new([0, 0, 43, 1, 0, 255]);
const PORT: ObisCode = ObisCode::new([0, 0, 44, 2, 0, 255]);
const IMAGE: ObisCode = ObisCode::new([0, 0, 44, 0, 0, 255]);

struct Object {
    class: u16,
    version: u8,
    obis: ObisCode,
    is_public: bool,
    attributes: BTreeMap<i8, Vec<u8>>,
    methods: &'static [i8],
}

/// All of them.
pub struct Table {
    objects: Vec<Object>,
    weak: BTreeSet<Weakness>,
    /// Last counter accepted.
    pub last_counter: u32,
    /// Wrong attempts.
    pub refused: u32,
}

/// What a client may do with an attribute or method.
#[derive(Clone, Copy)]
struct May {
    read: bool,
    write: bool,
    invoke: bool,
}

impl Table {
    /// The objects of a meter with these titles.
    pub fn new(weak: BTreeSet<Weakness>, (client, server): (SystemTitle, SystemTitle), suite: u8) -> Self {
        let policy = if weak.contains(&Weakness::PolicyWeak) { 0x04 } else { 0x6C };
        let mut time = [0xFF; 12];
        time[..8].copy_from_slice(&[0x07, 0xEA, 11, 25, 3, 12, 0, 0]);
        let rows = vec![(7, Data::DoubleLongUnsigned(96))];
        let mut table = Self { objects: Vec::new(), weak, last_counter: 0, refused: 0 };
        let mut add = |class, version, groups, values: Vec<(i8, Data<'_>)>| {
            let obis = ObisCode::new(groups);
            let mut attributes = BTreeMap::from([(1, Data::OctetString(obis.groups()).to_bytes())]);
            attributes.extend(values.into_iter().map(|(id, value)| (id, value.to_bytes())));
            let is_public = matches!((class, groups), (8 | 15, _) | (1, [0, 0, 42 | 43, ..]));
            let methods: &'static [i8] = match class {
                15 => &[1],
                18 => &[1, 2, 3, 4],
                70 => &[1, 2],
                _ => &[],
            };
            table.objects.push(Object { class, version, obis, is_public, attributes, methods });
        };
        add(8, 0, [0, 0, 1, 0, 0, 255], vec![(2, Data::OctetString(&time)), (3, Data::Long(-60))]);
        add(15, 1, *ASSOCIATION.groups(), vec![(2, Data::Null)]);
        add(1, 0, [0, 0, 42, 0, 0, 255], vec![(2, Data::OctetString(b"GSLWEAK00000001"))]);
        add(1, 0, *COUNTER.groups(), vec![(2, Data::Null)]);
        let titles = (Data::OctetString(client.as_bytes()), Data::OctetString(server.as_bytes()));
        let setup = vec![(2, Data::Enum(policy)), (3, Data::Enum(suite)), (4, titles.0), (5, titles.1)];
        add(64, 1, [0, 0, 43, 0, 0, 255], setup);
        let unit = Data::Structure(vec![Data::Integer(0), Data::Enum(30)]);
        add(3, 0, [1, 0, 1, 8, 0, 255], vec![(2, Data::DoubleLongUnsigned(4_711)), (3, unit)]);
        add(7, 1, [1, 0, 99, 1, 0, 255], rows.clone());
        add(7, 1, [0, 0, 99, 98, 0, 255], rows);
        let breaker = vec![(2, Data::Boolean(true)), (3, Data::Enum(1)), (4, Data::Enum(4))];
        add(70, 0, [0, 0, 96, 3, 10, 255], breaker);
        let image = vec![(2, Data::DoubleLongUnsigned(64)), (5, Data::Boolean(true)), (6, Data::Enum(0))];
        add(18, 0, *IMAGE.groups(), image);
        add(124, 0, *PORT.groups(), vec![(10, Data::Null)]);
        if table.weak.contains(&Weakness::NoSecurityLog) {
            table.objects.retain(|object| !matches!(*object.obis.groups(), [0, 0, 99, 98, ..]));
        }
        table
    }

    fn is(&self, weakness: Weakness) -> bool {
        self.weak.contains(&weakness)
    }

    fn may(&self, context: &AccessContext, object: &Object) -> May {
        if context.mechanism != Mechanism::None || context.protection != Protection::None {
            return May { read: true, write: object.class == 8, invoke: true };
        }
        May {
            read: object.is_public || self.is(Weakness::PlainRead),
            write: object.class == 8 && self.is(Weakness::PlainWrite),
            invoke: object.class == 70 && self.is(Weakness::PlainWrite),
        }
    }

    fn list(&self, context: &AccessContext) -> Vec<u8> {
        let entry = |object: &Object| {
            let may = self.may(context, object);
            if !may.read {
                return None;
            }
            let mode = |id: i8| if may.write && id == 3 { 3 } else { 1 };
            let attributes = object
                .attributes
                .keys()
                .map(|id| Data::Structure(vec![Data::Integer(*id), Data::Enum(mode(*id)), Data::Null]));
            let methods = object
                .methods
                .iter()
                .map(|id| Data::Structure(vec![Data::Integer(*id), Data::Enum(u8::from(may.invoke))]));
            let rights =
                Data::Structure(vec![Data::Array(attributes.collect()), Data::Array(methods.collect())]);
            Some(
                Data::Structure(vec![
                    Data::LongUnsigned(object.class),
                    Data::Unsigned(object.version),
                    Data::OctetString(object.obis.groups()),
                    rights,
                ])
                .to_bytes(),
            )
        };
        let entries: Vec<Vec<u8>> = self.objects.iter().filter_map(entry).collect();
        // An array of few elements: tag and a count of one octet.
        let count = u8::try_from(entries.len()).unwrap_or(0);
        [vec![1, count], entries.concat()].concat()
    }
}

impl Objects for Table {
    fn get(&mut self, request: AttributeRequest<'_>) -> Result<Value, DataAccessResult> {
        let at = request.attribute;
        let is_it = |object: &&Object| object.class == at.class && object.obis == at.obis;
        let object = self.objects.iter().find(is_it).ok_or(DataAccessResult::ObjectUndefined)?;
        if !self.may(request.context, object).read {
            return Err(DataAccessResult::ReadWriteDenied);
        }
        let value = match (at.class, at.obis, at.attribute) {
            (15, ASSOCIATION, 2) => self.list(request.context),
            (1, COUNTER, 2) => Data::DoubleLongUnsigned(self.last_counter).to_bytes(),
            (124, PORT, 10) => Data::DoubleLongUnsigned(self.refused).to_bytes(),
            _ => object.attributes.get(&at.attribute).cloned().ok_or(DataAccessResult::ObjectUndefined)?,
        };
        Ok(Value::Encoded(value))
    }

    fn set(&mut self, request: AttributeRequest<'_>, value: &[u8]) -> Result<(), DataAccessResult> {
        let at = request.attribute;
        let is_it = |object: &Object| object.class == at.class && object.obis == at.obis;
        let found = self.objects.iter().position(is_it).ok_or(DataAccessResult::ObjectUndefined)?;
        let may_write = self.objects.get(found).is_some_and(|object| self.may(request.context, object).write);
        match self.objects.get_mut(found) {
            Some(object) if may_write && at.attribute == 3 => {
                object.attributes.insert(at.attribute, value.to_vec());
                Ok(())
            }
            _ => Err(DataAccessResult::ReadWriteDenied),
        }
    }

    fn action(&mut self, request: MethodRequest<'_>) -> ActionReply {
        let method = request.method;
        let is_image = (method.class, method.obis) == (18, IMAGE);
        let is_good = self.is(Weakness::ImageUnsigned);
        let Some(image) = self.objects.iter_mut().find(|object| is_image && object.obis == IMAGE) else {
            return ActionReply::refused(ActionResult::ReadWriteDenied);
        };
        let status = match method.method {
            1 => 1,
            2 => return ActionReply::SUCCESS,
            3 if is_good => 3,
            3 => 4,
            _ => return ActionReply::refused(ActionResult::ReadWriteDenied),
        };
        image.attributes.insert(6, Data::Enum(status).to_bytes());
        if status == 4 { ActionReply::refused(ActionResult::OtherReason) } else { ActionReply::SUCCESS }
    }
}
