"""The server: a few objects of a meter, served to one client at a time, truthfully or with one named fault.

python3 -m reference.server LAB [FAULT]      in tests/interop; prints `listening ADDRESS`
"""

import contextlib
import os
import socket
import sys
import threading

from . import codec, layer_lies
from .client import CURRENT
from .codec import Data, Malformed, Reader, encode, field, inner, octets, structure
from .link import Channel, Lab, Protection
from .security import BROADCAST, GLOBAL, Refused, seal

# What a dishonest server can do to a get-response, or to the association.
FAULTS = (
    "flipped-text", "flipped-tag", "in-clear", "only-authenticated", "other-title", "broadcast", "same-counter",
    "lower-counter", "replayed", "wrong-service", "reflected-challenge", "short-challenge", "wrong-proof",
    "plain-initiate",
)  # fmt: skip
DENIED, UNDEFINED, UNMATCHED, NO_BLOCK = 3, 4, 12, 19
U32, PROFILE = codec.U32, codec.obis("1.0.99.1.0.255")


def clock(row: int) -> bytes:
    """A time `row` quarters of an hour after midnight of 2026-11-01, in local time of UTC+1."""
    day, quarter = divmod(row, 96)
    time = bytes([1 + day, 1 + (6 + day) % 7, quarter // 4, quarter % 4 * 15, 0, 0])
    return bytes.fromhex("07EA0B") + time + bytes.fromhex("FFC400")


def objects(lab: Lab) -> dict:
    """Attributes by class, name and number."""
    rows = [structure(octets(clock(i)), Data(codec.U8, 0), Data(U32, 1000 + i), Data(U32, 7 * i)) for i in range(96)]
    columns = [(8, "0.0.1.0.0.255"), (1, "0.0.96.10.1.255"), (3, "1.0.1.8.0.255"), (3, "1.0.2.8.0.255")]
    captured = [
        structure(Data(codec.U16, c), octets(codec.obis(n)), Data(codec.I8, 2), Data(codec.U16, 0)) for c, n in columns
    ]
    unit = structure(Data(codec.I8, 0), Data(codec.ENUM, 30))
    built_in = {
        (1, "0.0.42.0.0.255"): {2: octets(b"GSL0000000012345")},
        (1, "0.0.43.1.0.255"): {2: Data(U32, lab.counter["client"])},
        (1, "0.0.96.1.0.255"): {2: octets(b"12345")},
        (3, "1.0.1.8.0.255"): {2: Data(U32, 123456), 3: unit},
        (3, "1.0.2.8.0.255"): {2: Data(U32, 42), 3: unit},
        (8, "0.0.1.0.0.255"): {2: octets(clock(40)), 3: Data(codec.I16, -60)},
        (7, "1.0.99.1.0.255"): {
            2: Data(codec.ARRAY, rows), 3: Data(codec.ARRAY, captured), 4: Data(U32, 900), 5: Data(codec.ENUM, 1),
            7: Data(U32, 96), 8: Data(U32, 96),
        },
        (70, "0.0.96.3.10.255"): {2: Data(codec.BOOLEAN, True), 3: Data(codec.ENUM, 1), 4: Data(codec.ENUM, 2)},
    }  # fmt: skip
    found = {(c, codec.obis(n)): {1: octets(codec.obis(n)), **attributes} for (c, n), attributes in built_in.items()}
    for item in lab.objects:
        name, prefix = codec.obis(item["obis"]), "attribute_"
        values = {int(k[len(prefix) :]): codec.whole(bytes.fromhex(v)) for k, v in item.items() if k.startswith(prefix)}
        found.setdefault((item["class"], name), {1: octets(name)}).update(values)
    return found


class Session:
    """One association of one client."""

    def __init__(self, lab: Lab, link: socket.socket, fault: str | type, counter: int, held: dict):
        self.lab, self.fault, self.objects = lab, fault, held
        self.channel, self.guard = Channel(link, lab.saps["server"], lab.saps["client"]), Protection(lab, "server")
        self.guard.counter, self.phase, self.answers, self.tail, self.write = counter, "none", [], b"", b""

    def serve(self) -> None:
        self.associate(codec.ber_fields(inner(self.channel.receive(), 0x60)))
        while True:
            apdu = self.channel.receive()
            if apdu[0] == 0x62:
                return self.release(apdu)
            floor = self.guard.last
            request = self.guard.open(apdu)
            if self.phase == "pending":
                answer = self.proved(request, floor)
            else:
                answer = {0xC0: self.get, 0xC1: self.set, 0xC3: self.act}[request[0]](Reader(request[1:]))
            self.channel.send(self.answer(answer))

    def associate(self, fields: dict[int, bytes]) -> None:
        lab, guard, context = self.lab, self.guard, 3 if self.lab.control else 1
        named = Reader(fields.get(0x8B, b"")).rest() or codec.OID + b"\x02\x00"
        wanted = codec.ber(0x06, codec.OID, bytes([1, context])), codec.OID + bytes([2, lab.mechanism])
        if (fields[0xA1], named) != wanted:
            raise Refused("another context or mechanism")
        if lab.control or lab.mechanism > 1:
            guard.peer = inner(fields[0xA6], 0x04)
            if guard.peer != lab.title["client"]:
                raise Refused("an unknown client")
        guard.dedicated, conformance, asked = codec.parse_initiate_request(guard.open(inner(fields[0xBE], 0x04)))
        self.largest = min(asked or 0xFFFF, lab.max_pdu)
        self.theirs = inner(fields[0xAC], 0x80) if lab.mechanism else b""
        if lab.mechanism == 1 and self.theirs != lab.secret:
            raise Refused("wrong password")
        shortest = 32 if lab.mechanism == 7 else 8
        if lab.mechanism > 1 and not shortest <= len(self.theirs) <= 64:
            raise Refused("challenge of a wrong length")
        self.own = os.urandom(max(16, shortest)) if lab.mechanism > 1 else b""
        if self.fault == "reflected-challenge":
            self.own = self.theirs
        if self.fault == "short-challenge":
            self.own = b"1234567"
        initiate = codec.initiate_response(lab.max_pdu, conformance & codec.CONFORMANCE)
        initiate = initiate if self.fault == "plain-initiate" else guard.close(initiate)
        title = lab.title["server"] if guard.peer else b""
        diagnostic = 14 if lab.mechanism > 1 else 0
        self.channel.send(codec.associate_response(context, 0, diagnostic, title, lab.mechanism, self.own, initiate))
        self.phase = "pending" if lab.mechanism > 1 else "open"

    def proved(self, request: bytes, floor: int) -> bytes:
        """Checks pass 3 and makes pass 4."""
        lab, titles, reader = self.lab, (self.lab.title["client"], self.lab.title["server"]), Reader(request)
        reader.expect(b"\xc3\x01")
        invoke = reader.take(1)
        reader.expect(b"\x00\x0f" + CURRENT + b"\x01\x01")
        proof, own, self.own = codec.whole(reader.rest()).value, self.own, b""
        if lab.mechanism == 5 and int.from_bytes(proof[1:5], "big") <= floor:
            raise Refused("proof under a used counter")
        lab.proofs.check(proof, *titles, own, self.theirs, lab.point["client"])
        counter = self.guard.next() if lab.mechanism == 5 else 0
        answer = lab.proofs.make(*reversed(titles), self.theirs, own, counter, lab.scalar["server"])
        self.phase = "open"
        if self.fault == "wrong-proof":
            answer = answer[:-1] + bytes([answer[-1] ^ 1])
        return b"\xc7\x01" + invoke + b"\x00\x01\x00" + encode(octets(answer))

    def get(self, reader: Reader) -> bytes:
        kind, invoke = reader.uint(), reader.take(1)
        if kind == 2:
            number = reader.uint(4)
            reader.end()
            if not self.tail or number != self.sent:
                return b"\xc4\x02" + invoke + b"\x01" + number.to_bytes(4, "big") + bytes([1, NO_BLOCK])
            return self.block(invoke)
        found = [self.read(reader) for _ in range(reader.length() if kind == 3 else 1)]
        reader.end()
        texts = [bytes([1, item]) if isinstance(item, int) else b"\x00" + encode(item) for item in found]
        answer = codec.length(len(texts)) + b"".join(texts) if kind == 3 else texts[0]
        if len(answer) + 3 <= self.room():
            return bytes([0xC4, kind]) + invoke + answer
        self.tail, self.sent = answer[kind == 1 :], 0
        return self.block(invoke)

    def room(self) -> int:
        return self.largest - (400 if self.guard.layers else 48 if self.lab.control else 0)

    def block(self, invoke: bytes) -> bytes:
        size = self.room() - 14
        piece, self.tail, self.sent = self.tail[:size], self.tail[size:], self.sent + 1
        head = bytes([not self.tail]) + self.sent.to_bytes(4, "big") + b"\x00"
        return b"\xc4\x02" + invoke + head + field(piece)

    def read(self, reader: Reader) -> Data | int:
        class_id, name, attribute = reader.uint(2), reader.take(6), reader.uint()
        selector = (reader.uint(), codec.decode(reader)) if reader.uint() else None
        value = self.objects.get((class_id, name), {}).get(attribute, UNDEFINED)
        if selector and (class_id, attribute) == (7, 2):
            return Data(codec.ARRAY, select(value.value, *selector))
        return DENIED if selector else value

    def set(self, reader: Reader) -> bytes:
        kind, invoke = reader.uint(), reader.take(1)
        if kind != 3:
            self.target, self.write, self.got = (reader.uint(2), reader.take(6), reader.uint()), b"", 0
            reader.expect(b"\x00")
        if kind == 1:
            return b"\xc5\x01" + invoke + bytes([self.store(reader.rest())])
        last, number, piece = reader.uint(), reader.uint(4), reader.field()
        reader.end()
        self.got += 1
        if number != self.got or len(self.write) > 0xFFFF:
            raise Malformed("not the block that was wanted")
        self.write += piece
        result = bytes([self.store(self.write)]) if last else b""
        return bytes([0xC5, 3 if last else 2]) + invoke + result + number.to_bytes(4, "big")

    def store(self, body: bytes) -> int:
        class_id, name, attribute = self.target
        old, new = self.objects.get((class_id, name), {}).get(attribute), codec.whole(body)
        if old is None or attribute == 1:
            return UNDEFINED if old is None else DENIED
        if old.tag != new.tag:
            return UNMATCHED
        self.objects[class_id, name][attribute] = new
        return 0

    def act(self, reader: Reader) -> bytes:
        reader.expect(b"\x01")
        invoke, item, method = reader.take(1), (reader.uint(2), reader.take(6)), reader.uint()
        if reader.uint():
            codec.decode(reader)
        reader.end()
        if item[0] != 70 or item not in self.objects or method not in (1, 2):
            return b"\xc7\x01" + invoke + bytes([UNDEFINED, 0])
        self.objects[item].update({2: Data(codec.BOOLEAN, method == 2), 3: Data(codec.ENUM, method - 1)})
        return b"\xc7\x01" + invoke + b"\x00\x00"

    def release(self, apdu: bytes) -> None:
        fields = codec.ber_fields(inner(apdu, 0x62))
        initiate = b""
        if self.lab.control:
            self.guard.open(inner(fields[0xBE], 0x04))
            initiate = self.guard.close(codec.initiate_response(self.lab.max_pdu, codec.CONFORMANCE))
        self.channel.send(codec.release(0x63, initiate))

    def answer(self, plain: bytes) -> bytes:
        """Protects an answer, or a get-response as the fault says."""
        guard, lab, fault = self.guard, self.lab, self.fault
        if plain[0] == 0xC4 and isinstance(fault, type):
            return layer_lies.told(fault, guard.layers, plain)
        if plain[0] != 0xC4 or not lab.control or guard.layers:
            return guard.close(plain)
        again = list(self.answers)
        if fault == "replayed" and again:
            return again[-1]
        if fault in ("same-counter", "lower-counter"):
            guard.counter -= {"same-counter": 1, "lower-counter": 2}[fault]
        control, title = lab.control, guard.own
        if fault == "other-title":
            title = bytes([*title[:7], title[7] ^ 1])
        control = {"broadcast": control | BROADCAST, "only-authenticated": control & ~0x20}.get(fault, control)
        if fault == "in-clear":
            return plain
        body = bytearray(seal(control, lab.ek, lab.ak, title, guard.next(), plain))
        if fault.startswith("flipped"):
            body[-1 if fault == "flipped-tag" else -13] ^= 1
        tag = GLOBAL[0xC7 if fault == "wrong-service" else 0xC4]
        if fault:
            sealed = (b"\xdb" + field(guard.own) if lab.carrier == "general-glo" else bytes([tag])) + field(bytes(body))
        else:
            guard.counter -= 1
            sealed = guard.close(plain)
        self.answers.append(sealed)
        return sealed


def select(rows: list, kind: int, argument: Data) -> list:
    """Rows of a profile by range of its first column (1) or by entry (2)."""
    if kind == 1:
        low, high = (when(codec.encode(argument.value[i])) for i in (1, 2))
        return [row for row in rows if low <= when(row.value[0].value) <= high]
    first, last, left, right = (part.value for part in argument.value)
    kept = rows[first - 1 : last or None]
    return [Data(row.tag, row.value[left - 1 : right or None]) for row in kept]


def when(encoded: bytes) -> bytes:
    """Date and time of day of an encoded date-time, in an order that sorts; deviations are not looked at."""
    return encoded[-12:-8] + encoded[-7:-4]


class Server:
    """Listens on a free port of loopback; each client in its own thread."""

    def __init__(self, lab: Lab, fault: str | type = ""):
        self.lab, self.fault, self.counter, self.last = lab, fault, lab.counter["server"], -1
        self.transaction = -1
        self.objects = objects(lab)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        self.errors: list[str] = []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.one(self.socket.accept()[0])

    def one(self, link: socket.socket) -> None:
        with link:
            session = Session(self.lab, link, self.fault, self.counter, self.objects)
            session.guard.last = self.last
            if session.guard.layers:
                session.guard.layers.last = self.transaction
            try:
                session.serve()
            except (Refused, Malformed, KeyError, OSError, EOFError, IndexError) as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                with contextlib.suppress(OSError):
                    # The same answer to whatever is wrong, before and after the association.
                    refusal = codec.associate_response(1, 1, 1, b"", 0, b"", b"")
                    session.channel.send(refusal if session.phase == "none" else b"\xd8\x01\x05")
            self.counter, self.last = max(self.counter, session.guard.counter), session.guard.last
            if session.guard.layers:
                self.transaction = session.guard.layers.last

    def close(self) -> None:
        self.socket.close()


if __name__ == "__main__":
    server = Server(Lab(sys.argv[1]), *sys.argv[2:3])
    print("listening {}:{}".format(*server.address), flush=True)
    threading.Event().wait()
