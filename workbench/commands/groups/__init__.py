"""Groups of commands, by what a user does with them: one module per group, each with an ``app``.

A group is a panel of ``workbench --help``, or has a name of its own, such as ``workbench bench …``. Each command
imports its modules only when it runs, so that light commands start at once.
"""
