//! The modes on top of the block cipher.

use aes::{
    Aes128Dec, Aes128Enc, Block,
    cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::{BLOCK_SIZE, CCM_NONCE_SIZE, CCM_TAG_SIZE};

/// Blocks that the cipher takes at a time.
const LANES: usize = 8;

fn xor(block: &mut [u8; 16], other: &[u8; 16]) {
    let value = u128::from_ne_bytes(*block) ^ u128::from_ne_bytes(*other);
    *block = value.to_ne_bytes();
}

/// Decryption under one expanded key; the round keys are wiped on drop.
pub(super) struct Decryptor(Aes128Dec);

impl Decryptor {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Self(Aes128Dec::new(key.into()))
    }

    pub(super) fn cbc(&self, iv: &[u8; 16], bytes: &mut [u8]) {
        let mut previous = *iv;
        let (blocks, _) = bytes.as_chunks_mut::<BLOCK_SIZE>();
        for chunk in blocks.chunks_mut(LANES) {
            let mut lanes = [Block::default(); LANES];
            let lanes = &mut lanes[..chunk.len()];
            for (lane, block) in lanes.iter_mut().zip(&*chunk) {
                *lane = Block::from(*block);
            }
            self.0.decrypt_blocks(lanes);
            for (lane, block) in lanes.iter().zip(chunk) {
                let mut plain: [u8; 16] = (*lane).into();
                xor(&mut plain, &previous);
                previous = core::mem::replace(block, plain);
            }
        }
    }
}

/// Encryption under one expanded key; the round keys are wiped on drop.
pub(super) struct Encryptor(Aes128Enc);

impl Encryptor {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Self(Aes128Enc::new(key.into()))
    }

    fn block(&self, block: &mut [u8; 16]) {
        let mut lane = Block::from(*block);
        self.0.encrypt_block(&mut lane);
        *block = lane.into();
    }

    pub(super) fn cbc(&self, iv: &[u8; 16], bytes: &mut [u8]) {
        let mut previous = *iv;
        let (blocks, _) = bytes.as_chunks_mut::<BLOCK_SIZE>();
        for block in blocks {
            xor(block, &previous);
            self.block(block);
            previous = *block;
        }
    }

    pub(super) fn ctr(&self, counter_block: &[u8; 16], bytes: &mut [u8]) {
        let mut counter = u128::from_be_bytes(*counter_block);
        for chunk in bytes.chunks_mut(LANES * BLOCK_SIZE) {
            let mut lanes = [Block::default(); LANES];
            let lanes = &mut lanes[..chunk.len().div_ceil(BLOCK_SIZE)];
            for lane in &mut *lanes {
                *lane = Block::from(counter.to_be_bytes());
                counter = counter.wrapping_add(1);
            }
            self.0.encrypt_blocks(lanes);
            for (byte, key) in chunk.iter_mut().zip(lanes.iter().flatten()) {
                *byte ^= key;
            }
        }
    }

    /// CBC-MAC over a part, zero-padded to whole blocks.
    fn absorb(&self, state: &mut [u8; 16], part: &[u8]) {
        let (blocks, rest) = part.as_chunks::<BLOCK_SIZE>();
        for block in blocks {
            xor(state, block);
            self.block(state);
        }
        if !rest.is_empty() {
            state.iter_mut().zip(rest).for_each(|(byte, other)| *byte ^= other);
            self.block(state);
        }
    }

    /// AES-CMAC over the concatenated parts (RFC 4493).
    pub(super) fn cmac(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mut subkey = [0; 16];
        self.block(&mut subkey);
        let (mut state, mut pending, mut filled) = ([0; 16], [0; 16], 0);
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                // The last block is not encrypted before a subkey is in it, so a full one waits for more.
                if filled == BLOCK_SIZE {
                    xor(&mut state, &pending);
                    self.block(&mut state);
                    filled = 0;
                }
                let (now, later) = rest.split_at(rest.len().min(BLOCK_SIZE - filled));
                pending[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                rest = later;
            }
        }
        subkey = double(subkey);
        if filled < BLOCK_SIZE {
            subkey = double(subkey);
            pending[filled..].fill(0);
            pending[filled] = 0x80;
        }
        xor(&mut state, &pending);
        xor(&mut state, &subkey);
        subkey.zeroize();
        self.block(&mut state);
        state
    }

    fn ccm_mac(&self, nonce: &[u8; CCM_NONCE_SIZE], aad: &[u8], text: &[u8]) -> Option<[u8; 16]> {
        let length = u16::try_from(text.len()).ok()?;
        let aad_length = u16::try_from(aad.len()).ok().filter(|length| *length < 0xFF00)?;
        let mut state = ccm_block(0x19 | if aad.is_empty() { 0 } else { 0x40 }, nonce, length);
        self.block(&mut state);
        if !aad.is_empty() {
            let (first, rest) = aad.split_at(aad.len().min(BLOCK_SIZE - 2));
            state[..2].iter_mut().zip(aad_length.to_be_bytes()).for_each(|(byte, other)| *byte ^= other);
            state[2..].iter_mut().zip(first).for_each(|(byte, other)| *byte ^= other);
            self.block(&mut state);
            self.absorb(&mut state, rest);
        }
        self.absorb(&mut state, text);
        Some(state)
    }

    fn ccm_tag(&self, nonce: &[u8; CCM_NONCE_SIZE], mac: &[u8; 16]) -> [u8; CCM_TAG_SIZE] {
        let mut tag = ccm_block(1, nonce, 0);
        self.block(&mut tag);
        xor(&mut tag, mac);
        let mut cut = [0; CCM_TAG_SIZE];
        cut.copy_from_slice(&tag[..CCM_TAG_SIZE]);
        cut
    }

    pub(super) fn ccm_seal(
        &self,
        nonce: &[u8; CCM_NONCE_SIZE],
        aad: &[u8],
        text: &mut [u8],
    ) -> Option<[u8; CCM_TAG_SIZE]> {
        let mac = self.ccm_mac(nonce, aad, text)?;
        self.ctr(&ccm_block(1, nonce, 1), text);
        Some(self.ccm_tag(nonce, &mac))
    }

    pub(super) fn ccm_open(
        &self,
        nonce: &[u8; CCM_NONCE_SIZE],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; CCM_TAG_SIZE],
    ) -> bool {
        self.ctr(&ccm_block(1, nonce, 1), text);
        let verifies =
            self.ccm_mac(nonce, aad, text).is_some_and(|mac| self.ccm_tag(nonce, &mac).ct_eq(tag).into());
        if !verifies {
            text.zeroize();
        }
        verifies
    }
}

/// Multiplication by x in the field of CMAC.
fn double(block: [u8; 16]) -> [u8; 16] {
    let value = u128::from_be_bytes(block);
    let carry = (value >> 127) * 0x87;
    ((value << 1) ^ carry).to_be_bytes()
}

/// flags || nonce || 16-bit number: the form of every block that CCM makes.
fn ccm_block(flags: u8, nonce: &[u8; CCM_NONCE_SIZE], number: u16) -> [u8; 16] {
    let mut block = [flags; 16];
    block[1..14].copy_from_slice(nonce);
    block[14..].copy_from_slice(&number.to_be_bytes());
    block
}
