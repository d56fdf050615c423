#!/usr/bin/env bash
# Follows a stream to its end with nothing but curl: reader.sh URL [OFFSET-FILE]
#
# Prints the data as it comes, and keeps the offset only after the data before it was printed, so
# that a reader that is killed and started again goes on where it was.
set -euo pipefail

url=$1
kept=${2:-/dev/null}
offset=$(cat "$kept" 2>/dev/null || true)
offset=${offset:--1}
live=()

headers=$(mktemp)
trap 'rm -f "$headers"' EXIT
header() { sed -n "s/^$1: *//Ip" "$headers" | tr -d '\r'; }

while true; do
  curl --silent --show-error --fail --get --dump-header "$headers" \
    --data-urlencode "offset=$offset" "${live[@]}" "$url"
  offset=$(header Stream-Next-Offset)
  echo "$offset" >"$kept"

  if [ "$(header Stream-Closed)" = true ]; then break; fi
  if [ "$(header Stream-Up-To-Date)" = true ]; then
    live=(--data live=long-poll --data "cursor=$(header Stream-Cursor)") # from here on, wait
  fi
done
