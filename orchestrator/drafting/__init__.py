"""`causalsweep init`: a spec and a task file for a model, with all that can be found out filled in."""
