"""Measuring the models, beside their original computation and their peers.

Not imported with mmrecnext; ``tools/benchmark.py`` is its command.
"""
