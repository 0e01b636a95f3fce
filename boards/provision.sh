#!/bin/sh
# Makes a gateway of a board on which Raspberry Pi OS or Debian runs already: installs the package, puts the settings in place, adds
# the lines of config.txt that the devices need, and says what is still wrong. It may be run again at any time: what is
# done already stays as it is. docs/IMAGE.md
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH

usage() {
	cat <<'USAGE'
use: provision.sh [--dry-run] [--deb FILE] [--config FILE] [--board NAME]
  --dry-run      say what would be done, and do nothing
  --deb FILE     the package; default: the one for this architecture beside this script
  --config FILE  becomes /etc/holdfast/agent.toml; what was there is kept beside it. Default: what is there
  --board NAME   config.txt for this board (rpi-4), if it is not to be found out
Exit codes: 0 done, 1 done but holdfast check found something, 2 wrong use, 3 could not be done
USAGE
}
die() { echo "provision: $2" >&2; exit "$1"; }
tell() { echo "== $*"; }

dry='' deb='' config='' board=''
while [ $# -gt 0 ]; do
	case $1 in
	--dry-run) dry=yes ;;
	--deb | --config | --board)
		[ $# -gt 1 ] || { usage >&2; die 2 "$1 needs a value"; }
		case $1 in --deb) deb=$2 ;; --config) config=$2 ;; --board) board=$2 ;; esac
		shift ;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; die 2 "what is $1?" ;;
	esac
	shift
done
[ -z "$config" ] || [ -r "$config" ] || die 2 "--config $config cannot be read"
[ -n "$dry" ] || [ "$(id -u)" = 0 ] || die 3 "needs root: sudo $0 (with --dry-run it does not)"

# The machine: Debian 12 or later, or what calls itself like it.
command -v dpkg >/dev/null || die 3 "this is no Debian: there is no dpkg"
arch=$(dpkg --print-architecture)
# shellcheck disable=SC1091
os=$(. /etc/os-release && echo "${PRETTY_NAME:-unknown}, version ${VERSION_ID:-0}")
version=${os##* }
[ "${version%%.*}" -ge 12 ] 2>/dev/null || die 3 "$os is too old: Debian 12 (bookworm) or later"
model=$(tr -d '\000' 2>/dev/null </proc/device-tree/model || echo "a board that does not say its name")
tell "$model, $os, $arch"
case $arch in
armhf | arm64 | amd64) ;;
*) die 3 "there is no package for $arch: armhf, arm64 and amd64 have one" ;;
esac

# The package.
if [ -z "$deb" ]; then
	for f in "$(dirname "$0")"/holdfast_*_"$arch".deb; do [ ! -e "$f" ] || deb=$f; done
	[ -n "$deb" ] || command -v holdfast >/dev/null || die 3 "no holdfast_*_$arch.deb beside this script: name it with --deb"
fi
program=holdfast
if [ -n "$deb" ]; then
	[ "$(dpkg-deb -f "$deb" Package 2>/dev/null)" = holdfast ] || die 2 "$deb is no package of holdfast"
	[ "$(dpkg-deb -f "$deb" Architecture)" = "$arch" ] || die 2 "$deb is for $(dpkg-deb -f "$deb" Architecture), this machine is $arch"
	new=$(dpkg-deb -f "$deb" Version)
	old=$(dpkg-query -W -f='${db:Status-Status} ${Version}' holdfast 2>/dev/null || true)
	if [ "$old" = "installed $new" ]; then
		tell "holdfast $new is installed"
	elif [ -n "$dry" ]; then
		tell "would install holdfast $new (now: ${old:-none})"
		work=$(mktemp -d)
		trap 'rm -rf "$work"' EXIT
		dpkg-deb -x "$deb" "$work"
		program=$work/usr/bin/holdfast
	else
		tell "installing holdfast $new (now: ${old:-none})"
		# A name with a slash is a file to apt; it brings what the package needs.
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends --allow-downgrades \
			-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$(realpath "$deb")"
	fi
fi

# The settings.
settings=/etc/holdfast/agent.toml
if [ -n "$config" ] && ! cmp -s "$config" "$settings"; then
	tell "$settings${dry:+ would become}:"
	diff -uN "$settings" "$config" || true
	if [ -z "$dry" ]; then
		keep=1
		while [ -e "$settings.$keep" ]; do keep=$((keep + 1)); done
		[ ! -e "$settings" ] || cp -p "$settings" "$settings.$keep"
		install -m 640 -o root -g holdfast "$config" "$settings.new"
		sync "$settings.new"
		mv "$settings.new" "$settings"
	fi
fi
if [ -n "$dry" ] && [ -n "$config" ]; then settings=$config; fi

# config.txt: what the devices need, and nothing else. There is none where there is no firmware that reads it.
restart=''
for boot in /boot/firmware/config.txt /boot/config.txt; do
	[ -e "$boot" ] || continue
	rc=0
	tell "$boot"
	write=--write
	[ -z "$dry" ] || write=
	# shellcheck disable=SC2086 # no flag is none
	said=$("$program" devices enable --config "$settings" --file "$boot" ${board:+--board "$board"} $write 2>&1) || rc=$?
	echo "$said"
	case $said in *"written; restart"*) restart=yes ;; esac
	[ $rc -le 1 ] || die 3 "the settings cannot be used"
	break
done
[ -z "$dry" ] || { tell "nothing was changed"; exit 0; }

# The agent, with these settings.
if [ -d /run/systemd/system ]; then
	systemctl enable --quiet holdfast
	systemctl restart holdfast || tell "the agent does not start: journalctl -u holdfast"
fi
tell "who this gateway is, for the broker's registry"
"$program" identity || die 3 "no identity"
tell "holdfast check"
rc=0
"$program" check || rc=$?
[ -z "$restart" ] || tell "config.txt has changed: restart the board, then look again: sudo holdfast check"
[ $rc -le 1 ] || die 3 "holdfast check could not be done"
exit $rc
