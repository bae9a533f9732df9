#!/usr/bin/env python3
"""Small valid inputs from which a fuzzer starts.

usage: fuzz_seeds.py FUZZER DIRECTORY
Writes nothing for a fuzzer that finds its way from an empty input.
"""
import json
import pathlib
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# ggml's type ids, elements and bytes of a block.
GGUF_TYPES = {0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
              10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210)}


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(tensors: list[tuple[str, list[int], int]]) -> bytes:
    keys = [
        ("general.architecture", struct.pack("<I", 8) + gguf_string("llama")),
        ("general.alignment", struct.pack("<II", 4, 32)),
        ("tokenizer.ggml.tokens", struct.pack("<IIQ", 9, 8, 2) + gguf_string("a") + gguf_string("bc")),
        ("a", struct.pack("<IIQ2i", 9, 5, 2, 3, -4)),
        ("b", struct.pack("<If", 6, 0.5)),
    ]
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, value in keys:
        out += gguf_string(key) + value
    data = b""
    for name, dims, kind in tensors:
        elements, block_bytes = GGUF_TYPES[kind]
        out += gguf_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        count = 1
        for dim in dims:
            count *= dim
        data += b"\x01" * (count // elements * block_bytes)
        data += b"\0" * (-len(data) % 32)
    return out + b"\0" * (-len(out) % 32) + data


def safetensors(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def seeds(fuzzer: str) -> list[bytes]:
    if fuzzer == "gguf_fuzzer":
        return [gguf([(f"t{kind}", [256, 2], kind)]) for kind in GGUF_TYPES] + [gguf([("x", [32, 3, 2], 8), ("y", [5], 0)])]
    if fuzzer == "safetensors_fuzzer":
        return [
            safetensors({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                         "b": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [8, 14]}}, b"\x01" * 14),
            safetensors({"a": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}}, b"\x01" * 8),
        ]
    if fuzzer == "template_fuzzer":
        return [json.loads((ROOT / "models/demo/tokenizer_config.json").read_text())["chat_template"].encode()]
    return []


def main() -> int:
    fuzzer, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(fuzzer)):
        (directory / f"seed_{number}").write_bytes(seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
