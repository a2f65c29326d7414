# Asks a machine what it is. Each answer is a line of its own, and what it can't tell is left out.
LC_ALL=C; export LC_ALL
# What a run has put on it takes disk and network, and it has shown itself before that.
[ -d "$HOME/.piecework" ] && { echo "@piecework used yes"; exit 0; }
say() { while read -r line; do echo "@piecework $1 $line"; done; }
nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits </dev/null 2>/dev/null | say vram
nvidia-smi </dev/null 2>/dev/null | grep 'CUDA.*Version' | say driver
d=${PIECEWORK_CACHE:-${HOME:-/root}}
while [ ! -d "$d" ]; do d=${d%/*}; d=${d:-/}; done
df -Pk "$d" | tail -n 1 | say disk
repo=@REPO@ revision=@REVISION@ file=@FILE@
[ -n "$repo" ] || exit 0
at=${HF_ENDPOINT:-https://huggingface.co}/$repo/resolve/$revision
if [ -z "$file" ]; then
    index=$(curl -sfL -m 10 "$at/model.safetensors.index.json" </dev/null)
    file=$(echo "$index" | tr '"' '\n' | grep '\.safetensors$' | head -n 1)
fi
curl -sL -m 10 -r 0-67108863 -o /dev/null \
    -w '%{http_code} %{size_download} %{time_starttransfer} %{time_total}\n' \
    "$at/${file:-model.safetensors}" </dev/null | say fetched
