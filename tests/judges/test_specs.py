"""Specs of judges: what is understood, and what is said of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.errors import UnknownName, UsageError
from heartloop.judges import Judge, judge_from_name, known_judges
from heartloop.judges.majority import Majority
from heartloop.judges.spec import built
from heartloop.specs import Spec, parsed


@dataclass(frozen=True)
class Leaf(Majority):
    budget: int = 1
    floor: float = 0.5
    both: bool = True
    look: Literal["short", "long"] = "short"
    url: str = ""
    least: int | None = 3
    name: str = "leaf"


@dataclass(frozen=True)
class Pair(Majority):
    first: Judge = Majority()
    then: Judge = Majority()
    margin: float = 0.0
    name: str = "pair"


@dataclass(frozen=True)
class Several(Majority):
    judges: tuple[Judge, ...] = ()
    weights: tuple[float, ...] | None = None
    name: str = "several"


def maker(spec: Spec) -> Any:
    return {"leaf": Leaf, "pair": Pair, "several": Several, "majority": Majority}[spec.name]


def judge(text: str) -> Any:
    return built(parsed("judge", text), maker)


def test_a_spec_that_names_nothing_is_told_the_known_judges() -> None:
    with pytest.raises(UsageError, match=r"name of a judge is missing.*Known judges: .*majority"):
        judge_from_name("?")


def test_options_are_read_by_their_types_and_name_the_judge() -> None:
    made = judge(" leaf : budget=3, floor=0.25 ,both=no,look=long,url=http://h:8000/v1?a=b,least=none ")
    assert (made.budget, made.floor, made.both, made.look) == (3, 0.25, False, "long")
    assert (made.url, made.least) == ("http://h:8000/v1?a=b", None)
    assert made.name == "leaf:budget=3,floor=0.25,both=no,look=long,url=http://h:8000/v1?a=b,least=none"
    assert judge("leaf") == Leaf()


def test_judges_inside_judges_with_options_of_their_own() -> None:
    made = judge("pair(leaf:budget=2,floor=1,pair(majority,leaf:budget=4)):margin=0.5")
    assert (made.first.budget, made.first.floor, made.margin) == (2, 1.0, 0.5)
    assert (made.then.first.name, made.then.then.budget) == ("majority", 4)
    made = judge("several(leaf,majority,leaf:budget=9):weights=2/1/0.5")
    assert [j.name for j in made.judges] == ["leaf", "majority", "leaf:budget=9"]
    assert made.weights == (2.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "name of a judge is missing"),
        ("leaf:", "an option is missing"),
        ("leaf:budget", "an option is missing"),
        ("leaf:budget=", "'budget' has no value"),
        ("leaf:budget=1,budget=2", "'budget' is there twice"),
        ("leaf:budget=x", "budget is a whole number, not 'x'"),
        ("leaf:floor=nan", "floor is a number, not 'nan'"),
        ("leaf:both=maybe", "both is true or false"),
        ("leaf:look=far", "look is one of short, long"),
        ("leaf:bugdet=1", "unknown option of the judge 'leaf': 'bugdet'. Did you mean 'budget'?"),
        ("pair(leaf", "closing parenthesis is missing"),
        ("pair(leaf)", "1 judges in its parentheses, and 'pair' takes 2 (first, then)"),
        ("leaf(majority)", "takes none"),
        ("several", "takes one or more"),
        ("leaf)x", "character 5: the judge's spec ends here"),
        ("pair(" * 40, "inside one another"),
    ],
)
def test_what_cannot_be_read_is_said_where_and_what_to_do(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        judge(text)
    assert said in str(caught.value)


def test_our_own_are_made_by_name_and_unknown_ones_listed() -> None:
    assert judge_from_name("majority") == Majority()
    with pytest.raises(UnknownName, match=r"unknown judge 'majorty'\. Did you mean 'majority'\?"):
        judge_from_name("majorty")
    with pytest.raises(UnknownName, match="option of the judge 'majority'"):
        judge_from_name("majority:verify=x")
    assert {"majority", "oracle", "synthesis"} <= set(known_judges())


def test_a_registered_judge_takes_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(strength: int = 1) -> Majority:
        return Majority(name=f"mine{strength}")

    class Point:
        name = "mine"

        def load(self) -> Any:
            return made

    def points(group: str, name: str | None = None) -> list[Any]:
        listed: list[EntryPoint | Point] = [Point()]
        return [p for p in listed if name in (None, p.name)]

    monkeypatch.setattr("heartloop.judges.entry_points", points)
    assert judge_from_name("mine:strength=7").name == "mine:strength=7"
    assert "mine" in known_judges()


_names = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
_options = st.dictionaries(_names, st.from_regex(r"[a-z0-9./:=]{1,6}", fullmatch=True), max_size=3)
_specs: st.SearchStrategy[Spec] = st.recursive(
    st.builds(lambda n, o: Spec(n, (), o), _names, _options),
    lambda inner: st.builds(
        lambda n, p, o: Spec(n, tuple(p), o), _names, st.lists(inner, max_size=3), _options
    ),
    max_leaves=6,
)


@given(_specs)
def test_the_canonical_spelling_reads_as_itself(spec: Spec) -> None:
    again = parsed("judge", spec.text)
    assert again.text == spec.text
    assert (again.name, len(again.parts), dict(again.options)) == (
        spec.name,
        len(spec.parts),
        dict(spec.options),
    )


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        once = parsed("judge", text).text
        assert parsed("judge", once).text == once
    except UsageError:
        pass
