"""Reads values out of what a model says; what is not plainly an answer is none, since asking again costs little."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import NoReturn

from rlm_nb.errors import SubcallError
from rlm_nb.records import JSON

_FENCED = re.compile(r"^(`{3,}|~{3,})[^\n`]*\n(.*?)^\1[`~]*[ \t]*$", re.DOTALL | re.MULTILINE)
_STRING_OR_COMMA = re.compile(r'("(?:[^"\\]|\\.)*+")|,(?=\s*[}\]])', re.DOTALL)
_IN_PROSE = re.compile(r"\A(?:[^\[{]*[:\n][ \t]*)?([\[{].*[\]}])[ \t]*(?:\n[^\]}]*)?\Z", re.DOTALL)


def parsed(reply: str) -> JSON:
    """The value in a reply: the whole of it, the one fenced block that is JSON, or an object or array beside its prose.

    Raises:
        SubcallError: There is none, or several.
    """
    try:
        return _read(reply)
    except SubcallError as error:
        fault = error
    if fences := [body for _, body in _FENCED.findall(reply)]:
        values = []
        for body in fences:
            try:
                values.append(_read(body))
            except SubcallError as error:
                fault = error
        if len(values) > 1:
            raise SubcallError("it has several blocks of JSON")
        if values:
            return values[0]
    # Brackets in a sentence are no answer: "I cannot tell [1]", "Unknown: {}".
    elif (
        (found := _IN_PROSE.match(reply))
        and (found.start(1) == 0 or found.end(1) == len(reply.rstrip()))
        and (value := _read(found[1]))
    ):
        return value
    raise fault


def _read(text: str) -> JSON:
    # A comma before a closing bracket goes, but not one within a string.
    text = _STRING_OR_COMMA.sub(lambda found: found[1] or "", text.strip())
    try:
        value: JSON = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise SubcallError("it is nested too deeply") from None
    except SubcallError:
        raise
    except ValueError as error:
        raise SubcallError(f"it is not JSON: {error}") from None
    return value


def _no_number(name: str) -> NoReturn:
    raise SubcallError(f"{name} is no number that JSON has")


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise SubcallError(f"{digits[:30]} is too large a number")
    return number


_AROUND = "\"'“”‘’«»`*_()[]{}"
_BOOLS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_REASONED = re.compile(r"(yes|no|true|false)\b([*_`\"'”’]*(?:[.,!:;]|\s+[-–—]|\n)[*_`\"'”’]*)\s+(.*)", re.DOTALL)
_TAKEN_BACK = re.compile(
    r"\?|n['’]t\b|\b(?:yes|no|true|false|not|none|nothing|nobody|never|neither|nor|cannot|without|hardly|barely|if|unless"
    r"|but|though|although|however|except|unclear|unknown|unsure|uncertain|missing|depend\w*|maybe|perhaps|possibly|probably"
    r"|might|may|could|would|should|wrong|incorrect|overstat\w*|exaggerat\w*|part(?:ly|ially)|only|tell|say|guess\w*)\b"
)


def yes_or_no(reply: str) -> bool:
    """Whether a reply says yes: alone, or with a reason that takes nothing back. Raises `SubcallError`."""
    said = reply.strip().casefold()
    # A number keeps what is before it: "-1" is not "1".
    alone = said.strip(_AROUND + " ").rstrip(_AROUND + ".,!:; ")
    if alone in _BOOLS:
        return _BOOLS[alone]
    reasoned = _REASONED.fullmatch(said.lstrip(_AROUND))
    if reasoned and not _TAKEN_BACK.search(reasoned[3]):
        return _BOOLS[reasoned[1]]
    raise SubcallError("it is neither yes nor no")


_HARMLESS = re.compile(
    r"(?:(?:so|thus|okay|ok|sure|well) )?"
    r"(?:(?:i(?: would|['’]d)? (?:choose|pick|select|say|answer)|my|the|final|best|correct|right|overall|it|this|that"
    r"|text) )*"
    r"(?:(?:answer|choice|category|class|classification|label|option|rating|result|severity|level|type|verdict|sentiment"
    r"|status|priority) )?(?:(?:is|would be|it['’]s|that['’]s|this is)(?: an?| the)? )?"
)


def one_of(reply: str, choices: Sequence[str]) -> str:
    """The choice that a reply names, and hardly says more. Raises `SubcallError`."""
    if reply in choices:
        return reply
    answer = _plain(reply)
    alike = [choice for choice in choices if _plain(choice) == answer]
    if not alike:
        # "This is not critical", "a false positive", "critical if …": whatever is not known to be harmless counts.
        ends = ((choice, f" {answer}".removesuffix(f" {_plain(choice)}")) for choice in choices if _plain(choice))
        alike = [choice for choice, rest in ends if rest != f" {answer}" and _HARMLESS.fullmatch(f"{rest[1:]} ")]
    if len(alike) != 1:
        raise SubcallError(f"it names {'several' if alike else 'none'} of the choices, or says more than that")
    return alike[0]


def _plain(text: str) -> str:
    """Without case, and without what stands around words: quotes, stars, a full stop. A question mark stays."""
    words = (word.strip(_AROUND).rstrip(_AROUND + ".,!:;") for word in text.casefold().split())
    return " ".join(word for word in words if word)
