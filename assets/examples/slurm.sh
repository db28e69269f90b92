#!/bin/bash
# One layout over two nodes with four GPUs each, under Slurm:   sbatch slurm.sh
#
# Slurm starts one torchrun agent a node, the agents meet at the first node's port (c10d
# rendezvous), and each starts its four ranks. Rank 0 writes the report and the trace; the clocks
# of the nodes are measured before and after the run, and the trace says how sure they are.
# No GPUs: leave out --gpus-per-node; the same command then runs on gloo.

#SBATCH --job-name=shardlab
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=00:20:00
#SBATCH --output=%x-%j.out

set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs on one node must not meet
export OMP_NUM_THREADS=1
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # from 22.05 on srun does not ask sbatch

srun torchrun \
  --nnodes "$SLURM_NNODES" \
  --nproc-per-node 4 \
  --rdzv-id "$SLURM_JOB_ID" \
  --rdzv-backend c10d \
  --rdzv-endpoint "$first:$port" \
  -m parallel_core.cli run --dp 4 --pp 2 --steps 50 \
  --trace "$SLURM_SUBMIT_DIR/trace-$SLURM_JOB_ID.json"
