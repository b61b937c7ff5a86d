"""Plain calculations on Python numbers, for slow loops that the losses are compared with."""

import math


def slow_iou(a, b):
    """IoU of two boxes."""
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if shared else 0.0


def slow_box(a, b):
    """IoU and GIoU of two boxes."""
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union, shared / union - (hull - union) / hull


def entropy(x, y):
    """Binary cross entropy of a logit and a target."""
    return y * math.log1p(math.exp(-x)) + (1 - y) * math.log1p(math.exp(x))
