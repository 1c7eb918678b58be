"""Questions to the nodes of a run and their answers, also those that come late.

Flower's SuperNode (1.41, `start_client_internal.py`) pushes an answer behind the message that it has just received, and
at no other time. After a client app has died at the wrong moment one answer is left over, and from then on each one is
pushed when the next message comes. `Grid.send_and_receive` forgets its questions when it returns, and never hears such
a node again. Here a question is remembered until it is answered or of no more use, and a node that lags is sent another
message, behind which it pushes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Between two looks for answers, and before a node that is known to lag is made to push.
_PAUSE_SECONDS, _NUDGE_SECONDS = 1.0, 5.0


@dataclass(frozen=True, slots=True)
class _Question:
    about: str
    node: int


class Mail:
    """What was asked of which node, and not answered yet.

    Args:
        grid: Flower's, of which messages are pushed and pulled.
        nudge: Makes a message to a node whose answer is of no interest.
        clock: Seconds.
        pause: Waits for so many seconds.
    """

    def __init__(
        self,
        grid: Any,
        nudge: Callable[[int], Any],
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid, self._nudge, self._clock, self._pause = grid, nudge, clock, pause
        self._open: dict[str, _Question] = {}
        self._lagging: set[int] = set()

    def forget_all_but(self, *about: str) -> None:
        """Answers about anything else are of no more use."""
        self._open = {id: question for id, question in self._open.items() if question.about in about}

    def ask(self, about: str, messages: Mapping[int, Any], *, timeout: float) -> Iterator[tuple[int, Any]]:
        """Ask each node once; an answer to an earlier question about the same is as good.

        Args:
            about: What is asked; every question about it has the same answer.
            messages: Node to message.
            timeout: Seconds until the nodes that are silent are given up.

        Yields:
            Node and answer, or what Flower says in place of one (`has_error`), at most one of each node.
        """
        newest = dict(zip(messages, self._push(about, messages), strict=True))
        waiting, begun = set(messages), self._clock()
        nudges = {node: _NUDGE_SECONDS if node in self._lagging else timeout / 2 for node in messages}
        nudged: set[int] = set()
        while waiting:
            for answer in self._grid.pull_messages(list(self._open)):
                id = answer.metadata.reply_to_message_id
                question = self._open.pop(id, None)
                if question is None or question.about != about or question.node not in waiting:
                    continue
                node, is_late = question.node, newest[question.node] != id
                if is_late and answer.has_error():
                    continue
                (self._lagging.add if is_late or node in nudged else self._lagging.discard)(node)
                waiting.discard(node)
                yield node, answer
            waited = self._clock() - begun
            if not waiting or waited >= timeout:
                return
            silent = [node for node in waiting if waited >= nudges[node]]
            if silent:
                self._push("", {node: self._nudge(node) for node in silent})
                nudges |= {node: 2 * nudges[node] + _NUDGE_SECONDS for node in silent}
                nudged.update(silent)
            self._pause(_PAUSE_SECONDS)

    def _push(self, about: str, messages: Mapping[int, Any]) -> list[str | None]:
        ids: list[str | None] = list(self._grid.push_messages(list(messages.values())))
        found = zip(ids, messages, strict=True)
        self._open |= {id: _Question(about, node) for id, node in found if id is not None}
        return ids
