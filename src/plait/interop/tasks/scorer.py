"""An lm-eval model that reads each context once, however many continuations are scored on it."""

# mypy: allow-untyped-calls, allow-subclassing-any

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lm_eval.models.huggingface import HFLM
from rich.progress import Progress
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from plait.parallel import World

S = TypeVar("S")
T = TypeVar("T")

BATCH_TOKENS = 4096
LOGITS_AT_ONCE = 1 << 26


@dataclass(frozen=True)
class _Group:
    """One context, and the continuations to score on it with their places among the requests."""

    context: tuple[int, ...]
    continuations: list[tuple[int, list[int]]]

    @property
    def longest(self) -> int:
        return max(len(tokens) for _, tokens in self.continuations)


class CachedScorer(HFLM):
    """Any causal language model of transformers, scored in batches with shared prefixes.

    The choices of a question share its context, with examples often a thousand tokens: it goes
    through the model once and its keys and values serve them all. Everything else is lm-eval's own
    Hugging Face model.

    Processes take the batches in turn, and each gets all scores, so that to lm-eval each is alone:
    it would deal questions to them, which changes what is batched together, and fails where one
    gets no question of a task.

    Args:
        model: in eval mode, on its device.
        tokenizer: of the model.
        context: longest sequence, in tokens.
        world: the processes that score together, each with the whole model; None: this one alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        context: int,
        world: World | None = None,
    ):
        super().__init__(
            pretrained=model, tokenizer=tokenizer, backend="causal", max_length=context
        )
        self.world = world or World(model.device)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes after each request, one at a time."""
        write = super().generate_until

        def written(request: Any) -> str:
            [text] = write([request], disable_tqdm=True)
            return str(text)

        return self._in_turn("Writing", requests, written, disable_tqdm)

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Return for each (_, context, continuation) its log-likelihood, and if it is greedy."""
        by_context: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
        for place, (_, context, continuation) in enumerate(requests):
            room = self.max_length + 1 - len(continuation)  # the last token is never an input
            if room < 1:
                raise ValueError(
                    f"a continuation of {len(continuation)} tokens does not fit the model's "
                    f"context of {self.max_length}"
                )
            by_context.setdefault(tuple(context[-room:]), []).append((place, continuation))
        groups = [_Group(*item) for item in by_context.items()]
        batches = list(self._batches(groups))
        scores: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for batch in self._in_turn("Scoring", batches, self._score, disable_tqdm):
            for place, score in batch:
                scores[place] = score
        return scores

    def _in_turn(
        self, title: str, items: Sequence[S], action: Callable[[S], T], quiet: bool
    ) -> list[T]:
        """Do `World.in_turn` with a bar."""
        with Progress(disable=quiet or not self.world.is_main, transient=True) as shown:
            bar = shown.add_task(title, total=len(items))

            def one(item: S) -> T:
                result = action(item)
                shown.advance(bar, self.world.size)
                return result

            return self.world.in_turn(items, one)

    def _batches(self, groups: Sequence[_Group]) -> Iterator[list[_Group]]:
        """Collect contexts of about equal length, as many as fit."""
        batch: list[_Group] = []
        vocabulary = self.model.config.vocab_size
        for group in sorted(groups, key=lambda g: (-len(g.context), -g.longest)):
            wider = [*batch, group]
            rows = sum(len(g.continuations) for g in wider) * max(g.longest for g in wider)
            tokens = len(wider) * len(wider[0].context) + rows
            if batch and (tokens > BATCH_TOKENS or rows * vocabulary > LOGITS_AT_ONCE):
                yield batch
                wider = [group]
            batch = wider
        if batch:
            yield batch

    def _score(self, groups: Sequence[_Group]) -> list[tuple[int, tuple[float, bool]]]:
        past = max(len(group.context) for group in groups) - 1
        cache = DynamicCache(config=self.model.config)
        mask_GP = torch.zeros(len(groups), past, dtype=torch.long)
        if past:
            prefix_GP = torch.zeros(len(groups), past, dtype=torch.long)
            for row, group in enumerate(groups):
                length = len(group.context) - 1
                prefix_GP[row, past - length :] = torch.tensor(group.context[:-1])
                mask_GP[row, past - length :] = 1
            # a row without any prefix still attends to itself, and is never read
            self._forward(prefix_GP, mask_GP, (mask_GP.cumsum(-1) - 1).clamp_min(0), cache, 1)

        rows = [(g, place, tokens) for g, group in enumerate(groups)
                for place, tokens in group.continuations]  # fmt: skip
        owner_R = torch.tensor([g for g, _, _ in rows])
        if past:
            cache.batch_select_indices(owner_R.to(self.device))
        width = max(len(tokens) for _, _, tokens in rows)
        inputs_RS = torch.zeros(len(rows), width, dtype=torch.long)
        for row, (g, _, tokens) in enumerate(rows):
            inputs_RS[row, : len(tokens)] = torch.tensor([groups[g].context[-1], *tokens[:-1]])
        mask = torch.cat((mask_GP[owner_R], torch.ones_like(inputs_RS)), dim=1)
        places = mask_GP[owner_R].sum(-1, keepdim=True) + torch.arange(width)
        logits_RSV = self._forward(inputs_RS, mask, places, cache, 0)
        scores = []
        for row, (_, place, tokens) in enumerate(rows):
            # row by row: a row's logits fit the processor's cache, all of them do not
            targets_S = torch.tensor(tokens, device=logits_RSV.device)
            logs_SV = logits_RSV[row, : len(tokens)].float().log_softmax(-1)
            chosen_S = logs_SV.gather(-1, targets_S[:, None])[:, 0]
            greedy = bool((chosen_S == logs_SV.amax(-1)).all())
            scores.append((place, (chosen_S.double().sum().item(), greedy)))
        return scores

    def _forward(
        self, tokens: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache, keep: int
    ) -> Tensor:
        output = self.model(
            input_ids=tokens.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=positions.to(self.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        logits: Tensor = output.logits
        return logits
