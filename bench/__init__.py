"""Benchmarks: ratios to peers, both in one interleaved run. `make bench`; results in RESULTS.md."""
