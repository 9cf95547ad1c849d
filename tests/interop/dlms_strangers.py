#!/usr/bin/env python3
"""Lets programs of others, used unchanged, talk with our DLMS server and client.

Run by hand, from anywhere, with Python 3.11 or newer and access to a Python package index:

    cargo build --bin gridseal && python3 tests/interop/dlms_strangers.py [PART]...

PART is any of `gurux`, `gurux-suites`, `gurux-hdlc`, `gurux-as-it-comes`, `cosem`, `cosem-hdlc`, `gurux-java`, `forgeries`; all by
default. It installs gurux-dlms and dlms-cosem into a temporary folder that it removes again; PEERS=FOLDER keeps that
folder. `gurux-java` and `forgeries` need git and a JDK of version 17 or newer: they clone and compile
gurux.dlms.java, or take its source from the folder GURUX_JAVA.
The program is target/debug/gridseal, or what GRIDSEAL names. Everything runs on loopback, on free ports.
Lines without `ok` or `WRONG` tell what a peer does where it is not ours to be right; docs/interop.md has them, too.
Exit status: 0 all agree, 1 they do not.
"""

import contextlib
import functools
import itertools
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import peer_java
from dlms_lab import Report, meter, ours_gets, write_lab

PEERS = ["gurux-dlms==1.0.203", "dlms-cosem==25.1.0", "cryptography"]
GURUX = [
    *((0, "glo", "none"), (1, "glo", "none"), (5, "glo", "none"), (6, "glo", "none")),
    *((m, c, "auth+enc") for m in (5, 6, 7) for c in ("glo", "general-glo", "ded", "general-ded")),
    *((5, c, "auth") for c in ("glo", "general-glo")),
]
# Suites 1 and 2; mechanism 7 in suite 2 is told apart: its signatures on P-384 are not made.
GURUX_SUITES = [
    (suite, (m, c, "auth+enc"))
    for suite in (1, 2)
    for m in (5, 6, 7)
    for c in ("glo", "general-glo", "ded", "general-ded")
    if (suite, m) != (2, 7)
]
GURUX_HDLC = [(0, "glo", "none"), *((m, c, "auth+enc") for m in (5, 6, 7) for c in ("glo", "general-glo"))]
# The Java server has mechanism 7 in suites 1 and 2 only.
JAVA = [
    *((0, "glo", "none"), (1, "glo", "none")),
    *((m, c, "auth+enc") for m in (5, 6) for c in ("glo", "general-glo", "ded", "general-ded")),
]
# It knows no other mechanism but 2, and no other carrier once it has keys.
COSEM = [(0, "glo", "none"), (1, "glo", "none"), (1, "general-glo", "auth+enc")]
# Over HDLC it needs a conversation without 7E inside of a frame: so often it may try.
TRIES = 20
# In mechanism 5 it uses a nonce twice, which our server refuses.
COSEM_CORRECTED = [(5, "general-glo", "auth+enc")]


def main() -> int:
    if "--inside" in sys.argv:
        return inside([word for word in sys.argv[1:] if word != "--inside"])
    return in_venv(__file__, sys.argv[1:])


def in_venv(script: str, words: list[str]) -> int:
    """Runs `script` again with the peers at hand; its exit status."""
    with contextlib.ExitStack() as stack:
        folder = os.environ.get("PEERS") or stack.enter_context(tempfile.TemporaryDirectory(prefix="gridseal-interop-"))
        python = Path(folder) / "bin" / "python"
        if not python.exists():
            venv.create(folder, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
        return subprocess.run([python, script, "--inside", *words], check=False).returncode


def inside(wanted: list[str]) -> int:
    import peer_cosem
    import peer_gurux

    report = Report()
    parts = {
        "gurux": lambda folder: clients(report, folder, "gurux-dlms", peer_gurux.Peer, GURUX),
        "gurux-suites": lambda folder: gurux_suites(report, folder, peer_gurux),
        "gurux-hdlc": lambda folder: clients(report, folder, "gurux-dlms", peer_gurux.Peer, GURUX_HDLC, hdlc=True),
        "gurux-as-it-comes": lambda folder: as_it_comes(report, folder, peer_gurux.Peer),
        "cosem": lambda folder: cosem(report, folder, peer_cosem.Peer),
        "cosem-hdlc": lambda folder: cosem_hdlc(report, folder, peer_cosem.Peer),
        "gurux-java": lambda folder: java(report, folder),
        "forgeries": lambda folder: forgeries(folder, peer_gurux.Peer, peer_cosem.Peer, peer_java.Peer),
    }
    with tempfile.TemporaryDirectory(prefix="gridseal-interop-") as folder:
        for name, part in parts.items():
            if not wanted or name in wanted:
                part(folder)
    return 1 if report.wrong else 0


def gurux_suites(report: Report, folder: str, gurux) -> None:
    peer = gurux.Peer
    for suite, combination in GURUX_SUITES:
        clients(report, folder, "gurux-dlms", functools.partial(peer, suite=suite), [combination], suite=suite)
    with gurux.corrected():
        # With a dedicated key of 32 octets its opening has more than 127, and a wrong length.
        for carrier in ("glo", "general-glo"):
            name, long = "gurux-dlms with our correction", functools.partial(peer, suite=2)
            clients(report, folder, name, long, [(7, carrier, "auth+enc")], suite=2)
    with meter(write_lab(folder, 7, "glo", "auth+enc", suite=2, max_pdu=512)) as (address, log):
        try:
            everything(peer(address, 7, "glo", "auth+enc", suite=2))
            done = "works"
        except Exception as error:  # noqa: BLE001
            done = f"does not associate ({type(error).__name__}: {error})"
        refused = " | ".join(line.strip() for line in log if "refused" in line)
        print(f"      gurux-dlms, suite 2, mechanism 7, glo, auth+enc: {done}; {refused}"[:300])


def clients(
    report: Report, folder: str, name: str, peer, combinations: list, hdlc: bool = False, suite: int = 0
) -> None:
    """The peer's client does everything it can with `gridseal meter serve`."""
    for combination in combinations:
        lab = write_lab(folder, *combination, max_pdu=512, suite=suite)
        what = f"{name}, {f'suite {suite}, ' if suite else ''}{label(combination)}{', HDLC' if hdlc else ''}"
        try:
            with meter(lab, *(["--hdlc-tcp"] if hdlc else [])) as (address, log):
                if not report.run(what, lambda: everything(peer(address, *combination, hdlc=hdlc))):
                    print("      the meter's log: " + " | ".join(log)[-400:])
        except RuntimeError as error:
            report.say(what, False, str(error))


def cosem(report: Report, folder: str, peer) -> None:
    clients(report, folder, "dlms-cosem", peer, COSEM)
    corrected = functools.partial(peer, corrected=True)
    clients(report, folder, "dlms-cosem with our correction", corrected, COSEM_CORRECTED)
    with meter(write_lab(folder, *COSEM_CORRECTED[0], max_pdu=512)) as (address, log):
        try:
            everything(peer(address, *COSEM_CORRECTED[0]))
            done = "works"
        except Exception:  # noqa: BLE001
            done = "is refused: " + " | ".join(line.strip() for line in log if "refused" in line)
        print(f"      dlms-cosem without it, {label(COSEM_CORRECTED[0])}: {done}")


def cosem_hdlc(report: Report, folder: str, peer) -> None:
    """It reads up to the first 7E, and waits for ever after a frame that has one inside, in a check sequence mostly. Which
    frame has one follows from what is read, so that it tries again a second later."""
    for combination in COSEM:
        lab = write_lab(folder, *combination, max_pdu=512)
        tries = itertools.count(1)

        def patiently():
            while True:
                with meter(lab, "--hdlc-tcp") as (address, _log):
                    try:
                        number = next(tries)
                        everything(peer(address, *combination, hdlc=True))
                        print(f"      dlms-cosem, {label(combination)}, HDLC: at try {number}")
                        return
                    except Exception as error:  # noqa: BLE001
                        if "Could not receive data" not in str(error) or number == TRIES:
                            raise
                time.sleep(1)

        report.run(f"dlms-cosem, {label(combination)}, HDLC", patiently)


def everything(peer) -> None:
    """Association, GET, blocks, selective access, SET, ACTION and release; raises at the first wrong answer."""
    peer.open()
    if not isinstance(peer.energy(), int):
        raise AssertionError("energy")
    if peer.unit()[1] != 30:
        raise AssertionError("unit")
    whole, by_entry, by_range = peer.rows()
    if len(whole) != 96 or by_entry not in (None, whole[10:14]) or by_range != whole[20:30]:
        raise AssertionError(f"rows {len(whole)}, {by_entry}, {by_range}")
    if peer.write(b"stranger") != b"stranger":
        raise AssertionError("SET")
    if peer.switch() != [False, True]:
        raise AssertionError("ACTION")
    peer.close()


def as_it_comes(report: Report, folder: str, peer) -> None:
    """The peer with its own defaults does everything, over both framings: its release is in clear, its challenge short."""
    combinations = [(m, c, "auth+enc") for m in (5, 6, 7) for c in ("glo", "general-glo")]
    stock = functools.partial(peer, as_it_comes=True)
    for hdlc in (False, True):
        clients(report, folder, "gurux-dlms as it comes", stock, combinations, hdlc=hdlc)


def java(report: Report, folder: str) -> None:
    """The client of gurux.dlms.java with `gridseal meter serve`, and `gridseal dlms get` with its server."""
    items = ("1.0.1.8.0.255:3:2", "0.0.42.0.0.255:1:2", "1.0.99.1.0.255:7:2")
    with peer_java.compiled() as classes:
        for combination in JAVA:
            lab = write_lab(folder, *combination, max_pdu=1024)
            what = f"gurux.dlms.java serves, {label(combination)}"
            with peer_java.server(classes, *combination) as address:
                status, _, error = ours_gets(lab, address, *items)
            print(f"      {what}, unchanged: exit {status}, {error.splitlines()[-1]}")
            with peer_java.server(classes, *combination, "corrected") as address:
                status, found, error = ours_gets(lab, address, *items)
            read = status == 0 and "123456" in str(found) and "1095" in str(found)
            report.say(f"{what}, with our corrections", read, f"exit {status}, {error[-200:]}, {found}"[:400])
            with meter(lab) as (address, log):
                done = peer_java.client(classes, address, *combination, "everything")
            lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
            rows = {name: lines.get(name, "").split() for name in ("rows", "entry", "range")}
            right = done.stdout.endswith("released\n") and len(rows["rows"]) == 96 and lines["written"] == "stranger"
            right = right and rows["entry"] == rows["rows"][10:14] and rows["range"] == rows["rows"][20:30]
            why = f"{done.stdout[-100:]} {done.stderr[:300]}; the meter's log: {' | '.join(log)[-300:]}"
            report.say(f"gurux.dlms.java, {label(combination)}", right and lines["switch"] == "false true", why)


def forgeries(folder: str, *peers) -> None:
    """Which answers of a lying server each peer's client takes for true; told, and no failure of ours."""
    from reference.link import Lab
    from reference.server import FAULTS

    lab = Lab(write_lab(folder, 5, "general-glo"))
    # This carrier does not name the service.
    faults = ["", *(fault for fault in FAULTS if fault != "wrong-service")]
    print(f"      {'':20}{'gurux-dlms':34}{'dlms-cosem':34}gurux.dlms.java")
    with peer_java.compiled() as peer_java.Peer.classes:
        for fault in faults:
            told = [belief(peer, lab, fault) for peer in peers]
            print(f"      {fault or 'no fault':20}" + "".join(f"{text:34}" for text in told))


def belief(peer, lab, fault: str) -> str:
    from reference.server import Server

    with contextlib.closing(Server(lab, fault)) as server:
        try:
            client = peer(server.address, 5, "general-glo", "auth+enc")
            client.open()
            return f"takes {client.energy()} {client.energy()}"
        except Exception as error:  # noqa: BLE001
            return f"refuses ({type(error).__name__})"


def label(combination: tuple) -> str:
    mechanism, carrier, protection = combination
    return f"mechanism {mechanism}, {carrier if protection != 'none' else 'in clear'}, {protection}"


if __name__ == "__main__":
    sys.exit(main())
