"""`make slurm` on a real Slurm of one node, started in a temporary folder."""

import contextlib
import os
import platform
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cifarlib import project_root, records, status
from cifarlib.params import load_params

SBIN = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
if not all(shutil.which(name, path=SBIN) for name in ("munged", "slurmctld", "slurmd", "sbatch")):
    pytest.skip("no Slurm here: slurmctld slurmd slurm-client munge", allow_module_level=True)

CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
# a requeued job waits until its credential has expired: 120 s unless told
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1
KillWait=3
# a job lost with its node is noticed as soon as the node is back
BatchStartTimeout=1
MessageTimeout=5
ReturnToService=2
# whatever cores this machine has
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4 Gres=gpu:1
PartitionName=tests Nodes=one Default=YES State=UP
"""


class OneNode:
    """slurmctld, slurmd and munged of their own ports, keys and folders, without systemd.

    Every process, jobs included, has SLURM_CONF in its environment or works in the folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.daemons = {}
        dropped = ("MAKE", "MFLAGS", "SLURM", "SBATCH")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        self.environment = kept | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": SBIN}
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        (folder / "munge.key").touch(0o600)
        (folder / "munge.key").write_bytes(os.urandom(128))
        host = platform.node().partition(".")[0]
        servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        ports = [server.getsockname()[1] for server in servers]
        for server in servers:
            server.close()
        # one pretend GPU: --gpus=1 is one job at a time
        (folder / "gres.conf").write_text("Name=gpu File=/dev/zero\n")
        user = pwd.getpwuid(os.geteuid()).pw_name
        values = {"host": host, "user": user, "ports": ports, "folder": folder}
        (folder / "slurm.conf").write_text(CONF.format(**values))

    def start(self, name: str, options: str) -> None:
        command = [shutil.which(name, path=SBIN), *options.split()]
        how = {"cwd": self.folder, "env": self.environment, "start_new_session": True}
        with open(self.folder / f"{name}.out.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=log, **how)

    def kill(self, spare: tuple[str, ...] = ()) -> None:
        spared = {self.daemons[name].pid for name in spare}
        conf = self.environment["SLURM_CONF"]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_here = process.cwd() == str(self.folder)
                is_ours = is_here or process.environ().get("SLURM_CONF") == conf
                if is_ours and process.pid not in spared:
                    process.kill()

    def __call__(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout


def until(true, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


SCHEDULE = {"epochs": 2, "train_images": 256}
LONG = 600  # seconds that nothing here takes, on however busy a machine


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    node = OneNode(tmp_path_factory.mktemp("slurm"))
    try:
        munge = "-F -f --key-file=munge.key --seed-file=munge.seed --pid-file=munged.pid"
        node.start("munged", f"{munge} --socket={node.folder}/munge.socket")
        until(lambda: (node.folder / "munge.socket").exists(), 10)
        node.start("slurmctld", "-D")
        node.start("slurmd", "-D -N one")
        until(lambda: node("sinfo", "-h", "-o", "%T").strip() == "idle", 30)
        yield node
    finally:
        node.kill()
        for daemon in node.daemons.values():
            daemon.wait()


def make(slurm, target, outputs, runs, **variables):
    """Return a command for subprocess, with what it needs."""
    given = {"RUNS": runs, "EPOCHS": 2, "TRAIN_IMAGES": 256, "OUTPUTS": outputs, "SETUP": ""}
    given |= {"BIN": Path(sys.executable).parent, **variables}
    options = {"cwd": project_root(), "env": slurm.environment, "text": True}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return {"args": ["make", target, *(f"{k}={v}" for k, v in given.items())], **options}


def folder_of(run, outputs):
    return outputs / load_params(run, **SCHEDULE).folder


def submit(*arguments, **variables):
    """Return array job, number of runs and folder of logs."""
    done = subprocess.run(**make(*arguments, **variables))
    assert done.returncode == 0, done.stdout
    return re.search(r"batch job (\d+)\n== (\d+) runs, logs in (.*); make", done.stdout).groups()


@dataclass
class Task:
    """One task of an array, and the folder it trains in."""

    slurm: OneNode
    job: str
    folder: Path

    @property
    def state(self):
        return self.slurm("squeue", "-h", "-r", "-t", "all", "-j", self.job, "-o", "%T").strip()

    def freeze_after(self, epoch):
        """Stop the training process once that epoch is saved; it stays until something ends it."""
        until(lambda: len(records.read_history(self.folder / "unfinished")) >= epoch, LONG)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.folder / ".lock") in [file.path for file in process.open_files()]:
                    process.suspend()
        assert len(records.read_history(self.folder / "unfinished")) == epoch

    def wait_for_start(self, number):
        def started():
            shown = self.slurm("scontrol", "show", "job", self.job)
            return f"Restarts={number} " in shown and "JobState=RUNNING" in shown

        until(started, LONG)


def test_after_faults_every_run_is_done(slurm, tmp_path):
    """Run 6 cannot start and is repaired; run 7 reaches its time limit, then loses its node."""
    outputs = tmp_path / "outputs (R&D)"
    garbage = folder_of("run6", outputs) / "unfinished" / "checkpoint.pt"
    garbage.parent.mkdir(parents=True)
    garbage.write_text("garbage")
    # the warning comes two minutes early, so that the test need not wait for the limit itself
    options = "--gpus=1 --time=60 --signal=B:USR1@120 --comment='my own'"
    array, n, logs = submit(slurm, "slurm", outputs, "run6 run7", SBATCH=options)
    assert n == "2"
    failing = Task(slurm, f"{array}_1", folder_of("run6", outputs))
    task = Task(slurm, f"{array}_2", folder_of("run7", outputs))
    until(lambda: failing.state == "FAILED", LONG)
    assert "checkpoint.pt is damaged" in Path(logs, "1.log").read_text(encoding="utf-8")

    task.freeze_after(1)
    assert status.read(task.folder).state == "running"
    garbage.unlink()
    refused = subprocess.run(**make(slurm, "slurm", outputs, "run6 run7"))
    assert refused.returncode != 0
    assert "error: jobs of the name cifarlib are queued or running" in refused.stdout
    slurm("scontrol", "update", f"JobId={task.job}", "TimeLimit=2")
    until(lambda: task.state != "RUNNING", LONG)
    slurm("scontrol", "update", f"JobId={task.job}", "TimeLimit=60")
    task.wait_for_start(1)
    assert "the time limit is near" in Path(logs, "2.log").read_text(encoding="utf-8")
    # the task alone was requeued, not the array
    assert Path(logs, "1.log").read_text(encoding="utf-8").count(": job ") == 1

    task.freeze_after(2)
    slurm.kill(spare=("munged", "slurmctld"))
    slurm.start("slurmd", "-D -N one")
    task.wait_for_start(2)
    until(lambda: task.state == "COMPLETED", LONG)

    array, n, _ = submit(slurm, "slurm", outputs, "run6 run7")
    assert n == "1"
    until(lambda: Task(slurm, f"{array}_1", folder_of("run6", outputs)).state == "COMPLETED", LONG)
    nothing = subprocess.run(**make(slurm, "slurm", outputs, "run6 run7")).stdout
    assert "nothing to submit: all of these runs are done" in nothing

    sessions = records.read_record(task.folder)["sessions"]
    assert [session["first_epoch"] for session in sessions] == [1, 2, 3]


def test_a_run_without_an_epoch_before_the_time_limit_fails_instead_of_starting_for_ever(
    slurm, tmp_path
):
    array, _, logs = submit(slurm, "slurm", tmp_path, "run7")
    task = Task(slurm, f"{array}_1", folder_of("run7", tmp_path))
    log = Path(logs, "1.log")
    until(lambda: log.exists() and "record and notebook" in log.read_text(encoding="utf-8"), LONG)
    # Slurm's own warning, without the wait for it
    slurm("scancel", "--batch", "--signal=USR1", task.job)
    until(lambda: task.state == "FAILED", LONG)
    assert "error: run7/0 saved no epoch within the time limit" in log.read_text(encoding="utf-8")
    until(lambda: not status.is_locked(task.folder), 30)  # nothing of it goes on
