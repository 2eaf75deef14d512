"""The command line: each verb takes a recipe, a run or a data set, and `--set path=value` changes any setting."""

from stepwell.cli.main import main

__all__ = ["main"]
