# What the benchmarks share: two commands are run in turn, round by round, and compared by their medians, so that whatever
# else the machine does falls on both.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
anneal=${ANNEAL:-$root/build/release/cli/anneal}
shared=$root/../shared/data
[[ -x $anneal ]] || {
	echo "bench: $anneal is not there; build it first: cmake --preset release && cmake --build --preset release" >&2
	exit 4
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export ANNEAL_PIPELINES=$root/pipelines NO_COLOR=1 LC_ALL=C

# need COMMAND: exits when a tool that is compared with is not installed.
need() {
	command -v "$1" >/dev/null || {
		echo "bench: $1 is not installed (apt-get install ${2:-$1})" >&2
		exit 4
	}
}

need_shared() {
	[[ -e $shared/$1 ]] || {
		echo "bench: $shared/$1 is not here" >&2
		exit 4
	}
}

# once COMMAND…: microseconds of wall-clock time of one quiet run.
once() {
	local start=$EPOCHREALTIME end
	"$@" >/dev/null 2>"$work/stderr" </dev/null || {
		cat "$work/stderr" >&2
		echo "bench: failed: $*" >&2
		return 1
	}
	end=$EPOCHREALTIME
	echo $((${end/./} - ${start/./}))
}

median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

# in_turn ROUNDS A B: runs the functions A and B alternately; sets a_us and b_us to their medians.
in_turn() {
	local rounds=$1 i
	: >"$work/a.us"
	: >"$work/b.us"
	once "$2" >/dev/null
	once "$3" >/dev/null
	for ((i = 0; i < rounds; i++)); do
		once "$2" >>"$work/a.us"
		once "$3" >>"$work/b.us"
	done
	a_us=$(median <"$work/a.us")
	b_us=$(median <"$work/b.us")
}

ms() { awk -v us="$1" 'BEGIN {printf "%.2f", us / 1000}'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.2f", a / b}'; }
