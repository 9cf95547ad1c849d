#!/usr/bin/env python3
"""Lets programs of others, used unchanged, talk with our DLMS server and client.

Run by hand, from anywhere, with Python 3.11 or newer and access to a Python package index:

    cargo build --bin gridseal && python3 tests/interop/dlms_strangers.py [PART]...

PART is any of `gurux`, `gurux-hdlc`, `gurux-as-it-comes`, `cosem`, `cosem-hdlc`, `forgeries`; all by default.
It installs gurux-dlms and dlms-cosem into a temporary folder that it removes again; PEERS=FOLDER keeps that folder.
The program is target/debug/gridseal, or what GRIDSEAL names. Everything runs on loopback, on free ports.
Lines without `ok` or `WRONG` tell what a peer does where it is not ours to be right; docs/interop.md has them, too.
Exit status: 0 all agree, 1 they do not.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from dlms_lab import Report, meter, write_lab

PEERS = ["gurux-dlms==1.0.203", "dlms-cosem==25.1.0", "cryptography"]
GURUX = [
    *((0, "glo", "none"), (1, "glo", "none"), (5, "glo", "none"), (6, "glo", "none")),
    *((m, c, "auth+enc") for m in (5, 6, 7) for c in ("glo", "general-glo", "ded", "general-ded")),
    *((5, c, "auth") for c in ("glo", "general-glo")),
]
GURUX_HDLC = [(0, "glo", "none"), *((m, c, "auth+enc") for m in (5, 6, 7) for c in ("glo", "general-glo"))]
# It knows no other mechanism but 2, and no other carrier once it has keys.
COSEM = [(0, "glo", "none"), (1, "glo", "none"), (1, "general-glo", "auth+enc"), (5, "general-glo", "auth+enc")]


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
        "gurux-hdlc": lambda folder: clients(report, folder, "gurux-dlms", peer_gurux.Peer, GURUX_HDLC, hdlc=True),
        "gurux-as-it-comes": lambda folder: as_it_comes(folder, peer_gurux.Peer),
        "cosem": lambda folder: clients(report, folder, "dlms-cosem", peer_cosem.Peer, COSEM),
        "cosem-hdlc": lambda folder: clients(report, folder, "dlms-cosem", peer_cosem.Peer, COSEM[:2], hdlc=True),
        "forgeries": lambda folder: forgeries(folder, peer_gurux.Peer, peer_cosem.Peer),
    }
    with tempfile.TemporaryDirectory(prefix="gridseal-interop-") as folder:
        for name, part in parts.items():
            if not wanted or name in wanted:
                part(folder)
    return 1 if report.wrong else 0


def clients(report: Report, folder: str, name: str, peer, combinations: list, hdlc: bool = False) -> None:
    """The peer's client does everything it can with `gridseal meter serve`."""
    for combination in combinations:
        lab = write_lab(folder, *combination, max_pdu=512)
        what = f"{name}, {label(combination)}{', HDLC' if hdlc else ''}"
        try:
            with meter(lab, *(["--hdlc-tcp"] if hdlc else [])) as (address, log):
                if not report.run(what, lambda: everything(peer(address, *combination, hdlc=hdlc))):
                    print("      the meter's log: " + " | ".join(log)[-400:])
        except RuntimeError as error:
            report.say(what, False, str(error))


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


def as_it_comes(folder: str, peer) -> None:
    """What of the peer's own defaults our server does not take; told, and no failure."""
    for combination in ((5, "glo", "auth+enc"), (7, "glo", "auth+enc")):
        with meter(write_lab(folder, *combination, max_pdu=512)) as (address, _):
            done = "associates and releases"
            client = peer(address, *combination, as_it_comes=True)
            try:
                client.open()
                done = "associates, its release in clear is refused"
                client.close()
                done = "associates and releases"
            except Exception as error:  # noqa: BLE001
                done = done if client.client.settings.connected else f"does not associate: {error}"
            print(f"      gurux-dlms with its own defaults, {label(combination)}: {done}")


def forgeries(folder: str, *peers) -> None:
    """Which answers of a lying server each peer's client takes for true; told, and no failure of ours."""
    from reference.link import Lab
    from reference.server import FAULTS, Server

    lab = Lab(write_lab(folder, 5, "general-glo"))
    for fault in ("", *FAULTS):
        if fault == "wrong-service":
            continue  # this carrier does not name the service
        told = []
        for peer in peers:
            with contextlib.closing(Server(lab, fault)) as server:
                client = peer(server.address, 5, "general-glo", "auth+enc")
                try:
                    client.open()
                    told.append(f"takes {client.energy()} {client.energy()}")
                except Exception as error:  # noqa: BLE001
                    told.append(f"refuses ({type(error).__name__})")
        print(f"      {fault or 'no fault':20} gurux-dlms {told[0]:30} dlms-cosem {told[1]}")


def label(combination: tuple) -> str:
    mechanism, carrier, protection = combination
    return f"mechanism {mechanism}, {carrier if protection != 'none' else 'in clear'}, {protection}"


if __name__ == "__main__":
    sys.exit(main())
