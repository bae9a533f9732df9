#!/usr/bin/env python3
"""Rotary frequencies and turns to 50 digits, from the formulas alone (decimal arithmetic, no library).

Writes rope_angles.json: cases with their parameters, and rows [position, pair, frequency, cosine, sine], the cosine and
sine with the magnitude in them."""
import json
import pathlib
from decimal import Decimal as D
from decimal import getcontext

getcontext().prec = 70


def arctan_inverse(n):
    total, term, k = D(0), D(1) / n, 0
    while abs(term) > D(10) ** -68:
        total += term / (2 * k + 1) if k % 2 == 0 else -term / (2 * k + 1)
        term /= n * n
        k += 1
    return total


PI = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))


def cos_sin(x):
    x = x % (2 * PI)
    cosine, sine, term, k = D(0), D(0), D(1), 0
    while abs(term) > D(10) ** -65 or k < 10:
        sign = 1 if k // 2 % 2 == 0 else -1
        if k % 2 == 0:
            cosine += sign * term
        else:
            sine += sign * term
        k += 1
        term = term * x / k
    return cosine, sine


def plain(dim, theta):
    return [D(theta) ** (D(-2 * i) / dim) for i in range(dim // 2)]


def llama3(frequencies, factor, low, high, original):
    out = []
    for f in frequencies:
        wavelength = 2 * PI / f
        if wavelength < D(original) / high:
            out.append(f)
        elif wavelength > D(original) / low:
            out.append(f / factor)
        else:
            smooth = (D(original) / wavelength - low) / (D(high) - low)
            out.append((1 - smooth) * f / factor + smooth * f)
    return out


def yarn(frequencies, dim, theta, factor, original, beta_fast=32, beta_slow=1):
    def correction(turns):
        return dim * (D(original) / (2 * PI * turns)).ln() / (2 * D(theta).ln())

    low = max(correction(beta_fast).to_integral_value("ROUND_FLOOR"), D(0))
    high = min(correction(beta_slow).to_integral_value("ROUND_CEILING"), D(dim - 1))
    out = []
    for i, f in enumerate(frequencies):
        ramp = min(max((D(i) - low) / (high - low), D(0)), D(1))
        out.append(f / factor * ramp + f * (1 - ramp))
    return out


def case(name, dim, theta, **scaling):
    frequencies, magnitude = plain(dim, theta), D(1)
    kind = scaling.get("type")
    if kind == "llama3":
        frequencies = llama3(frequencies, scaling["factor"], scaling["low"], scaling["high"], scaling["original"])
    if kind == "yarn":
        frequencies = yarn(frequencies, dim, theta, scaling["factor"], scaling["original"])
        magnitude = D("0.1") * D(scaling["factor"]).ln() + 1
    rows = []
    for position in (0, 1, 1000, 65535, 131071, 200000, 262143):
        for pair in sorted({0, 1, 2, 3, 5, dim // 8, dim // 4, dim // 4 + 3, 3 * dim // 8, dim // 2 - 1}):
            cosine, sine = cos_sin(position * frequencies[pair])
            digits = [format(v, ".50g") for v in (frequencies[pair], magnitude * cosine, magnitude * sine)]
            rows.append([position, pair, *digits])
    return {"name": name, "rotary_dim": dim, "theta": theta, "scaling": scaling, "rows": rows}


def main():
    cases = [
        case("qwen3.5", 64, 10_000_000),
        case("llama-3.1", 128, 500_000, type="llama3", factor=8, low=1, high=4, original=8192),
        case("qwen3 yarn", 128, 1_000_000, type="yarn", factor=4, original=32768),
        case("qwen3.5 yarn", 64, 10_000_000, type="yarn", factor=4, original=262144),
    ]
    path = pathlib.Path(__file__).with_name("rope_angles.json")
    path.write_text(json.dumps(cases, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
