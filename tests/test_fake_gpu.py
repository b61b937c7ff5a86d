"""Devices and types without a GPU: all tensors of a detector are on the device of its input, also under autocast.

Tensors without numbers replace the tensors of a GPU. An operation on two devices, or on types that do not fit, fails
as on a GPU. ``test_gpu`` compares the values.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from workbench.data.batch import Batch
from workbench.detectors import build_detector
from workbench.detectors.oracle import put_truth
from workbench.layers.deform import deform_conv2d
from workbench.settings.catalog import load_row
from workbench.settings.variant import Oracle

ROWS = [
    *(("table3", row) for row in ("t3_full_vfl", "t3_star_vfl", "t3_raw_vfl", "t3_raw_fl", "t3_fcos_atss")),
    *(("table5", f"t5_{family}_vfl") for family in ("atss", "retinanet", "foveabox", "reppoints")),
    ("gfl_table3", "gfl3_qfl_dfl"),
]


@pytest.fixture
def fake_gpu(monkeypatch):
    """Tensors are created on a GPU that does not exist; numbers of positives or detections are unknown."""
    # smooth_l1_loss compares an unknown number with 1, which is undecidable.
    monkeypatch.setattr(torch, "broadcast_tensors", lambda *tensors: tensors)
    unknowns = ShapeEnv(allow_dynamic_output_shape_ops=True, allow_scalar_outputs=True)
    # PyTorch has no fake version of one of cuDNN's operators.
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=unknowns), torch.backends.cudnn.flags(enabled=False):
        yield


@contextmanager
def bf16():
    """``torch.autocast`` as in training; called by its name it would check that a GPU exists."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def detector_of(row):
    with torch.device("cuda"):
        return build_detector(load_row(*row).experiment)


def empty_batch():
    """Two black images without objects."""
    sizes = torch.tensor([[96, 128], [60, 50]])
    batch = Batch(
        images=torch.zeros(2, 3, 96, 128),
        boxes=torch.zeros(2, 5, 4),
        labels=torch.zeros(2, 5, dtype=torch.int64),
        valid=torch.zeros(2, 5, dtype=torch.bool),
        sizes=sizes,
        original_sizes=sizes,
        image_ids=(1, 2),
        file_names=("a", "b"),
    )
    return batch.to("cuda")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_are_on_the_device(fake_gpu, row, precision):
    detector, batch = detector_of(row), empty_batch()
    if precision == "bf16":
        with bf16():
            terms = detector.loss(batch)
            assert detector.predict(batch.images).logits.dtype == torch.bfloat16
    else:
        terms = detector.loss(batch)
    assert {(term.device.type, term.dtype) for term in terms.values()} == {("cuda", torch.float32)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
@pytest.mark.filterwarnings("ignore:`create_unbacked_symint`:FutureWarning")  # torchvision's
def test_detections_are_on_the_device(fake_gpu, row):
    batch = empty_batch()
    for one in detector_of(row).detect(batch.images, batch.sizes):
        assert {part.device.type for part in (one.boxes, one.scores, one.labels)} == {"cuda"}


@pytest.mark.parametrize("row", ROWS[-6:], ids=lambda row: row[1])
def test_oracles_keep_the_device(fake_gpu, row):
    detector, batch = detector_of(row), empty_batch()
    predictions = detector.infer(batch.images)
    everything = Oracle(centerness=None if predictions.quality is None else "truth", boxes=True, score="iou")
    replaced = put_truth(predictions, detector.assign(predictions, batch), batch, everything)
    assert {part.device.type for part in (replaced.logits, replaced.boxes)} == {"cuda"}


@pytest.mark.parametrize("back_end", ["sample", "torchvision"])
@pytest.mark.parametrize("masked", [False, True])
def test_deformable_convolutions_keep_device_and_type(fake_gpu, back_end, masked):
    x, offset = (torch.zeros(2, channels, 5, 9, device="cuda") for channels in (8, 18))
    weight = torch.zeros(6, 8, 3, 3, device="cuda")
    mask = torch.zeros(2, 9, 5, 9, device="cuda") if masked else None
    assert deform_conv2d(x, offset, weight, mask, back_end).device.type == "cuda"
    with bf16():
        assert deform_conv2d(x.bfloat16(), offset, weight, mask, back_end).dtype == torch.bfloat16
