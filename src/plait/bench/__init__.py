"""Speed: a whole training step against transformers', and what each piece costs.

Every figure is a ratio of medians from one process, interleaved.
"""
