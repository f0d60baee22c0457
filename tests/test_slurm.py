"""`make slurm` on a real Slurm of one node, started in a temporary folder."""

import contextlib
import os
import platform
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from cifarlib import grid, project_root, records
from cifarlib.params import load_params

DAEMONS = ("munged", "slurmctld", "slurmd")
SBIN = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
if not all(shutil.which(name, path=SBIN) for name in (*DAEMONS, "sbatch")):
    pytest.skip(
        "Slurm is not installed here: slurmctld slurmd slurm-client munge", allow_module_level=True
    )


class OneNode:
    """slurmctld, slurmd and munged of their own ports, keys and folders, by whoever runs the tests,
    without systemd.

    Every process of it, jobs included, carries SLURM_CONF in its environment or works in its
    folder: that is how the last of them is found."""

    def __init__(self, folder: Path):
        self.folder, self.daemons = folder, {}
        conf = folder / "slurm.conf"
        self.environment = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("MAKE", "MFLAGS", "SLURM", "SBATCH"))
        }
        self.environment |= {"SLURM_CONF": str(conf), "PATH": SBIN}
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "munge.key").touch(0o600)
        (folder / "munge.key").write_bytes(os.urandom(128))
        user, host = pwd.getpwuid(os.geteuid()).pw_name, platform.node().split(".")[0]
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0)), two.bind(("127.0.0.1", 0))
            ports = one.getsockname()[1], two.getsockname()[1]
        # one pretend GPU: --gpus=1 is one job at a time
        (folder / "gres.conf").write_text("Name=gpu File=/dev/zero\n")
        conf.write_text(f"""
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
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1
KillWait=3
BatchStartTimeout=1
MessageTimeout=5
ReturnToService=2
# whatever cores this machine has
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4 Gres=gpu:1
PartitionName=tests Nodes=one Default=YES State=UP
""")

    def start(self, name: str) -> None:
        options = {
            "munged": [
                "--foreground",
                "--force",
                "--key-file=munge.key",
                f"--socket={self.folder}/munge.socket",
                "--pid-file=munged.pid",
                "--seed-file=munge.seed",
                "--log-file=munged.log",
            ],
            "slurmctld": ["-D"],
            "slurmd": ["-D", "-N", "one"],
        }[name]
        with open(self.folder / f"{name}.out.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                [shutil.which(name, path=SBIN), *options],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self):
        try:
            for name in DAEMONS:
                self.start(name)
                if name == "munged":
                    until(lambda: (self.folder / "munge.socket").exists(), 10)
            until(lambda: self("sinfo", "-h", "-o", "%T").strip() == "idle", 30)
        except BaseException:
            print(
                *(path.read_text(errors="replace") for path in self.folder.glob("*.log")), sep="\n"
            )
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.kill(signal.SIGKILL, spare=())
        for daemon in self.daemons.values():
            daemon.wait()

    def kill(self, number: int, spare: tuple[str, ...]) -> None:
        spared = {self.daemons[name].pid for name in spare}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid not in spared and self.owns(process):
                    process.send_signal(number)

    def owns(self, process: psutil.Process) -> bool:
        conf = self.environment["SLURM_CONF"]
        return process.environ().get("SLURM_CONF") == conf or process.cwd() == str(self.folder)

    def __call__(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout


def until(true, seconds: float) -> None:
    """Waits for it; fails when it has not come in time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


SCHEDULE = {"epochs": 2, "train_images": 256}
LONG = 600  # seconds that nothing here takes, on however busy a machine


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with OneNode(tmp_path_factory.mktemp("slurm")) as node:
        # one thread a run: they share few cores with each other, and sums come out the same in all
        # of them
        node.environment["OMP_NUM_THREADS"] = "1"
        yield node


def make(slurm, target, outputs, runs, **variables):
    """A command for subprocess, with what it needs."""
    given = {
        "RUNS": runs,
        "EPOCHS": 2,
        "IMAGES": 256,
        "OUTPUTS": outputs,
        "REPORT": "status",
        "SETUP": "",
    }
    given |= {"BIN": Path(sys.executable).parent, **variables}
    options = {"cwd": project_root(), "env": slurm.environment, "text": True}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return {"args": ["make", target, *(f"{k}={v}" for k, v in given.items())], **options}


def submit(*arguments, **variables):
    """array job, number of runs, folder of logs, report job"""
    done = subprocess.run(**make(*arguments, **variables))
    assert done.returncode == 0, done.stdout
    return re.search(
        r"array job (\d+): (\d+) runs, logs in (.*)\n== job (\d+): make status", done.stdout
    ).groups()


def status(*arguments):
    """What `make status` says: {run: words of its line}"""
    done = subprocess.run(**make(*arguments))
    assert done.returncode == 0, done.stdout
    return {line.split()[0]: line.split()[2:] for line in done.stdout.splitlines()}


class Task:
    """One task of an array, and the folder it trains in."""

    def __init__(self, slurm, job, outputs, run):
        self.slurm, self.job, self.folder = (
            slurm,
            job,
            outputs / load_params(run, **SCHEDULE).folder,
        )

    @property
    def state(self):
        return self.slurm("squeue", "-h", "-r", "-t", "all", "-j", self.job, "-o", "%T").strip()

    def freeze_after(self, epoch):
        """Stops the training process as soon as that epoch is saved: there it stays until something
        ends it."""
        saved = self.folder / "unfinished" / "history.csv"
        until(
            lambda: saved.exists() and len(records.unfinished_history(self.folder)) >= epoch, LONG
        )
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.folder / ".lock") in [file.path for file in process.open_files()]:
                    process.suspend()
        assert len(records.unfinished_history(self.folder)) == epoch

    def wait_for_start(self, number):
        def started():
            shown = self.slurm("scontrol", "show", "job", self.job)
            return f"Restarts={number} " in shown and "JobState=RUNNING" in shown

        until(started, LONG)


def test_faults_leave_the_record_of_an_undisturbed_run(slurm, tmp_path):
    """Run 6 cannot start and is repaired; run 7 is stopped by its time limit, then requeued, then
    its node is lost."""
    outputs, undisturbed = tmp_path / "outputs (R&D)", tmp_path / "local"
    garbage = outputs / load_params("run6", **SCHEDULE).folder / "unfinished" / "checkpoint.pt"
    garbage.parent.mkdir(parents=True)
    garbage.write_text("garbage")
    # the warning comes two minutes early, so that the test need not wait for the limit itself
    array, n, logs, report = submit(
        slurm,
        "slurm",
        outputs,
        "run6 run7",
        SBATCH="--gpus=1 --time=60 --signal=B:USR1@120 -J 'my own'",
    )
    assert n == "2"
    local = subprocess.Popen(**make(slurm, "table", undisturbed, "run7"))
    failing, task = (
        Task(slurm, f"{array}_1", outputs, "run6"),
        Task(slurm, f"{array}_2", outputs, "run7"),
    )
    until(lambda: failing.state == "FAILED", LONG)
    told = status(slurm, "status", outputs, "run6 run7")["run6"]
    assert told[:3] == ["failed", "FAILED", failing.job]
    assert "checkpoint.pt is damaged" in " ".join(told)

    task.freeze_after(1)
    assert status(slurm, "status", outputs, "run6 run7")["run7"][:3] == [
        "running",
        "RUNNING",
        task.job,
    ]
    garbage.unlink()
    _, n, second_logs, second_report = submit(slurm, "slurm", outputs, "run6 run7")
    assert n == "1"  # run 6 again; run 7 is still there
    # what the second report waits for
    assert f"{array}_2" in slurm("scontrol", "show", "job", second_report)
    nothing = subprocess.run(**make(slurm, "slurm", outputs, "run6 run7"))
    assert "nothing to submit: 2 runs are queued or running" in nothing.stdout

    slurm("scontrol", "update", f"JobId={task.job}", "TimeLimit=2")
    until(lambda: task.state != "RUNNING", LONG)
    slurm("scontrol", "update", f"JobId={task.job}", "TimeLimit=60")
    task.wait_for_start(1)
    assert "the time limit is near" in Path(logs, "2.log").read_text()
    # the task alone was requeued, not the array
    assert Path(logs, "1.log").read_text().count(": job ") == 1

    until(lambda: "after epoch 1" in Path(logs, "2.log").read_text(), LONG)
    slurm("scontrol", "requeue", task.job)  # as preemption does, in the middle of an epoch
    task.wait_for_start(2)

    task.freeze_after(2)
    slurm.kill(signal.SIGKILL, spare=("munged", "slurmctld"))
    slurm.start("slurmd")
    task.wait_for_start(3)

    until(lambda: task.state == "COMPLETED", LONG)
    until(lambda: Task(slurm, second_report, outputs, "run7").state == "COMPLETED", LONG)
    assert Task(slurm, report, outputs, "run7").state == "CANCELLED"  # a run of its array failed
    assert not Path(logs, "report.log").exists()
    assert Path(second_logs, "report.log").read_text().splitlines()[-1] == "2 done"

    output, _ = local.communicate()
    assert local.returncode == 0, output
    expected = undisturbed / task.folder.relative_to(outputs)
    record = records.read_record(task.folder)
    assert [session["first_epoch"] for session in record["sessions"]] == [1, 2, 3]
    # measured, while the machine is busy
    assert record["precision"] == records.read_record(expected)["precision"]
    assert untimed(task.folder) == untimed(expected)
    assert (task.folder / "predictions.npz").read_bytes() == (
        expected / "predictions.npz"
    ).read_bytes()
    ours, theirs = (
        records.load_model(folder / "model.safetensors")[0] for folder in (task.folder, expected)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    # nothing to train, but no report waits
    again = subprocess.run(**make(slurm, "slurm", outputs, "run6 run7")).stdout
    assert "array job" not in again
    job = re.search(r"== job (\d+): make status", again)[1]
    until(lambda: Task(slurm, job, outputs, "run7").state == "COMPLETED", LONG)
    for wrong, says in {
        "--array=%4": 'error: SBATCH="--array=%4" cannot be given',
        "--clusters=all": 'error: SBATCH="--clusters=all" cannot be given',
        # Slurm's own word: this node has neither
        "--constraint=a100|h100": "Invalid feature specification",
        "--comment='half": "error: SBATCH=--comment='half: a quote is not closed",
    }.items():
        refused = subprocess.run(**make(slurm, "slurm", outputs, "run6 run7", SBATCH=wrong))
        assert refused.returncode != 0
        assert says in refused.stdout


def untimed(folder):
    return [
        {k: v for k, v in row.items() if "seconds" not in k} for row in records.read_history(folder)
    ]


def test_a_run_without_an_epoch_before_the_time_limit_fails_instead_of_starting_for_ever(
    slurm, tmp_path
):
    array, _, logs, report = submit(slurm, "slurm", tmp_path, "run7")
    until(
        lambda: (
            "training run"
            in (Path(logs, "1.log").read_text() if Path(logs, "1.log").exists() else "")
        ),
        LONG,
    )
    # Slurm's own warning, without the wait for it
    slurm("scancel", "--batch", "--signal=USR1", f"{array}_1")
    task = Task(slurm, f"{array}_1", tmp_path, "run7")
    until(lambda: task.state == "FAILED", LONG)
    told = status(slurm, "status", tmp_path, "run7")["run7"]
    assert "failed FAILED" in " ".join(told)
    assert "error: run7/0 saved no epoch within the time limit" in " ".join(told)
    # not left in the queue
    until(lambda: Task(slurm, report, tmp_path, "run7").state == "CANCELLED", LONG)
    until(lambda: not grid.is_locked(task.folder), 30)  # nothing of it goes on


if __name__ == "__main__":  # a shell in which Slurm is there: python tests/test_slurm.py FOLDER
    with OneNode(Path(sys.argv[1]).resolve()) as node:
        subprocess.run(["bash"], env=node.environment)
