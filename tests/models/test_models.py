"""Which model answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from rlm_nb.config import Config, ModelSettings
from rlm_nb.errors import ConfigError, MissingKeyError
from rlm_nb.models import get_model
from rlm_nb.models.anthropic import AnthropicModel
from rlm_nb.models.human import HumanModel
from rlm_nb.models.openai import OpenAIModel
from rlm_nb.models.scripted import ScriptedModel

SECRETS = {"ANTHROPIC_API_KEY": SecretStr("sk-ant-planted"), "OPENAI_API_KEY": SecretStr("sk-planted")}


def settings(name: str, provider: str | None = None) -> Config:
    return Config(model=ModelSettings(name=name, provider=provider))


def test_name_tells_the_provider(tmp_path: Path) -> None:
    """The names that people know need no provider."""
    script = tmp_path / "a script.yaml"
    script.write_text("agents: {root: [Hello]}")
    assert isinstance(get_model(settings("claude-sonnet-5-5"), SECRETS), AnthropicModel)
    for name in (
        "gpt-5-mini",
        "gpt-4.1",
        "chatgpt-4o-latest",
        "o1",
        "o3-mini",
        "o4-mini-2025-04-16",
        "ft:gpt-4o:me::1",
    ):
        assert isinstance(get_model(settings(name), SECRETS), OpenAIModel)
    assert isinstance(get_model(settings(f"scripted:{script}"), {}), ScriptedModel)
    assert isinstance(get_model(settings("human"), {}), HumanModel)


def test_provider_decides() -> None:
    """Where a provider is set, the name is its own business."""
    model = get_model(settings("qwen3-coder", "anthropic"), SECRETS)
    assert isinstance(model, AnthropicModel)
    assert model.name == "qwen3-coder"
    assert isinstance(get_model(settings("claude-sonnet-5-5", "openai"), SECRETS), OpenAIModel)


def test_unknown_name() -> None:
    """A name that tells nothing asks for a provider, and says which there are."""
    with pytest.raises(ConfigError, match=r"'qwen3-coder'; set model.provider to one of anthropic, human, openai,"):
        get_model(settings("qwen3-coder"), SECRETS)


def test_unknown_provider() -> None:
    """A provider that does not exist is named, beside those that do."""
    with pytest.raises(ConfigError, match=r"'antropic' is not a provider.*anthropic, human, openai, replay, scripted"):
        get_model(settings("claude-sonnet-5-5", "antropic"), SECRETS)


def test_no_key() -> None:
    """A provider that needs a key says so at once."""
    with pytest.raises(MissingKeyError):
        get_model(settings("claude-sonnet-5-5"), {})
