"""Known differences of trainings here from the code that the authors of a table released, for notes below the table."""

from __future__ import annotations

from workbench.settings.experiment import Experiment

FOVEABOX_CLIP = (
    "for the IoU in the target of the classification, a box is clipped to its own image. The released code clips all "
    "boxes of a batch to the size of the batch's first image."
)
GFL_PADDING = (
    "the quality focal loss leaves out the locations in an image's padding, as in MMDetection's GFL. In the GFL "
    "authors' own code these locations are background."
)
GFL_IOU = (
    "IoU is computed with widths x2 - x1, as in MMDetection's GFL. In the GFL authors' own code it is computed in "
    "units of the stride, with 1 added to each width and height, which changes the IoU of small boxes most."
)


def known_differences(experiment: Experiment) -> tuple[str, ...]:
    """Return a sentence about each known difference of an experiment's training from the released code."""
    detector, loss = experiment.detector, experiment.loss
    if detector.family == "foveabox" and loss.wants_quality:
        return (FOVEABOX_CLIP,)
    if detector.family != "atss":
        return ()
    # With centerness and without distributions it is ATSS, whose released code has none of these differences.
    joint = loss.name == "quality_focal" and not detector.centerness
    differences = {GFL_PADDING: joint, GFL_IOU: joint or detector.distribution is not None}
    return tuple(text for text, applies in differences.items() if applies)
