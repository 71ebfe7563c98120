#!/usr/bin/env bash
# Builds the images of all programs, and the one that holds pods, and writes them as archives.
# Usage: images.sh PROGRAMS ARCHIVES, the folder of static programs and the folder that gets archives.
# Needs buildah or docker, and a C compiler for static programs (on Debian: musl-tools).
set -euo pipefail
programs=$1
archives=$2
checkout=$(cd "$(dirname "$0")/../.." && pwd)

# What an image takes on a node at most; what a node pulls is less, because registries keep layers
# packed. Unit: bytes.
size_max=$((25 * 1000 * 1000))
authorities=/etc/ssl/certs/ca-certificates.crt
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$checkout/Cargo.toml" | head -1)

if ! command -v buildah >/dev/null && ! command -v docker >/dev/null; then
    echo "images need buildah or docker (on Debian: apt-get install buildah)" >&2
    exit 1
fi
if [ ! -f "$authorities" ]; then
    echo "$authorities is missing (on Debian: apt-get install ca-certificates)" >&2
    exit 1
fi

mkdir -p "$archives"
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

# image NAME:TAG CONTAINERFILE: from the files in the context.
image() {
    local name=localhost/$1 archive=$archives/${1%%:*}.tar
    if command -v buildah >/dev/null; then
        buildah build --quiet --isolation chroot --file "$2" --tag "$name" "$context" >/dev/null
        # It adds to an archive that is there.
        rm -f "$archive.part"
        buildah push --quiet "$name" "docker-archive:$archive.part:$name"
        buildah rmi "$name" >/dev/null
    else
        docker build --quiet --file "$2" --tag "$name" "$context" >/dev/null
        docker save --output "$archive.part" "$name"
    fi
    local size packed
    size=$(stat --format %s "$archive.part")
    packed=$(gzip --fast --stdout "$archive.part" | wc --bytes)
    if [ "$size" -ge "$size_max" ]; then
        echo "$archive has $size bytes, not below $size_max" >&2
        exit 1
    fi
    mv "$archive.part" "$archive"
    echo "$archive: $name, $size bytes, $packed packed"
}

musl-gcc -static -O2 -s -o "$context/pause" "$checkout/e2e/cluster/pause/pause.c"
image pause:1 "$checkout/e2e/cluster/pause/Containerfile"

cp "$authorities" "$context"
while read -r image program folder; do
    cp "$programs/$program" "$context"
    image "$image:$version" "$checkout/$folder/Containerfile"
done <<'IMAGES'
pyramid-operator pyramid-operator operator
pyramid-writer pyramid-writer dataplane/writer
pyramid-pusher pyramid-pusher sidecar
pyramid pyramid dataplane/cli
pyramid-orders orders docs/examples/orders
pyramid-probe pyramid-probe e2e/cluster/probe
IMAGES
