#!/usr/bin/env python3
"""Checks what `gridseal demo --attack all --evidence DIR` left, from the evidence alone.

    python3 tests/interop/attacks_check.py DIR [--json OBJECT]

For each attack it looks for itself: whether the refusing party has the code on record, whether the record's chain is
whole, whether the message that was refused is among the bytes that were sent, whether secrets of the run are in what an
attacker obtained or could read, and whether what the demo says was obtained is what the bytes give. With --json the
demo's final object is compared with the evidence too. It shares no code with Gridseal and needs Python 3.9 or later.

Exit code 0: every row was refused, and the evidence agrees. 1: it does not, or a row was not refused.
"""

import hashlib
import json
import re
import sys
import zlib
from pathlib import Path

# Expected of each row, from the protocol's table of attacks: who refuses, and with which code. None: there is nothing to
# refuse, the row has a check of its own below.
EXPECTED = {
    "A1": ("meter", "E_REDIRECT_SIG"), "A2": ("meter", "E_REDIRECT_SIG"), "A3": ("meter", "E_GRANT"),
    "A4": ("endpoint-manager", "E_UNKNOWN"), "A5": ("meter", "E_CONFIG_CHAIN"), "A6": ("endpoint-manager", "E_UNKNOWN"),
    "A7": ("endpoint-manager", "E_EK"), "A8": ("endpoint-manager", "E_GRANT"), "A9": ("meter", "E_NONCE"),
    "A10": ("meter", "E_GRANT"), "A11": ("tpm", "TPM_RC 0x1df"), "A12": ("endpoint-manager", "E_CERTIFY"),
    "A13": ("endpoint-manager", "E_AK_ATTR"), "A14": ("endpoint-manager", "E_POLICY"), "A15": ("meter", "E_EPOCH"),
    "A16": ("endpoint-manager", "E_STATE"), "A17": None, "A18": None, "A19": ("meter", "E_SUITE"),
    "A20": ("endpoint-manager", "E_UNKNOWN"), "A21": None, "A22": ("init-server", "E_FORK"),
    "A23": None, "A24": ("endpoint-manager", "E_BUSY"), "A25": None,
    "A26": ("init-server", "E_FORK"), "A27": ("meter", "E_CONFIG_CHAIN"), "A28": ("meter", "E_COMMAND"),
    "A29": ("endpoint-manager", "E_OWNED"), "A30": None, "A31": ("endpoint-manager", "E_TPM"),
    "A32": ("endpoint-manager", "E_CERTIFY"), "A33": ("meter", "E_ROLLBACK"), "A34": None, "A35": None,
    "A36": ("config-server", "E_FORMAT"), "A37": ("meter", "E_ROLLBACK"), "A38": ("endpoint-manager", "E_LABEL"), "A39": ("meter", "E_TIME"),
    "A40": ("endpoint-manager", "E_STATE"),
}
# Further codes that a row must have on record, beside the one that it is named for.
ALSO = {
    "A7": [("endpoint-manager", "E_ACT")], "A8": [("endpoint-manager", "E_ACT")],
    "A15": [("meter", "E_PIN")], "A19": [("endpoint-manager", "E_SUITE")],
    "A20": [("endpoint-manager", "E_GRANT"), ("config-server", "E_BUSY")], "A22": [("meter", "E_PIN")],
    "A24": [("endpoint-manager", "E_NONCE")], "A31": [("endpoint-manager", "E_POLICY")],
    "A32": [("endpoint-manager", "E_QUOTE")], "A33": [("meter", "E_GRANT")], "A36": [("endpoint-manager", "E_FORMAT"), ("init-server", "E_FORMAT")],
    "A38": [("endpoint-manager", "E_STATE")],
    "A40": [("endpoint-manager", code) for code in ("E_UNKNOWN", "E_LABEL", "E_FORMAT")],
}
# Rows whose refused message must be among the bytes that were sent; in the others whole meters are at work.
UNTOUCHED = ["A1", "A3", "A5", "A9", "A19"]


class Disagreement(Exception):
    """The evidence does not bear the verdict out."""


def need(holds, what):
    if not holds:
        raise Disagreement(what)


def lines_of(path):
    if not path.is_file():
        return []
    return [(raw, json.loads(raw)) for raw in path.read_bytes().splitlines(keepends=True)]


def chain_is_whole(lines):
    """Each line names the hash of the line before and the next number."""
    for (before, first), (_, second) in zip(lines, lines[1:]):
        if second["before"] != hashlib.sha256(before).hexdigest() or second["number"] != first["number"] + 1:
            return False
    return True


def spellings(value):
    raw = bytes.fromhex(value)
    return [raw, value.lower().encode(), value.upper().encode()]


def secrets_in(blobs, inventory):
    found = set()
    for role, values in inventory.items():
        for value in values:
            for spelling in spellings(value):
                if any(spelling in blob for blob in blobs):
                    found.add(role)
    return found


def files_below(path):
    return [entry.read_bytes() for entry in sorted(path.rglob("*")) if entry.is_file()]


def seen_in(row):
    """Exchanges that went through the attacker's hands: lists of (question, everything else)."""
    exchanges = []
    for _, line in lines_of(row / "seen.jsonl"):
        blobs = {name: bytes.fromhex(text) for name, text in line.items() if name != "path" and text is not None}
        exchanges.append((line["path"], blobs))
    return exchanges


def check_refusal(row, records, verdict, by, code, whole_records):
    # A meter's record is named by its serial number, and a row may have several.
    servers = ("endpoint-manager", "config-server", "init-server", "keys", "headend")
    paths = [path for path in sorted(row.glob("record-*.jsonl"))
             if (path.stem == f"record-{by}" if by in servers else path.stem[7:] not in servers)]
    record = []
    for path in paths:
        lines = lines_of(path)
        need(chain_is_whole(lines), f"{path.name} has a gap")
        record += lines
    hits = [(raw, line) for raw, line in record if line.get("code") == code]
    need(hits, f"{by} has no {code} on record")
    if by in whole_records:
        need(any(raw in whole_records[by] for raw, _ in hits), f"the whole record of {by} does not have that line")
    sent = {hashlib.sha256(path.read_bytes()).hexdigest() for path in row.glob("sent-*")}
    messages = {line["message"] for _, line in hits if "message" in line}
    # An image of the flash is no message: there the meter says which generations it compared.
    need(messages & sent or any("found" in line and sent for _, line in hits), f"no message that {by} refused with {code} is among those that were sent")


def check_tpm(row, verdict):
    response = row / "tpm-response.bin"
    if response.is_file():
        code = int.from_bytes(response.read_bytes()[6:10], "big")
        need(verdict["code"] == f"TPM_RC 0x{code:x}", f"the TPM said {code:#x}")
    else:
        need((row / "tpm.txt").is_file(), "nothing of a TPM was kept")


def counters(row):
    text = (row / "tpm.txt").read_text()
    counted = re.search(r"lockout_counter (?:Some\((\d+)\)|None)", text)
    need(counted and counted.group(1) in (None, "0"), f"failed authorisations were counted: {text}")
    permanent = int(re.search(r"permanent (0x[0-9a-f]+)", text).group(1), 16)
    need(permanent & 0x200 == 0, "the TPM is in lock-out")


def check_a2(root, row, verdict, inventory):
    exchanges = [blobs for path, blobs in seen_in(row) if path == "init"]
    need(exchanges, "nothing was seen")
    blobs = [blob for one in exchanges for blob in one.values()]
    need(not secrets_in(blobs, inventory), "a secret was in the messages")
    need(not secrets_in(files_below(root / "factory/init-server"), inventory), "a secret is in its files")
    names = set()
    for one in exchanges:
        # I1 = [1, 20, m, {1: suites, 2: name, ..}]: the Name is a byte string of 34 bytes that begins 000b.
        names.update(found.group(1).hex() for found in re.finditer(rb"\x02\x58\x22(\x00\x0b.{32})", one["question"], re.S))
    need({f"ek_name {name}" for name in names} == {item for item in verdict["obtained"] if item.startswith("ek_name")},
         "the Names that were obtained are not those in the questions")


def check_a8(root, row, verdict, inventory):
    exchanges = [blobs for path, blobs in seen_in(row) if path == "config"]
    blobs = [blob for one in exchanges for blob in one.values()]
    need(not secrets_in(blobs, inventory), "a secret was in the messages")
    need(not secrets_in(files_below(root / "owner/config-server"), inventory), "a secret is in its files")
    questions = [one["question"] for one in exchanges]
    # C1 = [1, 1, kid, M, box].
    kids = sorted({question[4:20].hex() for question in questions if question[:4] == b"\x85\x01\x01\x50"})
    need(f"pseudonyms {' '.join(kids)}" in verdict["obtained"], "the pseudonyms are others")
    sizes = [len(question) for question in questions]
    need(f"{len(sizes)} messages with their times and sizes {sizes}" in verdict["obtained"], "the sizes are others")
    need(len(verdict["obtained"]) == 3, "more was obtained than a relay may see")


def check_a9(root, row, verdict, inventory):
    then, again = ((row / f"answer-{when}.cbor").read_bytes() for when in ("then", "again"))
    need(then == again and then[:3] == b"\x84\x01\x04", "a repeated message got another answer")
    response = (row / "tpm-response.bin").read_bytes()
    need(not response or response[6:10] != bytes(4), "the TPM took a command of an earlier session")


def check_a18(root, row, verdict, inventory):
    bus = (row / "bus.bin").read_bytes()
    need(len(bus) > 10_000, "hardly anything was on the bus")
    found = secrets_in([bus], inventory)
    need(not found, f"on the bus in clear: {sorted(found)}")


def check_a21(root, row, verdict, inventory):
    blobs = files_below(root / "owner/endpoint-manager")
    need(not secrets_in(blobs, inventory), "a secret is in the endpoint manager's files")
    need(any(b"\x00\x0b" in blob for blob in blobs), "there is no register")
    search = json.loads((row / "search.json").read_text())
    need(search["control"] and not search["secrets"], "the demo's own search says otherwise")


def check_a23(root, row, verdict, inventory):
    answers = [line for line in (row / "register.txt").read_text().splitlines() if "E_LABEL" in line]
    labels = [path.read_text() for path in sorted(row.glob("sent-*-label-b.cbor"))]
    need(labels and len(answers) >= len(labels), "a label was not refused, or for another reason")
    for label in labels:
        covered, check = label.rsplit(":", 1)
        need(zlib.crc32(covered.encode()) == int(check, 16), "the label was refused for its check value")
        secret = covered.rsplit(":", 1)[1]
        need(len(secret) * 5 < 128 or len(set(secret)) < 5, "the label's secret is a good one")


def check_a25(root, row, verdict, inventory):
    search = json.loads((row / "search.json").read_text())
    need(search["control"], "the search found nothing at all, not even what is there")
    need(not search["clear"], "something was in clear")


def check_a34(root, row, verdict, inventory):
    lines = [line for _, line in lines_of(row / "record-endpoint-manager.jsonl") if line.get("code") == "E_TPM"]
    need(len(lines) >= 2, "the endpoint manager did not refuse both lies")
    response = (row / "tpm-response.bin").read_bytes()
    # A Clear that was executed: rc 0, no parameters, one session.
    need(len(response) == 67 and response[6:14] == bytes(8), "there was no true response of another device to lie with")
    receipts = json.loads((row / "receipts.json").read_text())
    need(receipts["true_verifies"] and receipts["tried"] >= 20 and not receipts["verified"], "a changed receipt verifies")
    need((row / "honest.receipt").is_file() and not (row / "liar.receipt").is_file(), "the liar has a receipt")


def check_a35(root, row, verdict, inventory):
    known, unknown = ((row / f"answer-{who}.cbor").read_bytes() for who in ("known", "unknown"))
    # I1C = [1, 21, m, {..}]: both are asked for proof, nobody is told anything.
    need(known[:3] == unknown[:3] == b"\x84\x01\x15" and len(known) == len(unknown), "known and unknown devices are answered differently")


OWN = {
    "A2": check_a2, "A9": check_a9, "A8": check_a8, "A17": lambda root, row, verdict, inventory: counters(row), "A18": check_a18,
    "A21": check_a21, "A23": check_a23, "A25": check_a25, "A30": lambda root, row, verdict, inventory: counters(row), "A34": check_a34, "A35": check_a35,
}


def check_row(root, row, verdict, inventory, whole_records):
    expected = EXPECTED[verdict["id"]]
    if expected:
        need((verdict["by"], verdict["code"]) == expected, f"expected {expected}")
    if expected and expected[0] == "tpm":
        check_tpm(row, verdict)
    elif expected and expected[1].startswith("E_"):
        for by, code in [expected] + ALSO.get(verdict["id"], []):
            check_refusal(row, root, verdict, by, code, whole_records)
    if verdict["id"] in OWN:
        OWN[verdict["id"]](root, row, verdict, inventory)
    elif not expected:
        need(any(row.glob("*.json*")), "there is nothing to look at")
    if verdict["id"] in UNTOUCHED:
        after = json.loads((row / "root-after.json").read_text())
        need(after["pin"] is False and after["epoch"] == 0 and after["permanent"] & 5 == 0, "the TPM was touched")
    for item in verdict["obtained"]:
        need(not any(item.startswith(f"{role} in ") for role in inventory), f"a secret was obtained: {item}")


def main(arguments):
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 2
    root = Path(arguments[0])
    attacks = root / "attacks"
    inventory = json.loads((root / "inventory.json").read_text())
    whole_records, agreed, failed = {}, 0, []
    for path in sorted((attacks / "records").glob("*.jsonl")):
        lines = lines_of(path)
        if not chain_is_whole(lines):
            failed.append(f"{path.name}: the chain of the record is broken")
        whole_records[path.stem] = {raw for raw, _ in lines}
    verdicts = {}
    for path in attacks.glob("A*/verdict.json"):
        verdict = json.loads(path.read_text())
        verdicts[verdict["id"]] = verdict
    if len(arguments) > 2 and arguments[1] == "--json":
        told = {attack["id"]: attack for attack in json.loads(Path(arguments[2]).read_text())["attacks"]}
        if told != verdicts:
            failed.append("the demo's object and the evidence differ")
    for name in EXPECTED:
        if name not in verdicts:
            failed.append(f"{name}: not staged")
            continue
        verdict = verdicts[name]
        if not verdict["refused"]:
            failed.append(f"{name}: not refused: {verdict.get('missing')}")
            continue
        try:
            check_row(root, attacks / name, verdict, inventory, whole_records)
            agreed += 1
        except (Disagreement, OSError, ValueError, KeyError, AttributeError) as error:
            failed.append(f"{name}: {error}")
    for line in failed:
        print(line)
    print(f"{agreed} of {len(EXPECTED)} attacks were refused, and the evidence agrees")
    return 0 if agreed == len(EXPECTED) and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
