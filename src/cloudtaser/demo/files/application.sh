#!/bin/sh
# An ordinary program: it reads its settings from the environment and knows nothing of cloudtaser.
mask() { printf '%.3s***' "$1"; }

echo "started with API_KEY=$(mask "$API_KEY") PGUSER=$(mask "$PGUSER") PGPASSWORD=$(mask "$PGPASSWORD")"
psql -XqAt -c "select 'PostgreSQL says: logged in as ' || left(current_user, 12) || '..., password valid until ' ||
    to_char(valuntil, 'HH24:MI:SS') from pg_user where usename = current_user" || exit 1

exec 2>/dev/null # the shell would report the end of its sleep
trap 'echo "asked to stop, stopping"; exit 0' TERM INT
while :; do sleep 1 & wait $!; done
