#!/usr/bin/env python3
"""Reads a recorded onboarding byte for byte, without believing the program that made it.

    gridseal demo --for 8 --evidence EVIDENCE
    python3 tests/interop/gso_decode.py EVIDENCE               one line for each check
    python3 tests/interop/gso_decode.py --self-test EVIDENCE   changes each byte of one device's frames: each must be found,
                                                              but in what only the device's TPM can read

It shares no code with Gridseal: its own decoder of deterministic CBOR, its own TPM structures and derivations, written
from the protocol's description (docs/protocol.md). Primitives come from the Python package `cryptography`, which it
installs into a temporary folder that it removes again; with `--no-venv` it takes the one that is there.

What it takes from EVIDENCE: the messages in `events.jsonl`; keys of the run in `inventory.json`; the papers in `factory`;
whom to trust in the configuration files: voucher key, init key, owner key, policy key, root of the certificates.
Exit status: 0 all checks hold, 1 one does not.
"""

import argparse
import base64
import copy
import hashlib
import hmac
import json
import sqlite3
import subprocess
import sys
import tempfile
import tomllib
import venv
import zlib
from pathlib import Path

PEER = "cryptography==50.0.2"
EMPTY = bytes(32)
# After so many failures a device gives a message up and begins anew with a fresh nonce.
FAILURES_MAX = 3


class Wrong(Exception):
    """A check that does not hold."""


def need(holds: bool, what: str) -> None:
    if not holds:
        raise Wrong(what)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


# Deterministic CBOR -------------------------------------------------------------------------------------------------


def decode(data: bytes) -> object:
    """One item that fills `data`; anything that is not its only deterministic encoding is refused."""
    item, end = item_at(data, 0, 0)
    need(end == len(data), "bytes after the item")
    need(encode(item) == data, "not the deterministic encoding")
    return item


def item_at(data: bytes, at: int, depth: int) -> tuple[object, int]:
    need(depth <= 8, "nested deeper than 8")
    need(at < len(data), "item is cut off")
    major, extra = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        need(extra in (20, 21, 22), "no simple value but false, true, null")
        return {20: False, 21: True, 22: None}[extra], at
    need(extra <= 27, "indefinite or reserved length")
    if extra < 24:
        value = extra
    else:
        size = 1 << (extra - 24)
        need(at + size <= len(data), "head is cut off")
        value, at = int.from_bytes(data[at : at + size], "big"), at + size
    if major in (0, 1):
        return (value if major == 0 else -1 - value), at
    if major in (2, 3):
        need(at + value <= len(data), "string is cut off")
        raw = bytes(data[at : at + value])
        return (raw if major == 2 else raw.decode("utf-8")), at + value
    if major == 4:
        items = []
        for _ in range(value):
            item, at = item_at(data, at, depth + 1)
            items.append(item)
        return items, at
    need(major == 5, "tags are not allowed")
    pairs: dict[object, object] = {}
    for _ in range(value):
        key, at = item_at(data, at, depth + 1)
        need(isinstance(key, int) and not isinstance(key, bool) and key != 0, "keys are integers, never 0")
        need(key not in pairs, "a key comes twice")
        pairs[key], at = item_at(data, at, depth + 1)
    return pairs, at


def head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    size = next(size for size in (1, 2, 4, 8) if value < 1 << (8 * size))
    return bytes([major << 5 | 23 + size.bit_length()]) + value.to_bytes(size, "big")


def encode(item: object) -> bytes:
    if item is None or isinstance(item, bool):
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[item]
    if isinstance(item, int):
        return head(0, item) if item >= 0 else head(1, -1 - item)
    if isinstance(item, bytes):
        return head(2, len(item)) + item
    if isinstance(item, str):
        return head(3, len(item.encode())) + item.encode()
    if isinstance(item, list):
        return head(4, len(item)) + b"".join(encode(part) for part in item)
    pairs = sorted((encode(key), encode(value)) for key, value in item.items())
    return head(5, len(pairs)) + b"".join(key + value for key, value in pairs)


def members(item: object, required: set[int], optional: set[int] = frozenset()) -> dict:
    """A map with these keys; negative ones are extensions and allowed."""
    need(isinstance(item, dict), "a map is expected")
    found = {key for key in item if key > 0}
    need(required <= found <= required | optional, f"members {sorted(found)}, expected {sorted(required)}")
    return item


def is_bytes(item: object, low: int, high: int | None = None) -> bytes:
    need(isinstance(item, bytes) and low <= len(item) <= (high or low), f"a byte string of {low} to {high or low} bytes")
    return item


# Signatures ---------------------------------------------------------------------------------------------------------


def key_id(point: bytes) -> bytes:
    return sha(encode({1: 2, -1: 1, -2: point[:32], -3: point[32:]}))


def verifies(point: bytes, message: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def signed(wire: bytes, kind: str, point: bytes) -> bytes:
    """Payload of a COSE_Sign1 of exactly the allowed form, once its signature was checked."""
    protected, unprotected, payload, signature = sized(decode(wire), 4)
    need(protected == encode({1: -7, 4: key_id(point)}), f"{kind}: protected header or signer")
    need(unprotected == {}, f"{kind}: unprotected header")
    is_bytes(signature, 64)
    message = encode(["Signature1", protected, kind.encode(), payload])
    need(verifies(point, message, signature), f"{kind}: signature")
    return payload


def issued_by(certificate, issuer) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    need(certificate.issuer == issuer.subject, "certificate: issuer")
    algorithm = ec.ECDSA(certificate.signature_hash_algorithm)
    issuer.public_key().verify(certificate.signature, certificate.tbs_certificate_bytes, algorithm)


def sized(item: object, *sizes: int) -> list:
    need(isinstance(item, list) and len(item) in sizes, f"an array of {sizes} elements")
    return item


def point_of(item: object) -> bytes:
    need(isinstance(item, dict) and set(item) == {1, -1, -2, -3} and item[1] == 2 and item[-1] == 1, "a P-256 key")
    return is_bytes(item[-2], 32) + is_bytes(item[-3], 32)


def is_config_signed(sealed_body: bytes, kind: str, point: bytes) -> dict:
    """Body of C4, C6, C8: the signed object as a byte string."""
    return decode(signed(is_bytes(decode(sealed_body), 1, 65536), kind, point))


# TPM structures -----------------------------------------------------------------------------------------------------

TEMPLATES = {
    "EK": "0023000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa000600800043001000030010",
    "AK": "0023000b00050472000000100018000b00030010",
    "STO": "0023000b000304720000000600800043001000030010",
    "TLS": "0023000b00040472000000100018000b00030010",
}
SEALED = bytes.fromhex("0008000b00000440000000100020")
HIERARCHIES = (0x40000001, 0x4000000A)
CHANGE_AUTH = 0x129


class Tpm:
    """Reads big-endian fields one after the other."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def raw(self, size: int) -> bytes:
        need(self.at + size <= len(self.data), "TPM structure is cut off")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.raw(size), "big")

    def sized(self) -> bytes:
        return self.raw(self.number(2))

    def done(self) -> None:
        need(self.at == len(self.data), "bytes after a TPM structure")


def sized_2b(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def name_of(public: bytes) -> bytes:
    return b"\x00\x0b" + sha(public)


def on_curve(point: bytes, what: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    except ValueError:
        raise Wrong(f"{what}: no point of the curve") from None


def tpm_point(public: bytes, kind: str) -> bytes:
    """Point of a public area that is this template in everything but `unique`."""
    template = bytes.fromhex(TEMPLATES[kind])
    need(public.startswith(template), f"{kind}: public area is not the template")
    unique = Tpm(public[len(template) :])
    x, y = unique.sized(), unique.sized()
    unique.done()
    need(len(x) <= 32 and len(y) <= 32, f"{kind}: coordinates")
    return x.rjust(32, b"\0") + y.rjust(32, b"\0")


def kdfa(key: bytes, label: str, u: bytes, v: bytes, bits: int) -> bytes:
    out, counter = b"", 0
    while len(out) * 8 < bits:
        counter += 1
        out += mac(key, counter.to_bytes(4, "big"), label.encode() + b"\0", u, v, bits.to_bytes(4, "big"))
    return out[: bits // 8]


def attested(item: object, attestation_point: bytes, kind: int, qualifying: bytes) -> Tpm:
    """A TPMS_ATTEST of this kind, signed by the attestation key, read up to what is particular to the kind."""
    attest, signature = sized(item, 2)
    is_bytes(attest, 40, 512)
    scheme = Tpm(is_bytes(signature, 10, 72))
    need(scheme.number(2) == 0x18 and scheme.number(2) == 0x0B, "attest is signed with ECDSA and SHA-256")
    r, s = scheme.sized(), scheme.sized()
    scheme.done()
    need(verifies(attestation_point, attest, r.rjust(32, b"\0") + s.rjust(32, b"\0")), "signature of an attest")
    fields = Tpm(attest)
    need(fields.number(4) == 0xFF544347, "magic of an attest")
    need(fields.number(2) == kind, "type of an attest")
    need(len(fields.sized()) == 34, "qualified signer")
    need(fields.sized() == qualifying, "qualifying data")
    fields.raw(8 + 4 + 4)  # clock, resetCount, restartCount: obfuscated for this hierarchy
    need(fields.number(1) in (0, 1), "safe")
    fields.raw(8)  # firmwareVersion
    return fields


def qd(purpose: int, x: bytes) -> bytes:
    return sha(b"gs-qd-v1", bytes([purpose]), x)


# Seals --------------------------------------------------------------------------------------------------------------


def unseal(key: bytes, envelope: list, what: str) -> bytes:
    """Opens the box of an envelope: the last element."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = bytes(11) + bytes([envelope[1]])
    try:
        return AESGCM(key).decrypt(nonce, envelope[-1], encode(envelope[:-1]))
    except InvalidTag:
        raise Wrong(f"{what}: seal does not open") from None


def cfb(key: bytes, iv: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    try:
        from cryptography.hazmat.decrepit.ciphers.modes import CFB
    except ImportError:
        from cryptography.hazmat.primitives.ciphers.modes import CFB
    return Cipher(algorithms.AES(key), CFB(iv)).decryptor().update(data)


def open_apdu(guek: bytes, gak: bytes, apdu: bytes) -> bytes:
    """DLMS general-glo-ciphering, suite 0, authenticated and encrypted, tag of 12 bytes."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    need(apdu[:2] == b"\xdb\x08", "general-glo-ciphering with a title of 8 bytes")
    title, length = apdu[2:10], apdu[10]
    need(length < 0x80 and len(apdu) == 11 + length and apdu[11] == 0x30, "length and security control")
    counter, body, tag = apdu[12:16], apdu[16:-12], apdu[-12:]
    cipher = Cipher(algorithms.AES(guek), modes.GCM(title + counter, tag, min_tag_length=12)).decryptor()
    cipher.authenticate_additional_data(b"\x30" + gak)
    return cipher.update(body) + cipher.finalize()


# What the run left --------------------------------------------------------------------------------------------------


class Evidence:
    """Messages, keys and whom to trust."""

    def __init__(self, folder: Path):
        def config(*parts: str) -> dict:
            return tomllib.loads(folder.joinpath(*parts).read_text())

        self.folder = folder
        self.events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        inventory = json.loads((folder / "inventory.json").read_text())
        self.keys = {role: [bytes.fromhex(key) for key in keys] for role, keys in inventory.items()}
        manager = config("owner", "endpoint-manager", "config.toml")
        self.owner = bytes.fromhex(manager["owner_key"])
        self.policy_key = bytes.fromhex(manager["policy_key"])
        # After a plus stands the recovery key, which signs nothing of an onboarding.
        voucher_key, second = manager["voucher_keys"][0].partition("+")[0].split(":")
        self.voucher_key, self.voucher_second = bytes.fromhex(voucher_key), bytes.fromhex(second)
        self.urls, self.pins = manager["config_urls"], [bytes.fromhex(pin) for pin in manager["config_pins"]]
        self.terminus = manager["terminus"]
        self.policy = (folder / "owner/endpoint-manager/policy.cose").read_bytes()
        self.devices = {}
        for path in sorted((folder / "factory").glob("*/firmware.toml")):
            firmware = tomllib.loads(path.read_text())
            self.devices[firmware["serial"]] = firmware | {"label": path.with_name("label.txt").read_text()}
        self.init_key = bytes.fromhex(next(iter(self.devices.values()))["init_keys"][0])
        self.shipment = (folder / "factory/shipment.cbor").read_bytes()
        self.delivery = (folder / "factory/delivery.cbor").read_bytes()
        self.voucher_log = (folder / "factory/voucher-log.cbor").read_bytes()

    def frames(self, process: str, direction: str) -> list[bytes]:
        return [
            bytes.fromhex(event["wire"])
            for event in self.events
            if (event.get("event"), event.get("process"), event.get("direction")) == ("frame", process, direction)
        ]


class Report:
    """One line for each check that holds."""

    def __init__(self, quiet: bool = False):
        self.quiet, self.count = quiet, 0

    def ok(self, who: str, what: str) -> None:
        self.count += 1
        if not self.quiet:
            print(f"ok    {who:<14} {what}")


# Papers -------------------------------------------------------------------------------------------------------------


class Device:
    """What the papers say of one device, checked."""

    def __init__(self, evidence: Evidence, log: list[bytes], papers: list, record: list, report: Report):
        manifest_wire, voucher_wire, (place, path) = sized(papers, 3)
        manifest = members(
            decode(signed(manifest_wire, "gso1-manifest", evidence.voucher_key)), {1, 2, 3, 4, 6, 7, 8, 9}, {5}
        )
        self.serial, self.model, self.ek_name, self.ek_pub = (manifest[key] for key in (1, 2, 3, 4))
        who = self.serial
        # What nobody but this device's TPM can read of the init server's challenge, and what this script cannot.
        self.unread: list[bytes] = []
        point = tpm_point(self.ek_pub, "EK")
        need(name_of(self.ek_pub) == self.ek_name, "Name of the endorsement key")
        need(manifest[6] == sha(spki(point)), "SHA-256 of the SubjectPublicKeyInfo")
        report.ok(who, "manifest: signature, endorsement key is the template, Name and key hash agree")
        firmware = evidence.devices[self.serial]
        need(manifest[-2].hex() == firmware["system_title"], "system title")
        need(manifest.get(-3, False) == (firmware["root"]["kind"] == "software"), "software root is announced")
        self.title = manifest[-2]
        need(firmware["label"] == label(self.model, self.serial, self.ek_name), "label A")
        report.ok(who, "label A: Name in base32 and check value")
        self.voucher = voucher_wire
        self.head, self.index, self.epoch = voucher(evidence, voucher_wire, self, manifest[7])
        report.ok(who, f"voucher: header and {self.index} entry, links, both signatures of each, ends with the owner")
        need(log[place][32:] == self.head, "the log has the entry where the shipment says")
        need(included(log[place], place, len(log), path) == tree_root(log), "inclusion proof")
        need(sum(entry[:32] == log[place][:32] for entry in log) == 1, "nothing else was sold after the same element")
        report.ok(who, "log of voucher entries: inclusion proof leads to the root, no second successor")
        self.n = delivered(evidence, record, self)
        need(sha(b"gs-ndev-commit-v1", self.n) == manifest[7], "commitment to the owner secret")
        need(self.n in evidence.keys["OwnerSecret"], "owner secret is in the inventory")
        report.ok(who, "delivery record: opens for the owner, release signed, secret matches its commitment")
        self.kid = mac(self.n, b"gs-kid-v1")[:16]


def spki(point: bytes) -> bytes:
    return bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200") + b"\x04" + point


def label(model: str, serial: str, ek_name: bytes) -> str:
    text = f"GSO1:A:{model}:{serial}:{base64.b32encode(ek_name[2:]).decode().rstrip('=')}"
    return f"{text}:{zlib.crc32(text.encode()):08X}"


def voucher(evidence: Evidence, wire: bytes, device: Device, n_commit: bytes) -> tuple[bytes, int, int]:
    """Head, index of the last entry, epoch."""
    header_wire, entries, second = sized(decode(wire), 3)
    payload = signed(header_wire, "gso1-voucher", evidence.voucher_key)
    header = members(decode(payload), {1, 2, 3, 4, 5})
    expected = {1: 1, 2: device.ek_name, 3: device.model, 4: device.serial, 5: n_commit, -1: evidence.voucher_second}
    need(header == expected, "voucher header agrees with the manifest and names the second key")
    before, signer, epoch = sha(b"gso1-voucher", payload), evidence.voucher_key, 0
    if not knows_ml_dsa():
        device.unread += [item[-3309:] for item in second]
    need(1 <= len(entries) <= 32 and len(second) == len(entries) + 1, "1 to 32 entries, a second signature for each")
    key = signed_twice(second[0], b"", evidence.voucher_second, b"gso1-voucher" + payload)
    known = evidence.voucher_second
    for index, entry_wire in enumerate(entries, start=1):
        payload = signed(entry_wire, "gso1-entry", signer)
        entry = members(decode(payload), {1, 2, 3, 4, 5, 6, 7})
        need(entry[1] == index and entry[4] == before and entry[3] in (0, 2), "voucher entry: index, link, kind")
        epoch += entry[3] == 0
        need(entry[2] == epoch and entry.get(-1) == known, "voucher entry: epoch, second key of its signer")
        key = signed_twice(second[index], key, known, b"gso1-entry" + payload)
        known = entry[-2]
        signer, before = point_of(entry[5]), sha(b"gso1-entry", payload)
    need(signer == evidence.owner, "the last entry names the owner")
    return before, len(entries), epoch


def signed_twice(item: bytes, before: bytes, known: bytes, message: bytes) -> bytes:
    """The ML-DSA-65 key that signed an element: carried with the signature unless it signed the element before too."""
    need(len(item) in (3309, 1952 + 3309), "second signature: length")
    need((len(item) == 3309) == (sha(before) == known), "second signature: a key travels once")
    key, signature = item[:-3309] or before, item[-3309:]
    need(sha(key) == known, "second signature: by the named key")
    if not knows_ml_dsa():
        return key
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey

    try:
        MLDSA65PublicKey.from_public_bytes(key).verify(signature, message)
    except Exception as error:
        raise Wrong("second signature does not verify") from error
    return key


def leaf(entry: bytes) -> bytes:
    return sha(b"\0", entry)


def tree_root(entries: list[bytes]) -> bytes:
    """RFC 6962, 2.1."""
    if len(entries) == 1:
        return leaf(entries[0])
    cut = 1 << (len(entries) - 1).bit_length() - 1
    return sha(b"\1", tree_root(entries[:cut]), tree_root(entries[cut:]))


def included(entry: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root to which a path leads; RFC 6962, 2.1.1."""
    if size == 1:
        need(not path, "inclusion proof: length")
        return leaf(entry)
    need(bool(path), "inclusion proof: length")
    cut = 1 << (size - 1).bit_length() - 1
    if index < cut:
        return sha(b"\1", included(entry, index, cut, path[:-1]), path[-1])
    return sha(b"\1", path[-1], included(entry, index - cut, size - cut, path[:-1]))


def log_entries(evidence: Evidence, log_head: bytes) -> list[bytes]:
    """Entries of the manufacturer's log, whose size and root both signed heads have."""
    file_head, joined = sized(decode(evidence.voucher_log), 2)
    entries = [joined[at : at + 64] for at in range(0, len(joined), 64)]
    for wire in (file_head, log_head):
        head = members(decode(signed(wire, "gso1-log", evidence.voucher_key)), {1, 2, 3})
        need((head[1], head[2]) == (len(entries), tree_root(entries)), "log: size and root")
    return entries


def delivered(evidence: Evidence, record: list, device: Device) -> bytes:
    """N_e out of its COSE_Encrypt."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    protected, headers, sealed, recipients = sized(record, 4)
    ((recipient_protected, recipient, empty),) = sized(recipients, 1)
    need(protected == encode({1: 3}) and recipient_protected == encode({1: -25}) and empty == b"", "COSE_Encrypt")
    private = ec.derive_private_key(int.from_bytes(evidence.keys["OwnerEncryption"][0], "big"), ec.SECP256R1())
    numbers = private.public_key().public_numbers()
    own = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    need(set(recipient) == {4, -1} and recipient[4] == key_id(own), "recipient")
    ephemeral = b"\x04" + point_of(recipient[-1])
    shared = private.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), ephemeral))
    info = encode([3, [None] * 3, [None] * 3, [256, recipient_protected]])
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(shared)
    plain = AESGCM(key).decrypt(headers[5], sealed, encode(["Encrypt", protected, b"gso1-release"]))
    release = members(decode(signed(plain, "gso1-release", evidence.voucher_key)), {1, 2, 3, 4, 5})
    need((release[1], release[2], release[4]) == (device.ek_name, 1, device.serial), "release is for this device")
    need(release[5] == EMPTY, "release of N_1 names no entry")
    return is_bytes(release[3], 32)


def delegated(evidence: Evidence, wire: bytes, use: int) -> tuple[bytes, int]:
    """Delegated key and generation."""
    delegation = members(decode(signed(wire, "gso1-delegation", evidence.owner)), {1, 2, 3, 4, 5, 6})
    need(delegation[1] == key_id(evidence.owner) and delegation[2] & use == use, "delegation: signer and use")
    need(delegation[5] < delegation[6], "delegation: dates")
    return point_of(delegation[3]), delegation[4]


# Init server --------------------------------------------------------------------------------------------------------


def redirect(evidence: Evidence, device: Device, parts: dict, first: int) -> bytes:
    """Hash of a redirect that is signed for this device; `first` is the member with the redirect."""
    need(parts[first + 2] == device.voucher, "voucher is the one of the shipment")
    key, _ = delegated(evidence, parts[first + 1], 2)
    payload = signed(parts[first], "gso1-redirect", key)
    fields = members(decode(payload), {1, 2, 3, 4, 5, 6, 7})
    need((fields[1], fields[2]) == (device.ek_name, device.epoch), "redirect is for this device and epoch")
    need((fields[3], fields[4]) == (evidence.urls, evidence.pins), "redirect names the owner's config servers")
    need(fields[5] < fields[6], "redirect: dates")
    device.seq = fields[7]
    return sha(b"gso1-redirect", payload)


def init_exchange(evidence: Evidence, device: Device, asked: list[bytes], answered: list[bytes], report: Report) -> None:
    who = device.serial
    hashes = set()
    for wire in asked:
        message = decode(wire)
        if message[:2] == [1, 30]:
            parts = members(sized(message, 3)[2], {1, 3}, {2})
            hashes.add(redirect(evidence, device, parts, 1))
    need(len(hashes) == 1, "one redirect is registered")
    need([1, 31, {1: device.seq}] in [decode(wire) for wire in answered], "registration is confirmed by its number")
    report.ok(who, "T1, T2: voucher, delegation and redirect verify; its number is confirmed")
    redirects = [decode(wire) for wire in answered if decode(wire)[1] == 23]
    tries: dict[bytes, int] = {}
    for wire in asked:
        message = decode(wire)
        if message[1] == 20:
            version, _, m, hello = sized(message, 4)
            need(version == 1 and members(hello, {1, 2, 3}, {4})[1] == [1], "I1: version, suites")
            need((hello[2], hello[3]) == (device.ek_name, 0), "I1: Name, and epoch 0 of a new device")
            need(set(hello) == {1, 2, 3, 4, -1}, "I1: identity key, endorsement key, no other extension")
            need(b"\x00\x0b" + sha(hello[-1]) == device.ek_name, "I1: the endorsement key has the device's Name")
            on_curve(tpm_point(hello[4], "AK"), "I1: identity key")
            tries[is_bytes(m, 32)] = tries.get(m, 0) + 1
    challenges = [sized(message, 4) for message in map(decode, answered) if message[1] == 21]
    numbers = {}
    for version, _, m, challenge in challenges:
        members(challenge, {1, 2, 3})
        need(version == 1 and m in tries, "I1C answers an I1")
        need(len(is_bytes(challenge[1], 70)) == 70, "I1C: credential")
        outer, secret = Tpm(challenge[1]), Tpm(challenge[2])
        credential, point = Tpm(outer.sized()), Tpm(secret.sized())
        integrity = credential.sized()
        need(len(integrity) == 32, "I1C: credential")
        device.unread += [integrity, credential.raw(34)]
        on_curve(point.sized() + point.sized(), "I1C: secret")
        for structure in (outer, credential, secret, point):
            structure.done()
        need(numbers.setdefault(is_bytes(challenge[3], 32), m) == m, "I1C: a number of its own")
    for version, kind, m, proof in (sized(message, 4) for message in map(decode, asked) if message[1] == 22):
        members(proof, {1, 2})
        need(version == 1 and numbers.get(proof[1]) == m and is_bytes(proof[2], 32), "I1P answers an I1C")
        device.unread.append(proof[2])
    need(bool(redirects), "the init server has redirected")
    for message in redirects:
        version, _, m, sign1 = sized(message, 4)
        need(version == 1 and m in tries, "I2 answers an I1")
        answer = members(decode(signed(sign1, "gso1-i2", evidence.init_key)), {1, 2, 3, 4, 6}, {5})
        need((answer[1], answer[2], answer[3]) == (device.ek_name, m, 1), "I2: Name, nonce, suite")
        hashes.add(redirect(evidence, device, answer, 4))
    need(len(hashes) == 1, "every I2 has the registered redirect")
    device.redirect = hashes.pop()
    given_up = [count for m, count in tries.items() if m not in {message[2] for message in redirects}]
    need(all(count >= FAILURES_MAX for count in given_up), "a nonce is repeated until it is answered or given up")
    report.ok(who, "I1, I1C, I1P, I2: signed by K_init for this nonce; redirect signed under the owner's voucher")


# Session ------------------------------------------------------------------------------------------------------------


class Session:
    """C1 to C8 of one session, or as far as it came."""

    def __init__(self, evidence: Evidence, device: Device, wires: dict[int, bytes], report: Report):
        self.evidence, self.device, self.report = evidence, device, report
        self.wires = wires
        self.th = [sha(b"GSO-v1")]
        self.messages = {}
        for number, wire in sorted(wires.items()):
            message = decode(wire)
            size = 5 if number <= 2 else 4
            need(message[:2] == [1, number] and len(sized(message, size)) == size, f"C{number}: envelope")
            self.messages[number] = message
            self.th.append(sha(self.th[-1], b"gso1-c%d" % number, wire))
        need(sorted(wires) == list(range(1, len(wires) + 1)), "no message of a session is missing")
        sid = sha(wires[1])[:16]
        need(all(message[2] == sid for number, message in self.messages.items() if number > 1), "session identifier")
        steps = [self.hello, self.challenge, self.evidence_of_device, self.commands, self.responses]
        steps += [self.configuration, self.installed, self.done]
        for step in steps[: len(wires)]:
            step()

    def ok(self, what: str) -> None:
        self.report.ok(self.device.serial, what)

    def hello(self) -> None:
        device, message = self.device, self.messages[1]
        self.m = is_bytes(message[3], 32)
        body = decode(unseal(mac(device.n, b"gs-seal-c1", self.m), message, "C1"))
        members(body, {1, 2, 3, 5, 6, 7, 8, 9, 10, 11}, {4})
        need(body[1] == [1] and body[2] == device.ek_name and body[3] == device.ek_pub, "C1: suite, Name, key")
        need(body[5] == device.epoch and body[10] == device.redirect and body[11] == device.head, "C1: what led here")
        self.publics = [body[key] for key in (6, 7, 8, 9)]
        self.ak, _, self.tls, iak = (
            tpm_point(public, kind) for public, kind in zip(self.publics, ("AK", "STO", "TLS", "AK"))
        )
        need(len({*self.publics}) == 4 and iak != self.ak, "C1: four different keys")
        self.ok("C1: opens under N_e; Name, redirect and voucher as before; four keys with exact attributes")

    def challenge(self) -> None:
        device, message = self.device, self.messages[2]
        m_em = is_bytes(message[3], 32)
        sealed = unseal(mac(device.n, b"gs-seal-c2", self.m, m_em), message, "C2")
        sign1, grant, delegation = sized(decode(sealed), 3)
        self.config_key, self.generation = delegated(self.evidence, delegation, 1)
        payload = signed(sign1, "gso1-c2", self.config_key)
        need(grant == mac(device.n, b"gs-grant-v1", self.th[1], sha(payload)), "C2: grant")
        fields = members(decode(payload), set(range(1, 15)))
        expected = {1: self.th[1], 2: device.ek_name, 3: device.epoch, 4: [1], 5: 1, 11: 0, 12: device.head}
        expected |= {13: self.m, 14: m_em}
        need(all(fields[key] == value for key, value in expected.items()), "C2: payload")
        policy = members(decode(signed(self.evidence.policy, "gso1-policy", self.evidence.policy_key)), set(range(1, 10)))
        need(policy[1] == device.model and policy[8] is True, "policy is for this model and allows empty logs")
        self.pcrs = policy[3]
        bits = sum(1 << pcr for pcr, _ in self.pcrs)
        self.selection = bytes.fromhex("00000001000b03") + bits.to_bytes(3, "little")
        need(fields[10] == self.selection, "C2: selection of PCRs is the policy's")
        self.nonce_callers = [is_bytes(nonce, 16) for nonce in sized(fields[9], 2)]
        for secret in (fields[7], *sized(fields[8], 2)):
            outer = Tpm(secret)
            inner = Tpm(outer.sized())
            outer.done()
            need(len(inner.sized()) == 32 and len(inner.sized()) == 32, "C2: secrets are points")
            inner.done()
        blob = Tpm(fields[6])
        identity = Tpm(blob.sized())
        blob.done()
        need(len(identity.sized()) == 32 and len(identity.data) - identity.at == 34, "C2: credential blob")
        self.ok("C2: opens; signed by the delegated K_config; grant under N_e; transcript, nonces, PCR selection")

    def evidence_of_device(self) -> None:
        message, th2 = self.messages[3], self.th[2]
        for candidate in self.evidence.keys["ActivationSecret"]:
            root = mac(self.device.n, b"gs-sess-v1", th2, candidate)
            self.m2e, self.e2m = mac(root, b"gs-m2e-v1"), mac(root, b"gs-e2m-v1")
            try:
                body = decode(unseal(self.m2e, message, "C3"))
            except Wrong:
                continue
            self.k_act = candidate
            break
        else:
            raise Wrong("C3: opens under no K_act of the inventory")
        members(body, set(range(1, 13)))
        need(body[1] == mac(self.k_act, b"gs-act-v1", th2), "C3: act")
        self.ok("C3: opens under keys from N_e, K_act and the transcript; act")
        _, storage, tls, identity = self.publics
        for purpose, (member, public) in enumerate(((3, storage), (4, tls), (5, identity)), start=1):
            fields = attested(body[member], self.ak, 0x8017, qd(purpose, th2))
            need(fields.sized() == name_of(public), f"C3: certified Name {purpose}")
            need(len(fields.sized()) == 34, "C3: qualified Name")
            fields.done()
        self.ok("C3: storage, TLS and identity key certified by the attestation key, each for its purpose")
        fields = attested(body[6], self.ak, 0x8018, qd(4, th2))
        need(fields.raw(len(self.selection)) == self.selection, "C3: quoted selection")
        values = [digests[0] for _, digests in self.pcrs]
        need(all(len(digests) == 1 for _, digests in self.pcrs), "this script knows one value for each PCR")
        need(fields.sized() == sha(*values), "C3: quoted digest is the policy's")
        fields.done()
        need((body[7], body[8], body[9]) == (b"", 0, b""), "C3: logs are empty")
        self.ok("C3: quote of the policy's PCRs with the policy's values")
        self.csr(is_bytes(body[10], 16, 4096))
        self.permanent = body[11]
        need(self.permanent & (1 << 8 | 1 << 9) == 0 and body[12] is False, "C3: state of the TPM")
        self.sessions = [(session[0], is_bytes(session[1], 16)) for session in sized(body[2], 2)]
        self.ok("C3: certificate request signed by the TLS key itself; platform hierarchy closed")

    def csr(self, der: bytes) -> None:
        from cryptography import x509

        request = x509.load_der_x509_csr(der)
        need(request.is_signature_valid, "C3: signature of the certificate request")
        need(certified_point(request) == self.tls, "C3: certificate request is for the TLS key")

    def commands(self) -> None:
        fields = members(is_config_signed(unseal(self.e2m, self.messages[4], "C4"), "gso1-c4", self.config_key), {1, 2})
        need(fields[1] == self.th[3], "C4: transcript")
        self.changes = [self.change_auth(place, command) for place, command in enumerate(sized(fields[2], 2))]
        self.ok("C4: signed by K_config; two HierarchyChangeAuth, their HMACs and encrypted values are the inventory's")

    def responses(self) -> None:
        answer = members(decode(unseal(self.m2e, self.messages[5], "C5")), {1, 2})
        need(answer[1] == self.th[4], "C5: transcript")
        for (key, nonce_caller), response in zip(self.changes, sized(answer[2], 2)):
            reply = Tpm(response)
            need((reply.number(2), reply.number(4), reply.number(4)) == (0x8002, len(response), 0), "C5: response code")
            need(reply.number(4) == 0, "C5: no parameters")
            nonce_tpm, attributes, response_mac = reply.sized(), reply.raw(1), reply.sized()
            reply.done()
            reply_hash = sha(bytes(4), CHANGE_AUTH.to_bytes(4, "big"))
            need(response_mac == mac(key, reply_hash, nonce_tpm, nonce_caller, attributes), "C5: HMAC of a response")
        self.ok("C5: both response HMACs under the new authorisations: this TPM, now owned")

    def change_auth(self, place: int, command: bytes) -> tuple[bytes, bytes]:
        """Checks one command of C4; returns the key of its response's HMAC and its nonce."""
        handle, nonce_tpm = self.sessions[place]
        call = Tpm(command)
        need((call.number(2), call.number(4), call.number(4)) == (0x8002, len(command), CHANGE_AUTH), "C4: command")
        need(call.number(4) == HIERARCHIES[place], "C4: hierarchy")
        area = Tpm(call.raw(call.number(4)))
        need(area.number(4) == handle, "C4: TPM session is the one of C3")
        nonce_caller, attributes, command_mac = area.sized(), area.raw(1), area.sized()
        area.done()
        parameter = call.sized()
        call.done()
        need(attributes[0] & 0x20 == 0x20, "C4: the value is encrypted")
        sessions = [
            kdfa(salt, "ATH", nonce_tpm, self.nonce_callers[place], 256) for salt in self.evidence.keys["TpmSeed"]
        ]
        known = [key for key in sessions if key in self.evidence.keys["TpmSession"]]
        need(len(known) == 1, "C4: session key follows from a salt and both nonces")
        is_set = self.permanent & (1, 4)[place] != 0
        for auth in self.evidence.keys["AuthValue"]:
            in_force = known[0] + (auth if is_set else b"")
            stream = kdfa(in_force, "CFB", nonce_caller, nonce_tpm, 256)
            if cfb(stream[:16], stream[16:], parameter) == auth:
                break
        else:
            raise Wrong("C4: new authorisation is none of the inventory")
        call_hash = sha(CHANGE_AUTH.to_bytes(4, "big"), HIERARCHIES[place].to_bytes(4, "big"), sized_2b(parameter))
        need(command_mac == mac(in_force, call_hash, nonce_caller, nonce_tpm, attributes), "C4: HMAC of the command")
        return known[0] + auth, nonce_caller

    def configuration(self) -> None:
        device = self.device
        fields = members(
            is_config_signed(unseal(self.e2m, self.messages[6], "C6"), "gso1-c6", self.config_key), set(range(1, 11))
        )
        need(fields[1] == self.th[5], "C6: transcript")
        need(fields[8] == device.epoch and fields[9] == [device.index, self.generation, device.head], "C6: epoch, pin")
        need(fields[6] == 1 and fields[7] == EMPTY, "C6: first configuration of a new device")
        need(members(fields[4], {1, 2}) == {1: self.evidence.terminus, 2: []}, "C6: terminus")
        self.now = fields[10]
        self.ok("C6: signed by K_config; transcript, pin, first version, terminus")
        self.chain(fields[2], fields[3])
        self.names = []
        for number, item in enumerate(fields[5], start=1):
            members(item, {1, 2, 3, 4})
            public = item[2]
            need(item[1] == number and public.startswith(SEALED) and len(public) == len(SEALED) + 32, "C6: object")
            outer = Tpm(item[3])
            duplicate = Tpm(outer.sized())
            outer.done()
            need(len(duplicate.sized()) == 32, "C6: outer wrapper of an object")
            self.names.append(name_of(public))
        need(len(set(self.names)) == 3, "C6: three objects, three Names")
        self.ok("C6: GUEK, GAK and KEK as import objects, attributes 0x440, no two Names equal")

    def chain(self, chain: list[bytes], bundle: list[bytes]) -> None:
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        pem = (self.evidence.folder / "owner/pki/issuing.pem").read_bytes()
        end = b"-----END CERTIFICATE-----\n"
        issuing, root = (x509.load_pem_x509_certificate(part + end) for part in pem.split(end)[:-1])
        leaf, above = (x509.load_der_x509_certificate(der) for der in sized(chain, 2))
        need([x509.load_der_x509_certificate(der) for der in sized(bundle, 1)] == [root], "C6: CA bundle")
        need(above == issuing, "C6: issuing certificate")
        issued_by(leaf, issuing)
        issued_by(issuing, root)
        issued_by(root, root)
        need(certified_point(leaf) == self.tls, "C6: LDevID is for the TLS key that the TPM certified")
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        need(ExtendedKeyUsageOID.CLIENT_AUTH in usage, "C6: LDevID is for client authentication")
        constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
        need(not constraints.ca, "C6: LDevID is no authority")
        self.ok("C6: LDevID chain verifies; certified key = TLS key of C1 = key of the certificate request")

    def installed(self) -> None:
        body = members(decode(unseal(self.m2e, self.messages[7], "C7")), {1, 2, 3})
        need(body[1] == self.th[6] and body[2] == mac(self.k_act, b"gs-done-v1", self.th[6]), "C7: receipt")
        need(body[3] == self.names, "C7: Names of the imported objects")
        self.ok("C7: receipt under K_act; Names of the imported objects recomputed from C6")

    def done(self) -> None:
        fields = members(is_config_signed(unseal(self.e2m, self.messages[8], "C8"), "gso1-c8", self.config_key), {1, 2})
        need(fields[1] == self.th[7] and fields[2] >= self.now, "C8: transcript, time does not go back")
        self.ok("C8: signed by K_config over the whole transcript")


def certified_point(holder: object) -> bytes:
    numbers = holder.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


# The whole run ------------------------------------------------------------------------------------------------------


class Traffic:
    """Which frames belong to which device."""

    def __init__(self, evidence: Evidence, devices: list[Device]):
        by_name = {device.ek_name: device for device in devices}
        by_kid = {device.kid: device for device in devices}
        self.init = {device.serial: ([], []) for device in devices}
        self.sessions: dict[bytes, tuple[Device, dict[int, bytes]]] = {}
        by_m, by_seq = {}, {}
        for wire in evidence.frames("init-server", "received"):
            message = decode(wire)
            need(message[:2] in ([1, 20], [1, 22], [1, 30]), "what the init server gets is I1, I1P or T1")
            if message[1] == 30:
                redirect_payload = decode(decode(message[2][1])[2])
                device = by_name[redirect_payload[1]]
                by_seq.setdefault(redirect_payload[7], []).append(device)
            elif message[1] == 22:
                need(message[2] in by_m, "I1P follows an I1")
                device = by_m[message[2]]
            else:
                device = by_name[message[3][2]]
                by_m[message[2]] = device
            self.init[device.serial][0].append(wire)
        refusal = encode([1, 0, bytes(16), 30, 0])
        for wire in evidence.frames("init-server", "sent"):
            message = decode(wire)
            need(message[0] == 1, "version of a message")
            if message[1] == 31:
                owners = by_seq.get(message[2][1])
                need(owners is not None, "T2 confirms a number that was registered")
            elif message[1] in (21, 23):
                need(message[2] in by_m, "I1C and I2 answer an I1")
                owners = [by_m[message[2]]]
            else:
                need(wire == refusal, "a refusal is uniform")
                owners = []
            for device in owners:
                self.init[device.serial][1].append(wire)
        for wire in evidence.frames("config-server", "from-device"):
            message = decode(wire)
            if message[1] == 1:
                need(message[2] in by_kid, "pseudonym is that of a device")
                self.sessions.setdefault(sha(wire)[:16], (by_kid[message[2]], {}))
        for direction in ("from-device", "to-device"):
            for wire in evidence.frames("config-server", direction):
                self.place(wire, direction == "from-device")

    def place(self, wire: bytes, from_device: bool) -> None:
        message = decode(wire)
        number = message[1]
        if number == 0:
            need(not from_device and wire == encode([1, 0, is_bytes(message[2], 16), 30, 0]), "a refusal is uniform")
            return
        need(number in range(1, 9) and (number % 2 == 1) == from_device, "odd messages come from the device")
        sid = sha(wire)[:16] if number == 1 else message[2]
        need(sid in self.sessions, f"C{number} belongs to a session")
        known = self.sessions[sid][1].setdefault(number, wire)
        need(known == wire, f"C{number} was sealed once and repeated byte for byte")


def papers(evidence: Evidence, report: Report) -> list[Device]:
    log_head, shipped = sized(decode(evidence.shipment), 2)
    records = decode(evidence.delivery)
    need(len(shipped) == len(records) == len(evidence.devices), "papers and owner secret of each device")
    log = log_entries(evidence, log_head)
    return [Device(evidence, log, one, record, report) for one, record in zip(shipped, records)]


def check_device(evidence: Evidence, traffic: Traffic, device: Device, report: Report) -> None:
    init_exchange(evidence, device, *traffic.init[device.serial], report)
    complete = 0
    for owner, wires in traffic.sessions.values():
        if owner is device:
            Session(evidence, device, wires, report)
            complete += len(wires) == 8
    need(complete == 1, "one complete session for each device")


def check_readings(evidence: Evidence, devices: list[Device], report: Report) -> None:
    """Each sealed APDU opens under one GUEK and GAK of the run; no (key, counter) pair has two contents."""
    titles = {device.title: device.serial for device in devices}
    used: dict[tuple[bytes, bytes], bytes] = {}
    for event in evidence.events:
        if event.get("event") != "frame" or event.get("process") != "headend":
            continue
        apdu = bytes.fromhex(event["apdu"])
        need(apdu[2:10] in titles, "system title is that of a device")
        opened = None
        for guek in evidence.keys["Guek"]:
            for gak in evidence.keys["Gak"]:
                opened = opened or attempt(guek, gak, apdu)
        need(opened is not None, "a sealed APDU opens under a channel key of the run")
        key, plain = opened
        need(plain[:1] == b"\x0f", "a sealed APDU is a DataNotification")
        need(used.setdefault((key, apdu[12:16]), apdu) == apdu, "no counter is used twice under one key")
    need({apdu[2:10] for apdu in used.values()} == set(titles), "every device has delivered")
    report.ok("readings", f"{len(used)} sealed APDUs open under the run's channel keys, no counter twice")


def attempt(guek: bytes, gak: bytes, apdu: bytes) -> tuple[bytes, bytes] | None:
    from cryptography.exceptions import InvalidTag

    try:
        return guek, open_apdu(guek, gak, apdu)
    except InvalidTag:
        return None


def check_audit(evidence: Evidence, report: Report) -> None:
    for path in ("owner/keys/keys.db", "owner/endpoint-manager/register.db", "factory/init-server/init.db"):
        file = evidence.folder / path
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "log.db"
            for suffix in ("", "-wal"):
                source = Path(f"{file}{suffix}")
                if source.exists():
                    Path(f"{copy}{suffix}").write_bytes(source.read_bytes())
            connection = sqlite3.connect(copy)
            rows = connection.execute("SELECT value FROM records WHERE tbl = 'audit' ORDER BY key").fetchall()
            ((end_of_chain,),) = connection.execute("SELECT value FROM records WHERE tbl = 'audit_head'").fetchall()
            connection.close()
        before, count = EMPTY, 0
        for count, (row,) in enumerate(rows, start=1):
            entry, end = item_at(row, 0, 0)
            need(end == len(row) and entry[0] == count and entry[1] == before, f"{path}: audit entry {count}")
            before = sha(row)
        need(item_at(end_of_chain, 0, 0)[0] == [count, before], f"{path}: end of the audit log")
        report.ok("audit", f"{path}: {count} entries, each with the hash of the one before")


def check(evidence: Evidence, report: Report) -> None:
    devices = papers(evidence, report)
    traffic = Traffic(evidence, devices)
    for device in devices:
        check_device(evidence, traffic, device, report)
    check_readings(evidence, devices, report)
    check_audit(evidence, report)


def knows_ml_dsa() -> bool:
    import importlib.util

    return importlib.util.find_spec("cryptography.hazmat.primitives.asymmetric.mldsa") is not None


def self_test(evidence: Evidence, every: int) -> None:
    """Changes one bit of each byte of each frame of one device; every change must be found, but in what is not read.

    With `every` above 1 only one byte of so many is changed, each time others.
    """
    devices = papers(evidence, Report(quiet=True))
    device, traffic = devices[0], Traffic(evidence, devices)
    own = {wire for wires in traffic.init[device.serial] for wire in wires}
    own |= {wire for owner, wires in traffic.sessions.values() if owner is device for wire in wires.values()}
    scope = copy.copy(evidence)
    frames = [event for event in evidence.events if event.get("event") == "frame" and "wire" in event]
    scope.events = [event for event in frames if bytes.fromhex(event["wire"]) in own]

    def is_found() -> bool:
        try:
            check_device(scope, Traffic(scope, [device]), device, Report(quiet=True))
        except Exception:  # whatever stops the script has found the change
            return True
        return False

    need(not is_found(), "the unchanged frames pass")
    changed, unread = 0, set(device.unread)
    for event in scope.events:
        wire = bytes.fromhex(event["wire"])
        places = {at for part in unread if part in wire for at in range(wire.index(part), wire.index(part) + len(part))}
        for at in sorted(set(range(changed % every, len(wire), every)) - places):
            mutant = bytearray(wire)
            mutant[at] ^= 1 << (at % 8)
            event["wire"] = mutant.hex()
            need(is_found(), f"a change of byte {at} is not found: {event['process']} {event['direction']} {wire[:24].hex()}")
            changed += 1
        event["wire"] = wire.hex()
        but = f", {len(places)} not read" if places else ""
        of = f"one of {every} of " if every > 1 else ""
        print(f"ok    self-test      {event['process']} {event['direction']}: {of}{len(wire) - len(places)} bytes matter{but}")
    print(f"{changed} changes, all found")


def check_vector(report: Report) -> None:
    """The script itself against the protocol's framing vector, which neither it nor Gridseal has made."""
    path = Path(__file__).resolve().parent.parent / "vectors/onboarding/gso_framing.toml"
    v = {key: bytes.fromhex(value) for key, value in tomllib.loads(path.read_text())["value"].items()}
    n_1 = mac(v["n_root"], b"gs-ndev-v1", (1).to_bytes(8, "big"))
    need(n_1 == v["n_1"] and sha(b"gs-ndev-commit-v1", n_1) == v["n_commit"], "vector: owner secret")
    need(mac(n_1, b"gs-kid-v1")[:16] == v["kid"], "vector: pseudonym")
    cose_key = decode(v["owner_cose_key"])
    owner = point_of(cose_key)
    need(key_id(owner) == v["owner_key_id"], "vector: key id")
    delegation = decode(signed(v["delegation"], "gso1-delegation", owner))
    redirect_payload = signed(v["redirect"], "gso1-redirect", owner)
    need(sha(b"gso1-redirect", redirect_payload) == v["redirect_hash"], "vector: redirect")
    header, (entry,) = decode(v["voucher"])
    need(decode(header)[2] == v["voucher_header_payload"], "vector: voucher header")
    need(sha(b"gso1-entry", decode(entry)[2]) == v["voucher_head"], "vector: voucher head")
    c1, c2, c5 = (decode(v[name]) for name in ("c1_wire", "c2_wire", "c5_wire_example"))
    need(unseal(mac(n_1, b"gs-seal-c1", c1[3]), c1, "vector C1") == v["c1_body"], "vector: C1")
    th = [sha(b"GSO-v1")]
    th.append(sha(th[0], b"gso1-c1", v["c1_wire"]))
    th.append(sha(th[1], b"gso1-c2", v["c2_wire"]))
    need(th == [v["th0"], v["th1"], v["th2"]] and sha(v["c1_wire"])[:16] == v["sid"] == c2[2], "vector: transcript")
    sign1, grant, _ = decode(unseal(mac(n_1, b"gs-seal-c2", c1[3], c2[3]), c2, "vector C2"))
    payload = signed(sign1, "gso1-c2", point_of(delegation[3]))
    need(payload == v["c2_payload"] and grant == v["grant"], "vector: C2")
    need(grant == mac(n_1, b"gs-grant-v1", th[1], sha(payload)), "vector: grant")
    root = mac(n_1, b"gs-sess-v1", th[2], v["k_act"])
    m2e, e2m = mac(root, b"gs-m2e-v1"), mac(root, b"gs-e2m-v1")
    need((root, m2e, e2m) == (v["k_s"], v["k_m2e"], v["k_e2m"]), "vector: session keys")
    need(mac(v["k_act"], b"gs-act-v1", th[2]) == v["act"], "vector: act")
    purposes = ("qd_sto", "qd_tls", "qd_iak", "qd_quote")
    need([qd(number, th[2]) for number in range(1, 5)] == [v[name] for name in purposes], "vector: qualifying data")
    need(unseal(m2e, c5, "vector C5") == v["c5_body_example"], "vector: C5")
    report.ok("vector", "this script reproduces the protocol's framing vector")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evidence", type=Path)
    parser.add_argument("--self-test", action="store_true", help="change bytes and see that each change is found")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of the self-test: change one byte of N")
    parser.add_argument("--no-venv", action="store_true", help="use the package `cryptography` that is installed")
    arguments = parser.parse_args()
    if not arguments.no_venv:
        with tempfile.TemporaryDirectory(prefix="gridseal-interop-") as folder:
            venv.create(folder, with_pip=True)
            python = str(Path(folder) / "bin" / "python")
            subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
            return subprocess.run([python, __file__, "--no-venv", *sys.argv[1:]]).returncode
    try:
        evidence = Evidence(arguments.evidence)
        report = Report()
        check_vector(report)
        check(evidence, report)
        if not knows_ml_dsa():
            print("not checked: second signatures; this package `cryptography` knows no ML-DSA-65")
        print(f"{report.count} checks hold")
        if arguments.self_test:
            self_test(evidence, arguments.every)
    except Wrong as wrong:
        print(f"WRONG {wrong}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
