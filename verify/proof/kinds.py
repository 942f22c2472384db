"""All kinds of blocks that are written. Importing this module registers them."""

from __future__ import annotations

from verify.proof import blocks, box_blocks, leaf_blocks

ROOMS = (leaf_blocks, box_blocks)
BLOCKS = blocks.BLOCKS
