#!/bin/sh
# Django's own checks: no missing migration, and nothing to say about a deployment behind TLS.
set -eu
python=$1
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
export CHROMAADMIN_HOME="$home" DJANGO_SETTINGS_MODULE=chromaadmin.settings.base
"$python" -W error::RuntimeWarning manage.py makemigrations --check --dry-run
CHROMAADMIN_TLS=1 CHROMAADMIN_PROXIES=1 CHROMAADMIN_ALLOWED_HOSTS=chroma.example \
    CHROMAADMIN_TRUSTED_ORIGINS=https://chroma.example "$python" manage.py check --deploy --fail-level WARNING
