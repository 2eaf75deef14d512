"""One file for each claim, or for a few that one run measures together.

A file has `CLAIMS`, a list of `benchmarks.harness.Claim`, and `measure(quick: bool) -> list[Result]`. What is slow to
import, it imports inside `measure`, so that listing the claims stays cheap.
"""
