"""What to run as evidence: suites of runs as TOML files, and what they mean (``plan.py``)."""
