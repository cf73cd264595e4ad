"""What a SLURM cluster allows and what will hurt, each with its remedy."""

from __future__ import annotations

import json
import math
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cluster.backend import ClusterError, ClusterUnavailable, ClusterUsageError, Finding
from cluster.files import get_record, put_json
from cluster.slurm.commands import ask, require
from cluster.slurm.options import SlurmOptions
from cluster.slurm.parse import duration_s
from cluster.slurm.site import Site

PROGRAMS: Final = ("sbatch", "squeue", "sacct", "scancel", "scontrol")
PROBE_PATIENCE_S: Final = 60  # how long a job that looks around may wait for a node
VISIBLE_WITHIN_S: Final = 10.0
MAX_SKEW_S: Final = 5.0


def examine(folder: Path, options: SlurmOptions) -> list[Finding]:
    """What was found, the worst that stops everything else alone."""
    try:
        for program in PROGRAMS:
            require(program)
        site = Site.ask(options)
    except ClusterUsageError as error:
        return [Finding(check="SLURM", ok=False, found=str(error), remedy="mend this first")]
    except ClusterError as error:
        return [Finding(check="SLURM", ok=False, found=str(error), remedy="ask again later, or your administrator")]
    return [*_sizes(site), *_ends(site), _accounting(site), *_seen_from_a_node(folder, options)]


def _sizes(site: Site) -> list[Finding]:
    partition = site.partition
    gpus = sorted({node.get("Gres", "(null)") for node in site.nodes if _is_in(node, partition)} - {"(null)"})
    limit = "none" if site.max_submitted == math.inf else f"{site.max_submitted:.0f} jobs"
    return [
        Finding(check="SLURM", ok=True, found=f"{site.config.get('SLURM_VERSION', '?')}, the controller answers"),
        Finding(
            check="partition",
            ok=partition.get("State") == "UP",
            found=f"{partition['PartitionName']}: {partition.get('TotalNodes', '?')} nodes, {partition.get('State')}",
            remedy="choose another with slurm.partition, or wait until it is up",
        ),
        Finding(
            check="GPUs",
            ok=bool(gpus),
            found=", ".join(gpus) or "the partition's nodes have none",
            remedy="choose a partition with GPUs, or set slurm.gpus: 0 to run on CPUs",
        ),
        Finding(
            check="time limit",
            ok=site.max_time_s >= 600,
            found=f"up to {partition.get('MaxTime', '?')}",
            remedy="jobs of less than ten minutes mostly load the model: choose another partition",
        ),
        Finding(check="array size", ok=True, found=f"up to {site.max_array_size} jobs an array; more are split"),
        Finding(
            check="submit limit",
            ok=site.max_submitted >= 16,
            found=limit,
            remedy="`submit` sends what fits; `resume`, or --auto, sends the rest as jobs end",
        ),
    ]


def _ends(site: Site) -> list[Finding]:
    """How SLURM ends jobs before they are done."""
    preempts = not site.config.get("PreemptType", "preempt/none").endswith("none")
    mode = site.partition.get("PreemptMode", site.config.get("PreemptMode", "OFF"))
    told = "send_user_signal" in f"{site.config.get('SlurmctldParameters')} {site.config.get('PreemptParameters')}"
    kill_wait_s = float(site.config.get("KillWait", "30").split()[0])
    return [
        Finding(
            check="preemption warning",
            ok=not preempts or mode == "OFF" or told,
            found="jobs are warned" if told else ("jobs are not warned" if preempts else "no preemption"),
            remedy="without preempt_send_user_signal a preempted job resumes from its last periodic checkpoint:"
            " lower run.checkpoint_every_s",
        ),
        Finding(
            check="preemption",
            ok=not preempts or mode in ("OFF", "REQUEUE"),
            found=f"PreemptMode {mode}" if preempts else "none",
            remedy="preempted jobs are ended for good here: use --auto, or `resume` by hand",
        ),
        Finding(
            check="requeue",
            ok=site.config.get("JobRequeue", "1") != "0",
            found="on" if site.config.get("JobRequeue", "1") != "0" else "off by default; each job asks for it",
            remedy="if jobs end FAILED with exit code 75, requeue is forbidden here: use --auto",
        ),
        Finding(
            check="kill wait",
            ok=kill_wait_s >= 10,
            found=f"{kill_wait_s:.0f} s from SIGTERM to SIGKILL",
            remedy="a cancelled job has this long to write its checkpoint",
        ),
    ]


def _accounting(site: Site) -> Finding:
    try:
        ask("sacct", "-X", "-n", "-P", "-o", "JobID", "-j", "1", timeout_s=15)
    except (ClusterError, ClusterUnavailable) as error:
        age_s = duration_s(site.config.get("MinJobAge", "300").split()[0]) / 60
        return Finding(
            check="accounting",
            ok=False,
            found=str(error),
            remedy=f"states of ended jobs come from the sweep's own files; SLURM forgets them after {age_s:.0f} s",
        )
    return Finding(check="accounting", ok=True, found="sacct answers")


def _is_in(node: Mapping[str, str], partition: Mapping[str, str]) -> bool:
    return partition["PartitionName"] in node.get("Partitions", "").split(",")


# ---------------------------------------------------------------------- from a node


def _seen_from_a_node(folder: Path, options: SlurmOptions) -> list[Finding]:
    """What a short job sees."""
    flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.sbatch.items()]
    flags += [f"--{key}={value}" for key, value in options.gres(options.n_slots).items()]
    flags += ["--nodes=1", "--ntasks=1", "--time=5", "--chdir=/", f"--immediate={PROBE_PATIENCE_S}"]
    nonce = f"probe-{secrets.token_hex(4)}"
    place = folder / "cluster" / "slurm"
    put_json(place / f"{nonce}.json", {"from": "login"})
    try:
        began = time.time()
        command = (sys.executable, "-P", "-m", "cluster.slurm.probe", str(place), nonce)
        answer = ask("srun", "--job-name=causalsweep-doctor", *flags, *command, timeout_s=PROBE_PATIENCE_S + 60)
        seen = json.loads(answer.strip().rpartition("\n")[2])
        return _of_probe(seen, place / f"{nonce}.json", folder, options, began)
    except ClusterError as error:
        busy = "immediate" in str(error).lower() or "busy" in str(error).lower()
        remedy = (
            f"no node came free within {PROBE_PATIENCE_S} s: ask again when one is idle"
            if busy
            else f"a node must be able to run {sys.executable}: put the environment on the shared file system"
        )
        return [Finding(check="a job on a node", ok=False, found=str(error), remedy=remedy)]
    except ValueError:
        return [Finding(check="a job on a node", ok=False, found=f"printed {answer!r}", remedy="see slurm.setup")]
    finally:
        (place / f"{nonce}.json").unlink(missing_ok=True)


def _of_probe(seen: Mapping[str, Any], note: Path, folder: Path, options: SlurmOptions, began: float) -> list[Finding]:
    node = seen["node"]
    skew_s = max(began - seen["time"], seen["time"] - time.time(), 0.0)
    delay_s = _until_changed(note) if seen["sees"] else math.inf
    rename = f"a file that {node} replaced was seen here after {delay_s:.1f} s"
    version, found = [*seen["torch"], ""][:2]
    return [
        Finding(
            check="shared folder",
            ok=seen["sees"],
            found=f"{node} {'sees' if seen['sees'] else 'does not see'} {folder}",
            remedy="put the sweep on the file system that all nodes share",
        ),
        Finding(
            check="rename",
            ok=delay_s <= VISIBLE_WITHIN_S,
            found=rename if delay_s < math.inf else f"no file that {node} replaced was seen here",
            remedy="the file system shows other nodes' files late: status lags by as much",
        ),
        Finding(
            check="clocks",
            ok=skew_s <= MAX_SKEW_S,
            found=f"{node} differs by {skew_s:.1f} s at least" if skew_s else f"{node} agrees",
            remedy="have the administrator synchronise the clocks: heartbeats look older or younger than they are",
        ),
        Finding(
            check="GPU on a node",
            ok=options.n_gpus == 0 or bool(seen["gpus"]),
            found=f"CUDA_VISIBLE_DEVICES={seen['gpus']}, torch counts {found}" if version else "torch was not asked",
            remedy="set slurm.gpus to what `sinfo -o '%P %G'` lists",
        ),
        Finding(
            check="torch on a node",
            ok=bool(version),
            found=version or str(found),
            remedy=f"install causalsweep for the nodes too: they run {sys.executable}",
        ),
    ]


def _until_changed(note: Path) -> float:
    """Seconds until the node's version of the file is seen here; infinite where it is not in time."""
    began = time.monotonic()
    while time.monotonic() - began < VISIBLE_WITHIN_S:
        list(note.parent.iterdir())  # NFS: listing the folder refreshes what is known of its files
        if (get_record(note, dict[str, str]) or {}).get("from") == "node":
            return time.monotonic() - began
        time.sleep(0.1)
    return math.inf
