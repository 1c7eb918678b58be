"""Models to begin from or to learn from: a dated list that works offline, the live catalogues, and this machine's own.

Only `refresh` uses the network.
"""

from __future__ import annotations

import json
import os
import ssl
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.device.durable_file import write_durably
from smallhold.device.manifest import ENVELOPE_NAME, MANIFEST_NAME, Manifest
from smallhold.errors import DataError, EndpointError, InputError, SmallholdError
from smallhold.sectors.data_sets import cache_dir
from smallhold.teach.endpoint.guard import find_destination
from smallhold.teach.endpoint.limits import utc_now
from smallhold.teach.endpoint.presets import PRESETS
from smallhold.version import __version__

if TYPE_CHECKING:
    import httpx

#: Bits a weight of GGUF's Q4_0 and Q8_0, scales included: 32 weights share one of 16 bits.
BITS_PER_WEIGHT = {4: 4.5, 8: 8.5}
_CATALOGUES = {
    "hf": "https://huggingface.co/api/models",
    "github-models": "https://models.github.ai/catalog/models",
}
_LONGEST_HEADER = 100 << 20
_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One model.

    Attributes:
        id: As its home names it, or the folder on this machine.
        licence: As its card says; empty when unknown.
        parameters: Embeddings included; 0 when unknown.
        languages: ISO 639-1 codes; empty when unknown.
        context_tokens: 0 when unknown.
        is_gated: Its home asks for consent before a download.
        kind: `checkpoint`, `bundle`, or `service` for what cannot be downloaded.
        size_bytes: On this machine's disk; 0 when it is not here.
    """

    id: str
    licence: str = ""
    parameters: int = 0
    languages: tuple[str, ...] = ()
    context_tokens: int = 0
    is_gated: bool = False
    kind: str = "checkpoint"
    size_bytes: int = 0

    def bytes_at(self, bits: int) -> int | None:
        """Size of the weights alone at 4 or 8 bits; None when the parameters are unknown."""
        return round(self.parameters * BITS_PER_WEIGHT[bits] / 8) if self.parameters else None


def list_candidates(source: str) -> tuple[str, list[Candidate]]:
    """Candidates without the network: the last refresh where there was one, else the shipped list.

    Args:
        source: `hf` or `github-models`.

    Returns:
        The day of the list, and the candidates.

    Raises:
        DataError: the list that a refresh left is malformed.
    """
    path = _refreshed(source)
    if path.is_file():
        try:
            kept = json.loads(path.read_bytes())
            return str(kept["as_of"]), [_candidate(item) for item in kept["candidates"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: malformed: {error}", hint=f"rm {path}") from error
    shipped = tomllib.loads((files("smallhold.teach.endpoint") / "candidates.toml").read_text(encoding="utf-8"))
    kind = "checkpoint" if source == "hf" else "service"
    return shipped["as_of"], [_candidate({"kind": kind, **item}) for item in shipped[source]]


def select(candidates: Iterable[Candidate], *, language: str | None, max_bytes: int | None) -> list[Candidate]:
    """Those that know a language and could fit a budget at 4 bits; what is unknown is kept."""
    return [
        each
        for each in candidates
        if (language is None or not each.languages or language in each.languages)
        and (max_bytes is None or (each.bytes_at(4) or 0) <= max_bytes)
        and not (max_bytes is not None and each.kind == "bundle" and each.size_bytes > max_bytes)
    ]


def local_candidates(folder: Path, environment: Mapping[str, str] | None = None) -> list[Candidate]:
    """Checkpoints and bundles below `runs/` and `models/` of a folder and in Hugging Face's cache."""
    variables = os.environ if environment is None else environment
    home = Path(variables.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    hub = Path(variables.get("HF_HUB_CACHE") or home / "hub")
    places = [*folder.glob("models/*"), *folder.glob("runs/*"), *folder.glob("runs/*/*")]
    found = [*sorted(places), *sorted(hub.glob("models--*/snapshots/*"))]
    return [each for place in found if place.is_dir() and (each := _read_local(place, folder)) is not None]


def refresh(source: str, *, url: str | None = None, environment: Mapping[str, str] | None = None) -> list[Candidate]:
    """Fetch the live catalogue and keep it for later; the only function here that uses the network.

    Args:
        source: `hf` or `github-models`.
        url: Of the catalogue, instead of the public one.
        environment: Where GitHub's token is looked for; default: this process's variables.

    Raises:
        EndpointError: it cannot be reached, or does not answer as documented.
    """
    import httpx

    variables = os.environ if environment is None else environment
    base = find_destination(url or _CATALOGUES[source]).url
    headers = {"User-Agent": f"smallhold/{__version__}", "Accept": "application/json"}
    if source == "github-models" and url is None:  # the token is for its own address alone
        headers |= _github_headers(variables)
    verify = ssl.create_default_context()  # the system's authorities, as in the client
    try:
        with httpx.Client(headers=headers, timeout=_SECONDS, verify=verify, trust_env=False) as http:
            if source == "hf":
                fetched = [_of_hugging_face(each, _get(http, f"{base}/{each.id}")) for each in list_candidates("hf")[1]]
            else:
                fetched = [_of_github(item) for item in _get(http, base)]
    except (KeyError, TypeError, AttributeError) as error:
        raise EndpointError(f"{source}: the catalogue is not as documented: {error!r}") from error
    content = json.dumps({"as_of": utc_now()[:10], "candidates": [asdict(each) for each in fetched]}, indent=1)
    _refreshed(source).parent.mkdir(parents=True, exist_ok=True)
    write_durably(_refreshed(source), [content.encode()])
    return fetched


def parse_bytes(text: str) -> int:
    """`30M`, `1.5G` or a plain number of bytes, in powers of ten.

    Raises:
        InputError: something else.
    """
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in ("K", "M", "G") else (text, "")
    try:
        value = float(number) * {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}[unit]
        if not 0 < value < 1e15:
            raise ValueError
    except ValueError:
        raise InputError(f"--max-bytes: expected a size such as 30M or 1.5G, got {text!r}") from None
    return int(value)


def _get(http: httpx.Client, url: str) -> Any:
    import httpx

    try:
        response = http.get(url)
        response.raise_for_status()
        return response.json()
    except (httpx.HTTPError, ValueError) as error:
        status = f" ({error.response.status_code})" if isinstance(error, httpx.HTTPStatusError) else ""
        raise EndpointError(f"{url}: cannot be fetched: {type(error).__name__}{status}") from error


def _github_headers(variables: Mapping[str, str]) -> dict[str, str]:
    known = PRESETS["github-models"]
    key = variables.get(known.api_key_env, "").strip()
    return known.headers | ({"Authorization": f"Bearer {key}"} if key else {})


def _of_github(item: dict[str, Any]) -> Candidate:
    limits = item.get("limits") or {}
    return Candidate(id=str(item["id"]), context_tokens=int(limits.get("max_input_tokens") or 0), kind="service")


def _of_hugging_face(shipped: Candidate, item: dict[str, Any]) -> Candidate:
    card = item.get("cardData") or {}
    languages = card.get("language") or shipped.languages
    return Candidate(
        id=shipped.id,
        licence=str(card.get("license_name") or card.get("license") or shipped.licence),
        parameters=int((item.get("safetensors") or {}).get("total") or shipped.parameters),
        languages=(languages,) if isinstance(languages, str) else tuple(map(str, languages)),
        context_tokens=shipped.context_tokens,
        is_gated=bool(item.get("gated", shipped.is_gated)),
    )


def _candidate(item: dict[str, Any]) -> Candidate:
    return Candidate(**{**item, "languages": tuple(item.get("languages", ()))})


def _refreshed(source: str) -> Path:
    return cache_dir().parent / "candidates" / f"{source}.json"


def _read_local(place: Path, folder: Path) -> Candidate | None:
    name = str(place.relative_to(folder)) if place.is_relative_to(folder) else str(place)
    if place.parent.parent.name.startswith("models--"):  # HOME/hub/models--owner--name/snapshots/commit
        name = place.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    try:
        if (place / ENVELOPE_NAME).is_file():
            manifest = Manifest.from_bytes((place / MANIFEST_NAME).read_bytes())
            size = sum(entry.bytes for entry in manifest.files.values())
            return Candidate(id=name, kind="bundle", context_tokens=manifest.context_length, size_bytes=size)
        weights = sorted(path for path in place.glob("*.safetensors") if path.name.startswith("model"))
        if not weights or not (place / "config.json").is_file():
            return None
        config = json.loads((place / "config.json").read_bytes())
        return Candidate(
            id=name,
            licence=_licence(place / "README.md"),
            parameters=sum(map(count_parameters, weights)),
            context_tokens=int(config.get("max_position_embeddings") or 0),
            size_bytes=sum(path.stat().st_size for path in weights),
        )
    except (OSError, ValueError, TypeError, AttributeError, SmallholdError):
        return None  # a folder that only looks like one is passed over


def count_parameters(path: Path) -> int:
    """Numbers in a safetensors file, from its header alone.

    Raises:
        ValueError: not such a file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _LONGEST_HEADER:
            raise ValueError("no safetensors header")
        header = json.loads(file.read(length))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for size in entry["shape"]:
                count *= int(size)
            total += count
    return total


def _licence(card: Path) -> str:
    """`license:` of a card's front matter."""
    if not card.is_file():
        return ""
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()[:80]
    if lines[:1] != ["---"]:
        return ""
    return next((line.partition(":")[2].strip() for line in lines[1:] if line.startswith("license:")), "")
