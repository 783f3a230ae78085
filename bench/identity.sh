#!/usr/bin/env bash
# Identity: a permission asked of the cache against the same question as a plpgsql and as a SQL function over the tables; authenticate
# against a plpgsql function that looks the token up and puts the user into a setting, which any SQL could forge; logins a second against
# bare Argon2id of the same cost in as many processes. Called by run.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

start_server "pgtrain.cpu_workers = 0
jit = off
max_parallel_workers_per_gather = 0
pgtrain.password_hashes_at_once = 2"
make_users 4
sql >/dev/null <<'END'
create function bench.asks_plpgsql(action text, entity text) returns boolean language plpgsql stable security definer set search_path = pg_catalog as $$
begin
    return exists (select from pgtrain.user_roles ur join pgtrain.users u on u.id = ur.user_id join pgtrain.role_permissions rp on rp.role_id = ur.role_id
        join pgtrain.permissions p on p.id = rp.permission_id
        where ur.user_id = pgtrain.current_user_id() and u.is_active and ur.is_active and rp.is_granted and (ur.expires_at is null or ur.expires_at > now())
          and p.action = asks_plpgsql.action and p.entity = asks_plpgsql.entity);
end $$;
create function bench.asks_sql(action text, entity text) returns boolean language sql stable security definer set search_path = pg_catalog as $$
    select exists (select from pgtrain.user_roles ur join pgtrain.users u on u.id = ur.user_id join pgtrain.role_permissions rp on rp.role_id = ur.role_id
        join pgtrain.permissions p on p.id = rp.permission_id
        where ur.user_id = pgtrain.current_user_id() and u.is_active and ur.is_active and rp.is_granted and (ur.expires_at is null or ur.expires_at > now())
          and p.action = asks_sql.action and p.entity = asks_sql.entity) $$;
create function bench.sets_user(token text) returns bigint language plpgsql security definer set search_path = pg_catalog as $$
declare
    found_id bigint;
begin
    select s.user_id into found_id from pgtrain.sessions s join pgtrain.users u on u.id = s.user_id
     where s.token_hash = pgtrain_private.token_hash(token) and s.is_active and u.is_active and s.expires_at > now();
    perform set_config('bench.user_id', found_id::text, true);
    return found_id;
end $$;
grant execute on all functions in schema bench to app;
END

# Microseconds a call: the time of CALL in a scan of so many rows, less that of the scan. What is asked changes from row to row, so that it
# is not computed once for all.
microseconds() { # rows, expression of g
  "$pg_bin/psql" -X -q -A -t -U app -v ON_ERROR_STOP=1 -v rows="$1" <<END | awk '/^Execution Time/ { time[++n] = $3 } END { printf "%.3f\n", (time[4] - time[3]) * 1000 / '"$1"' }'
select token from bench.tokens where n = 1 \gset
select pgtrain.authenticate(:'token', session => true) as me \gset
explain (analyze, timing off) select count(x) from (select case when g > 0 then 'datasets' end x from generate_series(1, :rows) g offset 0) t;
explain (analyze, timing off) select count(x) from (select $2 x from generate_series(1, :rows) g offset 0) t;
explain (analyze, timing off) select count(x) from (select case when g > 0 then 'datasets' end x from generate_series(1, :rows) g offset 0) t;
explain (analyze, timing off) select count(x) from (select $2 x from generate_series(1, :rows) g offset 0) t;
END
}
# measure NAME ROWS EXPRESSION: several times, kept in a file of that name.
measure() { for _ in $(seq "$(full 15 7)"); do microseconds "$2" "$3" >>"$server_folder/$1"; done; }
of() { median <"$server_folder/$1"; }

say "## has_permission from the cache, microseconds a call (goal: at most 0.3)"
measure cached "$(full 2000000 500000)" "pgtrain.has_permission('read', case when g > 0 then 'datasets' end)"
measure plpgsql "$(full 100000 20000)" "bench.asks_plpgsql('read', case when g > 0 then 'datasets' end)"
measure sql "$(full 100000 20000)" "bench.asks_sql('read', case when g > 0 then 'datasets' end)"
printf 'pgtrain %s   plpgsql %s   SQL %s\n' "$(of cached)" "$(of plpgsql)" "$(of sql)"
printf 'plpgsql/pgtrain %s   SQL/pgtrain %s\n' "$(ratio "$(of plpgsql)" "$(of cached)")" "$(ratio "$(of sql)" "$(of cached)")"

say "## authenticate, microseconds a call (goal: at most 60)"
measure authenticate "$(full 100000 20000)" "pgtrain.authenticate(case when g > 0 then :'token' end)"
measure sets_user "$(full 100000 20000)" "bench.sets_user(case when g > 0 then :'token' end)"
printf 'pgtrain %s   plpgsql with a setting %s   pgtrain/plpgsql %s\n' "$(of authenticate)" "$(of sets_user)" "$(ratio "$(of authenticate)" "$(of sets_user)")"

say "## logins a second, two at once (goal: bare Argon2id at most 1.1 times as many)"
passes=$(sql -c "select setting from pg_settings where name = 'pgtrain.password_passes'")
kilobytes=$(sql -c "select setting from pg_settings where name = 'pgtrain.password_memory'")
gcc -O2 -o "$server_folder/argon2" "$ROOT/bench/argon2.c" $(pkg-config --cflags --libs libsodium)
cat >"$server_folder/login.sql" <<'END'
\set n 1 + :client_id
select 1 / count(*) from pgtrain.login('bench' || :n, 'correct horse battery ' || :n);
END
seconds=$(full 20 5)
for _ in $(seq "$(full 9 5)"); do
  { "$server_folder/argon2" "$passes" "$kilobytes" "$seconds" & "$server_folder/argon2" "$passes" "$kilobytes" "$seconds"; wait; } | awk '{ s += $1 } END { print s }' >>"$server_folder/bare"
  pgbench_rate -U app -c 2 -j 2 -T "$seconds" -f "$server_folder/login.sql" >>"$server_folder/logins"
done
printf 'cost: %s passes over %s kB\nbare %s   logins %s   bare/logins %s\n' "$passes" "$kilobytes" "$(of bare)" "$(of logins)" "$(ratio "$(of bare)" "$(of logins)")"
