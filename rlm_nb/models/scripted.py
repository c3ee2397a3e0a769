"""A model that says what a script says: for demonstrations, tests and benchmarks, without a key."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config, Section, TokenPrices, check_is_file
from rlm_nb.errors import (
    CancelledError,
    ConfigError,
    ModelError,
    ModelUnavailableError,
    RefusedKeyError,
    RequestRefusedError,
    UnknownModelError,
)
from rlm_nb.models.metered import configured_price
from rlm_nb.protocols import Price
from rlm_nb.records import Reply, Request, StopReason, Usage

PIECES = 8
"""Into how many pieces a reply is cut when somebody listens."""

ERRORS: Mapping[str, tuple[type[ModelError], Usage | None]] = {
    "unavailable": (ModelUnavailableError, Usage()),
    "lost": (ModelUnavailableError, None),
    "refused key": (RefusedKeyError, Usage()),
    "unknown model": (UnknownModelError, Usage()),
    "refused request": (RequestRefusedError, Usage()),
}
"""What can go wrong with a reply, and what it charges; `lost` breaks off halfway and nobody knows."""


class _Counts(Section):
    """The fields of `records.Usage`."""

    input_tokens: int = Field(0, ge=0)
    output_tokens: int = Field(0, ge=0)
    cache_read_tokens: int = Field(0, ge=0)
    cache_write_tokens: int = Field(0, ge=0)


class ScriptedReply(Section):
    """One reply of a script, when it is more than its text.

    Args:
        text: What is said, or a function that finds it for the request (only in Python).
        stop_reason: Why it ends: `end`, `max_tokens` or `refusal`.
        delay: Seconds that it takes; without it, the script's `delay`.
        usage: What it counts; without it, about a token for every four characters.
        error: What goes wrong instead, one of `ERRORS`.
        times: How often that goes wrong before the text is said; without it, always.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    text: str | Callable[[Request], str] = ""
    stop_reason: StopReason = "end"
    delay: float | None = Field(None, ge=0)
    usage: _Counts | None = None
    error: Literal["unavailable", "lost", "refused key", "unknown model", "refused request"] | None = None
    times: int | None = Field(None, gt=0)


def _as_reply(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) or callable(value) else value


def _as_pattern(value: Any) -> Any:
    try:
        return re.compile(value, re.DOTALL) if isinstance(value, str) else value
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None


_Line = Annotated[ScriptedReply, BeforeValidator(_as_reply)]
_Pattern = Annotated[re.Pattern[str], BeforeValidator(_as_pattern)]


class _Match(Section):
    """An entry of `prompts`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    pattern: _Pattern
    agent: str = "*"
    reply: _Line | None = None
    replies: tuple[_Line, ...] = ()

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.reply is None) == (not self.replies):
            raise ValueError("needs either `reply`, for an llm_query, or `replies`, for the turns of an agent")
        return self

    def fits(self, request: Request) -> bool:
        """Whether it is about this request; an agent's task stands in the first message of its conversation."""
        for_query = self.reply is not None
        return (
            for_query == (request.turn == 0)
            and fnmatchcase(request.agent, self.agent)
            and self.pattern.search(request.messages[0].content) is not None
        )


class _Script(Section):
    """A whole file."""

    price: TokenPrices | None = None
    delay: float = Field(0.0, ge=0)
    repeat: bool = False
    agents: dict[str, tuple[_Line, ...]] = Field(default_factory=dict)
    prompts: tuple[_Match, ...] = ()


class ScriptedModel:
    """A model that says what a YAML file says.

    The file, of which every part may be left out:

        price: {input: 3, output: 15}     # US dollars per million tokens, to see a budget at work
        delay: 0.2                        # seconds that a reply takes
        repeat: false                     # true: who has no line left says the last one again

        agents:                           # by path, or by a pattern such as root.* (a * matches dots too)
          root:                           # one reply a turn
            - |
              I look around first.
              ```python
              print(sorted(WORKDIR.iterdir()))
              ```
            - text: "```python\\nFINAL('done')\\n```"
              delay: 1.5
              stop_reason: end            # or max_tokens, refusal
              usage: {input_tokens: 900, output_tokens: 40}
            - error: unavailable          # or lost, refused key, unknown model, refused request
              times: 1                    # only the first time that this turn is asked for
              text: What is said then.

        prompts:                          # by a regular expression, searched in the first message
          - pattern: "Summari[sz]e"       # `reply` answers an llm_query
            reply: A short summary.
          - pattern: "count the TODOs"    # `replies` are the turns of an agent with such a task
            agent: root.*                 # and with such a path
            replies: ["```python\\nFINAL(3)\\n```"]

    For an agent's turn, an exact path comes first, then `prompts` in order, then patterns of paths in order; for an
    llm_query, `prompts` in order. A reply depends on agent, turn and prompt only, so agents may run in any order.

    Args:
        script: The values of such a file, where a text may also be a function from the request.
        source: What the script is called in errors.
        name: The model's name; without it, `scripted:` and the source.
    """

    def __init__(self, script: Mapping[str, Any], *, source: str = "script", name: str | None = None) -> None:
        try:
            self._script = _Script.model_validate(script)
        except ValidationError as error:
            raise ConfigError("\n".join(f"{source}: {fault}" for fault in _faults(error))) from None
        self._source = source
        self._name = name or f"scripted:{source}"
        self._failed: Counter[tuple[str, int, str]] = Counter()
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: Config, secrets: Mapping[str, SecretStr]) -> Self:
        """The script that `model.name` names, as `scripted:FILE`."""
        path = Path(config.model.name.removeprefix("scripted:")).expanduser()
        return cls.read(path, name=config.model.name)

    @classmethod
    def read(cls, path: Path, *, name: str | None = None) -> Self:
        """The script in a file.

        Raises:
            ConfigError: It cannot be read or is no script; the message names the place.
        """
        try:
            check_is_file(path)
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except RecursionError:
            raise ConfigError(f"{path}: not valid YAML: nested too deeply") from None
        except yaml.YAMLError as error:
            where = f"line {mark.line + 1}: " if (mark := getattr(error, "problem_mark", None)) else ""
            raise ConfigError(f"{path}: {where}not valid YAML: {getattr(error, 'problem', None) or error}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        return cls(values if values is not None else {}, source=str(path), name=name)

    @classmethod
    def of(
        cls,
        agents: Mapping[str, Sequence[Any]],
        prompts: Sequence[tuple[str, Any]] = (),
        *,
        latency: float = 0.0,
        repeat: bool = False,
        price: Mapping[str, float] | None = None,
    ) -> Self:
        """A script written in Python.

        Args:
            agents: Replies by agent: a text, a function from the `Request` to a text, or a mapping as in a file.
            prompts: Patterns, each with the reply to an llm_query, or with a list of an agent's replies.
            latency: Seconds that every reply takes.
            repeat: Whether the last reply is said again for ever.
            price: US dollars per million tokens, as in a file.
        """
        matches = [
            {"pattern": pattern, "replies" if isinstance(said, list | tuple) else "reply": said}
            for pattern, said in prompts
        ]
        return cls({"agents": agents, "prompts": matches, "delay": latency, "repeat": repeat, "price": price})

    @property
    def name(self) -> str:
        """`scripted:` and the file."""
        return self._name

    @property
    def price(self) -> Price | None:
        """What the script's tokens cost, or `None` when it does not say."""
        return configured_price(self._script.price) if self._script.price is not None else None

    def complete(self, request: Request, cancel: Cancellation, on_text: Callable[[str], None] | None = None) -> Reply:
        """Say the line for this agent and turn; see `protocols.Model`.

        Raises:
            ModelError: The script has no such line, or says that an error comes here.
        """
        if cancel.is_cancelled():
            raise CancelledError(cancel.reason, usage=Usage())
        line = self._line(request)
        text = line.text(request) if callable(line.text) else line.text
        delay = self._script.delay if line.delay is None else line.delay
        if self._goes_wrong(line, request):
            assert line.error is not None
            kind, usage = ERRORS[line.error]
            _say(text[: len(text) // 2] if line.error == "lost" else "", delay, cancel, on_text)
            raise kind(f"{self._source}: {line.error}, as the script says ({_whose(request)})", usage=usage)
        _say(text, delay, cancel, on_text)
        usage = Usage(**line.usage.model_dump()) if line.usage is not None else _estimate(request, text)
        return Reply(text, usage, line.stop_reason, self.name)

    def _line(self, request: Request) -> ScriptedReply:
        """The reply for this agent, turn and prompt."""
        if request.turn == 0:
            for match in self._script.prompts:
                if match.reply is not None and match.fits(request):
                    return match.reply
            start = request.messages[-1].content[:80]
            raise ModelError(f"{self._source}: no entry of prompts has a reply to {start!r}", usage=Usage())
        for lines in self._parts(request):
            if request.turn <= len(lines):
                return lines[request.turn - 1]
            if self._script.repeat and lines:
                return lines[-1]
            only = f"only {len(lines)}" if lines else "none"
            raise ModelError(f"{self._source}: no reply left for {_whose(request)}: it has {only}", usage=Usage())
        raise ModelError(f"{self._source}: nothing is said by {_whose(request)}", usage=Usage())

    def _parts(self, request: Request) -> Iterator[Sequence[ScriptedReply]]:
        """The parts that this agent might have, the one that counts first."""
        agents = self._script.agents
        if request.agent in agents:
            yield agents[request.agent]
        for match in self._script.prompts:
            if match.replies and match.fits(request):
                yield match.replies
        for pattern, lines in agents.items():
            if fnmatchcase(request.agent, pattern):
                yield lines

    def _goes_wrong(self, line: ScriptedReply, request: Request) -> bool:
        if line.error is None or line.times is None:
            return line.error is not None
        key = (request.agent, request.turn, request.messages[-1].content if request.turn == 0 else "")
        with self._lock:
            self._failed[key] += 1
            return self._failed[key] <= line.times


def _say(text: str, delay: float, cancel: Cancellation, on_text: Callable[[str], None] | None) -> None:
    """Let `delay` seconds pass while the text goes out piece by piece."""
    size = max(1, -(-len(text) // PIECES))
    pieces = [text[at : at + size] for at in range(0, len(text), size)] if on_text is not None else []
    for piece in pieces or [""]:
        if delay:
            cancel.wait(delay / max(1, len(pieces)))
        cancel.check()
        if on_text is not None and piece:
            on_text(piece)


def _estimate(request: Request, text: str) -> Usage:
    asked = len(request.system) + sum(len(message.content) for message in request.messages)
    return Usage(input_tokens=asked // 4 + 1, output_tokens=len(text) // 4 + 1)


def _whose(request: Request) -> str:
    return f"agent {request.agent} in turn {request.turn}" if request.turn else f"an llm_query of {request.agent}"


def _faults(error: ValidationError) -> Iterator[str]:
    """Each fault of a script: its place, and what is wrong there."""
    for fault in error.errors():
        # Pydantic adds the branch of a union that it tried to the place: `text.str`, `text.callable`.
        path = [part for part in fault["loc"] if part not in ("str", "callable")]
        place = ".".join(str(part + 1) if isinstance(part, int) else part for part in path)
        if fault["type"] == "extra_forbidden":
            yield f"{place} is not a part of a script"
        elif fault["type"] == "model_type":
            yield f"{place or 'the file'}: expected a section with parts below it, found {fault['input']!r}"
        elif fault["type"] != "callable_type":
            yield f"{place}: {fault['msg'].removeprefix('Value error, ')}"
