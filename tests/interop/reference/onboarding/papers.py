"""Manifest, voucher, delegation, redirect, log, delivery record and labels: docs/protocol/papers.md."""

import base64
import re
import zlib
from dataclasses import dataclass

from . import cbor, cose, crypto, must, tpm
from .cose import document_hash, format_error
from .crypto import sha256

EMPTY = bytes(32)


@dataclass
class Voucher:
    """A voucher that verified: hash of each element, header first, and what the last entry says."""

    hashes: list
    header: dict
    epoch: int
    owner: bytes
    encryption: bytes
    second_checked: bool

    @property
    def head(self):
        return self.hashes[-1]

    def contains(self, index, element):
        return index < len(self.hashes) and self.hashes[index] == element


def verify_voucher(shapes, voucher, trusted):
    """`trusted` has for the id of each voucher key its point and the id of its second key, or None; and, where the maker
    has recovery keys, the same of those by their ids."""
    return format_error("E_VOUCHER", _verify_voucher, shapes, voucher, trusted)


def _verify_voucher(shapes, data, trusted):
    must(len(data) <= 65536, "E_VOUCHER", "size")
    voucher = shapes.outside("voucher", cbor.decode(data))
    elements = [voucher[0], *voucher[1]]
    must(voucher[1] and all(len(element) <= 1024 for element in elements), "E_VOUCHER", "no owner, or size")
    items = voucher[2] if len(voucher) == 3 else [b""] * len(elements)
    must(len(items) == len(elements), "E_VOUCHER", "items of second signatures")
    maker = cose.signer_id(voucher[0])
    must(maker in trusted, "E_VOUCHER", "voucher key is not trusted")
    signer, second, *rest = trusted[maker]
    recovery = rest[0] if rest else {}
    hashes, header, epoch, encryption, before, checked = [], None, 0, None, None, False
    for index, (element, item) in enumerate(zip(elements, items)):
        kind = "gso1-entry" if index else "gso1-voucher"
        members = shapes.read("voucher-entry" if index else "voucher-header", cose.payload(element))
        if index and members[3] == 1:
            must(index > 1, "E_VOUCHER", "nobody is there to be recovered from")
            must(cose.signer_id(element) in recovery, "E_VOUCHER", "recovery key is not trusted")
            signer, second = recovery[cose.signer_id(element)]
        payload = cose.verify(element, kind, signer, "E_VOUCHER")
        before, sure = _second(members.get(-1), item, second, before, kind.encode() + payload)
        checked = checked or sure
        if index == 0:
            header = members
        else:
            must(members[1] == index and members[4] == hashes[-1], "E_VOUCHER", "index or link")
            must(members[3] in (0, 1) or (members[3] == 2 and index > 1), "E_VOUCHER", "kind of entry")
            epoch += members[3] != 2
            must(members[2] == epoch, "E_VOUCHER", "epoch of an entry")
            signer = cose.point(members[5], "E_VOUCHER")
            encryption = cose.point(members[6], "E_VOUCHER")
            second = members.get(-2)
        hashes.append(document_hash(kind, payload))
    return Voucher(hashes, header, epoch, signer, encryption, checked)


def _second(named, item, known, before, message):
    """The second key of this element, as the next one sees it, and whether a signature was verified."""
    must(known is None or named == known, "E_VOUCHER", "second key is another than the known one")
    if named is None:
        must(item == b"", "E_VOUCHER", "second signature without a name")
        return None, False
    if before and before[0] == named:
        must(len(item) == 3309, "E_VOUCHER", "key that may be left out")
        public, signature = before[1], item
    else:
        must(len(item) == 5261, "E_VOUCHER", "second key is missing")
        public, signature = item[:1952], item[1952:]
        must(sha256(public) == named, "E_VOUCHER", "second key has another id")
    verdict = crypto.ml_dsa_verifies(public, message, signature)
    must(verdict is not False, "E_VOUCHER", "second signature")
    return (named, public), verdict is True


def verify_delegation(shapes, signed, owner, use, code):
    """The delegated key and the members, for use 1 (config) or 2 (redirect)."""
    must(len(signed) <= 1024, code, "size of the delegation")
    payload = format_error(code, cose.verify, signed, "gso1-delegation", owner, code)
    members = format_error(code, shapes.read, "delegation", payload)
    must(members[1] == cose.key_id(owner) and members[2] & use, code, "delegation: owner or use")
    return cose.point(members[3], code), members


def verify_redirect(shapes, signed, delegation, voucher):
    signer = voucher.owner
    if delegation is not None:
        signer, _ = verify_delegation(shapes, delegation, voucher.owner, 2, "E_REDIRECT_SIG")
    payload = format_error("E_REDIRECT_SIG", cose.verify, signed, "gso1-redirect", signer, "E_REDIRECT_SIG")
    members = format_error("E_REDIRECT_SIG", shapes.read, "redirect", payload)
    same = members[1] == voucher.header[2] and members[2] == voucher.epoch
    must(same, "E_REDIRECT_SIG", "redirect: device or epoch")
    return members, document_hash("gso1-redirect", payload)


# ---- Manifest and registration ----


def register(shapes, papers, head, trusted, owner):
    """Registration of one device of a shipment: manifest, voucher, proof."""
    manifest, voucher_data, proof = papers
    maker = format_error("E_VOUCHER", cose.signer_id, manifest)
    must(maker in trusted, "E_VOUCHER", "manifest of nobody we trust")
    payload = format_error("E_VOUCHER", cose.verify, manifest, "gso1-manifest", trusted[maker][0], "E_VOUCHER")
    members = shapes.read("manifest", payload)
    voucher = verify_voucher(shapes, voucher_data, trusted)
    must(voucher.owner == owner, "E_VOUCHER", "voucher of another owner")
    header = voucher.header
    same = (header[2], header[5], header[4], header[3]) == (members[3], members[7], members[1], members[2])
    must(same, "E_LABEL", "header and manifest differ")
    point = tpm.point_of("ek", members[4], "E_EK")
    must(tpm.name(members[4]) == members[3] and sha256(tpm.spki(point)) == members[6], "E_EK", "Name or key")
    must(-2 in members, "E_LABEL", "no system title")
    members_of_head = verify_log_head(shapes, head, trusted)
    must(log_proves(members_of_head, voucher.hashes[-2] + voucher.head, proof), "E_VOUCHER", "proof of the log")
    return members, voucher


# ---- Log of voucher entries ----


def verify_log_head(shapes, head, trusted):
    must(len(head) <= 512, "E_VOUCHER", "size of the head")
    maker = format_error("E_VOUCHER", cose.signer_id, head)
    must(maker in trusted, "E_VOUCHER", "head of nobody we trust")
    payload = format_error("E_VOUCHER", cose.verify, head, "gso1-log", trusted[maker][0], "E_VOUCHER")
    return shapes.read("voucher-log-head", payload)


def log_leaf(entry):
    return sha256(b"\x00", entry)


def log_root(leaves):
    if not leaves:
        return sha256()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01", log_root(leaves[:split]), log_root(leaves[split:]))


def log_path(leaves, index):
    """Siblings from the leaf upwards."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*log_path(leaves[:split], index), log_root(leaves[split:])]
    return [*log_path(leaves[split:], index - split), log_root(leaves[:split])]


def witnessed(shapes, word, witness, head, log):
    """Whether this witness has signed this head of the log with that id: [size, root]."""
    payload = format_error("E_VOUCHER", cose.verify, word, "gso1-witness", witness, "E_VOUCHER")
    members = shapes.read("witness-word", payload)
    return members[4] == log and [members[1], members[2]] == [head[1], head[2]]


def log_proves(head, entry, proof):
    """RFC 6962, 2.1.1, from index and siblings."""
    index, path = proof
    at, last, node = index, head[1] - 1, log_leaf(entry)
    if not 0 <= index < head[1]:
        return False
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            node = sha256(b"\x01", sibling, node)
            while at & 1 == 0 and at:
                at, last = at >> 1, last >> 1
        else:
            node = sha256(b"\x01", node, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and node == head[2]


# ---- Owner secrets and labels ----


def commitment(secret):
    return sha256(b"gs-ndev-commit-v1", secret)


def weak(secret):
    steps = {(right - left) % 256 for left, right in zip(secret, secret[1:])}
    return len(set(secret)) <= 16 or len(steps) <= 16


def open_delivery(shapes, record, encryption_scalar, voucher, trusted):
    """The owner secret in a delivery record, checked against the voucher's header."""
    must(len(cbor.encode(record)) <= 2048, "E_LABEL", "size of the record")
    signed = cose.delivery_open(encryption_scalar, record, "gso1-release")
    maker = format_error("E_LABEL", cose.signer_id, signed)
    must(maker in trusted, "E_LABEL", "record of nobody we trust")
    payload = format_error("E_LABEL", cose.verify, signed, "gso1-release", trusted[maker][0], "E_LABEL")
    return _released(shapes, payload, voucher)


def open_label_delivery(shapes, record, encryption_scalar, voucher):
    plain = cose.delivery_open(encryption_scalar, record, "gso1-label")
    return _released(shapes, plain, voucher)


def _released(shapes, payload, voucher):
    release = format_error("E_LABEL", shapes.read, "release", payload)
    header = voucher.header
    must(release[1] == header[2] and release[4] == header[4], "E_LABEL", "Name or serial number")
    must(release[2] == 1 and commitment(release[3]) == header[5], "E_LABEL", "epoch or commitment")
    must(release[5] == EMPTY and not weak(release[3]), "E_LABEL", "entry, or a weak secret")
    return release


WORD = r"[0-9A-Z.-]{1,20}"
LABEL_A = re.compile(rf"GSO1:A:({WORD}):({WORD}):([A-Z2-7]{{52}}):([0-9A-F]{{8}})")
LABEL_B = re.compile(rf"GSO1:B:({WORD}):([A-Z2-7]{{52}}):([0-9A-F]{{8}})")


def _base32(data):
    return base64.b32encode(data).decode().rstrip("=")


def _checked(text):
    return f"{text}:{zlib.crc32(text.encode()):08X}"


def label_a(model, serial, name):
    return _checked(f"GSO1:A:{model}:{serial}:{_base32(name[2:])}")


def label_b(serial, secret):
    return _checked(f"GSO1:B:{serial}:{_base32(secret)}")


def read_label(text):
    """(model, serial, Name) of label A, (serial, secret) of label B."""
    text = text.strip()
    found = LABEL_A.fullmatch(text) or LABEL_B.fullmatch(text)
    must(len(text) <= 128 and found, "E_LABEL", "form")
    must(text == _checked(text.rsplit(":", 1)[0]), "E_LABEL", "check digits")
    *words, digits, _ = found.groups()
    value = base64.b32decode(digits + "====")
    must(_base32(value) == digits, "E_LABEL", "unused bits")
    if len(words) == 2:
        return words[0], words[1], b"\x00\x0b" + value
    must(not weak(value), "E_LABEL", "weak secret")
    return words[0], value
