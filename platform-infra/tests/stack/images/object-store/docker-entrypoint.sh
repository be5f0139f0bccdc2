#!/bin/sh
# As the published image: a first word that is not the program is its subcommand.
if [ "$1" != minio ] && [ -n "$1" ]; then set -- minio "$@"; fi
exec "$@"
