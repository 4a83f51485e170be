"""`python -m plait.kernels.native [KIND …]` compiles the libraries that a wheel carries."""

import sys

from plait.kernels.native.build import make_ready

try:
    make_ready(sys.argv[1:])
except (RuntimeError, OSError) as error:
    sys.exit(f"no kernels for a wheel: {error}")
