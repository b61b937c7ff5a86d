"""Small benchmarks of this machine, each a table in Markdown with the hardware and versions it was measured with."""
