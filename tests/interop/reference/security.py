"""Security suites 0 to 2: protection of APDUs, proofs of the HLS mechanisms, key agreement."""

import hashlib
import hmac
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from .codec import Reader, field

AUTH, ENC, BROADCAST = 0x10, 0x20, 0x40
TAG = 12


class Refused(Exception):
    """The peer, or a key, is not what it says it is."""


class Suite(NamedTuple):
    key: int  # octets of a key
    curve: type = ec.SECP256R1  # mechanism 7 needs a curve in suite 0, too
    hash: type = hashes.SHA256
    coordinate: int = 32
    wrap_id: int = 2


SUITES = {0: Suite(16), 1: Suite(16), 2: Suite(32, ec.SECP384R1, hashes.SHA384, 48, 3)}


def seal(control: int, ek: bytes, ak: bytes, title: bytes, counter: int, apdu: bytes, header: bytes = b"") -> bytes:
    """SC, IC and what follows; `header` is the five fields of general-ciphering."""
    nonce = title + counter.to_bytes(4, "big")
    machine = Cipher(algorithms.AES(ek), modes.GCM(nonce)).encryptor()
    if control & AUTH:
        machine.authenticate_additional_data(bytes([control]) + ak + header + (b"" if control & ENC else apdu))
    body = machine.update(apdu) if control & ENC else apdu
    machine.finalize()
    return bytes([control]) + nonce[8:] + body + (machine.tag[:TAG] if control & AUTH else b"")


def unseal(body: bytes, ek: bytes, ak: bytes, title: bytes, header: bytes = b"") -> bytes:
    reader = Reader(body)
    control, counter = reader.uint(), reader.take(4)
    if not control & AUTH or len(body) < 5 + TAG:
        raise Refused("nothing proves who sent this")
    sealed = reader.take(len(body) - 5 - TAG)
    machine = Cipher(algorithms.AES(ek), modes.GCM(title + counter, reader.rest(), TAG)).decryptor()
    machine.authenticate_additional_data(bytes([control]) + ak + header + (b"" if control & ENC else sealed))
    apdu = machine.update(sealed) if control & ENC else sealed
    try:
        machine.finalize()
    except InvalidTag:
        raise Refused("wrong tag") from None
    return apdu


# Tags of an APDU under the global and under the dedicated key.
GLOBAL = {0x01: 0x21, 0x08: 0x28, 0xC0: 0xC8, 0xC1: 0xC9, 0xC3: 0xCB, 0xC4: 0xCC, 0xC5: 0xCD, 0xC7: 0xCF}
DEDICATED = {0xC0: 0xD0, 0xC1: 0xD1, 0xC3: 0xD3, 0xC4: 0xD4, 0xC5: 0xD5, 0xC7: 0xD7}


# Keys of curves: private ones are raw scalars, public ones x || y, signatures r || s.


def private(suite: Suite, scalar: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(scalar, "big"), suite.curve())


def public(suite: Suite, point: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(suite.curve(), b"\x04" + point)
    except ValueError:
        raise Refused("not a point of the curve") from None


def public_of(suite: Suite, scalar: bytes) -> bytes:
    numbers = private(suite, scalar).public_key().public_numbers()
    return b"".join(n.to_bytes(suite.coordinate, "big") for n in (numbers.x, numbers.y))


def sign(suite: Suite, scalar: bytes, message: bytes) -> bytes:
    pair = utils.decode_dss_signature(private(suite, scalar).sign(message, ec.ECDSA(suite.hash())))
    return b"".join(n.to_bytes(suite.coordinate, "big") for n in pair)


def verify(suite: Suite, point: bytes, message: bytes, signature: bytes) -> None:
    size = suite.coordinate
    if len(signature) != 2 * size:
        raise Refused("signature of the wrong length")
    der = utils.encode_dss_signature(*(int.from_bytes(signature[i : i + size], "big") for i in (0, size)))
    try:
        public(suite, point).verify(der, message, ec.ECDSA(suite.hash()))
    except InvalidSignature:
        raise Refused("wrong signature") from None


def agree(suite: Suite, scalar: bytes, point: bytes) -> bytes:
    return private(suite, scalar).exchange(ec.ECDH(), public(suite, point))


def derive(number: int, secret: bytes, party_u: bytes, party_v: bytes, wraps: bool = False) -> bytes:
    """One step of SP 800-56A, for the AEAD of suite `number` or its key wrap."""
    suite = SUITES[number]
    algorithm = suite.wrap_id if wraps else suite.wrap_id - 2
    digest = hashes.Hash(suite.hash())
    digest.update(b"\0\0\0\1" + secret + bytes.fromhex("608574050803") + bytes([algorithm]) + party_u + party_v)
    return digest.finalize()[: suite.key]


def wrap(kek: bytes, key: bytes) -> bytes:
    return keywrap.aes_key_wrap(kek, key)


def unwrap(kek: bytes, wrapped: bytes) -> bytes:
    try:
        return keywrap.aes_key_unwrap(kek, wrapped)
    except keywrap.InvalidUnwrap:
        raise Refused("wrapped key is not ours") from None


# general-ciphering with agreed keys. `fields` are transaction-id, originator, recipient, date-time, other-info.


def one_pass(number: int, own_signing: bytes, ephemeral: bytes, peer: bytes, ak: bytes, fields: list, apdu: bytes):
    suite = SUITES[number]
    point = public_of(suite, ephemeral)
    key = derive(number, agree(suite, ephemeral, peer), fields[1], fields[2])
    info = b"\x01\x02" + field(b"\x01") + field(point + sign(suite, own_signing, point))
    return general_ciphering(AUTH | ENC | number, key, ak, fields, info, apdu)


def static(number: int, own: bytes, peer: bytes, ak: bytes, fields: list, apdu: bytes) -> bytes:
    key = derive(number, agree(SUITES[number], own, peer), fields[1] + field(fields[0]), fields[2])
    return general_ciphering(AUTH | ENC | number, key, ak, fields, b"\x01\x02" + field(b"\x02") + b"\x00", apdu)


def general_ciphering(control: int, key: bytes, ak: bytes, fields: list, info: bytes, apdu: bytes) -> bytes:
    header = b"".join(map(field, fields))
    return b"\xdd" + header + info + field(seal(control, key, ak, fields[1], 0, apdu, header))


def open_general_ciphering(
    number: int, apdu: bytes, title: bytes, own: bytes, signer: bytes, peer: bytes, ak: bytes
) -> bytes:
    """Opens what `one_pass` or `static` made for `title`; `own` is our agreement key, the others are public keys."""
    suite, reader = SUITES[number], Reader(apdu)
    reader.expect(b"\xdd")
    fields = [reader.field() for _ in range(5)]
    header = apdu[1 : reader.at]
    if fields[2] != title:
        raise Refused("for somebody else")
    reader.expect(b"\x01\x02")
    scheme, data, body = reader.field(), Reader(reader.field()), reader.field()
    reader.end()
    if body[:1] != bytes([AUTH | ENC | number]):
        raise Refused("another suite or protection")
    if scheme == b"\x01":
        point = data.take(2 * suite.coordinate)
        verify(suite, signer, point, data.rest())
        key = derive(number, agree(suite, own, point), fields[1], fields[2])
    elif scheme == b"\x02" and fields[0]:
        data.end()
        key = derive(number, agree(suite, own, peer), fields[1] + field(fields[0]), fields[2])
    else:
        raise Refused("unknown key agreement")
    return unseal(body, key, ak, fields[1], header)


class Proofs(NamedTuple):
    """What one side needs to prove itself in pass 3 or 4, or to check the other side's proof."""

    mechanism: int
    suite: int
    ek: bytes
    ak: bytes
    secret: bytes

    def make(self, sender: bytes, receiver: bytes, answered: bytes, other: bytes, counter: int, scalar: bytes) -> bytes:
        if self.mechanism == 5:
            sealed = seal(AUTH | self.suite, self.ek, self.ak, sender, counter, answered)
            return sealed[:5] + sealed[-TAG:]
        if self.mechanism == 6:
            return hashlib.sha256(self.secret + sender + receiver + answered + other).digest()
        return sign(SUITES[self.suite], scalar, sender + receiver + answered + other)

    def check(self, proof: bytes, sender: bytes, receiver: bytes, answered: bytes, other: bytes, point: bytes) -> None:
        if self.mechanism == 7:
            verify(SUITES[self.suite], point, sender + receiver + answered + other, proof)
            return
        expected = self.make(sender, receiver, answered, other, int.from_bytes(proof[1:5], "big"), b"")
        if not hmac.compare_digest(expected, proof):
            raise Refused("wrong proof")
