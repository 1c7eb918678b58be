"""Labelling rows by an endpoint; a run is a folder.

::

    answers.db      what was asked, what came back, what it cost; makes a run that was stopped go on
    labels.jsonl    one labelled row a line; with it the folder is a data set that a sector.toml may name
    manifest.json   recipe, model, counts, spend, digests: see `LabelManifest`
    left_out.json   id of each row without a label, and why

Everything but `answers.db` follows from recipe, rows and answers, and is written anew by each run.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.tasks import find_task
from smallhold.sectors.text_task import TextTask
from smallhold.teach.endpoint.answers import Sample, make_question, read_sample
from smallhold.teach.endpoint.client import Answer, Client, Question, money_of
from smallhold.teach.endpoint.filters import Label, find_repeats, judge
from smallhold.teach.endpoint.guard import find_destination, require_allowed
from smallhold.teach.endpoint.limits import utc_now
from smallhold.teach.endpoint.recipe import LabelRecipe
from smallhold.teach.endpoint.responses import StopAskingError
from smallhold.teach.endpoint.rows import Row, choose, most_restricted, read_rows
from smallhold.teach.endpoint.store import Store

FORMAT = "smallhold.labels/1"
MANIFEST, LABELS, LEFT_OUT = "manifest.json", "labels.jsonl", "left_out.json"
NOT_ASKED = "not_asked"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelManifest:
    """What a run says of itself; the contents of `manifest.json`.

    Attributes:
        format: `smallhold.labels/1`.
        created: When it was written, UTC.
        recipe: The whole recipe; it names the key's variable, never the key.
        recipe_digest: Its digest.
        origin: Where the questions went.
        model: Which model was asked.
        answered_by: What the endpoint called the models that answered.
        task: Name of the task.
        question: Its question.
        choices: Its choices, in the order of the probabilities.
        privacy: The most restricted class among the rows; `labels.jsonl` holds their texts.
        rows_digest: Digest of texts that were chosen.
        num_rows: Rows read.
        num_repeats: Rows left out before anything was asked because they repeat another one.
        num_chosen: Rows that were to be labelled.
        num_labelled: Rows in `labels.jsonl`.
        left_out: Reason to number of the other chosen rows.
        unusable: Reason to number of samples that said nothing usable.
        events: Named failures of single requests of this run, repeated ones included.
        spend: Requests, those that may have been paid for, tokens, and money if prices are known; of all runs.
        agreement_with_data: Share of the labelled rows whose data set says the same; None where it says nothing.
        stopped_by: Why not everything was asked; None when it was.
        hint: What to do about that.
        files: Name to digest and size.
    """

    format: str
    created: str
    recipe: dict[str, Any]
    recipe_digest: str
    origin: str
    model: str
    answered_by: list[str]
    task: str
    question: str
    choices: list[str]
    privacy: str
    rows_digest: str
    num_rows: int
    num_repeats: int
    num_chosen: int
    num_labelled: int
    left_out: dict[str, int]
    unusable: dict[str, int]
    events: dict[str, int]
    spend: dict[str, float]
    agreement_with_data: float | None
    stopped_by: str | None
    hint: str | None
    files: dict[str, dict[str, Any]]


def run_labelling(
    recipe: LabelRecipe,
    data_dir: Path | None,
    out: Path,
    *,
    progress: Progress,
    environment: Mapping[str, str] | None = None,
) -> LabelManifest:
    """Label rows; continues what an earlier call left.

    Args:
        recipe: What to do.
        data_dir: What the user gave as `--data`, or None.
        out: Folder of the run.
        progress: Called with a caption, steps done and steps in all.
        environment: Where the key is looked for; default: this process's variables.

    Returns:
        The manifest; `stopped_by` tells when a cap, the server or a signal ended the run early.

    Raises:
        RecipeError: no such task, or an impossible recipe.
        DataError: rows are missing or malformed, or another process uses the folder.
        EgressError: rows may not be sent there; nothing was.
        EndpointError: no key.
    """
    task = find_task(recipe.task.name, recipe.task.sector)
    progress("reading the rows", 0, 1)
    rows = read_rows(task, recipe.rows, data_dir)
    repeats = find_repeats([row.text[: recipe.ask.max_chars] for row in rows], recipe.filters.near_duplicate)
    chosen = choose([row for row, of in zip(rows, repeats, strict=True) if of is None], recipe.rows.most)
    progress("reading the rows", 1, 1)
    destination = find_destination(recipe.endpoint.resolved.base_url)
    for row in chosen:  # the client asks again for each; here so that nothing is sent when one row must not be
        require_allowed(row.privacy, destination, recipe.endpoint.allow)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    with Store(out) as store:
        client = Client(recipe.endpoint, recipe.cap, recipe.pace, store, environment=environment)
        questions = _questions(recipe, task, chosen)
        answers = _Answers(recipe, task, client, len(questions), progress)
        stopped = asyncio.run(_ask(client, questions, answers))
        spend = store.spend()
    judged = [
        _judge(recipe, task, answers.read[i : i + recipe.ask.samples])
        for i in range(0, len(questions), recipe.ask.samples)
    ]
    files = _write(out, task, chosen, judged)
    known = [(row, label) for row, label in zip(chosen, judged, strict=True) if isinstance(label, Label) and row.label]
    manifest = LabelManifest(
        format=FORMAT,
        created=utc_now(),
        recipe=asdict(recipe),
        recipe_digest=recipe.digest,
        origin=client.destination.origin,
        model=recipe.endpoint.model,
        answered_by=sorted(answers.models),
        task=task.name,
        question=task.question,
        choices=list(task.choices),
        privacy=most_restricted(*(row.privacy for row in chosen)).value,
        rows_digest=sha256_hex(canonical_json([row.text for row in chosen])),
        num_rows=len(rows),
        num_repeats=sum(of is not None for of in repeats),
        num_chosen=len(chosen),
        num_labelled=sum(isinstance(label, Label) for label in judged),
        left_out=_sorted(Counter(label for label in judged if isinstance(label, str))),
        unusable=_sorted(answers.unusable),
        events=_sorted(client.events),
        spend={
            "requests": spend.requests,
            "maybe_paid_requests": spend.maybe_paid,
            "prompt_tokens": spend.tokens.prompt,
            "completion_tokens": spend.tokens.completion,
            "money": money_of(spend.tokens, recipe.cap),
        },
        agreement_with_data=sum(row.label == task.choices[label.choice] for row, label in known) / len(known)
        if known
        else None,
        stopped_by=None if stopped is None else str(stopped),
        hint=None if stopped is None else stopped.hint,
        files=files,
    )
    write_durably(out / MANIFEST, [json.dumps(asdict(manifest), indent=1, ensure_ascii=False).encode()])
    return manifest


class _Answers:
    """Reads answers as they come, and ends a run that pays for nothing usable."""

    def __init__(self, recipe: LabelRecipe, task: TextTask, client: Client, count: int, progress: Progress) -> None:
        self.read: list[Sample | str] = [NOT_ASKED] * count
        self.models: set[str] = set()
        self.unusable: Counter[str] = Counter()
        self._recipe, self._task, self._client, self._progress = recipe, task, client, progress
        self._done, self._in_a_row = 0, 0

    def __call__(self, place: int, answer: Answer) -> None:
        self._done += 1
        self._progress(f"asking {self._recipe.endpoint.model}"[:32], self._done, len(self.read))
        if isinstance(answer, str):
            self.read[place] = answer
            return
        if isinstance(answer.get("model"), str):
            self.models.add(answer["model"].encode("utf-8", "replace").decode())  # half a character is no text
        sample = read_sample(answer, self._task.choices, self._recipe.ask)
        self.read[place] = sample
        if isinstance(sample, Sample):
            self._in_a_row = 0
            return
        self.unusable[sample] += 1
        self._in_a_row += 1
        if self._in_a_row >= self._recipe.pace.give_up_after:
            hint = _HINTS.get(sample, "look at model, prompt and choices; pace.give_up_after goes on longer")
            self._client.stop(
                StopAskingError(f"{self._in_a_row} answers in a row were unusable, the last one: {sample}", hint=hint)
            )


_HINTS = {
    "cut": "raise ask.max_tokens",
    "mass_elsewhere": 'the model meant to say no choice at all: set ask.soft = "samples", or take a better model',
    "no_logprobs": 'this endpoint gives no log-probabilities: set ask.soft = "samples" or "none"',
    "not_json": 'another model, or endpoint.response_format = "schema" where the endpoint knows it',
}


def _questions(recipe: LabelRecipe, task: TextTask, rows: Sequence[Row]) -> list[Question]:
    settings = recipe.endpoint.resolved
    return [
        make_question(task, recipe.ask, settings, recipe.endpoint.model, row.text, row.privacy, sample)
        for row in rows
        for sample in range(recipe.ask.samples)
    ]


async def _ask(client: Client, questions: Sequence[Question], on_answer: _Answers) -> StopAskingError | None:
    with _stop_on_signals(client):
        return await client.ask_all(questions, on_answer)


@contextmanager
def _stop_on_signals(client: Client) -> Iterator[None]:
    """The first signal lets what is in flight arrive; the second one acts as it always does."""
    loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)

    def stop(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        client.stop(StopAskingError("stopped on request", hint="run the same command again to resume"))

    try:
        for number in numbers:
            loop.add_signal_handler(number, stop, number)
    except (ValueError, RuntimeError, NotImplementedError):
        pass  # not the main thread, or not a system with signals: whoever called decides
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _judge(recipe: LabelRecipe, task: TextTask, answers: Sequence[Sample | str]) -> Label | str:
    if NOT_ASKED in answers:
        return NOT_ASKED
    return judge(answers, len(task.choices), recipe.filters, is_soft=recipe.ask.soft == "samples")


def _write(out: Path, task: TextTask, rows: Sequence[Row], judged: Sequence[Label | str]) -> dict[str, dict[str, Any]]:
    lines, left_out = [], []
    for row, label in zip(rows, judged, strict=True):
        if isinstance(label, str):
            left_out.append({"id": row.id, "reason": label})
            continue
        line: dict[str, Any] = {
            "id": row.id,
            "text": row.text,
            "label": task.choices[label.choice],
            "agreement": label.agreement,
            "data_set": row.data_set,
            "language": row.language,
            "privacy": row.privacy.value,
        }
        if label.probabilities is not None:
            line["probabilities"] = [round(float(p), 6) for p in label.probabilities]
        if label.rationale:
            line["rationale"] = label.rationale
        lines.append(canonical_json(line) + b"\n")
    contents = {LABELS: b"".join(lines), LEFT_OUT: json.dumps(left_out, indent=1).encode()}
    for name, content in contents.items():
        write_durably(out / name, [content])
    return {name: {"sha256": sha256_hex(content), "bytes": len(content)} for name, content in contents.items()}


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))


def read_soft_labels(folder: Path, choices: Sequence[str]) -> dict[str, list[float]]:
    """Text to probabilities of the choices, as a finished or stopped run left them; a bare label counts as certain.

    Raises:
        DataError: not the folder of a run, another task's choices, or labels that the manifest does not vouch for.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        content = (folder / LABELS).read_bytes()
        recorded, told = list(manifest["choices"]), manifest["files"][LABELS]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: expected labels of an endpoint: {error}", hint="smallhold teach label") from error
    if recorded != list(choices) or told != sha256_hex(content):
        raise DataError(f"{folder}: the labels are of other choices, or were changed after their manifest")
    rows = [json.loads(line) for line in content.splitlines()]
    return {
        row["text"]: row.get("probabilities") or [float(choice == row["label"]) for choice in choices] for row in rows
    }
