"""Files of rows, good and broken, images in them, and the hub behind a stand-in."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from heartloop.errors import DataError, UsageError
from heartloop_benchmarks.base import Row, benchmark_from_name
from heartloop_benchmarks.data import open_data, strings, truth
from heartloop_benchmarks.images import image_part, with_images
from tests.benchmarks.samples import png
from tests.support.fake_hub import COMMIT, TOKEN
from tests.support.fake_hub import FakeHub as LoopbackHub

GSM = benchmark_from_name("gsm8k")
GPQA = benchmark_from_name("gpqa")


def rows(path: Path) -> list[dict[str, Any]]:
    return [dict(row.data) for row in open_data(GSM, path)]


# --- files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a\.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b"[1]\n", r"line 1: not a record"),
        ("a.jsonl", b'\xff\xfe{"a": 1}\n', r"line 1: not valid JSON"),
        ("a.json", b'{"x": 1}', r"neither a list of records"),
        ("a.json", b'"text"', r"not a list"),
        ("a.json", b"[1]", r"record 1: not a record"),
        ("a.csv", b"a,b\n1,2,3\n", r"record 1: more cells"),
        ("a.csv", b"a,b\n\xff,2\n", r"not UTF-8"),
        ("a.csv", b'a,b\n1,"2\n', r"not valid CSV"),
        ("a.parquet", b"PAR1 nonsense", r"not valid Parquet"),
        ("a.txt", b"", r"not a known kind of data"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="needs the extra [data]")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        rows(path)


def test_texts_that_no_request_can_hold_are_named(tmp_path: Path) -> None:
    """JSON and CSV hold none, but a list that is written in a cell may."""
    path = tmp_path / "a.csv"
    path.write_text("question,final_answer\nq,\"['\\ud800', 'x']\"\n")
    olympiad = benchmark_from_name("olympiadbench")
    with pytest.raises(DataError, match=r"a\.csv, record 1: .*half a surrogate pair .* of its reference"):
        list(olympiad.read(open_data(olympiad, path), olympiad.options()))


def test_parquet_that_pandas_or_nobody_wrote(tmp_path: Path) -> None:
    """NaN stands for null; text that is no UTF-8 is named."""
    arrow = pytest.importorskip("pyarrow", reason="needs the extra [data]")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [data]")
    parquet.write_table(arrow.table({"question": ["q"], "answer": [float("nan")]}), tmp_path / "nan.parquet")
    with pytest.raises(DataError, match=r"record 1: the field 'answer' is empty"):
        list(GSM.read(open_data(GSM, tmp_path / "nan.parquet"), None))
    offsets, data = (0).to_bytes(4, "little") + (2).to_bytes(4, "little"), b"q\xff"
    texts = arrow.Array.from_buffers(arrow.utf8(), 1, [None, arrow.py_buffer(offsets), arrow.py_buffer(data)])
    parquet.write_table(arrow.table({"question": texts}), tmp_path / "bytes.parquet")
    with pytest.raises(DataError, match=r"bytes\.parquet, one of records 1 to 1: can't be read"):
        rows(tmp_path / "bytes.parquet")


def test_no_such_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_data(GSM, tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no data in this folder"):
        open_data(GSM, tmp_path)


def test_a_folder_is_read_in_order_and_hashed_by_content(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"a": 2}\n')
    (tmp_path / "a.json").write_text('[{"a": 1}]')
    (tmp_path / "notes.txt").write_text("not data")
    assert rows(tmp_path) == [{"a": 1}, {"a": 2}]
    before = open_data(GSM, tmp_path).digest()
    (tmp_path / "b.jsonl").rename(tmp_path / "c.jsonl")
    assert open_data(GSM, tmp_path).digest() == before
    (tmp_path / "c.jsonl").write_text('{"a": 3}\n')
    assert open_data(GSM, tmp_path).digest() != before


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\nbroken\n')
    reading = iter(open_data(GSM, path))
    assert next(reading).data == {"a": 1}
    with pytest.raises(DataError, match="line 2"):
        next(reading)


def bombs(folder: Path) -> dict[str, Path]:
    """Files of some kilobytes that unfold to 64 MiB and more."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    megabyte = arrow.array(["a" * (1 << 20)])
    references = arrow.DictionaryArray.from_arrays(arrow.array([0] * 200, arrow.int32()), megabyte)
    lists = arrow.ListArray.from_arrays([0, 200], references)
    nested = arrow.StructArray.from_arrays([lists], ["texts"])
    numbers = arrow.ListArray.from_arrays([0, 1 << 24], arrow.nulls(1 << 24, arrow.int32()))
    tables = {
        "pages": ({"question": ["a" * (1 << 20)] * 64}, {"compression": "zstd", "use_dictionary": False}),
        "rows": ({"question": references}, {}),
        "lists": ({"question": ["q"], "choices": lists}, {}),
        "structs": ({"question": ["q"], "more": nested}, {}),
        "numbers": ({"question": ["q"], "n": numbers}, {"compression": "zstd"}),
    }
    made = {}
    for name, (columns, how) in tables.items():
        made[name] = folder / f"{name}.parquet"
        parquet.write_table(arrow.table(columns), made[name], **how)
        assert made[name].stat().st_size < 200_000
    return made


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pages", "row group 1: unfolds to 64 MiB"),
        ("rows", "up to record"),
        ("lists", "row group 1, choices.list.element: unfolds to 200 MiB"),
        ("structs", "row group 1, more.texts.list.element: unfolds to 200 MiB"),
        ("numbers", "row group 1: unfolds to 64 MiB"),
    ],
)
def test_parquet_that_unfolds_to_far_more_than_its_size_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs the extra [data]")
    file = bombs(tmp_path)[name]
    monkeypatch.setattr("heartloop_benchmarks.parquet.LARGE", 4 << 20)
    monkeypatch.setattr("heartloop_benchmarks.parquet.MOST", 32 << 20)
    before = arrow.default_memory_pool().bytes_allocated()
    peak = 0

    def read() -> None:
        nonlocal peak
        for _ in open_data(GSM, file):
            peak = max(peak, arrow.default_memory_pool().bytes_allocated() - before)

    with pytest.raises(DataError, match="far more than its size in the file") as caught:
        read()
    assert said in str(caught.value)
    assert peak < 32 << 20


def test_parquet_that_is_merely_large_or_merely_repeats_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs the extra [data]")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [data]")
    import random

    draw = random.Random(1)
    texts = [draw.randbytes(2_000).hex() for _ in range(300)]
    columns = {"question": texts, "choices": [[texts[0], texts[k], "none"] for k in range(300)]}
    parquet.write_table(arrow.table(columns), tmp_path / "large.parquet", row_group_size=100)
    monkeypatch.setattr("heartloop_benchmarks.parquet.LARGE", 1 << 16)
    found = rows(tmp_path / "large.parquet")
    assert [row["question"] for row in found] == texts
    assert [row["choices"] for row in found] == columns["choices"]


def test_parquet_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"heartloop\[data\]"):
        rows(tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["3", "4"], ("3", "4")),
        ([3, 0.5], ("3", "0.5")),
        ('["3"]', ("3",)),
        ("['3', '4']", ("3", "4")),
        ("[1, 3]", ("[1, 3]",)),
        ("[1, 3)", ("[1, 3)",)),
        ("x", ("x",)),
        ("[" * 5000, ("[" * 5000,)),
        ("__import__('os')", ("__import__('os')",)),
    ],
)
def test_lists_of_texts_however_written(value: Any, expected: tuple[str, ...]) -> None:
    assert strings(Row("row", {"a": value}), "a") == expected


@pytest.mark.parametrize("value", [[], [None], [["x"]], {"a": 1}, None, True, ""])
def test_what_is_no_list_of_texts(value: Any) -> None:
    with pytest.raises(DataError, match="row"):
        strings(Row("row", {"a": value}), "a")


def test_truth_however_written() -> None:
    assert [truth(Row("row", {"a": value}), "a") for value in (True, "False", "1", None)] == [
        True,
        False,
        True,
        None,
    ]
    with pytest.raises(DataError, match="neither true nor false"):
        truth(Row("row", {"a": "perhaps"}), "a")


# --- images ------------------------------------------------------------------------------------------


def test_images_in_every_published_form(tmp_path: Path) -> None:
    picture = png()
    encoded = base64.b64encode(picture).decode()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "img_7.png").write_bytes(picture)
    row = Row("row 1", {}, tmp_path / "data.jsonl")
    expected = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}
    forms: list[Any] = [
        picture,
        encoded,
        f"data:image/png;base64,{encoded}",
        {"bytes": picture, "path": None},
        {"bytes": None, "path": "images/img_7.png"},
        "img_7",
    ]
    for form in forms:
        assert image_part(row, "image", form) == expected


def test_an_image_folder_beside_the_data_folder(tmp_path: Path) -> None:
    for folder in ("data", "images"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images" / "img_7.jpg").write_bytes(b"\xff\xd8\xff\xe0 a picture")
    row = Row("row 1", {}, tmp_path / "data" / "set.json")
    assert image_part(row, "q", "img_7")["image_url"]["url"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("../secret.png", "no image"),
        ("/etc/passwd", "no image"),
        ("https://example.org/a.png", "is an address"),
        ("file:///etc/passwd", "is an address"),
        ("data:image/png;base64,@@@", "not valid base64"),
        (b"<svg onload='x'/>", "not a PNG"),
        ("plain.png", "not a PNG"),
        (None, "holds no image"),
        (b"\xff\xd8\xff" + b"0" * (21 << 20), "more than 20 MiB"),
    ],
)
def test_what_is_no_image_or_lies_elsewhere(tmp_path: Path, value: Any, complaint: str) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "plain.png").write_text("not a picture")
    with pytest.raises(DataError, match=f"row 1: .*{complaint}"):
        image_part(Row("row 1", {}, folder / "data.jsonl"), "image", value)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="no image"):
        image_part(Row("row 1", {}, folder / "data.jsonl"), "image", "link.png")


def test_images_stand_at_their_marks() -> None:
    one, two = (
        {"type": "image_url", "image_url": {"url": "1"}},
        {"type": "image_url", "image_url": {"url": "2"}},
    )
    assert with_images("a <image_1> b", {"<image_1>": one, "<image_2>": two}) == (
        {"type": "text", "text": "a"},
        one,
        {"type": "text", "text": "b"},
        two,
    )
    assert with_images("a", {}) == "a"


# --- the hub -----------------------------------------------------------------------------------------


class FakeClient:
    """Stands in for ``huggingface_hub.snapshot_download``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, error: Exception | None = None) -> None:
        self.asked: dict[str, Any] = {}
        self.folder, self.error = folder, error
        hub = pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
        monkeypatch.setattr(hub, "snapshot_download", self.download)

    def download(self, repository: str, **asked: Any) -> str:
        self.asked = {"repository": repository, **asked}
        if self.error is not None:
            raise self.error
        return str(self.folder)


def refusal(kind: str, message: str = "401 Client Error") -> Exception:
    errors = pytest.importorskip("huggingface_hub.errors", reason="needs the extra [hub]")
    made: Exception = getattr(errors, kind).__new__(getattr(errors, kind))
    made.args = (message,)
    return made


def test_data_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "633f5ee89ab8ad4522a9f850766b73f62147ffdd"
    folder = tmp_path / commit
    folder.mkdir()
    (folder / "gpqa_diamond.csv").write_text("a,b\n1,2\n")
    (folder / "other.csv").write_text("a,b\n3,4\n")
    hub = FakeClient(monkeypatch, folder)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    data = open_data(GPQA)
    assert [dict(row.data) for row in data] == [{"a": "1", "b": "2"}]
    assert data.source == f"hf:Idavidrein/gpqa@{commit}"
    assert data.revision == commit
    assert hub.asked == {
        "repository": "Idavidrein/gpqa",
        "repo_type": "dataset",
        "revision": commit,
        "allow_patterns": ["gpqa_diamond.csv"],
        "token": "hf_secret",
    }
    open_data(GPQA, revision="main")
    assert hub.asked["revision"] == "main"


def test_options_narrow_down_what_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "abc" / "OlympiadBench" / "OE_TO_maths_zh_CEE"
    folder.mkdir(parents=True)
    (folder / "OE_TO_maths_zh_CEE.json").write_text("[]")
    (folder / "OE_TO_maths_zh_CEE.parquet").write_bytes(b"PAR1")
    hub = FakeClient(monkeypatch, tmp_path / "abc")
    benchmark = benchmark_from_name("olympiadbench")
    data = open_data(benchmark, None, benchmark.options(subject="maths", language="zh", level="CEE"))
    assert hub.asked["allow_patterns"] == ["*OE_TO_maths_zh_CEE*.parquet"]
    assert [file.name for file in data.files] == ["OE_TO_maths_zh_CEE.parquet"]


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (
            "GatedRepoError",
            "gated and HF_TOKEN is not set: agree to its terms at https://huggingface.co/datasets",
        ),
        ("RevisionNotFoundError", "has no revision"),
        ("RepositoryNotFoundError", "shows no data set"),
        ("LocalEntryNotFoundError", "is not in the hub's cache, and .*offline"),
        ("OfflineModeIsEnabled", "is not in the hub's cache, and .*offline"),
        ("HfHubHTTPError", "could not be fetched: 401 Client Error; try again"),
    ],
)
def test_the_hub_says_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, complaint: str) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    FakeClient(monkeypatch, tmp_path, refusal(kind))
    with pytest.raises(DataError, match=complaint) as raised:
        open_data(GPQA)
    assert "--data FILE" in str(raised.value)


def test_the_token_is_in_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    FakeClient(
        monkeypatch, tmp_path, refusal("HfHubHTTPError", "500 for Bearer hf_secret\nheaders: hf_secret")
    )
    with pytest.raises(DataError) as raised:
        open_data(GPQA)
    assert "hf_secret" not in str(raised.value)
    FakeClient(monkeypatch, tmp_path, refusal("GatedRepoError"))
    with pytest.raises(DataError, match="has not been let in"):
        open_data(GPQA)


def test_really_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client itself, with an empty cache, switched off line: nothing is sent."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra [hub]")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="hub's cache"):
        open_data(GPQA)


_ASK = """
import json, os, sys
from heartloop.errors import DataError
from heartloop_benchmarks.base import Hub, benchmark_from_name
from heartloop_benchmarks.data import open_data

class Here(type(benchmark_from_name("gsm8k"))):
    hub = Hub("some/set", ("main/*.jsonl",))

for token, revision in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        data = open_data(Here(), revision=revision)
        print(json.dumps([data.source, [dict(row.data) for row in data]]))
    except DataError as error:
        print(json.dumps(str(error)))
"""


def test_the_real_client_against_a_hub_of_our_own(tmp_path: Path) -> None:
    """In a process of its own: the client reads the hub's address once."""
    pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
    asked = [(None, COMMIT), ("hf_wrong", COMMIT), (TOKEN, "nope"), (TOKEN, "main"), (None, COMMIT)]
    with LoopbackHub({"main/a.jsonl": b'{"a": 1}\n', "other.jsonl": b"{}\n"}, gated=True) as hub:
        away = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        told = subprocess.run(
            [sys.executable, "-c", _ASK, json.dumps(asked)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **away},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    no_token, wrong_token, no_revision, fetched, cached = map(json.loads, told)
    assert "gated and HF_TOKEN is not set" in no_token
    assert "has not been let in" in wrong_token
    assert "no revision 'nope'" in no_revision
    assert fetched == [f"hf:some/set@{COMMIT}", [{"a": 1}]]
    assert cached == fetched
    assert hub.tokens >= {None, "Bearer hf_wrong", f"Bearer {TOKEN}"}


def test_without_the_extra_and_without_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"heartloop\[hub\]"):
        open_data(GPQA)
    with pytest.raises(UsageError, match="no revision of google/simpleqa-verified is pinned"):
        open_data(benchmark_from_name("simpleqa_verified"))


def test_a_snapshot_without_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClient(monkeypatch, tmp_path)
    with pytest.raises(DataError, match=r"holds no gpqa_diamond\.csv"):
        open_data(GPQA)


def test_a_row_says_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"a": 1}) + "\n" + json.dumps({"a": 2}) + "\n")
    second = list(open_data(GSM, path))[1]
    with path.open("rb") as file:
        file.seek(second.offset or 0)
        assert json.loads(file.readline()) == {"a": 2}
