"""Texts are clean, the same everywhere, and their parts share nothing."""

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.assets.split import Row, passages, split
from orchestrator.assets.texts import boolq_rows, is_clean_prose

PARTS = ("train", "validation", "held_out")


def texts_of(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_split_keeps_groups_together_and_drops_shared_passages() -> None:
    shared = "these eight words in a row are shared"
    rows = [
        Row(f"{i}", f"{i} " + (shared if i % 4 == 0 else f"own {i}"), f"g{i // 2}")
        for i in range(60)
    ]
    parts = split(rows, held_out=9, validation=5)
    assert len(parts.held_out) == 10  # whole groups of two
    groups = [
        {row.group for row in part} for part in (parts.train, parts.validation, parts.held_out)
    ]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert any(shared in row.text for row in parts.held_out)
    assert not any(shared in row.text for row in parts.train + parts.validation)
    assert split(rows[::-1], held_out=9, validation=5) == parts


def test_split_keeps_one_of_equal_texts_and_refuses_to_train_on_nothing() -> None:
    rows = [Row("a", "same", "a"), Row("b", "same", "b"), Row("c", "other", "c")]
    parts = split(rows, held_out=1, validation=0)
    assert sorted(row.id for row in parts.train + parts.held_out) == ["a", "c"]
    with pytest.raises(ValueError, match="no training document is left after 2 held-out"):
        split(rows, held_out=2, validation=0)


def test_prose_filter_keeps_ordinary_paragraphs() -> None:
    good = "The river rises in the hills and flows slowly past the old town to the sea. " * 8
    good = good.strip()
    assert is_clean_prose(good)
    for bad in (
        good[:400],
        good[:-1],
        good.lower(),
        good + " 日.",
        good.replace("hills", "hills [1]"),
    ):
        assert not is_clean_prose(bad)
    assert not is_clean_prose(good.replace("hills", "1234567890"))


def test_boolq_passage_loses_its_question_and_tex_quotes(tmp_path: Path) -> None:
    passage = "He called it ``home'' from May--June, as people of that time often did. " * 8
    record = {"doc": {"query": f"Some Title -- {passage}\nQuestion: is it?\nAnswer:"}}
    path = tmp_path / "requests.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(record).encode()))
    (row,) = boolq_rows(path)
    assert (
        row.text
        == ('He called it "home" from May–June, as people of that time often did. ' * 8).strip()
    )
    assert row.group == "some title"
    assert row.id.startswith("wikipedia/Some Title#")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "digests"),
    [
        ("gsm8k", ("453aeaf60a08", "448c3dfed2f0", "ea895a6f0987")),
        ("prose", ("056e6d54c91b", "b882c4436c86", "3c627fc47c2f")),
    ],
)
def test_fetched_texts_are_the_same_everywhere_and_disjoint(
    fetched: Callable[[str], Path], name: str, digests: tuple[str, ...]
) -> None:
    paths = [fetched(f"asset:{name}/{part}.jsonl") for part in PARTS]
    assert tuple(hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in paths) == digests
    texts = [texts_of(path) for path in paths]
    seen = [{passage for text in part for passage in passages(text)} for part in texts]
    assert sum(map(len, seen)) == len(set.union(*seen))
    assert sum(len(text.encode()) for text in texts[2]) >= 50_000


@pytest.mark.slow
def test_prose_articles_are_in_one_part_only(fetched: Callable[[str], Path]) -> None:
    lines = [fetched(f"asset:prose/{part}.jsonl").read_text().splitlines() for part in PARTS]
    articles = [{json.loads(line)["id"].rsplit("#")[0] for line in part} for part in lines]
    assert sum(map(len, articles)) == len(set.union(*articles))
