# What scripts/quickstart and scripts/test share. Sourced by bash with `set -euo pipefail` in force and the current
# directory at the project's root.

# What a build needs beside bash, git and apt. Names that differ between Debian 12 and Ubuntu 24.04 are written as
# alternatives: the first one that the distribution knows is taken.
packages=(gcc libc6-dev cmake ninja-build pkg-config libsqlite3-dev libcurl4-openssl-dev libarchive-dev
	'libmsgpack-dev|libmsgpack-c-dev' libjansson-dev libssl-dev libpcre2-dev libmicrohttpd-dev
	zlib1g-dev libzstd-dev libsnappy-dev libutf8proc-dev libcmocka-dev)

# Prints the entries of packages of which no alternative is installed.
missing_packages() {
	local installed entry
	installed=" $(dpkg-query -W -f '${db:Status-Status} ${Package} ' "${packages[@]//|*/}" "${packages[@]//*|/}" 2>/dev/null || true)"
	for entry in "${packages[@]}"; do
		[[ $installed == *" installed ${entry%%|*} "* || $installed == *" installed ${entry##*|} "* ]] || echo "$entry"
	done
}

# Installs what is missing; says so first, since it changes the machine.
install_packages() {
	local missing=() names=() entry root=()
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
	for entry in "${missing[@]}"; do
		if apt-cache show "${entry%%|*}" >/dev/null 2>&1; then names+=("${entry%%|*}"); else names+=("${entry##*|}"); fi
	done
	"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${names[@]}" >/dev/null
}

# build PRESET: configures once, then builds what changed.
build() {
	local log
	[[ -f build/$1/build.ninja ]] || {
		log=$(mktemp)
		cmake --preset "$1" >"$log" 2>&1 || {
			cat "$log" >&2
			rm -f "$log"
			return 1
		}
		rm -f "$log"
	}
	cmake --build --preset "$1" -- --quiet
}
