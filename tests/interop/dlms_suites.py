"""Suites 1 and 2 against the reference: every mechanism, carrier, kind of key and order of signing, both ways.

Used by `dlms_reference.py`. `agree` prints at its end the matrix that docs/interop.md has.
"""

import contextlib

import dlms_lab
from dlms_everything import ENERGY, SWITCH, WRITABLE, everything
from dlms_lab import Report, meter, ours_decodes, ours_does, ours_gets, write_lab
from reference import attacks, codec, layer_lies
from reference.client import Client
from reference.link import Lab
from reference.server import Server

CARRIERS = ("glo", "general-glo", "ded", "general-ded")
KEY_INFOS = ("identified", "wrapped", "agreed-1p", "agreed-static")
ORDERS = ("", "sign-then-cipher", "cipher-then-sign")
WAYS = [(carrier, "") for carrier in CARRIERS] + [("general-ciphering", info) for info in KEY_INFOS]
SETUPS = [
    # Every mechanism with every carrier and kind of key, unsigned.
    *((suite, mechanism, *way, "") for suite in (1, 2) for mechanism in (5, 6, 7) for way in WAYS),
    # Every carrier and kind of key with both orders of signing.
    *((suite, 7, *way, order) for suite in (1, 2) for way in WAYS for order in ORDERS[1:]),
    # Mechanism 7 in suite 0, and the readings of others.
    (0, 7, "general-ciphering", "identified", "sign-then-cipher"),
]
QUIRKS = [
    (suite, 7, "general-ciphering", "agreed-1p", order, '[peer_quirks]\naad = "short"\nsigned = "short"\n')
    for suite in (1, 2)
    for order in ORDERS[1:]
]
LIED = [
    *((suite, 7, "general-ciphering", info, "") for suite in (1, 2) for info in KEY_INFOS),
    *((suite, 7, "general-ciphering", "agreed-1p", order) for suite in (1, 2) for order in ORDERS[1:]),
    *((suite, 7, "glo", "", order) for suite in (1, 2) for order in ORDERS[1:]),
]


def lab_of(folder: str, suite: int, mechanism: int, carrier: str, info: str, order: str, extra: str = "") -> str:
    layers = {"key_info": info} if info else {}
    layers |= {"signing": True, "signing_order": order} if order else {}
    return write_lab(folder, mechanism, carrier, "auth+enc", extra, suite=suite, max_pdu=1024, **layers)


def label(suite: int, mechanism: int, carrier: str, info: str, order: str, extra: str = "") -> str:
    way = f"{carrier} {info}".strip() + (f", {order}" if order else "") + (", short readings" if extra else "")
    return f"suite {suite}, mechanism {mechanism}, {way}"


def agree(report: Report, folder: str) -> None:
    outcomes = {}
    for setup in [*SETUPS, *QUIRKS]:
        path, name = lab_of(folder, *setup), label(*setup)
        served = serves(report, path, name)
        outcomes[setup] = reads(report, path, name) and served
    print_matrix(outcomes)


def serves(report: Report, path: str, name: str) -> bool:
    """The reference client does everything with `gridseal meter serve`."""
    try:
        with meter(path) as (address, log):
            done = report.run(f"gridseal meter serve, {name}", lambda: everything(Lab(path), address))
            if not done:
                print("      the meter's log: " + " | ".join(log)[-400:])
            return done
    except RuntimeError as error:
        return report.say(f"gridseal meter serve, {name}", False, str(error))


def reads(report: Report, path: str, name: str) -> bool:
    """`gridseal dlms` reads, writes and invokes at the reference server; `gridseal decode dlms` opens what both said."""
    with contextlib.closing(Server(Lab(path))) as server:
        items = ("1.0.1.8.0.255:3:2", "0.0.42.0.0.255:1:2", "1.0.99.1.0.255:7:2")
        status, found, error = ours_gets(path, server.address, *items)
        read = status == 0 and "123456" in str(found) and "1095" in str(found)
        read = report.say(f"gridseal dlms get, {name}", read, f"exit {status}, {error[-300:]}, {server.errors}")
    # Counters are kept from here on, and begin again at the lab file's: another server.
    with contextlib.closing(Server(Lab(path))) as server:
        value = bytes(range(250)) * 5
        item = f"{dlms_lab.WRITABLE[1]}:1:2=oct:{value.hex()}"
        status, text = ours_does("set", path, server.address, item)
        held = server.objects[1, WRITABLE][2].value
        wrote = report.say(f"gridseal dlms set, {name}", status == 0 and held == value, f"{text[-300:]}, {server.errors}")
        status, text = ours_does("action", path, server.address, "0.0.96.3.10.255:70:1=i8:0")
        off = server.objects[70, SWITCH][2].value is False
        acted = report.say(f"gridseal dlms action, {name}", status == 0 and off, f"{text[-300:]}, {server.errors}")
    return read and wrote and acted and decodes(report, path, name)


def decodes(report: Report, path: str, name: str) -> bool:
    """A request and its response, as the reference said them to itself; under a dedicated key they do not open alone."""
    if "ded" in Lab(path).carrier:
        return True
    with contextlib.closing(Server(Lab(path))) as server:
        client = Client(Lab(path), server.address)
        client.get(3, ENERGY, 2)
        opened = [ours_decodes(path, apdu) for apdu in client.channel.seen[-2:]]
        client.release()
    is_open = all(status == 0 and "authenticated" in text.split("\n")[0] for status, text in opened)
    return report.say(f"gridseal decode dlms, {name}", is_open, str(opened)[-400:])


def print_matrix(outcomes: dict) -> None:
    """Rows of suite and mechanism, columns of carriers: R where everything agreed, ! where not."""
    columns = [(*way, order) for order in ORDERS for way in WAYS]
    print("      " + " ".join(f"{info or carrier}{'/' + order[:1] if order else ''}" for carrier, info, order in columns))
    for suite, mechanism in sorted({setup[:2] for setup in outcomes}):
        cells = (outcomes.get((suite, mechanism, *column)) for column in columns)
        print(f"      {suite} {mechanism} " + " ".join({None: "-", True: "R", False: "!"}[cell] for cell in cells))


def lies(report: Report, folder: str) -> None:
    """Each lie of a client changes nothing at our meter; each lie of a server makes our client print no value."""
    for setup in LIED:
        path, name = lab_of(folder, *setup), label(*setup)
        lab = Lab(path)
        with meter(path) as (address, log):
            for lie in layer_lies.of(lab):
                told_to_meter(report, lab, address, lie, name)
        for lie in layer_lies.of(lab):
            with contextlib.closing(Server(lab, lie)) as server:
                status, found, error = ours_gets(path, server.address, "1.0.1.8.0.255:3:2")
            shown = f"exit {status}, {found}, {error[-200:]}"
            report.say(f"gridseal dlms get refuses {lie.__name__}, {name}", status == 4 and not found, shown)


def told_to_meter(report: Report, lab: Lab, address: tuple, lie: type, name: str) -> None:
    client = Client(lab, address)
    client.get(3, ENERGY, 2)
    client.channel.link.settimeout(2)
    client.channel.send(layer_lies.told(lie, client.guard.layers, attacks.READ))
    answer = client.channel.receive()
    # The same association goes on: nothing was used up but what the client itself counted.
    client.guard.layers.next += 2
    served = client.get(3, ENERGY, 2).tag in codec.INTEGERS
    client.release()
    lab.counter["client"] = client.guard.counter
    refused = answer == b"\xd8\x01\x05" and served
    report.say(f"gridseal meter serve refuses {lie.__name__}, {name}", refused, answer.hex())
