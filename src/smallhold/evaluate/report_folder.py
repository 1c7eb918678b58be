"""The folder that is filed: report, result, data sheet, intended use, and an index with digests.

The index has the form that `sha256sum --check index.txt` reads, so that a file that was changed later shows.
"""

from __future__ import annotations

import json
from pathlib import Path

from smallhold.device.durable_file import write_durably
from smallhold.evaluate.report import render_report
from smallhold.evaluate.result import Result, require_result
from smallhold.evaluate.sheets import datasheet, intended_use, sheet_markdown
from smallhold.records import sha256_hex

INDEX = "index.txt"


def write_report_folder(result: Result, folder: Path) -> Path:
    """Write everything that belongs to one evaluation.

    Args:
        result: What was measured.
        folder: Made when absent; files of other names in it are left alone and not listed.

    Returns:
        The index: one line a file, `SHA-256  name`, written last.

    Raises:
        InputError: a required member is absent.
        MissingExtraError: matplotlib is not installed.
    """
    checked = require_result(result)
    texts = {
        "report.html": render_report(checked),
        "result.json": json.dumps(checked, indent=1, allow_nan=False, ensure_ascii=False),
        "datasheet.md": sheet_markdown(datasheet(checked)),
        "intended_use.md": sheet_markdown(intended_use(checked)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    # An old index beside new files would be wrong if this were interrupted.
    (folder / INDEX).unlink(missing_ok=True)
    lines = []
    for name, text in sorted(texts.items()):
        data = text.encode()
        write_durably(folder / name, [data], mode=0o644)
        lines.append(f"{sha256_hex(data)}  {name}\n")
    write_durably(folder / INDEX, ["".join(lines).encode()], mode=0o644)
    return folder / INDEX
