"""What the rules for described symptoms do to texts: calls by red flags, answers that are shown, and strangers' texts.

    SMALLHOLD_DATA=DIR python bench/patient_texts.py

Prints one JSON object; `docs/experiments.md` quotes it.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import smallhold
from smallhold.decide.text_task import LocalTextTask
from smallhold.sectors.data_sets import find_data_set, jsonl_files, read_jsonl
from smallhold.sectors.hospital.symptoms import load_rules, red_flags, urgency_of
from smallhold.sectors.splits import Split
from smallhold.sectors.tasks import find_task
from smallhold.sectors.text_task import load_examples, split

MODELS = Path(__file__).resolve().parents[1] / "models"
STRANGERS = {"banking77": "text", "french_classics": "text", "russian_classics": "text"}
SAMPLE, SEED, CHARACTERS = 200, 5, 300


def answers(task: LocalTextTask, texts: list[str]) -> list[tuple[str | None, float]]:
    """The model's answer, None where it abstains, and its confidence."""
    found = []
    for text in texts:
        (answer,) = task.decide(text).answers.values()
        found.append((answer.choice, max(answer.probabilities.values())))
    return found


def complaints(task: LocalTextTask) -> dict[str, Any]:
    """Texts of the task's own kind: flags over all of them, advice on those of the test split."""
    rules, declared = load_rules(), find_task("triage", "hospital")
    examples = load_examples(declared)
    flagged = [example for example in examples if red_flags(example.text)]
    test = split(examples, Split.TEST)
    said = answers(task, [example.text for example in test])
    advised: Counter[str] = Counter()
    too_calm = right = 0
    for example, (choice, confidence) in zip(test, said, strict=True):
        urgency = urgency_of(red_flags(example.text), choice, confidence)
        advised[urgency] += 1
        too_calm += urgency == "routine" and rules.urgency[example.label] == "soon"
        right += urgency in ("soon", "routine") and choice == example.label
    return {
        "texts": len(examples),
        "flagged": len(flagged),
        "flagged_by_label": Counter(example.label for example in flagged).most_common(8),
        "flags": Counter(flag for example in flagged for flag in red_flags(example.text)).most_common(),
        "test": len(test),
        "advice": dict(advised),
        "answered_and_right": right,
        "routine_although_soon": too_calm,
    }


def strangers(task: LocalTextTask, name: str, member: str) -> dict[str, Any]:
    """Texts of another kind: how often the model is as sure as an answer that is shown needs it to be."""
    rows = [row for path in jsonl_files(find_data_set(name, None)) for row in read_jsonl(path)]
    chosen = random.Random(SEED).sample(rows, min(SAMPLE, len(rows)))
    texts = [" ".join(str(row[member]).split())[:CHARACTERS] for row in chosen]
    said = answers(task, [text for text in texts if text])
    least = load_rules().least_confidence
    return {
        "texts": len(said),
        "answered_by_the_bundle": sum(choice is not None for choice, _ in said),
        "as_sure_as_needed": sum(confidence >= least for _, confidence in said),
        "most_sure": round(max(confidence for _, confidence in said), 3),
        "flagged": sum(bool(red_flags(text)) for text in texts),
    }


def main() -> None:
    """Measure and print."""
    bundle = smallhold.open(MODELS / "hospital", trusted_keys=MODELS / "trusted_keys")
    task = bundle.task("triage")
    if not isinstance(task, LocalTextTask):
        raise SystemExit("triage: expected a task that reads texts")
    told = {"complaints": complaints(task)} | {name: strangers(task, name, key) for name, key in STRANGERS.items()}
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
