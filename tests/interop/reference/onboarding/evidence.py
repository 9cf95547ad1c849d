"""Measured software: event log, IMA list, policy and verdict of docs/protocol/evidence.md.

Not here, because no vector has it: the text form of the IMA list, lists in pieces, signatures of files.
"""

import itertools

from . import must, tpm
from .crypto import sha256

NO_ACTION = 3


def extend(value, digest):
    return sha256(value, digest)


def replay_events(log):
    """PCR values that the event log gives; `E_POLICY` where it does not read."""
    if not log:
        return {}
    read = tpm.Reader(log, "E_POLICY")
    first = (read.number(4, "little"), read.number(4, "little"))
    must(first == (0, NO_ACTION), "E_POLICY", "first event")
    read.take(20)
    spec = tpm.Reader(read.take(read.number(4, "little")), "E_POLICY")
    must(spec.take(16) == b"Spec ID Event03\0", "E_POLICY", "Spec ID event")
    spec.take(8)
    sizes = {}
    for _ in range(spec.number(4, "little")):
        algorithm = spec.number(2, "little")
        must(algorithm not in sizes, "E_POLICY", "algorithm twice")
        sizes[algorithm] = spec.number(2, "little")
    spec.take(spec.number(1))
    spec.end()
    must(1 <= len(sizes) <= 8 and sizes.get(11) == 32, "E_POLICY", "SHA-256 is missing")
    values, located = {}, False
    while read.at < len(log):
        pcr, kind, count = (read.number(4, "little") for _ in range(3))
        must(count == len(sizes), "E_POLICY", "digests of an event")
        digests = {}
        for _ in range(count):
            algorithm = read.number(2, "little")
            must(algorithm in sizes and algorithm not in digests, "E_POLICY", "algorithm of an event")
            digests[algorithm] = read.take(sizes[algorithm])
        event = read.take(read.number(4, "little"))
        if kind == NO_ACTION:
            if pcr == 0 and event.startswith(b"StartupLocality\0"):
                right = len(event) == 17 and event[16] in (0, 3, 4) and not located and 0 not in values
                must(right, "E_POLICY", "locality of the start")
                located, values[0] = True, bytes(31) + event[16:]
            continue
        must(pcr <= 16, "E_POLICY", "PCR of an event")
        values[pcr] = extend(values.get(pcr, bytes(32)), digests[11])
    return values


def read_ima(log):
    """Entries of a binary list: (digest that extends PCR 10, path, SHA-256 of the file or None, violation)."""
    read, entries, width = tpm.Reader(log, "E_POLICY"), [], None
    while read.at < len(log):
        must(read.number(4, "little") == 10, "E_POLICY", "PCR of an entry")
        if width is None:
            width = next((w for w in (20, 32) if log[read.at + w : read.at + w + 4] in SIZES_OF_NAMES), None)
            must(width, "E_POLICY", "template hash")
        template_hash = read.take(width)
        template = read.take(read.number(4, "little"))
        must(template in (b"ima-ng", b"ima-sig"), "E_POLICY", "template")
        data = read.take(read.number(4, "little"))
        fields = tpm.Reader(data, "E_POLICY")
        digest = fields.take(fields.number(4, "little"))
        path = fields.take(fields.number(4, "little"))
        if template == b"ima-sig":
            fields.take(fields.number(4, "little"))
        fields.end()
        algorithm, _, value = digest.partition(b":\0")
        must(path.endswith(b"\0") and 1 < len(path) <= 4097 and b"\0" not in path[:-1], "E_POLICY", "path")
        violation = template_hash == bytes(width)
        entries.append((b"\xff" * 32 if violation else sha256(data), path[:-1].decode(errors="surrogateescape"),
                        value if algorithm == b"sha256" and len(value) == 32 else None, violation))
    return entries


SIZES_OF_NAMES = ((6).to_bytes(4, "little"), (7).to_bytes(4, "little"))


def covered(policy):
    return [pcr for pcr, _ in policy[3]] + ([10] if policy[4] or policy[5] else [])


def judge(policies, quoted, events, ima):
    """`pass` or `grace`; policies of one model, the current one first."""
    replayed, entries = replay_events(events), read_ima(ima)
    must(not entries or any(policy[4] or policy[5] for policy in policies), "E_POLICY", "unexpected list")
    refusal = None
    for rank, policy in enumerate(policies):
        reason = _against(policy, quoted, replayed, entries, bool(events), bool(ima))
        if reason is None:
            must(rank == 0 or policy[7] == 0, "E_POLICY", "policy is not current")
            return "grace" if rank else "pass"
        refusal = refusal or reason
    must(refusal is None, *(refusal or ("E_POLICY",)))
    must(policies, "E_POLICY", "no policy")


def _against(policy, quoted, replayed, entries, has_events, has_list):
    judges_files = bool(policy[4] or policy[5])
    if not policy[8] and (not has_events or (judges_files and not has_list)):
        return "E_POLICY", "log is missing"
    allowed = dict(policy[3])
    choices = [[replayed[pcr]] if pcr in replayed else values for pcr, values in policy[3]]
    prefixes = range(len(entries), -1, -1) if judges_files else [0]
    for count in prefixes:
        ten = bytes(32)
        for entry in entries[:count]:
            ten = extend(ten, entry[0])
        for values in itertools.product(*choices):
            of = dict(zip(allowed, values)) | ({10: ten} if judges_files else {})
            if sha256(*(of[pcr] for pcr in sorted(of))) == quoted:
                return _content(policy, allowed, replayed, entries[:count])
    return ("E_QUOTE", "quote does not match the logs") if has_events or has_list else ("E_POLICY", "PCR value")


def _content(policy, allowed, replayed, entries):
    if any(pcr in allowed and value not in allowed[pcr] for pcr, value in replayed.items()):
        return "E_POLICY", "PCR value"
    files = {(path, digest) for path, digest in policy[5]}
    boot = [sha256(*(replayed.get(pcr, bytes(32)) for pcr in range(count))) for count in (10, 8)]
    for index, (_, path, digest, violation) in enumerate(entries):
        aggregate = index == 0 and path == "boot_aggregate" and digest in boot
        if violation or not (aggregate or (path, digest) in files):
            return "E_POLICY", f"file {path}"
    return None
