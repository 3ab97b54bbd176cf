"""Token Merging written out token by token, from the paper's description.

Slow on purpose. A token is a vector and the list of patches it stands for; merging is putting lists
together. The only things borrowed are a stock ViT's own layers that see one token at a time (norms,
projections, MLP), its embedding, and for attention pooling its pool, run on repeated tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Token(NamedTuple):
    x: Tensor  # [C]
    patches: list[int]  # positions, as they entered the first block


class Run(NamedTuple):
    logits: Tensor  # [B, num_classes]
    tokens: list[list[list[Token]]]  # [block][image][token], after each block
    margin: float  # the narrowest decision: by how much the closest choice was not a tie


def merges_of_block(r: Any, block: int, depth: int, num_tokens: int, num_prefix: int) -> int:
    """What a block merges, for every form of r."""
    patches = num_tokens - num_prefix
    if isinstance(r, Mapping) and "keep" in r:
        wanted = 0
        while patches - (wanted + 1) >= r["keep"] * patches - 1e-9:
            wanted += 1
    elif isinstance(r, Mapping):
        low = int(r["r"] * (1 - r["inflection"]))
        wanted = int(low + block * (2 * r["r"] - 2 * low) / (depth - 1))
    elif isinstance(r, int):
        wanted = r
    else:
        wanted = r[block] if block < len(r) else 0
    return min(wanted, patches // 2)


@torch.no_grad()
def run(vit: Any, images: Tensor, r: Any, prop_attn: bool) -> Run:
    """A stock ViT in eval mode with merging, one image at a time."""
    embedded = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))  # [B, N, C]
    batch = [[Token(x, [i]) for i, x in enumerate(image)] for image in embedded]
    history, margin = [], math.inf
    for i, block in enumerate(vit.blocks):
        after = []
        for tokens in batch:
            wanted = merges_of_block(r, i, len(vit.blocks), len(tokens), vit.num_prefix_tokens)
            tokens, narrowest = run_block(block, tokens, wanted, vit.num_prefix_tokens, prop_attn)
            margin = min(margin, narrowest)
            after.append(tokens)
        batch = after
        history.append(after)
    logits = torch.stack([classify(vit, tokens) for tokens in batch])
    return Run(logits, history, margin)


def run_block(
    block: Any, tokens: list[Token], r: int, num_prefix: int, prop_attn: bool
) -> tuple[list[Token], float]:
    attended, metric = attention(block, tokens, prop_attn)
    tokens = [
        Token(token.x + block.ls1(new), token.patches)
        for token, new in zip(tokens, attended, strict=True)
    ]
    margin = math.inf
    if r:
        tokens, margin = merge(tokens, metric, r, num_prefix)
    return [
        Token(token.x + block.ls2(block.mlp(block.norm2(token.x))), token.patches)
        for token in tokens
    ], margin


def attention(
    block: Any, tokens: list[Token], prop_attn: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """What attention adds to each token, and each token's key averaged over heads."""
    attn, width = block.attn, block.attn.head_dim
    normed = [block.norm1(token.x) for token in tokens]
    heads: list[list[Tensor]] = [[] for _ in tokens]
    keys_of_heads = []
    for head in range(attn.num_heads):
        queries, keys, values = [], [], []
        for x in normed:
            qkv = attn.qkv(x)
            start = head * width
            queries.append(attn.q_norm(qkv[start : start + width]))
            start += attn.num_heads * width
            keys.append(attn.k_norm(qkv[start : start + width]))
            start += attn.num_heads * width
            values.append(qkv[start : start + width])
        keys_of_heads.append(keys)
        for i, query in enumerate(queries):
            weights = []
            for key, token in zip(keys, tokens, strict=True):
                logit = float(query @ key) / math.sqrt(width)
                if prop_attn:
                    logit += math.log(len(token.patches))
                weights.append(math.exp(logit))
            total = sum(weights)
            mixed = sum(w / total * value for w, value in zip(weights, values, strict=True))
            heads[i].append(mixed)
    out = []
    for x, parts in zip(normed, heads, strict=True):
        joined = attn.norm(torch.cat(parts))
        if attn.gate is not None:
            joined = joined * attn.gate(x).sigmoid()
        out.append(attn.proj(joined))
    metric = [sum(keys) / attn.num_heads for keys in zip(*keys_of_heads, strict=True)]
    return out, metric


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / (float(a.norm()) * float(b.norm()))


def merge(
    tokens: list[Token], metric: list[Tensor], r: int, num_prefix: int
) -> tuple[list[Token], float]:
    """Merge r tokens at even positions into the tokens at odd positions they are most alike."""
    sources = [i for i in range(num_prefix, len(tokens)) if i % 2 == 0]
    targets = [i for i in range(num_prefix, len(tokens)) if i % 2 == 1]
    proposals = []  # (similarity, source, target)
    margin = math.inf
    for source in sources:
        ranked = sorted(
            ((cosine(metric[source], metric[target]), target) for target in targets), reverse=True
        )
        if len(ranked) > 1:
            margin = min(margin, ranked[0][0] - ranked[1][0])
        proposals.append((ranked[0][0], source, ranked[0][1]))
    proposals.sort(reverse=True)
    scores = [score for score, *_ in proposals]
    margin = min([margin, *(a - b for a, b in itertools.pairwise(scores))])

    groups = {target: [tokens[target]] for target in targets}
    for _, source, target in proposals[:r]:
        groups[target].append(tokens[source])
    rest = [source for _, source, _ in proposals[r:]]
    if num_prefix:
        rest.sort()
    merged = [*tokens[:num_prefix], *(tokens[i] for i in rest)]
    merged += [joined(groups[target]) for target in targets]
    return merged, margin


def joined(group: list[Token]) -> Token:
    """One token for a group: the mean over all the patches in it."""
    patches = [patch for token in group for patch in token.patches]
    total = sum(len(token.patches) * token.x for token in group)
    return Token(total / len(patches), patches)


def classify(vit: Any, tokens: list[Token]) -> Tensor:
    """Pool as if each merged token were there once for each of its patches."""
    if vit.norm is not None:
        tokens = [Token(vit.norm(token.x), token.patches) for token in tokens]
    pooled = tokens if vit.pool_include_prefix else tokens[vit.num_prefix_tokens :]
    repeated = torch.stack([token.x for token in pooled for _ in token.patches])
    if vit.attn_pool is not None:
        x = vit.attn_pool(repeated.unsqueeze(0)).squeeze(0)
    elif vit.global_pool == "token":
        x = tokens[0].x
    elif vit.global_pool == "avg":
        x = repeated.mean(dim=0)
    elif vit.global_pool == "max":
        x = repeated.amax(dim=0)
    elif vit.global_pool == "avgmax":
        x = 0.5 * (repeated.mean(dim=0) + repeated.amax(dim=0))
    else:
        raise NotImplementedError(vit.global_pool)
    return vit.head(vit.fc_norm(x))
