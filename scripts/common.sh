# What scripts/quickstart and scripts/test share. Sourced by bash with `set -euo pipefail` in force and the current
# directory at the project's root.

# What a build needs beside bash, git and apt, on Debian 12 and on Ubuntu 24.04.
packages=(gcc g++ libc6-dev cmake ninja-build pkg-config libsqlite3-dev libcurl4-openssl-dev libarchive-dev
	libjansson-dev libssl-dev libpcre2-dev libmicrohttpd-dev
	zlib1g-dev libzstd-dev libsnappy-dev libutf8proc-dev libcmocka-dev)

# Prints those that are not installed.
missing_packages() {
	local installed name
	installed=" $(dpkg-query -W -f '${db:Status-Status} ${Package} ' "${packages[@]}" 2>/dev/null || true)"
	for name in "${packages[@]}"; do
		[[ $installed == *" installed $name "* ]] || echo "$name"
	done
}

# Installs what is missing; says so first, since it changes the machine.
install_packages() {
	local missing=() root=()
	command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || {
		echo "scripts: this is not a Debian or Ubuntu machine; install by hand: ${packages[*]}" >&2
		exit 4
	}
	mapfile -t missing < <(missing_packages)
	((${#missing[@]})) || return 0
	if ((EUID != 0)); then
		command -v sudo >/dev/null || {
			echo "scripts: to install ${missing[*]} this needs root or sudo" >&2
			exit 4
		}
		root=(sudo)
	fi
	echo "installing: ${missing[*]}"
	"${root[@]}" apt-get update -qq
	"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# build PRESET [TARGET]: configures once, then builds what changed, of everything or of one target.
build() {
	local log target=()
	[[ -z ${2:-} ]] || target=(--target "$2")
	[[ -f build/$1/build.ninja ]] || {
		log=$(mktemp)
		cmake --preset "$1" >"$log" 2>&1 || {
			cat "$log" >&2
			rm -f "$log"
			return 1
		}
		rm -f "$log"
	}
	cmake --build --preset "$1" "${target[@]}" -- --quiet
}
