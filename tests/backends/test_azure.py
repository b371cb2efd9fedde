"""Azure OpenAI: where requests go, what they carry, what its errors become."""

from __future__ import annotations

import asyncio
import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from heartloop import HeartLoop, Model, errors
from heartloop.backends import AzureOpenAIBackend, OpenAIBackend, make_backend
from heartloop.backends.azure import is_azure
from heartloop.errors import BackendError, UsageError
from heartloop.types import Completion, Message, Request, Sampling
from tests.cli.command import environment, run_process
from tests.support.fault_server import FaultServer

KEY = "0123456789abcdefAZUREAZUREAZURE99"
VARIABLES = (
    *("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN"),
    *("OPENAI_API_VERSION", "AZURE_OPENAI_API_VERSION", "OPENAI_BASE_URL", "OPENAI_API_KEY"),
)


@pytest.fixture(autouse=True)
def _only_this_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)


def complete(backend: Any, **sampling: Any) -> Completion:
    async def main() -> Completion:
        try:
            ask = (Message("user", "What is 20 + 22?"),)
            answered: Completion = await backend.complete(Request(backend.name, ask, Sampling(**sampling)))
            return answered
        finally:
            await backend.aclose()

    return asyncio.run(main())


def endpoint(server: FaultServer, rest: str = "") -> str:
    return server.base_url.removesuffix("/v1") + rest


@pytest.mark.parametrize(
    ("rest", "version", "target"),
    [
        ("", None, "/openai/v1/chat/completions"),
        ("/", None, "/openai/v1/chat/completions"),
        ("/openai", None, "/openai/v1/chat/completions"),
        ("/openai/v1/", None, "/openai/v1/chat/completions"),
        ("", "preview", "/openai/v1/chat/completions?api-version=preview"),
        (
            "",
            "2024-10-21",
            "/openai/deployments/my%20own.gpt/chat/completions?api-version=2024-10-21",
        ),
        (
            "?api-version=2025-01-01-preview",
            None,
            "/openai/deployments/my%20own.gpt/chat/completions?api-version=2025-01-01-preview",
        ),
        (
            "/openai/deployments/theirs/chat/completions?api-version=2024-10-21",
            None,
            "/openai/deployments/theirs/chat/completions?api-version=2024-10-21",
        ),
    ],
)
def test_where_a_call_goes_and_what_it_carries(rest: str, version: str | None, target: str) -> None:
    with FaultServer(api_key=KEY) as server:
        backend = make_backend("azure/my own.gpt", base_url=endpoint(server, rest), api_version=version)
        answer = complete(backend, max_tokens=50)
        (call,) = server.calls
    assert answer.text.endswith(r"\boxed{42}.")
    assert call["target"] == target
    assert call["headers"]["api-key"] == KEY
    assert "authorization" not in call["headers"]
    assert call["body"]["model"] == "my own.gpt"
    assert call["body"]["max_tokens"] == 50


def test_endpoint_and_version_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_VERSION", "2024-10-21")
    with FaultServer() as server:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", endpoint(server))
        complete(make_backend("azure/gpt"))
        complete(make_backend("azure/gpt", base_url=endpoint(server, "/openai/v1")))  # says which surface
        targets = [call["target"] for call in server.calls]
    assert targets == [
        "/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
        "/openai/v1/chat/completions",
    ]


def test_an_access_token_is_sent_as_a_bearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_OPENAI_API_KEY")
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "token-of-entra-0123456789")
    with FaultServer() as server:
        complete(make_backend("azure/gpt", base_url=endpoint(server)))
        headers = server.calls[0]["headers"]
    assert headers["authorization"] == "Bearer token-of-entra-0123456789"
    assert "api-key" not in headers


def test_hosts_of_azure_are_known() -> None:
    for url in (
        "https://mine.openai.azure.com/openai/v1/",
        "https://mine.cognitiveservices.azure.com",
        "https://mine.services.ai.azure.com/openai/v1",
        "https://mine.openai.azure.us",
    ):
        assert is_azure(url)
        assert isinstance(make_backend("gpt", base_url=url), AzureOpenAIBackend)
    for url in ("https://api.openai.com/v1", "https://openai.azure.com.evil.example/v1", "http://[::1"):
        assert not is_azure(url)
    assert type(make_backend("gpt", base_url="http://127.0.0.1:1/v1")) is OpenAIBackend


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="AZURE_OPENAI_ENDPOINT"):
        make_backend("azure/gpt")
    with pytest.raises(UsageError, match="empty"):
        make_backend("azure/", base_url="http://127.0.0.1:1")
    with pytest.raises(UsageError, match="needs a version"):
        make_backend("azure/gpt", base_url="http://127.0.0.1:1/openai/deployments/gpt")
    monkeypatch.delenv("AZURE_OPENAI_API_KEY")
    with pytest.raises(UsageError, match="AZURE_OPENAI_API_KEY"):
        make_backend("azure/gpt", base_url="http://127.0.0.1:1")
    with pytest.raises(UsageError, match="MINE"):
        make_backend("azure/gpt", base_url="http://127.0.0.1:1", api_key_env="MINE")


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("401", errors.AuthenticationFailed, "key was refused"),
        ("403", errors.AuthenticationFailed, "does not have access"),
        ("404-azure", errors.ModelNotFound, "check the deployment's name"),
        ("429-azure", errors.RateLimited, "token rate limit"),
        ("content_filter_400", errors.ContentFiltered, "filtered"),
        ("content_filter_azure", errors.ContentFiltered, "filtered"),
        ("context_length", errors.ContextOverflow, "maximum context length"),
        ("500", errors.ServerError, "500"),
        ("reset", errors.ConnectionLost, "broke off"),
    ],
)
def test_errors_have_their_cause_and_no_key(fault: str, kind: type[BackendError], said: str) -> None:
    with FaultServer([fault]) as server, pytest.raises(BackendError) as raised:
        complete(AzureOpenAIBackend("gpt", base_url=endpoint(server), api_version="2024-10-21"))
    assert type(raised.value) is kind
    assert said in str(raised.value)
    assert KEY not in "".join(traceback.format_exception(raised.value))
    if isinstance(raised.value, errors.RateLimited):
        assert raised.value.retry_after == 26


def test_a_filtered_answer_says_so() -> None:
    with FaultServer(["content_filter"]) as server:
        answer = complete(make_backend("azure/gpt", base_url=endpoint(server)))
    assert answer.finish_reason == "content_filter"


def test_a_deployment_of_a_reasoning_model_is_learned_from_its_refusal() -> None:
    with FaultServer(refuses=["max_tokens", "temperature"]) as server:
        complete(make_backend("azure/thinker", base_url=endpoint(server)), max_tokens=9, temperature=0.5)
        body = server.calls[-1]["body"]
    assert body["max_completion_tokens"] == 9
    assert "temperature" not in body


def test_a_loop_in_python_by_name() -> None:
    with FaultServer(api_key=KEY) as server:
        model = Model("azure/gpt", base_url=endpoint(server), options={"api_version": "2024-10-21"})
        with HeartLoop(model, strategy="single_pass") as loop:
            solution = loop.solve_sync("What is 20 + 22?")
        assert server.calls[0]["target"].startswith("/openai/deployments/gpt/")
    assert solution.answer == "42"


def test_a_run_on_the_command_line_keeps_no_key(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"id": f"p{n}", "question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FaultServer(["500"], api_key=KEY) as server:
        run = run_process(
            *("run", "--data", data, "--model", "azure/gpt", "--strategy", "single_pass", "-v"),
            *("--base-url", endpoint(server, "?api-version=2024-10-21"), "--out", tmp_path / "run", "--json"),
            env=environment(AZURE_OPENAI_API_KEY=KEY),
        )
        assert run.code == 0, run.err
        assert {call["target"] for call in server.calls} == {
            "/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
        }
    assert run.json["solved"] == 3
    for content in (
        run.out.encode(),
        run.err.encode(),
        *(p.read_bytes() for p in (tmp_path / "run").iterdir()),
    ):
        assert KEY.encode() not in content
