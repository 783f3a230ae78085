#!/usr/bin/env bash
# Row security: a table of a million rows under the policy that pgtrain's own tables have, against the same rows with none:
# a full scan (all rows visible to an administrator; a thousandth visible to a user) and point look-ups. The same with a
# permission function asked per row, which is what most write. Called by run.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

start_server "pgtrain.cpu_workers = 0
jit = off
max_parallel_workers_per_gather = 0
shared_buffers = 512MB"
make_users 2
rows=$(full 1000000 1000000)
policy=$(sql -c "select pg_get_expr(polqual, polrelid) from pg_policy where polrelid = 'pgtrain.training_runs'::regclass and polcmd in ('r', '*')")
say "policy under test, that of pgtrain.training_runs: $policy"
sql -v rows="$rows" >/dev/null <<END
select user_id from bench.tokens where n = 1 \gset
select pgtrain.grant_role(user_id, 'admin') from bench.tokens where n = 2;
create table bench.bare (id bigint primary key, owner_id bigint not null, body text not null);
insert into bench.bare select g, case when g % 1000 = 0 then :user_id else -(g % 1000) end, repeat('x', 60) from generate_series(1, :rows) g;
create index on bench.bare (owner_id);
create table bench.guarded (like bench.bare including all);
insert into bench.guarded select * from bench.bare;
create table bench.asked (like bench.bare including all);
insert into bench.asked select * from bench.bare;
create function bench.may_read(owner bigint) returns boolean language sql stable security definer set search_path = pg_catalog as
\$\$ select owner = pgtrain.current_user_id() or exists (select from pgtrain.user_roles ur join pgtrain.role_permissions rp on rp.role_id = ur.role_id
   join pgtrain.permissions p on p.id = rp.permission_id where ur.user_id = pgtrain.current_user_id() and p.action = 'read') \$\$;
grant select on bench.bare, bench.guarded, bench.asked to app;
grant execute on function bench.may_read(bigint) to app;
alter table bench.guarded enable row level security;
create policy p on bench.guarded for select using ($policy);
alter table bench.asked enable row level security;
create policy p on bench.asked for select using (bench.may_read(owner_id));
vacuum analyze bench.bare, bench.guarded, bench.asked;
END

scan() { # table, user, rows if not all: milliseconds of the executor
  local source=bench.$1
  [ -z "${3:-}" ] || source="(select body from bench.$1 limit $3) t"
  "$pg_bin/psql" -X -q -A -t -U app -v ON_ERROR_STOP=1 <<END | sed -n 's/^Execution Time: \(.*\) ms/\1/p'
select token from bench.tokens where n = $2 \gset
select pgtrain.authenticate(:'token', session => true) as me \gset
set enable_indexscan = off; set enable_bitmapscan = off; set enable_indexonlyscan = off;
select count(*) from bench.$1 where id < 0;
explain (analyze, timing off) select count(*), sum(length(body)) from $source;
END
}
visible() { # table, user
  "$pg_bin/psql" -X -q -A -t -U app <<END
select token from bench.tokens where n = $2 \gset
select pgtrain.authenticate(:'token', session => true) as me \gset
select count(*) from bench.$1;
END
}
say "## scan of $rows rows, ms (goal: at most 1.15 of no policy)"
for user in 2 1; do
  for table in bare guarded; do scan $table $user >/dev/null; done
  for _ in $(seq "$(full 15 7)"); do for table in bare guarded; do scan $table $user >>"$server_folder/$table"; done; done
  bare=$(median <"$server_folder/bare"); guarded=$(median <"$server_folder/guarded")
  who=$([ $user = 2 ] && echo administrator || echo 'ordinary user')
  printf '%-14s no policy %-38s policy %-38s policy/none %s   rows visible %s\n' "$who" "$bare" "$guarded" "$(ratio "$guarded" "$bare")" "$(visible guarded $user)"
  rm -f "$server_folder/bare" "$server_folder/guarded"
done
for _ in 1 2 3; do for table in bare asked; do scan $table 1 10000 >>"$server_folder/$table.rows"; done; done
for table in bare asked; do median <"$server_folder/$table.rows" >"$server_folder/$table"; done
printf 'for comparison, a SQL function asked per row, the first 10000 rows: %s, policy/none %s\n' "$(cat "$server_folder/asked")" "$(ratio "$(cat "$server_folder/asked")" "$(cat "$server_folder/bare")")"
rm -f "$server_folder/bare" "$server_folder/asked"

say "## point look-ups by key, per second, one client (goal: at least 0.9 of no policy)"
for table in bare guarded; do
  cat >"$server_folder/$table.sql" <<END
\\if :ready = 0
select token from bench.tokens where n = 2 \\gset
select pgtrain.authenticate(:token::text, session => true);
\\set ready 1
\\endif
\\set id random(1, $rows)
select body from bench.$table where id = :id;
END
done
for _ in $(seq "$(full 9 5)"); do
  for table in bare guarded; do pgbench_rate -U app -D ready=0 -T "$(full 4 2)" -f "$server_folder/$table.sql" >>"$server_folder/$table"; done
done
bare=$(median <"$server_folder/bare"); guarded=$(median <"$server_folder/guarded")
printf 'no policy %s   policy %s   policy/none %s\n' "$bare" "$guarded" "$(ratio "$guarded" "$bare")"
