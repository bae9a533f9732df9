#!/usr/bin/env bash
# Builds the engines that Gantry is measured against, for this machine's CPU, into build/peers:
#
#   llama.cpp     from the source bundle inside a pinned npm package: the same source for everyone, no other download
#   ik_llama.cpp  when IK_LLAMA_DIR names a checkout of it
#
# and llama_logits (llama_logits.cc) against the first. Nothing of theirs enters this project: what is built here runs
# beside it. Safe to repeat; what is up to date is not built again.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

PACKAGE=node-llama-cpp@3.22.1
OUT="$PWD/build/peers"
JOBS="${GANTRY_JOBS:-$(nproc)}"
COMMON=(-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_CURL=OFF)
GENERATOR=()
command -v ninja >/dev/null && GENERATOR=(-G Ninja)

mkdir -p "$OUT"
if [ ! -e "$OUT/llama.cpp/CMakeLists.txt" ]; then
  pack="$(mktemp -d)"
  trap 'rm -rf "$pack"' EXIT
  npm pack --silent --pack-destination "$pack" "$PACKAGE" >/dev/null
  tar xzf "$pack"/*.tgz -C "$pack" package/llama/gitRelease.bundle
  git clone --quiet "$pack/package/llama/gitRelease.bundle" "$OUT/llama.cpp"
fi

# A peer's log is long and says little while it builds.
build() {  # source, build directory, cmake options...
  local source="$1" dir="$2" log="$2.log"
  shift 2
  echo "building $source" >&2
  if ! { cmake -S "$source" -B "$dir" "${GENERATOR[@]}" "${COMMON[@]}" "$@" &&
    cmake --build "$dir" -j "$JOBS" --target llama-bench; } >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "building $source failed; the whole log is in $log" >&2
    return 1
  fi
}

build "$OUT/llama.cpp" "$OUT/llama.cpp/build" \
  -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_OPENSSL=OFF
g++ -std=c++20 -O2 -Wall -o "$OUT/llama_logits" tools/peers/llama_logits.cc \
  -I "$OUT/llama.cpp/include" -I "$OUT/llama.cpp/ggml/include" \
  -L "$OUT/llama.cpp/build/bin" -lllama -lggml -lggml-base "-Wl,-rpath,$OUT/llama.cpp/build/bin"
if [ -n "${IK_LLAMA_DIR:-}" ]; then
  build "$IK_LLAMA_DIR" "$OUT/ik_llama.cpp" -DGGML_CUDA=OFF -DGGML_IQK_FA_ALL_QUANTS=OFF
fi
