"""Token Merging for timm ViTs (Bolya et al., ICLR 2023): needs torch and timm only.

Read in this order: ``state`` (what flows), ``matching`` (who merges), ``merge`` (how), ``plan`` (how
many per block), ``block`` and ``model`` (on timm), ``facade`` (what timm's tools ask of a ViT).
"""

from tome_lightning.tome.matching import Matching, bipartite_soft_matching, max_r
from tome_lightning.tome.merge import merge_tokens, restore_order, unmerge
from tome_lightning.tome.model import ToMeViT, patch
from tome_lightning.tome.plan import PlanError, R, layer_plan, requested_plan, token_counts
from tome_lightning.tome.schedule import RSchedule
from tome_lightning.tome.state import TokenState
from tome_lightning.tome.support import UnsupportedModelError

__all__ = [
    "Matching",
    "PlanError",
    "R",
    "RSchedule",
    "ToMeViT",
    "TokenState",
    "UnsupportedModelError",
    "bipartite_soft_matching",
    "layer_plan",
    "max_r",
    "merge_tokens",
    "patch",
    "requested_plan",
    "restore_order",
    "token_counts",
    "unmerge",
]
