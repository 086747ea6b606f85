#!/usr/bin/env bash
# Compiles a file of pytorch2onnx.py for an Ascend chip, with CANN's ATC.
#
# usage: bash scripts/onnx2om.sh [FILE.onnx] [options] [-- options of atc]
#
#   FILE.onnx     what to compile (default: hourglass.onnx)
#   --out NAME    file to write (default: FILE.om)
#   --soc CHIP    such as Ascend310P3 (default: asked of npu-smi)
#   --batch N     people per pass, where the file leaves that free (default: 1)
#   --shape S     shape of the input, as N,3,H,W (default: read from the file)
#
# Example: bash scripts/onnx2om.sh --soc Ascend310P3 -- --log=info
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# chip_name: prints the name that ATC has for the first NPU of this host; fails
# where there is none, or its name stands for several chips (910: 910A, 910B).
chip_name() {
  local name
  command -v npu-smi >/dev/null || return 1
  name=$(npu-smi info 2>/dev/null |
    sed -n 's/^| *[0-9][0-9]* *\(Ascend\)\{0,1\}\([0-9]\{3\}[A-Za-z0-9]*\) .*/\2/p' |
    head -n 1)
  [ -n "$name" ] && [ "$name" != 910 ] && printf 'Ascend%s\n' "$name"
}

onnx=''
out=''
soc=''
batch=''
shape=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      show_help
      exit
      ;;
    --out | --soc | --batch | --shape)
      [ $# -gt 1 ] || refuse "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --)
      shift
      break
      ;;
    -*) refuse "unknown option $1; options of atc go behind --" ;;
    *)
      [ -z "$onnx" ] || refuse "one file at a time, not $onnx and $1"
      onnx=$1
      ;;
  esac
  shift
done
onnx=${onnx:-$ROOT/hourglass.onnx}
out=${out:-${onnx%.onnx}.om}
[ -f "$onnx" ] ||
  refuse "there is no file $onnx; \`python3 pytorch2onnx.py\` makes one"
[ -z "$batch" ] || is_count "$batch" ||
  refuse "--batch $batch: must be a whole number from 1"
[ -z "$batch" ] || [ -z "$shape" ] ||
  refuse '--shape has the batch in it: leave --batch away'
[[ $out == *.om ]] || refuse "--out $out: the name must end in .om"
[ -d "$(dirname -- "$out")" ] || refuse "--out $out: there is no such folder"
command -v atc >/dev/null ||
  refuse 'there is no atc on PATH. It comes with the CANN toolkit (package' \
    'Ascend-cann-toolkit; the run time alone lacks it): install that, then' \
    'source env.sh. A host without an NPU can compile, too'
if [ -z "$soc" ]; then
  soc=$(chip_name) || refuse 'the chip is not known here (npu-smi does not' \
    'tell): give --soc, such as Ascend310P3, Ascend910A or Ascend910B3'
fi
if [ -z "$shape" ]; then
  shape=$("${PYTHON:-python3}" "$ROOT/mmpose-master/tools/onnx_shape.py" \
    "$onnx" "${batch:-0}") || exit
fi
format=NCHW
# With the normalisation inside, channels come last, which atc takes only as
# a shape without names.
[[ $shape != *,3 ]] || format=ND

# Written under another name first: atc may leave a part of a file behind.
# Some versions add the host's system and processor to the name.
part=$(dirname -- "$out")/.om.$$
trap 'rm -f -- "$part"*' EXIT
atc --framework=5 --model="$onnx" --output="$part" --input_format="$format" \
  --input_shape="img:$shape" --soc_version="$soc" "$@" ||
  die "atc failed on $onnx (status $?)"
written=$(find "$(dirname -- "$part")" -maxdepth 1 -name "${part##*/}*.om")
[ -n "$written" ] || die 'atc ended well, but wrote no file'
mv -f -- "$written" "$out"
echo "$out: input img $shape, for $soc"
