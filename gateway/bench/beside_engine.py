#!/usr/bin/env python3
"""The gateway's latency while the engine decodes at full load on the same cores.

usage: beside_engine.py --bin DIR [--model NAME=FILE …] [--streams N] [--probes N] [--rate R] [--rounds N] [--json FILE]

Starts an installation of its own (`gantry up`), then measures in rounds, idle and loaded in turn so that a machine that
slows down slows both: two kinds of small request at a steady rate, the first while nothing else runs, then beside
--streams completions that keep the engine decoding. Percentiles are over the requests of all rounds. `tokens/s` is what
the worker generated meanwhile; the CPU's share of each process tells who had the cores.
"""
import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

PROBES = {"models": "GET /v1/models", "refused": "refused completion"}
TICKS = os.sysconf("SC_CLK_TCK")


def run(command: list) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nfailed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout


def free_ports() -> int:
    """The first of five ports in a row that nobody uses."""
    for port in range(21000, 32000, 10):
        try:
            for offset in range(5):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
            return port
        except OSError:
            continue
    sys.exit("no five free ports in a row")


def percentile(values: list, share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Installation:
    def __init__(self, binaries: pathlib.Path, model: str | None, served: str):
        self.gantry = binaries / "gantry"
        self.directory = tempfile.TemporaryDirectory(prefix="gantry-bench-")
        self.port, self.served = free_ports(), served
        run([self.gantry, "up", "--detach", "--data-dir", self.directory.name, "--port", self.port]
            + (["--model", model] if model else []))
        self.key = (pathlib.Path(self.directory.name) / "demo.key").read_text().strip()
        state = json.loads((pathlib.Path(self.directory.name) / "state.json").read_text())
        self.pids = {name: process["pid"] for name, process in state["processes"].items() if process["pid"] > 0}
        self.worker_metrics = state["processes"]["worker"]["metrics"]
        run([self.gantry, "topup", "--data-dir", self.directory.name, "--tenant", "demo", "1000000"])

    def generated_tokens(self) -> float:
        text = urllib.request.urlopen(self.worker_metrics).read().decode()
        return float(next(line for line in text.splitlines()
                          if line.startswith("gantry_worker_generated_tokens_total")).split()[-1])

    def cpu(self) -> dict:
        return {name: cpu_seconds(pid) for name, pid in self.pids.items()}

    def close(self) -> None:
        run([self.gantry, "down", "--data-dir", self.directory.name])
        self.directory.cleanup()


def measure(binaries: pathlib.Path, installation: Installation, args: argparse.Namespace, probe: str, streams: int):
    before, tokens, begin = installation.cpu(), installation.generated_tokens(), time.monotonic()
    answer = json.loads(run([binaries / "gateway_load", "--port", installation.port, "--key", installation.key,
                             "--model", installation.served, "--streams", streams, "--probe", probe,
                             "--probes", args.probes // args.rounds, "--rate", args.rate]))
    answer["tokens_per_s"] = (installation.generated_tokens() - tokens) / (time.monotonic() - begin)
    answer["cpu_s"] = {name: value - before[name] for name, value in installation.cpu().items()}
    return answer


def bench(binaries: pathlib.Path, model: str | None, served: str, args: argparse.Namespace) -> list[dict]:
    installation = Installation(binaries, model, served)
    try:
        samples = {(probe, load): [] for probe in PROBES for load in ("idle", "loaded")}
        for _ in range(args.rounds):
            for probe in PROBES:
                for load, streams in (("idle", 0), ("loaded", args.streams)):
                    samples[probe, load].append(measure(binaries, installation, args, probe, streams))
    finally:
        installation.close()
    rows = []
    for probe, title in PROBES.items():
        row = {"model": served, "probe": title}
        for load in ("idle", "loaded"):
            latencies = [value for sample in samples[probe, load] for value in sample["latencies_us"]]
            row[load] = {"p50_us": percentile(latencies, 0.5), "p99_us": percentile(latencies, 0.99),
                         "samples": len(latencies)}
        loaded = samples[probe, "loaded"]
        row["tokens_per_s"] = statistics.median(sample["tokens_per_s"] for sample in loaded)
        total = sum(sum(sample["cpu_s"].values()) for sample in loaded)
        row["cpu_share"] = {name: sum(sample["cpu_s"][name] for sample in loaded) / total for name in loaded[0]["cpu_s"]}
        row["p99_ratio"] = row["loaded"]["p99_us"] / row["idle"]["p99_us"]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FILE",
                        help="served name and files of a model; default: the demo model")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    models = [(text.split("=", 1)[1], text.split("=", 1)[0]) for text in args.model] or [(None, "gantry-demo")]
    rows = [row for model, served in models for row in bench(args.bin, model, served, args)]
    print(f"{'model':14} {'request':20} {'idle p50':>9} {'p99':>7} {'loaded p50':>11} {'p99':>7} {'p99 ratio':>10}"
          f" {'tokens/s':>9}  us; {args.streams} streams, share of CPU time used")
    for row in rows:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in row["cpu_share"].items() if share >= 0.01)
        print(f"{row['model']:14} {row['probe']:20} {row['idle']['p50_us']:9} {row['idle']['p99_us']:7}"
              f" {row['loaded']['p50_us']:11} {row['loaded']['p99_us']:7} {row['p99_ratio']:9.2f}x"
              f" {row['tokens_per_s']:9.0f}  {shares}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
