"""Parity with MMDetection 3.3.0, run as a black box. It is not a dependency: without it these tests are skipped.

Tested with mmcv 2.1.0 and its compiled operators, mmengine 0.10.7, numpy 1.26 and setuptools 80.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest


def open_mmdetection() -> SimpleNamespace:
    """Parts of MMDetection that the tests use: its registries, data containers and shipped configurations."""
    import mmcv.ops  # noqa: F401  most often the compiled operators are missing
    import mmdet
    from mmdet.registry import MODELS, TASK_UTILS, TRANSFORMS
    from mmdet.structures import DetDataSample
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.structures import InstanceData

    register_all_modules(init_default_scope=True)
    configs = Path(mmdet.__file__).parent / ".mim" / "configs"
    return SimpleNamespace(
        config=lambda name: Config.fromfile(configs / name),
        model=MODELS.build,
        task=TASK_UTILS.build,
        transform=TRANSFORMS.build,
        Sample=DetDataSample,
        Instances=InstanceData,
    )


@pytest.fixture(scope="session")
def mm() -> SimpleNamespace:
    """MMDetection; see ``open_mmdetection``."""
    try:
        return open_mmdetection()
    except Exception as error:  # an unfit mmcv raises AssertionError, missing operators ModuleNotFoundError
        pytest.skip(f"MMDetection cannot be imported: {type(error).__name__}: {error}")
