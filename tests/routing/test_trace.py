"""Traces of real forwards: ours and transformers', through the file and back."""

from pathlib import Path

import numpy as np
import pytest
import torch

from made_up_models import LATENT, ours, text, theirs
from made_up_traces import random
from plait.config import (
    AttentionConfig,
    CollaborationConfig,
    ExpertConfig,
    RouterConfig,
)
from plait.routing import (
    Passage,
    Trace,
    TraceWriter,
    read_parts,
    read_trace,
    trace_model,
    trace_to_file,
    watch,
)
from plait.routing.metrics import consistency
from plait.routing.record import record
from plait.sharing import Sharing
from plait.statistics import Resampler


@pytest.mark.parametrize(
    ("kind", "routed", "fields"),
    [
        ("Olmoe", (0, 1, 2), {}),
        ("Qwen3Moe", (0, 1, 2), {"norm_topk_prob": True}),
        ("Mixtral", (0, 1, 2), {}),
        ("Qwen2Moe", (0, 1, 2), {}),
        ("DeepseekV3", (1, 2), LATENT),
        ("Dots1", (1, 2), {}),
        ("GptOss", (0, 1, 2), {"head_dim": 8}),
    ],
)
def test_transformers_trace_is_what_its_routers_chose(
    kind: str, routed: tuple[int, ...], fields: dict[str, object]
) -> None:
    model = theirs(kind, **fields).train()
    passage = text(1)[0]
    found = trace_model(model, [passage], context=16)
    assert model.training
    assert found.info.routed == routed
    assert found.info.dense == tuple(d for d in range(3) if d not in routed)
    model.eval()
    first = torch.tensor(passage.token_ids[:16])[None]
    with torch.no_grad():
        output = model(input_ids=first, output_router_logits=True)
    logits = [z.reshape(-1, 8).float() for z in output.router_logits]
    assert len(logits) == len(routed)
    for column, logits_TE in enumerate(logits):
        chosen = found.expert_ids_NLK[:16, column]
        expected = logits_TE.topk(2, dim=-1).indices  # biases for choosing are zero here
        assert (chosen == expected.numpy()).all()
    assert found.gates_NLK is not None
    assert (found.gates_NLK[..., 0] >= found.gates_NLK[..., 1]).all()


def test_ours_follows_plans_and_skips_dense_depths() -> None:
    model = ours(
        experts=ExpertConfig(count=8, width=16, top_k=2, dense_first=1, dense_width=32),
        sharing=Sharing(router="1 + 1x3", decision="1 + 1x2 + 1", experts="1 + 1x3"),
    )
    found = trace_model(model, text())
    assert (found.info.routed, found.info.dense) == ((1, 2, 3), (0,))
    assert found.info.banks("router") == (1, 1, 1)
    assert (found.expert_ids_NLK[:, 0] == found.expert_ids_NLK[:, 1]).all()
    assert not (found.expert_ids_NLK[:, 1] == found.expert_ids_NLK[:, 2]).all()


def test_padding_never_counts_and_order_is_the_documents() -> None:
    model, passages = ours(), text(12)
    together = trace_model(model, passages)
    assert together.token_ids_N.tolist() == [t for p in passages for t in p.token_ids]
    assert len(together) == sum(len(p.token_ids) for p in passages)
    alone = [trace_model(model, [passage]) for passage in passages]
    assert (together.expert_ids_NLK == np.concatenate([t.expert_ids_NLK for t in alone])).all()
    for number, passage in enumerate(passages):
        assert (together.document_N == number).sum() == len(passage.token_ids)
    assert [together.info.domains[d] for d in together.domain_N[[0, -1]]] == ["a", "b"]


def test_top1_is_by_logit_whatever_collaboration_does_to_gates() -> None:
    collaboration = CollaborationConfig(strength=5.0, row_normalise=False, control="frozen-random")
    found = trace_model(ours(collaboration=collaboration), text(), logits=True)
    assert found.logits_NLE is not None
    assert (found.top1_NL == found.logits_NLE.argmax(axis=-1)).mean() > 0.999  # fp16 ties
    assert found.gates_NLK is not None
    assert (found.gates_NLK[..., 0] < found.gates_NLK[..., 1]).any()


def test_file_round_trip(tmp_path: Path) -> None:
    model, passages = ours(), text(6)
    path = trace_to_file(model, passages, tmp_path / "t.parquet", logits=True, name="m")
    in_memory = trace_model(model, passages, logits=True, name="m")
    again = read_trace(path, columns=("gates", "entropy", "logits"))
    assert again.info == in_memory.info
    for name, column in vars(in_memory).items():
        if isinstance(column, np.ndarray):
            assert (getattr(again, name) == column).all(), name
            assert getattr(again, name).dtype == column.dtype, name
    assert read_trace(path, columns=()).gates_NLK is None
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_parts_and_an_error_leave_no_file(tmp_path: Path) -> None:
    made_up = random(100, 3, 8, 2)
    with TraceWriter(tmp_path / "t.parquet") as writer:
        writer.append(made_up.select(slice(0, 30)))
        writer.append(made_up.select(slice(30, 100)))
    parts = list(read_parts(tmp_path / "t.parquet"))
    assert [len(part) for part in parts] == [30, 70]
    whole = read_trace(tmp_path / "t.parquet")
    assert (whole.expert_ids_NLK == made_up.expert_ids_NLK).all()
    with pytest.raises(AssertionError), TraceWriter(tmp_path / "u.parquet") as writer:
        _append_and_fail(writer, made_up)
    assert not list(tmp_path.glob("*u.parquet*"))


def _append_and_fail(writer: TraceWriter, part: Trace) -> None:
    writer.append(part)
    raise AssertionError


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no router recognised; looked for .* found: none"):
        watch(theirs("Llama"))
    with pytest.raises(ValueError, match="no depth with a router"):
        watch(ours(experts=ExpertConfig(count=1, width=16, top_k=1)))
    with pytest.raises(ValueError, match="gave no tokens"):
        trace_model(ours(), [])
    with pytest.raises(FileNotFoundError, match="no trace at"):
        read_trace(tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match="not a Parquet file, or is damaged"):
        read_trace(tmp_path / "broken.parquet")


def test_parts_are_bounded() -> None:
    class Counted:
        info = watch(ours()).info

        def routings(self, tokens_BS: torch.Tensor) -> tuple[object, ...]:
            assert tokens_BS.numel() <= 8192
            return real.routings(tokens_BS)

    real = watch(ours())
    passages = [Passage([1] * 30)] * 5000
    sizes = [len(part) for part in record(Counted(), passages)]  # type: ignore[arg-type]
    assert sum(sizes) == 150_000
    assert max(sizes) <= 70_000


def test_random_fixed_router_on_untrained_model_has_no_consistency_beyond_chance() -> None:
    """The control: unshared routers drawn at random know nothing of each other's labels."""
    model = ours(
        router=RouterConfig(kind="random-fixed"),
        depth=8,
        width=256,
        attention=AttentionConfig(heads=4),
    )
    found = trace_model(model, text(20))
    r = Resampler(found.document_N, found.domain_N)
    measured = consistency.consistency(found, r).adjacent
    assert measured is not None
    assert measured.value == pytest.approx(measured.chance, abs=0.06)
