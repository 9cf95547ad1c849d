#!/usr/bin/env python3
"""Makes tests/vectors/onboarding/gso_recovery.toml: vouchers with a recovery entry, good and bad, and a witness's word.

    python3 tests/interop/gso_recovery.py > tests/vectors/onboarding/gso_recovery.toml

It shares no code with Gridseal. It needs Python 3.11 and the package `cryptography` in version 47 or later, which has
ML-DSA-65. Signatures differ from run to run; everything else is fixed.
"""

import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, utils


def head(major, value):
    """Head of an item in its shortest form."""
    if value < 24:
        return bytes([major << 5 | value])
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * size:
            return bytes([major << 5 | extra]) + value.to_bytes(size, "big")
    raise ValueError(value)


def cbor(value):
    """Deterministic CBOR of what the papers use."""
    match value:
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


def fresh(label):
    return sha(b"gso-recovery vector", label.encode())


class Party:
    """A P-256 key and an ML-DSA-65 key."""

    def __init__(self, label):
        self.scalar = fresh(label)
        self.private = ec.derive_private_key(int.from_bytes(self.scalar, "big"), ec.SECP256R1())
        point = self.private.public_key().public_numbers()
        self.key = {1: 2, -1: 1, -2: point.x.to_bytes(32, "big"), -3: point.y.to_bytes(32, "big")}
        self.second = mldsa.MLDSA65PrivateKey.from_seed_bytes(fresh(label + " second"))
        self.second_public = self.second.public_key().public_bytes_raw()

    def sign(self, kind, payload):
        """Encoded COSE_Sign1 with ES256."""
        protected = cbor({1: -7, 4: sha(cbor(self.key))})
        signed = cbor(["Signature1", protected, kind.encode(), payload])
        r, s = utils.decode_dss_signature(self.private.sign(signed, ec.ECDSA(hashes.SHA256())))
        return cbor([protected, {}, payload, r.to_bytes(32, "big") + s.to_bytes(32, "big")])


vendor, owner, recovery, heir, witness = map(Party, ("vendor", "owner", "recovery", "next", "witness"))
NAME, MADE = bytes.fromhex("000b") + fresh("Name"), 1_767_225_600
HEADER, ENTRY = "gso1-voucher", "gso1-entry"


def voucher(*entries, doubly=False):
    """Each entry: signer, kind, epoch, whom it makes the owner."""
    payload = {1: 1, 2: NAME, 3: "GS-1", 4: "GS-0000001", 5: fresh("commitment")}
    elements, seconds, last, before = [], [], None, None
    for index, (signer, kind, epoch, to) in enumerate([(vendor, None, 0, None), *entries]):
        if index:
            payload = {1: index, 2: epoch, 3: kind, 4: last, 5: to.key, 6: to.key, 7: MADE}
            if doubly:
                payload[-2] = sha(to.second_public)
        if doubly:
            payload[-1] = sha(signer.second_public)
        encoded, text = cbor(payload), ENTRY if index else HEADER
        elements.append(signer.sign(text, encoded))
        signature = signer.second.sign(text.encode() + encoded)
        seconds.append(signature if before is signer else signer.second_public + signature)
        last, before = sha(text.encode(), encoded), signer
    whole = [elements[0], elements[1:]] + ([seconds] if doubly else [])
    return cbor(whole), last


sold = (vendor, 0, 1, owner)
good, voucher_head = voucher(sold, (recovery, 1, 2, heir), doubly=True)
value = {f"{name}_key_d": party.scalar for name, party in (
    ("voucher", vendor), ("owner", owner), ("recovery", recovery), ("next", heir), ("witness", witness))}
value |= {
    "voucher_second": vendor.second_public, "recovery_second": recovery.second_public,
    "epoch": 2, "voucher": good, "voucher_head": voucher_head,
    "plain": voucher(sold, (recovery, 1, 2, heir))[0],
    # Signed by the voucher key, by the owner; in place of a first sale; of the epoch before; as a sale; by a stranger.
    "refused_vendor": voucher(sold, (vendor, 1, 2, heir))[0],
    "refused_owner": voucher(sold, (owner, 1, 2, heir))[0],
    "refused_first": voucher((recovery, 1, 1, heir))[0],
    "refused_epoch": voucher(sold, (recovery, 1, 1, heir))[0],
    "refused_sale": voucher(sold, (recovery, 0, 2, heir))[0],
    "refused_unknown": voucher(sold, (heir, 1, 2, heir))[0],
}
log, root, other = sha(cbor(vendor.key)), fresh("root"), fresh("another root")
value["log_head"] = vendor.sign("gso1-log", cbor({1: 7, 2: root, 3: MADE}))
value["witness_word"] = witness.sign("gso1-witness", cbor({1: 7, 2: root, 3: MADE + 60, 4: log}))
value["witness_other_word"] = witness.sign("gso1-witness", cbor({1: 7, 2: other, 3: MADE + 60, 4: log}))

print('source = "Gridseal onboarding specification, sections 7.5 and 18.3"')
print('clause = "Gridseal onboarding specification, section 7.5"')
print('made_by = "tests/interop/gso_recovery.py"')
print("\n[value]")
for field, item in value.items():
    print(f"{field} = {item}" if isinstance(item, int) else f'{field} = "{item.hex()}"')
