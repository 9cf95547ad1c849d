#!/usr/bin/env python3
"""Checks our DLMS client and server against the independent reference in tests/interop/reference.

Run by hand, from anywhere, with Python 3.11 or newer that has the package `cryptography`:

    cargo build --bin gridseal && python3 tests/interop/dlms_reference.py [PART]...

PART is any of `vectors`, `itself`, `ours-reads`, `ours-writes`, `forgeries`, `ours-serves`, `attacks`, `decoded`, and for
suites 1 and 2 `suites`, `suites-lies`; all by default.
The program is target/debug/gridseal, or what GRIDSEAL names. Everything runs on loopback, on free ports.
Exit status: 0 all agree and every forgery is refused, 1 otherwise.
"""

import contextlib
import socket
import subprocess
import sys
import tempfile
import threading

import dlms_lab
import dlms_suites
from dlms_everything import ENERGY, PROFILE, SWITCH, WRITABLE, everything
from dlms_lab import Report, meter, ours_decodes, ours_does, ours_gets, write_lab
from reference import attacks as lies
from reference import codec, vectors
from reference.client import Client
from reference.link import Channel, Lab
from reference.security import Refused
from reference.server import FAULTS, Server

COMBINATIONS = [
    *((0, "glo", "none"), (1, "glo", "none"), (1, "glo", "auth+enc"), (5, "glo", "none"), (6, "glo", "none")),
    *((m, c, "auth+enc") for m in (5, 6, 7) for c in ("glo", "general-glo", "ded", "general-ded")),
    *((5, c, "auth") for c in ("glo", "general-glo")),
]
GENERAL_BLOCK_TRANSFER = 0x200000


def main() -> int:
    report, wanted = Report(), sys.argv[1:]
    parts = {
        "vectors": lambda _: [report.say(f"vector: {name}", is_right) for name, is_right in vectors.checks()],
        "itself": lambda folder: by_itself(report, folder),
        "ours-reads": lambda folder: ours_reads(report, folder),
        "ours-writes": lambda folder: ours_writes(report, folder),
        "forgeries": lambda folder: forgeries(report, folder),
        "ours-serves": lambda folder: ours_serves(report, folder),
        "attacks": lambda folder: attacks(report, folder),
        "decoded": lambda folder: decoded(report, folder),
        "suites": lambda folder: dlms_suites.agree(report, folder),
        "suites-lies": lambda folder: dlms_suites.lies(report, folder),
    }
    with tempfile.TemporaryDirectory(prefix="gridseal-interop-") as folder:
        for name, part in parts.items():
            if not wanted or name in wanted:
                part(folder)
    return 1 if report.wrong else 0


def by_itself(report: Report, folder: str) -> None:
    for combination in COMBINATIONS:
        lab = Lab(write_lab(folder, *combination, max_pdu=512))
        with contextlib.closing(Server(lab)) as server:
            report.run(f"reference with itself, {label(combination)}", lambda: everything(lab, server.address))
    for fault in FAULTS:
        lab = Lab(write_lab(folder))
        with contextlib.closing(Server(lab, fault)) as server:
            report.say(f"reference refuses {fault}", refused_by_reference(lab, server.address))
    lab = Lab(write_lab(folder))
    with contextlib.closing(Server(lab)) as server:
        server_refuses(report, lab, server.address, "reference")


def refused_by_reference(lab: Lab, address: tuple) -> bool:
    try:
        client = Client(lab, address)
        client.get(3, ENERGY, 2)
        client.get(3, ENERGY, 2)
    except (Refused, codec.Malformed):
        return True
    return False


def ours_reads(report: Report, folder: str) -> None:
    """`gridseal dlms get` reads a register, a name and a profile in blocks from the reference server."""
    for combination in COMBINATIONS:
        path = write_lab(folder, *combination, max_pdu=512)
        with contextlib.closing(Server(Lab(path))) as server:
            items = ("1.0.1.8.0.255:3:2", "0.0.42.0.0.255:1:2", "1.0.99.1.0.255:7:2")
            status, found, error = ours_gets(path, server.address, *items)
            text = str(found)
            read = status == 0 and "123456" in text and b"GSL0000000012345".hex() in text.lower() and "1095" in text
            why = f"exit {status}, {error[-200:]}, server: {server.errors}, {text[:200]}"
            report.say(f"gridseal dlms get, {label(combination)}", read, why)


def ours_writes(report: Report, folder: str) -> None:
    """`gridseal dlms set`, in one piece and in blocks, and `gridseal dlms action`; the server's objects tell."""
    for combination in COMBINATIONS:
        path, long = write_lab(folder, *combination, max_pdu=256), bytes(range(250)) * 3
        with contextlib.closing(Server(Lab(path))) as server:
            name = f"{dlms_lab.WRITABLE[1]}:1:2=oct:"
            for value in (b"short", long):
                status, text = ours_does("set", path, server.address, name + value.hex())
                held = server.objects[1, WRITABLE][2].value
                what = f"gridseal dlms set of {len(value)} octets, {label(combination)}"
                report.say(what, status == 0 and held == value, f"exit {status}, {text[-200:]}, {server.errors}")
            status, text = ours_does("action", path, server.address, "0.0.96.3.10.255:70:1=i8:0")
            off = server.objects[70, SWITCH][2].value is False
            report.say(
                f"gridseal dlms action, {label(combination)}", status == 0 and off, f"exit {status}, {text[-200:]}"
            )


def forgeries(report: Report, folder: str) -> None:
    """`gridseal dlms get` refuses each dishonest server: it fails and prints no value, within a bounded time."""
    endless(report, folder)
    for carrier in ("glo", "general-glo"):
        path = write_lab(folder, 5, carrier, max_pdu=512)
        for fault in FAULTS:
            if fault == "wrong-service" and carrier == "general-glo":
                continue  # this carrier does not name the service
            with contextlib.closing(Server(Lab(path), fault)) as server:
                status, found, error = ours_gets(path, server.address, "1.0.1.8.0.255:3:2", "1.0.99.1.0.255:7:2")
                shown = f"exit {status}, {found}, {error[-200:]}"
                report.say(f"gridseal dlms get refuses {fault}, {carrier}", status != 0 and not found, shown)


def decoded(report: Report, folder: str) -> None:
    """`gridseal decode dlms` opens what the reference says to itself, and tells what was changed."""
    for carrier in ("glo", "general-glo"):
        path = write_lab(folder, 5, carrier, max_pdu=512)
        with contextlib.closing(Server(Lab(path))) as server:
            client = everything(Lab(path), server.address)
        # The first of each kind: later blocks of a transfer are not understood alone.
        by_kind = {}
        for number, apdu in enumerate(client.channel.seen):
            by_kind.setdefault((apdu[0], number % 2), apdu)
        for apdu in by_kind.values():
            status, text = ours_decodes(path, apdu)
            what = f"gridseal decode dlms opens {apdu[0]:02X}, {carrier}"
            report.say(what, status == 0 and "not opened" not in text, text[-200:])
            changed = apdu[:-1] + bytes([apdu[-1] ^ 1])
            status, text = ours_decodes(path, changed)
            report.say(
                f"{what}, changed: told", status != 0 and "authenticated" not in text.split("\n")[0], text[-200:]
            )


def endless(report: Report, folder: str) -> None:
    """A server that answers every acknowledgement with a block that was had, for as long as it is asked."""
    path, turns = write_lab(folder, 0, "glo", "none"), []

    def serve(link: socket.socket) -> None:
        with contextlib.suppress(EOFError, OSError):
            channel = Channel(link.accept()[0], 1, 16)
            channel.receive()
            conformance = codec.CONFORMANCE | GENERAL_BLOCK_TRANSFER
            initiate = codec.initiate_response(512, conformance)
            channel.send(codec.associate_response(1, 0, 0, b"", 0, b"", initiate))
            channel.receive()
            while True:
                channel.send(bytes.fromhex("E0010001000006C401C1000204"))
                channel.receive()
                turns.append(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        try:
            status, found, _ = ours_gets(path, listener.getsockname(), "1.0.99.1.0.255:7:2")
        except subprocess.TimeoutExpired:
            status, found = 0, []
        refused = status != 0 and not found and len(turns) < 1000
        report.say("gridseal dlms get gives up on endless blocks", refused, f"exit {status}, {len(turns)} answers")


def ours_serves(report: Report, folder: str) -> None:
    """The reference client does everything with `gridseal meter serve`."""
    for combination in COMBINATIONS:
        path = write_lab(folder, *combination, max_pdu=512)
        what = f"gridseal meter serve, {label(combination)}"
        try:
            with meter(path) as (address, log):
                if not report.run(what, lambda: everything(Lab(path), address)):
                    print("      the meter's log: " + " | ".join(log)[-400:])
        except RuntimeError as error:
            report.say(what, False, str(error))


def attacks(report: Report, folder: str) -> None:
    """`gridseal meter serve` gives a lying client nothing, and serves an honest one afterwards."""
    path = write_lab(folder)
    lab = Lab(path)
    with meter(path) as (address, _):
        server_refuses(report, lab, address, "gridseal meter serve")


def server_refuses(report: Report, lab: Lab, address: tuple, who: str) -> None:
    for name, lie in lies.OPEN.items():
        client, sent = lies.established(lab, address)
        answer = lies.answer_to(client, lie(client, sent))
        lab.counter["client"] = client.guard.counter + 10
        honest, _ = lies.established(lab, address)
        lab.counter["client"] = honest.guard.counter
        honest.channel.link.close()
        report.say(f"{who} refuses: {name}", answer[:1] in (b"", b"\xd8"), answer.hex())
    answers = {}
    for name in lies.UNPROVEN:
        client = lies.Unproven(lab, address, name, honest.opening)
        lab.counter["client"] = client.guard.counter + 1
        answers[name] = client.answer
        refused = client.answer[:1] in (b"", b"\xd8") or codec.ber_fields(codec.inner(client.answer, 0x61))[0xA2][-1]
        report.say(f"{who} refuses an association: {name}", bool(refused), client.answer.hex())
    alike = {answer for name, answer in answers.items() if name not in lies.LATER}
    report.say(f"{who} answers all refused associations alike", len(alike) == 1, str([a.hex() for a in alike]))


def label(combination: tuple) -> str:
    mechanism, carrier, protection = combination
    return f"mechanism {mechanism}, {carrier if protection != 'none' else 'in clear'}, {protection}"


if __name__ == "__main__":
    sys.exit(main())
