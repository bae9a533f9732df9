#!/usr/bin/env python3
"""Gantry's CPU engine beside llama.cpp and ik_llama.cpp: same files, same threads, same machine, one table.

usage: speed.py --bin DIR [--rounds N] [--threads T] [--prompt N] [--decode N] [--model NAME=FILE …] [--json FILE] …

Every round runs each engine and each set of its flags once, one after the other, so that a machine that slows down
slows all of them; a figure is the median of the rounds. A run during which other programs took more than --disturbed
of the processors is repeated, up to --tries times, and the calmest counts. Prompt speed is that of --prompt tokens at
once from an empty context, decode speed that of --decode tokens one by one behind --prompt others. A peer counts with
the best of its flags. Shares are of what the machine can do: bytes that a token must read (weights as stored in the
file, recurrent state, keys and values) against the fastest of several read kernels, multiply-adds against int8 dot products without
memory. A peer above the read bandwidth measured nothing, and voids the run.

Peers come from build.sh (build/peers). Without --model: bench-1b in Q8_0 and Q4_K_M, made when they are not there, and
the file that GANTRY_SMOLLM2 names.
"""
import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PEERS = ROOT / "build/peers"
MODELS = ROOT / "build/bench"


def run_json(command: list) -> object:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0 or not done.stdout.strip():
        sys.exit(f"{' '.join(map(str, command))}\nfailed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def others_share(work) -> tuple[dict, float]:
    """What `work` returns, and the share of the processors that went to programs it did not start meanwhile."""

    def busy() -> float:
        fields = [int(x) for x in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")

    def own() -> float:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
        return sum(u.ru_utime + u.ru_stime for u in usage)

    begin = busy() - own(), time.monotonic()
    result = work()
    others, wall = busy() - own() - begin[0], time.monotonic() - begin[1]
    return result, max(0.0, others / wall / os.cpu_count())


def calmest(work, args: argparse.Namespace) -> dict:
    best = None
    for _ in range(args.tries):
        sample, share = others_share(work)
        if best is None or share < best["others_share"]:
            best = {**sample, "others_share": share}
        if share <= args.disturbed:
            break
    return best


class Gantry:
    name, flags = "gantry", ""

    def __init__(self, binary: pathlib.Path):
        self.binary = binary

    def measure(self, model: pathlib.Path, args: argparse.Namespace) -> dict:
        out = run_json([self.binary, "bench", "--model", model, "--threads", args.threads, "--batch", 1, "--spec", "off",
                        "--context", args.prompt, "--decode-tokens", args.decode, "--runs", 1, "--json"])
        row = out["rows"][0]
        return {"prompt": row["prompt_tokens_per_s"], "decode": row["decode_tokens_per_s"],
                "machine": {"bytes_per_token": row["bytes_per_round"],
                            "macs_per_prompt_token": out["macs_per_prompt_token"],
                            "bytes_per_s": out["read_bandwidth_bytes_per_s"], "macs_per_s": out["int8_macs_per_s"]}}


class LlamaBench:
    """llama-bench of one engine under one set of flags; `decode_behind` are its words for tokens behind a context."""

    def __init__(self, name: str, binary: pathlib.Path, flags: str, decode_behind):
        self.name, self.binary, self.flags, self.decode_behind = name, binary, flags, decode_behind

    def measure(self, model: pathlib.Path, args: argparse.Namespace) -> dict:
        common = [self.binary, "-m", model, "-t", args.threads, "-r", 1, "-o", "json", *self.flags.split()]
        prompt = run_json([*common, "-p", args.prompt, "-n", 0])
        decode = run_json([*common, *self.decode_behind(args.prompt, args.decode)])
        return {"prompt": prompt[-1]["avg_ts"], "decode": decode[-1]["avg_ts"]}


def engines(binaries: pathlib.Path) -> list:
    found = [Gantry(binaries / "gantry-engine")]
    llama = PEERS / "llama.cpp/build/bin/llama-bench"
    if not llama.exists():
        sys.exit(f"{llama}: not built; tools/peers/build.sh builds it")
    for flash in (0, 1):
        found.append(LlamaBench("llama.cpp", llama, f"-fa {flash}",
                                lambda prompt, decode: ["-p", 0, "-n", decode, "-d", prompt]))
    ik = PEERS / "ik_llama.cpp/bin/llama-bench"
    for repack in (0, 1) if ik.exists() else ():
        found.append(LlamaBench("ik_llama.cpp", ik, f"-fa 1 -fmoe 1 -rtr {repack}",
                                lambda prompt, decode: ["-p", 0, "-n", 0, "-gp", f"{prompt},{decode}"]))
    return found


def models(args: argparse.Namespace) -> dict[str, pathlib.Path]:
    if args.model:
        return {name: pathlib.Path(file) for name, _, file in (m.partition("=") for m in args.model)}
    found = {}
    MODELS.mkdir(parents=True, exist_ok=True)
    for kind in ("q8_0", "q4_k_m"):
        file = MODELS / f"bench-1b.{kind}.gguf"
        if not file.exists():
            subprocess.run([args.bin / "make_model", "--shape", "bench-1b", "--type", kind, "--out", file], cwd=ROOT,
                           check=True)
        found[f"bench-1b {kind.upper()}"] = file
    if os.environ.get("GANTRY_SMOLLM2"):
        found["SmolLM2"] = pathlib.Path(os.environ["GANTRY_SMOLLM2"])
    return found


def summarise(runs: dict, machine: list[dict]) -> dict:
    """Medians per engine and flags, shares of the machine, the best peers and what Gantry is to them."""
    bytes_per_s = max(m["bytes_per_s"] for m in machine)
    macs_per_s = max(m["macs_per_s"] for m in machine)
    rows = []
    for (name, flags), samples in runs.items():
        prompt = statistics.median(s["prompt"] for s in samples)
        decode = statistics.median(s["decode"] for s in samples)
        rows.append({"engine": name, "flags": flags, "prompt_tokens_per_s": prompt, "decode_tokens_per_s": decode,
                     "share_of_int8_peak": prompt * machine[0]["macs_per_prompt_token"] / macs_per_s,
                     "share_of_bandwidth": decode * machine[0]["bytes_per_token"] / bytes_per_s,
                     "prompt_samples": [s["prompt"] for s in samples],
                     "decode_samples": [s["decode"] for s in samples],
                     "others_share_max": max(s["others_share"] for s in samples)})
    summary = {"bytes_per_token": machine[0]["bytes_per_token"], "read_bandwidth_bytes_per_s": bytes_per_s,
               "int8_macs_per_s": macs_per_s, "rows": rows, "ratios": {},
               "void": [f"{r['engine']} {r['flags']}" for r in rows[1:] if r["share_of_bandwidth"] > 1]}
    for peer in dict.fromkeys(r["engine"] for r in rows[1:]):
        of_peer = [r for r in rows if r["engine"] == peer]
        summary["ratios"][peer] = {
            what: rows[0][f"{what}_tokens_per_s"] / max(r[f"{what}_tokens_per_s"] for r in of_peer)
            for what in ("prompt", "decode")}
    return summary


def show(name: str, summary: dict) -> None:
    print(f"\n{name}: a token reads {summary['bytes_per_token'] / 1e6:.1f} MB; the machine reads "
          f"{summary['read_bandwidth_bytes_per_s'] / 1e9:.1f} GB/s, int8 {summary['int8_macs_per_s'] / 1e9:.0f} GMAC/s")
    print(f"{'engine':<13} {'flags':<22} {'prompt tok/s':>12} {'of int8':>8} {'decode tok/s':>13} {'of bandwidth':>13}")
    for r in summary["rows"]:
        print(f"{r['engine']:<13} {r['flags']:<22} {r['prompt_tokens_per_s']:>12.1f} {r['share_of_int8_peak']:>8.1%} "
              f"{r['decode_tokens_per_s']:>13.1f} {r['share_of_bandwidth']:>13.1%}")
    for peer, ratio in summary["ratios"].items():
        print(f"gantry / best {peer}: prompt {ratio['prompt']:.2f}, decode {ratio['decode']:.2f}")
    print(f"other programs took at most {max(r['others_share_max'] for r in summary['rows']):.0%} of the processors")
    for row in summary["void"]:
        print(f"VOID: {row} decodes faster than the machine reads")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="directory of gantry-engine and make_model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--disturbed", type=float, default=0.05)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--model", action="append", metavar="NAME=FILE")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    args.bin = args.bin.absolute()
    contestants = engines(args.bin)
    results = {}
    for name, file in models(args).items():
        runs, machine = {(e.name, e.flags): [] for e in contestants}, []
        for number in range(args.rounds):
            for engine in contestants:
                print(f"\r{name}: round {number + 1} of {args.rounds}: {engine.name} {engine.flags:<30}", end="",
                      file=sys.stderr, flush=True)
                sample = calmest(lambda e=engine: e.measure(file, args), args)
                if "machine" in sample:
                    machine.append(sample.pop("machine"))
                runs[engine.name, engine.flags].append(sample)
        print(f"\r{'':<78}\r", end="", file=sys.stderr)
        results[name] = summarise(runs, machine)
        show(name, results[name])
    if args.json:
        settings = {key: getattr(args, key) for key in ("rounds", "threads", "prompt", "decode")}
        args.json.write_text(json.dumps({**settings, "models": results}, indent=2) + "\n")
    return 1 if any(r["void"] for r in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
