"""The models that can answer, one provider a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from pydantic import SecretStr

from rlm_nb.config import Config
from rlm_nb.errors import ConfigError
from rlm_nb.protocols import Model

GROUP = "rlm_nb.models"
"""The entry points under which a package offers its providers, a class each."""


class Provider(Protocol):
    """What an entry point of the group `rlm_nb.models` names."""

    def from_config(self, config: Config, secrets: Mapping[str, SecretStr]) -> Model:
        """The model that the settings ask for; it serves all agents of a run at once, each from a thread of its own."""
        ...


def get_model(config: Config, secrets: Mapping[str, SecretStr]) -> Model:
    """The model that the settings ask for. A provider's code is imported only when it is chosen.

    Args:
        config: Names the model, and its provider unless the model's name tells it.
        secrets: The keys that are set, by variable name.

    Raises:
        ConfigError: Nobody provides this model, or the settings do not suit its provider.
        MissingKeyError: No key for the provider is set.
    """
    name = config.model.provider or _provider_of(config.model.name)
    provider: Provider = _load(name)
    return provider.from_config(config, secrets)


def _provider_of(model: str) -> str:
    """The provider that a model's name tells of by itself."""
    if model.startswith("scripted:"):
        return "scripted"
    if model.startswith("replay:"):
        return "replay"
    if model == "human":
        return "human"
    if model.startswith("claude"):
        return "anthropic"
    if re.match(r"gpt-|chatgpt-|o\d+(-|$)|codex-|ft:", model):
        return "openai"
    raise ConfigError(
        f"model.name: nobody is known to provide {model!r}; set model.provider to one of {', '.join(_offers())}"
    )


def _load(name: str) -> Any:
    offers = _offers()
    if name not in offers:
        raise ConfigError(f"model.provider: {name!r} is not a provider; the providers are {', '.join(offers)}")
    try:
        return offers[name].load()
    except ImportError as error:
        raise ConfigError(f"model.provider: {name} cannot be loaded: {error}") from error


def _offers() -> dict[str, EntryPoint]:
    return {offer.name: offer for offer in sorted(entry_points(group=GROUP), key=lambda offer: offer.name)}
