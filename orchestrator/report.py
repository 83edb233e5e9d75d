"""The table at the end of a run."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.summary import Summary


def final_table(summary: Summary) -> RenderableType:
    """Held-out bits per byte, gradient shares, time, and how to load the result."""
    return Group(_scores(summary), _sentences(summary), _how_to_load(summary))


def _scores(summary: Summary) -> Table:
    table = Table(title=f"Bits per byte on {summary.held_out_bytes:,} held-out bytes")
    data_sets = sorted({name for row in summary.by_data_set.values() for name in row})
    for column in ("model", *data_sets, "all"):
        table.add_column(column, justify="left" if column == "model" else "right")
    bits = summary.bits_per_byte
    rows: dict[str, float | None] = {
        "before": bits.before,
        "ce_only": bits.ce_only,
        "distilled": bits.distilled,
    }
    rows |= {f"teacher {name}": value for name, value in bits.teachers.items()}
    for name, value in rows.items():
        if value is not None:
            parts = summary.by_data_set[name]
            cells = [f"{parts[d]:.3f}" if d in parts else "-" for d in data_sets]
            table.add_row(name, *cells, f"{value:.3f}")
    return table


def _sentences(summary: Summary) -> Text:
    lines = []
    if summary.lead is not None:
        lead = summary.lead
        lines.append(
            f"The distilled student leads cross-entropy alone by {lead.value:.3f} bits per byte "
            f"(95 % interval over documents: {lead.low:.3f} to {lead.high:.3f})."
        )
    if summary.gap_recovered:
        parts = [f"{name} {part:.1%}" for name, part in summary.gap_recovered.items()]
        lines.append(f"Gap to the original recovered: {', '.join(parts)}.")
    if summary.gradient_share:
        parts = [f"{name} {share:.0%}" for name, share in summary.gradient_share.items()]
        lines.append(f"Share of the last layer's gradient norm: {', '.join(parts)}.")
    times = [f"{name} {seconds:.0f} s" for name, seconds in summary.training_s.items()]
    lines.append(
        f"{summary.num_steps} steps: {', '.join(times)}; {summary.tokens_per_s:.0f} tokens/s while "
        f"distilling, cores {summary.cpu_percent:.0f} % busy; {summary.seconds:.0f} s in all."
    )
    if any(summary.left_out.values()):
        lines.append(
            f"Documents left out by the tokenizer that cannot read them: {summary.left_out}"
        )
    lines += [f"{line}." for line in summary.plan]
    return Text("\n".join(lines))


def _how_to_load(summary: Summary) -> Text:
    return Text(
        f"\nThe student is in {summary.checkpoint}:\n\n"
        "    from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f'    model = AutoModelForCausalLM.from_pretrained("{summary.checkpoint}")\n'
        f'    tokenizer = AutoTokenizer.from_pretrained("{summary.checkpoint}")\n'
    )
