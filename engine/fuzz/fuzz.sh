#!/bin/bash
# Fuzz the engine's parsers through the C interface: engine/fuzz/fuzz.sh [SECONDS [TARGET...]]
#
# SECONDS by the clock for each target (60), 0 tries seeds and corpora alone; targets are the C files here that hold LLVMFuzzerTestOneInput (all).
# Needs cargo, clang with libFuzzer (clang-22 and libclang-rt-22-dev, or others of any version), python with smallhold
# (PYTHON). The library is built with the compiler's unstable flags: coverage for libFuzzer, AddressSanitizer, overflow
# checks and debug assertions. Corpora and crashes stay in engine/target/fuzz and are gone on with; a crash ends its
# target and is kept as crash-*. In the end tables of what was reached, where llvm-cov and llvm-profdata are.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
TIMEFORMAT='processor time: %U s'
[ $# -eq 0 ] || shift
out=$PWD/target/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
python=${PYTHON:-python3}

tool() { # the newest of a tool's versions
  for version in -24 -23 -22 -21 -20 -19 -18 -17 -16 -15 -14 ''; do
    if command -v "$1$version" >/dev/null; then echo "$1$version"; return; fi
  done
}
clang=${CLANG:-$(tool clang)}
[ -n "$clang" ] || { echo "fuzz.sh: no clang: apt-get install clang-22 libclang-rt-22-dev" >&2; exit 1; }
[ $# -gt 0 ] || set -- $(grep -l LLVMFuzzerTestOneInput fuzz/*.c | xargs -n1 basename | sed 's/\.c$//')

echo "fuzz.sh: seeds"
PYTHONPATH="$PWD/../src${PYTHONPATH:+:$PYTHONPATH}" "$python" fuzz/seeds.py "$out"

build() { # build the library into $out/$1 with RUSTFLAGS $2
  RUSTC_BOOTSTRAP=1 RUSTFLAGS="$2" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_STRIP=none \
    CARGO_PROFILE_RELEASE_DEBUG=1 CARGO_PROFILE_RELEASE_OPT_LEVEL="$3" cargo rustc --quiet --release --offline --lib \
    --crate-type staticlib --target "$host" --target-dir "$out/$1" -- -C codegen-units=1
}
link() { # link target $2 with the library in $out/$1; more words for the compiler
  local kind=$1 target=$2
  shift 2
  "$clang" -std=c11 -g -O1 -Wall -Wextra -Iinclude "fuzz/$target.c" "$out/archive.o" \
    "$out/$kind/$host/release/libsmallhold_engine.a" "$@" -lpthread -ldl -lm -o "$out/$kind/$target"
}
echo "fuzz.sh: building for libFuzzer"
"$clang" -std=c11 -O2 -Wall -Wextra -Iinclude -c fuzz/archive.c -o "$out/archive.o"
counters=-Cpasses=sancov-module
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  counters="$counters -Cllvm-args=-sanitizer-coverage-$option"
done
build run "-Zsanitizer=address $counters -Cdebug-assertions=on -Coverflow-checks=on" 3
for target in "$@"; do link run "$target" -fsanitize=fuzzer,address; done

export SMALLHOLD_FUZZ_PARTS="$out/parts"
export ASAN_OPTIONS=malloc_context_size=1:detect_stack_use_after_return=0 # a third faster; a crash is looked at without
limit=-max_total_time=$seconds
[ "$seconds" != 0 ] || limit=-runs=0
failed=
for target in "$@"; do
  mkdir -p "$out/corpus/$target"
  echo "fuzz.sh: $target, $seconds s"
  time "$out/run/$target" "$limit" -timeout=60 -rss_limit_mb=2048 -malloc_limit_mb=256 -max_len=131072 \
    -dict="$out/words.dict" -artifact_prefix="$out/$target-" -print_final_stats=1 \
    "$out/corpus/$target" "$out/seeds/$target" >"$out/$target.log" 2>&1 || failed="$failed $target"
  grep -aE '^(#[0-9]+.*DONE|==.*ERROR|SUMMARY|stat::number_of_exec|stat::peak_rss|INFO: Loaded 1 mod)' "$out/$target.log" || true
done

cov=$(tool llvm-cov) profdata=$(tool llvm-profdata)
if [ "$seconds" = 0 ]; then
  :
elif [ -n "$cov" ] && [ -n "$profdata" ]; then
  echo "fuzz.sh: coverage of all targets together"
  build cover -Cinstrument-coverage 1
  objects=
  for target in "$@"; do
    link cover "$target" -fsanitize=fuzzer -Wl,-u,__llvm_profile_runtime
    LLVM_PROFILE_FILE="$out/cover/$target.profraw" "$out/cover/$target" -runs=0 -timeout=60 -rss_limit_mb=0 \
      "$out/corpus/$target" "$out/seeds/$target" >/dev/null 2>&1 || echo "fuzz.sh: $target fails on its corpus"
    objects="$objects -object $out/cover/$target"
  done
  "$profdata" merge -o "$out/cover/all.profdata" "$out"/cover/*.profraw
  "$cov" report $objects -instr-profile "$out/cover/all.profdata" --ignore-filename-regex='/rustc|/\.cargo/' |
    tee "$out/coverage.txt"
else
  echo "fuzz.sh: no table of lines: apt-get install llvm-22"
fi
[ -z "$failed" ] || { echo "fuzz.sh: found something in$failed: see $out" >&2; exit 1; }
