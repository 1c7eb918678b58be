"""Endpoints that are known by name: where they are, and what they understand.

What stands here comes from public documentation and was not tried against the live services by this project's tests,
which use no network.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smallhold.errors import RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One kind of endpoint.

    Attributes:
        base_url: What `/chat/completions` is appended to; empty when the recipe must say it.
        api_key_env: Environment variable with the key; empty for none.
        headers: Sent with every request.
        json_schema: Whether `response_format` takes a JSON schema.
        max_tokens_key: How the bound on the answer is called.
    """

    base_url: str = ""
    api_key_env: str = ""
    headers: dict[str, str] = field(default_factory=dict, hash=False)
    json_schema: bool = False
    max_tokens_key: str = "max_tokens"


PRESETS: dict[str, Preset] = {
    # https://docs.github.com/en/rest/models/inference and .../models/catalog, read 2026-11. The reference lists
    # response_format, seed and temperature, and no log-probabilities. The token needs the permission models: read.
    "github-models": Preset(
        base_url="https://models.github.ai/inference",
        api_key_env="GITHUB_TOKEN",
        headers={"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2026-03-10"},
        json_schema=True,
    ),
    # https://platform.openai.com/docs/api-reference/chat: newer models refuse max_tokens.
    "openai": Preset(
        base_url="https://api.openai.com/v1",
        api_key_env="OPENAI_API_KEY",
        json_schema=True,
        max_tokens_key="max_completion_tokens",
    ),
    # `smallhold serve` and vLLM listen here; llama-server and Ollama on other ports.
    "local": Preset(base_url="http://127.0.0.1:8000/v1", json_schema=True),
    "other": Preset(),
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        RecipeError: there is none.
    """
    if name not in PRESETS:
        raise RecipeError(f"endpoint.preset: expected one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]
