"""Memory by hand for a small model, and against torch's own bytes."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from orchestrator.config import load_run
from orchestrator.planning.dry_run import Live, reading, training
from orchestrator.planning.memory import Moment, pieces, tables_read, worst
from orchestrator.planning.optimizer_memory import Optimizer, optimizer_bytes
from orchestrator.planning.skeleton import Sizes, sizes_of
from orchestrator.planning.student_memory import tables
from orchestrator.planning.workload import Batch, Reading, largest

LAYERS, HIDDEN, INNER, VOCABULARY, HEADS, KEYS, WIDTH = 3, 64, 128, 500, 4, 2, 16

PER_LAYER = (
    HIDDEN * HEADS * WIDTH * 2  # queries and output
    + HIDDEN * KEYS * WIDTH * 2  # keys and values
    + 3 * HIDDEN * INNER
    + 2 * HIDDEN  # norms
)
PARAMETERS = LAYERS * PER_LAYER + HIDDEN + 2 * VOCABULARY * HIDDEN


def llama(**changed):
    options = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "attn_implementation": "eager",
        "tie_word_embeddings": False,
    }
    return LlamaForCausalLM(LlamaConfig(**(options | changed)))


@pytest.fixture(scope="module")
def skeleton():
    with torch.device("meta"):
        return llama()


def run_file(dtype="float32", num_ranks=1, zero=0, more=""):
    """A run without teachers."""
    return load_run(
        "smoke.yaml",
        [
            "teachers=[]",
            "compare.ce_only=null",
            "train.micro_batch=1",
            f"student.dtype={dtype}",
            f"student.num_ranks={num_ranks}",
            f"deepspeed={{zero_optimization: {{stage: {zero}{more}}}}}",
        ],
    )


def of(element=4, trained=1000, parameters=1000):
    return Sizes(parameters, trained, 0, 1, 8, 8, 8, 10, element)


class TestSizes:
    """Weights and operations."""

    def test_parameters_by_hand(self, skeleton):
        sizes = sizes_of(skeleton)
        assert sizes.parameters == PARAMETERS
        assert sizes.weight_bytes == 4 * PARAMETERS
        assert sizes.embedding == VOCABULARY * HIDDEN
        assert (sizes.heads, sizes.keys) == (HEADS * WIDTH, KEYS * WIDTH)

    def test_a_tied_head_counts_once_and_is_a_product(self):
        with torch.device("meta"):
            sizes = sizes_of(llama(tie_word_embeddings=True))
        assert sizes.parameters == PARAMETERS - VOCABULARY * HIDDEN
        assert sizes.embedding == 0

    def test_operations_are_those_that_torch_counts(self):
        from torch.utils.flop_counter import FlopCounterMode

        model, length = llama(), 32
        with FlopCounterMode(display=False) as counter:
            model(input_ids=torch.zeros(1, length, dtype=torch.long))
        found = sizes_of(model).forward_flops(32.0, 64.0)  # eager computes every pair
        assert found == pytest.approx(counter.get_total_flops(), rel=0.01)

    def test_operations_of_training(self):
        sizes = Sizes(100, 100, 0, 1, 2, 3, 3, 20, 4)  # 40 of the weights are the head
        forward = 10 * (2 * 100 + 2 * 1 * 3 * 8)
        assert sizes.training_flops(10.0, 8.0, recomputed=False) == 3 * forward
        assert sizes.training_flops(10.0, 8.0, recomputed=True) == 4 * forward - 10 * 2 * 40

    def test_frozen_weights_get_no_gradient(self):
        sizes = Sizes(100, 25, 0, 1, 2, 3, 3, 20, 4)
        forward = sizes.forward_flops(10.0, 8.0)
        assert sizes.training_flops(10.0, 8.0, recomputed=False) == 2.25 * forward


class TestOptimizer:
    """ZeRO's shares, in bytes of 1000 parameters."""

    @pytest.mark.parametrize(
        ("changed", "element", "expected"),
        [
            ({}, 4, Optimizer(4000, 4000, 0, 8000, 0, 0, 0)),
            ({"dtype": "bfloat16"}, 2, Optimizer(2000, 2000, 4000, 8000, 0, 6000, 0)),
            ({"zero": 1, "num_ranks": 4}, 4, Optimizer(4000, 4000, 1000, 2000, 0, 1000, 0)),
            (
                {"zero": 2, "num_ranks": 4, "dtype": "bfloat16"},
                2,
                Optimizer(2000, 500, 1000, 2000, 0, 1500, 2000),
            ),
            (
                {"zero": 3, "num_ranks": 4, "dtype": "bfloat16"},
                2,
                Optimizer(500, 500, 1000, 2000, 0, 1500, 2000, gathered=2000),
            ),
            # Without ZeRO several ranks copy their gradients into one piece to add them up.
            ({"num_ranks": 4}, 4, Optimizer(4000, 4000, 0, 8000, 0, 4000, 0)),
        ],
    )
    def test_by_hand(self, changed, element, expected):
        assert optimizer_bytes(run_file(**changed), of(element), 0, on_cpu=True) == expected

    def test_adapters_alone_are_trained(self):
        found = optimizer_bytes(run_file(), of(trained=10), 0, on_cpu=True)
        assert (found.weights, found.gradients, found.moments) == (4000, 40, 80)

    def test_a_gpu_holds_the_whole_bucket(self):
        found = optimizer_bytes(run_file(dtype="bfloat16"), of(2), 0, on_cpu=False)
        assert found.bucket == 2 * 500_000_000
        small = run_file(dtype="bfloat16", more=", reduce_bucket_size: 10, overlap_comm: true")
        assert optimizer_bytes(small, of(2), 0, on_cpu=False).bucket == 2 * 2 * 10

    def test_zero_3_gathers_no_more_than_it_may(self):
        config = run_file(zero=3, num_ranks=4, more=", stage3_max_live_parameters: 300")
        assert optimizer_bytes(config, of(), 0, on_cpu=True).gathered == 4 * 300

    @pytest.mark.parametrize(("device", "host"), [("cpu", 4000 + 8000 + 6000), ("nvme", 0)])
    def test_what_is_offloaded_is_not_on_the_gpu(self, device, host):
        offload = f", offload_optimizer: {{device: {device}}}"
        config = run_file(dtype="bfloat16", zero=2, more=offload)
        found = optimizer_bytes(config, of(2), 0, on_cpu=False)
        assert (found.weights, found.masters, found.moments, found.copies) == (2000, 0, 0, 0)
        assert found.host == host
        assert optimizer_bytes(config, of(2), 0, on_cpu=True).moments == 8000

    def test_as_torch_holds_them(self):
        model = llama()
        optimizer = torch.optim.AdamW(model.parameters())
        model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
        optimizer.step()
        held = [t for state in optimizer.state.values() for t in state.values() if t.numel() > 1]
        found = optimizer_bytes(run_file(), sizes_of(model), 0, on_cpu=True)
        assert found.moments == sum(t.nbytes for t in held)
        assert found.gradients == sum(p.grad.nbytes for p in model.parameters())
        assert found.weights == sum(p.nbytes for p in model.parameters())


class TestDryRun:
    """What passes over the meta device count."""

    def test_what_is_saved_is_what_autograd_saves(self, skeleton):
        rows, columns, saved = 2, 24, {}
        model = llama().train()
        known = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}

        def keep(tensor):
            pointer = tensor.untyped_storage().data_ptr()
            if pointer not in known:
                saved[pointer] = tensor.untyped_storage().nbytes()
                kept.append(tensor)
            return tensor

        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            ids = torch.zeros(rows, columns, dtype=torch.long)
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        total = sum(saved.values())
        found = training(skeleton, rows, columns)
        assert found.saved == pytest.approx(total + hidden.nbytes, rel=0.1)

    def test_reading_needs_less_than_training_and_grows_with_the_batch(self, skeleton):
        small, large = reading(skeleton, 1, 32), reading(skeleton, 4, 32)
        assert large.total == pytest.approx(4 * small.total, rel=0.1)
        assert large.total < training(skeleton, 4, 32).saved

    @pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_checkpointing_saves_less(self, skeleton, attention):
        with torch.device("meta"):
            model = llama(attn_implementation=attention)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        assert training(model, 2, 64).saved < 0.4 * training(skeleton, 2, 64).saved

    def test_the_peak_holds_gradients(self, skeleton):
        found = training(skeleton, 1, 8)
        body = 4 * (PARAMETERS - VOCABULARY * HIDDEN)  # the head has no part in it
        assert found.peak.total > body

    def test_gradients_that_do_not_stay_are_not_in_the_peak(self, skeleton):
        kept = training(skeleton, 1, 8).peak.total
        gone = training(skeleton, 1, 8, keep_gradients=False).peak.total
        body = 4 * (PARAMETERS - VOCABULARY * HIDDEN)
        most = 4 * VOCABULARY * HIDDEN  # the largest one, which comes last
        assert gone < kept - (body - most) // 2
        assert all(parameter.grad is None for parameter in skeleton.parameters())

    def test_fused_attention_holds_no_pairs(self):
        with torch.device("meta"):
            fused, plain = (
                llama(attn_implementation=name, num_hidden_layers=1) for name in ("sdpa", "eager")
            )
        pairs, mask = 4 * HEADS * 512**2, 4 * 512**2  # the mask is kept by both
        kept = [training(model, 1, 512).saved for model in (plain, fused)]
        assert kept[0] - kept[1] > pairs - 2 * mask


class TestMoments:
    """The worst one."""

    def test_a_cpu_keeps_small_pieces(self):
        moments = [
            Moment("forward", {"weights": 10}, Live(20, 20, 0)),
            Moment("update", {"weights": 10, "gradients": 10}, Live(15, 0, 15)),
        ]
        gpu, cpu = (worst(moments, on_cpu=flag) for flag in (False, True))
        assert (gpu.peak, gpu.moment) == (35, "update")
        assert (cpu.peak, cpu.moment) == (20 + 15 + 32, "update")
        assert sum(cpu.parts.values()) == cpu.peak

    def test_tables_are_cut_into_chunks(self):
        batch = Batch.of([100, 30])
        assert tables_read(batch, 1000, 2**25).total == 2 * 100 * 1000 * 4
        assert tables_read(batch, 1000, 50_000).total == 2 * 50 * 1000 * 4

    def test_long_documents_keep_no_table(self):
        sizes = Sizes(1, 1, 0, 1, 8, 8, 8, 2**20, 4)  # a chunk has 32 rows
        kept = tables(run_file(), Batch.of([10]), sizes)
        assert kept.total == (10 + 3 * 10) * 2**20 * 4
        assert tables(run_file(), Batch.of([100]), sizes).total == 3 * 32 * 2**20 * 4

    def test_pieces_are_small_or_large(self):
        assert pieces(2, 100) == Live(200, 200, 0)
        assert pieces(1, 2**26) == Live(2**26, 0, 2**26)


class TestReading:
    """Batches as teachers and ranks make them."""

    read = Reading(steps=((5, 9, 3, 7), (4, 4, 4, 4)), held_out=(6, 6, 6, 2), bytes_per_token=4.0)

    def test_requests(self):
        assert largest(self.read.requests(20, 1, packing=False)) == Batch((9, 7), 2, 9)
        assert largest(self.read.requests(4096, 2, packing=False)) == Batch((9, 7), 2, 9)
        assert largest(self.read.evaluations(12, packing=False)) == Batch((6, 6), 2, 6)

    def test_micro_batches_are_sorted(self):
        assert largest(self.read.micro_batches(2, 1, packing=False)) == Batch((9, 7), 2, 9)
        assert largest(self.read.micro_batches(1, 2, packing=False)) == Batch((9,), 1, 9)

    def test_means(self):
        assert self.read.tokens_per_step == 20.0
        assert self.read.mean_length == 5.0
        assert self.read.attended_length == (5**2 + 9**2 + 3**2 + 7**2 + 4 * 4**2) / 40

    def test_padding_is_computed_too(self):
        batches = self.read.micro_batches(2, 1, packing=False)  # 9 7, 5 3, 4 4, 4 4
        assert self.read.padded(batches) == (2 * 9 + 2 * 5 + 2 * 4 + 2 * 4) / 2

    def test_a_teacher_that_is_sent_nothing(self):
        silent = Reading(steps=((), ()), held_out=(), bytes_per_token=4.0)
        assert largest(silent.requests(20, 2, packing=False)).size == 1
        assert (silent.tokens_per_step, silent.attended_length) == (0.0, 0.0)
