"""Small benchmarks of this machine. Each prints a table in Markdown with the hardware and the versions."""
