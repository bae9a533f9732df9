#!/usr/bin/env python3
"""Checks a receipt file with the house's public keys, as docs/receipts.md describes it.

    verify_receipt.py FILE --keys KEYS

Shares nothing with Gantry's own verifier: Ed25519 after RFC 8032, canonical JSON after RFC 8785 and the Merkle path are
written here from the documents, with the standard library alone. Exit code 0 when everything holds; otherwise 1 and one
line `line N: STEP: reason`.

With `--batch` it reads one case a line from stdin (file and keys as base64, separated by a blank) and answers one line
each: `ok N` with the number of lines that hold, or `line N: STEP: reason`.
"""
import argparse
import base64
import functools
import hashlib
import json
import re
import sys


class Refused(Exception):
    """str() is `STEP: reason`."""

    def __init__(self, step, reason):
        super().__init__(f"{step}: {reason}")


# ---- Ed25519 (RFC 8032, section 5.1), verification only ----

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def add(a, b):
    """Points as (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z."""
    x1, y1, z1, t1 = a
    x2, y2, z2, t2 = b
    e1, e2 = (y1 - x1) * (y2 - x2) % P, (y1 + x1) * (y2 + x2) % P
    c, d = 2 * t1 * t2 * D % P, 2 * z1 * z2 % P
    e, f, g, h = e2 - e1, d - c, d + c, e2 + e1
    return e * f % P, g * h % P, f * g % P, e * h % P


def decode_point(data):
    """None when the 32 bytes are no point, or not its one encoding."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P != 0:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P != 0 or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def encode_point(point):
    x, y, z, _ = point
    inverse = pow(z, P - 2, P)
    x, y = x * inverse % P, y * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


NEUTRAL = (0, 1, 1, 0)
BASE = decode_point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


@functools.lru_cache(maxsize=16)
def window(point):
    """Multiples 0 to 15."""
    multiples = [NEUTRAL]
    for _ in range(15):
        multiples.append(add(multiples[-1], point))
    return multiples


def times(scalar, point):
    multiples, result = window(point), NEUTRAL
    for shift in range(252, -4, -4):
        for _ in range(4):
            result = add(result, result)
        result = add(result, multiples[scalar >> shift & 15])
    return result


def ed25519_verify(public_key, message, signature):
    a = decode_point(public_key)
    s = int.from_bytes(signature[32:], "little")
    if a is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % L
    minus_a = (P - a[0], a[1], 1, P - a[3])
    # R is compared as bytes: an R that is no point, or another encoding of it, cannot come out here.
    return encode_point(add(times(s, BASE), times(k, minus_a))) == signature[:32]


# ---- canonical JSON (RFC 8785, objects, arrays, strings and integers of 53 bits) ----

SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def canonical(value):
    if isinstance(value, str):
        return '"' + "".join(SHORT.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in value) + '"'
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return "{" + ",".join(canonical(name) + ":" + canonical(value[name]) for name in sorted(value)) + "}"


def parse(line):
    """The object that `line` (bytes) spells canonically."""
    if len(line) > 65536:
        raise Refused("json", "longer than 65536 bytes")
    for at, byte in enumerate(line):
        if byte < 0x20:
            raise Refused("canonical", f"byte {at + 1} is a control character")
    if not line.startswith(b"{"):
        raise Refused("json", "no object")

    def integer(digits):
        if len(digits) > 17 or abs(int(digits)) > 2**53 - 1:
            raise Refused("json", "an integer beyond 53 bits")
        return int(digits)

    def refuse(what):
        raise Refused("json", f"holds {what}")

    def members(pairs):
        result = dict(pairs)
        if len(result) != len(pairs):
            refuse("a name twice")
        if any(not name.isascii() for name in result):
            refuse("a name beyond ASCII")
        return result

    def check(value, depth):
        if value is None or isinstance(value, bool):
            refuse("true, false or null")
        if isinstance(value, (dict, list)):
            if depth > 8:
                refuse("more than 8 levels")
            for inner in value.values() if isinstance(value, dict) else value:
                check(inner, depth + 1)

    try:
        text = line.decode("utf-8")
        value = json.loads(text, object_pairs_hook=members, parse_int=integer, parse_float=lambda _: refuse("a fraction"),
                           parse_constant=lambda _: refuse("no number"))
        check(value, 1)
        spelled = canonical(value).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Refused("json", str(error)) from None
    if spelled != line:
        raise Refused("canonical", "spelled otherwise than RFC 8785 does; edited or reformatted")
    return value


# ---- what the members of each object look like ----

def hexadecimal(count):
    pattern = re.compile("[0-9a-f]{%d}" % (2 * count))
    return lambda v: isinstance(v, str) and pattern.fullmatch(v) is not None


def is_integer(v):
    return isinstance(v, int) and not isinstance(v, bool) and abs(v) < 2**53


def is_count(v):
    return is_integer(v) and v >= 0


def is_decimal(v):
    return isinstance(v, str) and re.fullmatch("0|-?[1-9][0-9]{0,18}", v) is not None and -(2**63) <= int(v) < 2**63


def is_ordinal(v):
    return is_decimal(v) and int(v) >= 1


def is_currency(v):
    return isinstance(v, str) and re.fullmatch("[A-Z]{3}", v) is not None


def is_text(v):
    return isinstance(v, str) and 0 < len(v.encode("utf-8")) <= 1024


def is_day(v):
    return isinstance(v, str) and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", v) is not None


def is_object(v):
    return isinstance(v, dict)


def is_path(v):
    return isinstance(v, list) and len(v) <= 32 and all(map(hexadecimal(32), v))


def one_of(*choices):
    return lambda v: v in choices


ID, HASH, SIGNATURE = hexadecimal(16), hexadecimal(32), hexadecimal(64)

RECEIPT_LINE = {"proof": is_object, "receipt": is_object, "signature": SIGNATURE}
ROOT_LINE = {"root": is_object, "signature": SIGNATURE}
RECEIPT = {
    "type": one_of("gantry.receipt"), "version": one_of(1), "buyer": ID, "cached_tokens": is_integer,
    "cost_pico": is_decimal, "currency": is_currency, "ended_us": is_count, "input_tokens": is_integer, "key_id": ID,
    "kind": one_of("usage", "correction"), "model": is_text, "number": is_ordinal, "output_digest": HASH,
    "output_tokens": is_integer, "plan_version": ID, "plan_version_hash": HASH, "previous": HASH,
    "prompt_digest": HASH, "reasoning_tokens": is_integer, "request_id": ID, "requests": is_integer, "seller": ID,
    "tenant": ID,
}
ROOT = {
    "type": one_of("gantry.receipt-root"), "version": one_of(1), "closed_us": is_count, "day": is_day, "house": ID,
    "key_id": ID, "number": is_ordinal, "previous": HASH, "root": HASH, "size": is_count,
}
PROOF = {"index": is_count, "leaf_nonce": HASH, "path": is_path, "root": is_object, "root_signature": SIGNATURE}
KEY = {"created_us": is_count, "endorsed_by": ID, "endorsement": SIGNATURE, "key_id": ID, "public_key": HASH}
OPTIONAL = {"proof", "output_digest", "prompt_digest"}


def check_members(path, value, rules):
    prefix = path + "." if path else ""
    for name in sorted(value):
        if name not in rules:
            raise Refused(prefix + name, "is not a member of this format")
    for name, rule in rules.items():
        if name not in value:
            if name in OPTIONAL:
                continue
            raise Refused(prefix + name, "is missing")
        if not rule(value[name]):
            raise Refused(prefix + name, "does not look as it must")


# ---- the steps ----

ZEROS = "00" * 32


def sha256(data):
    return hashlib.sha256(data).digest()


def hash_of(body):
    return sha256(canonical(body).encode("utf-8"))


def parse_keys(data):
    """Public keys by their ids; the file is what `gantry receipt keys` writes."""
    try:
        file = json.loads(data)
        entries = file["keys"]
        if file["type"] != "gantry.receipt-keys" or file["version"] != 1 or not isinstance(entries, list) or not entries:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise Refused("keys", "not the file that `gantry receipt keys` writes") from None
    keys = {}
    for position, entry in enumerate(entries):
        path = f"keys[{position}]"
        if not isinstance(entry, dict):
            raise Refused(path, "no object")
        check_members(path, entry, KEY)
        public_key = bytes.fromhex(entry["public_key"])
        if sha256(public_key).hex()[:32] != entry["key_id"]:
            raise Refused(path + ".key_id", "is not the hash of the public key")
        keys[entry["key_id"]] = public_key
        endorser = keys.get(entry["endorsed_by"])
        if endorser is None:
            raise Refused(path + ".endorsed_by", "names neither an earlier key nor itself")
        body = {name: entry[name] for name in ("created_us", "endorsed_by", "key_id", "public_key")}
        body |= {"type": "gantry.receipt-key", "version": 1}
        if not ed25519_verify(endorser, canonical(body).encode(), bytes.fromhex(entry["endorsement"])):
            raise Refused(path + ".endorsement", "was not made for this key")
    return keys


def check_signature(body, path, signature, step, keys):
    if body["key_id"] not in keys:
        raise Refused(path + ".key_id", "no such key")
    if not ed25519_verify(keys[body["key_id"]], canonical(body).encode("utf-8"), bytes.fromhex(signature)):
        raise Refused(step, f"does not fit the {path}")


def check_root(root, path, signature, step, keys):
    check_members(path, root, ROOT)
    check_signature(root, path, signature, step, keys)


def check_proof(proof, receipt, keys):
    check_members("proof", proof, PROOF)
    root = proof["root"]
    check_root(root, "proof.root", proof["root_signature"], "proof.root_signature", keys)
    if 2 ** len(proof["path"]) != root["size"]:
        raise Refused("proof.path", "its length does not fit the root's size")
    if proof["index"] >= root["size"]:
        raise Refused("proof.index", "lies beyond the root's size")
    node, index = sha256(b"\0" + bytes.fromhex(proof["leaf_nonce"]) + hash_of(receipt)), proof["index"]
    for neighbour in map(bytes.fromhex, proof["path"]):
        node = sha256(b"\1" + (neighbour + node if index % 2 else node + neighbour))
        index //= 2
    if node.hex() != root["root"]:
        raise Refused("proof.path", "does not lead from this receipt to the root")


def check_line(line, keys):
    """(receipt or None, root or None)"""
    document = parse(line)
    if "root" in document:
        check_members("", document, ROOT_LINE)
        check_root(document["root"], "root", document["signature"], "signature", keys)
        return None, document["root"]
    check_members("", document, RECEIPT_LINE)
    receipt = document["receipt"]
    check_members("receipt", receipt, RECEIPT)
    if receipt["kind"] == "usage":
        for name in ("cached_tokens", "input_tokens", "output_tokens", "reasoning_tokens", "requests"):
            if receipt[name] < 0:
                raise Refused(f"receipt.{name}", "below zero")
    check_signature(receipt, "receipt", document["signature"], "signature", keys)
    if (receipt["number"] == "1") != (receipt["previous"] == ZEROS):
        raise Refused("receipt.previous", "zeros are for number 1, and for it alone")
    if "proof" not in document:
        return receipt, None
    check_proof(document["proof"], receipt, keys)
    return receipt, document["proof"]["root"]


def check_sequence(known, body, path):
    """`known`: number -> (hash, previous hash) of one buyer's receipts or one house's roots."""
    number, entry = int(body["number"]), (hash_of(body).hex(), body["previous"])
    if known.setdefault(number, entry)[0] != entry[0]:
        raise Refused(path + ".number", "is also that of another")
    if number - 1 in known and known[number - 1][0] != entry[1]:
        raise Refused(path + ".previous", "is not the hash of the one before")
    if number + 1 in known and known[number + 1][1] != entry[0]:
        raise Refused(path + ".previous", "of the next one is not the hash of this")


def verify(data, keys):
    """The number of lines, all of which hold. Raises Refused with `line N: ` before the step."""
    receipts, roots = {}, {}
    lines = data.removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            receipt, root = check_line(line, keys)
            if receipt is not None:
                check_sequence(receipts.setdefault(receipt["buyer"], {}), receipt, "receipt")
            if root is not None:
                check_sequence(roots.setdefault(root["house"], {}), root, "root" if receipt is None else "proof.root")
        except Refused as refused:
            raise Refused(f"line {number}", str(refused)) from None
    return len(lines)


def batch():
    parsed = functools.lru_cache(maxsize=16)(parse_keys)
    for case in sys.stdin:
        data, keys = map(base64.b64decode, case.split(" "))
        try:
            print("ok", verify(data, parsed(keys)), flush=True)
        except Refused as refused:
            print(refused, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--keys", help="written by `gantry receipt keys`")
    parser.add_argument("--batch", action="store_true")
    options = parser.parse_args()
    if options.batch:
        batch()
        return 0
    if not options.file or not options.keys:
        parser.error("FILE and --keys are needed")
    try:
        with open(options.keys, "rb") as keys, open(options.file, "rb") as file:
            count = verify(file.read(), parse_keys(keys.read()))
    except Refused as refused:
        print(refused)
        return 1
    print(f"{count} lines hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
