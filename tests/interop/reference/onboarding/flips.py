"""Changed messages: each byte, each sealed byte, each signed member; refused with the code that the pages name.

What a receiver says is compared with tables that were written from docs/protocol/checks.md, not with what it said before.
A byte of a head, a version or a length is always `E_FORMAT`: a message is decoded whole before a value of it is looked at.
"""

import copy

from . import Refused, cbor, cose, papers, play, session

MASKS = (0x01, 0x80, 0xFF)
ALL, BODY_STEP, LONG = (0, 1), (400, 5), (1100, 41)

# Element of the envelope -> code; `number` where the changed number is that of another message of the same shape.
WIRE = {
    "c1": {2: "E_UNKNOWN", 3: "E_GRANT", 4: "E_GRANT"},
    "c2": {2: "E_NONCE", 3: "E_GRANT", 4: "E_GRANT"},
    "c3": {2: "E_NONCE", 3: "E_ACT"},
    "c4": {1: "E_NONCE", 2: "E_NONCE", 3: "E_GRANT"},
    "c5": {1: "E_STATE", 2: "E_NONCE", 3: "E_TRANSCRIPT"},
    "c6": {1: "E_NONCE", 2: "E_NONCE", 3: "E_GRANT"},
    "c7": {1: "E_STATE", 2: "E_NONCE", 3: "E_TRANSCRIPT"},
    "c8": {1: "E_NONCE", 2: "E_NONCE", 3: "E_GRANT"},
}
# Member of a body that its receiver opened -> code. None: nothing is wrong with another value, or not at once.
BODY = {
    "c1": {1: "E_SUITE", 2: "E_UNKNOWN", 3: "E_EK", 5: "E_EPOCH", 6: "E_AK_ATTR", 7: "E_CERTIFY", 8: "E_CERTIFY",
           9: "E_CERTIFY", 10: "E_REDIRECT_SIG", 11: "E_FORK", -1: "E_LABEL", -2: None},
    "c3": {1: "E_ACT", 2: None, 3: "E_CERTIFY", 4: "E_CERTIFY", 5: "E_CERTIFY", 6: "E_QUOTE", 7: ("E_POLICY", "E_QUOTE", None),
           8: "E_POLICY", 9: ("E_POLICY", "E_QUOTE", None), 10: "E_CSR", 11: ("E_OWNED", None), 12: "E_PLATFORM_OPEN"},
    "c5": {1: "E_TRANSCRIPT", 2: "E_TPM"},
    "c7": {1: "E_TRANSCRIPT", 2: "E_ACT", 3: "E_OBJECT"},
    "c2": {0: ("E_GRANT", "E_CONFIG_CHAIN"), 1: "E_GRANT", 2: "E_CONFIG_CHAIN"},
    "c4": {0: "E_CONFIG_CHAIN", 1: "E_FORMAT", 2: "E_CONFIG_CHAIN", 3: "E_CONFIG_CHAIN"},
}
BODY["c6"] = BODY["c8"] = BODY["c4"]


def check(report, v, shapes):
    owners, devices = _owners(v, shapes), _devices(v, shapes)
    receivers = {f"c{n}": (owners[n] if n % 2 else devices[n]) for n in range(1, 9)}
    _wires(report, v, receivers)
    _bodies(report, v, receivers)
    _members(report, v, devices, shapes)
    _init(report, v, shapes)
    _papers(report, v, shapes)


def _owners(v, shapes):
    """The owner as it waits for C1, C3, C5 and C7."""
    owner, waiting = play.owner_of(v, shapes), {}
    for number in (1, 3, 5, 7):
        waiting[number] = copy.copy(owner)
        owner.take(v[f"c{number}.wire"])
        getattr(owner, f"c{number + 1}")()
    return waiting


def _devices(v, shapes):
    """The device as it waits for I1C, I2 (both 0), C2, C4, C6 and C8."""
    device, waiting = play.device_of(v, shapes), {}
    device.i1()
    waiting[0] = copy.copy(device)
    device.take_i2(v["init.i2"])
    for number in (2, 4, 6, 8):
        getattr(device, f"c{number - 1}")()
        waiting[number] = copy.copy(device)
        getattr(device, f"take_c{number}")(v[f"c{number}.wire"])
    return waiting


def code_of(action, *arguments):
    try:
        action(*arguments)
    except Refused as refused:
        return refused.code
    return None


def _receive(party, number, wire):
    party = copy.copy(party)
    return code_of(party.take if number % 2 else getattr(party, f"take_c{number}"), wire)


def flipped(data, at, mask):
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def _changed(before, data):
    """What differs in well-formed `data`: index or key of the element; None where it is not well-formed."""
    try:
        after = cbor.decode(data)
    except Refused:
        return None
    if type(after) is not type(before) or len(after) != len(before):
        return None
    if isinstance(before, dict):
        wrong = [key for key in {**after, **before} if key not in after or key not in before or after[key] != before[key]]
        # A key that became another one: what it became is the unknown one.
        return next((key for key in wrong if key not in before), wrong[0])
    return next((index for index, pair in enumerate(zip(before, after)) if pair[0] != pair[1]), None)


def _fits(said, expected):
    return said in expected if isinstance(expected, tuple) else said == expected


def _every_byte(report, name, data, receive, expected, outside=0, step=ALL, end=None):
    """`expected` says for changed bytes which code is right; the first `outside` bytes are changed in three ways.

    `step` is (from where, one of how many): sealed bodies repeat their shapes, signatures of ML-DSA-65 are long.
    """
    for at in range(len(data) if end is None else end):
        if at >= step[0] and at % step[1]:
            continue
        for mask in MASKS if at < outside else MASKS[:1]:
            other = flipped(data, at, mask)
            said, right = receive(other), expected(other)
            report.check(f"{name} byte {at} ^ {mask:02x}: {said}, not {right}", _fits(said, right))


def _wires(report, v, receivers):
    report.group("each byte of C1 to C8")
    for name, party in receivers.items():
        number, data = int(name[1]), v[f"{name}.wire"]
        before = cbor.decode(data)

        def expected(other, before=before, name=name):
            changed = _changed(before, other)
            if changed is None or changed == 0:
                return "E_FORMAT"
            if changed == 1:
                return _of_number(name, before, cbor.decode(other))
            return WIRE[name][changed]

        _every_byte(report, name, data, lambda wire, p=party, n=number: _receive(p, n, wire), expected, outside=64)


def _of_number(name, before, after):
    """Another number: the message is then of another kind, which must have the same elements to be one at all."""
    same = {3, 4, 5, 6, 7, 8} if len(before) == 4 else {1, 2}
    if after[1] not in same:
        return "E_FORMAT"
    return WIRE[name].get(1, "E_FORMAT")


def _bodies(report, v, receivers):
    report.group("bytes inside the boxes of C1 to C8, sealed again")
    for name, party in receivers.items():
        number, data = int(name[1]), v[f"{name}.body"]
        # C4, C6 and C8 hold one byte string: what is told apart are the parts of the COSE_Sign1 in it.
        inner = number in (4, 6, 8)
        before = cbor.decode(cbor.decode(data)) if inner else cbor.decode(data)
        head = cbor.decode(v[f"{name}.wire"])[:-1]

        def receive(body, name=name, number=number, party=party, head=head):
            return _receive(party, number, session.seal(v[f"{name}.key"], head, body))

        def expected(other, before=before, name=name, inner=inner, shapes=party.shapes):
            try:
                item = cbor.decode(other)
                signed = item if inner else shapes.outside(f"{name}-body", item)[0] if name == "c2" else None
                if signed is None:
                    shapes.outside(f"{name}-body", item)
                else:
                    cose.parts(signed)
            except Refused:
                return "E_FORMAT"
            return BODY[name][_changed(before, item if inner else other)]

        _every_byte(report, f"{name} body", data, receive, expected, step=BODY_STEP)


def _members(report, v, devices, shapes):
    """Signed by the true K_config and sealed with the right key, one member wrong."""
    report.group("members of C2, C4, C6 and C8, signed and sealed again")
    config = v["key.config_d"]
    last = devices[8].schedule
    other = {n: b"\x55" * n for n in (16, 32, 34, 70)}
    rows = {
        2: [(1, other[32], "E_TRANSCRIPT"), (2, b"\x00\x0b" + other[32], "E_TRANSCRIPT"), (3, 2, "E_EPOCH"),
            (4, [2], "E_SUITE"), (4, [1, 2], "E_SUITE"), (5, 2, "E_SUITE"), (6, b"\x00\x44" + bytes(68), "E_TPM"),
            (12, other[32], "E_TRANSCRIPT"), (13, other[32], "E_NONCE"), (14, other[32], "E_NONCE")],
        4: [(1, other[32], "E_TRANSCRIPT")],
        6: [(1, other[32], "E_TRANSCRIPT"), (8, 2, "E_EPOCH"), (9, [1, 0, v["paper.voucher_head"]], "E_PIN"),
            (9, [2, 1, v["paper.voucher_head"]], "E_PIN"), (9, [1, 1, other[32]], "E_PIN"), (6, 0, "E_ROLLBACK"),
            (7, other[32], "E_ROLLBACK")],
        8: [(1, other[32], "E_TRANSCRIPT")],
    }
    payload = cbor.decode(v["c6.payload"])
    chain, objects = payload[2], payload[5]
    rows[6] += [(2, chain[1:], "E_CSR"), (5, [objects[0], objects[0]], "E_OBJECT")]
    for member, value in ((2, b"\x01" + objects[0][2][1:]), (3, flipped(objects[0][3], 60, 1)), (4, objects[0][4][:-1] + b"\0")):
        rows[6].append((5, [objects[0] | {member: value}], "E_OBJECT"))
    command = cbor.decode(v["c4.payload"])[2][0]
    handle = command.index(bytes.fromhex("02000000"))
    for at, mask in ((0, 1), (5, 1), (9, 1), (13, 0x20), (17, 1), (handle, 1), (handle + 3, 0x40), (handle + 22, 0x40)):
        rows[4].append((2, [flipped(command, at, mask)], "E_COMMAND"))
    for number, changes in rows.items():
        members = cbor.decode(v[f"c{number}.payload"])
        required = [(key, None, "E_FORMAT") for key in members] + [(40, 1, "E_FORMAT")]
        for key, value, code in changes + required:
            wrong = cbor.encode({k: w for k, w in (members | {key: value}).items() if w is not None})
            signed = cose.sign1(config, f"gso1-c{number}", wrong)
            said = _receive(devices[number], number, _sealed(v, devices[2], number, signed, wrong))
            report.check(f"c{number} member {key}: {said}, not {code}", said == code)
        payload = cbor.encode(members)
        for kind, key, code in ((f"gso1-c{(number + 2) % 10}", config, "E_CONFIG_CHAIN"),
                                (f"gso1-c{number}", v["key.owner_d"], "E_CONFIG_CHAIN")):
            signed = cose.sign1(key, kind, payload)
            said = _receive(devices[number], number, _sealed(v, devices[2], number, signed, payload))
            report.check(f"c{number} signed as another: {said}, not {code}", said == code)
        extended = cbor.encode(members | {-99: "extension"})
        signed = cose.sign1(config, f"gso1-c{number}", extended)
        said = _receive(devices[number], number, _sealed(v, devices[2], number, signed, extended))
        report.check(f"c{number} with an extension: {said}", said is None)
    report.check("the schedule reached C8", len(last.th) == 8)
    delegation, owner = cbor.decode(v["paper.delegation_payload"]), v["key.owner_d"]
    another = {3: cose.key(v["key.init_public"])}
    for change, code in (({2: 2}, "E_CONFIG_CHAIN"), ({1: other[32]}, "E_CONFIG_CHAIN"), (another, "E_CONFIG_CHAIN"),
                         ({4: 7}, None), ({6: 0}, None)):
        signed = cose.sign1(owner, "gso1-delegation", cbor.encode(delegation | change))
        body = cbor.decode(v["c2.body"])
        said = _receive(devices[2], 2, _c2(v, cbor.encode([body[0], body[1], signed])))
        report.check(f"delegation with {change}: {said}, not {code}", said == code)
    later = copy.copy(devices[2])
    later.floor = delegation[6] + 1
    report.check("expired delegation", _receive(later, 2, v["c2.wire"]) == "E_CONFIG_CHAIN")
    later.floor, later.pin = 0, (1, 2, v["paper.voucher_head"])
    report.check("replaced delegation", _receive(later, 2, v["c2.wire"]) == "E_CONFIG_CHAIN")
    later = copy.copy(devices[6])
    later.floor = cbor.decode(v["c6.payload"])[10] + 1
    report.check("C6 of before", _receive(later, 6, v["c6.wire"]) == "E_ROLLBACK")


def _sealed(v, device, number, signed, payload):
    if number == 2:
        return _c2(v, cbor.encode([signed, device.schedule.grant(payload), v["paper.delegation"]]))
    return session.seal(v["derived.k_e2m"], [1, number, v["derived.sid"]], cbor.encode(signed))


def _c2(v, body):
    return session.seal(v["derived.k_c2"], [1, 2, v["derived.sid"], v["derived.m_em"]], body)


def _init(report, v, shapes):
    report.group("each byte of I1, I1C, I1P, I2 and T1")
    device = _devices(v, shapes)[0]
    server = play.init_server_of(v, shapes)
    server.take_t1(v["init.t1"])

    def exchange(i1):
        """A changed I1 may pass as another one; then its answers do not fit."""
        here = copy.copy(server)
        i1c = here.take_i1(i1)
        return here.take_i1p(device.take_i1c(i1c))

    def from_challenge(i1c):
        here = copy.copy(server)
        here.take_i1(v["init.i1"])
        return here.take_i1p(device.take_i1c(i1c))

    def from_proof(i1p):
        here = copy.copy(server)
        here.take_i1(v["init.i1"])
        return here.take_i1p(i1p)

    members = {"i1": {1: "E_SUITE", 2: "E_EK", 3: "E_ACT", 4: "E_AK_ATTR", -1: "E_EK", -2: "E_FORMAT"},
               "i1c": {1: "E_TPM", 2: "E_TPM", 3: "E_NONCE"}, "i1p": {1: "E_NONCE", 2: "E_ACT"}}
    for name, action in (("i1", exchange), ("i1c", from_challenge), ("i1p", from_proof)):
        before = cbor.decode(v[f"init.{name}"])

        def expected(other, name=name, before=before):
            try:
                after = cbor.decode(other)
                shapes.outside(name, after)
            except Refused:
                return "E_FORMAT"
            if after[2] != before[2]:
                return "E_NONCE"
            return members[name][_changed(before[3], cbor.encode(after[3]))]

        _every_byte(report, name, v[f"init.{name}"], lambda wire, a=action: code_of(a, wire), expected, outside=40)
    _redirects(report, v, shapes, device, server)


def _redirects(report, v, shapes, device, server):
    before = cbor.decode(v["init.i2"])

    def of_i2(other):
        try:
            after = cbor.decode(other)
            shapes.outside("i2", after)
            cose.parts(after[3])
        except Refused:
            return "E_FORMAT"
        return "E_NONCE" if after[2] != before[2] else "E_REDIRECT_SIG"

    take = lambda wire: code_of(copy.copy(device).take_i2, wire)  # noqa: E731
    _every_byte(report, "i2", v["init.i2"], take, of_i2, step=LONG)
    t1 = cbor.decode(v["init.t1"])

    def of_t1(other):
        try:
            after = cbor.decode(other)
            shapes.outside("t1", after)
        except Refused:
            return "E_FORMAT"
        return {1: "E_REDIRECT_SIG", 2: "E_REDIRECT_SIG", 3: "E_VOUCHER"}[_changed(t1[2], cbor.encode(after[2]))]

    fresh = play.init_server_of(v, shapes)
    register = lambda wire: code_of(copy.copy(fresh).take_t1, wire)  # noqa: E731
    _every_byte(report, "t1", v["init.t1"], register, of_t1, step=LONG, end=_told(v["init.t1"], v["paper.voucher"], shapes, v))
    report.group("members of I2, signed again; state of the device and the init server")
    payload = cbor.decode(cose.payload(before[3]))
    voucher = payload[6]
    rows = [({1: b"\x00\x0b" + bytes(32)}, "E_REDIRECT_SIG"), ({2: bytes(32)}, "E_NONCE"), ({3: 2}, "E_SUITE"),
            ({4: flipped(payload[4], 60, 1)}, "E_REDIRECT_SIG"), ({5: None}, "E_REDIRECT_SIG"), ({6: b"\x80"}, "E_VOUCHER"),
            ({6: flipped(voucher, 300, 1)}, "E_VOUCHER"), ({40: 1}, "E_FORMAT"), ({-40: 1}, None)]
    for change, code in rows:
        members = {key: value for key, value in (payload | change).items() if value is not None}
        wire = cbor.encode([1, 23, before[2], cose.sign1(v["key.init_d"], "gso1-i2", cbor.encode(members))])
        report.check(f"i2 with {list(change)}: {take(wire)}, not {code}", take(wire) == code)
    header = (0, 0, v["paper.voucher_header_hash"])
    for state, code in (({"epoch": 2}, "E_EPOCH"), ({"pin": (1, 0, bytes(32))}, "E_PIN"), ({"pin": (2, 0, bytes(32))}, "E_PIN"),
                        ({"seq": 2}, "E_ROLLBACK"), ({"floor": 1 << 40}, "E_TIME"), ({"pin": header}, None)):
        other = copy.copy(device)
        vars(other).update(state)
        report.check(f"i2 at {state}", code_of(other.take_i2, v["init.i2"]) == code)
    lost = copy.copy(server)
    lost.devices = {}
    lost.take_i1(v["init.i1"])
    report.check("unknown device", code_of(lost.take_i1p, v["init.i1p"]) == "E_UNKNOWN")
    resold = v["paper.voucher_resold"]
    forked = copy.copy(server)
    of_name = v["device.ek_name"]
    ours = papers.verify_voucher(shapes, resold, play.trusted(v))
    forked.devices = {of_name: (ours, (1, 0), None)}
    report.check("fork", code_of(forked.take_t1, v["init.t1"]) == "E_FORK")


def _told(data, voucher, shapes, v):
    """Where the bytes end that this Python can tell from changed ones: without ML-DSA-65 before the second signatures."""
    if papers.verify_voucher(shapes, voucher, play.trusted(v)).second_checked:
        return len(data)
    return data.index(cbor.decode(voucher)[2][0]) - 3


def _papers(report, v, shapes):
    report.group("each byte of the papers")
    trusted, owner = play.trusted(v), v["key.owner_public"]
    voucher = papers.verify_voucher(shapes, v["paper.voucher"], trusted)
    scalar = v["key.owner_encryption_d"]

    def each(name, data, action, code):
        _every_byte(report, name, data, lambda other: code_of(action, other), lambda _: code, step=LONG)

    data = v["paper.voucher_resold"]
    _every_byte(report, "voucher", data, lambda other: code_of(papers.verify_voucher, shapes, other, trusted),
                lambda _: "E_VOUCHER", step=LONG, end=_told(data, data, shapes, v))
    each("delegation", v["paper.delegation"],
         lambda other: papers.verify_delegation(shapes, other, owner, 1, "E_CONFIG_CHAIN"), "E_CONFIG_CHAIN")
    each("redirect", v["init.redirect"],
         lambda other: papers.verify_redirect(shapes, other, v["paper.delegation"], voucher), "E_REDIRECT_SIG")
    each("head of the log", v["log.head"], lambda other: papers.verify_log_head(shapes, other, trusted), "E_VOUCHER")
    (manifest, paper, proof), head = cbor.decode(v["log.shipment"])[1][0], v["log.head"]
    each("manifest", manifest, lambda other: papers.register(shapes, (other, paper, proof), head, trusted, owner), "E_VOUCHER")
    path = b"".join(proof[1])

    def of_path(other):
        parts = [other[at : at + 32] for at in range(0, len(other), 32)]
        return papers.register(shapes, (manifest, paper, [proof[0], parts]), head, trusted, owner)

    each("proof of the log", path, of_path, "E_VOUCHER")
    for wrong in ([proof[0] ^ 1, proof[1]], [proof[0], proof[1][:-1]], [proof[0], proof[1] + [bytes(32)]], [5, proof[1]]):
        said = code_of(papers.register, shapes, (manifest, paper, wrong), head, trusted, owner)
        report.check("another proof", said == "E_VOUCHER")

    def of_record(other):
        record = cose.format_error("E_LABEL", shapes.read, "delivery-record", other)
        return papers.open_delivery(shapes, record, scalar, voucher, trusted)

    each("delivery record", v["delivery.record"], of_record, "E_LABEL")

    def of_label_record(other):
        record = cose.format_error("E_LABEL", shapes.read, "delivery-record", other)
        return papers.open_label_delivery(shapes, record, scalar, voucher)

    each("delivery record of label B", v["delivery.label_record"], of_label_record, "E_LABEL")
    report.check("record as one of a label", code_of(of_label_record, v["delivery.record"]) == "E_LABEL")
    for name in ("label_a", "label_b"):
        text = v.raw(f"paper.{name}").encode()
        each(name, text, lambda other: papers.read_label(other.decode()), "E_LABEL")
    report.check("label B of nothing", code_of(papers.read_label, papers.label_b("GS-0000001", bytes(32))) == "E_LABEL")
