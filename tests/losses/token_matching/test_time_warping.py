"""Time warping against published paths, all paths of small tables, and a plain recursion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losses.token_matching.merging import merged_positions
from losses.token_matching.spelling import edit_distances
from losses.token_matching.time_warping import cheapest_path


def spelled(piece):
    """A published piece without the mark of a space."""
    return piece.replace("▁", "").replace("Ġ", "").replace(" ", "")


def check(path, expected):
    assert list(map(list, zip(path.teacher.tolist(), path.student.tolist(), strict=True))) == (
        expected
    )


def test_paths_of_fusellm_dskd_and_fusechat(golden):
    found = golden("mined/dtw")["cases"]
    assert len(found) > 10
    for case in found:
        sides = [[spelled(p) for p in case[f"{side}_pieces"]] for side in ("teacher", "student")]
        path = cheapest_path(edit_distances(*sides))
        assert path.total == case["total_cost"], case["name"]
        check(path, case["fusellm_and_dskd"]["path"])


def test_weighted_paths_of_cdm(golden):
    found = golden("cdm/weighted_dtw")["cases"]
    assert len(found) > 10
    for case in found:
        sides = [[spelled(p) for p in case[f"{side}_text"]] for side in ("teacher", "student")]
        factors = [np.array(case[f"{side}_factor"]) for side in ("teacher", "student")]
        cost = edit_distances(*sides) * factors[0][:, None] * factors[1]
        path = cheapest_path(cost)
        assert path.total == case["total"], case["name"]
        check(path, case["path"])
        check_lists(path, case)


def check_lists(path, case):
    """The merged positions are the distinct lists of student tokens."""
    lists = case["teacher_to_student"]
    _, student = merged_positions(path)
    distinct = [one for i, one in enumerate(lists) if one not in lists[:i]]
    parts = np.split(student.token, student.starts[1:-1])
    assert [part.tolist() for part in parts] == distinct


def all_totals(cost):
    """The cost of every monotone path."""

    def walk(i, j, total):
        total += cost[i, j]
        if (i + 1, j + 1) == cost.shape:
            yield total
        for down, right in ((1, 1), (1, 0), (0, 1)):
            if i + down < cost.shape[0] and j + right < cost.shape[1]:
                yield from walk(i + down, j + right, total)

    return list(walk(0, 0, 0))


def plain(cost):
    """The textbook recursion; ties as documented."""
    reached = np.full((cost.shape[0] + 1, cost.shape[1] + 1), np.inf)
    reached[0, 0] = 0
    for i, j in np.ndindex(*cost.shape):
        best = min(reached[i, j], reached[i, j + 1], reached[i + 1, j])
        reached[i + 1, j + 1] = cost[i, j] + best
    i, j = cost.shape
    steps = []
    while i and j:
        steps.append([i - 1, j - 1])
        ways = [reached[i - 1, j - 1], reached[i - 1, j], reached[i, j - 1]]
        down, right = ((1, 1), (1, 0), (0, 1))[int(np.argmin(ways))]
        i, j = i - down, j - right
    return steps[::-1], reached[-1, -1]


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5), columns=st.integers(1, 5))
def test_no_path_of_a_small_table_is_cheaper(seed, rows, columns):
    cost = np.random.default_rng(seed).integers(0, 6, (rows, columns))
    path = cheapest_path(cost)
    assert path.total == min(all_totals(cost))
    assert path.total == cost[path.teacher, path.student].sum()


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    most=st.sampled_from([1, 4, 1000]),
)
def test_equal_to_the_plain_recursion(seed, rows, columns, most):
    cost = np.random.default_rng(seed).integers(0, most + 1, (rows, columns))
    path = cheapest_path(cost)
    steps, total = plain(cost)
    assert path.total == total
    check(path, steps)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_means_of_merged_positions(seed):
    """As described: means over each student token's list, then over the distinct lists."""
    random = np.random.default_rng(seed)
    path = cheapest_path(random.integers(0, 3, (9, 7)))
    teacher, student = random.normal(size=9), random.normal(size=7)
    pairs = list(zip(path.teacher.tolist(), path.student.tolist(), strict=True))
    aligned = [np.mean([teacher[t] for t, s in pairs if s == own]) for own in range(7)]
    lists = [tuple(s for t, s in pairs if t == own) for own in range(9)]
    lists = list(dict.fromkeys(lists))
    of_teacher, of_student = merged_positions(path)
    assert of_teacher.num_positions == of_student.num_positions == len(lists)
    means = [
        np.bincount(m.position, m.weight * values[m.token])
        for m, values in ((of_teacher, teacher), (of_student, student))
    ]
    np.testing.assert_allclose(means[0], [np.mean([aligned[s] for s in one]) for one in lists])
    np.testing.assert_allclose(means[1], [np.mean([student[s] for s in one]) for one in lists])


@pytest.mark.parametrize("length", [1, 2, 50])
def test_equal_texts_give_the_diagonal(length):
    """Also where the same token comes again and again."""
    words = np.random.default_rng(0).integers(0, 3, length)
    path = cheapest_path((words[:, None] != words).astype(int))
    assert path.total == 0
    check(path, [[i, i] for i in range(length)])
