"""Division of images without splits into images to learn from and images to test on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from workbench.support.errors import WorkbenchError


def divide(digests: Sequence[str], classes: Sequence[Iterable[int]], share: float) -> NDArray[np.bool_]:
    """Choose the images to test on.

    The digests of the contents decide, so that neither names nor the order of a file matter, and copies of a picture
    are on one side. Pictures are taken in the order of their digests until they have the share. Then each class with
    two different pictures gets a picture on both sides, where this is possible.

    Args:
        digests: digest of each image's content.
        classes: classes of the objects of each image.
        share: share of the images to test on, between 0 and 1.

    Returns:
        ``[N]``, whether an image is tested on; both sides have an image.

    Raises:
        WorkbenchError: there are fewer than two different pictures.
    """
    pictures: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        pictures.setdefault(digest, []).append(index)
    order = sorted(pictures)
    if len(order) < 2:
        raise WorkbenchError(f"{len(digests)} images of {len(order)} picture: a split needs two different pictures")
    contents = {p: frozenset(c for i in pictures[p] for c in classes[i]) for p in order}
    wanted = min(max(1, round(share * len(digests))), len(digests) - 1)
    tested: set[str] = set()
    count = 0
    for picture in order[:-1]:
        if count >= wanted:
            break
        tested.add(picture)
        count += len(pictures[picture])
    _balance(tested, contents)
    mask = np.zeros(len(digests), dtype=bool)
    mask[[index for picture in tested for index in pictures[picture]]] = True
    return mask


def _balance(tested: set[str], contents: dict[str, frozenset[int]]) -> None:
    """Move pictures so that each class with two pictures is on both sides; the rarest classes come first.

    A picture is moved only if no class, and no side, loses its last picture by that.
    """
    having: dict[int, list[str]] = {}
    for picture, classes in contents.items():
        for class_ in classes:
            having.setdefault(class_, []).append(picture)
    for class_ in sorted(having, key=lambda c: (len(having[c]), c)):
        on_side = {side: [p for p in having[class_] if (p in tested) is side] for side in (True, False)}
        lacking = [side for side in (True, False) if not on_side[side]]
        if len(having[class_]) < 2 or not lacking:
            continue
        source = not lacking[0]
        size = len(tested) if source else len(contents) - len(tested)
        for picture in on_side[source] if size > 1 else []:
            left = [sum((p in tested) is source for p in having[c]) for c in contents[picture]]
            if min(left) > 1:
                tested.symmetric_difference_update({picture})
                break
