"""What a response means: an answer, or a failure with a name and what is known about its price."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smallhold.errors import EndpointError
from smallhold.teach.endpoint.store import Ending

if TYPE_CHECKING:
    import httpx

#: A longer response is not an answer to a closed question.
MOST_BYTES = 4 << 20
_REPEATED = {408, 409, 425, 429}
_STOPPING = {
    401: "the endpoint does not accept the key",
    402: "the endpoint wants to be paid first",
    403: "the endpoint forbids this model or key",
    404: "the endpoint has no such model or address",
}
_CODE = re.compile(r"[a-z_]{1,64}")  # a key has digits: a server that quotes it is not repeated


class StopAskingError(EndpointError):
    """Nothing more is asked; what was answered is kept, and running again goes on from there."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt without an answer; `ending` None: it may have been paid for."""

    reason: str
    ending: Ending | None = None
    detail: str = ""
    is_worth_repeating: bool = True
    stop: StopAskingError | None = None


async def read_refusal(response: httpx.Response, origin: str) -> Failure:
    """What a status other than 200 means. The server's own words are not repeated: they may quote row or key."""
    status = response.status_code
    if 300 <= status < 400:
        stop = StopAskingError(f"{origin}: answers with a redirect, which is not followed", hint="mend base_url")
        return Failure(f"http_{status}", "refused", stop=stop)
    if status in _STOPPING:
        return Failure(f"http_{status}", "refused", stop=StopAskingError(f"{origin}: {_STOPPING[status]} ({status})"))
    if status >= 500:
        return Failure(f"http_{status}")
    if status in _REPEATED:
        return Failure(f"http_{status}", "refused")
    return Failure(f"http_{status}{await _code_of(response)}", "refused", is_worth_repeating=False)


async def _code_of(response: httpx.Response) -> str:
    """`:context_length_exceeded`, where the error's body has such a code."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MOST_BYTES:
            return ""
    try:
        code = json.loads(content)["error"]["code"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""
    return f":{code}" if isinstance(code, str) and _CODE.fullmatch(code) else ""


def parse_response(content: bytes) -> tuple[str, dict[str, Any]] | Failure:
    """Text and value of a response that can be read; what it says is judged later."""
    try:
        text = content.decode()
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Failure("malformed_json")
    choices = value.get("choices") if isinstance(value, dict) else None
    if choices == []:
        return Failure("empty_choices")
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        return Failure("wrong_shape")
    if not isinstance(choices[0].get("message", choices[0].get("text")), dict | str):
        return Failure("wrong_shape")
    return text, value
