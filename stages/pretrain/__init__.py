"""pretrain: trains a model of the XLM-R family on the packed rows, and on translation pairs where there are some, by DeepSpeed ranks that Ray Train starts together.

Recipe (in the key): model, objectives, steps, global batch in sequences, learning rate and schedule, sampling over languages, seed. How it is carried out (world
size, micro-batch, ZeRO stage, precision, offload) is recorded and may change on resume.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.artifacts import CHECKPOINT, PACKING, PAIR_PACKING, PAIR_TOKENS, TOKENS, VOCABULARY
from pipeline.config import NonEmpty, Section, known_names, outside
from pipeline.model.sizes import SIZES
from pipeline.sources import Source
from pipeline.stage import Context, Grade, Input, ListContext, Output, Slot, Summary
from pipeline.storage import without_userinfo
from pipeline.training.objectives import OBJECTIVES

if TYPE_CHECKING:
    from pipeline.capacity import Machines
    from pipeline.dag import Graph

VERSION = 4
LIBRARIES = ("deepspeed", "torch", "transformers")
GRADE = Grade.TRAINING
GLOBALS = ("seed",)
INPUTS = {
    "tokens": Slot(TOKENS, "encode"),
    "packing": Slot(PACKING, "pack"),
    "pair_tokens": Slot(PAIR_TOKENS, "encode", optional=True),
    "pair_packing": Slot(PAIR_PACKING, "pack", optional=True),
    "vocabulary": Slot(VOCABULARY, "vocabulary"),
}
OUTPUT = {"checkpoint": CHECKPOINT}


def _checked(weights: Mapping[str, float]) -> Mapping[str, float]:
    """The weights of objectives."""
    if not weights:
        raise ValueError(f"none is given; known: {', '.join(OBJECTIVES)}")
    known_names(tuple(weights), OBJECTIVES, "objective")
    for name, weight in weights.items():
        if not 0 < weight < math.inf:
            raise ValueError(f"the weight of {name} is {weight:g}; it must be above 0; leave out what is not wanted")
    return weights


class MaskRates(Section):
    """A share of predicted tokens that changes in a straight line over an objective's steps in a phase."""

    start: float = Field(gt=0, lt=1)
    """Share in the first step."""
    end: float = Field(gt=0, lt=1)
    """Share in the last step."""


MaskRate = Annotated[float, Field(gt=0, lt=1)] | MaskRates


class TrainingPhase(Section):
    """A part of the run; what it does not name is as in the run."""

    share: float = Field(gt=0, le=1)
    """Share of all steps; the shares sum to 1."""
    alpha: float | None = Field(None, ge=0, le=1)
    """Exponent of the sampling over languages."""
    mask_rate: MaskRate | None = None
    """Share of tokens that is predicted, or {start, end}."""
    objectives: Mapping[str, float] | None = None
    """Objectives and their weights."""
    contrast_on: Literal["encoder", "embeddings"] | None = None
    """What `contrast` trains."""

    @field_validator("objectives")
    @classmethod
    def _objectives_are_known(cls, weights: Mapping[str, float] | None) -> Mapping[str, float] | None:
        return None if weights is None else _checked(weights)


class LanguageGroup(Section):
    """Languages that have a share of the rows together."""

    languages: tuple[str, ...] = Field(min_length=1)
    """Their codes."""
    share: float = Field(gt=0, le=1)
    """Share of all rows; within it the languages are drawn as `sampling` says."""


class Start(Section):
    """A model that exists already."""

    path: NonEmpty = outside(...)
    """A Hugging Face directory of a masked language model with safetensors, such as an exported one, local or any fsspec URL; its content is in the key. Its ids must
    be those of the vocabulary: set `vocabulary.start.path` to its tokenizer.json, which may cut it and let it grow, and the embedding's rows follow."""


class Spikes(Section):
    """What counts as a loss spike, and how the run goes back from one: to a checkpoint before it, leaving out the data from there to the spike (as PaLM's training did)."""

    loss: float = Field(0.0, ge=0)
    """Robust standard deviations that the loss of a step may lie above the median of its objective's last steps, say 10; 0 does not watch it."""
    gradient: float = Field(0.0, ge=0)
    """The same of the gradient norm."""
    window: int = Field(128, ge=8)
    """Steps of an objective that make the median; nothing is judged before there are so many."""
    rewind: int = Field(100, ge=1)
    """Steps before the spike at which the run goes on at the latest; from the oldest checkpoint where all are newer."""
    most: int = outside(5, ge=0)
    """Times the run may go back before it fails."""


class Config(Section):
    """Settings of pretrain."""

    model: str = "xlm-r-base"
    """Named size of the encoder; see pipeline/model/sizes.py."""
    architecture: Literal["xlm-r", "xlm", "modernbert", "eurobert"] = "xlm-r"
    """Kind of encoder, a class of `transformers` each; xlm-r has a faster forward pass of our own."""
    language_embeddings: bool = False
    """Add to each token a learned vector of its language, as XLM did for TLM; of architecture xlm. A model so trained has to be told the language of every text."""
    output_bias: Literal["unigram", "zero"] = "unigram"
    """Where the output bias starts: at the logarithm of each id's frequency in what is trained on, or at zero as in XLM-R, which then learns it first."""
    start: Start | None = None
    """Go on from this model instead of random weights; `model` and `architecture` are then its own."""
    objectives: Mapping[str, float] = Field(default_factory=lambda: {"mlm": 1.0})
    """Objectives and their weights: each step is of one of them, and they have steps in this proportion."""
    contrast_temperature: float = Field(0.05, gt=0)
    """What the similarities of `contrast` are divided by."""
    contrast_on: Literal["encoder", "embeddings"] = "encoder"
    """What `contrast` trains: means of the encoder's hidden states, or of the word embeddings alone (a cheap first phase)."""
    steps: int = Field(100_000, ge=1)
    """Updates."""
    global_batch: int = Field(2_048, ge=1)
    """Sequences in a step, over all ranks."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate."""
    warmup: float = Field(0.06, ge=0, le=1)
    """Share of the steps over which the rate climbs."""
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt", "wsd"] = "linear"
    """Learning rate after warmup."""
    optimizer: Literal["adamw", "stable_adamw", "muon"] = "adamw"
    """AdamW; StableAdamW, which lowers the rate of a tensor whose gradient jumps (ModernBERT, mmBERT); or Muon for the layers' matrices and AdamW for the rest."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Muon's."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay; none for biases and layer norms."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Adam's decay rates."""
    eps: float = Field(1e-6, gt=0)
    """Adam's epsilon."""
    clip: float = Field(1.0, ge=0)
    """Largest gradient norm; 0 does not clip."""
    spike: Spikes = Spikes()
    """What is done about loss spikes; by default nothing, and a loss that is no number ends the run. Where one is watched, such a loss counts as a spike too."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of hidden states and attention."""
    attention: Literal["rows", "documents"] = "rows"
    """What tokens see: their whole packed row, as in XLM-R, or their own document (or pair) of it, positions beginning anew at each."""
    sampling: Literal["alpha", "unimax", "weights"] = "alpha"
    """How rows are drawn over languages: ∝ n^alpha, uniformly up to max_epochs (UniMax), or by language_weights."""
    alpha: float = Field(0.3, ge=0, le=1)
    """Exponent of the sampling over languages (XLM-R 0.3)."""
    max_epochs: float = Field(5.0, gt=0)
    """UniMax: most times that a language is gone through in a phase."""
    language_weights: Mapping[str, float] = Field(default_factory=dict)
    """Weights of the languages where sampling is `weights`; every language with text must have one above 0."""
    groups: Mapping[str, LanguageGroup] = Field(default_factory=dict)
    """Groups of languages with shares of their own; the languages in none share what is left."""
    mask_rate: MaskRate = 0.15
    """Share of tokens that mlm and tlm predict, or {start, end}: in a straight line over the objective's steps in a phase (or run)."""
    masking: Literal["tokens", "whole_word", "span", "frequency"] = "tokens"
    """What `mlm` and `tlm` hide: each token alike, words with all of their pieces, spans of 1 to 10 pieces (SpanBERT), or rare tokens rather than frequent ones (XLM)."""
    frequency_alpha: float | None = Field(None, gt=0, le=1)
    """Where masking is `frequency`: tokens have weight frequency^−alpha; none is XLM's 0.5."""
    phases: tuple[TrainingPhase, ...] = ()
    """Phases one after the other, each with its own sampling, mask rate and objectives; none trains all steps alike."""
    micro_batch: int | None = outside(None, ge=1)
    """Sequences per rank and forward pass; none takes the largest divisor of a rank's share up to 16."""
    zero: Literal[0, 1, 2, 3] = outside(0)
    """DeepSpeed ZeRO stage."""
    offload: bool = outside(False)
    """Keep optimizer state on the CPU (ZeRO 1 to 3)."""
    activation_checkpointing: bool = outside(False)
    """Keep the input of each layer only and compute it again in the backward pass: a third more work for a fraction of the activations."""
    compile: bool = outside(False)
    """Let torch compile the layers of xlm-r, with dropout 0: minutes at the start; `python -m tests.benchmarks.pretrain --only compiled` tells what it gives."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = outside("auto")
    """Arithmetic of the forward and backward pass; auto takes bf16 where a probe shows it faster. fp16, with loss scaling, is for GPUs without bf16."""
    deepspeed: Mapping[str, Any] = outside({})
    """Further DeepSpeed settings; what would hide ours is refused."""
    checkpoint_every: int = outside(1_000, ge=0)
    """Steps between checkpoints; 0 saves the last only."""
    keep: int = outside(2, ge=1)
    """Newest checkpoints kept while training."""
    keep_best: int = outside(0, ge=0)
    """Checkpoints of the lowest held-out loss (of mlm; without it the mean of the objectives') kept beside them, of those made at a step that evaluate_every names; they stay after training, in the run's work folder."""
    keep_every: int = outside(0, ge=0)
    """Checkpoints at each multiple of so many steps kept beside them, also after training; 0 keeps none for that."""
    evaluate_every: int = outside(0, ge=0)
    """Steps between evaluations on the held-out text; 0 evaluates at the end only."""
    log_every: int = outside(10, ge=1)
    """Steps between records handed on."""
    max_restarts: int = outside(3, ge=0)
    """Times the gang is started again after it lost a worker, from the last whole checkpoint."""

    @field_validator("model")
    @classmethod
    def _size_is_known(cls, name: str) -> str:
        return known_names((name,), SIZES, "size")[0]

    @field_validator("objectives")
    @classmethod
    def _objectives_are_known(cls, weights: Mapping[str, float]) -> Mapping[str, float]:
        return _checked(weights)

    @model_validator(mode="after")
    def _architecture_can(self) -> Config:
        if self.architecture == "xlm" and self.start is None:
            objectives = {*self.objectives, *(name for phase in self.phases for name in phase.objectives or {})}
            if self.attention == "documents" or "clm" in objectives:
                raise ValueError("architecture: xlm takes no mask between tokens, which attention: documents and clm need; choose another")
            if self.activation_checkpointing:
                raise ValueError("architecture: xlm has no activation_checkpointing; leave it out or choose another")
        if self.language_embeddings and self.architecture != "xlm" and self.start is None:
            raise ValueError(f"language_embeddings: {self.architecture} has none; set architecture: xlm or leave it out")
        return self

    @model_validator(mode="after")
    def _what_is_compiled_can_be(self) -> Config:
        if self.compile and self.dropout:
            raise ValueError(
                "compile: masks of dropout are made by a loop of ours, which cannot be compiled; set dropout: 0 or leave compile out"
            )
        if self.compile and self.architecture != "xlm-r":
            raise ValueError(f"compile: layers of {self.architecture} are the library's and are not compiled; leave it out or choose xlm-r")
        return self

    @model_validator(mode="after")
    def _what_is_kept_is_made(self) -> Config:
        if self.keep_best and not self.evaluate_every:
            raise ValueError(
                "keep_best goes by the held-out loss of a checkpoint's step; give evaluate_every, best equal to checkpoint_every"
            )
        if self.keep_every and (not self.checkpoint_every or self.keep_every % self.checkpoint_every):
            raise ValueError(
                f"keep_every {self.keep_every} must be a multiple of checkpoint_every {self.checkpoint_every}: other steps have none"
            )
        return self

    @model_validator(mode="after")
    def _phases_and_weights_fit(self) -> Config:
        if self.phases and abs(sum(phase.share for phase in self.phases) - 1) > 1e-6:
            raise ValueError(f"the shares of the phases sum to {sum(phase.share for phase in self.phases):g}; they must sum to 1")
        if (self.sampling == "weights") != bool(self.language_weights):
            raise ValueError("language_weights and sampling: weights go together; give both or neither")
        if self.frequency_alpha is not None and self.masking != "frequency":
            raise ValueError(f"frequency_alpha has no effect where masking is {self.masking}; leave it out or set masking: frequency")
        used = {name for phase in self.phases or (self,) for name in phase.objectives or self.objectives}
        if self.masking != "tokens" and not used & {"mlm", "tlm"}:
            raise ValueError(f"masking: {self.masking} has no effect on {', '.join(sorted(used))}; mlm and tlm hide tokens")
        for rate, names in (
            (self.mask_rate, used),
            *((phase.mask_rate, {*(phase.objectives or self.objectives)}) for phase in self.phases),
        ):
            if isinstance(rate, MaskRates) and not names & {"mlm", "tlm"}:
                raise ValueError(
                    f"mask_rate from {rate.start:g} to {rate.end:g} has no effect on {', '.join(sorted(names))}: mlm and tlm hide tokens; leave it out"
                )
        if any(not weight > 0 for weight in self.language_weights.values()):
            raise ValueError("every weight of language_weights must be above 0")
        grouped = [lang for group in self.groups.values() for lang in group.languages]
        if len(grouped) != len(set(grouped)):
            twice = next(lang for lang in grouped if grouped.count(lang) > 1)
            raise ValueError(f"{twice} stands in groups twice; a language belongs to one group")
        if sum(group.share for group in self.groups.values()) > 1 + 1e-9:
            raise ValueError(
                f"the shares of groups sum to {sum(group.share for group in self.groups.values()):g}; they may sum to 1 at most"
            )
        return self


def list_inputs(config: Config, context: ListContext) -> list[Source]:
    """The model to start from, whose content is part of the key."""
    if config.start is None:
        return []
    from pipeline import fetching
    from stages.pretrain.models import CONFIG, TOKENIZER, check_start

    path, place = config.start.path.rstrip("/"), ("start", "path")
    found = [
        *(s for s in fetching.listed(f"{path}/*.json", place, context) if s.name.rpartition("/")[2] in (CONFIG, TOKENIZER, "model.safetensors.index.json")),
        *fetching.listed(f"{path}/*.safetensors", place, context),
    ]  # fmt: skip
    check_start([source.name.rpartition("/")[2] for source in found], without_userinfo(path))
    return found


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Train, and evaluate on the held-out text."""
    from stages.pretrain import work

    return work.run(config, inputs, output, context)


def capacity(graph: Graph, name: str, machines: Machines) -> Iterator[str]:
    """What `plan --capacity` says of the instance `name`: parameters, memory of a rank at each ZeRO stage, time and storage."""
    from stages.pretrain import planning

    return planning.lines(graph, name, machines)
