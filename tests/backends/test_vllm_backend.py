"""The vLLM backend on loopback: what is sent, what comes back, every fault by its cause."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop import errors
from heartloop.backends import ReplicaSet, VllmBackend, body, make_backend
from heartloop.backends.vllm_metrics import VllmMetrics
from heartloop.engine.serial import completion_from_dict, completion_to_dict
from heartloop.errors import BackendError, UsageError
from heartloop.types import Completion, Message, Request, Sampling, TokenLogprob, Usage
from tests.support.causes import KEY, assert_cause, causes
from tests.support.fault_server import FaultServer
from tests.support.loopback import Handler, listening, nobody_listening

T = TypeVar("T")
ASK = Request("test-model", (Message("user", "What is 20 + 22?"),), Sampling(max_tokens=64))


def with_backend(url: str, work: Callable[[VllmBackend], Awaitable[T]], **options: Any) -> T:
    async def main() -> T:
        backend = VllmBackend(options.pop("name", "test-model"), base_url=url, **options)
        try:
            async with asyncio.timeout(20):
                return await work(backend)
        finally:
            await backend.aclose()

    return asyncio.run(main())


def complete(url: str, request: Request = ASK, **options: Any) -> Completion:
    return with_backend(url, lambda backend: backend.complete(request), **options)


# --- a server that says what it is told ------------------------------------------------------------------


class Pages(dict[str, tuple[int, dict[str, str], bytes]]):
    """Path (with query) to status, headers and body; ``asked`` has what came in."""

    def __init__(self, pages: dict[str, Any]) -> None:
        super().__init__({path: self.page(page) for path, page in pages.items()})
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    @staticmethod
    def page(page: Any) -> tuple[int, dict[str, str], bytes]:
        if isinstance(page, tuple):
            return page
        return (200, {}, page if isinstance(page, bytes) else orjson.dumps(page))


@contextmanager
def serving(pages: dict[str, Any]) -> Iterator[tuple[str, Pages]]:
    known = Pages(pages)

    class Pager(Handler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            known.asked.append((self.command, self.path, headers, self.content()))
            status, more, body = known.get(self.path, (404, {}, b'{"detail": "Not Found"}'))
            self.answer(body, status, **more)

        do_POST = do_GET

    with listening(Pager) as root:
        yield f"{root}/v1", known


def answer(**more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "four"}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"model": "test-model", "choices": [choice], "usage": usage, **more}


# --- where things go well --------------------------------------------------------------------------------


def test_what_is_sent_and_what_comes_back() -> None:
    extra = MappingProxyType(
        {
            "priority": -3,
            "top_k": 20,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "structured_outputs": MappingProxyType({"choice": ["four", "five"]}),
        }
    )
    messages = (Message("system", "Be brief."), Message("user", ({"type": "text", "text": "2 + 2?"},)))
    request = Request("test-model", messages, Sampling(0.5, 0.9, 7, ("\n",), 3, 2, extra))
    with serving({"/v1/chat/completions": answer()}) as (url, pages):
        completion = complete(url, request, api_key=KEY)
    assert completion.text == "four"
    assert completion.usage == Usage(9, 1, cached_tokens=8)
    assert completion.prompt_logprobs is None
    assert 0 < completion.seconds < 5
    (_, _, headers, content) = pages.asked[0]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert orjson.loads(content) == {
        "model": "test-model",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]},
        ],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["\n"],
        "logprobs": True,
        "top_logprobs": 2,
        **{name: value for name, value in extra.items() if name != "structured_outputs"},
        "structured_outputs": {"choice": ["four", "five"]},
        "guided_choice": ["four", "five"],
    }


def test_no_key_sends_none() -> None:
    with serving({"/v1/chat/completions": answer()}) as (url, pages):
        complete(url)
    assert "authorization" not in pages.asked[0][2]


def test_prompt_logprobs_come_back_and_survive_the_journal() -> None:
    rows = [
        None,
        {
            "7": {"logprob": -3.5, "rank": 9, "decoded_token": " two"},
            "4": {"logprob": None, "rank": 1, "decoded_token": " 2"},
        },
        {"5": {"logprob": -0.25, "rank": 1, "decoded_token": "\ud83d"}},
    ]
    body = orjson.dumps(answer(prompt_logprobs=rows[:2])).replace(
        b'" 2"}}]', b'" 2"}}, {"5": {"logprob": -0.25, "rank": 1, "decoded_token": "\\ud83d"}}]'
    )
    request = Request("test-model", ASK.messages, Sampling(extra={"prompt_logprobs": 1}))
    with serving({"/v1/chat/completions": body}) as (url, _):
        completion = complete(url, request)
    assert completion.prompt_logprobs == (
        None,
        TokenLogprob(" two", -3.5, ((" two", -3.5), (" 2", -9999.0))),
        TokenLogprob("?", -0.25, (("?", -0.25),)),
    )
    assert completion_from_dict(orjson.loads(orjson.dumps(completion_to_dict(completion)))) == completion


@pytest.mark.parametrize("rows", [[{"7": {"rank": 1}}], [["a"]], [{"7": 3}], [7]])
def test_malformed_prompt_logprobs_are_a_bad_response(rows: object) -> None:
    request = Request("test-model", ASK.messages, Sampling(extra={"prompt_logprobs": 1}))
    with (
        serving({"/v1/chat/completions": answer(prompt_logprobs=rows)}) as (url, _),
        pytest.raises(errors.BadResponse, match="prompt_logprobs"),
    ):
        complete(url, request)


def test_many_calls_run_side_by_side_over_connections_that_are_kept() -> None:
    async def work(backend: VllmBackend) -> None:
        requests = [Request("test-model", (Message("user", f"What is {n} + 1?"),)) for n in range(300)]
        for _ in range(2):
            done = await asyncio.gather(*(backend.complete(request) for request in requests))
            assert all(c.text.endswith(f"\\boxed{{{n + 1}}}.") for n, c in enumerate(done))

    with FaultServer(delay_ms=(200, 200)) as server:
        with_backend(server.base_url, work)
        assert server.peak > 250  # neither aiohttp's default of 100, nor any other cap
        assert server.connections_made <= 320


def test_a_cancelled_call_leaves_the_server() -> None:
    async def work(backend: VllmBackend) -> None:
        call = asyncio.create_task(backend.complete(ASK))
        while not server.running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        call.cancel()
        start = time.perf_counter()
        while server.running:
            await asyncio.sleep(0.005)
            assert time.perf_counter() - start < 2
        assert (await backend.complete(ASK)).text

    with FaultServer(["hang"]) as server:
        with_backend(server.base_url, work)
        assert server.count("cancelled") == 1


def test_cookies_are_not_kept() -> None:
    page = (200, {"set-cookie": "session=1; Path=/"}, orjson.dumps(answer()))

    async def work(backend: VllmBackend) -> None:
        await backend.complete(ASK)
        await backend.complete(ASK)

    with serving({"/v1/chat/completions": page}) as (url, pages):
        with_backend(url, work)
    assert "cookie" not in pages.asked[1][2]


def test_the_import_is_lazy() -> None:
    code = "import sys, heartloop.backends; sys.exit('aiohttp' in sys.modules or 'openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# --- what the server knows -------------------------------------------------------------------------------

MODELS = {"object": "list", "data": [{"id": "test-model", "max_model_len": 2048}, {"id": "other"}]}


def test_prepare_learns_the_context_length() -> None:
    async def work(backend: VllmBackend) -> int | None:
        await backend.prepare()
        return backend.context_tokens

    with serving({"/v1/models": MODELS}) as (url, pages):
        assert with_backend(url, work) == 2048
        assert with_backend(url, work, context_tokens=77) == 77  # what is given stands, unasked
        assert with_backend(url, work, name="other") is None
        assert len(pages.asked) == 2
        with pytest.raises(errors.ModelNotFound, match="other, test-model"):
            with_backend(url, work, name="gone")


def test_count_tokens_asks_the_tokenizer() -> None:
    async def work(backend: VllmBackend) -> int:
        return await backend.count_tokens(ASK.messages)

    with serving({"/tokenize": {"count": 33, "tokens": [1] * 33}}) as (url, pages):
        assert with_backend(url, work) == 33
        sent = orjson.loads(pages.asked[0][3])
        assert sent == {"model": "test-model", "messages": [m.as_dict() for m in ASK.messages]}
        pages["/tokenize"] = Pages.page({"tokens": []})
        with pytest.raises(errors.BadResponse):
            with_backend(url, work)


NEW = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a} b"} 3.0
vllm:num_requests_running{engine="1",model_name="a} b"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 5.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 5.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1.2e+06
vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 4096.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 100.0
vllm:generation_tokens_total{engine="0",model_name="m"} 50.0
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
vllm:cache_config_info{block_size="128",enable_prefix_caching="True",num_gpu_blocks="364",x="1"} 1.0
vllm:time_to_first_token_seconds_bucket{le="0.001",model_name="m"} 0.0
python_gc_objects_collected_total{generation="0"} 21540.0
"""
OLD = b"""vllm:num_requests_running{model_name="m"} 1
vllm:num_requests_waiting{model_name="m"} 0
vllm:gpu_cache_usage_perc{model_name="m"} 0.125
vllm:gpu_prefix_cache_queries{model_name="m"} 64.0
vllm:gpu_prefix_cache_hits_total{model_name="m"} 32.0
"""


def test_metrics_in_both_spellings() -> None:
    new = VllmMetrics(7, 5, 0.5, 1_200_000, 4096, 100, 50, 2, 128 * 364)
    assert VllmMetrics.parse(NEW) == new
    old = VllmMetrics(1, 0, 0.125, 64, 32)
    assert VllmMetrics.parse(OLD) == old
    assert new + old == VllmMetrics(8, 5, 0.5, 1_200_064, 4128, 100, 50, 2, 128 * 364)
    with serving({"/metrics": NEW}) as (url, _):
        assert with_backend(url, lambda backend: backend.metrics()) == new


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"vllm:num_requests_waiting ", b"vllm:prompt_tokens_total{"]),
)
def test_metrics_of_any_page_are_numbers(page: bytes, before: bytes) -> None:
    seen = VllmMetrics.parse(before + page)
    assert min(seen.running, seen.waiting, seen.prompt_tokens, seen.kv_cache_usage) >= 0


def test_probe_asks_health_or_else_the_models() -> None:
    async def work(backend: VllmBackend) -> None:
        await backend.probe()

    with serving({"/health": b""}) as (url, pages):
        with_backend(url, work)
        pages["/health"] = (503, {}, b"")
        with pytest.raises(errors.ServerError):
            with_backend(url, work)
        del pages["/health"]
        with pytest.raises(errors.ModelNotFound):
            with_backend(url, work)
        pages["/v1/models"] = Pages.page(MODELS)
        with_backend(url, work)


def test_a_path_and_a_query_of_the_base_url_are_kept() -> None:
    async def work(backend: VllmBackend) -> None:
        await backend.complete(ASK)
        await backend.metrics()
        await backend.prepare()

    pages = {"/a/v1/chat/completions?t=1": answer(), "/a/metrics?t=1": OLD, "/a/v1/models?t=1": MODELS}
    with serving(pages) as (url, _):
        with_backend(url.replace("/v1", "/a/v1/?t=1"), work)


# --- faults ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "kind", "status"), causes(without=["bad_usage"], bad_gzip=200))
def test_fault_is_translated_by_cause(fault: str, kind: type[BackendError], status: int | None) -> None:
    with FaultServer([fault]) as server, pytest.raises(BackendError) as raised:
        complete(server.base_url, api_key=KEY)
    assert_cause(raised.value, kind, status)


def test_retry_after_is_read() -> None:
    with FaultServer(["503"]) as server, pytest.raises(errors.ServerError) as raised:
        complete(server.base_url)
    assert raised.value.retry_after == 3


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_call_that_takes_too_long_times_out_and_is_dropped_at_the_server(fault: str) -> None:
    with FaultServer([fault]) as server:
        with pytest.raises(errors.CallTimeout, match=r"within 0\.3 s"):
            complete(server.base_url, timeout=0.3)
        deadline = time.monotonic() + 3
        while not server.count("cancelled"):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_nothing_listens() -> None:
    with nobody_listening() as url, pytest.raises(errors.ConnectionFailed) as raised:
        complete(url)
    assert not raised.value.may_have_been_billed


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "Identity"])
def test_compression_that_nobody_asked_for_is_read(encoding: str) -> None:
    content = orjson.dumps(answer())
    page = (200, {"content-encoding": encoding}, gzip.compress(content) if "gzip" in encoding else content)
    with serving({"/v1/chat/completions": page}) as (url, _):
        assert complete(url).text == "four"


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_a_bomb_and_what_cannot_be_read_are_refused(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "LARGEST_INFLATED", 1_000_000)
    bomb = gzip.compress(orjson.dumps(answer(padding="x" * 1_000_000)))
    page = (200, {"content-encoding": encoding}, bomb)
    with (
        serving({"/v1/chat/completions": page}) as (url, _),
        pytest.raises(errors.BadResponse, match=encoding),
    ):
        complete(url)


def test_an_answer_beyond_all_measure_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "LARGEST", 1_000_000)
    page = answer(padding="x" * 1_100_000)
    with (
        serving({"/v1/chat/completions": page}) as (url, _),
        pytest.raises(errors.BadResponse, match="more than"),
    ):
        complete(url)


@pytest.mark.parametrize(
    "extra",
    [
        {"structured_outputs": {"choice": ["four", "five"], "whitespace_pattern": " "}},
        {"guided_choice": ["four", "five"], "guided_whitespace_pattern": " "},
    ],
)
def test_guided_decoding_goes_under_the_names_of_old_and_new_servers(extra: dict[str, Any]) -> None:
    """Each kind ignores the other's names, and answers without the constraint."""
    request = replace(ASK, sampling=replace(ASK.sampling, extra={**extra, "top_k": 3}))
    with serving({"/v1/chat/completions": answer()}) as (url, pages):
        complete(url, request)
    sent = orjson.loads(pages.asked[0][3])
    assert sent["structured_outputs"] == {"choice": ["four", "five"], "whitespace_pattern": " "}
    assert sent["guided_choice"] == ["four", "five"]
    assert sent["guided_whitespace_pattern"] == " "
    assert "guided_json" not in sent


def test_a_redirect_is_not_followed_with_the_key() -> None:
    page = (307, {"location": "/v1/elsewhere"}, b"")
    with serving({"/v1/chat/completions": page, "/v1/elsewhere": answer()}) as (url, pages):
        with pytest.raises(errors.BadRequest, match="redirect"):
            complete(url, api_key=KEY)
        assert len(pages.asked) == 1


@pytest.mark.parametrize("content", ["half \ud83d", ({"type": "text", "text": object()},)])
def test_what_is_no_json_is_a_bad_request(content: Any) -> None:
    with serving({}) as (url, pages), pytest.raises(errors.BadRequest, match="JSON"):
        complete(url, Request("test-model", (Message("user", content),)))
    assert not pages.asked


def test_credentials_in_the_url_are_used_and_hidden() -> None:
    with FaultServer(["500"]) as server:
        url = server.base_url.replace("//", "//ann:pass-word@") + "?token=querysecret"
        with pytest.raises(errors.ServerError) as raised:
            complete(url)
        assert server.calls[0]["headers"]["authorization"] == "Basic YW5uOnBhc3Mtd29yZA=="
    shown = str(raised.value) + repr(VllmBackend("m", base_url=url))
    assert "pass-word" not in shown
    assert "querysecret" not in shown


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({"http://vllm.invalid/v1/chat/completions": answer()}) as (url, pages):
        monkeypatch.setenv("http_proxy", url.removesuffix("/v1").replace("//", "//ann:pw@"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert complete("http://vllm.invalid/v1").text == "four"
        assert pages.asked[0][2]["proxy-authorization"].startswith("Basic ")
        monkeypatch.setenv("no_proxy", "vllm.invalid")
        with pytest.raises(errors.ConnectionFailed):
            complete("http://vllm.invalid/v1")


# --- by name ---------------------------------------------------------------------------------------------


def test_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    one = make_backend("vllm/org/name", base_url="http://h:1/v1", context_tokens=9)
    assert isinstance(one, VllmBackend)
    assert (one.name, one.context_tokens) == ("org/name", 9)
    two = make_backend("vllm/m", base_url="http://h:1/v1, http://h:2/v1", max_concurrency=4)
    assert isinstance(two, ReplicaSet)
    assert (two.name, two.max_concurrency) == ("m", 8)
    assert [replica.name for replica in two.replicas] == ["http://h:1/v1", "http://h:2/v1"]
    monkeypatch.setenv("MY_KEY", KEY)
    assert KEY not in repr(make_backend("vllm/m", base_url="http://h:1/v1", api_key_env="MY_KEY"))


@pytest.mark.parametrize(
    ("spec", "url", "said"),
    [
        ("vllm/m", None, "base_url"),
        ("vllm/", "http://h/v1", "name"),
        ("vllm/m", "http://h/v1,http://h/v1", "twice"),
        ("vllm/m", "localhost:8000", "base_url"),
    ],
)
def test_names_that_cannot_work(spec: str, url: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_backend(spec, base_url=url)


def test_a_variable_without_a_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UsageError, match="MY_KEY"):
        VllmBackend("m", base_url="http://h/v1", api_key_env="MY_KEY")
