"""ToMe on a timm ViT: ``patch(vit, r=...)``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from timm.layers import PatchDropout
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tome_lightning.tome.attention import chosen_kernels, size_bias
from tome_lightning.tome.block import merging_block
from tome_lightning.tome.facade import ViTFacade
from tome_lightning.tome.merge import restore_order
from tome_lightning.tome.plan import R, check_r, layer_plan, requested_plan
from tome_lightning.tome.recompute import recomputed_block
from tome_lightning.tome.state import TokenState
from tome_lightning.tome.support import UnsupportedModelError, check_supported


def patch(
    vit: VisionTransformer, *, r: R = 0, prop_attn: bool = False, trace_source: bool = False
) -> ToMeViT:
    """Merge tokens in a timm ViT.

    The ViT itself is not changed: the returned model walks its blocks and shares its parameters,
    so ``model.vit`` stays a stock timm model that can be saved, exported and used without merging.
    Blocks are walked part by part: hooks on a whole block are not called, and where it merges, or with
    prop_attn once tokens have merged, nor are those on its attention as a whole.

    Args:
        vit: Any timm VisionTransformer of plain pre-norm blocks (AugReg, DeiT, DeiT-3, distilled,
            CLIP, SigLIP, DINOv2, MAE, ...).
        r: Tokens merged per block: an int; a list, one entry a block; ``{"r": 16, "inflection":
            -1.0}``, linear over depth; ``{"keep": 0.9}``, the share of its patch tokens that each
            block keeps. 0 merges nothing and equals the ViT bit for bit.
        prop_attn: Proportional attention: merged tokens weigh as many times as they have patches.
            Supervised models used off the shelf, and models trained with it, want True;
            MAE models fine-tuned without ToMe want False (ToMe, table 1f).
        trace_source: Keep track of which token each patch ended in (``TokenState.source``).

    Returns:
        A model with the interface of a timm ViT: ``model(x)`` gives logits, and what timm's tools
        look up (``pretrained_cfg``, ``group_matcher``, ``reset_classifier``, ...) is the ViT's.

    Raises:
        UnsupportedModelError: If the model cannot be merged correctly; says which part and why.
        PlanError: If r is not valid for the model's depth.
    """
    return ToMeViT(vit, r=r, prop_attn=prop_attn, trace_source=trace_source)


class ToMeViT(ViTFacade):
    """A timm ViT whose blocks merge tokens; see ``patch``. What it has not, its ViT answers.

    Attributes:
        vit: The stock timm model; its ``state_dict()`` has timm's keys.
        r: Tokens merged per block; may be set at any time.
        prop_attn: Whether attention is proportional to token size.
        trace_source: Whether ``forward_state`` returns the source of each token.
    """

    def __init__(
        self,
        vit: VisionTransformer,
        r: R = 0,
        prop_attn: bool = False,
        trace_source: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(vit, ToMeViT):
            raise UnsupportedModelError(
                "patch() got a model that already merges tokens. Set model.r, or patch model.vit."
            )
        check_supported(vit)
        self.vit = vit
        self._img_size: tuple[int, ...] | None = None
        self.r = r
        self.prop_attn = prop_attn
        self.trace_source = trace_source

    @property
    def r(self) -> R:
        return self._r

    @r.setter
    def r(self, value: R) -> None:
        self._r = check_r(value, self.depth)

    @property
    def depth(self) -> int:
        return len(self.vit.blocks)

    @property
    def num_prefix(self) -> int:
        """Class, distillation and register tokens: they come first and never merge."""
        return int(self.vit.num_prefix_tokens)

    @property
    def img_size(self) -> tuple[int, ...]:
        """Pixels of a sample (rows and columns, of a clip frames before) that tokens are counted of.

        The model's own size; may be set where the model takes others (``dynamic_img_size``).
        """
        return self._img_size or tuple(self.vit.patch_embed.img_size)

    @img_size.setter
    def img_size(self, value: Sequence[int]) -> None:
        if not self.vit.dynamic_img_size and tuple(value) != tuple(self.vit.patch_embed.img_size):
            raise ValueError(
                f"img_size {tuple(value)} is another than the model's, {self.img_size}, which takes no "
                "other. Build it with dynamic_img_size=True, or call set_input_size()."
            )
        self._img_size = tuple(value)

    @property
    def num_tokens(self) -> int:
        """Tokens of one sample of ``img_size``, prefix tokens included."""
        if self._img_size is None:
            return int(self.vit.patch_embed.num_patches) + self.num_prefix
        return math.prod(self.vit.patch_embed.dynamic_feat_size(self._img_size)) + self.num_prefix

    @property
    def train_tokens(self) -> int:
        """The same in training, where patch dropout (or masking in its place) leaves some out."""
        drop, patches = self.vit.patch_drop, self.num_tokens - self.num_prefix
        if isinstance(drop, PatchDropout):
            patches = max(1, int(patches * (1.0 - drop.prob)))  # as timm counts
        return int(getattr(drop, "num_kept", patches)) + self.num_prefix

    def plan(self, num_tokens: int | None = None) -> tuple[int, ...]:
        """Tokens each block really merges, after the clamp, for an input of that many tokens.

        Args:
            num_tokens: Tokens that enter the first block, prefix tokens included; by default those
                of a sample of ``img_size``.
        """
        return layer_plan(self.r, self.depth, num_tokens or self.num_tokens, self.num_prefix)

    def extra_repr(self) -> str:
        return f"r={self.r}, prop_attn={self.prop_attn}"

    def forward(self, x: Tensor, *, autocast_head: bool = True) -> Tensor:
        """Logits, ``[B, num_classes]``, of images ``[B, C, H, W]``.

        Args:
            x: Images, or what else the patch embedding takes.
            autocast_head: False computes the logits in the precision of the head's weights where
                autocast would round them.
        """
        state = self._run_blocks(x, trace=False)
        tokens, head = self.vit.norm(state.x), self.vit.head
        # distilled models have two heads on two tokens
        if autocast_head or not isinstance(head, nn.Linear) or hasattr(self.vit, "head_dist"):
            return self._head(tokens, state.size)
        pooled = self._head(tokens, state.size, pre_logits=True)
        with torch.autocast(pooled.device.type, enabled=False):
            return head(pooled.to(head.weight.dtype))

    def forward_state(self, x: Tensor) -> TokenState:
        """The tokens after the last block, before the final norm, with their sizes and sources."""
        state = self._run_blocks(x, trace=self.trace_source)
        return state._replace(size=_sizes(state))

    def forward_features(self, x: Tensor) -> Tensor:
        """The merged tokens after the final norm, ``[B, N, C]``; N is N0 minus what was merged.

        Average and attention pooling weigh tokens by size, which the tokens alone do not tell. The
        returned tensor therefore carries it as an attribute, ``token_size``, for ``forward_head``.
        """
        state = self._run_blocks(x, trace=False)
        features: Tensor = self.vit.norm(state.x)
        features.token_size = state.size  # type: ignore[attr-defined]
        return features

    def forward_head(
        self, x: Tensor, pre_logits: bool = False, *, size: Tensor | None = None
    ) -> Tensor:
        """Pool tokens and classify them.

        Args:
            x: Tokens after the final norm, ``[B, N, C]``, from ``forward_features``.
            pre_logits: Return the pooled features instead of logits.
            size: Patches per token, ``[B, N, 1]``; by default what ``forward_features`` attached.

        Raises:
            ValueError: If the pooling needs sizes, tokens have merged, and none are known.
        """
        size = self._size_of(x, "forward_head", self._pool_needs_size()) if size is None else size
        return self._head(x, size, pre_logits)

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Pooled tokens, ``[B, C]``, as timm's method of that name; merged ones weigh by their size.

        Args:
            x: Tokens after the final norm, ``[B, N, C]``, from ``forward_features``.
            pool_type: timm's name of another pooling than the model's.

        Raises:
            ValueError: If the pooling needs sizes, tokens have merged, and none are known.
        """
        needs_size = self._pool_needs_size(pool_type)
        size = self._size_of(x, "pool", needs_size)
        if size is None or not needs_size:
            pooled: Tensor = self.vit.pool(x, pool_type)
            return pooled
        return self._weighted_pool(x, size, pool_type)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        unmerge: bool | None = None,
    ) -> Any:
        """Features after chosen blocks, as timm's method of that name.

        Args:
            x: Images, ``[B, C, H, W]``.
            indices: The last n blocks (int), these blocks (sequence) or all (None).
            return_prefix_tokens: Return pairs of patch tokens and prefix tokens.
            norm: Apply the final norm to them.
            stop_early: Do not run the blocks after the last one asked for.
            output_fmt: ``NCHW``, a grid, or ``NLC``, tokens.
            intermediates_only: Return only the list of intermediates.
            output_dict: Return a dict with timm's keys instead: ``image_intermediates``,
                ``image_intermediates_prefix`` and ``image_features``.
            unmerge: Spread merged tokens back over the patches they stand for. By default done
                where a grid is asked for, which needs it; tokens stay merged.

        Returns:
            The intermediates, or ``(final, intermediates)`` where final holds the merged tokens
            after the final norm.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is 'NCHW' or 'NLC', got {output_fmt!r}.")
        as_grid = output_fmt == "NCHW"
        if as_grid and unmerge is False:
            raise ValueError("A grid (NCHW) needs unmerged tokens. Use output_fmt='NLC'.")
        unmerge = as_grid if unmerge is None else unmerge
        take, last = feature_take_indices(self.depth, indices)
        state, taken = self._embed(x, trace=unmerge), []
        plan = self.plan(state.x.shape[1])
        with chosen_kernels(x.device):
            for i, r in enumerate(plan[: last + 1] if stop_early else plan):
                state = self._block(i, state, r)
                if i in take:
                    tokens = self.vit.norm(state.x) if norm else state.x
                    if state.source is not None:
                        tokens = restore_order(tokens, state.source)
                    taken.append(tokens)

        prefix = [tokens[:, : self.num_prefix] for tokens in taken]
        taken = [tokens[:, self.num_prefix :] for tokens in taken]
        if as_grid:
            grid = self.vit.patch_embed.dynamic_feat_size(x.shape[2:])
            taken = [t.transpose(1, 2).unflatten(2, grid).contiguous() for t in taken]
        if output_dict:
            result: dict[str, Any] = {"image_intermediates": taken}
            if return_prefix_tokens and self.num_prefix:
                result["image_intermediates_prefix"] = prefix
            if not intermediates_only:
                result["image_features"] = self.vit.norm(state.x)
            return result
        if return_prefix_tokens and self.num_prefix:
            taken = list(zip(taken, prefix, strict=True))
        return taken if intermediates_only else (self.vit.norm(state.x), taken)

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """timm's method of that name; tokens are counted of that size from then on."""
        self.vit.set_input_size(*args, **kwargs)
        self._img_size = None

    def prune_intermediate_layers(self, *args: Any, **kwargs: Any) -> list[int]:
        """timm's method of that name; the blocks that stay merge as many tokens as before."""
        asked = requested_plan(self.r, self.depth)
        taken: list[int] = self.vit.prune_intermediate_layers(*args, **kwargs)
        if asked is not None:  # a share of each block needs no depth
            self.r = asked[: self.depth]
        return taken

    def forward_sources(self, x: Tensor, depths: Sequence[int] | None = None) -> list[Tensor]:
        """Which token each patch is in after chosen numbers of blocks.

        Indices, not the matrix of all pairs: of a clip of 1,569 tokens a few kilobytes.

        Args:
            x: Images, ``[B, C, H, W]``, or what else the patch embedding takes.
            depths: Numbers of blocks, 0 (every token is its own) to all of them; only all by default.

        Returns:
            For each depth an index for every token of the input, prefix tokens included, ``[B, N0]``.
        """
        wanted = [self.depth] if depths is None else list(depths)
        state = self._embed(x, trace=True)
        plan = self.plan(state.x.shape[1])
        found = {0: state.source}
        with chosen_kernels(x.device):
            for i in range(max(wanted, default=0)):
                state = self._block(i, state, plan[i])
                if i + 1 in wanted:
                    found[i + 1] = state.source
        return [cast(Tensor, found[depth]) for depth in wanted]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.vit.set_grad_checkpointing(enable)

    def _embed(self, x: Tensor, trace: bool) -> TokenState:
        vit = self.vit
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))
        batch, num_tokens, _ = x.shape
        source = torch.arange(num_tokens, device=x.device).expand(batch, -1) if trace else None
        return TokenState(x, None, source)

    def _run_blocks(self, x: Tensor, trace: bool) -> TokenState:
        state = self._embed(x, trace)
        with chosen_kernels(x.device):
            for i, r in enumerate(self.plan(state.x.shape[1])):
                state = self._block(i, state, r)
        return state

    def _block(self, i: int, state: TokenState, r: int) -> TokenState:
        args = (self.vit.blocks[i], state, r, self.num_prefix, self.prop_attn)
        if self.vit.grad_checkpointing and torch.is_grad_enabled():
            return recomputed_block(*args)
        return merging_block(*args)

    def _pool_needs_size(self, pool_type: str | None = None) -> bool:
        pool_type = self.vit.global_pool if pool_type is None else pool_type
        return self.vit.attn_pool is not None or pool_type in ("avg", "avgmax")

    def _size_of(self, x: Tensor, method: str, needed: bool) -> Tensor | None:
        """The sizes that ``forward_features`` attached to its tokens."""
        if not hasattr(x, "token_size") and any(self.plan()) and needed:
            raise ValueError(
                f"{method}() pools by {self.vit.global_pool!r}, which weighs merged tokens "
                "by size, and these tokens carry none. Pass size= (forward_state() has it), or "
                "the tensor that forward_features() returned, unchanged."
            )
        return getattr(x, "token_size", None)

    def _head(self, x: Tensor, size: Tensor | None, pre_logits: bool = False) -> Tensor:
        vit = self.vit
        if size is None or not self._pool_needs_size():
            with self._pool_kernels(x):
                return vit.forward_head(x, pre_logits=pre_logits)
        pooled = vit.head_drop(vit.fc_norm(self._weighted_pool(x, size)))
        return pooled if pre_logits else vit.head(pooled)

    def _pool_kernels(self, x: Tensor) -> AbstractContextManager[Any]:
        return nullcontext() if self.vit.attn_pool is None else chosen_kernels(x.device)

    def _weighted_pool(self, x: Tensor, size: Tensor, pool_type: str | None = None) -> Tensor:
        """Pool as if every merged token were there once for each of its patches."""
        first = 0 if self.vit.pool_include_prefix else self.num_prefix
        x, size = x[:, first:], size[:, first:]
        if self.vit.attn_pool is not None:
            with self._pool_kernels(x):
                return self.vit.attn_pool(x, attn_mask=size_bias(size, x))
        mean = ((x * size).sum(dim=1) / size.sum(dim=1)).to(x.dtype)
        if (pool_type or self.vit.global_pool) == "avgmax":
            return 0.5 * (x.amax(dim=1) + mean)
        return mean


def _sizes(state: TokenState) -> Tensor:
    if state.size is not None:
        return state.size
    return state.x.new_ones(*state.x.shape[:2], 1, dtype=torch.float32)
