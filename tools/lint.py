#!/usr/bin/env python3
"""House rules that a machine can check. Prints file:line: what is wrong and what to do; exit code 1 when anything is."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Which top-level parts a file may include (docs/design.md, "Layout"). Arrows point down.
ALLOWED = {
    "engine": {"engine"},
    "services": {"services", "engine", "gantry", "billing"},
    "gateway": {"gateway", "services", "engine", "gantry"},
    "billing": {"billing", "services", "engine", "gantry"},
    "tests": {"tests", "engine", "services", "gateway", "billing", "gantry"},
}
PARTS = {"engine", "services", "gateway", "billing", "tests", "gantry"}
# Outside the engine only its text tools and base are everybody's; the rest is the worker's alone.
SHARED_ENGINE = ("engine/base/", "engine/text/")


def tracked() -> list[pathlib.Path]:
    out = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                         capture_output=True, text=True).stdout
    return [ROOT / line for line in out.splitlines() if (ROOT / line).is_file()]


def main() -> int:
    problems = []

    def report(path: pathlib.Path, line: int, message: str) -> None:
        problems.append(f"{path.relative_to(ROOT)}:{line}: {message}")

    for path in tracked():
        if path.suffix not in {".h", ".cc"}:
            continue
        text = path.read_text(encoding="utf-8")
        part = path.relative_to(ROOT).parts[0]
        # A -inl.h file is meant to be included once by each instruction set's source.
        if path.suffix == ".h" and not path.name.endswith("-inl.h") and "#pragma once" not in text:
            report(path, 1, "header without #pragma once")
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b", line):
                report(path, number, "open end in the code: finish it or open an issue")
            include = re.match(r'#include "([^"]+)"', line)
            if not include or part not in ALLOWED:
                continue
            target = include.group(1)
            if target.split("/")[0] in PARTS and target.split("/")[0] not in ALLOWED[part]:
                report(path, number, f"{part}/ must not include {target}: arrows point down (docs/design.md)")
            if part in {"gateway", "billing"} and target.startswith("engine/") and not target.startswith(SHARED_ENGINE):
                report(path, number, f"{part}/ may use engine/base and engine/text only, not {target}")
            if part == "engine" and re.search(r"grpc|protobuf|sqlite", target):
                report(path, number, f"the engine knows no {target}")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
