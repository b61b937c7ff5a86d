"""Claims of the papers: measured effects, verdicts, and their page."""
