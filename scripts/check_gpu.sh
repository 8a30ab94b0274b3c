#!/usr/bin/env bash
# All that only a GPU can show, in one command: bash scripts/check_gpu.sh
# One line a check: ok, FAILED, or why it could not be made here. Exit status 1 if one failed.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
python=${PYTHON:-python}
gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())') || exit 1
bf16=$("$python" -c 'import torch; print(int(torch.cuda.is_bf16_supported()))' 2>/dev/null)

# A network with batch norm and convolutions, two methods' worth of replay, uneven last batches.
run=(model=derpp dataset=seq-mnist backbone=reduced-resnet18 buffer.size=100 dataset.batch_size=32
     dataset.iterations=60 dataset.stop_after=2 training.log_every=20 checkpoint.save=true
     tracking.console=off optimizer.lr=0.03)

one() { # NAME, overrides: a run on one GPU in $work/NAME
    local name=$1
    shift
    (cd "$work" && exec "$python" "$here/train.py" "${run[@]}" hydra.run.dir="$name" device=cuda "$@") \
        >"$work/$name.log" 2>&1
}

many() { # RANKS, NAME, overrides: a run under torchrun in $work/NAME
    local n=$1 name=$2
    shift 2
    (cd "$work" && "$python" -m torch.distributed.run --standalone --nproc-per-node="$n" \
        "$here/train.py" "${run[@]}" hydra.run.dir="$name" "$@") >"$work/$name.log" 2>&1
}

same() { "$python" "$here/scripts/compare_ends.py" "$work/$1" "$work/$2" >"$work/$2.diff" 2>&1; }

killed() { # NAME, overrides: a run that is killed once it has saved within a task, and resumed
    local name=$1
    shift
    one "$name" checkpoint.every="7 steps" checkpoint.resume=auto "$@" 2>/dev/null &
    local job=$!
    until compgen -G "$work/$name/checkpoints/step-*.json" >/dev/null; do
        kill -0 $job 2>/dev/null || break
        sleep 0.2
    done
    pkill -KILL -P $job 2>/dev/null
    wait $job 2>/dev/null
    one "$name" checkpoint.every="7 steps" checkpoint.resume=auto "$@"
}

check() { # WHAT, command …
    local what=$1
    shift
    if "$@"; then
        echo "ok           $what"
    else
        failed=1
        echo "FAILED       $what"
        tail -n 5 "$work"/*.log "$work"/*.diff 2>/dev/null | sed 's/^/             /' | tail -n 15
    fi
}

skip() { echo "not checked  $1 ($2)"; }

twice() { one "$1-a" "${@:2}" && one "$1-b" "${@:2}" && same "$1-a" "$1-b"; }
resumed() { one "$1-calm" "${@:2}" && killed "$1-rough" "${@:2}" && same "$1-calm" "$1-rough"; }
across() { one two-shards training.shards=2 && many "$1" "nccl-$1" training.shards=2 &&
    same two-shards "nccl-$1"; }

echo "$gpus GPU(s) on this machine"
if [ "$gpus" -lt 1 ]; then
    no="no GPU"
    skip "a run on a GPU gives the same bits twice (deterministic kernels)" "$no"
    skip "two shards on one GPU give the same bits twice, and after a kill" "$no"
    skip "mixed precision in bf16 and fp16" "$no"
    skip "NCCL on two GPUs: the bits of one GPU, FSDP, overlapped sums, global batch norm" "$no"
    exit 0
fi

check "a run on a GPU gives the same bits twice (deterministic kernels)" twice plain
check "a killed run on a GPU ends with the same bits" resumed kill
check "two shards on one GPU give the same bits twice" twice sharded training.shards=2
check "two shards on one GPU, killed, end with the same bits" resumed shkill training.shards=2
check "fp16 gives the same bits twice" twice fp16 training.precision=fp16
if [ "$bf16" = 1 ]; then
    check "bf16 gives the same bits twice" twice bf16 training.precision=bf16
else
    skip "bf16" "this GPU has none"
fi
check "torchrun with one process ends with the bits of two shards on one GPU" across 1
if [ "$gpus" -ge 2 ]; then
    check "NCCL on two GPUs ends with the bits of two shards on one GPU" across 2
    check "FSDP on two GPUs" many 2 fsdp training.parallel=fsdp
    check "overlapped sums on two GPUs" many 2 loose training.exact=false
    check "global batch norm on two GPUs" many 2 normed training.sync_batchnorm=true
    check "buffers in parts on two GPUs" many 2 local training.replay_sync=local
else
    skip "NCCL on two GPUs: the bits of one GPU, FSDP, overlapped sums, global batch norm" "one GPU"
fi
exit $failed
