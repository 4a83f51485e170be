"""Random models small enough to compare, structures at random, and tokens for them."""

import random
import warnings

import torch

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
)
from plait.model import LanguageModel
from plait.sharing import Sharing

VOCABULARY = 300


def lively(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """A random model whose logits differ enough that a wrong weight shows."""
    model = LanguageModel(config, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def random_structure(seed: int) -> ModelConfig:
    """A possible model of any options, most often one that shares."""
    draw = random.Random(seed)
    plans = ("own", "own", "all", "blocks(2)", "2x2", "groups(2, skip=1)", "1 + 1x3")
    while True:
        heads = draw.choice((2, 4))
        options = {
            "attention": {
                "heads": heads,
                "kv_heads": draw.choice((None, 1, 2)),
                "head_width": draw.choice((None, 12)),
                "position": draw.choice(("rope", "rope", "learned")),
                "qk_norm": draw.choice(("none", "head", "width")),
                "qkv_bias": draw.random() < 0.3,
                "clip_qkv": draw.choice((None, 1.5)),
                "lora_rank": draw.choice((0, 0, 2)),
            },
            "experts": {
                "count": draw.choice((1, 4, 6, 6)),
                "width": 8,
                "top_k": draw.choice((1, 2, 3)),
                "activation": draw.choice(("swiglu", "gelu")),
                "shared_width": draw.choice((0, 8)),
                "shared_gate": draw.random() < 0.3,
                "dense_first": (dense := draw.choice((0, 0, 1))),
                "dense_width": 20 if dense else None,
            },
            "router": {
                "kind": draw.choice(("linear", "linear", "cosine", "random-fixed", "recurrent",
                                     "low-rank")),
                "gating": draw.choice(("softmax-topk", "topk-softmax", "sigmoid")),
                "renormalise": draw.random() < 0.3,
                "scale": draw.choice((1.0, 2.0)),
                "bias": draw.random() < 0.3,
                "choice": draw.choice(("tokens", "tokens", "tokens", "experts")),
            },
            "collaboration": {
                "strength": draw.choice((0.0, 0.5)),
                "routing_strength": draw.choice((0.0, 0.5)),
                "messages": draw.choice(("outputs", "hidden")),
                "row_normalise": (rows := draw.random() < 0.5),
                "self_loop": draw.random() < 0.5,
                "signed": not rows and draw.random() < 0.5,
                "control": draw.choice(("none", "none", "frozen-uniform", "frozen-random")),
            },
        }  # fmt: skip
        share = {kind: draw.choice(plans) for kind in ("experts", "router", "attention", "norms")}
        decision = draw.choice(("own", share["router"]))
        collaborates = draw.random() < 0.5
        by_experts = options["router"]["choice"] == "experts"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of messages that teach S nothing
                return ModelConfig(
                    vocab_size=VOCABULARY,
                    depth=4,
                    width=24,
                    context=48,
                    attention=AttentionConfig(**options["attention"]),
                    experts=ExpertConfig(**options["experts"]),
                    router=RouterConfig(**options["router"]),
                    collaboration=(
                        CollaborationConfig(**options["collaboration"]) if collaborates else None
                    ),
                    balance=BalanceConfig(
                        switch=0.0 if by_experts else 0.01,
                        scope=draw.choice(("layer", "bank")),
                    ),
                    sharing=Sharing(
                        **share,
                        decision=decision,
                        collaboration=draw.choice(plans) if collaborates else "own",
                    ),
                    norm=draw.choice(("rms", "layer")),
                    tied_head=draw.random() < 0.5,
                )
        except ValueError:  # an impossible one: draw again
            continue
