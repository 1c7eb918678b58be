#!/usr/bin/env bash
# Build llama.cpp, server and library from one source, as the strongest peer that this compiler and CPU can give.
# usage: bench/decide/build_llama.sh [FOLDER]     (default runs/peers/llama; does nothing when that is complete)
# Needs python3, cmake, ninja and a C++ compiler; 12 CPU-minutes. JOBS=2 builds on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=0.3.36 # of llama-cpp-python, whose source distribution carries llama.cpp 0.5.0
digest=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
folder=$(realpath -m "${1:-runs/peers/llama}")
stamp=$folder/$version.stamp
if [ -e "$stamp" ]; then
  exit 0
fi
for tool in python3 cmake ninja c++; do
  command -v "$tool" >/dev/null || { echo "build_llama.sh: $tool is missing (Debian: cmake ninja-build g++ python3-venv)" >&2; exit 1; }
done
mkdir -p "$folder"

archive=$folder/llama_cpp_python-$version.tar.gz
if [ ! -e "$archive" ]; then
  test -x "$folder/venv/bin/python" || python3 -m venv "$folder/venv"
  pip() { "$folder/venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
  pip install scikit-build-core # pip asks the source distribution for its metadata
  pip download --no-deps --no-binary :all: --no-build-isolation -d "$folder" "llama-cpp-python==$version"
fi
echo "$digest  $archive" | sha256sum --check --quiet
tar -xzf "$archive" -C "$folder" "llama_cpp_python-$version/vendor/llama.cpp"
source=$folder/llama_cpp_python-$version/vendor/llama.cpp

# Two defects of GCC 12's code for Intel's newest processors, both found by measurement; other processors need neither.
flags=
if grep -qw amx_int8 /proc/cpuinfo; then
  # GCC 12's _tile_loadconfig names 8 of the 64 bytes that it reads, so the stores before it may be dropped: SIGILL.
  cat >"$folder/tile_loadconfig.h" <<'HEADER'
#ifdef __AMX_TILE__
#include <immintrin.h>
#undef _tile_loadconfig
struct tile_configuration { char bytes[64]; };
#define _tile_loadconfig(at) \
  __asm__ volatile("ldtilecfg %0" ::"m"(*(const struct tile_configuration *)(at)) : "memory")
#endif
HEADER
  flags="-include $folder/tile_loadconfig.h"
fi
if grep -qw avx512_fp16 /proc/cpuinfo; then
  flags="$flags -mno-avx512fp16" # flash attention is 3.2 times slower with it
fi

cmake -S "$source" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=ON \
  -DLLAMA_OPENSSL=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF \
  -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_ALL_WARNINGS=OFF -DGGML_CCACHE=OFF -DCMAKE_C_FLAGS="${flags##*tile_loadconfig.h}" \
  -DCMAKE_CXX_FLAGS="$flags" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$folder/build/bin" >"$folder/cmake.log"
mkdir -p "$folder/include"
cp "$source"/include/*.h "$source"/ggml/include/*.h "$folder/include/"
echo "building llama.cpp in $folder/build"
for target in llama llama-server; do
  ninja -C "$folder/build" -j"${JOBS:-1}" "$target"
done
touch "$stamp"
