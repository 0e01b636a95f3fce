#!/usr/bin/python3
"""Judges the golden vectors with other people's JOSE and COSE: every vector of positive.json must
verify and mean what it says, every one of negative.json and endorsement.json must be judged as told.

Nothing here is shared with the Go package: the signatures are checked by jwcrypto and by
cryptography, CBOR is read by cbor2, JSON by json. The rules are those of the package's documentation.

    apt-get install python3-jwcrypto python3-cbor2 python3-cryptography
"""
import base64, hashlib, json, pathlib, re, struct, sys, unicodedata
from datetime import datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from io import BytesIO

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwcrypto import jwk as jose_jwk
from jwcrypto import jws as jose_jws

HERE = pathlib.Path(__file__).parent
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
TEXTS = {"alg", "kid", "gw", "dev", "epoch", "topic", "boot", "clock", "type"}
NUMBERS = {"v", "seq", "floor", "n", "total", "mono"}
MOST = 2**53 - 1


class Refused(Exception):
    """Carries the reason as the vectors name it."""


def refuse_unless(ok, reason="malformed"):
    if not ok:
        raise Refused(reason)


def name(s):
    return NAME.fullmatch(s) is not None


# --- what both forms share

def check_header(h):
    refuse_unless(set(h) == TEXTS | NUMBERS)
    refuse_unless(all(type(h[k]) is str for k in TEXTS) and all(type(h[k]) is int for k in NUMBERS))
    refuse_unless(all(0 <= h[k] <= MOST for k in NUMBERS))
    refuse_unless(h["v"] == 1 and h["alg"] in ("EdDSA", "Ed25519", "HS256"))
    refuse_unless(re.fullmatch(r"[A-Za-z0-9_-]{1,128}", h["kid"]) is not None)
    refuse_unless(name(h["gw"]) and (name(h["dev"]) or h["dev"] == "_holdfast") and name(h["boot"]))
    refuse_unless(re.fullmatch(r"[0-9a-f]{16}", h["epoch"]) is not None)
    refuse_unless(1 <= h["seq"] and h["floor"] <= h["seq"] and h["n"] <= h["total"] and h["n"] < 2**31)
    topic = h["topic"]
    refuse_unless(0 < len(topic.encode("utf-8", "surrogatepass")) <= 65535 and not set(topic) & set("+#\0"))
    refuse_unless(not any(0xD800 <= ord(c) < 0xE000 for c in topic))
    refuse_unless(h["clock"] in ("synced", "unsynced"))
    refuse_unless(h["type"] in ("data", "open", "anchor", "drop", "close"))
    refuse_unless((h["type"] != "data") == (h["dev"] == "_holdfast"))


def bound_key(keys, kid, alg):
    """The key names the algorithm; the message may only agree."""
    refuse_unless(kid in keys, "unknown-key")
    jwk = keys[kid]
    refuse_unless({"OKP": ("EdDSA", "Ed25519"), "oct": ("HS256",)}[jwk["kty"]].count(alg) == 1, "bad-signature")
    return jwk


def micros(seconds):
    if not isinstance(seconds, Decimal):
        seconds = Decimal(seconds)  # a double, exactly
    refuse_unless(seconds.is_finite() and abs(seconds) < 2**33)
    return int((seconds * 1_000_000).to_integral_value(ROUND_HALF_UP))


def tags_of(record):
    """The tags of a pack: base fields "btag.<key>" of its first record, with text values."""
    tags = {k[len("btag."):]: v for k, v in record.items() if k.startswith("btag.")}
    refuse_unless(len(tags) <= 16 and all(type(v) is str for v in tags.values()))
    for k, v in tags.items():
        refuse_unless(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", k) is not None and not k.endswith("_"))
        refuse_unless(not any(0xD800 <= ord(c) < 0xE000 or unicodedata.category(c) == "Cc" for c in v))
        refuse_unless(1 <= len(v.encode()) <= 128)
    refuse_unless(sum(len(k) + len(v.encode()) for k, v in tags.items()) <= 1024)
    return tags


def fold(records, h):
    """SenML records to readings and tags: one device, base only in the first, qualities folded in."""
    refuse_unless(isinstance(records, list) and records)
    refuse_unless(all(isinstance(r, dict) for r in records))
    base = records[0].get("bn")
    refuse_unless(base == f"{h['gw']}/{h['dev']}/")
    bt = micros(records[0].get("bt", Decimal(0)))
    refuse_unless(2**28 <= bt / 1_000_000)
    tags = tags_of(records[0])
    refuse_unless(not tags or h["type"] == "data")
    readings = []
    for i, r in enumerate(records):
        known = {"bn", "bt", "n", "u", "v", "vs", "vb", "vd", "t"}
        refuse_unless(all(k in known or i == 0 and k.startswith("btag.") for k in r))
        refuse_unless(i == 0 or not ("bn" in r or "bt" in r))
        values = [k for k in ("v", "vs", "vb", "vd") if k in r]
        refuse_unless(len(values) == 1 and type(r.get("n")) is str and type(r.get("u", "")) is str)
        at = bt + micros(r.get("t", Decimal(0)))
        refuse_unless(2**28 * 1_000_000 <= at < 2**32 * 1_000_000)
        when = (datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        metric, quality = r["n"], None
        if metric.endswith(":quality"):
            metric = metric[: -len(":quality")]
            refuse_unless(values == ["vs"] and "u" not in r)
            quality, colon, reason = r["vs"].partition(": ")
            refuse_unless(quality in ("bad", "uncertain") and (not colon or reason))
        refuse_unless(name(metric))
        if quality == "uncertain":
            refuse_unless(readings and readings[-1]["metric"] == metric and readings[-1]["time"] == when)
            refuse_unless("quality" not in readings[-1])
            readings[-1]["quality"] = quality
            if reason:
                readings[-1]["reason"] = reason
            continue
        reading = {"metric": metric, "time": when}
        if quality == "bad":
            reading["quality"] = quality
            if reason:
                reading["reason"] = reason
        else:
            kind = values[0]
            refuse_unless({"v": float, "vs": str, "vb": bool, "vd": bytes}[kind] is type(r[kind]))
            refuse_unless(kind != "v" or abs(r["v"]) < float("inf"))
            reading[kind] = r[kind]
            if "u" in r:
                reading["unit"] = r["u"]
        readings.append(reading)
    refuse_unless(len(readings) == h["n"])
    if h["type"] != "data":
        refuse_unless(len(readings) == 1 and readings[0]["metric"] == h["type"] and "vs" in readings[0])
    return readings, tags


# --- SenML JSON with a detached JWS

def unbase64(s):
    refuse_unless(re.fullmatch(r"[A-Za-z0-9_-]*", s) is not None and len(s) % 4 != 1)
    b = base64.urlsafe_b64decode(s + "=" * (-len(s) % 4))
    refuse_unless(base64.urlsafe_b64encode(b).rstrip(b"=").decode() == s)  # one spelling
    return b


def once(pairs):
    d = dict(pairs)
    refuse_unless(len(d) == len(pairs))
    return d


def no_constant(_):
    raise Refused("malformed")


def strict_json(b, **how):
    try:
        return json.loads(b.decode("utf-8"), object_pairs_hook=once, parse_constant=no_constant, **how)
    except ValueError:
        raise Refused("malformed") from None


def check_jws(keys, jws, payload):
    """Returns the protected header and the signed bytes."""
    parts = jws.split(".")
    refuse_unless(len(parts) == 3 and parts[1] == "")
    header, signature = unbase64(parts[0]), unbase64(parts[2])
    h = strict_json(header)
    refuse_unless(isinstance(h, dict) and type(h.get("alg")) is str and type(h.get("kid")) is str)
    signed = (parts[0] + "." + base64.urlsafe_b64encode(payload).rstrip(b"=").decode())

    def verify():
        jwk = bound_key(keys, h["kid"], h["alg"])
        if h["alg"] == "Ed25519":  # newer than jwcrypto here
            return check_ed25519(jwk, signature, signed.encode())
        token = jose_jws.JWS()
        token.allowed_algs = ["EdDSA", "HS256"]
        try:
            token.deserialize(signed + "." + parts[2])
            token.verify(jose_jwk.JWK(**jwk))
        except (jose_jws.InvalidJWSSignature, jose_jws.InvalidJWSObject):
            raise Refused("bad-signature") from None
        return None

    return h, signed.encode(), verify


def senml_json(payload, h):
    records = strict_json(payload, parse_float=Decimal, parse_int=Decimal)
    refuse_unless(isinstance(records, list))
    for r in records:
        refuse_unless(isinstance(r, dict))
        for k in ("bt", "t"):
            refuse_unless(isinstance(r.get(k, Decimal(0)), Decimal))
        if "v" in r:
            refuse_unless(isinstance(r["v"], Decimal))
            r["v"] = float(str(r["v"]))
        if "vd" in r:
            refuse_unless(isinstance(r["vd"], str))
            r["vd"] = unbase64(r["vd"])
    return fold(records, h)


# --- SenML CBOR in COSE

def strict_cbor(b):
    """One item, nothing after it, nothing of indefinite length, no key twice: then it is as long as
    its deterministic form, whatever the order of keys."""
    stream = BytesIO(b)
    try:
        item = cbor2.CBORDecoder(stream).decode()
        again = cbor2.dumps(item, canonical=True)
    except Exception:
        raise Refused("malformed") from None
    refuse_unless(stream.tell() == len(b) == len(again))
    return item


def check_ed25519(jwk, signature, signed):
    try:
        Ed25519PublicKey.from_public_bytes(unbase64(jwk["x"])).verify(signature, signed)
    except InvalidSignature:
        raise Refused("bad-signature") from None


def check_cose(keys, payload):
    """RFC 9052 sections 4.4 and 6.3, with the signature by cryptography."""
    item = strict_cbor(payload)
    refuse_unless(isinstance(item, cbor2.CBORTag) and item.tag in (17, 18))
    refuse_unless(isinstance(item.value, list) and len(item.value) == 4)
    protected, unprotected, pack, signature = item.value
    refuse_unless(unprotected == {} and isinstance(unprotected, dict))
    refuse_unless(all(type(x) is bytes for x in (protected, pack, signature)))
    h = strict_cbor(protected)
    refuse_unless(isinstance(h, dict) and type(h.get(1)) is int and type(h.get(4)) is bytes)
    algs = {18: {-8: "EdDSA", -19: "Ed25519"}, 17: {5: "HS256"}}[item.tag]
    refuse_unless(h[1] in algs and "alg" not in h and "kid" not in h)
    try:
        h = {"alg": algs[h.pop(1)], "kid": h.pop(4).decode("utf-8"), **h}
    except (UnicodeDecodeError, TypeError):
        raise Refused("malformed") from None
    context = {18: "Signature1", 17: "MAC0"}[item.tag]
    signed = cbor2.dumps([context, protected, b"", pack], canonical=True)

    def verify():
        jwk = bound_key(keys, h["kid"], h["alg"])
        if jwk["kty"] == "OKP":
            return check_ed25519(jwk, signature, signed)
        mac = hmac.HMAC(unbase64(jwk["k"]), hashes.SHA256())
        mac.update(signed)
        try:
            mac.verify(signature)
        except InvalidSignature:
            raise Refused("bad-signature") from None
        return None

    return h, pack, signed, verify


LABELS = {-3: "bt", -2: "bn", 0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 6: "t", 8: "vd"}


def senml_cbor(pack, h):
    records = strict_cbor(pack)
    refuse_unless(isinstance(records, list) and all(isinstance(r, dict) for r in records))
    named = []
    for r in records:
        # RFC 8428 section 6: an extension has a text label, never an integer
        refuse_unless(all(type(k) is int and k in LABELS or type(k) is str and k.startswith("btag.") for k in r))
        r = {LABELS.get(k, k): v for k, v in r.items()}
        for k in ("bt", "t", "v"):
            refuse_unless(type(r.get(k, 0)) in (int, float))
        if "v" in r:
            r["v"] = float(r["v"])
        refuse_unless(all(abs(r.get(k, 0)) < float("inf") for k in ("bt", "t")))
        named.append(r)
    return fold(named, h)


# --- a message

def judge(keys, m):
    h, digest, records = verified(keys, m)
    return h, digest, *records()


def verified(keys, m):
    """The header and hash of a message whose signature is good, and what reads its pack."""
    payload, kind = base64.b64decode(m["payload"] or ""), m["content_type"]
    cose = kind == "application/cose" or kind == "" and "jws" not in m and payload[:1] in (b"\xd1", b"\xd2")
    if cose:
        refuse_unless("jws" not in m)
        h, pack, signed, verify = check_cose(keys, payload)
    else:
        refuse_unless("jws" in m, "unsigned")
        refuse_unless(kind == "application/senml+json")
        h, signed, verify = check_jws(keys, m["jws"], payload)
        pack = payload
    check_header(h)
    verify()
    refuse_unless(h["topic"] == m["topic"], "topic-mismatch")
    return h, hashlib.sha256(signed).hexdigest(), lambda: (senml_cbor if cose else senml_json)(pack, h)


def judge_endorsement(keys, v):
    jwk = v["endorsement"]["jwk"]
    refuse_unless(jwk.get("kty") == "OKP" and jwk.get("crv") == "Ed25519")
    new = {"crv": "Ed25519", "kty": "OKP", "x": jwk["x"]}
    thumbprint = jose_jwk.JWK(**new).thumbprint()  # RFC 7638
    refuse_unless(jwk.get("kid", thumbprint) == thumbprint)
    payload = json.dumps({"epoch": v["epoch"], "gw": v["gateway"], "jwk": new}, separators=(",", ":"))
    h, _, verify = check_jws(keys, v["endorsement"]["jws"], payload.encode())
    refuse_unless(set(h) == {"alg", "kid", "typ"} and h["typ"] == "holdfast-endorsement")
    verify()
    return thumbprint, h["kid"]


def expected(reading):
    r = dict(reading)
    if "v" in r:
        r["v"] = float(r["v"])
    if "vd" in r:
        r["vd"] = bytes.fromhex(r["vd"])
    return r


def same(a, b):
    """== with the bits of doubles: 0.0 is not -0.0."""
    def bits(r):
        return {k: struct.pack(">d", x) if k == "v" else x for k, x in r.items()}
    return [bits(r) for r in a] == [bits(r) for r in b]


def main():
    def load(file):
        return json.loads((HERE / file).read_text())

    failed = []
    listed = load("keys.json")
    keys = {k["kid"]: k["jwk"] for k in listed if k["known"]}
    for k in listed:
        if k["jwk"]["kty"] == "OKP" and jose_jwk.JWK.from_pem(k["public"].encode()).thumbprint() != k["kid"]:
            failed.append(f"key {k['name']}: kid is not the RFC 7638 thumbprint")
    for v in load("positive.json"):
        try:
            header, digest, readings, tags = judge(keys, v["message"])
        except Refused as r:
            failed.append(f"{v['name']}: refused as {r}")
            continue
        alike = header == v["header"] and digest == v["hash"] and tags == v.get("tags", {})
        if not alike or not same(readings, map(expected, v["readings"])):
            failed.append(f"{v['name']}: means something else\n {header}\n {digest}\n {tags} {readings}")
    for v in load("negative.json"):
        try:
            *_, records = verified(keys, v["message"])
            if not v.get("verifies"):
                failed.append(f"{v['name']}: its signature is taken for good")
            records()
            failed.append(f"{v['name']}: verified, and should be {v['error']}")
        except Refused as r:
            if str(r) != v["error"]:
                failed.append(f"{v['name']}: {r}, and should be {v['error']}")
    for v in load("endorsement.json"):
        try:
            said = judge_endorsement(keys, v)
            if said != (v.get("new_kid"), v.get("old_kid")):
                failed.append(f"endorsement {v['name']}: verified as {said}")
        except Refused as r:
            if str(r) != v.get("error"):
                failed.append(f"endorsement {v['name']}: {r}, and should be {v.get('error', 'good')}")
    for f in failed:
        print(f)
    counts = [f"{len(load(f))} of {f}" for f in ("positive.json", "negative.json", "endorsement.json")]
    print(f"{len(failed)} failed; judged", ", ".join(counts))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
