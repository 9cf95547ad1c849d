//! The modes against published vectors.

use alloc::vec::Vec;

use super::*;

fn array<const N: usize>(hex: &str) -> [u8; N] {
    bytes(hex).try_into().unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).unwrap()
}

fn ephemeral(key: &str) -> EphemeralKeys {
    EphemeralKeys { encryption: Zeroizing::new(array(key)), authentication: Zeroizing::new(array(key)) }
}

// RFC 4493, section 4.
#[test]
fn cmac_gives_the_published_tags_however_the_message_is_cut() {
    let keys = ephemeral("2b7e151628aed2a6abf7158809cf4f3c");
    let message = bytes(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
    );
    for (length, tag) in [
        (0, "bb1d6929e95937287fa37d129b756746"),
        (16, "070a16b46b4d4144f79bdd9dd04a287c"),
        (40, "dfa66747de9ae63030ca32611497c827"),
        (64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ] {
        for cut in 0..=length {
            let (first, second) = message[..length].split_at(cut);
            assert_eq!(keys.mac(&[first, second]), array(tag), "{length} cut at {cut}");
        }
        assert!(keys.mac_verifies(&[&message[..length]], &bytes(tag)[..8]));
        assert!(!keys.mac_verifies(&[&message[..length]], &bytes(tag)[1..9]));
    }
    assert!(!keys.mac_verifies(&[], &[]), "an empty tag says nothing");
    assert!(!keys.mac_verifies(&[], &[0; 17]));
}

// RFC 3610, packet vector 1.
#[test]
fn ccm_gives_the_published_packet_and_opens_nothing_that_was_changed() {
    let keys = ephemeral("c0c1c2c3c4c5c6c7c8c9cacbcccdcecf");
    let nonce = array("00000003020100a0a1a2a3a4a5");
    let aad = bytes("0001020304050607");
    let plain = bytes("08090a0b0c0d0e0f101112131415161718191a1b1c1d1e");
    let mut text = plain.clone();
    let tag = keys.ccm_seal(&nonce, &aad, &mut text).unwrap();
    assert_eq!(text, bytes("588c979a61c663d2f066d0c2c0f989806d5f6b61dac384"));
    assert_eq!(tag, array("17e8d12cfdf926e0"));
    let sealed = text.clone();
    assert!(keys.ccm_open(&nonce, &aad, &mut text, &tag));
    assert_eq!(text, plain);
    for bit in 0..8 * (sealed.len() + 8 + aad.len()) {
        let mut all = [sealed.as_slice(), &tag, &aad].concat();
        all[bit / 8] ^= 1 << (bit % 8);
        let (text, rest) = all.split_at_mut(sealed.len());
        let (tag, aad) = rest.split_at(8);
        assert!(!keys.ccm_open(&nonce, aad, text, tag.try_into().unwrap()), "bit {bit}");
        assert!(text.iter().all(|byte| *byte == 0), "what does not verify is not released");
    }
}

// NIST SP 800-38A, F.2.1 and F.5.1.
#[test]
fn cbc_and_ctr_give_the_published_blocks() {
    let key = Key::take(&mut array("2b7e151628aed2a6abf7158809cf4f3c"));
    let key = MeterKeyRef::from(&key);
    let plain = bytes(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
    );
    let iv = array("000102030405060708090a0b0c0d0e0f");
    let mut text = plain.clone();
    key.cbc_encrypt(&iv, &mut text);
    assert_eq!(
        text,
        bytes(
            "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b273bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7"
        )
    );
    key.cbc_decrypt(&iv, &mut text);
    assert_eq!(text, plain);
    let counter = array("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
    key.ctr(&counter, &mut text);
    assert_eq!(
        text,
        bytes(
            "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
        )
    );
}

#[test]
fn long_texts_are_the_same_in_one_piece_and_block_by_block() {
    let key = Key::take(&mut [7; 16]);
    let key = MeterKeyRef::from(&key);
    let plain: Vec<u8> = (0..=255).cycle().take(16 * 21 + 5).collect();
    let mut text = plain.clone();
    key.cbc_encrypt(&[9; 16], &mut text);
    assert_eq!(text[16 * 21..], plain[16 * 21..], "no whole block, not touched");
    key.cbc_decrypt(&[9; 16], &mut text);
    assert_eq!(text, plain);
    let mut whole = plain.clone();
    key.ctr(&[0xFF; 16], &mut whole);
    let mut counter = u128::MAX;
    for (index, block) in text.chunks_mut(16).enumerate() {
        key.ctr(&counter.to_be_bytes(), block);
        assert_eq!(block, &whole[16 * index..16 * index + block.len()], "block {index}");
        counter = counter.wrapping_add(1);
    }
}

// Local network fact sheet, vectors T2 and T6.
#[test]
fn message_keys_are_those_of_the_vectors() {
    let keys = |key: &str, counter, id: &str| {
        let key = Key::take(&mut array(key));
        MeterKeyRef::from(&key).derive(Direction::FromMeter, counter, array(id))
    };
    let profile_b = keys("000102030405060708090a0b0c0d0e0f", 0x0ab3, "78563412");
    assert_eq!(*profile_b.encryption, array("eccf39d475d730b8284fdfdc1995d52f"));
    assert_eq!(*profile_b.authentication, array("c9cd19ff5a9aad5a6bbda13bd2c4c7ad"));
    let profile_d = keys("bf902dd6dfadafe83e4ae6832b5fa14c", 0x000e_578c, "06038253");
    assert_eq!(*profile_d.encryption, array("b3faaed774ad70eaa3135a5b31242d13"));
}

#[test]
fn keys_of_documentation_are_known() {
    for (key, known) in
        [("00112233445566778899aabbccddeeff", false), ("000102030405060708090a0b0c0d0e0f", true)]
    {
        assert_eq!(MeterKeyRef::from(&Key::take(&mut array(key))).is_well_known(), known);
    }
}

#[test]
fn nothing_prints_a_key() {
    let key = Key::take(&mut [0xAB; 16]);
    let key = MeterKeyRef::from(&key);
    let keys = key.derive(Direction::ToMeter, 1, [0; 4]);
    assert_eq!(alloc::format!("{key:?} {keys:?}"), "MeterLmn[16 bytes] EphemeralKeys[2 * 16 bytes]");
}
