"""Questions that a task asks a model, each about one bounded chunk: for text, JSON, yes or no, one of several."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, overload

from pydantic import BaseModel

from rlm_nb.errors import RLMError, SubcallError
from rlm_nb.records import JSON
from rlm_nb.tasks.guards import current
from rlm_nb.tasks.replies import one_of, parsed, yes_or_no
from rlm_nb.tasks.schemas import wanted

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

MISSING: Any = object()
"""No default: what cannot be used is raised."""


def semantic_subcall(prompt: str, context_chunk: str) -> str:
    """What the model says to `prompt` about a chunk of text.

    Identical calls in one run of a task are answered once.

    Raises:
        BudgetExceededError: A limit is reached: money, tokens of one call, time, or depth.
        ModelError: There is no reply, or the model refuses.
    """
    _check(prompt, context_chunk)
    return current().ask(prompt, context_chunk, "text")


@overload
def semantic_subcall_batched(
    prompt: str, context_chunks: Iterable[str], *, failures: Literal["raise"] = "raise"
) -> list[str]: ...


@overload
def semantic_subcall_batched(
    prompt: str, context_chunks: Iterable[str], *, failures: Literal["keep"]
) -> list[str | RLMError]: ...


def semantic_subcall_batched(
    prompt: str, context_chunks: Iterable[str], *, failures: Literal["raise", "keep"] = "raise"
) -> Any:
    """What the model says to `prompt` about each of many chunks, asked at the same time; the answers in their order.

    Args:
        prompt: The question.
        context_chunks: The chunks.
        failures: `raise` the first one once all have ended, or `keep` each in its place, as an exception.

    Raises:
        BudgetExceededError: A limit is reached.
        ModelError: There is no reply.
    """
    if failures not in ("raise", "keep"):
        raise ValueError(f"failures must be raise or keep, not {failures!r}")
    chunks = list(context_chunks) if not isinstance(context_chunks, str) else [context_chunks]
    for chunk in chunks:
        _check(prompt, chunk)
    answers: list[str | RLMError] = []
    for wait in current().ask_all([(prompt, chunk) for chunk in chunks], "text"):
        try:
            answers.append(wait())
        except RLMError as error:
            answers.append(error)
    if failures == "raise":
        for answer in answers:
            if isinstance(answer, RLMError):
                raise answer
    return answers


@overload
def semantic_subcall_json(prompt: str, context_chunk: str, default: Any = MISSING, *, schema: type[M]) -> M: ...


@overload
def semantic_subcall_json(
    prompt: str, context_chunk: str, default: Any = MISSING, *, schema: dict[str, JSON] | None = None
) -> Any: ...


def semantic_subcall_json(
    prompt: str,
    context_chunk: str,
    default: Any = MISSING,
    *,
    schema: type[BaseModel] | dict[str, JSON] | None = None,
) -> Any:
    """The model's answer as a value: an object, an array, a number, ….

    Fences around it, commas before a closing bracket, and prose on lines of its own are forgiven. What cannot be read,
    or does not fit `schema`, is asked for once more, with what was wrong.

    Args:
        prompt: The question; it should say what the answer looks like, unless `schema` does.
        context_chunk: The text that it is about.
        default: Given when the second answer is no use either; without it, that is raised.
        schema: A pydantic model, of which an instance is given, or a JSON schema, which must hold all that it refers
            to: nothing is fetched.

    Raises:
        TypeError: `schema` is neither; nothing was asked.
        ValueError: `schema` is a dict, but no JSON schema, or refers to what is not in it; nothing was asked.
        SubcallError: The answer is no use, and there is no default.
        BudgetExceededError: A limit is reached.
        ModelError: There is no reply.
    """
    _check(prompt, context_chunk)
    asked = f"{prompt}\n\nAnswer with valid JSON and nothing else."
    if schema is None:
        return _asked(asked, context_chunk, "json", parsed, default, {"prompt": prompt})
    shape = wanted(schema)
    asked += f" It must fit this JSON schema: {json.dumps(shape.described)}"
    given = {"prompt": prompt, "schema": shape.described}
    return _asked(asked, context_chunk, "json", lambda reply: shape.fitted(parsed(reply)), default, given)


def semantic_subcall_bool(prompt: str, context_chunk: str, default: bool = MISSING) -> bool:
    """Whether the model says yes, rather than no, and nothing that takes it back; else it is asked once more.

    Raises:
        SubcallError: The second answer is neither, and there is no default.
        BudgetExceededError: A limit is reached.
        ModelError: There is no reply.
    """
    _check(prompt, context_chunk)
    asked = f"{prompt}\n\nAnswer with yes or no and nothing else."
    return _asked(asked, context_chunk, "bool", yes_or_no, default, {"prompt": prompt})


def semantic_subcall_choice(
    prompt: str, context_chunk: str, choices: Iterable[str], default: str | None = MISSING
) -> str:
    """The one of `choices` that the model names: exactly, else but for case and punctuation, else as "The answer is …".

    An answer that says anything more is asked for once more.

    Raises:
        ValueError: There are no choices.
        SubcallError: The second answer is no use either, and there is no default.
        BudgetExceededError: A limit is reached.
        ModelError: There is no reply.
    """
    choices = [] if isinstance(choices, str) else list(choices)
    if not choices or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise ValueError(f"choices must be a list of words, not {choices!r}")
    _check(prompt, context_chunk)
    given: dict[str, JSON] = {"prompt": prompt, "choices": choices}
    asked = f"{prompt}\n\nAnswer with one of these and nothing else: {', '.join(choices)}"
    return _asked(asked, context_chunk, "choice", lambda reply: one_of(reply, choices), default, given)


def _asked(prompt: str, chunk: str, kind: str, read: Callable[[str], T], default: Any, given: dict[str, JSON]) -> T:
    """Ask until the answer can be read, but no more than twice."""
    guards = current()
    reply = guards.ask(prompt, chunk, kind, given)
    try:
        return read(reply)
    except SubcallError as error:
        fault = str(error)
    again = f"{prompt}\n\nYour last answer could not be used ({fault}). It was: {reply[:500]}"
    reply = guards.ask(again, chunk, kind, {**given, "again": fault})
    try:
        return read(reply)
    except SubcallError:
        if default is MISSING:
            raise
        result: T = default
        return result


def _check(prompt: str, chunk: str) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("the prompt must be a string that says something")
    if not isinstance(chunk, str):
        raise TypeError(f"the chunk must be a string, such as context_slice gives, not {type(chunk).__name__}")
