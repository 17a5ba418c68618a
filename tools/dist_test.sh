#!/usr/bin/env bash
# Evaluate on several GPUs: dist_test.sh CONFIG CHECKPOINT PROCESSES [ARGS]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT.
# Example: tools/dist_test.sh mask_rcnn_recnext_m3_coco.py epoch_12.pth 8
set -euo pipefail
help() { sed -n '2,4s/^# //p' "$0"; }
case ${1-} in -h | --help) help; exit ;; esac
[ $# -ge 3 ] || { help >&2; exit 2; }
config=$1 checkpoint=$2 processes=$3
shift 3
exec "${PYTHON:-python}" -m mmrecnext.launch \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
