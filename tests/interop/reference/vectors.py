"""The reference's self-test: every verified vector of the fact sheet.

python3 -m reference.vectors       in tests/interop; exit status 0 if all are met
"""

import sys
import tomllib
from pathlib import Path

from . import codec
from .codec import field
from .security import AUTH, BROADCAST, ENC, SUITES, TAG, Proofs, Refused, agree, derive, one_pass
from .security import open_general_ciphering, public_of, seal, sign, static, unseal, unwrap, verify, wrap

VECTORS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
TEXTS = {"secret", "message"}


class Section:
    def __init__(self, name: str):
        for key, value in VECTORS[name].items():
            setattr(self, key, value.encode() if key in TEXTS else bytes.fromhex(value))


def checks():
    """Pairs of a name and whether it is as published."""
    given, sealed, proof = Section("common"), Section("protected"), Section("proof")
    counter, common = int.from_bytes(given.counter, "big"), (given.ek, given.ak, given.title)
    auth, enc, both = (seal(c, *common, counter, given.apdu) for c in (AUTH, ENC, AUTH | ENC))
    yield "authenticated", auth[5:] == given.apdu + sealed.auth_tag
    yield "encrypted", enc[5:] == sealed.enc
    yield "both", b"\xc8" + field(both) == sealed.both
    yield "general-glo", b"\xdb" + field(given.title) + field(both) == sealed.general
    yield "opened", unseal(both, *common) == unseal(auth, *common) == given.apdu
    yield "every changed bit is refused", all(refuses(flip(both, i), common) for i in range(8 * len(both)))
    yield "initiate", b"\x21" + field(seal(AUTH | ENC, *common, counter, sealed.initiate)) == sealed.initiate_sealed
    long = seal(0x32, sealed.suite_2_ek, sealed.suite_2_ak, given.title, counter, given.apdu)
    yield "suite 2", b"\xc8" + field(long) == sealed.suite_2
    cast = seal(AUTH | ENC | BROADCAST, sealed.broadcast_key, given.ak, given.other, 0x10, sealed.broadcast_apdu)
    yield "broadcast", b"\xcb" + field(cast) == sealed.broadcast
    yield from (associations(), *proofs(given, proof), *wraps())
    yield from curves(given)


def refuses(body: bytes, keys: tuple) -> bool:
    try:
        unseal(body, *keys)
    except Refused:
        return True
    return False


def flip(body: bytes, bit: int) -> bytes:
    return bytes(octet ^ (1 << bit % 8 if i == bit // 8 else 0) for i, octet in enumerate(body))


def associations():
    given, proof = Section("association"), Section("proof")
    initiate = codec.initiate_request(1200)[:-5] + bytes.fromhex("007E1F04B0")
    made = [
        codec.associate_request(1, 0, b"", b"", initiate) == given.none,
        codec.associate_request(1, 1, b"12345678", b"", initiate) == given.password,
        codec.associate_request(1, 5, proof.client, b"", initiate) == given.gmac,
        codec.associate_response(1, 0, 0, b"", 0, b"", codec.initiate_response(500, 0x501F)) == given.accepted,
        codec.associate_response(1, 0, 14, b"", 5, proof.server, codec.initiate_response(500, 0x501F))
        == given.accepted_gmac,
        codec.parse_initiate_request(initiate) == (b"", 0x7E1F, 1200),
    ]
    return "associations", all(made)


def proofs(given, proof):
    # In the example of mechanism 5 the title of both sides is the common one.
    gmac = Proofs(5, 0, given.ek, given.ak, b"")
    third = gmac.make(given.other, given.title, proof.server, proof.client, 1, b"")
    fourth = gmac.make(given.title, given.other, proof.client, proof.server, 0x01234567, b"")
    yield "mechanism 5", (third, fourth) == (proof.gmac_pass_3, proof.gmac_pass_4)
    digest = Proofs(6, 0, b"", b"", proof.secret)
    server = b"P6wRJ21F"
    third = digest.make(given.other, given.title, server, proof.client, 0, b"")
    fourth = digest.make(given.title, given.other, proof.client, server, 0, b"")
    yield "mechanism 6", (third, fourth) == (proof.sha256_pass_3, proof.sha256_pass_4)


def wraps():
    given = Section("wrap")
    short, long = bytes(range(16)), bytes(range(32))
    yield "key wrap", (wrap(short, given.key), wrap(long, given.key_256)) == (given.with_128, given.with_256)
    yield "key unwrap", (unwrap(short, given.with_128), unwrap(long, given.with_256)) == (given.key, given.key_256)


def curves(given):
    suite, keys = SUITES[1], Section("p256")
    once, two, both, access, p384 = map(Section, ("one_pass", "ephemeral", "static", "access", "p384"))
    u, v = given.title, given.other
    pairs = ["client_sign", "server_sign", "client_agree", "server_agree"]
    yield "public keys", all(public_of(suite, getattr(keys, n)) == getattr(keys, n + "_public") for n in pairs)
    verify(suite, keys.client_sign_public, b"\0" + two.client, two.signature)
    shared = agree(suite, two.server, two.client)
    yield "two ephemeral keys", (shared, derive(1, shared, u, v)) == (two.shared, two.key)
    yield "the server's ephemeral key", public_of(suite, two.server) == two.server_public
    verify(suite, keys.client_sign_public, once.public, once.signature)
    shared = agree(suite, once.ephemeral, keys.server_agree_public)
    yield "one pass", (public_of(suite, once.ephemeral), shared) == (once.public, once.shared)
    yield "one pass, key", derive(1, shared, u, v) == once.hash[:16]
    verify(suite, keys.server_sign_public, once.back_public, once.back_signature)
    shared = agree(suite, keys.client_agree, once.back_public)
    yield "one pass, back", (shared, derive(1, shared, v, u)) == (once.back_shared, once.back_key)
    shared = agree(suite, keys.client_agree, keys.server_agree_public)
    key = derive(1, shared, u + field(both.transaction), v)
    yield "static", (shared, key) == (both.shared, both.key)
    yield from carried(given, keys, once, both, access)
    verify(SUITES[2], public_of(SUITES[2], p384.scalar), p384.message, p384.signature)
    made = sign(SUITES[2], p384.scalar, p384.message)
    verify(SUITES[2], public_of(SUITES[2], p384.scalar), p384.message, made)
    another = not_verified(suite, keys.client_sign_public, once.public, once.back_signature)
    yield "signatures", len(made) == 96 and another


def not_verified(suite, point: bytes, message: bytes, signature: bytes) -> bool:
    try:
        verify(suite, point, message, signature)
    except Refused:
        return True
    return False


def carried(given, keys, once, both, access):
    """The ACCESS example in general-ciphering; its published tags are met by no reading of the text, so ours stand."""
    fields = [both.transaction, given.title, given.other, b"", b""]
    openers = (given.other, keys.server_agree, keys.client_sign_public, keys.client_agree_public, given.ak)
    sealed = one_pass(1, keys.client_sign, once.ephemeral, keys.server_agree_public, given.ak, fields, access.apdu)
    text = sealed[-218 - TAG : -TAG]
    yield "general-ciphering, one pass", (text[:16], text[-10:]) == (access.one_pass_starts, access.one_pass_ends)
    yield "its tag and length", (sealed[-TAG:], len(sealed)) == (access.one_pass_tag, 401)
    yield "it opens", open_general_ciphering(1, sealed, *openers) == access.apdu
    sealed = static(1, keys.client_agree, keys.server_agree_public, given.ak, fields, access.apdu)
    text = sealed[-218 - TAG : -TAG]
    yield "general-ciphering, static", (text[:16], sealed[-TAG:]) == (access.static_starts, access.static_tag)
    yield "that opens", open_general_ciphering(1, sealed, *openers) == access.apdu


def main() -> int:
    outcomes = list(checks())
    for name, is_right in outcomes:
        print(("ok    " if is_right else "WRONG ") + name)
    return 0 if all(is_right for _, is_right in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
