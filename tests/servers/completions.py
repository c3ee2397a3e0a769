"""A server on loopback that speaks OpenAI's Chat Completions, with the faults that a real one has.

with CompletionsServer("Hello!", Fails(429), "Hello again!") as server:
    config = Config(model=ModelSettings(name="gpt-test", provider="openai", base_url=server.url))
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from tests.servers.messages import Answer, Fails, MessagesServer, Received, Says, cut_up

__all__ = ["Answer", "CompletionsServer", "Fails", "Received", "Says"]


class CompletionsServer(MessagesServer):
    """`POST /v1/chat/completions`; everything that has to do with HTTP is the same as in `MessagesServer`.

    Of `Says`, `thinking` is what the model refuses to say, and `stop_reason` is a `finish_reason` (`end_turn`: `stop`).

    Args:
        counts: Whether it says how many tokens a call took.
        refuses: Words that it does not know: a request with one of them is a 400.
    """

    def __init__(self, *answers: Answer, counts: bool = True, refuses: Collection[str] = (), **more: Any) -> None:
        super().__init__(*answers, **more)
        self._counts, self._refuses = counts, refuses

    path = "/v1/chat/completions"

    @property
    def url(self) -> str:
        """The API's base URL."""
        return f"{super().url}/v1"

    def whole(self, answer: Says, request: Received) -> dict[str, Any]:
        raise NotImplementedError("rlm-nb asks for a stream")

    def events(self, answer: Says, request: Received) -> list[bytes]:
        """A chunk for the role, one for each piece, one for the end, one for the counts, and the end's mark."""
        finish = {"end_turn": "stop"}.get(answer.stop_reason, answer.stop_reason)
        deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"refusal": piece}, None) for piece in cut_up(answer.thinking, answer.pieces)]
        deltas += [({"content": piece}, None) for piece in cut_up(answer.text, answer.pieces)]
        deltas.append(({}, finish))
        chunks = [
            {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]}
            for delta, finish in deltas
        ]
        if self._counts and request.json.get("stream_options", {}).get("include_usage"):
            chunks.append({"choices": [], "usage": self._usage_of(answer, request)})
        model = request.json["model"]
        whole = [{"id": "c", "object": "chat.completion.chunk", "created": 0, "model": model, **c} for c in chunks]
        return [*(_framed(chunk) for chunk in whole), b"data: [DONE]\n\n"]

    def error_event(self, kind: str) -> bytes:
        return _framed({"error": _error(kind, "a fault for the test")})

    def failure(self, answer: Fails) -> dict[str, Any]:
        return {"error": _error("server_error" if answer.status >= 500 else "invalid_request_error", answer.words)}

    def _usage_of(self, answer: Says, request: Received) -> dict[str, Any]:
        prompt, read = self.cached(request)
        written = (len(answer.text) + len(answer.thinking)) // 4 + 1
        counts = {"prompt_tokens": prompt, "completion_tokens": written, "cached_tokens": read, **answer.usage}
        details = {name: counts.pop(name) for name in ("cached_tokens", "cache_write_tokens") if name in counts}
        return {**counts, "total_tokens": prompt + written, "prompt_tokens_details": details}

    def _refusal(self, request: Received) -> Fails | None:
        for word in self._refuses:
            if word in request.json:
                instead = " Use 'max_completion_tokens' instead." if word == "max_tokens" else ""
                return Fails(400, f"Unsupported parameter: '{word}' is not supported with this model.{instead}")
        return super()._refusal(request)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"message": message, "type": kind, "param": None, "code": None}


def _framed(value: object) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()
