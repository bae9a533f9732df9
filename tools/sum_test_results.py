#!/usr/bin/env python3
"""Adds up the JUnit files that the tests left and prints one last line: "N passed, N failed".

usage: sum_test_results.py RESULTS_DIR [CTEST_FAILED_LOG]
A test program that died before it wrote its results is named in ctest's log and counts as one failure.
"""
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def main() -> int:
    results = pathlib.Path(sys.argv[1])
    passed, failed, skipped, seen = 0, [], [], set()
    for file in sorted(results.glob("*.xml")):
        seen.add(file.stem)
        for case in ElementTree.parse(file).getroot().iter("testcase"):
            name = f"{file.stem}: {case.get('classname', '')}.{case.get('name', '')}"
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(name)
            elif case.find("skipped") is not None or case.get("status") == "notrun":
                skipped.append(name)
            else:
                passed += 1
    if len(sys.argv) > 2 and pathlib.Path(sys.argv[2]).exists():
        for line in pathlib.Path(sys.argv[2]).read_text().splitlines():
            program = line.partition(":")[2]
            if program and (program not in seen or not any(f.startswith(program + ":") for f in failed)):
                failed.append(f"{program}: ended abnormally")
    for name in failed:
        print(f"FAILED {name}")
    for name in skipped:
        print(f"skipped {name}")
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
