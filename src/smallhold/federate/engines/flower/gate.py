"""What stands between the network and a SuperLink: it lets through what SuperNodes ask, and nothing else.

Flower 1.41 answers everything on one port: nodes, which prove who they are, and also whoever registers nodes and
submits code to all of them, which without accounts is anybody. So the SuperLink listens on loopback, and this program
on the network: TLS outside and inside, no look at what passes.
"""

from __future__ import annotations

import argparse
import re
import ssl
from collections.abc import Iterable
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from smallhold.federate.messages import MAX_BYTES

#: What a SuperNode asks: one word under this path, spelled out so that no `..` leads elsewhere.
_ASKED = re.compile(r"/v1/fleet/[a-z-]+")
_MOST_BYTES = MAX_BYTES + (1 << 20)
# Flower's own programs wait half a minute for a part of a message.
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
# Of one connection alone (RFC 9110, 7.6.1), or said by each program for itself.
_OWN = frozenset(b"connection keep-alive te trailer transfer-encoding upgrade host date server".split())


def gate(superlink: str, authority: Path | None = None) -> Starlette:
    """The gate as an application.

    Args:
        superlink: Where the SuperLink is, as a URL without a path.
        authority: Certificate of whoever signed the SuperLink's; None where it has no TLS.
    """
    trusted = ssl.create_default_context(cafile=authority) if authority is not None else True
    client = httpx.AsyncClient(base_url=superlink, verify=trusted, timeout=_TIMEOUT, trust_env=False)

    async def answer(request: Request) -> Response:
        length = request.headers.get("content-length", "")
        if not _ASKED.fullmatch(request.url.path) or request.url.query:
            return PlainTextResponse("not for the network", status_code=403)
        if not length.isdecimal() or int(length) > _MOST_BYTES:
            return PlainTextResponse(f"expected at most {_MOST_BYTES} bytes, and how many", status_code=413)
        headers = _passed(request.headers.raw)
        asked = client.build_request("POST", request.url.path, headers=headers, content=request.stream())
        try:
            found = await client.send(asked, stream=True)
        except httpx.TransportError:
            return PlainTextResponse("the SuperLink does not answer", status_code=503)
        passed = StreamingResponse(found.aiter_raw(), found.status_code, background=BackgroundTask(found.aclose))
        passed.raw_headers = _passed(found.headers.raw)
        return passed

    return Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])


def main() -> None:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True, help="address to listen on")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--certificate", required=True, type=Path, help="for the name by which sites know this machine")
    parser.add_argument("--key", required=True, type=Path, help="of the certificate")
    parser.add_argument("--authority", required=True, type=Path, help="certificate of whoever signed the SuperLink's")
    parser.add_argument("--superlink", required=True, type=int, metavar="PORT", help="of the SuperLink, on loopback")
    args = parser.parse_args()
    uvicorn.run(
        gate(f"https://127.0.0.1:{args.superlink}", args.authority),
        host=args.host,
        port=args.port,
        ssl_certfile=args.certificate,
        ssl_keyfile=args.key,
        server_header=False,
    )


def _passed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() not in _OWN]


if __name__ == "__main__":
    main()
