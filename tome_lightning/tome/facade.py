"""What timm's tools ask of a ViT, answered by the ViT inside; merging itself is in ``model``."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn


class ViTFacade(nn.Module):
    """A module around ``self.vit`` that has the ViT's attributes besides its own.

    What is not found here is looked up in the ViT (``pretrained_cfg``, ``num_classes``, ``head``,
    ``reset_classifier``, ...), and what the ViT has is set there. Names of parameters, which here
    begin with ``vit.``, are answered as this module's.
    """

    vit: Any

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            vit = self.__dict__.get("_modules", {}).get("vit")  # not there yet while unpickling
            if vit is None or not hasattr(vit, name):
                raise
            return getattr(vit, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module would register `model.head = nn.Linear(...)` beside the ViT: saved, never run.
        vit = self.__dict__.get("_modules", {}).get("vit")
        own = name in self.__dict__ or name in self._modules or hasattr(type(self), name)
        if vit is None or own or not hasattr(vit, name):
            super().__setattr__(name, value)
        else:
            setattr(vit, name, value)

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizers do not decay, by their names here."""
        return {f"vit.{name}" for name in self.vit.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns of the layers of parameters, for their names here.

        Args:
            coarse: As timm's.
        """
        groups: dict[str, Any] = self.vit.group_matcher(coarse=coarse)
        return {name: _below_vit(patterns) for name, patterns in groups.items()}

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | list[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> Any:
        """``forward_intermediates`` under DINO's name: the merged tokens of the last n (or these) blocks.

        Args:
            x: Images, ``[B, C, H, W]``.
            n: The last n blocks, or these blocks.
            reshape: Spread the tokens over the patches they stand for, as a grid.
            return_prefix_tokens: Return pairs of patch tokens and prefix tokens.
            norm: Apply the final norm to them.
        """
        return self.forward_intermediates(
            x, n, return_prefix_tokens, norm,
            output_fmt="NCHW" if reshape else "NLC", intermediates_only=True,
        )  # fmt: skip


def _below_vit(patterns: Any) -> Any:
    """A pattern of timm's, or its list of ``(pattern, suffix)``, for names that begin with ``vit.``."""
    if isinstance(patterns, str):
        free = re.sub(r"(^|\|)\^", r"\1", patterns)  # `^` of each alternative: re.match needs none
        return rf"^vit\.(?:{free})"
    return patterns and [(_below_vit(pattern), suffix) for pattern, suffix in patterns]
