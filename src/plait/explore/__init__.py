"""The path explorer: a page where a text's tokens can be followed through the depths of a model.

`serve` shows it from this machine, `write_static` writes one that needs no server; both speak
`describe` and `analyse`. Needs the extra `explore`.
"""

from plait.explore.html import write_static
from plait.explore.server import serve
from plait.explore.token_paths import analyse, describe

__all__ = ["analyse", "describe", "serve", "write_static"]
