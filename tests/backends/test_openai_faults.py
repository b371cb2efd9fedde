"""Every way in which a server can fail, and the error that comes out of it."""

from __future__ import annotations

import asyncio
import time
import traceback

import pytest

from heartloop import errors
from heartloop.backends import OpenAIBackend
from heartloop.backends.openai_errors import ErrorBody, from_status, rate_limits, retry_after
from heartloop.errors import BackendError, RetryableError
from heartloop.types import Completion, Message, Request, Sampling
from tests.support.causes import KEY, assert_cause, causes
from tests.support.fault_server import FaultServer
from tests.support.loopback import nobody_listening

ASK = Request("test-model", (Message("user", "What is 20 + 22?"),), Sampling(max_tokens=64))


def complete(server: FaultServer, request: Request = ASK, **options: object) -> Completion:
    async def main() -> Completion:
        options.setdefault("api_key", KEY)
        backend = OpenAIBackend(request.model, base_url=server.base_url, **options)  # type: ignore[arg-type]
        try:
            return await backend.complete(request)
        finally:
            await backend.aclose()

    return asyncio.run(main())


def failure(fault: str) -> BackendError:
    with FaultServer([fault]) as server, pytest.raises(BackendError) as raised:
        complete(server)
    return raised.value


@pytest.mark.parametrize(("fault", "kind", "status"), causes(without=["bad_usage"]))
def test_fault_is_translated_by_cause(fault: str, kind: type[BackendError], status: int | None) -> None:
    assert_cause(failure(fault), kind, status)


@pytest.mark.parametrize(
    ("fault", "low", "high"),
    [
        ("429", None, None),
        ("429-seconds", 2, 2),
        ("429-date", 3, 5),
        ("429-ms", 0.25, 0.25),
        ("429-reset", 61.5, 61.5),  # of the limit that is used up, not of the longer one that isn't
        ("503", 3, 3),
        ("500", None, None),
    ],
)
def test_retry_after_is_read(fault: str, low: float | None, high: float | None) -> None:
    error = failure(fault)
    assert isinstance(error, RetryableError)
    if low is None or high is None:
        assert error.retry_after is None
    else:
        assert error.retry_after is not None
        assert low <= error.retry_after <= high


def test_a_date_to_come_back_at_is_read_by_the_servers_clock() -> None:
    """Ours may be wrong by years."""
    headers = {"retry-after": "Wed, 01 Jan 2020 00:00:07 GMT", "date": "Wed, 01 Jan 2020 00:00:00 GMT"}
    assert retry_after(headers) == 7
    assert retry_after({**headers, "date": "Wed, 01 Jan 2020 00:01:00 GMT"}) == 0
    assert retry_after({**headers, "date": "yesterday"}) is None


def test_resets_say_when_all_of_a_limit_is_there_again_and_are_not_waited_for_by_the_hour() -> None:
    left = {"x-ratelimit-remaining-requests": "9998", "x-ratelimit-reset-requests": "14h"}
    some = {"x-ratelimit-remaining-tokens": "120", "x-ratelimit-reset-tokens": "3s"}
    none = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1h"}
    assert retry_after(left | some) == 3
    assert retry_after(left | none) == 300


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("Request too large on tokens per min (TPM): Limit 30000, Requested 45012. Reduce it.", 30000),
        ("Request too large on tokens per minute (TPM): Limit: 6,000, Requested: 7,021", 6000),
        ("Rate limit reached on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.", None),
        ("Rate limit reached on requests per min (RPM): Limit 3, Used 3, Requested 1.", None),
        ("Limit " + "9" * 5000 + ", Requested " + "9" * 5001, None),
    ],
)
@pytest.mark.parametrize("status", [413, 429])
def test_a_request_that_no_minute_has_room_for_is_not_waited_for(
    message: str, limit: int | None, status: int
) -> None:
    body = ErrorBody({"error": {"message": message, "code": "rate_limit_exceeded"}})
    error = from_status(status, {}, body, where="there", redact=str)
    assert isinstance(error, errors.ContextOverflow) == (limit is not None)
    assert limit is None or (getattr(error, "context_tokens", None) == limit and "max_tokens" in str(error))


def test_numbers_without_end_in_headers_break_nothing() -> None:
    endless = "9" * 5000
    for name in ("remaining-requests", "remaining-tokens", "reset-requests", "reset-tokens"):
        rate_limits({"x-ratelimit-remaining-requests": "1", f"x-ratelimit-{name}": endless})
        retry_after({f"x-ratelimit-{name}": endless})
    assert retry_after({"retry-after": endless}) == float("inf")


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_call_that_takes_too_long_times_out_and_is_dropped_at_the_server(fault: str) -> None:
    with FaultServer([fault]) as server:
        start = time.perf_counter()
        with pytest.raises(errors.CallTimeout, match=r"within 0\.3 s"):
            complete(server, timeout=0.3)
        assert time.perf_counter() - start < 3
        wait_until(lambda: server.count("cancelled") == 1)


def test_nothing_listens() -> None:
    with nobody_listening() as url, pytest.raises(errors.ConnectionFailed) as raised:
        asyncio.run(once(OpenAIBackend("m", base_url=url)))
    assert not raised.value.may_have_been_billed
    assert url in str(raised.value)


def test_a_host_that_does_not_exist() -> None:
    backend = OpenAIBackend("m", base_url="http://heartloop.invalid/v1", timeout=20)
    with pytest.raises(errors.ConnectionFailed):
        asyncio.run(once(backend))


def test_model_not_found_lists_what_the_server_has_and_asks_once() -> None:
    async def main(server: FaultServer) -> tuple[str, str]:
        backend = OpenAIBackend("gone", base_url=server.base_url)
        said = []
        for _ in range(2):
            with pytest.raises(errors.ModelNotFound) as raised:
                await backend.complete(ASK)
            said.append(str(raised.value))
            server.models[:] = ["changed"]
        await backend.aclose()
        return said[0], said[1]

    with FaultServer(["404", "404"], models=["alpha", "beta"]) as server:
        first, second = asyncio.run(main(server))
    assert "alpha, beta" in first
    assert "alpha, beta" in second


def test_a_wrong_path_is_explained() -> None:
    with FaultServer() as server:
        url = server.base_url.removesuffix("/v1") + "/elsewhere"
        with pytest.raises(errors.ModelNotFound, match="does base_url end in /v1"):
            asyncio.run(once(OpenAIBackend("m", base_url=url)))


def test_text_that_is_no_unicode_is_a_bad_request() -> None:
    request = Request("test-model", (Message("user", "half \ud83d"),))
    with FaultServer() as server, pytest.raises(errors.BadRequest):
        complete(server, request)


def test_what_the_engine_owns_cannot_be_set_by_extra() -> None:
    for extra in ({"stream": True}, {"n": 4}, {"max_tokens": 10**6}):
        request = Request("test-model", ASK.messages, Sampling(extra=extra))
        with FaultServer() as server, pytest.raises(errors.BadRequest, match=next(iter(extra))):
            complete(server, request)


# --- keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["short-key", "a-much-longer-key-of-another-shape-0123456789", KEY])
def test_a_key_that_the_server_echoes_is_not_repeated(key: str) -> None:
    for fault in ("401", "403"):
        with FaultServer([fault]) as server, pytest.raises(errors.AuthenticationFailed) as raised:
            complete(server, api_key=key)
        assert key not in "".join(traceback.format_exception(raised.value))
        assert server.calls[0]["headers"]["authorization"] == f"Bearer {key}"


def test_a_masked_key_is_not_repeated() -> None:
    from heartloop.backends.secrets import Redactor

    redact = Redactor([KEY])
    assert redact("Incorrect key: sk-te****4242, see the docs") == "Incorrect key: [key], see the docs"
    assert "-4242" not in redact("it ends in ****-4242.")
    assert redact("The model does not exist") == "The model does not exist"


def test_no_key_for_openai_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTHER_KEY", raising=False)
    with pytest.raises(errors.UsageError, match="OTHER_KEY"):
        OpenAIBackend("gpt-4o", api_key_env="OTHER_KEY")


def test_no_key_for_another_server_sends_a_placeholder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with FaultServer() as server:
        assert complete(server, api_key=None).text.endswith(r"\boxed{42}.")
        assert server.calls[0]["headers"]["authorization"] == "Bearer none"


def test_credentials_in_the_url_are_used_and_hidden() -> None:
    with FaultServer(["ok", "500"]) as server:
        url = server.base_url.replace("//", "//ann:pass-word@") + "?token=querysecret"

        async def main() -> str:
            backend = OpenAIBackend("m", base_url=url)
            await backend.complete(ASK)
            with pytest.raises(errors.ServerError) as raised:
                await backend.complete(ASK)
            await backend.aclose()
            return repr(backend) + str(raised.value)

        shown = asyncio.run(main())
        assert server.calls[0]["headers"]["authorization"] == "Basic YW5uOnBhc3Mtd29yZA=="
    assert "pass-word" not in shown
    assert "querysecret" not in shown


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x/v1", "http://", "http://x:port/v1"])
def test_a_base_url_that_is_none(url: str) -> None:
    if url:
        with pytest.raises(errors.UsageError, match="base_url"):
            OpenAIBackend("m", base_url=url)


async def once(backend: OpenAIBackend) -> Completion:
    try:
        return await backend.complete(ASK)
    finally:
        await backend.aclose()


def wait_until(true: object, seconds: float = 3.0) -> None:
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
