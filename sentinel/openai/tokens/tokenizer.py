"""Token counts, by tiktoken: of a text exactly, of a prompt by OpenAI's published formula (docs/tokens.md).

Cannot fail on a request: any model has an encoding, any JSON a count, and what is too long to count exactly is bytes / 4.
Fails at start only: `Tokenizer.load` raises what its source of ranks raises, or ValueError for ranks it cannot read.
"""

import base64
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from itertools import chain
from typing import Final, Self

import tiktoken

from sentinel.openai.tokens import prompts
from sentinel.ops.records import Prompt

O200K: Final = "o200k_base"
CL100K: Final = "cl100k_base"

# What a text is cut into before byte pairs are merged; the same patterns as in tiktoken_ext.openai_public (a test compares).
PATTERNS: Final = {
    O200K: "|".join(
        (
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""\p{N}{1,3}""",
            r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
            r"""\s*[\r\n]+""",
            r"""\s+(?!\S)""",
            r"""\s+""",
        )
    ),
    CL100K: (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
        r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
    ),
}

# All models of cl100k_base; every other one is counted with o200k_base (rules M1, M3). The completion models before them
# (p50k_base, r50k_base) are no longer served.
_CL100K_MODELS: Final = frozenset(
    {"gpt-4", "gpt-3.5", "gpt-3.5-turbo", "gpt-35-turbo", "davinci-002", "babbage-002"}
    | {"text-embedding-ada-002", "text-embedding-3-small", "text-embedding-3-large"}
)
_CL100K_PREFIXES: Final = ("gpt-4-", "gpt-3.5-turbo-", "gpt-35-turbo-")
# `provider/` before it, `ft:` before it and `:organisation:name:id` behind it do not change a model's encoding (M1, M2).
_BARE_MODEL: Final = re.compile(r"(?:[^:]*/)?(?:ft:)?([^:]*)")

# Longer texts are counted in slices: on about a million blanks in a row tiktoken 0.14 panics, past every `except Exception`,
# and it holds the interpreter while it builds its list of tokens: tens of milliseconds for a million characters.
_SLICE_CHARACTERS: Final = 65_536
_BYTES_PER_TOKEN: Final = 4
# What a piece costs besides its characters when the size of a prompt is judged: many small pieces take time too.
_PIECE_CHARACTERS: Final = 16
_CHARACTERS_SEEN_MAX: Final = 131_072
_ANY_MODEL: Final = prompts.rates("", O200K)
# Names come from clients, so that they are remembered within a bound.
_MODELS_MAX: Final = 1024


class _Counter:
    """One encoding and the counts of the texts it saw last.

    Conversations repeat their earlier messages, so counts are kept: in two generations of at most `entries_max` each, the
    older one dropped when the `younger` is full. A text is known by its hash and length, so that no prompt stays in memory; two
    texts that share both would make one estimate wrong, no more. Safe to call from any thread.
    """

    __slots__ = ("_encoding", "_entries_max", "_lock", "_older", "younger")

    def __init__(self, encoding: tiktoken.Encoding, entries_max: int) -> None:
        self._encoding = encoding
        self._entries_max = entries_max
        self._lock = threading.Lock()
        self.younger: dict[tuple[int, int], int] = {}
        self._older: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.younger) + len(self._older)

    def count(self, text: str) -> int:
        """Tokens of `text`; special tokens in it are text like any other (rule K1)."""
        if len(text) <= _SLICE_CHARACTERS:
            return len(self._encoding.encode_ordinary(text))
        return sum(len(self._encoding.encode_ordinary(part)) for part in _slices(text))

    def count_all(self, pieces: Iterable[str | int], exact_chars: int) -> int:
        """Tokens of texts and of what is tokens already; texts beyond `exact_chars` in all are estimated by their bytes."""
        tokens = 0
        for piece in pieces:
            if isinstance(piece, int):
                tokens += piece
                continue
            size = len(piece)
            if size > exact_chars:
                tokens += _approximate(piece)
                continue
            exact_chars -= size
            known = self.younger.get((hash(piece), size))
            tokens += self.count_once(piece) if known is None else known
        return tokens

    def count_once(self, text: str) -> int:
        """Tokens of `text`, remembered among the younger counts."""
        key = (hash(text), len(text))
        tokens = self.younger.get(key)
        if tokens is not None:
            return tokens
        tokens = self._older.get(key)
        if tokens is None:
            tokens = self.count(text)
        with self._lock:
            if len(self.younger) >= self._entries_max:
                self.younger, self._older = {}, self.younger
            self.younger[key] = tokens
        return tokens


class Tokenizer:
    """Counts for every model. Calls may come from any thread; longer ones should (`characters`).

    `exact_chars_max` bounds the characters of one prompt, or of one text, that are tokenised; the texts beyond it count as
    their UTF-8 bytes / 4. `memo_entries_max` bounds the remembered counts, for each encoding and generation.
    """

    def __init__(
        self,
        encodings: Mapping[str, tiktoken.Encoding],
        *,
        exact_chars_max: int = 1_000_000,
        memo_entries_max: int = 4096,
    ) -> None:
        self._counters = {name: _Counter(encodings[name], memo_entries_max) for name in PATTERNS}
        self._exact_chars_max = exact_chars_max

    @classmethod
    def load(cls, ranks: Callable[[str], bytes]) -> Self:
        """Both encodings, built from `ranks(name)` in tiktoken's format; takes about half a second and 65 MB.

        Raises ValueError for ranks that cannot be read, and whatever `ranks` raises.
        """
        return cls(read_encodings(ranks))

    def text(self, text: str, model: str) -> int:
        """Tokens of `text` for `model`."""
        if len(text) > self._exact_chars_max:
            return _approximate(text)
        return self._counters[encoding_name(model)].count(text)

    def prompt(self, prompt: Prompt, model: str) -> int:
        """Input tokens of `prompt` for `model`, by the formula of rule T1-T4."""
        name, constants = _judged(model)
        counter = self._counters[name]
        texts, tokens, others = prompts.parts(prompt, constants)
        left = self._exact_chars_max - sum(map(len, texts))
        if left < 0:
            return tokens + counter.count_all(chain(texts, others), self._exact_chars_max)
        try:
            tokens += sum(map(counter.younger.__getitem__, zip(map(hash, texts), map(len, texts), strict=True)))
        except KeyError:
            tokens += sum(map(counter.count_once, texts))
        return tokens + counter.count_all(others, left) if others else tokens

    def characters(self, prompt: Prompt) -> int:
        """How much there is to count, in characters: cheap, and not looked at further once it is plainly large.

        Images and other attachments do not matter here, many small messages do.
        """
        seen = 0
        for piece in prompts.pieces(prompt, _ANY_MODEL):
            seen += _PIECE_CHARACTERS if isinstance(piece, int) else _PIECE_CHARACTERS + len(piece)
            if seen > _CHARACTERS_SEEN_MAX:
                break
        return seen


def approximate(prompt: Prompt) -> int:
    """Input tokens of `prompt` for any model, its texts by their bytes: for many prompts at a time."""
    pieces = prompts.pieces(prompt, _ANY_MODEL)
    return sum(piece if isinstance(piece, int) else _approximate(piece) for piece in pieces)


@cache
def read_encodings(ranks: Callable[[str], bytes]) -> dict[str, tiktoken.Encoding]:
    """Both encodings by name, without special tokens: nothing a client writes is ever one. Read once from each source, so that
    workers have those of the process they are copies of. Raises as `Tokenizer.load`.
    """
    return {name: _encoding(name, ranks(name)) for name in PATTERNS}


def encoding_name(model: str) -> str:
    """The encoding of `model`: o200k_base unless it is known to be cl100k_base (rule M1-M3)."""
    return _judged(model)[0]


@lru_cache(_MODELS_MAX)
def _judged(model: str) -> tuple[str, prompts.Rates]:
    """The encoding of `model` by its name, and its constants."""
    bare = _bare(model)
    name = CL100K if bare in _CL100K_MODELS or bare.startswith(_CL100K_PREFIXES) else O200K
    return name, prompts.rates(bare, name)


def _bare(model: str) -> str:
    """`model` without provider and without what fine-tuning adds to its name."""
    matched = _BARE_MODEL.match(model)
    return matched[1] if matched else model


def _slices(text: str) -> Iterator[str]:
    """`text` in parts of at most _SLICE_CHARACTERS, cut before a blank where there is one.

    Both encodings cut there too, so that the parts have as many tokens as the whole; a seam within a longer run of anything
    costs a few.
    """
    start = 0
    while len(text) - start > _SLICE_CHARACTERS:
        end = start + _SLICE_CHARACTERS
        cut = text.rfind(" ", start + 1, end)
        yield text[start : (end := cut if cut > start else end)]
        start = end
    yield text[start:]


def _approximate(text: str) -> int:
    size_bytes = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size_bytes // _BYTES_PER_TOKEN)


def _encoding(name: str, ranks: bytes) -> tiktoken.Encoding:
    try:
        pairs = (line.split() for line in ranks.splitlines())
        mergeable = {base64.b64decode(token): int(rank) for token, rank in pairs}
    except ValueError as error:
        raise ValueError(f"the ranks of {name} cannot be read: {error}") from error
    if len(mergeable) < 256:
        raise ValueError(f"the ranks of {name} do not cover every byte")
    encoding = tiktoken.Encoding(name, pat_str=PATTERNS[name], mergeable_ranks=mergeable, special_tokens={})
    mergeable.clear()  # the encoder has its own; the encoding would keep this one, 30 MB that nothing here asks for
    return encoding
