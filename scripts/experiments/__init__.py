"""The evidence: suites of runs as TOML files, experiments of their own, and the tables and figures made from both."""
