"""Write src/tokenizer/unicode.rs: which characters are letters, numbers and white space to the tokenizer.

    python engine/tools/unicode_tables.py            # writes the file
    python engine/tools/unicode_tables.py --check    # exit 1 where the file differs

The classes are asked of the `tokenizers` library's own regular expressions, not of Python's `unicodedata`: that library
decides what is right here, and its version of Unicode is seldom that of Python.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Regex, pre_tokenizers

TARGET = Path(__file__).resolve().parents[1] / "src" / "tokenizer" / "unicode.rs"
#: Numbers of the variants of `Class` in pre.rs; what is in none of these is 0.
CLASSES = {1: r"\p{L}+", 2: r"\p{N}+", 3: r"\s+"}
SURROGATES = range(0xD800, 0xE000)

HEAD = """\
//! Letters, numbers and white space; written by tools/unicode_tables.py, not by hand.
//!
//! Source: \\p{L}, \\p{N} and \\s of the regular expressions in the library `tokenizers` 0.23, which are those of
//! Unicode 16.0.

/// Where the class of characters changes, in rising order: first code point times 4 plus class (0 other, 1 letter,
/// 2 number, 3 white space).
"""


def boundaries() -> list[int]:
    """First code points of all runs of one class, times 4, plus the class."""
    points = [point for point in range(sys.maxunicode + 1) if point not in SURROGATES]
    text = "".join(map(chr, points))
    classes = bytearray(len(points))
    for number, pattern in CLASSES.items():
        end_of_last = 0
        for _, (start, end) in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(text):
            classes[end_of_last:start] = bytes([number]) * (start - end_of_last)
            end_of_last = end
    starts = [0, *(at for at in range(1, len(points)) if classes[at] != classes[at - 1])]
    return [points[at] * 4 + classes[at] for at in starts]


def render(entries: list[int]) -> str:
    """The whole file, as rustfmt leaves it."""
    lines, line = [], "   "
    for entry in entries:
        word = f" 0x{entry:x},"
        if len(line) + len(word) > 120:
            lines.append(line)
            line = "   "
        line += word
    body = "\n".join([*lines, line])
    return f"{HEAD}#[rustfmt::skip]\npub(super) const BOUNDARIES: [u32; {len(entries)}] = [\n{body}\n];\n"


def main(words: list[str]) -> int:
    """Write the file, or compare it with what would be written."""
    text = render(boundaries())
    if words == ["--check"]:
        return int(TARGET.read_text(encoding="utf-8") != text)
    temporary = TARGET.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
