"""Streaming JSON reader, as strict as `strict_json`.

A header of half a million tensors, or a report on as many, is never in memory as a whole, nor parsed in one call: that
would hold the GIL for seconds and delay signals.
"""

from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator
from json import JSONDecodeError
from re import compile as compile_regex

from qdqcli.escape import MalformedError, escape_name
from qdqcli.tensors.strict_json import MakeObject, check_parse_memory, decoder, without_surrogates

WINDOW_BYTES = 1 << 20
"""Bytes read at a time: many values, parsed in milliseconds. A longer value makes the window grow."""

_SPACE = compile_regex(r"[ \t\n\r]*")
_BLANKS = " \t\n\r"
"""Characters to skip; the empty string at the window's end, which is in it too, may be followed by more of them."""
_NEXT_KEY = compile_regex(r'[ \t\n\r]*,[ \t\n\r]*"([^"\\\x00-\x1f]*+)"[ \t\n\r]*:[ \t\n\r]*')
"""A key without escapes (almost every key) between its comma and its colon."""
_STARTS = (*'{["-0123456789tfn',)
"""First characters of JSON values."""
_ENDS = (",", "}", "]", *" \t\n\r")
"""Characters that may follow a value."""
_LONGEST_WORD = 16
"""Maximum length of a word, an escape, or a number's sign and point cut off at the window's end."""


class JsonStream:
    """A JSON text given as `pieces` of UTF-8; `make_object` builds objects from their key-value pairs.

    `members` and `items` iterate over the outer object or list; at each stop, take the value with `value` or iterate
    over it in turn. Lone surrogates are refused unless `surrogates` is set: reports spell file names with them.

    Raises:
        MalformedError: (every method) not UTF-8, not JSON, nested too deeply, or a single value that would take more
            memory than `strict_json.MAX_MEMORY`.
    """

    def __init__(
        self,
        pieces: Iterable[bytes | memoryview],
        make_object: MakeObject,
        *,
        surrogates: bool = False,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self._pieces = iter(pieces)
        self._decode = getincrementaldecoder("utf-8")().decode
        self._make_object = make_object
        self._surrogates = surrogates
        self._window_bytes = window_bytes
        self._text = ""
        self._at = 0
        self._before = 0
        """Number of characters before the window."""
        self._has_ended = False
        self._read_on()

    def members(self) -> Iterator[str]:
        """Yield each key of the next object; the caller takes its value before advancing."""
        if not self._begins("{", "}", "object"):
            return
        key = self._key()
        while True:
            yield key
            if plain := _NEXT_KEY.match(self._text, self._at):
                key, self._at = plain[1], plain.end()
            elif self._take(",}") == "}":
                return
            else:
                key = self._key()

    def items(self) -> Iterator[None]:
        """Stop at each item of the next list; the caller takes it."""
        if not self._begins("[", "]", "list"):
            return
        while True:
            yield
            if self._take(",]") == "]":
                return

    def is_list(self) -> bool:
        """Tell whether the next value is a list."""
        return self._peek() == "["

    def value(self) -> object:
        """Read the whole next value."""
        if self._text[self._at : self._at + 1] in _BLANKS:
            self._peek()
        while True:
            try:
                value, end = self._decode_value(self._text, self._at)
            except JSONDecodeError as error:
                self._read_on_or_raise(error)
            except RecursionError as error:
                raise MalformedError("is nested too deeply") from error
            except ValueError as error:  # an integer with more digits than Python converts
                raise MalformedError(f"is not JSON: {escape_name(str(error))}") from error
            else:
                # A number may continue beyond the window's end, and the decoder reads `1e+` as 1.
                if end < len(self._text) - _LONGEST_WORD or self._text[end : end + 1] in _ENDS or not self._read_on():
                    self._at = end
                    if self._has_escapes and isinstance(value, str):
                        without_surrogates(value)
                    return value

    def end(self) -> None:
        """Check that only whitespace is left."""
        if self._peek():
            raise MalformedError(f"is not JSON: Extra data (character {self._before + self._at})")

    def _key(self) -> str:
        if self._peek() != '"':
            raise self._unexpected("a key")
        key = str(self.value())
        self._take(":")
        return key

    def _begins(self, opening: str, closing: str, kind: str) -> bool:
        """Enter the next object or list; tell whether it has members."""
        if (found := self._peek()) != opening and found in _STARTS:
            raise MalformedError(f"is not a JSON {kind}")
        self._take(opening)
        if self._peek() != closing:
            return True
        self._at += 1
        return False

    def _take(self, expected: str) -> str:
        """Consume the next character, which must be one of `expected`."""
        char = self._text[self._at : self._at + 1]
        if char in _BLANKS:
            char = self._peek()
        if not char or char not in expected:
            raise self._unexpected(" or ".join(f"'{char}'" for char in expected))
        self._at += 1
        return char

    def _peek(self) -> str:
        """Return the next non-blank character; empty at the end."""
        while True:
            char = self._text[self._at : self._at + 1]
            if char not in _BLANKS:
                return char
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it also matches nothing
            if self._at == len(self._text) and not self._read_on():
                return ""

    def _read_on_or_raise(self, error: JSONDecodeError) -> None:
        """Read more input if the window's end may have caused the error, else raise it."""
        may_be_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _LONGEST_WORD
        if not (may_be_cut and self._read_on()):
            where = self._before + error.pos
            raise MalformedError(f"is not JSON: {error.msg} (character {where})") from error

    def _read_on(self) -> bool:
        """Advance the window, doubling it if nothing was consumed; return False at the end of the text."""
        if self._has_ended:
            return False
        parts = [self._text[self._at :]]
        wanted = max(len(parts[0]), self._window_bytes)
        self._before += self._at
        while wanted > 0 and not self._has_ended:
            piece = next(self._pieces, None)
            self._has_ended = piece is None
            try:
                parts.append(self._decode(piece or b"", piece is None))
            except UnicodeDecodeError as error:
                raise MalformedError("is not UTF-8") from error
            wanted -= len(piece or b"")
        self._text = "".join(parts)
        self._at = 0
        if len(self._text) > 2 * self._window_bytes:
            check_parse_memory(self._text)
        self._has_escapes = "\\u" in self._text and not self._surrogates
        self._decode_value = decoder(self._text, self._make_object, surrogates=self._surrogates).raw_decode
        return True

    def _unexpected(self, expected: str) -> MalformedError:
        found = self._text[self._at : self._at + 1]
        what = {"": "the end", "\ufeff": "a byte order mark (BOM)"}.get(found, f"'{escape_name(found)}'")
        return MalformedError(f"is not JSON: {what} at character {self._before + self._at}, {expected} expected")
