"""Boxes of several images in one tensor, as assigners take them."""

import torch


def pad(boxes):
    """Boxes of each image, padded to the largest number, and the mask of the boxes that are not padding."""
    padded = torch.zeros(len(boxes), max(map(len, boxes)), 4)
    valid = torch.zeros(padded.shape[:2], dtype=torch.bool)
    for b, own in enumerate(boxes):
        padded[b, : len(own)] = torch.as_tensor(own).view(-1, 4)
        valid[b, : len(own)] = True
    return padded, valid
