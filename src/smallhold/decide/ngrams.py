"""The n-gram path: a linear classifier over hashed word and character n-grams, beside the trunk of a text task.

It costs next to nothing, and on short texts it is hard to beat; a task weighs both paths. Everything that another
language needs in order to compute the same features stands here:

1. The text is cut to `MOST_CHARACTERS` code points and lower-cased (Unicode's full mapping, no normalisation form).
   White space is what has Unicode's property White_Space, and U+001C to U+001F. Where punctuation is kept, every
   `http://` and `https://`, with all that follows up to white space, is then read as one space.
2. A word is a longest run of code points of the general categories L and N. Where punctuation is kept, every other
   code point that is not white space is a word by itself: `$aapl +3%` has the words $, aapl, +, 3 and %.
3. Word features: every word w as the bytes `w` + UTF-8(w), and every two neighbours u, v as `b` + UTF-8(u) + space +
   UTF-8(v). Bucket = CRC-32 (zlib, IEEE 802.3) of the bytes, modulo `word_buckets`.
4. Character features: every run of 3, 4 and 5 code points g of space + w + space, as `c` + UTF-8(g). Bucket =
   `word_buckets` + (CRC-32 modulo `char_buckets`).
5. A bucket that was hit n > 0 times gets (1 + ln n) * idf[bucket]. The word buckets and the character buckets are each
   scaled to Euclidean length sqrt(word_share) and sqrt(1 - word_share).
6. Logit k = bias[k] + scale[k] * sum over buckets b of feature[b] * values[b, k].

Source: feature hashing, Weinberger et al. 2009, arXiv:0902.2206, without the sign; weights are fitted by
`teach/ngrams.py`.
"""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import DataError, InputError, ShapeError

#: What lies behind is not read; the cost of a decision stays bounded whatever comes in.
MOST_CHARACTERS = 32_768
_ORDERS = (3, 4, 5)
_WORD = re.compile(r"[^\W_]+")
_WORD_OR_SYMBOL = re.compile(r"[^\W_]+|\S")
_LINK = re.compile(r"https?://\S*")
# Under another name, so that a reader that knows no punctuation refuses the file instead of misreading texts.
_BUCKETS = {False: "buckets", True: "buckets_with_punctuation"}

#: Bucket numbers, ascending and different, and the feature in each.
Features = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NGramSpec:
    """How a text becomes features.

    Attributes:
        word_buckets: Buckets for words and pairs of words.
        char_buckets: Buckets for runs of characters.
        word_share: Share of the squared length that the word features get, 0 to 1.
        keeps_punctuation: Punctuation and other symbols are words, and links are left out.
    """

    word_buckets: int = 1 << 14
    char_buckets: int = 1 << 14
    word_share: float = 0.5
    keeps_punctuation: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be hashed into."""
        if min(self.word_buckets, self.char_buckets) < 1 or not 0 <= self.word_share <= 1:
            raise InputError(f"n-grams: expected one or more buckets and a share in [0, 1], got {self}")

    def features(self, text: str, idf: NDArray[np.float32]) -> Features:
        """Features of a text, (F,) buckets and (F,) values; both empty for a text without words.

        Args:
            text: Any text.
            idf: (word_buckets + char_buckets,) weight of each bucket.
        """
        words, counts = np.unique(self.word_hits(text), return_counts=True)
        chars, char_counts = np.unique(self.char_hits(text), return_counts=True)
        blocks = (
            _block(words, counts, idf, self.word_share),
            _block(chars, char_counts, idf, 1 - self.word_share),
        )
        return np.concatenate([words, chars]), np.concatenate(blocks)

    def word_hits(self, text: str) -> NDArray[np.int64]:
        """Bucket of every word and of every pair of neighbours, in any order."""
        words = [word.encode() for word in self.words(text)]
        hits = [crc32(b"w" + word) for word in words]
        hits += [crc32(b"b" + a + b" " + b) for a, b in pairwise(words)]
        return np.array(hits, dtype=np.int64) % self.word_buckets

    def char_hits(self, text: str) -> NDArray[np.int64]:
        """Bucket of every run of characters, in any order."""
        hits = [digest for word in self.words(text) for digest in _runs(word)]
        return np.array(hits, dtype=np.int64) % self.char_buckets + self.word_buckets

    def words(self, text: str) -> list[str]:
        """The words of a text, lower-cased, in order."""
        read = text[:MOST_CHARACTERS].lower()
        return _WORD_OR_SYMBOL.findall(_LINK.sub(" ", read)) if self.keeps_punctuation else _WORD.findall(read)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NGramClassifier:
    """A fitted classifier with K choices.

    Attributes:
        spec: How a text becomes features.
        idf: (B,) float16, weight of each bucket.
        values: (B, K) int8, the weights in steps.
        scale: (K,) float32, step of each choice.
        bias: (K,) float32.
    """

    spec: NGramSpec
    idf: NDArray[np.float16]
    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        buckets = self.spec.word_buckets + self.spec.char_buckets
        shapes = (self.idf.shape, self.values.shape, self.scale.shape)
        if self.bias.ndim != 1 or shapes != ((buckets,), (buckets, len(self.bias)), self.bias.shape):
            raise ShapeError(
                f"n-grams: expected idf ({buckets},), values ({buckets}, K), scale (K,) and bias (K,), got "
                f"{self.idf.shape}, {self.values.shape}, {self.scale.shape} and {self.bias.shape}"
            )
        if not all(np.isfinite(part).all() for part in (self.idf, self.scale, self.bias)):
            raise DataError("n-grams: idf, scale and bias must be finite numbers")

    def features(self, text: str) -> Features:
        """See `NGramSpec.features`."""
        return self.spec.features(text, self.idf.astype(np.float32))

    def logits(self, text: str) -> NDArray[np.float32]:
        """(K,) logits of a text; the bias alone for a text without words."""
        buckets, weight = self.features(text)
        logits: NDArray[np.float32] = weight @ self.values[buckets].astype(np.float32) * self.scale + self.bias
        return logits

    def to_bytes(self) -> bytes:
        """Uncompressed `.npz`; equal classifiers give equal bytes."""
        members: dict[str, NDArray[Any]] = {
            _BUCKETS[self.spec.keeps_punctuation]: np.array([self.spec.word_buckets, self.spec.char_buckets], np.int64),
            "word_share": np.array(self.spec.word_share, np.float64),
            "idf": self.idf,
            "values": self.values,
            "scale": self.scale,
            "bias": self.bias,
        }
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name, member in members.items():
                data = io.BytesIO()
                np.save(data, member, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue())  # ZipInfo's date is constant
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> NGramClassifier:
        """Read what `to_bytes` wrote; nothing is unpickled.

        Raises:
            DataError: malformed, or a member is missing.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                keeps_punctuation = _BUCKETS[True] in stored
                words, chars = (int(count) for count in stored[_BUCKETS[keeps_punctuation]])
                spec = NGramSpec(
                    word_buckets=words,
                    char_buckets=chars,
                    word_share=float(stored["word_share"]),
                    keeps_punctuation=keeps_punctuation,
                )
                kinds = {"idf": np.float16, "values": np.int8, "scale": np.float32, "bias": np.float32}
                parts = {name: stored[name] for name in kinds}
            wrong = {name: part.dtype for name, part in parts.items() if part.dtype != kinds[name]}
            if wrong:
                raise DataError(f"n-grams: malformed file: unexpected types {wrong}")
            return cls(spec=spec, **parts)
        except DataError:
            raise
        except (KeyError, ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"n-grams: malformed file: {error}") from error
        except InputError as error:
            raise DataError(f"n-grams: malformed file: {error}") from error


@lru_cache(maxsize=1 << 14)
def _runs(word: str) -> tuple[int, ...]:
    """CRC-32 of every run of characters of one word; words repeat, so they are kept."""
    padded = f" {word} "
    return tuple(
        crc32(b"c" + padded[start : start + order].encode())
        for order in _ORDERS
        for start in range(len(padded) - order + 1)
    )


def _block(
    buckets: NDArray[np.int64], counts: NDArray[np.int64], idf: NDArray[np.float32], share: float
) -> NDArray[np.float32]:
    """Sublinear counts times idf, scaled to length sqrt(share)."""
    value = (1 + np.log(counts)) * idf[buckets]
    length = np.linalg.norm(value)
    return (value * (np.sqrt(share) / length if length > 0 else 0.0)).astype(np.float32)
