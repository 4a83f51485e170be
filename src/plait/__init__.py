"""Plait: mixture-of-experts language models whose layers share.

Read `plait.sharing` first: it holds the notation that the rest of the package speaks.
"""

__version__ = "0.1.0"
