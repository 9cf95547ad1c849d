#!/usr/bin/env python3
"""Counts again what `gridseal sim keys --evidence DIR` claims, from the evidence alone.

    tests/interop/keys_check.py DIR

DIR/nonces.jsonl has every protected APDU that left: key as a hash, nonce (title and counter), hash of the bytes. A pair of
key and nonce with two different bytes is a reuse. DIR/events.jsonl has, in order, which keys each site holds durably
(`holdings`) and which keys each meter has (`meter-keys`); after each step every meter's three keys must be held by some
site, unless the device is out of service (`gone`). Standard library only. Prints one JSON object; exit 1 if anything is
found, 2 if the evidence is not complete.
"""
import json
import sys
from pathlib import Path


def lines(path: Path):
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def reuses(path: Path):
    """Number of pairs, and of those that were used for different bytes. Schedules are apart from each other."""
    seed, used, pairs, reused = None, {}, 0, 0
    for entry in lines(path):
        if entry["seed"] != seed:
            seed, used = entry["seed"], {}
        pair = (entry["key"], entry["nonce"])
        known = used.get(pair)
        if known is None:
            pairs += 1
        elif known != entry["bytes"]:
            reused += 1
        used[pair] = entry["bytes"]
    return pairs, reused


class Schedule:
    def __init__(self):
        self.step, self.sites, self.meters, self.gone, self.stranded, self.read = 0, {}, {}, set(), set(), set()

    def compare(self):
        held = set().union(*self.sites.values()) if self.sites else set()
        for meter, keys in self.meters.items():
            if meter not in self.gone and not keys <= held:
                self.stranded.add(meter)

    def take(self, entry):
        if entry["step"] != self.step:
            self.compare()
            self.step = entry["step"]
        match entry["event"]:
            case "holdings":
                self.sites[entry["site"]] = set(entry["keys"])
            case "meter-keys":
                self.meters[entry["meter"]] = {entry["guek"], entry["gak"], entry["kek"]}
            case "heal":
                self.read.clear()
            case "reading":
                self.read.add(entry["meter"])
            case "gone":
                self.gone.add(entry["meter"])


def unreachable(path: Path):
    """Number of schedules, of meters, and of meters that were stranded at some step, or not read at the end."""
    schedules, meters, stranded = 0, 0, 0
    for_seed = Schedule()
    for entry in lines(path):
        match entry["event"]:
            case "begin":
                for_seed = Schedule()
                schedules += 1
            case "end" | "violation" as last:
                for_seed.compare()
                # A schedule that broke a rule before it was healed asked no meter for a reading.
                unread = set(for_seed.meters) - for_seed.gone - for_seed.read if last == "end" else set()
                stranded += len(for_seed.stranded | unread)
                meters += len(for_seed.meters)
            case _:
                for_seed.take(entry)
    return schedules, meters, stranded


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    try:
        pairs, reused = reuses(folder / "nonces.jsonl")
        schedules, meters, stranded = unreachable(folder / "events.jsonl")
    except (OSError, KeyError, ValueError) as error:
        print(f"evidence is not complete: {error!r}", file=sys.stderr)
        return 2
    found = {
        "schedules": schedules,
        "meters": meters,
        "pairs": pairs,
        "nonce_reuse": reused,
        "unreachable_meters": stranded,
    }
    print(json.dumps(found))
    return 1 if reused or stranded else 0


if __name__ == "__main__":
    sys.exit(main())
