#!/usr/bin/env bash
# Holds of a limit a second, with 1, 8 and 32 clients, on the counter of one user and on those of 1,000, each hold a transaction: the
# counter and its ledger entry. Beside it in turn the bare UPDATE of such a row, without a ledger. Called by run.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

start_server "pgtrain.databases = 'none'
max_connections = 60"
sql >/dev/null <<'END'
insert into pgtrain.users (username, email) select 'bench' || g, 'bench' || g || '@example.org' from generate_series(1, 1000) g;
select pgtrain_private.start_default_plan(u.id) from pgtrain.users u;
-- A limit that is compared at each hold, and is never met; no reset comes in between.
select pgtrain.set_usage_limit(u.id, 'api_calls', 4000000000000000000, 'never') from pgtrain.users u;
create table public.bare (user_id bigint, resource integer, limit_value bigint, used_value bigint not null default 0, primary key (user_id, resource)) with (fillfactor = 50);
insert into public.bare select u.id, 1, 4000000000000000000 from pgtrain.users u;
vacuum analyze;
END
first=$(sql -c 'select min(id) from pgtrain.users')
cat >"$server_folder/hold.sql" <<END
\set user random($first, $first + :users - 1)
select pgtrain_private.hold_usage(:user, 'api_calls', 1, -1);
END
cat >"$server_folder/bare.sql" <<END
\set user random($first, $first + :users - 1)
update public.bare set used_value = used_value + 1 where user_id = :user and resource = 1 and used_value + 1 <= limit_value;
END

rounds=$(full 7 3) seconds=$(full 5 2)
for users in 1 1000; do
  for clients in 1 8 32; do
    for _ in $(seq "$rounds"); do
      for who in hold bare; do
        pgbench_rate -D users="$users" -c "$clients" -j 2 -T "$seconds" -f "$server_folder/$who.sql" >>"$server_folder/rate.$who"
      done
    done
    hold=$(median <"$server_folder/rate.hold") bare=$(median <"$server_folder/rate.bare")
    printf '%5s row(s), %2s client(s): holds/s %-34s bare UPDATE/s %-34s hold/bare %s\n' "$users" "$clients" "$hold" "$bare" "$(ratio "$hold" "$bare")"
    rm -f "$server_folder"/rate.*
  done
done
wrong=$(sql -c 'select count(*) from pgtrain_private.check_ledger()')
[ "$wrong" = 0 ] || die "the ledger of $wrong counters is not their sum"
say 'the ledger agrees with every counter'
