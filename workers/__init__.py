"""The work of a job: one job file in, one shard out. The only package that imports torch and transformers."""
