"""Filling of removed regions from their rim, by OpenCV."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["telea_inpainting"]


def telea_inpainting(images: Tensor, removed: Tensor, *, radius: float) -> Tensor:
    """Fill each image's removed region from its rim inwards by the fast marching method.

    OpenCV works on one 8-bit image at a time on the CPU, so that filled pixels are multiples of 1/255. An
    image without any kept pixel becomes its own mean per channel.

    Args:
        images: ``(B, 3, H, W)`` float32 in [0, 1].
        removed: ``(B, 1, H, W)`` bool.
        radius: of the neighbourhood that a filled pixel is made from, in pixels.

    Returns:
        ``(B, 3, H, W)`` in [0, 1] on the device of the images; kept pixels are as they were.

    References:
        telea2004
    """
    if len(images) == 0:
        return images.clone()
    # Only this function needs OpenCV, and importing it costs more than most baselines.
    import cv2

    coded = images.detach().mul(255).round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous().numpy()
    holes = removed[:, 0].to(torch.uint8).cpu().numpy()
    rows = [
        torch.from_numpy(cv2.inpaint(image, hole, radius, cv2.INPAINT_TELEA))
        for image, hole in zip(coded, holes, strict=True)
    ]
    filled = torch.stack(rows).permute(0, 3, 1, 2).to(images) / 255
    empty = removed.flatten(1).all(dim=1).view(-1, 1, 1, 1)
    filled = torch.where(empty, images.mean(dim=(2, 3), keepdim=True), filled)
    return torch.where(removed, filled, images)
