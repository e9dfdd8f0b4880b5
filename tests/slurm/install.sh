#!/bin/sh
# Installs the Debian packages that are named, or those the test Slurm is made of, and starts none of
# their services: tests/slurm/cluster.py runs every daemon itself, from its own folder.
set -eu

packages="${*:-munge slurm-client slurmctld slurmd slurmdbd mariadb-server}"
services="munge slurmctld slurmd slurmdbd mariadb"
policy=/usr/sbin/policy-rc.d

is_installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo "install.sh: only Debian and its derivatives are supported (no apt-get here)" >&2
    exit 1
fi

missing=""
for package in $packages; do
    is_installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "install.sh: installing$missing needs root" >&2
    exit 1
fi

# Two sessions of tests may install at once: apt's own lock does not hold the file below.
exec 9</var/lib/dpkg
flock 9

# Maintainer scripts ask this file before they start a service. One that is there already is the
# host's own rule, and stays.
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=120 -qq update
# shellcheck disable=SC2086  # a list of words is meant
apt-get -o DPkg::Lock::Timeout=300 -qq install --yes --no-install-recommends $missing >/dev/null

# Not at the next boot either; a service that was here before this script keeps its setting.
command -v systemctl >/dev/null || exit 0
for service in $services; do
    case "$missing " in
        *" $service "* | *" $service-server "*) systemctl --quiet disable "$service.service" ;;
    esac
done
