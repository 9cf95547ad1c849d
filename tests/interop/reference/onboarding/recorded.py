"""Every value of recorded_session.toml, derived again."""

from . import Refused, cbor, certificates, cose, crypto, evidence, papers, play, session, tpm
from .crypto import sha256


def check(report, v, shapes):
    """All groups; the two played sessions last."""
    for part in (_keys, _device, _papers, _delivery, _log, _init, _derived, _boxes, _tunnels, _objects, _chain, _other):
        report.group(part.__doc__)
        try:
            part(report, v, shapes)
        except (Refused, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            report.check(f"stopped: {type(error).__name__} {error}", False)
    for part in (_owner_plays, _device_plays):
        report.group(part.__doc__)
        try:
            part(report, v, shapes)
        except (Refused, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            report.check(f"stopped: {type(error).__name__} {error}", False)
    report.group("values that were looked at")
    for path in sorted(v.unseen):
        report.check(f"{path} was never looked at", False)
    report.check("all", True)


def _keys(report, v, _shapes):
    """key"""
    for name in ("voucher", "init", "owner", "config", "owner_encryption", "root_ca", "issuing_ca"):
        public = crypto.public_of(v[f"key.{name}_d"])
        report.equal(f"{name}_public", public, v[f"key.{name}_public"])
        report.equal(f"{name}_id", cose.key_id(public), v[f"key.{name}_id"])
    for name in ("key.voucher_second", "paper.owner_second"):
        public = crypto.ml_dsa_public(v[f"{name}_seed"])
        if public is None:
            report.skip("ML-DSA-65: this release of the package cryptography does not know it")
        else:
            report.equal(name, sha256(public), v[f"{name}_id"])


def _device(report, v, _shapes):
    """device"""
    for kind in ("ek", "ak", "sto", "tls", "iak"):
        public = tpm.public_area(kind, crypto.public_of(v[f"device.{kind}_d"]))
        report.equal(f"{kind}_public", public, v[f"device.{kind}_public"])
        report.equal(f"{kind}_name", tpm.name(public), v[f"device.{kind}_name"])
    body = cbor.decode(v["c3.body"])
    replayed = evidence.replay_events(body[7])
    report.equal("pcr_0", replayed[0], v["device.pcr_0"])
    report.equal("pcr_4", replayed[4], v["device.pcr_4"])
    quote = tpm.Statement.parse(body[6][0], "E_QUOTE")
    policy = cbor.decode(v["paper.policy_payload"])
    report.equal("verdict", evidence.judge([policy], quote.digest, body[7], body[9]), "pass")


def _papers(report, v, shapes):
    """paper"""
    serial, model, ek = "GS-0000001", "LAB-1", v["device.ek_public"]
    name, secret = tpm.name(ek), session.owner_secret(v["device.n_root"], 1)
    report.equal("label_a", papers.label_a(model, serial, name), v.raw("paper.label_a"))
    report.equal("label_b", papers.label_b(serial, secret), v.raw("paper.label_b"))
    report.equal("label_a read", papers.read_label(v.raw("paper.label_a")), (model, serial, name))
    report.equal("label_b read", papers.read_label(v.raw("paper.label_b")), (serial, secret))
    commit, point = papers.commitment(secret), tpm.point_of("ek", ek, "E_EK")
    read = {part: shapes.read(rule, v[f"paper.{part}_payload"]) for part, rule in (
        ("manifest", "manifest"), ("voucher_header", "voucher-header"), ("voucher_entry", "voucher-entry"),
        ("delegation", "delegation"), ("policy", "policy"))}
    second = v["key.voucher_second_id"]
    when = 1_800_000_000
    wanted = {
        "manifest": {1: serial, 2: model, 3: name, 4: ek, 6: sha256(tpm.spki(point)), 7: commit, 8: "Test works",
                     9: when, -2: b"GSL\0\0\0\0\x01", -3: True, -5: v["device.iak_name"]},
        "voucher_header": {1: 1, 2: name, 3: model, 4: serial, 5: commit, -1: second},
        "voucher_entry": {1: 1, 2: 1, 3: 0, 4: v["paper.voucher_header_hash"], 5: cose.key(v["key.owner_public"]),
                          6: cose.key(v["key.owner_encryption_public"]), 7: when, -1: second},
        "delegation": {1: v["key.owner_id"], 2: 3, 3: cose.key(v["key.config_public"]), 4: 1, 5: when, 6: when + 400 * 86400},
        "policy": {1: model, 2: "1", 3: [[0, [b"\x09" * 32, v["device.pcr_0"]]], [4, [b"\x09" * 32, v["device.pcr_4"]]]],
                   4: [], 5: [["/usr/bin/agent", b"\xa1" * 32], ["/usr/lib/metering.so", b"\xa2" * 32]],
                   6: 1, 7: 0, 8: False, 9: when},
    }
    for part, members in wanted.items():
        report.equal(f"{part} members", read[part], members)
        report.equal(f"{part}_payload", cbor.encode(members), v[f"paper.{part}_payload"])
    for part, key, kind in (("manifest", "voucher", "gso1-manifest"), ("delegation", "owner", "gso1-delegation"),
                            ("policy", "owner", "gso1-policy")):
        report.equal(part, play.signed_again(v, key, kind, f"paper.{part}_payload"), v[f"paper.{part}"])
    report.equal("policy_digest", cose.document_hash("gso1-policy", v["paper.policy_payload"]), v["paper.policy_digest"])
    header = play.signed_again(v, "voucher", "gso1-voucher", "paper.voucher_header_payload")
    entry = play.signed_again(v, "voucher", "gso1-entry", "paper.voucher_entry_payload")
    recorded = cbor.decode(v["paper.voucher"])
    report.equal("voucher", cbor.encode([header, [entry], recorded[2]]), v["paper.voucher"])
    voucher = papers.verify_voucher(shapes, v["paper.voucher"], play.trusted(v))
    report.equal("voucher_header_hash", voucher.hashes[0], v["paper.voucher_header_hash"])
    report.equal("voucher_head", voucher.head, v["paper.voucher_head"])
    report.equal("voucher owner", (voucher.owner, voucher.encryption, voucher.epoch),
                 (v["key.owner_public"], v["key.owner_encryption_public"], 1))
    resold = papers.verify_voucher(shapes, v["paper.voucher_resold"], play.trusted(v))
    report.equal("voucher_resold_head", resold.head, v["paper.voucher_resold_head"])
    elements = cbor.decode(v["paper.voucher_resold"])[1]
    report.equal("voucher_resold epoch", resold.epoch, 2)
    report.equal("owner's second key", cbor.decode(cose.payload(elements[0]))[-2], v["paper.owner_second_id"])
    report.equal("voucher_resold header", cbor.decode(v["paper.voucher_resold"])[0], header)
    for number, (element, key) in enumerate(zip(elements, ("voucher", "owner")), 1):
        signed = cose.sign1(v[f"key.{key}_d"], "gso1-entry", cose.payload(element))
        report.equal(f"voucher_resold entry {number}", signed, element)
    redirect = {1: name, 2: 1, 3: ["https://config.example:8443"], 4: [b"\x03" * 32], 5: when, 6: when + 365 * 86400, 7: 1}
    report.equal("redirect_payload", cbor.encode(redirect), v["init.redirect_payload"])
    report.equal("redirect", play.signed_again(v, "config", "gso1-redirect", "init.redirect_payload"), v["init.redirect"])
    _, digest = papers.verify_redirect(shapes, v["init.redirect"], v["paper.delegation"], voucher)
    report.equal("redirect_hash", digest, v["init.redirect_hash"])


def _delivery(report, v, shapes):
    """delivery"""
    report.equal("kdf_info", cose.DELIVERY_INFO, v["delivery.kdf_info"])
    secret, name = session.owner_secret(v["device.n_root"], 1), v["device.ek_name"]
    release = cbor.encode({1: name, 2: 1, 3: secret, 4: "GS-0000001", 5: papers.EMPTY})
    scalar = v["key.owner_encryption_d"]
    plains = {"record": cose.sign1(v["key.voucher_d"], "gso1-release", release), "label_record": release}
    for part, kind in (("record", "gso1-release"), ("label_record", "gso1-label")):
        report.equal(f"{part}_aad", cose.delivery_aad(kind), v[f"delivery.{part}_aad"])
        report.equal(f"{part}_plain", plains[part], v[f"delivery.{part}_plain"])
        record = shapes.read("delivery-record", v[f"delivery.{part}"])
        one_time = cose.point(record[3][0][1][-1], "E_LABEL")
        shared = crypto.ecdh(scalar, one_time)
        ours = cose.delivery_seal(shared, v["key.owner_encryption_id"], one_time, record[1][5], kind, plains[part])
        report.equal(part, cbor.encode(ours), v[f"delivery.{part}"])
    file = shapes.read("delivery", v["delivery.file"])
    report.equal("file", cbor.encode([cbor.decode(v["delivery.record"])]), v["delivery.file"])
    voucher = papers.verify_voucher(shapes, v["paper.voucher"], play.trusted(v))
    opened = papers.open_delivery(shapes, file[0], scalar, voucher, play.trusted(v))
    report.equal("secret", opened[3], v["derived.n_1"])
    label = papers.open_label_delivery(shapes, cbor.decode(v["delivery.label_record"]), scalar, voucher)
    report.equal("secret of the label", label[3], v["derived.n_1"])


def _log(report, v, shapes):
    """log"""
    head, entries = shapes.read("voucher-log", v["log.file"])
    leaves = [papers.log_leaf(entries[at : at + 64]) for at in range(0, len(entries), 64)]
    report.equal("root", papers.log_root(leaves), v["log.root"])
    members = papers.verify_log_head(shapes, head, play.trusted(v))
    report.equal("size", (members[1], members[2], len(entries)), (len(leaves), v["log.root"], 64 * len(leaves)))
    signed = cose.sign1(v["key.voucher_d"], "gso1-log", cbor.encode({1: 5, 2: v["log.root"], 3: 1_800_000_000}))
    report.equal("head", signed, v["log.head"])
    report.equal("head in the file", head, v["log.head"])
    index, entry = v["log.index"], v["paper.voucher_header_hash"] + v["paper.voucher_head"]
    report.equal("entry", entries[64 * index : 64 * index + 64], entry)
    report.equal("leaf", papers.log_leaf(entry), v["log.leaf"])
    path = papers.log_path(leaves, index)
    report.equal("path", b"".join(path), v["log.path"])
    for at in range(len(leaves)):
        here = [at, papers.log_path(leaves, at)]
        report.check(f"proof {at}", papers.log_proves(members, entries[64 * at : 64 * at + 64], here))
    report.equal("file", cbor.encode([v["log.head"], entries]), v["log.file"])
    ours = cbor.encode([v["log.head"], [[v["paper.manifest"], v["paper.voucher"], [index, path]]]])
    report.equal("shipment", ours, v["log.shipment"])
    shipment = shapes.read("shipment", v["log.shipment"])
    made, _ = papers.register(shapes, shipment[1][0], shipment[0], play.trusted(v), v["key.owner_public"])
    report.equal("registered", made[3], v["device.ek_name"])


def _init(report, v, shapes):
    """init: our device and our server against the recorded other half"""
    challenge = cbor.decode(v["init.i1c"])[3]
    report.equal("seed", tpm.receive("IDENTITY", v["device.ek_d"], challenge[2], "E_TPM"), v["init.seed"])
    opened = tpm.activate_credential(v["device.ek_d"], v["device.iak_name"], challenge[1], challenge[2])
    report.equal("k_chal", opened, v["init.k_chal"])
    device, server = play.device_of(v, shapes), play.init_server_of(v, shapes)
    t1 = {1: v["init.redirect"], 2: v["paper.delegation"], 3: v["paper.voucher"]}
    report.equal("t1", cbor.encode([1, 30, t1]), v["init.t1"])
    report.equal("t2", server.take_t1(v["init.t1"]), v["init.t2"])
    report.equal("i1", device.i1(), v["init.i1"])
    report.equal("i1c", server.take_i1(v["init.i1"]), v["init.i1c"])
    report.equal("i1p", device.take_i1c(v["init.i1c"]), v["init.i1p"])
    report.equal("i2", server.take_i1p(v["init.i1p"]), v["init.i2"])
    device.take_i2(v["init.i2"])
    report.equal("redirect hash", device.redirect_hash, v["init.redirect_hash"])


def _derived(report, v, _shapes):
    """derived"""
    n_1 = session.owner_secret(v["device.n_root"], 1)
    wire = {n: v[f"c{n}.wire"] for n in range(1, 9)}
    m, m_em = cbor.decode(wire[1])[3], cbor.decode(wire[2])[3]
    schedule = session.Schedule(n_1).hello(wire[1], m)
    for number in range(2, 9):
        schedule = schedule.add(number, wire[number])
    payload = cbor.decode(v["c2.payload"])
    opened = tpm.activate_credential(v["device.ek_d"], v["device.ak_name"], payload[6], payload[7])
    schedule = schedule.proven(opened)
    ours = {
        "n_1": n_1, "n_commit": papers.commitment(n_1), "kid": session.pseudonym(n_1), "sid": schedule.sid, "m": m,
        "m_em": m_em, "k_c1": schedule.k_c1, "k_c2": schedule.challenge_key(m, m_em), "k_act": opened,
        "credential_seed": tpm.receive("IDENTITY", v["device.ek_d"], payload[7], "E_TPM"), "k_s": schedule.k_s,
        "k_m2e": schedule.k_m2e, "k_e2m": schedule.k_e2m, "grant": schedule.grant(v["c2.payload"]),
        "act": schedule.act(), "receipt": schedule.receipt(),
        "configuration_hash": cose.document_hash("gso1-c6", v["c6.payload"]),
    }
    ours |= {f"th{n}": value for n, value in enumerate(schedule.th)}
    ours |= {f"qd_{w}": session.qualifying(n, schedule.th[2]) for n, w in enumerate(("sto", "tls", "iak", "quote"), 1)}
    for name, value in ours.items():
        report.equal(name, value, v[f"derived.{name}"])


def _boxes(report, v, shapes):
    """c1 to c8: boxes, bodies, signatures"""
    d = {name: v[f"derived.{name}"] for name in ("kid", "sid", "m", "m_em", "k_c1", "k_c2", "k_m2e", "k_e2m")}
    for number in range(1, 9):
        here = f"c{number}."
        key = {1: d["k_c1"], 2: d["k_c2"]}.get(number, d["k_m2e"] if number % 2 else d["k_e2m"])
        head = {1: [1, 1, d["kid"], d["m"]], 2: [1, 2, d["sid"], d["m_em"]]}.get(number, [1, number, d["sid"]])
        report.equal(here + "key", key, v[here + "key"])
        report.equal(here + "nonce", session.nonce(number), v[here + "nonce"])
        report.equal(here + "aad", cbor.encode(head), v[here + "aad"])
        report.equal(here + "wire", session.seal(key, head, v[here + "body"]), v[here + "wire"])
        report.equal(here + "body", cbor.encode(shapes.read(here[:2] + "-body", v[here + "body"])), v[here + "body"])
        if number % 2 == 0:
            signed = play.signed_again(v, "config", f"gso1-c{number}", here + "payload")
            body = cbor.decode(v[here + "body"])
            report.equal(here + "signature", signed, body[0] if number == 2 else body)
            report.equal(here + "payload", cose.payload(signed), v[here + "payload"])


def _tunnels(report, v, _shapes):
    """tunnel.owner, tunnel.lockout"""
    payload, body = cbor.decode(v["c2.payload"]), cbor.decode(v["c3.body"])
    for index, hierarchy in enumerate(("owner", "lockout")):
        here = f"tunnel.{hierarchy}."
        salt = tpm.receive("SECRET", v["device.ek_d"], payload[8][index], "E_TPM")
        report.equal(here + "salt", salt, v[here + "salt"])
        report.equal(here + "nonce_caller_0", payload[9][index], v[here + "nonce_caller_0"])
        report.equal(here + "nonce_tpm_0", body[2][index][1], v[here + "nonce_tpm_0"])
        tunnel = tpm.Tunnel(hierarchy, body[2][index][0], salt, payload[9][index], body[2][index][1])
        report.equal(here + "session_key", tunnel.session_key, v[here + "session_key"])
        fresh, attributes, new_auth = tunnel.execute(v[here + "command"])
        report.equal(here + "new_auth", new_auth, v[here + "new_auth"])
        report.equal(here + "command", tunnel.command(fresh, new_auth, attributes), v[here + "command"])
        nonce_tpm, said = tunnel.proves(v[here + "response"], fresh, new_auth)
        report.equal(here + "response", tunnel.response(fresh, new_auth, nonce_tpm, said), v[here + "response"])


def _objects(report, v, _shapes):
    """object.1 to object.3"""
    listed = cbor.decode(v["c6.payload"])[5]
    for number, entry in enumerate(listed, 1):
        here = f"object.{number}."
        seed_value, secret = tpm.import_object(v["device.sto_d"], entry[2], entry[3], entry[4])
        seed = tpm.receive("DUPLICATE", v["device.sto_d"], entry[4], "E_OBJECT")
        public, duplicate = tpm.make_duplicate(seed, seed_value, secret)
        ours = {"seed": seed, "secret": secret, "name": tpm.name(public), "public": public, "duplicate": duplicate,
                "in_sym_seed": tpm.encrypted_secret(tpm.one_time_of(entry[4], "E_OBJECT"))}
        report.equal(here + "entry", entry, {1: number, 2: public, 3: duplicate, 4: ours["in_sym_seed"]})
        for name, value in ours.items():
            report.equal(here + name, value, v[here + name])
    report.equal("objects", len(listed), 3)


def _chain(report, v, _shapes):
    """certificate request and certificates"""
    body, last = cbor.decode(v["c3.body"]), cbor.decode(v["c6.payload"])
    report.equal("request", certificates.request("GS-0000001", v["device.tls_d"]), body[10])
    tls = crypto.public_of(v["device.tls_d"])
    certificates.check_request(body[10], tls)
    found = certificates.check_chain(
        last[2], last[3][0], "LAB-1", "GS-0000001", tls, v["key.issuing_ca_public"], v["key.root_ca_public"]
    )
    for what, holds in found:
        report.check(what, holds)
    report.equal("one root", len(last[3]), 1)


def _other(report, v, shapes):
    """other"""
    sid = v["derived.sid"]
    report.equal("err", cbor.encode([1, 0, sid, 30, 30]), v["other.err"])
    work, pull = shapes.read("relay-work", v["other.relay_work"]), shapes.read("relay-pull", v["other.relay_pull"])
    report.equal("relay_work", cbor.encode([1, 41, [[work[2][0][0], work[2][0][1], v["c1.wire"]]]]), v["other.relay_work"])
    replies = [[pull[2][0][0], v["c2.wire"]], [pull[2][1][0], None]]
    report.equal("relay_pull", cbor.encode([1, 40, replies, pull[3]]), v["other.relay_pull"])
    report.equal("a reply for the work", pull[2][0][0], work[2][0][0])
    label = v.raw("paper.label_a")
    report.equal("install", cbor.encode([1, 50, {1: label, 2: play.POINT, 3: 1_800_000_000}]), v["other.install"])


def _owner_plays(report, v, shapes):
    """our owner against the recorded device"""
    owner = play.owner_of(v, shapes)
    for number in (1, 3, 5, 7):
        owner.take(v[f"c{number}.wire"])
        report.equal(f"c{number + 1}.wire", getattr(owner, f"c{number + 1}")(), v[f"c{number + 1}.wire"])
    report.equal("phase", owner.phase, 8)


def _device_plays(report, v, shapes):
    """our device against the recorded owner"""
    device = play.device_of(v, shapes)
    device.i1()
    device.take_i2(v["init.i2"])
    for number in (1, 3, 5, 7):
        report.equal(f"c{number}.wire", getattr(device, f"c{number}")(), v[f"c{number}.wire"])
        getattr(device, f"take_c{number + 1}")(v[f"c{number + 1}.wire"])
    report.equal("new authorisations", device.new_auths, [v["tunnel.owner.new_auth"], v["tunnel.lockout.new_auth"]])
    report.equal("secrets", [secret for _, secret in device.imported], [v[f"object.{n}.secret"] for n in (1, 2, 3)])
    report.equal("hash of the configuration", device.last, (1, v["derived.configuration_hash"]))
    report.equal("pin", device.pin, (1, 1, v["paper.voucher_head"]))
