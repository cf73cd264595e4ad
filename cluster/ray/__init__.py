"""Jobs on a Ray cluster.

    backend.py      RayCluster: the seam's side, runs where the user is; never imports ray
    options.py      the `ray:` block, checked
    reading.py      handles to states and orders
    api.py          what it asks of the cluster, over HTTP with time limits
    record.py       the files under `folder/cluster/ray/`: they are the record, Ray is not
    dispatcher.py   runs on the cluster as a Ray Job, so it outlives the user's session
    probe.py        what it tries on each node before it accepts a submission
    task.py         runs on a node's GPU: one job in a fresh process
    metrics.py      numbers for Prometheus

Every store of Ray's forgets: the head's memory with the head, the dashboard's lists after 10,000 tasks. So the
dispatcher writes what happens into the sweep's folder, and a state is read from there, also when Ray is long gone.
"""

from cluster.ray.backend import RayCluster

__all__ = ["RayCluster"]
