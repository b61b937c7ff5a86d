"""The evidence: measurements of the registered trainings in a file, and claims and tables computed from this file."""
