"""The path explorer: a page where a text's tokens can be followed through the depths of a model.

`serve` shows it from this machine, `write_static` writes one that needs no server; both speak
`describe` and `analyse`. Needs the extra ``explore``.
"""

from plait.explore.analysis import analyse, describe
from plait.explore.page import write_static
from plait.explore.server import serve

__all__ = ["analyse", "describe", "serve", "write_static"]
