#!/usr/bin/env bash
# The main job on real input: a repository's history is piped in as claims, watchers fire a plugin for
# each, the engine is killed in the middle, and at the end one command says why a fire happened.
#
# usage: examples/history.sh [REPO]        REPO is by default the repository this file stands in
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
repo=${1:-$here}
if ! git -C "$repo" rev-parse --git-dir >/dev/null 2>&1; then
  echo "$repo is not a git repository; give one: examples/history.sh REPO" >&2
  exit 2
fi
if ! git -C "$repo" rev-parse -q --verify HEAD >/dev/null; then
  echo "$repo has no commit yet; give a repository with a history: examples/history.sh REPO" >&2
  exit 2
fi

echo "building axwatch and its example plugin (the first time takes some minutes)"
cargo build --quiet --manifest-path "$here/Cargo.toml" --workspace --bin axwatch --example example_plugin --example git_claims
built=${CARGO_TARGET_DIR:-$here/target}/debug
axwatch=$built/axwatch

work=$(mktemp -d)
server=
cleanup() {
  if [ -n "$server" ]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap cleanup EXIT

# Everything of this run lies in one folder that goes away with it.
unset AXWATCH_STORE AXWATCH_CONFIG AXWATCH_HTTP
cat >"$work/am.toml" <<TOML
[plugin]
enabled = ["history"]

[plugins.history]
binary = "$built/examples/example_plugin"

[history]
file = "$work/fires.jsonl"
TOML
ax() { local command=$1; shift; "$axwatch" "$command" --store "$work/axwatch.db" --config "$work/am.toml" "$@"; }

start() {
  : >"$work/ready"
  "$axwatch" serve --store "$work/axwatch.db" --config "$work/am.toml" --http 127.0.0.1:0 \
    >"$work/ready" 2>>"$work/log" &
  server=$!
  until [ -s "$work/ready" ]; do
    if ! kill -0 "$server" 2>/dev/null; then
      echo "axwatch serve did not start:" >&2
      tail -n 20 "$work/log" >&2
      exit 1
    fi
    sleep 0.05
  done
}

# Oldest first, as it happened.
git -C "$repo" log --reverse -z --format='%h%x1f%H%x1f%an%x1f%aI%x1f%P%x1f%s' HEAD |
  "$built/examples/git_claims" >"$work/claims.jsonl"
commits=$(git -C "$repo" rev-list --count HEAD)
claims=$(wc -l <"$work/claims.jsonl")
author=$(git -C "$repo" log -1 --format=%an HEAD)
half=$((claims / 2 / 2 * 2))

start
ax watch create commits --when "is is_commit" --run history.file >/dev/null
quoted=${author//\\/\\\\}
quoted=${quoted//\"/\\\"}
ax watch create by-author --when "is authored_by of \"$quoted\"" --run history.file >/dev/null
echo "watching $repo: $commits commits, $claims claims; one author: $author"

echo "piping in the first half, then kill -9"
head -n "$half" "$work/claims.jsonl" | ax as - >/dev/null
kill -9 "$server"
wait "$server" 2>/dev/null || true
start
echo "started again; piping in all of it (what is there already stays as it is)"
ax as - <"$work/claims.jsonl" >/dev/null

# Every fire has ended when no job is queued or running.
while [ -n "$(ax jobs list --state queued --limit 1 --json)$(ax jobs list --state running --limit 1 --json)$(ax jobs list --state paused --limit 1 --json)" ]; do
  sleep 0.1
done

count() { ax fires --all --json --watcher "$1" | grep -c '"state":"completed"' || true; }
fires_commits=$(count user-commits)
fires_author=$(count user-by-author)
handled=$(grep -o '"job_id":"[0-9a-f]*"' "$work/fires.jsonl" | sort -u | wc -l)

echo
echo "why the last fire happened:"
last=$(ax fires --limit 1 --json | grep -o '"job_id":"[0-9a-f]*"' | cut -d'"' -f4)
ax why "$last"
echo
echo "audit:"
ax audit verify
echo
echo "commits                    $commits"
echo "fires of user-commits      $fires_commits"
echo "fires of user-by-author    $fires_author"
echo "jobs the plugin has seen   $handled"

if [ "$fires_commits" -ne "$commits" ]; then
  echo "the fires of user-commits are not as many as the commits" >&2
  exit 1
fi
if [ "$handled" -ne $((fires_commits + fires_author)) ]; then
  echo "the plugin has not seen every fire" >&2
  exit 1
fi
