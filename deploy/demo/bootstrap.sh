#!/bin/sh
# Founds the demonstration's consortium and enrols its three sites: the commands of the guides in
# docs/, one after the other. Only a demonstration may run them in one place: in a real consortium
# each party runs its own, and fingerprints are compared by telephone.
#
#   bootstrap.sh DATA DEMO SECRETS
#
# DATA: a folder with one folder a party; DEMO: this folder; SECRETS: one passphrase file a party.
# Does nothing if it was done already. If it was cut off, remove the volumes and start again.
set -eu

data=$1 demo=$2 secrets=$3
sites="charite mayo osaka"
consortium="$data/coordinator/consortium"

if [ -e "$data/coordinator/ready" ]; then
    echo "The demonstration's consortium is there already."
    exit 0
fi

fedrx coordinator init "$consortium" --name "FedRx demonstration" --host coordinator \
    --passphrase-file "$secrets/coordinator"

for site in $sites; do
    fedrx site init "$data/$site/site" --name "Demonstration $site" --site "$site" \
        --passphrase-file "$secrets/$site"
done

# --yes stands for the telephone call in which each site reads its fingerprint to the coordinator.
fedrx coordinator enroll "$consortium" --yes --passphrase-file "$secrets/coordinator" \
    "$data/charite/site/enrolment-request.json" \
    "$data/mayo/site/enrolment-request.json" \
    "$data/osaka/site/enrolment-request.json"

# And this for the call in which the coordinator reads its own.
fingerprint=$(fedrx coordinator roster "$consortium" | sed -n 's/^Fingerprint: //p')

fedrx study patients "$demo/study.toml" --sites 3 --patients 400..600 \
    --output "$data/coordinator/tables"
number=0
for site in $sites; do
    number=$((number + 1))
    mv "$data/coordinator/tables/site-$number.csv" "$data/$site/cohort.csv"
    cp "$data/coordinator/tables/mapping.toml" "$demo/study.toml" "$data/$site/"
    fedrx site join "$data/$site/site" --roster "$consortium/roster.json" \
        --ca "$consortium/ca.crt" --fingerprint "$fingerprint"
    fedrx site approve "$data/$site/site" "$data/$site/study.toml" \
        --data "$data/$site/cohort.csv" --mapping "$data/$site/mapping.toml" \
        --max-epsilon 2 --by "the demonstration" --yes --passphrase-file "$secrets/$site"
done
rm -r "$data/coordinator/tables"
touch "$data/coordinator/ready"
echo "Three sites are enrolled and have approved study 'warfarin_demo'."
