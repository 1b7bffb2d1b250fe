"""JSON read from the front, value by value, as strictly as `strict_json` reads it.

A header of half a million tensors, or a report on as many, is never in memory as a whole, nor parsed in one call, which
would hold the interpreter's lock for seconds while a signal waits.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator
from json import JSONDecodeError
from re import compile as compile_regex
from typing import Any

from qdqcli.escape import MalformedError, escape_name
from qdqcli.tensors.strict_json import check_room, decoder, without_surrogates

WINDOW_BYTES = 1 << 20
"""Read at a time: many values, parsed in milliseconds. One that is longer makes the window grow."""

_SPACE = compile_regex(r"[ \t\n\r]*")
_BLANKS = ("", " ", "\t", "\n", "\r")
"""What has to be skipped; the empty text at the window's end may hide more of it."""
_PLAIN_KEY = compile_regex(r'[ \t\n\r]*"([^"\\\x00-\x1f]*+)"[ \t\n\r]*:[ \t\n\r]*')
"""A key without escapes, which almost all are, and its colon."""
_STARTS = (*'{["-0123456789tfn',)
"""How JSON values start."""
_ENDS = (",", "}", "]", *" \t\n\r")
"""What may follow a value."""
_LONGEST_WORD = 16
"""Characters: a word, an escape or a number's sign and point that the window's end cuts is shorter."""


class JsonStream:
    """The JSON text whose UTF-8 bytes are `pieces`; objects in its values are what `make_object` makes of their pairs.

    `members` or `items` walk through the outer object or list; what they stop at is taken with `value`, or walked
    through in its turn. Lone surrogates are refused unless `surrogates`: reports spell file names with them.

    Raises:
        MalformedError: (in every method) not UTF-8, not JSON, nested too deeply, or a single value that would take more
            memory than `strict_json.MAX_ROOM`.
    """

    def __init__(
        self, pieces: Iterable[bytes], make_object: Callable[[Any], object], *, surrogates: bool = False
    ) -> None:
        self._pieces = iter(pieces)
        self._decode = getincrementaldecoder("utf-8")().decode
        self._make_object = make_object
        self._surrogates = surrogates
        self._text = ""
        self._at = 0
        self._before = 0
        """Characters before the window."""
        self._has_ended = False
        self._read_on()

    def members(self) -> Iterator[str]:
        """The key of each member of the object that comes next; the caller takes its value before the next."""
        if not self._begins("{", "}", "object"):
            return
        while True:
            if plain := _PLAIN_KEY.match(self._text, self._at):
                key, self._at = plain[1], plain.end()
            else:
                key = self._key()
            yield key
            if self._take(",}") == "}":
                return

    def items(self) -> Iterator[None]:
        """Stop at each item of the list that comes next; the caller takes it."""
        if not self._begins("[", "]", "list"):
            return
        while True:
            yield
            if self._take(",]") == "]":
                return

    def is_list(self) -> bool:
        """Whether a list comes next."""
        return self._peek() == "["

    def value(self) -> object:
        """The value that comes next, whole."""
        if self._text[self._at : self._at + 1] in _BLANKS:
            self._peek()
        while True:
            try:
                value, end = self._decode_value(self._text, self._at)
            except JSONDecodeError as error:
                self._read_on_or_raise(error)
            except RecursionError as error:
                raise MalformedError("is nested too deeply") from error
            except ValueError as error:  # an integer of more digits than Python converts
                raise MalformedError(f"is not JSON: {escape_name(str(error))}") from error
            else:
                # A number may go on behind the window's end, and of `1e+` the decoder takes the 1.
                if self._text[end : end + 1] in _ENDS or end < len(self._text) - _LONGEST_WORD or not self._read_on():
                    self._at = end
                    if self._has_escapes and isinstance(value, str):
                        without_surrogates(value)
                    return value

    def end(self) -> None:
        """Check that nothing but blanks is left."""
        if self._peek():
            raise MalformedError(f"is not JSON: Extra data (character {self._before + self._at})")

    def _key(self) -> str:
        if self._peek() != '"':
            raise self._unexpected("a key")
        key = str(self.value())
        self._take(":")
        return key

    def _begins(self, opening: str, closing: str, kind: str) -> bool:
        """Whether the object or list that comes next holds something; it is entered."""
        if (found := self._peek()) != opening and found in _STARTS:
            raise MalformedError(f"is not a JSON {kind}")
        self._take(opening)
        if self._peek() != closing:
            return True
        self._at += 1
        return False

    def _take(self, expected: str) -> str:
        """The next character, which must be one of `expected`."""
        char = self._text[self._at : self._at + 1]
        if char in _BLANKS:
            char = self._peek()
        if not char or char not in expected:
            raise self._unexpected(" or ".join(f"'{char}'" for char in expected))
        self._at += 1
        return char

    def _peek(self) -> str:
        """The next character that is no blank; none at the end."""
        while True:
            char = self._text[self._at : self._at + 1]
            if char not in _BLANKS:
                return char
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self._at == len(self._text) and not self._read_on():
                return ""

    def _read_on_or_raise(self, error: JSONDecodeError) -> None:
        """Read on where the window's end may be what is wrong."""
        may_be_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _LONGEST_WORD
        if not (may_be_cut and self._read_on()):
            where = self._before + error.pos
            raise MalformedError(f"is not JSON: {error.msg} (character {where})") from error

    def _read_on(self) -> bool:
        """Move the window on, twice as long if nothing in it could be taken; False at the end of the text."""
        if self._has_ended:
            return False
        parts = [self._text[self._at :]]
        wanted = max(len(parts[0]), WINDOW_BYTES)
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
        if len(self._text) > 2 * WINDOW_BYTES:
            check_room(self._text)
        self._has_escapes = "\\u" in self._text and not self._surrogates
        self._decode_value = decoder(self._text, self._make_object, surrogates=self._surrogates).raw_decode
        return True

    def _unexpected(self, expected: str) -> MalformedError:
        found = self._text[self._at : self._at + 1]
        what = {"": "the end", "\ufeff": "a byte order mark (BOM)"}.get(found, f"'{escape_name(found)}'")
        return MalformedError(f"is not JSON: {what} at character {self._before + self._at}, {expected} expected")
