"""Division of images without splits: shares, copies, and classes on both sides."""

import numpy as np
import pytest

from workbench.data.own_split import divide
from workbench.support.errors import WorkbenchError


@pytest.mark.parametrize(
    ("images", "share", "tested"), [(100, 0.2, 20), (10, 0.2, 2), (3, 0.01, 1), (2, 0.9, 1), (5, 0.99, 4)]
)
def test_the_share_is_kept_and_both_sides_have_an_image(images, share, tested):
    digests = [f"{i * 7919 % 1000:03d}" for i in range(images)]
    assert divide(digests, [[]] * images, share).sum() == tested


def test_contents_decide_and_not_the_order_of_the_file():
    rng = np.random.default_rng(0)
    digests = np.array([f"{n:08x}" for n in rng.choice(2**31, 50, replace=False)])
    classes = [[int(c)] for c in rng.integers(0, 3, 50)]
    chosen = set(digests[divide(digests.tolist(), classes, 0.2)])
    order = rng.permutation(50)
    again = divide(digests[order].tolist(), [classes[i] for i in order], 0.2)
    assert set(digests[order][again]) == chosen


def test_copies_of_a_picture_are_on_one_side():
    digests = ["a", "b", "c", "a", "d", "a"]
    mask = divide(digests, [[0]] * 6, 0.3)
    assert mask[[0, 3, 5]].all() or not mask[[0, 3, 5]].any()
    assert 0 < mask.sum() < 6


@pytest.mark.parametrize("seed", range(40))
def test_each_class_with_two_pictures_is_on_both_sides(seed):
    """Brute force: whenever a division with all classes on both sides exists for single-class pictures, it is found."""
    rng = np.random.default_rng(seed)
    images = int(rng.integers(4, 40))
    classes = [[int(c)] for c in rng.geometric(0.4, images)]
    mask = divide([f"{n:06d}" for n in rng.permutation(images)], classes, float(rng.uniform(0.05, 0.6)))
    for class_ in {c for (c,) in classes}:
        having = np.array([c == class_ for (c,) in classes])
        if having.sum() > 1:
            assert 0 < mask[having].sum() < having.sum()


def test_a_picture_of_several_classes_is_not_torn_from_a_class_that_needs_it():
    # In the order of the digests only the first picture is tested on. Class 1 is in pictures b and c, class 0 in all.
    mask = divide(["a", "b", "c", "d"], [[0], [0, 1], [0, 1], [0]], 0.25)
    assert mask[[1, 2]].sum() == 1


def test_a_class_with_one_picture_does_not_matter():
    assert divide(["a", "b", "c"], [[0], [1], [2]], 0.3).tolist() == [True, False, False]


def test_one_picture_cannot_be_divided():
    with pytest.raises(WorkbenchError, match="3 images of 1 picture: a split needs two different pictures"):
        divide(["a", "a", "a"], [[0]] * 3, 0.2)
