"""Every rule of gso1.cddl: a message of it matches, any other message and any damaged map does not."""

from . import Refused, cbor, cose

MAPS = (
    "c1-body", "c2-payload", "c3-body", "c4-payload", "c5-body", "c6-payload", "c7-body", "c8-payload", "manifest",
    "voucher-header", "voucher-entry", "delegation", "redirect", "policy", "release", "i2-payload", "voucher-log-head",
)
MESSAGES = ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "i1", "i1c", "i1p", "i2", "t1", "t2", "err", "order",
            "result", "poll", "relay-pull", "relay-work", "install")
KINDS = ("provision", "attest", "sessions", "commands", "suspend", "resume", "release", "decommission", "renew", "rekey")


def examples(v, orders):
    """(rule, bytes) of the recorded run and of the orders."""
    found = [(f"c{n}", v[f"c{n}.wire"]) for n in range(1, 9)] + [(f"c{n}-body", v[f"c{n}.body"]) for n in range(1, 9)]
    found += [(f"c{n}-payload", v[f"c{n}.payload"]) for n in (2, 4, 6, 8)]
    found += [(name, v[f"init.{name}"]) for name in ("i1", "i1c", "i1p", "i2", "t1", "t2")]
    papers = {"manifest": "manifest", "voucher-header": "voucher_header", "voucher-entry": "voucher_entry",
              "delegation": "delegation", "policy": "policy"}
    found += [(rule, v[f"paper.{name}_payload"]) for rule, name in papers.items()]
    found += [("voucher", v["paper.voucher"]), ("voucher", v["paper.voucher_resold"])]
    found += [("voucher-entry", cose.payload(entry)) for entry in cbor.decode(v["paper.voucher_resold"])[1]]
    found += [("redirect", v["init.redirect_payload"]), ("i2-payload", cose.payload(cbor.decode(v["init.i2"])[3]))]
    found += [("delivery", v["delivery.file"]), ("delivery-record", v["delivery.label_record"])]
    found += [("release", v["delivery.label_record_plain"]), ("release", cose.payload(v["delivery.record_plain"]))]
    found += [("voucher-log", v["log.file"]), ("voucher-log-head", cose.payload(v["log.head"])), ("shipment", v["log.shipment"])]
    found += [(name, v["other." + name.replace("-", "_")]) for name in ("err", "relay-work", "relay-pull", "install")]
    get = {name: bytes.fromhex(value) for name, value in orders.items() if isinstance(value, str)}
    found += [(name, get[f"{name}_wire"]) for name in ("order", "result", "poll")]
    found += [("order-body", get["order_body"]), ("poll-body", get["poll_body"]), ("result-body", get["refused_result_body"])]
    entry = cbor.decode(v["paper.voucher"])[1][0]
    for kind in KINDS:
        payload = cbor.decode(get[f"{kind}_payload"])
        # Their entries are random bytes in the vectors; the shape wants real ones.
        if kind in ("release", "rekey"):
            payload[5] = {1: entry if kind == "release" else [entry]}
        found += [("order-payload", cbor.encode(payload)), ("result-body", get[f"{kind}_result_body"])]
    return found


def damaged(rule, data):
    """A map without each member, with key 0 and with a key that nobody knows; required members of `rule` only."""
    members = cbor.decode(data)
    for key in members:
        if key > 0 and not (rule == "c1-body" and key == 4) and not (rule == "i2-payload" and key == 5):
            yield cbor.encode({k: w for k, w in members.items() if k != key})
    yield cbor.encode(members | {40: 1})
    yield cbor.encode(members | {0: 1})


def check(report, v, orders, shapes, cddl):
    found = examples(v, orders)
    report.group("shapes of gso1.cddl")
    _with(report, found, lambda rule, data: _ours(shapes, rule, data))
    extended = cbor.decode(v["c1.body"]) | {-77: [1, "unknown extension"]}
    report.check("c1-body with an unknown extension", _ours(shapes, "c1-body", cbor.encode(extended)))
    for rule in sorted(set(shapes.rules) - shapes.seen):
        report.check(f"rule {rule} has no example", False)
    try:
        from cddl_verifier import Validator
    except ImportError:
        report.skip("shapes by cddl-verifier: that package is not installed (our reader of the CDDL did check them)")
        return
    report.group("shapes again, by cddl-verifier")
    validator = Validator(cddl)
    _with(report, found, lambda rule, data: _theirs(validator, rule, data))


def _with(report, found, matches):
    for rule, data in found:
        report.check(f"{rule} matches", matches(rule, data))
        if rule in MAPS:
            for number, other in enumerate(damaged(rule, data)):
                report.check(f"{rule}, damage {number}", not matches(rule, other))
        if rule in MESSAGES:
            for other in MESSAGES:
                report.check(f"{rule} is no {other}", other == rule or not matches(other, data))


def _ours(shapes, rule, data):
    try:
        shapes.read(rule, data)
    except Refused:
        return False
    return True


def _theirs(validator, rule, data):
    return bool(validator.validate(data, rule, require_deterministic=True).valid)
