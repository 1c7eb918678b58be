#!/bin/sh
# Build the guests: ./build.sh [rust | c | assemblyscript]... ; the modules lie in build/ afterwards.
#
# The target of C is called wasm32-wasi, as Debian calls its folders. Rust takes `rustup target add wasm32-wasip1` or Debian's packages, as engine/build.sh does; C Debian's clang-22, lld-22,
# libclang-rt-22-dev-wasm32 and wasi-libc, or CC and SYSROOT of your own (wasi-sdk); AssemblyScript npm.
set -eu
cd "$(dirname "$0")"
mkdir -p build
[ $# -gt 0 ] || set -- rust c assemblyscript
for what in $*; do
  case $what in
    rust)
      set -- --edition 2021 --target wasm32-wasip1 -C panic=abort -C strip=symbols -C opt-level=3 -C lto=fat
      if [ -d "$(rustc --print sysroot)/lib/rustlib/wasm32-wasip1" ]; then
        rustc "$@" -o build/ward-rust.wasm rust/main.rs
      else
        # The standard library that the engine was built with, in the shape of a sysroot.
        ../../engine/build.sh wasm32-wasip1
        lib=build/sysroot/lib/rustlib/wasm32-wasip1/lib
        rm -rf build/sysroot
        mkdir -p "$lib/self-contained"
        for crate in $(ls -t ../../engine/target/wasm32-wasip1/release/deps/lib*-*.rlib); do
          name=$(basename "$crate" | sed 's/-[0-9a-f]*\.rlib$//')
          [ -e "$lib/$name.rlib" ] || cp "$crate" "$lib/$name.rlib"
        done
        cp /usr/lib/wasm32-wasi/crt1-command.o /usr/lib/wasm32-wasi/libc.a "$lib/self-contained/"
        /usr/bin/rustc --sysroot build/sysroot -C linker=wasm-ld-22 "$@" -o build/ward-rust.wasm rust/main.rs
      fi
      ;;
    c)
      cc=${CC:-clang-22}
      if ! command -v "$cc" >/dev/null; then
        echo "build.sh: no $cc: apt-get install clang-22 lld-22 libclang-rt-22-dev-wasm32 wasi-libc, or set CC" >&2
        exit 1
      fi
      "$cc" --target=wasm32-wasi --sysroot="${SYSROOT:-/usr}" -Wno-deprecated -O2 -s -Wall -Wextra -Werror \
        -o build/triage-c.wasm c/triage.c
      ;;
    assemblyscript)
      if ! command -v npm >/dev/null; then
        echo "build.sh: no npm: install Node.js" >&2
        exit 1
      fi
      [ -x assemblyscript/node_modules/.bin/asc ] || npm --prefix assemblyscript ci --ignore-scripts --no-audit --no-fund
      assemblyscript/node_modules/.bin/asc assemblyscript/ward.ts --runtime stub -O --use abort= \
        -o build/ward-assemblyscript.wasm
      ;;
    *) echo "build.sh: unknown guest $what" >&2; exit 2 ;;
  esac
done
