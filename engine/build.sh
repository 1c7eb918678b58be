#!/bin/sh
# Build the engine: ./build.sh [native | wasm32-wasip1 | wasm32-unknown-unknown [relaxed] |
#                               aarch64-unknown-linux-gnu [test [NAME]] | aarch64-linux-android | aarch64-apple-ios]
# The library and the program; for wasm32-unknown-unknown, which has no programs, the library, for phones the static one.
# `relaxed` builds the module for hosts with relaxed SIMD, `smallhold_engine_relaxed.wasm` beside the other. `test` runs
# the library's tests instead, emulated by qemu.
#
# Where `rustup target add TARGET` was done, cargo builds as usual. With Debian's packages alone (rustc-web, cargo-web,
# rust-web-src, wasi-libc) the standard library is built first, from Debian's sources, once a target. 64-bit ARM needs a
# linker and a C library too (gcc-aarch64-linux-gnu, libc6-dev-arm64-cross), its tests qemu-user. A static library is not
# linked: for phones neither the NDK nor Xcode is needed here, but by the app that takes it in. Where Debian's binaryen
# is installed, it makes modules a tenth smaller.
set -eu
cd "$(dirname "$0")"
target=${1:-native}
[ $# -eq 0 ] || shift
what='build --release'
case $target in
  native) exec cargo build --release --offline ;;
  wasm32-*)
    [ "$target" = wasm32-wasip1 ] || what="$what --lib"
    export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+simd128"
    export CARGO_PROFILE_RELEASE_OPT_LEVEL=2 # a tenth smaller than 3, and as fast
    ;;
  aarch64-unknown-linux-gnu)
    if ! command -v aarch64-linux-gnu-gcc >/dev/null; then
      echo "build.sh: no linker for $target: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross" >&2
      exit 1
    fi
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
    if [ "${1:-}" = test ]; then
      what='test --lib'
      shift
    fi
    ;;
  aarch64-linux-android | aarch64-apple-ios) what='rustc --release --lib --crate-type staticlib' ;;
  *) echo "build.sh: unknown target $target" >&2; exit 2 ;;
esac

module= flags=
if [ "$target" = wasm32-unknown-unknown ]; then
  # One kind of library, or all that the others would export stays in. Compiled for size: what takes time is written out
  # in kernels/simd128.rs.
  what='rustc --release --lib --crate-type cdylib --no-default-features --features std'
  module=smallhold_engine.wasm
  flags='-- -C opt-level=z'
  if [ "${1:-}" = relaxed ]; then
    module=smallhold_engine_relaxed.wasm
    flags="$flags -C target-feature=+relaxed-simd"
    shift
  fi
  export CARGO_TARGET_DIR=target/modules
fi

# Cargo's module stays as cargo knows it, under another name, so that nothing is linked twice.
finish() {
  [ -n "$module" ] || exit 0
  made=target/modules/$target/release/smallhold_engine.wasm
  place=target/$target/release
  mkdir -p "$place"
  # Debian's binaryen knows relaxed SIMD by numbers that it no longer has.
  if [ "$module" = smallhold_engine.wasm ] && command -v wasm-opt >/dev/null; then
    # Nothing lies in the first KiB but the last of a stack that is full, where an offset beyond it traps.
    wasm-opt -Oz --low-memory-unused --enable-simd --enable-bulk-memory --enable-sign-ext --enable-nontrapping-float-to-int \
      --enable-mutable-globals --enable-reference-types --enable-multivalue \
      "$made" -o "$place/$module.part"
  else
    cp "$made" "$place/$module.part"
  fi
  mv "$place/$module.part" "$place/$module"
  exit 0
}

if [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
  cargo $what --offline --target "$target" "$@" $flags
  finish
fi

# Debian's route. The compiler and the sources must be of one version, so rustup's is passed over.
if ! [ -x /usr/bin/rustc ] || ! [ -x /usr/bin/cargo ]; then
  echo "build.sh: rustup target add $target, or apt-get install rustc-web cargo-web rust-web-src wasi-libc" >&2
  exit 1
fi
version=$(/usr/bin/rustc --version | cut -d' ' -f2)
sources=/usr/src/rustc-$version/library
if ! [ -d "$sources/vendor" ]; then
  echo "build.sh: $sources is missing: apt-get install rust-web-src" >&2
  exit 1
fi
linker=
for found in /usr/bin/rust-lld "$(rustc --print sysroot)"/lib/rustlib/*/bin/rust-lld; do
  [ -x "$found" ] && linker=$found && break
done
case $target in
  wasm32-*)
    [ -n "$linker" ] || { echo "build.sh: no linker for WebAssembly: apt-get install rust-web-llvm" >&2; exit 1; }
    upper=$(echo "$target" | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${upper}_LINKER=$linker"
    small='-Z build-std-features=optimize_for_size' # sorting and printing of numbers; nothing here waits for them
    ;;
esac
if [ -n "$module" ] && RUSTC_BOOTSTRAP=1 /usr/bin/cargo -Z help | grep -q panic-immediate-abort; then
  # A module without a system has nowhere to print a panic's words to: it stops the same without them.
  small="$small -Z panic-immediate-abort"
  export CARGO_PROFILE_RELEASE_PANIC=immediate-abort
fi
[ "$target" = wasm32-wasip1 ] && export RUSTFLAGS="$RUSTFLAGS -L /usr/lib/wasm32-wasi"
RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 /usr/bin/cargo $what --offline --target "$target" \
  -Z build-std=std,panic_abort ${small:-} \
  --config 'source.crates-io.replace-with="debian"' \
  --config "source.debian.directory=\"$sources/vendor\"" "$@" $flags
finish
