#!/usr/bin/env bash
# From nothing but python3 to a trained AlexNet: launch/demo.sh [flags of alexnet_dist.train]
#
# Makes a virtual environment, draws scikit-learn's handwritten digits as images, trains the full network on 2 ranks,
# measures it on images that it has never seen, classifies one of them, and makes a page on the run. All of it stays in
# .venv and demo/; another folder than demo/ is named by ALEXNET_DEMO.

# shellcheck source-path=SCRIPTDIR
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/common.sh"

help_if_asked "$@"
set_up demo report

demo=$(realpath -m -- "${ALEXNET_DEMO:-$root/demo}")
run=$demo/run-$(date +%Y%m%d-%H%M%S)
train=("$root/launch/local.sh" 2 --config "$root/launch/demo.toml" --output-dir "$run"
    --data "$demo/images.list" --val "$demo/val.list" "$@")

[[ -e $demo/test.list ]] || python -m alexnet_dist.prepare digits --output "$demo"

echo
echo "Training on 2 ranks"
status=0
"${train[@]}" || status=$?
if ((status == 75)); then
    printf '\nStopped. To go on:\n  %q 2 --resume %q\n' "$root/launch/local.sh" "$run"
fi
((status == 0)) || exit "$status"

echo
echo "Measuring the best weights on the held-out images of $demo/test.list"
mpirun -n 2 python -m alexnet_dist.evaluate --load "$run/best.safetensors" --data "$demo/test.list"

echo
echo "What is on one of them?"
read -r _ image < <(shuf -n 1 -- "$demo/test.list")
python -m alexnet_dist.inference --load "$run/best.safetensors" --input "$demo/$image" --topk 3

more=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["flags"]["epochs"] + 2)' "$run/run.json")
cat <<END

Best weights      $run/best.safetensors
Last checkpoint   $run/latest.safetensors
Report            $run/report.html (open it in a browser)
Log, metrics      $run/train.log, $run/steps.jsonl, $run/epochs.jsonl

To train on images of your own (images.list: \`class_id image_path\` a line), in their folder:
  . $(printf %q "$venv/bin/activate")
  mpirun -n 2 python -m alexnet_dist.train
To train this network on, to $more epochs:
  $(printf %q "$root/launch/local.sh") 2 --resume $(printf %q "$run") --epochs $more
END
