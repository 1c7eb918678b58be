"""`smallhold serve`: a bundle behind an OpenAI-compatible interface on this machine."""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from smallhold.cli.options import home_of
from smallhold.cli.output import ProgressBar, note
from smallhold.device.manifest import MANIFEST_NAME
from smallhold.errors import InputError

if TYPE_CHECKING:
    from smallhold.serve.service import Service

EXAMPLE = "smallhold serve hospital.bundle --port 8000"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    parser.add_argument(
        "bundle",
        type=Path,
        nargs="?",
        metavar="BUNDLE",
        help="a bundle: directory or single file; default: the one installed on this device. A directory with "
        "config.json and safetensors, or a .gguf file, becomes a bundle for this run",
    )
    parser.add_argument(
        "--backend",
        choices=("onnx_runtime", "engine", "reference"),
        default="onnx_runtime",
        help="runtime of the model",
    )
    parser.add_argument(
        "--trusted-keys", type=Path, metavar="DIR", help="public keys; default: the home's trust folder"
    )
    parser.add_argument(
        "--bits",
        type=int,
        choices=(4, 8, 16, 32),
        help="of a model that becomes a bundle for this run: bits of its weights; default 8",
    )
    group = parser.add_argument_group("who may ask")
    group.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1; any other machine needs the API key"
    )
    group.add_argument("--port", type=int, default=8000, metavar="N", help="default 8000; 0 takes a free one")
    group.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="requests must bear this key; default $SMALLHOLD_API_KEY, else no key on loopback",
    )
    group.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a browser page of this origin may ask, for example https://example.org; may be repeated",
    )
    group = parser.add_argument_group("limits")
    group.add_argument("--queue-length", type=int, default=16, metavar="N", help="requests that wait; default 16")
    group.add_argument(
        "--timeout-seconds", type=float, default=120.0, metavar="S", help="longest time to answer; default 120"
    )
    group.add_argument(
        "--shutdown-seconds", type=float, default=10.0, metavar="S", help="time to end after SIGTERM; default 10"
    )
    group.add_argument(
        "--max-body-bytes", type=int, default=2**20, metavar="N", help="largest request; default 1048576"
    )
    group.add_argument(
        "--cached-prompts", type=int, default=4, metavar="N", help="prompts whose cache is kept; default 4"
    )


def run(args: argparse.Namespace) -> int:
    """Verify and load the bundle, listen, answer until told to stop."""
    from smallhold.serve.server import ServerOptions, end_process, read_api_key, serve

    options = ServerOptions(
        host=args.host,
        port=args.port,
        api_key=read_api_key(args.api_key_file),
        origins=tuple(args.allow_origin),
        queue_length=args.queue_length,
        timeout_seconds=args.timeout_seconds,
        shutdown_seconds=args.shutdown_seconds,
        max_body_bytes=args.max_body_bytes,
    )
    service = _service(args)

    def announce(url: str) -> None:
        if args.json:
            print(json.dumps({"url": url, "model": service.name}), flush=True)
        else:
            print(f"serving {service.name} at {url}/v1", flush=True)
            note("not a medical device; end with ctrl-C")

    end_process(serve(service, options, announce))
    return 0


def _service(args: argparse.Namespace) -> Service:
    from smallhold.decide.local import open_bundle
    from smallhold.device.install import active_bundle
    from smallhold.serve.service import Service

    home = home_of(args)
    path = args.bundle or active_bundle(home)
    if not _is_checkpoint(path):
        if args.bits is not None:
            raise InputError(f"--bits: {path} is a bundle, whose weights are as they are")
        bundle = open_bundle(path, backend=args.backend, trusted_keys=args.trusted_keys or home.trust)
        return Service(bundle, cached_prompts=args.cached_prompts)

    from smallhold.bundle.bring import bundle_from_checkpoint

    called = path.resolve().name.removesuffix(".gguf")
    name = re.sub(r"[^A-Za-z0-9._-]", "-", called).strip("._-")[:128] or "model"
    # Gone before the first request: everything that answers is in memory by then.
    with tempfile.TemporaryDirectory(prefix="smallhold-serve-") as folder:
        out = Path(folder) / "bundle"
        bundle_from_checkpoint(path, out, home=None, name=name, bits=args.bits or 8, progress=ProgressBar())
        bundle = open_bundle(out, backend=args.backend, unsafe_skip_verification=True)
        return Service(bundle, cached_prompts=args.cached_prompts)


def _is_checkpoint(path: Path) -> bool:
    """Whether a path is a model from elsewhere and no bundle of ours."""
    is_ours = (path / MANIFEST_NAME).exists()
    return not is_ours and (path.suffix == ".gguf" or (path / "config.json").exists())
