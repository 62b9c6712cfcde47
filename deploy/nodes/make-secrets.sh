#!/bin/sh
# Make what the example of a site with two nodes keeps secret, in secrets/ beside this file. Run once, as root:
# the containers read these files as users of their own.
#
# A password for PostgreSQL and the address with it, an access key for the object store, and a TLS certificate for that
# store from an authority of its own, so that no bearer of documents crosses the network in the clear.
set -eu
cd "$(dirname "$0")"
umask 077
if [ -e secrets ]; then
    echo "secrets/ is there already: nothing was changed" >&2
    exit 1
fi
outlast=${OUTLAST_UID:-10001}
mkdir secrets
chmod 755 secrets

password=$(openssl rand -hex 24)
access=$(openssl rand -hex 10)
secret=$(openssl rand -hex 20)
printf '%s\n' "$password" >secrets/postgres-password
printf 'postgresql://outlast:%s@database:5432/outlast\n' "$password" >secrets/dsn
printf '%s\n' "$access" >secrets/s3-access-key
printf '%s\n' "$secret" >secrets/s3-secret-key
cat >secrets/s3.json <<JSON
{"identities": [{"name": "outlast", "credentials": [{"accessKey": "$access", "secretKey": "$secret"}],
 "actions": ["Read", "Write", "List", "Tagging"]}]}
JSON

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=documents authority" \
    -addext "basicConstraints=critical,CA:TRUE" -keyout secrets/ca.key -out secrets/ca.pem 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=documents" \
    -keyout secrets/documents.key -out secrets/documents.csr 2>/dev/null
printf 'subjectAltName=DNS:documents\nextendedKeyUsage=serverAuth\n' >secrets/documents.ext
openssl x509 -req -in secrets/documents.csr -CA secrets/ca.pem -CAkey secrets/ca.key -CAcreateserial -days 825 \
    -extfile secrets/documents.ext -out secrets/documents.pem 2>/dev/null
rm secrets/documents.csr secrets/documents.ext

chmod 644 secrets/ca.pem secrets/documents.pem
chown "$outlast" secrets/dsn secrets/s3-access-key secrets/s3-secret-key
echo "made secrets/: keep secrets/ca.key elsewhere"
