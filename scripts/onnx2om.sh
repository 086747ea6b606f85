#!/usr/bin/env bash
# Compiles an ONNX file of pytorch2onnx.py for an Ascend chip, with CANN's ATC.
#
# usage: bash scripts/onnx2om.sh [FILE.onnx] [options] [-- options of atc]
#
#   FILE.onnx     file to compile (default: hourglass.onnx)
#   --out NAME    file to write (default: FILE.om)
#   --soc CHIP    such as Ascend310P3 (default: what npu-smi reports)
#   --batch N     people per pass, if the file has a free batch (default: 1);
#                 1,4,8 compiles for several, of which each pass takes one
#   --shape S     input shape as N,3,H,W (default: read from the file)
#
# It also writes FILE.json, which `hourglass om` reads.
#
# Example: bash scripts/onnx2om.sh --soc Ascend310P3 -- --log=info
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "$(readlink -f -- "$0")")/common.sh"

# chip_name: prints ATC's name for the first NPU of this host; fails if there is
# none or if the name is ambiguous (910 means 910A or 910B).
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
    -*) refuse "unknown option $1; put options of atc after --" ;;
    *)
      [ -z "$onnx" ] || refuse "takes one file at a time, not $onnx and $1"
      onnx=$1
      ;;
  esac
  shift
done
onnx=${onnx:-$ROOT/hourglass.onnx}
out=${out:-${onnx%.onnx}.om}
[ -f "$onnx" ] ||
  refuse "no file $onnx; \`python3 pytorch2onnx.py\` writes one"
[ "${batch#,}" = "${batch%,}" ] || refuse "--batch $batch: ends in a comma"
for one in ${batch//,/ }; do
  is_count "$one" ||
    refuse "--batch $one: must be a whole number, at least 1"
done
[ -z "$batch" ] || [ -z "$shape" ] ||
  refuse '--shape includes the batch; leave out --batch'
[[ $out == *.om ]] || refuse "--out $out: the name must end in .om"
[ -d "$(dirname -- "$out")" ] || refuse "--out $out: no such folder"
command -v atc >/dev/null ||
  refuse 'atc is not on PATH. Install the CANN toolkit (package' \
    'Ascend-cann-toolkit; the run time alone has no atc), then source env.sh.' \
    'No NPU is needed to compile'
if [ -z "$soc" ]; then
  soc=$(chip_name) || refuse 'npu-smi does not name the chip; give --soc,' \
    'such as Ascend310P3, Ascend910A or Ascend910B3'
fi
# Write under temporary names, because a failed atc may leave part of a file.
# Some versions add the host's system and processor to the name.
part=$(dirname -- "$out")/.om.$$
trap 'rm -f -- "$part"*' EXIT
read_file() {
  "${PYTHON:-python3}" "$ROOT/mmpose-master/tools/onnx_shape.py" "$onnx" \
    "${batch:-0}" --properties "$part.json"
}
if [ -z "$shape" ]; then
  shape=$(read_file) || exit
else
  read_file >/dev/null 2>&1 || true
fi
format=NCHW
# With --preprocess the channels come last; atc accepts that only as format ND.
[[ $shape != *,3 ]] || format=ND
dynamic=()
case $batch,$format in
  *,*,NCHW) dynamic=("--dynamic_batch_size=$batch") ;;
  *,*,ND) dynamic=("--dynamic_dims=${batch//,/;}") ;;
esac

atc --framework=5 --model="$onnx" --output="$part" --input_format="$format" \
  --input_shape="img:$shape" --soc_version="$soc" \
  ${dynamic[@]+"${dynamic[@]}"} "$@" ||
  die "atc failed on $onnx (status $?)"
written=$(find "$(dirname -- "$part")" -maxdepth 1 -name "${part##*/}*.om")
[ -n "$written" ] || die 'atc succeeded but wrote no file'
mv -f -- "$written" "$out"
if [ -f "$part.json" ]; then
  mv -f -- "$part.json" "${out%.om}.json"
fi
echo "$out: input img $shape, for $soc"
