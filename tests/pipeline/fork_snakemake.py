"""Runs `snakemake` again and again, each time in a process of its own, but with a second and a half of imports done once.

Reads a JSON list a line: the working folder, the file that gets what is on the screen, and Snakemake's arguments. Answers
each with the exit code.
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
        os.environ["PYTHONPATH"] = folder  # the jobs find the package of the folder first, and so does the Snakefile
        sys.path.insert(0, folder)
        sys.argv[:] = ["snakemake", *arguments]
        snakemake.cli.main()
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
