"""Run `snakemake` many times, each time in a new process, with 1.5 seconds of imports done only once.

Each line of stdin is a JSON list: the working folder, the file for the output of the process, and Snakemake's arguments.
For each line, print the exit code.
"""

import json
import os
import sys

import numpy  # noqa: F401
import pydantic  # noqa: F401
import snakemake.cli

for line in sys.stdin:
    folder, screen, *arguments = json.loads(line)
    if (process := os.fork()) == 0:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        os.environ["PYTHONPATH"] = folder  # Snakefile and jobs import the package in the folder
        sys.path.insert(0, folder)
        sys.argv[:] = ["snakemake", *arguments]
        snakemake.cli.main()
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
