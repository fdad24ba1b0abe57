#!/bin/sh
# Makes one random passphrase a party for the demonstration, in deploy/secrets/.
#
# The folder is for its owner alone. The files in it are readable, because a container engine shows
# them to the image's account under their own mode. Files that are there already are kept.
#
#   secrets.sh [FOLDER]
set -eu

folder=${1:-$(dirname "$0")/../secrets}
mkdir -p "$folder"
chmod 0700 "$folder"
printf '*\n' >"$folder/.gitignore"
for party in coordinator charite mayo osaka; do
    [ -e "$folder/$party" ] && continue
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$folder/$party"
    chmod 0444 "$folder/$party"
done
echo "Passphrases stand in $folder; keep them out of any repository."
