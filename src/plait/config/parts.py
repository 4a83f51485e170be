"""The typed, frozen configuration of each part of a model."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Rotary frequencies stretched for a context longer than that of the first training."""

    kind: Literal["linear", "yarn", "llama3"] = "linear"
    """linear: every frequency ÷ factor (2306.15595); yarn (2309.00071) and llama3 (2407.21783):
    only those that turn seldom, with a ramp over dimensions (yarn) or over turns (llama3)"""
    factor: float = 1.0
    """what frequencies are divided by"""
    original_context: int | None = None
    """tokens of the first training's context; needed by yarn and llama3"""
    slow: float = 1.0
    """turns over the original context at or below which a frequency is divided in full"""
    fast: float = 32.0
    """turns over the original context at or above which a frequency stays (llama3 has 4)"""
    amplitude: float | None = None
    """of yarn: cosines and sines are multiplied by it; None: 0.1 ln(factor) + 1"""
    truncate: bool = True
    """of yarn: the ramp begins and ends at whole dimensions"""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Self-attention of every depth: multi-head, or grouped-query where `kv_heads` < `heads`."""

    heads: int = 8
    """query heads"""
    kv_heads: int | None = None
    """key and value heads; None: as many as query heads"""
    head_width: int | None = None
    """features per head; None: model width ÷ heads"""
    position: Literal["rope", "learned"] = "rope"
    """rotary embedding, or a learned vector for each position of the context"""
    rope_theta: float = 10_000.0
    """base of the rotary frequencies"""
    rope_scaling: RopeScaling | None = field(default=None, metadata={"added": True})
    qk_norm: Literal["none", "head", "width"] = "none"
    """RMSNorm on queries and keys: per head (Qwen3) or over the whole width (OLMoE)"""
    qkv_bias: bool = False
    """biases on the query, key and value projections (Qwen2-MoE)"""
    output_bias: bool = field(default=False, metadata={"added": True})
    """bias on the output projection (attention_bias of transformers is both)"""
    scale: float | None = field(default=None, metadata={"added": True})
    """queries times keys are multiplied by it; None: 1/√head width (Granite has another)"""
    clip_qkv: float | None = None
    """clamp queries, keys and values to ± this value (OLMoE)"""
    lora_rank: int = 0
    """rank of a per-depth LoRA on Q and K, for attention banks used at several depths; 0: none"""


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """The expert banks, and the dense layers that stand in their place."""

    count: int | tuple[int, ...] = 8
    """experts in a bank: one number, or one for each bank of the plan; 1: dense, no router"""
    expand: int = field(default=1, metadata={"added": True})
    """banks that several depths use have so many times as many experts (Expert Tying, widened)"""
    width: int = 256
    """inner width F of an expert"""
    top_k: int = 2
    """experts per token"""
    activation: Literal["swiglu", "gelu"] = "swiglu"
    """swiglu: three matrices; gelu: two matrices (CT-MoE)"""
    shared_width: int = 0
    """inner width of the always-on shared expert (all of them together); 0: none (DeepSeekMoE)"""
    shared_gate: bool = False
    """multiply the shared expert's output by a learned sigmoid gate (Qwen2-MoE)"""
    dense_first: int = 0
    """the first n depths have a dense layer instead of experts (DeepSeekMoE)"""
    dense_at: tuple[int, ...] = field(default=(), metadata={"added": True})
    """further depths that have a dense layer instead of experts (interleaved, as in Qwen3-MoE)"""
    dense_width: int | None = None
    """inner width of those dense layers; needed where there are any"""


@dataclass(frozen=True, kw_only=True)
class RouterConfig:
    """How a token's experts are scored and chosen."""

    kind: Literal["linear", "cosine", "random-fixed", "recurrent", "low-rank"] = "linear"
    """linear; cosine: low-dimensional and L2-normalised (X-MoE, arXiv 2204.09179); random-fixed:
    never trained; recurrent: a GRU over depth (RMoE, arXiv 2408.06793); low-rank: one base for all
    depths plus a low-rank part for each bank"""
    inner_width: int | None = None
    """projection width of cosine, hidden width of recurrent, rank of low-rank; None: the kind's
    default (experts ÷ 2, 128, 16)"""
    gating: Literal["softmax-topk", "topk-softmax", "sigmoid"] = "softmax-topk"
    """softmax over all experts, then top-k; top-k of the logits, then softmax; or independent
    sigmoids"""
    renormalise: bool = False
    """divide the chosen gates by their sum"""
    scale: float = 1.0
    """multiply the gates by this number at the end (routed_scaling_factor)"""
    bias: bool = False
    """keep a bias per expert that counts for choosing and not for weighting (arXiv 2408.15664)"""
    groups: int = field(default=1, metadata={"added": True})
    """experts lie in so many groups, and a token chooses within its best ones, those whose two best
    experts have the greatest sum (DeepSeek-V3, arXiv 2412.19437)"""
    top_groups: int = field(default=1, metadata={"added": True})
    """groups that a token chooses within"""
    choice: Literal["tokens", "experts"] = field(default="tokens", metadata={"added": True})
    """each token chooses its top_k experts; or each expert chooses its best tokens of a sequence,
    S · top_k ÷ E of them, later ones included (expert choice, arXiv 2202.09368): equal load by
    construction, no generation, and held-out losses that look ahead"""


@dataclass(frozen=True, kw_only=True)
class CollaborationConfig:
    """CT-MoE: the chosen experts exchange messages over a learned topology S (docs/methods.md)."""

    strength: float = 0.5
    """λ_c, how much of its neighbours' output an expert adds; 0: no messages. The paper's text has
    0.5, its code 1.0"""
    routing_strength: float = 0.5
    """λ_r, how much the column sums of S move the router logits; 0: not at all. The paper's text
    has 0.5, its code 1.5"""
    temperature: float = 1.0
    """divides S before the softmax"""
    messages: Literal["outputs", "hidden"] = "outputs"
    """mix expert outputs (exactly a re-weighting of the gates), or the hidden vectors inside the
    experts before the down-projection (which is not)"""
    row_normalise: bool = True
    """normalise S over the chosen experts of a token; False: use the entries of S as they are"""
    self_loop: bool = False
    """keep the diagonal of S: an expert may send to itself"""
    signed: bool = False
    """S = tanh instead of the row softmax, so that messages may be negative"""
    control: Literal["none", "frozen-uniform", "frozen-random", "gate-scale"] = "none"
    """controls that separate the explanations: S fixed at its initial value, S fixed at random, or
    no S at all and gates × (1 + λ_c)"""


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """Pressure towards equal load of the experts."""

    switch: float = 0.01
    """coefficient of the Switch load-balancing loss (1.0 = balanced, whatever top_k)"""
    z: float = 0.0
    """coefficient of the router z-loss"""
    scope: Literal["layer", "bank"] = "layer"
    """compute load per depth, or pooled over the depths that use one expert bank (UniPool)"""
    bias_rate: float = 0.0
    """γ, step of the loss-free bias per optimizer step; needs router.bias"""


def check_rope_scaling(attention: AttentionConfig) -> None:
    """Raise a ValueError for a scaling that cannot be, or of which a part would be ignored."""
    scaling, name = attention.rope_scaling, "attention.rope_scaling"
    if scaling is None:
        return
    if attention.position != "rope":
        raise ValueError(f"{name} needs rotary positions: unset it")
    if not scaling.factor >= 1:
        raise ValueError(f"{name}.factor is {scaling.factor}: it must be 1 or more")
    if scaling.kind == "linear":
        if scaling != RopeScaling(kind="linear", factor=scaling.factor):
            raise ValueError(f"{name}: linear has only a factor, leave out the rest")
        return
    if scaling.original_context is None:
        raise ValueError(
            f"{name}.original_context is needed by {scaling.kind}: set it to the context before it "
            "was stretched"
        )
    if scaling.kind == "llama3" and (scaling.amplitude is not None or not scaling.truncate):
        raise ValueError(f"{name}: amplitude and truncate are of yarn: unset them")
    if scaling.amplitude is not None and not scaling.amplitude > 0:
        raise ValueError(f"{name}.amplitude is {scaling.amplitude}: it must be above 0, or unset")
    if not scaling.fast > scaling.slow > 0:
        raise ValueError(
            f"{name}: fast is {scaling.fast}, slow {scaling.slow}: fast must be more, and slow "
            "above 0"
        )
    if scaling.kind == "yarn" and not attention.rope_theta > 1:
        raise ValueError(f"{name}: yarn needs a rope_theta above 1, not {attention.rope_theta}")
