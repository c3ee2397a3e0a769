"""config.yaml, .env, RLM_* variables and flags, in that order, become one frozen object."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from rlm_nb.errors import ConfigError

PREFIX = "RLM_"
SHORT = {
    "RLM_MODEL": [("model", "name")],
    "RLM_MAX_COST": [("budget", "max_cost"), ("tasks", "max_cost")],
    "RLM_MAX_RUNTIME": [("tasks", "max_runtime")],
    "RLM_RUNS_DIR": [("runs", "dir")],
}
"""Variables that people expect under a shorter name than their section gives them, and what each of them sets."""

KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY")
"""The secrets that we know by name: read by the controller, never handed to a kernel, never written down."""


MOST_TOKENS, MOST_DOLLARS, MOST = 10**9, 1e12, 10**15
"""More than any one call can have, than anybody pays, and than anything is counted."""

SMALLEST_MEMORY = 256 << 20
SMALLEST_ROOM = 16 << 20
"""Bytes: what a kernel needs to start, and to run a first cell."""

_AMOUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>%|(?P<prefix>[kmgt])?(?P<binary>i(?=b))?b?)")
STREAMS = ("/dev/stdin", "/dev/fd/")
"""Settings may come from these as well: `-c <(…)` is one of the second kind."""

UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""What makes no YAML: a date that does not exist is a ValueError; nested too deeply it is the last."""


class Section(BaseModel):
    """A part of the settings: nothing unknown in it, nothing changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        wanted = {cls.model_fields[info.field_name].annotation, *get_args(cls.model_fields[info.field_name].annotation)}
        if isinstance(value, bool) and wanted & {int, float}:
            raise PydanticCustomError("int_type" if int in wanted else "float_type", "not a number")
        return value


def _bytes(amount: Any, whole: int) -> int:
    """`4GiB`, `500 MB` or `4000000000`; or a share of the whole, such as `50%`."""
    found = _AMOUNT.fullmatch(str(amount).strip().lower()) if isinstance(amount, int | str) else None
    number = float(found["number"]) if found else 0.0
    if found is None or (found["unit"] == "%" and not 0 < number <= 100):
        raise PydanticCustomError("amount", "expected bytes, text such as 4GiB, or a share such as 50%")
    if found["unit"] == "%":
        return int(number / 100 * whole)
    return int(number * (1024 if found["binary"] else 1000) ** " kmgt".index(found["prefix"] or " "))


class ModelSettings(Section):
    """Which model answers, and how it is reached."""

    name: str = Field("claude-sonnet-5-5", min_length=1)
    provider: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int = Field(16384, gt=0, lt=MOST_TOKENS)
    base_url: str | None = Field(None, repr=False)
    retries: int = Field(4, ge=0)
    timeout: float = Field(600, gt=0)

    @field_serializer("base_url", when_used="json")
    def _written_without_login(self, url: str | None) -> str | None:
        return None if url is None else without_login(url)


class RLMSettings(Section):
    """How far a tree of agents may grow, and for how long."""

    max_sandboxes: int = Field(50, gt=0)
    max_iterations: int = Field(50, gt=0)
    global_timeout: float = Field(3600, gt=0)
    result_truncation_limit: int = Field(10000, ge=200)
    max_depth: int = Field(5, ge=0)
    max_parallel: int = Field(8, gt=0)
    max_failures: int = Field(3, gt=0)


class TokenPrices(Section):
    """US dollars per million tokens of one model."""

    input: float = Field(ge=0, lt=MOST_DOLLARS)
    output: float = Field(ge=0, lt=MOST_DOLLARS)
    cache_read: float | None = Field(None, ge=0, lt=MOST_DOLLARS)
    cache_write: float | None = Field(None, ge=0, lt=MOST_DOLLARS)


class BudgetSettings(Section):
    """What a tree of agents may spend."""

    max_cost: float | None = Field(5.0, gt=0, lt=MOST_DOLLARS)
    max_input_tokens: int | None = Field(None, gt=0, lt=MOST)
    max_output_tokens: int | None = Field(None, gt=0, lt=MOST)
    max_calls: int | None = Field(None, gt=0, lt=MOST)
    file: Path | None = None
    unpriced: bool = False
    prices: dict[str, TokenPrices] = Field(default_factory=dict)


class KernelSettings(Section):
    """How kernels are started, and how patient we are with them."""

    start: Literal["auto", "cold"] = "auto"
    start_timeout: float = Field(60, gt=0)
    cell_timeout: float = Field(600, gt=0)
    inactivity_timeout: float | None = Field(None, gt=0)
    interrupt_grace: float = Field(5, gt=0)
    max_restarts: int = Field(3, ge=0)
    max_output_bytes: int = Field(1_000_000, ge=1000)
    memory_limit: int | str | None = "50%"
    processes: int | None = Field(512, ge=16)
    open_files: int | None = Field(4096, ge=256)
    file_size: int | str | None = "16GiB"
    disk_limit: int | str | None = "50%"
    attach: bool = True

    @field_validator("memory_limit", mode="before")
    @classmethod
    def _is_an_amount(cls, value: Any) -> Any:
        if value is not None and _bytes(value, whole=SMALLEST_MEMORY * 100) < SMALLEST_MEMORY:
            raise PydanticCustomError("too_little", "a kernel needs at least 256MiB")
        return value

    @field_validator("file_size", "disk_limit", mode="before")
    @classmethod
    def _is_room(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and _bytes(value, whole=SMALLEST_ROOM * 100) < SMALLEST_ROOM:
            raise PydanticCustomError("too_little", "a kernel needs at least 16MiB")
        if info.field_name == "file_size" and str(value).strip().endswith("%"):
            raise PydanticCustomError("share", "expected bytes, or text such as 4GiB")
        return value

    def memory_bytes(self, machine: int) -> int | None:
        """The limit of memory in bytes, on a machine that has `machine` of them; `None` for no limit."""
        return None if self.memory_limit is None else max(SMALLEST_MEMORY, _bytes(self.memory_limit, whole=machine))

    def file_bytes(self) -> int | None:
        """The largest file that cells may write, in bytes; `None` for no limit."""
        return None if self.file_size is None else _bytes(self.file_size, whole=0)

    def disk_bytes(self, free: int) -> int | None:
        """The limit of disk in bytes, where `free` of them are free; `None` for no limit."""
        return None if self.disk_limit is None else max(SMALLEST_ROOM, _bytes(self.disk_limit, whole=free))


class IsolationSettings(Section):
    """What cells are kept from."""

    level: Literal["auto", "ns", "landlock", "bwrap", "none"] = "auto"
    min_level: Literal["none", "landlock", "bwrap", "ns"] = "none"
    network: Literal["none", "loopback", "host"] = "none"
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()


class WorkspaceSettings(Section):
    """What is taken from your checkout, and back from an agent's worktree."""

    max_file_size: int = Field(100_000_000, gt=0)
    include: tuple[str, ...] = ()

    @field_validator("include")
    @classmethod
    def _patterns(cls, include: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in include:
            # On a line of its own, as git reads it, each of these would be something else than a pattern.
            if not pattern.strip() or "\n" in pattern or "\0" in pattern or pattern.startswith("#"):
                raise PydanticCustomError("pattern", "expected patterns as in a .gitignore file")
        return include


class TasksSettings(Section):
    """What one bounded task may take."""

    max_cost: float | None = Field(0.50, gt=0, lt=MOST_DOLLARS)
    max_tokens_per_subcall: int = Field(4000, gt=0, lt=MOST_TOKENS)
    max_runtime: float = Field(60, gt=0)


class RunsSettings(Section):
    """Where runs are recorded."""

    dir: Path = Path("runs")


class Config(BaseSettings):
    """Every setting; `config.yaml` at the top of the repository says what each one means."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: ModelSettings = ModelSettings()
    rlm: RLMSettings = RLMSettings()
    budget: BudgetSettings = BudgetSettings()
    kernel: KernelSettings = KernelSettings()
    isolation: IsolationSettings = IsolationSettings()
    workspace: WorkspaceSettings = WorkspaceSettings()
    tasks: TasksSettings = TasksSettings()
    runs: RunsSettings = RunsSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: `load` reads the other sources itself, to name them in its errors."""
        return (init_settings,)

    def as_yaml(self) -> str:
        """The settings in force, in the form of config.yaml; without the login that `model.base_url` may hold."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Layer(PydanticBaseSettingsSource):
    """One source of settings, with the name that errors give it."""

    def __init__(self, label: str, values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> None:
        super().__init__(Config)
        self.label, self.values = label, dict(values)
        self._names = names or {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self.values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self.values

    def name(self, setting: str) -> str:
        """What errors call a setting (`rlm.max_depth`) of this layer."""
        return self._names.get(setting, f"{self.label}: {setting}")

    def holds(self, path: tuple[str, ...]) -> bool:
        """Whether this layer gives the setting at `path`, or a section on the way to it."""
        here: Any = self.values
        for name in path:
            if not isinstance(here, Mapping):
                return True
            if name not in here:
                return False
            here = here[name]
        return True


def load(
    path: Path | None = None,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    names: Mapping[str, str] | None = None,
) -> Config:
    """Read the settings: `config.yaml`, then `.env` and `RLM_*` variables, then flags; later ones win.

    Args:
        path: A configuration file; without one, `config.yaml` in the current folder if it is ours: it has an `rlm:`
            section, or a setting of ours and nothing at the top but sections of ours. A file that only looks like it is
            not used, which stderr is told.
        flags: `{section: {setting: value}}`; a value of `None` means that the flag was not given.
        names: What errors call a flag, by its setting: `{"rlm.max_depth": "--max-depth"}`.

    Raises:
        ConfigError: A file cannot be read, a setting is unknown or has a wrong value; the message names its path.
    """
    layers = [
        _Layer("flags", _without_none(flags or {}), names),
        _Layer("the environment", _from_variables(os.environ, "the environment")),
        _Layer(".env", _from_variables(_dotenv(), ".env")),
        _file_layer(path),
    ]

    class Layered(Config):
        @classmethod
        def settings_customise_sources(cls, *args: Any, **kwargs: Any) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(layers)

    try:
        values = Layered().model_dump()
    except ValidationError as error:
        raise ConfigError(_explain(error, layers)) from None
    return Config(**values)


def secrets() -> dict[str, SecretStr]:
    """The keys that are set, by variable name: from the environment, else from `.env` in the current folder."""
    both = {**_dotenv(), **os.environ}
    return {name: SecretStr(both[name]) for name in KEYS if both.get(name)}


def without_login(text: str) -> str:
    """The text with no login in its URLs: `https://user:secret@host` is `https://host`, `ssh://git@host` stays."""
    text = re.sub(r"(?i)(https?://)[^/\s]*@", r"\1", text)  # a user without a password is a token
    return re.sub(r"(://[^/\s:@]*):[^/\s]*@", r"\1@", text)


def check_is_file(path: Path) -> None:
    """Refuse what never ends or never begins: a pipe that nobody writes into would be waited for, `/dev/zero` read on.

    A folder passes: reading it says what it is.

    Raises:
        ConfigError: It is neither a file nor a stream that this process was given.
        OSError: It is not there.
    """
    if not (stat.S_ISREG(path.stat().st_mode) or path.is_dir() or str(path).startswith(STREAMS)):
        raise ConfigError(f"{path}: is no file")


def _file_layer(path: Path | None) -> _Layer:
    named = path is not None
    path = path or Path("config.yaml")
    if not named and not path.is_file():
        return _Layer("config.yaml", {})
    try:
        check_is_file(path)
        text = path.read_bytes().decode("utf-8", errors="strict" if named else "replace")
        if not named and not re.search(r"^rlm\s*:", text, re.MULTILINE) and not _is_ours(text):
            return _Layer("config.yaml", {})  # some other program's config.yaml
        values = yaml.load(text, _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except UNREADABLE as error:
        where = f"line {mark.line + 1}: " if (mark := getattr(error, "problem_mark", None)) else ""
        raise ConfigError(f"{path}: {where}not valid YAML: {_problem(error)}") from None
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections such as `rlm:` at the top, found {type(values).__name__}")
    for name in _keys(values):
        if not isinstance(name, str):
            raise ConfigError(f"{path}: {name!r} is not a setting")
    # A section that is named and left empty keeps its defaults.
    return _Layer(str(path), {name: section for name, section in (values or {}).items() if section is not None})


def _is_ours(text: str) -> bool:
    """Whether a config.yaml without `rlm:` is meant for us; where that cannot be told, say that it is not used."""
    try:
        values = yaml.load(text, _Loader)
    except UNREADABLE as error:
        if re.search(r"^(budget|tasks)\s*:", text, re.MULTILINE):  # limits, which would not hold
            _tell_unused(f"it is not valid YAML: {_problem(error)}")
        return False
    if not isinstance(values, dict):
        return False
    variables = [pair for pairs in _variables().values() for pair in pairs]
    near = {name: difflib.get_close_matches(str(name), Config.model_fields, n=1, cutoff=0.75) for name in values}
    has_setting = [
        name
        for name, section in values.items()
        if isinstance(section, dict) and any((kin, key) in variables for kin in near[name] for key in section)
    ]
    strange = [name for name in values if name not in Config.model_fields]
    if has_setting and strange:
        _tell_unused(
            f"{strange[0]} is no section of rlm-nb{_hint(str(strange[0]), {n: n for n in Config.model_fields})}"
        )
    return bool(has_setting) and not strange


def _tell_unused(why: str) -> None:
    print(  # noqa: T201
        f"config.yaml: not used, since {why}. If it is meant for rlm-nb, mend it, or name it with --config",
        file=sys.stderr,
    )


def _problem(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "problem", None) or str(error)


class _Loader(yaml.SafeLoader):
    """YAML without aliases: no settings need one, and with them a short file can be an endless one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read here", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def _keys(values: Any) -> Iterator[Any]:
    """Every key of nested mappings."""
    for name, value in values.items() if isinstance(values, dict) else ():
        yield name
        yield from _keys(value)


def _dotenv() -> dict[str, str]:
    path = Path(".env")
    try:
        if not path.is_file():
            return {}
        return {name: value for name, value in dotenv_values(path).items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _variables() -> dict[str, list[tuple[str, str]]]:
    """Each variable that sets something, and what it sets: `RLM_MAX_DEPTH`, `RLM_MODEL_NAME`, …."""
    known = dict(SHORT)
    for section, field in Config.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, BaseModel)
        for name in field.annotation.model_fields:
            middle = "" if section == "rlm" else f"{section}_"
            known[f"{PREFIX}{middle}{name}".upper()] = [(section, name)]
    return known


def _from_variables(environment: Mapping[str, str], label: str) -> dict[str, Any]:
    known = _variables()
    found: dict[str, Any] = {}
    for variable, text in sorted(environment.items(), key=lambda item: item[0] in SHORT):  # the short names win
        if not variable.startswith(PREFIX) or not text:
            continue
        if variable not in known:
            # What all of them begin with would make any two alike.
            near = _hint(variable.removeprefix(PREFIX), {name.removeprefix(PREFIX): name for name in known})
            raise ConfigError(f"{label}: {variable} is not a setting{near}")
        for section, name in known[variable]:
            found.setdefault(section, {})[name] = _value(section, name, text)
    return found


def _value(section: str, name: str, text: str) -> Any:
    """What a variable says: YAML, but a name or a folder is taken as it stands (a model may be called 123)."""
    settings = Config.model_fields[section].annotation
    assert isinstance(settings, type)
    assert issubclass(settings, BaseModel)
    if settings.model_fields[name].annotation in (str, str | None, Path, Path | None) and text != "null":
        return text
    try:
        return yaml.load(text, _Loader)
    except UNREADABLE:
        return text


def _without_none(flags: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    given = {section: {k: v for k, v in values.items() if v is not None} for section, values in flags.items()}
    return {section: values for section, values in given.items() if values}


def _hint(name: str, known: Mapping[str, str]) -> str:
    """What was probably meant: the value whose key is most like the name, if one is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {known[near[0]]}?" if near else ""


def _explain(error: ValidationError, layers: list[_Layer]) -> str:
    """Every fault on a line of its own: where it stands, what is wrong, what was meant."""
    lines = []
    for fault in error.errors():
        path = tuple(str(part) for part in fault["loc"])
        held = path[:-1] if fault["type"] == "missing" else path
        layer = next((layer for layer in layers if layer.holds(held)), layers[-1])
        name = layer.name(".".join(path))
        if fault["type"] == "extra_forbidden":
            lines.append(f"{name} is not a setting{_hint(path[-1], {near: near for near in _neighbours(path)})}")
        else:
            value = fault.get("input")
            found = "" if isinstance(value, Mapping) else f", found {without_login(_BRIEF.repr(value))}"
            lines.append(f"{name}: {_wanted(fault['type'], fault['msg'])}{found}")
    return "\n".join(lines)


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 2, 100, 100


def _neighbours(path: tuple[str, ...]) -> list[str]:
    """The settings that stand where the unknown one at `path` was put."""
    here: type[BaseModel] = Config
    for name in path[:-1]:
        field = here.model_fields.get(name)
        if field is None:
            return list(TokenPrices.model_fields) if "prices" in path[:-1] else []
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return list(TokenPrices.model_fields)
        here = field.annotation
    return list(here.model_fields)


def _wanted(kind: str, message: str) -> str:
    words = {
        "int_parsing": "expected a whole number",
        "int_type": "expected a whole number",
        "int_from_float": "expected a whole number",
        "float_parsing": "expected a number",
        "float_type": "expected a number",
        "bool_parsing": "expected true or false",
        "bool_type": "expected true or false",
        "string_type": "expected text",
        "model_type": "expected a section with settings below it",
        "missing": "is missing",
    }
    return words.get(kind, message.replace("Input should be", "must be"))
