"""Prices: what tokens cost, by whose word; and a model's own budget across processes."""

from __future__ import annotations

import asyncio
import datetime
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop import Budget, HeartLoop
from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.models import Model
from heartloop.engine.prices import Price, default_prices, load_prices
from heartloop.errors import DataError, UsageError


def test_cached_and_reasoning_tokens_and_batches_have_prices_of_their_own() -> None:
    price = Price(2.0, 8.0, cached_prompt=0.5, reasoning=4.0, batch=0.5)
    assert price.of(1_000_000, 0) == 2.0
    assert price.of(1_000_000, 0, cached_tokens=400_000) == pytest.approx(0.6 * 2 + 0.4 * 0.5)
    assert price.of(0, 1_000_000, reasoning_tokens=250_000) == pytest.approx(0.75 * 8 + 0.25 * 4)
    assert price.of(1_000_000, 1_000_000, batch=True) == pytest.approx(5.0)


def test_what_has_no_price_of_its_own_costs_the_ordinary_one() -> None:
    price = Price(2.0, 8.0)
    assert price.of(10, 10, 5, 5, batch=True) == price.of(10, 10)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_no_call_costs_more_than_its_worst_case(data: st.DataObject) -> None:
    dollars = st.floats(0, 100)
    maybe = st.none() | dollars
    price = Price(data.draw(dollars), data.draw(dollars), data.draw(maybe), data.draw(maybe))
    prompt, completion = data.draw(st.integers(0, 9_999)), data.draw(st.integers(0, 9_999))
    cached, reasoning = data.draw(st.integers(0, prompt)), data.draw(st.integers(0, completion))
    actual = price.of(prompt, completion, cached, reasoning)
    assert actual <= price.worst(prompt, completion) + 1e-9


def test_every_listed_price_has_a_date_and_a_source() -> None:
    text = resources.files("heartloop.engine").joinpath("prices.toml").read_text(encoding="utf-8")
    for entry in tomllib.loads(text)["price"]:
        assert entry["as_of"] <= datetime.date.today()
        assert entry["source"]
        assert entry["prompt"] < entry["completion"]
        assert entry["cached_prompt"] < entry["prompt"]
    assert default_prices()["gpt-4o-mini"].of(1_000_000, 1_000_000) == pytest.approx(0.75)


def test_list_prices_count_at_their_providers_own_address_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    listed = default_prices()["gpt-4o-mini"]
    assert Model("gpt-4o-mini").known_price() == listed == Model("openai/gpt-4o-mini").known_price()
    assert Model("gpt-4o-mini", base_url="http://127.0.0.1:1/v1").known_price() is None
    assert Model("local/gpt-4o-mini").known_price() is None
    assert Model("gpt-4o-mini", backend=ScriptedBackend(["x"])).known_price() is None
    assert Model("gpt-unheard-of").known_price() is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert Model("gpt-4o-mini").known_price() is None


def test_the_users_prices_go_first(tmp_path: Path) -> None:
    table = tmp_path / "mine.toml"
    table.write_text('[[price]]\nmodels = ["gpt-4o-mini", "house"]\nprompt = 1\ncompletion = 2.5\n')
    assert Model("gpt-4o-mini", prices=table).known_price() == Price(1, 2.5)
    assert Model("house", base_url="http://127.0.0.1:1/v1", prices=table).known_price() == Price(1, 2.5)
    assert Model("gpt-4o-mini", prices=table, price=Price(3, 4)).known_price() == Price(3, 4)
    assert Model("openai/gpt-4o", prices=table).known_price() == default_prices()["gpt-4o"]


def test_the_users_prices_are_found_by_the_models_own_name_however_it_is_asked(tmp_path: Path) -> None:
    table = tmp_path / "mine.toml"
    table.write_text(
        '[[price]]\nmodels = ["gpt-4o-mini", "org/house"]\nprompt = 1\ncompletion = 2\nbatch = 0.1\n'
    )
    mine = Price(1, 2, batch=0.1)
    assert Model("openai/gpt-4o-mini", prices=table).known_price() == mine
    assert Model("batch/gpt-4o-mini", prices=table).known_price() == mine.for_batch()
    assert Model("openai/gpt-4o-mini", batch=True, prices=table).known_price() == mine.for_batch()
    own = "http://127.0.0.1:1/v1"
    assert Model("vllm/org/house", base_url=own, prices=table).known_price() == mine
    assert Model("azure/gpt-4o-mini", base_url=own, prices=table).known_price() == mine
    # Somewhere else that name is another model's.
    assert Model("openai/gpt-4o-mini", base_url=own, prices=table).known_price() is None
    table.write_text(
        '[[price]]\nmodels = ["azure/fast"]\nprompt = 3\ncompletion = 4\n'
        '[[price]]\nmodels = ["fast"]\nprompt = 1\ncompletion = 2\n'
    )
    assert Model("azure/fast", base_url=own, prices=table).known_price() == Price(3, 4)


def test_who_has_no_price_is_named_as_the_user_knows_it() -> None:
    async def scene() -> None:
        async with HeartLoop("openai/gpt-unheard-of", budget=Budget(usd=1)) as held:
            await held.solve("What is 1 + 1?")

    with pytest.raises(UsageError, match=r"that of 'openai/gpt-unheard-of' is unknown"):
        asyncio.run(scene())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("price = 3", "tables"),
        ("[[price]]\nprompt = 1\ncompletion = 2", "models"),
        ('[[price]]\nmodels = ["a"]\nprompt = 1', "prompt and completion"),
        ('[[price]]\nmodels = ["a"]\nprompt = -1\ncompletion = 2', "0 or more"),
        ('[[price]]\nmodels = ["a"]\nprompt = true\ncompletion = 2', "numbers"),
        ('[[price]]\nmodels = ["a"]\nprompt = 1\ncompletion = inf', "0 or more"),
        ('[[price]]\nmodels = ["a"]\nprompt = 1\ncompletion = 2\ncashed = 1', "unknown field 'cashed'"),
        ('[[price]]\nmodels = ["a", "a"]\nprompt = 1\ncompletion = 2', "already"),
        ("[[price", "TOML"),
    ],
)
def test_a_table_that_cannot_be_one_says_why(tmp_path: Path, text: str, said: str) -> None:
    table = tmp_path / "mine.toml"
    table.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        load_prices(table)
    assert str(table) in str(caught.value)


def test_a_table_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.toml"):
        load_prices(tmp_path / "none.toml")


@pytest.mark.parametrize("dollars", [-1.0, float("nan"), float("inf")])
def test_a_price_is_a_number_of_dollars(dollars: float) -> None:
    with pytest.raises(UsageError):
        Price(dollars, 1.0)
