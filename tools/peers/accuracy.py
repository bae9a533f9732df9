#!/usr/bin/env python3
"""Gantry's CPU engine against llama.cpp, number by number, on the same GGUF files.

usage: accuracy.py --bin DIR [--threads T] [--json FILE]

  real-heads F32    512 given ids: largest difference of a logit <= 1e-3 of the logits' spread at that position
  real-heads Q8_0   512 given ids: mean KL divergence <= 1e-3
  SmolLM2           (the file that GANTRY_SMOLLM2 names) 512 ids of a text: mean KL <= 5e-3; 20 prompts continued
                    greedily for 64 ids: at least 17 equal, each other one first differs where llama.cpp's own logits
                    of the two ids are less than 0.1 apart

Int8 activations amplify rounding: whatever moves one by a millionth moves some to the next integer, and a few layers on
the difference is that of any two roundings. How much that is for a file, llama.cpp tells against itself: each of the
last three comparisons is repeated between its keys and values in float16 and in float32, and printed as `itself`.

A position where the 8th and 9th expert of a layer are nearly as likely is a tie that rounding decides; in F32, where
the bound is on the largest difference, such positions are left out and counted. llama.cpp runs with its plain
attention; it keeps keys and values in float32 for the F32 file and in float16, as Gantry does, for the others.
"""
import argparse
import array
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LLAMA = ROOT / "build/peers/llama_logits"
MODELS = ROOT / "build/bench"
POSITIONS = 512
# A router logit that float32 sums in another order move by 1e-5 cannot swap experts further apart than this.
ROUTER_TIE = 1e-4

PROMPTS = [
    "The capital of France is", "Water boils at a temperature of", "Once upon a time, in a small village,",
    "The three primary colours are", "def fibonacci(n):", "To bake a loaf of bread, first",
    "The history of the steam engine begins", "In mathematics, a prime number is", "Dear Sir or Madam,",
    "The largest planet in the solar system", "A good way to learn a new language is",
    "Photosynthesis is the process by which", "import json\n\n", "The difference between weather and climate is",
    "My favourite season is autumn because", "The human heart pumps", "Question: What is 12 times 12?\nAnswer:",
    "In the year 1969,", "The sea was calm that morning, and", "Here is a list of five animals:\n1.",
]


def run(command: list) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nfailed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout


def read_floats(path: pathlib.Path) -> array.array:
    values = array.array("f")
    values.frombytes(path.read_bytes())
    return values


def rows(path: pathlib.Path, count: int):
    values = read_floats(path)
    width = len(values) // count
    return [values[i * width:(i + 1) * width] for i in range(count)]


def kl(p_logits, q_logits) -> float:
    """Of q from p, in float64."""
    p_max, q_max = max(p_logits), max(q_logits)
    p = [math.exp(x - p_max) for x in p_logits]
    p_sum, q_sum = sum(p), sum(math.exp(x - q_max) for x in q_logits)
    shift = (q_max + math.log(q_sum)) - (p_max + math.log(p_sum))
    return sum(e * (a - b) for e, a, b in zip(p, p_logits, q_logits)) / p_sum + shift


class Sides:
    """The two programs, and a folder for what they write."""

    def __init__(self, binary: pathlib.Path, threads: int, folder: pathlib.Path):
        self.binary, self.threads, self.folder = binary, threads, folder

    def ids_file(self, ids: list[int]) -> pathlib.Path:
        path = self.folder / "ids.json"
        path.write_text(json.dumps(ids))
        return path

    def gantry_logits(self, model: pathlib.Path, ids: list[int], backend: str):
        out = self.folder / "gantry.f32"
        run([self.binary / "gantry-engine", "logits", "--model", model, "--ids", self.ids_file(ids), "--out", out,
             "--threads", self.threads, "--backend", backend])
        return rows(out, len(ids))

    def gantry_greedy(self, model: pathlib.Path, ids: list[int], count: int) -> list[int]:
        out = run([self.binary / "gantry-engine", "generate", "--model", model, "--ids", self.ids_file(ids),
                   "--threads", self.threads, "--max-tokens", count, "--temperature", 0, "--spec", "off",
                   "--ignore-stop", "--json"])
        return json.loads(out)["tokens"]

    def llama(self, model: pathlib.Path, ids: list[int], *options) -> str:
        return run([LLAMA, "--model", model, "--ids", self.ids_file(ids), "--threads", self.threads, *options])

    def llama_logits(self, model: pathlib.Path, ids: list[int], *options):
        out = self.folder / "llama.f32"
        self.llama(model, ids, "--out", out, *options)
        return rows(out, len(ids))

    def llama_tokens(self, model: pathlib.Path, text: str) -> list[int]:
        path = self.folder / "text"
        path.write_text(text)
        return json.loads(run([LLAMA, "--model", model, "--tokenize", path]))


def made(binary: pathlib.Path, kind: str) -> pathlib.Path:
    file = MODELS / f"real-heads.{kind}.gguf"
    if not file.exists():
        MODELS.mkdir(parents=True, exist_ok=True)
        run([binary / "make_model", "--shape", "real-heads", "--type", kind, "--out", file])
    return file


def some_ids(vocab: int) -> list[int]:
    state, ids = 1, []
    for _ in range(POSITIONS):
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        ids.append((state >> 33) % vocab)
    return ids


def router_ties(path: pathlib.Path, experts: int, chosen: int) -> set[int]:
    """Positions at which some layer's last chosen expert is hardly ahead of the next."""
    values = read_floats(path)
    ties = set()
    for i in range(len(values) // experts):
        ranked = sorted(values[i * experts:(i + 1) * experts], reverse=True)
        if ranked[chosen - 1] - ranked[chosen] < ROUTER_TIE:
            ties.add(i % POSITIONS)
    return ties


def compare(theirs, ours, left_out: set[int]) -> dict:
    delta, divergence, same = [], [], 0
    for position, (a, b) in enumerate(zip(theirs, ours)):
        if position in left_out:
            continue
        delta.append(max(abs(x - y) for x, y in zip(a, b)) / (max(a) - min(a)))
        divergence.append(kl(a, b))
        same += a.index(max(a)) == b.index(max(b))
    return {"positions": len(delta), "left_out": len(left_out), "max_delta_of_spread": max(delta),
            "mean_kl": sum(divergence) / len(divergence), "max_kl": max(divergence), "same_argmax": same}


def real_heads(sides: Sides, kind: str) -> dict:
    model, ids, router = made(sides.binary, kind), some_ids(4096), sides.folder / "router.f32"
    theirs = sides.llama_logits(model, ids, "--kv", "f32" if kind == "f32" else "f16", "--tensor", "ffn_moe_logits",
                                "--tensor-out", router)
    ours = sides.gantry_logits(model, ids, "cpu")
    if kind == "f32":
        return compare(theirs, ours, router_ties(router, 256, 8))
    itself = compare(theirs, sides.llama_logits(model, ids, "--kv", "f32"), set())
    return {**compare(theirs, ours, set()), "itself": itself}


def smollm2_text(sides: Sides, model: pathlib.Path) -> dict:
    ids = sides.llama_tokens(model, (ROOT / "docs/design.md").read_text())[:POSITIONS]
    theirs = sides.llama_logits(model, ids, "--kv", "f16")
    itself = compare(theirs, sides.llama_logits(model, ids, "--kv", "f32"), set())
    return {**compare(theirs, sides.gantry_logits(model, ids, "cpu"), set()), "itself": itself}


class GreedyTexts:
    """How many of the prompts another side continues as llama.cpp did, and how close the first differences were."""

    def __init__(self):
        self.equal, self.differences = 0, []

    def add(self, prompt: str, theirs: list[int], logits, others: list[int]) -> None:
        at = next((i for i, (a, b) in enumerate(zip(theirs, others)) if a != b), None)
        if at is None:
            self.equal += 1
            return
        margin = logits[at][theirs[at]] - logits[at][others[at]]
        self.differences.append({"prompt": prompt, "at": at, "margin": margin})

    def summary(self) -> dict:
        return {"texts": len(PROMPTS), "equal": self.equal, "differences": self.differences,
                "max_margin": max((d["margin"] for d in self.differences), default=0.0)}


def smollm2_greedy(sides: Sides, model: pathlib.Path, count: int = 64) -> dict:
    ours, itself = GreedyTexts(), GreedyTexts()
    for prompt in PROMPTS:
        ids, out, unused = sides.llama_tokens(model, prompt), sides.folder / "greedy.f32", sides.folder / "unused.f32"
        theirs = json.loads(sides.llama(model, ids, "--kv", "f16", "--greedy", count, "--out", out))
        again = json.loads(sides.llama(model, ids, "--kv", "f32", "--greedy", count, "--out", unused))
        logits = rows(out, count)
        ours.add(prompt, theirs, logits, sides.gantry_greedy(model, ids, count))
        itself.add(prompt, theirs, logits, again)
    return {**ours.summary(), "itself": itself.summary()}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="directory of gantry-engine and make_model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    args.bin = args.bin.absolute()
    if not LLAMA.exists():
        sys.exit(f"{LLAMA}: not built; tools/peers/build.sh builds it")
    results, failed = {}, 0

    def report(name: str, result: dict, good: bool, line: str) -> None:
        nonlocal failed
        failed += not good
        results[name] = {**result, "passed": good}
        print(f"{'pass' if good else 'FAIL'}  {name}: {line}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(args.bin, args.threads, pathlib.Path(folder))
        def kl_line(r: dict, bound: str) -> str:
            return (f"mean KL {r['mean_kl']:.2e} (<= {bound}), largest {r['max_kl']:.1e}, {r['same_argmax']} of "
                    f"{r['positions']} argmax equal; itself: mean KL {r['itself']['mean_kl']:.2e}")

        r = real_heads(sides, "f32")
        report("real-heads F32", r, r["max_delta_of_spread"] <= 1e-3,
               f"largest difference {r['max_delta_of_spread']:.2e} of the spread (<= 1e-3), mean KL {r['mean_kl']:.1e}, "
               f"{r['same_argmax']} of {r['positions']} argmax equal, {r['left_out']} routing ties left out")
        r = real_heads(sides, "q8_0")
        report("real-heads Q8_0", r, r["mean_kl"] <= 1e-3, kl_line(r, "1e-3"))
        smollm2 = os.environ.get("GANTRY_SMOLLM2")
        if smollm2:
            model = pathlib.Path(smollm2).absolute()
            r = smollm2_text(sides, model)
            report("SmolLM2 text", r, r["mean_kl"] <= 5e-3, kl_line(r, "5e-3"))
            r = smollm2_greedy(sides, model)
            report("SmolLM2 greedy", r, r["equal"] >= 17 and r["max_margin"] < 0.1,
                   f"{r['equal']} of {r['texts']} texts equal (>= 17), others first differ at margins "
                   f"{[round(d['margin'], 3) for d in r['differences']]} (< 0.1); itself: "
                   f"{r['itself']['equal']} equal, margins up to {r['itself']['max_margin']:.3f}")
        else:
            print("SmolLM2: GANTRY_SMOLLM2 names no file, not compared")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
