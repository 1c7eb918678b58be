"""What the server does: a bundle, its model and its tasks, as jobs for the one thread that runs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from smallhold.decide.local import LocalBundle
from smallhold.decide.task import Task
from smallhold.decide.text_task import LocalTextTask
from smallhold.device.manifest import parse_time
from smallhold.errors import InputError
from smallhold.serve.chat import ChatForm, read_template
from smallhold.serve.generate import Check, Generator, Piece, Prefilled
from smallhold.serve.read_request import ChatRequest, CompletionRequest, DecideRequest
from smallhold.serve.vocabulary import Vocabulary
from smallhold.serve.worker import Work

#: Number of the prompt, and a step of its answers.
Event = tuple[int, Prefilled | Piece]

_MOST_EVIDENCE, _LEAST_EFFECT = 4, 0.02  # as `smallhold decide` shows them


class Service:
    """A bundle ready to answer.

    Args:
        bundle: Verified and loaded.
        cached_prompts: Prompts whose sessions are kept.

    Raises:
        InputError: `cached_prompts` is negative.
        BackendError: the tokenizer cannot be served.
        BundleError: the chat template is not valid.
    """

    def __init__(self, bundle: LocalBundle, *, cached_prompts: int) -> None:
        if cached_prompts < 0:
            raise InputError(f"--cached-prompts: expected 0 or more, got {cached_prompts}")
        self.bundle, self.name = bundle, bundle.manifest.name
        template, marks = read_template(bundle)
        tokenizer = bundle.read("tokenizer.json").decode()
        self.vocabulary = Vocabulary(tokenizer, bundle.backend.vocab_size, end_mark=marks["eos_token"])
        self.chat_form = ChatForm(self.vocabulary, template, marks)
        self.context_length = min(bundle.backend.context_length, bundle.manifest.context_length)
        self._generator = Generator(
            bundle.backend, self.vocabulary, context_length=self.context_length, cached_prompts=cached_prompts
        )
        self._text_tasks: dict[str, LocalTextTask] = {}
        self.fingerprint = f"smallhold-{bundle.manifest.digest[:16]}"
        self.card = self._card()

    def chat(self, request: ChatRequest) -> Work:
        """The work of a chat request."""
        order = request.wanted.order
        if order.form is None:  # a form says itself where the answer ends
            order = replace(order, stops=order.stops + self.chat_form.stops)

        def work(check: Check) -> Iterator[Event]:
            prompt = self.chat_form.tokens(request.messages)
            for event in self._generator.run(prompt, order, check):
                yield 0, event

        return work

    def complete(self, request: CompletionRequest) -> Work:
        """The work of a completion request: its prompts one after the other."""

        def work(check: Check) -> Iterator[Event]:
            for number, prompt in enumerate(request.prompts):
                tokens = self.vocabulary.encode(prompt) if isinstance(prompt, str) else prompt
                for event in self._generator.run(tokens, request.wanted.order, check):
                    yield number, event

        return work

    def decide(self, request: DecideRequest) -> Work:
        """The work of a decision: the members that `smallhold decide --json` prints."""

        def work(check: Check) -> Iterator[dict[str, Any]]:
            check()
            local = self._text_tasks.get(request.task)
            if local is None:
                local = self._text_tasks[request.task] = self.bundle.text_task(request.task)
            decision = local.decide(request.text)
            answer = decision.answers[local.field.name]
            found = {
                "bundle": self.bundle.manifest.digest,
                "task": decision.task,
                "question": local.task.question,
                "field": local.field.name,
                **asdict(answer),
                "tokens": decision.tokens,
                "is_cut": decision.is_cut,
                "latency_ms": decision.latency_ms,
            }
            if request.has_evidence:
                effects = sorted(local.effects(request.text, answer.choice), key=lambda item: -abs(item.effect))
                found["evidence"] = [
                    asdict(item) for item in effects[:_MOST_EVIDENCE] if abs(item.effect) >= _LEAST_EFFECT
                ]
            yield found

        return work

    def _card(self) -> dict[str, Any]:
        """The only entry of `/v1/models`; what is ours stands under `smallhold`."""
        manifest = self.bundle.manifest
        tasks = [Task.from_bytes(self.bundle.read(f"tasks/{name}.json")) for name in manifest.tasks]
        return {
            "id": self.name,
            "object": "model",
            "created": int(parse_time(manifest.created).timestamp()),
            "owned_by": "smallhold",
            "smallhold": {
                "version": manifest.version,
                "digest": manifest.digest,
                "backend": self.bundle.backend.name,
                "context_length": self.context_length,
                "vocab_size": self.vocabulary.size,
                "has_chat_template": not self.chat_form.is_plain,
                "is_simulated": manifest.is_simulated,
                "training_data": list(manifest.training_data),
                "tasks": [
                    {
                        "name": task.name,
                        "question": task.question,
                        "reads": "readings" if task.text is None else "text",
                        "fields": {field.name: list(field.choices) for field in task.fields},
                    }
                    for task in tasks
                ],
            },
        }
