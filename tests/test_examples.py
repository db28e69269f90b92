"""The ready-made cluster jobs are well-formed, and the command in each is one that we have."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from torch.distributed.run import get_args_parser

from parallel_core.cli.plan_options import given
from parallel_core.cli.run_command import command
from parallel_core.places import assets
from parallel_core.plan import Plan, flat_fields

FOLDER = assets() / "examples"
SLURM, JOB = FOLDER / "slurm.sh", FOLDER / "pytorchjob.yaml"


def slurm_words() -> list[str]:
    """The words that srun starts, with the variables that Slurm sets filled in."""
    text = SLURM.read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = [one for one in text.splitlines() if one.startswith("srun ")]
    values = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": "/home/me"}
    values |= {"first": "node1", "port": "20007"}
    filled = re.sub(r"\$(\w+)", lambda match: values[match[1]], line)
    assert "$" not in filled
    return shlex.split(filled)[1:]


def job() -> dict:
    """The Kubernetes object."""
    return yaml.safe_load(JOB.read_text(encoding="utf-8"))


def job_words() -> list[str]:
    """The command of its one container."""
    (container,) = job()["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    return container["command"]


def plan_of(words: list[str]) -> tuple[object, Plan]:
    """What torchrun's own parser makes of its options, and the plan that our command line names."""
    assert words[0] == "torchrun"
    split = words.index("-m")
    assert words[split : split + 3] == ["-m", "parallel_core.cli", "run"]
    agent = get_args_parser().parse_args([*words[1:split], "-m", "parallel_core.cli"])
    options = given(command.make_context("run", words[split + 3 :]).params)
    fields = flat_fields()
    return agent, Plan.of(**{name: value for name, value in options.items() if name in fields})


def test_the_slurm_script_is_bash():
    """bash reads it to the end; every #SBATCH line is an option with a value."""
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-n", str(SLURM)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", SLURM.read_text(), re.MULTILINE))
    assert len(asked) == SLURM.read_text().count("#SBATCH") and asked["ntasks-per-node"] == "1"


def test_slurm_starts_as_many_ranks_as_the_layout_has():
    """Nodes times ranks a node is the world size of a legal plan; the agents meet by c10d."""
    agent, plan = plan_of(slurm_words())
    nodes = int(re.search(r"--nodes=(\d+)", SLURM.read_text())[1])
    gpus = int(re.search(r"--gpus-per-node=(\d+)", SLURM.read_text())[1])
    assert int(agent.nproc_per_node) == gpus and int(agent.nnodes) == nodes
    assert plan.world_size == nodes * gpus
    assert agent.rdzv_backend == "c10d" and agent.rdzv_endpoint == "node1:20007"
    assert agent.rdzv_id == "7"


def test_slurm_gives_the_agent_its_cores():
    """srun does not take over what sbatch was told: the variable it reads is set before it."""
    text = SLURM.read_text(encoding="utf-8")
    asked = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
    assert "#SBATCH --cpus-per-task=" in text and 0 < text.find(asked) < text.find("\nsrun ")


def test_the_pytorchjob_starts_as_many_ranks_as_the_layout_has():
    """Replicas times processes a node is the world size; the elastic range is that one number."""
    spec = job()["spec"]
    worker, elastic = spec["pytorchReplicaSpecs"]["Worker"], spec["elasticPolicy"]
    agent, plan = plan_of(job_words())
    assert plan.world_size == worker["replicas"] * int(spec["nprocPerNode"])
    assert elastic["minReplicas"] == elastic["maxReplicas"] == worker["replicas"]
    assert agent.rdzv_backend == elastic["rdzvBackend"] == "c10d"
    # not left to the operator, whose variables for them have changed their names
    assert int(agent.nnodes) == worker["replicas"] and agent.rdzv_id == job()["metadata"]["name"]
    assert agent.nproc_per_node == spec["nprocPerNode"] and agent.rdzv_endpoint == ""
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(spec["nprocPerNode"])
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert (job()["apiVersion"], job()["kind"]) == ("kubeflow.org/v1", "PyTorchJob")


@pytest.mark.parametrize("wrong", ["--dp=3 --pp=2 --heads=7", "--no-such-option"])
def test_a_wrong_command_line_would_be_noticed(wrong):
    """The check can fail: an illegal plan and an unknown option both raise."""
    with pytest.raises(Exception, match=r"dp|heads|no-such-option"):
        plan_of(["torchrun", "-m", "parallel_core.cli", "run", *wrong.split()])
