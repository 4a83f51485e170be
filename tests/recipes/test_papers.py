"""The three papers' arms, claims and grids: whole, countable, and each one usable everywhere."""

import io
import warnings
from collections import Counter
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

import plait.interop  # noqa: F401
from plait import recipes
from plait.config.counts import count
from plait.interop.exporting import export_model
from plait.model import LanguageModel
from plait.model.balance import balance_losses
from plait.optim.groups import build_optimizers
from plait.recipes import expert_tying
from plait.report.paper.figures import FIGURES
from plait.report.paper.paper_page import TRACED
from plait.report.terminal.forecast import say_forecast
from plait.routing.record import Passage, trace_model
from plait.routing.watching import watch
from plait.storage.model_folder import load_model, save_model
from plait.studies.forecast import Forecast

SCALES = ("nano", "tiny", "paper")
VOCABULARY, LENGTH = 64, 16


def paper(name, scale):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at K = 2 S cannot learn, which is what is tested
        return recipes.paper(name, scale)


def toy(model):
    """The same structure over depth, as narrow as its parts allow."""
    experts = model.experts
    narrow = {"width": 8}
    if experts.shared_width:
        narrow |= {"shared_width": 8}
    heads = model.attention.heads
    return replace(
        model,
        vocab_size=VOCABULARY,
        width=8 * heads,
        context=LENGTH,
        experts=replace(experts, **narrow),
    )


def arms():
    found = {}
    for name in recipes.PAPERS:
        for study in paper(name, "nano").studies:
            for arm, config in study.variants.items():
                found.setdefault(toy_key(config.model), (f"{study.name}/{arm}", config))
    return dict(found.values())


def toy_key(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return toy(model)


ARMS = arms()


@pytest.mark.filterwarnings("ignore:collaboration with row-normalised")
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_saves_loads_exports_and_traces(arm, tmp_path):
    config = ARMS[arm]
    structure = toy(config.model)
    model = LanguageModel(structure, seed=1)
    text = torch.randint(VOCABULARY, (2, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    inputs, targets = text[:, :-1], text[:, 1:]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    out = model(inputs, targets, routings=True)
    losses = balance_losses(structure, out.routings)
    loss = out.loss if losses is None else out.loss + losses.weighted(structure)
    loss.backward()
    for optimizer in build_optimizers(model.parameters_by_role(), config.optimizer):
        optimizer.step()
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert any(name.startswith("experts") for name in moved)

    model.eval()
    expected = model(inputs).logits
    save_model(tmp_path / "saved", structure, model.state_dict())
    again = load_model(tmp_path / "saved")
    assert all(torch.equal(p, again.state_dict()[n]) for n, p in model.state_dict().items())
    torch.testing.assert_close(again(inputs).logits, expected, atol=1e-5, rtol=1e-4)
    export_model(tmp_path / "saved", tmp_path / "exported")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    torch.testing.assert_close(theirs(input_ids=inputs).logits, expected, atol=1e-5, rtol=1e-4)

    passage = Passage(inputs[0].tolist())
    if not structure.routed_depths or structure.router.choice == "experts":
        with pytest.raises(ValueError, match=r"no depth with a router|choose their tokens"):
            watch(model, arm, "none")
    else:
        found = trace_model(watch(model, arm, "none"), [passage])
        assert len(found) == LENGTH


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", recipes.PAPERS)
def test_every_claim_has_its_contrasts_and_every_study_its_runs(name, scale):
    found = paper(name, scale)
    assert {claim.study for claim in found.claims} - {""} <= {s.name for s in found.studies}
    assert {figure.shows for figure in found.figures} <= {*FIGURES, *TRACED}
    asked = {c.study: set() for c in found.claims if c.study}
    for claim in found.claims:
        if claim.study:
            asked[claim.study] |= {*claim.contrasts}
            one = found.of([claim.name])
            assert [c.name for c in one.claims] == [claim.name]
            [study] = one.studies
            assert len(study.variants) <= len(found.study(claim.study).variants)
    for study in found.studies:
        tested = [c for c in study.contrasts if c.name in asked.get(study.name, ())]
        assert all(contrast.expected is not None for contrast in tested)


@pytest.mark.parametrize("name", recipes.PAPERS)
def test_every_study_can_be_foretold(name, tmp_path):
    asked = paper(name, "nano")
    expected = Forecast(runs=1, tokens=1, bytes=1, throughput=None)
    for study in asked.studies:
        console = Console(file=io.StringIO(), width=500)
        say_forecast(study, expected, tmp_path, None, 1, console, assumed=asked.deviation)
        said = console.file.getvalue()
        assert said.startswith(f"study {study.name}: 1 runs")
        assert ("seeds detect" in said) == bool(study.questions)


@pytest.mark.parametrize("scale", ["nano", "paper"])
def test_the_grid_has_the_papers_43_runs(scale):
    study = expert_tying.looped_study(scale)
    parts = Counter(
        "dense" if name == "dense" else "divisor" if name.endswith(("none", "linear")) else name[:4]
        for name in study.variants
    )
    assert parts == {"fine": 18, "coar": 18, "divisor": 6, "dense": 1}
    stored = {name: count(config.model).stored for name, config in study.variants.items()}
    for grain in ("fine", "coarse"):
        untied = stored[f"{grain}-untied"]
        for group in ("g1", "g2", "g3", "g4"):
            sizes = [
                stored[f"{grain}-{group}-{mode}"] for mode in ("alltie", "attntie", "experttie")
            ]
            assert sizes == sorted(sizes)
            assert sizes[-1] < untied
    assert {c.optimizer.tied_divisor for c in study.variants.values()} == {"sqrt", "none", "linear"}


def test_widened_and_narrow_models_are_of_equal_size():
    """Routers aside, which widening enlarges, and shared experts, which it does not."""
    for name in (name for name in recipes.STUDIES if name.startswith("tied-")):
        study = recipes.study(name)
        stored = {name: count(config.model).stored for name, config in study.variants.items()}
        for wide, narrow in (("tied-g4-x4", "plain"), ("tied-g4", "quarter"), ("tied-g2", "half")):
            near = 0.03 if "deepseek" in name else 0.01
            assert stored[wide] == pytest.approx(stored[narrow], rel=near)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("looped-32-fine", (0.02, 0.1, 0.0, 50, 10_000)),
        ("olmoe", (0.02, 0.1, 0.01, 100, 30_000)),
        ("olmoe-tiny", (0.02, 0.1, 0.01, 100, 20_000)),
    ],
)
def test_the_published_rules_of_training(name, numbers):
    config = recipes.train_config(name)
    o = config.optimizer
    warmup = config.schedule.warmup // config.tokens_per_step
    assert (o.learning_rate, o.adamw_factor, o.adamw_decay, warmup, config.steps) == numbers
    assert config.model.vocab_size == 100_277
