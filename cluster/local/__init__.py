"""Jobs on this machine.

backend.py      LocalCluster: the seam's side
options.py      the `local:` block
queue.py        the files under `folder/cluster/local/`, and what they say of a job
processes.py    the dispatcher, which starts what waits, and the runner that each job has
"""

from cluster.local.backend import LocalCluster

__all__ = ["LocalCluster"]
