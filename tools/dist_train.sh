#!/usr/bin/env bash
# Train on several GPUs, or several CPU processes: dist_train.sh CONFIG PROCESSES [ARGS]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT.
# Example: tools/dist_train.sh mask_rcnn_recnext_m3_coco.py 8 --amp
set -euo pipefail
help() { sed -n '2,4s/^# //p' "$0"; }
case ${1-} in -h | --help) help; exit ;; esac
[ $# -ge 2 ] || { help >&2; exit 2; }
MMRECNEXT_COMMAND=$(printf '%q ' "$0" "$@") # for the line that says how to resume
export MMRECNEXT_COMMAND
config=$1 processes=$2
shift 2
exec "${PYTHON:-python}" -m mmrecnext.launch \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
