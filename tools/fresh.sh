#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The two commands of the README on a fresh machine: makes a Debian 12 in a folder, puts Node 20
# and a clean clone of HEAD into it, runs `npm start` until it says `ready`, ends it by SIGTERM,
# and runs `npm test`. As root, with debootstrap, on a Debian host with Node 20; some GiB of disk.
#
#   tools/fresh.sh [--stages debian,start,test] [--test ARGUMENT]… [--folder DIR] [--keep]
#
# `debian` makes the machine, in an empty folder; the other stages use the one that --folder names.
# --test gives `npm test` an argument (--only-tests, a file). A folder that was not named is removed
# at the end, also when the script is interrupted, unless --keep is there. All mounts and processes
# lie in namespaces of their own and end with the script.
set -euo pipefail

stages=debian,start,test
folder=
keep=no
test_arguments=()
arguments=("$@")
while [ $# -gt 0 ]; do
  case $1 in
    --stages) stages=$2; shift 2 ;;
    --folder) folder=$2; shift 2 ;;
    --keep) keep=yes; shift ;;
    --test) test_arguments+=("$2"); shift 2 ;;
    *) sed -n '3,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done

project=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
suite=bookworm
user_home=/root
clone=$user_home/open-vstorage
ready_seconds=1200
stop_seconds=60

say() { printf 'fresh: %02d:%02d %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }
fail() { say "FAILED: $*" >&2; exit 1; }

[ "$(id -u)" -eq 0 ] || fail "only root can make a machine in a folder"
[[ $(node --version) == v20.* ]] || fail "Node 20 is expected here, this is $(node --version)"

# Namespaces: when this process is gone, so are the mounts and everything that was started.
if [ -z "${OVS_FRESH_INSIDE:-}" ]; then
  clean_up() {
    if [ $keep = yes ]; then say "kept in $folder"; return; fi
    # Processes of the namespace may still be on their way out.
    for _ in 1 2 3 4 5; do
      if rm -rf --one-file-system -- "$folder" 2>/dev/null; then return; fi
      sleep 1
    done
    say "could not remove $folder" >&2
  }
  if [ -n "$folder" ]; then keep=yes; else folder=$(mktemp -d "${TMPDIR:-/tmp}/ovs-fresh.XXXXXX"); fi
  trap clean_up EXIT
  OVS_FRESH_INSIDE=yes setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child \
    --propagation private "$0" "${arguments[@]}" --folder "$folder" &
  child=$!
  # The namespace's first process dies with `unshare`, and all others with it.
  for signal in INT TERM HUP; do
    trap 'kill -KILL $child 2>/dev/null; wait $child 2>/dev/null; fail "interrupted"' $signal
  done
  code=0
  wait $child || code=$?
  exit $code
fi

# host_sources FIELD: of the host's package sources, those of this Debian. `mirror` prints the first
# address, `files` prints a sources.list with all of them.
host_sources() {
  python3 - "$1" "$suite" <<'PYTHON'
import glob, re, sys
what, suite = sys.argv[1:]
entries = []
for path in ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*"))]:
    try:
        text = open(path).read()
    except OSError:
        continue
    if path.endswith(".sources"):
        for stanza in re.split(r"\n\s*\n", text):
            fields = dict(re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.*)$", stanza))
            for uri in fields.get("URIs", "").split():
                for name in fields.get("Suites", "").split():
                    entries.append((uri, name, fields.get("Components", "main")))
    elif path.endswith(".list"):
        for line in text.splitlines():
            match = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.+)", line)
            if match:
                entries.append(match.groups())
entries = [entry for entry in entries if entry[1].startswith(suite)]
if not any(name == suite for _, name, _ in entries):
    entries.insert(0, ("http://deb.debian.org/debian", suite, "main"))
if what == "mirror":
    print(next(uri for uri, name, _ in entries if name == suite))
else:
    for uri, name, components in entries:
        print(f"deb {uri} {name} {components}")
PYTHON
}

# Debian, its package sources and what the host needs to reach them and npm's registry.
make_debian() {
  say "Debian $suite in $folder"
  [ -z "$(ls -A "$folder")" ] || fail "$folder is not empty"
  debootstrap --variant=minbase "$suite" "$folder" "$(host_sources mirror)" |
    grep -E '^(E:|W:|I: (Retrieving InRelease|Extracting base-files|Unpacking the|Configuring the|Base))'
  host_sources files >"$folder/etc/apt/sources.list"
  cp --dereference /etc/resolv.conf /etc/hosts "$folder/etc/"
  mkdir -p "$folder/etc/ssl/certs"
  cp --dereference /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/" 2>/dev/null || true
  # Nothing that a package brings is to be started in here.
  printf '#!/bin/sh\nexit 101\n' >"$folder/usr/sbin/policy-rc.d"
  chmod +x "$folder/usr/sbin/policy-rc.d"
}

# The binary and npm only: the headers are for the bootstrap to find.
copy_node() {
  say "Node $(node --version) with npm"
  local npm
  npm=$(dirname -- "$(dirname -- "$(readlink -f -- "$(command -v npm)")")")
  install -D "$(readlink -f -- "$(command -v node)")" "$folder/usr/local/bin/node"
  mkdir -p "$folder/usr/local/lib/node_modules"
  cp -a "$npm" "$folder/usr/local/lib/node_modules/npm"
  ln -sf ../lib/node_modules/npm/bin/npm-cli.js "$folder/usr/local/bin/npm"
  # The host's way to the registry, without the host's user configuration.
  local config
  config=$(npm config get globalconfig 2>/dev/null || true)
  if [ -f "$config" ]; then install -D -m 644 "$config" "$folder/usr/local/etc/npmrc"; fi
}

copy_project() {
  say "a clean clone of $(git -C "$project" log -1 --format='%h %s')"
  rm -rf -- "${folder:?}$clone"
  git clone --quiet --no-hardlinks -- "$project" "$folder$clone"
}

mount_system() {
  mount -t proc proc "$folder/proc"
  mount --rbind /sys "$folder/sys"
  mount --rbind /dev "$folder/dev"
}

# inside COMMAND…: runs it in the clone on the fresh machine, without the host's environment.
inside() {
  local extra=()
  local bundle=/etc/ssl/certs/ca-certificates.crt
  [ -z "${NODE_EXTRA_CA_CERTS:-}" ] || extra=("NODE_EXTRA_CA_CERTS=$bundle")
  exec env -i HOME=$user_home PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 TERM=dumb "${extra[@]}" chroot "$folder" \
    sh -c "cd $clone && exec \"\$@\"" sh "$@"
}

stage_start() {
  say "npm start"
  local log=$folder/tmp/npm-start.log code=0 began=$SECONDS
  (inside npm start -- --data /tmp/ovs-fresh-data) > >(tee "$log") 2>&1 &
  local npm=$!
  until grep -q '^ready\b' "$log" 2>/dev/null; do
    kill -0 $npm 2>/dev/null || fail "npm start ended before it was ready"
    [ $((SECONDS - began)) -lt $ready_seconds ] || fail "not ready after $ready_seconds s"
    sleep 0.5
  done
  say "ready after $((SECONDS - began)) s; SIGTERM"
  kill -TERM $npm
  (sleep $stop_seconds; kill -KILL $npm 2>/dev/null) &
  local guard=$!
  wait $npm || code=$?
  kill $guard 2>/dev/null || true
  [ $code -eq 0 ] || fail "npm start ended with $code after SIGTERM"
  local left
  left=$(chroot "$folder" sh -c 'for p in /proc/[0-9]*; do tr "\0" " " <$p/cmdline; echo; done' |
    grep -c 'ovs\.js' || true)
  [ "$left" -eq 0 ] || fail "$left processes of ours live on"
  say "stopped cleanly"
}

stage_test() {
  say "npm test"
  (inside npm test -- "${test_arguments[@]}") || fail "npm test ended with $?"
  say "npm test passed"
}

case ,$stages, in *,debian,*) make_debian; copy_node ;; esac
[ -x "$folder/usr/local/bin/node" ] || fail "there is no machine in '$folder': run the stage debian"
copy_project
mount_system
case ,$stages, in *,start,*) stage_start ;; esac
case ,$stages, in *,test,*) stage_test ;; esac
say "all passed: $stages"
