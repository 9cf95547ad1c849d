"""general-ciphering under every kind of key, and general-signing: the layers around an APDU, both ways."""

import os
import time

from .codec import Malformed, Reader, field
from .security import SUITES, Refused, agree, derive, public_of, seal, sign, unseal, unwrap, verify, wrap

CIPHERED, SIGNED = 0xDD, 0xDF
IDENTIFIED, WRAPPED, AGREED = 0, 1, 2
ONE_PASS, STATIC = b"\x01", b"\x02"


def header(transaction: bytes, originator: bytes, recipient: bytes) -> bytes:
    return b"".join(map(field, (transaction, originator, recipient, b"", b"")))


class Layers:
    """The layers of one side. Hooks named `made_...` and `sent_...` let a liar change what it makes."""

    def __init__(self, guard, side: str):
        self.guard, self.lab, self.side = guard, guard.lab, side
        self.other = "server" if side == "client" else "client"
        self.suite = SUITES[self.lab.suite]
        # A client's transaction-ids rise from run to run; a server repeats those that it was asked with.
        self.next = time.time_ns() // 1000
        self.asked, self.last = b"", -1

    # What goes out.

    def close(self, apdu: bytes) -> bytes:
        self.transaction = self.asked
        if self.side == "client":
            self.transaction, self.next = self.made_transaction(), self.next + 1
            self.asked = self.transaction
        self.fields = self.made_header()
        if self.lab.signing == "inside":
            apdu = self.signed(apdu)
        apdu = self.ciphered(apdu) if self.lab.carrier == "general-ciphering" else self.guard.carry(apdu)
        return self.signed(apdu) if self.lab.signing == "outside" else apdu

    def made_transaction(self) -> bytes:
        return self.next.to_bytes(8, "big")

    def made_header(self) -> bytes:
        return header(self.transaction, self.lab.title[self.side], self.lab.title[self.other])

    def signed(self, content: bytes) -> bytes:
        message = self.fields + (content if self.lab.unsized else field(content))
        return bytes([SIGNED]) + self.fields + field(content) + field(self.made_signature(message))

    def made_signature(self, message: bytes) -> bytes:
        return sign(self.suite, self.lab.scalar[self.side], message)

    def ciphered(self, apdu: bytes) -> bytes:
        lab, counter = self.lab, 0
        own, peer = lab.title[self.side], lab.title[self.other]
        if lab.key_info == "identified":
            key, info, counter = lab.ek, bytes([IDENTIFIED, 0]), self.guard.next()
        elif lab.key_info == "wrapped":
            key = os.urandom(len(lab.ek))
            info = bytes([WRAPPED, 0]) + field(self.made_wrapping(key))
        elif lab.key_info == "agreed-1p":
            scalar = os.urandom(self.suite.coordinate - 1).rjust(self.suite.coordinate, b"\1")
            key = derive(lab.suite, agree(self.suite, scalar, lab.agreement_point[self.other]), own, peer)
            info = bytes([AGREED]) + field(ONE_PASS) + field(self.made_ephemeral(public_of(self.suite, scalar)))
        else:
            key = self.static_key(own, self.transaction, peer)
            info = bytes([AGREED]) + field(STATIC) + field(b"")
        covered = b"" if lab.short_aad else self.fields
        body = seal(self.made_control(), key, lab.ak, own, counter, apdu, covered)
        return bytes([CIPHERED]) + self.fields + b"\1" + self.made_info(info) + field(body)

    def made_wrapping(self, key: bytes) -> bytes:
        return wrap(self.lab.kek, key)

    def made_ephemeral(self, point: bytes) -> bytes:
        return point + sign(self.suite, self.lab.scalar[self.side], point)

    def made_control(self) -> int:
        return self.lab.control

    def made_info(self, info: bytes) -> bytes:
        return info

    def static_key(self, originator: bytes, transaction: bytes, recipient: bytes) -> bytes:
        secret = agree(self.suite, self.lab.agreement[self.side], self.lab.agreement_point[self.other])
        return derive(self.lab.suite, secret, originator + field(transaction), recipient)

    # What comes in.

    def open(self, apdu: bytes) -> bytes:
        """Takes the layers off, in the order that the lab file names; a counter is kept only when all are right."""
        before = self.guard.last, self.guard.dedicated_last
        try:
            transaction, plain = self.judge(apdu)
        except (Refused, Malformed):
            self.guard.last, self.guard.dedicated_last = before
            raise
        self.asked = transaction
        self.last = int.from_bytes(transaction, "big")
        return plain

    def judge(self, apdu: bytes) -> tuple[bytes, bytes]:
        seen = []
        if self.lab.signing == "outside":
            apdu = self.verified(apdu, seen)
        ciphered = self.lab.carrier == "general-ciphering"
        apdu = self.deciphered(apdu, seen) if ciphered else self.guard.uncarry(apdu)
        if self.lab.signing == "inside":
            apdu = self.verified(apdu, seen)
        if len(set(seen)) != 1:
            raise Refused("layers of two transactions")
        if apdu[0] in (CIPHERED, SIGNED):
            raise Refused("more layers than agreed")
        return seen[0], apdu

    def read_header(self, reader: Reader, tag: int, seen: list) -> bytes:
        reader.expect(bytes([tag]))
        transaction, originator, recipient, _, _ = (reader.field() for _ in range(5))
        if (originator, recipient) != (self.lab.title[self.other], self.lab.title[self.side]):
            raise Refused("from or for somebody else")
        if self.side == "client" and transaction != self.asked:
            raise Refused("answers another transaction")
        if self.side == "server" and (len(transaction) != 8 or int.from_bytes(transaction, "big") <= self.last):
            raise Refused("transaction was used before")
        seen.append(transaction)
        return reader.data[1 : reader.at]

    def verified(self, apdu: bytes, seen: list) -> bytes:
        reader = Reader(apdu)
        fields = self.read_header(reader, SIGNED, seen)
        content, signature = reader.field(), reader.field()
        reader.end()
        message = fields + (content if self.lab.unsized else field(content))
        verify(self.suite, self.lab.point[self.other], message, signature)
        return content

    def deciphered(self, apdu: bytes, seen: list) -> bytes:
        lab, reader = self.lab, Reader(apdu)
        fields = self.read_header(reader, CIPHERED, seen)
        reader.expect(b"\1")
        key = self.key_of(reader, seen[-1])
        body = reader.field()
        reader.end()
        if len(body) < 17 or body[0] != lab.control:
            raise Refused("not protected as agreed")
        counter = int.from_bytes(body[1:5], "big")
        if lab.key_info == "identified" and counter <= self.guard.last:
            raise Refused("counter was used before")
        plain = unseal(body, key, lab.ak, lab.title[self.other], b"" if lab.short_aad else fields)
        if lab.key_info == "identified":
            self.guard.last = counter
        return plain

    def key_of(self, reader: Reader, transaction: bytes) -> bytes:
        """The key that a key-info leads to, which must be of the kind that the lab file names."""
        lab, size = self.lab, self.suite.coordinate
        own, peer = lab.title[self.side], lab.title[self.other]
        if lab.key_info == "identified":
            reader.expect(bytes([IDENTIFIED, 0]))
            return lab.ek
        if lab.key_info == "wrapped":
            reader.expect(bytes([WRAPPED, 0]))
            return unwrap(lab.kek, reader.field())
        scheme = ONE_PASS if lab.key_info == "agreed-1p" else STATIC
        reader.expect(bytes([AGREED]) + field(scheme))
        data = Reader(reader.field())
        if scheme == STATIC:
            data.end()
            return self.static_key(peer, transaction, own)
        point = data.take(2 * size)
        verify(self.suite, lab.point[self.other], point, data.rest())
        return derive(lab.suite, agree(self.suite, lab.agreement[self.side], point), peer, own)
