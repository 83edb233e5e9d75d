"""The golden byte distributions of toy models, in float64."""

import numpy as np
import pytest
import torch

from losses.alignment.vocabulary import Vocabulary
from losses.byte_distributions.beam import beam_masses
from losses.byte_distributions.branches import branch_masses
from losses.byte_distributions.paths import eot_masses, on_path_masses, one_path_masses
from losses.byte_distributions.sorted_vocabulary import ROOT, SortedVocabulary

ALL_STATES = 10**6
ALL_COVERS = [
    ("01_unigram_closed_form", "all"),
    ("02_markov1_all_segmentations", "all"),
    ("04_canonical_consistent_lm", "canonical"),
    ("06_duplicate_byte_strings", "all"),
    ("07_two_eos_two_special", "all"),
    ("11_order2_enumeration_check", "covers"),
    ("12_zero_mass", "all"),
]


def shares(masses):
    return (masses / masses.sum(-1, keepdim=True)).numpy()


def jsd(first, second):
    middle = (first + second) / 2
    return (
        sum(
            (rows * np.log(np.where(rows > 0, rows, 1) / np.where(rows > 0, middle, 1))).sum(-1)
            for rows in (first, second)
        )
        / 2
    )


def any_path(toy, model, text):
    """Some possible tokens of the text, or None."""
    for history in toy.histories(model, text):
        probs = [model.after(history[:n])[i] for n, i in enumerate(history)]
        if model.text(history) == text and all(prob > 0 for prob in probs):
            return history
    return None


@pytest.mark.parametrize(("name", "view"), ALL_COVERS)
def test_a_beam_of_all_states_sums_over_all_covers(byte_golden, toy, name, view):
    case = byte_golden(name)
    model, compared = toy.golden_model(case["tokens"], case["lm"]), 0
    for row in case["rows"]:
        expected = row[view]
        path = any_path(toy, model, bytes.fromhex(row["prefix_hex"]))
        if path is None or not expected["bytes"]:
            continue
        prediction = model.predict(path)
        found = beam_masses(prediction, prediction.continuations, ALL_STATES, 0.0)[-1]
        assert np.allclose(shares(found), toy.golden_row(expected), atol=1e-9)
        compared += 1
    assert compared >= 4


def test_beams(byte_golden, toy):
    case = byte_golden("10_beam_bpe_toy")
    model, num_dead = toy.golden_model(case["tokens"], case["lm"]), 0
    for run in case["runs"]:
        text = bytes.fromhex(run["text_hex"])
        prediction = model.predict(any_path(toy, model, text))
        found = beam_masses(prediction, prediction.continuations, run["K"], run["eps"])
        expected = np.array([toy.golden_row(step) for step in run["steps"]])
        dead = np.flatnonzero(expected[np.arange(len(text)), list(text)] == 0)
        alive = len(expected) if not len(dead) else dead[0] + 1
        assert np.allclose(shares(found)[:alive], expected[:alive], atol=1e-9)
        num_dead += len(dead) > 0
    assert num_dead == 2  # what follows is healed in another way, see the module


def test_covers_on_the_path_and_one_branch_off_it(byte_golden, toy):
    case = byte_golden("19_on_path_covers")
    for run in case["runs"]:
        prediction = toy.golden_model(case["tokens"], run["lm"]).predict(run["ids"])
        model = prediction.continuations
        exact = np.array([toy.golden_row(row["exact"]) for row in run["rows"]])
        for form, found in {
            "on_path": on_path_masses(prediction),
            "branch_0.05": branch_masses(prediction, model, 0.05),
            "branch_0": branch_masses(prediction, model, 0.0),
        }.items():
            expected = np.array([toy.golden_row(row[form]) for row in run["rows"]])
            same = np.isclose(shares(found), expected, atol=1e-9).all(-1)
            if form != "on_path" and run["ids"][:2] == [2, 3]:
                # The golden rows branch off the latest token alone, ours off "c" + "a" as well.
                assert np.flatnonzero(~same).tolist() == [2, 3]
                ours, theirs = (jsd(rows, exact)[2:4] for rows in (shares(found), expected))
                assert (ours < 0.7 * theirs).all()
            else:
                assert same.all(), form


def test_both_forms_of_the_path_alone(byte_golden, toy):
    case = byte_golden("17_student_grid")
    model = toy.golden_model(case["teacher_tokens"], case["lm"])
    prediction = model.predict(case["teacher_ids"])
    one_path, chain = shares(one_path_masses(prediction)), shares(eot_masses(prediction))
    widths = [len(model.vocabulary.token_bytes[i]) for i in case["teacher_ids"]]
    closing = np.cumsum(np.array(widths) + 1) - 1
    inside = np.delete(np.arange(len(chain)), closing)
    for cell in case["grid"]:
        if not cell["supervised"]:
            continue
        place = cell["byte_position"]
        assert np.allclose(one_path[place], toy.golden_row(cell["one_path_renorm"]), atol=1e-9)
        row, expected = chain[inside[place]], cell["one_path_eot"]
        assert np.isclose(row[257], expected["eot"], atol=1e-9)
        for byte, mass in expected["bytes"].items():
            assert np.isclose(row[int(byte)], mass, atol=1e-9)


def test_chain_rule(byte_golden, toy):
    case = byte_golden("18_chain_rule")
    model = toy.golden_model(case["tokens"], case["lm"])
    for row in case["rows"]:
        prediction = model.predict(row["ids"])
        text = [*bytes.fromhex(row["text_hex"]), 256]
        chain, symbols = shares(eot_masses(prediction)), []
        for index in row["ids"]:
            symbols += [*model.vocabulary.token_bytes[index], 257]
        symbols.append(256)
        own = np.log(chain[np.arange(len(symbols)), symbols]).sum()
        assert np.isclose(own, row["logprob_bytes_with_eot"], atol=1e-9)
        assert np.isclose(own, row["logprob_token_path"], atol=1e-9)
        alone = shares(one_path_masses(prediction))[np.arange(len(text)), text]
        assert np.isclose(np.log(alone).sum(), row["logprob_bytes_renormalised"], atol=1e-9)
        every = beam_masses(prediction, prediction.continuations, ALL_STATES, 0.0)
        own = np.log(shares(every)[np.arange(len(text)), text]).sum()
        assert np.isclose(own, row["logprob_bytes_exact"], atol=1e-9)


def test_ranges(byte_golden):
    case = byte_golden("15_sorted_ranges_prefix_sums")
    contents = [bytes.fromhex(token["bytes_hex"]) or None for token in case["tokens"]]
    vocabulary = Vocabulary(tuple(contents), {13: "end"})
    table, probs = SortedVocabulary.build(vocabulary), torch.tensor(case["probs"])
    assert table.order.tolist() == [*case["order"], 13]
    for row in case["rows"]:
        node, known = np.array([ROOT]), True
        for byte in bytes.fromhex(row["prefix_hex"]):
            node, found = table.trie.child(node, np.array([byte], dtype=np.uint8))
            known = known and bool(found[0])
        if not known:
            assert row["lo"] == row["hi"]
            continue
        low, high = int(table.trie.first[node[0]]), int(table.trie.last[node[0]])
        whole = int(table.trie.whole[node[0]])
        assert (low, high, whole) == (row["lo"], row["hi"], row["n_equal"])
        mass = float(probs[torch.from_numpy(table.order[low:high])].double().sum())
        assert np.isclose(mass, row["mass"], atol=1e-6)
