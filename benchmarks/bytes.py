"""Byte distributions of SmolLM2: each converter's speed and its distance to the exact ones.

    python -m benchmarks.bytes            one thread, a few minutes, after ``tutelage assets``

Exact are all covers whose history and last token are what the tokenizer itself would write
(canonical): for each byte, every beginning of the text is tokenized and read by the model.
Tokens of less probability than ``CHECKED`` are not tried out by the tokenizer. ``eot`` spends mass
on the end of the token too, so its rows have no distance to distributions over bytes. Speeds are
bytes per second of the processor, forward pass included, the median over rounds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from jaxtyping import Float64

from benchmarks.table import show
from losses.byte_distributions import Converter, byte_table, convert
from losses.byte_distributions.sorted_vocabulary import END_OF_TOKEN, SortedVocabulary
from losses.continuations import Continuation
from losses.document import Document, text_document
from losses.prediction import Prediction
from losses.signals import ByteDistributions, TokenByteDistributions
from orchestrator.assets import resolve
from teachers.backends.transformers import LanguageModel
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

MODEL = "asset:smollm2-135m-instruct"
TEXTS = (
    "The old lighthouse keeper climbed the spiral stairs every evening, counting each step aloud. "
    "On the hundredth step he always stopped, looked out over the darkening water, and wondered "
    "whether anyone on the passing ships ever noticed.",
    "def moving_average(values, width):\n    total = sum(values[:width])\n    averages = [total]\n"
    "    for index in range(width, len(values)):\n        total += values[index] - values[index - "
    "width]\n        averages.append(total)\n    return averages\n",
    "Photosynthesis converts carbon dioxide and water into glucose and oxygen. Chlorophyll absorbs "
    "mostly blue and red wavelengths, so leaves look green. In 2019, researchers measured a yield "
    "of 4.6 grams per square metre.",
    '"You can\'t be serious," said Marguerite. "We\'ve only just arrived!" He shrugged. '
    "\"I wouldn't joke about it. The ferry leaves at 6:45 p.m., and there isn't another "
    'until Thursday, so we had better hurry."',
    "1. Preheat the oven to 180 C.\n2. Whisk 3 eggs with 150 g of sugar.\n3. Fold in 200 g flour, "
    "1 tsp baking powder and a pinch of salt.\n4. Bake for 35-40 minutes; test it with a skewer.\n",
)
CONVERTERS = (
    Converter("one_path"),
    Converter("eot"),
    Converter("on_path"),
    Converter("branches", epsilon=0.1),
    Converter("branches", epsilon=0.01),
    Converter("branches", epsilon=0.001),
    Converter("beam", beam=10, epsilon=0.01),
)
ROUNDS = 5
CHECKED = 1e-4
NUM_SYMBOLS = 257


def main() -> None:
    """Print a row for the forward pass and each converter."""
    torch.set_num_threads(1)
    source = ModelSource(str(resolve(MODEL)))
    model = LanguageModel.load(source, Tokenizer.load(source, "SmolLM2"))
    documents = [text_document(f"text {i}", text) for i, text in enumerate(TEXTS)]
    with torch.inference_mode():
        exact = [canonical(model, document) for document in documents]
        rows = [compare(model, documents, converter, exact) for converter in CONVERTERS]
    show(f"{sum(len(text) for text in TEXTS)} bytes in {len(TEXTS)} texts", rows)


def compare(
    model: LanguageModel,
    documents: Sequence[Document],
    converter: Converter,
    exact: Sequence[Float64[np.ndarray, "byte symbol"]],
) -> dict[str, object]:
    """A converter's row; the plain forward pass is timed in turn with it.

    The beam, which is slow, reads the first text alone, once.
    """
    signals: list[ByteDistributions | TokenByteDistributions] = []

    def plain() -> None:
        for document in documents:
            [prediction] = model.predictions([document])
            prediction.head.logits(prediction.hidden)

    def converted() -> None:
        signals[:] = [convert_one(model, document, converter) for document in documents]

    if converter.name == "beam":
        documents, exact = documents[:1], exact[:1]
    rounds = 1 if converter.name == "beam" else ROUNDS
    plain_seconds, seconds = timed((plain, converted), rounds)
    size = sum(len(document.content) for document in documents)
    spent = [bits_per_byte(signal, one) for signal, one in zip(signals, documents, strict=True)]
    options = f" {converter.epsilon:g}" if converter.needs_continuations else ""
    return {
        "converter": converter.name + options,
        "bytes/s": f"{size / seconds:.0f}",
        "of the forward pass": f"{plain_seconds / seconds:.0%}",
        "bits/byte": f"{np.average(spent, weights=[len(d.content) for d in documents]):.4f}",
        **distances(signals, exact),
    }


def distances(
    signals: Sequence[ByteDistributions | TokenByteDistributions],
    exact: Sequence[Float64[np.ndarray, "byte symbol"]],
) -> dict[str, str]:
    """Mean, 99th percentile and largest of the rows' distances to the exact ones, in nats."""
    found = [
        jensen_shannon(np.exp(signal.logprobs.astype(np.float64)), reference[signal.positions])
        for signal, reference in zip(signals, exact, strict=True)
        if isinstance(signal, ByteDistributions)
    ]
    if not found:
        return {"JSD mean (nats)": "", "p99": "", "max": ""}
    rows = np.concatenate(found)
    return {
        "JSD mean (nats)": f"{rows.mean():.1e}",
        "p99": f"{np.quantile(rows, 0.99):.1e}",
        "max": f"{rows.max():.1e}",
    }


def bits_per_byte(signal: ByteDistributions | TokenByteDistributions, document: Document) -> float:
    """What the document's own bytes cost, with the ends of their tokens where these are symbols."""
    content = np.frombuffer(document.content + b"\0", dtype=np.uint8)  # one ends at the last byte
    target = content[signal.positions].astype(np.int64)
    num_bytes = len(target)
    if isinstance(signal, TokenByteDistributions):
        target = np.where(signal.closes, END_OF_TOKEN, target)
        num_bytes -= int(signal.closes.sum())
    own = signal.logprobs[np.arange(len(target)), target].astype(np.float64)
    return float(-own.sum() / np.log(2) / num_bytes)


def convert_one(
    model: LanguageModel, document: Document, converter: Converter
) -> ByteDistributions | TokenByteDistributions:
    """As a teacher does it."""
    asks = converter.needs_continuations
    [prediction] = model.predictions([document], continuations=asks)
    return convert(prediction, document, converter)


def timed(functions: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    """Median seconds of the processor for each function, run in turn; a first round is dropped."""
    seconds: list[list[float]] = [[] for _ in functions]
    for number in range(rounds + (rounds > 1)):
        for function, spent in zip(functions, seconds, strict=True):
            begin = time.process_time()
            function()
            if number or rounds == 1:
                spent.append(time.process_time() - begin)
    return [median(spent) for spent in seconds]


def jensen_shannon(
    first: Float64[np.ndarray, "byte symbol"], second: Float64[np.ndarray, "byte symbol"]
) -> Float64[np.ndarray, "byte"]:
    """In nats."""
    first, second = (rows / rows.sum(-1, keepdims=True) for rows in (first, second))
    middle = (first + second) / 2

    def divergence(rows: Float64[np.ndarray, "byte symbol"]) -> Float64[np.ndarray, "byte"]:
        logs = np.log(np.where(rows > 0, rows, 1) / np.where(rows > 0, middle, 1))
        summed: Float64[np.ndarray, "byte"] = (rows * logs).sum(-1)
        return summed

    found: Float64[np.ndarray, "byte"] = (divergence(first) + divergence(second)) / 2
    return found


@dataclass(frozen=True)
class Said:
    """Log-probabilities (nats) of the next token after each history."""

    rows: dict[tuple[int, ...], Float64[np.ndarray, "vocab"]]

    def logprob(self, history: tuple[int, ...]) -> float:
        """Of a whole history."""
        return sum(float(self.rows[history[:n]][token]) for n, token in enumerate(history))


def canonical(model: LanguageModel, document: Document) -> Float64[np.ndarray, "byte symbol"]:
    """The exact distributions, over all covers that the tokenizer itself would write."""
    text = document.content.decode("ascii")
    beginnings = [
        tuple(ids) for ids in model.tokenizer.ids_of([text[:n] for n in range(len(text))])
    ]
    [prediction] = model.predictions([document], continuations=True)
    table, said = byte_table(model.tokenizer.vocabulary), read_all(prediction, beginnings)
    masses, logs = (
        np.zeros((len(text), NUM_SYMBOLS)),
        np.array([said.logprob(h) for h in beginnings]),
    )
    for start, history in enumerate(beginnings):
        row = said.rows[history].copy()
        row[invalid_after(model.tokenizer, text[:start], history, row)] = -np.inf
        sums = np.concatenate(([0.0], np.cumsum(np.exp(row[table.order]))))
        add_covers(masses, logs, table, sums, document.content, start)
    found: Float64[np.ndarray, "byte symbol"] = masses / masses.sum(-1, keepdims=True)
    return found


def add_covers(
    masses: Float64[np.ndarray, "byte symbol"],
    logs: Float64[np.ndarray, "byte"],
    table: SortedVocabulary,
    sums: Float64[np.ndarray, "column_plus_one"],
    content: bytes,
    start: int,
) -> None:
    """Add what one history that ends at ``start`` says about all bytes that it covers."""
    node = np.array([0])
    for place in range(start, len(content)):
        ranges = table.symbols_after(node)
        mass = sums[ranges.high] - sums[ranges.low]
        masses[place, ranges.symbol] += np.exp(logs[start] - logs[place]) * mass
        node, found = table.trie.child(node, np.frombuffer(content[place : place + 1], np.uint8))
        if not found[0]:
            return


def read_all(prediction: Prediction, histories: Sequence[tuple[int, ...]]) -> Said:
    """What the model says after each history and after each of its beginnings."""
    path = tuple(prediction.tokens.ids[1:].tolist())
    wanted = sorted({history[:n] for history in histories for n in range(len(history) + 1)})
    on_path = [history for history in wanted if path[: len(history)] == history]
    others = [history for history in wanted if path[: len(history)] != history]
    hidden = prediction.hidden[[len(history) for history in on_path]]
    if others and prediction.continuations is not None:
        asked = [_continuation(path, history) for history in others]
        hidden = torch.cat([hidden, prediction.continuations.hidden_after(asked)])
    logprobs = torch.log_softmax(prediction.head.logits(hidden).double(), -1).numpy()
    return Said(dict(zip([*on_path, *others], logprobs, strict=True)))


def _continuation(path: tuple[int, ...], history: tuple[int, ...]) -> Continuation:
    shared = next(n for n, token in enumerate(history) if path[n : n + 1] != (token,))
    return Continuation(shared, history[shared:])


def invalid_after(
    tokenizer: Tokenizer, text: str, history: tuple[int, ...], row: Float64[np.ndarray, "vocab"]
) -> list[int]:
    """The likelier tokens that the tokenizer would not write after this text."""
    contents = tokenizer.vocabulary.token_bytes
    likely = [int(i) for i in np.flatnonzero(row > np.log(CHECKED))]
    tried = [(i, content) for i in likely if (content := contents[i]) and content.isascii()]
    rows = tokenizer.ids_of([text + content.decode() for _, content in tried])
    return [i for (i, _), ids in zip(tried, rows, strict=True) if tuple(ids) != (*history, i)]


if __name__ == "__main__":
    main()
