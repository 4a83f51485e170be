"""How large a configured model is, by arithmetic alone: parameters, FLOPs per token, memory.

Nothing is built and no weight is allocated; `tests/config/test_counts.py` holds these figures to
those of the built model. *Total* counts every depth as if nothing were shared, *stored* counts each
bank once (it is what a file of weights holds), *active* counts what one token passes through, at
every depth.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from plait.config import ModelConfig
from plait.notebook.tables import table, titled
from plait.sharing import Plan


@dataclass(frozen=True)
class Counts:
    """Sizes of one model."""

    total: int
    """parameters as if no depth shared anything"""
    stored: int
    """elements that are stored: parameters, and buffers such as a fixed router or a load bias"""
    active: int
    """parameters that one token passes through, a shared bank counted at each depth"""
    stored_by_part: dict[str, int]
    """stored elements of each kind of part"""
    flops_forward: int
    """floating-point operations per token of one forward, at full context"""

    @property
    def flops_training(self) -> int:
        """Floating-point operations per token of one training step: forward and twice that back."""
        return 3 * self.flops_forward

    def _repr_html_(self) -> str:
        parts = sorted(self.stored_by_part.items(), key=lambda item: -item[1])
        rows = [
            ("total, as if nothing were shared", f"{self.total:,}"),
            ("stored", f"{self.stored:,}"),
            *((f"\u2003{part}", f"{size:,}") for part, size in parts),
            ("active per token", f"{self.active:,}"),
            ("FLOPs per token, forward", f"{self.flops_forward:,}"),
        ]
        return titled("Parameters", table(rows))


def count(config: ModelConfig) -> Counts:
    """Count the parameters and operations of a model.

    FLOPs are two per multiply-add of every matrix that a token passes (the head included, the
    embedding look-up not), plus causal attention's two products at half the context on average.
    """
    plans, depths = config.plans, range(config.depth)
    embeddings = config.vocab_size * config.width
    if config.attention.position == "learned":
        embeddings += config.context * config.width
    head = 0 if config.tied_head else config.vocab_size * config.width
    once = {
        "embedding": embeddings,
        "head": head,
        "norms": _norm(config),
        "router": _router_common(config),
    }
    total, stored = Counter(once), Counter(once)
    active = sum(once.values())

    def add(part: str, plan: Plan | None, size_at: dict[int, int]) -> None:
        """Add one kind of part; `size_at` has its size at each depth that uses it."""
        seen = set()
        for depth, size in size_at.items():
            total[part] += size
            bank = depth if plan is None else plan.banks[depth]
            if bank not in seen:
                stored[part] += size
                seen.add(bank)

    routed, deciding = config.routed_depths, config.deciding_depths
    attention = _attention(config)
    add("attention", plans.attention, dict.fromkeys(depths, attention))
    add("norms", plans.norms, dict.fromkeys(depths, 2 * _norm(config)))
    add("lora", None, dict.fromkeys(depths, _lora(config)))
    add("experts", plans.experts, {d: _experts(config, d, config.experts_at(d)) for d in depths})
    routers = {d: _router(config, config.experts_at(d)) for d in routed}
    add("router", plans.router, routers)
    if config.collaboration is not None and config.collaboration.control != "gate-scale":
        topologies = {d: config.experts_at(d) ** 2 for d in routed}
        add("collaboration", plans.collaboration, topologies)
    if config.router.bias:
        biases = {d: config.experts_at(d) for d in deciding}
        add("load bias", plans.experts if config.balance.scope == "bank" else None, biases)

    top_k = config.experts.top_k
    chosen = sum(_experts(config, d, min(top_k, config.experts_at(d))) for d in depths)
    per_depth = attention + _lora(config)
    routing = sum(routers[d] for d in deciding) + len(deciding) * _router_common(config)
    matrices = config.depth * per_depth + chosen + routing + config.vocab_size * config.width
    active += config.depth * (per_depth + 2 * _norm(config)) + chosen + total["collaboration"]
    active += sum(routers[d] for d in deciding)
    heads, _, head_width = config.heads
    attending = 2 * config.context * heads * head_width  # two products, two FLOPs, half the context
    flops = 2 * matrices + config.depth * attending
    return Counts(
        total=total.total(),
        stored=stored.total(),
        active=active,
        stored_by_part={part: size for part, size in stored.items() if size},
        flops_forward=flops,
    )


def kv_cache_bytes_per_token(config: ModelConfig, bytes_per_element: int = 2) -> int:
    """Return the key/value cache's bytes for each token, which sharing does not shrink."""
    _, kv_heads, head_width = config.heads
    return 2 * config.depth * kv_heads * head_width * bytes_per_element


def forward_bytes_per_token(config: ModelConfig) -> int:
    """Estimate what a forward without gradients holds at once for each token, weights apart.

    In float32: the stream and its copies, the larger of a depth's attention and its experts, and
    the routings of all depths. Attention's scores and the head's logits never exist at once.
    """
    heads, kv_heads, head_width = config.heads
    attention = 2 * (2 * heads + 2 * kv_heads) * head_width
    chosen = max(_inner_widths(config, depth) for depth in range(config.depth))
    routings = sum(
        2 * config.experts_at(d) + 3 * config.experts.top_k for d in config.routed_depths
    )
    return 4 * (4 * config.width + max(attention, chosen) + routings)


@dataclass(frozen=True)
class Bank:
    """A bank of matrices, which several processes gather to compute with it."""

    kind: Literal["attention", "experts"]
    depths: tuple[int, ...]
    """that use it"""
    size: int
    """parameters"""
    parted: int
    """of them those of its experts, which different processes can hold"""
    experts: int
    """how many these are"""

    def whole(self, places: int) -> int:
        """Count what a process holds of it when it is gathered, its experts parted over places."""
        return self.size - self.parted + self.parted // places


def matrix_banks(config: ModelConfig) -> list[Bank]:
    """Return the banks of attention and of experts."""
    attention, experts = config.plans.attention, config.plans.experts
    found = [
        Bank("attention", attention.uses(bank), _attention(config), 0, 0)
        for bank in range(attention.count)
    ]
    for bank in range(experts.count):
        first = experts.uses(bank)[0]
        held = config.experts_at(first)
        size = _experts(config, first, held)
        parted = size - _experts(config, first, 0) if held > 1 else 0
        found.append(Bank("experts", experts.uses(bank), size, parted, held if parted else 0))
    return found


def backward_bytes_per_token(config: ModelConfig, bytes_per_element: int = 2) -> int:
    """Estimate what a forward keeps of each token for the backward pass, weights apart.

    Args:
        config: the model, none of its depths recomputed.
        bytes_per_element: of what products read and give; the stream and routers are float32.
    """
    heads, kv_heads, head_width = config.heads
    width, e = config.width, config.experts
    queries, keys = heads * head_width, kv_heads * head_width
    products = 2 * width + 2 * queries + 2 * keys
    if config.attention.qk_norm != "none":
        products += queries + keys
    exact = 2 * width + heads
    kept = config.depth * (bytes_per_element * products + 4 * exact)
    matrices = 2 if e.activation == "swiglu" else 1
    for depth in range(config.depth):
        held = config.experts_at(depth)
        dense = _dense_width(config, depth) if held == 1 else e.shared_width
        kept += bytes_per_element * 2 * matrices * dense
        if held > 1:
            kept += bytes_per_element * e.top_k * matrices * e.width
            kept += 8 * held + 24 * e.top_k  # probabilities and logits; ids, gates and order
    return kept + 4 * width + 2 * bytes_per_element * width


def _inner_widths(config: ModelConfig, depth: int) -> int:
    """Numbers that a token's experts hold at a depth: inputs, inner vectors and outputs."""
    e = config.experts
    inner = 3 if e.activation == "swiglu" else 2
    if config.experts_at(depth) == 1:
        return 2 * config.width + inner * _dense_width(config, depth)
    return e.top_k * (2 * config.width + inner * e.width) + inner * e.shared_width


def _dense_width(config: ModelConfig, depth: int) -> int:
    """Inner width of the dense layer at a depth."""
    e = config.experts
    width = e.dense_width if depth in config.dense_depths else e.width
    assert width is not None
    return width


def _norm(config: ModelConfig) -> int:
    return config.width * (2 if config.norm == "layer" else 1)


def _attention(config: ModelConfig) -> int:
    heads, kv_heads, head_width = config.heads
    queries, keys = heads * head_width, kv_heads * head_width
    size = config.width * (2 * queries + 2 * keys)
    if config.attention.qkv_bias:
        size += queries + 2 * keys
    if config.attention.output_bias:
        size += config.width
    return (
        size
        + {"none": 0, "head": 2 * head_width, "width": queries + keys}[config.attention.qk_norm]
    )


def _lora(config: ModelConfig) -> int:
    heads, kv_heads, head_width = config.heads
    return config.attention.lora_rank * (2 * config.width + (heads + kv_heads) * head_width)


def _experts(config: ModelConfig, depth: int, experts: int) -> int:
    """Parameters of `experts` experts at a depth, with what stands always on beside them."""
    e = config.experts
    matrices = 3 if e.activation == "swiglu" else 2
    if config.experts_at(depth) == 1:
        return matrices * config.width * _dense_width(config, depth)
    shared = matrices * config.width * e.shared_width + (config.width if e.shared_gate else 0)
    return experts * matrices * config.width * e.width + shared


def _inner(config: ModelConfig, experts: int) -> int:
    default = {"cosine": max(2, experts // 2), "recurrent": 128, "low-rank": 16}
    return config.router.inner_width or default.get(config.router.kind, 0)


def _router(config: ModelConfig, experts: int) -> int:
    inner = _inner(config, experts)
    return {
        "linear": config.width * experts,
        "random-fixed": config.width * experts,
        "cosine": inner * (config.width + experts) + 1,
        "recurrent": inner * (config.width + experts),
        "low-rank": inner * (config.width + experts),
    }[config.router.kind]


def _router_common(config: ModelConfig) -> int:
    if not config.routed_depths:
        return 0
    experts = config.experts_at(config.routed_depths[0])
    inner = _inner(config, experts)
    return {"low-rank": config.width * experts, "recurrent": 6 * inner * (inner + 1)}.get(
        config.router.kind, 0
    )
