"""Resume: what is run again after which end, how often, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.backend import ClusterUnavailable, Control, JobState
from orchestrator.backends.submissions import read_submissions, save
from orchestrator.errors import RepeatedBug, SweepBusy, SweepNotFound
from orchestrator.folder import written
from orchestrator.jobs.retry import Mode, repeated_faults
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import (
    World,
    die,
    fail,
    finish,
    jobs_of,
    keys_of,
    newest_jobs,
    set_state,
    write_progress,
    write_shard,
)
from workers.files.failure import FailureClass
from workers.files.progress import AttemptState


def test_resume_runs_what_is_missing_or_failed(load: LoadSweep, world: World) -> None:
    """One job done, one failed: resume runs the failed one's cells, and only those without a row."""
    sweep = load()
    sweep.submit()
    first, second = jobs_of(sweep)
    finish(world, first)
    done = second.cohorts[0].cells[0].key
    write_shard(second, [done])
    fail(world, second, FailureClass.NODE)
    sweep.resume()
    assert keys_of(newest_jobs(sweep)) == sorted(set(keys_of([second])) - {done})


def test_resume_goes_on_elsewhere(load: LoadSweep, world: World) -> None:
    """A sweep drained on one backend is resumed on another, and both are asked for the status."""
    sweep = load(cluster={"nodes": 1, "gpus_per_node": 2, "gpu": "cpu"})
    sweep.submit(on="local")
    for job in jobs_of(sweep):
        set_state(world, job.job, JobState.CANCELLED)
    receipt = sweep.resume(on="ray")
    assert (receipt.backend, receipt.n_cells) == ("ray", 8)
    world.n_polls = 0
    sweep.status()
    assert world.n_polls == 2


def test_resume_of_nothing_says_so(load: LoadSweep, world: World) -> None:
    """A sweep that was never submitted cannot be resumed."""
    with pytest.raises(SweepNotFound, match="never submitted"):
        load().resume()


def test_resume_says_that_a_cluster_does_not_answer(load: LoadSweep, world: World) -> None:
    """Nothing can be handed over, because nobody knows what runs: that is no "nothing to run", and no number is spent
    on a submission."""
    sweep = load()
    sweep.submit()
    world.fails_with = ClusterUnavailable("no controller")
    with pytest.raises(SweepBusy, match=r"8 cells are in 2 jobs .*no controller.*\ntry again when local answers"):
        sweep.resume()
    assert [one.number for one in read_submissions(sweep.folder)] == [1]
    world.fails_with = None
    assert sweep.resume().submission is None


def test_resume_names_no_time_for_a_job_that_is_not_missed(load: LoadSweep, world: World) -> None:
    """Its cluster answers, and those who would know of the job do not: it never counts as lost."""
    sweep = load(jobs={"lost_after_s": 1})
    sweep.submit()
    world.states.clear()
    world.is_unanswered = True
    (record,) = read_submissions(sweep.folder)
    save(sweep.folder, record, created=0.0)
    with pytest.raises(SweepBusy, match=r"not seen by its cluster\ntry again when local answers"):
        sweep.resume()


def test_resume_says_when_an_unseen_job_counts_as_lost(load: LoadSweep, world: World) -> None:
    """Its cluster answers and does not show it: after `jobs.lost_after_s` its cells are free."""
    sweep = load(jobs={"lost_after_s": 90_000})
    sweep.submit()
    world.states.clear()
    with pytest.raises(SweepBusy, match=r"not seen by its cluster\ntry again in (90000|8[0-9]{4}) s"):
        sweep.resume()


def test_a_sweep_whose_submit_was_killed_early_is_resumed(load: LoadSweep, world: World) -> None:
    """Spec and cells are there, and no submission: `resume` hands everything over."""
    sweep = load()
    with written(sweep.folder, sweep.spec, sweep.grid):
        pass
    assert Sweep.load(sweep.folder.root).resume().n_cells == 8


def test_a_sweep_for_a_cluster_that_was_never_submitted_asks_where(load: LoadSweep, world: World) -> None:
    """Its spec has options of SLURM: nothing is run on this machine by a guess."""
    sweep = load(slurm={"partition": "gpu"}, cluster={"nodes": 1, "gpus_per_node": 2, "gpu": "a100"})
    with written(sweep.folder, sweep.spec, sweep.grid):
        pass
    with pytest.raises(SweepNotFound, match=r"never submitted.*\(key `slurm`\): say where .*--on slurm"):
        Sweep.load(sweep.folder.root).resume()
    assert Sweep.load(sweep.folder.root).resume(on="slurm").n_cells == 8


def test_group_with_a_checkpoint_stays_together(load: LoadSweep, world: World) -> None:
    """Cells that were trained side by side go into one cohort again, in the same order: what their checkpoint fits."""
    sweep = load(local={"workers": 1})
    sweep.submit()
    (job,) = jobs_of(sweep)
    fail(world, job, FailureClass.PREEMPTED)
    key = job.cohorts[0].key()
    (sweep.folder.checkpoints / f"{key[:24]}.{job.job}-0001.safetensors").write_bytes(b"")
    load(local={"workers": 8}).resume()
    cohorts = {cohort.key(): len(cohort.cells) for new in newest_jobs(sweep) for cohort in new.cohorts}
    assert cohorts[key] == 4
    assert len(cohorts) == 1 + 2  # the other cohort is free to be split between its two positions


def test_out_of_memory_is_tried_with_half(load: LoadSweep, world: World) -> None:
    """After an out-of-memory failure the same cells run with half the micro-batch and half the cohort."""
    sweep = load(local={"workers": 1})
    sweep.submit()
    (job,) = jobs_of(sweep)
    fail(world, job, FailureClass.OUT_OF_MEMORY)
    sweep.resume(mode=Mode.AUTO)
    (again,) = newest_jobs(sweep)
    assert (again.options.micro_batch, again.options.max_cohort) == (32, 2)


@pytest.mark.parametrize("kind", [FailureClass.BUG, FailureClass.BAD_INPUT, FailureClass.DIVERGED, FailureClass.SETUP])
def test_nobody_retries_what_will_fail_again(load: LoadSweep, world: World, kind: FailureClass) -> None:
    """Without a person a bug or bad input is left alone; a person's resume tries it."""
    sweep = load(local={"workers": 1})
    sweep.submit()
    fail(world, jobs_of(sweep)[0], kind)
    assert sweep.resume(mode=Mode.AUTO).submission is None
    assert sweep.resume().n_cells == 8


def test_retries_are_bounded(load: LoadSweep, world: World) -> None:
    """A job whose worker is killed each time is tried three times more, then left to a person."""
    sweep = load(local={"workers": 1})
    sweep.submit()
    n_tries = 0
    while sweep.resume(mode=Mode.AUTO).submission is not None or n_tries == 0:
        n_tries += 1
        fail(world, newest_jobs(sweep)[0], FailureClass.NODE, host=f"node{n_tries}")
    assert n_tries - 1 == 3


def test_preemption_costs_no_try(load: LoadSweep, world: World) -> None:
    """A preempted job is taken up again as often as it is preempted."""
    sweep = load(local={"workers": 1})
    sweep.submit()
    for _ in range(8):
        fail(world, newest_jobs(sweep)[0], FailureClass.PREEMPTED)
        assert sweep.resume(mode=Mode.AUTO).n_cells == 8


@pytest.mark.parametrize(("saved", "bound"), [(0.0, 21), (1.0, 25)])
def test_interruptions_that_save_nothing_are_bounded(load: LoadSweep, world: World, saved: float, bound: int) -> None:
    """A job stopped before each first checkpoint gets nowhere: after 20 retries it waits for a person. One that saved
    something resumes from there as often as it is stopped."""
    sweep = load(local={"workers": 1})
    sweep.submit()
    n_stops = 0
    while n_stops == 0 or (n_stops < 25 and sweep.resume(mode=Mode.AUTO).submission is not None):
        (job,) = newest_jobs(sweep)
        write_progress(job, AttemptState.INTERRUPTED, kind=FailureClass.PREEMPTED, saved=saved)
        set_state(world, job.job, JobState.PREEMPTED)
        n_stops += 1
    assert n_stops == bound


def test_a_job_that_dies_at_once_everywhere_stops_the_sweep(load: LoadSweep, world: World) -> None:
    """Three workers die on two nodes before they could begin or say why: sending others after them is no use."""
    sweep = load(local={"workers": 4})
    sweep.submit()
    first, second, third, last = jobs_of(sweep)
    finish(world, last)
    for job, node in ((first, "node1"), (second, "node2")):
        die(world, job.job, -6, node=node)
    assert not repeated_faults(sweep.status())
    die(world, third.job, -6, node="node1")
    with pytest.raises(RepeatedBug, match=r"death at the start \(.*\) ended 3 jobs"):
        sweep.resume(mode=Mode.AUTO)
    assert sweep.resume(force=True).n_cells == 6


def test_a_node_on_which_jobs_die_at_once_stops_nothing(load: LoadSweep, world: World) -> None:
    """Three workers die at once on one node while another runs: that node is avoided, and the jobs go elsewhere."""
    sweep = load(slurm={}, cluster={"nodes": 1, "gpus_per_node": 4, "gpu": "cpu"})
    sweep.submit(on="slurm")
    *dying, running = jobs_of(sweep)
    write_progress(running, AttemptState.RUNNING, phase="train", host="good")
    set_state(world, running.job, JobState.RUNNING)
    for job in dying:
        die(world, job.job, 1, node="bad")
    assert sweep.resume(on="slurm", mode=Mode.AUTO).n_cells == 6
    assert world.options[-1]["avoid"] == ["bad"]


def test_where_nothing_ever_began_one_node_is_enough(load: LoadSweep, world: World) -> None:
    """On a single machine on which every worker dies at once nothing is sent again without end."""
    sweep = load(local={"workers": 4})
    sweep.submit()
    for job in jobs_of(sweep):
        die(world, job.job, 1)
    with pytest.raises(RepeatedBug, match="death at the start"):
        sweep.resume(mode=Mode.AUTO)


def test_cancelled_cells_wait_for_a_person(load: LoadSweep, world: World) -> None:
    """What the user cancelled is resumed by the user alone."""
    sweep = load(local={"workers": 1})
    sweep.submit()
    set_state(world, "r1-0001", JobState.CANCELLED)
    assert sweep.resume(mode=Mode.AUTO).submission is None
    assert sweep.resume().n_cells == 8


def test_cancelled_attempt_that_wrote_a_checkpoint_waits_too(load: LoadSweep, world: World) -> None:
    """A worker told to end cannot say by whom; the backend's word that it was cancelled counts."""
    sweep = load(local={"workers": 1})
    sweep.submit()
    fail(world, newest_jobs(sweep)[0], FailureClass.PREEMPTED)
    set_state(world, "r1-0001", JobState.CANCELLED)
    assert sweep.resume(mode=Mode.AUTO).submission is None
    assert sweep.resume().n_cells == 8


def test_host_with_two_strikes_is_avoided(load: LoadSweep, world: World) -> None:
    """A host on which two attempts died is named to SLURM as one to avoid, beside those of the spec."""
    sweep = load(cluster={"nodes": 1, "gpus_per_node": 2, "gpu": "cpu"}, slurm={"avoid": ["old"]})
    sweep.submit(on="slurm")
    for job in jobs_of(sweep):
        fail(world, job, FailureClass.NODE, host="bad")
    sweep.resume()
    assert [options.get("avoid") for options in world.options] == [["old"], ["bad", "old"]]


def test_repeated_bug_stops_the_sweep(load: LoadSweep, world: World) -> None:
    """Three jobs ended by one bug: resume refuses and names it, unless forced; a smaller number does not stop it."""
    sweep = load(local={"workers": 4})
    sweep.submit()
    jobs = jobs_of(sweep)
    for job in jobs[:2]:
        fail(world, job, FailureClass.BUG, message="IndexError: 7")
    sweep.resume()
    for job in newest_jobs(sweep):
        fail(world, job, FailureClass.BUG, message="IndexError: 8")
    for job in jobs[2:3]:
        fail(world, job, FailureClass.BUG, message="IndexError: 9")
    with pytest.raises(RepeatedBug, match=r"IndexError.*\n.*errors small"):
        sweep.resume()
    assert sweep.resume(force=True).n_cells > 0


def test_watch_cancels_the_rest_after_a_repeated_bug(load: LoadSweep, world: World) -> None:
    """A sweep that heals itself stops what waits rather than burn it on a known fault."""
    sweep = load(local={"workers": 4})
    sweep.submit()
    jobs = jobs_of(sweep)
    for job in jobs[:3]:
        fail(world, job, FailureClass.BUG)
    with pytest.raises(RepeatedBug):
        list(sweep.watch(heal=True, poll_s=0))
    action, handles = world.orders[-1]
    assert action is Control.CANCEL
    assert [handle.rpartition("/")[2] for handle in handles] == [job.job for job in jobs[3:]]


def test_folder_alone_resumes(load: LoadSweep, world: World, tmp_path: Path) -> None:
    """Neither spec file nor model is needed to continue: the folder holds all."""
    load().submit()
    set_state(world, "r1-0001", JobState.FAILED)
    set_state(world, "r1-0002", JobState.FAILED)
    (tmp_path / "small.yaml").unlink()
    assert Sweep.load("small", sweeps=tmp_path / "sweeps").resume().n_cells == 8


def test_resume_from_a_grown_spec_writes_the_grown_grid(load: LoadSweep, world: World) -> None:
    """After resume with a larger grid the folder alone knows the new cells."""
    load().submit()
    grid = {"experiments": ["left_boundary", "bracket_identity"], "layers": [0, 1, 2], "positions": "80..81"}
    grown = load(grid=grid)
    assert grown.resume().n_cells == 4
    assert len(Sweep.load(grown.folder.root).status().cells) == 12


GRID = {"experiments": ["left_boundary"], "layers": [0], "positions": [80]}


def test_a_command_that_waits_never_takes_back_what_another_planned(load: LoadSweep, world: World) -> None:
    """`run` waits for one position. Somebody grows the sweep to two meanwhile. When `run` tries a lost job again, both
    positions stay planned."""
    waiting = load(grid=GRID)
    waiting.submit()
    grown = load(grid=GRID | {"positions": [80, 81]})
    grown.submit()
    for job in jobs_of(waiting):
        set_state(world, job.job, JobState.NODE_FAIL)
    next(waiting.watch(heal=True))
    assert waiting._healed()
    planned = Sweep.load(waiting.folder.root)
    assert planned.grid.n_cells == 2
    assert sorted(planned.spec.grid.positions) == [80, 81]
    assert len({key for job in newest_jobs(planned) for key in keys_of([job])}) == 2


def test_resume_of_a_folder_writes_neither_spec_nor_cells(load: LoadSweep, world: World) -> None:
    """A sweep that was read from its folder has nothing to say of them: between its reading and its resuming somebody
    may have grown the grid."""
    load(grid=GRID).submit()
    read = Sweep.load(load(grid=GRID).folder.root)
    load(grid=GRID | {"positions": [80, 81]}).submit()
    for job in jobs_of(read):
        set_state(world, job.job, JobState.NODE_FAIL)
    read.resume()
    assert Sweep.load(read.folder.root).grid.n_cells == 2


def test_cells_that_were_never_written_are_planned_again(load: LoadSweep, world: World) -> None:
    """A submit that was killed between the two files leaves the spec alone; the folder is a sweep all the same."""
    sweep = load(grid=GRID)
    sweep.submit()
    sweep.folder.cells.unlink()
    again = Sweep.load(sweep.folder.root)
    assert again.grid.n_cells == 1
    for job in jobs_of(sweep):
        set_state(world, job.job, JobState.NODE_FAIL)
    assert again.resume().n_cells == 1
    assert sweep.folder.cells.exists()
