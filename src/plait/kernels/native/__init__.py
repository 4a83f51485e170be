"""The C++ sources, how they are compiled, and what all of them take."""

import torch

TYPES = (torch.float32, torch.bfloat16)
"""of numbers"""
GRANULE = 32
"""sizes that products run over are multiples of this"""
