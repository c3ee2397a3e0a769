"""A recorded run is said again by a model that asks nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config
from rlm_nb.controller import run
from rlm_nb.errors import ConfigError, ModelError
from rlm_nb.models import get_model
from rlm_nb.models.replay import ReplayModel
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.records import Message, Request


def test_a_run_goes_the_same_way_without_its_model(tmp_path: Path, repository: Path) -> None:
    """Root, sub-agent and llm_query say what they said, and nothing is paid."""
    model = ScriptedModel.of(
        {"root": ["Look.\n```python\nx = llm_query('How?')\n```", "```python\nFINAL([x, rlm_query('Help')])\n```"]},
        [("How", "so"), ("Help", ["```python\nFINAL('helped')\n```"])],
        price={"input": 3, "output": 15},
    )
    settings = {"runs": {"dir": tmp_path / "runs"}}
    first = run("Work", repository, Config.model_validate(settings), model=model)
    named = Config.model_validate({**settings, "model": {"name": f"replay:{first.folder}"}})
    second = run("Work", repository, named)
    assert second.root.answer.value == first.root.answer.value == ["so", "helped"]
    assert (first.balance.spent_cost > 0, second.balance.spent_cost) == (True, 0)
    assert second.balance.spent.output_tokens == first.balance.spent.output_tokens
    again = get_model(named, {})
    assert isinstance(again, ReplayModel)
    for turn, text in ((3, "nothing is recorded of root in turn 3"), (0, "no answer is recorded to 'What?'")):
        with pytest.raises(ModelError, match=text.replace("?", r"\?")) as caught:
            again.complete(Request((Message("user", "What?"),), turn=turn), Cancellation())
        assert caught.value.usage is not None


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    """Before anything begins."""
    with pytest.raises(ConfigError, match="holds no run"):
        ReplayModel(tmp_path)
