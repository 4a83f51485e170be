"""The configuration of a Plait model as Hugging Face's `config.json` holds it."""

# mypy: allow-untyped-calls

import dataclasses
from typing import Any

from transformers import PreTrainedConfig

from plait.config import ModelConfig
from plait.config.files import from_dict, to_dict


class PlaitConfig(PreTrainedConfig):
    """`plait.config.ModelConfig` under the same names, as a transformers configuration.

    The nested options (`attention`, `experts`, `router`, `collaboration`, `balance`, `sharing`) are
    plain dictionaries; absent ones take Plait's defaults. Unknown ones raise a ValueError.
    """

    model_type = "plait"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012
    attribute_map = {  # noqa: RUF012
        "hidden_size": "width",
        "num_hidden_layers": "depth",
        "max_position_embeddings": "context",
        "initializer_range": "init_std",
        "tie_word_embeddings": "tied_head",
    }
    base_model_fsdp_plan = {  # noqa: RUF012
        "embedding": "free_full_weight",
        "attention.*": "free_full_weight",
        "experts.*": "free_full_weight",
        "final_norm": "keep_full_weight",
    }

    vocab_size: int = 32_000
    depth: int = 12
    width: int = 768
    context: int = 512
    attention: dict[str, Any] | None = None
    experts: dict[str, Any] | None = None
    router: dict[str, Any] | None = None
    collaboration: dict[str, Any] | None = None
    balance: dict[str, Any] | None = None
    sharing: dict[str, Any] | None = None
    norm: str = "rms"
    norm_place: str = "before"
    norm_eps: float = 1e-5
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_divisor: float = 1.0
    tied_head: bool = True
    dropout: float = 0.0
    init: str = "normal"
    init_std: float = 0.02
    use_cache: bool = True
    output_router_logits: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        heads = {"num_attention_heads": "heads", "num_key_value_heads": "kv_heads"}
        coefficient = kwargs.pop("router_aux_loss_coef", None)
        given = {ours: kwargs.pop(name) for name, ours in heads.items() if name in kwargs}
        self.attention = {**(self.attention or {}), **given}
        for name, value in to_dict(self.structure()).items():
            setattr(self, name, value)
        assert self.router is not None
        if self.router["choice"] == "experts":
            self.use_cache = False  # they look at a whole sequence
        if coefficient is not None:
            self.router_aux_loss_coef = coefficient
        super().__post_init__(**kwargs)

    @classmethod
    def of(cls, config: ModelConfig, **options: Any) -> "PlaitConfig":
        """Return the configuration of a model, with further transformers options."""
        return cls(**to_dict(config), **options)

    def structure(self) -> ModelConfig:
        """Return the configuration as the model itself takes it.

        Raises:
            ValueError: an option is unknown or impossible; it is named.
        """
        names = (f.name for f in dataclasses.fields(ModelConfig) if f.init)
        options = {name: getattr(self, name) for name in names}
        return from_dict(ModelConfig, {k: v for k, v in options.items() if v is not None})

    @property
    def base_model_tp_plan(self) -> dict[str, str] | None:  # type: ignore[override]
        """How transformers cuts the banks for tensor parallelism; None where one must stay whole.

        A norm over the width of all heads, and a LoRA on it, need them all.
        """
        structure = self.structure()
        attention, experts = structure.attention, structure.experts
        if attention.qk_norm == "width" or attention.lora_rank:
            return None
        plan = {"embedding": "embedding_rowwise", "attention.*.o_proj": "rowwise"}
        plan |= {f"attention.*.{name}_proj": "colwise" for name in "qkv"}
        if attention.qk_norm == "head":
            plan |= {f"attention.*.{name}_norm": "replicated_with_grad_allreduce" for name in "qk"}
        up = "packed_colwise" if experts.activation == "swiglu" else "colwise"
        plan |= {"experts.*.up": up, "experts.*.down": "rowwise", "experts.*": "moe_tp_experts"}
        if experts.shared_width:
            plan |= {"experts.*.shared.up": up, "experts.*.shared.down": "rowwise"}
            plan["experts.*.shared"] = "local_params"
        if experts.shared_gate:
            plan["experts.*.shared_gate"] = "replicated_with_grad_allreduce"
        return plan

    @property
    def base_model_ep_plan(self) -> dict[str, str] | None:  # type: ignore[override]
        """How transformers deals out whole experts over processes; None where it cannot.

        It sends single rows to the experts, so a bank must be made of routed experts alone: none
        that is shared or dense, none that looks at a sequence or at the other experts of its token.
        """
        structure = self.structure()
        c = structure.collaboration
        if (
            structure.experts.shared_width
            or structure.router.choice == "experts"
            or len(structure.routed_depths) < structure.depth
            or (c is not None and c.messages == "hidden")
        ):
            return None
        dealt = {f"experts.*.{name}": "grouped_gemm" for name in ("up", "down")}
        return {**dealt, "experts.*": "ep_dispatch_experts"}

    @property
    def num_attention_heads(self) -> int:
        """Query heads."""
        assert self.attention is not None
        return int(self.attention["heads"])

    @num_attention_heads.setter
    def num_attention_heads(self, heads: int) -> None:
        assert self.attention is not None
        self.attention["heads"] = heads

    @property
    def num_key_value_heads(self) -> int:
        """Key and value heads."""
        return self.structure().heads[1]

    @property
    def num_experts(self) -> int:
        """Experts of a bank; of the largest, if their numbers differ."""
        structure = self.structure()
        return max(map(structure.experts_at, range(structure.depth)))

    @property
    def num_experts_per_tok(self) -> int:
        """Experts that a token chooses."""
        return self.structure().experts.top_k

    @property
    def head_dim(self) -> int:
        """Features of a head."""
        return self.structure().heads[2]

    @property
    def router_aux_loss_coef(self) -> float:
        """Coefficient of the auxiliary loss as transformers scales it: K when balanced, not 1."""
        assert self.balance is not None
        assert self.experts is not None
        return float(self.balance["switch"] / self.experts["top_k"])

    @router_aux_loss_coef.setter
    def router_aux_loss_coef(self, coefficient: float) -> None:
        assert self.balance is not None
        assert self.experts is not None
        self.balance["switch"] = coefficient * self.experts["top_k"]
