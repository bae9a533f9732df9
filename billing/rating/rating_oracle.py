#!/usr/bin/env python3
"""Rates the cases of rating_cases with exact fractions and compares every figure.

    rating_oracle.py RATING_CASES N [SEED]
"""
import fnmatch
import json
import math
import subprocess
import sys
from fractions import Fraction

CLASSES = ["input", "cached_input", "output", "request"]
MILLION = Fraction(1_000_000)
INT64_MAX = 2**63 - 1


def amount_of(line, quantity):
    """Money of a period, in units of the currency, per million."""
    _, _, _, _, mode, package_size, tiers = line
    prices = [(start, Fraction(price) / MILLION) for start, price in tiers]
    if mode == "flat":
        return quantity * prices[0][1] / MILLION
    if mode == "package":
        return math.ceil(Fraction(quantity, package_size)) * package_size * prices[0][1] / MILLION
    if mode == "volume":
        price = [price for start, price in prices if start < max(quantity, 1)][-1]
        return quantity * price / MILLION
    total = Fraction(0)
    for unit_from, unit_to, price in zip([s for s, _ in prices], [s for s, _ in prices[1:]] + [quantity],
                                         [p for _, p in prices]):
        total += max(0, min(unit_to, quantity) - unit_from) * price
    return total / MILLION


def line_for(lines, model, context, token_class):
    for index, line in enumerate(lines):
        if (line[1] == token_class and line[2] <= context and (line[3] == 0 or context < line[3])
                and fnmatch.fnmatchcase(model, line[0])):
            return index
    raise LookupError(token_class)


def pico(amount):
    scaled = amount * 10**12
    assert scaled.denominator == 1, "prices make whole pico-units"
    return scaled.numerator


def round_half_away(value):
    return int(math.copysign(1, value)) * math.floor(abs(value) + Fraction(1, 2)) if value else 0


def check(case):
    marked = [[*line[:6], [[start, math.ceil(Fraction(price) * (1_000_000 + case["markup_ppm"]) / MILLION)]
                           for start, price in line[6]]] for line in case["base"]]
    too_dear = any(price > 10**12 for line in marked for _, price in line[6])
    assert case["lines"] == ([] if too_dear else marked), "markup"
    if not case["valid"] or too_dear:
        return 0
    lines, units = case["lines"], [0] * len(case["lines"])
    gross = net = Fraction(0)
    allowance = Fraction(case["allowance_micro"]) / MILLION
    for request in case["requests"]:
        used = dict(zip(CLASSES, request["used"]))
        context = used["input"] + used["cached_input"]
        charges, total = [], Fraction(0)
        for token_class in CLASSES:
            if used[token_class] == 0:
                continue
            index = line_for(lines, request["model"], context, token_class)
            grown = amount_of(lines[index], units[index] + used[token_class]) - amount_of(lines[index], units[index])
            charges.append([index, used[token_class], pico(grown)])
            total += grown
        sums = [sum(c[2] for c in charges[:i + 1]) for i in range(len(charges))]
        fits = all(abs(c[2]) <= INT64_MAX for c in charges) and all(-2**63 <= s <= INT64_MAX for s in sums)
        assert request.get("refused", False) == (not fits), "refusal"
        if not fits:
            break
        assert request["charges"] == charges, "charges"
        for index, quantity, _ in charges:
            units[index] += quantity
        charged = max(0, gross + total - allowance) - max(0, gross - allowance)
        gross += total
        net += charged
        assert request["net_pico"] == pico(charged), "allowance"
    exact = pico(net)
    assert case["posted_micro"] * 10**6 + case["residue_pico"] == exact, "ledger + residue"
    assert abs(case["residue_pico"]) < 10**6, "residue"
    assert case["net_minor"] == round_half_away(net * 10**case["digits"]), "invoice line"
    return len(case["requests"])


def main():
    binary, count = sys.argv[1], int(sys.argv[2])
    seed = sys.argv[3] if len(sys.argv) > 3 else "1"
    cases = requests = 0
    with subprocess.Popen([binary, str(count), seed], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            case = json.loads(line)
            try:
                requests += check(case)
            except (AssertionError, LookupError) as error:
                print(f"case {cases}: {error}\n{line}", file=sys.stderr)
                return 1
            cases += 1
    if process.returncode != 0 or cases != count or requests == 0:
        print(f"{cases} of {count} cases, exit status {process.returncode}", file=sys.stderr)
        return 1
    print(f"{cases} random plans, {requests} requests: every charge, allowance, posting and rounding equals exact fractions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
