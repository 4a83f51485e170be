"""Our tokenizer as a transformers tokenizer."""

# mypy: allow-untyped-calls

import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from plait.data.tokenizer import Tokenizer


def hub_tokenizer(tokenizer: Tokenizer, context: int) -> PreTrainedTokenizerFast:
    """Return the same tokenizer for transformers.

    The end-of-text token, which stands before each document in training, begins, ends and pads.

    Args:
        tokenizer: ours.
        context: longest sequence of the model, in tokens.
    """
    end = tokenizer.token(tokenizer.end_of_text)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        tokenizer.save(file)
        return PreTrainedTokenizerFast(
            tokenizer_file=str(file),
            bos_token=end,
            eos_token=end,
            pad_token=end,
            model_max_length=context,
            clean_up_tokenization_spaces=False,
        )
