"""Devices, types and waits without a GPU.

All tensors of a detector are on the device of its input, also under autocast. The host does not wait for the device,
except where a test says so.

Tensors without numbers replace the tensors of a GPU. An operation on two devices, or on types that do not fit, fails
as on a GPU. ``tests/gpu`` compares the values.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.assigners.atss import ATSSAssigner
from workbench.assigners.fcos import FCOSAssigner
from workbench.assigners.foveabox import FoveaBoxAssigner
from workbench.assigners.max_iou import MaxIoUAssigner
from workbench.assigners.nearest_point import NearestPointAssigner
from workbench.data.batch import Batch
from workbench.detectors import build_detector, postprocess
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


DEPENDS_ON_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Tags of the operations whose result, or whose result's shape, the host must read from the device."""


class Waits(TorchDispatchMode):
    """Record of the operations for which the host waits for a GPU.

    These are numbers that the host reads, shapes that depend on values, masks as indices, and copies between host and
    device. (PyTorch marks ``index`` as dependent on values, which is true of masks only.)
    """

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        name = operation.name().removeprefix("aten::")
        if name.startswith("index"):
            lists = [entry for entry in args if isinstance(entry, list)]
            waits = any(i is not None and i.dtype in (torch.bool, torch.uint8) for entry in lists for i in entry)
        elif name in ("_to_copy", "copy_"):
            source = args[name == "copy_"]
            waits = source.device != result.device
        else:
            waits = not DEPENDS_ON_VALUES.isdisjoint(operation.tags)
        if waits:
            self.names.append(name)
        return result


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x.sum().item(), ["_local_scalar_dense"]),
        (lambda x: x.nonzero(), ["nonzero"]),
        (lambda x: x[x > 0], ["index.Tensor"]),
        (lambda x: x.masked_select(x > 0), ["masked_select"]),
        (lambda x: x.index_put_((x > 0,), x.new_zeros(())), ["index_put_"]),
        (lambda x: torch.tensor([1.0, 2.0], device=x.device), ["_to_copy"]),
        (lambda x: x.cpu(), ["_to_copy"]),
        (lambda x: x.repeat_interleave(torch.ones_like(x).long()), ["repeat_interleave.Tensor"]),
        (lambda x: torch.where(x > 0, x, 0)[torch.arange(2, device=x.device)].half().repeat_interleave(3), []),
    ],
    ids=["item", "nonzero", "mask", "masked_select", "write by mask", "constant", "copy", "repeat", "none"],
)
def test_waits_are_noticed(fake_gpu, function, expected):
    x = torch.zeros(4, device="cuda")
    with Waits() as waits:
        function(x)
    assert waits.names == expected


ASSIGNERS = {
    "atss": (ATSSAssigner(8), "t5_atss_vfl"),
    "fcos": (FCOSAssigner(8), "t5_atss_vfl"),
    "foveabox": (FoveaBoxAssigner(8), "t5_foveabox_vfl"),
    "max_iou of anchors": (MaxIoUAssigner("anchors"), "t5_retinanet_vfl"),
    "max_iou of boxes": (MaxIoUAssigner("initial_boxes"), "t5_reppoints_vfl"),
    "nearest_point": (NearestPointAssigner(4), "t5_reppoints_vfl"),
}


@pytest.mark.parametrize(("assigner", "row"), ASSIGNERS.values(), ids=ASSIGNERS)
def test_an_assigner_does_not_wait(fake_gpu, assigner, row):
    detector, batch = detector_of(("table5", row)), empty_batch()
    predictions = detector.predict(batch.images)
    with Waits() as waits:
        assignment = assigner(predictions, batch)
    assert waits.names == []
    assert (assignment.index.device.type, tuple(assignment.index.shape)) == ("cuda", predictions.logits.shape[:2])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_a_loss_waits_once_for_the_positives(fake_gpu, row):
    """The loss gathers the positives, whose number the host must know; RepPoints has two sets of positives."""
    detector, batch = detector_of(row), empty_batch()
    with Waits() as waits:
        detector.loss(batch)
    assert waits.names == ["nonzero"] * (2 if "reppoints" in row[1] else 1)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_detection_does_not_wait_before_an_image_s_nms(fake_gpu, row, monkeypatch):
    detector, batch = detector_of(row), empty_batch()
    monkeypatch.setattr(postprocess, "_one_image", lambda classes, boxes, quality, variant: boxes)
    with Waits() as waits:
        candidates = detector.detect(batch.images, batch.sizes)
    assert waits.names == []
    assert {boxes.device.type for boxes in candidates} == {"cuda"}
