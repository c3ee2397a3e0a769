"""Makes of a pattern one for UTF-8 bytes that finds every place where the pattern could match, and maybe some more.

Most of a long text is passed over without its being decoded; what is found is searched with the pattern itself. What is
not understood here makes no byte pattern at all: then everything is decoded.
"""

from __future__ import annotations

import string
from dataclasses import dataclass

import regex

CLASSES = {"d": rb"0-9", "w": rb"0-9A-Za-z_", "s": rb"\t-\r\x20"}
"""What of ASCII is in the classes; beyond it, they may hold anything."""

CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}

KIN = {"k": b"\xe2\x84\xaa", "s": b"\xc5\xbf", "i": b"\xc4[\xb0\xb1]"}
"""Characters beyond ASCII that equal a letter where case does not matter: the Kelvin sign, the long s, Turkish i."""


@dataclass(frozen=True)
class _Set:
    """One character out of several.

    Args:
        plain: Those of ASCII, as they stand between brackets.
        other: Whether it may be one beyond ASCII; which one is not asked.
    """

    plain: bytes
    other: bool

    def times(self, least: int, most: int | None) -> bytes:
        # A repeated set of single bytes needs no memory for the way that it came, as a repeated group would.
        inside = self.plain + (rb"\x80-\xff" if self.other else b"")
        if most is not None and self.other:
            most *= 4  # bytes of a character
        return b"[%b]{%d,%b}" % (inside, least, b"" if most is None else b"%d" % most)


ANY = _Set(rb"\x00-\x7f", other=True)


def byte_pattern(pattern: str, *, case_sensitive: bool) -> regex.Pattern[bytes] | None:
    """A pattern that matches at the first byte of every character at which `pattern` can match; `None` without one.

    Args:
        pattern: A valid pattern.
        case_sensitive: Whether `a` and `A` differ, unless the pattern begins with `(?i)`.
    """
    flags = regex.match(r"\(\?([ims]+)\)", pattern)
    if flags:
        pattern, case_sensitive = pattern[flags.end() :], case_sensitive and "i" not in flags[1]
    try:
        translated = _Translation(pattern, case_sensitive, dot_is_all=bool(flags and "s" in flags[1])).whole()
        made: regex.Pattern[bytes] = regex.compile(translated, 0 if case_sensitive else regex.IGNORECASE)
    except (_NotUnderstoodError, regex.error, RecursionError, MemoryError):
        return None
    return None if made.match(b"") else made  # one that can match nothing passes over nothing


class _NotUnderstoodError(Exception):
    """The pattern has something that is not known here."""


class _Translation:
    """One pass over a pattern."""

    def __init__(self, pattern: str, case_sensitive: bool, *, dot_is_all: bool) -> None:
        self._pattern, self._case_sensitive, self._dot_is_all = pattern, case_sensitive, dot_is_all
        self._at = 0

    def whole(self) -> bytes:
        translated = self._alternatives()
        if self._at < len(self._pattern):
            raise _NotUnderstoodError
        return translated

    def _alternatives(self) -> bytes:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        return b"|".join(branches)

    def _sequence(self) -> bytes:
        atoms = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            atom = self._atom()
            least, most = self._quantifier()
            if isinstance(atom, _Set):
                atoms.append(atom.times(least, most))
            elif atom and (least, most) != (1, 1):
                atoms.append(b"(?:%b){%d,%b}" % (atom, least, b"" if most is None else b"%d" % most))
            else:
                atoms.append(atom)
        return b"".join(atoms)

    def _atom(self) -> bytes | _Set:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return self._set()
        if character == "\\":
            return self._escape()
        if character == ".":
            return ANY if self._dot_is_all else _Set(rb"\x00-\x09\x0b-\x7f", other=True)
        if character in "^$":
            return b""  # what only looks may see anything
        if character in "*+?{}":
            raise _NotUnderstoodError
        return self._literal(character)

    def _group(self) -> bytes:
        looks = False
        if self._take("?"):
            looks = any(self._take(mark) for mark in ("=", "!", "<=", "<!"))
            if not looks and not self._take(":"):
                self._take("P")
                if not (name := regex.compile(r"<\w+>").match(self._pattern, self._at)):
                    raise _NotUnderstoodError
                self._at = name.end()
        inside = self._alternatives()
        if not self._take(")"):
            raise _NotUnderstoodError
        return b"" if looks else b"(?:%b)" % inside

    def _escape(self) -> bytes | _Set:
        character = self._next()
        if character in CLASSES:
            return _Set(CLASSES[character], other=True)
        if character.lower() in CLASSES:
            return self._all_but(CLASSES[character.lower()])
        if character in "bBAZ":
            return b""
        return self._literal(self._escaped(character))

    def _escaped(self, character: str) -> str:
        """The one character that a backslash and this one stand for."""
        if character in CONTROLS:
            return CONTROLS[character]
        if character in string.punctuation or character == " ":
            return character
        raise _NotUnderstoodError

    def _literal(self, character: str) -> bytes | _Set:
        if character.isascii():
            plain = regex.escape(character).encode()
            kin = None if self._case_sensitive else KIN.get(character.lower())
            return plain if kin is None else b"(?:%b|%b)" % (plain, kin)
        if not self._case_sensitive:
            # Its other case may be ASCII: the Kelvin sign's is.
            return ANY
        escaped: bytes = regex.escape(character.encode("utf-8", "surrogatepass"))
        return escaped

    def _set(self) -> _Set:
        negated = self._take("^")
        inside: list[bytes] = []
        other, foreign, is_first = negated or not self._case_sensitive, False, True
        while is_first or not self._take("]"):
            is_first = False
            if self._pattern[self._at : self._at + 2] in ("--", "&&", "||", "~~"):
                raise _NotUnderstoodError
            low = self._next()
            if low == "[":
                raise _NotUnderstoodError
            if low == "\\":
                low = self._next()
                if low in CLASSES:
                    inside.append(CLASSES[low])
                    other = True
                    continue
                low = self._escaped(low)
            high = self._end_of_range() or low
            if low.isascii():
                inside.append(b"\\x%02x-\\x%02x" % (ord(low), ord(high) if high.isascii() else 0x7F))
            foreign = foreign or not high.isascii()
        plain = b"".join(inside)
        if negated:
            return self._all_but(plain)
        # A character beyond ASCII may have its other case in it, as for a literal.
        return ANY if foreign and not self._case_sensitive else _Set(plain, other or foreign)

    def _all_but(self, plain: bytes) -> _Set:
        flags = 0 if self._case_sensitive else regex.IGNORECASE
        left_out = regex.compile(b"[%b]" % plain if plain else b"(?!)", flags)
        taken = (code for code in range(0x80) if not left_out.match(bytes([code])))
        return _Set(b"".join(b"\\x%02x" % code for code in taken), other=True)

    def _end_of_range(self) -> str:
        """What stands behind the dash of a range; empty when there is none."""
        if self._pattern[self._at : self._at + 1] != "-" or self._pattern[self._at + 1 : self._at + 2] == "]":
            return ""
        self._at += 1
        high = self._next()
        if high in "[-":
            raise _NotUnderstoodError
        return self._escaped(self._next()) if high == "\\" else high

    def _quantifier(self) -> tuple[int, int | None]:
        found = regex.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}").match(self._pattern, self._at)
        if not found:
            return 1, 1
        self._at = found.end()
        if self._take("+") or found[0] in ("{}", "{,}"):
            raise _NotUnderstoodError  # what is never given back would be more here than there
        self._take("?")
        if found[0] in _TIMES:
            return _TIMES[found[0]]
        least, comma, most = found.groups()
        return int(least or 0), int(most) if most else None if comma else int(least)

    def _take(self, mark: str) -> bool:
        if self._pattern.startswith(mark, self._at):
            self._at += len(mark)
            return True
        return False

    def _next(self) -> str:
        if self._at >= len(self._pattern):
            raise _NotUnderstoodError
        self._at += 1
        return self._pattern[self._at - 1]


_TIMES: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
