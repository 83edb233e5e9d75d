"""The class that scores and writes with several models as with one."""

from collections.abc import Sequence

from losses.document import Document, text_document
from orchestrator.data import prepare
from orchestrator.ensembling.bytes import ByteReader
from orchestrator.ensembling.decoding import Decoding, Reader, Written, write
from orchestrator.ensembling.options import EnsembleMember, EnsembleOptions, Interface
from orchestrator.ensembling.prompts import Prompt, read_prompt
from orchestrator.ensembling.scores import EnsembleScores, summary
from orchestrator.ensembling.scoring import score_bytes, score_tokens, weights_of
from orchestrator.ensembling.tokens import TokenReader
from orchestrator.errors import ConfigError
from orchestrator.loading import load_model
from orchestrator.members import members_of
from teachers.evaluation import score


class Ensemble:
    """Several models as one.

    Texts are scored in batches; prompts are answered one after the other.

    Args:
        members: one at least, with names that differ; put their models into evaluation mode.
        options: how they are mixed.

    Raises:
        ValueError: there is no member, two have one name, a weight is not above 0, or tokens are
            to be mixed and the vocabularies differ.

    Example::

        ensemble = Ensemble.load(["asset:smollm2-135m-instruct", "asset:gemma-3-270m"])
        ensemble.score(["A text."]).bits_per_byte
        ensemble.generate(["Once upon a time"], max_new_bytes=64, temperature=0.0)[0].text
    """

    def __init__(
        self, members: Sequence[EnsembleMember], options: EnsembleOptions | None = None
    ) -> None:
        self.members = tuple(members)
        self.options = options or EnsembleOptions()
        _check(self.members)
        self.interface = self._interface()

    @classmethod
    def load(
        cls,
        references: Sequence[str],
        weights: Sequence[float] = (),
        options: EnsembleOptions | None = None,
        *,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> "Ensemble":
        """Load models from folders, hub ids, ``asset:NAME`` or run files (their teachers).

        Args:
            references: of the members.
            weights: one for each member; none: equal, or those of the run files.
            options: how they are mixed.
            dtype: number format of the weights.
            device: where they run.

        Raises:
            ConfigError: a reference names nothing, or the weights are not one for each.
        """
        found = members_of(references, weights, dtype)
        members = [
            EnsembleMember(m.name, load_model(m.source, m.name, device, m.start_token), m.weight)
            for m in found
        ]
        return cls(members, options)

    def score(
        self, texts: Sequence[str | Document], *, max_length: int | None = None
    ) -> EnsembleScores:
        """Nats and bits per byte of texts or documents, of the ensemble and of each member.

        Args:
            texts: of one byte at least.
            max_length: cut texts to this many tokens of the first member, and leave out those
                that a member cannot read exactly; None takes them as they are.

        Raises:
            ValueError: a member cannot read a text exactly, or not one byte is predicted by all.
        """
        documents: Sequence[Document] = [
            text_document(f"text {place}", text) if isinstance(text, str) else text
            for place, text in enumerate(texts)
        ]
        if max_length is not None:
            tokenizers = [member.model.tokenizer for member in self.members]
            documents = prepare(documents, tokenizers, max_length).documents
        if empty := [document.name for document in documents if not document.content]:
            raise ValueError(f"{empty[0]} is empty; expected one byte at least")
        scorer = score_tokens if self.interface == "tokens" else score_bytes
        rows = list(scorer(self.members, documents, self.options))
        budget = self.options.token_budget
        own = {member.name: score(member.model, documents, budget) for member in self.members}
        weights = {member.name: member.weight for member in self.members}
        return summary(self.interface, documents, rows, own, weights)

    def generate(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int | None = None,
        max_new_bytes: int | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> list[Written]:
        """Go on with each prompt until the end is drawn or the length is reached.

        Prompts are written one after the other; what one of them gives does not depend on the
        others, but on its place among them.

        Args:
            prompts: texts, or chats that each member reads through its own template.
            max_new_tokens: at most; only where tokens are mixed.
            max_new_bytes: a text of this length or more is done; 256 if neither is given.
            temperature: see ``Decoding``; 0 takes the likeliest.
            seed: of the draws.

        Raises:
            ValueError: a member cannot read a prompt, or ``max_new_tokens`` in bytes.
        """
        decoding = Decoding(max_new_tokens, max_new_bytes, temperature, seed)
        if max_new_tokens is not None and self.interface == "bytes":
            raise ValueError(
                "max_new_tokens has no meaning where bytes are mixed, since members have tokens "
                "of their own; expected max_new_bytes"
            )
        weights, mean = weights_of(self.members), self.options.mean
        return [
            write(
                [self._reader(member, prompt) for member in self.members],
                weights,
                mean,
                decoding,
                place,
            )
            for place, prompt in enumerate(prompts)
        ]

    def _reader(self, member: EnsembleMember, prompt: Prompt) -> Reader:
        tokens = read_prompt(member.model.tokenizer, prompt)
        use_cache = self.options.use_cache
        if self.interface == "tokens":
            return TokenReader(member.model, tokens, use_cache=use_cache)
        return ByteReader(member.model, tokens, self.options.search, use_cache=use_cache)

    def _interface(self) -> Interface:
        """What is mixed: tokens need one vocabulary, where members may end turns differently."""
        prints = {m.model.tokenizer.vocabulary.ids_fingerprint for m in self.members}
        if self.options.interface == "tokens" and len(prints) > 1:
            raise ConfigError(
                f"interface is tokens, but the members have {len(prints)} different vocabularies; "
                "expected one vocabulary for all, or interface bytes"
            )
        if self.options.interface == "auto":
            return "bytes" if len(prints) > 1 else "tokens"
        return self.options.interface


def _check(members: Sequence[EnsembleMember]) -> None:
    names = [member.name for member in members]
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"the members are {', '.join(names) or 'none'}; expected one at least, with names "
            "that differ"
        )
    for member in members:
        if not 0 < member.weight < float("inf"):
            raise ConfigError(
                f"{member.name} has the weight {member.weight}; expected a number above 0"
            )
