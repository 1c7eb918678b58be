#!/usr/bin/env sh
# Install PyTorch as its CPU build, before anything else can pull the CUDA one (several gigabytes).
# usage: install-torch.sh PYTHON
set -eu
python=$1
version=2.13.0

if "$python" -c 'import torch' 2>/dev/null; then
  exit 0
fi
pip() { "$python" -m pip install --disable-pip-version-check --quiet "$@"; }
if [ "$(uname)" = Darwin ]; then
  pip "torch==$version" # there is no CUDA build for macOS
else
  # Where pip's own index or links have it; else PyTorch's index of CPU builds.
  pip "torch==$version+cpu" 2>/dev/null || pip "torch==$version" --index-url https://download.pytorch.org/whl/cpu
fi
