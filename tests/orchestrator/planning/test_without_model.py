"""Teachers without a model of their own here: behind a server, in a folder, inside the student."""

from dataclasses import replace

import pytest

from orchestrator.config import load_run
from orchestrator.planning.hardware import Declared
from orchestrator.planning.memory import FRAGMENTED, TOKENIZER_ID
from orchestrator.planning.plan import bytes_in_flight, plan
from orchestrator.planning.served import LISTED, PARSED, answer_bytes
from orchestrator.planning.skeleton import sizes_of, student_skeleton
from orchestrator.planning.table import as_data, plan_tables
from orchestrator.planning.wire import ENVELOPE
from orchestrator.planning.workload import workload
from orchestrator.setup import set_up
from teachers.server.source import Dialect, ServerSource
from teachers.source import ModelSource

SLOW = Declared(gpus=0.0, flops=1e9)

SERVED = (
    "teachers=[{name: far, kind: openai, model: m, tokenizer: 'asset:toy/sentencepiece', "
    "server: {url: 'http://localhost:1', concurrency: 3}, "
    "methods: [{name: alm, debias: false, merge_threshold: null}]}]"
)

INSIDE = "{name: own, kind: self, share_weights: true, methods: [{name: kl}]}"

LORA = "student.lora={rank: 2, alpha: 2}"


def run_file(*changes):
    return load_run("smoke.yaml", ["compare.ce_only=null", *changes])


def text_of(found):
    from rich.console import Console

    console = Console(record=True, width=200, quiet=False)
    with console.capture() as capture:
        console.print(plan_tables(found))
    return capture.get()


class TestServer:
    """Kind openai."""

    def source(self, dialect, k):
        return ServerSource("http://x", "m", ModelSource("x"), dialect=dialect, top_logprobs=k)

    def test_answers_by_hand(self):
        entry = len('{"12345": {"logprob": -12.345678, "rank": 12, "decoded_token": " word"}}')
        assert answer_bytes(self.source(Dialect.VLLM, 0)) == entry
        assert answer_bytes(self.source(Dialect.VLLM, 20)) == 21 * entry
        listed = len('{"token_id:12345": -12.345678}')
        own = len('["token_id:12345", -12.345678]')
        assert answer_bytes(self.source(Dialect.ECHO, 2)) == own + 2 * listed
        assert set(LISTED) == set(Dialect)

    def test_a_client_holds_no_model(self):
        config = run_file(SERVED)
        setup = set_up(config)
        found, read = plan(config, SLOW, setup), workload(config, setup)["far"]
        process, wire = found.processes["far"], found.wire["far"]
        assert (process.sizes, process.flops, process.seconds) == (None, 0.0, 0.0)
        assert wire.origin == "server"
        assert wire.requests_per_step == config.train.global_batch
        each = answer_bytes(ServerSource("http://x", "m", ModelSource("x"), top_logprobs=0))
        assert wire.read_per_step == round(each * read.tokens_per_step)
        longest = max(map(max, read.steps))
        answers = 3 * longest * each * PARSED
        peak = TOKENIZER_ID * len(setup.tokenizers[1].vocabulary)
        peak += int(FRAGMENTED * (answers + 2 * wire.largest_step))
        assert process.memory.peak == peak
        assert "8 requests" in text_of(found)
        assert as_data(found)["wire"]["far"]["read_per_step"] == wire.read_per_step

    def test_the_step_waits_for_whom_one_knows(self):
        found = plan(run_file(SERVED), SLOW)
        assert list(found.step.alone) == ["student"]


class TestCache:
    """Kind cache."""

    def test_it_reads_what_it_sends(self, tmp_path):
        live = run_file("teachers.bytelevel.weight=1.0")
        setup = set_up(live)
        methods = "methods: [{name: kl}]"
        stored = f"{{name: bytelevel, kind: cache, path: '{tmp_path}', {methods}}}"
        config = run_file(f"teachers=[{stored}]")
        found = plan(config, SLOW, setup)
        process, wire = found.processes["bytelevel"], found.wire["bytelevel"]
        assert (process.sizes, process.flops, wire.origin) == (None, 0.0, "cache")
        assert wire.read_per_step == wire.per_step
        assert process.memory.peak == 2 * wire.largest_step
        assert wire.per_step == plan(live, SLOW, setup).wire["bytelevel"].per_step
        assert "read from a folder" in text_of(found)


@pytest.fixture(scope="module")
def both():
    """The teacher inside the rank, and the same one in a process of its own."""
    config = run_file(f"teachers=[{INSIDE}]", LORA)
    apart = run_file(f"teachers=[{INSIDE.replace('true', 'false')}]", LORA)
    setup = set_up(config)
    return config, setup, plan(config, SLOW, setup), plan(apart, SLOW, setup)


class TestInside:
    """Kind self with share_weights."""

    def test_it_has_no_process(self, both):
        _, _, inside, apart = both
        assert list(inside.processes) == ["student"]
        assert list(apart.processes) == ["own", "student"]
        assert not any("own" in line for line in inside.placement)
        assert "runs inside" in text_of(inside)

    def test_its_signals_cross_no_border_but_are_held(self, both):
        _, _, inside, apart = both
        wire, sent = inside.wire["own"], apart.wire["own"]
        assert (wire.per_step, inside.in_flight) == (0, 0)
        assert wire.fields_per_step == sent.fields_per_step
        assert wire.largest_step == sent.largest_step > 0
        own = [found.processes["student"].memory.parts["signals"] for found in (inside, apart)]
        assert own[0] == own[1] == wire.largest_step

    def test_the_rank_does_its_passes(self, both):
        config, setup, inside, apart = both
        sizes = sizes_of(student_skeleton(config, len(setup.tokenizers[0].vocabulary)))
        read = workload(config, setup)["own"]
        tokens = read.padded(read.requests(config.teachers[0].token_budget, 1, packing=False))
        more = inside.processes["student"].flops - apart.processes["student"].flops
        assert more == pytest.approx(sizes.forward_flops(tokens, read.attended_length))

    def test_a_head_on_hidden_states_is_work_too(self, both):
        config, setup, _, apart = both
        none = config.model_copy(update={"teachers": ()})
        alone = plan(none, SLOW, setup).processes["student"].flops
        tokenizer, read = setup.tokenizers[1], workload(config, setup)["own"]
        head = 2 * read.tokens_per_step * tokenizer.hidden_size * len(tokenizer.vocabulary)
        assert apart.processes["student"].flops - alone == pytest.approx(head)


class TestInFlight:
    """Bytes in the object store, of steps of 100."""

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            (["train.prefetch=3"], 5 * 100),
            (["train.prefetch=3", "train.prefetch_bytes=150"], 2 * 100 + 150),
            (["train.prefetch=1", "train.prefetch_bytes=150"], 3 * 100),
            (["train.prefetch=3", "resources.offload=true"], 4 * 100),
        ],
    )
    def test_by_hand(self, changes, expected):
        assert bytes_in_flight(run_file(*changes), 100) == expected


class TestRouted:
    """A teacher that reads a part of the documents."""

    def test_only_its_own_count(self):
        config = run_file()
        setup = set_up(config)
        documents = tuple(
            replace(d, teachers=("bytelevel",) if index % 2 else None)
            for index, d in enumerate(setup.train.documents)
        )
        routed = replace(setup, train=replace(setup.train, documents=documents))
        found, all_of_them = plan(config, SLOW, routed), plan(config, SLOW, setup)
        read = workload(config, routed)
        assert found.wire["bytelevel"] == all_of_them.wire["bytelevel"]
        assert found.wire["sentencepiece"].stored < 0.6 * all_of_them.wire["sentencepiece"].stored
        sent = [len(step) for step in read["sentencepiece"].steps]
        each = found.wire["sentencepiece"].per_step - found.wire["sentencepiece"].fields_per_step
        assert each == pytest.approx(ENVELOPE * sum(sent) / len(sent), abs=1)
