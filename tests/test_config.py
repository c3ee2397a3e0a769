"""Settings: where they come from, who wins, and what is said about those that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from rlm_nb import config
from rlm_nb.errors import ConfigError

SHIPPED = Path(__file__).parent.parent / "config.yaml"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no settings in the environment."""
    monkeypatch.delenv("RLM_ISOLATION_LEVEL")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(text: str) -> str:
    """What is said about a configuration file with this text."""
    Path("mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        config.load(Path("mine.yaml"))
    return str(caught.value)


# The file that is shipped.


def test_the_shipped_file_holds_every_default() -> None:
    """config.yaml names every setting of the code, with its default, in the code's order."""
    written = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    ours = yaml.safe_load(config.Config().as_yaml())
    assert written == ours
    assert [(name, list(section)) for name, section in written.items()] == [(n, list(s)) for n, s in ours.items()]


def test_every_setting_has_one_comment() -> None:
    """In the shipped file, each setting is one line with one comment."""
    settings = [line for line in SHIPPED.read_text(encoding="utf-8").splitlines() if line.startswith("  ")]
    assert len(settings) == sum(len(section) for section in config.Config().model_dump().values())
    assert [line for line in settings if line.count("  # ") != 1] == []


def test_the_shipped_file_loads() -> None:
    """What we ship is what we read."""
    assert config.load(SHIPPED) == config.Config()


# Who wins.


def test_later_sources_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, .env, the environment, flags: each overrides only what it names."""
    settings = ("max_sandboxes", "max_iterations", "max_depth", "max_parallel", "max_failures")
    Path("mine.yaml").write_text("rlm: {max_sandboxes: 1, max_iterations: 1, max_depth: 1, max_parallel: 1}")
    Path(".env").write_text("RLM_MAX_ITERATIONS=2\nRLM_MAX_DEPTH=2\nRLM_MAX_PARALLEL=2\n")
    monkeypatch.setenv("RLM_MAX_DEPTH", "3")
    monkeypatch.setenv("RLM_MAX_PARALLEL", "3")
    rlm = config.load(Path("mine.yaml"), {"rlm": {"max_parallel": 4, "max_sandboxes": None}}).rlm
    assert [getattr(rlm, name) for name in settings] == [1, 2, 3, 4, 3]


def test_every_setting_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLM_ and the section, or RLM_ alone for the section rlm."""
    monkeypatch.setenv("RLM_MODEL_TEMPERATURE", "0.5")
    monkeypatch.setenv("RLM_KERNEL_CELL_TIMEOUT", "30")
    monkeypatch.setenv("RLM_BUDGET_UNPRICED", "true")
    monkeypatch.setenv("RLM_BUDGET_PRICES", "{mine: {input: 1, output: 2}}")
    loaded = config.load()
    assert (loaded.model.temperature, loaded.kernel.cell_timeout, loaded.budget.unpriced) == (0.5, 30, True)
    assert loaded.budget.prices["mine"].output == 2


@pytest.mark.parametrize(("short", "long"), [("RLM_MODEL", "RLM_MODEL_NAME"), ("RLM_MAX_COST", "RLM_BUDGET_MAX_COST")])
def test_short_names_win(monkeypatch: pytest.MonkeyPatch, short: str, long: str) -> None:
    """RLM_MODEL is RLM_MODEL_NAME, and stands when both are set."""
    section, name = config.SHORT[short][0]
    monkeypatch.setenv(long, "7.5")
    assert str(getattr(getattr(config.load(), section), name)) == "7.5"
    monkeypatch.setenv(short, "8.5")
    assert str(getattr(getattr(config.load(), section), name)) == "8.5"


def test_text_is_not_mistaken_for_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model or a folder may be called what YAML would take for a number or for a truth value."""
    monkeypatch.setenv("RLM_MODEL", "123")
    monkeypatch.setenv("RLM_RUNS_DIR", "no")
    loaded = config.load()
    assert (loaded.model.name, loaded.runs.dir) == ("123", Path("no"))


def test_a_limit_can_be_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """null in a variable means the same as in the file."""
    monkeypatch.setenv("RLM_MAX_COST", "null")
    assert (config.load().budget.max_cost, config.load().tasks.max_cost) == (None, None)


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLM_MODEL= in a shell or in .env leaves the setting alone."""
    monkeypatch.setenv("RLM_MODEL", "")
    Path(".env").write_text("RLM_MAX_DEPTH=\n")
    assert config.load() == config.Config()


def test_an_empty_section_keeps_its_defaults() -> None:
    """`rlm:` with nothing below it is no fault."""
    Path("mine.yaml").write_text("rlm:\n")
    assert config.load(Path("mine.yaml")) == config.Config()


# The current folder.


def test_our_own_file_is_found() -> None:
    """config.yaml in the current folder counts when it has an `rlm:` section."""
    Path("config.yaml").write_text("rlm: {max_depth: 1}\nmodel: {name: mine}\n")
    loaded = config.load()
    assert (loaded.rlm.max_depth, loaded.model.name) == (1, "mine")


@pytest.mark.parametrize("text", ["tasks:\n  max_cost: 0.01\n", "{tasks: {max_cost: 0.01}, model: }"])
def test_our_own_file_needs_no_certain_section(text: str) -> None:
    """Limits count without an `rlm:` section, and slips beside them are faults."""
    Path("config.yaml").write_text(text)
    assert config.load().tasks.max_cost == 0.01
    Path("config.yaml").write_text("tasks: {max_cost: 0.01, max_runtme: 3}")
    with pytest.raises(ConfigError, match=r"tasks\.max_runtme is not a setting; did you mean max_runtime\?"):
        config.load()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("model: {name: bert, layers: 12}\ntraining: {rate: 0.1}", "training is no section of rlm-nb"),
        ("task: {max_cost: 0.01}", "task is no section of rlm-nb; did you mean tasks?"),
        ("tasks:\n  max_cost: [1\n", "it is not valid YAML: "),
    ],
)
def test_a_file_that_may_be_ours(text: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not used, and stderr says so."""
    Path("config.yaml").write_text(text)
    assert config.load() == config.Config()
    assert capsys.readouterr().err.startswith(f"config.yaml: not used, since {why}")


@pytest.mark.parametrize(
    "content",
    [
        b"server: {port: 80}\n",
        b"- a list\n",
        b"",
        b"port: !secret port\n",
        b"model: gpt-5\n",
        b"{{ template }}\n",
        b"name: caf\xe9\n",
    ],
    ids=["mapping", "list", "empty", "tags", "text", "template", "latin-1"],
)
def test_someone_elses_file_is_left_alone(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """The config.yaml of another program is neither used nor complained about."""
    Path("config.yaml").write_bytes(content)
    assert config.load() == config.Config()
    assert capsys.readouterr() == ("", "")


def test_our_own_broken_file_is_not_passed_over() -> None:
    """A slip in a config.yaml with an `rlm:` section never silently means the defaults."""
    Path("config.yaml").write_text("rlm:\n  max_depth: [1\n")
    with pytest.raises(ConfigError, match=r"^config\.yaml: line 3: not valid YAML: "):
        config.load()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rlm: &a {max_depth: *a}", "line 1: not valid YAML: aliases (*name) are not read here"),
        ("rlm:\n  a: &a {x: 1}\n  b: {x: *a, y: *a}", "line 3: not valid YAML: aliases (*name) are not read here"),
        ("rlm: &a {max_depth: 1}\nkernel: {<<: [*a, *a]}", "line 2: not valid YAML: aliases (*name) are not read here"),
        ("rlm: " + "[" * 10_000, "not valid YAML: nested too deeply"),
        ("rlm: {max_depth: " + "[" * 90 + "]" * 90 + "}", "rlm.max_depth: expected a whole number, found [[[...]]]"),
    ],
)
def test_a_file_that_would_never_end(text: str, sentence: str) -> None:
    """Loops, bombs and endless nesting are refused in a short sentence."""
    assert refusal(text) == f"mine.yaml: {sentence}"


def test_a_variable_that_would_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in a variable: it is then taken for a text, which is no price list."""
    monkeypatch.setenv("RLM_BUDGET_PRICES", "&a {mine: *a}")
    with pytest.raises(ConfigError, match=r"^the environment: budget\.prices: .*, found '&a {mine: \*a}'$"):
        config.load()


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    """A pipe with a name is no file; `-c <(…)` and /dev/stdin are read."""
    os.mkfifo("mine.yaml")
    with pytest.raises(ConfigError, match=r"^mine\.yaml: is no file$"):
        config.load(Path("mine.yaml"))
    read, write = os.pipe()
    os.write(write, b"rlm: {max_depth: 1}")
    os.close(write)
    assert config.load(Path(f"/dev/fd/{read}")).rlm.max_depth == 1
    os.close(read)


# What cannot be used. Every sentence names the source and the setting.


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rlm: {max_dpeth: 3}", "rlm.max_dpeth is not a setting; did you mean max_depth?"),
        ("rml: {max_depth: 3}", "rml is not a setting; did you mean rlm?"),
        ("rlm: {colour: red}", "rlm.colour is not a setting"),
        ("rlm: {max_depth: three}", "rlm.max_depth: expected a whole number, found 'three'"),
        ("rlm: {max_depth: 2.5}", "rlm.max_depth: expected a whole number, found 2.5"),
        ("rlm: {max_depth: true}", "rlm.max_depth: expected a whole number, found True"),
        ("rlm: {max_depth:}", "rlm.max_depth: expected a whole number, found None"),
        ("rlm: {global_timeout: soon}", "rlm.global_timeout: expected a number, found 'soon'"),
        ("budget: {max_cost: true}", "budget.max_cost: expected a number, found True"),
        ("budget: {unpriced: perhaps}", "budget.unpriced: expected true or false, found 'perhaps'"),
        ("model: {name: [a]}", "model.name: expected text, found ['a']"),
        ('workspace: {include: ["#x"]}', "workspace.include: expected patterns as in a .gitignore file, found ['#x']"),
        ("rlm: 5", "rlm: expected a section with settings below it, found 5"),
        ("rlm: {max_iterations: 0}", "rlm.max_iterations: must be greater than 0, found 0"),
        ("rlm: {max_depth: -1}", "rlm.max_depth: must be greater than or equal to 0, found -1"),
        ("budget: {max_cost: 0}", "budget.max_cost: must be greater than 0, found 0"),
        ("budget: {max_cost: .nan}", "budget.max_cost: must be a finite number, found nan"),
        ("budget: {prices: {mine: {input: 3}}}", "budget.prices.mine.output: is missing"),
        (
            "budget: {prices: {mine: {input: 3, output: 3, cache_raed: 1}}}",
            "budget.prices.mine.cache_raed is not a setting; did you mean cache_read?",
        ),
        ("[rlm]", "expected sections such as `rlm:` at the top, found list"),
        ("rlm:\n  max_depth: [1\nmodel:", "line 3: not valid YAML: expected ',' or ']', but got ':'"),
        ("rlm:\n\tmax_depth: 1", "line 2: not valid YAML: found character '\\t' that cannot start any token"),
    ],
)
def test_a_bad_setting_is_named(text: str, sentence: str) -> None:
    """One sentence: the file, the setting's path, what is wrong, and what was probably meant."""
    assert refusal(text) == f"mine.yaml: {sentence}"


@pytest.mark.parametrize("text", ["1: one", "on: true", "rlm: {1: 2}", "rlm: {max_depth: 2024-13-45}"])
def test_odd_yaml_is_refused_like_the_rest(text: str) -> None:
    """Keys that are no text, and a date that does not exist, are faults of the file, named as such."""
    assert refusal(text).startswith("mine.yaml: ")


def test_several_faults_are_told_together() -> None:
    """Nobody should need three attempts to mend three slips."""
    lines = refusal("rlm: {max_dpeth: 1, max_iterations: 0}\nmodel: {retries: -1}").splitlines()
    assert len(lines) == 3
    assert all(line.startswith("mine.yaml: ") for line in lines)


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    """Missing, a folder, and bytes that are no text."""
    with pytest.raises(ConfigError, match=r"^none\.yaml: cannot be read: No such file or directory$"):
        config.load(Path("none.yaml"))
    with pytest.raises(ConfigError, match=r": cannot be read: Is a directory$"):
        config.load(folder)
    Path("mine.yaml").write_bytes(b"model: {name: \xe9}")
    with pytest.raises(ConfigError, match=r"^mine\.yaml: cannot be read: .*utf-8.*$"):
        config.load(Path("mine.yaml"))


def test_a_mistyped_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An RLM_ variable that sets nothing is a typo, in the environment and in .env."""
    monkeypatch.setenv("RLM_MAX_DEPHT", "3")
    with pytest.raises(ConfigError, match=r"^the environment: RLM_MAX_DEPHT is not a setting; .* RLM_MAX_DEPTH\?$"):
        config.load()
    monkeypatch.delenv("RLM_MAX_DEPHT")
    Path(".env").write_text("RLM_MAX_ITERATION=3\n")
    with pytest.raises(ConfigError, match=r"^\.env: RLM_MAX_ITERATION is not .* RLM_MAX_ITERATIONS\?$"):
        config.load()


@pytest.mark.parametrize(
    ("variable", "hint"), [("RLM_FOO", ""), ("RLM_MODLE", "RLM_MODEL"), ("RLM_DEPTH", "RLM_MAX_DEPTH")]
)
def test_what_was_meant_is_no_wild_guess(monkeypatch: pytest.MonkeyPatch, variable: str, hint: str) -> None:
    """That two variables begin with RLM_ does not make them alike."""
    monkeypatch.setenv(variable, "sk-secret")
    with pytest.raises(ConfigError) as caught:
        config.load()
    expected = f"; did you mean {hint}?" if hint else ""
    assert str(caught.value) == f"the environment: {variable} is not a setting{expected}"


def test_a_flag_is_named_as_it_was_typed() -> None:
    """Whoever has flags of their own says what they are called."""
    with pytest.raises(ConfigError, match=r"^--deep: must be greater than or equal to 0, found -6$"):
        config.load(flags={"rlm": {"max_depth": -6}}, names={"rlm.max_depth": "--deep"})


def test_each_source_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is laid at the door of the source whose value counts."""
    Path("mine.yaml").write_text("rlm: {max_depth: 3}")
    Path(".env").write_text("RLM_MAX_DEPTH=four\n")
    with pytest.raises(ConfigError, match=r"^\.env: rlm\.max_depth: expected a whole number, found 'four'$"):
        config.load(Path("mine.yaml"))
    monkeypatch.setenv("RLM_MAX_DEPTH", "-5")
    with pytest.raises(ConfigError, match=r"^the environment: rlm\.max_depth: .*, found -5$"):
        config.load(Path("mine.yaml"))
    with pytest.raises(ConfigError, match=r"^flags: rlm\.max_depth: .*, found -6$"):
        config.load(Path("mine.yaml"), {"rlm": {"max_depth": -6}})


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("4GiB", 4 << 30),
        ("800 mb", 800_000_000),
        ("1.5g", 1_500_000_000),
        ("2000000000", 2_000_000_000),
        ("25%", 4 << 30),
    ],
)
def test_amounts_of_memory(monkeypatch: pytest.MonkeyPatch, text: str, amount: int) -> None:
    """Bytes, text with a unit, or a share of the machine's; `null` is no limit."""
    monkeypatch.setenv("RLM_KERNEL_MEMORY_LIMIT", text)
    assert config.load().kernel.memory_bytes(16 << 30) == amount
    monkeypatch.setenv("RLM_KERNEL_MEMORY_LIMIT", "null")
    assert config.load().kernel.memory_bytes(16 << 30) is None


@pytest.mark.parametrize("text", ["much", "0%", "101%", "4GiB each", "-1", "1.5", "[1]", "1e9", "''"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    """The sentence shows what one looks like."""
    assert refusal(f"kernel: {{memory_limit: {text}}}").startswith(
        "mine.yaml: kernel.memory_limit: expected bytes, text such as 4GiB, or a share such as 50%, found "
    )


def test_too_little_memory() -> None:
    """Less than a kernel needs is refused; a share may not come out below that either."""
    assert "kernel.memory_limit: a kernel needs at least 256MiB, found '100MB'" in refusal(
        "kernel: {memory_limit: 100MB}"
    )
    assert config.KernelSettings().memory_bytes(100 << 20) == 256 << 20


# Secrets, and what is never changed.


def test_keys_are_read_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's key wins over .env's; neither is in the settings, and printing shows neither."""
    Path(".env").write_text("ANTHROPIC_API_KEY=sk-from-file\nOPENAI_API_KEY=sk-other\nUNRELATED=sk-unrelated\n")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-from-environment")
    keys = config.secrets()
    assert {name: key.get_secret_value() for name, key in keys.items()} == {
        "ANTHROPIC_API_KEY": "sk-from-environment",
        "OPENAI_API_KEY": "sk-other",
    }
    loaded = config.load()
    assert "sk-" not in f"{keys!r} {keys!s} {loaded!r} {loaded!s} {loaded.as_yaml()}"


def test_a_login_in_a_url_is_used_and_never_shown() -> None:
    """It stays in the setting, for whoever sends requests; printed, written down or faulty, it is not there."""
    loaded = config.load(flags={"model": {"base_url": "https://ada:s3cret@example.org/v1"}})
    assert loaded.model.base_url == "https://ada:s3cret@example.org/v1"
    assert yaml.safe_load(loaded.as_yaml())["model"]["base_url"] == "https://example.org/v1"
    assert "s3cret" not in f"{loaded!r} {loaded!s} {loaded.model!r}"
    with pytest.raises(ConfigError, match=r"found \['https://example\.org'\]$"):
        config.load(flags={"model": {"base_url": ["https://ada:s3cret@example.org"]}})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://ada:s3c@ret@example.org:8/x, then", "at https://example.org:8/x, then"),
        ("HTTPS://token@example.org", "HTTPS://example.org"),
        ("ssh://git@example.org/x", "ssh://git@example.org/x"),
        ("ssh://git:secret@example.org/x", "ssh://git@example.org/x"),
        ("https://example.org/a@b and c@d", "https://example.org/a@b and c@d"),
    ],
)
def test_logins_are_taken_out_of_texts(text: str, shown: str) -> None:
    """A password, and a token in its place; what only looks like one stays."""
    assert config.without_login(text) == shown


def test_no_key_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable counts as none."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "")
    assert config.secrets() == {}


def test_settings_do_not_change() -> None:
    """Neither a section nor a setting can be assigned to."""
    loaded = config.load()
    with pytest.raises(ValidationError, match="frozen"):
        loaded.rlm.max_depth = 1
    with pytest.raises(ValidationError, match="frozen"):
        loaded.rlm = config.RLMSettings()


def test_what_is_written_can_be_read_again() -> None:
    """as_yaml is a configuration file."""
    flags = {"budget": {"max_cost": None, "prices": {"mine": {"input": 1, "output": 2}}}, "model": {"name": "é: #1"}}
    loaded = config.load(flags=flags)
    Path("mine.yaml").write_text(loaded.as_yaml(), encoding="utf-8")
    assert loaded.model.name == "é: #1"
    assert config.load(Path("mine.yaml")) == loaded
