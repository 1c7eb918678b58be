"""A bundle and its keys in the form that WebAssembly takes: one file, and one text of PEM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from smallhold.device.bundle_files import write_bundle_zip


@contextmanager
def one_file(bundle: Path, keys: Path) -> Iterator[tuple[Path, Path]]:
    """Paths of the packed bundle and of the keys, for as long as the block."""
    with TemporaryDirectory() as folder:
        packed, pem = Path(folder) / "bundle.zip", Path(folder) / "keys.pem"
        write_bundle_zip(bundle, packed)
        pem.write_bytes(b"".join(path.read_bytes() for path in sorted(keys.glob("*.pem"))))
        yield packed, pem
