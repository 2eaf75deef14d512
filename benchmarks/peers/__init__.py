"""The peers as their own documentation would have them run, tuned; each contestant in one file."""
