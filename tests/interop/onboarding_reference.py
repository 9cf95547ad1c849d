#!/usr/bin/env python3
"""Checks the onboarding vectors against a second implementation of GSO v1.

    tests/interop/onboarding_reference.py [--json] [--vectors DIR] [--quick]

The implementation in tests/interop/reference/onboarding was written from docs/protocol.md and the pages under it alone.
It derives every value of recorded_session.toml again, plays the owner against the recorded device and the device
against the recorded owner, checks the other files, and wants every changed byte of every message to be refused with the
code that the pages name (of second signatures, and inside boxes, some bytes). --quick leaves out the changed bytes.

It needs Python 3.9 or later and the package `cryptography`; ML-DSA-65 is checked where that package knows it, and the
shapes a second time where the package `cddl-verifier` is installed. What was not checked is said in lines of their own.
Exit code 0: all agrees. 1: something differs.
"""

import argparse
import sys
from pathlib import Path

from reference.onboarding import flips, others, recorded, shaped
from reference.onboarding.cddl import Shapes
from reference.onboarding.vectors import Report, Vectors

ROOT = Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--vectors", type=Path, default=ROOT / "tests/vectors/onboarding")
    asked = parser.parse_args()
    cddl = ROOT / "docs/protocol/gso1.cddl"
    shapes, report = Shapes(cddl.read_text()), Report()
    run = Vectors(asked.vectors / "recorded_session.toml")
    recorded.check(report, run, shapes)
    orders = others.check(report, asked.vectors, shapes)
    shaped.check(report, run, orders, shapes, cddl)
    if not asked.quick:
        flips.check(report, run, shapes)
    return report.end(asked.json)


if __name__ == "__main__":
    sys.exit(main())
