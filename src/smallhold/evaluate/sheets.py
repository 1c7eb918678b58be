"""The pages that go with a report into a file: intended use and limits, and a data sheet.

The data sheet follows Gebru et al. 2021, arXiv:1803.09010: motivation, composition, collection, preprocessing, uses,
distribution, maintenance. It says what is known here and says so where something is not: nothing is made up.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from smallhold.evaluate.result import Result, horizon_name, population
from smallhold.evaluate.tables import NOT_A_DEVICE, format_count, simulated_note
from smallhold.sectors.catalogue import KNOWN, KnownDataSet

Section = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A page of plain words.

    Attributes:
        title: Its heading.
        sections: Heading and paragraphs; a heading may be empty.
    """

    title: str
    sections: tuple[Section, ...]


_ICU_USE = (
    "Research and engineering: to study how a small model on a device can follow intensive-care stays hour by hour, "
    "beside a deterministic score, and how such a model is measured, shipped and audited.",
    "It estimates the probability of death in hospital, for adults, at any hour of the first 48 in intensive care.",
)
_ICU_LIMITS = (
    "Another hospital, decade or case mix than that of the training data will look worse, by an amount that nobody "
    "here has measured. PhysioNet/CinC 2012 is one hospital system, the years 2001 to 2008; its test split was drawn "
    "at random, so that figures on it are in-distribution.",
    "The label is death in hospital, not whether it could have been prevented. A high risk does not say that something "
    "can be done; a low one does not say that the patient is well.",
    "Care is inside the data: what was measured, and how often, reflects what clinicians already suspected.",
    "Children, pregnancy, ordinary wards, and stays after their 48th hour are outside of what was measured.",
    "NEWS2 is weaker in the records of PhysioNet/CinC 2012 than on a ward: respiratory rate and saturation are missing "
    "for most stays.",
    "Ethnicity is not read: no figure here speaks about it.",
)
_NOT_FOR = (
    "Care of a patient, triage of real people, or any decision about a person. Nothing here was validated for that.",
    "Replacing the deterministic score or the staff's own judgement. The model's silence means nothing.",
)


_TEXTS_NOT_FOR = (
    "Any decision about a person, the care of a patient least of all. Nothing here was validated for that.",
)


def intended_use(result: Result) -> Sheet:
    """What the bundle is for, what it is not for, and where its figures end."""
    is_text = "num_texts" in result
    uses: tuple[str, ...] = () if is_text else _ICU_USE
    limits: tuple[str, ...] = () if is_text else _ICU_LIMITS
    if result.get("intended_use"):
        uses = (result["intended_use"],)
    if result.get("known_limits"):
        limits = (result["known_limits"],)
    warning: tuple[str, ...] = (f"{NOT_A_DEVICE}. No decision about a person may rest on it.",)
    if result["is_simulated"]:
        warning += (f"{simulated_note(result)}.",)
    count, noun = population(result)
    measured = (
        f"Measured on {format_count(count)} {noun} of {result['data_set']}, split {result['split']}. Whether the "
        "bundle holds elsewhere was not measured.",
    )
    privacy: tuple[Section, ...] = ()
    if result.get("patient"):
        privacy = (
            (
                "Patient data in this folder",
                (
                    "report.html and result.json hold one stay in full. Keep them as you keep the records; "
                    "--quality-only leaves that stay out.",
                ),
            ),
        )
    return Sheet(
        f"Intended use and limits: {result['task']}",
        (
            ("", warning),
            ("Intended use", uses or ("Not stated by the task.",)),
            ("Not intended for", _TEXTS_NOT_FOR if is_text else _NOT_FOR),
            ("Known limits", limits or ("Not stated by the task.",)),
            ("What the figures cover", measured),
            *privacy,
        ),
    )


def datasheet(result: Result) -> Sheet:
    """What is known of the data that were measured on and trained on."""
    names = [name.strip() for name in result["data_set"].split(",")]
    names += [name for name in result.get("bundle", {}).get("training_data", []) if name not in names]
    known = {item.name: item for item in KNOWN}
    sections: list[Section] = [
        (
            "Motivation",
            (
                "These data sets were made by others, for other purposes, and are used here to train and measure a "
                "small model in the open. Who funded their making is for their own pages to say.",
            ),
        ),
        ("Composition of what was measured", _composition(result)),
    ]
    for name in names:
        sections += _data_set_sections(name, known.get(name))
    sections += [
        (
            "Preprocessing and labelling",
            (
                "Values outside a plausible range and markers of missing values are taken out, exactly as at the bed; "
                "nothing is imputed. Units are canonical. Labels are the data set's own."
                if "num_patients" in result
                else "Texts are read as they are; the members that hold or leak the label are never read. Labels are "
                "the data set's own.",
                "The split into training, calibration, validation and test is a hash of the data set's name and the "
                "patient or text, so that nobody straddles two parts.",
            ),
        ),
        (
            "Uses",
            (
                "Fit for studying methods, for comparing models on the same split, and for finding faults. Not fit for "
                "validating a product for care, nor for conclusions about people whom the data do not hold.",
            ),
        ),
        (
            "Distribution",
            (
                "This folder holds figures and no rows of any data set, except for one patient's stay where "
                "intended_use.md says so.",
            ),
        ),
        (
            "Maintenance",
            (
                "The data sets are maintained, or not, by their makers. The copies used here are those at the sources "
                "above; a later version of a data set is another data set, and figures must be measured again.",
            ),
        ),
    ]
    return Sheet(f"Data sheet: {', '.join(names)}", tuple(sections))


def _composition(result: Result) -> tuple[str, ...]:
    count, noun = population(result)
    simulated = ", simulated: no person stands behind them" if result["is_simulated"] else ""
    found = [f"{format_count(count)} {noun} of {result['data_set']}, split {result['split']}{simulated}."]
    subgroups = result.get("subgroups", [])
    last = max((row.get("horizon_h") or 0 for row in subgroups), default=0)
    by_attribute: dict[str, list[str]] = {}
    for row in subgroups:
        if (row.get("horizon_h") or 0) == last:
            died = f", {row['num_events']} died" if "num_events" in row else ""
            words = f"{row.get('subgroup', '')} {format_count(row['n'])}{died}"
            by_attribute.setdefault(row.get("attribute", "group"), []).append(words)
    found += [f"By {attribute}: {'; '.join(groups)}." for attribute, groups in by_attribute.items()]
    labels = result.get("classes", [])
    if labels:
        few = ", ".join(f"{row['label']} {row['n']}" for row in labels[:8])
        found.append(f"{len(labels)} labels; the commonest: {few}.")
    hours = sorted({hour for row in result["rows"] if (hour := row.get("horizon_h")) is not None})
    if hours:
        found.append(f"Each is asked about after {', '.join(horizon_name(hour) for hour in hours)} of record.")
    return tuple(found)


def _data_set_sections(name: str, known: KnownDataSet | None) -> list[Section]:
    if known is None:
        return [(f"Collection: {name}", ("Nothing is recorded here about this data set. Ask whoever made it.",))]
    return [
        (
            f"Collection: {name}",
            (
                f"{known.what[0].upper()}{known.what[1:]}.",
                f"Licence: {known.licence}.",
                *(f"Source: {source}" for source in known.sources),
                f"One row: {known.row}",
                "Consent, compensation and ethical review are documented, where they are, by its makers; they were not "
                "checked here.",
            ),
        )
    ]


def sheet_markdown(sheet: Sheet) -> str:
    """The page as Markdown, one bullet a paragraph where there are several."""
    lines = [f"# {sheet.title}", ""]
    for heading, paragraphs in sheet.sections:
        if heading:
            lines += [f"## {heading}", ""]
        for text in paragraphs:
            one_line = " ".join(text.split())
            lines.append(f"- {one_line}" if len(paragraphs) > 1 and heading else one_line)
            if not (len(paragraphs) > 1 and heading):
                lines.append("")
        if lines[-1]:
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def sheet_html(sheet: Sheet) -> str:
    """The page as a part of the report, without its title."""
    parts = []
    for heading, paragraphs in sheet.sections:
        if heading:
            parts.append(f"<h3>{escape(heading)}</h3>")
        if len(paragraphs) > 1 and heading:
            parts.append("<ul>" + "".join(f"<li>{escape(text)}</li>" for text in paragraphs) + "</ul>")
        else:
            parts += [f"<p>{escape(text)}</p>" for text in paragraphs]
    return "".join(parts)
