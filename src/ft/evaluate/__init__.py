"""Held-out loss, task metrics, generation: what is minimized, and what came of it."""
