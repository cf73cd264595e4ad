"""Installs SLURM from the distribution's packages, without starting the services that these bring."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PACKAGES: Final = {  # Debian and Ubuntu: package by a program that it brings
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
    "sbatch": "slurm-client",
    "mariadbd": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
}
SYSTEM_PATH: Final = "/usr/sbin:/sbin"  # where daemons lie, often not on a user's PATH
POLICY: Final = Path("/usr/sbin/policy-rc.d")  # invoke-rc.d(8): exit code 101 forbids the start of a service


class PackagesMissing(Exception):
    """SLURM is not installed here and could not be; the message says what to do."""


def program(name: str) -> str | None:
    """The path of a program, daemons included, or None where it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def install_missing(log: Path) -> list[str]:
    """The packages that were installed now. Raises: PackagesMissing."""
    missing = sorted({package for name, package in PACKAGES.items() if program(name) is None})
    if not missing:
        return []
    by_hand = f"apt-get install --no-install-recommends {' '.join(missing)}"
    if shutil.which("apt-get") is None:
        raise PackagesMissing(f"install SLURM, munge and MariaDB first; on Debian and Ubuntu: {by_hand}")
    if os.geteuid() != 0:
        raise PackagesMissing(f"packages are missing; as root: {by_hand}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with open(log, "wb") as output, _no_services():
        for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            ran = subprocess.run(["apt-get", "-q", *command], env=env, stdout=output, stderr=output, check=False)
    if ran.returncode:
        raise PackagesMissing(f"`{by_hand}` failed: see {log}")
    return missing


@contextmanager
def _no_services() -> Iterator[None]:
    """While packages are installed: keep them from starting a cluster of their own on this machine."""
    try:
        with open(POLICY, "x", encoding="ascii") as file:
            file.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:
        yield  # the machine has a policy already
        return
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
