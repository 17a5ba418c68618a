"""Pictures of what a network sees and how it learned: ``tools/visualize.py``."""
