"""Constrained decoding: which tokens may come next, so that the whole answer has the form that was asked for."""

from __future__ import annotations

import json
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from llguidance import LLMatcher, LLParserLimits
from numpy.typing import NDArray

from smallhold.serve.request_error import RequestError
from smallhold.serve.vocabulary import Vocabulary

_PARAM = "response_format"

#: Compiling takes up to a second for so many, and nothing can be cancelled within.
MOST_CHARACTERS = 2**16

FormKind = Literal["json_schema", "regex", "grammar"]


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer has to look like.

    Attributes:
        kind: `json_schema`, `regex`, or `grammar` (Lark, as llguidance reads it).
        value: The schema as a JSON value, or the text of the expression or grammar.
    """

    kind: FormKind
    value: Any


class Matcher:
    """A grammar, and how far one answer has come in it."""

    def __init__(self, form: Form, vocabulary: Vocabulary) -> None:
        """Compile.

        Raises:
            RequestError: the form is not valid, is too large, or uses what cannot be guaranteed.
        """
        if not vocabulary.ends:
            raise RequestError("response_format: this bundle's tokenizer has no token that ends a text", param=_PARAM)
        try:
            grammar = _grammar_of(form)
        except ValueError as error:  # a schema that is nested too deeply
            raise RequestError(f"response_format: {form.kind} cannot be used: {error}", param=_PARAM) from error
        if len(grammar) > MOST_CHARACTERS:
            problem = f"response_format: expected at most {MOST_CHARACTERS} characters, got {len(grammar)}"
            raise RequestError(problem, param=_PARAM)
        # Verbose errors would carry the grammar, which is the caller's, into messages.
        limits = LLParserLimits(verbose_errors=False)
        self._matcher = LLMatcher(vocabulary.matcher_tokens, grammar, log_level=0, limits=limits)
        self._size = vocabulary.size
        self._check(f"{form.kind} cannot be used")

    def copy(self) -> Matcher:
        """The same grammar, for another answer; compiling is the dear part."""
        twin = copy(self)
        twin._matcher = self._matcher.deep_copy()
        return twin

    def allowed(self) -> NDArray[np.bool_]:
        """(V,) True where a token may come next; an end mark where the answer may end.

        Raises:
            RequestError: the grammar has become too large to follow.
        """
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        found: NDArray[np.bool_] = np.unpackbits(mask, bitorder="little")[: self._size].astype(np.bool_)
        return found

    def accept(self, token: int) -> None:
        """Go on by a token that was allowed."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def is_finished(self) -> bool:
        """Nothing can follow."""
        return bool(self._matcher.is_stopped())

    def _check(self, problem: str = "the grammar cannot be followed") -> None:
        if self._matcher.is_error():
            raise RequestError(f"response_format: {problem}: {self._matcher.get_error()}", param=_PARAM)


def _grammar_of(form: Form) -> str:
    if form.kind == "regex":
        return LLMatcher.grammar_from_regex(form.value)
    if form.kind == "grammar":
        return LLMatcher.grammar_from_lark(form.value)
    if isinstance(form.value, dict) and "x-guidance" in form.value:
        raise RequestError("response_format: a schema cannot set x-guidance", param=_PARAM)
    # No white space between members: a weak model would write nothing else. Not lenient: what is not understood is
    # refused, so that a schema is obeyed whole or not at all.
    return LLMatcher.grammar_from_json_schema(
        json.dumps(form.value), overrides={"whitespace_flexible": False, "coerce_one_of": False, "lenient": False}
    )
