"""Resources of the pipeline's jobs: GPUs, threads and memory."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.settings.experiment import Experiment
from workbench.support.devices import gpu_indices, usable_cores

SMALL = 600
"""Long side of an image, in pixels, below which a training takes little memory and less than an hour."""


@dataclass(frozen=True)
class Resources:
    """Resources of the jobs of one call of Snakemake.

    Attributes:
        stated_gpus: the setting ``gpus``; None if it is not set.
        experiments: name of a run → experiment.
    """

    stated_gpus: int | None
    experiments: dict[str, Experiment]

    @property
    def gpus(self) -> int:
        """Largest number of GPUs of one training: the setting ``gpus``, else one if this machine has any.

        The machine that submits a cluster's jobs does not see the cluster's GPUs. There, ``gpus`` must be set.
        """
        return self.stated_gpus or int(bool(gpu_indices()))

    def devices(self, run: str) -> int:
        """Number of GPUs that a training takes: each GPU gets equally many canvases of a step. 0 on a CPU."""
        return self.experiments[run].training.devices(self.gpus) if self.gpus else 0

    @property
    def threads(self) -> int:
        """Number of threads of a job, for each GPU of the job.

        One thread per job on a CPU, so that as many jobs run in parallel as there are cores. On a GPU, the GPU's share
        of the cores; four threads if the GPUs are on another machine.
        """
        visible = len(gpu_indices())
        return max(1, usable_cores() // visible) if visible else 4 if self.gpus else 1

    def memory_mb(self, run: str) -> int:
        """Memory of a training in MB.

        A step of a rehearsal has one image. For one image, X-101-64x4d with DCN, the largest network, took 11.2 GB on a
        CPU.
        """
        if self.is_small(run):
            return 2000
        return 12000 if self.experiments[run].training.limit_steps else max(24000, 12000 * self.devices(run))

    def is_small(self, run: str) -> bool:
        """Whether a run's images are small."""
        return self.experiments[run].image.long < SMALL
