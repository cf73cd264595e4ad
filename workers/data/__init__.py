"""Prompts, pairs and tokens, and what a checkpoint's configuration says. Nothing here imports torch."""
