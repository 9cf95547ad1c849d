#!/usr/bin/env python3
"""Times two DLMS stacks of others, used unchanged, on what `cargo bench -p gridseal-dlms` times of ours.

Run by hand, from anywhere, with Python 3.11 or newer and access to a Python package index:

    python3 tests/interop/dlms_bench.py [--ours]

`--ours` runs our bench first, so that all figures are of one machine and one quarter of an hour.
It installs the peers into a temporary folder that it removes again; PEERS=FOLDER keeps that folder.
Each time is the best of several rounds, for one operation. Exit status: 0, or 1 if a peer's result is not right.
"""

import contextlib
import io
import os
import platform
import subprocess
import sys
import time

from dlms_lab import GAK, GUEK, ROOT, SERVER_TITLE
from dlms_strangers import in_venv

ROUNDS = 7
ROWS = 1000
# An array of rows of clock, status and two registers: 28 octets each.
PROFILE = bytes.fromhex("018203E8") + b"".join(
    bytes.fromhex("0204090C07EA0B01FF000000000000001100") + b"\x06" + i.to_bytes(4) + b"\x06" + (7 * i).to_bytes(4)
    for i in range(ROWS)
)
RESPONSE = bytes.fromhex("C401C10009820400") + bytes(1024)


def main() -> int:
    if "--inside" in sys.argv:
        return inside()
    if "--ours" in sys.argv:
        bench = ["cargo", "bench", "-q", "-p", "gridseal-dlms", "--bench", "dlms"]
        subprocess.run(bench, cwd=ROOT, check=True)
    return in_venv(__file__, [])


def best(step) -> float:
    """Seconds of one call, from the best round of at least a tenth of a second."""
    count, taken = 1, 0.0
    while taken < 0.1:
        count *= 2
        taken = once(step, count)
    return min([taken, *(once(step, count) for _ in range(ROUNDS - 1))]) / count


def once(step, count: int) -> float:
    begin = time.process_time()
    for _ in range(count):
        step()
    return time.process_time() - begin


def inside() -> int:
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    outcomes = [peer() for peer in (gurux, cosem)]
    return 0 if all(outcomes) else 1


def table(name: str, parse, seal, open_) -> None:
    for what, step in (("load profile of 1,000 x 4", parse), ("1 KiB sealed", seal), ("1 KiB opened", open_)):
        with contextlib.redirect_stdout(io.StringIO()):
            taken = best(step)
        print(f"  {name:20} {what:28} {1e6 * taken:12.1f} us")


def gurux() -> bool:
    from gurux_dlms import GXByteBuffer
    from gurux_dlms.AesGcmParameter import AesGcmParameter
    from gurux_dlms.enums import Security
    from gurux_dlms.GXCiphering import GXCiphering
    from gurux_dlms.internal._GXCommon import _GXCommon
    from gurux_dlms.internal._GXDataInfo import _GXDataInfo
    from gurux_dlms.secure import GXDLMSSecureClient

    settings = GXDLMSSecureClient(True).settings

    def parameter():
        made = AesGcmParameter(0xCC, *(bytearray.fromhex(text) for text in (SERVER_TITLE, GUEK, GAK)))
        made.security, made.invocationCounter = Security.AUTHENTICATION_ENCRYPTION, 7
        return made

    sealed = bytearray(GXCiphering.encrypt(parameter(), bytearray(RESPONSE)))

    def parse():
        return _GXCommon.getData(settings, GXByteBuffer(PROFILE), _GXDataInfo())

    def open_():
        return GXCiphering.decrypt(settings, parameter(), GXByteBuffer(sealed))

    table("gurux-dlms 1.0.203", parse, lambda: GXCiphering.encrypt(parameter(), bytearray(RESPONSE)), open_)
    with contextlib.redirect_stdout(io.StringIO()):
        return len(parse()) == ROWS and bytes(open_()) == RESPONSE


def cosem() -> bool:
    from dlms_cosem import security, utils

    control = security.SecurityControlField(security_suite=0, authenticated=True, encrypted=True)
    title, key, auth = (bytes.fromhex(text) for text in (SERVER_TITLE, GUEK, GAK))
    sealed = security.encrypt(control, title, 7, key, RESPONSE, auth)

    def parse():
        return utils.parse_as_dlms_data(PROFILE)

    def open_():
        return security.decrypt(control, title, 7, key, sealed, auth)

    table("dlms-cosem 25.1.0", parse, lambda: security.encrypt(control, title, 7, key, RESPONSE, auth), open_)
    return len(parse()) == ROWS and open_() == RESPONSE


if __name__ == "__main__":
    sys.exit(main())
