//! Whole associations as trees: everything is named, what is protected opens with the keys, nothing else does.

use gridseal_crypto::{Key, apdu};
use gridseal_dlms::{
    acse::{InitiateRequest, Mechanism},
    apdu::{carrier::Carrier, general::GeneralSigning},
    assoc::{
        CryptoFault,
        client::{self, ClientSettings, OwnedSelection, Request},
        server::ServerSettings,
    },
    fuzz_entry,
    tree::{Authenticity, Carried, Decoded, Form, Node, Opened, Opener, Scalar, TreeDecoder},
    wire::Data,
};
use gridseal_types::SystemTitle;

use crate::pair::{CLIENT_TITLE, CLOCK, ECHO, ENERGY, PROFILE, Pair, SERVER_TITLE, ring};

/// The keys of both ends.
#[derive(Default)]
struct Keys {
    dedicated: Option<Key<gridseal_crypto::role::DedicatedKey, 16>>,
    claimed: Vec<(bool, SystemTitle)>,
}

impl Opener for Keys {
    fn open(&mut self, carried: Carried<'_>) -> Result<Option<Opened>, CryptoFault> {
        let Carried::Ciphered(carried) = carried else { return Ok(None) };
        let (keys, protected) = (ring(), carried.protected);
        if !protected.security_control.is_authenticated() {
            return Err(CryptoFault::SecurityControl(protected.security_control));
        }
        for originator in [CLIENT_TITLE, SERVER_TITLE] {
            let header = apdu::Header { originator, security_control: protected.security_control.0 };
            let counter = protected.invocation_counter;
            let plain = if carried.carrier.is_dedicated() {
                let key = self.dedicated.as_ref().ok_or(CryptoFault::NoKey)?;
                apdu::unprotect(key, &keys.gak, header, counter, protected.body)
            } else {
                apdu::unprotect(&keys.guek, &keys.gak, header, counter, protected.body)
            };
            let Some(plain) = plain else { continue };
            if let Ok(InitiateRequest { dedicated_key: Some(key), .. }) = InitiateRequest::from_bytes(&plain)
            {
                self.dedicated = Key::take_slice(&mut key.0.to_vec());
            }
            return Ok(Some(Opened { plain, is_verified: true, how: "test".into() }));
        }
        Err(CryptoFault::Tag)
    }

    fn verifies(&mut self, _: &GeneralSigning<'_>) -> Option<bool> {
        None
    }

    fn claimed(&mut self, is_client: bool, title: SystemTitle) {
        self.claimed.push((is_client, title));
    }
}

fn any<'n>(nodes: &'n [Node], is_wanted: &dyn Fn(&Node) -> bool) -> Option<&'n Node> {
    nodes.iter().find_map(|node| if is_wanted(node) { Some(node) } else { any(&node.children, is_wanted) })
}

fn one(decoder: &mut TreeDecoder, bytes: &[u8], keys: &mut Keys) -> Decoded {
    let mut frames = decoder.decode(bytes, Form::Auto, keys);
    assert_eq!(frames.len(), 1);
    frames.remove(0)
}

/// An association with every service that the machines speak.
fn recorded(carrier: Carrier) -> Vec<Vec<u8>> {
    let settings = ClientSettings { carrier, ..ClientSettings::ciphered(CLIENT_TITLE, Mechanism::Gmac) };
    let server = ServerSettings::ciphered(1, SERVER_TITLE, Mechanism::Gmac);
    let mut pair = Pair::new(settings, server).associated();
    let value = Data::OctetString(&[0x5A; 3_000]).to_bytes();
    let parameter =
        Data::Structure(vec![Data::DoubleLongUnsigned(1), Data::DoubleLongUnsigned(2)]).to_bytes();
    let selection = Some(OwnedSelection { selector: 2, parameter });
    for request in [
        Request::Get(ENERGY, None),
        Request::Get(PROFILE, selection),
        Request::GetList(vec![(ENERGY, None), (CLOCK, None)]),
        Request::Set(ENERGY, None, Data::Unsigned(7).to_bytes()),
        Request::Set(CLOCK, None, value.clone()),
        Request::SetList(vec![(ENERGY, None, Data::Unsigned(8).to_bytes())]),
        Request::Action(ECHO, None),
        Request::Action(ECHO, Some(value)),
        Request::ActionList(vec![(ECHO, None), (ECHO, Some(Data::Unsigned(1).to_bytes()))]),
        Request::Access(vec![client::AccessItem::Get(ENERGY, None), client::AccessItem::Action(ECHO, None)]),
    ] {
        pair.ask(request);
    }
    pair.input(client::Input::Release);
    pair.wire.into_iter().map(|(_, apdu)| apdu).collect()
}

#[test]
fn every_message_of_an_association_is_named_and_opened_and_blocks_are_put_together() {
    for carrier in [Carrier::Glo, Carrier::Ded, Carrier::GeneralGlo, Carrier::GeneralDed] {
        let (mut decoder, mut keys) = (TreeDecoder::new(), Keys::default());
        let mut is_whole = 0;
        for apdu in recorded(carrier) {
            let frame = one(&mut decoder, &apdu, &mut keys);
            assert_eq!(frame.fault, None, "{carrier:?} {frame:?}");
            assert_eq!(frame.authenticity, Authenticity::Verified, "{carrier:?}");
            assert!(any(&frame.nodes, &|node| node.field.contains("unknown")).is_none(), "{frame:?}");
            let is_long =
                |node: &Node| matches!(&node.value, Some(Scalar::Octets(bytes)) if bytes.len() == 3_000);
            let whole = any(&frame.nodes, &|node| {
                node.field == "put together" && any(&node.children, &is_long).is_some()
            });
            is_whole += usize::from(whole.is_some());
            // A key that is delivered is nowhere in the tree.
            let shows_key = any(&frame.nodes, &|node| {
                node.field == "dedicated-key" && node.value.is_some() && node.size > 1
            });
            assert_eq!(shows_key, None);
        }
        assert_eq!(decoder.pending(), 0);
        assert_eq!(is_whole, 3, "{carrier:?}: written, sent to the method, and what it gave back");
        assert_eq!(keys.claimed, [(true, CLIENT_TITLE), (false, SERVER_TITLE)]);
        assert_eq!(keys.dedicated.is_some(), carrier.is_dedicated());
    }
}

//= DLMS 12.1: the tag is compared, whatever bit is flipped
#[test]
fn no_flipped_bit_of_a_protected_message_releases_anything() {
    let all = recorded(Carrier::GeneralGlo);
    for apdu in all.iter().filter(|apdu| apdu[0] == 0xDB && apdu.len() < 100).take(4) {
        for bit in 0..8 * apdu.len() {
            let mut changed = apdu.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let frames = TreeDecoder::new().decode(&changed, Form::Apdu, &mut Keys::default());
            let released = any(&frames[0].nodes, &|node| node.field == "plain apdu");
            // The title is the test opener's own guess: a changed one is not what the nonce was made of.
            let is_title = (2..10).contains(&(bit / 8));
            assert!(released.is_none() || is_title, "bit {bit}");
        }
    }
}

#[test]
fn wanton_messages_end_at_a_limit() {
    let nested = |levels: usize| {
        let mut bytes = vec![0xC4, 1, 0xC1, 0];
        (0..levels).for_each(|_| bytes.extend([2, 1]));
        bytes.push(0);
        bytes
    };
    let fault =
        |bytes: &[u8]| TreeDecoder::new().decode(bytes, Form::Apdu, &mut Keys::default()).remove(0).fault;
    assert_eq!(fault(&nested(16)), None);
    assert_eq!(fault(&nested(17)).map(|fault| (fault.code(), fault.offset)), Some(("dlms.form", 37)));
    // Gateways in gateways, and a compact array of nothing but structures.
    let gateways = [&[0xE6, 1, 0].repeat(40)[..], &[0xD8, 1, 5]].concat();
    assert_eq!(fault(&gateways).map(|fault| fault.code()), Some("dlms.form"));
    let many = [&[0x13, 2, 1, 2, 1, 2, 1, 0x11, 0x83, 1, 0, 0][..], &[7; 65_536]].concat();
    let frame = TreeDecoder::new().decode(&many, Form::Data, &mut Keys::default()).remove(0);
    assert!(frame.fault.is_some(), "262,144 nodes are too many");
    fuzz_entry::message_tree(&[&[4, 0xFF][..], &many].concat());
}
