"""Broken run files and data files: a clear error, or a run that means what it says; never more.

Everything is seeded, so a failure comes back. The slow test runs five times as many mutants.
"""

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from losses.document import Document
from losses.methods import method_class, method_names
from orchestrator.config import RunConfig, load_run, parse_run, to_yaml
from orchestrator.config.deepspeed_keys import KEYS, SECTIONS, ZERO_KEYS
from orchestrator.config.schema import element_of, fields_of
from orchestrator.config.shipped import shipped_run_files
from orchestrator.config.yaml_text import dump_yaml, parse_yaml, read_yaml
from orchestrator.data import load_documents
from orchestrator.errors import ConfigError

Tree = dict[str, Any]
Place = tuple[Any, Any]
"""A mapping or list of the tree, and a key or index of it."""

FREE = ("model_options",)
"""Mappings that are passed through: any key may stand in them."""

LETTERS = "abcdefghijklmnopqrstuvwxyz_"

EXTREMES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, -(2**62), 0.0, -0.0, 1e-320, 1e308, -1e308,
    math.nan, math.inf, -math.inf, "", " ", "null", "1e-3", "yes", "a" * 5000, "é東🙂", "‮rtl",
    "../../etc/passwd", "/", "~", "asset:", "asset:x", "https://x/y", "a\nb", "{", "#", "- a",
    [], {}, [None], [[[[1]]]], {"": None}, {"a": {"b": [1, {"c": "d"}]}}, ["x"] * 50,
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A changed run; ``misspelt`` is the wrong key with where it stands, if that is the change."""

    tree: Tree
    misspelt: tuple[str, str] | None = None


def known_keys() -> set[str]:
    """Every key of the schema, every option of a method, and DeepSpeed's keys."""
    found: set[str] = {*KEYS, *ZERO_KEYS, *(key for keys in SECTIONS.values() for key in keys)}

    def visit(kind: object) -> None:
        for name, field in fields_of(kind).items():
            found.add(name)
            visit(element_of(field.annotation)[0])

    visit(RunConfig)
    for method in method_names():
        visit(method_class(method))
    return found


KNOWN = known_keys()


def places(tree: Any) -> Iterator[tuple[Place, str, bool]]:
    """Every key and index with its YAML path, and whether it lies in a passed-through mapping."""
    todo: list[tuple[Any, str, bool]] = [(tree, "", False)]
    while todo:
        part, path, free = todo.pop()
        items = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in items:
            if isinstance(part, dict):
                inner = f"{path}.{key}" if path else str(key)
            else:
                name = value.get("name") if path == "teachers" and isinstance(value, dict) else None
                inner = f"{path}[{key}]" + (f" ({name})" if name else "")
            yield (part, key), inner, free
            if isinstance(value, dict | list):
                todo.append((value, inner, free or key in FREE))


def misspell(word: str, random: Random) -> str:
    """The word with one or two letters swapped, dropped, doubled, changed or added."""
    letters = list(word)
    for _ in range(random.choice((1, 1, 2))):
        at = random.randrange(len(letters)) if letters else 0
        change = random.randrange(6)
        if change == 0 and len(letters) > 1:
            other = (at + 1) % len(letters)
            letters[at], letters[other] = letters[other], letters[at]
        elif change == 1 and len(letters) > 1:
            del letters[at]
        elif change == 2 and letters:
            letters.insert(at, letters[at])
        elif change == 3 and letters:
            letters[at] = random.choice(LETTERS)
        elif change == 4 and letters:
            letters[at] = letters[at].upper()
        else:
            letters.insert(at, random.choice(LETTERS + " .-é0"))
    return "".join(letters)


def misspelt_run(run: Tree, random: Random) -> Mutant:
    """One key of the schema written wrongly; its value stays."""
    tree = copy.deepcopy(run)
    keys = [p for p in places(tree) if isinstance(p[0][0], dict) and not p[2]]
    while True:
        (mapping, key), path, _ = random.choice(keys)
        wrong = misspell(key, random)
        if wrong not in KNOWN and wrong not in mapping:
            break
    for name in list(mapping):  # keeps the order of the keys
        mapping[wrong if name == key else name] = mapping.pop(name)
    return Mutant(tree, (path.removesuffix(key), wrong))


def extra_key(run: Tree, random: Random) -> Mutant:
    """A misspelt key beside the right one."""
    tree = copy.deepcopy(run)
    keys = [p for p in places(tree) if isinstance(p[0][0], dict) and not p[2]]
    (mapping, key), path, _ = random.choice(keys)
    wrong = f"{key}{random.choice('xyz_')}"
    mapping[wrong] = copy.deepcopy(mapping[key])
    return Mutant(tree, None if wrong in KNOWN else (path.removesuffix(key), wrong))


def other_value(run: Tree, random: Random) -> Mutant:
    """One to three values replaced."""
    tree = copy.deepcopy(run)
    for _ in range(random.choice((1, 1, 2, 3))):
        (part, key), _, _ = random.choice(list(places(tree)))
        part[key] = copy.deepcopy(random.choice(EXTREMES))
    return Mutant(tree)


def nudged_number(run: Tree, random: Random) -> Mutant:
    """A number changed by a little or by a lot."""
    tree = copy.deepcopy(run)
    numbers = [p[0] for p in places(tree) if type(p[0][0][p[0][1]]) in (int, float)]
    part, key = random.choice(numbers)
    factor = random.choice((0, -1, 0.5, 1.5, 2, 3, 1e6, 1e30))
    part[key] = type(part[key])(min(part[key] * factor, 2**62))
    return Mutant(tree)


def less(run: Tree, random: Random) -> Mutant:
    """One to three keys or entries gone."""
    tree = copy.deepcopy(run)
    for _ in range(random.choice((1, 1, 2, 3))):
        (part, key), _, _ = random.choice(list(places(tree)))
        if isinstance(part, dict):
            part.pop(key)
        else:
            del part[key]
        if not list(places(tree)):
            break
    return Mutant(tree)


def swapped(run: Tree, random: Random) -> Mutant:
    """Two values in each other's place, or one copied over the other."""
    tree = copy.deepcopy(run)
    (one, first), (other, second) = (random.choice(list(places(tree)))[0] for _ in range(2))
    value = copy.deepcopy(one[first])
    if random.random() < 0.5:
        one[first] = copy.deepcopy(other[second])
    if second in (other if isinstance(other, dict) else range(len(other))):
        other[second] = value
    return Mutant(copy.deepcopy(tree))


def doubled(run: Tree, random: Random) -> Mutant:
    """An entry of a list twice."""
    tree = copy.deepcopy(run)
    entries = [p[0] for p in places(tree) if isinstance(p[0][0], list)]
    part, index = random.choice(entries)
    part.insert(random.randrange(len(part) + 1), copy.deepcopy(part[index]))
    return Mutant(tree)


TREE_MUTATIONS: tuple[Callable[[Tree, Random], Mutant], ...] = (
    misspelt_run, misspelt_run, extra_key, other_value, other_value, nudged_number, less, swapped,
    doubled,
)  # fmt: skip


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """One to four changes of a file's bytes."""
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(content) + 1)
        end = min(len(content), at + random.choice((1, 1, 2, 10, 100)))
        change = random.choice(BYTE_CHANGES)
        content = change(content[:at], content[at:end], content[end:], random)
    return content


def flipped(part: bytes, random: Random) -> bytes:
    """One bit of the part changed."""
    if not part:
        return part
    return bytes([part[0] ^ (1 << random.randrange(8))]) + part[1:]


def shuffled(content: bytes, random: Random) -> bytes:
    """The lines in another order."""
    lines = content.split(b"\n")
    random.shuffle(lines)
    return b"\n".join(lines)


def indented(content: bytes, random: Random) -> bytes:
    """Other indentation in a few lines."""
    return content.replace(b"\n  ", random.choice((b"\n ", b"\n\t", b"\n   ", b"\n")), 3)


BYTE_CHANGES: tuple[Callable[[bytes, bytes, bytes, Random], bytes], ...] = (
    lambda before, part, after, random: before,
    lambda before, part, after, random: before + after,
    lambda before, part, after, random: before + part + part + after,
    lambda before, part, after, random: before + flipped(part, random) + after,
    lambda before, part, after, random: before + random.choice(FRAGMENTS) + part + after,
    lambda before, part, after, random: before + indented(part + after, random),
    lambda before, part, after, random: shuffled(before + part + after, random),
    lambda before, part, after, random: before + random.randbytes(len(part)) + after,
)
"""Each gets what is before the changed part, the part, what is after it, and chance."""

FRAGMENTS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\t", b"\r", b": ", b"- ", b"{", b"[",
    b"}", b"]", b"'", b'"', b"&a ", b"*a", b"!!python/none ", b"!!int ", b"!", b"|\n", b">", b"%",
    b"---\n", b"...\n", b"? ", b"<<: ", b"#", b"@", b"`", b".nan", b".inf", b"1e999", b"9" * 400,
    b"0x10", b"0o7", b"1_0", b"12:30:45", b"2001-01-01", b"~", b"\\u0000", b'"\\ud800"',
    b"\xc2\x85", b"\xe2\x80\xa8", b"[" * 200, b"{a: " * 80, b"- " * 80, b"x" * 3000, b"\n\n",
    b"? [a]\n: b\n",
)  # fmt: skip

ROW_VALUES: tuple[Any, ...] = (
    None, True, 1, -1, 1.5, math.nan, math.inf, 10**400, "", " ", "\n", "\x00", "\ud800", "é🙂",
    "a" * 20_000, [], {}, ["a"], {"text": "a"}, [[]], "\u2028", "<|endoftext|>",
)  # fmt: skip


def mutated_row(row: dict[str, Any], random: Random) -> str:
    """A row of a data file with keys or values changed, as JSON."""
    row = dict(row)
    key = random.choice(list(row))
    change = random.randrange(6)
    if change == 0:
        row[misspell(key, random)] = row.pop(key)
    elif change == 1:
        row[key] = random.choice(ROW_VALUES)
    elif change == 2:
        row.pop(key)
    elif change == 3:
        row[random.choice(("text", "prompt", "completion", "messages", "\ud800"))] = "more"
    elif change == 4:
        text = json.dumps(row)
        return text[:-1] + f", {json.dumps(key)}: 3}}"
    else:
        deep: Any = row
        for _ in range(random.choice((3, 900, 5000))):
            deep = [deep]
        return _nested(row, deep, key)
    return json.dumps(row, ensure_ascii=random.random() < 0.5 or "\ud800" in str(row))


def _nested(row: dict[str, Any], deep: Any, key: str) -> str:
    """JSON of a row whose value lies under many brackets, without recursion."""
    depth = 0
    while isinstance(deep, list):
        deep, depth = deep[0], depth + 1
    return f"{{{json.dumps(key)}: {'[' * depth}{json.dumps(row)}{']' * depth}}}"


DEEPSPEED: Tree = {
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, "sub_group_size": 9},
    "wall_clock_breakdown": True,
    "communication_data_type": "fp32",
}

RUNS: list[Tree] = [
    read_yaml(path) | {"deepspeed": options}
    for path in shipped_run_files().values()
    for options in ({}, DEEPSPEED)
]

ROWS: list[dict[str, Any]] = [
    {"text": "A short text."},
    {"prompt": "2 + 2 = ", "completion": "4"},
    {"text": "Zwei Sätze. 東京 🙂", "id": 7},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
]


def check_tree(mutant: Mutant, *, round_trip: bool = True) -> bool:
    """True if the run was accepted."""
    try:
        config = parse_run(mutant.tree, "run.yaml")
    except ConfigError as error:
        check_message(str(error), mutant)
        return False
    assert mutant.misspelt is None, f"accepted {mutant.misspelt}"
    if round_trip:
        check_round_trip(config)
    return True


def check_message(message: str, mutant: Mutant) -> None:
    message.encode()  # can be printed
    head, *lines = message.split("\n")
    assert head == f"run.yaml: {len(lines)} problem{'s' if len(lines) > 1 else ''}"
    assert all(line.startswith("  ") and ": " in line for line in lines)
    if mutant.misspelt is None:
        return
    parent, key = mutant.misspelt
    if "methods[" in parent and any(".name: " in line for line in lines):
        return  # without its name a method's options cannot be told right from wrong
    assert any(f".{key}: unknown key" in f".{line.strip()}" for line in lines), message


def check_round_trip(config: RunConfig) -> None:
    assert parse_run(parse_yaml(to_yaml(config), "resolved")) == config


def fuzz_trees(number: int, seed: int, round_trips: int = 1) -> int:
    """How many of the mutants were accepted; every so many-th is written and read again."""
    random = Random(seed)
    accepted = 0
    for index in range(number):
        mutate = TREE_MUTATIONS[index % len(TREE_MUTATIONS)]
        mutant = mutate(random.choice(RUNS), random)
        try:
            accepted += check_tree(mutant, round_trip=index % round_trips == 0)
        except Exception as error:
            error.add_note(f"mutant {index} of seed {seed}, by {mutate.__name__}: {mutant}"[:3000])
            raise
    return accepted


def check_file(path: Path) -> bool:
    """True if the run was accepted."""
    try:
        config = load_run(path)
    except ConfigError as error:
        refusal = str(error)
    else:
        check_round_trip(config)
        return True
    refusal.encode()  # can be printed
    assert refusal.startswith(str(path))
    return False


def fuzz_texts(number: int, seed: int, path: Path) -> int:
    """The same on the files' bytes."""
    random = Random(seed)
    texts = [dump_yaml(run).encode() for run in RUNS]
    texts += [source.read_bytes() for source in shipped_run_files().values()]
    accepted = 0
    for index in range(number):
        content = mutated_bytes(random.choice(texts), random)
        path.write_bytes(content)
        try:
            accepted += check_file(path)
        except Exception as error:
            error.add_note(f"text {index} of seed {seed}: {content!r}"[:3000])
            raise
    return accepted


def fuzz_data(number: int, seed: int, path: Path) -> int:
    """How many mutated data files were loaded."""
    random = Random(seed)
    accepted = 0
    for index in range(number):
        lines = [json.dumps(random.choice(ROWS)) for _ in range(random.choice((1, 3, 8)))]
        if index % 2:
            lines[random.randrange(len(lines))] = mutated_row(random.choice(ROWS), random)
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
        path.write_bytes(content if index % 2 else mutated_bytes(content, random))
        try:
            documents = load_documents([str(path)])
            accepted += all(isinstance(document, Document) for document in documents)
            assert all(document.num_scored_bytes for document in documents)
        except ConfigError as error:
            str(error).encode()  # can be printed
            name, _, line = str(error).partition(": ")[0].rpartition(":")
            assert name == str(path)
            assert 1 <= int(line) <= path.read_bytes().count(b"\n") + 1
        except Exception as error:
            error.add_note(f"file {index} of seed {seed}: {path.read_bytes()[:2000]!r}")
            raise
    return accepted


def test_run_files_as_trees():
    accepted = fuzz_trees(1600, seed=0, round_trips=4)
    assert 160 < accepted < 1440  # both ways out are taken


def test_run_files_as_texts(tmp_path: Path):
    accepted = fuzz_texts(400, seed=0, path=tmp_path / "run.yaml")
    assert 20 < accepted < 380


def test_data_files(tmp_path: Path):
    accepted = fuzz_data(500, seed=0, path=tmp_path / "data.jsonl")
    assert 50 < accepted < 450


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_more(tmp_path: Path, seed: int):
    fuzz_trees(2000, seed)
    fuzz_texts(500, seed, tmp_path / "run.yaml")
    fuzz_data(500, seed, tmp_path / "data.jsonl")


def test_a_misspelt_key_that_is_accepted_would_be_seen():
    run = RUNS[0]
    with pytest.raises(AssertionError, match="accepted"):
        check_tree(Mutant(run, ("", "anything")))
