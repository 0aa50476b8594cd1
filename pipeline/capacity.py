"""What a pretraining job needs, worked out before anything runs: parameters, memory of a rank, time, storage. Imports nothing heavy.

    shape, vocabulary, rows -> parameters P -> memory of a rank at each ZeRO stage     (`rank_memory`)
                            -> operations of a step -> tokens a second and days        (`pipeline.model.flops`, at a share of the devices' peak)
    text -> storage of each stage

Memory of a rank = what stays (weights, gradients where micro-batches add up, AdamW's state) + the most that a step adds at one time: at the end of the forward pass the
activations and the loss, or at the end of the backward pass the gradients and what joins them over the ranks. Tested against measured peaks on a CPU
(`tests/training/test_capacity.py`); of a GPU the same sums are made, and none has been measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.model.sizes import GATED, ModelSize, count_parameters

MFU = 0.35
"""Share of the devices' peak that is assumed where none is given: between ModernBERT base's .26 on H100 (312,000 tokens/s; Warner et al. 2024) and the .40 to .50 of large dense models."""


@dataclass(frozen=True)
class Machines:
    """What a job is planned on."""

    nodes: int = 1
    gpus: int = 8
    """Of a node; 0 trains on its cores."""
    gpu: str = "h100"
    """A name of `pipeline.devices`."""
    mfu: float = MFU
    text_bytes: int = 0
    """UTF-8 bytes of the corpus, for the storage of the data stages; 0 where it is not known."""

    @property
    def ranks(self) -> int:
        """One a GPU."""
        return self.nodes * max(1, self.gpus)


FP32, LOW = 4, 2
"""Bytes of a number in float32, and in bfloat16 or float16."""
BUCKET_BYTES = 4 << 25
"""Gradients joined at a time at ZeRO 1 to 3; see `pipeline.training.deepspeed_config`."""
WAVE_BYTES = 4 << 25
"""Matrices that Muon has together at a time; see `pipeline.training.optimizers`."""
HELD_LOGITS_BYTES = 1 << 29
"""Logits held at a time; see `pipeline.model.loss`."""


@dataclass(frozen=True)
class Job:
    """A training job as far as memory depends on it."""

    size: ModelSize
    vocab_size: int
    length: int
    """Places of a row."""
    micro_batch: int
    """Rows per rank and forward pass."""
    accumulation: int
    """Micro-batches per rank and step."""
    ranks: int
    zero: int
    precision: str
    """"fp32", "bf16" or "fp16"."""
    dropout: float
    predicted: int
    """Predictions of a row."""
    offload: bool = False
    recompute: bool = False
    """Activations of one layer at a time (activation checkpointing)."""
    architecture: str = "xlm-r"
    """One of `pipeline.model.sizes.ARCHITECTURES`; activations are worked out for XLM-R's forward pass and are near for the others."""
    optimizer: str = "adamw"
    """A name of `pipeline.training.optimizers.KINDS`."""
    on_cpu: bool = False
    """Whether attention holds its probabilities where something is dropped, as it does on a CPU."""

    @property
    def parameters(self) -> int:
        """Trainable ones."""
        return count_parameters(self.size, self.vocab_size, self.length + 2, self.architecture)

    @property
    def hidden_matrices(self) -> int:
        """Elements of the layers' matrices, which are what Muon trains."""
        return self.size.layers * (
            4 * self.size.hidden**2 + (3 if self.architecture in GATED else 2) * self.size.hidden * self.size.intermediate
        )


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank."""

    weights: int
    gradients: int
    """All of them at the end of a backward pass."""
    optimizer: int
    """Float32 copies of the weights where training is in another format or parted, and AdamW's two moments (Muon's one, of the layers' matrices)."""
    activations: int
    logits: int
    """Logits and the gradient of the output embeddings."""
    communication: int
    """What gradients are joined in."""
    peak: int
    """The most at one time."""


def rank_memory(job: Job) -> Memory:
    """Memory of one rank, the libraries' own not counted."""
    parameters, ranks = job.parameters, job.ranks
    is_low = job.precision != "fp32"
    # DeepSpeed's own low precision from stage 1 on; at stage 0 float32 weights under autocast, whose casts are kept for a pass.
    weight = LOW if is_low and job.zero else FP32
    share = -(-parameters // ranks)
    weights = weight * (share if job.zero == 3 else parameters)
    casts = LOW * (parameters - job.vocab_size * job.size.hidden) if is_low and not job.zero else 0
    optimizer = 8 * parameters if not job.zero else 12 * share
    if job.optimizer == "muon":
        optimizer -= FP32 * job.hidden_matrices // (ranks if job.zero else 1)
    if job.offload and not job.on_cpu:
        optimizer = 0
    gradients = FP32 * (parameters if job.zero < 2 else share)
    communication = _communication(job, share)
    if job.optimizer == "muon":
        communication += min(WAVE_BYTES, FP32 * job.hidden_matrices)
    activations, logits = _activations(job), _logits(job)
    carried = gradients if job.accumulation > 1 else 0
    # At stage 3 the layers' weights come together, once as they arrive and once as they are used.
    gathered = 2 * weight * parameters if job.zero == 3 else 0
    state, passing = weights + optimizer + gathered, activations + logits + casts
    # The C library keeps freed activations, which come in small pieces, when the gradients are joined; a GPU's allocator gives them back.
    step = passing + gradients + communication if job.on_cpu else max(carried + passing, gradients + communication)
    if job.on_cpu and job.zero == 3:
        step += carried
    return Memory(weights, gradients, optimizer, activations, logits, communication, state + step)


def _communication(job: Job, share: int) -> int:
    if job.zero == 0:
        # Gradients are summed where they lie: no more than the largest one is held twice.
        return FP32 * job.vocab_size * job.size.hidden if job.ranks > 1 else 0
    # Buckets on their way, and before stage 3 this rank's part of the gradients as one run for the update.
    return 2 * BUCKET_BYTES + (FP32 * share if job.zero < 3 else 0)


def _activations(job: Job) -> int:
    """What the layers keep for their backward pass."""
    size, places = job.size, job.micro_batch * job.length
    number = FP32 if job.precision == "fp32" else LOW
    wide = size.intermediate / size.hidden
    # Of the width: input, query, key, value, context, both inputs of the norms, output of the first; of the inner width: before and after GELU.
    of_width = 8.0 + 2 * wide
    if job.dropout:
        of_width += 4  # what is dropped and its mask, twice
    layer = of_width * size.hidden * number * places
    if job.dropout and job.on_cpu:
        layer += number * job.micro_batch * size.heads * job.length**2
    # The last layer goes on after its attention at the predicted places only.
    last = (5.0 + 1.0) * size.hidden * number * places
    embeddings = (3.0 if job.dropout else 2.0) * size.hidden * FP32 * places
    if job.recompute:
        return int(size.hidden * number * places * size.layers + layer + embeddings)
    return int(layer * (size.layers - 1) + last + embeddings)


def _logits(job: Job) -> int:
    number = FP32 if job.precision == "fp32" else LOW
    held = min(HELD_LOGITS_BYTES, job.micro_batch * job.predicted * job.vocab_size * number)
    return int(held + FP32 * job.vocab_size * job.size.hidden)
