"""One job from its file to its exit code."""
