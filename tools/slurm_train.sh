#!/usr/bin/env bash
# Train under Slurm: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [ARGS]
# Set GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS to change the defaults.
# Example: tools/slurm_train.sh gpu m3 mask_rcnn_recnext_m3_coco.py work_dirs/m3 --amp
set -euo pipefail
help() { sed -n '2,4s/^# //p' "$0"; }
case ${1-} in -h | --help) help; exit ;; esac
[ $# -ge 4 ] || { help >&2; exit 2; }
MMRECNEXT_COMMAND=$(printf '%q ' "$0" "$@") # for the line that says how to resume
export MMRECNEXT_COMMAND
partition=$1 job=$2 config=$3 work_dir=$4
shift 4
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# SRUN_ARGS holds several words.
# shellcheck disable=SC2086
exec srun --partition="$partition" --job-name="$job" --kill-on-bad-exit=1 \
    --ntasks="$gpus" --ntasks-per-node="$per_node" --gres="gpu:$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$config" \
    --work-dir "$work_dir" --launcher slurm "$@"
