#!/usr/bin/env bash
# From nothing but python3 to a trained AlexNet: launch/demo.sh [flags of alexnet_dist.train]
#
# Makes a virtual environment, draws scikit-learn's handwritten digits as images, trains the full network on 2 ranks,
# measures it on images that it has never seen, and classifies one of them. All of it stays in .venv and demo/.

# shellcheck source-path=SCRIPTDIR
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/common.sh"

set_up demo

digits=$root/demo/digits
run=$root/demo/run-$(date +%Y%m%d-%H%M%S)
train=("$root/launch/local.sh" 2 --config "$root/launch/demo.toml" --output-dir "$run"
    --data "$digits/images.list" --val "$digits/val.list" "$@")

[[ -e $digits/test.list ]] || python -m alexnet_dist.prepare digits --output "$digits"

echo
echo "Training on 2 ranks"
status=0
"${train[@]}" || status=$?
if ((status == 75)); then
    printf '\nStopped. To go on:\n %s --resume\n' "$(printf ' %q' "${train[@]}")"
fi
((status == 0)) || exit "$status"

echo
echo "Measuring the best weights on the held-out images of $digits/test.list"
mpirun -n 2 python -m alexnet_dist.evaluate --load "$run/best.safetensors" --data "$digits/test.list"

echo
echo "What is on the first of them?"
read -r _ image <"$digits/test.list"
python -m alexnet_dist.inference --load "$run/best.safetensors" --input "$digits/$image" --topk 3

cat <<END

Best weights      $run/best.safetensors
Last checkpoint   $run/latest.safetensors
Log, metrics      $run/train.log, $run/metrics.jsonl

To train on images of your own (images.list: \`class_id image_path\` a line), in their folder:
  . $(printf %q "$venv/bin/activate")
  mpirun -n 2 python -m alexnet_dist.train
To train this run for two epochs more:
 $(printf ' %q' "${train[@]}") --epochs 8 --resume
END
