"""Why a request is not answered, in the form that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

from smallhold.errors import InputError

#: Reason word of each status; the official clients choose their exception by the status alone.
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class RequestError(InputError):
    """A request that is not answered.

    Args:
        message: What was wrong: expected X, got Y.
        status: HTTP status.
        param: Member of the body that is to blame.
        code: Word that programs may act on.
        retry_after_seconds: When it is worth trying again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.retry_after_seconds = retry_after_seconds

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        kind = "server_error" if self.status >= 500 else _KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        found = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        return found if self.retry_after_seconds is None else {**found, "Retry-After": str(self.retry_after_seconds)}


def context_error(prompt_tokens: int, max_tokens: int, context_length: int) -> RequestError:
    """The refusal of what does not fit into the context, with the numbers."""
    return RequestError(
        f"This model's maximum context length is {context_length} tokens. However, you requested "
        f"{prompt_tokens + max_tokens} tokens ({prompt_tokens} in the prompt, {max_tokens} in the completion). "
        "Shorten the prompt or ask for fewer tokens.",
        param="max_tokens",
        code="context_length_exceeded",
    )
