#!/usr/bin/env bash
# Builds stand-ins for the published images that compose.yaml names, for machines where no image can be pulled.
#   build.sh [name …]       default: all
# Debian's packages on a base made by debootstrap; the object store is MinIO's own program, compiled by Go.
# Idempotent: an image whose inputs have not changed is left alone. Wants root, debootstrap, docker and, for MinIO, go.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
suite=${STANDIN_SUITE:-trixie}
# This machine's own source of Debian packages; where it has none, debootstrap's.
# shellcheck disable=SC2016 # apt's own placeholder
mirror=${STANDIN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 2>/dev/null | sed -n 1p)}
cache=${STANDIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dml/standins}
minio=v0.0.0-20250907161309-07c3a429bfed # RELEASE.2025-09-07T16-13-09Z, the last that was published

missing=0
for program in docker debootstrap tar sha256sum; do
  command -v "$program" >/dev/null || { echo "missing: $program" >&2; missing=1; }
done
[ "$(id -u)" = 0 ] || { echo "must run as root: debootstrap makes device files" >&2; missing=1; }
[ "$missing" = 0 ]

names=("$@")
[ ${#names[@]} -gt 0 ] || names=(postgres caddy haproxy prometheus postgres-exporter registry object-store)
mkdir -p "$cache"
# One at a time: two builders would make the same base twice.
exec 9>"$cache/lock"
flock 9

label() { docker image inspect --format "{{index .Config.Labels \"$2\"}}" "$1" 2>/dev/null || true; }

base=dml-standin-debian:$suite
if [ "$(label "$base" standin.base)" != "$suite" ]; then
  folder=$(mktemp -d "$cache/debootstrap.XXXX")
  trap 'rm -rf "$folder"' EXIT
  debootstrap --variant=minbase --include=ca-certificates,curl,wget "$suite" "$folder" ${mirror:+"$mirror"} >"$cache/debootstrap.log" ||
    { tail -5 "$cache/debootstrap.log" >&2; exit 1; }
  chmod 755 "$folder"
  # A mirror under load drops a connection now and then.
  echo 'Acquire::Retries "5"; Acquire::http::Pipeline-Depth "0";' >"$folder/etc/apt/apt.conf.d/80-retries"
  tar -C "$folder" --exclude='./var/cache/apt/archives/*.deb' --exclude='./dev/*' -c . |
    docker import --change "LABEL standin.base=$suite" - "$base" >/dev/null
  rm -rf "$folder"
  echo "made $base"
fi

compile_minio() {
  [ -x "$cache/minio-$minio" ] && return
  if [ -x "${STANDIN_MINIO:-}" ]; then
    install -m 755 "$STANDIN_MINIO" "$cache/minio-$minio"
    return
  fi
  GOBIN="$cache/go-bin" GOFLAGS=-modcacherw CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "github.com/minio/minio@$minio"
  mv "$cache/go-bin/minio" "$cache/minio-$minio"
}

build() {
  local name=$1 tag=dml-standin-$1:1 inputs
  inputs=$({ docker image inspect --format '{{.Id}}' "$base"; cd "$here/$name"; find . -type f | sort | xargs sha256sum; [ "$name" != object-store ] || echo "$minio"; } | sha256sum | cut -c1-16)
  if [ "$(label "$tag" standin.inputs)" = "$inputs" ]; then
    echo "kept $tag"
    return
  fi
  local context=()
  if [ "$name" = object-store ]; then
    compile_minio
    mkdir -p "$cache/program"
    ln -f "$cache/minio-$minio" "$cache/program/minio" 2>/dev/null || cp "$cache/minio-$minio" "$cache/program/minio"
    context=(--build-context "program=$cache/program")
  fi
  docker build --quiet --network=host --build-arg "BASE=$base" --label "standin.inputs=$inputs" \
    ${context[@]+"${context[@]}"} --tag "$tag" "$here/$name" >/dev/null
  echo "built $tag"
}

for name in "${names[@]}"; do
  [ -f "$name/Dockerfile" ] || { echo "no stand-in named '$name'" >&2; exit 2; }
  build "$name"
done
