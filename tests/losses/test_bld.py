"""The bld method: heads, converters, units, options."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.byte_distributions import on_path_logprobs
from losses.byte_students.comparison import byte_kl, ruled_out
from losses.byte_students.tempering import tempered
from losses.document import END_OF_TURN, Document, Segment
from losses.methods.bld import Bld
from losses.signals import ByteDistributions, HiddenStates

WHOLE = 2**25
TABLE = (b"a", b"b", b"c", b"ab", b"abc", b"bc", b"ca", None)
VOCABULARY = Vocabulary(TABLE, {7: "end"})
OTHER = Vocabulary((None, b"abca", b"b", b"a", b"c", b"ab", b"bcab"), {0: "end"})
DOCUMENT = Document(
    "d",
    (Segment("assistant", b"abcabcabca", True), Segment("end_of_turn", END_OF_TURN, True)),
)
OURS = {"ids": [7, 4, 0, 5, 3, 2, 0, 7], "ends": [-1, 3, 4, 6, 8, 9, 10, 11]}
THEIRS = {"ids": [0, 1, 6, 4, 3, 0], "ends": [-1, 4, 8, 9, 10, 11]}
WIDTH = 5

BARE = [
    Bld(converter="one_path"),
    Bld(converter="on_path"),
    Bld(converter="on_path", marginal="one_path"),
    Bld(converter="on_path", ce_weight=0.5),
    Bld(converter="on_path", ce_weight=0.5, kl_weight=0.0),
    Bld(converter="on_path", kl_weight=2.0),
    Bld(converter="on_path", reduction="token_sum"),
    Bld(converter="on_path", temperature=2.0),
    Bld(converter="on_path", temperature=2.0, ce_weight=0.5),
    Bld(converter="eot"),
]
HEADED = [
    Bld(head="parallel", converter="on_path"),
    Bld(head="parallel", converter="one_path"),
    Bld(head="parallel", converter="on_path", slots=2),
    Bld(head="parallel", converter="on_path", ce_weight=0.0),
    Bld(head="parallel", converter="on_path", kl_weight=1.0),
    Bld(head="parallel", converter="on_path", reduction="token_sum"),
    Bld(head="parallel", converter="on_path", temperature=2.0),
    Bld(head="parallel", converter="eot"),
    Bld(head="parallel", converter="eot", end_slot=True),
    Bld(head="conditioned", converter="on_path"),
    Bld(head="conditioned", converter="on_path", slots=2),
]
every = pytest.mark.parametrize("method", [*BARE, *HEADED], ids=repr)
UNLIKE = [*BARE[:3], BARE[8], BARE[9], HEADED[0], HEADED[8], HEADED[9]]
unlike = pytest.mark.parametrize("method", UNLIKE, ids=repr)


@pytest.fixture
def side(predict, noise):
    """A prediction of the document; hidden states and head are drawn by seed."""

    def build(seed, vocabulary=VOCABULARY, layout=None, hidden=None, elements=WHOLE):
        layout = layout or (OURS if vocabulary is VOCABULARY else THEIRS)
        count, size = len(layout["ids"]), len(vocabulary)
        states = noise(count, WIDTH, seed=seed, scale=1.0) if hidden is None else hidden
        found = predict(
            torch.zeros(count, size),
            layout["ends"],
            ids=layout["ids"],
            vocabulary=vocabulary,
            elements=elements,
        )
        linear = nn.Linear(WIDTH, size, bias=False, dtype=states.dtype)
        with torch.no_grad():
            linear.weight.copy_(noise(size, WIDTH, seed=seed + 100, scale=1.0))
        head = type(found.head)(linear, size)
        return type(found)(
            tokens=found.tokens,
            hidden=states,
            head=head,
            vocabulary=vocabulary,
            scored=found.scored,
            elements_in_memory=elements,
        )

    return build


def pair_of(method):
    """The exact chain rule without heads needs the teacher's own tokens."""
    chain = method.converter == "eot" and method.head == "none"
    return Pair(VOCABULARY, VOCABULARY if chain else OTHER, student_width=WIDTH)


def setting(method, side, dtype=torch.float64, elements=WHOLE):
    pair = pair_of(method)
    signal = method.signal(side(1, pair.teacher), DOCUMENT)
    hidden = side(2).hidden.detach().to(dtype).requires_grad_()
    torch.manual_seed(0)
    modules = method.modules(pair).to(dtype)
    return side(2, hidden=hidden, elements=elements), signal, pair, modules


@every
def test_units_are_known_ahead(side, method):
    student, signal, pair, modules = setting(method, side)
    ahead = method.num_units(student.tokens, student.scored.numpy(), signal, pair)
    assert method.loss(student, signal, pair, modules).units == ahead


@pytest.mark.parametrize(
    ("method", "units"),
    [
        (Bld(converter="on_path"), 11),
        (Bld(converter="on_path", reduction="token_sum"), 7),
        (Bld(converter="eot"), 17),
        (Bld(converter="one_path", head="parallel", slots=2), 10),
        (Bld(converter="one_path", head="parallel", slots=1, reduction="token_sum"), 7),
        (Bld(converter="eot", head="parallel"), 11),
    ],
    ids=repr,
)
def test_number_of_units(side, method, units):
    student, signal, pair, modules = setting(method, side)
    assert method.loss(student, signal, pair, modules).units == units


def test_every_choice_gives_its_own_loss(side):
    found = []
    for method in [*BARE, *HEADED]:
        student, signal, pair, modules = setting(method, side)
        term = method.loss(student, signal, pair, modules)
        found.append((round(term.total.item(), 7), term.units))
    assert len(set(found)) == len(found)


@unlike
def test_gradients(side, method):
    student, signal, pair, modules = setting(method, side)

    def total(hidden):
        return method.loss(side(2, hidden=hidden), signal, pair, modules).total

    assert torch.autograd.gradcheck(total, student.hidden, fast_mode=True)


@pytest.mark.parametrize("kind", ["parallel", "conditioned"])
def test_heads_are_trained_and_states_too(side, kind):
    method = Bld(head=kind, converter="on_path", slots=3)
    student, signal, pair, modules = setting(method, side)
    method.loss(student, signal, pair, modules).total.backward()
    assert all(p.grad.abs().max() > 0 for p in modules.parameters())
    assert student.hidden.grad.abs().max() > 0


@unlike
@pytest.mark.parametrize("elements", [1, 3 * len(TABLE)])
def test_row_chunks_change_nothing(side, method, elements):
    results = []
    for size in (WHOLE, elements):
        student, signal, pair, modules = setting(method, side, elements=size)
        term = method.loss(student, signal, pair, modules)
        (gradient,) = torch.autograd.grad(term.total, student.hidden)
        results.append((term.total.detach(), gradient))
    torch.testing.assert_close(results[1], results[0])


@unlike
def test_single_precision_is_near(side, method):
    totals = []
    for dtype in (torch.float32, torch.float64):
        student, signal, pair, modules = setting(method, side)
        student = side(2, hidden=student.hidden.detach().to(dtype))
        totals.append(method.loss(student, signal, pair, modules.to(dtype)).total.item())
    assert totals[0] == pytest.approx(totals[1], rel=1e-4)


@pytest.mark.parametrize("converter", ["one_path", "on_path", "eot"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_zero_when_student_is_teacher(side, converter, temperature):
    method = Bld(converter=converter, temperature=temperature)
    assert method.zero_at_identity
    teacher = side(1)
    signal = method.signal(teacher, DOCUMENT)
    student = side(1, hidden=teacher.hidden.clone().requires_grad_())
    term = method.loss(student, signal, Pair(VOCABULARY, VOCABULARY), nn.ModuleDict())
    (gradient,) = torch.autograd.grad(term.total, student.hidden)
    assert 0 <= term.total.item() < 1e-4  # half precision on the wire, squared
    assert gradient.abs().max() < 1e-2


@pytest.mark.parametrize(
    "method",
    [
        Bld(),
        Bld(converter="on_path", marginal="one_path"),
        Bld(converter="on_path", ce_weight=1.0),
        Bld(head="parallel", converter="one_path"),
    ],
    ids=repr,
)
def test_no_promise_at_identity(method):
    assert not method.zero_at_identity


def test_nothing_moves_by_what_is_not_scored(side):
    """A slot less takes its own loss away and no other's."""
    method = Bld(converter="one_path")
    student, signal, pair, modules = setting(method, side)
    whole = method.loss(student, signal, pair, modules)
    halves = []
    for part in (slice(0, 4), slice(4, None)):
        cut = ByteDistributions(signal.positions[part], signal.logprobs[part])
        halves.append(method.loss(student, cut, pair, modules))
    torch.testing.assert_close(sum(h.total for h in halves), whole.total)
    assert [h.units for h in halves] == [4, 7]


@pytest.mark.parametrize("method", [BARE[0], HEADED[1], HEADED[9]], ids=repr)
def test_a_token_is_predicted_by_the_row_before(side, method):
    """Bytes 6 and 7 are the student's fourth token, the row at 3 predicts it."""
    student, signal, pair, modules = setting(method, side)
    cut = ByteDistributions(signal.positions[6:8], signal.logprobs[6:8])
    method.loss(student, cut, pair, modules).total.backward()
    moved = student.hidden.grad.abs().amax(-1) > 0
    assert torch.nonzero(moved).flatten().tolist() == [3]


@pytest.mark.parametrize("method", [BARE[0], BARE[1], HEADED[0], HEADED[9]], ids=repr)
def test_a_teacher_that_says_nothing(side, method):
    student, signal, pair, modules = setting(method, side)
    silent = ByteDistributions(signal.positions[:0], signal.logprobs[:0])
    calls = []
    for module in modules.values():
        module.register_forward_hook(lambda *_: calls.append(1))
    term = method.loss(student, silent, pair, modules)
    assert (term.units, term.total.item()) == (0, 0)
    assert len(calls) == len(modules)  # under ZeRO-3 all ranks gather its weights


class Fixed(nn.Module):
    """A head that says what it is told."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, states, contents):
        return self.logits


class TestGoldenLoss:
    """The published loss; bytes 0 to 7 stand for the case's eight."""

    @pytest.fixture
    def case(self, golden):
        return golden("byte/16_bld_loss")

    def parts(self, case, predict):
        inputs = case["inputs"]
        contents = [
            bytes(b for b in row if b >= 0) + b"\0" * (n - min(n, 4))
            for row, n in zip(inputs["byte_target"], inputs["n_bytes"], strict=True)
        ]
        vocabulary = Vocabulary((None, *contents), {0: "end"})
        ends = np.cumsum(inputs["n_bytes"])
        student = predict(
            torch.zeros(5, 5).double(),
            [-1, *ends.tolist()],
            ids=[0, 1, 2, 3, 4],
            vocabulary=vocabulary,
        )
        logits = torch.full((4, 4, 260), -1e9, dtype=torch.float64)
        logits[..., :8] = torch.tensor(inputs["byte_logits"], dtype=torch.float64)
        modules = nn.ModuleDict({"head": Fixed(logits.requires_grad_())})
        rows = np.zeros((int(ends[-1]), 257))
        starts = ends - inputs["n_bytes"]
        for start, n, row in zip(starts, inputs["n_bytes"], inputs["teacher_bytes"], strict=True):
            rows[start : start + min(n, 4), :8] = row[: min(n, 4)]
            rows[start + min(n, 4) : start + n, 0] = 1
        with np.errstate(divide="ignore"):
            logprobs = np.log(rows).astype(np.float16)
        signal = ByteDistributions(np.arange(len(rows), dtype=np.int32), logprobs)
        return student, signal, Pair(vocabulary, vocabulary, student_width=5), modules

    @pytest.mark.parametrize(
        ("reduction", "group"),
        [
            ("slot_mean", "reduction_mean_over_valid_slots"),
            ("token_sum", "reduction_sum_over_slots_mean_over_tokens"),
        ],
    )
    def test_both_reductions(self, predict, case, reduction, group):
        parts = self.parts(case, predict)
        expected = case[group]
        common = {"head": "parallel", "slots": 4, "reduction": reduction}
        ce = Bld(kl_weight=0.0, **common).loss(*parts)
        assert ce.total.item() / ce.units == pytest.approx(expected["ce_byte"], abs=1e-9)
        kl = Bld(ce_weight=0.0, kl_weight=1.0, **common).loss(*parts)
        assert kl.total.item() / kl.units == pytest.approx(expected["kl_byte"], abs=2e-3)
        both = Bld(**common).loss(*parts)
        total = expected["ce_token"] + both.total.item() / both.units
        assert total == pytest.approx(expected["total"], abs=2e-4)

    def test_gradients(self, predict, case):
        parts = self.parts(case, predict)
        logits = parts[-1]["head"].logits
        expected = case["unreduced_grad_wrt_byte_logits"]
        for options, name, tolerance in (
            ({"kl_weight": 0.0}, "ce_byte", 1e-9),
            ({"ce_weight": 0.0, "kl_weight": 1.0}, "kl_byte", 2e-3),
        ):
            total = Bld(head="parallel", slots=4, **options).loss(*parts).total
            (gradient,) = torch.autograd.grad(total, logits)
            target = torch.tensor(expected[name], dtype=torch.float64)
            torch.testing.assert_close(gradient[..., :8], target, atol=tolerance, rtol=0)


def golden_student(case, predict, names=("tokens", "lm"), ids=None):
    """The case's Markov model as a prediction; a start token stands before the text."""
    table = tuple(bytes.fromhex(t["bytes_hex"]) or None for t in case[names[0]])
    vocabulary = Vocabulary((*table, None), {len(table) - 1: "end", len(table): "start"})
    rows = case[names[1]]["table"]
    ids = [len(table), *ids]
    keys = ["", *(str(i) for i in ids[1:-1]), ""]  # nothing is read from the last row
    logits = torch.tensor([rows[key] for key in keys], dtype=torch.float64).log()
    logits = torch.cat([logits, torch.full((len(ids), 1), -torch.inf)], dim=-1)
    ends = np.cumsum([len(table[i] or END_OF_TURN) for i in ids[1:]])
    return predict(logits, [-1, *ends.tolist()], ids=ids, vocabulary=vocabulary)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"converter": "eot"}, "logprob_bytes_with_eot"),
        ({"converter": "eot"}, "logprob_token_path"),
        ({"converter": "one_path"}, "logprob_bytes_renormalised"),
    ],
)
def test_golden_chain_rule(predict, golden, options, field):
    """The byte cross-entropy of a bare student is what its tokens make of the text."""
    case = golden("byte/18_chain_rule")
    for row in case["rows"]:
        end = next(t["id"] for t in case["tokens"] if t["kind"] == "eos")
        student = golden_student(case, predict, ids=[*row["ids"], end])
        method = Bld(ce_weight=1.0, kl_weight=0.0, **options)
        content = bytes.fromhex(row["text_hex"]) + END_OF_TURN
        signal = method.signal(student, Document("d", (Segment("text", content, True),)))
        pair = Pair(student.vocabulary, student.vocabulary)
        total = method.loss(student, signal, pair, nn.ModuleDict()).total
        assert -total.item() == pytest.approx(row[field], abs=1e-5)  # a floor of 1e-7 is mixed in


def test_golden_targets_on_the_grid(predict, golden):
    """What a parallel head is asked to predict at (token, byte)."""
    case = golden("byte/17_student_grid")
    teacher = golden_student(case, predict, ("teacher_tokens", "lm"), case["teacher_ids"])
    content = bytes.fromhex(case["text_hex"])
    document = Document("d", (Segment("text", content, True),))
    signal = Bld(converter="one_path").signal(teacher, document)
    assert signal.positions.tolist() == list(range(len(content)))
    for row in case["grid"]:
        found = np.exp(signal.logprobs[row["byte_position"]].astype(np.float64))
        expected = np.zeros(257)
        for byte, value in row["one_path_renorm"]["bytes"].items():
            expected[int(byte)] = value
        expected[256] = row["one_path_renorm"]["eos"]
        assert found == pytest.approx(expected, abs=1e-3)


def test_golden_temperature_is_the_tokens(predict, golden):
    """At temperature T the target is the tempered tokens summed, not the tempered bytes."""
    case = golden("byte/13_temperature_order")
    table = tuple(bytes.fromhex(t["bytes_hex"]) or None for t in case["tokens"])
    vocabulary = Vocabulary(table, {len(table) - 1: "end"})
    logits = torch.tensor([case["logits"]] * 4, dtype=torch.float64)
    abc = table.index(b"abc")
    model = predict(logits[:2], [-1, 3], ids=[len(table) - 1, abc], vocabulary=vocabulary)
    document = Document("d", (Segment("text", b"abc", True),))
    checked = 0
    for row in case["rows"]:
        prefix = bytes.fromhex(row["prefix_hex"])
        if not b"abc".startswith(prefix) or prefix == b"abc":
            continue
        signal = Bld(converter="eot", temperature=row["T"]).signal(model, document)
        place = np.flatnonzero((signal.positions == len(prefix)) & ~signal.closes)[0]
        found = np.exp(signal.logprobs[place].astype(np.float64))
        expected = row["temperature_on_tokens"]
        for byte, value in expected["bytes"].items():
            assert found[int(byte)] == pytest.approx(value, abs=1e-3)
        assert found[256] == pytest.approx(expected["eos"], abs=1e-3)
        assert found[257] == pytest.approx(expected["eot"], abs=1e-3)
        checked += 1
    assert checked >= 6


def test_exact_chain_rule_needs_the_same_tokens():
    Bld(converter="eot").check(Pair(VOCABULARY, VOCABULARY))
    Bld(converter="eot", head="parallel").check(Pair(VOCABULARY, OTHER))
    with pytest.raises(ValueError, match="use converter branches, or a head"):
        Bld(converter="eot").check(Pair(VOCABULARY, OTHER))


@pytest.mark.parametrize(
    "method",
    [Bld(converter="on_path"), Bld(converter="one_path", head="parallel"), Bld(converter="eot")],
    ids=repr,
)
def test_bytes_that_the_teacher_rules_out_are_counted(side, method):
    student, signal, pair, modules = setting(method, side)
    assert method.loss(student, signal, pair, modules).metrics == {"lost": 0}
    row = len(signal.positions) // 2
    own = signal.logprobs[row].argmin()
    logprobs = signal.logprobs.copy()
    logprobs[row] = -30
    logprobs[row, own] = 0
    lost = method.loss(student, replace(signal, logprobs=logprobs), pair, modules).metrics
    assert lost == {"lost": 1}


def test_heads_need_the_students_width():
    with pytest.raises(ValueError, match="width is not known"):
        Bld(head="parallel").modules(Pair(VOCABULARY, OTHER))


def test_another_signal_is_refused(side):
    student, _, pair, modules = setting(BARE[0], side)
    nothing = np.zeros(0, dtype=np.int32)
    wrong = HiddenStates(nothing, nothing, np.zeros((0, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="reads ByteDistributions"):
        BARE[0].loss(student, wrong, pair, modules)


@pytest.mark.parametrize(
    "options",
    [
        {"converter": "one_path", "epsilon": 0.1},
        {"converter": "one_path", "epsilon": 0.0},
        {"converter": "branches", "beam": 4},
        {"converter": "eot", "marginal": "one_path"},
        {"head": "parallel", "marginal": "one_path"},
        {"slots": 4},
        {"head_learning_rate": 0.1},
        {"export_head": True},
        {"converter": "eot", "end_slot": True},
        {"head": "parallel", "end_slot": True},
        {"kl_weight": 0.0},
        {"head": "parallel", "ce_weight": 0.0, "kl_weight": 0.0},
        {"ce_weight": 1.0, "kl_weight": 0.0, "temperature": 2.0},
        {"head": "serial"},
        {"converter": "branch"},
        {"epsilon": 1.0},
        {"unknown": 1},
    ],
    ids=repr,
)
def test_useless_and_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        Bld(**options)


def test_published_weights_of_heads_and_none_for_the_students_own_tokens():
    assert Bld().weights == (0.0, 1.0)
    assert Bld(head="parallel").weights == Bld(head="conditioned").weights == (1.0, 0.1)
    assert not Bld().tells_likelihoods


def test_the_squared_temperature(side):
    method = Bld(converter="on_path", temperature=2.0)
    student, signal, pair, modules = setting(method, side)
    rows = torch.from_numpy(signal.logprobs).double(), on_path_logprobs(tempered(student, 2.0))
    total = method.loss(student, signal, pair, modules).total
    expected = (byte_kl(*rows) - ruled_out(*rows)).sum()
    torch.testing.assert_close(total, 4 * expected)
