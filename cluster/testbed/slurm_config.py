"""The configuration files of the pretend SLURM cluster. Source: slurm.conf(5), gres.conf(5), slurmdbd.conf(5)."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

CLUSTER: Final = "pretend"

# Nodes are daemons of this one host, told apart by their ports. Times are short, so that a lost node is seen in half a
# minute (the stock ones: SlurmdTimeout=300 KillWait=30). No cgroups: the daemons need no privileges, and memory limits
# are not enforced.
SLURM_CONF: Final = Template("""\
ClusterName=$cluster
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$controller_port
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/spool/controller
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,bf_continue,sched_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
EnforcePartLimits=ALL
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
MaxArraySize=$max_array_size
MaxJobCount=50000
SlurmdTimeout=20
KillWait=5
MinJobAge=300
InactiveLimit=0
Waittime=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$database_port
AccountingStoragePass=$folder/munge/munge.socket
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
$nodes
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE DefaultTime=60 DefMemPerCPU=1000
PartitionName=gpu PriorityTier=1 GraceTime=$grace_s Default=YES
PartitionName=whole PriorityTier=1 GraceTime=$grace_s OverSubscribe=EXCLUSIVE
PartitionName=high PriorityTier=10 PreemptMode=OFF
""")

NODE: Final = Template(
    "NodeName=$name NodeHostname=localhost NodeAddr=127.0.0.1 Port=$port CPUs=$n_cpus Boards=1 SocketsPerBoard=1"
    " CoresPerSocket=$n_cpus ThreadsPerCore=1 RealMemory=64000 Gres=gpu:a100:$n_gpus"
)

DATABASE_CONF: Final = Template("""\
AuthType=auth/munge
AuthInfo=socket=$folder/munge/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$database_port
CommunicationParameters=NoInAddrAny
SlurmUser=$user
PidFile=$folder/run/slurmdbd.pid
LogFile=$folder/log/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=$user
StorageLoc=slurm_accounting
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the cluster looks like; kept in the folder, so that `up` again means the same cluster."""

    base_port: int
    n_nodes: int = 2
    n_gpus: int = 8
    n_cpus: int = 16
    max_array_size: int = 1001  # SLURM's own default
    grace_s: int = 20  # between the warning of a preemption and the end

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes."""
        return [f"node{number}" for number in range(1, self.n_nodes + 1)]

    def files(self, folder: Path) -> dict[str, str]:
        """The text of each configuration file by name."""
        nodes = "\n".join(
            NODE.substitute(name=name, port=self.base_port + 2 + index, n_cpus=self.n_cpus, n_gpus=self.n_gpus)
            for index, name in enumerate(self.nodes)
        )
        values = {
            "cluster": CLUSTER,
            "folder": folder,
            "user": getpass.getuser(),
            "controller_port": self.base_port,
            "database_port": self.base_port + 1,
            "max_array_size": self.max_array_size,
            "grace_s": self.grace_s,
            "nodes": nodes,
        }
        gpus = "".join(
            f"NodeName={node} Name=gpu Type=a100 File={folder}/dev/nvidia{gpu}\n"
            for node in self.nodes
            for gpu in range(self.n_gpus)
        )
        return {
            "slurm.conf": SLURM_CONF.substitute(values),
            "slurmdbd.conf": DATABASE_CONF.substitute(values),
            "gres.conf": f"AutoDetect=off\n{gpus}",
            "cgroup.conf": "CgroupAutomount=no\n",
            "plugstack.conf": "",
        }
