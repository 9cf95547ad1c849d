#!/usr/bin/env python3
"""Counts again what `gridseal sim keys --evidence DIR` claims, from the evidence alone.

    tests/interop/keys_check.py DIR

DIR/nonces.jsonl has every protected APDU that left: key as a hash, nonce (title and counter), hash of the bytes. A pair of
key and nonce with two different bytes is a reuse. DIR/events.jsonl has, in order, what is durable at each site: which keys
it holds and which of them are on record as sent (`holdings`), up to which counter each is leased (`leased`, and `leases`
where another database was put); which keys each meter has (`meter-keys`); and what happened. `order` numbers the lines of
both files together. Found are:

    unreachable_meters  at the end of a step some key of the meter was held by no site, or at the end of the schedule the
                        meter had given no reading, or its key change had come to no end (unless it is `gone`); a master key
                        that the meter has agreed upon (`agreed`) is known to nobody else until its answer arrives, and needed
                        by nobody: it must be held when the schedule ends
    nonce_reuse         a pair with two different bytes
    not_durable         a site sent under a counter that was not leased durably there, or a key not on record as sent
    forgotten           a site took the same bytes again, inside its window, for a replay instead of a duplicate

Violations that the simulator tells (`violation`) are listed, and whether what is found here confirms them. Standard library
only. Prints one JSON object; exit 1 if anything is found or told, 2 if the evidence is not complete.
"""
import json
import sys
from pathlib import Path

# How far below the highest counter a receiver remembers (key service specification, section 8).
WINDOW = 64


def lines(path: Path):
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def in_order(folder: Path):
    """Lines of both files in one order; schedules are apart from each other."""
    nonces = lines(folder / "nonces.jsonl")
    nonce = next(nonces, None)
    seed = None
    for event in lines(folder / "events.jsonl"):
        if seed is not None and event["seed"] != seed:
            while nonce is not None and nonce["seed"] == seed:
                yield nonce
                nonce = next(nonces, None)
        seed = event["seed"]
        while nonce is not None and nonce["seed"] == seed and nonce["order"] < event["order"]:
            yield nonce
            nonce = next(nonces, None)
        yield event
    while nonce is not None:
        yield nonce
        nonce = next(nonces, None)


class Site:
    def __init__(self):
        self.keys, self.sent, self.leased = set(), set(), {}
        self.restarted()

    def restarted(self):
        """Decisions that were not durable are undone: which ones is not told."""
        self.opened, self.highest = set(), {}


class Schedule:
    def __init__(self, seed):
        self.seed, self.step, self.sites, self.meters = seed, 0, {}, {}
        self.gone, self.stranded, self.read, self.open = set(), set(), set(), set()
        self.used, self.made = {}, {}
        self.reuse = self.not_durable = self.forgotten = 0
        self.told = None
        self.agreed = {}

    def site(self, name) -> Site:
        return self.sites.setdefault(name, Site())

    def compare(self, is_end=False):
        held = set().union(*(site.keys for site in self.sites.values()))
        for meter, keys in self.meters.items():
            keys = keys | self.agreed[meter] if is_end else keys
            if meter not in self.gone and not keys <= held:
                self.stranded.add(meter)

    def nonce(self, entry):
        key, nonce, counter = entry["key"], entry["nonce"], int(entry["nonce"][16:], 16)
        pair, known = (key, nonce), self.used.get((key, nonce))
        self.used[pair] = entry["bytes"]
        if entry["from"].startswith("meter-"):
            self.made[entry["bytes"]] = (key, counter)
        if known is not None:
            self.reuse += known != entry["bytes"]
        elif entry["from"].startswith("site-"):
            self.not_durable += self.site(entry["from"]).leased.get(key, -1) < counter

    def verdict(self, entry):
        site, apdu, verdict = self.site(entry["site"]), entry["bytes"], entry["verdict"]
        if apdu not in self.made:
            return
        key, counter = self.made[apdu]
        highest = site.highest.get(key, -1)
        if verdict in ("fresh", "late", "duplicate"):
            site.opened.add(apdu)
        elif verdict == "replay" and apdu in site.opened and counter + WINDOW > highest:
            self.forgotten += 1

    def take(self, entry):
        if entry["step"] != self.step:
            self.compare()
            self.step = entry["step"]
        match entry["event"]:
            case "holdings":
                site = self.site(entry["site"])
                site.keys, site.sent = set(entry["keys"]), set(entry["sent"])
            case "leases":
                self.site(entry["site"]).leased = dict(entry["highest"])
            case "leased":
                leased = self.site(entry["site"]).leased
                for key, highest in entry["highest"].items():
                    leased[key] = max(leased.get(key, -1), highest)
            case "transfer":
                self.not_durable += not set(entry["keys"]) <= self.site(entry["site"]).sent
            case "accepted":
                highest = self.site(entry["site"]).highest
                highest[entry["key"]] = max(highest.get(entry["key"], -1), entry["counter"])
            case "verdict":
                self.verdict(entry)
            case "start" | "kill" | "put-back":
                self.site(entry["site"]).restarted()
            case "meter-keys":
                keys, kek = {entry["guek"], entry["gak"]}, {entry["kek"]}
                is_agreed = entry["agreed"]
                self.meters[entry["meter"]] = keys if is_agreed else keys | kek
                self.agreed[entry["meter"]] = kek if is_agreed else set()
            case "heal":
                self.read.clear()
            case "reading":
                self.read.add(entry["meter"])
            case "status":
                (self.open.discard if entry["change"] == "none" else self.open.add)(entry["meter"])
            case "gone":
                self.gone.add(entry["meter"])
            case "end" | "violation" as last:
                self.compare(is_end=last == "end")
                self.told = entry if last == "violation" else None
                # A schedule that broke another rule before it was healed asked no meter for a reading.
                if last == "end" or entry["rule"] == "reachable":
                    left = set(self.meters) - self.read | self.open
                    self.stranded |= left - self.gone

    def confirms(self):
        rules = {"s1": self.reuse, "s2": self.not_durable, "s3": self.stranded, "reachable": self.stranded}
        return bool(rules.get(self.told["rule"], self.forgotten if self.told["rule"] == "window" else 0))


def check(folder: Path):
    found = dict.fromkeys(
        ("schedules", "meters", "pairs", "nonce_reuse", "unreachable_meters", "not_durable", "forgotten"), 0
    )
    violations = []

    def close(schedule):
        found["schedules"] += 1
        found["meters"] += len(schedule.meters)
        found["pairs"] += len(schedule.used)
        found["nonce_reuse"] += schedule.reuse
        found["unreachable_meters"] += len(schedule.stranded)
        found["not_durable"] += schedule.not_durable
        found["forgotten"] += schedule.forgotten
        if schedule.told:
            told = {name: schedule.told[name] for name in ("seed", "step", "rule", "detail")}
            violations.append(told | {"confirmed": schedule.confirms()})

    schedule = None
    for entry in in_order(folder):
        if schedule is None or entry["seed"] != schedule.seed:
            if schedule is not None:
                close(schedule)
            schedule = Schedule(entry["seed"])
        if "event" in entry:
            schedule.take(entry)
        else:
            schedule.nonce(entry)
    if schedule is not None:
        close(schedule)
    return found | {"violations": violations}


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        found = check(Path(sys.argv[1]))
    except (OSError, KeyError, ValueError) as error:
        print(f"evidence is not complete: {error!r}", file=sys.stderr)
        return 2
    print(json.dumps(found))
    counted = ("nonce_reuse", "unreachable_meters", "not_durable", "forgotten")
    return 1 if found["violations"] or any(found[name] for name in counted) else 0


if __name__ == "__main__":
    sys.exit(main())
