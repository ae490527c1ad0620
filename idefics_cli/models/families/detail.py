"""`--detail` as settings of each image processor that cuts images into a variable number of tiles or patches."""

from __future__ import annotations

from typing import Any

LOW_TOKENS = 256
"""Of one image, as the makers of Qwen-VL suggest for little detail."""
_SOFT_TOKENS = {"low": 70, "medium": 140}
"""Of one image in Gemma 4, which knows some numbers only."""


def choose_detail(images: Any, detail: str) -> bool:
    """Set how finely an image processor cuts, never finer than its default. False if it has no such setting."""
    size = dict(getattr(images, "size", None) or {})
    if getattr(images, "max_patches", None):  # InternVL, Aya
        most = images.max_patches
        images.max_patches = {"low": 1, "medium": max(1, most // 3), "high": most}[detail]
    elif getattr(images, "image_grid_pinpoints", None):  # LLaVA-NeXT, Granite Vision, LLaVA-OneVision
        images.image_grid_pinpoints = _leave_small(images.image_grid_pinpoints, detail)
    elif hasattr(images, "merge_size") and "longest_edge" in size:  # Qwen-VL, GLM-4V
        token = (images.patch_size * images.merge_size) ** 2
        least, most = size.get("shortest_edge", 0), size["longest_edge"]
        tokens = {"low": LOW_TOKENS, "medium": 4 * LOW_TOKENS, "high": most // token}[detail]
        images.size = {"shortest_edge": least, "longest_edge": max(least, min(most, tokens * token))}
    elif getattr(images, "max_soft_tokens", None):  # Gemma 4
        images.max_soft_tokens = min(images.max_soft_tokens, _SOFT_TOKENS.get(detail, images.max_soft_tokens))
    elif hasattr(images, "do_pan_and_scan"):  # Gemma 3
        images.do_pan_and_scan = detail == "high"
    else:
        return False
    return True


def _leave_small(pinpoints: Any, detail: str) -> list[list[int]]:
    """The grid sizes without the larger ones: one tile long, or half of all tiles."""
    by_area = sorted(([int(one) for one in pair] for pair in pinpoints), key=lambda pair: pair[0] * pair[1])
    least, most = (pair[0] * pair[1] for pair in (by_area[0], by_area[-1]))
    limit = {"low": least, "medium": max(least, most // 2), "high": most}[detail]
    return [pair for pair in by_area if pair[0] * pair[1] <= limit]
