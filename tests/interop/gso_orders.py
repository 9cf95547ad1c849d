#!/usr/bin/env python3
"""Makes tests/vectors/onboarding/gso_orders.toml from gso_framing.toml: orders, results and polls, byte for byte.

    python3 tests/interop/gso_orders.py > tests/vectors/onboarding/gso_orders.toml

It shares no code with Gridseal. It needs Python 3.11 and the package `cryptography`. Signatures differ from run to run,
and so does what contains them; everything else is fixed.
"""

import hashlib
import hmac
import tomllib
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VECTORS = Path(__file__).resolve().parent.parent / "vectors" / "onboarding"


def head(major, value):
    """Head of an item in its shortest form."""
    if value < 24:
        return bytes([major << 5 | value])
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * size:
            return bytes([major << 5 | extra]) + value.to_bytes(size, "big")
    raise ValueError(value)


def cbor(value):
    """Deterministic CBOR of what the protocol uses."""
    match value:
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list():
            return head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            pairs = sorted((cbor(key), cbor(item)) for key, item in value.items())
            return head(5, len(value)) + b"".join(key + item for key, item in pairs)
    raise TypeError(value)


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def u64(value):
    return value.to_bytes(8, "big")


def seal(key, number, start, body):
    """Envelope `start` with its body sealed at the end."""
    box = AESGCM(key).encrypt(bytes(11) + bytes([number]), body, cbor(start))
    return cbor(start + [box])


def sign(scalar, kind, payload):
    """Encoded COSE_Sign1 with ES256."""
    key = ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())
    point = key.public_key().public_numbers()
    cose_key = cbor({1: 2, -1: 1, -2: point.x.to_bytes(32, "big"), -3: point.y.to_bytes(32, "big")})
    protected = cbor({1: -7, 4: sha(cose_key)})
    r, s = utils.decode_dss_signature(
        key.sign(cbor(["Signature1", protected, kind.encode(), payload]), ec.ECDSA(hashes.SHA256())))
    return cbor([protected, {}, payload, r.to_bytes(32, "big") + s.to_bytes(32, "big")])


def fresh(label):
    return sha(b"gso-orders vector", label)


framing = tomllib.loads((VECTORS / "gso_framing.toml").read_text())["value"]
n_1, ek_name = bytes.fromhex(framing["n_1"]), bytes.fromhex(framing["ek_name"])
kid, delegation = bytes.fromhex(framing["kid"]), bytes.fromhex(framing["delegation"])
config_key = bytes.fromhex(framing["config_key_d"])
SEQ, NOW = 1_000_000, 1_767_225_600
R, R2, R3 = fresh(b"R"), fresh(b"R2"), fresh(b"R3")
attest = [bytes.fromhex("ff544347") + fresh(b"attest") * 2, fresh(b"signature") * 2]
area = fresh(b"public") * 2
name = bytes.fromhex("000b") + fresh(b"name")
command = fresh(b"command")
pin = [2, 7, fresh(b"entry")]
config = {
    2: [fresh(b"leaf"), fresh(b"issuer")], 3: [fresh(b"root")],
    4: {1: ["https://head.example:4059"], 2: [fresh(b"pin")]},
    5: [{1: 1, 2: area, 3: fresh(b"duplicate"), 4: fresh(b"seed")}],
    6: 4, 7: fresh(b"previous"), 8: 1, 9: pin, 10: NOW,
}
entry = fresh(b"signed entry") * 4
# Kind: body of the order, answer.
KINDS = {
    "provision": (1, config, {1: [name]}),
    "attest": (2, {1: bytes.fromhex("00000001000b03ff0f00"), 2: 300},
               {1: attest, 2: fresh(b"events"), 3: 300, 4: b"", 5: 0x405, 6: False}),
    "sessions": (3, {1: [fresh(b"salt"), fresh(b"salt 2")], 2: [fresh(b"caller")[:16], fresh(b"caller 2")[:16]]},
                 {1: [[0x02000000, fresh(b"tpm")[:16]], [0x02000001, fresh(b"tpm 2")[:16]]], 2: 0x405}),
    "commands": (4, {1: [command]}, {1: [command[:10]]}),
    "suspend": (5, {}, {}),
    "resume": (6, {}, {}),
    "release": (7, {1: entry}, {}),
    "decommission": (8, {}, {9: attest}),
    "renew": (9, {1: 1}, {1: area, 2: attest, 3: fresh(b"csr"), 4: area, 5: attest}),
    "rekey": (10, {1: [entry, entry]}, {1: pin}),
}

value = {"seq": SEQ, "r": R, "r2": R2, "r3": R3}
for kind, (number, body, answer) in KINDS.items():
    payload = cbor({1: ek_name, 2: 1, 3: SEQ, 4: number, 5: body, 6: NOW})
    value[f"{kind}_payload"] = payload
    value[f"{kind}_result_body"] = cbor({1: sha(payload), 2: 0, 3: answer})
value["provision_config_digest"] = sha(b"gso1-c6", value["provision_payload"])
value["refused_result_body"] = cbor({1: sha(value["attest_payload"]), 2: 26, 3: {}})

signed = sign(config_key, "gso1-order", value["attest_payload"])
value["order_body"] = cbor([signed, delegation])
value["k_order"] = mac(n_1, b"gs-order-v1", u64(SEQ), R)
value["order_wire"] = seal(value["k_order"], 9, [1, 9, SEQ, R], value["order_body"])
value["k_result"] = mac(n_1, b"gs-ores-v1", u64(SEQ), R, R2)
value["result_wire"] = seal(value["k_result"], 10, [1, 10, SEQ, R2], value["attest_result_body"])
value["poll_body"] = cbor({1: SEQ - 1})
value["k_poll"] = mac(n_1, b"gs-poll-v1", R3)
value["poll_wire"] = seal(value["k_poll"], 11, [1, 11, kid, R3], value["poll_body"])

print('source = "Gridseal onboarding specification, section 18.6"')
print('clause = "Gridseal onboarding specification, sections 5 and 18.6"')
print('made_by = "tests/interop/gso_orders.py"')
print("\n[value]")
for field, item in value.items():
    print(f"{field} = {item}" if isinstance(item, int) else f'{field} = "{item.hex()}"')
