"""The client: one association, then GET, SET, ACTION and release."""

import os
import socket

from . import codec
from .codec import Data, Malformed, Reader, encode, field, inner
from .link import Channel, Lab, Protection
from .security import Refused

INVOKE = 0xC1
CURRENT = codec.obis("0.0.40.0.0.255")


class Denied(Exception):
    """The server answered with a result other than success."""


class Client:
    def __init__(self, lab: Lab, address: tuple[str, int]):
        self.lab, self.guard = lab, Protection(lab, "client")
        self.channel = Channel(socket.create_connection(address, 10), lab.saps["client"], lab.saps["server"])
        if lab.control and lab.carrier.endswith("ded"):
            self.guard.dedicated = os.urandom(len(lab.ek))
        self.associate()

    def associate(self) -> None:
        lab, guard = self.lab, self.guard
        own, titled = os.urandom(32) if lab.mechanism > 1 else lab.secret, lab.control or lab.mechanism > 1
        initiate = guard.close(codec.initiate_request(lab.max_pdu, guard.dedicated))
        context = 3 if lab.control else 1
        title = lab.title["client"] if titled else b""
        self.opening = codec.associate_request(context, lab.mechanism, own, title, initiate)
        self.channel.send(self.opening)
        fields = codec.ber_fields(inner(self.channel.receive(), 0x61))
        result, diagnostic = fields[0xA2][-1], fields[0xA3][-1]
        if result or diagnostic != (14 if lab.mechanism > 1 else 0):
            raise Refused(f"association refused: {result}, {diagnostic}")
        if fields[0xA1] != codec.ber(0x06, codec.OID, bytes([1, context])):
            raise Refused("another context")
        if titled:
            guard.peer = inner(fields[0xA4], 0x04)
            if guard.peer != lab.title["server"]:
                raise Refused("another server")
        answer = guard.open(inner(fields[0xBE], 0x04))
        self.conformance, self.server_max = codec.parse_initiate_response(answer)
        if lab.mechanism > 1:
            theirs = inner(fields[0xAA], 0x80)
            if theirs == own or not (32 if lab.mechanism == 7 else 8) <= len(theirs) <= 64:
                raise Refused("challenge is ours, or has a wrong length")
            self.prove(own, theirs)

    def prove(self, own: bytes, theirs: bytes) -> None:
        lab, titles = self.lab, (self.lab.title["client"], self.lab.title["server"])
        counter = self.guard.next() if lab.mechanism == 5 else 0
        proof = lab.proofs.make(*titles, theirs, own, counter, lab.scalar["client"])
        floor = self.guard.last
        answer = self.action(15, CURRENT, 1, codec.octets(proof))
        lab.proofs.check(answer.value, *reversed(titles), own, theirs, lab.point["server"])
        if lab.mechanism == 5 and int.from_bytes(answer.value[1:5], "big") <= floor:
            raise Refused("proof under a used counter")

    def ask(self, request: bytes, answer: int) -> Reader:
        self.channel.send(self.guard.close(request))
        sealed = self.channel.receive()
        if sealed[0] == 0xD8:
            raise Denied(f"exception {sealed.hex()}")
        reader = Reader(self.guard.open(sealed))
        if reader.uint() != answer:
            raise Malformed("another service")
        return reader

    def get(self, class_id: int, name: bytes, attribute: int, selector: tuple[int, Data] | None = None) -> Data:
        reader = self.ask(bytes([0xC0, 1, INVOKE]) + described((class_id, name, attribute), selector), 0xC4)
        kind, _ = reader.uint(), reader.uint()
        if kind == 1:
            return one_result(reader)
        return codec.whole(self.blocks(reader, kind))

    def get_list(self, items: list) -> list[Data | int]:
        """Values, or the result code of each that was not read."""
        request = bytes([0xC0, 3, INVOKE, len(items)]) + b"".join(described(item) for item in items)
        reader = self.ask(request, 0xC4)
        kind, _ = reader.uint(), reader.uint()
        if kind != 3:
            reader = Reader(self.blocks(reader, kind))
        if reader.length() != len(items):
            raise Malformed("another number of answers")
        found = [reader.uint() if reader.uint() else codec.decode(reader) for _ in items]
        reader.end()
        return found

    def blocks(self, reader: Reader, kind: int) -> bytes:
        whole, number = b"", 1
        while True:
            last, got = reader.uint(), reader.uint(4)
            if kind != 2 or got != number or reader.uint():
                raise Malformed("not the block that was wanted")
            whole += reader.field()
            reader.end()
            if last:
                return whole
            reader = self.ask(bytes([0xC0, 2, INVOKE]) + number.to_bytes(4, "big"), 0xC4)
            kind, _ = reader.uint(), reader.uint()
            number += 1

    def set(self, class_id: int, name: bytes, attribute: int, value: Data, block: int = 0) -> None:
        """Writes in one piece, or in blocks of `block` octets."""
        head, body = described((class_id, name, attribute)), encode(value)
        if not block:
            reader = self.ask(bytes([0xC1, 1, INVOKE]) + head + body, 0xC5)
            reader.expect(bytes([1, INVOKE]))
            return success(reader)
        pieces = [body[i : i + block] for i in range(0, len(body), block)]
        for number, piece in enumerate(pieces, 1):
            last = number == len(pieces)
            part = bytes([last]) + number.to_bytes(4, "big") + field(piece)
            first = number == 1
            reader = self.ask(bytes([0xC1, 2 if first else 3, INVOKE]) + (head if first else b"") + part, 0xC5)
            reader.expect(bytes([3 if last else 2, INVOKE]))
            if last:
                success(Reader(reader.take(1)))
            reader.expect(number.to_bytes(4, "big"))
            reader.end()

    def action(self, class_id: int, name: bytes, method: int, argument: Data | None = None) -> Data | None:
        tail = b"\x01" + encode(argument) if argument else b"\x00"
        reader = self.ask(bytes([0xC3, 1, INVOKE]) + described((class_id, name, method))[:-1] + tail, 0xC7)
        reader.expect(bytes([1, INVOKE]))
        if result := reader.uint():
            raise Denied(f"result {result}")
        return one_result(reader) if reader.uint() else reader.end()

    def release(self) -> None:
        guard, lab = self.guard, self.lab
        initiate = guard.close(codec.initiate_request(lab.max_pdu)) if lab.control else b""
        self.channel.send(codec.release(0x62, initiate))
        fields = codec.ber_fields(inner(self.channel.receive(), 0x63))
        if lab.control:
            guard.open(inner(fields[0xBE], 0x04))
        self.channel.link.close()


def described(item: tuple, selector: tuple[int, Data] | None = None) -> bytes:
    class_id, name, attribute = item
    tail = bytes([1, selector[0]]) + encode(selector[1]) if selector else b"\x00"
    return class_id.to_bytes(2, "big") + name + bytes([attribute]) + tail


def one_result(reader: Reader) -> Data:
    if reader.uint():
        raise Denied(f"result {reader.uint()}")
    value = codec.decode(reader)
    reader.end()
    return value


def success(reader: Reader) -> None:
    result = reader.uint()
    reader.end()
    if result:
        raise Denied(f"result {result}")
