"""A dishonest client: what it sends, and what a server must not answer with."""

import os

from . import codec
from .client import Client
from .codec import field
from .link import Lab
from .security import AUTH, BROADCAST, DEDICATED, ENC, GLOBAL, seal

READ = bytes.fromhex("C001C10003") + codec.obis("1.0.1.8.0.255") + b"\x02\x00"


def established(lab: Lab, address) -> tuple[Client, bytes]:
    """An honest association and the bytes of its last request, which the server has answered."""
    client = Client(lab, address)
    sent = client.guard.close(READ)
    client.channel.send(sent)
    client.guard.open(client.channel.receive())
    return client, sent


def sealed(client: Client, counter: int, control: int = AUTH | ENC, tag: int = 0xC8) -> bytearray:
    lab = client.lab
    return bytearray(bytes([tag]) + field(seal(control, lab.ek, lab.ak, lab.title["client"], counter, READ)))


def flipped(body: bytearray, at: int) -> bytes:
    body[at] ^= 1
    return bytes(body)


# What to send on an open association; each takes the client and the request that was answered.
OPEN = {
    "flipped text": lambda client, _: flipped(sealed(client, client.guard.next()), -13),
    "flipped tag": lambda client, _: flipped(sealed(client, client.guard.next()), -1),
    "flipped counter": lambda client, _: flipped(sealed(client, client.guard.next()), 5),
    "in clear": lambda *_: READ,
    "replayed": lambda _, sent: sent,
    "lower counter": lambda client, _: bytes(sealed(client, client.guard.counter - 2)),
    "only authenticated": lambda client, _: bytes(sealed(client, client.guard.next(), AUTH)),
    "only encrypted": lambda client, _: bytes(sealed(client, client.guard.next(), ENC)),
    "broadcast key set": lambda client, _: bytes(sealed(client, client.guard.next(), AUTH | ENC | BROADCAST)),
    "another suite": lambda client, _: bytes(sealed(client, client.guard.next(), AUTH | ENC | 1)),
    "another service": lambda client, _: bytes(sealed(client, client.guard.next(), tag=GLOBAL[0xC1])),
    "no dedicated key": lambda client, _: bytes(sealed(client, client.guard.next(), tag=DEDICATED[0xC0])),
    "another title": lambda client, _: b"\xdb" + field(b"\x4d" * 8) + sealed(client, client.guard.next())[1:],
    "highest counter, forged": lambda client, _: flipped(sealed(client, 0xFFFFFFFF), -1),
    "cut": lambda client, _: bytes(sealed(client, client.guard.next())[:-1]),
    "too long a length": lambda client, _: b"\xc8\x84\xff\xff\xff\xff" + bytes(40),
    "empty": lambda *_: b"",
}


def answer_to(client: Client, apdu: bytes) -> bytes:
    """What the server says: an APDU, or nothing when it hangs up or keeps still."""
    client.channel.link.settimeout(2)
    try:
        client.channel.send(apdu)
        return client.channel.receive()
    except (EOFError, OSError):
        return b""
    finally:
        client.channel.link.close()


class Unproven(Client):
    """A client that goes as far as its lie; `answer` is what the server made of it, `before` an opening that was used."""

    def __init__(self, lab: Lab, address, lie: str, before: bytes):
        self.lie, self.before, self.answer = lie, before, b""
        super().__init__(lab, address)

    def associate(self) -> None:
        lab, guard = self.lab, self.guard
        title = bytes(8) if self.lie == "unknown title" else lab.title["client"]
        initiate = codec.initiate_request(lab.max_pdu)
        initiate = initiate if self.lie == "initiate in clear" else guard.close(initiate)
        if self.lie == "flipped initiate":
            initiate = flipped(bytearray(initiate), -1)
        mechanism = 0 if self.lie == "lower mechanism" else lab.mechanism
        context = 1 if self.lie == "context in clear" else 3
        own = os.urandom(1 if self.lie == "short challenge" else 32)
        request = codec.associate_request(context, mechanism, own, title, initiate)
        request = self.before if self.lie == "replayed" else request
        if self.lie not in LATER:
            self.answer = answer_to(self, request)
            return
        self.channel.send(request)
        fields = codec.ber_fields(codec.inner(self.channel.receive(), 0x61))
        guard.peer = lab.title["server"]
        guard.open(codec.inner(fields[0xBE], 0x04))
        proof = bytes.fromhex("10") + guard.next().to_bytes(4, "big") + bytes(12)
        action = bytes.fromhex("C301C1000F") + codec.obis("0.0.40.0.0.255") + b"\x01\x01"
        wrong = action + codec.encode(codec.octets(proof))
        self.answer = answer_to(self, guard.close(READ if self.lie == "read before proof" else wrong))


# Lies before the client is known; all but two end in a refused association, and must look alike.
LATER = ("read before proof", "wrong proof")
UNPROVEN = (
    "unknown title", "initiate in clear", "flipped initiate", "lower mechanism", "context in clear",
    "short challenge", "replayed", *LATER,
)  # fmt: skip
